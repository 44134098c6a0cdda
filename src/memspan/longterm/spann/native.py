"""The compiled kernels, called through ctypes, which releases the interpreter's lock; None where they were not built.

The arrays stay Python's: a call passes a struct of pointers. `build_native.py` compiles `native/*.cpp` when the
package is installed; without a compiler the numpy code of `reference.py` does the same work slower.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .build_native import source_crc
from .space import Floats

log = logging.getLogger(__name__)

LEVELS = ("plain", "AVX2", "AVX-512 VNNI", "NEON")
_I64, _F32, _PTR = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


_SIZES = "dim padded dtype metric row_bytes cells lists slots level"
_ARRAYS = """cell_codes cell_scale cell_norm cell_start head_codes head_scale head_norm head_list
    list_sector list_blocks list_crc list_known list_bytes row_data row_sums row_known
    dead allowed allowed_lists allowed_cells
    pending_first pending_next pending_codes pending_add pending_scale pending_slot"""
_READS = "direct list_file row_file align longest_list row_covered"
BAD = 64  # damaged lists that one search names


class IndexStruct(ctypes.Structure):
    """`struct Index` of index.h, field by field; `kept` are the arrays that it points into."""

    kept: tuple[Any, ...] = ()

    _fields_ = (
        *((name, _I64) for name in _SIZES.split()),
        *((name, _PTR) for name in _ARRAYS.split()),
        *((name, _I64) for name in _READS.split()),
    )


class ParamsStruct(ctypes.Structure):
    """`struct Params` of index.h."""

    _fields_ = (*((n, _I64) for n in ("k", "cells", "lists", "rerank")), ("stop", _F32), ("patience", _F32))


class StatsStruct(ctypes.Structure):
    """`struct Stats` of index.h."""

    _fields_ = (*((n, _I64) for n in ("lists", "bytes", "rows", "bad", "page")), ("bad_lists", ctypes.c_uint32 * BAD))


def library_path() -> Path:
    """Where the compiled kernels lie."""
    return Path(__file__).parent / "_kernels.so"


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None when they were not built from these sources or `MEMSPAN_NATIVE=0` says to do without."""
    if os.environ.get("MEMSPAN_NATIVE") == "0" or not library_path().exists():
        return None
    try:
        lib = ctypes.CDLL(str(library_path()))
    except OSError as e:
        log.warning("the vector index runs in numpy: its kernels cannot be loaded (%s); install memspan again", e)
        return None
    if not hasattr(lib, "spann_source_crc") or ctypes.c_uint32(lib.spann_source_crc()).value != source_crc():
        log.warning(
            "the vector index runs in numpy: its kernels were made from other sources; run python %s",
            library_path().with_name("build_native.py"),
        )
        return None
    lib.spann_search.argtypes = [_PTR, _PTR, _PTR, _PTR, _I64, _I64, _PTR, _PTR, _PTR]
    lib.spann_closure.argtypes = [_PTR, _PTR, _I64, _I64, _I64, _I64, _I64, _F32, _PTR, ctypes.c_int, _PTR]
    lib.spann_scan.argtypes = [ctypes.c_int, ctypes.c_int, _PTR, _PTR, _I64, _I64, _PTR]
    lib.spann_exact.argtypes = [ctypes.c_int, ctypes.c_int, _PTR, _PTR, _I64, _I64, _I64, _PTR, _PTR]
    lib.spann_place.argtypes = [_PTR, _PTR, _PTR, _PTR, _I64, _I64, _F32, _I64, _PTR]
    lib.spann_encode.argtypes = [_PTR, _PTR, _PTR, _PTR, _PTR, _PTR, _I64, _I64, _PTR, _PTR, _PTR]
    lib.spann_merge.argtypes = [_PTR, _PTR, _I64, _PTR, _PTR]
    lib.spann_crc.argtypes = [ctypes.c_int, _PTR, _I64, ctypes.c_uint32]
    lib.spann_sums.argtypes = [_PTR, _I64, _I64, _I64, _PTR]
    lib.spann_check.argtypes = [_PTR, _I64, _PTR, _PTR, _PTR, _I64]
    lib.spann_check_lists.argtypes = [_PTR, _PTR, _I64, _PTR]
    lib.spann_crc.restype = ctypes.c_uint32
    lib.spann_merge.restype = lib.spann_check.restype = lib.spann_check_lists.restype = _I64
    lib.spann_search.restype = ctypes.c_int
    for name in ("spann_closure", "spann_scan", "spann_exact", "spann_place", "spann_encode", "spann_sums"):
        getattr(lib, name).restype = None
    return lib


def level(limit: int = 3) -> int:
    """The best instruction set that the machine has, at most `limit`: an index into LEVELS."""
    lib = library()
    return 0 if lib is None else int(lib.spann_level(limit))


def pointer(array: npt.NDArray[Any] | None) -> int | None:
    """The address of an array, None for None."""
    return None if array is None else array.ctypes.data


def closure(
    distances: Floats, heads: Floats, nearest: int, copies: int, slack: float, own: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """`reference.closure` in native code."""
    lib = library()
    assert lib is not None
    n, m = distances.shape
    out = np.empty((n, copies), np.int32)
    lib.spann_closure(
        pointer(distances),
        pointer(heads),
        n,
        m,
        heads.shape[1],
        nearest,
        copies,
        slack,
        pointer(own),
        level(),
        pointer(out),
    )
    return out
