"""Footprints: sums, maxima, order of tiers and places."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from memspan.core.footprint import PLACES, TIERS, Footprint

footprints = st.dictionaries(
    st.tuples(st.sampled_from(TIERS), st.sampled_from(PLACES)), st.integers(0, 2**50), max_size=8
).map(Footprint)


def test_sums_by_tier_and_by_place_in_the_order_of_the_tiers() -> None:
    held = Footprint({("store", "disk"): 5, ("weights", "ram"): 3, ("weights", "device"): 2})
    assert held.total == 10
    assert list(held.by_tier.items()) == [("weights", 5), ("store", 5)]
    assert list(held.by_place.items()) == [("device", 2), ("ram", 3), ("disk", 5)]


def test_an_empty_footprint_holds_nothing() -> None:
    assert (Footprint().total, Footprint().by_tier, Footprint().by_place) == (0, {}, {})


def test_a_tier_of_a_plug_in_comes_last() -> None:
    held = Footprint.of("scratch", "ram", 1) + Footprint.of("store", "ram", 2)
    assert list(held.by_tier) == ["store", "scratch"]


def test_adding_leaves_the_summands_alone() -> None:
    one, two = Footprint.of("weights", "ram", 1), Footprint.of("weights", "ram", 2)
    assert (one + two).entries == {("weights", "ram"): 3}
    assert (one.total, two.total) == (1, 2)


def test_maximum_takes_the_larger_of_each_entry() -> None:
    one = Footprint({("weights", "ram"): 4, ("context", "ram"): 1})
    two = Footprint({("weights", "ram"): 3, ("store", "disk"): 9})
    assert one.maximum(two).entries == {("weights", "ram"): 4, ("context", "ram"): 1, ("store", "disk"): 9}


@given(footprints, footprints)
def test_sums_agree_with_each_other(one: Footprint, two: Footprint) -> None:
    both = one + two
    assert both.total == one.total + two.total == sum(both.by_tier.values()) == sum(both.by_place.values())
    assert both.entries == (two + one).entries
    largest = one.maximum(two)
    assert max(one.total, two.total) <= largest.total <= both.total


def test_json_holds_every_entry() -> None:
    held = Footprint({("weights", "ram"): 3, ("store", "disk"): 5})
    assert json.loads(json.dumps(held.to_json())) == {
        "total": 8,
        "by_tier": {"weights": 3, "store": 5},
        "by_place": {"ram": 3, "disk": 5},
        "entries": [
            {"tier": "weights", "place": "ram", "bytes": 3},
            {"tier": "store", "place": "disk", "bytes": 5},
        ],
    }
