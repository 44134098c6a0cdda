"""A training's whole state in one file, written whole or not at all, and taken up again bit by bit.

The file is safetensors, written tensor by tensor so that no second copy is held; what is no tensor stands as JSON in
its header. Loading copies into the tensors that exist.

Of several ranks the first writes the file, with every tensor whole, so that it is the file of one process; a training
may be taken up by another number of ranks, though bit by bit only by the same. One tensor at a time is gathered.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError
from memspan.training import ranks
from memspan.training.base import STATES, Stack

_FORMAT = "memspan-training-1"
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TENSOR, _ITEMS, _TUPLE, _DTYPE, _WRAPPER = "$tensor", "$items", "$tuple", "$dtype", "$wrapper"
_DTYPES = {str(dtype): dtype for dtype in _NAMES}


def save_training(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    stack: Stack,
    *,
    step: int,
    settings: Mapping[str, Any],
) -> None:
    """Write model, optimizer, the savers' states, torch's random state and the position in the data.

    Args:
        path: of the file; replaced only once the new one is on the disk.
        step: steps that are done, which is the position in the data.
        settings: what a resumed training must agree on, as JSON types.

    All ranks of a training call it together.

    Raises:
        InputError: a state holds something that is neither tensor nor JSON, or tensors that could not be read back.
    """
    tensors: dict[Any, tuple[int, Any]] = {}
    states = ranks.from_all(torch.get_rng_state())
    header = {
        "format": _FORMAT,
        "step": step,
        "settings": dict(settings),
        "model": _pack(model.state_dict(), tensors),
        "optimizer": _pack(_optimizer_state(optimizer), tensors),
        "savers": _pack(stack.state_dict(), tensors),
        "random": _pack(states if len(states) > 1 else states[0], tensors),
    }
    if ranks.rank():
        for _, tensor in tensors.values():
            _gathered(tensor)
        ranks.first_says(None)
        return
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        _write(file, [tensor for _, tensor in tensors.values()], {"memspan": json.dumps(header)})
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, must survive a loss of power
    finally:
        os.close(folder)
    ranks.first_says(None)  # it is kept; no rank goes on before


def load_training(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    stack: Stack,
    *,
    settings: Mapping[str, Any],
) -> int:
    """Take up a training that `save_training` wrote; returns the steps that are done.

    Raises:
        InputError: the file is damaged, of another model, or was made with other settings.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("memspan", "{}"))
            if header.get("format") != _FORMAT:
                raise InputError(f"{path} is no checkpoint of this training")
            for name, value in json.loads(json.dumps(dict(settings))).items():
                if header["settings"].get(name) != value:
                    raise InputError(
                        f"the checkpoint {path} was made with {name} {header['settings'].get(name)!r}, not {value!r}:"
                        " resume with its settings, or start in another folder"
                    )

            def tensor(number: int) -> Tensor:
                found: Tensor = file.get_tensor(str(number))
                return found

            _load_model(path, model, header["model"], tensor)
            _load_optimizer(path, optimizer, header["optimizer"], tensor)
            stack.load_state_dict(_unpack(header["savers"], tensor))
            states = _unpack(header["random"], tensor)
            states = states if isinstance(states, list) else [states]
            if ranks.rank() < len(states):  # a rank that was not there keeps the state that it began with
                torch.set_rng_state(states[ranks.rank()])
            return int(header["step"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the checkpoint {path} cannot be read: {error}") from error


def _load_model(path: Path, model: nn.Module, packed: Any, tensor: Callable[[int], Tensor]) -> None:
    target = model.state_dict()
    if set(packed) != set(target):
        raise InputError(f"the checkpoint {path} is of another model: its tensors have other names")
    with torch.no_grad():
        for name, reference in packed.items():
            value, place = _unpack(reference, tensor), target[name]
            if not isinstance(place, Tensor):
                continue
            if value.shape != place.shape or value.dtype != place.dtype:
                raise InputError(
                    f"the checkpoint {path} is of another model: {name} is {value.dtype} {tuple(value.shape)} there and"
                    f" {place.dtype} {tuple(place.shape)} here"
                )
            place.copy_(ranks.divided_like(value, place))


def _owns(optimizer: torch.optim.Optimizer) -> Callable[[Tensor], bool] | None:
    """Says of a parameter whether this rank has its state; None where every rank has all, or its part of all."""
    found: Callable[[Tensor], bool] | None = getattr(optimizer, "owns", None)
    return found


def _plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the state is a dictionary by parameter, as PyTorch's optimizers have it."""
    return _owns(optimizer) is not None or type(optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Any:
    """The state of all ranks, as `Optimizer.state_dict` has it; what other ranks hold stands for itself."""
    if _owns(optimizer) is None:
        whole = optimizer.state_dict()
        whole.pop(STATES, None)  # they are kept by themselves, for every kind of optimizer
        return whole
    numbers = {p: n for n, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    mine = {numbers[p]: state for p, state in optimizer.state.items()}
    said = ranks.from_all({n: {name: _said(value) for name, value in state.items()} for n, state in mine.items()})
    state: dict[int, Any] = {}
    for owner, told in enumerate(said):
        for number, values in told.items():
            here = mine.get(number, {})
            state[number] = {
                name: ranks.Held(owner, value[1], value[2], here.get(name)) if isinstance(value, tuple) else value
                for name, value in values.items()
            }
    groups = [
        {name: [numbers[p] for p in value] if name == "params" else value for name, value in group.items()}
        for group in optimizer.param_groups
    ]
    return {"state": dict(sorted(state.items())), "param_groups": groups}


def _said(value: Any) -> Any:
    """What other ranks are told of a value: of a tensor its shape and dtype."""
    return (_TENSOR, tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value


def _load_optimizer(path: Path, optimizer: Any, packed: Any, tensor: Callable[[int], Tensor]) -> None:
    """Load without the cast to the parameter's dtype that PyTorch's own loading makes: 8-bit states are codes.

    A rank reads what it has a part of, one parameter at a time.
    """
    if not _plain(optimizer):
        optimizer.load_state_dict(_unpack(packed, tensor))
        return
    groups = optimizer.param_groups
    saved_groups = _unpack(packed["param_groups"], tensor)
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved_groups]:
        raise InputError(f"the checkpoint {path} is of another optimizer: it has other groups of parameters")
    parameters = [parameter for group in groups for parameter in group["params"]]
    for group, saved in zip(groups, saved_groups, strict=True):
        group.update({name: value for name, value in saved.items() if name != "params"})
    optimizer.state.clear()
    owns = _owns(optimizer)
    for number, values in _items(packed["state"]):
        parameter = parameters[number]
        if owns is None or owns(parameter):
            optimizer.state[parameter] = {
                name: _part(_unpack(value, tensor), parameter) for name, value in _items(values)
            }


def _part(value: Any, parameter: Tensor) -> Any:
    """This rank's part of a state: of a tensor with the parameter's shape, divided as the parameter is."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return ranks.divided_like(value, parameter)
    return value


def _gathered(tensor: Any) -> Tensor | None:
    """A tensor whole, on the first rank; what is divided has to be asked for by all."""
    return tensor.fetch() if isinstance(tensor, ranks.Held) else ranks.whole(tensor)


# --- trees of tensors and plain values -------------------------------------------------------------------------------


def _pack(value: Any, tensors: dict[Any, tuple[int, Any]]) -> Any:
    """The value as JSON types; its tensors are collected, one that is met again, such as a tied one, once."""
    if isinstance(value, ranks.Held):
        number = len(tensors)
        tensors[number] = (number, value)
        return {_TENSOR: number}
    if _is_wrapper(value):
        return _pack_wrapper(value, tensors)
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value)}
    if isinstance(value, Tensor):
        number, _ = tensors.setdefault(_key(value, len(tensors)), (len(tensors), value.detach()))
        return {_TENSOR: number}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(one, tensors) for key, one in value.items()}
        return {_ITEMS: [[_pack(key, tensors), _pack(one, tensors)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_pack(one, tensors) for one in value]}
    if isinstance(value, list):
        return [_pack(one, tensors) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise InputError(f"a training's state can hold tensors, numbers and words, not a {type(value).__name__}")


def _is_wrapper(value: Any) -> bool:
    """Whether it is a tensor that is made of others, such as torchao's of 8 bits; those of ranks are divided ones."""
    from torch.distributed.tensor import DTensor
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    return type(value) not in (Tensor, nn.Parameter) and (
        is_traceable_wrapper_subclass(value) and not isinstance(value, DTensor)
    )


def _wrappers() -> dict[str, Any]:
    """The kinds of such tensors that may come from a file, by name: those whose packages have told PyTorch so."""
    found = [one[0] if isinstance(one, tuple) else one for one in torch.serialization.get_safe_globals()]
    return {f"{one.__module__}.{one.__qualname__}": one for one in found if hasattr(one, "__tensor_unflatten__")}


def _pack_wrapper(value: Any, tensors: dict[Any, tuple[int, Any]]) -> Any:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if _wrappers().get(name) is not kind:
        raise InputError(
            f"a training's state holds a {name}, which could not be read back: its package has to name it by"
            " torch.serialization.add_safe_globals"
        )
    names, context = value.__tensor_flatten__()
    parts = {one: _pack(getattr(value, one), tensors) for one in names}
    shape = [_pack(tuple(one), tensors) for one in (value.shape, value.stride())]
    return {_WRAPPER: [name, parts, _pack(context, tensors), *shape]}


def _unpack_wrapper(value: Any, tensor: Callable[[int], Tensor]) -> Any:
    name, *packed = value
    kind = _wrappers().get(name)
    if kind is None:
        raise InputError(f"it holds a {name}, which is not known here: import its package")
    parts, context, shape, stride = (_unpack(one, tensor) for one in packed)
    return kind.__tensor_unflatten__(parts, context, torch.Size(shape), stride)


def _key(tensor: Tensor, fresh: int) -> Any:
    """What two tensors have in common that are the same, on every rank alike."""
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        local = tensor.to_local()
        return (local.untyped_storage().data_ptr() or fresh, local.storage_offset(), tensor.shape, tensor.dtype)
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else fresh


def _items(packed: Any) -> list[tuple[Any, Any]]:
    """Keys and packed values of a packed dictionary; its keys are numbers or words."""
    return [(key, value) for key, value in packed[_ITEMS]] if _ITEMS in packed else list(packed.items())


def _unpack(value: Any, tensor: Callable[[int], Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensor(value[_TENSOR])
        if _ITEMS in value:
            return {_unpack(key, tensor): _unpack(one, tensor) for key, one in value[_ITEMS]}
        if _DTYPE in value:
            return _DTYPES[value[_DTYPE]]
        if _WRAPPER in value:
            return _unpack_wrapper(value[_WRAPPER], tensor)
        if _TUPLE in value:
            return tuple(_unpack(one, tensor) for one in value[_TUPLE])
        return {key: _unpack(one, tensor) for key, one in value.items()}
    if isinstance(value, list):
        return [_unpack(one, tensor) for one in value]
    return value


def _write(file: Any, tensors: list[Any], metadata: dict[str, str]) -> None:
    """The safetensors format: length of the header, header, tensors one after the other."""
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for number, tensor in enumerate(tensors):
        if tensor.dtype not in _NAMES:
            raise InputError(f"a training's state holds tensors of {tensor.dtype}, which the file format lacks")
        end = at + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[str(number)] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for held in tensors:
        tensor = _gathered(held)
        if tensor is not None and tensor.numel():
            file.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
