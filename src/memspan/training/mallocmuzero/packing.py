"""The driver of the packing search: many short searches, each in another order, that learn from where others failed.

The time that one search takes has a heavy tail: most orders of the buffers lead into a part of the tree without a
solution, some straight to one. So searches are cut after some hundred nodes (Luby, Sinclair and Zuckerman 1993) and
begun again in another order. Orders come from six static ones, noise, and weights: a buffer that had no room where a
search turned back is tried earlier by the next ones (Boussemart et al. 2004, dom/wdeg).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from memspan.planner.allocator import Problem, Run
from memspan.planner.allocator.greedy import place_in_order
from memspan.planner.allocator.problem import Ints
from memspan.training.mallocmuzero import native, reference
from memspan.training.mallocmuzero.reference import FOUND, NONE, Floats, Shape

# Keys of the static orders: length of life, area, size, most bytes that live beside it.
ORDERS = ("wat", "taw", "twa", "awt", "wst", "swt")


@dataclass(frozen=True)
class Style:
    """How one search is begun.

    Attributes:
        nodes: after how many for each buffer it is cut, times its number of Luby's sequence.
        noise: keys are multiplied with a number between 1 and this.
        power: and with their buffer's weight to this power.
    """

    nodes: float
    noise: float
    power: float


STYLES = (Style(2, 1.25, 0.3), Style(2, 1.25, 1.0), Style(5, 1.5, 1.0), Style(15, 1.5, 0.0))
FIRST = 5.0
GROWTH = 1.1
"""Each round's failures weigh this much more than those of the one before."""
ASIDE = (0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.25)
"""Parts of the way from the goal back to what was found that some searches are content with."""
FORGET = len(ORDERS) * len(STYLES) * 15
"""After so many searches weights begin anew: what was learned can lead the wrong way too."""


class Orders:
    """Orders in which the buffers of a problem are tried.

    Args:
        shape: the buffers.
        length: of each life [n].
        seed: of the noise.
    """

    def __init__(self, shape: Shape, length: Ints, seed: int) -> None:
        self.keys: dict[str, Floats] = {
            "w": length.astype(np.float64),
            "s": shape.size.astype(np.float64),
            "a": length.astype(np.float64) * shape.size,
            "t": shape.totals().astype(np.float64),
        }
        self.weight = np.zeros(len(shape.size))
        self._chance = np.random.default_rng(seed)

    def rank(self, order: str, noise: float, power: float) -> Ints:
        """Each buffer's place [n] in a static order, disturbed."""
        n = len(self.weight)
        factor = self._chance.uniform(1.0, noise, n) if noise > 1 else np.ones(n)
        if power and self.weight.any():
            factor *= (0.05 + self.weight / self.weight.mean()) ** power
        keys = [-self.keys[letter] * (1.0 if letter == "t" else factor) for letter in order]
        rank = np.empty(n, np.int64)
        rank[np.lexsort((np.arange(n), *keys[::-1]))] = np.arange(n)
        return rank


def pack(run: Run, seed: int = 0) -> None:
    """Offer ever smaller placements to the run until it is over; `run.notes` says what was done.

    A search that comes to its end proves that its capacity is too small, which `run.bound` then says.
    """
    problem = run.problem
    for offsets in _greedy(problem):
        run.offer(offsets)
        if run.done:
            break
    run.notes["search"] = "native" if native.library() is not None else "numpy"
    run.notes["nodes"] = run.notes["searches"] = 0
    if run.over():
        return
    shape = Shape.of(problem)
    orders = Orders(shape, problem.upper - problem.lower, seed)
    search = native.Native(shape) if native.library() is not None else partial(reference.search, shape)
    grow = 1.0
    for turn, (order, style, nodes) in enumerate(_schedule()):
        if turn % FORGET == 0:
            orders.weight[:] = 0.0
            grow = 1.0
        assert run.peak is not None
        # Most searches are for the goal itself, the others for something on the way to it.
        part = ASIDE[turn % 8] if run.capacity is None or turn % 16 < 8 else 0.0
        target = run.goal + int(part * max(0, run.peak - 1 - run.goal))
        first = turn < len(ORDERS)
        rank = orders.rank(order, 1.0 if first else style.noise, 0.0 if first else style.power)
        status, placed, visited, _ = search(rank, target, int(nodes * len(problem)) + 1, orders.weight, grow, run.over)
        run.notes["nodes"] += visited
        run.notes["searches"] += 1
        if status == FOUND:
            run.offer(placed.tolist())
        elif status == NONE:
            run.prove(target + 1)
        if run.over():
            return
        if turn % len(ORDERS) == len(ORDERS) - 1:
            grow *= GROWTH


def _greedy(problem: Problem) -> Iterator[list[int]]:
    """Placements of the greedy kind, which take no time worth mention."""
    length = problem.upper - problem.lower
    for key in (-problem.size, -length, -problem.size * length.astype(np.float64), problem.lower):
        order = np.lexsort((-length, -problem.size, key)).tolist()
        for best in (True, False):
            yield place_in_order(problem, order, best=best)


def _schedule() -> Iterator[tuple[str, Style, float]]:
    """Order, style and nodes for each buffer of each search, without end."""
    for order in ORDERS:
        yield order, STYLES[0], FIRST
    for number in itertools.count(1):
        for style in STYLES:
            for order in ORDERS:
                yield order, style, style.nodes * luby(number)


def luby(i: int) -> int:
    """The i-th number, from 1 on, of 1 1 2 1 1 2 4 1 1 2 1 1 2 4 8 …"""
    power = i.bit_length()
    if i == 2**power - 1:
        return 1 << (power - 1)
    return luby(i - 2 ** (power - 1) + 1)
