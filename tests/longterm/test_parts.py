"""The index kept beside a store: it equals one made of the rows, outlives kills, and keeps nothing that is erased."""

from __future__ import annotations

import gc
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memspan import BudgetError, Episode, Memory
from memspan.longterm import parts
from memspan.longterm.index import PassageIndex
from memspan.longterm.indexed import COLUMNS, IN_RAM, POSTINGS
from memspan.longterm.passages import term_hashes
from tests.longterm.doubles import HashEmbedder, day
from tests.longterm.indexes import same_names
from tests.longterm.kills import lines_until_killed

NAMES = ("record_ids", "first", "role", "at", "is_question", "standing", "kind", "owner", "length", "passage_ids")
WORDS = ("sun", "rain", "boat", "kiln", "garden", "tea", "always", "lantern", "moss", "never")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PASSAGES", 16)
    monkeypatch.setattr(parts, "JOINED", 100)


def turns(count: int, first: int = 0) -> list[Episode]:
    chance = random.Random(first)
    return [
        Episode(
            " ".join(chance.choices(WORDS, k=chance.randint(2, 9))) + chance.choice([".", "?", " always tea "]),
            chance.choice(["Ann", "Bo", None]),
            chance.choice([None, day(1 + number % 20)]),
            chance.choice([None, "s1", "s2", f"t{number // 9}", "doc:a@1"]),
            f"e{number}",
            metadata=chance.choice([{}, {"role": "user"}, {"role": "assistant"}]),
        )
        for number in range(first, first + count)
    ]


def opened(path: Path, **options: Any) -> Memory:
    return Memory.open(path, embedder=options.pop("embedder", HashEmbedder()), organizer="plain", **options)


def files(path: Path) -> list[Path]:
    return sorted(path.with_name(path.name + "-index").glob("*"))


def same_as_the_rows(memory: Memory) -> PassageIndex:
    """The index as it is loaded, which equals one made of the rows alone."""
    memory._indexes.clear()
    read: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        by_rows = PassageIndex._append
        patch.setattr(PassageIndex, "_append", lambda index, rows: read.append(len(rows)) or by_rows(index, rows))
        memory.recall("sun")
        with memory.store.read(0, memory.space) as tx:
            index = memory._index(tx, episodes=True)
    assert sum(read) < 4 * parts.PASSAGES, "what is in parts is not read from the rows"
    with memory.store.read(0, memory.space) as tx:
        anew = PassageIndex(tx.space_id, episodes=True)
        anew.refresh(tx)
    for name in (*NAMES, "before", "after"):
        assert np.array_equal(getattr(index, name), getattr(anew, name)), name
    same_names(index, anew)
    for each in (index, anew):
        hidden = each.documents.hidden(10**18)
        assert {name for name, code in each.sessions.items() if code in hidden} <= {"doc:a@1"}
    terms = term_hashes("sun boat garden tea moss")
    assert np.array_equal(index.bm25(terms, (0.5, 0.25)), anew.bm25(terms, (0.5, 0.25)))
    assert index.vectors_missing == anew.vectors_missing
    assert (index.vectors is None) == (anew.vectors is None)
    if index.vectors is not None and anew.vectors is not None:
        for one, other in zip(index.vectors.packed(), anew.vectors.packed(), strict=True):
            assert np.array_equal(one, other)
    assert memory.check() == []
    return index


@pytest.mark.parametrize("level", [IN_RAM, POSTINGS, COLUMNS])
def test_whatever_is_done_the_parts_equal_the_rows(level: int, tmp_path: Path):
    chance = random.Random(4)
    path = tmp_path / "a.db"
    made, here = 0, []
    for round_ in range(10):
        with opened(path, embedder=HashEmbedder() if round_ != 3 else None) as memory:
            memory._indexes._levels[1] = level
            for _ in range(chance.randint(1, 4)):
                act = chance.random()
                if act < 0.7 or len(here) < 20:
                    count = chance.randint(1, 60)
                    here += memory.add(turns(count, made))
                    made += count
                else:
                    gone = chance.sample(here, chance.randint(1, 5))
                    here = [uid for uid in here if uid not in gone]
                    memory.forget(gone)
            same_as_the_rows(memory)
    assert len(files(path)) >= 2
    with opened(path) as memory, memory.store.read(0, "default") as tx:
        rows = memory._indexes._parts._rows(tx) if memory._indexes._parts else []
        assert len(rows) == len(files(path)) and max(row["passages"] for row in rows) >= 100
        assert rows[-1]["last"] > 0.8 * made, "little is left to be read from the rows"
        same_as_the_rows(memory)


