"""Sources that disagree are shown together."""

from __future__ import annotations

from typing import Any

import pytest

from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey.conflicts import Conflict, conflicts
from memspan.longterm.memory import Memory
from tests.longterm.doubles import day

QUESTION = "Who is the mayor of Barby?"


def found(*lines: tuple[str, Any], question: str = QUESTION, speaker: str | None = None) -> list[Conflict]:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text=text, at=at, id=f"e{n}", speaker=speaker) for n, (text, at) in enumerate(lines)])
        return conflicts(question, memory.recall(question, k=10))


def test_two_values_of_one_thing_stand_together_the_newest_first() -> None:
    (conflict,) = found(
        ("The mayor of Barby is Ann Holm.", day(1)),
        ("It is sunny. The mayor of Barby is Bo Lind.", day(9)),
        ("Barby has a market.", day(3)),
    )
    assert conflict.dated
    assert [(s.text, s.episode) for s in conflict.statements] == [
        ("The mayor of Barby is Bo Lind.", "e1"),
        ("The mayor of Barby is Ann Holm.", "e0"),
    ]


def test_without_all_dates_none_is_called_the_newest() -> None:
    (conflict,) = found(("The mayor of Barby is Ann Holm.", None), ("The mayor of Barby is Bo Lind.", day(9)))
    assert not conflict.dated
    assert len(conflict.statements) == 2


def test_an_equal_statement_counts_once_with_its_newest_date() -> None:
    lines = [("The mayor of Barby is Ann Holm.", day(n)) for n in (1, 5)]
    assert found(*lines) == []
    (conflict,) = found(*lines, ("The mayor of Barby is Bo Lind.", day(3)))
    assert [s.episode for s in conflict.statements] == ["e1", "e2"]


@pytest.mark.parametrize(
    ("first", "second", "question", "expected"),
    [
        ("The mayor of Barby is Ann Holm.", "The mayor of Corby is Bo Lind.", QUESTION, 0),
        ("About 300 people live in Barby.", "About 450 people live in Barby.", "How many people live in Barby?", 1),
        ("About 300 people live in Barby.", "About 300 people live in Barby now.", "How many people live in Barby?", 0),
        (
            "Ann Holm won the race in 2019.",
            "Bo Lind won the race in 2020.",
            "Who won the race in 2019?",
            0,
        ),
        ("The ferry to Barby runs daily.", "The ferry to Barby never runs daily.", "Does the ferry to Barby run?", 1),
        ("The mayor of Barby is Ann Holm.", "The mayor of Barby met Bo Lind at the fair in May.", QUESTION, 0),
    ],
)
def test_only_the_same_statement_with_another_value_conflicts(
    first: str, second: str, question: str, expected: int
) -> None:
    assert len(found((first, day(1)), (second, day(2)), question=question)) == expected


def test_two_speakers_may_live_in_two_places() -> None:
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(
            [Episode(text=f"I live in {town} now.", speaker=who) for who, town in (("Ann", "Oslo"), ("Bo", "Rom"))]
        )
        assert conflicts("Who lives where?", memory.recall("Who lives where?", k=5)) == []
    assert (
        len(
            found(
                ("I live in Oslo now.", day(1)),
                ("I live in Rom now.", day(2)),
                question="Where do I live?",
                speaker="Ann",
            )
        )
        == 1
    )


def test_nothing_asked_nothing_found() -> None:
    assert conflicts("?", []) == []
    assert found(("The mayor of Barby is Ann Holm.", day(1)), question="Is it?") == []


def test_an_answer_shows_documents_that_disagree_but_not_what_a_speaker_changed() -> None:
    pages = [("The mayor of Barby is Ann Holm.", day(1)), ("The mayor of Barby is Bo Lind.", day(9))]
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(
            [Episode(text=text, at=at, id=f"p{n}", metadata={"doc": f"page {n}"}) for n, (text, at) in enumerate(pages)]
        )
        answer = memory.ask(QUESTION)
    (conflict,) = answer.conflicts
    assert [stated.episode for stated in conflict.statements] == ["p1", "p0"]
    (written,) = answer.to_json()["conflicts"]
    assert written["dated"]
    assert [stated["at"][:10] for stated in written["statements"]] == [f"{at:%Y-%m-%d}" for _, at in reversed(pages)]
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add([Episode(text=text, at=at, id=f"p{n}", speaker="Cleo") for n, (text, at) in enumerate(pages)])
        assert not memory.ask(QUESTION).conflicts
