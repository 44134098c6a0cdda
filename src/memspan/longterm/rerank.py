"""Rerankers: orders of candidates that any organizer can use (Zep, section 3.2).

Each takes candidates and gives `(position, score)` pairs, best first. They hold no state and touch no store.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from memspan.longterm.vectors import F32

Item = TypeVar("Item", bound=Hashable)
RERANKERS = ("rrf", "mmr", "mentions", "distance", "cross")


def reciprocal_rank_fusion(
    lists: Sequence[Sequence[Item]], constant: float = 1.0, weights: Sequence[float] | None = None
) -> list[tuple[Item, float]]:
    """Sum of weight / (rank + constant) over the lists, ranks from 0 (Cormack et al. 2009; Zep uses a constant of 1).

    Ties keep the order of first appearance. Without `weights` every list counts once.
    """
    scores: dict[Item, float] = {}
    for ranking, weight in zip(lists, [1.0] * len(lists) if weights is None else weights, strict=True):
        for rank, item in enumerate(ranking):
            scores[item] = scores.get(item, 0.0) + weight / (rank + constant)
    return sorted(scores.items(), key=lambda pair: -pair[1])


def maximal_marginal_relevance(query: F32, vectors: F32, trade_off: float = 0.5) -> list[tuple[int, float]]:
    """Greedy MMR: relevance to the question against likeness to what was already taken (Carbonell, Goldstein 1998).

    Args:
        query: [D] unit vector.
        vectors: [n, D] unit vectors of the candidates.
        trade_off: 1 is relevance alone, 0 is diversity alone.
    """
    relevance = vectors @ query
    between = vectors @ vectors.T
    left = list(range(len(vectors)))
    likeness = np.zeros(len(vectors), np.float32)
    taken: list[tuple[int, float]] = []
    while left:
        gains = trade_off * relevance[left] - (1 - trade_off) * likeness[left]
        place = int(np.argmax(gains))
        chosen = left.pop(place)
        taken.append((chosen, float(gains[place])))
        likeness = np.maximum(likeness, between[chosen])
    return taken


def by_mentions(counts: Sequence[int]) -> list[tuple[int, float]]:
    """Most often stated first; ties keep their order."""
    return sorted(((i, float(n)) for i, n in enumerate(counts)), key=lambda pair: -pair[1])


def graph_distance(
    origins: Iterable[Item], neighbours: Callable[[Sequence[Item]], Mapping[Item, Sequence[Item]]], limit: int
) -> dict[Item, int]:
    """Breadth-first distance from the origins, up to `limit` steps.

    Args:
        origins: where to start; distance 0.
        neighbours: the neighbours of a whole frontier at once (one query a step).
        limit: steps.
    """
    distance = dict.fromkeys(origins, 0)
    frontier = deque(distance)
    for step in range(1, limit + 1):
        found = neighbours(list(frontier))
        frontier = deque()
        for item in found:
            for other in found[item]:
                if other not in distance:
                    distance[other] = step
                    frontier.append(other)
        if not frontier:
            break
    return distance


def by_distance(distances: Sequence[float]) -> list[tuple[int, float]]:
    """Nearest first; `math.inf` is not connected. The score is 1 / (1 + distance)."""
    return sorted(
        ((i, 0.0 if math.isinf(d) else 1.0 / (1.0 + d)) for i, d in enumerate(distances)), key=lambda pair: -pair[1]
    )


def by_cross_encoder(
    query: str, texts: Sequence[str], score: Callable[[Sequence[tuple[str, str]]], Sequence[float]]
) -> list[tuple[int, float]]:
    """Order of a model that reads question and candidate together.

    Args:
        query: the question.
        texts: the candidates.
        score: relevance of each (question, candidate) pair, higher is better.
    """
    scores = score([(query, text) for text in texts])
    return sorted(((i, float(s)) for i, s in enumerate(scores)), key=lambda pair: -pair[1])
