"""Statements: facts that change, in the many words people tell them with, and what must not be taken for them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memspan.longterm.base import Episode, FactDraft, FactView
from memspan.longterm.scribe.rules import RuleScribe

pytest.importorskip("spacy")

AT = datetime(2024, 6, 12, 9, tzinfo=UTC)  # a Wednesday
TODAY = "2024-06-12"


def read(scribe: RuleScribe, text: str) -> tuple[FactDraft, ...]:
    episode = Episode(text=text, speaker="Ann", at=AT, session="s")
    return scribe.extract([episode], context=[Episode(text="Hi!", speaker="Bob", session="s")])[0].facts


# text, subject, relation, object, valid_at
HOLDS = [
    # definite descriptions are slots of one value
    ("My dentist is Dr Kowalski.", "Ann", "DENTIST", "Dr Kowalski", TODAY),
    ("Dr Kowalski has been my dentist since 3 April.", "Ann", "DENTIST", "Dr Kowalski", "2024-04-03"),
    ("Wanda's manager is Mr Osman.", "Wanda", "MANAGER", "Mr Osman", TODAY),
    ("I've got a new boss since 3 May: Mr Tan.", "Ann", "BOSS", "Mr Tan", "2024-05-03"),
    ("The code for the gate is 1290.", "gate", "CODE", "1290", TODAY),
    ("The wifi password was changed to acorn77 yesterday.", "wifi password", "VALUE", "acorn77", "2024-06-11"),
    ("The chair of the committee is Lotte.", "committee", "CHAIR", "Lotte", TODAY),
    ("Since last week Bram chairs the committee.", "committee", "CHAIR", "Bram", "2024-06-03"),
    ("Milan took over as treasurer of the club.", "club", "TREASURER", "Milan", TODAY),
    ("My favourite band has changed: it's Radiohead now.", "Ann", "FAVOURITE_BAND", "Radiohead", TODAY),
    ("There is nothing I drink more than cocoa.", "Ann", "FAVOURITE_DRINK", "cocoa", TODAY),
    ("My rent went up to 950 euros on 1 May.", "Ann", "RENT", "950 euros", "2024-05-01"),
    ("From 1 August my rent will be 990 euros.", "Ann", "RENT", "990 euros", "2024-08-01"),
    # verbs with a typed value
    ("The shop opens at 9:30 now.", "shop", "OPENS_AT", "9:30", TODAY),
    ("The yoga class has moved to Fridays.", "yoga class", "SCHEDULED_FOR", "Friday", TODAY),
    ("I was moved to the early shift last week.", "Ann", "SHIFT", "early shift", "2024-06-03"),
    ("I take the tram to work now instead of the bus.", "Ann", "COMMUTES_BY", "tram", TODAY),
    ("My desk is on the third floor.", "Ann's desk", "LOCATED_AT", "third floor", TODAY),
    # one relation, many wordings
    ("I've settled down in Bruges.", "Ann", "LIVES_IN", "Bruges", TODAY),
    ("Bruges has been home since 2 May.", "Ann", "LIVES_IN", "Bruges", "2024-05-02"),
    ("I'm employed by Dunmore Rail.", "Ann", "WORKS_AT", "Dunmore Rail", TODAY),
    ("Owen earns his living as a beekeeper.", "Owen", "HAS_ROLE", "beekeeper", TODAY),
    ("Nadia and I got together last month.", "Ann", "PARTNER_OF", "Nadia", "2024-05-01"),
    # reports, presuppositions, and what only frames the statement
    ("Did you know that Wanda lives in Bruges?", "Wanda", "LIVES_IN", "Bruges", TODAY),
    ("It turns out that Wanda joined Dunmore Rail on 3 May.", "Wanda", "WORKS_AT", "Dunmore Rail", "2024-05-03"),
    ("If you need to call Wanda, her number is 555-0100.", "Wanda", "HAS_PHONE_NUMBER", "555-0100", TODAY),
    ("My number changed last week, it's 555-0100 now.", "Ann", "HAS_PHONE_NUMBER", "555-0100", "2024-06-03"),
    ("Wanda told me that she lives in Bruges.", "Wanda", "LIVES_IN", "Bruges", TODAY),
    ("Wanda has moved to Bruges; the move was last week.", "Wanda", "LIVES_IN", "Bruges", "2024-06-03"),
]


@pytest.mark.parametrize(("text", "subject", "relation", "value", "start"), HOLDS, ids=[c[0] for c in HOLDS])
def test_what_holds(scribe: RuleScribe, text: str, subject: str, relation: str, value: str, start: str) -> None:
    facts = [f for f in read(scribe, text) if not f.ends]
    told = [(f.subject, f.relation, f.object, f"{f.valid_at:%Y-%m-%d}") for f in facts if f.valid_at]
    assert (subject, relation, value, start) in told
    assert all(f.functional for f in facts if (f.subject, f.relation) == (subject, relation))


# what was said before, what is said now, the value that must be over and stand in no new sentence
REPLACED = [
    ("I drive a Peugeot.", "I sold the Peugeot and drove home in a Mazda.", "Peugeot"),
    ("My dentist is Dr Osei.", "Dr Osei is no longer my dentist; it's Dr Blum.", "Dr Osei"),
    ("I'm together with Nadia.", "Nadia and I are over.", "Nadia"),
    ("Owen is a vegan.", "Owen isn't a vegan any more.", "vegan"),
    ("My favourite dish is risotto.", "Forget risotto: my favourite is chili now.", "risotto"),
    ("The choir meets on Mondays.", "The choir meets on Thursdays now, no longer on Mondays.", "Monday"),
    ("I work for Dunmore Rail.", "I left Dunmore Rail and joined Kestrel Bank last week.", "Dunmore Rail"),
    ("Owen plays the oboe.", "Owen gave up the oboe.", "oboe"),
]


@pytest.mark.parametrize(("before", "now", "old"), REPLACED, ids=[c[1] for c in REPLACED])
def test_what_is_over(scribe: RuleScribe, before: str, now: str, old: str) -> None:
    known = [
        FactView(subject=f.subject, relation=f.relation, object=f.object, text=f.text, valid_at=None, invalid_at=None)
        for f in read(scribe, before)
    ]
    place = next(i for i, view in enumerate(known) if view.object == old)
    facts = read(scribe, now)
    assert any(place in scribe.relate(f, known).contradicted for f in facts)
    assert not any(old in f.text for f in facts if not f.ends)


@pytest.mark.parametrize(
    "text",
    [
        "A woman from Dunmore Rail called twice.",
        "Somebody keeps calling from 555-0100.",
        "My uncle sends greetings from Bruges.",
        "They need a head gardener at the castle.",
        "My niece wants to be a vet.",
        "You're a wonderful listener, Bob.",
        "I made a cake.",
        "My car is a mess.",
        "Is the code for the gate 1290?",
        "If my rent goes up to 900 euros, I'll leave.",
    ],
)
def test_nothing_functional_is_read(scribe: RuleScribe, text: str) -> None:
    assert [f for f in read(scribe, text) if f.functional and not f.ends] == []


def test_a_closed_past_leaves_the_present_alone(scribe: RuleScribe) -> None:
    (fact,) = read(scribe, "From March 2020 until June 2021 my dentist was Dr Osei.")
    assert fact.valid_at and fact.invalid_at and (fact.valid_at.year, fact.invalid_at.year) == (2020, 2021)


def test_of_two_slots_neither_ends_the_other(scribe: RuleScribe) -> None:
    known = [
        FactView(subject=f.subject, relation=f.relation, object=f.object, text=f.text, valid_at=None, invalid_at=None)
        for text in ("My dentist is Dr Osei.", "My favourite colour is green.", "Bob's boss is Mr Tan.")
        for f in read(scribe, text)
    ]
    assert len(known) == 3
    for text in ("My boss is Mrs Keller.", "My favourite film is Alien.", "My landlord is Mr Tan."):
        assert not any(scribe.relate(f, known).contradicted for f in read(scribe, text))
