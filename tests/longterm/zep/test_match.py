"""Recall of facts: the first one is about what was asked, says what was asked, and holds in the asked view."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from memspan import Episode, Memory
from memspan.longterm.scribe.structured import StructuredScribe
from memspan.longterm.zep import Zep
from memspan.longterm.zep.table import FactTable, Names
from tests.longterm.doubles import HashEmbedder

FUNCTIONAL = ("LIVES_IN", "WORKS_AT", "RENT", "CLOSES_AT", "CAPTAIN")
WORLD = """
Nadia | LIVES_IN | Ghent
Nadia | WORKS_AT | Ostrava Labs
Nadia | HAS_ROLE | chemist
Nadia | MARRIED_TO | Piet
Nadia | HAS_PHONE_NUMBER | 020 7946 0018
Nadia | FAVOURITE_COLOUR | teal
Nadia | VISITED | Prague
Nadia | READS | a novel about whales
Nadia | RENT | 980 euros
Piet | LIVES_IN | Bruges
Piet | WORKS_AT | Harbour Office
Piet | HAS_ROLE | clerk
Piet | READS | a book on tides
Lotte | SIBLING_OF | Nadia
Lotte | LIVES_IN | Aalst
Lotte Maes | SPEAKS | Flemish
roof repair | COST | 12,400 euros
budget for the roof repair | IS | 15,000 euros
garden party | SCHEDULED_FOR | 2025-06-21
garden party | TAKES_PLACE_IN | Piet's orchard
garden party | ORGANISED_BY | Lotte
pharmacy | CLOSES_AT | 18:30
bakery | CLOSES_AT | 17:00
red team | CAPTAIN | Lotte
blue team | CAPTAIN | Piet
Mr Dubois | TAKES | 10 mg of warfarin
Mrs Dubois | TAKES | 40 mg of statins
"""


def moment(month: int, day: int = 1, year: int = 2024) -> datetime:
    return datetime(year, month, day, 9, tzinfo=UTC)


class Clock:
    now = moment(1)

    def __call__(self) -> datetime:
        return self.now


def tell(memory: Memory, clock: Clock, when: datetime, subject: str, relation: str, value: str, **more: str) -> None:
    clock.now = when
    fact = {"subject": subject, "relation": relation, "object": value, **more}
    memory.add(Episode(f"{when:%m-%d} note", at=when, metadata={"facts": [fact]}))


def opened(clock: Clock, embedder: object = None) -> Memory:
    return Memory.open(":memory:", organizer=Zep(StructuredScribe(FUNCTIONAL)), embedder=embedder, now=clock)  # type: ignore[arg-type]


def filled(embedder: object) -> Memory:
    clock = Clock()
    memory = opened(clock, embedder)
    for number, line in enumerate(WORLD.strip().splitlines()):
        tell(memory, clock, moment(1, 1 + number), *line.split(" | "))
    clock.now = moment(6)
    return memory


@pytest.fixture(scope="module", params=[None, HashEmbedder()], ids=["no embedder", "embedder"])
def world(request):
    with filled(request.param) as memory:
        yield memory


@pytest.fixture(scope="module")
def words_alone():
    with filled(None) as memory:
        yield memory


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Where does Nadia live?", "Nadia lives in Ghent."),
        ("Which town does Nadia call home these days?", "Nadia lives in Ghent."),
        ("where does piet live", "Piet lives in Bruges."),
        ("Who employs Nadia?", "Nadia works at Ostrava Labs."),
        ("What does Piet do for a living?", "Piet has role clerk."),
        ("Who is Nadia's husband?", "Nadia married to Piet."),
        ("Who is Piet's wife?", "Nadia married to Piet."),
        ("On which number can Nadia be reached?", "Nadia has phone number 020 7946 0018."),
        ("What colour does Nadia like best?", "Nadia favourite colour teal."),
        ("How much rent does Nadia pay?", "Nadia rent 980 euros."),
        ("What was the price of the roof repair?", "roof repair cost 12,400 euros."),
        ("What is the budget for the roof repair?", "budget for the roof repair is 15,000 euros."),
        ("When is the garden party?", "garden party scheduled for 2025-06-21."),
        ("Where is the garden party?", "garden party takes place in Piet's orchard."),
        ("What time does the pharmacy shut?", "pharmacy closes at 18:30."),
        ("Who captains the red team?", "red team captain Lotte."),
        ("What dose does Mrs Dubois take?", "Mrs Dubois takes 40 mg of statins."),
        ("Where does Nadia's sister live?", "Lotte lives in Aalst."),
        ("Which language does Lotte speak?", "Lotte Maes speaks Flemish."),
    ],
)
def test_the_first_fact_is_the_one_asked_for(world, question, expected):
    first = world.recall(question, k=3, kinds=["fact"])[0]
    assert first.text == expected
    assert first.metadata["match"] >= 0.6


@pytest.mark.parametrize(
    "question",
    [
        "Where does Zelda live?",
        "What is Piet's phone number?",
        "Which instrument does Nadia play?",
        "How much does the garden party cost?",
    ],
)
def test_what_is_not_known_has_a_low_match(words_alone, question):
    hits = words_alone.recall(question, k=3, kinds=["fact"])
    assert all(hit.metadata["match"] < 0.5 for hit in hits)


def test_a_question_without_an_attribute_has_no_certain_answer(words_alone):
    hits = words_alone.recall("Tell me about Piet", k=4, kinds=["fact"])
    assert hits and all("Piet" in hit.text and hit.metadata["match"] < 0.7 for hit in hits)
    assert words_alone.recall("?", kinds=["fact"]) == []


def test_why_names_the_subject(world):
    first = world.recall("Where does Nadia live?", k=1, kinds=["fact"])[0]
    assert first.why.startswith("about Nadia, says what was asked, ")


@pytest.mark.parametrize("name", ["rrf", "mentions", "distance"])
def test_every_reranker_tells_the_match(world, name):
    hits = world.recall("Where does Nadia live?", k=5, kinds=["fact"], rerank=name)
    assert all(0 <= hit.metadata["match"] <= 1 for hit in hits)


def test_validity_views():
    clock = Clock()
    with opened(clock) as memory:
        tell(memory, clock, moment(1), "Ada", "LIVES_IN", "Split")
        tell(memory, clock, moment(1, 2), "Bram", "LIVES_IN", "Delft")
        tell(memory, clock, moment(8), "Ada", "LIVES_IN", "Zadar", valid_at="2024-05-01")
        tell(memory, clock, moment(9), "Ada", "LIVES_IN", "Pula", valid_at="2021-02-01", invalid_at="2022-06-01")
        tell(memory, clock, moment(9, 2), "Ada", "VISITED", "Rijeka")
        clock.now = moment(10)

        def home(question: str = "Where does Ada live?", **view: object) -> str:
            return memory.recall(question, k=1, kinds=["fact"], **view)[0].metadata["object"]

        assert home() == "Zadar"
        assert home("Where did Ada live on 1 June 2024?", as_of=moment(6)) == "Zadar"
        assert home("Where did Ada live on 1 March 2024?", as_of=moment(3)) == "Split"
        assert home("Where did Ada live in November 2021?", as_of=moment(11, year=2021)) == "Pula"
        assert home("As far as we knew on 1 June 2024, where did Ada live?", believed_at=moment(6)) == "Split"
        early = memory.recall("Where did Ada live?", kinds=["fact"], as_of=moment(12, year=2023))
        assert early == [], "a fact told without a date holds from when it was said"


def test_of_facts_that_fit_as_well_the_one_that_began_last_is_first():
    clock = Clock()
    with opened(clock) as memory:
        tell(memory, clock, moment(1), "Ada", "JOB_TITLE", "nurse")
        tell(memory, clock, moment(4), "Ada", "OCCUPATION", "midwife")
        tell(memory, clock, moment(5), "Ada", "LIKES", "nursing homes")
        clock.now = moment(6)
        assert memory.recall("What is Ada's job title?", kinds=["fact"])[0].metadata["object"] == "midwife"
        first = memory.recall("What was Ada's job title?", kinds=["fact"], as_of=moment(2))[0]
        assert first.metadata["object"] == "nurse"


def test_i_is_the_user():
    clock = Clock()
    with opened(clock) as memory:
        tell(memory, clock, moment(1), "Ada", "LIVES_IN", "Split")
        tell(memory, clock, moment(1, 2), "user", "LIVES_IN", "Delft")
        assert memory.recall("Where do I live?", kinds=["fact"])[0].metadata["object"] == "Delft"


def test_the_embedder_decides_where_words_do_not():
    class Meaning(HashEmbedder):
        """Knows one pair of words that no table has."""

        def embed(self, texts, *, progress=False):
            return super().embed([text.lower().replace("moniker", "alias") for text in texts])

    clock = Clock()
    with opened(clock, Meaning()) as memory:
        for number, (relation, value) in enumerate((("ALIAS", "Falcon"), ("POSTCODE", "9000"), ("SINGS", "alto"))):
            tell(memory, clock, moment(1, 1 + number), "Ada", relation, value)
        first = memory.recall("Ada's moniker?", kinds=["fact"])[0]
        assert first.metadata["object"] == "Falcon"


def test_erased_facts_leave_the_table():
    clock = Clock()
    with opened(clock) as memory:
        clock.now = moment(1)
        for name, city in (("Ada", "Split"), ("Bram", "Delft")):
            fact = {"subject": name, "relation": "LIVES_IN", "object": city}
            memory.add(Episode(f"{name} moved", id=name, at=moment(1), metadata={"facts": [fact]}))
        assert memory.recall("Where does Ada live?", kinds=["fact"])[0].metadata["object"] == "Split"
        memory.forget(["Ada"])
        assert [hit.text for hit in memory.recall("Where does Ada live?", kinds=["fact"])] == ["Bram lives in Delft."]


def test_names_are_covered_by_share_of_their_words():
    names = Names()
    for name in ("chess club", "book club", "Mr Adair"):
        names.add(name)
    assert np.allclose(names.covered({"chess": 1.0, "club": 1.0, "adair": 1.0}), [1.0, 0.5, 1 / 1.2])


def test_distances_are_those_of_breadth_first_search():
    clock = Clock()
    with opened(clock) as memory:
        for number, (a, b) in enumerate((("a1", "b1"), ("b1", "c1"), ("d1", "c1"), ("e1", "f1"))):
            tell(memory, clock, moment(1, 1 + number), a, "KNOWS", b)
        with memory.store.read(0) as tx:
            table = FactTable()
            table.refresh(tx)
            start = tx.find("entity", "a1")["id"]
        steps = dict(zip(table.shown, table.distances([start], 2).tolist(), strict=True))
        assert steps == {"a1": 0, "b1": 1, "c1": 2, "d1": np.inf, "e1": np.inf, "f1": np.inf}
