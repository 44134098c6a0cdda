"""One file of an index kept beside a store: columns, postings and vectors of a run of passages, mapped to be read.

Layout: 8 bytes of magic, the length and CRC-32 of a JSON header as two little-endian uint32, the header, and then the
arrays, each at a multiple of 64 bytes. The header names them with their types, shapes, places and CRC-32s, and holds
the names of sessions and speakers. A file is written once and never changed.

Legend: P passages, R records, D dimensions.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import StoreError
from memspan.longterm.postings import Segment

COLUMNS = (
    *("record_ids", "session", "speaker", "role", "at", "is_question", "standing"),
    *("owner", "length", "passage_ids", "before"),
)
"""Columns of an index that a file holds; the others follow from them."""
_MAGIC = b"mspnidx1"
_ALIGNED = 64
_BLOCK = 2**20  # bytes checked at a time

Chunks = Sequence[NDArray[Any]]


def write_part(
    path: Path, arrays: Mapping[str, Chunks], *, sessions: Sequence[str], speakers: Sequence[str], dim: int
) -> int:
    """Write a file and wait until it is on the disk; returns its bytes.

    Args:
        path: a file that is not there yet.
        arrays: each as pieces that follow one another along the first axis.
        sessions, speakers: their names, in the order of their codes.
        dim: D; 0 without vectors.

    Raises:
        StoreError: the file cannot be written.
    """
    described: list[list[Any]] = []
    place = 0
    for name, chunks in arrays.items():
        shape = [sum(len(chunk) for chunk in chunks), *chunks[0].shape[1:]]
        crc = 0
        for chunk in chunks:
            crc = zlib.crc32(_bytes(chunk), crc)
        described.append([name, chunks[0].dtype.str, shape, place, crc])
        place += -(-int(np.prod(shape)) * chunks[0].dtype.itemsize // _ALIGNED) * _ALIGNED
    header = json.dumps(
        {"arrays": described, "sessions": list(sessions), "speakers": list(speakers), "dim": dim}, ensure_ascii=False
    ).encode()
    lead = _MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little") + header
    try:
        with path.open("xb") as file:
            file.write(lead + bytes(-len(lead) % _ALIGNED))
            for chunks in arrays.values():
                for chunk in chunks:
                    file.write(_bytes(chunk))
                file.write(bytes(-file.tell() % _ALIGNED))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"the index cannot be written to {path}: {error.strerror}") from error


def _bytes(chunk: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data


class PartFile:
    """A file that `write_part` wrote, mapped.

    Args:
        path: the file.
        nbytes: how long it must be.
        checked: the arrays were compared with their CRC-32s before.

    Attributes:
        sessions, speakers: names in the order of their codes.
        dim: D; 0 without vectors.
        mapped: the map, whose pages may be given back at any time.

    Raises:
        StoreError: it is missing, cut short, or its header is damaged.
    """

    def __init__(self, path: Path, nbytes: int, *, checked: bool = False) -> None:
        self.path = path
        self._checked = checked
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != nbytes:
                    raise StoreError(f"{path} has {size:,} bytes instead of {nbytes:,}")
                self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        length, crc = (int.from_bytes(self.mapped[at : at + 4], "little") for at in (8, 12))
        header = self.mapped[16 : 16 + length]
        if self.mapped[:8] != _MAGIC or len(header) != length or zlib.crc32(header) != crc:
            raise StoreError(f"the header of {path} is damaged")
        told = json.loads(header)
        self._base = -(-(16 + length) // _ALIGNED) * _ALIGNED
        self._arrays = {name: rest for name, *rest in told["arrays"]}
        self.sessions: list[str] = told["sessions"]
        self.speakers: list[str] = told["speakers"]
        self.dim: int = told["dim"]

    @property
    def passages(self) -> int:
        """P."""
        return int(self._arrays["owner"][1][0])

    @property
    def records(self) -> int:
        """R."""
        return int(self._arrays["record_ids"][1][0])

    def read(self, name: str) -> NDArray[Any]:
        """An array, mapped and not to be written to.

        Raises:
            StoreError: the bytes are not those that were written.
        """
        kind, shape, place, crc = self._arrays[name]
        count = int(np.prod(shape))
        found: NDArray[Any] = np.frombuffer(self.mapped, kind, count, self._base + place).reshape(shape)
        if not self._checked and count and _crc(found) != crc:
            raise StoreError(f"{name!r} in {self.path} is damaged")
        return found

    def segment(self) -> Segment:
        """The postings, mapped."""
        terms, starts, passages, counts = (self.read(name) for name in ("terms", "starts", "posted", "counts"))
        return Segment(terms, starts, passages, counts)

    def vectors(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Values [P, D], scales [P] and signs [words, P] of the vectors, mapped."""
        values, scale, signs = (self.read(name) for name in ("values", "scale", "signs"))
        return values, scale, signs.T

    def check(self) -> None:
        """Compare all bytes with their CRC-32s.

        Raises:
            StoreError: some are not those that were written.
        """
        self._checked = False
        for name in self._arrays:
            self.read(name)
        self._checked = True


def _crc(values: NDArray[Any]) -> int:
    crc = 0
    raw = _bytes(values)
    for begin in range(0, len(raw), _BLOCK):
        crc = zlib.crc32(raw[begin : begin + _BLOCK], crc)
    return crc


def concatenated(chunks: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Pieces as `write_part` takes them; those without rows are left out unless all are."""
    every = list(chunks)
    return [chunk for chunk in every if len(chunk)] or every[:1]
