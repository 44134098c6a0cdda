"""Checking an index against its checksums and invariants, and mending what its rows can mend."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import codes
from .engine import Engine, test_bits
from .heads import NOWHERE
from .layout import SECTOR, Files
from .updates import ORDER
from .workspace import Workspace

Numbers = npt.NDArray[np.int64]


@dataclass
class Findings:
    """What is wrong.

    Attributes:
        problems: one line each.
        lists: lists whose bytes are damaged.
        lost: live slots that are not in their primary list, beyond those of damaged lists.
    """

    problems: list[str] = field(default_factory=list)
    lists: list[int] = field(default_factory=list)
    lost: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))


def check(files: Files, engine: Engine, place: npt.NDArray[np.uint32], checkpointed: int) -> Findings:
    """Reads everything once. `checkpointed`: slots that the checkpoint holds."""
    out = Findings()
    t, size = engine.tables, codes.block_bytes(engine.space.padded)
    for path, held in ((files.rows, len(engine.rows)), (files.ids, len(engine.ids))):
        if held < engine.slots:
            out.problems.append(f"{path.name} holds {held:,} of {engine.slots:,} rows")
    if len(t.list_count):
        primary = engine.primary_of(np.arange(engine.slots))
        homeless = (primary >= len(t.list_count)) | (place[np.minimum(primary, len(place) - 1)] == NOWHERE)
        found = np.zeros(engine.slots, bool)
        for number in range(len(t.list_count)):
            at, count = int(t.list_sector[number]) * SECTOR, int(t.list_blocks[number]) * size
            data = np.asarray(engine.lists[at : at + count])
            if len(data) < count or (zlib.crc32(memoryview(data)) != int(t.list_crc[number]) and count):  # type: ignore[arg-type]
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
    order = np.fromfile(files.order, ORDER) if files.order.exists() else np.zeros(0, ORDER)
    slots = order["slot"].astype(np.int64)
    wrong = len(order) > 1 and not (np.diff(order["id"]) > 0).all()
    wrong |= bool((slots >= checkpointed).any()) or bool((engine.ids[slots] != order["id"]).any())
    known = np.zeros(checkpointed, bool)
    known[slots[slots < checkpointed]] = True
    alive = ~test_bits(t.dead, np.arange(checkpointed))
    if wrong or (alive & ~known).any():
        out.problems.append("the lookup of ids does not agree with the rows")
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