def test_what_is_forgotten_is_in_no_file_of_the_index(tmp_path: Path):
    path = tmp_path / "a.db"
    secret = "xylotomographer"
    with opened(path) as memory:
        memory.add(turns(40))
        memory.add(Episode(f"the {secret} was here", "Quillon", session="hidden-session-17", id="secret"))
        memory.add(turns(60, 100))
        memory.recall("sun")
        kept = {each.name for each in files(path)}
        marks = [b"hidden-session-17", b"Quillon", term_hashes(secret).tobytes()]
        with memory.store.read(0, "default") as tx:
            vector = tx.execute(
                "SELECT v.data FROM vector v JOIN passage p ON p.id = v.passage JOIN record r ON r.id = p.record"
                " WHERE r.uid = 'secret'"
            ).fetchone()[0]
            index = memory._index(tx, episodes=True)
            place = index.passages_of(index.places(np.array([41], np.int64)))[0]
        assert index.vectors is not None
        marks.append(index.vectors.packed()[0][place].tobytes())
        assert len(vector) == 128
        held = b"".join(each.read_bytes() for each in files(path))
        assert all(mark in held for mark in marks), "it can be found at all"
        memory.forget("secret")
        held = b"".join(each.read_bytes() for each in files(path)) + path.read_bytes()
        assert not any(mark in held for mark in marks)
        assert len(kept & {each.name for each in files(path)}) >= len(kept) - 1, "other parts stay as they are"
        same_as_the_rows(memory)
        memory.forget(everything=True)
        assert not files(path) and not path.with_name("a.db-index").exists()


