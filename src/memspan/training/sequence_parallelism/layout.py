"""Which tokens of a sequence a rank has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memspan.core.errors import InputError

ORDERS = ("contiguous", "zigzag")


@dataclass(frozen=True)
class Layout:
    """How L tokens lie on N ranks.

    Attributes:
        length: L, a multiple of what the order cuts it into.
        ranks: N.
        order: "contiguous", or "zigzag": chunks i and 2N - 1 - i on rank i.

    Raises:
        InputError: the length cannot be cut, or the order is not known.
    """

    length: int
    ranks: int
    order: str = "contiguous"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise InputError(f"order is {self.order!r}: it must be one of {', '.join(ORDERS)}")
        if self.length % self.parts:
            raise InputError(f"{self.length} tokens cannot be cut into {self.parts} parts: pad them")

    @property
    def parts(self) -> int:
        """Into how many parts the order cuts a sequence."""
        return self.ranks * (2 if self.order == "zigzag" else 1)

    @property
    def chunk(self) -> int:
        """c, tokens of a rank."""
        return self.length // self.ranks

    def pieces(self, rank: int) -> list[tuple[int, int]]:
        """Begin and end, in the sequence, of what a rank has, in its order."""
        size = self.length // self.parts
        numbers = [rank] if self.order == "contiguous" else [rank, 2 * self.ranks - 1 - rank]
        return [(number * size, (number + 1) * size) for number in numbers]

    def take(self, tensor: Tensor, rank: int, dim: int = 1) -> Tensor:
        """What a rank has of a tensor over all tokens."""
        parts = [tensor.narrow(dim, begin, end - begin) for begin, end in self.pieces(rank)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    def positions(self, rank: int, device: torch.device | None = None) -> Tensor:
        """Of a rank's tokens where they stand in the sequence, int64 [c]."""
        return torch.cat([torch.arange(begin, end, device=device) for begin, end in self.pieces(rank)])
