"""Flushing, and a scanned index that grows into one with lists."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import BudgetError

from .bars import bars
from .build import Build, Report, Source
from .compact import Handle, rewrite
from .config import SpannConfig, fit
from .engine import Engine
from .layout import Files, Tables, sync_directory, write_checkpoint, write_durably, write_json
from .lire import settle
from .lookup import write_order, write_owners
from .seal import sealed
from .space import Space
from .updates import CHURN, MARGIN, Updates
from .verify import Findings, check, mend_pages
from .verify import repair as mend
from .workspace import Workspace

MANY = 10_000  # deletes, and a fifth of the rows, after which a flush is due
LEAST_MEASURED = 200  # rows under which recall is not measured again
DURING = 4  # times their share of the budget, that waiting entries may take while a compaction is under way
FLAT_LOG = 8 << 20  # bytes of the log of a scanned index after which a flush is due


class Maintenance(Updates):
    """Keeping the files in order."""

    def flush(self) -> None:
        """Writes what waits in memory into the lists, splits those that are too long, and empties the log.

        Called when entries that wait reach an eighth of the memory budget; nothing is lost when it never is. Measures
        recall again once a tenth of the rows has changed.

        Raises:
            StoreBusyError: another process writes to the index.
        """
        with self._guard:
            self._begin_write()
            self._until_compacted()
            if not self._added and not self._gone and not self._engine.mended:
                return
            try:
                self._flush()
            except BaseException:
                self._reload()
                raise
            rows = len(self._engine.live())
            if self._curves and rows > LEAST_MEASURED and self._meta["changed"] >= CHURN * rows:
                self._measure(False, again=True)

    def _measure(self, progress: bool, *, again: bool = False) -> None:
        """Measures recall; `VectorIndex` says how."""
        raise NotImplementedError

    def _make_room(self, rows: int) -> None:
        """Flushes when the entries of so many rows more would exceed their share of the budget. While a compaction is
        under way nothing is flushed, and they may exceed it `DURING` times."""
        more = rows * int(self._meta["config"]["copies"])

        def exceeds(share: int) -> bool:
            p = self._engine.pending
            return p.used + more > share * self._capacity if p is not None else self._wal.size > share * FLAT_LOG

        while self._compacting and exceeds(DURING):
            self._idle.wait()
        if self._compacting:
            return
        if exceeds(1) or len(self._gone) > max(MANY, self._engine.slots // 5):
            self.flush()

    def _flush(self) -> None:
        e = self._engine
        if not len(e.tables.list_count):
            self._commit(self._files, e.space, e.tables, np.zeros(e.slots, np.uint32))
            return
        config = SpannConfig(**self._meta["config"])
        work = Workspace(e, config, self._cover())
        moves = replace(self._moves)
        try:
            new = np.arange(self._meta["rows"], e.slots, dtype=np.uint32)
            settle(work, new, np.array(self._gone, np.int64), self._far / MARGIN, moves)
            os.fsync(work.fd)
        finally:
            work.close()
        assert work.cover is not None or not config.reassign
        cover = None if work.cover is None else work.cover.tolist()
        self._commit(self._files, e.space, work.tables, work.primary, cover=cover)
        self._moves = moves

    def _cover(self) -> npt.NDArray[np.float32] | None:
        """What `regroup` knows of the cells; None when that is to be measured."""
        known = np.array(self._meta.get("cover") or np.zeros((0, 3)), np.float32)
        return known if len(known) == len(self._engine.tables.cell_start) - 1 else None

    def _commit(
        self,
        files: Files,
        space: Space,
        tables: Tables,
        primary: npt.NDArray[np.uint32],
        *,
        upto: int | None = None,
        **meta: Any,
    ) -> None:
        """Makes the next generation of the tables the one in force.

        Args:
            files: where rows and lists are.
            space, tables, primary: what it consists of.
            upto: the last record of the log that it holds, when the log goes on and is kept; None for all of it.
            meta: what else `meta.json` is to say.
        """
        old = self._files
        new = Files(old.path, old.generation + 1, files.version)
        slots = len(primary)
        for path in (new.rows, new.ids, new.tenants):
            if path.exists():
                with path.open("rb") as f:
                    os.fsync(f.fileno())
        dead = np.zeros(-(-slots // 64), np.uint64)
        dead[:] = tables.dead[: len(dead)]
        tables = replace(tables, dead=dead)
        write_durably(new.primary, primary)
        live = np.flatnonzero(np.unpackbits(dead.view(np.uint8), bitorder="little")[:slots] == 0)
        write_order(new, live)
        start = write_owners(new, live, len(self._names))
        width = space.dim * self._engine.dtype.itemsize
        tables = replace(tables, owner_start=start, **sealed(new, tables, slots, width, self._engine))
        write_checkpoint(new.checkpoint(new.generation), space, tables)
        sync_directory(new.path)
        changed = self._meta.get("changed", 0) + (self._added + len(self._gone) if upto is None else 0)
        sequence = self._sequence if upto is None else upto
        self._meta = {
            **self._meta, "generation": new.generation, "version": new.version, "rows": slots,
            "sequence": sequence, "tenants": self._names, "changed": changed, **meta,
        }  # fmt: skip
        write_json(new.meta, self._meta)
        was = self._engine
        self._files, self._engine = new, Engine(new, space, tables, self._meta["dtype"], slots, was.config)
        self._engine.read_like(was)
        if upto is None:
            self._wal.cut(0)
        self._wal.close()
        for path in old.named - new.named:
            path.unlink(missing_ok=True)
        self._catch_up()

    def compact(self, *, progress: bool = True, background: bool = False) -> Handle | None:
        """Writes rows and lists anew and close together, without deleted rows and copies that splits left behind.

        Afterwards no byte of a deleted row is left in the folder; of one that was a head, its 8-bit code stays as the
        middle of its list. May be stopped at any time, by an interrupt, `cancel` or a crash: the index is then as it
        was. Searches, adding and deleting go on meanwhile; what is added then waits in memory for the end, and `add`
        for it once that is half of the memory budget. `flush` and `close` wait for it too; `close` stops it.

        Args:
            progress: show bars on a terminal.
            background: run in a thread of its own.

        Returns:
            with `background`, a handle to wait for it or to cancel it.

        Raises:
            StoreBusyError: another process writes to the index.
        """
        with self._guard:
            self._begin_write()
        if background:
            return Handle(lambda stop: self._compact(lambda *_: None, stop))
        with bars(progress) as report:
            self._compact(report, lambda: False)
        return None

    def _compact(self, report: Report, stop: Callable[[], bool]) -> None:
        with self._guard:
            self._begin_write()
            self.flush()
            e, old, upto = self._engine, self._files, self._sequence
            # What the log gets from now on is not in this, and is applied again on top of what is made of it.
            still = Engine(old, e.space, replace(e.tables, dead=e.tables.dead.copy()), e.dtype.name, e.slots)
            self._compacting = True
        new = Files(old.path, old.generation, old.version + 1)
        try:
            config = SpannConfig(**self._meta["config"])
            tables, primary = rewrite(still, new, config, report, lambda: stop() or self._closing)
            with self._guard:
                self._append_late(still.slots, len(primary), new)
                self._commit(new, e.space, tables, primary, upto=upto)
        except BaseException:
            with self._guard:
                if self._files.version == old.version:
                    self._reload()
                    self._remove_leftovers()
            raise
        finally:
            with self._guard:
                self._compacting = False
                self._idle.notify_all()

    def _append_late(self, before: int, at: int, new: Files) -> None:
        """Puts the rows that came during a compaction, those from slot `before` on, behind the `at` rows of its files,
        so that whoever opens these finds all that the log names."""
        e = self._engine
        columns = [(new.rows, e.rows), (new.ids, e.ids)]
        if len(e.tenants):
            columns.append((new.tenants, e.tenants))
            if not new.tenants.exists():
                write_durably(new.tenants, np.zeros(at, np.uint32))
        for path, column in columns:
            with path.open("ab") as out:
                np.ascontiguousarray(column[before : e.slots]).tofile(out)

    def _until_compacted(self) -> None:
        """Waits, letting others go on, until no compaction is under way."""
        while self._compacting:
            self._idle.wait()

    def verify(self, repair: bool = False) -> list[str]:
        """Checks every list's checksum, that every row is in its list, the sizes of the files and the lookup of ids.

        Args:
            repair: write damaged lists and the lookup anew from the rows.

        Returns:
            what was wrong, a line each; empty when nothing was.

        Raises:
            StoreError: the checkpoint or the log is damaged, which rows alone cannot mend; or rows are, once all else
                is mended.
        """
        with self._guard:
            if repair:
                self._begin_write()
                self._until_compacted()
            else:
                self._refresh()
            found = check(self._files, self._engine, self._place, self._meta["rows"])
            if not repair or not found.problems:
                return found.problems
            try:
                self._repair(found)
            except BaseException:
                self._reload()
                raise
            if "rows" in found.pages:
                raise self._engine.rows.damage(found.pages["rows"][0])
            return found.problems

    def _repair(self, found: Findings) -> None:
        e = self._engine
        if found.pages:
            mend_pages(e, self._place, found)
            found = check(self._files, e, self._place, self._meta["rows"])
        if not len(e.tables.list_count):
            self._commit(self._files, e.space, e.tables, np.zeros(e.slots, np.uint32))
            return
        work = Workspace(e, SpannConfig(**self._meta["config"]))
        try:
            mend(work, found)
            os.fsync(work.fd)
        finally:
            work.close()
        self._commit(self._files, e.space, work.tables, work.primary)

    # A scanned index -------------------------------------------------------------------------------------------------

    def _grow_if_due(self) -> None:
        """Gives lists to an index that was scanned so far, once it has twice as many rows as are scanned."""
        config = SpannConfig(**self._meta["config"])
        e = self._engine
        if self._compacting or len(e.tables.list_count) or e.slots < 2 * config.exact_below:
            return
        live = e.live()
        if len(live) < 2 * config.exact_below:
            return
        try:
            self._grow(live, config)
        except BudgetError:
            return
        except BaseException:
            self._reload()
            raise

    def _grow(self, live: npt.NDArray[np.int64], config: SpannConfig) -> None:
        e = self._engine
        config = fit(config, len(live), e.space.dim, self._meta["ram_budget"])
        beside = Files(self._files.path / "grow")
        shutil.rmtree(beside.path, ignore_errors=True)
        beside.path.mkdir()
        try:
            write_json(beside.build, {"done": []})
            source = Source(np.asarray(e.rows[live]), np.asarray(e.ids[live]))
            space, tables = Build(beside, source, e.space.metric, config, lambda *_: None).run()
            new = Files(self._files.path, 0, self._files.version + 1)
            for a, b in ((beside.rows, new.rows), (beside.ids, new.ids), (beside.lists, new.lists)):
                a.replace(b)
            if len(e.tenants):
                place = np.fromfile(new.ids, np.int64)
                order = source.ids.argsort()
                codes = np.asarray(e.tenants[live])[order[np.searchsorted(source.ids[order], place)]]
                write_durably(new.tenants, codes)
            primary = np.fromfile(beside.primary, np.uint32, len(live))
            with new.lists.open("rb") as f:
                os.fsync(f.fileno())
            self._commit(new, space, tables, primary, config=config.to_dict())
        finally:
            shutil.rmtree(beside.path, ignore_errors=True)
        self._measure(False)

    def close(self) -> None:
        """Lets go of the files and the lock. Changes that were not flushed are in the log and lost by nobody."""
        with self._guard:
            self._closing = True
            self._until_compacted()
            self._closed = True
            self._engine.close()
            self._wal.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None
