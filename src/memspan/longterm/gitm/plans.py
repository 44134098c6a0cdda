"""What is kept of one goal's runs: a queue of successful ones, distilled into the reference plan.

The paper's rule: a run that reached the goal goes to the back of the goal's list, the first entry is the reference,
and a list of N entries is popped, summed up and put in front. A `Shelf` is that list; it is a function of the goal's
runs in their order, so that it can be built again when a run is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

from memspan.longterm.gitm.actions import Action, Taken, effective
from memspan.longterm.gitm.goals import Goal

_EXACT = 200_000  # cells; longer lists are compared two by two, which gives a common subsequence but not the longest
Distiller = Callable[[Goal, Sequence[tuple[Action, ...]]], tuple[tuple[Action, ...], str]]
"""From the lists of successful runs to the essential actions, and in words how they were found."""


def is_subsequence(short: Sequence[Action], long: Sequence[Action]) -> bool:
    """Whether `short` is `long` with some actions left out."""
    rest = iter(long)
    return all(action in rest for action in short)


def longest_common_subsequence(lists: Sequence[Sequence[Action]]) -> tuple[Action, ...]:
    """Actions that all lists have in this order; of several longest ones the one that starts earliest in the first."""
    if len(lists) < 2:
        return tuple(lists[0]) if lists else ()
    if len(lists) > 2 and prod(len(actions) + 1 for actions in lists) > _EXACT:
        common = tuple(lists[0])
        for actions in lists[1:]:
            common = _of_two(common, actions)
        return common
    return _of_two(*lists) if len(lists) == 2 else _of_many([tuple(actions) for actions in lists])


def _of_two(first: Sequence[Action], second: Sequence[Action]) -> tuple[Action, ...]:
    return tuple(first[i] for i in _aligned(first, second))


def _aligned(first: Sequence[Action], second: Sequence[Action]) -> list[int]:
    """Positions in `first` of a longest common subsequence with `second`."""
    length = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i in range(len(first) - 1, -1, -1):
        for j in range(len(second) - 1, -1, -1):
            same = first[i] == second[j]
            length[i][j] = 1 + length[i + 1][j + 1] if same else max(length[i + 1][j], length[i][j + 1])
    positions, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        if first[i] == second[j]:
            positions.append(i)
            i, j = i + 1, j + 1
        elif length[i][j + 1] >= length[i + 1][j]:
            j += 1
        else:
            i += 1
    return positions


def _of_many(lists: Sequence[tuple[Action, ...]]) -> tuple[Action, ...]:
    best: dict[tuple[int, ...], tuple[Action, ...]] = {}

    def after(starts: tuple[int, ...]) -> tuple[Action, ...]:
        if starts not in best:
            found: tuple[Action, ...] = ()
            for action in dict.fromkeys(lists[0][starts[0] :]):
                try:
                    rest = tuple(actions.index(action, start) + 1 for actions, start in zip(lists, starts, strict=True))
                except ValueError:
                    continue
                candidate = (action, *after(rest))
                if len(candidate) > len(found):
                    found = candidate
            best[starts] = found
        return best[starts]

    return after((0,) * len(lists))


def usable_plan(plan: Sequence[Action], lists: Sequence[Sequence[Action]]) -> bool:
    """Whether a summary may stand for the runs: a part of one of them, in its order, with the act that reached it."""
    return bool(plan) and any(list(actions[-1:]) == [plan[-1]] and is_subsequence(plan, actions) for actions in lists)


def common_plan(lists: Sequence[tuple[Action, ...]]) -> tuple[Action, ...]:
    """The longest common subsequence if it still reaches the goal, else nothing."""
    common = longest_common_subsequence(lists)
    return common if common and all(actions[-1:] == common[-1:] for actions in lists) else ()


def supported_plan(lists: Sequence[tuple[Action, ...]], least: int) -> tuple[Action, ...]:
    """The part of one run that at least `least` runs share, each action in its place; nothing if it lacks the last one.

    Of all runs the one whose part has most support is taken, then the shortest part, then the earliest run.
    """
    best: tuple[int, int] | None = None
    plan: tuple[Action, ...] = ()
    for number, actions in enumerate(lists):
        support = Counter(range(len(actions)))
        for other_number, other in enumerate(lists):
            if other_number != number:
                support.update(_aligned(actions, other))
        kept = [place for place in range(len(actions)) if support[place] >= least]
        if not kept or kept[-1] != len(actions) - 1:
            continue
        worth = (sum(support[place] - 1 for place in kept), -len(kept))
        if best is None or worth > best:
            best, plan = worth, tuple(actions[place] for place in kept)
    return plan


def distil_by_rules(least_support: int) -> Distiller:
    """A distiller that keeps what at least so many runs share; as many as there are runs gives what all share."""

    def distil(goal: Goal, lists: Sequence[tuple[Action, ...]]) -> tuple[tuple[Action, ...], str]:
        if least_support >= len(lists):
            plan, how = common_plan(lists), f"longest common subsequence of {len(lists)} runs"
        else:
            plan, how = supported_plan(lists, least_support), f"what {least_support} of {len(lists)} runs share"
        if plan:
            return plan, how
        return min(lists, key=len), f"shortest of {len(lists)} runs: what they share does not reach the goal"

    return distil


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a goal, as an episode tells it.

    Attributes:
        episode: the episode's id in its space.
        goal: what it was to reach.
        log: every action, in order.
        success: whether the goal was reached.
        plan: id of the plan it started from, None when that is not told.
        knowledge: fingerprint of the rules it was made under, "" when that is not told.
        at: when, in microseconds; None when that is not known.
    """

    episode: str
    goal: Goal
    log: tuple[Taken, ...]
    success: bool
    plan: str | None = None
    knowledge: str = ""
    at: int | None = None

    @property
    def slotted(self) -> tuple[Taken, ...]:
        """The log with slots for the goal's count."""
        return tuple(Taken(taken.action.slotted(self.goal), taken.outcome) for taken in self.log)


