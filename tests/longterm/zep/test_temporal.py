"""The closing rule is algebra: it must hold for every order and every window."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from memspan.longterm.zep.temporal import Window, closing_rule


def feed(starts: list[int]) -> list[Window]:
    known: list[Window] = []
    for start in starts:
        result = closing_rule(Window(start), known)
        for position, window in result.closed:
            known[position] = window
        known.append(result.new)
    return known


@given(st.lists(st.integers(-(10**15), 10**15), unique=True, max_size=12))
def test_any_order_gives_the_same_chain(starts: list[int]):
    chain = sorted(feed(starts), key=lambda w: w.valid_at or 0)
    assert [w.valid_at for w in chain] == sorted(starts)
    assert all(a.invalid_at == b.valid_at for a, b in pairwise(chain))
    assert not chain or chain[-1].invalid_at is None


def test_disjoint_windows_are_left_alone():
    assert closing_rule(Window(10), [Window(1, 5), Window(1, 10)]).closed == ()


def test_equal_beginnings_close_neither():
    assert closing_rule(Window(10), [Window(10)]) == closing_rule(Window(10), [])


def test_unknown_beginnings_close_nothing():
    assert closing_rule(Window(None), [Window(1)]).closed == ()
    assert closing_rule(Window(5), [Window(None)]).closed == ()


def test_a_told_end_is_kept_when_it_is_earlier():
    assert closing_rule(Window(1, 5), [Window(9)]).new == Window(1, 5)
    assert closing_rule(Window(1, 12), [Window(9)]).new == Window(1, 9)


def test_touching_windows_do_not_overlap():
    assert Window(1, 5).holds(4) and not Window(1, 5).holds(5) and Window(None, 5).holds(-(10**18))
