"""Files opened past the page cache."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

from .layout import SECTOR, Files


class DirectFiles:
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
