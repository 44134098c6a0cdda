"""Documents: versions stay addressable, the newest counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memspan.core.errors import InputError
from memspan.longterm.knowledge_survey.documents import read, upsert, versions
from memspan.longterm.memory import Memory

OLD = "The mayor of Barby is Ann Holm. The town is old.\n\nIt has 300 people."
NEW = OLD.replace("Ann Holm", "Bo Lind")


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory.open(":memory:", embedder=None, organizer="plain") as opened:
        upsert(opened, "d7", OLD, source="towns.md", at="2020-01-01", chunk=30)
        yield opened


def test_the_newest_version_answers_and_the_old_one_stays(memory: Memory) -> None:
    upsert(memory, "d7", NEW, source="towns.md", at="2022-01-01", chunk=30)
    question = "Who is the mayor of Barby?"
    answer = memory.ask(question)
    assert "Bo Lind" in answer.text
    source = answer.citations[0].source
    assert (source["doc"], source["version"], source["source"]) == ("d7", 2, "towns.md")
    assert NEW[source["start"] : source["stop"]] == answer.citations[0].text
    assert all(hit.metadata["version"] == 2 for hit in answer.recollections)
    earlier = memory.ask(question, as_of="2021-06-01")
    assert "Ann Holm" in earlier.text
    assert earlier.citations[0].source["version"] == 1
    assert memory.ask(question, as_of="2019-01-01").abstained
    assert memory.check() == []


def test_every_version_can_be_read(memory: Memory) -> None:
    upsert(memory, "d7", NEW, at="2022-01-01")
    assert read(memory, "d7") == NEW
    assert read(memory, "d7", version=1) == OLD
    assert read(memory, "d7", as_of="2021-01-01") == OLD
    assert [v.number for v in versions(memory, "d7")] == [1, 2]


def test_an_equal_text_adds_nothing(memory: Memory) -> None:
    again = upsert(memory, "d7", OLD, at="2022-01-01")
    assert again.number == 1
    assert len(versions(memory, "d7")) == 1


def test_forgetting_the_newest_brings_back_the_one_before(memory: Memory) -> None:
    newest = upsert(memory, "d7", NEW, at="2022-01-01")
    memory.forget(newest.episodes)
    assert "Ann Holm" in memory.ask("Who is the mayor of Barby?").text


def test_many_superseded_chunks_do_not_hide_the_newest(memory: Memory) -> None:
    for year in range(2021, 2026):
        text = "\n".join(f"The mayor of Barby number {place} is Ann{year}." for place in range(8))
        upsert(memory, "d7", text, at=f"{year}-01-01", chunk=30)
    answer = memory.ask("Who is the mayor of Barby?", k=2, abstain_below=0.0)
    assert {hit.metadata["version"] for hit in answer.recollections} == {6}


def test_bad_input(memory: Memory) -> None:
    with pytest.raises(InputError, match="no document 'nope'"):
        read(memory, "nope")
    with pytest.raises(InputError, match="no such version"):
        read(memory, "d7", version=9)
    with pytest.raises(InputError, match="@"):
        upsert(memory, "a@b", "text")
    with pytest.raises(InputError, match="no text"):
        upsert(memory, "d8", "  ")
    with pytest.raises(InputError, match="order of their time"):
        upsert(memory, "d7", NEW, at="2019-01-01")
    with pytest.raises(InputError, match="chunk"):
        upsert(memory, "d7", NEW, chunk=0)
