"""Savers in transformers' `Trainer`: a model, its optimizer, and one callback.

parts = for_trainer(model, ["checkpointing", "chunked-loss"])
Trainer(parts.model, args, train_dataset=data, optimizers=parts.optimizers, callbacks=parts.callbacks).train()
model = parts.finish()
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from memspan.core.errors import InputError, MissingExtraError
from memspan.core.ledger import Ledger
from memspan.training.base import AdamW, OptimizerFactory, Saver, Stack
from memspan.training.estimate import memory
from memspan.training.step import refuse_clipping


@dataclass(frozen=True, kw_only=True)
class TrainerParts:
    """What goes into a `Trainer`.

    Attributes:
        model: to train.
        optimizers: the optimizer, and no scheduler: the Trainer makes its own.
        callbacks: one, which enters the savers' contexts and adds "peak_bytes" to the logs.
        stack: the savers.
        ledger: of the training; open while it runs.
    """

    model: nn.Module
    optimizers: tuple[torch.optim.Optimizer, None]
    callbacks: list[Any]
    stack: Stack
    ledger: Ledger

    def finish(self) -> nn.Module:
        """The trained model as a plain one."""
        return self.stack.finish(self.model)


def for_trainer(
    model: nn.Module, savers: Sequence[Saver | str] | Stack = (), optimizer: OptimizerFactory | None = None
) -> TrainerParts:
    """Prepare a model for transformers' `Trainer`, for one call of its `train`.

    Raises:
        ConflictError: savers exclude each other.
        InputError: one replaces the batch or the loss, which the Trainer computes by itself.
        MissingExtraError: accelerate, which the Trainer needs, is not installed.
    """
    if find_spec("accelerate") is None:
        raise MissingExtraError("accelerate, which transformers' Trainer needs,", "pip install 'memspan[train]'")
    from transformers import TrainerCallback

    stack = savers if isinstance(savers, Stack) else Stack(savers)
    for saver in stack.savers:
        if type(saver).loss is not Saver.loss or type(saver).batch is not Saver.batch:
            raise InputError(f"{saver.slug} replaces the batch or the loss: train with memspan.training.train")
    model, made = stack.prepare(model, optimizer or AdamW())
    ledger = Ledger(model, optimizer=made, stores=stack)

    class SaverCallback(TrainerCallback):  # type: ignore[misc]
        """Enters the savers' contexts around the passes of a step, and counts."""

        def __init__(self) -> None:
            self._context: AbstractContextManager[None] | None = None

        def _leave(self) -> None:
            if self._context is not None:
                self._context.__exit__(None, None, None)
                self._context = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if args.max_grad_norm:
                refuse_clipping(stack)
            ledger.__enter__()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._context = stack.step_context()
            self._context.__enter__()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._leave()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._leave()
            stack.after_step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs is not None:
                logs["peak_bytes"] = memory(ledger.peak)
                state.log_history[-1]["peak_bytes"] = logs["peak_bytes"]

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._leave()
            ledger.__exit__(None, None, None)

    return TrainerParts(model=model, optimizers=(made, None), callbacks=[SaverCallback()], stack=stack, ledger=ledger)
