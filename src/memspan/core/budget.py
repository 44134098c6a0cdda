"""`Budget`: one number of bytes, split over the tiers, checked before the work starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, DecimalException
from fractions import Fraction

from memspan.core.errors import BudgetError, InputError
from memspan.core.footprint import TIERS, Footprint

_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
}
_MOST = 2**63 - 1
_AMOUNT = re.compile(r"([\d.,_]+(?:e\+?\d+)?)\s*([a-z]*)", re.ASCII)
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)
_HELP = "write bytes as a whole number, or with a unit: '800MB' (1000²), '1.5 GiB' (1024³)"


def parse_bytes(value: str | int | float) -> int:
    """A number of bytes: "1GiB" and the like are binary, "800MB" and the like decimal, a plain number is bytes.

    Case and spaces do not matter, thousands may be set apart by `,` or `_`; a part of a byte is dropped.

    Raises:
        InputError: it is no number of bytes between 0 and 2**63 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{value!r} is not a number of bytes: {_HELP}")
    if isinstance(value, str):
        amount = _parse(value)
    elif math.isfinite(value):
        amount = Decimal(value)
    else:
        raise InputError(f"{value!r} is not a number of bytes: {_HELP}")
    if not 0 <= amount <= _MOST:
        raise InputError(f"{value!r} is out of range: bytes lie between 0 and {_MOST:,}")
    return int(amount)


def _parse(text: str) -> Decimal:
    found = _AMOUNT.fullmatch(text.strip().lower())
    if found is None:
        raise InputError(f"{text!r} is not a number of bytes: {_HELP}")
    number, unit = found.groups()
    if unit not in _UNITS:
        hint = f"say {unit.upper()}iB (binary) or {unit.upper()}B (decimal)" if f"{unit}ib" in _UNITS else _HELP
        raise InputError(f"{text!r} has the unknown unit {found[2]!r}: {hint}")
    if "," in number:
        if not _GROUPED.fullmatch(number):
            raise InputError(f"{text!r} is not a number of bytes: the decimal sign is a point; {_HELP}")
        number = number.replace(",", "")
    try:
        return Decimal(number) * _UNITS[unit]
    except DecimalException:
        raise InputError(f"{text!r} is not a number of bytes: {_HELP}") from None


