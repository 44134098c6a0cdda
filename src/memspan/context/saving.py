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

SCHEMA = "memspan-context-2"
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
    if cache.seen == 0:
        raise InputError("nothing was read yet, so there is nothing to save")
    tensors = {f"extra.{name}": tensor.detach().contiguous() for name, tensor in cache.extra.items()}
    counts = {}
    for name, zone in (("", cache), *cache.zones.items()):
        for i, layer in enumerate(zone.layers):
            if layer.keys is not None:
                keys, values = layer.view()
                tensors[f"{name}.{i}.keys"] = keys.detach().contiguous()
                tensors[f"{name}.{i}.values"] = values.detach().contiguous()
        for t, track in enumerate(zone.tracks):
            tensors |= {f"{name}.track.{t}.{part}": held.contiguous() for part, held in track.tensors().items()}
        counts[name] = [[t.n, t.seen, t.tail, t.current_turn, int(t.padded)] for t in zone.tracks]
    header = {**_identity(reader), "counts": counts, "notes": cache.notes}
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
    for name, zone in (("", cache), *cache.zones.items()):
        for t, (track, counts) in enumerate(zip(zone.tracks, header["counts"][name], strict=True)):
            track.n, track.seen, track.tail, track.current_turn = counts[:4]
            track.padded = bool(counts[4])
            for part in (*FIELDS, "following", "real"):
                setattr(track, part, tensors[f"{name}.track.{t}.{part}"])
        for i, layer in enumerate(zone.layers):
            if f"{name}.{i}.keys" in tensors:
                layer.keys, layer.values = tensors[f"{name}.{i}.keys"], tensors[f"{name}.{i}.values"]
                layer.is_initialized = True
    cache.extra.update((name.removeprefix("extra."), x) for name, x in tensors.items() if name.startswith("extra."))
    cache.notes.update(header["notes"])
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
