"""The graph read by the rule scribe from plain English."""

from __future__ import annotations

import pytest

from memspan import Episode, Memory
from tests.longterm.doubles import day

pytest.importorskip("spacy")


@pytest.fixture(scope="module")
def scribe():
    from memspan.longterm.scribe import load_scribe

    return load_scribe("rules")


def life(scribe, *turns: tuple[str, str, int]) -> Memory:
    memory = Memory.open(":memory:", organizer="zep", scribe=scribe, embedder=None, now=lambda: day(360))
    memory.add([Episode(text, speaker, day(when), "s") for speaker, text, when in turns])
    return memory


def now(memory: Memory, subject: str, relation: str) -> list[str]:
    return [hit.metadata["object"] for hit in memory.history(subject, relation, as_of=day(359))]


def test_a_move(scribe):
    memory = life(
        scribe, ("Ann", "I live in Lisbon.", 1), ("Bo", "Nice!", 1), ("Ann", "I moved to Oslo last week.", 100)
    )
    assert now(memory, "Ann", "LIVES_IN") == ["Oslo"]
    (old, new) = memory.history("Ann", "LIVES_IN")
    assert old.metadata["object"] == "Lisbon" and old.invalid_at == new.valid_at is not None
    assert day(86) <= new.valid_at < day(100), "last week is before the day it was said"


def test_an_ending_that_names_nothing(scribe):
    memory = life(scribe, ("Ann", "I work at Acme.", 1), ("Ann", "I quit my job.", 50))
    assert now(memory, "Ann", "WORKS_AT") == []


def test_two_people_do_not_retire_each_other(scribe):
    memory = life(scribe, ("Ann", "I live in Lisbon.", 1), ("Bo", "I live in Oslo.", 2), ("Ann", "I work at Acme.", 3))
    assert now(memory, "Ann", "LIVES_IN") == ["Lisbon"] and now(memory, "Bo", "LIVES_IN") == ["Oslo"]
    assert now(memory, "Ann", "WORKS_AT") == ["Acme"]


def test_a_divorce_ends_a_marriage_told_by_the_other(scribe):
    memory = life(scribe, ("Ann", "I am married to Bo.", 1), ("Bo", "I got divorced.", 90))
    closed = [hit for hit in memory.history("Ann") if hit.metadata["relation"] == "MARRIED_TO"]
    assert [hit.invalid_at is not None for hit in closed] == [True]


def test_ask_answers_with_the_fact_that_holds(scribe):
    memory = life(
        scribe, ("Ann", "I live in Lisbon.", 1), ("Bo", "I live in Rome.", 2), ("Ann", "I moved to Oslo.", 90)
    )
    answer = memory.ask("Where does Ann live now?")
    assert "Oslo" in answer.text and [citation.text for citation in answer.citations] == ["I moved to Oslo."]
    before = memory.ask("Where does Ann live?", as_of=day(30))
    assert "Lisbon" in before.text and [citation.text for citation in before.citations] == ["I live in Lisbon."]
