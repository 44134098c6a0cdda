"""Hierarchical balanced clustering (paper §3.2.1): k-means that charges full clusters, split again until leaves.

The paper adds lambda * count to a cluster's cost and searches lambda by trial. Here each cluster has a price, found by
an auction (Bertsekas 1988): a cluster that is over its share raises its price until as many rows as are too many would
rather be in their second best. Nothing has to be searched.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .space import Floats

Labels = npt.NDArray[np.int64]

PLAIN, PRICED = 4, 3  # iterations without and with prices
ROUNDS = 8  # of an auction
PIECE = 4096  # rows summed at a time


def nearest_centre(x: Floats, centres: Floats) -> Labels:
    """The nearest centre [n] of each row [n, d]."""
    cost = x @ (centres.T * np.float32(-2))
    cost += np.einsum("kd,kd->k", centres, centres)
    return np.asarray(cost.argmin(1), np.int64)


def balanced_kmeans(x: Floats, k: int, seed: int, priced: int = PRICED) -> tuple[Floats, Labels]:
    """Centres [k, d] and labels [n] of k clusters of rows [n, d], nearly equal in size. `priced` 0 is plain k-means."""
    n = len(x)
    rng = np.random.default_rng([seed, n, k])
    centres = x[rng.choice(n, k, replace=False)].copy()
    square = np.einsum("nd,nd->n", x, x)
    price = np.zeros(k, np.float32)
    for i in range(PLAIN + PRICED):
        cost = x @ (centres.T * np.float32(-2))
        cost += np.einsum("kd,kd->k", centres, centres)
        d = cost.min(1) + square
        if i >= PLAIN + PRICED - priced:
            price = _auction(cost, price)
            cost += price
        labels = cost.argmin(1)
        count = np.bincount(labels, minlength=k)
        full = count > 0
        centres[full] = _sums(x, labels, k)[full] / count[full, None]
        if empty := int(k - full.sum()):
            # An empty cluster starts again at a point far from every centre.
            centres[~full] = x[np.argpartition(d, n - empty)[n - empty :]]
            price[~full] = 0
    return centres, labels


def _auction(cost: Floats, price: Floats) -> Floats:
    """Prices [k] under which the cheapest cluster of each row [n, k] makes clusters nearly equal in size."""
    n, k = cost.shape
    rows = np.arange(n)
    cost, price = cost + price, price.copy()
    for _ in range(ROUNDS):
        labels = cost.argmin(1)
        count = np.bincount(labels, minlength=k)
        over = count - -(-n // k)
        if (over <= 0).all():
            break
        best = cost[rows, labels]
        cost[rows, labels] = np.inf
        gap = cost.min(1) - best
        cost[rows, labels] = best
        order = np.lexsort((gap, labels))
        last = np.cumsum(count) - count + np.maximum(over, 1) - 1  # of the rows that leave
        rise = np.where(over > 0, gap[order[np.minimum(last, n - 1)]] * np.float32(1.0001), 0).astype(np.float32)
        price += rise
        cost += rise
    return np.asarray(price - price.min(), np.float32)


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
