"""One file for what a reader keeps: safetensors, with the model's fingerprint and the system in its header."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from memspan.context.slots import FIELDS
from memspan.core.errors import InputError, StoreError

if TYPE_CHECKING:
    from memspan.context.reader import Reader

SCHEMA = "memspan-context-1"
_SAMPLE = 64  # numbers of each parameter that enter the fingerprint


def fingerprint(model: Any) -> str:
    """Changes when the model does: its configuration's type, and the shape and some numbers of every parameter."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in model.named_parameters():
        flat = value.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLE)
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(flat[::step][:_SAMPLE].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def save(reader: Reader, path: str | os.PathLike[str]) -> None:
    """See `Reader.save`."""
    cache = reader.cache
    tensors = {f"extra.{name}": tensor.contiguous() for name, tensor in cache.extra.items()}
    for i, layer in enumerate(cache.layers):
        if layer.keys is None:
            raise InputError("nothing was read yet, so there is nothing to save")
        keys, values = layer.view()
        tensors |= {f"{i}.keys": keys.contiguous(), f"{i}.values": values.contiguous()}
    for t, track in enumerate(cache.tracks):
        tensors |= {f"track.{t}.{name}": tensor.contiguous() for name, tensor in track.tensors().items()}
    counts = [[track.n, track.seen, track.tail, track.current_turn, int(track.padded)] for track in cache.tracks]
    header = {**_identity(reader), "counts": counts}
    target = Path(path).expanduser()
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file(tensors, scratch, metadata={"memspan": json.dumps(header)})
        scratch.replace(target)
    except OSError as error:
        raise StoreError(f"the context cannot be written to {target}: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def load(reader: Reader, path: str | os.PathLike[str]) -> None:
    """See `Reader.load`."""
    try:
        with safe_open(str(path), framework="pt", device=str(reader.family.device)) as file:
            header = json.loads((file.metadata() or {}).get("memspan", "{}"))
            if header.get("schema") != SCHEMA:
                raise InputError(f"{path} is no context that memspan saved")
            mine = json.loads(json.dumps(_identity(reader)))
            for key, said in mine.items():
                if header.get(key) != said and key != "batch":
                    raise InputError(f"{path} was saved with another {key}: {header.get(key)} there, {said} here")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a saved context: {error}") from error
    reader.sizes = reader.system.bind(reader.family, reader._budget, header["batch"])
    cache = reader._new_cache(header["batch"])
    for t, (track, counts) in enumerate(zip(cache.tracks, header["counts"], strict=True)):
        track.n, track.seen, track.tail, track.current_turn = counts[:4]
        track.padded = bool(counts[4])
        for name in (*FIELDS, "following"):
            setattr(track, name, tensors[f"track.{t}.{name}"])
    for i, layer in enumerate(cache.layers):
        layer.keys, layer.values = tensors[f"{i}.keys"], tensors[f"{i}.values"]
        layer.is_initialized = True
    cache.extra = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith("extra.")}
    cache.last_at = cache.tracks[0].seen
    reader.cache = cache


def _identity(reader: Reader) -> dict[str, Any]:
    """What must agree between writer and reader of a file."""
    return {
        "schema": SCHEMA,
        "model": fingerprint(reader.model),
        "system": type(reader.system).__name__,
        "settings": asdict(reader.system.config),
        "slots": reader.sizes.slots,
        "batch": reader.cache.batch,
    }
