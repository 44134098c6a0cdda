"""The configuration of a language model, by every name that a user has for one; no weight is read or fetched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError, ModelError
from memspan.models.spec import (
    bundled_language_model,
    hub_directory,
    hub_unreachable,
    parse_spec,
    quiet_transformers,
    require_local,
)


def load_config(spec: str | os.PathLike[str]) -> Any:
    """The transformers configuration that a spec names; besides the forms of `parse_spec`, a config.json.

    Of a Hugging Face id only the configuration is fetched, where it is not in the cache.

    Raises:
        InputError: the spec has no known form, or names an endpoint.
        MissingExtraError: torch or transformers is not installed.
        ModelError: the configuration cannot be read or had.
    """
    require_local()
    from memspan.models.local import model_config

    path = Path(os.fspath(spec)).expanduser()
    if path.suffix == ".json":
        if not path.is_file():
            raise InputError(f"the file {path} does not exist")
        return _read(path)
    parsed = parse_spec(spec)
    if parsed.kind == "endpoint":
        raise InputError("a model behind an endpoint cannot be trained here: name a local one, or its config.json")
    if parsed.kind == "hub":
        return _read(_hub_config(parsed.text))
    return model_config(bundled_language_model() if parsed.kind == "bundled" else parsed.path or path)


def _read(path: Path) -> Any:
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the configuration {path} cannot be read: {error}") from error


def _hub_config(repo: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    problem = ""
    for local in (True, False):
        if not local and (unreachable := hub_unreachable(constants.ENDPOINT, constants.HF_HUB_OFFLINE)):
            problem = unreachable
            break
        try:
            return Path(hf_hub_download(repo, "config.json", local_files_only=local))
        except Exception as error:  # the hub's errors come from requests, httpx and itself, and change by version
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    raise ModelError(
        f"the configuration of '{repo}' is neither on this disk nor to be had from Hugging Face ({problem}); name its"
        " config.json instead"
    )


def load_trainable(spec: str | os.PathLike[str], *, dtype: str, attention: str = "sdpa") -> tuple[Any, Any]:
    """A language model whose weights are its own to change, and its tokenizer.

    Args:
        spec: as for `load_config`, but for a config.json, which has no weights.
        dtype: "float32" or "bfloat16".
        attention: as transformers names it.

    Raises:
        InputError: the spec names no weights.
        ModelError: they cannot be loaded.
    """
    require_local()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from memspan.models.gguf import converted

    if Path(os.fspath(spec)).suffix == ".json":
        raise InputError(f"{spec} is a configuration without weights: use the task pretrain, or name the model")
    parsed = parse_spec(spec)
    if parsed.kind == "endpoint":
        raise InputError("a model behind an endpoint cannot be trained here: name a local one")
    path = bundled_language_model() if parsed.kind == "bundled" else parsed.path or hub_directory(parsed.text)
    directory = converted(path, dtype) if path.is_file() else path
    auto: Any = AutoModelForCausalLM
    try:
        with quiet_transformers():
            model = auto.from_pretrained(
                directory,
                local_files_only=True,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                use_safetensors=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"the language model in {directory} cannot be loaded for training: {error}") from error
    name_loss(model)
    with torch.no_grad():
        # Weights are mapped from the file; each gets memory of its own, and the file is let go.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    return model, tokenizer


def name_loss(model: Any) -> None:
    """Name the loss of a causal language model whose class's name does not tell it: transformers would say so aloud."""
    if getattr(model, "loss_type", "") is None:
        model.loss_type = "ForCausalLM"


def load_tokenizer(spec: str | os.PathLike[str]) -> Any:
    """The tokenizer of a model, None where there is only a configuration.

    Raises:
        ModelError: the model's directory holds none.
    """
    require_local()
    from transformers import AutoTokenizer

    from memspan.models.gguf import converted

    if Path(os.fspath(spec)).suffix == ".json":
        return None
    parsed = parse_spec(spec)
    path = bundled_language_model() if parsed.kind == "bundled" else parsed.path or hub_directory(parsed.text)
    directory = converted(path, "float32") if path.is_file() else path
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{directory} holds no tokenizer: {error}") from error
