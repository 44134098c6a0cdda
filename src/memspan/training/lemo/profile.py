"""A share of blocks for each layer: the paper's thresholds, turned into numbers of blocks that can be planned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError
from memspan.training.base import Stack
from memspan.training.lemo.predictors import collect
from memspan.training.lemo.scores import by_block
from memspan.training.step import language_model_loss


def profile_keep(
    model: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    *,
    block: int = 64,
    pool: str = "mean",
    mean: float | None = None,
) -> tuple[float, ...]:
    """For each layer the share of blocks whose score reaches the layer's mean score, which is the paper's threshold.

    Args:
        model: a language model.
        batches: with input_ids [batch, tokens], all of one length.
        block: tokens of a block.
        pool: as in `LemoConfig`.
        mean: scale the shares to this mean over layers; None leaves them.

    Raises:
        InputError: there are no batches, or the mean is not in (0, 1].
    """
    if not batches or (mean is not None and not 0 < mean <= 1):
        raise InputError("a profile needs batches, and a mean in (0, 1]")
    _, pooled = collect(model, batches, block)
    shares = []
    for number in sorted(pooled):
        scores: Tensor = by_block(pooled[number], pool)
        shares.append(float((scores >= scores.mean()).float().mean()))
    return tuple(shares) if mean is None else _scaled(shares, mean)


def refine_keep(
    model: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    shares: Sequence[float],
    *,
    step: float = 0.125,
    rate: float = 1.0,
    rounds: int = 1,
    **options: Any,
) -> tuple[float, ...]:
    """Move shares from layers that do well without to layers that need them, by finite differences of the loss.

    Each round runs the model twice for each layer and batch, with the layer's share by `step` higher and lower; shares
    follow the differences, and keep their mean.

    Args:
        model: a language model; it stays as it is.
        batches: with input_ids and labels.
        shares: of each layer, in (0, 1].
        step: by which a share is varied; it should move a block or more.
        rate: largest change of a share in a round, in steps.
        rounds: how often.
        options: other settings of `LemoConfig`.

    Raises:
        InputError: a share, step or round is out of range.
    """
    if not batches or not 0 < step < 1 or rounds < 0:
        raise InputError("refining needs batches, a step in (0, 1) and rounds of at least 0")
    found = list(shares)
    mean = sum(found) / len(found)
    for _ in range(rounds):
        gains = []
        for layer in range(len(found)):
            losses = []
            for side in (step, -step):
                tried = [*found[:layer], min(1.0, max(step, found[layer] + side)), *found[layer + 1 :]]
                losses.append(sparse_loss(model, batches, keep=tried, **options))
            gains.append(losses[1] - losses[0])
        middle = sum(gains) / len(gains)
        largest = max(abs(gain - middle) for gain in gains) or 1.0
        moved = [share + rate * step * (gain - middle) / largest for share, gain in zip(found, gains, strict=True)]
        found = list(_scaled([min(1.0, max(step, share)) for share in moved], mean))
    return tuple(found)


def sparse_loss(model: nn.Module, batches: Sequence[Mapping[str, Any]], **options: Any) -> float:
    """Mean loss of a model whose layers drop tokens, without training it; options are those of `LemoConfig`."""
    from memspan.training.lemo.saver import Lemo

    saver = Lemo(**options)
    training = model.training
    stack = Stack([saver])
    model = saver.change(model)
    # Dropping is for training mode; what else that switches on is random, and none of this measurement.
    dropouts = [one for one in model.modules() if isinstance(one, nn.modules.dropout._DropoutNd)]
    try:
        model.train()
        for one in dropouts:
            one.eval()
        with torch.no_grad(), stack.step_context():
            losses = [float(language_model_loss(model, batch)) for batch in batches]
    finally:
        saver.finish(model)
        model.train(training)
    return math.fsum(losses) / len(losses)


def _scaled(shares: Sequence[float], mean: float) -> tuple[float, ...]:
    """Shares in proportion, none above 1, with this mean."""
    low, high = 0.0, 1.0 / min(shares)
    for _ in range(60):
        factor = (low + high) / 2
        now = sum(min(1.0, share * factor) for share in shares) / len(shares)
        low, high = (factor, high) if now < mean else (low, factor)
    return tuple(min(1.0, share * high) for share in shares)
