"""Entries that are in no list yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import codes
from .effort import NONE, Slots
from .space import Floats


@dataclass
class Pending:
    """Entries not yet written to their lists, chained by list.

    Attributes:
        first: [lists], the newest entry of each list, -1 for none; next: [capacity], the one before it.
        packed, add, scale, slots: the entries, as in a list; lists: the list of each.
        used: entries held.
    """

    first: npt.NDArray[np.int32]
    next: npt.NDArray[np.int32]
    packed: npt.NDArray[np.uint8]
    add: Floats
    scale: Floats
    slots: Slots
    lists: Slots
    used: int = 0

    @classmethod
    def empty(cls, lists: int, padded: int, capacity: int) -> Pending:
        """None, for so many lists; memory is touched only as entries come."""
        zero = np.empty(capacity, np.float32), np.empty(capacity, np.float32)
        slots = np.empty(capacity, np.uint32), np.empty(capacity, np.uint32)
        first, after = np.full(lists, -1, np.int32), np.empty(capacity, np.int32)
        return cls(first, after, np.empty((capacity, padded // 2), np.uint8), *zero, *slots)

    @property
    def nbytes(self) -> int:
        """Bytes touched."""
        each = self.packed.shape[1] + 4 + sum(a.itemsize for a in (self.add, self.scale, self.slots, self.lists))
        return int(self.first.nbytes + self.used * each)

    def append(self, entries: codes.Entries, lists: Slots) -> None:
        """Adds entries to their lists."""
        count = len(lists)
        if self.used + count > len(self.slots):
            self._grow(self.used + count)
        order = lists.argsort(kind="stable")
        ranked = lists[order]
        at = np.arange(self.used, self.used + count, dtype=np.int32)
        self.packed[at], self.add[at], self.scale[at] = entries.packed[order], entries.add[order], entries.scale[order]
        self.slots[at], self.lists[at] = entries.slots[order], ranked
        head = np.ones(count, bool)
        head[1:] = ranked[1:] != ranked[:-1]
        self.next[at] = np.where(head, self.first[ranked], at - 1)
        last = np.ones(count, bool)
        last[:-1] = head[1:]
        self.first[ranked[last]] = at[last]
        self.used += count

    def copy_without(self, slots: Slots) -> Pending:
        """A copy to work on, without the entries of some slots."""
        kept = np.flatnonzero(~np.isin(self.slots[: self.used], slots)) if len(slots) else np.arange(self.used)
        kept = kept[self.lists[kept] < len(self.first)]
        out = Pending.empty(len(self.first), 2 * self.packed.shape[1], len(kept))
        out.append(
            codes.Entries(self.packed[kept], self.add[kept], self.scale[kept], self.slots[kept]), self.lists[kept]
        )
        return out

    def forget(self, lists: Slots) -> None:
        """Drops the entries of lists."""
        self.first[lists] = -1
        self.lists[: self.used][np.isin(self.lists[: self.used], lists)] = NONE

    def waiting(self) -> npt.NDArray[np.int64]:
        """How many entries wait for each list."""
        lists = self.lists[: self.used]
        return np.bincount(lists[lists != NONE], minlength=len(self.first))

    def _grow(self, least: int) -> None:
        for name in ("next", "packed", "add", "scale", "slots", "lists"):
            old = getattr(self, name)
            new = np.empty((max(least, 2 * len(old)), *old.shape[1:]), old.dtype)
            new[: self.used] = old[: self.used]
            setattr(self, name, new)
