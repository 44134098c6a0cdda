"""How memories fade and what use does to them: pure functions of time and strength, vectorised.

Every curve is a function of one number, x = t / (days · S): t is the time since the last use (or, before any, since the
memory was made) in days, S >= 1 its strength. So the order in which memories fade is the same for every curve, a
stronger one always fades later, and nothing depends on how often one looks.

Sources: exponential, R = exp(−t/S) (MemoryBank, arXiv 2305.10250); power law, R = 1/(1 + t/(9S)) (the forgetting curve
of FSRS 4); half-life, R = 2^(−t/h).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memspan.core.errors import InputError

F64 = NDArray[np.float64]
Curve = Literal["exponential", "power", "half-life", "never"]
CURVES: tuple[Curve, ...] = get_args(Curve)
DAY = 86_400_000_000
"""Microseconds of a day."""
_LEAST = float(np.finfo(np.float64).tiny)  # retention comes near 0 and is never 0


@dataclass(frozen=True, slots=True)
class Retention:
    """A forgetting curve: how much of a memory is left, from 1 (just used) towards 0.

    Args:
        curve: "exponential" exp(−x), "power" 1/(1 + x/9), "half-life" 2^(−x), or "never", which stays 1.
        days: the time scale; x = t / (days · S).

    Raises:
        InputError: an unknown curve, or a time scale that is not positive and finite.
    """

    curve: Curve = "exponential"
    days: float = 1.0

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise InputError(f"there is no forgetting curve {self.curve!r}; use one of {', '.join(CURVES)}")
        if not (np.isfinite(self.days) and self.days > 0):
            raise InputError(f"the time scale of a forgetting curve must be a positive number of days, not {self.days}")

    def __call__(self, elapsed: ArrayLike, strength: ArrayLike = 1.0) -> F64:
        """Retention in (0, 1]. `elapsed` in days, negative is 0; shapes broadcast.

        Raises:
            InputError: a strength that is not positive.
        """
        with np.errstate(over="ignore", under="ignore"):
            x = burden(elapsed, strength) / self.days
            if self.curve == "exponential":
                left = np.exp(-x)
            elif self.curve == "power":
                left = 1 / (1 + x / 9)
            elif self.curve == "half-life":
                left = np.exp2(-x)
            else:
                left = np.ones_like(x)
        return np.maximum(left, _LEAST)

    def lasts(self, retention: float, strength: ArrayLike = 1.0) -> F64:
        """Days until this much is left: the inverse of the curve. Infinite where that never comes.

        Raises:
            InputError: a retention outside (0, 1].
        """
        if not 0 < retention <= 1:
            raise InputError(f"a retention lies above 0 and is at most 1, not {retention}")
        x = {
            "exponential": -np.log(retention),
            "power": 9 * (1 / retention - 1),
            "half-life": -np.log2(retention),
            "never": np.inf,
        }[self.curve]
        return np.asarray(x * self.days * np.asarray(strength, np.float64), np.float64)


def burden(elapsed: ArrayLike, strength: ArrayLike = 1.0) -> F64:
    """t / S in days: what every curve is a function of, and the order in which memories fade.

    Raises:
        InputError: a strength that is not positive.
    """
    strong = np.asarray(strength, np.float64)
    if not np.all(strong > 0):
        raise InputError("strengths must be positive")
    return np.asarray(np.maximum(np.asarray(elapsed, np.float64), 0) / strong, np.float64)


def elapsed_days(now: int, created: ArrayLike, used: ArrayLike | None = None) -> F64:
    """Days since the last use, or since the memory was made when it was never used; a future moment counts as now.

    Args:
        now, created, used: microseconds. Where there was no use, `used` may be anything up to `created`.
    """
    since = np.asarray(created, np.int64)
    if used is not None:
        since = np.maximum(since, np.asarray(used, np.int64))
    return np.asarray(np.maximum(now - since, 0) / DAY, np.float64)


def strengthened(
    strength: ArrayLike, since_use: ArrayLike, *, gain: float = 1.0, cap: float = np.inf, spacing: float = 0.0
) -> F64:
    """Strength after one more use.

    Args:
        strength: before it.
        since_use: days since the use before; infinite when this is the first.
        gain: what a use adds.
        cap: the most a strength can become by use; one that is above it already stays.
        spacing: days that must lie between two uses for the second to add anything: repeating at once teaches nothing.
    """
    before = np.asarray(strength, np.float64)
    counts = np.asarray(since_use, np.float64) >= spacing
    return np.where(counts, np.maximum(before, np.minimum(before + gain, cap)), before)


def draws(names: Iterable[str], seed: int = 0) -> F64:
    """[names] uniform numbers in [0, 1), the same whenever one looks: one draw for each name and seed."""
    salt = str(seed).encode()
    bits = [hashlib.blake2b(name.encode(), digest_size=8, salt=salt[:16]).digest() for name in names]
    return (np.frombuffer(b"".join(bits), "<u8") >> np.uint64(11)).astype(np.float64) / 2.0**53
