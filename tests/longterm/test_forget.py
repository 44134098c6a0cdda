"""Erasure reaches rows, indexes, versions and the bytes of the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from memspan import Episode, InputError, Memory
from memspan.longterm.zep import Zep
from tests.longterm.doubles import HashEmbedder, ToyScribe, day


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir()).lower()


def test_forgotten_words_are_in_no_file(tmp_path: Path):
    with Memory.open(tmp_path / "a.db", organizer=Zep(ToyScribe()), embedder=HashEmbedder()) as memory:
        memory.add([Episode(f"filler turn {i}", session="s0") for i in range(300)])
        memory.add(
            [
                Episode("Zebedee lives in Xanthippe and plays quizzaciously", "Zebedee", day(1), "secret", "x1"),
                Episode("Ann lives in Lisbon", "Ann", day(2), "open", "x2"),
            ]
        )
        memory.maintain()
        memory.embed_pending()
        assert b"quizzac" in bytes_of(tmp_path) and b"xanthippe" in bytes_of(tmp_path)
        report = memory.forget("x1")
        assert report.episodes == 1 and report.purged and report.derived == {"fact": 1, "entity": 2, "community": 1}
        for word in (b"zebedee", b"xanthippe", b"quizzac"):
            assert word not in bytes_of(tmp_path), word
        assert memory.check() == []
        assert all("Zebedee" not in hit.text for hit in memory.recall("Zebedee Xanthippe", k=20))
        assert memory.recall("Lisbon", kinds=["fact"])[0].episodes == ["x2"]


def test_what_rests_on_other_episodes_stays():
    with Memory.open(":memory:", organizer=Zep(ToyScribe()), embedder=None) as memory:
        memory.add([Episode("Ann likes Tea", at=day(1), id="one"), Episode("Ann likes Tea", at=day(2), id="two")])
        assert memory.recall("Ann Tea", kinds=["fact"])[0].episodes == ["one", "two"]
        report = memory.forget("one")
        assert report.kept == 3 and report.derived == {}
        assert memory.recall("Ann Tea", kinds=["fact"])[0].episodes == ["two"]


def test_a_fact_that_a_forgotten_episode_closed_is_believed_again():
    with Memory.open(":memory:", organizer=Zep(ToyScribe()), embedder=None) as memory:
        memory.add(Episode("Ann lives in Lisbon", at=day(1), id="one"))
        memory.add(Episode("Ann lives in Oslo", at=day(50), id="two"))
        assert [h.metadata["object"] for h in memory.recall("Ann lives", kinds=["fact"])] == ["Oslo"]
        assert memory.forget("two").reopened == 1
        (fact,) = memory.recall("Ann lives", kinds=["fact"])
        assert fact.metadata["object"] == "Lisbon" and fact.invalid_at is None and fact.retired_at is None


def test_by_condition():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(
            [Episode(f"turn {i}", "Ann" if i % 2 else "Bo", day(i + 1), f"s{i % 3}", f"e{i}") for i in range(12)]
        )
        assert memory.forget(session="s0").episodes == 4
        assert memory.forget(speaker="Ann", before=day(7)).episodes == 2
        assert memory.forget(before=day(4)).episodes == 1
        assert memory.forget(everything=True).episodes == 5
        assert memory.stats()["records"] == {}


def test_bad_requests_erase_nothing():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode("stay", id="a"))
        with pytest.raises(InputError, match="no episode has the id 'nope'"):
            memory.forget(["a", "nope"])
        with pytest.raises(InputError, match="everything=True"):
            memory.forget()
        assert memory.recall("stay")[0].id == "a"


def test_other_spaces_are_untouched():
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode("mine", id="a"))
        memory.add(Episode("yours", id="a"), space="other")
        memory.forget(everything=True)
        assert memory.recall("yours", space="other")[0].id == "a"
        memory.add(Episode("mine", id="a"))
        assert memory.forget(space="other").episodes == 1
        assert memory.recall("mine")[0].id == "a" and memory.recall("yours", space="other") == []


def test_forgetting_the_middle_of_a_chain_joins_its_ends():
    with Memory.open(":memory:", organizer=Zep(ToyScribe()), embedder=None) as memory:
        for number, city in enumerate(("Lisbon", "Oslo", "Rome")):
            memory.add(Episode(f"Ann lives in {city}", at=day(10 * number + 1), id=city))
        memory.forget("Oslo")
        windows = [(h.metadata["object"], h.valid_at, h.invalid_at) for h in memory.history("Ann", "LIVES_IN")]
        assert windows == [("Lisbon", day(1), day(21)), ("Rome", day(21), None)]
