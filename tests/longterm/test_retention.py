"""Laws of forgetting curves, and of strength."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memspan import InputError
from memspan.longterm.retention import CURVES, DAY, Retention, burden, draws, elapsed_days, strengthened

FADING = [curve for curve in CURVES if curve != "never"]
scales = st.floats(0.1, 50)
times = st.floats(0, 200)
strengths = st.floats(1, 30)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [("exponential", math.exp(-3 / 10)), ("power", 1 / (1 + 3 / 90)), ("half-life", 2 ** (-3 / 10)), ("never", 1.0)],
)
def test_the_curves_are_their_formulas(curve, expected):
    assert float(Retention(curve, 5.0)(3.0, 2.0)) == pytest.approx(expected, abs=1e-12)


@given(st.sampled_from(CURVES), scales, times, strengths)
def test_retention_is_a_share_that_starts_whole(curve, days, elapsed, strength):
    retention = Retention(curve, days)
    assert 0 < float(retention(elapsed, strength)) <= 1
    assert float(retention(0.0, strength)) == 1 == float(retention(-elapsed, strength))


@given(st.sampled_from(FADING), scales, st.floats(0.01, 30), strengths, st.floats(0.5, 10))
def test_it_falls_with_time_and_rises_with_strength(curve, days, elapsed, strength, more):
    """The official code has exp(−t·S/5), under which the stronger memory dies faster."""
    retention = Retention(curve, max(days, 0.5))
    assert retention(elapsed + more, strength) < retention(elapsed, strength) or retention(elapsed, strength) < 1e-300
    assert retention(elapsed, strength + more) > retention(elapsed, strength) or retention(elapsed, strength) < 1e-300


@given(st.sampled_from(FADING), scales, st.floats(0.001, 1), strengths)
def test_lasts_is_the_inverse(curve, days, left, strength):
    retention = Retention(curve, days)
    assert float(retention(retention.lasts(left, strength), strength)) == pytest.approx(left, rel=1e-9)
    assert math.isinf(float(Retention("never").lasts(0.5)))


@given(st.lists(st.tuples(times, strengths), min_size=2, max_size=20))
def test_every_curve_fades_in_the_same_order(memories):
    elapsed, strength = (np.array(column) for column in zip(*memories, strict=True))
    order = np.argsort(burden(elapsed, strength), kind="stable")
    for curve in FADING:
        assert np.all(np.diff(Retention(curve, 5.0)(elapsed, strength)[order]) <= 1e-12)


@given(strengths, st.floats(0, 10), st.floats(0, 3), st.floats(1, 20), st.floats(0, 2))
def test_use_never_weakens_and_keeps_to_its_cap(strength, since, gain, cap, spacing):
    after = float(strengthened(strength, since, gain=gain, cap=cap, spacing=spacing))
    assert strength <= after <= max(strength, cap)
    assert after == strength or since >= spacing


def test_a_second_use_at_once_adds_nothing():
    assert float(strengthened(1.0, np.inf, spacing=1 / 24)) == 2
    assert float(strengthened(2.0, 0.01, spacing=1 / 24)) == 2
    assert strengthened([1.0, 9.5], [1.0, 1.0], cap=10).tolist() == [2.0, 10.0]


def test_elapsed_time_counts_from_the_last_use_and_the_future_is_now():
    now = 100 * DAY
    assert elapsed_days(now, [90 * DAY, 90 * DAY, 120 * DAY], [90 * DAY, 99 * DAY, 0]).tolist() == [10, 1, 0]
    assert elapsed_days(now, [0]).tolist() == [100]


def test_draws_depend_on_name_and_seed_alone():
    names = [f"turn {i}" for i in range(2000)]
    first = draws(names, 3)
    assert np.array_equal(first, draws(names, 3)) and first[7] == draws([names[7]], 3)[0]
    assert not np.array_equal(first, draws(names, 4))
    assert first.min() >= 0 and first.max() < 1 and abs(first.mean() - 0.5) < 0.03 and draws([]).shape == (0,)


def test_bad_input():
    with pytest.raises(InputError, match="no forgetting curve 'linear'"):
        Retention("linear")
    for days in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="positive number of days"):
            Retention("exponential", days)
    with pytest.raises(InputError, match="strengths must be positive"):
        Retention()(1.0, 0.0)
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="at most 1"):
            Retention().lasts(share)
