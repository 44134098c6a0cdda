"""The tables and lists of an index while a flush changes them; what searches use stays as it was until all is written.

Lists are never changed in place: each is written to free space, and the checkpoint then names the new places.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from . import codes, native
from .config import SpannConfig
from .effort import Slots, test_bits
from .engine import Engine
from .extents import Extents
from .heads import NOWHERE, Lanes, change, places, vectors
from .layout import SECTOR, Tables
from .pending import Pending
from .place import beyond, choose_lists, encode_entries, encoded
from .space import Floats

Numbers = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

PIECE = 8 << 20  # bytes of lists rewritten at a time


class Workspace:
    """Tables, the primary list of every slot, and room for lists.

    Attributes:
        engine: over the tables as they are now, with the entries that wait.
        primary: [slots], the primary list of each.
        place: [lists], where each list's head is.
        cover: [cells, 3], of `regroup`, or None.
        fd: the file of the lists.
    """

    def __init__(self, engine: Engine, config: SpannConfig, cover: Floats | None = None) -> None:
        t = engine.tables
        arrays = ("list_sector", "list_blocks", "list_count", "list_crc", "head_list", "cell_start")
        tables = replace(t, **{name: getattr(t, name).copy() for name in arrays})
        self.config, self.files, self.space = config, engine.files, engine.space
        self.engine = Engine(engine.files, engine.space, tables, engine.dtype.name, engine.slots, config)
        self.engine.read_like(engine)
        self.engine.mended = set(engine.mended)
        self.engine.pending = engine.pending.copy_without(np.zeros(0, np.uint32)) if engine.pending else None
        self.primary: U32 = engine.primary_of(np.arange(engine.slots)).copy()
        self.place = places(tables)
        self.block = codes.block_bytes(self.space.padded)
        self.extents = Extents(tables.list_sector, self.sectors(tables.list_blocks))
        self._many = 4 * len(engine.pending.slots) if engine.pending else 0
        self._fresh = np.zeros(len(tables.list_count), bool)  # lists whose place is not that of the checkpoint
        self._written = False
        self.cover = cover
        self.fd = os.open(engine.files.lists, os.O_RDWR)

    @property
    def tables(self) -> Tables:
        """The tables as they are now."""
        return self.engine.tables

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self.fd)

    def sectors(self, blocks: npt.NDArray[np.generic]) -> Numbers:
        """Sectors of lists of so many blocks."""
        return -(-blocks.astype(np.int64) * self.block // SECTOR)

    # Lists -----------------------------------------------------------------------------------------------------------

    def rewrite(self) -> U32:
        """Writes the lists that have pending entries, with these and without what is dead or twice; their numbers."""
        p = self.engine.pending
        if p is None or not p.used:
            return np.zeros(0, np.uint32)
        self._look()
        lists: U32 = np.flatnonzero(p.first >= 0).astype(np.uint32)
        self.engine.trust(lists)
        waiting = p.waiting()
        lists = np.asarray(lists[self.tables.list_sector[lists].argsort(kind="stable")], np.uint32)
        room = self.sectors(self.tables.list_blocks[lists] + -(-waiting[lists] // codes.LANES) + 1) * SECTOR
        ends = np.cumsum(room)
        i = 0
        while i < len(lists):
            before = int(ends[i] - room[i])
            to = max(i + 1, int(np.searchsorted(ends, before + PIECE, side="right")))
            self._merge(lists[i:to], int(ends[to - 1]) - before)
            i = to
        self.engine.pending = None
        return lists

    def _look(self) -> None:
        """Sees what was written."""
        if self._written:
            self.engine.remap()
            self._written = False

    def rewrite_if_many(self) -> None:
        """Writes lists once the entries that wait are many, so that memory stays bounded."""
        if self.engine.pending is not None and self.engine.pending.used > self._many:
            self.rewrite()

    def _merge(self, lists: U32, room: int) -> None:
        if (lib := native.library()) is not None:
            out = np.empty(room, np.uint8)
            counts = np.zeros(len(lists), np.uint32)
            index = self.engine.struct()
            point = native.pointer
            used = lib.spann_merge(ctypes.byref(index), point(lists), len(lists), point(out), point(counts))
            self._put(lists, counts, out[:used])
            return
        merged = [self._merged(int(number)) for number in lists]
        packed = [self._padded(e) for e in merged]
        self._put(lists, np.array([len(e.slots) for e in merged], np.uint32), np.concatenate(packed))

    def _merged(self, number: int) -> codes.Entries:
        written, waiting = self.engine.entries(number, pending=False), self.engine.entries(number, written=False)
        fresh = np.concatenate([np.zeros(0, np.uint32), *(e.slots for e in waiting)])
        kept = [_take(e, self.alive(e.slots) & ~np.isin(e.slots, fresh)) for e in written]
        for e in waiting:
            first = np.zeros(len(e.slots), bool)
            first[np.unique(e.slots, return_index=True)[1]] = True
            kept.append(_take(e, first & self.alive(e.slots)))
        return join(kept)

    def alive(self, slots: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
        """Which of the slots are not deleted."""
        return ~test_bits(self.tables.dead, slots)

    def live(self) -> Numbers:
        """The slots that are not deleted."""
        return self.engine.live()

    def _padded(self, e: codes.Entries) -> npt.NDArray[np.uint8]:
        data = codes.pack_list(e.packed, e.add, e.scale, e.slots)
        return np.concatenate([data, np.zeros(-len(data) % SECTOR, np.uint8)])

    def _put(self, lists: U32, counts: U32, data: npt.NDArray[np.uint8]) -> None:
        """Writes lists that lie in `data` one after the other in whole sectors."""
        t = self.tables
        blocks = -(-counts.astype(np.int64) // codes.LANES)
        length = self.sectors(blocks)
        start = np.concatenate([[0], np.cumsum(length)[:-1]])
        full = length > 0
        at = np.zeros(len(lists), np.int64)
        self._release(lists)
        at[full] = self.extents.place(length[full])
        view = data.data
        size = (blocks * self.block).tolist()
        t.list_sector[lists], t.list_blocks[lists], t.list_count[lists] = at, blocks, counts
        t.list_crc[lists] = [zlib.crc32(view[a : a + b]) for a, b in zip((start * SECTOR).tolist(), size, strict=True)]
        self._written = True
        self.engine.rewritten(lists)
        at, start, length = at[full], start[full], length[full]
        if not len(at):
            return
        cut = np.flatnonzero(at[1:] != at[:-1] + length[:-1]) + 1
        for a, b in zip([0, *cut], [*cut, len(at)], strict=True):
            piece = view[int(start[a]) * SECTOR : int(start[b - 1] + length[b - 1]) * SECTOR]
            where = int(at[a]) * SECTOR
            while piece:
                done = os.pwrite(self.fd, piece, where)
                piece, where = piece[done:], where + done

    def write_list(self, number: int, slots: Slots, x: Floats, head: Floats) -> None:
        """Writes a list anew. Over the limit the farthest copies are cut, never a row whose primary list this is."""
        if len(slots) > self.config.limit:
            far = np.einsum("nd,nd->n", x - head, x - head)
            own = self.primary[slots] == number
            far[own] = -1
            kept = np.sort(far.argsort(kind="stable")[: max(self.config.limit, int(own.sum()))])
            slots, x = slots[kept], x[kept]
        entries = encoded(x, head, slots, beyond(self.space, np.asarray(self.engine.rows[slots])))
        self._put(np.array([number], np.uint32), np.array([len(slots)], np.uint32), self._padded(entries))

    def _release(self, lists: U32) -> None:
        """Gives room back that was taken since the checkpoint."""
        again = lists[self._fresh[lists] & (self.tables.list_blocks[lists] > 0)]
        self.extents.release(self.tables.list_sector[again], self.sectors(self.tables.list_blocks[again]))
        self._fresh[lists] = True

    def drop_list(self, number: int) -> None:
        """Empties a list."""
        t = self.tables
        self._release(np.array([number], np.uint32))
        if self.engine.pending is not None:
            self.engine.pending.forget(np.array([number], np.uint32))
        t.list_sector[number] = t.list_blocks[number] = t.list_count[number] = t.list_crc[number] = 0

    def lengths(self) -> Numbers:
        """Entries of each list, those that wait among them."""
        count = self.tables.list_count.astype(np.int64)
        return count + self.engine.pending.waiting() if self.engine.pending is not None else count

    def touched(self) -> npt.NDArray[np.bool_]:
        """Which lists were written since the checkpoint, or will be."""
        return self._fresh | (self.lengths() > self.tables.list_count)

    def members(self, number: int) -> Slots:
        """The live slots of a list."""
        self._look()
        slots = np.unique(np.concatenate([np.zeros(0, np.uint32), *(e.slots for e in self.engine.entries(number))]))
        return slots[self.alive(slots)]

    def new_lists(self, count: int) -> U32:
        """Numbers for new lists: those of lists without a head, else behind the last."""
        t = self.tables
        free = np.flatnonzero(self.place == NOWHERE)[:count].astype(np.uint32)
        if more := count - len(free):
            size = len(t.list_count)
            for name in ("list_sector", "list_blocks", "list_count", "list_crc"):
                setattr(t, name, np.concatenate([getattr(t, name), np.zeros(more, np.uint32)]))
            self.place = np.concatenate([self.place, np.full(more, NOWHERE, np.uint32)])
            self._fresh = np.concatenate([self._fresh, np.zeros(more, bool)])
            if self.engine.pending is not None:
                p = self.engine.pending
                p.first = np.concatenate([p.first, np.full(more, -1, np.int32)])
            free = np.concatenate([free, np.arange(size, size + more, dtype=np.uint32)])
        self.place[free] = 0  # taken, until the heads are in
        return free

    def slots_in(self, lists: npt.NDArray[np.generic]) -> tuple[Slots, Numbers]:
        """The live slots that are in any of some lists, and in how many."""
        self._look()
        size, codes_end = self.block, self.space.padded * codes.LANES // 2
        found = [np.zeros(0, np.uint32)]
        for number in lists.tolist():
            at = int(self.tables.list_sector[number]) * SECTOR
            data = self.engine.lists[at : at + int(self.tables.list_blocks[number]) * size].reshape(-1, size)
            tail = np.ascontiguousarray(data[:, codes_end:]).view(np.uint32).reshape(len(data), 3, codes.LANES)
            found.append(tail[:, 2][np.isfinite(tail[:, 0].view(np.float32))])
        if (p := self.engine.pending) is not None:
            known = np.zeros(len(self.tables.list_count) + 1, bool)
            known[lists] = True
            found.append(p.slots[: p.used][known[np.minimum(p.lists[: p.used], len(known) - 1)]])
        slots, count = np.unique(np.concatenate(found), return_counts=True)
        alive = self.alive(slots)
        return slots[alive], count[alive]

    def change(self, changed: dict[int, Lanes]) -> None:
        """Puts other heads into cells, as `heads.change` does."""
        kept = change(self.tables, changed)
        if self.cover is not None:
            more = np.full((len(kept) - len(self.cover), 3), np.nan, np.float32)
            self.cover = np.concatenate([self.cover, more])[kept]
        self.place = places(self.tables)

    # Rows ------------------------------------------------------------------------------------------------------------

    def vectors(self, slots: npt.NDArray[np.generic]) -> Floats:
        """Internal vectors of slots."""
        return self.space.rows(np.asarray(self.engine.rows[slots]))

    def heads(self, lists: npt.NDArray[np.generic]) -> Floats:
        """Heads of lists."""
        return vectors(self.tables, self.place, lists)

    def lists_of(self, x: Floats) -> U32:
        """The lists of vectors by the closure rule."""
        c = self.config
        return choose_lists(
            self.engine, self.place, x, cells=c.neighbours, candidates=c.candidates, copies=c.copies, slack=c.closure**2
        )  # fmt: skip

    def near(self, x: Floats, count: int) -> U32:
        """The nearest lists [n, count] of vectors."""
        c = self.config.neighbours
        return choose_lists(self.engine, self.place, x, cells=c, candidates=count, copies=count, slack=None)

    def append(self, slots: Slots, lists: U32, x: Floats, rows: npt.NDArray[np.generic]) -> None:
        """Lets entries of slots [n] wait for their lists; their vectors are `x[rows]`."""
        if not len(slots):
            return
        if self.engine.pending is None:
            self.engine.pending = Pending.empty(len(self.tables.list_count), self.space.padded, 4096)
        excess = np.zeros(len(x), np.float32)
        if self.space.metric == "ip":
            excess[rows] = beyond(self.space, np.asarray(self.engine.rows[slots]))
        self.engine.pending.append(encode_entries(self.engine, self.place, x, rows, lists, slots, excess), lists)

    def put_again(self, slots: Slots) -> None:
        """Chooses the lists of rows anew, and their primary list."""
        for at in range(0, len(slots), 4096):
            part = slots[at : at + 4096]
            x = self.vectors(part)
            lists = self.lists_of(x)
            self.primary[part] = lists[:, 0]
            row, column = np.nonzero(lists != NOWHERE)
            self.append(part[row], lists[row, column], x, row)
            self.rewrite_if_many()


def _take(e: codes.Entries, which: npt.NDArray[np.generic]) -> codes.Entries:
    return codes.Entries(e.packed[which], e.add[which], e.scale[which], e.slots[which])


def join(parts: list[codes.Entries]) -> codes.Entries:
    """Entries one after the other; at least one part."""
    return codes.Entries(
        np.concatenate([e.packed for e in parts]),
        np.concatenate([e.add for e in parts]),
        np.concatenate([e.scale for e in parts]),
        np.concatenate([e.slots for e in parts]),
    )
