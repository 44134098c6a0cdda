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
_ARRAYS = "size alignment kind piece_starts piece_first piece_end neighbour_starts neighbours".split()
_EVERY = 0.05  # seconds between two looks at whether to stop
SLOTS = 1 << 18
SHORT = 2_000_000
"""Nodes times buffers of a search that takes some hundredths of a second: it needs no thread."""


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
    lib.pack_search.argtypes = [_PTR, _PTR, _PTR, _PTR, _PTR, _I64, _PTR, _PTR, _PTR]
    lib.pack_search.restype = _I64
    return lib


class SettingsStruct(ctypes.Structure):
    """`struct Settings` of pack.cpp."""

    _fields_ = (
        *((name, _I64) for name in ("capacity", "limit", "search")),
        *((name, ctypes.c_double) for name in ("grow", "share")),
    )


class Native:
    """A problem's searches: what one has refuted, the next ones know.

    Args:
        shape: the buffers.
        slots: how many refuted parts are kept, a power of two.
    """

    def __init__(self, shape: Shape, slots: int = SLOTS) -> None:
        lib = library()
        assert lib is not None
        self.shape, self.slots, self.searches, self._lib = shape, slots, 0, lib
        arrays = [getattr(shape, name).ctypes.data for name in _ARRAYS]
        self._struct = ShapeStruct(len(shape.size), shape.sections, *arrays)
        self._table = np.zeros(slots * lib.pack_refuted_bytes(), np.uint8)

    def __call__(
        self,
        rank: Ints,
        capacity: int,
        limit: int,
        weight: Floats,
        grow: float = 1.0,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[int, Ints, int, int]:
        """`reference.search`, but that `stop` is asked some twenty times a second."""
        n = len(self.shape.size)
        rank = np.ascontiguousarray(rank, np.int64)
        self.searches += 1
        settings = SettingsStruct(capacity, limit, self.searches, grow, SHARE)
        offsets, counts, halt = np.zeros(n, np.int64), np.zeros(2, np.int64), np.zeros(1, np.int32)
        result: list[int] = []
        finished = threading.Event()

        def run() -> None:
            places: list[Any] = [array.ctypes.data for array in (offsets, counts, halt)]
            structs = ctypes.addressof(self._struct), ctypes.addressof(settings)
            try:
                result.append(
                    self._lib.pack_search(
                        *structs, rank.ctypes.data, weight.ctypes.data, self._table.ctypes.data, self.slots, *places
                    )
                )
            finally:
                finished.set()

        if limit * n <= SHORT:
            run()
            return result[0], offsets, int(counts[0]), int(counts[1])
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
