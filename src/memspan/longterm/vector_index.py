"""A vector index of a space's episodes, kept in files beside a large store: the nearest need no scan and no RAM.

The rows are the truth. Row `vector_index` of the store names the folder of an index, which system wrote it, and up to
which passage it goes; passages after that one are compared exactly, passages that are no more are passed over, and what
the index finds is scored from the rows' own vectors. So an index may lag, and it may be lost: then all is exact, as in
a small store. It is written outside of the store's write lock, by one process at a time (`_alone`), and is on the disk
before the transaction that says so; a killed process leaves a folder that no row names, or an index that holds more
than its row says, which does no harm. `mark` is in the row and in the folder, and in `next` before the folder changes:
a folder that does not belong to this state of the store (which was restored from a copy) is found out and made again.

A trigger puts the passages that the index has still to lose into `vector_gone`. `erase` takes them off the files, and
`forget` waits for it. The trigger looks no further than the row says; so while `mark` and `next` differ (a change is
going on, or its process died) `erase` waits its turn, and takes off what lies beyond.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import MemspanError, StoreError
from memspan.core.footprint import Footprint
from memspan.longterm.base import VectorIndex
from memspan.longterm.limits import known_dim, read_limits
from memspan.longterm.nearest import DEFAULT, HeldIndex, IndexChoice, load_system
from memspan.longterm.vectors import I64, quantized

if TYPE_CHECKING:
    from memspan.longterm.store import Row, Store, Transaction

_TAIL, _TAIL_SHARE = 8192, 0.25  # passages, and share of the index, that may come after it before they are taken in
_REBUILT = 0.05  # share of the index that comes after it from which on making it anew costs less than adding to it
_DEAD = 0.2  # share of it that is no more from which on it is made anew
_RAM = 16_000_000  # bytes of private RAM that an index may take; up to three times as many while it is made, and
_SAMPLE = 65_536  # so many rows in float32
_CHUNK = 8192  # vectors read at a time
_COPIES = 8  # lists that hold a vector, at most
_SUFFIX = ".vectors"


class VectorIndexes:
    """The vector indexes beside one store.

    Args:
        store: a store in a file.
        choice: which are used.
        room: bytes of RAM that may be taken now.
    """

    def __init__(self, store: Store, choice: IndexChoice, room: Callable[[], float]) -> None:
        self._store, self._choice, self._room = store, choice, room
        self._open: dict[int, HeldIndex] = {}
        self._unusable: set[str] = set()
        self._again: dict[int, float] = {}  # space -> id of the vector from which on something may be due
        path = Path(store.path).resolve()
        self.folder = path.with_name(path.name + "-index")

    # --- reading ---

    def row(self, tx: Transaction) -> Row | None:
        """What the store says of the index of the transaction's space that is to be used."""
        return None if self._choice.system == "exact" else _ready(tx)

    def held(self, tx: Transaction) -> HeldIndex | None:
        """The index of the transaction's space; None when there is none, or none that can be used now."""
        row = self.row(tx)
        held = self._open.get(tx.space_id)
        if held is not None and (row is None or held.folder != row["folder"]):
            self._close(tx.space_id)
            held = None
        if row is None or row["folder"] in self._unusable:
            return None
        if held is None:
            path = self.folder / row["folder"]
            try:
                if self._choice.usable() is None or not self._belongs(row):
                    return None
                held = HeldIndex(load_system(row["system"]).open(path), row["folder"], self._choice.recall)
            except (MemspanError, OSError):
                self._unusable.add(row["folder"])
                return None
            self._open[tx.space_id] = held
        held.upto, held.size = row["upto"], row["size"]
        return held

    def _belongs(self, row: Row) -> bool:
        """Whether the folder that a row names is there, and of this state of the store."""
        return _mark(self.folder / row["folder"]) in (row["mark"], row["next"])

    def _close(self, space: int) -> None:
        if (held := self._open.pop(space, None)) is not None:
            held.index.close()

    def close(self) -> None:
        """Let go of all files."""
        for space in list(self._open):
            self._close(space)

    def footprint(self) -> Footprint:
        """Private RAM of those that are open, and the files of all."""
        ram = sum(held.index.footprint().by_place.get("ram", 0) for held in self._open.values())
        disk = self._store.connection.execute("SELECT coalesce(sum(disk), 0) FROM vector_index").fetchone()[0]
        entries = {("store", place): nbytes for place, nbytes in (("ram", ram), ("disk", disk)) if nbytes}
        return Footprint(entries)

    def stats(self, tx: Transaction) -> dict[str, object]:
        """What finds the nearest vectors of a space, up to where, and in how many bytes."""
        row = self.row(tx)
        if row is None:
            return {"system": "exact", "above": self._choice.above}
        held, gone = self._open.get(tx.space_id), len(_gone(tx))
        ram = row["ram"] if held is None else held.index.footprint().by_place.get("ram", 0)
        told = {"rows": row["size"], "gone": gone, "after": _count(tx, row["upto"]), "ram": ram, "disk": row["disk"]}
        return {"system": row["system"], "above": self._choice.above, **told}

    # --- following ---

    def keep_up(self, now: int, space: str, *, progress: bool = False, all_of_it: bool = False) -> bool:
        """Make, extend or give up the index of a space where that is due; True when something was done.

        Left to others when another process is at it. With `all_of_it` nothing is left to be compared exactly.
        """
        with self._store.read(now, space) as tx:
            if self._due(tx, all_of_it) is None:
                return False
        with self._alone(0) as mine:
            if not mine:
                return False
            with self._store.read(now, space) as tx:
                due, space_id, row = self._due(tx, all_of_it), tx.space_id, _ready(tx)
                upto, last = (row["upto"] if row else 0), _last(tx, row["upto"] if row else 0)
            if due == "drop":
                self._drop(now, space)
            elif due == "extend" and row is not None and self._extend(now, space, space_id, row, upto, last):
                return True
            elif due is not None:
                return self._build(now, space, space_id, progress)
        return due is not None

    def _due(self, tx: Transaction, all_of_it: bool) -> str | None:
        newest = tx.execute("SELECT coalesce(max(id), 0) FROM vector").fetchone()[0]
        if self._choice.system == "exact" or (newest < self._again.get(tx.space_id, 0) and not all_of_it):
            return None
        row = _ready(tx)
        new = _count(tx, 0 if row is None else row["upto"])
        if row is None:
            lacking = self._choice.above + 1 - new
            if lacking <= 0 and not self._fits(tx, new):
                lacking = self._choice.above // 10
            if lacking <= 0 and self._choice.usable() is not None:
                return "build"
            self._again[tx.space_id] = newest + max(1, lacking)
            return None
        size, gone = row["size"], len(_gone(tx))
        if size - gone + new <= self._choice.above // 2:
            return "drop"
        wanted = 1 if all_of_it else int(max(_TAIL, _TAIL_SHARE * size))
        lost = row["folder"] in self._unusable or not self._belongs(row)
        if lost or gone > _DEAD * size or new > max(wanted - 1, _REBUILT * size):
            return None if self._choice.usable() is None else "build"
        if new >= wanted:
            return "extend"
        self._again[tx.space_id] = newest + wanted - new
        return None

    def _fits(self, tx: Transaction, rows: int) -> bool:
        """Whether the space's disk budget has room for an index of so many rows."""
        limits, dim = read_limits(tx), known_dim(tx)
        each = dim + 24 + _COPIES * (dim // 2 + 12)
        return limits.disk is None or limits.used + rows * each <= limits.disk

    def _build(self, now: int, space: str, space_id: int, progress: bool) -> bool:
        """Make an index of all rows; the one before serves until it is done."""
        system, room = self._choice.usable(), self._room()
        ram = int(min(_RAM, room / 4)) if room < 4 * _RAM else _RAM
        with self._store.read(now, space) as tx:
            work = 4 * known_dim(tx) * min(_SAMPLE, _count(tx, 0)) + 3 * ram
        if system is None or work > room:  # another process may have the room
            self._again[space_id] = float("inf")
            return False
        slug = DEFAULT if self._choice.system == "auto" else self._choice.system
        name, mark = f"{space_id}-{secrets.token_hex(8)}{_SUFFIX}", secrets.token_hex(8)
        with self._store.write(now, space) as tx:
            tx.execute("DELETE FROM vector_index WHERE space = ? AND NOT ready", (space_id,))
            last = _last(tx, 0)
            number = tx.execute(
                "INSERT INTO vector_index (space, system, folder, ready, upto, size, mark, next, disk, ram)"
                " VALUES (?, ?, ?, 0, ?, 0, ?, ?, 0, 0)",
                (space_id, slug, name, last, mark, mark),
            ).lastrowid
        done = False
        try:
            self.folder.mkdir(exist_ok=True)
            rows = self._vectors(now, space, 0, last)
            path = self.folder / name
            index = system.build(rows, path, metric="cosine", ram_budget=ram, overwrite=False, progress=progress)
            with contextlib.closing(index):
                with self._store.read(now, space) as tx:
                    gone = _gone(tx)
                if index.delete(gone):
                    index.scrub()
                _write_mark(path, mark)
                done = self._finish(now, space, int(number or 0), index, last, gone, mark)
        except (MemspanError, OSError):
            # The budget holds no index, or the disk is full: exact for the rest of this process's life.
            self._again[space_id] = float("inf")
        finally:
            if not done:
                with contextlib.suppress(StoreError), self._store.write(now, space) as tx:
                    tx.execute("DELETE FROM vector_index WHERE id = ?", (number,))
            self._sweep()
        if done:
            with self._store.lock:  # no other thread is searching it
                self._close(space_id)
            self._again.pop(space_id, None)
        return done

    def _extend(self, now: int, space: str, space_id: int, row: Row, upto: int, last: int) -> bool:
        """Add the rows that came since; False when the index must be made anew."""
        try:
            with self._changing(now, space, row) as (index, mark):
                for ids, rows in self._vectors(now, space, upto, last):
                    index.add(ids, rows, upsert=True)
                index.flush()
                return self._finish(now, space, row["id"], index, last, np.zeros(0, np.int64), mark)
        except (MemspanError, OSError):
            self._unusable.add(row["folder"])
            return False

    def _finish(self, now: int, space: str, number: int, index: VectorIndex, last: int, gone: I64, mark: str) -> bool:
        """Tell the store what an index holds; False when it is no longer wanted."""
        places = index.footprint().by_place
        told = (last, len(index), mark, mark, places.get("disk", 0), places.get("ram", 0), number)
        with self._store.write(now, space) as tx:
            before = _ready(tx)
            kept = tx.execute(
                "UPDATE vector_index SET ready = 1, upto = ?, size = ?, mark = ?, next = ?, disk = ?, ram = ?"
                " WHERE id = ?",
                told,
            ).rowcount
            if kept:
                tx.execute("DELETE FROM vector_index WHERE space = ? AND id <> ?", (tx.space_id, number))
                _forget_gone(tx, gone)
                if before is not None and before["id"] == number and before["upto"] < last:
                    _note_gone(tx, _beyond(index, before["upto"]))
        return bool(kept)

    @contextlib.contextmanager
    def _changing(self, now: int, space: str, row: Row) -> Iterator[tuple[VectorIndex, str]]:
        """The index of a row, to be changed, and its mark when that is done.

        Raises:
            StoreError: it is not of this state of the store, or cannot be opened.
        """
        mark, path = secrets.token_hex(8), self.folder / row["folder"]
        if not self._belongs(row):
            raise StoreError(f"{path} is of another state of the store")
        with contextlib.closing(load_system(row["system"]).open(path)) as index:
            with self._store.write(now, space) as tx:
                tx.execute("UPDATE vector_index SET mark = ?, next = ? WHERE id = ?", (_mark(path), mark, row["id"]))
            _write_mark(path, mark)
            yield index, mark

    def _vectors(self, now: int, space: str, after: int, last: int) -> Iterator[tuple[I64, NDArray[np.int8]]]:
        """Ids and vectors of the episodes' passages after one and up to another, a chunk a snapshot."""
        while True:
            with self._store.read(now, space) as tx:
                read = tx.execute(
                    "SELECT p.id, v.data FROM passage p CROSS JOIN record r ON r.id = p.record"
                    " CROSS JOIN vector v ON v.passage = p.id"
                    " WHERE p.space = ? AND p.id > ? AND p.id <= ? AND r.kind = 'episode' ORDER BY p.id LIMIT ?",
                    (tx.space_id, after, last, _CHUNK),
                ).fetchall()
            if not read:
                return
            after = read[-1][0]
            stacked = np.frombuffer(b"".join(row[1] for row in read), np.float16).reshape(len(read), -1)
            yield np.array([row[0] for row in read], np.int64), quantized(stacked.astype(np.float32))[0]

    # --- forgetting ---

    def erase(self, now: int, space: str, *, every: bool = False) -> bool:
        """Take what is no more off the files of the space's index; False when another process kept it from that.

        Args:
            now: the time.
            space: the space.
            every: also what an index lost before.
        """
        with self._store.read(now, space) as tx:
            known = tx.execute(
                "SELECT min(ready AND mark = next) FROM vector_index WHERE space = ?", (tx.space_id,)
            ).fetchone()[0]
            if known is None or (known and not len(_gone(tx)) and not every):
                self.sweep()
                return True
        with self._alone(self._store.timeout) as mine:
            if not mine:
                return False
            with self._store.write(now, space) as tx:
                tx.execute("DELETE FROM vector_index WHERE space = ? AND NOT ready", (tx.space_id,))
                row, gone = _ready(tx), _gone(tx)
            if row is None or len(gone) > _DEAD * row["size"]:
                self._drop(now, space)
                return True
            try:
                with self._changing(now, space, row) as (index, mark):
                    index.delete(gone if row["mark"] == row["next"] else np.union1d(gone, _beyond(index, row["upto"])))
                    index.scrub()
                    self._finish(now, space, row["id"], index, row["upto"], gone, mark)
                self._sweep()
            except (MemspanError, OSError):
                self._drop(now, space)
        return True

    def _drop(self, now: int, space: str) -> None:
        with self._store.write(now, space) as tx:
            drop(tx)
            self._close(tx.space_id)
            self._again.pop(tx.space_id, None)
        self._sweep()

    def sweep(self) -> None:
        """Delete folders that no row names, unless another process is at work on one."""
        if any(self.folder.glob(f"*{_SUFFIX}")):
            with self._alone(0) as mine:
                if mine:
                    self._sweep()

    def _sweep(self) -> None:
        named = {row[0] for row in self._store.connection.execute("SELECT folder FROM vector_index")}
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True)
        if not named:
            self._lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    # --- checking ---

    def check(self, tx: Transaction) -> list[str]:
        """Problems found in the index of the transaction's space, and between it and the rows."""
        row = _ready(tx)
        if row is None:
            return []
        path = self.folder / row["folder"]
        try:
            with contextlib.closing(load_system(row["system"]).open(path)) as index:
                problems = [f"{path}: {problem}" for problem in index.verify()]
                held = index.ids
        except (MemspanError, OSError) as error:
            return [str(error)]
        if not self._belongs(row):
            problems.append(f"{path} is of another state of the store")
        there = tx.execute(
            "SELECT p.id FROM passage p CROSS JOIN record r ON r.id = p.record CROSS JOIN vector v ON v.passage = p.id"
            " WHERE p.space = ? AND p.id <= ? AND r.kind = 'episode'",
            (tx.space_id, row["upto"]),
        ).fetchall()
        rows, gone = np.array([each[0] for each in there], np.int64), _gone(tx)
        if lacking := len(np.setdiff1d(rows, held)):
            problems.append(f"{path} lacks {lacking:,} of {len(rows):,} passages")
        if extra := len(np.setdiff1d(held[held <= row["upto"]], np.concatenate([rows, gone]))):
            problems.append(f"{path} holds {extra:,} passages that are no more")
        return problems

    def repair(self, now: int, space: str, *, progress: bool = False) -> bool:
        """Make the index of a space anew from the rows, or give it up where none is used."""
        with self._alone(self._store.timeout) as mine:
            if not mine:
                return False
            with self._store.read(now, space) as tx:
                space_id, row = tx.space_id, _ready(tx)
            if row is not None and self._choice.usable() is None:
                self._drop(now, space)
                return True
            return self._build(now, space, space_id, progress)

    # --- one at a time ---

    @property
    def _lock(self) -> Path:
        return self.folder / "lock"

    @contextlib.contextmanager
    def _alone(self, wait: float) -> Iterator[bool]:
        """The lock of the process that changes indexes of this store; False when it is not to be had within `wait`
        seconds. It goes with a process that dies."""
        try:
            import fcntl
        except ImportError:  # not on Windows, where no index is made
            yield False
            return
        until = time.monotonic() + wait
        while True:
            self.folder.mkdir(exist_ok=True)
            file = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._lock.exists() and self._lock.stat().st_ino == os.fstat(file).st_ino:
                    break  # else its holder has removed it
            except OSError:
                if time.monotonic() >= until:
                    os.close(file)
                    yield False
                    return
                time.sleep(0.05)
            os.close(file)
        try:
            yield True
        finally:
            os.close(file)


