"""How many bytes a model will take, from its configuration alone: asked before anything is loaded.

Weights are exact. Activations are an estimate of what is held at once in the widest layer, for each token of a pass:
attention holds input, residual, query, key, value and output (6 vectors of the hidden width), the feed-forward part
two vectors of the hidden and two (an encoder) or three (a gated decoder) of the intermediate width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memspan.core.catalog import load as load_system
from memspan.core.errors import ModelError
from memspan.models.spec import (
    bundled_embedder,
    bundled_language_model,
    hub_directory,
    parse_spec,
    require_local,
    system_of,
)


@dataclass(frozen=True, slots=True)
class LanguageModelPlan:
    """A local language model that is not loaded.

    Attributes:
        name: its spec.
        window: tokens of its context window; None when the configuration does not say.
        weights: bytes by dtype, in the order in which loading tries them.
    """

    name: str
    window: int | None
    weights: Mapping[str, int]
    config: Any

    def working_bytes(self, dtype: str, tokens: int, context: int | None = None) -> int:
        """Bytes of the key-value cache of `tokens`, and of the activations while they are read as one prompt.

        `context` is the most that a context system lets the cache take.
        """
        size = 4 if dtype == "float32" else 2
        inside = activation_bytes(self.config, tokens, size, streams=3)
        cache = kv_bytes(self.config, tokens, size)
        held = cache if context is None else min(cache, context)
        return held + inside + 4 * int(getattr(self.config, "vocab_size", 0))


@dataclass(frozen=True, slots=True)
class EmbedderPlan:
    """A local embedder that is not loaded: bytes of its weights and of the activations of all its workers."""

    name: str
    weights: int
    activations: int
    dim: int


def plan_language_model(spec: str | os.PathLike[str] = "bundled") -> LanguageModelPlan | None:
    """What a language model will take; None for an endpoint, which takes nothing here.

    Raises:
        As `memspan.models.load_language_model`, but for the budget.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "endpoint":
        return None
    from memspan.models.local import automatic_dtypes, model_config, predicted_bytes

    path = bundled_language_model() if parsed.kind == "bundled" else parsed.path or hub_directory(parsed.text)
    require_local()
    config = model_config(path)
    weights = {dtype: predicted_bytes(config, dtype) for dtype in automatic_dtypes(on_cpu=True)}
    return LanguageModelPlan(parsed.text, getattr(config, "max_position_embeddings", None), weights, config)


def plan_embedder(spec: str | os.PathLike[str] = "bundled", *, threads: int | None = None) -> EmbedderPlan | None:
    """What an embedder will take; None for an endpoint.

    Raises:
        As `memspan.models.load_embedder`.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "endpoint":
        return None
    require_local()
    import torch

    from memspan.models.embedder import BATCH_TOKENS
    from memspan.models.local import model_config

    directory = bundled_embedder() if parsed.kind == "bundled" else parsed.path or hub_directory(parsed.text)
    weights = 4 * sum(_values(path) for path in directory.glob("*.safetensors"))
    kind = system_of(directory)
    if kind:
        working, dim = load_system(kind).embedder_bytes(directory)  # type: ignore[attr-defined]
        return EmbedderPlan(parsed.text, weights, working, dim)
    config = model_config(directory)
    workers = threads or torch.get_num_threads()
    return EmbedderPlan(
        parsed.text,
        weights,
        workers * activation_bytes(config, BATCH_TOKENS, 4, streams=2),
        int(getattr(config, "hidden_size", 0)),
    )


def kv_bytes(config: Any, tokens: int, itemsize: int) -> int:
    """Bytes of keys and values of `tokens` in all layers; 0 where the configuration does not tell."""
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    width = getattr(config, "head_dim", None)
    if width is None and getattr(config, "hidden_size", None) and getattr(config, "num_attention_heads", None):
        width = config.hidden_size // config.num_attention_heads
    return 2 * layers * heads * width * tokens * itemsize if heads and layers and width else 0


def activation_bytes(config: Any, tokens: int, itemsize: int, *, streams: int) -> int:
    """Estimated bytes of the widest layer's activations; `streams` vectors of the intermediate width are held."""
    hidden = int(getattr(config, "hidden_size", None) or 0)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    return tokens * itemsize * max(6 * hidden, 2 * hidden + streams * inner)


def _values(path: Any) -> int:
    """Numbers in a safetensors file, by its header."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError, MemoryError, OverflowError) as error:
        raise ModelError(f"{path} is no readable safetensors file: {error}") from error
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total
