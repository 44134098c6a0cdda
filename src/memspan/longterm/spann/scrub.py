"""Taking what was deleted off the files: rows zeroed in a copy, lists without it, other heads, zeros between lists.

`compact` writes everything anew and leaves the codes of heads. Here only the rows are copied and the lists concerned
written; the file of the lists stays, and what nothing names in it is zeroed at the end. A reader that still holds the
checkpoint before may see zeros where an old list was; it finds the new one after its search and searches again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import codes
from .engine import Engine
from .heads import NOWHERE, Lanes, cell_of, change, in_cell, places
from .layout import SECTOR, Files
from .space import Floats
from .workspace import Workspace

Numbers = npt.NDArray[np.int64]

PIECE = 1 << 20  # bytes zeroed at a time
ROWS = 1024  # dead rows compared with heads at a time


def dead_slots(engine: Engine) -> Numbers:
    """The slots that are deleted."""
    return np.setdiff1d(np.arange(engine.slots), engine.live(), assume_unique=True)


def take_out(work: Workspace, dead: Numbers) -> int:
    """Writes the lists that hold dead entries without them, and gives lists whose head is a dead row another one.

    Returns:
        how many lists were written.
    """
    headless, cells = _like_dead(work, dead)
    lists = set(_holding(work).tolist()) | headless
    for number in sorted(lists - headless):
        slots = work.members(number)
        head = work.heads(np.array([number]))[0]
        work.drop_list(number)
        work.write_list(number, slots, work.vectors(slots), head)
    for number in sorted(headless):
        _new_head(work, number)
    if cells:
        _new_centres(work, cells)
    return len(lists)


def has_dead_rows(engine: Engine, dead: Numbers) -> bool:
    """Whether the file of the rows holds anything of dead slots, or behind the last slot."""
    width = engine.space.dim * engine.dtype.itemsize
    with engine.files.rows.open("rb") as file:
        file.seek(engine.slots * width)
        while piece := file.read(PIECE):
            if piece.strip(b"\0"):
                return True
    return any(np.asarray(engine.rows[dead[at : at + ROWS]]).any() for at in range(0, len(dead), ROWS))


def next_version(engine: Engine, dead: Numbers, files: Files) -> None:
    """The files of the next version: the rows without dead ones, the others as they are, under their new names."""
    width = engine.space.dim * engine.dtype.itemsize
    files.rows.unlink(missing_ok=True)
    shutil.copyfile(engine.files.rows, files.rows)
    after = (engine.slots * width, files.rows.stat().st_size)
    _zero(files.rows, [*((a * width, b * width) for a, b in _runs(dead)), after])
    for name in ("ids", "tenants", "lists"):
        old, new = getattr(engine.files, name), getattr(files, name)
        new.unlink(missing_ok=True)
        if old.exists():
            try:
                os.link(old, new)
            except OSError:  # not on every file system
                shutil.copyfile(old, new)


def zero_unused(engine: Engine) -> None:
    """Overwrites the space between lists, durably."""
    t, size = engine.tables, engine.files.lists.stat().st_size
    length = -(-t.list_blocks.astype(np.int64) * codes.block_bytes(engine.space.padded) // SECTOR)
    # +1 where a list begins and -1 behind it: where the sum is 0, nothing is.
    step = np.zeros(-(-size // SECTOR) + 1, np.int64)
    full = length > 0
    np.add.at(step, t.list_sector[full].astype(np.int64), 1)
    np.add.at(step, (t.list_sector[full].astype(np.int64) + length[full]), -1)
    free = np.flatnonzero(np.cumsum(step)[:-1] == 0)
    _zero(engine.files.lists, [(a * SECTOR, min(b * SECTOR, size)) for a, b in _runs(free)])


def _holding(work: Workspace) -> Numbers:
    """Lists with an entry of a dead slot."""
    t, block = work.tables, codes.block_bytes(work.space.padded)
    found = []
    for number in np.flatnonzero(t.list_blocks).tolist():
        at = int(t.list_sector[number]) * SECTOR
        body = np.asarray(work.engine.lists[at : at + int(t.list_blocks[number]) * block]).reshape(-1, block)
        slots = np.ascontiguousarray(body[:, -4 * codes.LANES :]).view(np.uint32).reshape(-1)
        slots = slots[: int(t.list_count[number])]
        if not work.alive(slots[slots < work.engine.slots]).all():
            found.append(number)
    return np.array(found, np.int64)


def _like_dead(work: Workspace, dead: Numbers) -> tuple[set[int], list[int]]:
    """Lists whose heads, and cells whose centres, are as near to a dead row as a row's own code is."""
    lists: set[int] = set()
    cells: set[int] = set()
    centres = Lanes.unpack(work.tables.cells, np.zeros(0, np.uint32)).decoded()
    for at in range(0, len(dead), ROWS):
        part = dead[at : at + ROWS]
        part = part[np.asarray(work.engine.rows[part]).any(axis=1)]  # what is zeroed already is nobody's code
        if not len(part):
            continue
        x = work.vectors(part)
        # Rounding to 8 bits moves a coordinate by half a step; a code that was decoded and coded again, by one.
        close = x.shape[1] * (np.abs(x).max(1) / 63) ** 2
        near = work.near(x, work.config.candidates)
        row, column = np.nonzero(near != NOWHERE)
        number = near[row, column]
        same = ((work.heads(number) - x[row]) ** 2).sum(1) <= close[row]
        lists |= set(number[same].tolist())
        away = ((x[:, None, :] - centres[None]) ** 2).sum(2) if len(centres) * len(x) < ROWS else _away(x, centres)
        cells |= set(np.flatnonzero((away <= close[:, None]).any(0)).tolist())
    return lists, sorted(cells)


