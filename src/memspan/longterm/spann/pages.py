"""Files of equal items whose pages have checksums: a page is checked when it is first read, and never again.

The checksums are held in the checkpoint, so they cover what it covers; items behind it are those of the log, which has
its own. CRC-32 is computed by the kernels where they were compiled, else by zlib: the same numbers.
"""

from __future__ import annotations

import mmap
import os
import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memspan.core.errors import StoreError

from . import native
from .effort import test_bits
from .layout import U32, Tables

Array = npt.NDArray[Any]

PAGE = 4096


class Column:
    """One mapped file.

    Attributes:
        path: the file.
        data: [n, ...], mapped, unchecked.
        width: bytes of an item.
        covered: bytes that have checksums.
        sums: [pages] of them.
        known: [pages], 1 where a page was found good.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], covered: int, sums: U32) -> None:
        """`shape` of an item; `covered` items have checksums."""
        self.path, self.dtype, self.shape = path, dtype, shape
        self.width = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.covered = covered * self.width if len(sums) else 0
        self.sums = np.ascontiguousarray(sums, np.uint32)
        self.known = np.zeros(len(self.sums), np.uint8)
        self.remap()

    def remap(self) -> None:
        """Maps the file again, after it has grown."""
        count = self.path.stat().st_size // self.width if self.path.exists() else 0
        self.map: mmap.mmap | None = None
        self.data: Array = np.zeros((0, *self.shape), self.dtype)
        if count:
            mapped = np.memmap(self.path, self.dtype, "r", shape=(count, *self.shape))
            self.map = mapped.base if isinstance(mapped.base, mmap.mmap) else None
            self.data = mapped.view(np.ndarray)

    def close(self) -> None:
        """Lets go of the map."""
        self.map, self.data = None, np.zeros((0, *self.shape), self.dtype)

    def trust(self, other: Self) -> None:
        """Takes over what another view of the same file, with as many or fewer items covered, has checked."""
        if other.path == self.path:
            whole = min(other.covered // PAGE, len(self.known))
            self.known[:whole] = other.known[:whole]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, at: Any) -> Array:
        """Items by a slice or by numbers.

        Raises:
            StoreError: they are damaged.
        """
        if isinstance(at, slice):
            start, stop, _ = at.indices(len(self.data))
            self.check(np.arange(start * self.width // PAGE, -(-max(stop * self.width, 0) // PAGE)))
        else:
            first = np.asarray(at, np.int64) * self.width
            self.check(first // PAGE)
            if PAGE % self.width:
                for step in range(PAGE, self.width + PAGE, PAGE):
                    self.check((first + min(step, self.width - 1)) // PAGE)
        return np.asarray(self.data[at])

    def check(self, pages: npt.NDArray[np.int64]) -> None:
        """Checks those of the pages that were not checked yet.

        Raises:
            StoreError: one is damaged.
        """
        try:
            known = self.known[pages]
        except IndexError:  # some are behind what is covered
            pages = pages[pages < len(self.sums)]
            known = self.known[pages]
        if known.all():
            return
        if (bad := self._first_bad(np.unique(pages[known == 0]))) is not None:
            raise self.damage(bad)

    def damage(self, page: int) -> StoreError:
        """What is raised about a damaged page."""
        what = f"{self.path} is damaged at byte {page * PAGE:,}: the checksum of a page does not agree"
        return StoreError(f"{what}; run: memspan index verify --repair {self.path.parent}")

    def items(self, page: int) -> npt.NDArray[np.int64]:
        """The items that have bytes in a page."""
        end = min((page + 1) * PAGE, self.covered)
        return np.arange(page * PAGE // self.width, -(-end // self.width))

    def bad_pages(self) -> list[int]:
        """All damaged pages; everything is read."""
        self.known[:] = 0
        bad: list[int] = []
        pages = np.arange(len(self.sums))
        while (first := self._first_bad(pages)) is not None:
            bad.append(first)
            pages = pages[pages > first]
        return bad

    def overwrite(self, pages: list[int], data: Array) -> None:
        """Writes pages of the items [n, ...] over those of the file, durably.

        Until the next checkpoint, which takes over their checksums, they count as damaged for whoever opens the index.
        """
        raw = data.reshape(-1).view(np.uint8)
        with self.path.open("r+b") as f:
            for page in pages:
                part = raw[page * PAGE : min((page + 1) * PAGE, self.covered)]
                f.seek(page * PAGE)
                f.write(part.data)
                self.sums[page] = zlib.crc32(part.data)
                self.known[page] = 1
            f.flush()
            os.fsync(f.fileno())

    def _first_bad(self, pages: npt.NDArray[np.int64]) -> int | None:
        data = self.data.reshape(-1).view(np.uint8)[: self.covered]
        pages = np.ascontiguousarray(pages, np.int64)
        if len(data) < self.covered:
            return int(pages[0]) if len(pages) else None
        if (lib := native.library()) is not None:
            at, p = self.known, native.pointer
            found: int = lib.spann_check(p(data), self.covered, p(self.sums), p(at), p(pages), len(pages))
            return None if found < 0 else int(pages[found])
        for page in map(int, pages):
            if zlib.crc32(data[page * PAGE : (page + 1) * PAGE].data) != self.sums[page]:
                return page
            self.known[page] = 1
        return None

    def grown(self, covered: int) -> U32:
        """The checksums when more items are covered. What was covered is not read again, so that damage to it since
        then is still found later."""
        size, have = covered * self.width, self.covered
        data = self.data.reshape(-1).view(np.uint8)[:size]
        if size == have:
            return self.sums
        head = self.sums
        if over := have % PAGE:
            last = zlib.crc32(np.ascontiguousarray(data[have : have + PAGE - over]).data, int(self.sums[-1]))
            head = np.append(self.sums[:-1], np.uint32(last))
        return np.concatenate([head, page_sums(data, len(head))])


class Rows(Column):
    """The rows, of whose damage the ids tell.

    Attributes:
        ids: their column.
        tables: which of them are deleted.
    """

    ids: Column
    tables: Tables

    def damage(self, page: int) -> StoreError:
        """Names the rows that are not deleted."""
        slots = self.items(page)
        ids = self.ids.data[slots[~test_bits(self.tables.dead, slots)]].tolist()
        named = ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
        return StoreError(
            f"{self.path} is damaged: the checksum of the rows of ids {named} does not agree; add them again with"
            " upsert=True, or delete them"
        )


def page_sums(data: npt.NDArray[np.uint8], start: int = 0) -> U32:
    """Checksums of the pages of bytes, from a page on."""
    pages = -(-len(data) // PAGE)
    out = np.empty(max(pages - start, 0), np.uint32)
    if (lib := native.library()) is not None:
        if len(out):
            lib.spann_sums(native.pointer(data), len(data), start, pages, native.pointer(out))
        return out
    for page in range(start, pages):
        out[page - start] = zlib.crc32(np.ascontiguousarray(data[page * PAGE : (page + 1) * PAGE]).data)
    return out


def file_sums(path: Path, size: int) -> U32:
    """Checksums of the pages of the first `size` bytes of a file."""
    if not size:
        return np.zeros(0, np.uint32)
    return page_sums(np.memmap(path, np.uint8, "r", shape=(size,)))
