"""Compaction: lists written anew without dead entries and copies that splits left behind, rows without deleted ones.

All goes into new files beside the old ones, which searches go on reading; `meta.json` then names the new ones. Stopped
at any moment, the index is as it was. What changes meanwhile stays in the log, which is then read on top.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from memspan.core.errors import MemspanError

from . import codes
from .config import SpannConfig
from .effort import test_bits
from .engine import Engine
from .heads import NOWHERE, places, vectors
from .layout import SECTOR, Files, Tables
from .space import Floats

Numbers = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

CHUNK = 16_384  # rows copied at a time


class Cancelled(MemspanError):
    """A compaction was stopped by its caller."""


class Handle:
    """A compaction in a thread of its own."""

    def __init__(self, run: Callable[[Callable[[], bool]], None]) -> None:
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)
        self._thread.start()

    def _run(self, run: Callable[[Callable[[], bool]], None]) -> None:
        try:
            run(self._stop.is_set)
        except Cancelled:
            pass
        except BaseException as e:
            self._error = e

    def wait(self) -> None:
        """Until it is done; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Stops it and waits until it has stopped. The index is as it was, unless it was done already."""
        self._stop.set()
        self.wait()


def rewrite(
    engine: Engine, files: Files, config: SpannConfig, report: Callable[[str, int, int], None], stop: Callable[[], bool]
) -> tuple[Tables, U32]:
    """Writes rows, ids and lists into the files of a new version.

    Args:
        engine: the index, with nothing pending.
        files: where to.
        config: its settings.
        report: told of progress.
        stop: asked between steps; True ends it.

    Returns:
        tables and primary lists of the new files.

    Raises:
        Cancelled: stop() was true.
    """
    t = _without_lists(engine.tables)
    live = engine.live()
    primary = engine.primary_of(live)
    if len(t.list_count):
        # Rows in the order of their lists, so that the exact distances of one search touch few pages.
        rank = np.zeros(len(t.list_count), np.int64)
        at = np.flatnonzero(np.isfinite(t.heads.norm.reshape(-1)))
        rank[t.head_list.reshape(-1)[at]] = np.arange(len(at))
        order = np.lexsort((live, rank[primary]))
        live, primary = live[order], primary[order]
    with files.rows.open("wb") as rows_out, files.ids.open("wb") as ids_out:
        for start in range(0, len(live), CHUNK):
            if stop():
                raise Cancelled("the compaction was stopped")
            part = live[start : start + CHUNK]
            rows_out.write(np.ascontiguousarray(engine.rows[part]).tobytes())
            ids_out.write(np.ascontiguousarray(engine.ids[part]).tobytes())
            report("rows", start + len(part), len(live))
        for made in (rows_out, ids_out):
            made.flush()
            os.fsync(made.fileno())
    if len(engine.tenants):
        with files.tenants.open("wb") as out:
            np.asarray(engine.tenants[live]).tofile(out)
            out.flush()
            os.fsync(out.fileno())
    number = np.full(engine.slots, NOWHERE, np.uint32)
    number[live] = np.arange(len(live))
    _write_lists(engine, t, files, number, config, report, stop)
    t.dead = np.zeros(-(-len(live) // 64), np.uint64)
    return t, primary


def _without_lists(tables: Tables) -> Tables:
    """A copy of the tables to be changed."""
    t = replace(tables)
    for name in ("list_sector", "list_blocks", "list_count", "list_crc"):
        setattr(t, name, np.zeros_like(getattr(tables, name)))
    return t


def _write_lists(
    engine: Engine,
    t: Tables,
    files: Files,
    number: U32,
    config: SpannConfig,
    report: Callable[[str, int, int], None],
    stop: Callable[[], bool],
) -> None:
    place = places(engine.tables)
    primary = engine.primary_of(np.arange(engine.slots))
    heads = np.flatnonzero(np.isfinite(t.heads.norm.reshape(-1)))
    lists = t.head_list.reshape(-1)[heads]
    at = 0
    with files.lists.open("wb") as out:
        for done, i in enumerate(lists.tolist()):
            if stop():
                raise Cancelled("the compaction was stopped")
            for e in engine.entries(i):
                keep = np.flatnonzero(~test_bits(engine.tables.dead, e.slots))
                keep = keep[_belongs(engine, place, i, _part(e, keep), primary, config)]
                kept = _part(e, keep)
                data = codes.pack_list(kept.packed, kept.add, kept.scale, number[kept.slots]).tobytes()
                t.list_sector[i], t.list_blocks[i] = at // SECTOR, len(data) // codes.block_bytes(engine.space.padded)
                t.list_count[i], t.list_crc[i] = len(kept.slots), zlib.crc32(data)
                data += b"\0" * (-len(data) % SECTOR)
                out.write(data)
                at += len(data)
            if done % 256 == 255 or done + 1 == len(lists):
                report("lists", done + 1, len(lists))
        out.flush()
        os.fsync(out.fileno())


def _part(e: codes.Entries, which: Numbers) -> codes.Entries:
    return codes.Entries(e.packed[which], e.add[which], e.scale[which], e.slots[which])


def _belongs(
    engine: Engine, place: U32, number: int, e: codes.Entries, primary: U32, config: SpannConfig
) -> npt.NDArray[np.bool_]:
    """Which entries the closure rule would still put into this list, seen from their primary list alone: a copy must be
    near enough, and nearer to this head than the primary head is."""
    own = primary[e.slots]
    head = vectors(engine.tables, place, np.array([number]))
    residual = e.scale[:, None] * (codes.unpack4(e.packed).astype(np.float32) - np.float32(7.5))
    d: Floats = np.einsum("nd,nd->n", residual, residual)
    others, back = np.unique(own, return_inverse=True)
    first = vectors(engine.tables, place, others)
    between = ((first - head) ** 2).sum(1)[back]
    to_first = (((head + residual) - first[back]) ** 2).sum(1)
    return np.asarray((own == number) | ((d < between) & (d <= config.closure**2 * to_first)), bool)
