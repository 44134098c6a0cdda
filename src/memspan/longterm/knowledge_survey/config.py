"""The constants of reading and abstaining, with how each was set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from memspan.core.errors import InputError

Policy = Literal["drop", "flag"]
Mode = Literal["context", "marginal"]

# SELECTION is the fit of benchmarks/answers.py on conversations and passages made from seeds 100 and up (see
# `generated`) and on questions of LoCoMo's first half; sets weigh alike, those without vectors a quarter. CONFIDENCE is
# what `benchmarks/abstention.py --fit` prints, on the same sets, of which LoCoMo weighs four times as much; what only
# chats with an assistant have is fitted on BEAM's first half.
SELECTION: Mapping[str, float] = MappingProxyType(
    {
        "own": 0.01,
        "turn": 0.2,
        "reply": 1.16,
        "thread": 0.71,
        "like_own": 3.26,
        "like_turn": 1.13,
        "like_reply": 0.68,
        "like_thread": 2.05,
        "cosine": 1.94,
        "exchange": 2.3,
        "asked_cosine": 1.49,
        "class": 1.13,
        "no_class": -0.11,
        "rank": 1.11,
        "behind": 0.22,
        "when": 2.3,
        "where": 0.42,
        "number": 1.33,
        "form": 2.48,
        "same": 1.65,
        "right": 1.56,
        "wrong": -0.22,
        "absent": -1.95,
        "question": -1.67,
        "short": -1.4,
        "answers": 0.27,
        "ahead": -0.45,
        "change": -0.02,
        "undone": -2.77,
        "replies": -0.17,
        "no_kind": -1.31,
        "fits": 1.48,
        "fits_when": 1.51,
        "missing": -0.84,
        "recency": 1.84,
        "timely": 3.08,
        "fact": 0.57,
        "match": 1.55,
        "void": -4.0,  # not fitted: what cannot be an answer must not win
        "closed": -6.0,  # not fitted: what has ceased to hold must not win
        "late": -12.0,  # not fitted: what was said after `as_of` must not win
    }
)
"""What makes a sentence the evidence for a question; the names are those of `evidence.Sentence.features`."""

CONFIDENCE: Mapping[str, float] = MappingProxyType(
    {
        "bias": -1.18,
        "share": -0.33,
        "said_share": 1.51,
        "like_coverage": 0.51,
        "like_own": 0.87,
        "missing": 0.07,
        "lacking": -0.17,
        "unsaid": -0.38,
        "agreement": 0.16,
        "replies": 0.5,
        "same": -0.39,
        "fits": -0.27,
        "about": 0.29,
        "empty": -0.34,
        "absent": -0.74,
        "wrong": -2.28,
        "right": -0.69,
        "cosine": 0.23,
        "exchange": 0.31,
        "class": 0.14,
        "no_class": -0.42,
        "margin": 0.12,
        "of_another": -0.4,
        "kind": 1.01,
        "no_kind": -0.3,
        "match": 0.13,
        "timely": 0.46,
        "question": -0.84,
        "answers": 0.03,
        "vectors": -0.83,
        "chat": -0.82,
        "chat_open": -0.67,
        "chat_right": 2.01,
        "chat_wrong": 2.2,
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
    abstain_below: float = 0.45  # confidence under which no answer is given; answers 80 % of what LoCoMo can answer
    fact_match: float = 0.7  # match from which on a fact answers by itself, see `answerer.stated_fact`
    tau: float = 0.8  # least support of a citation: share of a claim's weighted words (ALCE-like attribution)
    token_budget: int | None = None  # most tokens of passages in a prompt; 1,500, or half the model's window if less
    policy: Policy = "drop"  # what becomes of a model's claim without support: "drop" it, or "flag" it
    mode: Mode = "context"  # how a model reads: all passages in one prompt, or each alone, see `marginal_reader`
    hypotheses: int = 4  # passages that each propose an answer in marginal mode; costs its square in forward passes
    max_new_tokens: int = 64  # most tokens a model may write
    read_cosines: int = 32  # most sentences that are embedded for one question
    together: float = 1.0  # a turn of the same exchange this near the best, in nats, is quoted beside it
    selection: Mapping[str, float] = field(default_factory=lambda: SELECTION)  # weights (fitted, benchmarks/answers.py)
    confidence: Mapping[str, float] = field(
        default_factory=lambda: CONFIDENCE
    )  # weights (fitted, benchmarks/abstention.py)

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("depth", 1), ("hypotheses", 1), ("max_new_tokens", 1), ("read_cosines", 0)):
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
        if self.mode not in ("context", "marginal"):
            raise InputError(f"mode must be 'context' or 'marginal', not {self.mode!r}")


def weighted(weights: Mapping[str, float], features: Mapping[str, float]) -> float:
    """The weighted sum of features; "bias" is always 1."""
    return sum(weight * (1.0 if name == "bias" else features.get(name, 0.0)) for name, weight in weights.items())


def logistic(value: float) -> float:
    """1 / (1 + e^-value), without overflow."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
