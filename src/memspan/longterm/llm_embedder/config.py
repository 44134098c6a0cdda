"""Defaults of LLM-Embedder, each with the paper's symbol or the setting of the authors' code that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from memspan.core.errors import InputError
from memspan.longterm.retriever import InfoNCE, KLDistill, OrthogonalProjection, RetrieverLoss, StableDistill

LossName = Literal["stable", "kl", "infonce", "opl"]

INSTRUCTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "memory": ("question: ", "said: "),
        "chat": ("question: ", "said: "),
        "lrlm": ("passage: ", "earlier passage: "),
        "qa": ("question: ", "passage: "),
        "icl": ("task: ", "worked example: "),
        "tool": ("wanted: ", "tool: "),
    }
)
"""Of each task, what stands before a query and before a key. The authors' are sentences of eight to ten words, which a
mean-pooled encoder must first learn to look past; a label of one or two words tells the tasks apart as well."""


@dataclass(frozen=True, kw_only=True)
class LLMEmbedderConfig:
    """How an embedder is trained.

    Raises:
        InputError: a value that cannot be.
    """

    loss: LossName = "stable"  # the paper's (c) for qa and icl; (b), KL, for chat and lrlm; ours everywhere (c)
    tau: float = 0.05  # τ; 0.01 in the paper, whose encoder was pre-trained with it; MiniLM was with 0.05
    teacher_tau: float = 1.0  # τ_t, of KL; 0.1 for chat and lrlm in the authors' code
    contrastive: float = 0.2  # weight of InfoNCE beside distillation; the authors' "mixed" setting
    batch: int = 16  # B; the authors' 100 on each of 8 devices
    keys: int = 8  # N, 1 positive and 7 negatives; authors' code
    steps: int = 150  # authors' 10,000; the card's check on two cores
    lr: float = 2e-5  # authors' 5e-6 at 50 times the batch and 66 times the steps
    warmup: float = 0.1  # authors' code
    weight_decay: float = 0.01  # authors' code
    max_tokens: int = 64  # a side; authors' 256, cut to what two cores can do
    min_spread: float = 0.1  # queries whose rewards differ by less teach nothing and are dropped; authors' code
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in ("stable", "kl", "infonce", "opl"):
            raise InputError(f"loss {self.loss!r} is none of stable, kl, infonce, opl")
        if self.batch < 1 or self.keys < 2 or self.steps < 1 or self.max_tokens < 8:
            raise InputError("batch and steps must be at least 1, keys at least 2, max_tokens at least 8")
        if self.lr <= 0 or self.min_spread < 0 or not 0 <= self.warmup < 1:
            raise InputError("lr must be above 0, min_spread at least 0, warmup from 0 to below 1")

    @property
    def judged(self) -> bool:
        """Whether the loss needs a judge's rewards."""
        return self.loss in ("stable", "kl")

    def build_loss(self) -> RetrieverLoss:
        """The loss object."""
        if self.loss == "infonce":
            return InfoNCE(tau=self.tau)
        if self.loss == "opl":
            return OrthogonalProjection()
        if self.loss == "kl":
            return KLDistill(tau=self.tau, teacher_tau=self.teacher_tau, contrastive=self.contrastive)
        return StableDistill(tau=self.tau, contrastive=self.contrastive)
