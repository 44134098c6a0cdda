"""Adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

What PEFT saves is read here, and what is saved here PEFT reads. PEFT has one scale, alpha / r, so that a layer's own
scale is multiplied into Λ. The basis is left out where its seed brings it back, in PEFT too, and a checksum of 64 of
its values stands in the file's metadata; or it is saved once, where PEFT saves it once for each layer.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training.randlora.basis import Basis, make_basis
from memspan.training.randlora.layer import shape_of
from memspan.training.randlora.saver import RandLoraConfig, adapt, adapters, check, is_linear

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_BASIS = ("base_model.randlora_A", "base_model.randlora_B")
_ALPHA = 20  # times the rank, PEFT's default
_TERNARY = 3  # different values, at most, of a basis that two bits hold
_SPARSE = 6.0  # s of PEFT's `sparse`; that of `very_sparse` is 2 sqrt(d)


def save_adapter(model: nn.Module, folder: str | os.PathLike[str], *, basis: bool = False) -> int:
    """Write a model's adapters.

    Args:
        model: with adapters, as the saver changed it, or inside of what it changed.
        folder: made where it is missing; files in it are replaced.
        basis: write the basis too. It is needed where PEFT cannot make it: normal and binary bases, ternary ones of
            another `s` than 6 and 2 sqrt(d), and those that came with a loaded adapter.

    Returns:
        The bytes of both files.

    Raises:
        InputError: the model has no adapters, or the basis must be written and is not to be.
    """
    from safetensors.torch import save_file

    layers = adapters(model)
    if not layers:
        raise InputError(f"{type(model).__name__} has no adapters of RandLoRA")
    first = next(iter(layers.values()))
    kept, rank = first.basis, first.basis.rank
    kind, seed, s = kept.made_of or ("given", 0, 0.0)
    sparse = _sparse(kind, s, [layer.shape for layer in layers.values()])
    if sparse is None and not basis:
        raise InputError(f"PEFT cannot make this basis ({kind}) from a seed: save it with the adapter (basis=True)")
    alike = all(layer.scaling == first.scaling for layer in layers.values())
    alpha = round(first.scaling * rank, 6) if alike else _ALPHA * rank
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        factor = layer.scaling * rank / alpha
        tensors[f"{_PREFIX}{name}.randlora_lambda"] = (layer.randlora_lambda.detach() * factor).cpu()
        tensors[f"{_PREFIX}{name}.randlora_gamma"] = layer.randlora_gamma.detach().cpu().contiguous()
    if basis:
        tensors |= {name: one.cpu().contiguous() for name, one in zip(_BASIS, (kept.a, kept.whole()), strict=True)}
    settings = {
        "peft_type": "RANDLORA",
        "task_type": "CAUSAL_LM" if hasattr(model, "get_output_embeddings") else None,
        "inference_mode": True,
        "r": rank,
        "randlora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "randlora_dropout": first.dropout,
        "target_modules": sorted(layers),
        "projection_prng_key": seed,
        "save_projection": basis,
        "sparse": sparse == "sparse",
        "very_sparse": sparse == "very_sparse",
        "fan_in_fan_out": any(layer.turned for layer in layers.values()),
        "bias": "none",
        "modules_to_save": None,
    }
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "memspan_basis": json.dumps(kept.checksum())}
    for name in (WEIGHTS, CONFIG):
        part = where / (name + ".part")
        if name == WEIGHTS:
            save_file(tensors, part, metadata=metadata)
        else:
            part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        part.replace(where / name)
    return sum((where / name).stat().st_size for name in (WEIGHTS, CONFIG))


def load_adapter(model: nn.Module, folder: str | os.PathLike[str]) -> RandLoraConfig:
    """Put saved adapters into a model, in place, PEFT's or memspan's. The base model is frozen, the adapters train.

    Returns:
        The settings, with the scale of PEFT; to train on: `RandLora(settings)` takes the adapters that are there.

    Raises:
        InputError: files are missing or damaged, are of another model, or ask for what is not served here; the basis
            is not saved and this machine makes another one of the seed; it is too small for a layer.
        UnsupportedModelError: an adapted layer is not linear.
    """
    where = Path(folder)
    settings, tensors, checksum = _read(where)
    config = _settings(where, settings)
    modules = dict(model.named_modules())
    names = [key.removeprefix(_PREFIX).removesuffix(".randlora_lambda") for key in tensors if "randlora_lambda" in key]
    found: dict[str, nn.Module] = {}
    for name in names:
        if name not in modules:
            raise InputError(f"the adapter {where} is of another model: there is no layer {name}")
        if hasattr(modules[name], "base_layer"):
            raise InputError(f"{name} has an adapter already: finish or remove it first")
        if not is_linear(modules[name]):
            raise UnsupportedModelError(
                f"{name} is a {type(modules[name]).__name__}: RandLoRA is for linear layers only"
            )
        found[name] = modules[name]
    if not found:
        raise InputError(f"{where / WEIGHTS} holds no adapter of RandLoRA")
    basis = _basis(where, config, settings, tensors, [shape_of(one) for one in found.values()])
    if checksum is not None:
        check(basis, checksum, str(where))
    elif basis.made_of is not None:
        warnings.warn(f"{where} has neither its basis nor a checksum: it is made again from its seed", stacklevel=2)
    for name, module in found.items():
        basis.serve(name, shape_of(module))
        _fits(where, name, module, basis, tensors)
    model.requires_grad_(False)
    adapt(model, found, basis, config)
    with torch.no_grad():
        for name, layer in adapters(model).items():
            for own in ("randlora_lambda", "randlora_gamma"):
                getattr(layer, own).copy_(tensors[f"{_PREFIX}{name}.{own}"])
    return config


def _sparse(kind: str, s: float, shapes: list[tuple[int, int]]) -> str | None:
    """PEFT's name of the basis: "", "sparse" or "very_sparse"; None where it has none."""
    if kind == "uniform":
        return ""
    if kind != "ternary":
        return None
    return {_SPARSE: "sparse", _very_sparse(shapes): "very_sparse"}.get(s)


