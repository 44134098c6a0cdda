"""Cross-polytope locality-sensitive hashing: near vectors share a bucket with high probability.

A table draws R with normal entries once and puts x into bucket argmax([xR; -xR]) (Andoni et al. 2015, arXiv
1509.02897; the form of Reformer, arXiv 2001.04451). Several tables and, in each, several probed buckets trade reading
for recall. Sentence vectors share a direction that would win most of the maxima, so their mean is taken off first.

Legend: N vectors, D dimensions, b buckets, L tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError
from memspan.longterm.vectors import F32, I64, Column

Fetch = Callable[[NDArray[np.intp]], F32]
"""Positions -> [n, D] the vectors at these positions."""
_BLOCK = 4096
_TAIL = 0.1  # share of rows that may wait unsorted; they are compared one by one


class LSHIndex:
    """Buckets of vectors by position. It keeps codes, not vectors: whoever holds those scores the candidates.

    Args:
        dim: D.
        n_buckets: b, even.
        n_tables: L; the paper of Think-in-Memory has one.
        probes: buckets read in each table, those of the largest |xR|.
        center: hash x - mean, where the mean is that of the vectors when they were last hashed together.
        drift: how far the mean may move from that (vectors have length 1) until `drifted` says so.
        seed: of R; the same seed and parameters hash alike everywhere.

    Raises:
        InputError: a parameter that cannot be.
    """

    def __init__(
        self,
        dim: int,
        n_buckets: int = 32,
        n_tables: int = 8,
        probes: int = 1,
        *,
        center: bool = True,
        drift: float = 0.05,
        seed: int = 0,
    ) -> None:
        if dim < 1 or n_tables < 1 or n_buckets < 2 or n_buckets % 2:
            raise InputError(
                f"an LSH index needs dim and n_tables of at least 1 and an even n_buckets of at least 2,"
                f" not dim={dim}, n_tables={n_tables}, n_buckets={n_buckets}"
            )
        if not 1 <= probes <= n_buckets // 2:
            raise InputError(f"probes must be from 1 to n_buckets / 2 = {n_buckets // 2}, not {probes}")
        if drift < 0:
            raise InputError(f"drift must not be negative, not {drift}")
        self.dim, self.n_buckets, self.n_tables, self.probes = dim, n_buckets, n_tables, probes
        self.center, self.drift, self.seed = center, drift, seed
        draw = np.random.default_rng(seed).standard_normal((dim, n_tables * (n_buckets // 2)))
        self._random: F32 = draw.astype(np.float32)
        self.mean: F32 = np.zeros(dim, np.float32)
        self._sum = np.zeros(dim, np.float64)
        self._codes = Column(np.int32, n_tables)
        self._order: list[NDArray[np.int32]] = []
        self._starts: list[I64] = []
        self._sorted = 0

    def __len__(self) -> int:
        return len(self._codes.array)

    @property
    def parameters(self) -> dict[str, Any]:
        """What makes an equal index; anything JSON can hold."""
        names = ("dim", "n_buckets", "n_tables", "probes", "center", "drift", "seed")
        return {name: getattr(self, name) for name in names}

    # --- filling ---

    def add(self, vectors: F32) -> None:
        """Append vectors, [n, D]; their positions follow those that are there.

        Raises:
            InputError: they have another length.
        """
        vectors = self._checked(vectors)
        if not len(vectors):
            return
        self._sum += vectors.sum(axis=0, dtype=np.float64)
        if self.center and not len(self):
            self.mean = (self._sum / len(vectors)).astype(np.float32)
        self._codes.extend(self.hash(vectors))

    @property
    def drifted(self) -> bool:
        """Whether the mean has moved so far that `rehash` is due."""
        if not self.center or not len(self):
            return False
        return float(np.linalg.norm(self._sum / len(self) - self.mean)) > self.drift

    def rehash(self, fetch: Fetch) -> None:
        """Hash every vector anew around the mean of all of them."""
        if self.center and len(self):
            self.mean = (self._sum / len(self)).astype(np.float32)
        codes = self._codes.array
        for begin in range(0, len(codes), _BLOCK):
            places = np.arange(begin, min(begin + _BLOCK, len(codes)))
            codes[places] = self.hash(self._checked(fetch(places)))
        self._sorted = 0

    # --- looking up ---

    def hash(self, vectors: F32) -> NDArray[np.int32]:
        """[n, L] the bucket of each vector in each table; a vector that equals the mean is in bucket 0."""
        found: NDArray[np.int32] = self._nearest(self._checked(vectors), 1)[:, :, 0]
        return found

    def _nearest(self, vectors: F32, probes: int) -> NDArray[np.int32]:
        """[n, L, probes] buckets of the largest |xR|, the largest first."""
        half = self.n_buckets // 2
        shown = ((vectors - self.mean) @ self._random).reshape(len(vectors), self.n_tables, half)
        size = np.abs(shown)
        single = probes == 1  # the common case needs no sorting
        at = size.argmax(axis=2)[:, :, None] if single else np.argsort(-size, axis=2, kind="stable")[:, :, :probes]
        negative = np.take_along_axis(shown, at, axis=2) < 0
        found: NDArray[np.int32] = (at + half * negative).astype(np.int32)
        return found

    def candidates(self, query: F32) -> NDArray[np.intp]:
        """Positions in the probed buckets, ascending; may be none.

        Args:
            query: [D].
        """
        self._sort()
        found = np.zeros(len(self), np.bool_)
        buckets = self._nearest(self._checked(query[None]), self.probes)[0]
        tail = self._codes.array[self._sorted :]
        for table in range(self.n_tables):
            order, starts = self._order[table], self._starts[table]
            for bucket in buckets[table].tolist():
                found[order[starts[bucket] : starts[bucket + 1]]] = True
                if len(tail):
                    found[self._sorted :] |= tail[:, table] == bucket
        return np.flatnonzero(found)

    def search(self, query: F32, k: int, fetch: Fetch) -> tuple[NDArray[np.intp], F32, int]:
        """The k nearest among the candidates; all vectors are read when there is no candidate.

        Returns:
            Positions, their dot products with the query (best first, ties by position), and how many were read.
        """
        places = self.candidates(query)
        if not len(places):
            places = np.arange(len(self))
        read = len(places)
        scores = fetch(places) @ query
        if k < len(places):
            keep = np.argpartition(-scores, k)[:k]
            places, scores = places[keep], scores[keep]
        order = np.lexsort((places, -scores))
        return places[order], scores[order], read

    def _sort(self) -> None:
        """Group the positions by bucket again when too many wait."""
        size = len(self)
        if self._order and self._sorted and size - self._sorted <= _TAIL * size:
            return
        codes = self._codes.array
        self._order = [np.argsort(codes[:, t], kind="stable").astype(np.int32) for t in range(self.n_tables)]
        edges = np.arange(self.n_buckets + 1)
        self._starts = [np.searchsorted(codes[order, t], edges).astype(np.int64) for t, order in enumerate(self._order)]
        self._sorted = size

    # --- telling ---

    def bucket_sizes(self, among: NDArray[np.intp] | None = None) -> I64:
        """[L, b] how many vectors each bucket holds; only those at the positions `among` when they are given."""
        codes = self._codes.array if among is None else self._codes.array[among]
        return np.array([np.bincount(codes[:, t], minlength=self.n_buckets) for t in range(self.n_tables)])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        lists = sum(order.nbytes for order in self._order) + sum(starts.nbytes for starts in self._starts)
        return self._codes.nbytes + self._random.nbytes + self.mean.nbytes + lists

    def _checked(self, vectors: F32) -> F32:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise InputError(f"vectors of shape {vectors.shape} do not fit an LSH index of {self.dim} dimensions")
        return vectors


def bucket_entropy(sizes: NDArray[np.integer[Any]]) -> float:
    """Entropy in bits of one table's bucket sizes, [b]: log2(b) when they are even, 0 when one holds everything."""
    share = sizes[sizes > 0] / max(1, int(sizes.sum()))
    return float(-(share * np.log2(share)).sum()) if len(share) > 1 else 0.0


def exact_search(query: F32, k: int, vectors: F32) -> NDArray[np.intp]:
    """Positions of the k largest dot products, best first, ties by position: what `LSHIndex.search` is held against."""
    scores = vectors @ query
    places = np.argpartition(-scores, k)[:k] if k < len(scores) else np.arange(len(scores))
    return places[np.lexsort((places, -scores[places]))]


def quality(index: LSHIndex, queries: F32, vectors: F32, k: int = 10, *, skip: int = 0) -> tuple[float, float]:
    """Recall of the exact first k, and the mean share of vectors that was read.

    Args:
        index: holds `vectors`.
        queries: [n, D]; vectors: [N, D].
        k: how many.
        skip: leading results to leave out (1 where the queries are among the vectors and find themselves).
    """
    if not len(queries) or len(vectors) <= skip:
        return math.nan, math.nan
    hits, read = [], []
    for query in queries:
        wanted = exact_search(query, k + skip, vectors)[skip:]
        found, _, scanned = index.search(query, k + skip, lambda places: vectors[places])
        hits.append(len(np.intersect1d(wanted, found)) / max(1, len(wanted)))
        read.append(scanned / len(vectors))
    return float(np.mean(hits)), float(np.mean(read))
