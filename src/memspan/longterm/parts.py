"""The index of a space's episodes kept in files beside the store, so that opening it does not mean making it again.

The rows are the truth. A *part* holds what an index makes of a run of passages; table `part` names the parts that
count, and passages after the last one are read from their rows as ever. Parts are written under the store's write
lock, are on the disk before the transaction that names them commits, and never change: small ones are joined, and one
that holds forgotten episodes is replaced, by new files. So a process that is killed leaves at most files that no row
names, which the next writer deletes; and a part that is missing, damaged, or of a file that was restored from a copy
does not count: what it held is read from the rows and written again.

A part holds no text, but hashes of stems, vectors, and the names of sessions and speakers. `clean` makes it forget.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import StoreError
from memspan.longterm.indexed import IndexedRows
from memspan.longterm.limits import known_dim
from memspan.longterm.partfile import COLUMNS, Chunks, PartFile, concatenated, write_part

if TYPE_CHECKING:
    from memspan.longterm.store import Row, Store, Transaction
    from memspan.longterm.vectors import I64

PASSAGES = 8192
"""Passages of a new part, but for those of its last record."""
JOINED = 65_536
"""Passages of which on small parts are joined to one. That takes up to 40 MB of RAM for a moment."""
_LATE = 4  # parts' worth of passages that may wait for their vectors before they are written without
_DEAD = 0.2  # share of a part's records that may be erased before it is written again


class Parts:
    """The parts beside one store.

    Args:
        store: a store in a file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._checked: set[str] = set()
        self._damaged: set[str] = set()
        self._waiting: dict[int, int] = {}  # space -> passages after its last part, as far as this process knows
        path = Path(store.path).resolve()
        self.folder = path.with_name(path.name + "-index")

    # --- reading ---

    def load(self, tx: Transaction, index: IndexedRows) -> None:
        """Fill an empty index of episodes; it stays empty where a part cannot be read."""
        rows = self._rows(tx)
        if not rows:
            return
        try:
            files = [self._open(row) for row in rows]
            index.reserve(
                sum(file.passages for file in files) + PASSAGES,
                sum(file.records for file in files) + PASSAGES,
                max(file.dim for file in files),
            )
            for file in files:
                index.adopt(file)
        except StoreError:
            index.start_anew()
            return
        unread = [(row["first"], row["last"], row["seen_vector"]) for row in rows if row["missing"]]
        generation = min(row["generation"] for row in rows)
        index.loaded(str(generation) if generation else "", rows[-1]["last"], unread)

    def _open(self, row: Row) -> PartFile:
        name = row["file"]
        if name in self._damaged:
            raise StoreError(f"{self.folder / name} is damaged")
        return PartFile(self.folder / name, row["nbytes"], checked=name in self._checked)

    @staticmethod
    def _rows(tx: Transaction) -> list[Row]:
        return tx.execute("SELECT * FROM part WHERE space = ? ORDER BY first", (tx.space_id,)).fetchall()

    @property
    def nbytes(self) -> int:
        """Bytes on disk of the parts that count."""
        return int(self._store.connection.execute("SELECT coalesce(sum(nbytes), 0) FROM part").fetchone()[0])

    # --- writing ---

    def due(self, tx: Transaction, added: int | None = None) -> bool:
        """Whether a part can be written.

        Args:
            tx: of the space.
            added: how many episodes this process has added since it was last asked; None counts the rows.
        """
        known = self._waiting.get(tx.space_id)
        if added is None or known is None or known + added >= PASSAGES:
            last = tx.execute("SELECT coalesce(max(last), 0) FROM part WHERE space = ?", (tx.space_id,)).fetchone()[0]
            known, added = self._count(tx, last), 0
        self._waiting[tx.space_id] = known + added
        return known + added >= PASSAGES

    def unusable(self, tx: Transaction) -> bool:
        """Whether a part of the space cannot be read or followed, or lacks vectors that are there."""
        newest = tx.execute("SELECT coalesce(max(id), 0) FROM vector").fetchone()[0]
        now = tx.meta("generation") or "0"
        rows = self._rows(tx)
        oldest = str(min((row["generation"] for row in rows), default=now))
        if oldest != now and tx.erased_since(oldest, now) is None:
            return True
        for row in rows:
            if row["missing"] and row["seen_vector"] < newest:
                return True
            try:
                part = self._open(row)
                if row["file"] not in self._checked:
                    part.check()
                    self._checked.add(row["file"])
            except StoreError:
                self._damaged.add(row["file"])
                return True
        return False

    def extend(self, tx: Transaction) -> bool:
        """Write the next part, and put right what is wrong with others; False when there is nothing to write."""
        self._sweep(tx)
        rows = self._sound(tx)
        last = rows[-1]["last"] if rows else 0
        waiting = self._count(tx, last)
        self._waiting[tx.space_id] = waiting
        if waiting < PASSAGES:
            return False
        to = tx.execute(
            "SELECT id FROM passage WHERE space = ? AND id > ? ORDER BY id LIMIT 1 OFFSET ?",
            (tx.space_id, last, PASSAGES - 1),
        ).fetchone()[0]
        to = tx.execute(
            "SELECT max(id) FROM passage WHERE record = (SELECT record FROM passage WHERE id = ?)", (to,)
        ).fetchone()[0]
        late = known_dim(tx) and self._bare(tx, last, to)
        if late and waiting < _LATE * PASSAGES:
            return False
        index = self._index(tx, last)
        index.read_passages(tx, to)
        if len(index):
            index.read_vectors(tx, last + 1, to, 0)
            self._write(tx, index, last + 1, to)
            self._join(tx)
        elif rows:  # all of it is derived from episodes
            tx.execute("UPDATE part SET last = ? WHERE id = ?", (to, rows[-1]["id"]))
        else:
            return False
        self._waiting[tx.space_id] = self._count(tx, to)
        return True

    def clean(self, tx: Transaction, *, every: bool = False) -> None:
        """Replace the parts of the space that hold erased episodes; the files go with the next `sweep`.

        Args:
            tx: a writing transaction.
            every: also where few are erased, so that no part holds anything of them.
        """
        self._sound(tx, share=0.0 if every else _DEAD)

    def sweep(self, now: int, space: str) -> None:
        """Delete files that no row names, of any space; `space` is one that is there."""
        if self.folder.exists():
            with self._store.write(now, space) as tx:
                self._sweep(tx)

    def _sweep(self, tx: Transaction) -> None:
        """Under the write lock nobody else is between writing a file and naming it."""
        if not self.folder.exists():
            return
        named = {row[0] for row in tx.execute("SELECT file FROM part")}
        for path in self.folder.glob("*.part"):
            if path.name not in named:
                with contextlib.suppress(OSError):  # some systems delete no file that a process has mapped
                    path.unlink()
        if not named:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def check(self, tx: Transaction) -> list[str]:
        """Problems found: parts that are damaged or do not hold the rows' passages."""
        problems = []
        for row in self._rows(tx):
            try:
                part = self._open(row)
                part.check()
                held = part.read("passage_ids")[
                    np.isin(part.read("record_ids"), self._alive(tx, row))[part.read("owner")]
                ]
            except StoreError as error:
                problems.append(f"{error}; the next recall makes it again")
                continue
            there = tx.execute(
                "SELECT p.id FROM passage p CROSS JOIN record r ON r.id = p.record"
                " WHERE p.space = ? AND p.id BETWEEN ? AND ? AND r.kind = 'episode' ORDER BY p.id",
                (tx.space_id, row["first"], row["last"]),
            ).fetchall()
            if held.tolist() != [each[0] for each in there]:
                problems.append(f"{part.path} does not hold the passages of its rows; delete it, and it is made again")
        return problems

    # --- one part ---

    def _sound(self, tx: Transaction, share: float = _DEAD) -> list[Row]:
        """The parts of the space, after those that were not right have been replaced or dropped."""
        now = int(tx.meta("generation") or 0)
        newest = tx.execute("SELECT coalesce(max(id), 0) FROM vector").fetchone()[0]
        for row in self._rows(tx):
            try:
                part = self._open(row)
                late = row["missing"] and row["seen_vector"] < newest
                gone = self._gone(tx, row, part, now)
                if not len(gone) and row["generation"] != now:
                    tx.execute("UPDATE part SET generation = ? WHERE id = ?", (now, row["id"]))
                if late or len(gone) > share * part.records:
                    self._replace(tx, [row], [part], gone, late=bool(late))
            except StoreError:  # damaged, or there is no room for another: those after it count no more either
                tx.execute("DELETE FROM part WHERE space = ? AND first >= ?", (tx.space_id, row["first"]))
                break
        return self._rows(tx)

    def _gone(self, tx: Transaction, row: Row, part: PartFile, now: int) -> I64:
        """Records of a part that are no more."""
        if row["generation"] == now:
            return np.zeros(0, np.int64)
        records = part.read("record_ids")
        erased = tx.erased_since(str(row["generation"]), str(now))
        if erased is None or len(erased) > len(records):
            return records[~np.isin(records, self._alive(tx, row))]
        found: I64 = np.intersect1d(erased, records)
        return found

    @staticmethod
    def _alive(tx: Transaction, row: Row) -> I64:
        rows = tx.execute(
            "SELECT id FROM record WHERE id BETWEEN ? AND ? AND space = ? AND kind = 'episode'",
            (row["first_record"], row["last_record"], tx.space_id),
        ).fetchall()
        return np.array([each[0] for each in rows], np.int64)

    def _join(self, tx: Transaction) -> None:
        """Make one part of the last small ones when they are enough for a large one."""
        small: list[Row] = []
        for row in reversed(self._rows(tx)):
            if row["passages"] >= JOINED:
                break
            small.insert(0, row)
        if len(small) > 1 and sum(row["passages"] for row in small) >= JOINED:
            try:
                files = [self._open(row) for row in small]
                now = int(tx.meta("generation") or 0)
                gone = [self._gone(tx, row, file, now) for row, file in zip(small, files, strict=True)]
                self._replace(tx, small, files, np.concatenate(gone))
            except StoreError:
                tx.execute("DELETE FROM part WHERE space = ? AND first >= ?", (tx.space_id, small[0]["first"]))

    def _replace(
        self, tx: Transaction, rows: Sequence[Row], files: Sequence[PartFile], gone: I64, *, late: bool = False
    ) -> None:
        """Write one part for several, without erased records, and with vectors that came `late`."""
        index = self._index(tx, 0)
        for file in files:
            index.adopt(file, vectors=late)
        index.take_out(gone)
        tx.executemany("DELETE FROM part WHERE id = ?", [(row["id"],) for row in rows])
        if not len(index):
            return
        first, last = rows[0]["first"], rows[-1]["last"]
        if late:
            index.read_vectors(tx, first, last, min(row["seen_vector"] for row in rows))
            self._write(tx, index, first, last)
            return
        arrays: dict[str, list[NDArray[np.generic]]] = {}
        dim = max(file.dim for file in files)
        for file in files if dim else ():
            keep = ~np.isin(file.read("record_ids"), gone)[file.read("owner")]
            for name, values in self._vectors_of(file, dim).items():
                arrays.setdefault(name, []).append(values if keep.all() else values[keep])
        seen = min(row["seen_vector"] for row in rows)
        self._write(tx, index, first, last, {name: concatenated(of) for name, of in arrays.items()}, dim, seen)

    @staticmethod
    def _vectors_of(file: PartFile, dim: int) -> dict[str, NDArray[np.generic]]:
        count = file.passages
        if file.dim:
            return {name: file.read(name) for name in ("has_vector", "values", "scale", "signs")}
        return {
            "has_vector": np.zeros(count, np.bool_),
            "values": np.zeros((count, dim), np.int8),
            "scale": np.zeros(count, np.float32),
            "signs": np.zeros((count, -(-dim // 64)), np.uint64),
        }

    def _index(self, tx: Transaction, last: int) -> IndexedRows:
        index = IndexedRows(tx.space_id, episodes=True)
        index.loaded(tx.meta("generation") or "", last, [])
        return index

    def _write(
        self,
        tx: Transaction,
        index: IndexedRows,
        first: int,
        last: int,
        vectors: dict[str, Chunks] | None = None,
        dim: int = 0,
        seen: int | None = None,
    ) -> None:
        """Write what an index holds and name it; its own vectors unless others are given."""
        segment = index.segment()
        arrays: dict[str, Chunks] = {name: [getattr(index, name)] for name in COLUMNS}
        arrays |= {"terms": [segment.terms], "starts": [segment.starts]}
        arrays |= {"posted": [segment.passages], "counts": [segment.counts]}
        if vectors is None:
            vectors = {}
            if index.vectors is not None:
                values, scale, signs = index.vectors.packed()
                dim = index.vectors.dim
                vectors = {"has_vector": [index.has_vector], "values": [values], "scale": [scale]}
                vectors["signs"] = [np.stack(signs, axis=1)]
        if seen is None:
            seen = int(tx.execute("SELECT coalesce(max(id), 0) FROM vector").fetchone()[0])
        having = sum(int(np.count_nonzero(chunk)) for chunk in vectors.get("has_vector", ()))
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"the index cannot be written to {self.folder}: {error.strerror}") from error
        name = f"{tx.space_id}-{first}-{secrets.token_hex(8)}.part"
        nbytes = write_part(
            self.folder / name, arrays | vectors, sessions=list(index.sessions), speakers=list(index.speakers), dim=dim
        )
        records = index.record_ids
        tx.execute(
            "INSERT INTO part (space, first, last, first_record, last_record, passages, missing, seen_vector,"
            " generation, file, nbytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(tx.space_id, first, last, int(records[0]), int(records[-1]), len(index.owner)),
                *(len(index.owner) - having, seen, int(tx.meta("generation") or 0), name, nbytes),
            ),
        )

    @staticmethod
    def _count(tx: Transaction, last: int) -> int:
        """Passages of the space after one."""
        found = tx.execute("SELECT count(*) FROM passage WHERE space = ? AND id > ?", (tx.space_id, last)).fetchone()
        return int(found[0])

    @staticmethod
    def _bare(tx: Transaction, last: int, to: int) -> bool:
        """Whether a passage in a range has no vector."""
        found = tx.execute(
            "SELECT 1 FROM passage p WHERE p.space = ? AND p.id > ? AND p.id <= ?"
            " AND NOT EXISTS (SELECT 1 FROM vector v WHERE v.passage = p.id) LIMIT 1",
            (tx.space_id, last, to),
        ).fetchone()
        return found is not None
