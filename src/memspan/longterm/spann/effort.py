"""What one search is asked, what it did, and what goes wrong in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError, StoreError

Slots = npt.NDArray[np.uint32]
Bitmap = npt.NDArray[np.uint64]

DTYPES = ("float32", "float16", "int8")
NONE = np.uint32(0xFFFFFFFF)
EASY = 4  # lists that are read for the easiest of queries, as in index.h


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How far one search goes.

    Attributes:
        cells: cells whose heads are ranked.
        lists: lists read at most.
        rerank: rows whose exact distance is computed at most.
        stop: a list is read only while its head's squared distance is at most so many times the k-th best estimate.
        patience: a list is read only while fewer than so many times 4 + n were, where the n-th was the last to better
            the k best. An easy query finds all of them in its first lists and soon ends; a hard one goes on.
    """

    cells: int
    lists: int
    rerank: int
    stop: float = float("inf")
    patience: float = float("inf")

    def __post_init__(self) -> None:
        for name in ("cells", "lists", "rerank"):
            if getattr(self, name) < 1:
                raise InputError(f"Effort.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.stop > 0:
            raise InputError(f"Effort.stop is {self.stop}; it must be over 0 (inf for no bound)")
        if not self.patience > 0:
            raise InputError(f"Effort.patience is {self.patience}; it must be over 0 (inf for no bound)")

    def scaled(self, by: float) -> Effort:
        """So many times the cells, lists and patience."""
        cells, lists = round(self.cells * by), round(self.lists * by)
        return replace(self, cells=cells, lists=lists, patience=self.patience * by)


@dataclass(frozen=True)
class Work:
    """What a search did, summed over its queries: lists read, bytes touched on disk, rows ranked exactly."""

    lists: int
    bytes: int
    rows: int

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(self.lists + other.lists, self.bytes + other.bytes, self.rows + other.rows)


@dataclass(frozen=True)
class Only:
    """The slots that a search may answer, and the lists and cells that have one of them, as bitmaps.

    Attributes:
        count: how many slots.
    """

    slots: Bitmap
    lists: Bitmap
    cells: Bitmap
    count: int


class DamagedLists(StoreError):
    """Lists whose checksums do not agree: `Engine.mend` makes them anew."""

    def __init__(self, path: Path, lists: list[int]) -> None:
        super().__init__(f"lists {lists} of {path} are damaged; run: memspan index verify --repair {path}")
        self.lists = lists


def test_bits(bitmap: Bitmap, at: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Which of the numbers are in a bitmap."""
    i = at.astype(np.uint64)
    return np.asarray(bitmap[i >> np.uint64(6)] >> (i & np.uint64(63)) & np.uint64(1), bool)


def bitmap_of(numbers: npt.NDArray[np.generic], size: int) -> Bitmap:
    """The bitmap of a set of numbers below `size`."""
    out = np.zeros(-(-max(size, 1) // 64), np.uint64)
    at = numbers.astype(np.uint64)
    np.bitwise_or.at(out, at >> np.uint64(6), np.uint64(1) << (at & np.uint64(63)))
    return out
