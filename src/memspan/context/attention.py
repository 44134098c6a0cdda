"""Exact attention over slots: the fast path for each case, and a plain one.

Shapes: q [B, Hq, T, D], keys and values [B, H, N, D], positions of queries [B, T] and of slots [B, P, N].
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

PACKED = 16
"""Up to this many rows the heads of a group are packed into rows."""


def visible(query_pos: torch.Tensor, slot_pos: torch.Tensor, window: int | None, sinks: int = 0) -> torch.Tensor:
    """Which slots each query may see, bool [B, P, T, N]: not padding, not later, not `window` or more before.

    The first `sinks` positions are always seen. A query that is padding sees everything: its output is not used, and
    must only be finite.
    """
    q, k = query_pos[:, None, :, None], slot_pos[:, :, None, :]
    seen = (k >= 0) & (k <= q)
    if window is not None:
        seen &= (q - k < window) | (k < sinks)
    return seen | (q < 0)


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, *, causal: bool, scaling: float
) -> torch.Tensor:
    """Softmax attention [B, Hq, T, D] with SDPA.

    Query heads that share keys are packed into rows or taken one after the other, never by repeating keys: on the CPU
    `enable_gqa` is over twice as slow, and repeating over ten times.

    Args:
        mask: bool [B or 1, P or 1, T, N], or None.
        causal: without a mask, T queries over the same T keys.
    """
    batch, heads, rows, width = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    if group == 1:
        return sdpa(q, k, v, attn_mask=mask, is_causal=causal, scale=scaling)
    if rows <= PACKED and not causal:
        packed = q.reshape(batch, kv_heads, group * rows, width)
        wide = None if mask is None else mask.repeat(1, 1, group, 1)
        return sdpa(packed, k, v, attn_mask=wide, scale=scaling).reshape(batch, heads, rows, v.shape[3])
    grouped = q.view(batch, kv_heads, group, rows, width)
    out = q.new_empty(batch, kv_heads, group, rows, v.shape[3])
    for g in range(group):
        out[:, :, g] = sdpa(grouped[:, :, g], k, v, attn_mask=mask, is_causal=causal, scale=scaling)
    return out.view(batch, heads, rows, v.shape[3])


def scores(q: torch.Tensor, k: torch.Tensor, scaling: float) -> torch.Tensor:
    """Products of queries and keys, float32, [B, H, G, T, N] with G query heads for each of H key heads."""
    batch, heads, rows, width = q.shape
    packed = q.reshape(batch, k.shape[1], -1, width)
    product = packed.float() @ k.float().transpose(2, 3)
    return (product * scaling).view(batch, k.shape[1], heads // k.shape[1], rows, k.shape[2])


def weights(
    products: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax of `scores` over the slots that `mask` [B, P, T, N] lets through; `sinks` are learned logits [Hq]."""
    if softcap is not None:
        products = torch.tanh(products / softcap) * softcap
    if mask is not None:
        products = products.masked_fill(~mask[:, :, None], float("-inf"))
    if sinks is None:
        return products.softmax(-1)
    extra = sinks.float().view(1, products.shape[1], products.shape[2], 1, 1).expand(*products.shape[:-1], 1)
    return torch.cat((products, extra), -1).softmax(-1)[..., :-1]


def mix(shares: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Values by their shares [B, H, G, T, N]: [B, Hq, T, D] in the dtype of `v`."""
    batch, kv_heads, group, rows, count = shares.shape
    out = shares.view(batch, kv_heads, group * rows, count) @ v.float()
    return out.view(batch, kv_heads * group, rows, v.shape[3]).to(v.dtype)
