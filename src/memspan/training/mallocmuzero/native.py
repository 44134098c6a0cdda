"""The compiled packing search, called through ctypes in a thread, so that it can be interrupted."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from memspan.planner.allocator.problem import Ints
from memspan.training.mallocmuzero.build_native import source_crc
from memspan.training.mallocmuzero.reference import SHARE, Floats, Shape

_I64, _PTR = ctypes.c_int64, ctypes.c_void_p
_ARRAYS = "size alignment least piece_starts piece_first piece_end neighbour_starts neighbours".split()
_EVERY = 0.05  # seconds between two looks at whether to stop


class ShapeStruct(ctypes.Structure):
    """`struct Shape` of pack.cpp."""

    _fields_ = (("n", _I64), ("k", _I64), *((name, _PTR) for name in _ARRAYS))


def library_path() -> Path:
    """Where the compiled search lies."""
    return Path(__file__).parent / "_pack.so"


@cache
def library() -> ctypes.CDLL | None:
    """The compiled search; None when it was not built from these sources, or `MEMSPAN_NATIVE=0` says to do without."""
    if os.environ.get("MEMSPAN_NATIVE") == "0" or not library_path().exists():
        return None
    try:
        lib = ctypes.CDLL(str(library_path()))
        lib.pack_source_crc.restype = ctypes.c_uint32
        if lib.pack_source_crc() != source_crc():
            return None
    except (OSError, AttributeError):
        return None
    lib.pack_search.argtypes = [_PTR, _PTR, _I64, _I64, ctypes.c_double, ctypes.c_double, _PTR, _PTR, _PTR, _PTR]
    lib.pack_search.restype = _I64
    return lib


def search(
    shape: Shape,
    rank: Ints,
    capacity: int,
    limit: int,
    weight: Floats,
    grow: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[int, Ints, int, int]:
    """`reference.search`, but that `stop` is asked some twenty times a second."""
    lib = library()
    assert lib is not None
    n = len(shape.size)
    arrays = [getattr(shape, name).ctypes.data for name in _ARRAYS]
    passed = ShapeStruct(n, shape.sections, *arrays)
    rank = np.ascontiguousarray(rank, np.int64)
    offsets, counts, halt = np.zeros(n, np.int64), np.zeros(2, np.int64), np.zeros(1, np.int32)
    result: list[int] = []
    finished = threading.Event()

    def run() -> None:
        places: list[Any] = [weight.ctypes.data, offsets.ctypes.data, counts.ctypes.data, halt.ctypes.data]
        try:
            result.append(
                lib.pack_search(ctypes.addressof(passed), rank.ctypes.data, capacity, limit, grow, SHARE, *places)
            )
        finally:
            finished.set()

    threading.Thread(target=run, daemon=True).start()
    # An event, not `join`: a join that is interrupted may take a thread for ended that still runs on these arrays.
    try:
        while not finished.wait(_EVERY):
            if stop():
                halt[0] = 1
    finally:
        halt[0] = 1
        while not finished.is_set():
            with suppress(KeyboardInterrupt):
                finished.wait(_EVERY)
    return result[0], offsets, int(counts[0]), int(counts[1])
