"""Adding, deleting and flushing: what changes an index, and how none of it is lost.

A change is in the log before its call returns; rows go to the end of their file, their entries wait in memory, where
searches see them at once. A flush writes the lists anew to free space, then a checkpoint, and then replaces
`meta.json`, which names it: before that moment a crash leaves the old checkpoint and the whole log, after it the new.
"""

from __future__ import annotations

import json
import os
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError, StoreBusyError, StoreError

from .calibrate import Point
from .codes import block_bytes
from .config import SpannConfig
from .effort import DTYPES, test_bits
from .engine import Engine
from .heads import NOWHERE, places, vectors
from .layout import FORMAT, SECTOR, Files, Tables, read_checkpoint, read_json
from .lire import Moves
from .lookup import ENTRY
from .pending import Pending
from .place import beyond, choose_lists, encode_entries
from .source import MOST_ROWS, as_ids, as_rows, check_finite, check_unique
from .space import Space
from .tenants import Name, as_name, code_of
from .wal import ADD, DELETE, UPSERT, Lock, Record, Wal

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.generic]

PART = 1024  # rows of one record of the log
PENDING_SHARE = 8  # of the memory budget, the part that waiting entries may take
LEAST_ENTRIES = 4096
STEP = 4096  # rows by which files grow at least
CHURN = 0.1  # share of rows added after which a flush is due, and of rows changed after which recall is measured again
MARGIN = 1.5  # times the squared distance to a head of nearly all rows, from which on a row is a stray
STRAYS = 64  # waiting after which a flush is due, since every search ranks them until they have heads of their own
WAIT = 2.0  # seconds that the lock is waited for: opening an index after a crash takes it for a moment


def load(path: Path) -> tuple[Files, dict[str, Any], Engine, dict[int, list[Point]]]:
    """What an index consists of, as its checkpoint says.

    Raises:
        StoreError: there is none, it is damaged, or it was written by a newer memspan.
    """
    meta = _read_meta(path)
    while True:
        try:
            return _load(path, meta)
        except StoreError:
            # A writer may have put the next generation in its place meanwhile.
            if (now := _read_meta(path))["generation"] == meta["generation"]:
                raise
            meta = now


def _read_meta(path: Path) -> dict[str, Any]:
    plain = Files(path)
    if not plain.meta.exists():
        what = "holds an unfinished build: call build again with the same vectors" if plain.build.exists() else (
            "holds no index: make one with VectorIndex.build"
        )  # fmt: skip
        raise StoreError(f"{path} {what}")
    try:
        format = json.loads(plain.meta.read_text(encoding="utf-8"))["format"]
        if format > FORMAT:
            raise StoreError(f"{path} has format {format}, this memspan reads {FORMAT}: install a newer one")
        if format < FORMAT:
            raise StoreError(f"{path} has format {format}, this memspan reads {FORMAT}: build the index again")
        meta = read_json(plain.meta)
        known = meta["dtype"] in DTYPES and meta["rows"] >= 0 and meta["generation"] >= 0
        if not known or not isinstance(meta["curves"], dict) or not isinstance(meta["config"], dict):
            raise ValueError("a value is out of range")
    except (ValueError, KeyError, TypeError) as e:
        raise StoreError(f"{plain.meta} is damaged ({e!r}); build the index again from its rows") from None
    return meta


def _load(path: Path, meta: dict[str, Any]) -> tuple[Files, dict[str, Any], Engine, dict[int, list[Point]]]:
    files = Files(path, meta["generation"], meta.get("version", 0))
    space, tables = read_checkpoint(files.checkpoint(meta["generation"]))
    _check_lengths(files, meta, space, tables)
    engine = Engine(files, space, tables, meta["dtype"], meta["rows"], SpannConfig(**meta["config"]))
    return files, meta, engine, {int(k): [Point.from_dict(p) for p in points] for k, points in meta["curves"].items()}


