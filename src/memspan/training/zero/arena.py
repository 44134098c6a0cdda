"""One buffer that tensors are cut out of, kept together by moving them: what is kept long leaves no holes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memspan.core.errors import BudgetError, InputError

ALIGNMENT = 64  # bytes at whose multiples tensors begin: of a cache line


class Slot:
    """A tensor in an arena, which may move: ask for `tensor` anew at each use.

    Attributes:
        shape, dtype: of the tensor.
        start, nbytes: where it lies in the arena, and how much it takes there.
    """

    __slots__ = ("_arena", "dtype", "nbytes", "shape", "start")

    def __init__(self, arena: Arena, shape: tuple[int, ...], dtype: torch.dtype, start: int, nbytes: int) -> None:
        self._arena: Arena | None = arena
        self.shape, self.dtype, self.start, self.nbytes = shape, dtype, start, nbytes

    @property
    def tensor(self) -> Tensor:
        """The tensor, as it lies now.

        Raises:
            InputError: it was freed.
        """
        if self._arena is None:
            raise InputError("this slot of the arena was freed")
        end = self.start + math.prod(self.shape) * self.dtype.itemsize
        return self._arena.buffer[self.start : end].view(self.dtype).view(self.shape)

    def free(self) -> None:
        """Give the room back; the tensor must not be used any more. A second time does nothing."""
        arena, self._arena = self._arena, None
        if arena is not None:
            arena._free(self)


class Arena:
    """Cuts tensors out of one buffer: first-fit, moving all of them together where only holes are left.

    Args:
        nbytes: of the buffer.
        device: where it stands.

    Attributes:
        used: bytes of the slots that are not freed.
        top: the largest end of a slot so far.
        moved: bytes that were moved.

    Raises:
        InputError: the size is not positive.
    """

    def __init__(self, nbytes: int, *, device: torch.device | str = "cpu") -> None:
        if nbytes < 1:
            raise InputError(f"an arena of {nbytes} bytes holds nothing: it takes at least one")
        self.buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.size = nbytes
        self.used = self.top = self.moved = 0
        self._slots: list[Slot] = []  # by where they lie

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Slot:
        """Room for a tensor, with whatever lies there.

        Raises:
            BudgetError: there is not enough left.
        """
        nbytes = room(math.prod(shape) * dtype.itemsize)
        if self.used + nbytes > self.size:
            raise BudgetError(
                f"a tensor {tuple(shape)} in the arena",
                needed=self.used + nbytes,
                allowed=self.size,
                advice="make the arena larger",
            )
        found = self._hole(nbytes)
        if found is None:
            self._compact()
            found = len(self._slots), self.used
        place, start = found
        slot = Slot(self, tuple(shape), dtype, start, nbytes)
        self._slots.insert(place, slot)
        self.used += nbytes
        self.top = max(self.top, start + nbytes)
        return slot

    def _hole(self, nbytes: int) -> tuple[int, int] | None:
        """The first hole that is large enough: its place in the list, and where it begins."""
        end = 0
        for place, slot in enumerate(self._slots):
            if slot.start - end >= nbytes:
                return place, end
            end = slot.start + slot.nbytes
        return (len(self._slots), end) if self.size - end >= nbytes else None

    def _compact(self) -> None:
        end = 0
        for slot in self._slots:
            if slot.start != end:
                # Both may overlap, so what moves is copied first where it does.
                source = self.buffer[slot.start : slot.start + slot.nbytes]
                overlaps = slot.start < end + slot.nbytes
                self.buffer[end : end + slot.nbytes].copy_(source.clone() if overlaps else source)
                slot.start = end
                self.moved += slot.nbytes
            end += slot.nbytes

    def _free(self, slot: Slot) -> None:
        self._slots.remove(slot)
        self.used -= slot.nbytes


def room(nbytes: int) -> int:
    """Bytes that a tensor takes in an arena."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
