"""Losses that train a retriever: contrast, distillation from rewards, and orthogonal projection.

Letters: B queries in a batch, N keys of each query with the positive first, D dimensions. Every loss is called as
`loss(q, k, rewards, ids)` with q `[B, D]`, k `[B, N, D]`, rewards `[B, N]` (higher is better; None where a loss needs
none) and ids `[B, N]`, equal for keys of equal text. It returns a scalar.

Vectors are scaled to length 1 here, and a score is s(q, k) = cos(q, k) / τ, computed in float32 or wider whatever the
encoder computes in: with τ = 0.01 scores reach ±100. A text counts once, however often it stands in a batch; one that
is also the text of a better key of the query, or of its positive, would be a false negative and does not count at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from memspan.core.errors import InputError

_MASKED = -torch.inf


class RetrieverLoss(Protocol):
    """What `fit_retriever` calls."""

    def __call__(self, q: Tensor, k: Tensor, rewards: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """The loss of a batch, a scalar."""


@dataclass(frozen=True, kw_only=True)
class InfoNCE:
    """−log softmax of the positive's score over all keys of the batch (van den Oord et al. 2018, arXiv 1807.03748).

    Args:
        tau: temperature of the scores.
    """

    tau: float = 0.01

    def __post_init__(self) -> None:
        _positive(tau=self.tau)

    def __call__(self, q: Tensor, k: Tensor, rewards: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """Rewards are not looked at."""
        q, k, ids = _checked(q, k, ids)
        return _chain(q, k, ids[:, :1], ids, self.tau)[:, 0].mean()


@dataclass(frozen=True, kw_only=True)
class KLDistill:
    """KL(softmax(r / τ_t) ‖ softmax(s)) over each query's own N keys.

    Args:
        tau: temperature of the scores.
        teacher_tau: τ_t, of the rewards.
        contrastive: weight of InfoNCE beside it.
    """

    tau: float = 0.01
    teacher_tau: float = 1.0
    contrastive: float = 0.0

    def __post_init__(self) -> None:
        _positive(tau=self.tau, teacher_tau=self.teacher_tau)

    def __call__(self, q: Tensor, k: Tensor, rewards: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """A key that a query has twice counts once."""
        q, k, ids = _checked(q, k, ids)
        r = _checked_rewards(rewards, k)
        again = _repeated(ids)
        scores = torch.einsum("bd,bnd->bn", q, k) / self.tau
        student = scores.masked_fill(again, _MASKED).log_softmax(-1).masked_fill(again, 0.0)
        teacher = (r / self.teacher_tau).masked_fill(again, _MASKED).log_softmax(-1)
        weights = teacher.exp()
        loss = (weights * (teacher.masked_fill(weights == 0, 0.0) - student)).sum(-1).mean()
        if self.contrastive:
            loss = loss + self.contrastive * InfoNCE(tau=self.tau)(q, k, ids=ids)
        return loss


@dataclass(frozen=True, kw_only=True)
class StableDistill:
    """Stabilised distillation (Zhang et al. 2023, arXiv 2310.07554): a chain of contrasts along the reward's order.

    With the keys sorted by reward, k_1 ≥ … ≥ k_N, and w = softmax(r),
    L = Σ_i w_i · [−log softmax over all keys of the batch without k_1 … k_{i−1}, at k_i].
    The weights sum to 1 whatever the rewards' scale: where rewards are flat this is a ranking by contrast, where one
    stands out it is InfoNCE.

    Args:
        tau: temperature of the scores.
        force_positive_first: keep the positive at place 1 although another key may have a higher reward, as the
            authors' code does; each key keeps the weight of its own reward.
        contrastive: weight of InfoNCE beside it.
    """

    tau: float = 0.01
    force_positive_first: bool = True
    contrastive: float = 0.0

    def __post_init__(self) -> None:
        _positive(tau=self.tau)

    def __call__(self, q: Tensor, k: Tensor, rewards: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """The keys may come in any order but for the positive; they are sorted here."""
        q, k, ids = _checked(q, k, ids)
        r = _checked_rewards(rewards, k).masked_fill(_repeated(ids), _MASKED)  # a key that stands twice counts once
        weights = r.softmax(-1)
        places = r.clone()
        if self.force_positive_first:
            places[:, 0] = torch.inf
        order = places.argsort(dim=-1, descending=True, stable=True)
        steps = _chain(q, k, ids.gather(1, order), ids, self.tau, order)
        loss = (weights.gather(1, order) * steps).sum(-1).mean()
        if self.contrastive:
            loss = loss + self.contrastive * InfoNCE(tau=self.tau)(q, k, ids=ids)
        return loss


@dataclass(frozen=True, kw_only=True)
class OrthogonalProjection:
    """(cos(q, k) − label)², label 1 for the positive and 0 for the others (Saad-Falcon et al. 2024, arXiv 2402.07440).

    A pair needs no other pair, so that a batch may be one query with one key.
    """

    def __call__(self, q: Tensor, k: Tensor, rewards: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        """Rewards are not looked at; a negative with the positive's text, or one that stands twice, is left out."""
        q, k, ids = _checked(q, k, ids)
        cosines = torch.einsum("bd,bnd->bn", q, k)
        labels = torch.zeros_like(cosines)
        labels[:, 0] = 1.0
        counted = ~_repeated(ids)
        return (cosines - labels).square().masked_fill(~counted, 0.0).sum() / counted.sum()


