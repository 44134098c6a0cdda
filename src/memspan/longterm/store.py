"""The store: one SQLite file, many readers, one writer at a time, nothing half-written.

`Store` owns the connection, migrations and locking; `Transaction` is what organizers and the facade write through.
A transaction takes the write lock at its start (BEGIN IMMEDIATE), so that two writers never find out at commit time
that one of them must fail. Times at this level are integers (see `clock`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError, StoreBusyError, StoreError
from memspan.core.footprint import Footprint
from memspan.longterm import schema, scrub

Row = sqlite3.Row
_APPLICATION_ID = 0x6D73706E  # "mspn": tells our files from other SQLite files
_SLACK = 0.3  # share of the file that is free or half-empty pages: from here on a purge rewrites it
_EMPTY = 2**18  # bytes of a store without rows, rounded up
_ERASURES_KEPT = 50_000  # ids of forgotten episodes that a process which lags behind can still read
_BATCH = 500  # bound variables per statement stay well under SQLite's oldest limit (999)


def store_path(target: str | Path) -> str:
    """The file behind "agent.db", "sqlite:///agent.db" or ":memory:".

    Raises:
        InputError: another scheme, an empty path or a directory.
    """
    text = str(target)
    if text.startswith("sqlite:///"):
        text = unquote(text.removeprefix("sqlite:///")) or ":memory:"
    elif "://" in text:
        scheme = text.split("://", 1)[0]
        raise InputError(f"store {text!r}: scheme {scheme!r} is not supported; use a path or sqlite:///path")
    if text == ":memory:":
        return text
    if not text:
        raise InputError("store path is empty; give a file name such as agent.db, or :memory:")
    path = Path(text).expanduser()
    if path.is_dir():
        raise InputError(f"store {text!r} is a directory; give a file name inside it")
    return str(path)


def fill(sql: str, ids: Sequence[Any]) -> str:
    """`sql` with its `{ids}` replaced by as many placeholders as there are ids."""
    return sql.replace("{ids}", ",".join("?" * len(ids)))


class Store:
    """One open store file.

    Args:
        target: a path, "sqlite:///path" or ":memory:".
        timeout: seconds a writer waits for another writer before `StoreBusyError`.
        create: make the file when it does not exist.

    Attributes:
        before_commit: called with every writing transaction before it is committed; what it raises undoes it.

    Raises:
        StoreError: not a memspan store, damaged, or written by a newer memspan.
        StoreBusyError: another writer held the lock for longer than `timeout`.
    """

    def __init__(self, target: str | Path, *, timeout: float = 30.0, create: bool = True) -> None:
        self.path = store_path(target)
        self.timeout = timeout
        self.before_commit: Callable[[Transaction], None] | None = None
        self.lock = threading.RLock()
        if self.path != ":memory:":
            path = Path(self.path)
            if not create and not path.exists():
                raise StoreError(
                    f"there is no store at {self.path}; create it with: memspan remember --store PATH FILE"
                )
            if not path.parent.exists():
                raise InputError(f"the folder {path.parent} for the store does not exist; create it first")
        try:
            self.connection = sqlite3.connect(
                self.path, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            self.connection.row_factory = sqlite3.Row
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise self._translated(error) from error

    def _prepare(self) -> None:
        run = self.connection.execute
        run(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")
        tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0]
        marked = run("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID
        if tables and not marked:
            raise StoreError(f"{self.path} is an SQLite file of another program; choose another path for the store")
        run("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the disk when it returns, also after a power cut.
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA secure_delete = ON")
        run("PRAGMA cache_size = -16384")
        run("PRAGMA journal_size_limit = 4194304")  # of the log after a checkpoint: a large transaction makes it grow
        version = run("PRAGMA user_version").fetchone()[0]
        if version > schema.VERSION:
            raise StoreError(
                f"{self.path} has schema version {version}, this memspan knows {schema.VERSION}: upgrade memspan"
            )
        if version < schema.VERSION:
            with self._immediate():
                version = run("PRAGMA user_version").fetchone()[0]  # another process may have migrated meanwhile
                for number, script in enumerate(schema.MIGRATIONS[version:], start=version + 1):
                    for statement in schema.statements(script):
                        run(statement)
                    run(f"PRAGMA user_version = {number}")
                run(f"PRAGMA application_id = {_APPLICATION_ID}")

    def _translated(self, error: sqlite3.Error) -> StoreError:
        text = str(error)
        if "locked" in text or "busy" in text:
            return StoreBusyError(
                f"{self.path} is locked by another writer for over {self.timeout:g} s; try again, or raise timeout="
            )
        if "not a database" in text:
            return StoreError(f"{self.path} is not a memspan store (not an SQLite file); choose another path")
        if "malformed" in text:
            return StoreError(f"{self.path} is damaged ({text}); restore a copy, or export what can be read")
        return StoreError(f"{self.path}: {text}")

    @contextlib.contextmanager
    def _immediate(self) -> Iterator[None]:
        """The write lock, held until the block ends; rolled back when it raises."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    @contextlib.contextmanager
    def write(self, now: int, space: str = "default") -> Iterator[Transaction]:
        """A transaction that either happens as a whole or not at all."""
        with self.lock:
            if self.connection.in_transaction:
                raise StoreError("a transaction is already open in this thread; finish it first")
            try:
                with self._immediate():
                    tx = Transaction(self, now, space, writable=True)
                    yield tx
                    if self.before_commit is not None:
                        self.before_commit(tx)
            except sqlite3.Error as error:
                raise self._translated(error) from error

    @contextlib.contextmanager
    def read(self, now: int, space: str = "default") -> Iterator[Transaction]:
        """A consistent snapshot; never waits for the writer."""
        with self.lock:
            nested = self.connection.in_transaction
            try:
                if not nested:
                    self.connection.execute("BEGIN")
                yield Transaction(self, now, space, writable=False)
            except sqlite3.Error as error:
                raise self._translated(error) from error
            finally:
                if not nested and self.connection.in_transaction:
                    self.connection.execute("COMMIT")

    def purge(self, *, rewrite: bool = False) -> bool:
        """Make deleted bytes unreadable; they are in no page of the file and not in its write-ahead log afterwards.

        `secure_delete` alone is not enough: pages that were rebalanced keep copies of moved cells in their free space.
        That space is zeroed in place; a file of which much is free is rewritten instead, which also makes it smaller.

        Args:
            rewrite: rewrite it in any case.

        Returns:
            True when done; False when another reader kept the log from being emptied within the timeout.
        """
        with self.lock:
            try:
                deadline = time.monotonic() + self.timeout
                if rewrite or not self._can_scrub() or self.loose():
                    self.connection.execute("VACUUM")
                elif not self._scrub(deadline):
                    return False
                return self._empty_log(deadline)
            except sqlite3.Error as error:
                raise self._translated(error) from error
            except OSError as error:
                raise StoreError(f"{self.path}: {error}; nothing is lost, forget again to erase the bytes") from error

    def _can_scrub(self) -> bool:
        return scrub.AVAILABLE and self.path != ":memory:" and self.pages()[0] <= scrub.MOST_PAGES

    def _scrub(self, deadline: float) -> bool:
        """Zero the free space of all pages, while nobody can write and the log is empty, so that the file is all."""
        while True:
            if not self._empty_log(deadline) or time.monotonic() > deadline:
                return False
            self.connection.execute("BEGIN IMMEDIATE")
            log = Path(self.path + "-wal")
            if not log.exists() or not log.stat().st_size:
                break
            self.connection.execute("ROLLBACK")  # another process wrote meanwhile
        try:
            size = self.connection.execute("PRAGMA page_size").fetchone()[0]
            scrub.scrub(Path(self.path), size)
            # A commit makes every other connection drop the pages that it has cached, which may hold the old bytes.
            self.connection.execute(
                "INSERT INTO meta (key, value) VALUES ('scrubs', '1')"
                " ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
            )
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        self.connection.execute("PRAGMA shrink_memory")  # and this connection too
        return True

    def _empty_log(self, deadline: float) -> bool:
        while self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def check(self) -> list[str]:
        """Problems found: SQLite's integrity check, foreign keys, missing passages, byte counts. Empty when sound."""
        with self.lock:
            run = self.connection.execute
            problems = [row[0] for row in run("PRAGMA integrity_check") if row[0] != "ok"]
            problems += [f"row {row[1]} of {row[0]} points at a missing row" for row in run("PRAGMA foreign_key_check")]
            bare = run(
                "SELECT count(*) FROM record WHERE kind = 'episode' AND id NOT IN (SELECT record FROM passage)"
            ).fetchone()[0]
            if bare:
                problems.append(f"{bare} episodes have no passage")
            counted = {tuple(row) for row in run("SELECT space, bytes, passages, words, vectors FROM usage")}
            if counted ^ {tuple(row) for row in run(schema.USAGE)}:
                problems.append("the bytes that spaces take are miscounted")
            return problems

    def pages(self) -> tuple[int, int]:
        """Pages of the file, and how many of them are free."""
        run = self.connection.execute
        return run("PRAGMA page_count").fetchone()[0], run("PRAGMA freelist_count").fetchone()[0]

    def loose(self) -> bool:
        """Whether so much of the file is free or in half-empty pages that rewriting it is worth its time."""
        size = self.pages()[0] * int(self.connection.execute("PRAGMA page_size").fetchone()[0])
        used = self.connection.execute("SELECT coalesce(sum(bytes), 0) FROM usage").fetchone()[0]
        return bool(size * (1 - _SLACK) > used + _EMPTY)

    def disk_bytes(self) -> int:
        """Bytes of the file, its write-ahead log and its shared-memory index."""
        if self.path == ":memory:":
            return 0
        files = (Path(self.path + suffix) for suffix in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    def footprint(self) -> Footprint:
        """Disk bytes of the file, and the bytes SQLite's page cache may take in RAM."""
        run = self.connection.execute
        size = run("PRAGMA page_size").fetchone()[0]
        pages = run("PRAGMA page_count").fetchone()[0]
        cache = run("PRAGMA cache_size").fetchone()[0]
        limit = -cache * 1024 if cache < 0 else cache * size
        ram = size * pages if self.path == ":memory:" else min(limit, size * pages)
        return Footprint({("store", "disk"): self.disk_bytes(), ("store", "ram"): ram})

    def close(self) -> None:
        """Close the connection; the last one to close empties the write-ahead log."""
        with self.lock:
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transaction:
    """What organizers write through. Valid only inside the `with` that made it.

    Attributes:
        now: the store's time of this transaction, in microseconds.
        space: the tenant's name; every method sees only its rows.
        erased: texts of the records that were erased or rewritten, so that what is cached of them can go too.
        added: ids of the episodes that it adds.
    """

    def __init__(self, store: Store, now: int, space: str, *, writable: bool) -> None:
        self.store = store
        self.now = now
        self.space = space
        self.erased: list[str] = []
        self.added: list[int] = []
        self.execute: Callable[..., sqlite3.Cursor] = store.connection.execute
        self.executemany: Callable[..., sqlite3.Cursor] = store.connection.executemany
        row = self.execute("SELECT id FROM space WHERE name = ?", (space,)).fetchone()
        if row is None and writable:
            if not space:
                raise InputError("space must not be empty")
            row = self.execute("INSERT INTO space (name) VALUES (?) RETURNING id", (space,)).fetchone()
        self.space_id: int = -1 if row is None else row[0]

    # --- rows ---

    def select(self, sql: str, ids: Iterable[Any], *more: Any) -> list[Row]:
        """Rows of `sql`, whose `{ids}` stands for a list of any length; `more` are the parameters after it."""
        ids = list(ids)
        rows: list[Row] = []
        for first in range(0, len(ids), _BATCH):
            part = ids[first : first + _BATCH]
            rows += self.execute(fill(sql, part), (*part, *more)).fetchall()
        return rows

    def add_record(
        self,
        kind: str,
        uid: str,
        text: str,
        *,
        sources: Iterable[int] = (),
        at: int | None = None,
        valid_at: int | None = None,
        invalid_at: int | None = None,
        data: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> int:
        """Add a derived record with its source episodes (record ids, the strongest first) and its first version."""
        cursor = self.execute(
            "INSERT INTO record (space, kind, uid, text, at, valid_at, invalid_at, recorded_at, data)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.space_id, kind, uid, text, at, valid_at, invalid_at, self.now, json.dumps(data) if data else None),
        )
        record = int(cursor.lastrowid or 0)
        self.add_sources(record, sources)
        self.execute(
            "INSERT INTO version (record, valid_at, invalid_at, recorded_at, status, reason)"
            " VALUES (?, ?, ?, ?, 'live', ?)",
            (record, valid_at, invalid_at, self.now, reason),
        )
        return record

    def add_sources(self, record: int, episodes: Iterable[int], seen_at: int | None = None) -> None:
        """Name more source episodes of a record, after the ones it has; those it has already are left as they are.

        Args:
            record: the record.
            episodes: record ids.
            seen_at: the moment in the world at which these episodes say that it held.
        """
        have = self.execute("SELECT count(*) FROM source WHERE record = ?", (record,)).fetchone()[0]
        self.executemany(
            "INSERT OR IGNORE INTO source (record, episode, rank, seen_at) VALUES (?, ?, ?, ?)",
            [(record, episode, have + rank, seen_at) for rank, episode in enumerate(episodes)],
        )

    def find(self, kind: str, uid: str) -> Row | None:
        """The record of this kind with this uid."""
        row: Row | None = self.execute(
            "SELECT * FROM record WHERE space = ? AND kind = ? AND uid = ?", (self.space_id, kind, uid)
        ).fetchone()
        return row

    def records(self, ids: Iterable[int]) -> dict[int, Row]:
        """Records by id."""
        return {row["id"]: row for row in self.select("SELECT * FROM record WHERE id IN ({ids})", ids)}

    def set_text(self, record: int, text: str) -> None:
        """Replace a derived record's text (episodes are immutable) and drop its passages, which are made anew."""
        changed = self.execute("UPDATE record SET text = ? WHERE id = ? AND text <> ?", (text, record, text)).rowcount
        if changed:
            self.execute("DELETE FROM passage WHERE record = ?", (record,))

    def set_validity(
        self,
        record: int,
        *,
        valid_at: int | None,
        invalid_at: int | None,
        retired: bool = False,
        status: str = "live",
        cause: int | None = None,
        reason: str = "",
    ) -> None:
        """Write a new version of a record; the one before stays readable with `believed_at`.

        Args:
            record: id of the record.
            valid_at, invalid_at: the new validity in the world.
            retired: the store no longer holds the fact as open (sets retired_at if it is not set).
            status: "live", or "retracted" when it is not believed at all.
            cause: the episode that led to the change; forgetting it takes the change back.
            reason: why, in words.
        """
        self.execute(
            "UPDATE version SET superseded_at = ? WHERE record = ? AND superseded_at IS NULL", (self.now, record)
        )
        self.execute(
            "INSERT INTO version (record, valid_at, invalid_at, recorded_at, status, cause, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (record, valid_at, invalid_at, self.now, status, cause, reason),
        )
        self.execute(
            "UPDATE record SET valid_at = ?, invalid_at = ?, status = ?,"
            " retired_at = CASE WHEN ? THEN coalesce(retired_at, ?) ELSE retired_at END WHERE id = ?",
            (valid_at, invalid_at, status, retired, self.now, record),
        )

    def link(self, src: int, kind: str, dst: int, weight: float = 1.0) -> None:
        """Add a link, or add `weight` to the one that is there."""
        self.execute(
            "INSERT INTO link (src, kind, dst, weight) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (src, kind, dst) DO UPDATE SET weight = weight + excluded.weight",
            (src, kind, dst, weight),
        )

    def sources(self, records: Iterable[int]) -> dict[int, list[str]]:
        """Caller's ids of the source episodes of each record, the strongest first."""
        named: dict[int, list[str]] = {}
        rows = self.select(
            "SELECT s.record, r.uid FROM source s JOIN record r ON r.id = s.episode"
            " WHERE s.record IN ({ids}) ORDER BY s.record, s.rank, s.episode",
            records,
        )
        for record, uid in rows:
            named.setdefault(record, []).append(uid)
        return named

    # --- meta ---

    def meta(self, key: str) -> str | None:
        """A setting of the store."""
        row = self.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Write a setting of the store."""
        self.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def bump(self, erased: Sequence[int] | None = None) -> None:
        """Tell every process that indexed rows were changed or removed, so that what it has in RAM follows.

        Args:
            erased: ids of the episodes that are no more, when nothing else has changed for the index of episodes;
                None makes processes read all episodes anew.
        """
        self._count_up("derived_generation")
        generation = self._count_up("generation")
        if erased is None or len(erased) > _ERASURES_KEPT:
            erased = None
            self.execute("DELETE FROM erasure")
        self.executemany(
            "INSERT INTO erasure (generation, record) VALUES (?, ?)",
            [(generation, 0)] if erased is None else [(generation, record) for record in erased],
        )
        self.execute(
            "DELETE FROM erasure WHERE generation <="
            " (SELECT generation FROM erasure ORDER BY generation DESC LIMIT 1 OFFSET ?)",
            (_ERASURES_KEPT,),
        )

    def erased_since(self, old: str, new: str) -> NDArray[np.int64] | None:
        """Ids of the episodes erased between two generations; None when the log does not tell."""
        first = self.execute("SELECT min(generation) FROM erasure").fetchone()[0]
        if not new or first is None or int(old or 0) < first - 1:
            return None
        rows = self.execute("SELECT record FROM erasure WHERE generation > ?", (int(old or 0),)).fetchall()
        if not rows or any(row[0] == 0 for row in rows):
            return None
        return np.array([row[0] for row in rows], np.int64)

    def bump_derived(self) -> None:
        """The same for derived records alone: the episodes in RAM stay good."""
        self._count_up("derived_generation")

    def _count_up(self, key: str) -> int:
        value = int(self.meta(key) or 0) + 1
        self.set_meta(key, str(value))
        return value
