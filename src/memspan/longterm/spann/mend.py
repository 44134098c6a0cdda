"""The entries of damaged lists, made anew from the rows: those whose primary list it is, and copies by the rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .codes import Entries
from .effort import Slots
from .engine import Engine
from .heads import NOWHERE, places, vectors
from .place import beyond, choose_lists, encoded

CHUNK = 4096  # rows placed at a time


def entries_of(engine: Engine, lists: list[int]) -> tuple[Entries, Slots]:
    """The entries of lists as a build would make them, and the list of each.

    Raises:
        StoreError: the rows are damaged too.
    """
    c, place = engine.config, places(engine.tables)
    wanted = np.array([i for i in lists if place[i] != NOWHERE], np.uint32)
    slots = rows_near(engine, place, wanted)
    out: list[Entries] = []
    numbers: list[Slots] = []
    for at in range(0, len(slots), CHUNK):
        part = slots[at : at + CHUNK]
        rows = engine.rows[part]
        x = engine.space.rows(rows)
        chosen = choose_lists(
            engine, place, x, cells=c.neighbours, candidates=c.candidates, copies=c.copies, slack=c.closure**2
        )
        own = engine.primary_of(part)
        row, column = np.nonzero(np.isin(chosen, wanted))
        mine = np.flatnonzero(np.isin(own, wanted))
        pairs = np.unique(
            np.stack([np.append(row, mine), np.append(chosen[row, column], own[mine]).astype(np.int64)]), axis=1
        )
        number = pairs[1].astype(np.uint32)
        heads = vectors(engine.tables, place, number)
        which = pairs[0]
        out.append(encoded(x[which], heads, part[which].astype(np.uint32), beyond(engine.space, rows)[which]))
        numbers.append(number)
    half = engine.space.padded // 2
    none = Entries(
        np.zeros((0, half), np.uint8), np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0, np.uint32)
    )
    return _join([none, *out]), np.concatenate([np.zeros(0, np.uint32), *numbers])


def rows_near(engine: Engine, place: npt.NDArray[np.uint32], lists: Slots) -> npt.NDArray[np.int64]:
    """The live slots that may have an entry in one of the lists: those whose primary list is it or one around it."""
    if not len(lists):
        return np.zeros(0, np.int64)
    c = engine.config
    heads = vectors(engine.tables, place, lists)
    near = choose_lists(
        engine, place, heads, cells=c.neighbours, candidates=c.candidates, copies=c.candidates, slack=None
    )
    around = np.zeros(len(engine.tables.list_count) + 1, bool)
    around[near[near != NOWHERE]] = True
    around[lists] = True
    live = engine.live()
    return np.asarray(live[around[np.minimum(engine.primary_of(live), len(around) - 1)]], np.int64)


def _join(parts: list[Entries]) -> Entries:
    return Entries(
        np.concatenate([e.packed for e in parts]),
        np.concatenate([e.add for e in parts]),
        np.concatenate([e.scale for e in parts]),
        np.concatenate([e.slots for e in parts]),
    )
