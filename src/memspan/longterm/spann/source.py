"""What an index is built from: an array, a memory map, or an iterator that is written to disk first."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError, StoreError

from .build import Source
from .effort import DTYPES
from .layout import Files

CHECKED = 4 << 20  # bytes looked at for NaN at a time
MOST_ROWS = 2**32 - 2
DIMENSIONS = (2, 4096)
LARGEST = 1e16  # of a value: the squared distance of two rows of 4096 such fits into 32 bits


def read_source(vectors: Any, ids: npt.ArrayLike | None, files: Files, overwrite: bool) -> Source:
    """The rows and ids, checked.

    Raises:
        InputError: shape, type, NaN, or ids that do not fit.
        StoreError: an iterator was written by a build that was killed, this one begins otherwise, and is not to
            overwrite it.
    """
    if hasattr(vectors, "__array__") or isinstance(vectors, list | tuple):
        rows = as_rows(vectors, lazily=True)
        numbers = np.arange(len(rows), dtype=np.int64) if ids is None else as_ids(ids, len(rows))
    elif isinstance(vectors, Iterable):
        if ids is not None:
            raise InputError("an iterator brings its ids with its chunks: leave ids out, or pass an array")
        rows, numbers = _spool(vectors, files, overwrite)
    else:
        raise InputError(
            f"vectors are a {type(vectors).__name__}; pass an array [n, dim] or an iterator of (ids, chunk)"
        )
    if len(rows) > MOST_ROWS:
        raise InputError(f"{len(rows):,} vectors are more than one index holds ({MOST_ROWS:,}); split them")
    crc = zlib.crc32(np.ascontiguousarray(numbers).view(np.uint8).data)
    step = max(256, CHECKED // (rows.shape[1] * rows.dtype.itemsize))
    for at in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[at : at + step])
        check_finite(part, at)
        crc = zlib.crc32(part.view(np.uint8).data, crc)
    check_unique(numbers)
    return Source(rows, numbers, crc)


class Narrowed:
    """Rows [n, dim] of a type that an index does not keep, as float32 (or their own type in this machine's byte order)
    of those that are read."""

    def __init__(self, rows: npt.NDArray[np.generic], dtype: np.dtype[np.generic]) -> None:
        self._rows, self.dtype, self.shape, self.ndim = rows, dtype, rows.shape, rows.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> npt.NDArray[np.generic]:
        with np.errstate(over="ignore"):
            return np.asarray(self._rows[at]).astype(self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return self[:] if dtype is None else self[:].astype(dtype)


def as_rows(vectors: npt.ArrayLike, dim: int | None = None, *, lazily: bool = False) -> npt.NDArray[np.generic]:
    """An array [n, dim] of a type that an index keeps; a memory map stays one.

    `lazily`: rows of another type are turned into it when they are read.
    """
    try:
        rows = np.asarray(vectors)
    except (TypeError, ValueError) as e:
        raise InputError(f"vectors are no array ({e}); pass [n, dim]") from None
    kept = rows.dtype.newbyteorder("=")
    if kept == np.float64 or (kept.kind in "iu" and kept != np.int8):
        kept = np.dtype(np.float32)
    if kept.name not in DTYPES:
        raise InputError(f"vectors are {rows.dtype}; an index keeps {', '.join(DTYPES)}")
    if kept != rows.dtype:
        narrowed = Narrowed(rows, kept)
        rows = cast("npt.NDArray[np.generic]", narrowed) if lazily else narrowed[:]
    if rows.ndim != 2:
        raise InputError(f"vectors have shape {rows.shape}; pass [n, dim]")
    if dim is not None and rows.shape[1] != dim:
        raise InputError(f"vectors have {rows.shape[1]} dimensions; this index has {dim}")
    if not DIMENSIONS[0] <= rows.shape[1] <= DIMENSIONS[1]:
        raise InputError(
            f"vectors have {rows.shape[1]} dimensions; an index takes {DIMENSIONS[0]} to {DIMENSIONS[1]:,}"
        )
    return rows


def as_ids(ids: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """One int64 a row."""
    out = np.asarray(ids)
    if out.shape != (count,):
        raise InputError(f"ids have shape {out.shape}; {count:,} vectors need [{count}]")
    if out.size and (out.dtype.kind not in "iu" or out.min() < 0 or out.max() >= 2**63):
        raise InputError("ids must be whole numbers from 0 to 2**63 - 1")
    return out.astype(np.int64)


def as_filter(ids: Any) -> npt.NDArray[np.int64]:
    """Ids to be let through, without repetitions."""
    out = np.asarray(sorted(ids) if isinstance(ids, set | frozenset) else ids).reshape(-1)
    if out.size and out.dtype.kind not in "iu":
        raise InputError(f"a filter is an array of ids, whole numbers; this one is of {out.dtype}")
    return np.unique(out[out < 2**63].astype(np.int64))


def as_queries(queries: Any, dim: int) -> npt.NDArray[np.float32]:
    """Queries [n, dim], of one vector or many."""
    try:
        q = np.asarray(queries)
        if q.dtype != np.float32:
            with np.errstate(over="ignore"):
                q = q.astype(np.float32)
    except (TypeError, ValueError) as e:
        raise InputError(f"queries are no array of numbers ({e}); pass [n, {dim}] or [{dim}]") from None
    q = q[None] if q.ndim == 1 else q
    if q.ndim != 2 or q.shape[1] != dim:
        raise InputError(f"queries have shape {np.shape(queries)}; this index takes [n, {dim}] or [{dim}]")
    if np.abs(q).max(initial=0) <= LARGEST:  # False too where one is NaN
        return q
    if not np.isfinite(q).all():
        raise InputError("queries hold NaN or infinite values; clean them before searching")
    raise InputError(f"queries hold values over {LARGEST:g}, whose distances overflow; scale them and the vectors")


def check_finite(rows: npt.NDArray[np.generic], at: int = 0) -> None:
    """Raises InputError for NaN, infinite and huge values, with the first row that has one."""
    if rows.dtype == np.int8:
        return
    if not (fine := np.isfinite(rows).all(axis=1)).all():
        raise InputError(f"vector {at + int((~fine).argmax())} holds NaN or infinite values; leave it out or mend it")
    if rows.dtype == np.float32 and (huge := (np.abs(rows) > LARGEST).any(axis=1)).any():
        raise InputError(
            f"vector {at + int(huge.argmax())} holds a value over {LARGEST:g}, whose distances overflow; scale them all"
        )


def check_unique(ids: npt.NDArray[np.int64]) -> None:
    """Raises InputError for ids given twice."""
    if len(ids) > 1 and not (np.diff(ids) > 0).all():
        ordered = np.sort(ids)
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(same):
            raise InputError(f"id {int(ordered[same[0]])} is given more than once; every row needs its own")


def _spool(
    chunks: Iterable[Any], files: Files, overwrite: bool
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    """Chunks written to the build's own files and mapped; a build that was killed later finds them there."""
    rows_path, ids_path, done = files.stage("input"), files.stage("input-ids"), files.stage("input-done")
    chunks = iter(chunks)
    if done.exists() and (first := next(chunks, None)) is not None:
        if not _begins_with(*_spooled(files), first):
            if not overwrite:
                raise StoreError(f"{files.path} holds an unfinished build of other vectors; remove it or overwrite it")
            done.unlink()
        chunks = chain([first], chunks)
    if not done.exists():
        shape: tuple[int, str] | None = None
        count = 0
        with rows_path.open("wb") as rows_out, ids_path.open("wb") as ids_out:
            for pair in chunks:
                numbers, rows = _pair(pair, shape[0] if shape else None)
                shape = shape or (rows.shape[1], rows.dtype.name)
                if rows.dtype.name != shape[1]:
                    raise InputError(f"a chunk is {rows.dtype}, the ones before it {shape[1]}; use one type")
                check_finite(rows, count)
                rows_out.write(np.ascontiguousarray(rows).tobytes())
                ids_out.write(numbers.tobytes())
                count += len(rows)
            for out in (rows_out, ids_out):
                out.flush()
                os.fsync(out.fileno())
        if shape is None:
            raise InputError("the iterator gave no chunk, so the dimensions are unknown; pass an empty array [0, dim]")
        done.write_text(f"{shape[0]} {shape[1]} {count}")
    return _spooled(files)


def _spooled(files: Files) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    dim, dtype, n = files.stage("input-done").read_text().split()
    if not int(n):
        return np.zeros((0, int(dim)), np.dtype(dtype)), np.zeros(0, np.int64)
    return (
        np.memmap(files.stage("input"), np.dtype(dtype), "r", shape=(int(n), int(dim))),
        np.memmap(files.stage("input-ids"), np.int64, "r", shape=(int(n),)),
    )


def _begins_with(rows: npt.NDArray[np.generic], ids: npt.NDArray[np.int64], first: Any) -> bool:
    numbers, chunk = _pair(first)
    n = len(chunk)
    return rows.dtype == chunk.dtype and np.array_equal(rows[:n], chunk) and np.array_equal(ids[:n], numbers)


def _pair(pair: Any, dim: int | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.generic]]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise InputError("an iterator of vectors must give pairs (ids, chunk)")
    rows = as_rows(pair[1], dim)
    return as_ids(pair[0], len(rows)), rows