def drop(tx: Transaction) -> None:
    """Give up the index of the transaction's space; its folder goes with the next sweep."""
    tx.execute("DELETE FROM vector_index WHERE space = ?", (tx.space_id,))
    tx.execute("DELETE FROM vector_gone WHERE space = ?", (tx.space_id,))


def _ready(tx: Transaction) -> Row | None:
    row: Row | None = tx.execute(
        "SELECT * FROM vector_index WHERE space = ? AND ready ORDER BY id DESC LIMIT 1", (tx.space_id,)
    ).fetchone()
    return row


def _gone(tx: Transaction) -> I64:
    rows = tx.execute("SELECT passage FROM vector_gone WHERE space = ?", (tx.space_id,)).fetchall()
    return np.array([row[0] for row in rows], np.int64)


def _forget_gone(tx: Transaction, gone: I64) -> None:
    tx.executemany(
        "DELETE FROM vector_gone WHERE space = ? AND passage = ?", [(tx.space_id, int(passage)) for passage in gone]
    )


def _note_gone(tx: Transaction, held: I64) -> None:
    """Note those of an index's passages that are no more: the trigger did not, while the row did not reach to them."""
    there = {row[0] for row in tx.select("SELECT id FROM passage WHERE id IN ({ids})", held.tolist())}
    lost = [(tx.space_id, passage) for passage in held.tolist() if passage not in there]
    tx.executemany("INSERT OR IGNORE INTO vector_gone (space, passage) VALUES (?, ?)", lost)


