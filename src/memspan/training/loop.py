"""The training loop: steps, metrics, checkpoints, and an end to it when bytes run out."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memspan.core.budget import Budget, format_bytes
from memspan.core.checkpoint import interrupts
from memspan.core.errors import BudgetError, InputError, MissingExtraError
from memspan.core.footprint import Footprint
from memspan.core.ledger import Ledger
from memspan.models.progress import progress_bar
from memspan.training import ranks
from memspan.training.base import AdamW, Batch, Loss, OptimizerFactory, Saver, Stack
from memspan.training.checkpoint import load_training, save_training
from memspan.training.estimate import memory
from memspan.training.step import Step, language_model_loss

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training that reached its end.

    Attributes:
        model: the plain model, as `Stack.finish` gave it.
        losses: of every step, those before a resumption too.
        resumed_at: step at which this call began.
        seconds: of this call's steps.
        peak: what was held at the moment with the most bytes in memory.
        report: what each saver says of itself.
    """

    model: nn.Module
    losses: list[float]
    resumed_at: int
    seconds: float
    peak: Footprint
    report: dict[str, dict[str, Any]]


def train(
    model: nn.Module,
    batches: Callable[[int], Batch] | Sequence[Batch],
    *,
    steps: int,
    savers: Sequence[Saver | str] | Stack = (),
    optimizer: OptimizerFactory | None = None,
    loss: Loss = language_model_loss,
    clip: float | None = None,
    schedule: Callable[[int], float] | None = None,
    seed: int = 0,
    budget: str | int | Budget | None = None,
    out: str | os.PathLike[str] | None = None,
    save_every: int = 100,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    plot: bool = False,
) -> Trained:
    """Train a model.

    Ctrl-C ends the training after the step at hand. With `out`, a checkpoint is written every `save_every` steps, at
    the end, and on Ctrl-C; a training that was stopped or killed at any moment goes on from the last one with `resume`,
    and comes to the same losses and weights bit by bit (same machine, same number of threads).

    Where torchrun started several ranks, each calls this with the same arguments, inside of `ranks.joined()`; one of
    the savers says what they share. `batches` gives the rows of all ranks. The first writes, and has the model.

    Args:
        model: changed in place, or wrapped, by the savers.
        batches: gives batch number i, from 0 on; a sequence begins anew at its end.
        steps: in all, resumed ones too.
        savers: what makes a step cost fewer bytes.
        optimizer: AdamW by default.
        loss: scalar, from the model and a batch.
        clip: gradients are scaled down to this norm.
        schedule: factor of the learning rate at step i, from 0 on.
        seed: of torch's random state inside; the caller's is left as it was.
        budget: bytes in memory, of each rank; when a step has exceeded it, a checkpoint is written and the training
            ends.
        out: folder of the run: metrics.jsonl and the checkpoint; of several ranks, all must see it.
        resume: go on from the checkpoint in `out`, where there is one.
        settings: what a resumed training must agree on besides the savers and the seed.
        progress: show a bar, with the loss and the peak.
        plot: write ledger.png and loss.png into `out`.

    Raises:
        ConflictError, InputError: before the first step: savers exclude each other, an option is out of range, or the
            checkpoint does not fit. During it: the loss is not finite.
        BudgetError: more was held than the budget allows, by any rank.
    """
    if steps < 1 or save_every < 1:
        raise InputError(f"steps is {steps} and save_every is {save_every}: both must be at least 1")
    if out is None and (resume or plot):
        raise InputError("resume and plot need a folder: give out")
    if plot and importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib, which plots need,", "pip install 'memspan[plot]'")
    stack = savers if isinstance(savers, Stack) else Stack(savers)
    if ranks.count() > 1 and stack.distributing is None:
        raise InputError(f"there are {ranks.count()} ranks, and no saver says what they share: add zero, for example")
    bound = None if budget is None else Budget.parse(budget)
    folder = None if out is None else Path(out)
    checkpoint = None if folder is None else folder / CHECKPOINT
    agreed = {"savers": list(stack.slugs), "seed": seed, **(settings or {})}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        held = ranks.first_says(checkpoint is not None and checkpoint.exists())
        if not resume and held:
            raise InputError(f"{folder} holds a training: go on with resume, or choose another folder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = _Run(model, stack, optimizer or AdamW(), loss, clip, schedule, bound, folder, agreed)
        if ranks.rank():
            torch.manual_seed(seed + (ranks.rank() << 32))  # ranks must not drop the same
        begun = time.perf_counter()
        done = run.take_up() if resume else 0
        losses = run.go(_numbered(batches), done, steps, save_every, progress, plot)
        finished = stack.finish(run.step.model)
    return Trained(
        model=finished.eval(),
        losses=losses,
        resumed_at=done,
        seconds=time.perf_counter() - begun,
        peak=run.peak,
        report=stack.report(),
    )


def _numbered(batches: Callable[[int], Batch] | Sequence[Batch]) -> Callable[[int], Batch]:
    if callable(batches):
        return batches
    if not len(batches):
        raise InputError("there is no batch to train on")
    return lambda number: batches[number % len(batches)]


class _Run:
    """What `train` holds while it runs."""

    def __init__(
        self,
        model: nn.Module,
        stack: Stack,
        optimizer: OptimizerFactory,
        loss: Loss,
        clip: float | None,
        schedule: Callable[[int], float] | None,
        bound: Budget | None,
        folder: Path | None,
        settings: dict[str, Any],
    ) -> None:
        self.stack, self.schedule, self.bound, self.folder, self.settings = stack, schedule, bound, folder, settings
        model, self.optimizer = stack.prepare(model, optimizer)
        self.step = Step(model.train(), self.optimizer, stack, loss, clip=clip)
        self.peak = Footprint()
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._losses: list[float] = []

    def take_up(self) -> int:
        """Load the checkpoint where there is one, and the metrics up to it; the steps that are done."""
        assert self.folder is not None
        path = self.folder / CHECKPOINT
        if not path.exists():
            return 0
        done = load_training(path, self.step.model, self.optimizer, self.stack, settings=self.settings)
        lines = (self.folder / METRICS).read_text(encoding="utf-8").splitlines()[:done]
        self._losses = [json.loads(line)["loss"] for line in lines]
        ranks.first_says(None)  # no rank may write before all have read
        if ranks.rank():
            return done
        part = self.folder / (METRICS + ".part")
        part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        part.replace(self.folder / METRICS)
        return done

    def go(
        self,
        batches: Callable[[int], Batch],
        done: int,
        steps: int,
        save_every: int,
        progress: bool,
        plot: bool,
    ) -> list[float]:
        """All steps from `done` on."""
        first = ranks.rank() == 0
        ledger = Ledger(self.step.model, optimizer=self.optimizer, stores=self.stack)
        with interrupts() as pressed, progress_bar("training", steps - done, show=first and progress) as advance:
            try:
                with ledger, self._metrics(done) as file:
                    for number in range(done, steps):
                        self._one(number, batches, ledger, file)
                        self.peak = ledger.peak
                        most, stop = ranks.largest(memory(self.peak), pressed())  # a rank alone must not stop
                        last = number + 1 == steps or bool(stop)
                        advance(1, f"loss {self._losses[-1]:.3f}, peak {format_bytes(memory(self.peak))}")
                        exceeded = self.bound is not None and most > self.bound.total
                        if last or exceeded or (number + 1) % save_every == 0:
                            self._save(number + 1)
                        if exceeded:
                            self._refuse(number + 1, int(most))
                        if stop:
                            raise KeyboardInterrupt
            finally:
                if plot and first:
                    self._plot(ledger)
        return self._losses

    def _one(self, number: int, batches: Callable[[int], Batch], ledger: Ledger, file: Any) -> None:
        if self.schedule is not None:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * self.schedule(number)
        begun = time.perf_counter()
        value = float(self.step(batches(number)))
        if not math.isfinite(value):
            raise InputError(f"the loss of step {number + 1} is {value}: lower the learning rate, or clip gradients")
        self._losses.append(value)
        if file is not None:
            line = {
                "step": number + 1,
                "loss": value,
                "lr": float(self.optimizer.param_groups[0]["lr"]),
                "seconds": round(time.perf_counter() - begun, 4),
                "bytes": memory(ledger.now),
                "peak_bytes": memory(ledger.peak),
            }
            file.write(json.dumps(line) + "\n")
            file.flush()

    def _metrics(self, done: int) -> Any:
        if self.folder is None or ranks.rank():
            return nullcontext()
        return (self.folder / METRICS).open("a" if done else "w", encoding="utf-8")

    def _save(self, step: int) -> None:
        if self.folder is not None:
            path = self.folder / CHECKPOINT
            save_training(path, self.step.model, self.optimizer, self.stack, step=step, settings=self.settings)

    def _refuse(self, step: int, needed: int) -> None:
        assert self.bound is not None
        kept = "" if self.folder is None else f"; step {step} is kept in {self.folder}"
        tiers = ", ".join(f"{tier} {format_bytes(n)}" for tier, n in self.peak.in_memory.by_tier.items())
        raise BudgetError(
            f"step {step} ({tiers})",
            needed=needed,
            allowed=self.bound.total,
            advice=f"raise the budget, lower the batch or the length, or add a saver{kept}",
        )

    def _plot(self, ledger: Ledger) -> None:
        assert self.folder is not None
        from matplotlib.figure import Figure

        ledger.plot(self.folder / "ledger.png")
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(range(1, len(self._losses) + 1), self._losses)
        axes.set(xlabel="step", ylabel="loss")
        figure.savefig(self.folder / "loss.png")
