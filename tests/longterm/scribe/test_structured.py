"""Facts given in metadata."""

from __future__ import annotations

import pytest

from memspan import Episode, InputError, Memory
from memspan.longterm.scribe.structured import StructuredScribe
from memspan.longterm.zep import Zep
from tests.longterm.doubles import day


def said(when: int, *facts: dict[str, str]) -> Episode:
    return Episode("see metadata", at=day(when), metadata={"facts": list(facts)})


def test_given_facts_are_kept_and_closed():
    with Memory.open(":memory:", organizer=Zep(StructuredScribe({"LIVES_IN"})), embedder=None) as memory:
        for when, city in ((1, "Lisbon"), (9, "Oslo")):
            memory.add(said(when, {"subject": "Ann", "relation": "LIVES_IN", "object": city}))
        memory.add(said(3, {"subject": "Ann", "relation": "LIKES", "object": "Tea", "valid_at": "2020-01-01"}))
        memory.add(said(4, {"subject": "Ann", "relation": "LIKES", "object": "Jazz", "invalid_at": "2024-02-01"}))
        assert [h.text for h in memory.history("Ann", "LIVES_IN", as_of=day(20))] == ["Ann lives in Oslo."]
        assert [h.text for h in memory.history("Ann", "LIKES", as_of=day(20))] == ["Ann likes Tea.", "Ann likes Jazz."]
        assert [h.text for h in memory.history("Ann", "LIKES", as_of=day(80))] == ["Ann likes Tea."]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("Ann", "must be a list"),
        (["Ann"], "needs subject, relation and object"),
        ([{"subject": "Ann", "relation": "X"}], "needs subject, relation and object"),
        ([{"subject": "Ann", "relation": "X", "object": "Y", "valid_at": "soon"}], "is not a date"),
        ([{"subject": "A", "relation": "X", "object": "Y", "invalid_at": "1999-01-01"}], "ends .* before it begins"),
    ],
)
def test_bad_facts_are_named_and_nothing_is_added(facts, message):
    with Memory.open(":memory:", organizer=Zep(StructuredScribe()), embedder=None) as memory:
        with pytest.raises(InputError, match=message):
            memory.add(Episode("x", at=day(1), metadata={"facts": facts}))
        assert memory.stats()["records"] == {}
