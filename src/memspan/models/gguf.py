"""GGUF files as transformers models: dequantized once, into a directory of safetensors that is mapped ever after.

Dequantizing on every start would take longer than everything else a start does, and transformers' own path holds a
float32 copy beside the result and asks for accelerate. Here one tensor at a time is dequantized by the `gguf` package,
permuted by transformers' own rules for the architecture, cast, and written to its place in the file.

The directory is `<cache>/memspan/gguf/<hash of the file>-<dtype>`; deleting it costs one conversion.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from memspan.core.errors import MissingExtraError, ModelError, UnsupportedModelError
from memspan.models.home import cache_home
from memspan.models.progress import progress_bar
from memspan.models.spec import LOCAL_EXTRA, file_digest, quiet_transformers, require_local

_FORMAT = 1  # part of the directory's name; raise it when what is written changes
_SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16"}


def _place(path: Path, dtype: str, cache: Path | None = None) -> Path:
    """Where the conversion of this file to this dtype stands, or would stand."""
    return (cache or cache_home()) / "gguf" / f"{path.stem}-{file_digest(path).hex()[:16]}-{dtype}-{_FORMAT}"


def gguf_config(path: Path) -> Any:
    """The transformers configuration that a GGUF file describes; no tensor is read.

    Taken from an earlier conversion where there is one: reading a vocabulary out of GGUF takes seconds.

    Raises:
        MissingExtraError: torch, transformers or gguf is not installed.
        UnsupportedModelError: transformers does not know the architecture.
        ModelError: the file is damaged.
    """
    require_local()
    if find_spec("gguf") is None:
        raise MissingExtraError("gguf", LOCAL_EXTRA)
    from transformers import AutoConfig

    for dtype in _SAFETENSORS_DTYPES:
        if (done := _place(path, dtype)).joinpath("config.json").is_file():
            return AutoConfig.from_pretrained(done, local_files_only=True)
    from transformers import modeling_gguf_pytorch_utils as untyped

    rules: Any = untyped
    try:
        with quiet_transformers():
            values = rules.load_gguf_checkpoint(str(path), return_tensors=False)["config"]
            return AutoConfig.for_model(**{k: v for k, v in values.items() if not k.startswith("_")})
    except ValueError as error:
        if "not supported" in str(error) or "Unrecognized model" in str(error):
            raise UnsupportedModelError(f"{path}: {error}") from error
        raise ModelError(f"{path} is no readable GGUF file: {error}") from error
    except (KeyError, IndexError, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no readable GGUF file: {type(error).__name__}: {error}") from error


def converted(path: Path, dtype: str, *, config: Any = None, cache: Path | None = None) -> Path:
    """The directory that holds this GGUF file as safetensors of `dtype`, converted now if that was not done before.

    Args:
        path: the GGUF file.
        dtype: "float32" or "bfloat16".
        config: what `gguf_config` gave, if it was called already.
        cache: where conversions are kept; `cache_home()` by default. Where it cannot be written, a temporary
            directory is made instead, and is the caller's to delete.
    """
    done = _place(path, dtype, cache)
    home, name = done.parent, done.name
    if (done / "config.json").is_file():
        return done
    config = config if config is not None else gguf_config(path)
    try:
        home.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=home))
    except OSError:
        work = Path(tempfile.mkdtemp(prefix="memspan-gguf-"))
    try:
        _convert(path, work, dtype, config)
        if work.parent != home:
            return work
        try:
            work.rename(done)  # whole or not at all; of two processes the second finds the first one's
        except OSError:
            if not (done / "config.json").is_file():
                raise
            shutil.rmtree(work, ignore_errors=True)
        return done
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise ModelError(f"{path} could not be converted in {home}: {error}") from error
    except BaseException:  # Ctrl-C among them: half a conversion is not left behind
        shutil.rmtree(work, ignore_errors=True)
        raise


def _convert(path: Path, target: Path, dtype: str, config: Any) -> None:
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import modeling_gguf_pytorch_utils as untyped

    rules: Any = untyped
    auto: Any = AutoModelForCausalLM
    torch_dtype = getattr(torch, dtype)
    with torch.device("meta"), quiet_transformers():
        model = auto.from_config(config, dtype=torch_dtype)
    reader: Any = GGUFReader(str(path))
    architecture = rules.read_field(reader, "general.architecture")[0]
    processor = rules.TENSOR_PROCESSORS.get(architecture, rules.TensorProcessor)(config=config.to_dict())
    names = rules.get_gguf_hf_weights_map(model, processor)
    shapes = {name: tuple(tensor.shape) for name, tensor in _untied(model).items()}
    merged: dict[str, Any] = {"tensors": {}}  # processors put here what they join from several tensors

    with (target / "model.safetensors").open("wb") as file:
        offsets = _write_header(file, shapes, dtype)
        with progress_bar(f"converting {path.name}", len(reader.tensors)) as advance:
            for tensor in reader.tensors:
                weights = dequantize(tensor.data, tensor.tensor_type)
                result = processor.process(
                    weights=weights, name=tensor.name, tensor_key_mapping=names, parsed_parameters=merged
                )
                name = names.get(result.name) if result.name else None
                if name in offsets:
                    # Unquantized tensors come as views of the mapped file, and PyTorch wants its arrays writable.
                    values = np.require(result.weights, requirements="W")
                    _write(file, offsets.pop(name), torch.from_numpy(values), shapes[name], torch_dtype)
                advance(1)
            for name, joined in merged["tensors"].items():
                if name in offsets:
                    _write(file, offsets.pop(name), joined, shapes[name], torch_dtype)
    if offsets:
        raise UnsupportedModelError(f"{path} lacks {len(offsets)} tensors of its architecture, first {min(offsets)}")
    with quiet_transformers():
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True).save_pretrained(target)
        config.dtype = dtype
        model.generation_config.save_pretrained(target)
        config.save_pretrained(target)  # last: its presence says that all is there


def _untied(model: Any) -> dict[str, Any]:
    """The model's state without the second name of shared tensors; as safetensors files of transformers have it."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def _write_header(file: Any, shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, int]:
    """Write the safetensors header; the place of each tensor in the file, in bytes."""
    import torch

    size = getattr(torch, dtype).itemsize
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        nbytes = size * torch.Size(shape).numel()
        header[name] = {"dtype": _SAFETENSORS_DTYPES[dtype], "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the format wants
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in shapes}


def _write(file: Any, at: int, tensor: Any, shape: tuple[int, ...], dtype: Any) -> None:
    import torch

    if tuple(tensor.shape) != shape:
        raise UnsupportedModelError(f"a tensor of shape {tuple(tensor.shape)} stands where {shape} is needed")
    file.seek(at)
    file.write(tensor.to(dtype).contiguous().view(torch.uint8).numpy().data)
