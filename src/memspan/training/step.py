"""One step of training: what `train` runs, and what the planner runs on tensors without bytes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from memspan.core.errors import ConflictError, InputError
from memspan.training.base import Batch, Loss, Stack


class Marker(Protocol):
    """Whatever is told which stretch of a step begins: a `Ledger`."""

    def mark(self, name: str) -> None: ...


def language_model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of each token given those before it, as transformers computes it from `labels`; a scalar."""
    loss: Any = model(**batch, use_cache=False).loss
    if not isinstance(loss, Tensor):
        raise InputError(f"{type(model).__name__} gives no loss: the batch needs labels, or pass a loss of your own")
    return loss


class Step:
    """Forward pass, backward pass, update.

    Args:
        model, optimizer: as `stack.prepare` gave them.
        stack: the savers.
        loss: what computes the loss from the model and a batch, before the savers change it.
        clip: gradients are scaled down to this norm; None leaves them.

    Raises:
        ConflictError: gradients are to be clipped, and a saver updates parameters before all gradients are known.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stack: Stack,
        loss: Loss = language_model_loss,
        *,
        clip: float | None = None,
    ) -> None:
        if clip is not None:
            refuse_clipping(stack)
        self.model, self.optimizer, self.stack, self.clip = model, optimizer, stack, clip
        self.loss = stack.loss(loss)

    def __call__(self, batch: Batch, marker: Marker | None = None) -> Tensor:
        """The loss, a scalar without a graph.

        `marker` hears the names of `STRETCHES`, each when it begins.
        """
        mark = marker.mark if marker is not None else _unheard
        with self.stack.step_context():
            mark("forward")
            loss = self.loss(self.model, self.stack.batch(batch))
            mark("backward")
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        mark("clip")
        if self.clip is not None:
            self.stack.clip(self.model, self.clip)
        mark("update")
        self.optimizer.step()
        mark("clear")
        self.optimizer.zero_grad(set_to_none=True)
        mark("after")
        self.stack.after_step()
        return loss


def refuse_clipping(stack: Stack) -> None:
    """Raise ConflictError if a saver updates parameters before the norm of all gradients is known."""
    for saver in stack.savers:
        if saver.updates_in_backward:
            raise ConflictError(
                f"{saver.slug} updates parameters inside the backward pass, before the norm of all gradients is known: "
                "do not clip, or give it in_backward=False"
            )


def _unheard(name: str) -> None:
    """No marker."""
