"""How informative blocks of tokens are to a layer: by the queries that find their keys, and by what its MLP makes of
them.

Letters: B tokens of a block, N blocks, H query heads, G key heads, D width of a head.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import UnsupportedModelError

_NORMS = ("input_layernorm", "self_attn_layer_norm", "ln_1")
_ATTENTIONS = ("self_attn", "attn")


def attention_of(layer: Any) -> Any:
    """The attention module of a decoder layer.

    Raises:
        UnsupportedModelError: it has none with query and key projections that are known.
    """
    for name in _ATTENTIONS:
        found = getattr(layer, name, None)
        if found is not None and (hasattr(found, "c_attn") or {"q_proj", "k_proj"} <= set(found._modules)):
            return found
    raise UnsupportedModelError(
        f"lemo knows no queries and keys in {type(layer).__name__}: use score='random', or leave it out"
    )


def normed(layer: Any, x: Tensor) -> Tensor:
    """What the attention of a layer gets: its input [batch, tokens, width], normalized where it is so beforehand."""
    if not getattr(layer, "do_layer_norm_before", True):
        return x
    for name in _NORMS:
        norm = getattr(layer, name, None)
        if norm is not None:
            found: Tensor = norm(x)
            return found
    raise UnsupportedModelError(f"lemo finds no norm before the attention of {type(layer).__name__}")


def queries_and_keys(layer: Any, x: Tensor, angles: Any) -> tuple[Tensor, Tensor]:
    """Queries [batch, H, tokens, D] and keys [batch, G, tokens, D] of a layer, rotated where the layer rotates them.

    Args:
        layer: a decoder layer.
        x: what `normed` gives.
        angles: cosines and sines, or None.
    """
    attention = attention_of(layer)
    width = attention.head_dim
    if hasattr(attention, "c_attn"):
        query, key, _ = attention.c_attn(x).chunk(3, dim=-1)
    else:
        query, key = attention.q_proj(x), attention.k_proj(x)
    found = []
    for name, one in (("q_norm", query), ("k_norm", key)):
        norm = getattr(attention, name, None)
        if norm is not None and norm.weight.shape[-1] == one.shape[-1]:
            one, norm = norm(one), None
        one = one.unflatten(-1, (-1, width))
        found.append((one if norm is None else norm(one)).transpose(1, 2))
    if angles is None:
        return found[0], found[1]
    rotate = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    if rotate is None:
        raise UnsupportedModelError(f"lemo cannot rotate the queries of {type(attention).__name__}: use score='random'")
    rotated: tuple[Tensor, Tensor] = rotate(found[0], found[1], *angles)
    return rotated


def pooled_scores(query: Tensor, key: Tensor, block: int, mask: Tensor | None = None) -> Tensor:
    """For each block of queries and each of keys the largest score of a pair, [batch, N, N]; 0 above the diagonal.

    A pair's score is the mean over heads of the positive parts of its scores before the softmax; a token's score with
    itself is left out. The scores of B queries are held at once.

    Args:
        query, key: [batch, H, tokens, D] and [batch, G, tokens, D], H a multiple of G.
        block: B.
        mask: which pairs there are besides causality, [batch, 1 or H, tokens, tokens]: bool, or what is added.
    """
    batch, heads, tokens, _ = query.shape
    groups = key.shape[1]
    total = -(-tokens // block)
    found = query.new_zeros(batch, total, total)
    for number in range(total):
        low, high = number * block, min((number + 1) * block, tokens)
        rows = query[:, :, low:high].reshape(batch, groups, -1, query.shape[-1])
        scores = (rows @ key[:, :, :high].transpose(-1, -2)).clamp_(min=0)
        pairs = scores.view(batch, heads, high - low, high).mean(1).tril_(low - 1)
        if mask is not None:
            part = mask[..., low:high, :high]
            there = (part if part.dtype == torch.bool else part == 0).any(1)
            # A token that may not attend to itself is padding: its queries ask for nothing.
            pairs = pairs * (there & there.diagonal(low, 1, 2).unsqueeze(-1))
        pairs = nn.functional.pad(pairs, (0, (number + 1) * block - high))
        found[:, number, : number + 1] = pairs.view(batch, high - low, number + 1, block).amax((1, 3))
    return found


def by_block(pooled: Tensor, pool: str = "mean") -> Tensor:
    """How informative each block of keys is to the blocks of queries that see it, [batch, N], from [batch, N, N].

    Args:
        pooled: what `pooled_scores` gives.
        pool: "sum" over the blocks of queries, or their "mean". The first block is seen by N of them, the last by one.
    """
    found = pooled.sum(1)
    if pool == "sum":
        return found
    return found / torch.arange(found.shape[1], 0, -1, device=found.device)


def mlp_scores(hidden: Any, x: Tensor, block: int) -> Tensor:
    """Sum of the sizes of a block's intermediate activations, [batch, N].

    Args:
        hidden: gives the intermediate activations [batch, tokens, units] of tokens [batch, tokens, width].
        x: input of the MLP, [batch, tokens, width]; one block's activations are held at once.
        block: B.
    """
    sums = [hidden(part).abs().sum((1, 2), dtype=torch.float32) for part in torch.split(x, block, dim=1)]
    return torch.stack(sums, dim=1)
