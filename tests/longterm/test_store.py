"""The file: opening, locking, migrations, damage."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from memspan.core.errors import InputError, StoreBusyError, StoreError
from memspan.longterm import schema
from memspan.longterm.store import Store


def test_paths():
    assert Store(":memory:").path == ":memory:"
    for bad, message in (
        ("", "empty"),
        ("postgres://x", "not supported"),
        ("/", "directory"),
        ("/no/such/a.db", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            Store(bad)


def test_url_form(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path}/a%20b.db"):
        assert (tmp_path / "a b.db").exists()


def test_a_missing_store_is_not_made_when_it_should_exist(tmp_path: Path):
    with pytest.raises(StoreError, match="there is no store"):
        Store(tmp_path / "a.db", create=False)
    assert not (tmp_path / "a.db").exists()


def test_other_files_are_left_alone(tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("dear diary, this is no database at all, but it is long enough to be looked at " * 20)
    with pytest.raises(StoreError, match="not a memspan store"):
        Store(text)
    other = tmp_path / "other.db"
    sqlite3.connect(other).executescript("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
    with pytest.raises(StoreError, match="another program"):
        Store(other)
    assert sqlite3.connect(other).execute("SELECT x FROM mine").fetchall() == [(1,)]


def test_a_newer_schema_is_refused(tmp_path: Path):
    Store(tmp_path / "a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="upgrade memspan"):
        Store(tmp_path / "a.db")


def test_an_older_schema_is_brought_up_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        older.setattr(schema, "VERSION", 1)
        with Store(tmp_path / "a.db") as store, store.write(0) as tx:
            tx.add_record("note", "n", "kept")
    with Store(tmp_path / "a.db") as store, store.read(0) as tx:
        note = tx.find("note", "n")
        assert note is not None and note["text"] == "kept" and note["used_at"] is None
        assert tx.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION
        assert store.check() == []


def test_a_failed_transaction_leaves_nothing(tmp_path: Path):
    with Store(tmp_path / "a.db") as store:
        with pytest.raises(ValueError, match="half way"), store.write(1) as tx:
            tx.add_record("fact", "f", "text")
            raise ValueError("half way")
        with store.read(1) as tx:
            assert tx.find("fact", "f") is None
        assert store.check() == []


def test_a_second_writer_waits_and_then_is_told(tmp_path: Path):
    with Store(tmp_path / "a.db") as first, Store(tmp_path / "a.db", timeout=0.2) as second:
        with first.write(1) as tx:
            tx.add_record("note", "n", "x")
            with pytest.raises(StoreBusyError, match="locked by another writer"), second.write(1):
                pass
            with second.read(1) as reader:
                assert reader.find("note", "n") is None, "readers do not wait, and see what was committed"
        with second.write(2) as tx:
            assert tx.find("note", "n") is not None


def test_a_second_writer_gets_its_turn(tmp_path: Path):
    with Store(tmp_path / "a.db") as first, Store(tmp_path / "a.db", timeout=10) as second:
        started = threading.Event()

        def slow() -> None:
            with first.write(1) as tx:
                started.set()
                tx.add_record("note", "one", "x")
                threading.Event().wait(0.3)

        thread = threading.Thread(target=slow)
        thread.start()
        started.wait()
        with second.write(2) as tx:
            assert tx.find("note", "one") is not None
        thread.join()


def test_episodes_cannot_be_changed(tmp_path: Path):
    with Store(tmp_path / "a.db") as store:
        with store.write(1) as tx:
            tx.add_record("episode", "e", "said once")
        with pytest.raises(StoreError, match="immutable"), store.write(2) as tx:
            tx.execute("UPDATE record SET text = 'said otherwise'")


def test_damage_is_named(tmp_path: Path):
    path = tmp_path / "a.db"
    with Store(path) as store, store.write(1) as tx:
        for number in range(2000):
            tx.add_record("note", f"n{number}", "some text " * 20)
    raw = bytearray(path.read_bytes())
    raw[8192 : len(raw) // 2] = bytes(len(raw) // 2 - 8192)
    path.write_bytes(raw)
    try:
        with Store(path) as store:
            assert store.check() != []
    except StoreError as error:
        assert "damaged" in str(error)
