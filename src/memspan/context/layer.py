"""`RotaryLayer`: the projections and rotary positions of attention layers that are trained from scratch.

Shapes: B batch rows, T tokens, d width, H key heads, Hq query heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError


class RotaryLayer(nn.Module):
    """What stands around the attention of a layer of its own.

    Args:
        dim: width d; heads: query heads; kv_heads: heads of keys and values, as many when None.
        base: of the rotary frequencies.

    Raises:
        InputError: the heads do not divide the width, or each other.
    """

    def __init__(self, dim: int, heads: int, *, kv_heads: int | None = None, base: float = 10_000.0) -> None:
        super().__init__()
        kv_heads = kv_heads or heads
        if min(dim, heads, kv_heads) < 1 or dim % heads or heads % kv_heads or dim // heads % 2:
            raise InputError(f"dim {dim}, heads {heads} and kv_heads {kv_heads} must divide, into an even head width")
        width = dim // heads
        self.q_proj, self.o_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * width, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * width, bias=False)
        self.width, self.heads, self.kv_heads = width, heads, kv_heads
        self.frequencies: Tensor
        self.register_buffer("frequencies", base ** (-torch.arange(0, width, 2) / width), persistent=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, Hq, T, D], keys and values [B, H, T, D] of states [B, T, d], not rotated."""
        q, k, v = (
            linear(x).unflatten(2, (-1, self.width)).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def rotate(self, x: Tensor, pos: Tensor) -> Tensor:
        """Heads [B, H, T, D] rotated by positions [1, T]."""
        angles = pos[:, None, :, None] * self.frequencies
        first, second = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def put_out(self, out: Tensor) -> Tensor:
        """States [B, T, d] of what the heads say, [B, Hq, T, D]."""
        mixed: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return mixed
