"""Savers in transformers' `Trainer`: a model, its optimizer, and one callback.

parts = for_trainer(model, ["checkpointing", "chunked-loss"])
Trainer(parts.model, args, train_dataset=data, optimizers=parts.optimizers, callbacks=parts.callbacks).train()
model = parts.finish()

The Trainer's own checkpoints have all that a resumption needs: what the savers know beside the model stands in the
optimizer's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from memspan.core.errors import ConflictError, InputError, MissingExtraError
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
    """

    model: nn.Module
    optimizers: tuple[torch.optim.Optimizer, None]
    callbacks: list[Any]
    stack: Stack

    @property
    def ledger(self) -> Ledger:
        """Of the training that runs, or that ran last."""
        found: Ledger = self.callbacks[0].ledger
        return found

    def finish(self) -> nn.Module:
        """The trained model as a plain one; to be called after a training that failed, too."""
        self.callbacks[0].close()
        return self.stack.finish(self.model)


def for_trainer(
    model: nn.Module, savers: Sequence[Saver | str] | Stack = (), optimizer: OptimizerFactory | None = None
) -> TrainerParts:
    """Prepare a model for transformers' `Trainer`.

    What the arguments of a Trainer exclude is told when its training begins, as a ConflictError or InputError, before
    the first step.

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

    class SaverCallback(TrainerCallback):  # type: ignore[misc]
        """Enters the savers' contexts around the passes of a step, and counts."""

        def __init__(self) -> None:
            self._context: AbstractContextManager[None] | None = None
            self.ledger = Ledger(model, optimizer=made, stores=stack)
            self._counting = False

        def close(self) -> None:
            """Leave whatever is entered."""
            self._leave()
            if self._counting:
                self._counting = False
                self.ledger.__exit__(None, None, None)

        def _leave(self) -> None:
            context, self._context = self._context, None
            if context is not None:
                context.__exit__(None, None, None)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.close()  # a training before it may have failed
            check_arguments(stack, args)
            self.ledger = Ledger(model, optimizer=made, stores=stack)
            self.ledger.__enter__()
            self._counting = True

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._leave()
            self._context = stack.step_context()
            self._context.__enter__()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._leave()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            stack.after_step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs is not None:
                logs["peak_bytes"] = memory(self.ledger.peak)
                state.log_history[-1]["peak_bytes"] = logs["peak_bytes"]

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.close()

    return TrainerParts(model=model, optimizers=(made, None), callbacks=[SaverCallback()], stack=stack)


def check_arguments(stack: Stack, args: Any) -> None:
    """Return if the savers can work under a Trainer's arguments.

    Args:
        stack: the savers.
        args: a `transformers.TrainingArguments`.

    Raises:
        ConflictError: an argument and a saver change the same thing, or one undoes what the other needs.
        InputError: there are several devices, and a saver works on one.
    """
    if args.max_grad_norm:
        try:
            refuse_clipping(stack)
        except ConflictError as error:
            raise ConflictError(f"{error}; in a Trainer, max_grad_norm=0 does not clip") from None
    ranks = max(args.world_size, args.n_gpu)
    for saver in stack.savers:
        saver.check_ranks(ranks)
        if saver.updates_in_backward:
            for name, sent in (
                ("gradient_accumulation_steps", args.gradient_accumulation_steps > 1),
                ("fp16", args.fp16),
            ):
                if sent:
                    raise ConflictError(
                        f"{saver.slug} updates parameters inside the backward pass, and {name} needs their gradients"
                        f" after it: leave {name} out, or give {saver.slug} in_backward=False"
                    )
        if "activations" in saver.touches and args.gradient_checkpointing and saver.slug != "checkpointing":
            raise ConflictError(
                f"{saver.slug} and gradient_checkpointing both change the activations of a step: leave one of them out"
            )
        if "loss" in saver.touches and args.label_smoothing_factor:
            raise ConflictError(
                f"{saver.slug} computes the loss inside the model, and label_smoothing_factor outside of it:"
                " leave one of them out"
            )
        held = saver.touches & {"layers", "optimizer"}
        for name in ("fsdp", "deepspeed"):
            if held and getattr(args, name):
                raise ConflictError(
                    f"{saver.slug} changes the {' and '.join(sorted(held))} of a step, and {name} puts parameters of"
                    " its own in the place of those that it knows: leave one of them out"
                )
