"""What is looked up by a key: slots by id, and the slots of a tenant. Written anew with each checkpoint.

`order.bin` holds the ids of the live rows, sorted, then the slot of each; `owners.bin` the live slots that have a
tenant, tenant by tenant. Rows of the log, which are behind the checkpoint, are told apart by scanning them once.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from memspan.core.errors import StoreError

from .effort import test_bits
from .layout import U32, Files, Tables, write_durably
from .pages import Column

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]

ENTRY = 12  # bytes of an id and its slot


def write_order(files: Files, slots: Ids) -> None:
    """Writes the ids of slots with these, sorted by id."""
    ids = np.fromfile(files.ids, np.int64, int(slots[-1]) + 1 if len(slots) else 0)[slots]
    order = ids.argsort(kind="stable")
    write_durably(files.order, ids[order], slots[order].astype(np.uint32))


def write_owners(files: Files, slots: Ids, names: int) -> Ids:
    """Writes the slots that have one of so many tenants; where those of each tenant begin, [names + 1]."""
    count = int(slots[-1]) + 1 if len(slots) and files.tenants.exists() else 0
    codes = np.zeros(0, np.uint32)
    if count:
        codes = np.fromfile(files.tenants, np.uint32, count)[slots]
        slots, codes = slots[codes > 0], codes[codes > 0]
    else:
        slots = slots[:0]
    write_durably(files.owners, slots[codes.argsort(kind="stable")].astype(np.uint32))
    return np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=names + 1)[1:])]).astype(np.int64)


class Lookup:
    """Both files of one checkpoint. Without `order.bin`, when it is damaged, ids are sorted in memory.

    Attributes:
        order, owners: the files, in pieces of 4 bytes.
        start: where in `owners` the slots of each tenant begin.
    """

    def __init__(self, files: Files, tables: Tables, ids: Column) -> None:
        sums, start = tables.sums, tables.owner_start
        self._tables, self._ids = tables, ids
        four = np.dtype(np.uint32)
        size = files.order.stat().st_size // 4 if files.order.exists() else 0
        none = np.zeros(0, np.uint32)
        self.order = Column(files.order, four, (), size, sums.get("order", none))
        self.owners = Column(files.owners, four, (), int(start[-1]), sums.get("owners", none))
        self.start = start
        self._sorted: tuple[Ids, U32] | None = None
        self._late: dict[int, list[npt.NDArray[np.int64]]] = {}
        self._seen = -1

    def sorted(self) -> tuple[Ids, U32]:
        """Ids in order and the slot of each, unchecked."""
        data = self.order.data.reshape(-1).view(np.uint8)
        count = len(data) // ENTRY
        return data[: 8 * count].view(np.int64), data[8 * count : ENTRY * count].view(np.uint32)

    def close(self) -> None:
        """Lets go of the maps."""
        self._sorted = None
        self.order.close()
        self.owners.close()

    def slots(self, ids: Ids) -> Ids:
        """The slots of those of the ids that are in the checkpoint.

        Raises:
            StoreError: the lookup is damaged, and the ids that it could be made from too.
        """
        if self._sorted is None:
            # All of it is checked, before the first use: a search that is led astray by one page would find nothing.
            try:
                self.order.check(np.arange(len(self.order.sums)))
                self._sorted = self.sorted()
            except StoreError as e:
                log.warning("%s; ids are looked up in memory meanwhile", e)
                live = np.flatnonzero(~test_bits(self._tables.dead, np.arange(int(self._tables.held[0]))))
                ids_of = self._ids[: int(self._tables.held[0])][live]
                order = ids_of.argsort(kind="stable")
                self._sorted = ids_of[order], live[order].astype(np.uint32)
        known, slots = self._sorted
        at = np.searchsorted(known, ids)
        at, ids = at[at < len(known)], ids[at < len(known)]
        return np.asarray(slots[at[known[at] == ids]], np.int64)

    def owned(self, code: int, tenants: Column, held: int, slots: int) -> Ids:
        """The slots of a tenant, dead ones among them: those of the checkpoint, which holds `held`, then later ones."""
        early = np.zeros(0, np.int64)
        if 0 < code < len(self.start):
            early = self.owners[int(self.start[code - 1]) : int(self.start[code])].astype(np.int64)
        seen = held if self._seen < 0 else self._seen
        if seen < slots and len(tenants):
            late = tenants[seen:slots]
            order = late.argsort(kind="stable")
            codes, first = np.unique(late[order], return_index=True)
            for c, part in zip(codes.tolist(), np.split(order, first[1:]), strict=True):
                self._late.setdefault(c, []).append(part + seen)
        self._seen = slots
        return np.concatenate([early, *self._late.get(code, [])])


def check_order(lookup: Lookup, ids: Ids, held: int, alive: npt.NDArray[np.bool_]) -> bool:
    """Whether the lookup holds the ids [held] of exactly the slots that are alive, in order."""
    try:
        lookup.order.check(np.arange(len(lookup.order.sums)))
    except StoreError:
        return False
    known, slots = lookup.sorted()
    if (len(known) > 1 and not (np.diff(known) > 0).all()) or (slots >= held).any():
        return False
    found = np.zeros(held, bool)
    found[slots] = True
    return bool((ids[slots] == known).all()) and not (alive & ~found).any()
