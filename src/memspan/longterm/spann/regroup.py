"""Cells clustered anew where rows came that their heads do not cover.

A split parts the rows of one list. Rows from elsewhere fall, each by each, into the lists of many old heads at the
border of where they are: none of these lists need grow long, and whichever is split makes heads of a fragment. So each
cell keeps account of by how much its new rows are farther from their heads than its rows used to be, and once that is
much its rows are clustered together, as when the index was built.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import reference
from .clustering import leaves, nearest_centre
from .effort import Slots
from .heads import NOWHERE, Lanes, cell_of, in_cell
from .space import Floats
from .workspace import Workspace

Numbers = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

EXCESS = 0.02  # of the squared distances of a cell's rows to their heads, by which they grew, after which it is due
GROWN = 1.1  # times the rows it had, that a cell must have: so each new row costs few that are clustered again
SAMPLE = 64  # rows of a cell by which these distances are measured
PIECE = 4096  # rows in memory at a time
ROWS, MEAN, OVER = 0, 1, 2  # columns of `Workspace.cover`: rows, mean squared distance to heads, excess since


def data_points(x: Floats, parts: list[Numbers]) -> Numbers:
    """The rows nearest to the means of parts; rows that 8 bits cannot tell apart once."""
    points = np.array([p[((x[p] - x[p].mean(0)) ** 2).sum(1).argmin()] for p in parts])
    coded = Lanes.encode(x[points], points).decoded()
    first = {row.tobytes(): i for i, row in reversed(list(enumerate(coded)))}
    return np.asarray(points[sorted(first.values())], np.int64)


def head_strays(work: Workspace, new: Slots, far: float) -> None:
    """Gives heads of their own to new rows that are far from all heads, as in a build: no split of the lists that they
    fell into would make a good one, and 4 bits say little of a residual that large."""
    config = work.config
    new = new[work.alive(new)]
    new = new[_distances(work, new) > far]
    if not len(new):
        return
    x = work.vectors(new)
    assert work.engine.pending is not None
    work.engine.pending = work.engine.pending.copy_without(new)
    changed: dict[int, Lanes] = {}
    t = work.tables
    cells = len(t.cell_start) - 1
    near = nearest_centre(x, Lanes.unpack(t.cells, np.zeros(0, np.uint32)).decoded())
    for part in leaves(x, config.cell, config.branching, config.seed):
        points = data_points(x[part], leaves(x[part], config.leaf, config.branching, config.seed))
        heads = Lanes.encode(x[part][points], work.new_lists(len(points)))
        if 8 * len(part) >= config.cell:
            changed[max(cells, max(changed, default=0) + 1)] = heads
            continue
        for cell in np.unique(near[part[points]]):
            here = changed.get(int(cell)) or in_cell(t, int(cell))
            changed[int(cell)] = here.join(heads.take(near[part[points]] == cell))
    work.change(changed)
    work.put_again(new)


def _distances(work: Workspace, slots: npt.NDArray[np.generic]) -> Floats:
    """Squared distances of rows to their primary heads."""
    out = np.zeros(len(slots), np.float32)
    for at in range(0, len(slots), PIECE):
        part = slots[at : at + PIECE]
        away = work.vectors(part) - work.heads(work.primary[part])
        out[at : at + PIECE] = np.einsum("nd,nd->n", away, away)
    return out


def regroup(work: Workspace, new: Slots) -> int:
    """Clusters the cells anew that new rows fell into without being near their heads; the rows of these cells."""
    live = work.live()
    cell = np.full(len(work.primary), -1, np.int64)
    cell[live] = cell_of(work.tables, work.place, work.primary[live])
    new = new[work.alive(new)]
    _measure(work, live[: np.searchsorted(live, new[0])] if len(new) else live, cell)
    if not len(new):
        return 0
    assert work.cover is not None
    excess = _distances(work, new) - work.cover[cell[new], MEAN]
    work.cover[:, OVER] += np.bincount(cell[new], excess, len(work.cover)).astype(np.float32)
    held = np.bincount(cell[live], minlength=len(work.cover))
    grown = held > GROWN * work.cover[:, ROWS]
    due = np.flatnonzero(grown & (work.cover[:, OVER] > EXCESS * work.cover[:, ROWS] * work.cover[:, MEAN]))
    if not len(due):
        return 0
    chosen = np.zeros(len(work.cover), bool)
    chosen[due] = True
    mine = live[chosen[cell[live]]].astype(np.uint32)
    old = np.concatenate([in_cell(work.tables, int(c)).lists for c in due])
    copied = [work.slots_in(in_cell(work.tables, int(c)).lists) for c in due]
    for number in old.tolist():
        work.drop_list(number)
    work.place[old] = NOWHERE
    changed: dict[int, Lanes] = {}
    made: list[U32] = []
    order = cell[mine].argsort(kind="stable")
    ranked = cell[mine][order]
    for c in due.tolist():
        rows = mine[order[np.searchsorted(ranked, c) : np.searchsorted(ranked, c, side="right")]]
        first, *others_of = _clustered(work, work.vectors(rows)) or [in_cell(work.tables, c).take(np.zeros(0, int))]
        made.append(np.concatenate([lanes.lists for lanes in (first, *others_of)]))
        changed[c] = first
        behind = max(len(work.cover), max(changed) + 1)
        changed |= {behind + i: lanes for i, lanes in enumerate(others_of)}
    work.change(changed)
    work.put_again(mine)
    for lists, (slots, count) in zip(made, copied, strict=True):
        foreign = ~chosen[cell[slots]]
        _copy(work, slots[foreign], count[foreign], lists)
    live = work.live()
    cell[live] = cell_of(work.tables, work.place, work.primary[live])
    assert work.cover is not None
    work.cover[due] = np.nan
    _measure(work, live, cell)
    return len(mine)


def _copy(work: Workspace, slots: Slots, count: Numbers, lists: U32) -> None:
    """Puts rows of other cells, which had copies in a cell's old lists, into its new ones by the closure rule, as far
    as their primary list tells, and into no more than before; a row that is nearer to a new head than to its own
    moves."""
    heads = work.heads(lists)
    for at in range(0, len(slots), PIECE if len(lists) else 1):
        part = slots[at : at + PIECE]
        x, own = work.vectors(part), work.heads(work.primary[part])
        away = ((x - own) ** 2).sum(1)
        d = squares(x, heads)
        near = (d <= work.config.closure**2 * away[:, None]) & (squares(own, heads) > d)
        some = near.any(1)
        part, x, d, away = part[some], x[some], np.where(near, d, np.inf)[some], away[some]
        if not len(part):
            continue
        chosen = reference.assign(
            d,
            heads,
            work.config.candidates,
            work.config.copies,
            work.config.closure**2,
            np.full(len(part), -1, np.int32),
        )
        taken = (chosen >= 0) & np.isfinite(np.take_along_axis(d, np.maximum(chosen, 0), 1))
        taken &= np.arange(taken.shape[1]) < count[at : at + PIECE][some][:, None]
        moves = taken[:, 0] & (d.min(1) < away)
        work.primary[part[moves]] = lists[chosen[moves, 0]]
        row, column = np.nonzero(taken)
        work.append(part[row], lists[chosen[row, column]], x, row)
        work.rewrite_if_many()


def squares(x: Floats, heads: Floats) -> Floats:
    """Squared distances [n, k] of vectors [n, d] to heads [k, d]."""
    d = x @ (heads.T * np.float32(-2))
    d += np.einsum("nd,nd->n", x, x)[:, None] + np.einsum("kd,kd->k", heads, heads)
    return np.asarray(d, np.float32)


def _clustered(work: Workspace, x: Floats) -> list[Lanes]:
    """New heads for the rows x [n, d] of a cell, in as many cells as they fill."""
    config, out = work.config, []
    whole = len(x) < 2 * config.cell
    for part in [np.arange(len(x))] if whole else leaves(x, config.cell, config.branching, config.seed):
        points = data_points(x[part], leaves(x[part], config.leaf, config.branching, config.seed))
        out.append(Lanes.encode(x[part][points], work.new_lists(len(points))))
    return out


def _measure(work: Workspace, slots: Numbers, cell: Numbers) -> None:
    """Notes the rows of cells of which nothing is known, and their distances to their heads, by a sample."""
    count = len(work.tables.cell_start) - 1
    if work.cover is None:
        work.cover = np.full((count, 3), np.nan, np.float32)
    unknown = np.isnan(work.cover[:, ROWS])
    if not unknown.any():
        return
    slots = slots[unknown[cell[slots]]]
    order = cell[slots].argsort(kind="stable")
    rows = np.bincount(cell[slots], minlength=count)
    rank = np.arange(len(slots)) - np.repeat(np.cumsum(rows) - rows, rows)
    step = np.maximum(1, np.repeat(rows, rows) // SAMPLE)
    some = slots[order[rank % step == 0]]
    total = np.bincount(cell[some], _distances(work, some), count)
    taken = np.maximum(np.bincount(cell[some], minlength=count), 1)
    work.cover[unknown] = np.stack([rows, total / taken, np.zeros(count)], axis=1)[unknown]
