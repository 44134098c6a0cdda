"""Layers that are computed again in the backward pass from an input that is split, offloaded, or in an arena."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memspan.core.errors import UnsupportedModelError
from memspan.training import ranks
from memspan.training.zero.arena import Arena, Slot, room


class Inputs:
    """Keeps the input of each layer for the backward pass.

    Args:
        group: ranks whose layers have the same inputs, each of which keeps its part; None keeps them whole.
        offload: in the memory of the host.
        in_arena: in one arena, which is as large as the first step shows, and there while a step needs it.
    """

    def __init__(self, group: Any, *, offload: bool, in_arena: bool) -> None:
        self._group, self._offload, self._in_arena = group, offload, in_arena
        self._arena: Arena | None = None
        self._held = self._most = 0

    def run(self, layer: Callable[..., Any], hidden: Tensor, *rest: Any) -> Any:
        """What a layer makes of its input, as `torch.utils.checkpoint.checkpoint` would run it."""
        wants = hidden.requires_grad
        first = [hidden]
        kept = self._keep(hidden.detach())

        def body() -> Any:
            x = first.pop() if first else kept().requires_grad_(wants)
            return layer(x, *rest)

        return checkpoint(body, use_reentrant=False)

    def _keep(self, hidden: Tensor) -> Callable[[], Tensor]:
        """Put an input away; what is returned gives it back, once."""
        shape, device = hidden.shape, hidden.device
        part = hidden
        if self._group is not None:
            size = dist.get_world_size(self._group)
            part = torch.chunk(_padded(hidden, size), size)[dist.get_rank(self._group)]
        where = torch.device("cpu") if self._offload else device
        nbytes = room(part.numel() * part.element_size())
        if self._in_arena and self._arena is None and self._most:
            self._arena = Arena(self._most, device=where)
        self._held += nbytes
        self._most = max(self._most, self._held)
        slot: Slot | None = None
        if self._arena is not None and self._arena.used + nbytes <= self._arena.size:
            slot = self._arena.allocate(tuple(part.shape), part.dtype)
            slot.tensor.copy_(part)
            held = None
        else:
            held = part.to(where, copy=True)
        del hidden, part

        def give() -> Tensor:
            nonlocal slot, held
            found = held if slot is None else slot.tensor
            assert found is not None
            found = found.to(device, copy=slot is not None)
            if slot is not None:
                slot.free()
            held = slot = None
            self._held -= nbytes
            if self._group is None:
                return found.view(shape)
            gathered = found.new_empty(found.numel() * dist.get_world_size(self._group))
            ranks.all_gather(gathered, found, self._group)
            return gathered[: shape.numel()].view(shape)

        return give

    def end_step(self) -> None:
        """Forget what a step has left."""
        self._arena = None
        self._held = 0


def _padded(hidden: Tensor, size: int) -> Tensor:
    """All numbers in a row, with zeros at the end where they cannot be divided."""
    flat = hidden.reshape(-1)
    missing = -flat.numel() % size
    return nn.functional.pad(flat, (0, missing)) if missing else flat


def attach(model: Any, inputs: Inputs) -> None:
    """Let the layers of a transformers model keep their inputs there.

    Raises:
        UnsupportedModelError: the model cannot compute its layers again.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot recompute its layers: leave activations as they are"
        )
    switch = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    switch({"use_reentrant": False})
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = inputs.run


def detach(model: Any) -> None:
    """Let them compute once again."""
    switch = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    switch()
