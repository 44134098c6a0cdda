"""Zeros in the free space of an SQLite file's pages, without rewriting what is not free.

A page of a b-tree holds cells at its end and pointers to them at its start. Between the two, and in freed cells, stand
bytes that nothing points at; SQLite leaves copies of cells there when it moves rows between pages. Zeroing them changes
no content, is done again without harm, and can stop anywhere: a reader never looks at them. Who calls this must hold
the write lock while the write-ahead log is empty.

Format: https://www.sqlite.org/fileformat2.html, section 1.6.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

AVAILABLE = hasattr(os, "pread")
MOST_PAGES = 2**24
"""Up to so many pages the first byte of a page tells a b-tree's from others, which begin with a page number."""
_INTERIOR, _LEAF = (2, 5), (10, 13)
_CHUNK = 1024  # pages read at a time
# Closing any descriptor of a file drops all locks that this process holds on it (POSIX), SQLite's too: they stay open.
_open: dict[tuple[int, int], int] = {}


def scrub(path: Path, page_size: int) -> int:
    """Zero the free space of all pages of a file; returns how many pages were written.

    Raises:
        OSError: the file cannot be read or written.
    """
    file = _descriptor(path)
    written = 0
    pages = os.fstat(file).st_size // page_size
    for begin in range(0, pages, _CHUNK):
        read = os.pread(file, _CHUNK * page_size, begin * page_size)
        for number in range(len(read) // page_size):
            page = read[number * page_size : (number + 1) * page_size]
            dirty = [span for span in _free(page, 100 if begin + number == 0 else 0) if page[span].strip(b"\0")]
            for span in dirty:
                at = (begin + number) * page_size + span.start
                os.pwrite(file, bytes(span.stop - span.start), at)
            written += bool(dirty)
    os.fsync(file)
    return written


def _descriptor(path: Path) -> int:
    facts = path.stat()
    key = (facts.st_dev, facts.st_ino)
    if key not in _open:
        _open[key] = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    return _open[key]


def _free(page: bytes, head: int) -> Iterator[slice]:
    """Spans of a page that nothing points at; none when it is no b-tree's. `head` is where its header begins."""
    kind = page[head]
    if kind not in _INTERIOR and kind not in _LEAF:
        return

    def number(at: int) -> int:
        return page[at] << 8 | page[at + 1]

    begin = head + (12 if kind in _INTERIOR else 8) + 2 * number(head + 3)
    content = number(head + 5) or 65536
    if begin <= content <= len(page):
        yield slice(begin, content)
    block = number(head + 1)
    while content <= block <= len(page) - 4:
        size = number(block + 2)
        yield slice(block + 4, min(block + size, len(page)))
        after = number(block)
        if after <= block:
            return
        block = after
