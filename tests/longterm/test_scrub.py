"""Free space in pages: zeroed in place, at any size, beside other connections, and nothing else is touched."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from memspan import Episode, Memory
from memspan.longterm import scrub


def held(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_no_copy_of_what_was_forgotten_stays_in_any_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chance = random.Random(5)
    written: list[int] = []
    plain = scrub.scrub
    monkeypatch.setattr(scrub, "scrub", lambda path, size: written.append(plain(path, size)) or written[-1])
    words = {f"e{n}": f"quux{chance.randrange(10**12):012d}" for n in range(1500)}
    with Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as memory:
        memory.add([Episode(f"{w} " + "chatter " * chance.randrange(60), id=uid) for uid, w in words.items()])
        with memory.store.write(1) as tx:  # rows that grow move to other pages
            rows = list(range(1, 1501, 3))
            tx.executemany("UPDATE record SET used_at = ?, strength = 1.5 WHERE id = ?", [(2**50, row) for row in rows])
        here = list(words)
        chance.shuffle(here)
        for _ in range(8):
            gone = [here.pop() for _ in range(40)]
            assert memory.forget(gone).purged
            left = held(tmp_path)
            assert not [uid for uid in gone if words[uid].encode() in left]
        assert sum(written) > 0, "there were copies in free space"
        assert memory.check() == []
        assert all(words[uid].encode() in held(tmp_path) for uid in here)
        assert memory.recall(words[here[0]], k=1)[0].id == here[0]


def test_another_connection_does_not_bring_old_bytes_back(tmp_path: Path):
    path = tmp_path / "a.db"
    with (
        Memory.open(path, embedder=None, organizer="plain") as memory,
        Memory.open(path, embedder=None, organizer="plain") as other,
    ):
        memory.add([Episode(f"filler turn {n} " * 9, id=f"f{n}") for n in range(400)])
        memory.add(Episode("The password is xyzzy12345.", id="secret"))
        assert other.recall("password", k=1)[0].id == "secret"  # its pages are cached there
        assert memory.forget("secret").purged
        other.add([Episode(f"more {n}") for n in range(50)])  # writes to the same pages
        assert b"xyzzy12345" not in held(tmp_path)
        other.store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert b"xyzzy12345" not in held(tmp_path) and other.check() == []


def test_only_free_space_is_written(tmp_path: Path):
    path = tmp_path / "a.db"
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA secure_delete = OFF; CREATE TABLE t (x TEXT); CREATE INDEX i ON t (x)")
    with connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(f"row {n} " * (n % 700),) for n in range(1200)])
    with connection:
        connection.execute("DELETE FROM t WHERE rowid % 3 = 0")
        connection.execute("UPDATE t SET x = x || 'longer' WHERE rowid % 5 = 0")
    before = connection.execute("SELECT rowid, x FROM t ORDER BY rowid").fetchall()
    connection.close()
    size = path.stat().st_size
    assert scrub.scrub(path, 4096) > 0
    assert scrub.scrub(path, 4096) == 0 and path.stat().st_size == size
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT rowid, x FROM t ORDER BY rowid").fetchall() == before
    connection.close()


def test_a_file_of_which_much_is_free_is_rewritten(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", embedder=None, organizer="plain") as memory:
        memory.add([Episode(f"turn {n} " * 50, session=f"s{n % 2}") for n in range(1000)])
        before = memory.store.disk_bytes()
        assert memory.forget(session="s0").purged
        assert memory.store.disk_bytes() < 0.7 * before and not memory.store.loose()
