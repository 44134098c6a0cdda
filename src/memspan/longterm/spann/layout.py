"""The files of an index, and its checkpoint: everything that is held in memory, in one checked file per generation.

`meta.json` names the generation in force and is replaced atomically; a checkpoint is written whole, synced, and only
then named. Rows, ids and lists that no checkpoint names are as if they were not there.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import StoreError

from .codes import Coded
from .space import Space

FORMAT = 2  # 2: checksums of pages and of `meta.json`; the lookup of ids in columns
SECTOR = 512  # lists start at multiples of it, so that they can be read past the page cache
_MAGIC = b"memspan-spann-1\n"
_ALIGN = 64

U32 = npt.NDArray[np.uint32]


@dataclass
class Tables:
    """What an index holds in memory.

    Attributes:
        cells: the cells' centres, 8 bits a dimension.
        cell_start: [cells + 1], first block of each cell in `heads`.
        heads: the heads in blocks, cell by cell.
        head_list: [blocks, 16], the list of each head.
        list_sector, list_blocks, list_count, list_crc: [lists], where a list begins (in sectors of `lists.bin`), its
            length in blocks of 16 entries, its entries, and the CRC-32 of its bytes.
        dead: bitmap of the slots deleted, 64 a word.
        held: slots of this checkpoint, and of the one before.
        fresh: lists written since the checkpoint before; none for a new file of lists.
        owner_start: [tenants + 1], where in `owners.bin` the slots of each tenant begin.
        sums: for each file of data the checksums of its pages.
    """

    cells: Coded
    cell_start: npt.NDArray[np.int64]
    heads: Coded
    head_list: U32
    list_sector: U32
    list_blocks: U32
    list_count: U32
    list_crc: U32
    dead: npt.NDArray[np.uint64]
    held: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    fresh: U32 = field(default_factory=lambda: np.zeros(0, np.uint32))
    owner_start: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    sums: dict[str, U32] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays: int = sum(getattr(self, f.name).nbytes for f in fields(self) if f.name != "sums")
        return arrays + sum(a.nbytes for a in self.sums.values())


class Files:
    """The paths inside an index's directory."""

    def __init__(self, path: Path, generation: int = 0, version: int = 0) -> None:
        """`generation` counts the checkpoints, `version` the times that rows and lists were written anew."""
        self.path, self.generation, self.version = path, generation, version
        self.meta = path / "meta.json"
        self.rows = path / _numbered("rows", version)
        self.ids = path / _numbered("ids", version)
        self.tenants = path / _numbered("tenants", version)
        self.lists = path / _numbered("lists", version)
        self.order = path / _numbered("order", generation)
        self.owners = path / _numbered("owners", generation)
        self.primary = path / _numbered("primary", generation)
        self.wal = path / "wal.log"
        self.lock = path / "lock"
        self.build = path / "build.json"

    @property
    def named(self) -> set[Path]:
        """The files of data that this generation and version consist of."""
        whole = {self.rows, self.ids, self.tenants, self.lists, self.order, self.owners, self.primary}
        return whole | {self.checkpoint(self.generation)}

    def checkpoint(self, generation: int) -> Path:
        """The checkpoint of a generation."""
        return self.path / f"tables.{generation}"

    def owns(self, path: Path) -> bool:
        """Whether a file in the directory has a name that an index gives."""
        named = (self.meta, self.wal, self.lock, self.build)
        parts = (self.meta.with_suffix(".tmp"), self.build.with_suffix(".tmp"))
        data = tuple(f"{name}." for name in ("rows", "ids", "tenants", "order", "owners", "primary", "lists"))
        kept = path.name.startswith(data) and path.suffix == ".bin"
        return path in named or path in parts or kept or path.name.startswith(("tables.", "stage."))

    def stage(self, name: str) -> Path:
        """A file of a build under way."""
        return self.path / f"stage.{name}"


