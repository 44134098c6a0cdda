"""What an index is built from: an array, a memory map, or an iterator that is written to disk first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError

from .build import Source
from .engine import DTYPES
from .layout import Files

CHECKED = 65_536  # rows looked at for NaN at a time
MOST_ROWS = 2**32 - 2
DIMENSIONS = (2, 4096)


def read_source(vectors: Any, ids: npt.ArrayLike | None, files: Files) -> Source:
    """The rows and ids, checked.

    Raises:
        InputError: shape, type, NaN, or ids that do not fit.
    """
    if hasattr(vectors, "__array__") or isinstance(vectors, list | tuple):
        rows = as_rows(vectors)
        numbers = np.arange(len(rows), dtype=np.int64) if ids is None else as_ids(ids, len(rows))
    elif isinstance(vectors, Iterable):
        if ids is not None:
            raise InputError("an iterator brings its ids with its chunks: leave ids out, or pass an array")
        rows, numbers = _spool(vectors, files)
    else:
        raise InputError(
            f"vectors are a {type(vectors).__name__}; pass an array [n, dim] or an iterator of (ids, chunk)"
        )
    if len(rows) > MOST_ROWS:
        raise InputError(f"{len(rows):,} vectors are more than one index holds ({MOST_ROWS:,}); split them")
    for at in range(0, len(rows), CHECKED):
        check_finite(rows[at : at + CHECKED], at)
    check_unique(numbers)
    return Source(rows, numbers)


def as_rows(vectors: npt.ArrayLike, dim: int | None = None) -> npt.NDArray[np.generic]:
    """An array [n, dim] of a type that an index keeps; a memory map stays one."""
    rows = np.asanyarray(vectors)
    if rows.dtype == np.float64 or (rows.dtype.kind in "iu" and rows.dtype != np.int8):
        rows = rows.astype(np.float32)
    if rows.dtype.name not in DTYPES:
        raise InputError(f"vectors are {rows.dtype}; an index keeps {', '.join(DTYPES)}")
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
    if out.dtype.kind not in "iu" or (out.size and (out.min() < 0 or out.max() >= 2**63)):
        raise InputError("ids must be whole numbers from 0 to 2**63 - 1")
    return out.astype(np.int64)


def check_finite(rows: npt.NDArray[np.generic], at: int = 0) -> None:
    """Raises InputError for NaN and infinite values, with the first row that has one."""
    if rows.dtype != np.int8 and not (fine := np.isfinite(rows).all(axis=1)).all():
        raise InputError(f"vector {at + int((~fine).argmax())} holds NaN or infinite values; leave it out or mend it")


def check_unique(ids: npt.NDArray[np.int64]) -> None:
    """Raises InputError for ids given twice."""
    if len(ids) > 1 and not (np.diff(ids) > 0).all():
        ordered = np.sort(ids)
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(same):
            raise InputError(f"id {int(ordered[same[0]])} is given more than once; every row needs its own")


def _spool(chunks: Iterable[Any], files: Files) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    """Chunks written to the build's own files and mapped; a build that was killed later finds them there."""
    rows_path, ids_path, done = files.stage("input"), files.stage("input-ids"), files.stage("input-done")
    if not done.exists():
        shape: tuple[int, str] | None = None
        count = 0
        with rows_path.open("wb") as rows_out, ids_path.open("wb") as ids_out:
            for pair in chunks:
                if not isinstance(pair, tuple) or len(pair) != 2:
                    raise InputError("an iterator of vectors must give pairs (ids, chunk)")
                rows = as_rows(pair[1], shape[0] if shape else None)
                numbers = as_ids(pair[0], len(rows))
                shape = shape or (rows.shape[1], rows.dtype.name)
                if rows.dtype.name != shape[1]:
                    raise InputError(f"a chunk is {rows.dtype}, the ones before it {shape[1]}; use one type")
                check_finite(rows, count)
                rows_out.write(np.ascontiguousarray(rows).tobytes())
                ids_out.write(numbers.tobytes())
                count += len(rows)
        if shape is None:
            raise InputError("the iterator gave no chunk, so the dimensions are unknown; pass an empty array [0, dim]")
        done.write_text(f"{shape[0]} {shape[1]} {count}")
    dim, dtype, n = done.read_text().split()
    if not int(n):
        return np.zeros((0, int(dim)), np.dtype(dtype)), np.zeros(0, np.int64)
    return (
        np.memmap(rows_path, np.dtype(dtype), "r", shape=(int(n), int(dim))),
        np.memmap(ids_path, np.int64, "r", shape=(int(n),)),
    )
