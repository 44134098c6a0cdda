"""The internal space: every metric becomes Euclidean distance between rotated, centred vectors.

cosine: rows are normalised; inner product: one more coordinate makes all rows equally long (Bachrach et al. 2014), so
that the nearest is the one of largest product. A random rotation spreads what a few coordinates hold over all of them,
which few-bit codes need.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

METRICS = ("l2", "ip", "cosine")
BLOCK = 512  # coordinates mixed by one rotation matrix, so that it stays at most 1 MB


@dataclass(frozen=True)
class Space:
    """From rows to internal vectors.

    Attributes:
        dim: coordinates of a row.
        metric: "l2", "ip" or "cosine".
        padded: coordinates of an internal vector, a multiple of 32.
        centre: [dim], the coordinates' medians, subtracted from rows and queries (after normalising).
        longest: inner product: the squared length of every internal row.
        rotation: [b, b], orthogonal.
    """

    dim: int
    metric: str
    padded: int
    centre: Floats
    longest: float
    rotation: Floats

    @classmethod
    def fit(cls, sample: Floats, metric: str, seed: int) -> Space:
        """The space of a sample [n, dim] of rows in float32."""
        dim = sample.shape[1]
        used = dim + (metric == "ip")
        parts = -(-used // BLOCK)
        block = -(-used // (parts * 32)) * 32
        if metric == "cosine":
            sample = unit(sample)
        # The median: a few far rows would pull a mean away from all others, whose codes then tell little.
        centre = np.median(sample, axis=0).astype(np.float32) if len(sample) else np.zeros(dim, np.float32)
        longest = float((sample.astype(np.float64) ** 2).sum(1).max(initial=0.0)) if metric == "ip" else 0.0
        return cls(dim, metric, parts * block, centre, longest, orthogonal(block, seed))

    def rows(self, rows: npt.NDArray[np.generic]) -> Floats:
        """Internal vectors [n, padded] of rows [n, dim] of any dtype."""
        x = rows.astype(np.float32)
        if self.metric == "cosine":
            x = unit(x)
        out = np.zeros((len(x), self.padded), np.float32)
        out[:, : self.dim] = x - self.centre
        if self.metric == "ip":
            out[:, self.dim] = np.sqrt(np.maximum(self.longest - (x * x).sum(1), 0.0))
        return self._rotate(out)

    def queries(self, queries: Floats) -> Floats:
        """Internal vectors [n, padded] of queries [n, dim]."""
        q = unit(queries) if self.metric == "cosine" else queries
        out = np.zeros((len(q), self.padded), np.float32)
        out[:, : self.dim] = q - self.centre
        return self._rotate(out)

    def _rotate(self, x: Floats) -> Floats:
        block = len(self.rotation)
        parts = self.padded // block
        if parts == 1:
            return np.asarray(x @ self.rotation, np.float32)
        y = x.reshape(-1, parts, block) @ self.rotation
        # The second round mixes across the parts: each new part takes every parts-th coordinate of all of them.
        y = y.transpose(0, 2, 1).reshape(-1, parts, block) @ self.rotation
        return np.asarray(y.reshape(len(x), self.padded), np.float32)


def unit(x: Floats) -> Floats:
    """Rows scaled to length 1; rows of zeros stay."""
    norm = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float32))[:, None]
    return np.asarray(np.divide(x, norm, out=np.zeros_like(x), where=norm > 0), np.float32)


def orthogonal(size: int, seed: int) -> Floats:
    """A random orthogonal matrix [size, size]."""
    q, r = np.linalg.qr(np.random.default_rng([seed, size]).standard_normal((size, size)))
    return np.ascontiguousarray((q * np.sign(np.diag(r))).astype(np.float32))


def distances(rows: npt.NDArray[np.generic], queries: Floats, metric: str) -> Floats:
    """Exact distances [q, n] in the metric's unit: squared Euclidean, minus the inner product, or 1 - cosine."""
    x = rows.astype(np.float32)
    if metric == "l2":
        # Near the queries nothing is lost by |x|^2 + |q|^2 - 2 x.q, which is the faster by far.
        centre = queries.mean(0) if len(queries) else np.float32(0)
        x, queries = x - centre, queries - centre
    dot = queries @ x.T
    if metric == "ip":
        return np.asarray(-dot, np.float32)
    xx, qq = (x * x).sum(1), (queries * queries).sum(1)
    if metric == "l2":
        return np.asarray(np.maximum(qq[:, None] + xx[None, :] - 2 * dot, 0), np.float32)
    norm = np.sqrt(qq[:, None] * xx[None, :])
    return np.asarray(1 - np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0), np.float32)
