"""mallocGame: one decision for each use of a buffer, in the order of the program; a plain game object.

A *program* is a `Problem` whose buffers have uses; the times of uses are its instructions. Fast memory has
`fast_bytes`, slow memory all that is needed, and `bandwidth` bytes come from slow to fast in one unit of time. The
environment finds the address, the lowest that is free, and knows what is legal; the player decides what is kept.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError
from memspan.planner.allocator.problem import Buffer, PlacementError, Problem, lowest_offset


class Action(IntEnum):
    """What can be done at a use.

    DROP: it is served from slow memory. NO_COPY: the buffer is made in fast memory, or stays there since its use
    before. COPY: it is brought from slow memory, by a transfer that ends before the use.
    """

    DROP = 0
    NO_COPY = 1
    COPY = 2


@dataclass(frozen=True, slots=True)
class Stay:
    """A stretch of time that a buffer spends in fast memory.

    Attributes:
        buffer: its number.
        first, last: moments from the first to the last, inclusive. Instruction i is the moment 2 i, and what lies
            between it and the next, in which transfers run, 2 i + 1.
        offset: its address, in bytes.
    """

    buffer: int
    first: int
    last: int
    offset: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision: the `use`-th use of a buffer, at an instruction; `reward` is the time that fast memory saves."""

    buffer: int
    use: int
    instruction: int
    reward: float


class Program:
    """What does not change in a game.

    Args:
        problem: the buffers; one without uses is used at its first and its last time, one without benefit is worth its
            bytes at each use. A benefit is shared out over the uses.
        fast_bytes: size of fast memory.
        bandwidth: bytes a unit of time from slow to fast memory.

    Raises:
        InputError: no byte of fast memory, or a negative bandwidth.
    """

    def __init__(self, problem: Problem, fast_bytes: int, bandwidth: float = math.inf) -> None:
        if fast_bytes < 1:
            raise InputError(f"fast memory has {fast_bytes} bytes; it needs at least one")
        if not bandwidth >= 0:
            raise InputError(f"the bandwidth is {bandwidth}; it must be a number from 0")
        self.problem, self.fast_bytes, self.bandwidth = problem, int(fast_bytes), float(bandwidth)
        self.uses = [_uses(buffer) for buffer in problem.buffers]
        self.times = sorted({when for uses in self.uses for when in uses})
        self.cells = [[bisect_left(self.times, when) for when in uses] for uses in self.uses]
        self.worth = [
            (buffer.benefit or float(buffer.size * len(uses))) / len(uses)
            for buffer, uses in zip(problem.buffers, self.uses, strict=True)
        ]
        turns = [Turn(i, k, cell, self.worth[i]) for i, cells in enumerate(self.cells) for k, cell in enumerate(cells)]
        self.turns = sorted(turns, key=lambda turn: (turn.instruction, turn.use == 0, turn.buffer))
        self.room = [self.bandwidth * (b - a) for a, b in zip(self.times, self.times[1:], strict=False)]
        self.total = sum(turn.reward for turn in self.turns)

    def group(self, buffer: int) -> str:
        """Name of what shares one placement with a buffer, "" where it stands alone."""
        return self.problem.buffers[buffer].alias


def _uses(buffer: Buffer) -> tuple[int, ...]:
    return buffer.uses or tuple(dict.fromkeys((buffer.lower, buffer.upper - 1)))


