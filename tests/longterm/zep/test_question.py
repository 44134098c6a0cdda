"""What a question asks: names, attribute, sort of value; times belong to the view."""

from __future__ import annotations

import pytest

from memspan.longterm.zep.question import understand
from memspan.longterm.zep.senses import agreement, near, units, words
from memspan.longterm.zep.values import fits, sorts
from tests.longterm.doubles import day


def asked(text: str):
    return understand(text, day(200))


@pytest.mark.parametrize(
    ("text", "names", "keys"),
    [
        ("Where did Nadia live on 4 July 2023?", ("nadia",), ["live"]),
        ("As far as we knew on 4 July 2023, what was Piet's salary?", ("piet",), ["salari"]),
        ("What's Piet's email address these days?", ("piet",), ["email address"]),
        ("For whom does Nadia work?", ("nadia",), ["work for"]),
        ("Can you tell me who conducts the choir?", (), ["conduct", "choir"]),
        ("When is the summer fair?", (), ["summer", "fair"]),
        ("Who looks after June's dog?", ("june",), ["look after", "dog"]),
    ],
)
def test_names_and_attribute(text, names, keys):
    question = asked(text)
    assert question.names == names
    assert [unit.key for unit, _ in question.units] == keys


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Who is Nadia's aunt?", {"person"}),
        ("Who does Nadia work for?", {"person", "org"}),
        ("Which village is Nadia in?", {"place"}),
        ("When did the fair begin?", {"time"}),
        ("At what time does the pool shut?", {"clock"}),
        ("How much is the fee?", {"amount"}),
        ("What is Nadia's telephone number?", {"number"}),
        ("Which soup does Nadia order?", set()),
    ],
)
def test_sort_of_value(text, wanted):
    assert asked(text).wanted == wanted


def test_what_the_sort_tells_is_not_asked_twice():
    assert [unit.key for unit, _ in asked("In which town does Nadia live?").units] == ["live in"]
    (budget,) = [weight for unit, weight in asked("How large is Nadia's budget?").units]
    assert budget == 1.0


def says(question: str, fact: str) -> float:
    (unit,) = units(words(question))
    return agreement(unit, units(words(fact)))


def test_senses_tell_alike_from_other():
    assert says("work as", "OCCUPATION") > 0.9 > says("work as", "WORKS_AT")
    assert says("employer", "worksFor") > 0.9
    assert says("live", "CITY_OF_RESIDENCE") > 0.9 and says("live", "LIKES") == 0.0
    assert says("taught", "TEACHES") == 1.0, "irregular forms count as their infinitive"
    assert says("conduct", "CONDUCTOR") == 0.8, "the same root"
    assert "price" in near("rent") and "rent" in near("price")


@pytest.mark.parametrize(
    ("value", "sort"),
    [
        ("18:30", "clock"),
        ("Mondays", "weekday"),
        ("3 May", "date"),
        ("1,250 euros", "amount"),
        ("020 7946 0018", "number"),
        ("Ghent", "proper"),
        ("the blue drawer", "place"),
        ("teal", "word"),
    ],
)
def test_sorts_of_values(value, sort):
    assert sort in sorts(value)


def test_what_fits():
    assert fits(frozenset(("amount",)), sorts("12 kg")) == 1.0
    assert fits(frozenset(("amount",)), sorts("Ghent")) < 0.5
    assert fits(frozenset(("person",)), sorts("18:30")) < 0.5
    assert fits(frozenset(), sorts("anything")) == 1.0
    assert fits(frozenset(("place",)), sorts("Ghent", "PERSON")) > 0.5, "labels are often wrong"
