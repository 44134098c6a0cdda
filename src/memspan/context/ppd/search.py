"""Which tree of guesses is worth its rows: accuracies and a latency curve in, one tree for every state out.

A *path* is a tuple of ranks: (0, 1) is the best guess for the next token and, after it, the second best for the one
that follows. In *state* k there are guesses for k tokens ahead, as many as the node that was accepted last carried
prompt tokens. The states are a Markov chain, since a tree's nodes stop with known probabilities.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memspan.core.errors import InputError

Path = tuple[int, ...]
Accuracy = Sequence[Sequence[float]]
COUNTS = (0, 1, 2, 3, 4, 6, 8, 10, 14, 20, 30, 45, 60)
SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes and how many prompt tokens each carries; the first node is the confirmed token, the empty path.

    Attributes:
        paths: of all nodes, the likeliest first, so that a node comes after the one it follows.
        prompts: prompt tokens of each node.
    """

    paths: tuple[Path, ...]
    prompts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of a pass."""
        return len(self.paths) + sum(self.prompts)

    def within(self, rows: int, depth: int) -> Tree:
        """The part that has at most so many rows and nodes so deep: nodes first, then their prompt tokens."""
        kept = [i for i, path in enumerate(self.paths) if len(path) <= depth][: max(1, rows)]
        left = max(1, rows) - len(kept)
        prompts = []
        for i in kept:
            taken = min(left, self.prompts[i])
            prompts.append(taken)
            left -= taken
        return Tree(tuple(self.paths[i] for i in kept), tuple(prompts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Trees and what they promise.

    Attributes:
        trees: of the states 0 to n.
        size: most rows of a tree, 1 for plain decoding.
        states: share of the passes in each state.
        tokens: tokens that a pass puts out on average, τ.
        rows: rows of a pass on average.
        speedup: tokens · t(1) / mean time of a pass; 1 for plain decoding, NaN without a latency curve.
    """

    trees: tuple[Tree, ...]
    size: int
    states: tuple[float, ...]
    tokens: float
    rows: float
    speedup: float


OFF = Tree(((),), (0,))


def likeliest_paths(accuracy: Accuracy, depth: int, count: int) -> list[tuple[Path, float]]:
    """The `count` likeliest paths of at most `depth` ranks, with their probabilities, the likeliest first."""
    ordered = [sorted(range(len(row)), key=row.__getitem__, reverse=True) for row in accuracy[:depth]]
    found: list[tuple[Path, float]] = []
    ahead: list[tuple[float, Path, Path]] = []

    def offer(places: Path, above: float) -> None:
        level = len(places) - 1
        if level < len(ordered) and places[-1] < len(ordered[level]):
            rank = ordered[level][places[-1]]
            chance = above * accuracy[level][rank]
            if chance > 0:
                ranks = tuple(ordered[i][place] for i, place in enumerate(places))
                heapq.heappush(ahead, (-chance, ranks, places))

    offer((0,), 1.0)
    while ahead and len(found) < count:
        chance, ranks, places = heapq.heappop(ahead)
        found.append((ranks, -chance))
        level = len(places) - 1
        above = -chance / accuracy[level][ranks[-1]]
        offer((*places[:-1], places[-1] + 1), above)
        offer((*places, 0), -chance)
    return found


