"""`fit_retriever`: one training loop for every encoder and every loss, which can be stopped and taken up again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from memspan.core.checkpoint import interrupts, load_checkpoint, save_checkpoint
from memspan.core.errors import InputError
from memspan.longterm.retriever.batches import Batch
from memspan.longterm.retriever.losses import RetrieverLoss
from memspan.models.progress import progress_bar

Side = Literal["query", "key"]


class TrainableEncoder(Protocol):
    """A `torch.nn.Module` that embeds texts so that gradients flow."""

    def encode_texts(self, texts: Sequence[str], tasks: Sequence[str], side: Side) -> Tensor:
        """[n, D] vectors of texts, each with its task; their length does not matter."""


class Batches(Protocol):
    """Batches by the number of the training step: `HomogeneousBatches`, or a list that is long enough."""

    def __getitem__(self, step: int, /) -> Batch:
        """The batch of a step, the same whenever it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What training did.

    Attributes:
        steps: done in all.
        resumed_at: the step it was taken up from; 0 for a fresh start.
        losses: of every step from 0 on, those of earlier runs included.
        seconds: of this run.
    """

    steps: int
    resumed_at: int
    losses: tuple[float, ...]
    seconds: float


def fit_retriever(
    encoder: nn.Module,
    batches: Batches,
    loss: RetrieverLoss,
    *,
    lr: float,
    steps: int,
    warmup: float = 0.1,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    seed: int = 0,
    autocast: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    progress: bool = False,
    groups: Sequence[dict[str, Any]] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train an encoder in place with AdamW: linear warm-up, linear decay to 0, clipped gradients.

    Args:
        encoder: a `TrainableEncoder`; left in evaluation mode.
        batches: what each step trains on.
        loss: see `memspan.longterm.retriever.losses`.
        lr: the highest learning rate; of a group with an "lr" of its own, that one.
        steps: in all, those that a checkpoint has done included.
        warmup: share of the steps in which the rate rises.
        weight_decay: of parameters with two dimensions or more.
        clip: largest norm of the gradient.
        seed: of dropout; with the same batches, a run taken up again ends as one without a break.
        autocast: matrix products of the encoder in bfloat16.
        checkpoint: a safetensors file; written every `every` steps, at the end, and on Ctrl-C (which is raised when the
            step under way is done); where it is there already, training goes on from it.
        progress: show a bar also where stderr is no terminal.
        groups: parameter groups as `torch.optim.AdamW` takes them, in place of all parameters with one rate.
        on_step: called after each step with its number, from 1, and its loss.

    Raises:
        InputError: a setting that cannot be, a checkpoint of another encoder or other settings, or a loss that is not
            finite.
        KeyboardInterrupt: after the checkpoint was written.
    """
    if steps < 1 or every < 1 or lr <= 0 or clip <= 0 or not 0 <= warmup < 1:
        raise InputError(f"steps {steps}, every {every}, lr {lr}, clip {clip}, warmup {warmup}: one is out of range")
    optimizer = torch.optim.AdamW(_groups(encoder, weight_decay) if groups is None else list(groups), lr=lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    settings: dict[str, Any] = {"lr": lr, "steps": steps, "warmup": warmup, "weight_decay": weight_decay, "seed": seed}
    settings |= {"clip": clip, "autocast": autocast, "loss": repr(loss)}
    path = None if checkpoint is None else Path(checkpoint)
    losses: list[float] = []
    if path is not None and path.exists():
        losses = load_checkpoint(path, encoder, optimizer, settings)
    begun, start = time.perf_counter(), len(losses)
    encoder.train()
    devices = [p.device for p in encoder.parameters() if p.device.type == "cuda"][:1]
    with (
        torch.random.fork_rng(devices=devices),
        progress_bar("training", steps, force=progress) as advance,
        interrupts() as interrupted,
    ):
        advance(start)
        for step in range(start, steps):
            torch.manual_seed(seed * 1_000_003 + step)  # what a step draws depends on nothing before it
            factor = _rate(step, steps, warmup)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            value = _loss_of(encoder, batches[step], loss, autocast)
            if not bool(torch.isfinite(value)):
                raise InputError(f"the loss is {value.item()} at step {step}: lower the learning rate ({lr})")
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(encoder.parameters(), clip)
            optimizer.step()
            losses.append(value.item())
            advance(1)
            if on_step is not None:
                on_step(step + 1, losses[-1])
            stop = interrupted()
            if path is not None and (stop or (step + 1) % every == 0 or step + 1 == steps):
                save_checkpoint(path, encoder, optimizer, settings, losses)
            if stop:
                raise KeyboardInterrupt
    encoder.eval()
    return Fitted(steps=steps, resumed_at=start, losses=tuple(losses), seconds=time.perf_counter() - begun)


def _loss_of(encoder: Any, batch: Batch, loss: RetrieverLoss, autocast: bool) -> Tensor:
    rows, keys = len(batch.keys), len(batch.keys[0])
    # A text that stands several times with the same task is encoded once.
    flat = [(task, key) for task, row in zip(batch.tasks, batch.keys, strict=True) for key in row]
    places = {pair: place for place, pair in enumerate(dict.fromkeys(flat))}
    device = next(encoder.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        q = encoder.encode_texts(batch.queries, batch.tasks, "query")
        k = encoder.encode_texts([key for _, key in places], [task for task, _ in places], "key")
    k = k[torch.tensor([places[pair] for pair in flat], device=device)].view(rows, keys, -1)
    rewards = None if batch.rewards is None else batch.rewards.to(device)
    return loss(q, k, rewards, batch.ids().to(device))


def _rate(step: int, steps: int, warmup: float) -> float:
    """The factor on the learning rate: up to 1 in the first `warmup` of the steps, then down towards 0."""
    rising = max(1, round(steps * warmup)) if warmup else 0
    if step < rising:
        return (step + 1) / (rising + 1)
    return (steps - step) / max(1, steps - rising)


def _groups(encoder: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases do not decay."""
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the encoder has no parameter to train")
    decayed = {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay}
    others = {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}
    return [group for group in (decayed, others) if group["params"]]
