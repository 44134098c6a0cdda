"""The packing search in numpy: what `native/pack.cpp` looks for, by plainer means, and used where it was not compiled.

A placement in which no buffer can sink rests on itself: every buffer lies at 0 or on the end of a neighbour in time.
Such placements are built from the bottom up, buffers in ascending order of (offset, rank), so that each is built in
one way only. `floor` of a buffer is the highest end of its placed neighbours, and it can be placed there or not at all
until a neighbour raises it. Branches are cut where the section of time that is least able to take what is left is over
the capacity, and where some buffer would fit whole below the one that is placed (Moffitt 2023, "MiniMalloc", ASPLOS).
The placement with the least sum of offsets is never cut, so a search that ends without one proves that there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from memspan.planner.allocator.problem import Ints, Problem

Floats = npt.NDArray[np.float64]
FOUND, NONE, STOPPED = 1, 0, -1
SHARE = 0.1
"""Of the weight that a buffer gets for which there is no room, each buffer of an overfull section gets this."""


@dataclass(frozen=True)
class Shape:
    """A problem as the search needs it.

    Attributes:
        size, alignment: bytes [n].
        least: size of the smallest neighbour [n], 0 without one.
        piece_starts: buffer i's pieces are [piece_starts[i], piece_starts[i + 1]) [n + 1].
        piece_first, piece_end: sections that each piece covers, [first, end) [m].
        sections: number of stretches of time between two changes.
        kind: equal for buffers that differ in nothing [n].
        neighbour_starts, neighbours: numbers of each buffer's neighbours, likewise.
    """

    size: Ints
    alignment: Ints
    least: Ints
    piece_starts: Ints
    piece_first: Ints
    piece_end: Ints
    sections: int
    kind: Ints
    neighbour_starts: Ints
    neighbours: Ints

    @classmethod
    def of(cls, problem: Problem) -> Shape:
        """The shape of a problem."""
        start, end, owner = problem.pieces
        times = np.unique(np.concatenate([start, end]))
        beside = problem.neighbours
        n = len(problem)
        return cls(
            size=problem.size,
            alignment=problem.alignment,
            least=np.array([problem.size[others].min() if len(others) else 0 for others in beside], np.int64),
            piece_starts=np.searchsorted(owner, np.arange(n + 1)).astype(np.int64),
            piece_first=np.searchsorted(times, start).astype(np.int64),
            piece_end=np.searchsorted(times, end).astype(np.int64),
            sections=len(times) - 1,
            kind=_kinds(problem),
            neighbour_starts=np.cumsum([0, *(len(others) for others in beside)]).astype(np.int64),
            neighbours=np.concatenate([*beside, np.zeros(0, np.int64)]).astype(np.int64),
        )

    @cached_property
    def cover(self) -> npt.NDArray[np.bool_]:
        """Whether a buffer holds its bytes in a section [n, k]."""
        covered = np.zeros((len(self.size), self.sections), bool)
        for i in range(len(self.size)):
            for p in range(self.piece_starts[i], self.piece_starts[i + 1]):
                covered[i, self.piece_first[p] : self.piece_end[p]] = True
        return covered

    def totals(self) -> Ints:
        """For each buffer, the most bytes that live in one of its sections [n]."""
        live = self.size @ self.cover
        return np.array([live[row].max() for row in self.cover], np.int64)


def _kinds(problem: Problem) -> Ints:
    known: dict[object, int] = {}
    rows = ((tuple(buffer.pieces), buffer.size, buffer.alignment) for buffer in problem.buffers)
    return np.array([known.setdefault(row, len(known)) for row in rows], np.int64)


def search(
    shape: Shape,
    rank: Ints,
    capacity: int,
    limit: int,
    weight: Floats,
    grow: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[int, Ints, int, int]:
    """Look for a placement of at most `capacity` bytes, in at most `limit` nodes.

    Args:
        shape: the buffers.
        rank: place of each in the order in which those of one floor are tried [n].
        weight: is added `grow` for the buffers that had no room where the search had to turn back [n].
        stop: asked at every node.

    Returns:
        FOUND, NONE (there is no such placement) or STOPPED; the offsets [n]; nodes visited; most buffers placed.
    """
    n, size, cover, alignment = len(shape.size), shape.size, shape.cover, shape.alignment
    floor, offsets = np.zeros(n, np.int64), np.zeros(n, np.int64)
    free = np.ones(n, bool)
    left = size @ cover
    beside = np.split(shape.neighbours, shape.neighbour_starts[1:-1])
    nowhere = np.int64(2**62)
    nodes = most = 0
    last, last_rank = 0, -1
    # For each level: its candidates still to be tried, last first; the one that stands; the floors that it raised.
    levels: list[tuple[list[int], list[int], list[tuple[Ints, Ints]]]] = []
    while True:
        most = max(most, len(levels))
        if len(levels) == n:
            return FOUND, offsets, nodes, most
        nodes += 1
        if nodes > limit or stop():
            return STOPPED, offsets, nodes, most
        rest = np.flatnonzero(free)
        under = floor[rest]
        height = (under + size[rest]).min()
        late = (under < last) | ((under == last) & (rank[rest] < last_rank))
        lowest = np.where(late, last + shape.least[rest], under)
        bad = rest[lowest + size[rest] > capacity]
        candidates: list[int] = []
        if len(bad):
            weight[bad[0]] += grow
        else:
            covered = cover[rest]
            low = np.where(covered, lowest[:, None], nowhere).min(0)
            over = np.flatnonzero((left > 0) & (low + left > capacity))
            if len(over):
                weight[rest[covered[:, over[0]]]] += grow * SHARE
            else:
                open_now = rest[~late & (under < height)]
                candidates = open_now[np.lexsort((rank[open_now], floor[open_now]))][::-1].tolist()
        levels.append((candidates, [], []))
        while True:
            if not levels:
                return NONE, offsets, nodes, most
            candidates, placed, raised = levels[-1]
            if placed:
                i = placed.pop()
                others, before = raised.pop()
                floor[others] = before
                free[i] = True
                left[cover[i]] += size[i]
            if candidates:
                i = candidates.pop()
                placed.append(i)
                free[i] = False
                offsets[i] = last = int(floor[i])
                last_rank = int(rank[i])
                left[cover[i]] -= size[i]
                others = beside[i][free[beside[i]]]
                raised.append((others, floor[others]))
                end = last + size[i]
                floor[others] = np.maximum(floor[others], -(-end // alignment[others]) * alignment[others])
                break
            levels.pop()
