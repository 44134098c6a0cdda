"""Unit vectors in RAM at a byte a dimension, and the nearest of them without reading all.

A row is kept as int8 with a scale of its own; a cosine is off by 0.0004 as a rule and by 0.002 at worst. A large table
is first sifted by the signs of its rows, one bit a dimension: the rows whose signs agree with the question's most often
are then scored by their int8 values. Reading signs costs a tenth of reading the values.

Legend: N rows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Zeros = Callable[[tuple[int, ...], DTypeLike], NDArray[Any]]

SCAN_ALL = 8192
"""Up to so many rows all are scored: that takes about 2 ms."""
SIFTED = 4096
"""Rows that the signs let through to be scored by value, at least."""
_OVERSAMPLING = 10
_KEPT = 65_536  # rows copied at a time
_MOVED = 2**24  # bytes from which on an array is not copied to grow, if it can be helped
BLOCK = 2048  # rows widened at a time: 3 MB at D = 384, which stays in the processor's cache


def _table_count(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Bits set in each word, for numpy before 2.0."""
    halves = _BITS_SET[words.view(np.uint16)]
    counts: NDArray[np.uint8] = halves.reshape(*words.shape, 4).sum(axis=-1, dtype=np.uint8)
    return counts


_BITS_SET = np.unpackbits(np.arange(65536, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1, np.uint8)
_count: Callable[[NDArray[np.uint64]], NDArray[np.uint8]] = getattr(np, "bitwise_count", _table_count)


def differing(signs: Sequence[NDArray[np.uint64]], words: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """[N] in how many bits rows differ from a question, of which each has `words`; `signs` has [N] of each word."""
    differ = np.zeros(len(signs[0]), np.uint16)
    for column, word in zip(signs, words, strict=True):
        differ += _count(column ^ word)
    return differ


def quantized(vectors: F32) -> tuple[NDArray[np.int8], F32]:
    """Rows [n, D], which are overwritten, in 8 bits a dimension, and the scale [n] of each."""
    scale: F32 = np.maximum(vectors.max(axis=1), -vectors.min(axis=1)) / 127
    scale[scale == 0] = 1
    vectors /= scale[:, None]
    return np.rint(vectors, out=vectors).astype(np.int8), scale


class Column:
    """An array that grows at its end.

    Args:
        dtype: of its values.
        width: columns of a two-dimensional one.
        zeros: makes arrays of zeros somewhere else than in RAM, such as `Spill.zeros`.
    """

    __slots__ = ("_data", "_size", "_zeros")

    def __init__(self, dtype: DTypeLike, width: int = 0, zeros: Zeros | None = None) -> None:
        self._zeros = zeros
        self._data: NDArray[Any] = np.zeros((0, width) if width else 0, dtype)
        self._size = 0

    def extend(self, values: NDArray[Any]) -> None:
        """Append along the first axis."""
        begin = self._size
        self.grow(len(values))
        self._data[begin : self._size] = values

    def grow(self, count: int) -> None:
        """Append zeros."""
        need = self._size + count
        if need > len(self._data):
            shape = (max(need, int(1.25 * len(self._data))), *self._data.shape[1:])
            if self._zeros is not None or not self._grown_in_place(shape):
                grown = (self._zeros or np.zeros)(shape, self._data.dtype)
                grown[: self._size] = self.array
                self._data = grown
        self._size = need

    def _grown_in_place(self, shape: tuple[int, ...]) -> bool:
        """Let the system move a large array's pages, so that it is not held twice; False while a view is in use."""
        if self._data.nbytes < _MOVED:
            return False
        try:
            self._data.resize(shape)
        except ValueError:
            return False
        return True

    def reserve(self, count: int) -> None:
        """Make room for `count` values in all."""
        size = self._size
        if count > len(self._data):
            self.grow(count - size)
            self._size = size

    def kept(self, mask: NDArray[np.bool_]) -> Column:
        """The values where the mask is true, in a column of the same kind."""
        made = Column(self._data.dtype, 0 if self._data.ndim == 1 else self._data.shape[1], self._zeros)
        places = np.flatnonzero(mask)
        made.grow(len(places))
        for begin in range(0, len(places), _KEPT):
            part = places[begin : begin + _KEPT]
            made._data[begin : begin + len(part)] = self._data[part]
        return made

    @property
    def array(self) -> NDArray[Any]:
        """The values, as a view."""
        return self._data[: self._size]

    @property
    def nbytes(self) -> int:
        """Bytes held in RAM, room to grow included."""
        return 0 if self._zeros is not None else self._data.nbytes


def recoded(column: NDArray[np.int32], names: dict[str, int]) -> dict[str, int]:
    """Number the names that a column still holds from 0 on, in it and in the dictionary that is given back."""
    codes, places = np.unique(column, return_inverse=True)
    known = list(names)
    staying = [known[code] for code in codes.tolist() if code >= 0]
    column[:] = places - (len(codes) - len(staying))
    return {name: code for code, name in enumerate(staying)}


class VectorTable:
    """Rows that are unit vectors, or zero where there is none yet.

    Args:
        dim: D.
        rows: how many rows there are at first, all zero.
        values: makes the large array of values somewhere else than in RAM.
        signs: the same for signs and scales.
    """

    def __init__(self, dim: int, rows: int = 0, *, values: Zeros | None = None, signs: Zeros | None = None) -> None:
        self.dim = dim
        self._words = -(-dim // 64)
        self._values = Column(np.int8, dim, values)
        self._scale = Column(np.float32, zeros=signs)
        # A column a word: a scan reads them in order.
        self._signs = [Column(np.uint64, zeros=signs) for _ in range(self._words)]
        self.grow(rows)

    def __len__(self) -> int:
        return len(self._scale.array)

    def grow(self, rows: int) -> None:
        """Append zero rows."""
        for column in (self._values, self._scale, *self._signs):
            column.grow(rows)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows in all."""
        for column in (self._values, self._scale, *self._signs):
            column.reserve(rows)

    def extend(self, values: NDArray[np.int8], scale: F32, signs: NDArray[np.uint64]) -> None:
        """Append rows as `packed` gave them: [n, D], [n] and [words, n]."""
        self._values.extend(values)
        self._scale.extend(scale)
        for column, word in zip(self._signs, signs, strict=True):
            column.extend(word)

    def packed(self) -> tuple[NDArray[np.int8], F32, list[NDArray[np.uint64]]]:
        """All rows as they are held: values [N, D], scales [N], and for each word of signs [N]."""
        return self._values.array, self._scale.array, [column.array for column in self._signs]

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Drop the rows where the mask is false."""
        self._values, self._scale = self._values.kept(mask), self._scale.kept(mask)
        self._signs = [column.kept(mask) for column in self._signs]

    def put(self, rows: I64, vectors: NDArray[np.floating[Any]]) -> None:
        """Set rows to vectors, [len(rows), D]."""
        for begin in range(0, len(rows), BLOCK):
            places = rows[begin : begin + BLOCK]
            values = vectors[begin : begin + BLOCK].astype(np.float32)
            for column, word in zip(self._signs, self._sign_words(values).T, strict=True):
                column.array[places] = word
            self._values.array[places], self._scale.array[places] = quantized(values)

    def _sign_words(self, vectors: F32) -> NDArray[np.uint64]:
        bits = np.zeros((len(vectors), 64 * self._words), np.bool_)
        bits[:, : self.dim] = vectors > 0
        return np.packbits(bits, axis=1).view(np.uint64)

    def rows(self, places: NDArray[np.intp] | I64) -> F32:
        """[n, D] the vectors at these places."""
        values: F32 = self._values.array[places].astype(np.float32)
        values *= self._scale.array[places][:, None]
        return values

    def cosines(self, vector: F32, places: NDArray[np.intp] | I64 | None = None) -> F32:
        """Cosines with a unit vector: [N], or [n] of the rows at `places`."""
        count = len(self) if places is None else len(places)
        found = np.empty(count, np.float32)
        wide = np.empty((min(count, BLOCK), self.dim), np.float32)
        for begin in range(0, count, BLOCK):
            span = slice(begin, min(begin + BLOCK, count))
            block = wide[: span.stop - begin]
            np.copyto(block, self._values.array[span if places is None else places[span]])
            np.matmul(block, vector, out=found[span])
        found *= self._scale.array if places is None else self._scale.array[places]
        return found

    def likely(self, vector: F32, count: int, among: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
        """Places among which the `count` nearest rows are to be looked for, ascending; all if they are few.

        Args:
            vector: [D] unit vector.
            count: how many nearest rows are wanted.
            among: [N] rows that may be given back; None is all.
        """
        wanted = max(SIFTED, _OVERSAMPLING * count)
        allowed = len(self) if among is None else int(np.count_nonzero(among))
        if allowed <= max(SCAN_ALL, wanted):
            return np.arange(len(self)) if among is None else np.flatnonzero(among)
        differ = self._differing(vector)
        if among is not None:
            differ[~among] = self.dim + 1
        below = np.cumsum(np.bincount(differ, minlength=self.dim + 1))
        return np.flatnonzero(differ <= np.searchsorted(below, wanted))

    def _differing(self, vector: F32) -> NDArray[np.uint16]:
        """[N] in how many signs the rows differ from a vector."""
        return differing([column.array for column in self._signs], self._sign_words(vector[None])[0])

    @property
    def nbytes(self) -> int:
        """Bytes held in RAM."""
        return self._values.nbytes + self._scale.nbytes + sum(column.nbytes for column in self._signs)