def format_bytes(nbytes: int) -> str:
    """Bytes for people, in binary units with two decimals: "512 B", "1.50 GiB"; `parse_bytes` reads it back."""
    if abs(nbytes) < 1024:
        return f"{nbytes} B"
    size = float(nbytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if abs(round(size, 2)) < 1024:
            return f"{size:.2f} {unit}"
    return f"{size / 1024:.2f} PiB"


@dataclass(frozen=True)
class Budget:
    """How many bytes a job may hold in memory (device and RAM), and which part of them each tier may.

    Bytes on disk are no part of a budget.

    Attributes:
        total: bytes of all tiers together.
        shares: bytes set aside per tier; their sum is at most `total`. Tiers without a share have what is left over.

    Raises:
        InputError: a negative number, an unknown tier, or shares that exceed the total.
    """

    total: int
    shares: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.total < 0 or any(share < 0 for share in self.shares.values()):
            raise InputError("a budget and its shares cannot be negative")
        for tier in self.shares:
            _check_tier(tier)
        if sum(self.shares.values()) > self.total:
            raise InputError(f"the shares add up to {sum(self.shares.values()):,} of {self.total:,} bytes: lower them")

    @classmethod
    def parse(cls, value: str | int | float | Budget) -> Budget:
        """A budget from "1GiB", "800MB" or a number of bytes; a budget is returned as it is.

        Raises:
            InputError: see `parse_bytes`.
        """
        return value if isinstance(value, Budget) else cls(parse_bytes(value))

    def split(self, amounts: Mapping[str, str | int | float | None]) -> Budget:
        """The same total with a share for each tier named.

        Args:
            amounts: per tier an `int` or "200MB" for a fixed number of bytes; a `float` or "40%" for a part of what
                the fixed ones leave (together at most 1); None, once, for all that then remains.

        Raises:
            InputError: an amount is malformed, or the parts add up to more than 1.
            BudgetError: the fixed amounts exceed the total.
        """
        fixed: dict[str, int] = {}
        parts: dict[str, Fraction] = {}
        for tier, amount in amounts.items():
            _check_tier(tier)
            if amount is None:
                continue
            if isinstance(amount, float) or (isinstance(amount, str) and amount.strip().endswith("%")):
                parts[tier] = _part(tier, amount)
            else:
                fixed[tier] = parse_bytes(amount)
        needed = sum(fixed.values())
        if needed > self.total:
            raise BudgetError(
                f"the fixed amounts of {', '.join(fixed)} together",
                needed=needed,
                allowed=self.total,
                advice="raise the budget or lower an amount",
            )
        if sum(parts.values()) > 1:
            raise InputError(f"the parts of {', '.join(parts)} add up to more than 1: lower one")
        rest = self.total - needed
        # Rounding the running sum, not each part, lets parts that add up to 1 use every byte.
        reached = Fraction(0)
        for tier, part in parts.items():
            fixed[tier] = math.floor(rest * (reached + part)) - math.floor(rest * reached)
            reached += part
        unsaid = [tier for tier, amount in amounts.items() if amount is None]
        if len(unsaid) > 1:
            raise InputError(f"only one tier can have the remainder (None), not {' and '.join(unsaid)}")
        for tier in unsaid:
            fixed[tier] = self.total - sum(fixed.values())
        return Budget(self.total, {tier: fixed[tier] for tier in amounts})

    def allowed(self, tier: str | None = None) -> int:
        """Bytes a tier may hold: its share, or without one what no share claims; without a tier the total."""
        if tier is None:
            return self.total
        _check_tier(tier)
        return self.shares.get(tier, self.total - sum(self.shares.values()))

    def require(self, what: str, needed: int, tier: str | None = None, *, advice: str = "") -> None:
        """Return if `needed` bytes are allowed (to `tier`); call it before any of them is allocated.

        Raises:
            BudgetError: they are not; the message names `what`, both numbers and the advice.
        """
        allowed = self.allowed(tier)
        if needed > allowed:
            share = "" if tier is None else f" for {tier}"
            raise BudgetError(
                what,
                needed=needed,
                allowed=allowed,
                advice=advice or f"raise the budget{share} to at least {math.ceil(needed):,} bytes",
            )

    def remaining(self, footprint: Footprint, tier: str | None = None) -> int:
        """Bytes still free (to `tier`) beside what `footprint` holds in memory; negative when it is exceeded.

        For a tier without a share, every tier without one counts: they use what is left over together.
        """
        if tier is None:
            tiers = {key[0] for key in footprint.entries}
        elif tier in self.shares:
            tiers = {tier}
        else:
            tiers = {key[0] for key in footprint.entries} - set(self.shares)
        used = sum(n for (t, place), n in footprint.entries.items() if t in tiers and place != "disk")
        return self.allowed(tier) - used


def _check_tier(tier: str) -> None:
    if tier not in TIERS:
        raise InputError(f"no tier is called {tier!r}; the tiers are {', '.join(TIERS)}")


def _part(tier: str, amount: str | float) -> Fraction:
    """A proportion, read as it is written: 0.1 is a tenth, not the binary number next to it."""
    try:
        part = Fraction(amount.strip()[:-1].strip()) / 100 if isinstance(amount, str) else Fraction(str(amount))
    except (ValueError, ZeroDivisionError):
        part = Fraction(-1)
    if not 0 <= part <= 1:
        raise InputError(f"{tier}: {amount!r} is not a part between 0 and 1; a number of bytes is an int or '200MB'")
    return part