def _chain(q: Tensor, k: Tensor, ranked: Tensor, ids: Tensor, tau: float, order: Tensor | None = None) -> Tensor:
    """[B, S]: −log softmax at each of the keys `ranked` [B, S] (their ids, the best first; places `order`, default 0).

    At step i the keys of the whole batch are in the denominator, but for copies of the first i of the query's ranking.
    """
    batch, keys, _ = k.shape
    steps = ranked.shape[1]
    order = torch.zeros_like(ranked) if order is None else order
    scores = q @ k.flatten(0, 1).T / tau
    better = ranked[:, :, None] == ids.flatten()[None, None, :]  # [B, S, B·N]
    masked = better.cummax(dim=1).values if steps > 1 else better
    masked = masked | _repeated(ids.reshape(1, -1))
    # Step i's own key stays; of its copies, and of better keys' texts, none does.
    own = torch.arange(batch, device=q.device)[:, None] * keys + order
    here = torch.zeros_like(masked).scatter_(2, own[:, :, None], True)
    logits = scores[:, None, :].expand(batch, steps, -1).masked_fill(masked & ~here, _MASKED)
    return -logits.log_softmax(-1).gather(2, own[:, :, None]).squeeze(2)


def _repeated(ids: Tensor) -> Tensor:
    """[B, N]: whether an earlier key of the same query has the same text."""
    same = ids[:, :, None] == ids[:, None, :]
    return same.tril(-1).any(-1)


def _checked(q: Tensor, k: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors in float32 or wider, and ids."""
    if q.dim() != 2 or k.dim() != 3 or k.shape[0] != q.shape[0] or k.shape[2] != q.shape[1] or k.shape[1] < 1:
        raise InputError(f"queries [B, D] and keys [B, N, D] are needed, not {list(q.shape)} and {list(k.shape)}")
    if ids is None:
        ids = torch.arange(k.shape[0] * k.shape[1], device=k.device).view(k.shape[:2])
    if ids.shape != k.shape[:2]:
        raise InputError(f"ids are {list(ids.shape)}, and the keys {list(k.shape[:2])}")
    wide = torch.promote_types(q.dtype, torch.float32)
    return normalize(q.to(wide), dim=-1), normalize(k.to(wide), dim=-1), ids


def _checked_rewards(rewards: Tensor | None, k: Tensor) -> Tensor:
    if rewards is None or rewards.shape != k.shape[:2]:
        found = "none" if rewards is None else list(rewards.shape)
        raise InputError(f"this loss needs one reward a key, {list(k.shape[:2])}, and got {found}")
    if not bool(torch.isfinite(rewards).all()):
        raise InputError("a reward is not a finite number")
    return rewards.to(torch.promote_types(k.dtype, torch.float32))


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < torch.inf:
            raise InputError(f"{name} must be above 0, not {value}")
