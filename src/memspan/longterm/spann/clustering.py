"""Hierarchical balanced clustering (paper §3.2.1): k-means that charges full clusters, split again until leaves.

The paper adds lambda * count to a cluster's cost and searches lambda by trial. Here the charge is a price per cluster
that rises while the cluster is over its share and falls while it is under (the dual of balanced assignment), so that
nothing has to be searched.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .space import Floats

Labels = npt.NDArray[np.int64]

ITERATIONS = 10
PIECE = 4096  # rows summed at a time
RATE = 0.15  # of the mean squared distance, by which a price rises for a cluster of twice its share


def nearest_centre(x: Floats, centres: Floats) -> Labels:
    """The nearest centre [n] of each row [n, d]."""
    cost = x @ (centres.T * np.float32(-2))
    cost += np.einsum("kd,kd->k", centres, centres)
    return np.asarray(cost.argmin(1), np.int64)


def balanced_kmeans(
    x: Floats, k: int, seed: int, iterations: int = ITERATIONS, rate: float = RATE
) -> tuple[Floats, Labels]:
    """Centres [k, d] and labels [n] of k clusters of rows [n, d], nearly equal in size. `rate` 0 is plain k-means."""
    n = len(x)
    rng = np.random.default_rng([seed, n, k])
    centres = x[rng.choice(n, k, replace=False)].copy()
    square = np.einsum("nd,nd->n", x, x)
    price = np.zeros(k, np.float32)
    rows = np.arange(n)
    for _ in range(iterations):
        cost = x @ (centres.T * np.float32(-2))
        cost += np.einsum("kd,kd->k", centres, centres) + price
        labels = cost.argmin(1)
        count = np.bincount(labels, minlength=k)
        d = np.maximum(cost[rows, labels] - price[labels] + square, 0)
        step = np.float32(rate * d.mean())
        price = np.clip(price + step * (count * (k / n) - 1), -8 * step, 8 * step).astype(np.float32)
        full = count > 0
        centres[full] = _sums(x, labels, k)[full] / count[full, None]
        if empty := int(k - full.sum()):
            # An empty cluster starts again at a point far from its own centre.
            centres[~full] = x[np.argpartition(d, n - empty)[n - empty :]]
    return centres, labels


def _sums(x: Floats, labels: Labels, k: int) -> Floats:
    """The sums [k, d] of the rows of each label: products with indicators, piece by piece, need no sorted copy."""
    out = np.zeros((k, x.shape[1]), np.float32)
    for at in range(0, len(x), PIECE):
        some = labels[at : at + PIECE]
        indicator = np.zeros((k, len(some)), np.float32)
        indicator[some, np.arange(len(some))] = 1
        out += indicator @ x[at : at + PIECE]
    return out


def leaves(x: Floats, size: int, branching: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Row numbers of the leaves, about `size` rows each, in the order of the tree: neighbours in it are neighbours in
    space. Rows that are all equal are cut into leaves by number."""
    out: list[npt.NDArray[np.int64]] = []
    stack = [np.arange(len(x))]
    while stack:
        rows = stack.pop()
        parts = min(branching, round(len(rows) / size))
        if parts < 2:
            if len(rows):
                out.append(rows)
            continue
        _, labels = balanced_kmeans(x if len(rows) == len(x) else x[rows], parts, seed)
        count = np.bincount(labels, minlength=parts)
        if count.max() > 0.9 * len(rows):
            stack.extend(reversed(np.array_split(rows, parts)) if _same(x[rows]) else _halves(x, rows))
            continue
        stack.extend(rows[labels == c] for c in reversed(range(parts)) if count[c])
    return out


def _same(x: Floats) -> bool:
    return bool((x == x[0]).all())


def _halves(x: Floats, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Two halves along the coordinate of largest spread: for rows that k-means cannot part."""
    order = x[rows][:, x[rows].var(0).argmax()].argsort(kind="stable")
    half = len(rows) // 2
    return [rows[order[half:]], rows[order[:half]]]
