"""Which form of answer a question wants, and which sentences hold one."""

from __future__ import annotations

import pytest

from memspan.longterm.knowledge_survey.kinds import form_of, holds_form, names_first
from memspan.longterm.knowledge_survey.text import read_question


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("When did Ann leave?", "when"),
        ("Where does Bob sleep?", "where"),
        ("Who baked the bread?", "who"),
        ("How many goats are there?", "number"),
        ("How much did the boat cost?", "money"),
        ("How old is the goat?", "age"),
        ("How long did Ann wait?", "duration"),
        ("What is the goat called?", "name"),
        ("What is the name of the boat?", "name"),
        ("What does Bob do for a living?", "work"),
        ("What is Ann's profession?", "work"),
        ("What did Ann eat?", "open"),
        ("Did Ann eat?", "yes or no"),
    ],
)
def test_the_form_that_a_question_wants(question: str, form: str) -> None:
    assert form_of(question) == form


@pytest.mark.parametrize(
    ("question", "yes", "no"),
    [
        ("When did Ann leave?", "I left last Tuesday.", "I left."),
        ("Where did Ann meet Bob?", "We met in Lisbon.", "We met."),
        ("Who baked the bread?", "It was Cleo.", "It was me."),
        ("Who baked the bread?", "My aunt did.", "A machine did."),
        ("How many goats are there?", "Three of them.", "Some."),
        ("How much did the boat cost?", "We paid 900 euros.", "We paid with a smile."),
        ("How old is the goat?", "She is four years old.", "She has four legs."),
        ("How long did Ann wait?", "I stood there for two hours.", "I stood there with two bags."),
        ("What is the goat called?", "We named her Hazel.", "She eats my shirts."),
        ("What does Bob do for a living?", "I work nights at the mill.", "I had soup."),
    ],
)
def test_a_sentence_that_holds_the_form_beats_one_that_does_not(question: str, yes: str, no: str) -> None:
    read = read_question(question, ["Ann", "Bob"])
    form = form_of(question)
    assert holds_form(form, read, yes, "Ann") > holds_form(form, read, no, "Ann")


def test_what_the_question_names_is_no_answer_to_it() -> None:
    question = read_question("Who is Cleo's brother?", [])
    assert holds_form("who", question, "I saw Cleo.") == 0
    assert holds_form("who", question, "I saw Cleo and Dora.") == 1
    place = read_question("Where did Ann go after Lisbon?", ["Ann"])
    assert holds_form("where", place, "We were in Lisbon.") == 0


def test_reasons_colours_and_frequencies_are_forms() -> None:
    assert form_of("Why did Ann sell the barn?") == "why"
    assert form_of("What colour is the barn?") == "colour"
    assert form_of("How often does Ann row?") == "frequency"
    assert form_of("What will you call her?") == "name"
    assert form_of("What was the deadline of the report?") == "when"
    assert form_of("Which oar broke?") == "which"
    barn = read_question("What colour is the red barn?")
    assert holds_form("colour", barn, "We painted it green.") == 1
    assert holds_form("colour", barn, "It was red.") == 0  # the question says so itself
    assert holds_form("frequency", barn, "She rows every Friday.") == 1
    assert holds_form("why", barn, "She sold it because the roof leaked.") == 1
    assert holds_form("money", barn, "I play on board three.") == 0


def test_a_reply_that_opens_with_a_name() -> None:
    assert names_first("Samuel, from the harbour office.")
    assert names_first("Clara did.")
    assert not names_first("Nobody did.")
    assert not names_first("Yes, my aunt.")
    assert not names_first("Painting takes time.")
