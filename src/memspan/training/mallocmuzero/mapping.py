"""What lives in fast memory, when and where: greedy, a bound, tree search, agent and local search in one call.

The benefit is a model (bytes that uses move, or what the problem says), not a run time that was measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memspan.core.errors import InputError, MissingExtraError
from memspan.planner.allocator.problem import PlacementError, Problem
from memspan.training.mallocmuzero.game import MallocGame, Program, Stay, check_stays
from memspan.training.mallocmuzero.improving import Improver, best_gap, groups_of, whole
from memspan.training.mallocmuzero.tree import TreeSearch

SOLVERS = ("greedy", "mcts", "muzero")


@dataclass(frozen=True)
class Mapping:
    """An answer.

    Attributes:
        program: what was asked.
        stays: what lies in fast memory, when, and at which address.
        solver: who found it.
        benefit: sum of the rewards of the uses that fast memory serves.
        bound: no mapping is worth more; infinite where that was not computed.
        seconds: wall time.
        notes: what the solver has to say.
    """

    program: Program
    stays: tuple[Stay, ...]
    solver: str
    benefit: float
    bound: float
    seconds: float
    notes: dict[str, Any]

    @property
    def height(self) -> int:
        """Bytes of fast memory that are used."""
        sizes = self.program.problem.buffers
        return max((stay.offset + sizes[stay.buffer].size for stay in self.stays), default=0)

    @property
    def proof(self) -> str:
        """ "optimal", or "bound 0.93": the benefit as a part of the bound; "" without one."""
        if not math.isfinite(self.bound):
            return ""
        return "optimal" if self.benefit >= self.bound * (1 - 1e-9) else f"bound {self.benefit / self.bound:.2f}"

    def check(self) -> None:
        """Return if the mapping is legal.

        Raises:
            PlacementError: it is not.
        """
        check_stays(self.program, self.stays)


def map_buffers(
    problem: Problem,
    fast_bytes: int,
    *,
    solver: str = "mcts",
    bandwidth: float = math.inf,
    simulations: int = 200,
    seconds: float = 60.0,
    seed: int = 0,
    bound: bool = False,
) -> Mapping:
    """Decide what lives in a fast memory of `fast_bytes`: the solver's mapping or the greedy one, the better improved.

    Args:
        problem: buffers, with `uses`, `benefit` and `alias` where there are any.
        solver: "greedy", "mcts" (tree search on the game itself) or "muzero" (a model learned by playing).
        bandwidth: bytes a unit of time from slow to fast memory.
        simulations: of the tree search; games that the agent plays; then rounds of the local search.
        seconds: wall time that it may take; an interruption ends it, and the best so far is returned.
        bound: compute what no mapping can exceed (needs scipy).

    Raises:
        InputError: an unknown solver or an unusable number.
        MissingExtraError: a package that is needed is not installed.
    """
    if solver not in SOLVERS:
        raise InputError(f"solver is {solver!r}; it must be one of {', '.join(SOLVERS)}")
    if simulations < 1:
        raise InputError(f"simulations is {simulations}; it must be at least 1")
    program = Program(problem, fast_bytes, bandwidth)
    begun = time.perf_counter()
    most = upper_bound(program) if bound else math.inf
    stays, benefit = greedy(program)
    name, notes = "greedy", {"greedy": benefit}

    def over() -> bool:
        return time.perf_counter() - begun > seconds

    if solver != "greedy":
        found = _play(program, solver, simulations, seed, over)
        notes[solver] = found.benefit
        notes["backups"] = found.backups
        for other, begun_from in ((found.stays, solver), (stays, "greedy")):
            full = fill(program, other)
            worth = check_stays(program, full)
            notes[f"{begun_from}, filled"] = worth
            if worth > benefit:
                stays, benefit, name = full, worth, begun_from if begun_from == solver else "greedy, filled"
        better = Improver(program, stays, seed)
        better.improve(simulations, over)
        notes["improved"] = better.value
        if better.value > benefit:
            stays, benefit, name = better.stays(), better.value, f"{name}, improved"
    mapping = Mapping(program, tuple(stays), name, benefit, most, time.perf_counter() - begun, notes)
    mapping.check()
    return mapping


def _play(program: Program, solver: str, simulations: int, seed: int, over: Callable[[], bool]) -> MallocGame:
    if solver == "mcts":
        search = TreeSearch(program, seed=seed)
        try:
            while search.played < simulations and not over():
                search.simulate()
        except KeyboardInterrupt:
            if search.best is None:
                raise
        return search.best or MallocGame(program)
    try:
        from memspan.training.mallocmuzero.agent import Agent
    except ImportError as error:
        raise MissingExtraError("torch, which the agent needs,", "pip install 'memspan[local]'") from error
    agent = Agent(program, seed=seed)
    try:
        while agent.played < simulations and not over():
            agent.play()
            agent.learn()
    except KeyboardInterrupt:
        if agent.best is None:
            raise
    return agent.best or MallocGame(program)


def greedy(program: Program) -> tuple[list[Stay], float]:
    """What a compiler does: whole lives in the order of benefit per byte and time, each at the best-fitting address."""
    buffers = program.problem.buffers

    def density(group: Sequence[int]) -> float:
        worth = sum(program.worth[i] * len(program.uses[i]) for i in group)
        return worth / sum(buffers[i].size * (program.cells[i][-1] - program.cells[i][0] + 1) for i in group)

    stays: list[Stay] = []
    for group in sorted(groups_of(program), key=lambda g: (-density(g), g)):
        added = [stay for i in group if (stay := whole(program, i)) is not None]
        if len(added) < len(group):
            continue
        taken = sorted(
            (other.offset, other.offset + buffers[other.buffer].size)
            for other in stays
            if any(other.first <= stay.last and stay.first <= other.last for stay in added)
        )
        size, alignment = max(buffers[i].size for i in group), math.lcm(*(buffers[i].alignment for i in group))
        offset = best_gap(size, alignment, taken, program.fast_bytes)
        if offset is None:
            continue
        placed = [replace(stay, offset=offset) for stay in added]
        if any(buffers[i].kind == "input" for i in group):
            try:
                check_stays(program, [*stays, *placed])
            except PlacementError:  # no bandwidth is left to bring them in time
                continue
        stays += placed
    return stays, check_stays(program, stays)


def fill(program: Program, stays: Sequence[Stay]) -> list[Stay]:
    """Add what still fits to a mapping: runs of uses of buffers that are not in fast memory then, densest first."""
    buffers = program.problem.buffers
    runs = []
    for i, buffer in enumerate(buffers):
        if buffer.alias:
            continue
        mine = [stay for stay in stays if stay.buffer == i]
        cells = program.cells[i]
        missing = [k for k, c in enumerate(cells) if not any(s.first <= 2 * c <= s.last for s in mine)]
        for a in missing:
            for b in missing:
                if a <= b and missing.index(b) - missing.index(a) == b - a:
                    held = buffer.size * (2 * (cells[b] - cells[a]) + 1)
                    runs.append((-(b - a + 1) * program.worth[i] / held, i, a, b))
    found = list(stays)
    served: set[tuple[int, int]] = set()
    for _, i, a, b in sorted(runs):
        if any((i, k) in served for k in range(a, b + 1)):
            continue
        stay = whole(program, i, a, b)
        if stay is None:
            continue
        taken = sorted(
            (other.offset, other.offset + buffers[other.buffer].size)
            for other in found
            if other.first <= stay.last and stay.first <= other.last
        )
        offset = best_gap(buffers[i].size, buffers[i].alignment, taken, program.fast_bytes)
        if offset is None:
            continue
        added = replace(stay, offset=offset)
        if (a or buffers[i].kind == "input") and math.isfinite(program.bandwidth):
            try:
                check_stays(program, [*found, added])
            except PlacementError:
                continue
        found.append(added)
        served.update((i, k) for k in range(a, b + 1))
    return found


def upper_bound(program: Program, seconds: float = 5.0) -> float:
    """What no mapping is worth more than: the best choice when addresses do not matter, by mixed-integer programming.

    Bytes that are held are bounded at each instruction and between two, from the last moment on at which a transfer can
    begin; transfers by the bandwidth between the use before and their own. That a buffer needs its bytes in one piece
    is left out, and of an alias group all but one member at each moment.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array
    except ImportError as error:
        raise MissingExtraError("scipy, which bounds need,", "pip install scipy") from error
    buffers = program.problem.buffers
    columns: dict[tuple[str, int, int], int] = {}  # (serve, keep or copy; buffer; use) -> variable

    def column(kind: str, buffer: int, use: int) -> int:
        return columns.setdefault((kind, buffer, use), len(columns))

    entries: list[tuple[int, int, float]] = []
    low: list[float] = []
    high: list[float] = []

    def row(terms: list[tuple[int, float]], least: float, most: float) -> None:
        entries.extend((len(low), j, value) for j, value in terms)
        low.append(least)
        high.append(most)

    held: dict[int, list[tuple[int, float]]] = {}  # moment -> bytes by variable
    copied: list[tuple[int, int, int, float]] = []  # after, before which instruction; variable, bytes
    never: set[int] = set()  # transfers that cannot be in time
    shared: dict[tuple[str, int], dict[int, list[tuple[int, float]]]] = {}  # by alias, moment and member
    for i, buffer in enumerate(buffers):
        cells, size = program.cells[i], float(buffer.size)
        for k, cell in enumerate(cells):
            serve, copy = column("serve", i, k), column("copy", i, k)
            if k or buffer.kind == "input":
                terms = [(serve, 1.0), (copy, -1.0)]
                if k:
                    keep = column("keep", i, k)
                    terms.append((keep, -1.0))
                    row([(keep, 1.0), (column("serve", i, k - 1), -1.0)], -math.inf, 0.0)
                row(terms, -math.inf, 0.0)
                copied.append((cells[k - 1] if k else 0, cell, copy, size))
            spans = [(serve, 2 * cell, 2 * cell + 1)]
            if k or buffer.kind == "input":
                begun = whole(program, i, k, k)
                if begun is None:
                    never.add(copy)
                else:
                    spans.append((copy, begun.first, 2 * cell))
            if k:
                spans.append((column("keep", i, k), 2 * cells[k - 1] + 1, 2 * cell))
            if buffer.alias:
                row([(serve, 1.0), (column("serve", _first(program, buffer.alias), 0), -1.0)], 0.0, 0.0)
            for variable, start, end in spans:
                for moment in range(start, end):
                    if buffer.alias:
                        shared.setdefault((buffer.alias, moment), {}).setdefault(i, []).append((variable, size))
                    else:
                        held.setdefault(moment, []).append((variable, size))
    for (_, moment), members in shared.items():
        largest = max(members.values(), key=lambda one: one[0][1])
        held.setdefault(moment, []).extend(largest)
    for terms in held.values():
        row(terms, -math.inf, float(program.fast_bytes))
    if math.isfinite(program.bandwidth):
        for start in sorted({after for after, _, _, _ in copied}):
            for end in sorted({before for _, before, _, _ in copied}):
                inside = [(copy, size) for after, before, copy, size in copied if start <= after and before <= end]
                room = sum(program.room[start:end])
                if sum(size for _, size in inside) > room:
                    row(inside, -math.inf, room)
    rows, cols, values = (np.array(part) for part in zip(*entries, strict=True))
    matrix = coo_array((values, (rows, cols)), shape=(len(low), len(columns))).tocsr()
    worth, top = np.zeros(len(columns)), np.ones(len(columns))
    for (kind, i, _), j in columns.items():
        if kind == "serve":
            worth[j] = -program.worth[i]
            top[j] = float(buffers[i].size <= program.fast_bytes)
        if j in never:
            top[j] = 0.0
    done = milp(
        worth,
        constraints=LinearConstraint(matrix, low, high),
        integrality=np.ones(len(columns)),
        bounds=Bounds(0, top),
        options={"time_limit": seconds},
    )
    best = getattr(done, "mip_dual_bound", None)
    return program.total if best is None or not math.isfinite(best) else min(program.total, -float(best))


def _first(program: Program, alias: str) -> int:
    """The first buffer of an alias group."""
    return next(i for i, buffer in enumerate(program.problem.buffers) if buffer.alias == alias)