def _very_sparse(shapes: list[tuple[int, int]]) -> float:
    return 2 * math.sqrt(min(max(out for out, _ in shapes), max(inner for _, inner in shapes)))


def _read(where: Path) -> tuple[dict[str, Any], dict[str, Tensor], list[float] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        settings = json.loads((where / CONFIG).read_text(encoding="utf-8"))
        with safe_open(where / WEIGHTS, framework="pt") as file:
            checksum = (file.metadata() or {}).get("memspan_basis")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return settings, tensors, None if checksum is None else json.loads(checksum)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"the adapter {where} cannot be read: {error}") from error


def _settings(where: Path, settings: dict[str, Any]) -> RandLoraConfig:
    if settings.get("peft_type") != "RANDLORA":
        raise InputError(f"{where} holds an adapter of the kind {settings.get('peft_type')}, not RANDLORA")
    if settings.get("bias", "none") != "none" or settings.get("modules_to_save"):
        raise InputError(f"the adapter {where} trains biases or whole modules besides: load it with PEFT")
    sparse = settings.get("sparse") or settings.get("very_sparse")
    return RandLoraConfig(
        rank=settings["r"],
        scale="peft",
        alpha=settings["randlora_alpha"],
        dropout=settings.get("randlora_dropout", 0.0),
        basis="ternary" if sparse else "uniform",
        seed=settings.get("projection_prng_key", 0),
    )


def _stored(tensors: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """A and B where the file has them: once, or, as PEFT saves them, once for each layer."""
    found: list[Tensor | None] = []
    for name in _BASIS:
        last = name.rsplit(".", 1)[-1]
        found.append(next((one for key, one in tensors.items() if key.rsplit(".", 1)[-1] == last), None))
    return found[0], found[1]


def _basis(
    where: Path, config: RandLoraConfig, settings: dict[str, Any], tensors: dict[str, Tensor], shapes: list[Any]
) -> Basis:
    a, b = _stored(tensors)
    if a is None or b is None:
        s = _very_sparse(shapes) if settings.get("very_sparse") else _SPARSE
        return make_basis(config.basis, config.rank, shapes, config.seed, s)
    if a.shape[0] != config.rank or b.shape[2] != config.rank:
        raise InputError(f"the basis of {where} has the rank {a.shape[0]}, its settings say {config.rank}")
    packed = len(torch.unique(b)) <= _TERNARY
    halves = [one.bfloat16() for one in (a, b)]
    if not packed and all(torch.equal(half.to(one.dtype), one) for half, one in zip(halves, (a, b), strict=True)):
        a, b = halves
    return Basis(a, b, packed=packed)


def _fits(where: Path, name: str, module: nn.Module, basis: Basis, tensors: dict[str, Tensor]) -> None:
    small = min(shape_of(module))
    count = -(-small // basis.rank)
    for own, shape in (("randlora_lambda", (basis.rank, count)), ("randlora_gamma", (count, small))):
        found = tensors.get(f"{_PREFIX}{name}.{own}")
        if found is None or tuple(found.shape) != shape:
            has = "missing" if found is None else tuple(found.shape)
            raise InputError(
                f"the adapter {where} is of another model: {own} of {name} is {has}, and should be {shape}"
            )