def _numbered(name: str, number: int) -> str:
    return f"{name}.{number}.bin" if number else f"{name}.bin"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replaces a JSON file, with its checksum in it, atomically and durably."""
    made = path.with_suffix(".tmp")
    with made.open("w", encoding="utf-8") as f:
        json.dump({**value, "checksum": _checksum(value)}, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    made.replace(path)
    sync_directory(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        ValueError: it is no JSON object, or its checksum does not agree.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or value.pop("checksum", None) != _checksum(value):
        raise ValueError("its checksum does not agree")
    return value


def _checksum(value: dict[str, Any]) -> int:
    # As it will be read: with keys that are strings.
    return zlib.crc32(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode())


def write_durably(path: Path, *arrays: npt.NDArray[Any]) -> None:
    """Writes arrays one after the other and waits until they are on disk."""
    with path.open("wb") as out:
        for array in arrays:
            np.ascontiguousarray(array).tofile(out)
        out.flush()
        os.fsync(out.fileno())


def sync_directory(path: Path) -> None:
    """Makes renames and new names in a directory durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_checkpoint(path: Path, space: Space, tables: Tables) -> None:
    """Writes and syncs a checkpoint."""
    arrays: dict[str, npt.NDArray[Any]] = {"rotation": space.rotation, "centre": space.centre}
    for f in fields(tables):
        value = getattr(tables, f.name)
        if isinstance(value, dict):
            arrays |= {f"{f.name}.{name}": a for name, a in value.items()}
        elif isinstance(value, Coded):
            arrays |= {f"{f.name}.codes": value.codes, f"{f.name}.scale": value.scale, f"{f.name}.norm": value.norm}
        else:
            arrays[f.name] = value
    entries, at = [], 0
    for name, a in arrays.items():
        entries.append({"name": name, "dtype": a.dtype.str, "shape": a.shape, "at": at})
        at += -(-a.nbytes // _ALIGN) * _ALIGN
    crc = 0
    with path.open("wb") as out:
        head = {
            "dim": space.dim,
            "metric": space.metric,
            "padded": space.padded,
            "longest": space.longest,
            "arrays": entries,
        }
        line = json.dumps(head).encode()
        line += b" " * (-len(line) % _ALIGN) + b"\n"
        for piece in (_MAGIC, len(line).to_bytes(8, "little"), line):
            out.write(piece)
            crc = zlib.crc32(piece, crc)
        for a in arrays.values():
            data = np.ascontiguousarray(a).tobytes()
            data += b"\0" * (-len(data) % _ALIGN)
            out.write(data)
            crc = zlib.crc32(data, crc)
        out.write(crc.to_bytes(4, "little"))
        out.flush()
        os.fsync(out.fileno())


def read_checkpoint(path: Path) -> tuple[Space, Tables]:
    """Reads a checkpoint.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise StoreError(f"{path} cannot be read ({e.strerror}); build the index again from its rows") from None
    if len(data) < len(_MAGIC) + 12 or not data.startswith(_MAGIC):
        raise StoreError(f"{path} is not a checkpoint of this format; build the index again from its rows")
    if zlib.crc32(memoryview(data)[:-4]) != int.from_bytes(data[-4:], "little"):
        raise StoreError(f"{path} is damaged: its checksum does not agree; build the index again from its rows")
    at = len(_MAGIC)
    size = int.from_bytes(data[at : at + 8], "little")
    at += 8
    head = json.loads(data[at : at + size])
    at += size
    arrays = {}
    for a in head["arrays"]:
        count = int(np.prod(a["shape"], dtype=np.int64))
        arrays[a["name"]] = np.frombuffer(data, np.dtype(a["dtype"]), count, at + a["at"]).reshape(a["shape"]).copy()
    space = Space(head["dim"], head["metric"], head["padded"], arrays["centre"], head["longest"], arrays["rotation"])
    coded = {n: Coded(arrays[f"{n}.codes"], arrays[f"{n}.scale"], arrays[f"{n}.norm"]) for n in ("cells", "heads")}
    sums = {name.removeprefix("sums."): a for name, a in arrays.items() if name.startswith("sums.")}
    parts: dict[str, Any] = {**arrays, **coded, "sums": sums}
    return space, Tables(**{f.name: parts[f.name] for f in fields(Tables)})


def empty_tables(padded: int, slots: int) -> Tables:
    """The tables of an index without lists, which is scanned."""
    none = Coded(
        np.zeros((0, padded // 4, 16, 4), np.uint8), np.zeros((0, 16), np.float32), np.zeros((0, 16), np.float32)
    )
    zero = np.zeros(0, np.uint32)
    start, dead = np.zeros(1, np.int64), np.zeros(-(-slots // 64), np.uint64)
    return Tables(none, start, none, np.zeros((0, 16), np.uint32), zero, zero, zero, zero, dead)
