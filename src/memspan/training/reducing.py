"""Gradients averaged over ranks while the backward pass goes on, through one buffer of a fixed size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memspan.core.errors import ConflictError

BUCKET = 25 << 20  # bytes, as PyTorch's DistributedDataParallel has it


class GradientReducer:
    """Averages each gradient over the ranks of a group as soon as it is there, small ones several at a time.

    Gradients are gathered into buckets in the reverse order of the parameters, and buckets are sent in one order, so
    that all ranks send the same, in whatever order a backward pass makes them. A gradient as large as the buffer is
    sent from where it stands.

    Args:
        parameters: that train, in the model's order.
        group: the ranks.
        owners: of each parameter the rank of the group that wants its gradient; None: all want it.
        free: drop what a rank has sent and does not own.
        bucket: bytes of the buffer.

    Raises:
        ConflictError: in the backward pass: gradients are accumulated over several.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        group: Any,
        *,
        owners: Mapping[nn.Parameter, int] | None = None,
        free: bool = False,
        bucket: int = BUCKET,
    ) -> None:
        self._group, self._owners, self._free = group, owners, free
        self._bytes = bucket
        self._size = dist.get_world_size(group)
        self._rank = dist.get_rank(group)
        self._buckets = _buckets([p for p in parameters if p.requires_grad], owners or {}, bucket)
        self._place = {p: number for number, one in enumerate(self._buckets) for p in one}
        self._waiting = [len(one) for one in self._buckets]
        self._next = 0
        self._buffers: dict[torch.dtype, Tensor] = {}
        self._handles: list[Any] = []
        for parameter in self._place:
            watched: Any = parameter
            self._handles.append(watched.register_post_accumulate_grad_hook(self._come))
        self.elements = 0  # that this rank has sent, counted once each

    def _come(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        if not self._buffers:
            self._allocate()
        number = self._place[parameter]
        self._waiting[number] -= 1
        if self._waiting[number] < 0 or number < self._next:
            raise ConflictError("gradients are accumulated over several passes: ranks average them after each, run one")
        while self._next < len(self._buckets) and not self._waiting[self._next]:
            self._send(self._buckets[self._next])
            self._next += 1

    def settle(self) -> None:
        """Send what is left, zeros for parameters without a gradient; to be called after every backward pass."""
        while self._next < len(self._buckets):
            if not self._buffers:
                self._allocate()
            for parameter in self._buckets[self._next]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self._send(self._buckets[self._next])
            self._next += 1
        self.reset()

    def reset(self) -> None:
        """Begin anew, after a step that failed; the buffer goes."""
        self._buffers.clear()
        self._waiting = [len(one) for one in self._buckets]
        self._next = 0

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()

    def _send(self, bucket: list[nn.Parameter]) -> None:
        gradients: list[Tensor] = []
        for parameter in bucket:
            assert parameter.grad is not None
            if not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()
            gradients.append(parameter.grad.detach())
        owner = None if self._owners is None else self._owners[bucket[0]]
        wanted = owner is None or owner == self._rank
        if len(gradients) == 1:
            gradients[0].div_(self._size)
            self._reduce(gradients[0], owner)
        else:
            flat = self._buffers[gradients[0].dtype][: sum(one.numel() for one in gradients)]
            parts = [part.view_as(one) for part, one in zip(_split(flat, gradients), gradients, strict=True)]
            torch._foreach_copy_(parts, gradients)
            flat.div_(self._size)
            self._reduce(flat, owner)
            if wanted:
                torch._foreach_copy_(gradients, parts)
        if self._free and not wanted:
            for parameter in bucket:
                parameter.grad = None

    def _reduce(self, tensor: Tensor, owner: int | None) -> None:
        self.elements += tensor.numel()
        if owner is None:
            dist.all_reduce(tensor, group=self._group)
        else:
            dist.reduce(tensor, dist.get_global_rank(self._group, owner), group=self._group)

    def _allocate(self) -> None:
        """Make the buffer, for each dtype of which gradients are sent together, when the first gradient comes."""
        for bucket in self._buckets:
            first = bucket[0]
            if len(bucket) > 1 and first.dtype not in self._buffers:
                length = self._bytes // first.element_size()
                self._buffers[first.dtype] = torch.empty(length, dtype=first.dtype, device=first.device)


def _split(flat: Tensor, like: list[Tensor]) -> Sequence[Tensor]:
    return torch.split(flat, [one.numel() for one in like])


def _buckets(
    parameters: Sequence[nn.Parameter], owners: Mapping[nn.Parameter, int], size: int
) -> list[list[nn.Parameter]]:
    """Parameters, last first, in lists of at most `size` bytes, of one owner and dtype each."""
    done: list[list[nn.Parameter]] = []
    filling: dict[Any, list[nn.Parameter]] = {}
    held: dict[Any, int] = {}
    for parameter in reversed(parameters):
        nbytes = parameter.numel() * parameter.element_size()
        key = (owners.get(parameter), parameter.dtype, parameter.device)
        if nbytes >= size:
            done.append([parameter])
            continue
        if key in filling and held[key] + nbytes > size:
            done.append(filling.pop(key))
        if key not in filling:
            filling[key], held[key] = [], 0
        filling[key].append(parameter)
        held[key] += nbytes
    return done + list(filling.values())
