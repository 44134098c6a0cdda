"""Where sentences end, and what a question asks for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memspan.longterm.knowledge_survey.text import (
    kind_of,
    names,
    negations,
    numbers,
    read_question,
    sentence_spans,
    wanted_noun,
)


def test_sentences() -> None:
    text = 'Dr. Holm came at 3.30 p.m. today. "Really?" she asked...  Yes!\nNew line'
    assert [text[a:b] for a, b in sentence_spans(text)] == [
        "Dr. Holm came at 3.30 p.m. today.",
        '"Really?"',
        "she asked...",
        "Yes!",
        "New line",
    ]


@given(st.text(max_size=200))
def test_sentences_keep_every_letter_and_their_order(text: str) -> None:
    spans = sentence_spans(text)
    assert all(a < b for a, b in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    kept = "".join(text[a:b] for a, b in spans)
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("When did Ann leave?", "when"),
        ("What year was it?", "when"),
        ("Where is it?", "where"),
        ("In which city does Bob live?", "where"),
        ("Who called?", "who"),
        ("How many cats are there?", "number"),
        ("How long ago was it?", "when"),
        ("Does Ann swim?", "yes or no"),
        ("What did Ann say?", "open"),
        ("", "open"),
    ],
)
def test_kinds_of_question(question: str, kind: str) -> None:
    assert kind_of(question) == kind


def test_numbers_have_one_form() -> None:
    assert numbers("1,200 and three, on the 3rd") == {"1200", "3"}
    assert numbers("one of them") == frozenset()
    assert numbers("12:30") == {"12:30"}


def test_names_and_negations() -> None:
    assert names("Yesterday Ann met Bob's friend in New York. They left.") == ["Ann", "Bob", "New", "York"]
    assert names("I like Mondays in May") == ["Mondays"]
    assert negations("She doesn't know")
    assert not negations("She knows")


def test_a_question_is_read_against_the_speakers() -> None:
    question = read_question("What kind of boat does Ann own now?", ["Ann Lee", "Bob"])
    assert question.subject == "Ann Lee"
    assert question.present
    assert "boat" in question.spelled.values()
    assert "ann" not in question.spelled.values()
    assert read_question("Did Ann meet Bob?", ["Ann", "Bob"]).subject is None
    assert read_question("Where was my key before?", []).first_person


@pytest.mark.parametrize(
    ("question", "noun"),
    [
        ("Which dish does Ann like?", "dish"),
        ("What kind of boat does Ann own?", "boat"),
        ("What wind instrument did Bob buy?", "instrument"),
        ("Which stall closes first?", "stall"),
        ("What does Ann like?", None),
        ("What is Bob's dog called?", None),
        ("Where does Ann live?", None),
    ],
)
def test_the_class_of_thing_that_is_asked_for(question: str, noun: str | None) -> None:
    assert wanted_noun(question) == noun
    assert read_question(question, ["Ann", "Bob"]).wanted == noun


def test_how_it_turned_out_and_what_came_first() -> None:
    assert read_question("What did Ann finally pay?").last
    assert read_question("When was the party originally planned?").past
    assert read_question("When was the party?").happened
    assert not read_question("When is the party?").happened
