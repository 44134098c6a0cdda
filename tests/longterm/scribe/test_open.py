"""Open statements: clauses and fragments that no reader of a single relation knows the words of."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memspan.longterm.base import Episode, FactDraft, FactView
from memspan.longterm.scribe.rules import RuleScribe
from memspan.longterm.scribe.told import OVER

pytest.importorskip("spacy")

AT = datetime(2024, 6, 12, 9, tzinfo=UTC)  # a Wednesday


def read(scribe: RuleScribe, text: str) -> tuple[FactDraft, ...]:
    episode = Episode(text=text, speaker="Ann", at=AT, session="s")
    return scribe.extract([episode], context=[Episode(text="Hi!", speaker="Bob", session="s")])[0].facts


# text, subject, the sentence of the fact
HOLDS = [
    # the verb is the relation, the clause is told in the third person
    ("Marta has four goats.", "Marta", "Marta has four goats."),
    ("Wanda rides a Triumph.", "Wanda", "Wanda rides a Triumph."),
    ("I'm on a work visa", "Ann", "Ann is on a work visa."),
    ("The ferry leaves at 7:20.", "ferry", "The ferry leaves at 7:20."),
    ("Owen is allergic to penicillin.", "Owen", "Owen is allergic to penicillin."),
    ("Our mail server is hosted in Oslo.", "Ann's mail server", "Ann's mail server is hosted in Oslo."),
    # what one begins to have, without "I" and with a name after it
    ("signed up with Northgate Fitness", "Ann", "Ann signed up with Northgate Fitness."),
    ("got a new camera, a Leica", "Ann", "Ann got a new camera, a Leica."),
    # what others give or where they put one
    ("They've put me in row 9.", "Ann", "Ann is in row 9."),
    ("The vet put Rex on insulin.", "Rex", "Rex is on insulin."),
    # one value for another
    ("I swapped my viola for a banjo.", "Ann", "Ann owns a banjo."),
    ("I changed my essay topic from glaciers to deserts.", "Ann", "Ann's essay topic is deserts."),
    # fragments, appositions and pronouns
    ("Retired midwife here", "Ann", "Ann is a retired midwife."),
    ("My piano teacher Greta has a cold.", "Ann", "Ann's piano teacher is Greta."),
    ("I got a drum kit. It's a Ludwig.", "Ann", "Ann's drum kit is a Ludwig."),
    ("My Nikon died on me, it's a Canon now.", "Ann", "Ann switched to a Canon."),
    ("There's an olive tree in our yard.", "Ann's yard", "There is an olive tree in Ann's yard."),
    ("Everyone calls me Minnow.", "Ann", "Ann is called Minnow."),
]


@pytest.mark.parametrize(("text", "subject", "sentence"), HOLDS, ids=[c[0] for c in HOLDS])
def test_what_holds(scribe: RuleScribe, text: str, subject: str, sentence: str) -> None:
    assert (subject, sentence) in [(f.subject, f.text) for f in read(scribe, text) if not f.ends]


# what was said before, what is said now, the object that is over
REPLACED = [
    ("I wear contact lenses.", "I swapped contact lenses for glasses.", "contact lenses"),
    ("I play the piano.", "I traded my piano lessons for riding lessons.", "piano"),
    ("Owen drives a Golf.", "Owen sold the Golf.", "Golf"),
    ("I play squash.", "Instead of squash I play padel now.", "squash"),
]


@pytest.mark.parametrize(("before", "now", "old"), REPLACED, ids=[c[1] for c in REPLACED])
def test_what_is_over(scribe: RuleScribe, before: str, now: str, old: str) -> None:
    known = [
        FactView(subject=f.subject, relation=f.relation, object=f.object, text=f.text, valid_at=None, invalid_at=None)
        for f in read(scribe, before)
    ]
    place = next(i for i, view in enumerate(known) if view.object == old)
    endings = [f for f in read(scribe, now) if f.relation == OVER]
    assert any(place in scribe.relate(f, known).contradicted for f in endings)


def test_a_new_value_beside_an_old_one_ends_nothing(scribe: RuleScribe) -> None:
    (known,) = read(scribe, "I wear sandals.")
    view = FactView(
        subject=known.subject,
        relation=known.relation,
        object="sandals",
        text=known.text,
        valid_at=None,
        invalid_at=None,
    )
    for fact in read(scribe, "I wear clogs now."):
        assert scribe.relate(fact, [view]).contradicted == ()


def test_a_favourite_without_a_kind_leaves_those_of_a_kind_alone(scribe: RuleScribe) -> None:
    view = FactView(subject="Ann", relation="FAVOURITE_FILM", object="Alien", text="", valid_at=None, invalid_at=None)
    draft = FactDraft(
        subject="Ann", relation="FAVOURITE", object="Vertigo", text="Ann's favourite is Vertigo.", functional=True
    )
    assert scribe.relate(draft, [view]).contradicted == ()


@pytest.mark.parametrize(
    "text",
    [
        "I have an idea.",
        "I'm in a hurry.",
        "I'm with you on that.",
        "I took a deep breath.",
        "I get the joke.",
        "I'm so excited for the concert!",
        "I can play the flute.",
        "Taking in strays is kind of you.",
        "Somebody at work drives a Jaguar.",
        "I might switch to Lebara.",
        "It's like having a second family.",
    ],
)
def test_nothing_is_stored(scribe: RuleScribe, text: str) -> None:
    assert [f.text for f in read(scribe, text) if not f.ends] == []
