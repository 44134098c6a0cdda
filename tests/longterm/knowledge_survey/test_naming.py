"""Names stand for what a conversation gives them to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from memspan.longterm.base import Episode
from memspan.longterm.knowledge_survey.config import KnowledgeSurveyConfig
from memspan.longterm.knowledge_survey.evidence import gather
from memspan.longterm.knowledge_survey.features import Said, Sentence
from memspan.longterm.knowledge_survey.naming import aliases
from memspan.longterm.knowledge_survey.text import stem
from memspan.longterm.memory import Memory


def said(text: str, *before: Said) -> Sentence:
    return Sentence("e", (0, len(text)), text, text, "Ann", None, 0, before=before)


@pytest.mark.parametrize(
    ("text", "name", "thing"),
    [
        ("We named the old tractor Brunhilde.", "Brunhilde", "the old tractor"),
        ("They hired a welder called Jorge.", "Jorge", "They hired a welder"),
        ("My younger cousin Thea paints.", "Thea", "younger cousin"),
    ],
)
def test_a_sentence_says_what_it_names(text: str, name: str, thing: str) -> None:
    (alias,) = aliases([said(text)])
    assert alias.term == stem(name.lower())
    assert [part.strip() for part in alias.texts] == [thing]


@pytest.mark.parametrize(
    ("text", "name"),
    [("You should call it Kestrel.", "Kestrel"), ("His name is Igor.", "Igor"), ("Kestrel, what else.", "Kestrel")],
)
def test_a_pronoun_or_a_reply_names_what_the_thread_is_about(text: str, name: str) -> None:
    thread = (Said("What will you call her?", "Ben"), Said("I bought a sailing boat.", "Ann"))
    (alias,) = aliases([said(text, *thread)])
    assert alias.term == stem(name.lower())
    assert "I bought a sailing boat." in alias.texts


def test_speakers_and_plain_words_are_no_aliases() -> None:
    assert aliases([said("My sister Ann paints."), said("She called on Monday."), said("I call that a success.")]) == []


def test_a_thing_is_found_where_only_its_name_is_said() -> None:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    lines = [
        ("Ann", "I am building a greenhouse behind the barn."),
        ("Ben", "You should call it Eden."),
        ("Ben", "The bridge was painted on 2 June."),
        ("Ann", "Eden was finished on 9 June."),
    ]
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(
            Episode(text=text, speaker=speaker, at=at + timedelta(days=20 * (place > 1)), session="s", id=f"e{place}")
            for place, (speaker, text) in enumerate(lines)
        )
        found = gather(memory, "When was the greenhouse finished?", KnowledgeSurveyConfig(), {})
    assert found.sentences[0].episode == "e3"
    own = next(s for s in found.sentences if s.episode == "e3").features["own"]
    assert own > next(s for s in found.sentences if s.episode == "e2").features["own"]


def test_the_name_of_something_else_does_not_answer() -> None:
    lines = ("I bought a sailing boat.", "We named the boat Kestrel.", "Our mechanic is a man called Ned.")
    with Memory.open(":memory:", embedder=None, organizer="plain") as memory:
        memory.add(Episode(text=text, speaker="Ann", session="s", id=f"e{n}") for n, text in enumerate(lines))
        found = gather(memory, "What is the name of Ann's boat?", KnowledgeSurveyConfig(), {})
    form = {s.episode: s.features["form"] for s in found.sentences}
    assert form["e1"] == 1
    assert form["e2"] < 0.5
    assert found.sentences[0].episode == "e1"
