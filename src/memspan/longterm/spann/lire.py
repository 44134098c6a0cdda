"""LIRE (SPFresh, SOSP 2023, §3): splits, reassignment and merges that keep every row in the list of its nearest head.

Slots are immutable and a changed row gets a new one, so that the bitmap of deleted slots does what SPFresh's version
map does. An entry holds its residual to the head of its own list, so that a copy left behind by a reassignment stays
true: it costs a place in its list until `compact`, never a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import reference
from .clustering import balanced_kmeans, leaves, nearest_centre
from .config import SpannConfig
from .effort import Slots
from .heads import NOWHERE, Lanes, cell_of, in_cell
from .regroup import data_points, head_strays, regroup, squares
from .space import Floats
from .workspace import Workspace

Numbers = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

ROUNDS = 8  # of splits that a flush makes at most; what is too long then waits for the next
BATCH = 32  # lists split at a time
FULL = 2.5  # leaves, as rows of which it is the primary list, after which one is split; few lists of a build have more
NEAR = 64  # lists around a new head whose rows are looked at (SPFresh, ReassignK)
SMALL = 10  # live rows of a list up to which it is merged into its neighbours (SPFresh, MergeThreshold)


@dataclass
class Moves:
    """What a flush did.

    Attributes:
        splits, merges: lists.
        scanned: rows at the borders of split lists that were looked at.
        moved: those of them that were placed again.
        regrouped: rows of cells that were clustered anew.
    """

    splits: int = 0
    merges: int = 0
    scanned: int = 0
    moved: int = 0
    regrouped: int = 0


@dataclass
class _Split:
    """One list and what it becomes."""

    number: int
    cell: int
    slots: Slots
    x: Floats
    own: npt.NDArray[np.bool_]
    heads: Floats
    lists: U32


def settle(work: Workspace, new: Slots, gone: Numbers, far: float, moves: Moves) -> None:
    """Writes what waits, then splits, reassigns and merges until every list is within its bounds.

    Args:
        work: the lists.
        new, gone: slots added and deleted since the checkpoint.
        far: squared distance to its nearest head from which on a new row is far from what the index was made of.
        moves: counted up.
    """
    stuck: set[int] = set()
    if work.config.reassign:
        head_strays(work, new, far)
    _merge_small(work, gone, moves)
    if work.config.reassign:
        moves.regrouped += regroup(work, new)
    for _ in range(ROUNDS):
        over = [int(i) for i in _over(work) if int(i) not in stuck]
        if not over:
            break
        again: list[Slots] = []
        for at in range(0, len(over), BATCH):
            _split(work, over[at : at + BATCH], stuck, again, moves)
            work.rewrite_if_many()
        work.put_again(np.concatenate([np.zeros(0, np.uint32), *again]))
    work.rewrite()
    _split_cells(work)


def _over(work: Workspace) -> Numbers:
    """The lists changed since the checkpoint that are too long, or the primary ones of too many rows."""
    held = np.bincount(work.primary[work.live()], minlength=len(work.tables.list_count))
    over = (work.lengths() > work.config.limit) | (held > FULL * work.config.leaf)
    return np.flatnonzero(over & work.touched())


def _split(work: Workspace, numbers: list[int], stuck: set[int], again: list[Slots], moves: Moves) -> None:
    """Splits lists."""
    t, config = work.tables, work.config
    old_heads = work.heads(np.array(numbers))
    cells = cell_of(t, work.place, np.array(numbers))
    splits: list[_Split] = []
    before: list[Floats] = []
    for number, cell, old in zip(numbers, cells, old_heads, strict=True):
        slots = work.members(number)
        own = work.primary[slots] == number
        x = work.vectors(slots)
        points = _points(x, own, config) if own.sum() > FULL * config.leaf else None
        if points is None:
            stuck.add(number)
            if len(slots) > config.limit and not own.all():
                work.drop_list(number)
                work.write_list(number, slots, x, old)
            continue
        heads = Lanes.encode(x[points], np.zeros(len(points), np.uint32)).decoded()
        splits.append(_Split(number, int(cell), slots, x, own, heads, np.zeros(0, np.uint32)))
        before.append(old)
    if not splits:
        return
    moves.splits += len(splits)
    for s in splits:
        # The first part keeps the number.
        s.lists = np.concatenate([np.array([s.number], np.uint32), work.new_lists(len(s.heads) - 1)])
    _change_heads(work, splits)
    parts = [_part(work, s, old) for s, old in zip(splits, before, strict=True)]
    extra: dict[int, list[Slots]] = {}
    if config.reassign:
        _take_in(work, splits, before, extra, moves)
        for s, (_, far) in zip(splits, parts, strict=True):
            moves.scanned += len(far)
            moves.moved += int(far.sum())
            again.append(s.slots[s.own])
    taken: list[Slots] = []
    lists: list[U32] = []
    for s, (members, _) in zip(splits, parts, strict=True):
        work.drop_list(s.number)
        for number, which in zip(s.lists, members, strict=True):
            taken.append(np.unique(np.concatenate([s.slots[which], *extra.get(int(number), [])])))
            lists.append(np.full(len(taken[-1]), number, np.uint32))
    whole, back = np.unique(np.concatenate(taken), return_inverse=True)
    work.append(whole[back], np.concatenate(lists), work.vectors(whole), back)


def _points(x: Floats, own: npt.NDArray[np.bool_], config: SpannConfig) -> Numbers | None:
    """The rows that become heads: those nearest to the means of leaves, as when the index was built. None where the
    rows cannot be parted, or are so few that cutting copies does."""
    rows = np.flatnonzero(own)
    if len(rows) < config.leaf:
        return None
    parts = leaves(x[rows], min(config.leaf, len(rows) // 2), config.branching, config.seed)
    points = rows[data_points(x[rows], parts)]
    return points if len(points) > 1 else None


def _change_heads(work: Workspace, splits: list[_Split]) -> None:
    """Old heads leave, new ones enter the cells that are nearest to them."""
    gone = np.array([s.number for s in splits])
    heads = Lanes.encode(np.concatenate([s.heads for s in splits]), np.concatenate([s.lists for s in splits]))
    centres = Lanes.unpack(work.tables.cells, np.zeros(0, np.uint32)).decoded()
    near = nearest_centre(heads.decoded(), centres)
    changed: dict[int, Lanes] = {}
    for cell in np.unique(np.concatenate([near, [s.cell for s in splits]])).tolist():
        lanes = in_cell(work.tables, cell)
        changed[cell] = lanes.take(~np.isin(lanes.lists, gone)).join(heads.take(near == cell))
    work.change(changed)


def _part(work: Workspace, s: _Split, old: Floats) -> tuple[list[npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]:
    """Which of the entries go to each new list; and which of the own rows were nearer to the old head (condition i).

    The new heads are those in 8 bits, as everywhere.
    """
    s.heads = work.heads(s.lists)
    x = s.x
    d = squares(x, s.heads)
    nearest = d.argmin(1)
    at = np.flatnonzero(s.own)
    none = np.full(len(x), -1, np.int32)
    chosen = reference.assign(
        d, np.ascontiguousarray(s.heads), len(s.lists), work.config.copies, work.config.closure**2, none
    )
    members = [(chosen == j).any(1) for j in range(len(s.lists))]
    work.primary[s.slots[at]] = s.lists[nearest[at]]
    return members, ((x[at] - old) ** 2).sum(1) < d[at, nearest[at]]


def _take_in(
    work: Workspace, splits: list[_Split], before: list[Floats], extra: dict[int, list[Slots]], moves: Moves
) -> None:
    """Rows of the lists around a split one that are nearer to a new head than to the old one and to their own."""
    ends = np.cumsum([len(s.lists) for s in splits])
    near = work.near(np.concatenate([s.heads for s in splits]), NEAR)
    fresh = np.concatenate([s.lists for s in splits])
    around = np.setdiff1d(np.unique(near[near != NOWHERE]), fresh).astype(np.uint32)
    known = np.zeros(len(work.tables.list_count), bool)
    known[around] = True
    slots = np.flatnonzero(known[work.primary]).astype(np.uint32)
    slots = slots[work.alive(slots)]
    if not len(slots):
        return
    x = work.vectors(slots)
    own = work.primary[slots].copy()
    best = ((x - work.heads(own)) ** 2).sum(1)
    order = own.argsort(kind="stable")
    first = np.searchsorted(own[order], np.arange(len(known) + 1))
    for s, old, end in zip(splits, before, ends, strict=True):
        lists = np.unique(near[end - len(s.lists) : end])
        lists = lists[lists != NOWHERE]
        some = order[np.concatenate([np.arange(first[i], first[i + 1]) for i in lists])]
        d = squares(x[some], s.heads)
        column = d.argmin(1)
        nearest = d[np.arange(len(some)), column]
        moves.scanned += len(some)
        which = (nearest < ((x[some] - old) ** 2).sum(1)) & (nearest < best[some])
        rows = some[which]
        best[rows] = nearest[which]
        work.primary[slots[rows]] = s.lists[column[which]]
        moves.moved += len(rows)
        for j, number in enumerate(s.lists):
            extra.setdefault(int(number), []).append(slots[rows[column[which] == j]])


def _merge_small(work: Workspace, gone: Numbers, moves: Moves) -> None:
    """Lists that deletes left with few rows: their rows are placed again, their heads go."""
    if not len(gone):
        return
    heads = int((work.place != NOWHERE).sum())
    candidates = np.unique(work.primary[gone])
    small: list[int] = []
    rows: list[Slots] = []
    for number in candidates:
        if work.place[number] == NOWHERE or heads - len(small) < 2:
            continue
        if int(work.tables.list_count[number]) > 64 * SMALL:
            continue
        slots = work.members(int(number))
        if len(slots) <= SMALL:
            small.append(int(number))
            rows.append(slots[work.primary[slots] == number])
    if not small:
        return
    moves.merges += len(small)
    numbers = np.array(small)
    changed: dict[int, Lanes] = {}
    for cell, number in zip(cell_of(work.tables, work.place, numbers), small, strict=True):
        lanes = changed.get(int(cell)) or in_cell(work.tables, int(cell))
        changed[int(cell)] = lanes.take(lanes.lists != number)
        work.drop_list(number)
    work.change(changed)
    work.put_again(np.concatenate(rows))


def _split_cells(work: Workspace) -> None:
    """Cells that hold over twice their share of rows are parted, so that the heads of near cells stay few."""
    for _ in range(ROUNDS):
        t = work.tables
        rows = np.bincount(work.primary[work.live()], minlength=len(t.list_count))
        full = np.isfinite(t.heads.norm)
        block = np.where(full, rows[t.head_list], 0).sum(1)
        held = np.add.reduceat(block, t.cell_start[:-1])
        over = np.flatnonzero(held > 2 * work.config.cell)
        if not sum(_split_cell(work, int(cell)) for cell in over):
            break


def _split_cell(work: Workspace, cell: int) -> bool:
    """Parts a cell's heads in two, the second half in a new cell at the end. False when they cannot be parted."""
    lanes = in_cell(work.tables, cell)
    if len(lanes.norm) < 2:
        return False
    _, label = balanced_kmeans(lanes.decoded(), 2, work.config.seed)
    if label.min() == label.max():
        return False
    new = len(work.tables.cell_start) - 1
    if work.cover is not None:
        work.cover[cell, [0, 2]] /= 2
    work.change({cell: lanes.take(label == 0), new: lanes.take(label == 1)})
    if work.cover is not None:
        work.cover[new] = work.cover[cell]
    return True
