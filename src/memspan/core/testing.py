"""Toy models for tests, benchmarks and plug-ins: built in code from a seed, nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memspan.core.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import nn


def tiny_llama(
    *,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    vocabulary: int = 64,
    positions: int = 128,
    seed: int = 0,
    **config: Any,
) -> nn.Module:
    """A `transformers.LlamaForCausalLM` with random weights, float32, in evaluation mode.

    The random state of the caller is left as it was.

    Args:
        layers: decoder layers.
        hidden: width; the feed-forward layers are twice as wide, a head has `hidden // heads` dimensions.
        heads: query heads.
        kv_heads: heads of keys and values; must divide `heads`.
        vocabulary: number of tokens.
        positions: longest input.
        seed: of the weights.
        config: other fields of `LlamaConfig`.

    Raises:
        MissingExtraError: torch or transformers is not installed.
    """
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise MissingExtraError("transformers, which toy models need,", "pip install 'memspan[local]'") from error

    settings: Any = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = LlamaForCausalLM(LlamaConfig(**settings))
    return model.eval()