class MallocGame:
    """A game on a program: `legal_actions()`, `step(action)`, `clone()`, until `over`.

    Buffers of one alias group are all served from fast memory at one address, or none is. Where a later member cannot
    follow what an earlier one decided, the game goes back to the group's first decision, drops the whole group and goes
    on from there (*drop-backup*). A group is dropped so at most once, so that every game ends.

    Attributes:
        turn: how many decisions stand.
        benefit: sum of the rewards of those.
        backups: how often the game went back.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.turn = self.backups = 0
        self.benefit = 0.0
        self.stays: list[Stay] = []
        self.room = list(self.program.room)
        self.actions: list[int] = []
        self._current: dict[int, int] = {}  # buffer -> its stay that ends at its latest use
        self._address: dict[str, int] = {}  # alias group -> its address, -1 when it is dropped
        self._saved: dict[str, MallocGame] = {}  # alias group -> the game before its first decision
        self._forced: frozenset[str] = frozenset()
        self._known: dict[Action, Stay | int] | None = None

    def clone(self) -> MallocGame:
        """A game that goes on by itself from here."""
        other = object.__new__(MallocGame)
        other.program, other.turn, other.backups, other.benefit = self.program, self.turn, self.backups, self.benefit
        other.stays, other.room, other.actions = list(self.stays), list(self.room), list(self.actions)
        other._current, other._address = dict(self._current), dict(self._address)
        other._saved, other._forced, other._known = dict(self._saved), self._forced, self._known
        return other

    @property
    def over(self) -> bool:
        """Whether nothing is left to decide."""
        return self.turn == len(self.program.turns)

    @property
    def present(self) -> Turn:
        """What is to be decided."""
        return self.program.turns[self.turn]

    def legal_actions(self) -> list[Action]:
        """What may be done now; at least one where the game is not over."""
        return list(self._options())

    def step(self, action: Action | int) -> float:
        """Decide; returns by how much the benefit changed, which is negative where the game had to go back.

        Raises:
            InputError: the action is not legal now.
        """
        before = self.benefit
        options = self._options()
        if action not in options:
            raise InputError(f"{Action(action).name} is not legal at turn {self.turn}")
        self._apply(Action(action), options[Action(action)])
        while not self.over and not self._options():
            self._go_back(self.program.group(self.present.buffer))
        return self.benefit - before

    # --- inside ------------------------------------------------------------------------------------------------------

    def _options(self) -> dict[Action, Stay | int]:
        """What each legal action does now; found out once a turn."""
        if self._known is None:
            tried = {action: self._try(action) for action in Action} if not self.over else {}
            self._known = {action: done for action, done in tried.items() if done is not None}
        return self._known

    def _try(self, action: Action) -> Stay | int | None:
        """The stay that an action makes, -1 for none, or None where the action is not legal."""
        turn, program = self.present, self.program
        buffer = program.problem.buffers[turn.buffer]
        bound = self._address.get(buffer.alias) if buffer.alias else None
        if action == Action.DROP:
            return None if bound is not None and bound >= 0 else -1
        if bound == -1 or buffer.alias in self._forced or buffer.size > program.fast_bytes:
            return None
        made = turn.use == 0 and buffer.kind != "input"
        here = 2 * turn.instruction
        if action == Action.NO_COPY and turn.use:
            number = self._current.get(turn.buffer)
            if number is None:
                return None
            stay = self.stays[number]
            free = self._is_free(turn.buffer, stay.last + 1, here, stay.offset)
            return replace(stay, last=here) if free else None
        if made != (action == Action.NO_COPY):
            return None
        first = here
        if not made:
            begun = transfer(self.room, buffer.size, turn.instruction)
            if begun is None or (turn.use and begun < program.cells[turn.buffer][turn.use - 1]):
                return None
            first = 2 * begun + 1
        if bound is not None:
            return Stay(turn.buffer, first, here, bound) if self._is_free(turn.buffer, first, here, bound) else None
        # First where it can stay to its last use and no other has to leave before its own; else wherever it fits now.
        for last, waiting in ((2 * program.cells[turn.buffer][-1], True), (here, False)):
            taken = sorted(self._taken(turn.buffer, first, last, waiting=waiting))
            offset = lowest_offset(buffer.size, buffer.alignment, taken)
            if offset + buffer.size <= program.fast_bytes:
                return Stay(turn.buffer, first, here, offset)
        return None

    def _apply(self, action: Action, done: Stay | int) -> None:
        turn, program = self.present, self.program
        group = program.group(turn.buffer)
        if group and group not in self._address:
            self._saved[group] = self.clone()
            self._address[group] = done.offset if isinstance(done, Stay) else -1
        if isinstance(done, Stay):
            if action == Action.COPY:
                transfer(self.room, program.problem.buffers[turn.buffer].size, turn.instruction, spend=True)
            if action == Action.NO_COPY and turn.use:
                self.stays[self._current[turn.buffer]] = done
            else:
                self._current[turn.buffer] = len(self.stays)
                self.stays.append(done)
            self.benefit += turn.reward
        else:
            self._current.pop(turn.buffer, None)
        self.actions.append(int(action))
        self.turn += 1
        self._known = None

    def _go_back(self, group: str) -> None:
        saved, forced, backups = self._saved[group], self._forced | {group}, self.backups + 1
        state = saved.clone()
        self.turn, self.benefit, self.stays, self.room = state.turn, state.benefit, state.stays, state.room
        self.actions, self._current, self._address = state.actions, state._current, state._address
        self._saved, self._forced, self.backups = state._saved, forced, backups
        self._apply(Action.DROP, -1)

    def _taken(self, buffer: int, first: int, last: int, *, waiting: bool = False) -> list[tuple[int, int]]:
        """What is held of the address space between two moments; a group does not stand in its own way.

        `waiting`: what is there and has uses to come counts as there until its last.
        """
        buffers, cells = self.program.problem.buffers, self.program.cells
        group = buffers[buffer].alias
        found = []
        for number, stay in enumerate(self.stays):
            end = stay.last
            if waiting and self._current.get(stay.buffer) == number:
                end = 2 * cells[stay.buffer][-1]
            if stay.first <= last and first <= end and not (group and buffers[stay.buffer].alias == group):
                found.append((stay.offset, stay.offset + buffers[stay.buffer].size))
        return found

    def _is_free(self, buffer: int, first: int, last: int, offset: int) -> bool:
        end = offset + self.program.problem.buffers[buffer].size
        if end > self.program.fast_bytes or offset % self.program.problem.buffers[buffer].alignment:
            return False
        return all(end <= low or high <= offset for low, high in self._taken(buffer, first, last))

    def observe(self, rows: int = 32, columns: int = 64) -> npt.NDArray[np.float32]:
        """What an agent sees: occupancy of address x time [rows * columns], then facts on this use and the next three.

        Time is what lies around the present instruction; a cell is the part of it that is held.
        """
        program, grid = self.program, np.zeros((rows, columns), np.float32)
        facts = np.zeros(4 * 6 + 2, np.float32)
        if self.over:
            return np.concatenate([grid.ravel(), facts])
        now = self.present.instruction
        begin = 2 * now - columns // 2
        for stay in self.stays:
            a, b = max(stay.first - begin, 0), min(stay.last - begin + 1, columns)
            if a < b:
                low = stay.offset / program.fast_bytes * rows
                high = low + program.problem.buffers[stay.buffer].size / program.fast_bytes * rows
                edges = np.arange(rows)
                part = np.clip(np.minimum(edges + 1, high) - np.maximum(edges, low), 0, 1)
                grid[:, a:b] += part[:, None].astype(np.float32)
        best = max(program.worth)
        for i, turn in enumerate(program.turns[self.turn : self.turn + 4]):
            buffer, cells = program.problem.buffers[turn.buffer], program.cells[turn.buffer]
            facts[6 * i : 6 * i + 6] = (
                buffer.size / program.fast_bytes,
                (cells[-1] - turn.instruction) / len(program.times),
                turn.reward / best,
                float(turn.buffer in self._current),
                float(self._address.get(buffer.alias, -2) >= 0) if buffer.alias else -1.0,
                (len(cells) - turn.use) / max(len(c) for c in program.cells),
            )
        free = sum(self.room[max(0, now - 4) : now])
        facts[-2:] = (self.turn / len(program.turns), min(1.0, free / program.fast_bytes))
        return np.concatenate([np.minimum(grid, 1.0).ravel(), facts])


def transfer(room: list[float], size: float, before: int, earliest: int = 0, *, spend: bool = False) -> int | None:
    """The latest instruction after which a transfer may begin that ends before another, or None.

    Args:
        room: bytes that can still be moved after each instruction; with `spend` what is moved is taken off.
        size: bytes to move.
        before: instruction before which the transfer ends.
        earliest: first instruction after which it may begin.
        spend: move them.
    """
    need = float(size)
    for gap in range(before - 1, earliest - 1, -1):
        part = min(need, room[gap])
        if spend:
            room[gap] -= part if math.isfinite(room[gap]) else 0.0
        need -= part
        if need <= 0:
            return gap
    return None


def check_stays(program: Program, stays: Sequence[Stay]) -> float:
    """The benefit of a mapping, independent of the game: which uses lie in a stay, and whether all is in order.

    Transfers are fitted in again in the order of their uses, each as late as possible.

    Raises:
        PlacementError: two stays hold the same byte at one time, one is out of range, an alias group is torn or at two
            addresses, or the bandwidth does not suffice.
    """
    buffers = program.problem.buffers
    for n, one in enumerate(stays):
        size = buffers[one.buffer].size
        if one.offset < 0 or one.offset + size > program.fast_bytes or one.offset % buffers[one.buffer].alignment:
            raise PlacementError(f"buffer {buffers[one.buffer].id} lies at {one.offset}, out of range or not aligned")
        for other in stays[:n]:
            same = buffers[one.buffer].alias and buffers[one.buffer].alias == buffers[other.buffer].alias
            apart = one.last < other.first or other.last < one.first
            end = other.offset + buffers[other.buffer].size
            if not same and not apart and one.offset < end and other.offset < one.offset + size:
                raise PlacementError(f"{buffers[one.buffer].id} and {buffers[other.buffer].id} overlap")
    room = list(program.room)
    benefit = 0.0
    served: dict[int, int] = {}
    for turn in program.turns:
        here = 2 * turn.instruction
        stay = next((s for s in stays if s.buffer == turn.buffer and s.first <= here <= s.last), None)
        if stay is None:
            continue
        benefit += turn.reward
        served[turn.buffer] = served.get(turn.buffer, 0) + 1
        before = 2 * program.cells[turn.buffer][turn.use - 1] if turn.use else -1
        made = turn.use == 0 and buffers[turn.buffer].kind != "input"
        if made or stay.first <= before:
            continue
        size = buffers[turn.buffer].size
        if transfer(room, size, turn.instruction, stay.first // 2, spend=True) is None:
            raise PlacementError(f"there is no bandwidth to bring buffer {buffers[turn.buffer].id} for a use")
    for group in {buffer.alias for buffer in buffers if buffer.alias}:
        members = [i for i, buffer in enumerate(buffers) if buffer.alias == group]
        counts = [served.get(i, 0) for i in members]
        if any(counts) and counts != [len(program.uses[i]) for i in members]:
            raise PlacementError(f"the alias group {group} is served from both memories")
        if len({stay.offset for stay in stays if stay.buffer in members}) > 1:
            raise PlacementError(f"the alias group {group} lies at two addresses")
    return benefit