def _beyond(index: VectorIndex, upto: int) -> I64:
    """The passages after one that an index holds."""
    ids = index.ids
    return ids[ids > upto]


def _last(tx: Transaction, upto: int) -> int:
    """The last passage before the first one of an episode that has no vector."""
    bare = tx.execute(
        "SELECT p.id FROM passage p CROSS JOIN record r ON r.id = p.record"
        " WHERE p.space = ? AND p.id > ? AND r.kind = 'episode'"
        " AND NOT EXISTS (SELECT 1 FROM vector v WHERE v.passage = p.id) ORDER BY p.id LIMIT 1",
        (tx.space_id, upto),
    ).fetchone()
    if bare is not None:
        return int(bare[0]) - 1
    return int(tx.execute("SELECT coalesce(max(id), 0) FROM passage WHERE space = ?", (tx.space_id,)).fetchone()[0])


def _count(tx: Transaction, upto: int) -> int:
    """Vectors of episodes that an index would hold beyond a passage."""
    found = tx.execute(
        "SELECT count(*) FROM passage p CROSS JOIN record r ON r.id = p.record CROSS JOIN vector v ON v.passage = p.id"
        " WHERE p.space = ? AND p.id > ? AND p.id <= ? AND r.kind = 'episode'",
        (tx.space_id, upto, _last(tx, upto)),
    ).fetchone()
    return int(found[0])


def _mark(path: Path) -> str:
    """The mark of an index's folder; of none where there is none."""
    try:
        return (path / "mark").read_text(encoding="utf-8")
    except OSError:
        return "none"


def _write_mark(path: Path, mark: str) -> None:
    made = path / "mark.new"
    with made.open("w", encoding="utf-8") as file:
        file.write(mark)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path / "mark")