def _away(x: Floats, centres: Floats) -> Floats:
    return np.stack([((x - centre) ** 2).sum(1) for centre in centres], axis=1)


def _new_head(work: Workspace, number: int) -> None:
    """Another row of the list becomes its head; a list without rows goes, unless it is the last."""
    t = work.tables
    slots = work.members(number)
    cell = int(cell_of(t, work.place, np.array([number]))[0])
    others = in_cell(t, cell)
    others = others.take(others.lists != number)
    x = work.vectors(slots)
    if len(slots):
        own = np.flatnonzero(work.primary[slots] == number)
        own = own if len(own) else np.arange(len(slots))
        head = x[own[((x[own] - x[own].mean(0)) ** 2).sum(1).argmin()]][None]
    else:
        last = int(np.count_nonzero(work.place != NOWHERE)) == 1
        head = np.zeros((int(last), work.space.padded), np.float32)
    change(t, {cell: others.join(Lanes.encode(head, np.full(len(head), number)))})
    work.place = places(t)
    work.drop_list(number)
    if len(slots):
        work.write_list(number, slots, x, work.heads(np.array([number]))[0])


def _new_centres(work: Workspace, cells: list[int]) -> None:
    """The mean of a cell's heads becomes its centre; numbers of cells are those before any was dropped."""
    t = work.tables
    centres = Lanes.unpack(t.cells, np.zeros(0, np.uint32))
    for cell in cells:
        if cell >= len(t.cell_start) - 1:
            continue
        mean = Lanes.encode(in_cell(t, cell).decoded().mean(0)[None], np.zeros(1, np.uint32))
        centres.code[cell], centres.scale[cell], centres.norm[cell] = mean.code[0], mean.scale[0], mean.norm[0]
    t.cells = Lanes(centres.code, centres.scale, centres.norm, np.zeros(len(centres.norm), np.uint32)).pack()[0]


def _runs(numbers: Numbers) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges, the end exclusive."""
    cuts = np.flatnonzero(np.diff(numbers) > 1) + 1
    for run in np.split(numbers, cuts) if len(numbers) else ():
        yield int(run[0]), int(run[-1]) + 1


def _zero(path: Path, spans: list[tuple[int, int]]) -> None:
    with path.open("r+b", buffering=0) as file:
        for begin, end in spans:
            for at in range(begin, end, PIECE):
                size = min(PIECE, end - at)
                if os.pread(file.fileno(), size, at).strip(b"\0"):
                    os.pwrite(file.fileno(), bytes(size), at)
        os.fsync(file.fileno())