def test_what_was_evicted_is_in_no_file_after_the_next_erasure(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path, embedder=None) as memory:
        memory.add([Episode(turn.text, session=f"session-of-{turn.id}-", id=turn.id) for turn in turns(100)])
        memory.limits(disk=memory.limits().used * 2 // 3)
        same_as_the_rows(memory)
        assert memory.stats()["evicted"]["episodes"] > 10
        memory.maintain(prune=True)
        held = b"".join(each.read_bytes() for each in files(path))
        here = {row[0] for row in memory.store.connection.execute("SELECT uid FROM record")}
        assert len(here) < 90
        assert not [f"e{n}" for n in range(100) if f"e{n}" not in here and f"session-of-e{n}-".encode() in held]
        assert b"session-of-" in held
        same_as_the_rows(memory)


@pytest.mark.parametrize("damage", ["missing", "cut", "header", "column", "vectors", "all missing"])
def test_a_damaged_part_is_found_and_made_again(damage: str, tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as memory:
        memory.add(turns(150))
        memory.embed_pending()
        wanted = [(hit.id, hit.score) for hit in memory.recall("sun boat moss", k=30)]
    victim = files(path)[-1]
    content = bytearray(victim.read_bytes())
    if damage.endswith("missing"):
        for each in files(path) if damage == "all missing" else [victim]:
            each.unlink()
    elif damage == "cut":
        victim.write_bytes(content[: len(content) // 2])
    else:
        at = {"header": 40, "column": len(content) // 4, "vectors": len(content) - 70}[damage]
        content[at] ^= 0xFF
        victim.write_bytes(content)
    with opened(path) as memory:
        assert len(memory.check()) == (3 if damage == "all missing" else 1) or damage == "all missing"
        assert [(hit.id, hit.score) for hit in memory.recall("sun boat moss", k=30)] == wanted
        same_as_the_rows(memory)
    with opened(path) as memory:
        same_as_the_rows(memory)
        assert len(files(path)) >= 1


def test_a_store_from_before_or_a_copied_one_gets_its_parts_at_the_first_recall(tmp_path: Path):
    with opened(tmp_path / "a.db") as memory:
        memory.add(turns(200))
        wanted = [(hit.id, hit.score) for hit in memory.recall("sun boat moss", k=30)]
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "a.db").read_bytes())
    with opened(copy) as memory:
        assert memory.check() and not files(copy)
        assert [(hit.id, hit.score) for hit in memory.recall("sun boat moss", k=30)] == wanted
        assert files(copy)
        same_as_the_rows(memory)


def test_vectors_that_come_later_are_taken_in(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path, embedder=None) as memory:
        memory.add(turns(150))
        assert same_as_the_rows(memory).vectors is None
    with opened(path) as memory:
        assert same_as_the_rows(memory).vectors_missing == 0
        missing = memory.store.connection.execute("SELECT sum(missing), count(*) FROM part").fetchone()
        assert missing[0] == 0 < missing[1]
        memory.maintain(reembed=True)
        same_as_the_rows(memory)


def test_two_processes_and_two_spaces_share_the_files(tmp_path: Path):
    path = tmp_path / "a.db"
    with opened(path) as one, opened(path) as other:
        for first in range(0, 300, 50):
            one.add(turns(30, first))
            other.add(turns(20, first + 30))
            other.add(turns(10, 1000 + first), space="more")
        one.forget(["e7", "e8"])
        for memory in (one, other):
            same_as_the_rows(memory)
        other.forget(space="more")
        assert {each.name.split("-")[0] for each in files(path)} == {"1"}
        same_as_the_rows(one)


def test_kills_at_any_moment(tmp_path: Path):
    path = tmp_path / "a.db"
    chance = random.Random(2)
    first, forgotten = 0, set()
    for _ in range(25):
        lines = lines_until_killed("tests.longterm.parts_writer", path, first, chance, 0.15)
        done = [line.split() for line in lines]
        first = max([first, *(int(number) + 2 for what, number in done if what == "added")])
        forgotten |= {f"secret{number}" for what, number in done if what == "forgot"}
    with opened(path) as memory:
        same_as_the_rows(memory)
        memory.add(turns(40, 100_000))
        with memory.store.read(0, "default") as tx:
            named = {row[0] for row in tx.execute("SELECT file FROM part")}
        assert {each.name for each in files(path)} == named, "what a killed process left is gone"
        assert forgotten and named
        held = b"".join(each.read_bytes() for each in files(path))
        assert not [session for session in forgotten if f'"{session}"'.encode() in held]
        same_as_the_rows(memory)


@pytest.mark.parametrize("kept", [True, False])
def test_the_first_recall_stays_within_the_budget(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "PASSAGES", 8192)
    path = tmp_path / "a.db"
    chance = random.Random(1)
    with opened(path) as memory:
        for first in range(0, 40_000, 2000):
            memory.add(
                Episode(
                    " ".join(f"w{int(chance.paretovariate(0.5)) % 9000}" for _ in range(12)), session=f"s{number // 10}"
                )
                for number in range(first, first + 2000)
            )
        wanted = [(hit.id, hit.score) for hit in memory.recall("w1 w7 w31", k=50)]
    assert len(files(path)) == 4
    if not kept:
        for each in files(path):
            each.unlink()
    with opened(path, budget=1000) as memory, pytest.raises(BudgetError) as told:
        memory.recall("w1 w7 w31")
    gc.collect()
    with opened(path, budget=told.value.needed) as memory:
        cache = memory.store.footprint().by_place["ram"]  # SQLite's pages, which are not traced
        tracemalloc.start()
        try:
            assert [(hit.id, hit.score) for hit in memory.recall("w1 w7 w31", k=50)] == wanted
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert {index.level for index in memory._indexes.values()} == {COLUMNS}
        assert peak + cache <= told.value.needed + 2_000_000, "what one recall takes whatever the size"
