"""Ranks: the processes that share one training, as torchrun starts them, and what they must agree on.

Without them a process is rank 0 of 1, and nothing here communicates. Collectives are PyTorch's; every rank has to call
them in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memspan.core.errors import InputError


def launched() -> int:
    """How many ranks torchrun started this process with; 1 without it.

    Raises:
        InputError: the environment names no whole number.
    """
    if "RANK" not in os.environ:
        return 1
    try:
        return int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        raise InputError("RANK is set and WORLD_SIZE is no number: start the ranks with torchrun") from None


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the ranks that torchrun started, while the block runs; nothing happens where there are none."""
    if launched() == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def shares(model: nn.Module) -> bool:
    """Whether a model is to be shared by ranks: there are several, and its tensors can be sent to them.

    Tensors without bytes can go to ranks that are left out (backend "fake"), not to real ones.
    """
    from torch._subclasses.fake_tensor import FakeTensor

    if count() == 1:
        return False
    return dist.get_backend() == "fake" or not any(isinstance(one, FakeTensor) for one in model.parameters())


def mesh(sizes: dict[str, int], device: str = "cpu") -> Any:
    """A mesh of all ranks, a dimension for each name; ranks next to one another differ in the last one.

    Raises:
        InputError: the sizes' product is not the number of ranks.
    """
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torch.distributed.device_mesh import init_device_mesh

    product = 1
    for size in sizes.values():
        product *= size
    if product != count():
        shape = " x ".join(f"{size} {name}" for name, size in sizes.items())
        raise InputError(f"{count()} ranks cannot be arranged as {shape}: start {product}")
    with unset_fake_temporarily():  # it reads the numbers of the ranks from a tensor
        return init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def largest(*values: float) -> list[float]:
    """Of each value the largest that a rank has."""
    if count() == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [float(value) for value in found]


def first_says(value: Any) -> Any:
    """What the first rank has."""
    if count() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def from_all(value: Any) -> list[Any]:
    """What each rank has."""
    if count() == 1:
        return [value]
    held: list[Any] = [None] * count()
    dist.all_gather_object(held, value)
    return held


def copy_first(model: nn.Module, group: Any = None) -> None:
    """Give the parameters and buffers of every rank of a group the values of its first."""
    first = dist.get_global_rank(group, 0) if group is not None else 0
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), first, group=group)


def common_mean(loss: Tensor, kept: Tensor | None, group: Any) -> Tensor:
    """A rank's mean loss as its part of the mean over all that the ranks of a group keep.

    Args:
        loss: scalar, the mean over this rank's tokens (or rows).
        kept: how many those are, a scalar; None where every rank has as many.
        group: the ranks.

    Returns:
        A scalar with the common mean as its value. Its gradients are such that their mean over the ranks is the
        gradient of that value: a rank that keeps more weighs more.
    """
    size = dist.get_world_size(group)
    part = loss
    if kept is not None:
        whole = kept.detach().to(torch.float32).clone()
        dist.all_reduce(whole, group=group)
        # Without a token of its own a rank's mean is 0 / 0, which must not reach the others.
        part = torch.where(kept > 0, loss, torch.zeros_like(loss)) * (kept * size / whole)
    value = part.detach() / size
    dist.all_reduce(value, group=group)
    return part + (value - part.detach())


def all_gather(into: Tensor, part: Tensor, group: Any) -> None:
    """Fill a tensor with the parts of all ranks, one after the other."""
    # PyTorch 2.13 deprecates the name that earlier ones have.
    gather = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
    gather(into, part, group=group)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with what other ranks hold of it; collective where it is divided."""
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        found: Tensor = tensor.full_tensor()
        return found
    return tensor


def divided_like(value: Tensor, place: Tensor) -> Tensor:
    """This rank's part of a whole tensor, divided as `place` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(place, DTensor):
        return value
    return distribute_tensor(value, place.device_mesh, place.placements, src_data_rank=None)


class Held:
    """A tensor that one rank holds alone, to be had by the first.

    Attributes:
        owner: the rank.
        shape, dtype: of the tensor.
    """

    def __init__(self, owner: int, shape: tuple[int, ...], dtype: torch.dtype, tensor: Tensor | None) -> None:
        self.owner, self.shape, self.dtype, self._tensor = owner, shape, dtype, tensor

    def fetch(self) -> Tensor | None:
        """The tensor, on the first rank; None on the others. The owner has to call it too."""
        if rank() == self.owner == 0:
            return self._tensor
        if rank() == self.owner:
            assert self._tensor is not None
            dist.send(self._tensor.detach().contiguous().flatten().view(torch.uint8), 0)
        elif rank() == 0:
            found = torch.empty(self.shape, dtype=self.dtype)
            dist.recv(found.flatten().view(torch.uint8), self.owner)
            return found
        return None
