"""Rows to index, and the true neighbours to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]


def clustered(count: int, dim: int, dtype: str = "float32", seed: int = 0) -> Rows:
    """Rows [count, dim] around centres of unequal size and spread that lie in fewer dimensions, as embeddings do."""
    rng = np.random.default_rng([seed, count, dim])
    inner = min(dim, 16)
    basis = rng.standard_normal((inner, dim)) / np.sqrt(inner)
    centres = rng.standard_normal((40, inner))
    share = rng.dirichlet(np.full(40, 0.7))
    label = rng.choice(40, count, p=share)
    spread = rng.uniform(0.3, 0.8, 40)[label][:, None]
    x = (centres[label] + spread * rng.standard_normal((count, inner))) @ basis + 0.05 * rng.standard_normal(
        (count, dim)
    )
    if dtype == "int8":
        return np.clip(np.rint(x * (30 / x.std())), -127, 127).astype(np.int8)
    return x.astype(dtype)


def true_distances(rows: Rows, queries: Rows, metric: str) -> NDArray[np.float64]:
    """Distances [q, n] in 64 bits."""
    x, q = rows.astype(np.float64), np.asarray(queries, np.float64)
    if metric == "ip":
        return -(q @ x.T)
    if metric == "cosine":
        lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)[None]
        return 1 - np.divide(q @ x.T, lengths, out=np.zeros((len(q), len(x))), where=lengths > 0)
    return np.maximum((q**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * q @ x.T, 0)


def recall_of(found: NDArray[np.int64], distances: NDArray[np.float64], k: int) -> float:
    """Share of the k nearest that were found; a row as near as the k-th counts as one of them.

    `found` holds numbers of rows, -1 for none; `distances` [q, n] are the true ones, infinite for rows not asked for.
    """
    shares = []
    for ids, d in zip(found, distances, strict=True):
        bound = np.partition(d, k - 1)[k - 1]
        ids = ids[ids >= 0]
        shares.append((d[ids] <= bound + 1e-6 * (1 + abs(bound))).sum() / k)
    return float(np.mean(shares))