@dataclass(slots=True)
class Plan:
    """One plan. `runs` are the episodes it was made from; `status` is "live", "merged", "retired" or "stale"."""

    uid: str
    actions: tuple[Action, ...]
    log: tuple[Taken, ...]
    runs: list[str]
    origin: str
    knowledge: str = ""
    since: int | None = None
    successes: int = 0
    failures: int = 0
    failed_in_a_row: int = 0
    status: str = "live"
    until: int | None = None
    ended_by: str = ""
    reason: str = ""


@dataclass(slots=True)
class Shelf:
    """What is kept of one goal.

    Attributes:
        goal: as it was first named.
        reference: the plan in front; None before the first success and after a retirement with an empty queue.
        queue: later successful runs that wait to be distilled.
        made: how many plans the goal has had.
        ended: plans that are no longer live, in this batch of changes.
    """

    goal: Goal
    reference: Plan | None = None
    queue: list[Run] = field(default_factory=list)
    made: int = 0
    successes: int = 0
    failures: int = 0
    ended: list[Plan] = field(default_factory=list)

    def take(self, run: Run, distil_after: int, retire_after: int, distil: Distiller) -> None:
        """One more run."""
        front = self.reference
        if front is not None and run.knowledge and front.knowledge and run.knowledge != front.knowledge:
            self._end(front, "stale", run, "the rules it was learnt under have changed")
            self.queue = [waiting for waiting in self.queue if waiting.knowledge == run.knowledge]
            front = self._next_in_queue()
        used = front if front is not None and self._started_from(run, front) else None
        if not run.success:
            self.failures += 1
            if used is not None:
                used.failures += 1
                used.failed_in_a_row += 1
                if used.failed_in_a_row >= retire_after:
                    self._end(used, "retired", run, f"failed {used.failed_in_a_row} times in a row")
                    self._next_in_queue()
            return
        self.successes += 1
        if used is not None:
            used.successes += 1
            used.failed_in_a_row = 0
        if not effective(run.log):
            return
        self.queue.append(run)
        if front is None:
            self._next_in_queue()
        elif 1 + len(self.queue) >= distil_after:
            self._distil(front, distil)

    @staticmethod
    def _started_from(run: Run, plan: Plan) -> bool:
        """Told by the run, else seen from it: it never left the plan, or did all of it in its order."""
        if run.plan is not None:
            return run.plan == plan.uid
        done = effective(run.slotted)
        return bool(done) and (is_subsequence(done, plan.actions) or is_subsequence(plan.actions, done))

    def _next_in_queue(self) -> Plan | None:
        self.reference = None
        if self.queue:
            run = self.queue.pop(0)
            log = run.slotted
            self.made += 1
            self.reference = Plan(
                uid=f"{self.goal.key} #{self.made}",
                actions=effective(log),
                log=log,
                runs=[run.episode],
                origin="one run",
                knowledge=run.knowledge,
                since=run.at,
            )
        return self.reference

    def _distil(self, front: Plan, distil: Distiller) -> None:
        actions, how = distil(self.goal, [front.actions, *(effective(run.slotted) for run in self.queue)])
        runs = [*front.runs, *(run.episode for run in self.queue)]
        newest = self.queue[-1]
        self.queue = []
        if actions == front.actions:
            front.runs, front.origin = runs, how
            return
        self._end(front, "merged", newest, "distilled with later runs")
        self.made += 1
        self.reference = Plan(
            uid=f"{self.goal.key} #{self.made}",
            actions=actions,
            log=tuple(Taken(action) for action in actions),
            runs=runs,
            origin=how,
            knowledge=newest.knowledge,
            since=front.since,
        )

    def _end(self, plan: Plan, status: str, run: Run, reason: str) -> None:
        plan.status, plan.reason, plan.ended_by = status, reason, run.episode
        plan.until = run.at if status != "merged" else None
        self.ended.append(plan)
        self.reference = None
