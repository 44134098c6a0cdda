"""Vectors that stay in the mapped files of an index's parts, with those that came later in RAM.

For an index whose nearest rows are found by a vector index: then single rows are read, and none is worth its RAM.

Legend: N rows, D dimensions, W words of signs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.vectors import BLOCK, F32, I64, VectorTable, differing


class _Run(VectorTable):
    """Rows of one part, mapped.

    Args:
        values, scale, signs: [n, D], [n] and [W, n], not to be written to.
        kept: [N] which of them are left.
    """

    def __init__(
        self, values: NDArray[np.int8], scale: F32, signs: NDArray[np.uint64], kept: NDArray[np.int32] | None = None
    ) -> None:
        self.dim, self._words = values.shape[1], len(signs)
        self._of = values, scale, signs
        self._kept = kept

    def __len__(self) -> int:
        return len(self._of[1]) if self._kept is None else len(self._kept)

    def without(self, mask: NDArray[np.bool_]) -> _Run:
        """The rows where the mask is true."""
        kept = np.flatnonzero(mask).astype(np.int32)
        return _Run(*self._of, kept if self._kept is None else self._kept[mask])

    def packed(self) -> tuple[NDArray[np.int8], F32, list[NDArray[np.uint64]]]:
        values, scale, signs = self._of
        if self._kept is None:
            return values, scale, list(signs)
        return values[self._kept], scale[self._kept], [word[self._kept] for word in signs]

    def rows(self, places: NDArray[np.intp] | I64) -> F32:
        at = places if self._kept is None else self._kept[places]
        values: F32 = self._of[0][at].astype(np.float32)
        values *= self._of[1][at][:, None]
        return values

    def cosines(self, vector: F32, places: NDArray[np.intp] | I64 | None = None) -> F32:
        at: NDArray[Any] = np.arange(len(self)) if places is None else places
        at = at if self._kept is None else self._kept[at]
        found = np.empty(len(at), np.float32)
        for begin in range(0, len(at), BLOCK):
            some = at[begin : begin + BLOCK]
            np.matmul(self._of[0][some].astype(np.float32), vector, out=found[begin : begin + BLOCK])
        found *= self._of[1][at]
        return found

    @property
    def nbytes(self) -> int:
        return 0 if self._kept is None else self._kept.nbytes


class MappedVectors(VectorTable):
    """A `VectorTable` whose rows are those of parts, followed by rows in RAM.

    Args:
        dim: D.
        rows: how many rows there are at first, all zero.
    """

    def __init__(self, dim: int, rows: int = 0) -> None:
        self.dim, self._words = dim, -(-dim // 64)
        self._runs: list[VectorTable] = []
        self.grow(rows)

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def grow(self, rows: int) -> None:
        if not rows:
            return
        if not self._runs or isinstance(self._runs[-1], _Run):
            self._runs.append(VectorTable(self.dim))
        self._runs[-1].grow(rows)

    def reserve(self, rows: int) -> None:
        """Nothing: what is mapped takes no room."""

    def extend(self, values: NDArray[np.int8], scale: F32, signs: NDArray[np.uint64]) -> None:
        """Append the arrays of a part as they are: [n, D], [n] and [W, n]."""
        self._runs.append(_Run(values, scale, signs))

    def packed(self) -> tuple[NDArray[np.int8], F32, list[NDArray[np.uint64]]]:
        values, scale, signs = zip(*(run.packed() for run in self._runs), strict=True)
        words = [np.concatenate(word) for word in zip(*signs, strict=True)]
        return np.concatenate(values), np.concatenate(scale), words

    def keep(self, mask: NDArray[np.bool_]) -> None:
        kept: list[VectorTable] = []
        for run, begin in list(self._placed()):
            part = mask[begin : begin + len(run)]
            if isinstance(run, _Run):
                run = run if part.all() else run.without(part)
            else:
                run.keep(part)
            if len(run):
                kept.append(run)
        self._runs = kept

    def put(self, rows: I64, vectors: NDArray[np.floating[Any]]) -> None:
        for number, (run, begin) in enumerate(list(self._placed())):
            here = np.flatnonzero((rows >= begin) & (rows < begin + len(run)))
            if not len(here):
                continue
            if isinstance(run, _Run):  # a part whose vectors came later: until it is written again it is held in RAM
                values, scale, signs = run.packed()
                run = self._runs[number] = VectorTable(self.dim)
                run.extend(values, scale, np.stack(signs))
            run.put(rows[here] - begin, vectors[here])

    def rows(self, places: NDArray[np.intp] | I64) -> F32:
        found = np.empty((len(places), self.dim), np.float32)
        for run, here, at in self._split(places):
            found[here] = run.rows(at)
        return found

    def cosines(self, vector: F32, places: NDArray[np.intp] | I64 | None = None) -> F32:
        places = np.arange(len(self)) if places is None else places
        found = np.empty(len(places), np.float32)
        for run, here, at in self._split(places):
            found[here] = run.cosines(vector, at)
        return found

    def _differing(self, vector: F32) -> NDArray[np.uint16]:
        words = self._sign_words(vector[None])[0]
        return np.concatenate([differing(run.packed()[2], words) for run in self._runs])

    def _placed(self) -> Iterator[tuple[VectorTable, int]]:
        """The runs, and where each begins."""
        begin = 0
        for run in self._runs:
            yield run, begin
            begin += len(run)

    def _split(self, places: NDArray[np.intp] | I64) -> Iterator[tuple[VectorTable, NDArray[np.intp], I64]]:
        """For each run that has some of the places: which of them, and where they are in it."""
        for run, begin in self._placed():
            here = np.flatnonzero((places >= begin) & (places < begin + len(run)))
            if len(here):
                yield run, here, places[here] - begin

    @property
    def in_ram(self) -> int:
        """How many rows are not mapped."""
        return sum(len(run) for run in self._runs if not isinstance(run, _Run))

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self._runs)
