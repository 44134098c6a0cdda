"""The allocator: tensors placed inside a layer's pass, and the layers' passes among the tensors of the whole step.

A step of equal layers asks for memory in the same way again and again. Where that begins and how long one turn is, is
found in the problem itself, as the part of its requests that repeats; windows can be given instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError
from memspan.planner.allocator.base import Allocator, Run
from memspan.planner.allocator.problem import Buffer, Problem
from memspan.training.memo_1m.program import Level, solve

_FEWEST = 4  # requests in a turn
_GREEDY = 0.0  # seconds: the orders of placement alone
Window = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BiLevelConfig:
    """Settings of the two-level allocator.

    Raises:
        InputError: a share or a window is out of range.
    """

    windows: tuple[Window, ...] | None = None  # times [from, until) of the layers' passes; None: found in the requests
    inner: float = 0.6  # share of the time for the layers' programs; the rest is for the step's
    program: bool = True  # solve mixed-integer programs where they are small enough

    def __post_init__(self) -> None:
        if not 0 < self.inner < 1:
            raise InputError(f"inner is {self.inner}: it must lie between 0 and 1")
        ordered = sorted(self.windows or ())
        if any(begin >= end for begin, end in ordered) or any(a[1] > b[0] for a, b in pairwise(ordered)):
            raise InputError("windows must be [from, until) with from below until, and must not overlap")


class BiLevel(Allocator):
    """MEMO's two levels (arXiv 2407.12117, section 4.2); without repeated windows, one level.

    Notes of a placement: "windows" (how many, how many kinds, and for each kind the height, the bound and how it was
    found), and "step", the same of the upper level.
    """

    slug: ClassVar[str] = "memo-1m"
    Config: ClassVar[type[BiLevelConfig]] = BiLevelConfig

    def search(self, run: Run) -> None:
        """A placement by orders first, then with programs in what time there is."""
        given = self.config.windows
        windows = repeated(run.problem) if given is None else list(given)
        for seconds in (_GREEDY, run.seconds):
            if seconds and run.over():
                return
            offsets, notes, step = self._levels(run, windows, min(seconds, run.left))
            run.offer(offsets)
            run.notes = notes
            if not windows:
                run.prove(step.bound)

    def _levels(
        self, run: Run, windows: Sequence[Window], seconds: float
    ) -> tuple[list[int], dict[str, object], Level]:
        problem, program = run.problem, self.config.program and seconds > 0
        inside = [[i for i, b in enumerate(problem.buffers) if w[0] <= b.lower and b.upper <= w[1]] for w in windows]
        kinds: dict[tuple[object, ...], Level] = {}
        shapes = [_shape(problem, window, members) for window, members in zip(windows, inside, strict=True)]
        different = list(dict.fromkeys(shape for shape in shapes if shape))
        for shape in different:
            share = self.config.inner * seconds / len(different)
            kinds[shape] = solve(_inner(shape), seconds=share, program=program)
        placed = {i for members in inside for i in members}
        rest = [i for i in range(len(problem)) if i not in placed]
        outer = [problem.buffers[i] for i in rest]
        blocks = [n for n, members in enumerate(inside) if members]
        for n in blocks:
            largest = max(problem.buffers[i].alignment for i in inside[n])
            begin, end = windows[n]
            outer.append(Buffer(f"window {n}", begin, end, kinds[shapes[n]].height, alignment=largest))
        step = solve(
            Problem(tuple(outer), name=problem.name),
            seconds=min((1 - self.config.inner) * seconds, run.left) if windows else seconds,
            program=program,
            enough=run.capacity or 0,
        )
        offsets = [0] * len(problem)
        for i, offset in zip(rest, step.offsets, strict=False):
            offsets[i] = offset
        for n, base in zip(blocks, step.offsets[len(rest) :], strict=True):
            for i, offset in zip(inside[n], kinds[shapes[n]].offsets, strict=True):
                offsets[i] = base + offset
        notes: dict[str, object] = {
            "windows": {
                "count": len(blocks),
                "buffers": len(placed),
                "kinds": [
                    {"buffers": len(shape), "times": shapes.count(shape), **_said(level)}
                    for shape, level in kinds.items()
                ],
            },
            "step": {"buffers": len(outer), **_said(step)},
        }
        return offsets, notes, step


def _said(level: Level) -> dict[str, object]:
    return {"height": level.height, "bound": level.bound, "how": level.how, "optimal": level.optimal}


def _shape(problem: Problem, window: Window, members: Sequence[int]) -> tuple[object, ...]:
    """What a window asks for, relative to its beginning: equal windows have equal shapes."""
    begin = window[0]
    return tuple(
        (b.lower - begin, b.upper - begin, b.size, b.alignment, tuple((x - begin, y - begin) for x, y in b.gaps))
        for b in (problem.buffers[i] for i in members)
    )


def _inner(shape: tuple[object, ...]) -> Problem:
    rows: Sequence[tuple[int, int, int, int, tuple[tuple[int, int], ...]]] = shape  # type: ignore[assignment]
    return Problem(
        tuple(
            Buffer(str(i), lower, upper, size, alignment=alignment, gaps=gaps)
            for i, (lower, upper, size, alignment, gaps) in enumerate(rows)
        ),
        name="a layer's pass",
    )


def repeated(problem: Problem) -> list[Window]:
    """Times [from, until) of the turns in which the requests repeat: each layer's forward pass, and each backward pass.

    A turn is cut where the least is alive, so that as much as can be lives and dies inside of it.
    """
    order = np.lexsort((np.arange(len(problem)), problem.lower))
    sizes, lower = problem.size[order], problem.lower[order]
    free = np.ones(len(order), bool)
    times, live = problem.live()
    windows: list[Window] = []
    while True:
        found = _longest(sizes, lower, free)
        if found is None:
            return sorted(windows)
        start, period, turns = found
        cut = start
        best: float | None = None
        for phase in range(period if turns > 2 else 1):
            at = lower[start + phase : start + period * turns : period]
            alive = float(live[np.searchsorted(times, at, side="right") - 2].sum()) / len(at)
            if best is None or alive < best:
                best, cut = alive, start + phase
        edges = [int(lower[i]) for i in range(cut, start + period * turns + 1, period) if i < len(lower)]
        windows += [(begin, end) for begin, end in pairwise(edges) if begin < end]
        free[start : start + period * turns] = False


def _longest(
    sizes: npt.NDArray[np.int64], lower: npt.NDArray[np.int64], free: npt.NDArray[np.bool_]
) -> tuple[int, int, int] | None:
    """Start, period and turns of what repeats the longest among requests that are free; the shortest period of it."""
    best: tuple[int, int, int] | None = None
    covered = 0
    gaps = np.diff(lower, prepend=lower[0])
    for period in range(_FEWEST, len(sizes) // 2 + 1):
        same = (sizes[period:] == sizes[:-period]) & free[period:] & free[:-period]
        same[1:] &= gaps[period + 1 :] == gaps[1:-period]
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
        if not len(edges):
            continue
        begins, lengths = edges[::2], edges[1::2] - edges[::2]
        at = int(np.argmax(lengths))
        turns = int(lengths[at]) // period + 1
        if turns > 1 and turns * period > covered:
            best, covered = (int(begins[at]), period, turns), turns * period
    return best
