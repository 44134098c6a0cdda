"""One level: the smallest address space for some tensors, as a mixed-integer program where it can be solved.

With A the offsets, S the sizes, M the height and z binary, for every pair that lives at the same time:
A_i + S_i <= A_j + (1 - z_ij) C and A_j + S_j <= A_i + z_ij C; A_i + S_i <= M <= C. C is the height of the best
placement found before, not the capacity of the device: the smaller it is, the better the program's relaxations bound.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memspan.core.errors import MissingExtraError
from memspan.planner.allocator.greedy import place_in_order
from memspan.planner.allocator.problem import Problem, align

PAIRS = 1_200  # of tensors that live at the same time; HiGHS finds nothing for more in a minute
_TRIES = 40  # orders in a row that better nothing before the search for one ends


@dataclass(frozen=True, kw_only=True)
class Level:
    """A placement of one level.

    Attributes:
        offsets: bytes [n].
        height: bytes of address space.
        bound: no placement is lower.
        how: "order" (an order of placement), "program" (proven to be the lowest by HiGHS), or "search".
    """

    offsets: tuple[int, ...]
    height: int
    bound: int
    how: str

    @property
    def optimal(self) -> bool:
        """Whether it is proven that nothing is lower."""
        return self.height <= self.bound


def solve(problem: Problem, *, seconds: float, program: bool = True, enough: int = 0, seed: int = 0) -> Level:
    """Place tensors as low as can be found in some seconds.

    Args:
        problem: the tensors.
        seconds: wall time; a first placement is made however little it is.
        program: try the mixed-integer program, where it is small enough.
        enough: bytes; a placement of at most this height ends the search.
        seed: of the local search.

    Raises:
        MissingExtraError: scipy, which holds HiGHS, is needed and not installed.
    """
    until = time.perf_counter() + seconds
    bound = problem.lower_bound
    goal = max(bound, enough)
    offsets, height = _by_orders(problem, until)
    if height <= goal:
        return Level(offsets=offsets, height=height, bound=bound, how="order")
    offsets, height = _searched(problem, offsets, height, goal, until, seed, share=0.3)
    if height > goal and program and sum(map(len, problem.neighbours)) // 2 <= PAIRS:
        left = until - time.perf_counter()
        if left > 0:
            found, proven = _programmed(problem, height, left)
            bound = max(bound, proven)
            if found is not None and found[1] < height:
                offsets, height = found
            if height <= bound:
                return Level(offsets=offsets, height=height, bound=bound, how="program")
    offsets, height = _searched(problem, offsets, height, max(goal, bound), until, seed + 1, share=1.0)
    return Level(offsets=offsets, height=height, bound=bound, how="search")


def _height(problem: Problem, offsets: Sequence[int]) -> int:
    return max(offset + buffer.size for offset, buffer in zip(offsets, problem.buffers, strict=True))


def _by_orders(problem: Problem, until: float) -> tuple[tuple[int, ...], int]:
    """The best of the usual orders of placement; of the first two at least, and of more while there is time."""
    span, size, lower = problem.upper - problem.lower, problem.size, problem.lower
    keys = [(-size, -span), (-span, -size), (-(size * span), lower), (lower, -size), (-problem.upper, -size)]
    best: tuple[tuple[int, ...], int] | None = None
    for first, second in keys:
        for snug in (True, False):
            order = np.lexsort((second, first)).tolist()
            offsets = tuple(place_in_order(problem, order, best=snug))
            height = _height(problem, offsets)
            if best is None or height < best[1]:
                best = offsets, height
            if best[1] <= problem.lower_bound:
                return best
        if best is not None and time.perf_counter() > until:
            return best
    assert best is not None
    return best


def _searched(
    problem: Problem, offsets: tuple[int, ...], height: int, goal: int, until: float, seed: int, *, share: float
) -> tuple[tuple[int, ...], int]:
    """Place a tensor at the top, or one beside it, earlier; keep what is no worse."""
    chance = random.Random(seed)
    begun = time.perf_counter()
    end = begun + share * max(until - begun, 0.0)
    count = len(problem)
    best, lowest = offsets, height
    order = sorted(range(count), key=lambda i: (offsets[i], i))
    now, failed = height, 0
    while lowest > goal and failed < _TRIES * count and time.perf_counter() < end:
        top = [i for i in range(count) if offsets[i] + problem.buffers[i].size == now]
        moved = chance.choice(top)
        beside = problem.neighbours[moved]
        if len(beside) and chance.random() < 0.5:
            moved = int(chance.choice(beside.tolist()))
        tried = [i for i in order if i != moved]
        tried.insert(chance.randrange(order.index(moved) + 1), moved)
        new = tuple(place_in_order(problem, tried, best=chance.random() < 0.5))
        reached = _height(problem, new)
        failed += 1
        if reached <= now:
            order, offsets = tried, new
            failed = 0 if reached < now else failed
            now = reached
            if now < lowest:
                best, lowest = offsets, now
    return best, lowest


def _programmed(problem: Problem, height: int, seconds: float) -> tuple[tuple[tuple[int, ...], int] | None, int]:
    """The program's placement, None without one, and the bound that it proved."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array
    except ImportError as error:
        raise MissingExtraError(
            "scipy, whose HiGHS solves memo-1m's programs,", "pip install 'memspan[train]'"
        ) from error
    step = int(np.lcm.reduce(problem.alignment))  # the program places all at multiples of every alignment
    unit = step if step > 1 else int(np.gcd.reduce(problem.size))
    sizes = np.array([-(-size // unit) for size in problem.size.tolist()], float)
    ends = problem.size / unit  # of what lies on top; sizes below another are rounded up
    count, most, least = len(problem), height / unit, problem.lower_bound / unit
    pairs = [(i, int(j)) for i, beside in enumerate(problem.neighbours) for j in beside if i < j]
    if not pairs:
        return None, 0
    large = float(np.ceil(most))  # the program's C
    rows, columns, values, low = [], [], [], []
    for p, (i, j) in enumerate(pairs):
        z = count + 1 + p
        for row, above, below, sign, limit in (
            (2 * p, j, i, -large, sizes[i] - large),
            (2 * p + 1, i, j, large, sizes[j]),
        ):
            rows += [row, row, row]
            columns += [above, below, z]
            values += [1.0, -1.0, float(sign)]
            low.append(float(limit))
    for i in range(count):
        rows += [2 * len(pairs) + i] * 2
        columns += [count, i]
        values += [1.0, -1.0]
        low.append(float(ends[i]))
    width = count + 1 + len(pairs)
    matrix = coo_array((values, (rows, columns)), shape=(len(low), width)).tocsr()
    upper = np.concatenate([most - ends, [most], np.ones(len(pairs))])
    lower = np.concatenate([np.zeros(count), [least], np.zeros(len(pairs))])
    whole = np.concatenate([np.zeros(count + 1), np.ones(len(pairs))])
    result: Any = milp(
        np.eye(1, width, count)[0],
        constraints=LinearConstraint(matrix, lb=np.array(low)),
        bounds=Bounds(lower, upper),
        integrality=whole,
        options={"time_limit": seconds},
    )
    bound = getattr(result, "mip_dual_bound", None)
    proven = int(np.ceil(float(bound) * unit - 1e-3)) if bound is not None and np.isfinite(bound) else 0
    if len(set(problem.alignment.tolist())) > 1:
        proven = 0  # the program asks more of some offsets than the problem does
    if result.x is None:
        return None, proven
    exact = _stacked(problem, result.x[:count])
    return (exact, _height(problem, exact)), proven


def _stacked(problem: Problem, near: Any) -> tuple[int, ...]:
    """Whole offsets in the order of these: each on top of those below it that live beside it."""
    offsets = [-1] * len(problem)
    for i in np.argsort(near, kind="stable").tolist():
        at = max((offsets[j] + problem.buffers[j].size for j in problem.neighbours[i] if offsets[j] >= 0), default=0)
        offsets[i] = align(at, problem.buffers[i].alignment)
    return tuple(offsets)
