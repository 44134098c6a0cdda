"""Budgets: numbers of bytes in and out, shares of tiers, refusal before the work."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memspan.core.budget import Budget, format_bytes, parse_bytes
from memspan.core.errors import BudgetError, InputError
from memspan.core.footprint import Footprint

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1GiB", 2**30),
        ("800MB", 800_000_000),
        ("1.5 GB", 1_500_000_000),
        (" 2 kib ", 2048),
        ("3KB", 3000),
        ("0.5TiB", 2**39),
        ("1 PB", 10**15),
        ("17", 17),
        ("17 B", 17),
        ("1e9", 10**9),
        ("1,073,741,824", 2**30),
        ("1_000 MB", 10**9),
        (".5KiB", 512),
        ("1.0005 KB", 1000),
        (0, 0),
        (4096, 4096),
        (1e6, 1_000_000),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_parses(text: str | int | float, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    "nonsense",
    [
        *(
            "",
            "much",
            "GiB",
            "-1",
            "-1GiB",
            "1 2",
            "1.2.3",
            "1,5GB",
            "12,34",
            ".",
            "_",
            "nan",
            "inf",
            "1e",
            "1e99999999",
        ),
        *("1 XB", "1 GiBs", "٣", "9 EB"),
        *(-1, -0.5, math.nan, math.inf, 2**63, True, None, [1]),
    ],
)
def test_refuses_nonsense(nonsense: object) -> None:
    with pytest.raises(InputError):
        parse_bytes(nonsense)  # type: ignore[arg-type]


def test_a_letter_alone_is_refused_with_both_readings() -> None:
    with pytest.raises(InputError, match=r"GiB \(binary\) or GB \(decimal\)"):
        parse_bytes("1G")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (3 * 2**29, "1.50 GiB"),
        (MIB - 1, "1.00 MiB"),
        (2**50, "1.00 PiB"),
        (5 * 2**60, "5120.00 PiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_formats(nbytes: int, text: str) -> None:
    assert format_bytes(nbytes) == text


@given(st.integers(0, 2**63 - 1))
def test_plain_numbers_round_trip(nbytes: int) -> None:
    assert parse_bytes(nbytes) == parse_bytes(str(nbytes)) == parse_bytes(f"{nbytes:,}") == nbytes


@given(st.integers(0, 2**62))
def test_what_is_shown_reads_back_to_half_a_hundredth_of_its_unit(nbytes: int) -> None:
    shown = format_bytes(nbytes)
    unit = parse_bytes(f"1 {shown.split()[1]}")
    assert abs(parse_bytes(shown) - nbytes) <= Fraction(unit, 200) + 1


def test_a_budget_parses_and_is_frozen() -> None:
    budget = Budget.parse("1GiB")
    assert budget.total == 2**30
    assert Budget.parse(budget) is budget
    assert Budget.parse(5) == Budget(5)
    with pytest.raises(FrozenInstanceError):
        budget.total = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("total", "shares"), [(-1, {}), (10, {"weights": -1}), (10, {"weights": 6, "store": 5}), (10, {"wheels": 1})]
)
def test_an_impossible_budget_is_refused(total: int, shares: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Budget(total, shares)


def test_split_takes_fixed_amounts_then_parts_of_the_rest_then_the_remainder() -> None:
    budget = Budget(1000).split({"context": 0.25, "weights": 200, "store": None, "activations": "50%"})
    assert budget.shares == {"context": 200, "weights": 200, "store": 200, "activations": 400}
    assert list(budget.shares) == ["context", "weights", "store", "activations"]
    assert budget.total == 1000


def test_split_reads_units() -> None:
    assert Budget.parse("1GiB").split({"weights": "512MiB"}).shares == {"weights": 512 * MIB}


@given(st.integers(0, 2**50), st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_parts_that_add_up_to_one_use_every_byte(total: int, weights: list[int]) -> None:
    tiers = ("weights", "gradients", "optimizer", "activations", "context", "store")
    percent = [Fraction(100 * weight, sum(weights)) for weight in weights]
    amounts = {tier: f"{part}%" for tier, part in zip(tiers, percent, strict=False)}
    shares = Budget(total).split(amounts).shares
    assert sum(shares.values()) == total
    for tier, part in zip(tiers, percent, strict=False):
        assert abs(shares[tier] - total * part / 100) < 1


def test_decimal_parts_are_taken_as_written() -> None:
    # 0.1 + 0.2 + 0.7 is below 1 in binary, and 0.1 + 0.7 + 0.2 may exceed it: neither may matter.
    assert sum(Budget(10).split({"weights": 0.1, "context": 0.2, "store": 0.7}).shares.values()) == 10


def test_split_refuses_fixed_amounts_above_the_total() -> None:
    with pytest.raises(BudgetError) as caught:
        Budget(100).split({"weights": 60, "store": 50})
    assert (caught.value.needed, caught.value.allowed) == (110, 100)


@pytest.mark.parametrize(
    "amounts",
    [
        {"weights": 0.6, "store": "50%"},
        {"weights": 1.5},
        {"weights": math.nan},
        {"weights": "-5%"},
        {"weights": "1/0%"},
        {"weights": "many%"},
        {"weights": None, "store": None},
        {"wheels": 1},
        {"weights": -1},
    ],
)
def test_split_refuses(amounts: dict[str, str | int | float | None]) -> None:
    with pytest.raises(InputError):
        Budget(100).split(amounts)


def test_require_raises_with_needed_allowed_and_advice() -> None:
    budget = Budget(1000).split({"weights": 600})
    budget.require("a model", 1000)
    budget.require("a model", 600, "weights")
    budget.require("a cache", 400, "context")
    with pytest.raises(
        BudgetError, match="the model needs 601 bytes and the budget allows 600: use bfloat16"
    ) as caught:
        budget.require("the model", 601, "weights", advice="use bfloat16")
    assert (caught.value.needed, caught.value.allowed, caught.value.advice) == (601, 600, "use bfloat16")
    with pytest.raises(BudgetError, match="raise the budget for context to at least 401 bytes"):
        budget.require("a cache", 401, "context")
    with pytest.raises(InputError, match="no tier is called 'kv'"):
        budget.require("a cache", 1, "kv")


def test_remaining_counts_memory_and_not_disk() -> None:
    budget = Budget(1000).split({"weights": 600})
    held = Footprint(
        {
            ("weights", "ram"): 100,
            ("weights", "device"): 50,
            ("context", "ram"): 30,
            ("store", "ram"): 20,
            ("store", "disk"): 9999,
        }
    )
    assert budget.remaining(held) == 800
    assert budget.remaining(held, "weights") == 450
    assert budget.remaining(held, "context") == budget.remaining(held, "store") == 350
    assert budget.remaining(Footprint.of("weights", "ram", 1001)) == -1
