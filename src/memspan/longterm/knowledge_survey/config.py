"""The constants of reading and abstaining, with how each was set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from memspan.core.errors import InputError

Policy = Literal["drop", "flag"]

SELECTION: Mapping[str, float] = MappingProxyType(
    {
        "own": 3.0,
        "turn": 1.5,
        "near": 0.75,
        "cosine": 4.0,
        "rank": 0.8,
        "behind": -0.8,
        "kind": 0.8,
        "right": 0.5,
        "wrong": -1.5,
        "question": -1.5,
        "short": -0.8,
        "recency": 0.8,
        "now": 1.0,
        "fact": 1.0,
        "closed": -2.0,
        "late": -3.0,
    }
)
"""What makes a sentence the evidence for a question; the names are those of `evidence.Sentence.features`."""

CONFIDENCE: Mapping[str, float] = MappingProxyType(
    {
        "bias": -3.0,
        "coverage": 3.0,
        "rarest": 1.0,
        "unknown": -2.0,
        "names": 1.0,
        "right": 0.5,
        "wrong": -1.5,
        "cosine": 3.0,
        "margin": 0.3,
        "kind": 0.5,
    }
)
"""Weights of the logistic that estimates how likely the best sentence answers the question."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeSurveyConfig:
    """Constants of `GroundedAnswerer`.

    Attributes:
        k: passages retrieved, and shown to a model.
        depth: sentences are looked for in this many times k episodes.
        abstain_below: confidence under which no answer is given.
        tau: least support of a citation (ALCE-like attribution; 0.8 of a claim's weighted words).
        token_budget: most tokens of passages in a prompt; None is 1,500, or half the model's window if that is less.
        policy: what happens to a claim of the model without support: "drop" it, or "flag" it as unsupported.
        max_new_tokens: most tokens a model may write.
        read_cosines: most sentences that are embedded for one question.
        selection, confidence: weights, see `SELECTION` and `CONFIDENCE`.
    """

    k: int = 8
    depth: int = 3
    abstain_below: float = 0.5
    tau: float = 0.8
    token_budget: int | None = None
    policy: Policy = "drop"
    max_new_tokens: int = 64
    read_cosines: int = 32
    selection: Mapping[str, float] = field(default_factory=lambda: SELECTION)
    confidence: Mapping[str, float] = field(default_factory=lambda: CONFIDENCE)

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("depth", 1), ("max_new_tokens", 1), ("read_cosines", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("abstain_below", "tau"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"{name} must lie between 0 and 1, not {value!r}")
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
