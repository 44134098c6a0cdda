"""Parts of claims and their verdicts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memspan.core.errors import InputError
from memspan.core.evidence import (
    Evidence,
    Part,
    Series,
    at_least,
    at_most,
    combine,
    judge,
    number,
    overall,
    part_from_json,
)


def part(value: Any = 0.9, baseline: Any = 0.5, threshold: Any = None, **more: Any) -> Part:
    return Part(
        name=more.pop("name", "p"),
        metric="accuracy",
        value=value,
        baseline_name="rival" if baseline is not None else "",
        baseline=baseline,
        threshold=threshold or at_least(0.8),
        **more,
    )


@pytest.mark.parametrize(
    ("given_part", "verdict"),
    [
        (part(0.9, 0.5), "holds"),
        (part(0.8, 0.5), "holds"),  # exactly at the bound
        (part(0.7, 0.5), "partly"),
        (part(0.5, 0.5), "fails"),
        (part(0.4, 0.5), "fails"),
        (part(0.9, None), "holds"),
        (part(0.7, None), "fails"),
        (part(0.9, 0.85), "void"),  # the baseline meets the bound too
        (part(0.7, 0.85), "fails"),  # missing a bound that the baseline meets is no void
        (part(0.95, 0.94, ceiling=0.95, min_gap=0.02), "void"),
        (part(0.2, 0.94, ceiling=0.95, min_gap=0.02), "fails"),
        (part(0.9, 0.5, ceiling=1.0, min_gap=0.02), "holds"),
        (part(1600, 115_000, at_most(0.1, of="ratio")), "holds"),
        (part(60_000, 115_000, at_most(0.1, of="ratio")), "partly"),
        (part(120_000, 115_000, at_most(0.1, of="ratio")), "fails"),
        (part(0.60, 0.513, at_least(1.08, of="ratio")), "holds"),
        (part(0.53, 0.513, at_least(1.08, of="ratio")), "partly"),
        (part(0.99, 1.0, at_least(0.98, of="ratio")), "holds"),  # "nearly as good" is a ratio below 1
        (part(0.0, 0.0, at_least(3, of="ratio")), "fails"),
        (part(0.1, 0.0, at_least(3, of="ratio")), "holds"),
        (part(0.55, 0.50, at_least(0.03, of="difference")), "holds"),
        (part(0.52, 0.50, at_least(0.03, of="difference")), "partly"),
        (part(-4.0, -5.0, at_least(0.5, of="difference")), "holds"),
        (Part(name="p", metric="m", untestable="needs a cluster"), "untestable"),
        (Part(name="p", metric="m", void="both are perfect"), "void"),
    ],
)
def test_verdicts_follow_from_the_numbers(given_part: Part, verdict: str) -> None:
    assert judge(given_part)[0] == verdict


@given(
    value=st.floats(-10, 10),
    baseline=st.floats(-10, 10),
    bound=st.floats(-10, 10),
    of=st.sampled_from(["value", "difference"]),
)
def test_more_is_better_and_less_is_better_mirror_each_other(
    value: float, baseline: float, bound: float, of: Any
) -> None:
    up = judge(part(value, baseline, at_least(bound, of=of)))[0]
    down = judge(part(-value, -baseline, at_most(-bound, of=of)))[0]
    assert up == down


@given(value=st.floats(-10, 10), more=st.floats(0, 10), baseline=st.floats(-10, 10), bound=st.floats(-10, 10))
def test_a_better_value_never_gets_a_worse_verdict(value: float, more: float, baseline: float, bound: float) -> None:
    rank = {"fails": 0, "partly": 1, "void": 2, "holds": 2}
    low = judge(part(value, baseline, at_least(bound)))[0]
    high = judge(part(value + more, baseline, at_least(bound)))[0]
    assert rank[low] <= rank[high]


def test_reasons_give_the_numbers() -> None:
    assert judge(part(0.7, 0.5))[1] == "0.7 is better than rival 0.5, but not ≥ 0.8"
    assert judge(Part(name="p", metric="m", untestable="needs a cluster"))[1] == "needs a cluster"


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (at_least(0.98), "≥ 0.98"),
        (at_most(3, of="ratio"), "≤ 3 × baseline"),
        (at_least(3, of="difference"), "≥ baseline + 3"),
        (at_least(-1, of="difference"), "≥ baseline − 1"),
    ],
)
def test_thresholds_read_well(threshold: Any, text: str) -> None:
    assert str(threshold) == text


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "partly"], "partly"),
        (["holds", "void"], "partly"),
        (["holds", "fails"], "partly"),
        (["fails", "void"], "fails"),
        (["partly", "fails"], "partly"),
        (["void", "untestable"], "void"),
        (["untestable"], "untestable"),
    ],
)
def test_one_verdict_for_all_parts(verdicts: list[Any], verdict: str) -> None:
    assert overall(verdicts) == verdict


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"value": float("nan")}, "value is nan"),
        ({"value": None}, "give value and threshold"),
        ({"baseline": None, "threshold": at_least(2, of="ratio")}, "needs a baseline"),
        ({"baseline": None, "ceiling": 1.0}, "needs a baseline"),
        ({"baseline": -1.0, "threshold": at_least(2, of="ratio")}, "negative baseline"),
        ({"void": "so", "untestable": "so"}, "not both"),
    ],
)
def test_parts_without_what_they_need_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        part(**fields)


def test_a_baseline_needs_a_name() -> None:
    with pytest.raises(InputError, match="name the baseline"):
        Part(name="p", metric="m", value=1.0, baseline=0.5, threshold=at_least(0.8))


def test_evidence_needs_parts_with_different_names() -> None:
    for parts in ([], [part(), part()]):
        with pytest.raises(InputError, match="its own name"):
            Evidence(slug="zep", size="smoke", parts=parts)


def test_seeds_are_averaged_before_judging() -> None:
    runs = [Evidence(slug="zep", size="full", parts=[part(value, 0.5)]) for value in (0.7, 0.8, 0.96)]
    (judged,) = combine(runs)
    assert judged.part.value == pytest.approx(0.82)
    assert (judged.verdict, judged.values) == ("holds", [0.7, 0.8, 0.96])


def test_a_seed_without_a_verdict_leaves_the_part_without() -> None:
    empty = Part(name="p", metric="accuracy", void="no questions drawn")
    runs = [Evidence(slug="zep", size="full", parts=[one]) for one in (part(), empty)]
    assert combine(runs)[0].verdict == "void"


def test_thresholds_and_parts_may_not_move_with_the_seed() -> None:
    def runs(*parts: list[Part]) -> list[Evidence]:
        return [Evidence(slug="zep", size="full", parts=one) for one in parts]

    with pytest.raises(InputError, match="threshold moved"):
        combine(runs([part()], [part(threshold=at_least(0.1))]))
    for other in ([part(name="q")], [part(), part(name="q")]):
        with pytest.raises(InputError, match="differ from seed to seed"):
            combine(runs([part()], other))
        with pytest.raises(InputError, match="differ from seed to seed"):
            combine(runs(other, [part()]))


def test_a_part_survives_json() -> None:
    series = Series(lines={"a": ([1, 2], [0.1, float("nan")])}, x_label="x", y_label="y", threshold=0.5)
    whole = part(
        np.float32(0.5), np.int64(1), series=series, rows=[{"n": np.int64(3), "x": float("inf"), "t": ("a", 1)}]
    )
    assert part_from_json(asdict(whole)) == whole
    assert whole.rows == [{"n": 3, "x": None, "t": "('a', 1)"}]
    assert series.lines == {"a": ([1.0, 2.0], [0.1, None])}


@pytest.mark.parametrize(
    "fields",
    [
        {"lines": {}},
        {"lines": {"a": ([1], [1, 2])}},
        {"lines": {"a": ([], [])}},
        {"lines": {"a": ([float("nan")], [1])}},
        {"lines": {"a": ([0], [1])}, "log_x": True},
    ],
)
def test_series_that_cannot_be_drawn_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Series(x_label="x", y_label="y", **fields)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (3.0, "3"),
        (0.99321, "0.9932"),
        (115000, "115,000"),
        (12345.6, "12,346"),
        (-0.000123, "-0.000123"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text
