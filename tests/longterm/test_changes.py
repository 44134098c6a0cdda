"""Attribute changes are seen, undone, taken back when their cause is forgotten, and exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import Episode, InputError, Memory
from memspan.longterm.base import Organizer
from memspan.longterm.changes import attributes, changes, set_attribute, undo
from memspan.longterm.store import Store, Transaction


class Moods(Organizer):
    """One note, whose mood every episode changes to its own text."""

    name = "moods"
    kinds = ("note",)

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        for record, episode, _ in episodes:
            note = tx.find("note", "n")
            if note is None:
                tx.add_record("note", "n", "a note", sources=[record], data={"mood": episode.text})
            else:
                tx.add_sources(note["id"], [record])
                set_attribute(tx, note["id"], "mood", episode.text, cause=record, reason="said")

    def on_undo(self, tx: Transaction, records: Sequence[int]) -> None:
        self.rebuilt = list(records)


def mood(memory: Memory) -> Any:
    with memory.store.read(0) as tx:
        note = tx.find("note", "n")
        assert note is not None
        return attributes(note).get("mood")


def told(*texts: str) -> Memory:
    memory = Memory.open(":memory:", organizer=Moods(), embedder=None)
    for text in texts:
        memory.add(Episode(text, id=text))
    return memory


def test_changes_are_listed_with_their_cause():
    with told("calm", "glad", "sad") as memory:
        listed = memory.changes("n")
        assert [(c.old, c.new, c.cause, c.reason) for c in listed] == [
            ("calm", "glad", "glad", "said"),
            ("glad", "sad", "sad", "said"),
        ]
        assert listed[0].at is not None and memory.changes(kind="fact") == []


def test_the_last_change_undone_restores_the_value_before():
    with told("calm", "glad") as memory:
        memory.undo(memory.changes()[0].id)
        assert mood(memory) == "calm" and memory.changes() == [] and memory.organizer.rebuilt


def test_a_change_in_the_middle_undone_leaves_the_later_one():
    with told("calm", "glad", "sad") as memory:
        memory.undo(memory.changes()[0].id)
        assert mood(memory) == "sad"
        assert [(c.old, c.new) for c in memory.changes()] == [("calm", "sad")]
        with pytest.raises(InputError, match="no change 99"):
            memory.undo(99)


def test_forgetting_the_cause_takes_its_change_back(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", organizer=Moods(), embedder=None) as memory:
        for text in ("calm", "quizzical", "sad"):
            memory.add(Episode(text, id=text))
        memory.forget("quizzical")
        assert mood(memory) == "sad" and [(c.old, c.new) for c in memory.changes()] == [("calm", "sad")]
        memory.forget("sad")
        assert mood(memory) == "calm" and memory.changes() == []
    assert b"quizzical" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_changes_travel_with_an_export(tmp_path: Path):
    with told("calm", "glad") as memory:
        memory.export(tmp_path / "out.jsonl")
        before = memory.changes()
    with Memory.open(":memory:", organizer=Moods(), embedder=None) as other:
        other.import_(tmp_path / "out.jsonl")
        assert [(c.record, c.old, c.new, c.cause) for c in other.changes()] == [
            (c.record, c.old, c.new, c.cause) for c in before
        ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_all_undone_in_any_order_is_where_it_began(values: list[int], chance: Any):
    with Store(":memory:") as store, store.write(0) as tx:
        note = tx.add_record("note", "n", "a note", data={"x": -1})
        for value in values:
            set_attribute(tx, note, "x", value)
        while left := changes(tx):
            undo(tx, chance.choice(left).id)
        assert attributes(tx.records([note])[note]) == {"x": -1}


def test_a_callers_id_may_look_like_a_counted_one():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        assert memory.add([Episode("one", id="e2"), Episode("two"), Episode("three")]) == ["e2", "e2'", "e3"]
        assert memory.add(Episode("four", id="e5")) == ["e5"]
        assert memory.add(Episode("five")) == ["e5'"]


class Fading(Organizer):
    """Shows only what was used."""

    name = "fading"
    learns_from_use = True

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        pass

    def on_use(self, tx: Transaction, records: Sequence[int]) -> None:
        tx.executemany(
            "UPDATE record SET strength = strength + 1, used_at = ? WHERE id = ?", [(tx.now, r) for r in records]
        )

    def shown(self, search: Any) -> Any:
        used = [row[0] for row in search.tx.execute("SELECT id FROM record WHERE used_at IS NOT NULL")]
        mask = search.episodes.record_ids[:, None] == used
        return mask.any(1)

    def stats(self, tx: Transaction) -> dict[str, Any]:
        return {"used": tx.execute("SELECT count(*) FROM record WHERE used_at IS NOT NULL").fetchone()[0]}


def test_use_reaches_the_organizer_and_recall_shows_what_it_shows():
    with Memory.open(":memory:", organizer=Fading(), embedder=None) as memory:
        memory.add([Episode("tea is green", id="a"), Episode("tea is black", id="b")])
        assert memory.recall("tea") == [] and memory.stats()["fading"] == {"used": 0}
        assert memory.use("b") == 1
        assert [hit.id for hit in memory.recall("tea")] == ["b"] and memory.stats()["fading"] == {"used": 1}
        with pytest.raises(InputError, match="'nope'"):
            memory.use(["a", "nope"])
        assert [hit.id for hit in memory.recall("tea")] == ["b"]


def test_ask_uses_what_it_cites():
    class Watching(Fading):
        def shown(self, search: Any) -> Any:
            return None

    with Memory.open(":memory:", organizer=Watching(), embedder=None) as memory:
        memory.add([Episode("I moved to Lisbon.", speaker="Ann", id="a"), Episode("It rains.", speaker="Bo", id="b")])
        answer = memory.ask("Where did Ann move?", abstain_below=0.0)
        assert answer.citations and memory.stats()["fading"] == {"used": len({c.episode for c in answer.citations})}
