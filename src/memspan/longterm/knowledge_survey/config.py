"""The constants of reading and abstaining, with how each was set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from memspan.core.errors import InputError

Policy = Literal["drop", "flag"]

# Both sets of weights are the fit of benchmarks/answers.py on conversations and passages made from seeds 100 and up
# (see `generated`) and on questions of LoCoMo's first half; sets weigh alike, those without vectors a quarter.
SELECTION: Mapping[str, float] = MappingProxyType(
    {
        "own": -0.14,
        "turn": -0.24,
        "reply": 1.2,
        "thread": 0.56,
        "like_own": 3.33,
        "like_turn": 1.16,
        "like_reply": 0.93,
        "like_thread": 1.86,
        "cosine": 2.13,
        "exchange": 2.36,
        "asked_cosine": 1.3,
        "class": 0.96,
        "no_class": -0.41,
        "rank": 1.05,
        "behind": 0.32,
        "when": 2.24,
        "where": 0.43,
        "number": 1.27,
        "form": 2.43,
        "same": 1.62,
        "right": 1.69,
        "wrong": -0.41,
        "absent": -2.09,
        "question": -1.56,
        "short": -0.99,
        "answers": 0.21,
        "ahead": -0.18,
        "change": -0.1,
        "undone": -2.99,
        "replies": 0.26,
        "no_kind": -1.49,
        "fits": 1.34,
        "fits_when": 1.22,
        "missing": -0.99,
        "recency": 1.41,
        "timely": 3.35,
        "fact": 0.37,
        "match": 1.76,
        "void": -4.0,  # not fitted: what cannot be an answer must not win
        "closed": -6.0,  # not fitted: what has ceased to hold must not win
        "late": -12.0,  # not fitted: what was said after `as_of` must not win
    }
)
"""What makes a sentence the evidence for a question; the names are those of `evidence.Sentence.features`."""

CONFIDENCE: Mapping[str, float] = MappingProxyType(
    {
        "bias": -3.69,
        "share": 1.3,
        "said_share": 1.79,
        "like_coverage": 1.13,
        "like_own": 0.28,
        "missing": 0.62,
        "lacking": -0.24,
        "unsaid": -1.08,
        "agreement": 0.35,
        "replies": 0.4,
        "same": -0.22,
        "fits": -0.66,
        "about": -0.24,
        "empty": -0.59,
        "absent": -0.62,
        "wrong": -3.33,
        "right": -0.22,
        "cosine": 0.52,
        "exchange": 1.02,
        "class": -0.3,
        "no_class": -1.49,
        "margin": 0.29,
        "kind": 1.37,
        "no_kind": 0.34,
        "match": 1.23,
        "timely": 0.94,
        "question": 0.46,
        "answers": -0.05,
        "vectors": -0.71,
        "void": -2.0,  # not fitted
        "late": -12.0,  # not fitted
    }
)
"""Weights of the logistic that estimates how likely the best sentence answers the question."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeSurveyConfig:
    """Constants of `GroundedAnswerer`; sources in brackets."""

    k: int = 8  # passages retrieved, and shown to a model
    depth: int = 3  # sentences are looked for in this many times k episodes
    abstain_below: float = 0.35  # confidence under which no answer is given (measured, see `calibrate`)
    fact_match: float = 0.7  # match from which on a fact answers by itself, see `answerer.stated_fact`
    tau: float = 0.8  # least support of a citation: share of a claim's weighted words (ALCE-like attribution)
    token_budget: int | None = None  # most tokens of passages in a prompt; 1,500, or half the model's window if less
    policy: Policy = "drop"  # what becomes of a model's claim without support: "drop" it, or "flag" it
    max_new_tokens: int = 64  # most tokens a model may write
    read_cosines: int = 32  # most sentences that are embedded for one question
    together: float = 1.0  # a turn of the same exchange this near the best, in nats, is quoted beside it
    selection: Mapping[str, float] = field(default_factory=lambda: SELECTION)  # weights (fitted, benchmarks/answers.py)
    confidence: Mapping[str, float] = field(default_factory=lambda: CONFIDENCE)  # weights (fitted, same)

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("depth", 1), ("max_new_tokens", 1), ("read_cosines", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("abstain_below", "fact_match", "tau"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"{name} must lie between 0 and 1, not {value!r}")
        if not isinstance(self.together, int | float) or not self.together >= 0:
            raise InputError(f"together must be a number of at least 0, not {self.together!r}")
        budget = self.token_budget
        if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 1):
            raise InputError(f"token_budget must be a whole number of at least 1, or None, not {budget!r}")
        if self.policy not in ("drop", "flag"):
            raise InputError(f"policy must be 'drop' or 'flag', not {self.policy!r}")


def weighted(weights: Mapping[str, float], features: Mapping[str, float]) -> float:
    """The weighted sum of features; "bias" is always 1."""
    return sum(weight * (1.0 if name == "bias" else features.get(name, 0.0)) for name, weight in weights.items())


def logistic(value: float) -> float:
    """1 / (1 + e^-value), without overflow."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
