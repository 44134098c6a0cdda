"""The allocators that everybody has: first fit and best fit, as memory is asked for or with the whole step known.

`FirstFit` and `BestFit` see one request after the other, as an allocator at run time does; best fit with a free list
that is split and merged is what the allocators of deep-learning frameworks do (TensorFlow's BFC, PyTorch's caching
allocator within one segment). `BySize` and `ByLifetime` see all lifespans before they place the first buffer, as
compilers do (TensorFlow Lite's greedy by size; Pisarchyk and Lee 2020, arXiv 2001.03288).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from memspan.core.errors import InputError
from memspan.planner.allocator.base import Allocator, Run
from memspan.planner.allocator.problem import Buffer, Problem, align, lowest_offset


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Settings of an allocator that serves requests in their order.

    Raises:
        InputError: `granularity` is below 1.
    """

    granularity: int = 1  # sizes are rounded up to multiples of this, in bytes (CUDA's caching allocator: 512)

    def __post_init__(self) -> None:
        if self.granularity < 1:
            raise InputError(f"granularity is {self.granularity}; it must be at least 1")


class FirstFit(Allocator):
    """Requests in the order of time, each at the lowest free offset that holds it."""

    slug: ClassVar[str] = "first-fit"
    Config: ClassVar[type[OnlineConfig]] = OnlineConfig

    def choose(self, free: list[tuple[int, int, int]]) -> int:
        """The offset among `free`: (room, start of the room, aligned offset in it), by offset; the last has no end."""
        return free[0][2]

    def search(self, run: Run) -> None:
        """Serve all requests; gaps in lifespans are not used."""
        buffers, unit = run.problem.buffers, self.config.granularity
        offsets = [0] * len(buffers)
        taken: list[tuple[int, int]] = []  # (start, end), disjoint and ascending
        order = [(buffer.lower, 1, i) for i, buffer in enumerate(buffers)]
        order += [(buffer.upper, 0, i) for i, buffer in enumerate(buffers)]
        for _, begins, i in sorted(order):
            size = align(buffers[i].size, unit)
            if not begins:
                del taken[bisect_left(taken, (offsets[i], 0))]
                continue
            offsets[i] = self.choose(_rooms(taken, size, buffers[i].alignment))
            insort(taken, (offsets[i], offsets[i] + size))
        run.offer(offsets)


class BestFit(FirstFit):
    """Requests in the order of time, each in the smallest free stretch that holds it."""

    slug: ClassVar[str] = "best-fit"

    def choose(self, free: list[tuple[int, int, int]]) -> int:
        """As `FirstFit.choose`: the least room, and the end of the address space only where there is no other."""
        return min(free[:-1] or free)[2]


class BySize(Allocator):
    """All lifespans known: the largest buffers first, each in the smallest gap between those already placed."""

    slug: ClassVar[str] = "best-fit-by-size"

    def key(self, buffer: Buffer) -> tuple[int, int]:
        """What buffers are sorted by, the least first."""
        return -buffer.size, buffer.lower - buffer.upper

    def search(self, run: Run) -> None:
        """Place all in their order."""
        buffers = run.problem.buffers
        run.offer(place_in_order(run.problem, sorted(range(len(buffers)), key=lambda i: self.key(buffers[i]))))


class ByLifetime(BySize):
    """All lifespans known: those that live longest first, each in the smallest gap between those already placed."""

    slug: ClassVar[str] = "best-fit-by-lifetime"

    def key(self, buffer: Buffer) -> tuple[int, int]:
        """What buffers are sorted by, the least first."""
        return buffer.lower - buffer.upper, -buffer.size


ORDINARY: dict[str, type[Allocator]] = {kind.slug: kind for kind in (FirstFit, BestFit, BySize, ByLifetime)}


def place_in_order(problem: Problem, order: Sequence[int], *, best: bool = True) -> list[int]:
    """Offsets [n] when buffers are placed one after the other among those they live beside.

    Args:
        problem: the buffers.
        order: every buffer's number.
        best: each in the smallest gap that holds it; else at the lowest offset.
    """
    buffers, neighbours = problem.buffers, problem.neighbours
    offsets = [-1] * len(buffers)
    for i in order:
        size, alignment = buffers[i].size, buffers[i].alignment
        beside = sorted((offsets[j], offsets[j] + buffers[j].size) for j in neighbours[i] if offsets[j] >= 0)
        if best:
            rooms = _rooms(beside, size, alignment)
            offsets[i] = min(rooms[:-1] or rooms)[2]
        else:
            offsets[i] = lowest_offset(size, alignment, beside)
    return offsets


def _rooms(taken: Sequence[tuple[int, int]], size: int, alignment: int) -> list[tuple[int, int, int]]:
    """The free stretches that hold `size` bytes: (room, start, aligned offset); the last is what lies above all."""
    found, at = [], 0
    for start, end in taken:
        offset = align(at, alignment)
        if start - offset >= size:
            found.append((start - at, at, offset))
        at = max(at, end)
    return [*found, (0, at, align(at, alignment))]
