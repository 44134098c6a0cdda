"""A `FakeTensorMode` that remembers what operations return, so that a step without bytes takes less than half the time.

PyTorch's own mode remembers too, but its keys also serve symbolic shapes and every layout there is. A planned step has
dense CPU tensors of fixed shapes; whatever else comes along goes PyTorch's way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

_CPU = torch.device("cpu")
_UNSAFE_VIEW = torch.ops.aten._unsafe_view.default  # whose schema does not say that it is a view
_NOT_KEPT = object()  # a result that PyTorch's own mode has to make each time
_PLAIN = frozenset(
    (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
)


class _Other(Exception):
    """An argument, or a result, that is neither a dense tensor of the CPU nor a plain value."""


# By operation and arguments, kept beyond one step: a model is planned with many savers, whose steps are much alike.
_results: dict[Any, Any] = {}
_kinds: dict[Any, int] = {}
_IN_PLACE, _KEPT, _DEVICE, _THEIRS = range(4)


class ShapeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Tensors made inside have shapes and no bytes; nothing is computed."""

    def __init__(self) -> None:
        super().__init__()
        self._attributes: dict[str, Any] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and keeping Dynamo away from it costs as much as all else

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = _kinds.get(func)
        if kind is None:
            kind = _kinds[func] = _kind(func)
        if kind == _DEVICE:
            return args[0].fake_device
        if kind == _THEIRS:
            return super().__torch_dispatch__(func, types, args, kwargs or {})
        tensors: list[FakeTensor] = []
        try:
            # What is written in place keeps its shape whatever the numbers are, and AdamW's change with each step.
            values = kind != _IN_PLACE
            named = _key(kwargs.items(), tensors, values) if kwargs else None
            key = (func, _key(args, tensors, values), named, torch.get_default_dtype())
        except _Other:
            return super().__torch_dispatch__(func, types, args, kwargs or {})
        result = _results.get(key)
        if result is None:
            output = super().__torch_dispatch__(func, types, args, kwargs or {})
            _results[key] = _remembered(output, tensors, func)
            return output
        if result is _NOT_KEPT:
            return super().__torch_dispatch__(func, types, args, kwargs or {})
        return self._made(result, tensors)

    def _made(self, result: Any, tensors: list[FakeTensor]) -> Any:
        kind, what = result
        if kind is Tensor:
            shape, stride, dtype = what
            return self._wrapped(torch.empty_strided(shape, stride, dtype=dtype, device="meta"))
        if kind is FakeTensor:  # an argument
            return tensors[what]
        if kind is torch.UntypedStorage:  # a view of an argument
            at, shape, stride, offset, dtype = what
            empty = torch.empty(0, dtype=dtype, device="meta")
            empty.set_(tensors[at].untyped_storage(), offset, shape, stride)
            return self._wrapped(empty)
        if kind is None:
            return what
        return kind(self._made(one, tensors) for one in what)

    def _wrapped(self, bare: Tensor) -> FakeTensor:
        """A fake tensor around one of the device "meta". Its attributes are those of the first, which PyTorch made."""
        if not self._attributes:
            made = FakeTensor(self, bare, _CPU)
            self._attributes = dict(made.__dict__)
            return made
        made = Tensor._make_subclass(FakeTensor, bare, False, dispatch_device=True, device_for_backend_keys=_CPU)
        torch._C._set_throw_on_mutable_data_ptr(made)
        made.__dict__.update(self._attributes)
        return made


def _kind(func: Any) -> int:
    if func is torch.ops.prim.device.default:
        return _DEVICE
    schema = getattr(func, "_schema", None)
    if schema is None or func.namespace != "aten" or torch.Tag.inplace_view in func.tags:
        return _THEIRS
    written = [argument for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
    if not written:
        return _KEPT if schema.returns else _THEIRS
    return _IN_PLACE if torch.Tag.inplace in func.tags else _THEIRS


def _key(values: Any, tensors: list[FakeTensor], scalars: bool) -> Any:
    """What stands for arguments in a key; the tensors among them are added to `tensors`."""
    parts: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            if value.constant is not None or value.fake_device != _CPU or value.layout is not torch.strided:
                raise _Other
            # Two arguments that are one tensor, or views of one, give what two tensors give.
            tensors.append(value)
            parts.append((value.shape, value.stride(), value.storage_offset(), value.dtype))
        elif kind in _PLAIN:
            parts.append((kind, value) if scalars or kind is not float else kind)
        elif kind is list or kind is tuple:
            parts.append(_key(value, tensors, scalars))
        else:
            raise _Other
    return tuple(parts)


def _remembered(output: Any, tensors: list[FakeTensor], func: Any) -> Any:
    """How an output is made again, or `_NOT_KEPT`."""
    try:
        return _recipe(output, tensors, func)
    except _Other:
        return _NOT_KEPT


def _recipe(output: Any, tensors: list[FakeTensor], func: Any) -> Any:
    kind = type(output)
    if kind is list or kind is tuple:
        fresh = [one.untyped_storage()._cdata for one in output if type(one) is FakeTensor]
        if not func.is_view and len({*fresh}) < len(fresh):
            raise _Other
        return kind, [_recipe(one, tensors, func) for one in output]
    if kind in _PLAIN:
        return None, output
    if kind is not FakeTensor or output.layout is not torch.strided or output.fake_device != _CPU:
        raise _Other
    if output.constant is not None or output.dtype.is_complex:
        raise _Other
    for at, one in enumerate(tensors):
        if one is output:
            return FakeTensor, at
    shape, stride, offset = tuple(output.shape), output.stride(), output.storage_offset()
    storage = output.untyped_storage()
    for at, one in enumerate(tensors):
        if one.untyped_storage()._cdata == storage._cdata:
            if not (func.is_view or func is _UNSAFE_VIEW):
                raise _Other
            return torch.UntypedStorage, (at, shape, stride, offset, output.dtype)
    again = torch.empty_strided(shape, stride, dtype=output.dtype, device="meta")
    if offset or again.untyped_storage().nbytes() != storage.nbytes():
        raise _Other
    return Tensor, (shape, stride, output.dtype)