def _check_lengths(files: Files, meta: dict[str, Any], space: Space, tables: Tables) -> None:
    """The files must hold what the tables point at: they are mapped, and nothing looks again."""
    size = tables.list_blocks.astype(np.int64) * block_bytes(space.padded)
    live = meta["rows"] - int(np.unpackbits(tables.dead.view(np.uint8)).sum())
    need = {
        files.rows: meta["rows"] * space.dim * np.dtype(meta["dtype"]).itemsize,
        files.ids: meta["rows"] * 8,
        files.primary: meta["rows"] * 4,
        files.order: live * ENTRY,
        files.owners: int(tables.owner_start[-1]) * 4,
        files.lists: int((tables.list_sector.astype(np.int64) * SECTOR + size).max(initial=0)),
    }
    if len(tables.sums["tenants"]):
        need[files.tenants] = meta["rows"] * 4
    for path, least in need.items():
        if not path.exists() or path.stat().st_size < least:
            what = "is too short" if path.exists() else "is missing"
            raise StoreError(f"{path} {what} for {meta['rows']:,} rows; build the index again")


class Updates(ABC):
    """The changing half of `VectorIndex`."""

    _files: Files
    _meta: dict[str, Any]
    _engine: Engine
    _curves: dict[int, list[Point]]

    def _begin(self) -> None:
        """Takes up what the log holds."""
        self._guard = threading.RLock()
        self._idle = threading.Condition(self._guard)  # no compaction is under way
        self._compacting = self._closing = False
        self._lock: Lock | None = None
        self._meta_path = os.fspath(self._files.meta)
        self._closed = False
        self._moves = Moves()
        self._catch_up()

    def _catch_up(self) -> None:
        self._wal = Wal(self._files.wal)
        self._fresh: dict[int, int] = {}
        self._gone: list[int] = []
        self._added = 0
        self._far = MARGIN * float(self._meta.get("spread", np.inf))
        self._sequence: int = self._meta.get("sequence", 0)
        self._names: list[Name] = list(self._meta.get("tenants", []))
        e, t = self._engine, self._engine.tables
        self._capacity = max(LEAST_ENTRIES, self._meta["ram_budget"] // (PENDING_SHARE * (e.space.padded // 2 + 20)))
        self._room_for_dead(e.slots + self._capacity)
        self._place = places(t)
        if len(t.list_count):
            e.pending = Pending.empty(len(t.list_count), e.space.padded, self._capacity)
        self._mark = self._stamp()
        for record in self._wal.read(self._sequence):
            if not self._take_up(record):
                break

    def _take_up(self, record: Record) -> bool:
        """Applies a record of the log; False when another process is about to do so."""
        ids, at = record.ids, self._engine.slots
        rows = np.frombuffer(record.rows, self._engine.dtype).reshape(-1, self._engine.space.dim)
        code = code_of(self._names, record.about.get("tenant"))
        if record.kind != DELETE and not self._is_stored(at, ids, rows, code):
            try:
                lock = self._lock or Lock(self._files.lock)
            except (OSError, StoreBusyError):
                return False
            try:
                self._store(at, ids, rows, code)
            finally:
                if lock is not self._lock:
                    lock.release()
        self._apply(record.kind, ids, rows, record.about)
        self._sequence = record.sequence
        return True

    def _stamp(self) -> tuple[int, int]:
        try:
            s = os.stat(self._meta_path)  # noqa: PTH116 - twice a search: half the time that a Path takes
        except OSError:
            return 0, 0
        return s.st_ino, s.st_mtime_ns

    def _reload(self) -> None:
        """Everything again from disk, which holds all that was acknowledged."""
        for _ in range(10):
            old = self._engine
            self._files, self._meta, self._engine, self._curves = load(self._files.path)
            self._engine.read_like(old)
            self._catch_up()
            self._engine.trust(np.array(sorted(i for i in old.mended if i < len(self._place)), np.int64))
            if self._mark == self._stamp():
                return
        raise StoreError(f"{self._files.path} changes faster than it can be read; try again")

    def _refresh(self) -> bool:
        """For one that only reads: takes up the checkpoint of another process's flush. True when there was one."""
        if self._lock is not None or self._closed or self._mark == self._stamp():
            return False
        with self._guard:
            self._reload()
        return True

    def _begin_write(self) -> None:
        if self._closed:
            raise StoreError(f"{self._files.path} is closed; open it again")
        if self._lock is not None:
            return
        until = time.monotonic() + WAIT
        while True:
            try:
                self._lock = Lock(self._files.lock)
                break
            except StoreBusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        try:
            self._reload()
            self._wal.cut(self._wal.good)
            self._remove_leftovers()
        except BaseException:
            self._lock.release()
            self._lock = None
            raise

    def _remove_leftovers(self) -> None:
        """Files of a flush or compaction that was cut short."""
        named = self._files.named
        for pattern in ("*.bin", "tables.*"):
            for path in self._files.path.glob(pattern):
                if path not in named:
                    path.unlink()

    # Changes ---------------------------------------------------------------------------------------------------------

    def add(
        self, ids: npt.ArrayLike, vectors: npt.ArrayLike, *, upsert: bool = False, tenant: str | int | None = None
    ) -> None:
        """Adds rows. When it returns they are on disk and found by searches.

        Args:
            ids: [n] integers.
            vectors: [n, dim], of a type that is turned into the index's own without loss of range.
            upsert: put rows in the place of those that have the same id. A slot never changes: the new row gets a new
                one, the old one is marked deleted, which serves for the versions of SPFresh.
            tenant: whose rows they are, for `search(tenant=)`.

        Raises:
            InputError: shape, type, NaN, an id given twice, or one that is here already; nothing was changed.
            StoreBusyError: another process writes to the index.
        """
        rows = self._as_rows(vectors)
        numbers = as_ids(ids, len(rows))
        check_unique(numbers)
        name = as_name(tenant)
        about = {} if name is None else {"tenant": name}
        with self._guard:
            self._begin_write()
            if not upsert and len(known := self._slots_of(numbers)):
                first = int(self._engine.ids[known[0]])
                raise InputError(f"id {first} is in the index already; pass upsert=True to replace its row")
            if self._engine.slots + len(rows) > MOST_ROWS:
                raise InputError(f"an index holds {MOST_ROWS:,} rows at most; compact it, or make a second one")
            for at in range(0, len(rows), PART):
                part = np.ascontiguousarray(rows[at : at + PART])
                self._make_room(len(part))
                self._log(UPSERT if upsert else ADD, numbers[at : at + PART], part, about)
            self._grow_if_due()
            due = len(self._engine.strays) > STRAYS or self._added > CHURN * self._engine.slots
            if due and not self._compacting:
                self.flush()

    def delete(self, ids: npt.ArrayLike) -> int:
        """Deletes rows, at once for searches; `compact` takes their bytes off the disk.

        Args:
            ids: [n] integers; those that are not here are passed over.

        Returns:
            how many were here.

        Raises:
            StoreBusyError: another process writes to the index.
        """
        given = np.atleast_1d(np.asarray(ids))
        numbers = as_ids(given if given.size else given.astype(np.int64), len(given))
        with self._guard:
            self._begin_write()
            slots = self._slots_of(numbers)
            if len(slots):
                self._log(DELETE, np.asarray(self._engine.ids[slots]), np.zeros((0, 0), self._engine.dtype), {})
            return len(slots)

    def _as_rows(self, vectors: npt.ArrayLike) -> Rows:
        e = self._engine
        rows = as_rows(vectors, e.space.dim)
        check_finite(rows)
        if rows.dtype == e.dtype:
            return rows
        if DTYPES.index(rows.dtype.name) < DTYPES.index(e.dtype.name) and e.dtype == np.int8:
            raise InputError(f"vectors are {rows.dtype}; this index keeps int8: scale and round them first")
        with np.errstate(over="ignore"):
            out = rows.astype(e.dtype)
        if e.dtype == np.float16 and not np.isfinite(out).all():
            raise InputError("vectors hold values beyond float16, which this index keeps; scale them first")
        return out

    def _log(self, kind: int, ids: Ids, rows: Rows, about: dict[str, Any]) -> None:
        size = self._wal.size
        self._wal.append(kind, self._sequence + 1, ids, rows.tobytes(), about)
        try:
            if kind != DELETE:
                self._store(self._engine.slots, ids, rows, code_of(self._names, about.get("tenant")))
            self._apply(kind, ids, rows, about)
        except BaseException:
            self._wal.cut(size)
            self._reload()
            raise
        self._sequence += 1

    def _apply(self, kind: int, ids: Ids, rows: Rows, about: dict[str, Any]) -> None:
        """Makes a change visible. The rows are in their file already."""
        e = self._engine
        if kind in (UPSERT, DELETE):
            self._bury(self._slots_of(ids))
        if kind == DELETE:
            for i in ids.tolist():
                self._fresh.pop(i, None)
            return
        at = e.slots
        slots = np.arange(at, at + len(ids), dtype=np.uint32)
        self._room_for_dead(at + len(ids))
        if e.pending is not None:
            self._enlist(slots, rows)
        e.slots = at + len(ids)
        self._fresh.update(zip(ids.tolist(), slots.tolist(), strict=True))
        self._added += len(ids)

    def _enlist(self, slots: npt.NDArray[np.uint32], rows: Rows) -> None:
        e, c = self._engine, SpannConfig(**self._meta["config"])
        x = e.space.rows(rows)
        lists = choose_lists(
            e, self._place, x, cells=c.neighbours, candidates=c.candidates, copies=c.copies, slack=c.closure**2
        )
        row, column = np.nonzero(lists != NOWHERE)
        chosen = lists[row, column]
        assert e.pending is not None
        excess = beyond(e.space, rows)
        e.pending.append(encode_entries(e, self._place, x, row, chosen, slots[row], excess), chosen)
        e.own(lists[:, 0])
        own = vectors(e.tables, self._place, lists[:, 0])
        e.strays = np.concatenate([e.strays, slots[((x - own) ** 2).sum(1) > self._far]])

    def _bury(self, slots: Ids) -> None:
        dead = self._engine.tables.dead
        np.bitwise_or.at(dead, slots >> 6, np.uint64(1) << (slots & 63).astype(np.uint64))
        self._gone.extend(slots.tolist())
        self._engine.buried |= bool(len(slots))

    @abstractmethod
    def flush(self) -> None:
        """Writes what waits in memory."""

    @abstractmethod
    def _make_room(self, rows: int) -> None:
        """Flushes when the entries of so many rows more would exceed their share of the budget."""

    @abstractmethod
    def _grow_if_due(self) -> None:
        """Gives lists to an index that was scanned so far, once it has twice as many rows as are scanned."""

    # Rows and ids ----------------------------------------------------------------------------------------------------

    def _slots_of(self, ids: Ids) -> Ids:
        """The live slots of those of the ids that are here, in order."""
        wanted = np.unique(ids.reshape(-1))
        late = [self._fresh[i] for i in wanted.tolist() if i in self._fresh] if self._fresh else []
        slots = self._engine.lookup.slots(wanted)
        slots = slots[~test_bits(self._engine.tables.dead, slots)]
        return np.sort(np.concatenate([slots, np.array(late, np.int64)]))

    def _is_stored(self, at: int, ids: Ids, rows: Rows, code: int) -> bool:
        e, to = self._engine, at + len(ids)
        return (
            len(e.rows) >= to
            and len(e.ids) >= to
            and np.asarray(e.ids.data[at:to]).tobytes() == ids.tobytes()
            and np.asarray(e.rows.data[at:to]).tobytes() == rows.tobytes()
            and (len(e.tenants) >= to or not (code or len(e.tenants)))
            and bool((e.tenants.data[at:to] == code).all())
        )

    def _store(self, at: int, ids: Ids, rows: Rows, code: int) -> None:
        """Puts rows and ids into their files, from a slot on; the log is what makes them durable."""
        e, need = self._engine, at + len(ids)
        held = min(len(e.rows), len(e.ids))
        columns = [
            (self._files.rows, e.space.dim * e.dtype.itemsize, rows.tobytes()),
            (self._files.ids, 8, ids.tobytes()),
        ]
        if code or self._files.tenants.exists():
            # Made when the first row that has a tenant comes; the rows before are nobody's, which is 0.
            held = min(held, len(e.tenants))
            self._files.tenants.touch()
            columns.append((self._files.tenants, 4, np.full(len(ids), code, np.uint32).tobytes()))
        for path, width, data in columns:
            with path.open("r+b", buffering=0) as f:
                if need > held:
                    size = max(need, held + max(STEP, held // 16), len(e.rows))
                    f.truncate(max(size * width, path.stat().st_size))
                f.seek(at * width)
                left = memoryview(data)
                while left:
                    left = left[f.write(left) :]
        if need > held:
            e.remap()

    def _room_for_dead(self, slots: int) -> None:
        t = self._engine.tables
        words = -(-(slots + 1) // 64)
        if words > len(t.dead):
            grown = np.zeros(words, np.uint64)
            grown[: len(t.dead)] = t.dead
            t.dead = grown
