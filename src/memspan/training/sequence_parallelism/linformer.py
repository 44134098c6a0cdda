"""Linformer's attention (arXiv 2006.04768) of a split sequence: keys and values are projected to a few tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memspan.core.errors import InputError


def projected_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    project_key: Tensor,
    project_value: Tensor,
    group: Any = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Attention of this rank's queries to k mixtures of all tokens: bytes and work linear in L / N, no ring.

    It is not causal: every mixture has tokens of the whole sequence.

    Args:
        query: [B, Z, c, A].
        key, value: [B, Z, c, A], of this rank's tokens.
        project_key, project_value: the columns of E and F for this rank's tokens, [k, c].
        group: the ranks; None: all, or one process where there is no group.
        scale: factor of the products; 1 / sqrt(A) by default.

    Returns:
        [B, Z, c, A].

    Raises:
        InputError: the projections are not of this chunk.
    """
    chunk = key.shape[2]
    for name, one in (("project_key", project_key), ("project_value", project_value)):
        if one.ndim != 2 or one.shape[1] != chunk:
            raise InputError(f"{name} is {tuple(one.shape)}: a chunk of {chunk} tokens takes [k, {chunk}]")
    mixed_key = _Sum.apply(project_key @ key, group)  # type: ignore[no-untyped-call]
    mixed_value = _Sum.apply(project_value @ value, group)  # type: ignore[no-untyped-call]
    found: Tensor = nn.functional.scaled_dot_product_attention(query, mixed_key, mixed_value, scale=scale)
    return found


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of theirs, since every rank uses it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _summed(part, group)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return _summed(upstream[0], ctx.group), None


def _summed(part: Tensor, group: Any) -> Tensor:
    whole = part.clone(memory_format=torch.contiguous_format)
    if dist.is_initialized():
        dist.all_reduce(whole, group=group)
    return whole
