"""The write-ahead log: every change is on disk before the call that made it returns; and the lock of the one writer.

A record is a header (mark, kind, sequence, length, CRC-32 of all of it, CRC-32 of the header) and its content: ids, and
for rows the bytes of the vectors. A record cut short by a crash ends the log: it lacks bytes, or sectors of it were
never written and are zero. Any other that does not agree with its checksums was acknowledged, and is an error.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import StoreBusyError, StoreError

from .layout import SECTOR

ADD, UPSERT, DELETE = 1, 2, 3
LEAST_ZEROS = 32  # bytes of a sector of which a record holds the end only, that tell that it was never written
_MARK = b"SWAL"
_HEAD = struct.Struct("<4sIQQIII")  # mark, kind, sequence, bytes of content, ids, CRC-32 of all, CRC-32 of the header


@dataclass(frozen=True)
class Record:
    """One change.

    Attributes:
        kind: ADD, UPSERT or DELETE.
        sequence: its number, one more than that of the record before.
        ids: [n] int64.
        rows: the bytes of the vectors, none for DELETE.
        about: what else the call said.
    """

    kind: int
    sequence: int
    ids: npt.NDArray[np.int64]
    rows: bytes
    about: dict[str, Any]


class Wal:
    """The log at a path. Reading needs no lock; appending does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._out: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self, after: int) -> Iterator[Record]:
        """The records behind a sequence number.

        Raises:
            StoreError: a record is damaged.
        """
        data = self.path.read_bytes() if self.path.exists() else b""
        at = 0
        while (record := _record(data, at)) is not None:
            at += _HEAD.size + record[1]
            if record[0].sequence > after:
                yield record[0]
        self.good = at
        if at < len(data) and (_whole_behind(data, at) or not _cut_short(data, at)):
            raise StoreError(f"{self.path} is damaged at byte {at}; restore it, or remove it with what it holds")

    good = 0  # bytes of whole records, after reading to the end

    def append(self, kind: int, sequence: int, ids: npt.NDArray[np.int64], rows: bytes, about: dict[str, Any]) -> None:
        """Writes a record and waits until it is on disk."""
        said = json.dumps(about).encode() if about else b""
        body = b"".join((len(said).to_bytes(4, "little"), said, ids.tobytes(), rows))
        head = _HEAD.pack(_MARK, kind, sequence, len(body), len(ids), 0, 0)[:-8]
        head += zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little")
        head += zlib.crc32(head).to_bytes(4, "little")
        if self._out is None:
            self._out = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        data = memoryview(head + body)
        start = os.fstat(self._out).st_size
        try:
            while data:
                data = data[os.write(self._out, data) :]
            os.fsync(self._out)
        except BaseException:
            # The caller is told that the change did not happen, so the log must not hold it.
            os.ftruncate(self._out, start)
            raise

    def cut(self, size: int) -> None:
        """Shortens the log, durably."""
        if self.size > size:
            with self.path.open("r+b") as f:
                f.truncate(size)
                os.fsync(f.fileno())

    def close(self) -> None:
        """Lets go of the file."""
        if self._out is not None:
            os.close(self._out)
            self._out = None


def _record(data: bytes, at: int) -> tuple[Record, int] | None:
    """The record at a place and its bytes of content; None when there is no whole one."""
    if len(data) < at + _HEAD.size:
        return None
    mark, kind, sequence, length, count, crc, head_crc = _HEAD.unpack_from(data, at)
    body = memoryview(data)[at + _HEAD.size : at + _HEAD.size + length]
    head = data[at : at + _HEAD.size - 8]
    if mark != _MARK or zlib.crc32(data[at : at + _HEAD.size - 4]) != head_crc or len(body) < length:
        return None
    if zlib.crc32(body, zlib.crc32(head)) != crc:
        return None
    said = 4 + int.from_bytes(body[:4], "little")
    about = json.loads(bytes(body[4:said])) if said > 4 else {}
    ids = np.frombuffer(body[said : said + 8 * count], np.int64)
    return Record(kind, sequence, ids, bytes(body[said + 8 * count :]), about), length


def _whole_behind(data: bytes, at: int) -> bool:
    """Whether a whole record begins somewhere behind a place."""
    behind = data.find(_MARK, at + 1)
    while behind >= 0 and _record(data, behind) is None:
        behind = data.find(_MARK, behind + 1)
    return behind >= 0


def _cut_short(data: bytes, at: int) -> bool:
    """Whether what is no whole record at a place is one that was never written to its end."""
    if len(data) < at + _HEAD.size:
        return True
    length, head_crc = _HEAD.unpack_from(data, at)[3], _HEAD.unpack_from(data, at)[6]
    if zlib.crc32(data[at : at + _HEAD.size - 4]) == head_crc and len(data) < at + _HEAD.size + length:
        return True
    bounds = [at, *range(-(-at // SECTOR) * SECTOR, len(data), SECTOR), len(data)]
    pieces = (data[a:b] for a, b in itertools.pairwise(bounds))
    return any(len(piece) >= LEAST_ZEROS and not any(piece) for piece in pieces)


class Lock:
    """The lock of the one writer: held by the open file, so that it goes with a process that dies."""

    def __init__(self, path: Path) -> None:
        import fcntl  # not on Windows, where an index can be read only

        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise StoreBusyError(f"{path.parent} is being written by another process; close it there first") from None
        self._fd = fd

    def release(self) -> None:
        """Lets others write."""
        os.close(self._fd)
