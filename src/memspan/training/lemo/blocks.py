"""Blocks of tokens: which of them a layer keeps, and how rows leave the residual stream and come back.

Rows are loaded by index and stored by index, so that nothing of a layer has the whole length but the residual stream,
which autograd does not save. The gradient takes the same way back: one copy of it in which the kept rows are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from memspan.core.errors import UnsupportedModelError


def counted(tokens: int, block: int, keep: float, ends: bool) -> tuple[int, int, tuple[int, ...]]:
    """How many blocks there are, how many are kept, and which of them in any case.

    A last block that is not full is always kept, so that the number of kept tokens does not depend on the choice.
    """
    total = -(-tokens // block)
    always = {total - 1} if tokens % block else set()
    if ends:
        always |= {0, total - 1}
    kept = max(math.ceil(keep * total - 1e-9), len(always), 1)
    return total, kept, tuple(sorted(always))


def choose(scores: Tensor, tokens: int, block: int, kept: int, always: tuple[int, ...]) -> Tensor:
    """Places of the tokens in the best blocks, ascending: int64 [batch, tokens that are kept].

    Args:
        scores: of the blocks, [batch, blocks]; rows choose by themselves.
        tokens: of a row.
        block: tokens of a block.
        kept: blocks to keep.
        always: blocks that are kept whatever their scores.
    """
    scores = scores.clone()
    for number in always:
        scores[:, number] = torch.inf
    best = scores.topk(kept, dim=1).indices.sort(dim=1).values
    index = (best.unsqueeze(-1) * block + torch.arange(block, device=best.device)).flatten(1)
    surplus = -(-tokens // block) * block - tokens  # of the last block, which is then always kept and stands last
    return index[:, : index.shape[1] - surplus].contiguous() if surplus else index


def flat_rows(index: Tensor, tokens: int) -> Tensor:
    """The same places in a batch whose rows stand one after the other: int64 [batch * kept]."""
    begins = torch.arange(index.shape[0], device=index.device).unsqueeze(1) * tokens
    return (index + begins).flatten()


class _Take(torch.autograd.Function):
    """Rows of x [rows, width], and x itself, of which only the other rows will be used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(flat)
        return x.index_select(0, flat), x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_rows: Tensor, d_rest: Tensor) -> Any:
        (flat,) = ctx.saved_tensors
        return d_rest.index_copy(0, flat, d_rows), None


class _Put(torch.autograd.Function):
    """`rest` [rows, width] with these rows replaced; the gradient of the replaced ones is left to `_Take`."""

    @staticmethod
    def forward(ctx: Any, rest: Tensor, flat: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        return rest.index_copy(0, flat, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        (flat,) = ctx.saved_tensors
        return delta, None, delta.index_select(0, flat)


class Kept:
    """The kept tokens of one pass through a layer.

    Args:
        x: hidden states [batch, tokens, width].
        index: places of kept tokens, int64 [batch, kept].

    Attributes:
        rows: their hidden states [batch, kept, width].
    """

    def __init__(self, x: Tensor, index: Tensor) -> None:
        self.index, self._shape = index, x.shape
        self._flat = flat_rows(index, x.shape[1])
        rows, self._rest = _Take.apply(x.flatten(0, 1), self._flat)  # type: ignore[no-untyped-call]
        self.rows: Tensor = rows.view(x.shape[0], -1, x.shape[2])

    def put(self, rows: Tensor) -> Tensor:
        """The hidden states with other ones in the place of the kept tokens', [batch, tokens, width]."""
        found: Tensor = _Put.apply(self._rest, self._flat, rows.flatten(0, 1))  # type: ignore[no-untyped-call]
        return found.view(self._shape)

    def of(self, value: Any) -> Any:
        """What a layer is given besides its hidden states, for the kept tokens: positions, angles, masks.

        Raises:
            UnsupportedModelError: it is a tensor whose tokens cannot be told.
        """
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, tuple | list):
            return type(value)(self.of(one) for one in value)
        if isinstance(value, Mapping):
            return {name: self.of(one) for name, one in value.items()}
        return value

    def _tensor(self, value: Tensor) -> Tensor:
        batch, tokens = self._shape[:2]
        if tokens not in value.shape:
            return value
        if value.ndim == 4 and value.shape[-2:] == (tokens, tokens):  # a mask: queries by keys
            heads = value.shape[1]
            rows = self.index.view(batch, 1, -1, 1).expand(-1, heads, -1, tokens)
            found = value.expand(batch, -1, -1, -1).gather(2, rows)
            return found.gather(3, self.index.view(batch, 1, 1, -1).expand(-1, heads, found.shape[2], -1))
        if value.ndim >= 2 and value.shape[0] in (1, batch) and value.shape[1] == tokens:
            value = value.expand(batch, *value.shape[1:])
            index = self.index.view(batch, -1, *[1] * (value.ndim - 2))
            return value.gather(1, index.expand(-1, -1, *value.shape[2:]))
        raise UnsupportedModelError(f"lemo: a layer is given a tensor {tuple(value.shape)} whose tokens it cannot tell")
