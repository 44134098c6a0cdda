"""The table of heads while it changes: heads leave and enter cells, cells are split and dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from . import codes
from .codes import LANES, Coded
from .layout import Tables
from .space import Floats

Numbers = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

NOWHERE = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class Lanes:
    """Vectors in 8 bits, one by one: code [n, d], scale [n], norm [n], and the list of each, [n]."""

    code: npt.NDArray[np.uint8]
    scale: Floats
    norm: Floats
    lists: U32

    @classmethod
    def encode(cls, x: Floats, lists: npt.NDArray[np.generic]) -> Self:
        """Vectors [n, d] and their lists [n]."""
        return cls.unpack(codes.encode8(x), lists.astype(np.uint32))

    @classmethod
    def unpack(cls, coded: Coded, lists: U32) -> Self:
        """The lanes of blocks that hold a vector; `lists` has one number a lane, or a vector, in order."""
        blocks, groups, lanes, four = coded.codes.shape
        code = coded.codes.transpose(0, 2, 1, 3).reshape(blocks * lanes, groups * four)
        full = np.isfinite(coded.norm.reshape(-1))
        numbers = lists.reshape(-1)
        numbers = numbers[full] if len(numbers) == len(full) else numbers
        return cls(code[full], coded.scale.reshape(-1)[full], coded.norm.reshape(-1)[full], numbers)

    def pack(self) -> tuple[Coded, U32]:
        """Blocks of 16, and the list of each lane [blocks, 16]."""
        n, d = self.code.shape
        blocks = -(-n // LANES)
        code = np.full((blocks * LANES, d), 64, np.uint8)
        scale, norm = np.zeros(blocks * LANES, np.float32), np.full(blocks * LANES, np.inf, np.float32)
        lists = np.zeros(blocks * LANES, np.uint32)
        code[:n], scale[:n], norm[:n], lists[:n] = self.code, self.scale, self.norm, self.lists
        packed = np.ascontiguousarray(code.reshape(blocks, LANES, d // 4, 4).transpose(0, 2, 1, 3))
        shape = (blocks, LANES)
        return Coded(packed, scale.reshape(shape), norm.reshape(shape)), lists.reshape(shape)

    def take(self, which: npt.NDArray[np.generic]) -> Lanes:
        """Those of a mask or of numbers."""
        return Lanes(self.code[which], self.scale[which], self.norm[which], self.lists[which])

    def join(self, other: Lanes) -> Lanes:
        """These, then the others."""
        return Lanes(
            np.concatenate([self.code, other.code]),
            np.concatenate([self.scale, other.scale]),
            np.concatenate([self.norm, other.norm]),
            np.concatenate([self.lists, other.lists]),
        )

    def decoded(self) -> Floats:
        """The vectors [n, d]."""
        return np.asarray((self.code.astype(np.float32) - 64) * self.scale[:, None], np.float32)


def places(tables: Tables) -> U32:
    """For each list block * 16 + lane of its head, NOWHERE where it has none."""
    out = np.full(len(tables.list_count), NOWHERE, np.uint32)
    at = np.flatnonzero(np.isfinite(tables.heads.norm.reshape(-1)))
    out[tables.head_list.reshape(-1)[at]] = at
    return out


def vectors(tables: Tables, place: U32, lists: npt.NDArray[np.generic]) -> Floats:
    """The heads [n, d] of lists [n], as coded."""
    at = place[lists].astype(np.int64)
    code = tables.heads.codes[at // LANES, :, at % LANES].reshape(len(at), -1)
    return np.asarray((code.astype(np.float32) - 64) * tables.heads.scale.reshape(-1)[at][:, None], np.float32)


def cell_of(tables: Tables, place: U32, lists: npt.NDArray[np.generic]) -> Numbers:
    """The cells of lists' heads."""
    block = place[lists].astype(np.int64) // LANES
    return np.asarray(np.searchsorted(tables.cell_start, block, side="right") - 1, np.int64)


def in_cell(tables: Tables, cell: int) -> Lanes:
    """The heads of a cell."""
    a, b = int(tables.cell_start[cell]), int(tables.cell_start[cell + 1])
    h = tables.heads
    return Lanes.unpack(Coded(h.codes[a:b], h.scale[a:b], h.norm[a:b]), tables.head_list[a:b])


def change(tables: Tables, changed: dict[int, Lanes]) -> npt.NDArray[np.bool_]:
    """Puts other heads into cells, whose centres become the means of these.

    Args:
        changed: cells' heads; numbers from the last cell on are new cells. Cells that end up empty are dropped.

    Returns:
        which of the cells, the new ones behind the others, are kept.
    """
    old = len(tables.cell_start) - 1
    total = max(old, max(changed, default=-1) + 1)
    size: Numbers = np.zeros(total, np.int64)
    size[:old] = np.diff(tables.cell_start)
    packed = {cell: lanes.pack() for cell, lanes in changed.items()}
    pieces: list[tuple[Coded, U32]] = []
    h, done = tables.heads, 0
    for cell in sorted(packed):
        a = int(tables.cell_start[min(cell, old)])
        pieces.append((Coded(h.codes[done:a], h.scale[done:a], h.norm[done:a]), tables.head_list[done:a]))
        pieces.append(packed[cell])
        size[cell] = len(packed[cell][1])
        done = int(tables.cell_start[min(cell + 1, old)])
    pieces.append((Coded(h.codes[done:], h.scale[done:], h.norm[done:]), tables.head_list[done:]))
    tables.heads = Coded(
        np.concatenate([p.codes for p, _ in pieces]),
        np.concatenate([p.scale for p, _ in pieces]),
        np.concatenate([p.norm for p, _ in pieces]),
    )
    tables.head_list = np.concatenate([lists for _, lists in pieces])
    tables.cells = _centres(tables.cells, old, total, changed).take(size > 0).pack()[0]
    tables.cell_start = np.concatenate([[0], np.cumsum(size[size > 0])]).astype(np.int64)
    return np.asarray(size > 0)


def _centres(cells: Coded, old: int, total: int, changed: dict[int, Lanes]) -> Lanes:
    full = [cell for cell, lanes in changed.items() if len(lanes.norm)]
    means = Lanes.encode(
        np.stack([changed[cell].decoded().mean(0) for cell in full]) if full else np.zeros((0, 4), np.float32),
        np.array(full),
    )
    centres = Lanes.unpack(cells, np.zeros(old, np.uint32)) if old else means
    out = centres.take(np.minimum(np.arange(total), len(centres.norm) - 1))
    for name in ("code", "scale", "norm") if full else ():
        getattr(out, name)[full] = getattr(means, name)
    return out
