"""Checking an index against its checksums and invariants, and mending what its rows can mend."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from . import codes
from .effort import test_bits
from .engine import Engine
from .heads import NOWHERE
from .layout import Files
from .lookup import check_order
from .pages import Column
from .place import choose_lists
from .workspace import Workspace

Numbers = npt.NDArray[np.int64]


@dataclass
class Findings:
    """What is wrong.

    Attributes:
        problems: one line each.
        lists: lists whose bytes are damaged.
        pages: damaged pages by the name of their file; of the rows only those that hold a row that is not deleted.
        lost: live slots that are not in their primary list, beyond those of damaged lists.
    """

    problems: list[str] = field(default_factory=list)
    lists: list[int] = field(default_factory=list)
    pages: dict[str, list[int]] = field(default_factory=dict)
    lost: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))


def check(files: Files, engine: Engine, place: npt.NDArray[np.uint32], checkpointed: int) -> Findings:
    """Reads everything once. `checkpointed`: slots that the checkpoint holds."""
    out = Findings()
    t, size = engine.tables, codes.block_bytes(engine.space.padded)
    for column in (engine.rows, engine.ids):
        if len(column) < engine.slots:
            out.problems.append(f"{column.path.name} holds {len(column):,} of {engine.slots:,} rows")
    for name in ("rows", "ids", "tenants", "primary"):
        column = getattr(engine, name)
        bad = column.bad_pages()
        if name == "rows":
            dead = [p for p in bad if test_bits(t.dead, column.items(p)).all()]
            bad = [p for p in bad if p not in dead]
            out.problems += [str(engine.rows.damage(p)) for p in bad]
        elif bad:
            out.problems.append(f"{column.path.name} is damaged: the checksums of {len(bad):,} pages do not agree")
        if bad:
            out.pages[name] = bad
    if len(t.list_count):
        _check_lists(out, engine, place, size)
    alive = ~test_bits(t.dead, np.arange(checkpointed))
    if not check_order(engine.lookup, engine.ids.data, checkpointed, alive) and "ids" not in out.pages:
        out.problems.append("the lookup of ids does not agree with the rows")
    if engine.lookup.owners.bad_pages():
        out.problems.append("the lookup of tenants is damaged: its checksum does not agree")
    return out


def _check_lists(out: Findings, engine: Engine, place: npt.NDArray[np.uint32], size: int) -> None:
    """Every list, and that every live row is in its own."""
    t = engine.tables
    primary = engine.primary_of(np.arange(engine.slots), checked=False)
    homeless = (primary >= len(t.list_count)) | (place[np.minimum(primary, len(place) - 1)] == NOWHERE)
    if "primary" in out.pages:
        unsure = np.concatenate([engine.primary.items(p) for p in out.pages["primary"]])
        homeless[unsure] = True
    found = np.zeros(engine.slots, bool)
    for number in range(len(t.list_count)):
        data = engine.bytes_of(number)
        sound = len(data) == int(t.list_blocks[number]) * size
        sound &= not len(data) or zlib.crc32(data.data) == int(t.list_crc[number])
        if number in engine.mended or not sound:
            out.problems.append(f"list {number} is damaged: its checksum does not agree")
            out.lists.append(number)
            continue
        for e in engine.entries(number):
            inside = e.slots[e.slots < engine.slots]
            found[inside[primary[inside] == number]] = True
    live = engine.live()
    lost = live[~found[live] | homeless[live]]
    out.lost = lost[~np.isin(primary[lost], out.lists)]
    if len(out.lost):
        out.problems.append(f"{len(out.lost):,} rows are missing from their lists")


def mend_pages(engine: Engine, place: npt.NDArray[np.uint32], findings: Findings) -> None:
    """Writes damaged pages anew: ids from their lookup, tenants from theirs, primary lists from the rows.

    Raises:
        StoreError: what it would be made from is damaged too.
    """
    for name, pages in findings.pages.items():
        if name == "rows":
            continue
        column: Column = getattr(engine, name)
        slots = np.concatenate([column.items(p) for p in pages])
        values: npt.NDArray[Any]
        if name == "ids":
            engine.lookup.order.check(np.arange(len(engine.lookup.order.sums)))
            values, at = engine.lookup.sorted()
            where = at.astype(np.int64)
        elif name == "tenants":
            where = engine.lookup.owners[:].astype(np.int64)
            values = np.repeat(np.arange(1, len(engine.lookup.start)), np.diff(engine.lookup.start))
        else:
            where = slots[~test_bits(engine.tables.dead, slots)]
            values = np.zeros(len(where), np.uint32)
            if len(engine.tables.list_count):
                values = nearest_lists(engine, place, where)
        new = np.zeros(engine.slots, column.dtype)
        new[: len(column.data)] = column.data[: engine.slots]
        if name != "ids":  # of a deleted row nothing is known any more; its id stays what it seems to be
            new[slots] = 0
        inside = np.isin(where, slots)
        new[where[inside]] = values[inside]
        column.overwrite(pages, new)


def nearest_lists(engine: Engine, place: npt.NDArray[np.uint32], slots: Numbers) -> npt.NDArray[np.uint32]:
    """The lists whose heads are nearest to rows."""
    c = engine.config
    out = np.zeros(len(slots), np.uint32)
    for at in range(0, len(slots), 4096):
        x = engine.space.rows(engine.rows[slots[at : at + 4096]])
        out[at : at + 4096] = choose_lists(
            engine, place, x, cells=c.neighbours, candidates=c.candidates, copies=1, slack=None
        )[:, 0]
    return out


def repair(work: Workspace, findings: Findings) -> None:
    """Writes damaged lists anew from the rows, and puts lost rows back."""
    live = work.live()
    for number in findings.lists:
        work.drop_list(number)
        if work.place[number] == NOWHERE:
            continue
        head = work.heads(np.array([number]))
        near = work.near(head, work.config.candidates)[0]
        around = live[np.isin(work.primary[live], np.append(near[near != NOWHERE], np.uint32(number)))]
        held = []
        for at in range(0, len(around), 4096):
            part = around[at : at + 4096].astype(np.uint32)
            mine = (work.lists_of(work.vectors(part)) == number).any(1) | (work.primary[part] == number)
            held.append(part[mine])
        slots = np.concatenate([np.zeros(0, np.uint32), *held])
        work.write_list(number, slots, work.vectors(slots), head[0])
    work.put_again(findings.lost.astype(np.uint32))
    work.rewrite()
