"""Which names mean the same entity."""

from __future__ import annotations

import pytest

from memspan.longterm.store import Store
from memspan.longterm.zep.resolve import EntityResolver, jaccard, normalize, shingles, specific


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ann  Lee", "ann lee"), ("The Beatles", "beatles"), ("Ann_Lee", "Ann Lee"), ("Ann's", "ann"), ("ＡＮＮ", "ann")],
)
def test_equal_names(one, other):
    assert normalize(one) == normalize(other)


def test_short_names_are_not_compared_loosely():
    assert not specific("ann") and not specific("aaaaaaaa") and not specific("") and specific("konstantinos")


def resolved(known: list[str], name: str) -> str | None:
    with Store(":memory:") as store, store.write(1) as tx:
        resolver = EntityResolver()
        resolver.refresh(tx)
        for other in known:
            uid = normalize(other)
            resolver.add(tx.add_record("entity", uid, other), uid)
        found = resolver.find(tx, normalize(name))
        return None if found is None else tx.records([found])[found]["text"]


def test_a_typo_in_a_long_name_is_the_same():
    assert (
        resolved(["Alexandrina Konstantinopoulou Papadimitriou"], "Alexandrina Konstantinopoulou Papadimitrio")
        is not None
    )
    assert resolved(["Jon Snow"], "Jon Show") is None
    assert resolved(["Conference room number 12 upstairs"], "Conference room number 13 upstairs") is None
    assert resolved(["Ann"], "Anna") is None


def test_signatures_find_what_is_near():
    assert jaccard(shingles("abcdef"), shingles("abcdef")) == 1.0
    assert jaccard(frozenset(), frozenset()) == 1.0


def test_names_of_a_rolled_back_transaction_do_not_come_back():
    with Store(":memory:") as store:
        resolver = EntityResolver()
        with pytest.raises(ValueError, match="stop"), store.write(1) as tx:
            resolver.refresh(tx)
            resolver.add(tx.add_record("entity", "konstantinopolis", "K"), "konstantinopolis")
            raise ValueError("stop")
        with store.write(2) as tx:
            tx.add_record("entity", "something else", "S")
            resolver.refresh(tx)
            assert resolver.find(tx, "konstantinopolis") is None
