"""One opened index: its tables in memory, its files mapped, and the search over both, compiled or in numpy."""

from __future__ import annotations

import ctypes
import logging
import mmap
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import StoreError

from . import codes, native
from .config import SpannConfig
from .direct import DirectFiles
from .effort import DTYPES, NONE, DamagedLists, Effort, Only, Slots, Work, bitmap_of, test_bits
from .heads import cell_of, places
from .layout import SECTOR, Files, Tables
from .lookup import Lookup
from .pages import PAGE, Column, Rows
from .pending import Pending
from .scan import Scan
from .space import METRICS, Floats, Space, distances

log = logging.getLogger(__name__)

EXACT_PIECE = 8192  # rows of one step of an exact scan, at most
EXACT_BYTES = 2 << 20  # of its distances, at most
TAIL = 32 << 20  # bytes written since the checkpoint before that are checked when an index is opened
MENDED = 256  # lists mended while searching, at most: more damage than that is not borne in silence


class Engine(Scan):
    """The search. Holds arrays and maps; changes nothing on disk.

    Attributes:
        space, tables: what is in memory.
        config: the index's settings.
        slots: rows held, deleted ones among them.
        rows, ids, tenants, primary: the files, at least `slots` long; each page is checked when it is first read.
        lists: the map of the lists, each of which is checked when it is first read.
        pending: entries that wait for the next flush, None when there are none.
        strays: slots far from all heads, of which 4 bits say little; each search ranks them exactly.
        buried: whether a slot is deleted.
        mended: lists that were damaged, and whose entries were made anew from the rows and wait in `pending`.
    """

    def __init__(
        self,
        files: Files,
        space: Space,
        tables: Tables,
        dtype: str,
        slots: int,
        config: SpannConfig | None = None,
    ) -> None:
        self.space, self.tables, self.dtype, self.slots = space, tables, np.dtype(dtype), slots
        self.files = files
        self.config = config or SpannConfig()
        self.pending: Pending | None = None
        self.strays: Slots = np.zeros(0, np.uint32)
        self.buried = bool(tables.dead.any())
        self.mended: set[int] = set()
        self._late: list[Slots] = []
        self._reads: DirectFiles | None = None
        self._list_known = np.zeros(len(tables.list_count), np.uint8)
        self._struct: native.IndexStruct | None = None
        self._cell: Slots | None = None
        self.level = native.level()
        held, sums, none = int(tables.held[0]), tables.sums, np.zeros(0, np.uint32)

        def column(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Column:
            return Column(path, dtype, shape, held, sums.get(name, none))

        self.rows = Rows(files.rows, self.dtype, (space.dim,), held, sums.get("rows", none))
        self.ids = column(files.ids, np.dtype(np.int64), (), "ids")
        self.rows.ids, self.rows.tables = self.ids, tables
        self.tenants = column(files.tenants, np.dtype(np.uint32), (), "tenants")
        self.primary = column(files.primary, np.dtype(np.uint32), (), "primary")
        self.lookup = Lookup(files, tables, self.ids)
        self._map_lists()

    def remap(self) -> None:
        """Maps the files again, after they have grown."""
        for column in (self.rows, self.ids, self.tenants):
            column.remap()
        self._map_lists()

    def _map_lists(self) -> None:
        size = self.files.lists.stat().st_size if self.files.lists.exists() else 0
        none = np.zeros(0, np.uint8)
        self.lists = np.memmap(self.files.lists, np.uint8, "r", shape=(size,)) if size else none

    def read_directly(self, threads: bool = False) -> None:
        """From now on reads lists and rows past the page cache, all of a query's at once.

        `threads` asks for a pool of reading threads even where io_uring works. A file system without O_DIRECT is read
        through the cache. Without compiled kernels nothing changes.
        """
        self._reads = DirectFiles(self.files, 2 if threads else 1)
        if self.ids.map is not None:
            self.ids.map.madvise(mmap.MADV_RANDOM)

    def ids_of(self, slots: Slots) -> npt.NDArray[np.int64]:
        """The ids of slots. When rows are read past the page cache the pages of the ids are not there either: they are
        asked for all at once, and no more than they."""
        pages = self.ids.map
        if self._reads is not None and pages is not None:
            for page in np.unique(slots.astype(np.int64) * self.ids.width // mmap.PAGESIZE).tolist():
                pages.madvise(mmap.MADV_WILLNEED, page * mmap.PAGESIZE, mmap.PAGESIZE)
        return np.asarray(self.ids[slots], np.int64)

    def read_like(self, other: Engine) -> None:
        """Reads as another engine of the same index does, and does not check again what that one has checked."""
        self.config = other.config
        if other.files.lists == self.files.lists:
            for mine, theirs in ((self.rows, other.rows), (self.ids, other.ids), (self.tenants, other.tenants)):
                mine.trust(theirs)
            a, b = self.tables, other.tables
            both = min(len(a.list_crc), len(b.list_crc), len(other._list_known))
            same = np.ones(both, bool)
            for name in ("list_sector", "list_blocks", "list_crc"):
                same &= getattr(a, name)[:both] == getattr(b, name)[:both]
            self._list_known[:both] = other._list_known[:both] * same
        if other._reads is not None:
            self._reads = (
                other._reads if other.files.lists == self.files.lists else DirectFiles(self.files, other._reads.way)
            )

    def own(self, lists: Slots) -> None:
        """The primary lists of the slots behind the last that has one."""
        self._late.append(lists)

    def primary_of(self, slots: npt.NDArray[np.generic], *, checked: bool = True) -> Slots:
        """The primary lists of slots; `checked` raises StoreError where they are damaged."""
        primary = self.primary if checked else self.primary.data
        if not self._late:
            return np.asarray(primary[slots], np.uint32)
        if len(self._late) > 1:
            self._late = [np.concatenate(self._late)]
        known = len(self.primary)
        late = np.asarray(slots, np.int64) >= known
        out = np.empty(len(slots), np.uint32)
        out[~late] = primary[slots[~late]]
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
        for part in (self.rows, self.ids, self.tenants, self.primary, self.lookup):
            part.close()
        self.lists = np.zeros(0, np.uint8)
        self._struct = None

    @property
    def nbytes(self) -> int:
        """Bytes of private memory: tables, rotation and pending entries."""
        held = self.pending.nbytes if self.pending else 0
        held += self._list_known.nbytes + sum(c.known.nbytes for c in (self.rows, self.ids, self.tenants, self.primary))
        return self.tables.nbytes + self.space.rotation.nbytes + self.space.centre.nbytes + held

    # Search ----------------------------------------------------------------------------------------------------------

    def search(
        self, raw: Floats, k: int, effort: Effort, threads: int, only: Only | None = None, *, mending: bool = True
    ) -> tuple[Slots, Floats, Work]:
        """Slots and distances [n, k] of queries [n, dim]; missing ones are NONE and infinite.

        Args:
            raw: the queries as the caller gave them.
            only: the slots that may be answered.
            mending: make damaged lists anew from the rows and search again.

        Raises:
            DamagedLists: there are such, and not to be mended.
            StoreError: a read failed, or rows are damaged.
        """
        try:
            found = self._search(raw, k, effort, threads, only)
        except DamagedLists as e:
            if not mending:
                raise
            self.trust(np.array(e.lists))
            return self.search(raw, k, effort, threads, only)
        if not len(self.strays):
            return found
        slots, distances, work = found
        strays = self.strays.astype(np.int64)
        strays = strays if only is None else strays[test_bits(only.slots, strays)]
        more, away, extra = self.exact(raw, min(k, max(len(strays), 1)), strays)
        more = np.where((more[:, :, None] == slots[:, None, :]).any(2), NONE, more)
        away[more == NONE] = np.inf
        slots, distances = np.concatenate([slots, more], axis=1), np.concatenate([distances, away], axis=1)
        order = np.lexsort((slots, distances), axis=1)[:, :k]
        work = Work(work.lists, work.bytes + extra.bytes, work.rows + extra.rows)
        return np.take_along_axis(slots, order, 1), np.take_along_axis(distances, order, 1), work

    def _search(
        self, raw: Floats, k: int, effort: Effort, threads: int, only: Only | None
    ) -> tuple[Slots, Floats, Work]:
        raw = np.ascontiguousarray(raw)
        inner = np.ascontiguousarray(self.space.queries(raw))
        lib = native.library()
        if lib is None:
            return self._search_numpy(inner, raw, k, effort, only)
        out = np.empty((len(raw), k), np.uint32), np.empty((len(raw), k), np.float32)
        stats = native.StatsStruct(page=-1)
        params = native.ParamsStruct(k, effort.cells, effort.lists, effort.rerank, effort.stop, effort.patience)
        point = native.pointer
        index = self.struct(only)
        failed = lib.spann_search(
            ctypes.addressof(index), ctypes.addressof(params), point(inner), point(raw),
            len(raw), max(1, min(threads, len(raw))), point(out[0]), point(out[1]), ctypes.addressof(stats),
        )  # fmt: skip
        if failed:
            raise StoreError(f"{self.files.path}: a read of the lists or rows failed; check the disk, then the index")
        if stats.bad:
            raise DamagedLists(self.files.path, list(stats.bad_lists[: min(stats.bad, native.BAD)]))
        if stats.page >= 0:
            raise self.rows.damage(stats.page)
        return *out, Work(stats.lists, stats.bytes, stats.rows)

    def bad_lists(self, lists: npt.NDArray[np.generic]) -> list[int]:
        """Those of the lists that are damaged; those that were read before are not looked at again."""
        self._room_for_known()
        some = np.asarray(lists, np.uint32)
        some = np.ascontiguousarray(some[self._list_known[some] == 0])
        if not len(some):
            return []
        if (lib := native.library()) is not None:
            bad = np.empty(len(some), np.uint32)
            index = self.struct(None)
            count = lib.spann_check_lists(ctypes.byref(index), native.pointer(some), len(some), native.pointer(bad))
            return [int(i) for i in bad[:count]]
        found = []
        for number in some.tolist():
            if zlib.crc32(self.bytes_of(number).data) != int(self.tables.list_crc[number]):
                found.append(number)
            else:
                self._list_known[number] = 1
        return found

    def bytes_of(self, number: int) -> npt.NDArray[np.uint8]:
        """The bytes of a list, unchecked."""
        t = self.tables
        at = int(t.list_sector[number]) * SECTOR
        return np.asarray(self.lists[at : at + int(t.list_blocks[number]) * codes.block_bytes(self.space.padded)])

    def trust(self, lists: npt.NDArray[np.generic]) -> None:
        """Checks lists before they are read, and mends those that are damaged."""
        if bad := self.bad_lists(lists):
            self.mend(bad)

    def rewritten(self, lists: npt.NDArray[np.generic]) -> None:
        """Lists were written to other places: they are checked when they are read."""
        self._room_for_known()
        self._list_known[lists] = 0

    def mend(self, lists: list[int]) -> None:
        """Makes the entries of damaged lists anew from the rows, in memory; the next flush writes them.

        Raises:
            StoreError: there are too many, or the rows are damaged too.
        """
        from .mend import entries_of  # which places rows by searching

        if len(self.mended | set(lists)) > MENDED:
            raise StoreError(
                f"{self.files.lists} is damaged in more than {MENDED} lists;"
                f" run: memspan index verify --repair {self.files.path}"
            )
        made, numbers = entries_of(self, lists)
        t = self.tables
        if self.pending is None:
            self.pending = Pending.empty(len(t.list_count), self.space.padded, 4096)
        self.pending.append(made, numbers)
        for name in ("list_blocks", "list_count", "list_sector", "list_crc"):
            changed = getattr(t, name).copy()
            changed[lists] = 0
            setattr(t, name, changed)
        self._list_known[lists] = 1
        self.mended |= set(lists)
        log.warning(
            "%d lists of %s were damaged and made anew from its rows; memspan index verify --repair writes them",
            len(lists), self.files.path,
        )  # fmt: skip

    def check_tail(self) -> None:
        """Checks what was written since the checkpoint before the last, of which a crash may have torn a page.

        Damaged lists are mended; damaged rows are told by a warning, and by an error when they are read.
        """
        now, before = (int(i) for i in self.tables.held)
        for column in (self.rows, self.ids, self.tenants):
            start, end = before * column.width // PAGE, min(now * column.width, column.covered)
            start = max(start, (end - TAIL) // PAGE, 0)
            try:
                column.check(np.arange(start, -(-end // PAGE)))
            except StoreError as e:
                log.warning("%s", e)
        size = np.cumsum(self.tables.list_blocks[self.tables.fresh].astype(np.int64)) * codes.block_bytes(
            self.space.padded
        )
        self.trust(self.tables.fresh[size <= TAIL])

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
            d = distances(rows, raw, self.space.metric)
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
        slots = self.lookup.owned(code, self.tenants, int(self.tables.held[0]), self.slots)
        return slots[~self._is_dead(slots)]

    def only(self, slots: npt.NDArray[np.int64]) -> Only:
        """A search of some slots alone, at the cost of those: the lists and cells that hold none are passed over."""
        lists = np.unique(self.primary_of(slots))
        if self._cell is None:
            self._cell = cell_of(self.tables, places(self.tables), np.arange(len(self.tables.list_count))).astype(
                np.uint32
            )
        cells = np.unique(self._cell[lists])
        return Only(
            bitmap_of(slots, self.slots),
            bitmap_of(lists, len(self.tables.list_count)),
            bitmap_of(cells, len(self.tables.cell_start) - 1),
            len(slots),
        )

    def live(self) -> npt.NDArray[np.int64]:
        """The slots that are not deleted."""
        bits = np.unpackbits(self.tables.dead.view(np.uint8), bitorder="little")[: self.slots]
        return np.flatnonzero(bits == 0)

    def _is_dead(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return test_bits(self.tables.dead, slots)

    # For the kernels -------------------------------------------------------------------------------------------------

    def struct(self, only: Only | None = None) -> native.IndexStruct:
        """The index as the kernels see it. Made again only when an array is another one than before."""
        t, p = self.tables, self.pending
        parts = (
            t.cells, t.cell_start, t.heads, t.head_list, t.list_sector, t.list_blocks, t.list_crc, t.dead, self.buried,
            self.slots, self.rows.data, self.lists, self._reads, p,
            *((p.first, p.next, p.packed, p.add, p.scale, p.slots) if p else ()),
        )  # fmt: skip
        kept = self._struct
        if (
            kept is None
            or len(kept.kept) != len(parts)
            or any(a is not b for a, b in zip(kept.kept, parts, strict=True))
        ):
            self._room_for_known()
            kept = self._fresh_struct()
            kept.kept = parts
            self._struct = kept
        if only is None:
            return kept
        out = native.IndexStruct.from_buffer_copy(kept)
        out.kept = (parts, only)
        out.allowed, out.allowed_lists, out.allowed_cells = map(native.pointer, (only.slots, only.lists, only.cells))
        return out

    def _room_for_known(self) -> None:
        if more := len(self.tables.list_count) - len(self._list_known):
            self._list_known = np.concatenate([self._list_known, np.zeros(more, np.uint8)])
            self._struct = None

    def _fresh_struct(self) -> native.IndexStruct:
        t, s, p, point = self.tables, self.space, self.pending, native.pointer
        return native.IndexStruct(
            dim=s.dim, padded=s.padded, dtype=DTYPES.index(self.dtype.name), metric=METRICS.index(s.metric),
            row_bytes=s.dim * self.dtype.itemsize, cells=len(t.cell_start) - 1, lists=len(t.list_count),
            slots=self.slots, level=self.level,
            cell_codes=point(t.cells.codes), cell_scale=point(t.cells.scale), cell_norm=point(t.cells.norm),
            cell_start=point(t.cell_start), head_codes=point(t.heads.codes), head_scale=point(t.heads.scale),
            head_norm=point(t.heads.norm), head_list=point(t.head_list), list_sector=point(t.list_sector),
            list_blocks=point(t.list_blocks), list_crc=point(t.list_crc), list_known=point(self._list_known),
            list_bytes=point(self.lists), row_data=point(self.rows.data), row_sums=point(self.rows.sums),
            row_known=point(self.rows.known), row_covered=self.rows.covered,
            dead=point(t.dead) if self.buried else None,
            pending_first=point(p.first) if p else None, pending_next=point(p.next) if p else None,
            pending_codes=point(p.packed) if p else None, pending_add=point(p.add) if p else None,
            pending_scale=point(p.scale) if p else None, pending_slot=point(p.slots) if p else None,
            **self._direct(),
        )  # fmt: skip
