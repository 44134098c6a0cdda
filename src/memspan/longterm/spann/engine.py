"""One opened index: its tables in memory, its files mapped, and the search over both, compiled or in numpy."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError, StoreError

from . import codes, native
from .layout import SECTOR, Files, Tables
from .space import METRICS, Floats, Space, distances

Rows = npt.NDArray[np.generic]
Slots = npt.NDArray[np.uint32]
Bitmap = npt.NDArray[np.uint64]

DTYPES = ("float32", "float16", "int8")
NONE = np.uint32(0xFFFFFFFF)
EXACT_PIECE = 8192  # rows of one step of an exact scan, at most
EXACT_BYTES = 2 << 20  # of its distances, at most


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How far one search goes.

    Attributes:
        cells: cells whose heads are ranked.
        lists: lists read at most.
        rerank: rows whose exact distance is computed at most.
        stop: a list is read only while its head's squared distance is at most so many times the k-th best estimate.
    """

    cells: int
    lists: int
    rerank: int
    stop: float = float("inf")

    def __post_init__(self) -> None:
        for name in ("cells", "lists", "rerank"):
            if getattr(self, name) < 1:
                raise InputError(f"Effort.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.stop > 0:
            raise InputError(f"Effort.stop is {self.stop}; it must be over 0 (inf for no bound)")

    def scaled(self, by: float) -> Effort:
        """So many times the cells and lists."""
        return Effort(cells=round(self.cells * by), lists=round(self.lists * by), rerank=self.rerank, stop=self.stop)


@dataclass(frozen=True)
class Work:
    """What a search did, summed over its queries: lists read, bytes touched on disk, rows ranked exactly."""

    lists: int
    bytes: int
    rows: int

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(self.lists + other.lists, self.bytes + other.bytes, self.rows + other.rows)


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


class Engine:
    """The search. Holds arrays and maps; changes nothing.

    Attributes:
        space, tables: what is in memory.
        slots: rows held, deleted ones among them.
        rows, ids, primary: maps of the files, at least `slots` long.
        pending: entries that wait for the next flush, None when there are none.
        strays: slots far from all heads, of which 4 bits say little; each search ranks them exactly.
    """

    def __init__(self, files: Files, space: Space, tables: Tables, dtype: str, slots: int) -> None:
        self.space, self.tables, self.dtype, self.slots = space, tables, np.dtype(dtype), slots
        self.files = files
        self.pending: Pending | None = None
        self.strays: Slots = np.zeros(0, np.uint32)
        self._late: list[Slots] = []
        self._reads: _DirectFiles | None = None
        self.level = native.level()
        self.remap()

    def remap(self) -> None:
        """Maps the files again, after they have grown."""
        dim = self.space.dim
        self.rows = _mapped(self.files.rows, self.dtype, (-1, dim))
        self.ids = _mapped(self.files.ids, np.dtype(np.int64), (-1,))
        self.tenants = _mapped(self.files.tenants, np.dtype(np.uint32), (-1,))
        self.primary = _mapped(self.files.primary, np.dtype(np.uint32), (-1,))
        self.lists = _mapped(self.files.lists, np.dtype(np.uint8), (-1,))

    def read_directly(self, threads: bool = False) -> None:
        """From now on reads lists and rows past the page cache, all of a query's at once.

        `threads` asks for a pool of reading threads even where io_uring works. A file system without O_DIRECT is read
        through the cache. Without compiled kernels nothing changes.
        """
        self._reads = _DirectFiles(self.files, 2 if threads else 1)
        if isinstance(self.ids.base, mmap.mmap):
            self.ids.base.madvise(mmap.MADV_RANDOM)

    def ids_of(self, slots: Slots) -> npt.NDArray[np.int64]:
        """The ids of slots. When rows are read past the page cache the pages of the ids are not there either: they are
        asked for all at once, and no more than they."""
        pages = self.ids.base
        if self._reads is not None and isinstance(pages, mmap.mmap):
            for page in np.unique(slots.astype(np.int64) * self.ids.itemsize // mmap.PAGESIZE).tolist():
                pages.madvise(mmap.MADV_WILLNEED, page * mmap.PAGESIZE, mmap.PAGESIZE)
        return np.asarray(self.ids[slots], np.int64)

    def read_like(self, other: Engine) -> None:
        """Reads as another engine of the same index does."""
        if other._reads is not None:
            same = other.files.lists == self.files.lists
            self._reads = other._reads if same else _DirectFiles(self.files, other._reads.way)

    def own(self, lists: Slots) -> None:
        """The primary lists of the slots behind the last that has one."""
        self._late.append(lists)

    def primary_of(self, slots: npt.NDArray[np.generic]) -> Slots:
        """The primary lists of slots."""
        if not self._late:
            return np.asarray(self.primary[slots], np.uint32)
        if len(self._late) > 1:
            self._late = [np.concatenate(self._late)]
        known = len(self.primary)
        late = np.asarray(slots, np.int64) >= known
        out = np.empty(len(slots), np.uint32)
        out[~late] = self.primary[slots[~late]]
        out[late] = self._late[0][slots[late] - known]
        return out

    def _direct(self) -> dict[str, int]:
        if self._reads is None:
            return {}
        longest = int(self.tables.list_blocks.max(initial=0)) * codes.block_bytes(self.space.padded)
        r = self._reads
        return {"direct": r.way, "list_file": r.lists, "row_file": r.rows, "align": r.align, "longest_list": longest}

    def close(self) -> None:
        """Lets go of the maps and files."""
        if self._reads is not None:
            self._reads.close()
            self._reads = None
        self.rows = self.ids = self.primary = self.lists = np.zeros((0, self.space.dim), self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of private memory: tables, rotation and pending entries."""
        held = self.pending.nbytes if self.pending else 0
        return self.tables.nbytes + self.space.rotation.nbytes + self.space.centre.nbytes + held

    # Search ----------------------------------------------------------------------------------------------------------

    def search(
        self, raw: Floats, k: int, effort: Effort, threads: int, allowed: Bitmap | None, lists: Bitmap | None
    ) -> tuple[Slots, Floats, Work]:
        """Slots and distances [n, k] of queries [n, dim]; missing ones are NONE and infinite.

        Args:
            raw: the queries as the caller gave them.
            allowed: bitmap of slots; lists: bitmap of the lists that may hold one of them.
        """
        found = self._search(raw, k, effort, threads, allowed, lists)
        if not len(self.strays):
            return found
        slots, distances, work = found
        strays = self.strays.astype(np.int64)
        strays = strays if allowed is None else strays[test_bits(allowed, strays)]
        more, away, extra = self.exact(raw, min(k, max(len(strays), 1)), strays)
        more = np.where((more[:, :, None] == slots[:, None, :]).any(2), NONE, more)
        away[more == NONE] = np.inf
        slots, distances = np.concatenate([slots, more], axis=1), np.concatenate([distances, away], axis=1)
        order = np.lexsort((slots, distances), axis=1)[:, :k]
        work = Work(work.lists, work.bytes + extra.bytes, work.rows + extra.rows)
        return np.take_along_axis(slots, order, 1), np.take_along_axis(distances, order, 1), work

    def _search(
        self, raw: Floats, k: int, effort: Effort, threads: int, allowed: Bitmap | None, lists: Bitmap | None
    ) -> tuple[Slots, Floats, Work]:
        raw = np.ascontiguousarray(raw)
        inner = np.ascontiguousarray(self.space.queries(raw))
        if native.library() is None:
            return self._search_numpy(inner, raw, k, effort, allowed, lists)
        out = np.empty((len(raw), k), np.uint32), np.empty((len(raw), k), np.float32)
        stats = native.StatsStruct()
        params = native.ParamsStruct(
            k=k, cells=effort.cells, lists=effort.lists, rerank=effort.rerank, stop=effort.stop
        )
        point = native.pointer
        # Kept until the call returns: a thread that adds rows may put larger ones in their place.
        held = self.rows, self.lists, self.tables, self.pending
        index = self.struct(allowed, lists)
        lib = native.library()
        assert lib is not None
        failed = lib.spann_search(
            ctypes.byref(index), ctypes.byref(params), point(inner), point(raw),
            len(raw), max(1, min(threads, len(raw))), point(out[0]), point(out[1]), ctypes.byref(stats),
        )  # fmt: skip
        del held
        if failed:
            raise StoreError(f"{self.files.path}: a read of the lists or rows failed; check the disk, then the index")
        return *out, Work(stats.lists, stats.bytes, stats.rows)

    def exact(self, raw: Floats, k: int, slots: npt.NDArray[np.int64] | None = None) -> tuple[Slots, Floats, Work]:
        """The same by an exact scan of all live rows, or of the live ones among `slots`."""
        best = np.full((len(raw), k), np.inf, np.float32)
        found = np.full((len(raw), k), NONE, np.uint32)
        wanted = self.live() if slots is None else slots[~self._is_dead(slots)]
        piece = max(256, min(EXACT_PIECE, EXACT_BYTES // (4 * max(len(raw), self.space.dim))))
        for at in range(0, len(wanted), piece):
            part = wanted[at : at + piece]
            whole = len(part) == int(part[-1] - part[0]) + 1
            rows = self.rows[int(part[0]) : int(part[-1]) + 1] if whole else self.rows[part]
            d = distances(np.asarray(rows), raw, self.space.metric)
            # Few distances of a later piece are among the best so far: only they are ranked.
            query, column = np.nonzero(d < best[:, -1:])
            if not len(query):
                continue
            count = np.bincount(query, minlength=len(raw))
            place = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
            closer = np.full((len(raw), int(count.max())), np.inf, np.float32)
            slot = np.full(closer.shape, NONE, np.uint32)
            closer[query, place], slot[query, place] = d[query, column], part[column]
            both, slot = np.concatenate([best, closer], axis=1), np.concatenate([found, slot], axis=1)
            order = np.argsort(both, axis=1, kind="stable")[:, :k]
            best, found = np.take_along_axis(both, order, 1), np.take_along_axis(slot, order, 1)
        order = np.lexsort((found, best), axis=1)
        read = len(wanted) * len(raw)
        work = Work(0, read * self.space.dim * self.dtype.itemsize, read)
        return np.take_along_axis(found, order, 1), np.take_along_axis(best, order, 1), work

    def of_tenant(self, code: int) -> npt.NDArray[np.int64]:
        """The live slots of a tenant."""
        slots = np.flatnonzero(self.tenants[: self.slots] == code)
        return slots[~self._is_dead(slots)]

    def live(self) -> npt.NDArray[np.int64]:
        """The slots that are not deleted."""
        bits = np.unpackbits(self.tables.dead.view(np.uint8), bitorder="little")[: self.slots]
        return np.flatnonzero(bits == 0)

    def _is_dead(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return test_bits(self.tables.dead, slots)

    # In numpy --------------------------------------------------------------------------------------------------------

    def _search_numpy(
        self, inner: Floats, raw: Floats, k: int, effort: Effort, allowed: Bitmap | None, lists: Bitmap | None
    ) -> tuple[Slots, Floats, Work]:
        slots = np.full((len(raw), k), NONE, np.uint32)
        best = np.full((len(raw), k), np.inf, np.float32)
        read = touched = ranked = 0
        for i, q in enumerate(inner):
            number, base = self.near_heads(q, effort, lists)
            slot, estimate, done = self._scan(q, number, base, k, effort.stop, allowed)
            keep = estimate.argsort(kind="stable")[: max(effort.rerank, k)]
            slot = slot[keep]
            read += done
            touched += int(self.tables.list_blocks[number[:done]].sum()) * codes.block_bytes(self.space.padded)
            ranked += len(slot)
            if not len(slot):
                continue
            d = distances(np.asarray(self.rows[slot]), raw[i : i + 1], self.space.metric)[0]
            order = np.lexsort((slot, d))[:k]
            slots[i, : len(order)], best[i, : len(order)] = slot[order], d[order]
        touched += ranked * self.space.dim * self.dtype.itemsize
        return slots, best, Work(read, touched, ranked)

    def near_heads(self, q: Floats, effort: Effort, lists: Bitmap | None) -> tuple[npt.NDArray[np.int64], Floats]:
        """The nearest lists of an internal query, and the squared distances of their heads."""
        t = self.tables
        q8, step = codes.quantize_query(q)
        total = int(q8.astype(np.int64).sum())
        square = np.float32((q * q).sum())

        def rank(coded: codes.Coded, blocks: npt.NDArray[np.int64] | slice) -> Floats:
            dot = codes.dots8(coded.codes[blocks], q8).astype(np.float32) - np.float32(64 * total)
            return np.asarray(square + coded.norm[blocks] - 2 * step * coded.scale[blocks] * dot, np.float32)

        near = np.argsort(rank(t.cells, slice(None)).reshape(-1), kind="stable")[
            : min(effort.cells, len(t.cell_start) - 1)
        ]
        blocks = np.concatenate([np.arange(t.cell_start[c], t.cell_start[c + 1]) for c in near])
        d, number = rank(t.heads, blocks).reshape(-1), t.head_list[blocks].reshape(-1).astype(np.int64)
        full = np.isfinite(d)
        if lists is not None:
            full &= test_bits(lists, number)
        d, number = d[full], number[full]
        order = d.argsort(kind="stable")[: effort.lists]
        return number[order], d[order]

    def _scan(
        self, q: Floats, number: npt.NDArray[np.int64], base: Floats, k: int, stop: float, allowed: Bitmap | None
    ) -> tuple[Slots, Floats, int]:
        """Slots seen in the lists, their estimates, and how many lists were read."""
        q8, step = codes.quantize_query(q)
        bias = np.float32(7.5) * np.float32(q8.astype(np.int64).sum())
        slots: Slots = np.zeros(0, np.uint32)
        estimates: Floats = np.zeros(0, np.float32)
        seen = np.zeros(self.slots, np.bool_)  # of which the system gives only the pages that are touched
        bounded = np.isfinite(stop)
        for j, (i, h) in enumerate(zip(number, base, strict=True)):
            if bounded and len(estimates) >= k and h > stop * np.partition(estimates, k - 1)[k - 1]:
                return slots, estimates, j
            for e in self.entries(int(i)):
                d = (h + e.add) - (2 * step * e.scale) * (codes.dots4(e.packed, q8).astype(np.float32) - bias)
                fine = e.slots < self.slots  # but in a damaged list
                fine[fine] = ~test_bits(self.tables.dead, e.slots[fine])
                if allowed is not None:
                    fine[fine] = test_bits(allowed, e.slots[fine])
                fine[fine] = ~seen[e.slots[fine]]
                seen[e.slots[fine]] = True
                slots, estimates = np.concatenate([slots, e.slots[fine]]), np.concatenate([estimates, d[fine]])
        return slots, estimates.astype(np.float32), len(number)

    def entries(self, number: int, *, written: bool = True, pending: bool = True) -> list[codes.Entries]:
        """The entries of a list: those written, then those pending."""
        t, size = self.tables, codes.block_bytes(self.space.padded)
        at = int(t.list_sector[number]) * SECTOR
        data = np.asarray(self.lists[at : at + int(t.list_blocks[number]) * size])
        out = [codes.unpack_list(data, self.space.padded)] if len(data) and written else []
        if pending and (p := self.pending) is not None and (e := int(p.first[number])) >= 0:
            chain = []
            while e >= 0:
                chain.append(e)
                e = int(p.next[e])
            out.append(codes.Entries(p.packed[chain], p.add[chain], p.scale[chain], p.slots[chain]))
        return out

    # For the kernels -------------------------------------------------------------------------------------------------

    def struct(self, allowed: Bitmap | None, lists: Bitmap | None) -> native.IndexStruct:
        t, s, p, point = self.tables, self.space, self.pending, native.pointer
        return native.IndexStruct(
            dim=s.dim, padded=s.padded, dtype=DTYPES.index(self.dtype.name), metric=METRICS.index(s.metric),
            row_bytes=s.dim * self.dtype.itemsize, cells=len(t.cell_start) - 1, lists=len(t.list_count),
            slots=self.slots, level=self.level,
            cell_codes=point(t.cells.codes), cell_scale=point(t.cells.scale), cell_norm=point(t.cells.norm),
            cell_start=point(t.cell_start), head_codes=point(t.heads.codes), head_scale=point(t.heads.scale),
            head_norm=point(t.heads.norm), head_list=point(t.head_list), list_sector=point(t.list_sector),
            list_blocks=point(t.list_blocks), list_bytes=point(self.lists), row_data=point(self.rows),
            dead=point(t.dead) if t.dead.any() else None, allowed=point(allowed), allowed_lists=point(lists),
            pending_first=point(p.first) if p else None, pending_next=point(p.next) if p else None,
            pending_codes=point(p.packed) if p else None, pending_add=point(p.add) if p else None,
            pending_scale=point(p.scale) if p else None, pending_slot=point(p.slots) if p else None,
            **self._direct(),
        )  # fmt: skip


class _DirectFiles:
    """The lists and rows opened past the page cache.

    Attributes:
        way: 1 for io_uring where the kernel has it, 2 for threads.
        lists, rows: file descriptors.
        align: bytes that a read must be a multiple of.
    """

    def __init__(self, files: Files, way: int) -> None:
        self.way = way
        self.lists, self.rows = (self._open(p) for p in (files.lists, files.rows))
        self._closing = weakref.finalize(self, _close, self.lists, self.rows)
        self.align = SECTOR if self._reads_sectors() else mmap.PAGESIZE

    @staticmethod
    def _open(path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
        except OSError:
            return os.open(path, os.O_RDONLY)

    def _reads_sectors(self) -> bool:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            try:
                os.preadv(self.lists, [memoryview(page)[:SECTOR]], 0)
            except OSError:
                return False
        return True

    def close(self) -> None:
        self._closing()


def _close(*files: int) -> None:
    for fd in files:
        os.close(fd)


def test_bits(bitmap: Bitmap, at: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Which of the numbers are in a bitmap."""
    i = at.astype(np.uint64)
    return np.asarray(bitmap[i >> np.uint64(6)] >> (i & np.uint64(63)) & np.uint64(1), bool)


def bitmap_of(numbers: npt.NDArray[np.generic], size: int) -> Bitmap:
    """The bitmap of a set of numbers below `size`."""
    flags = np.zeros(-(-max(size, 1) // 64) * 64, np.uint8)
    flags[numbers] = 1
    return np.packbits(flags, bitorder="little").view(np.uint64)


def _mapped(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    if not path.exists() or path.stat().st_size < width:
        return np.zeros((0, *shape[1:]), dtype)
    return np.memmap(path, dtype, "r", shape=(path.stat().st_size // width, *shape[1:]))
