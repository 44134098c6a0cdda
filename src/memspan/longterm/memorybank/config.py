"""MemoryBank's constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memspan.core.errors import InputError
from memspan.longterm.retention import CURVES, Curve


@dataclass(frozen=True, kw_only=True)
class MemoryBankConfig:
    """MemoryBank's constants; sources in brackets.

    Raises:
        InputError: a value that cannot be; the message names it.
    """

    retention: Curve = "exponential"  # R = e^(−t/S) (paper, section on memory updating); or power, half-life, never
    days: float = 5.0  # c of R = e^(−t/(c·S)), in days (official code: 5, though it computes e^(−t·S/5))
    threshold: float = 0.05  # θ: what has less left has faded (ours; the code deletes with probability 1 − R)
    forgetting: Literal["threshold", "chance"] = "threshold"  # chance: faded when a fixed draw u(id) >= R (the code's)
    seed: int = 0  # of the draws
    awake: int = 1000  # at least this many episodes stay awake, however faded, the strongest first (ours)
    gain: float = 1.0  # S grows by this with every use (paper)
    strength_cap: float = 10.0  # the most S becomes (ours; the paper has no bound)
    spacing_hours: float = 1.0  # a second use within this time adds nothing (ours)
    revive: bool = True  # a dormant episode comes back for a question that has its words or its day (ours)
    rare_share: float = 0.01  # a word is rare that at most this share of the episodes hold (ours)
    dates: Literal["bonus", "filter"] = "bonus"  # a time named in the question: its episodes gain, or only they show
    date_bonus: float = 4.0  # what an episode of a named day gains beside recall's own bonus for its time (ours)
    listed: int = 5  # how many of the next to fade `stats` lists (ours)

    def __post_init__(self) -> None:
        if self.retention not in CURVES:
            raise InputError(f"retention is {self.retention!r}; use one of {', '.join(CURVES)}")
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold is {self.threshold}; it must lie between 0 and 1")
        for name, choices in (("forgetting", ("threshold", "chance")), ("dates", ("bonus", "filter"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(choices)}")
        for name in ("days", "strength_cap"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("awake", "gain", "spacing_hours", "date_bonus", "listed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.rare_share <= 1:
            raise InputError(f"rare_share is {self.rare_share}; it is a share, between 0 and 1")