def promised(accuracy: Accuracy, counts: Sequence[int], size: int) -> tuple[list[Tree], np.ndarray, np.ndarray] | None:
    """Trees of all states, their transitions [n+1, n+1], and the tokens f [n+1] that each state's guesses are worth.

    Args:
        counts: nodes of the states 1 to n.
        size: most rows. Prompt tokens are taken from where they are worth least until a tree fits.

    Returns:
        None when the nodes alone do not fit.
    """
    n = len(counts)
    root: tuple[Path, float] = ((), 1.0)
    nodes = [[root, *likeliest_paths(accuracy, k, counts[k - 1] if k else 0)] for k in range(n + 1)]
    worth = np.array([sum(chance for _, chance in state[1:]) for state in nodes])
    if any(len(state) > size for state in nodes):
        return None
    trees, moves = [], np.zeros((n + 1, n + 1))
    for k, state in enumerate(nodes):
        stops = dict(state)
        for path, chance in state[1:]:
            stops[path[:-1]] -= chance
        prompts = [n] * len(state)
        # The cheapest prompt token goes first; a node's last one before the one in front of it.
        cheapest = [(stops[path] * (worth[n] - worth[n - 1]), -i) for i, (path, _) in enumerate(state) if n]
        heapq.heapify(cheapest)
        for _ in range(len(state) + sum(prompts) - size):
            _, negative = heapq.heappop(cheapest)
            i = -negative
            prompts[i] -= 1
            if prompts[i]:
                gain = worth[prompts[i]] - worth[prompts[i] - 1]
                heapq.heappush(cheapest, (stops[state[i][0]] * gain, negative))
        for (path, _), count in zip(state, prompts, strict=True):
            moves[k, count] += stops[path]
        trees.append(Tree(tuple(path for path, _ in state), tuple(prompts)))
    return trees, moves, worth


def plan_of(
    accuracy: Accuracy, counts: Sequence[int], size: int, latency: Mapping[int, float] | None = None
) -> Plan | None:
    """What trees with these numbers of nodes promise; None when they do not fit."""
    made = promised(accuracy, counts, size)
    if made is None:
        return None
    trees, moves, worth = made
    n = len(counts)
    # π = π P with Σ π = 1; the chain may have states that are never met.
    system = np.vstack((moves.T - np.eye(n + 1), np.ones(n + 1)))
    states = np.linalg.lstsq(system, np.append(np.zeros(n + 1), 1.0), rcond=None)[0].clip(0)
    states /= states.sum()
    tokens = float(1 + states @ worth)
    rows = np.array([tree.rows for tree in trees])
    speedup = float("nan")
    if latency is not None:
        speedup = tokens * time_of(latency, 1) / float(states @ [time_of(latency, r) for r in rows])
    return Plan(
        trees=tuple(trees),
        size=size,
        states=tuple(states.tolist()),
        tokens=tokens,
        rows=float(states @ rows),
        speedup=speedup,
    )


def time_of(latency: Mapping[int, float], rows: int) -> float:
    """Seconds of a pass of so many rows, between the measured ones on a line."""
    known = sorted(latency)
    return float(np.interp(rows, known, [latency[size] for size in known]))


def best_plan(accuracy: Accuracy, size: int, latency: Mapping[int, float] | None = None) -> Plan:
    """The best trees of at most `size` rows: the largest speed-up, or tokens a pass without a latency curve.

    The numbers of nodes are improved one state after the other until none helps.

    Raises:
        InputError: `size` is below 1, or the curve lacks one row.
    """
    if size < 1:
        raise InputError(f"size is {size}: it must be at least 1")
    if latency is not None and 1 not in latency:
        raise InputError("the latency curve must hold the time of one row")
    n = len(accuracy)
    if size == 1 or n == 0:
        return Plan(trees=(OFF,) * (n + 1), size=1, states=(1.0,) + (0.0,) * n, tokens=1.0, rows=1.0, speedup=1.0)

    def value(plan: Plan | None) -> float:
        if plan is None:
            return float("-inf")
        return plan.tokens if latency is None else plan.speedup

    options = [count for count in COUNTS if count < size]
    counts = [min(10, size // 2)] * n
    best = plan_of(accuracy, counts, size, latency)
    improved = True
    while improved:
        improved = False
        for k in range(n):
            for count in options:
                tried = [*counts[:k], count, *counts[k + 1 :]]
                plan = plan_of(accuracy, tried, size, latency)
                if value(plan) > value(best) + 1e-9:
                    best, counts, improved = plan, tried, True
    assert best is not None
    return best


def tuned(accuracy: Accuracy, latency: Mapping[int, float], sizes: Sequence[int] = SIZES) -> Plan:
    """The plan with the largest speed-up over all sizes that the curve covers, plain decoding among them."""
    off = best_plan(accuracy, 1, latency)
    plans = [best_plan(accuracy, size, latency) for size in sizes if size <= max(latency)]
    return max([off, *plans], key=lambda plan: plan.speedup)
