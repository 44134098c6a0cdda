"""Local search on a finished mapping: what is not served is forced in, what stood in its way goes, gaps are filled.

A *unit* is what is placed as a whole: a run of successive uses of one buffer, or all of an alias group. A round takes a
unit that is not served, tries every address at which it touches another or an end, drops the units that it overlaps
there where they are worth least, and fills what became free, densest first (an ejection chain of length one; the fill
is that of `mapping.fill`, in a disturbed order). Rounds that lose are taken back, but for small losses, the smaller the
later (Dueck and Scheuer 1990, threshold accepting). The game is not played any more; its rules are kept, since the
result goes through `check_stays` like every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from memspan.planner.allocator.problem import align
from memspan.training.mallocmuzero.game import Program, Stay, transfer

LOSS = 0.01
"""Part of the benefit that a round may lose at first."""
MOST = 2_000
"""Units that are considered, the densest."""
NOISE = 0.5  # of the logarithm of a density, when gaps are filled


@dataclass(frozen=True)
class Unit:
    """Stays that are placed together, at one address.

    Attributes:
        stays: at no address yet.
        uses: what they serve, (buffer, use).
        copies: transfers: place in the program's turns, instruction, first instruction after which it may run, bytes.
        size, alignment: of the address range.
        value: sum of the rewards.
    """

    stays: tuple[Stay, ...]
    uses: frozenset[tuple[int, int]]
    copies: tuple[tuple[int, int, int, float], ...]
    size: int
    alignment: int
    value: float

    @property
    def density(self) -> float:
        """Benefit for each byte and moment held."""
        return self.value / sum(self.size * (stay.last - stay.first + 1) for stay in self.stays)


def units_of(program: Program) -> list[Unit]:
    """All units that may be in fast memory by themselves."""
    buffers = program.problem.buffers
    turn_of = {(turn.buffer, turn.use): number for number, turn in enumerate(program.turns)}

    def unit(parts: Sequence[tuple[int, int, int]]) -> Unit | None:
        """Of the uses a to b of each buffer."""
        stays, copies = [], []
        for i, a, b in parts:
            stay = whole(program, i, a, b)
            if stay is None:
                return None
            stays.append(stay)
            if a or buffers[i].kind == "input":
                copies.append((turn_of[i, a], program.cells[i][a], stay.first // 2, float(buffers[i].size)))
        members = [i for i, _, _ in parts]
        size = max(buffers[i].size for i in members)
        if size > program.fast_bytes:
            return None
        return Unit(
            tuple(stays),
            frozenset((i, k) for i, a, b in parts for k in range(a, b + 1)),
            tuple(copies),
            size,
            math.lcm(*(buffers[i].alignment for i in members)),
            sum((b - a + 1) * program.worth[i] for i, a, b in parts),
        )

    found = []
    for group in groups_of(program):
        ends = [len(program.cells[i]) for i in group]
        runs = [[(i, 0, end - 1) for i, end in zip(group, ends, strict=True)]]
        if not buffers[group[0]].alias:
            runs = [[(group[0], a, b)] for a in range(ends[0]) for b in range(a, ends[0])]
        found += [one for parts in runs if (one := unit(parts)) is not None and one.value > 0]
    return sorted(found, key=lambda one: -one.density)[:MOST]


def groups_of(program: Program) -> list[list[int]]:
    """Buffers that are placed together: alias groups, and the others each alone."""
    found: dict[str, list[int]] = {}
    for i, buffer in enumerate(program.problem.buffers):
        found.setdefault(f"alias {buffer.alias}" if buffer.alias else f"buffer {i}", []).append(i)
    return list(found.values())


def whole(program: Program, buffer: int, a: int = 0, b: int = -1) -> Stay | None:
    """A buffer in fast memory from its use `a` to its use `b`, at no address yet; None where no transfer is in time."""
    cells = program.cells[buffer]
    first = 2 * cells[a]
    if a or program.problem.buffers[buffer].kind == "input":
        gap = transfer(program.room, program.problem.buffers[buffer].size, cells[a], cells[a - 1] if a else 0)
        if gap is None:
            return None
        first = 2 * gap + 1
    return Stay(buffer, first, 2 * cells[b], 0)


def best_gap(size: int, alignment: int, taken: Sequence[tuple[int, int]], capacity: int) -> int | None:
    """The aligned offset of the smallest gap between [start, end) of `taken`, ascending, that holds `size` bytes."""
    found: tuple[int, int] | None = None
    at = 0
    for start, end in [*taken, (capacity, capacity)]:
        offset = align(at, alignment)
        if start - offset >= size and (found is None or start - at < found[0]):
            found = (start - at, offset)
        at = max(at, end)
    return None if found is None else found[1]


class Improver:
    """A mapping that gets better.

    Args:
        program: what is mapped.
        stays: a legal mapping to begin with.
        seed: of the rounds' draws.

    Attributes:
        value: benefit of the present mapping.
    """

    def __init__(self, program: Program, stays: Sequence[Stay], seed: int = 0) -> None:
        self.program, self.units = program, units_of(program)
        self._chance = np.random.default_rng(seed)
        first = np.array([min(s.first for s in one.stays) for one in self.units])
        last = np.array([max(s.last for s in one.stays) for one in self.units])
        beside = (first[:, None] <= last) & (first <= last[:, None])
        for i, one in enumerate(self.units):
            if len(one.stays) > 1:  # a group is not there all the time
                for j in np.flatnonzero(beside[i]).tolist():
                    pairs = ((s, t) for s in one.stays for t in self.units[j].stays)
                    beside[i, j] = beside[j, i] = any(s.first <= t.last and t.first <= s.last for s, t in pairs)
        self._beside = [row.tobytes() for row in beside]
        serving: dict[tuple[int, int], set[int]] = {}
        for i, one in enumerate(self.units):
            for use in one.uses:
                serving.setdefault(use, set()).add(i)
        self._same = [set[int]().union(*(serving[use] for use in one.uses)) for one in self.units]
        self._density = np.array([one.density for one in self.units])
        # Values before addresses, so that what is known of the start is kept where its units are ours.
        known = {frozenset((s.buffer, s.first, s.last) for s in one.stays): i for i, one in enumerate(self.units)}
        grouped: dict[object, list[Stay]] = {}
        for number, stay in enumerate(stays):
            alias = program.group(stay.buffer)
            grouped.setdefault(alias or number, []).append(stay)
        self.chosen: dict[int, int] = {}  # unit -> address
        for members in grouped.values():
            which = known.get(frozenset((s.buffer, s.first, s.last) for s in members))
            if which is not None and self._may(which, members[0].offset):
                self.chosen[which] = members[0].offset
        self._fill(0.0)
        self.value = self._worth()

    def stays(self) -> list[Stay]:
        """The present mapping."""
        return [
            Stay(stay.buffer, stay.first, stay.last, offset)
            for i, offset in self.chosen.items()
            for stay in self.units[i].stays
        ]

    def improve(self, rounds: int, over: Callable[[], bool] = lambda: False) -> None:
        """So many rounds; at the end stands the best mapping that there was."""
        best, most = dict(self.chosen), self.value
        for number in range(rounds):
            if over():
                break
            before, value = dict(self.chosen), self.value
            if not self._force():
                continue
            self._fill(NOISE)
            self.value = self._worth()
            if self.value < value - LOSS * most * (1 - number / rounds) * self._chance.random():
                self.chosen, self.value = before, value
            elif self.value > most:
                best, most = dict(self.chosen), self.value
        self.chosen, self.value = best, most

    # --- inside ------------------------------------------------------------------------------------------------------

    def _worth(self) -> float:
        return sum(self.units[i].value for i in self.chosen)

    def _in_time(self, more: int) -> bool:
        """Whether the transfers of the chosen units and one more fit the bandwidth, as `check_stays` fits them in."""
        if not self.units[more].copies or math.isinf(self.program.bandwidth):
            return True
        room = list(self.program.room)
        copies = sorted(copy for i in (*self.chosen, more) for copy in self.units[i].copies)
        return all(transfer(room, size, before, begin, spend=True) is not None for _, before, begin, size in copies)

    def _may(self, i: int, offset: int) -> bool:
        one = self.units[i]
        return (
            offset % one.alignment == 0
            and offset + one.size <= self.program.fast_bytes
            and not any(
                j in self._same[i]
                or (self._beside[i][j] and at < offset + one.size and offset < at + self.units[j].size)
                for j, at in self.chosen.items()
            )
            and self._in_time(i)
        )

    def _fill(self, noise: float) -> None:
        keys = np.log(self._density) + self._chance.normal(0, noise or 1e-9, len(self.units))
        served = {use for i in self.chosen for use in self.units[i].uses}
        for i in np.argsort(-keys).tolist():
            one = self.units[i]
            if not served.isdisjoint(one.uses):
                continue
            taken = sorted((at, at + self.units[j].size) for j, at in self.chosen.items() if self._beside[i][j])
            offset = best_gap(one.size, one.alignment, taken, self.program.fast_bytes)
            if offset is not None and self._in_time(i):
                self.chosen[i] = offset
                served |= one.uses

    def _force(self) -> bool:
        """Put a unit in that is not served; whether one could be."""
        served = {use for i in self.chosen for use in self.units[i].uses}
        open_now = [i for i, one in enumerate(self.units) if not one.uses <= served]
        if not open_now:
            return False
        i = open_now[int(self._chance.integers(len(open_now)))]
        one = self.units[i]
        taken = [(at, at + self.units[j].size, j) for j, at in self.chosen.items() if self._beside[i][j]]
        places = {0, align(max(0, self.program.fast_bytes - one.size - one.alignment + 1), one.alignment)}
        places |= {align(end, one.alignment) for _, end, _ in taken}
        places |= {start - one.size for start, _, _ in taken if (start - one.size) % one.alignment == 0}
        best, going = math.inf, [-1]
        where = -1
        for offset in sorted(places):
            if not 0 <= offset <= self.program.fast_bytes - one.size:
                continue
            struck = [j for start, end, j in taken if start < offset + one.size and offset < end]
            lost = sum(self.units[j].value for j in struck) * (1 + 0.2 * self._chance.random())
            if lost < best:
                best, going, where = lost, struck, offset
        if where < 0:
            return False
        for j in [*going, *(j for j in self.chosen if j in self._same[i])]:
            self.chosen.pop(j, None)
        while not self._in_time(i):
            copying = [j for j in self.chosen if self.units[j].copies]
            if not copying:
                return True  # what was dropped is filled again
            self.chosen.pop(min(copying, key=lambda j: self.units[j].value * (1 + 0.5 * self._chance.random())))
        self.chosen[i] = where
        return True
