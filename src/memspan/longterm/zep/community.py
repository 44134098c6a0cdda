"""Communities by label propagation over fact edges (Zep, section 2.3).

Asynchronous updates in a seeded order, ties keep the current label, and a cap on the rounds: the synchronous form
swings for ever on two nodes joined by two edges, on hubs and on bipartite graphs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

Graph = Mapping[int, Mapping[int, float]]


def label_propagation(graph: Graph, *, rounds: int = 20, seed: int = 0) -> dict[int, int]:
    """A label for every node; nodes of one community share it.

    Args:
        graph: node -> neighbour -> weight, symmetric, without self-edges.
        rounds: the cap; it seldom takes more than five.
        seed: of the order of updates.
    """
    label = {node: node for node in graph}
    order = sorted(graph)
    shuffle = random.Random(seed)
    for _ in range(rounds):
        shuffle.shuffle(order)
        changed = 0
        for node in order:
            chosen = strongest_label(graph[node], label, label[node])
            if chosen != label[node]:
                label[node] = chosen
                changed += 1
        if not changed:
            break
    return label


def strongest_label(neighbours: Mapping[int, float], label: Mapping[int, int], current: int | None) -> int:
    """The label with the most weight among the neighbours; of several the current one, else the smallest."""
    weight: dict[int, float] = {}
    for other, strength in neighbours.items():
        if other in label:
            weight[label[other]] = weight.get(label[other], 0.0) + strength
    if not weight:
        assert current is not None
        return current
    most = max(weight.values())
    tied = [name for name, total in weight.items() if total == most]
    return current if current in tied else min(tied)
