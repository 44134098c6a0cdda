"""The agent: decomposes a goal, starts each sub-goal from memory, repairs on feedback, and remembers what it did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, Recollection
from memspan.longterm.gitm.actions import Action, Taken, effective, parse_log
from memspan.longterm.gitm.decompose import Node, SubGoal
from memspan.longterm.gitm.planner import ModelPlanner, Planner, RulePlanner, Situation
from memspan.longterm.gitm.recipes import Recipes, Unreachable
from memspan.longterm.gitm.world import CraftingWorld, Env
from memspan.longterm.prompts import Writer

if TYPE_CHECKING:
    from memspan.longterm.memory import Memory

Replay = Literal["aware", "verbatim"]
_SLACK = 5  # times as many sub-goals as foreseen may be tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One sub-goal as it was tried.

    Attributes:
        goal: in words.
        success: judged by the world's inventory, not by anyone's text.
        from_memory: "" for none, "exact", or "analogy" for a like goal's plan.
        queries: how often the planner was asked.
        steps: actions done in the world.
        held: actions left out because what they are for was so already.
        repairs: failed actions that the planner answered.
        log: every action.
    """

    goal: str
    success: bool
    from_memory: str
    queries: int
    steps: int
    held: int
    repairs: int
    log: tuple[Taken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One run of a goal.

    Attributes:
        goal, count: what was asked for.
        success: judged by the world's inventory.
        reason: why it ended without success, in words.
        attempts: the sub-goals in the order in which they were tried.
        tree: the goal tree as it was at the start.
        fallbacks: how often the rules answered in a language model's place.
    """

    goal: str
    count: int
    success: bool
    reason: str
    attempts: tuple[Attempt, ...]
    tree: tuple[Node, ...]
    fallbacks: int

    @property
    def queries(self) -> int:
        """How often the planner was asked."""
        return sum(attempt.queries for attempt in self.attempts)

    @property
    def steps(self) -> int:
        """Actions done in the world."""
        return sum(attempt.steps for attempt in self.attempts)

    @property
    def repairs(self) -> int:
        """Failed actions that the planner answered."""
        return sum(attempt.repairs for attempt in self.attempts)

    @property
    def from_memory(self) -> int:
        """Sub-goals that were started from a remembered plan."""
        return sum(bool(attempt.from_memory) for attempt in self.attempts)


class GhostAgent:
    """Reaches goals in a world, with text knowledge and procedure memory.

    Args:
        recipes: the knowledge; None takes the world's own.
        memory: a memory opened with the organizer "gitm"; None remembers nothing.
        env: the world.
        planner: "rules", another model spec of `memspan.models.load_language_model`, a language model, or a `Planner`.
        max_queries: how often the planner may be asked for one sub-goal (the paper's 30).
        max_total_queries: the same for a whole run; None is no bound.
        replay: "aware" leaves out an action of a remembered plan when what it is for is so already. "verbatim" does
            every action of the remembered log again, failed ones too: the negative control, which shows why a log
            alone is no memory.
        ask_with_reference: put a remembered plan to the planner, as the paper does, instead of starting it at once.
        analogies: start from a like goal's plan where the goal itself has none.
        remember: add what was done to the memory; False only reads it.

    Raises:
        InputError: an option that cannot be.
    """

    def __init__(
        self,
        recipes: Recipes | None = None,
        memory: Memory | None = None,
        env: Env | None = None,
        planner: str | Writer | Planner = "rules",
        *,
        max_queries: int = 30,
        max_total_queries: int | None = None,
        replay: Replay = "aware",
        ask_with_reference: bool = False,
        analogies: bool = True,
        remember: bool = True,
    ) -> None:
        if env is None:
            env = CraftingWorld()
        self.env = env
        known = getattr(self.env, "recipes", None) if recipes is None else recipes
        if not isinstance(known, Recipes):
            raise InputError("the world brings no recipes: give GhostAgent(recipes=…)")
        if max_queries < 1 or (max_total_queries is not None and max_total_queries < 1):
            raise InputError("max_queries and max_total_queries must be at least 1")
        if replay not in ("aware", "verbatim"):
            raise InputError(f"replay is {replay!r}; it must be aware or verbatim")
        if memory is not None and "plan" not in memory.organizer.kinds:
            raise InputError(
                f"the {memory.organizer.name} organizer keeps no plans; open the memory with organizer='gitm'"
            )
        self.recipes = known
        self.memory = memory
        self.planner = _planner(planner)
        self.max_queries = max_queries
        self.max_total_queries = max_total_queries
        self.replay = replay
        self.ask_with_reference = ask_with_reference
        self.analogies = analogies
        self.remember = remember

    def run(self, goal: str, count: int = 1, *, session: str | None = None) -> Trace:
        """Reach `count` of an item.

        Args:
            goal: the item.
            count: how many to have in the end.
            session: the session that the remembered runs belong to.

        Raises:
            InputError: an unknown item or a negative count.
            Unreachable: no recipes lead there; nothing was done then.
        """
        fallbacks = self.planner.fallbacks
        goal = self.recipes.item(goal)
        plan = self.recipes.decompose(goal, count, self._inventory())
        tree, steps = plan.trees, list(plan.steps)
        limit = _SLACK * (len(steps) + 1)
        attempts: list[Attempt] = []
        reason = ""
        while not reason and self._inventory()[goal] < count:
            left = None if self.max_total_queries is None else self.max_total_queries - sum(a.queries for a in attempts)
            expected = self._after(steps[0])
            attempt, reason = self._attempt(steps.pop(0), left, session)
            attempts.append(attempt)
            if not reason and len(attempts) >= limit:
                reason = (
                    f"{len(attempts)} sub-goals were reached and the goal was not: the world takes away what is made"
                )
            if not reason and (not steps or self._inventory() != expected):
                # What the world holds is not what was foreseen, so the rest is thought out anew.
                try:
                    steps = list(self.recipes.decompose(goal, count, self._inventory()).steps)
                except Unreachable as error:
                    reason = str(error)
        return Trace(
            goal=goal,
            count=count,
            success=self._inventory()[goal] >= count,
            reason=reason,
            attempts=tuple(attempts),
            tree=tree,
            fallbacks=self.planner.fallbacks - fallbacks,
        )

    def _inventory(self) -> Counter[str]:
        return Counter(self.env.observe()["inventory"])

    def _after(self, step: SubGoal) -> Counter[str]:
        expected = self._inventory()
        expected.subtract(step.materials)
        expected[step.object] += step.count
        return +expected

    def _attempt(self, step: SubGoal, left: int | None, session: str | None) -> tuple[Attempt, str]:
        """One sub-goal; returns it and why it failed, "" when it did not."""
        cap = self.max_queries if left is None else min(self.max_queries, left)
        target = self._inventory()[step.object] + step.count
        hit = self._remembered(step)
        reference = () if hit is None else self._plan_of(hit)
        log: list[Taken] = []
        queries = repairs = 0
        failed = result = None
        reason = ""
        skips = self.replay == "aware"
        pending = list(reference) if not self.ask_with_reference else []
        while (needed := target - self._inventory()[step.object]) > 0:
            if not pending or result is not None:
                if queries >= cap:
                    reason = f"{step.text}: not reached with {queries} questions to the planner"
                    break
                queries += 1
                repairs += result is not None
                pending = self.planner.plan(
                    Situation(
                        goal=step,
                        needed=needed,
                        observation=self.env.observe(),
                        interface=self.env.actions,
                        failed=failed,
                        result=result,
                        pending=tuple(pending),
                        reference=reference,
                        taken=tuple(log),
                    )
                )
                failed = result = None
                if not pending:
                    reason = f"{step.text}: the planner gave it up" + (f" ({log[-1].action} failed)" if log else "")
                    break
            action = pending.pop(0)
            if skips and self.env.holds(action):
                log.append(Taken(action, "held"))
                continue
            done = self.env.do(action.filled(needed, self._way(step)))
            log.append(Taken(action, "done" if done.ok else "failed"))
            if not done.ok:
                failed, result = action, done
        success = not reason
        attempt = Attempt(
            goal=step.text,
            success=success,
            from_memory="" if hit is None else "analogy" if hit.metadata["analogy"] else "exact",
            queries=queries,
            steps=sum(taken.outcome != "held" for taken in log),
            held=sum(taken.outcome == "held" for taken in log),
            repairs=repairs,
            log=tuple(log),
        )
        self._remember(step, attempt, hit, session)
        return attempt, reason

    def _way(self, step: SubGoal) -> str:
        """Which of several recipes of the same verb is meant: a material, tool or place that only this one names."""
        others = [r for r in self.recipes.ways[step.object] if r.by == step.recipe.by and r is not step.recipe]
        if not others:
            return ""
        return next((name for name in step.recipe.names if not any(name in other.names for other in others)), "")

    def _remembered(self, step: SubGoal) -> Recollection | None:
        if self.memory is None:
            return None
        for hit in self.memory.recall(step.goal.text, k=1, kinds=["plan"]):
            other_rules = hit.metadata["knowledge"] not in ("", self.recipes.fingerprint)
            if not other_rules and (self.analogies or not hit.metadata["analogy"]):
                return hit
        return None

    def _plan_of(self, hit: Recollection) -> tuple[Action, ...]:
        key = "log" if self.replay == "verbatim" and not hit.metadata["analogy"] else "slots"
        return tuple(taken.action for taken in parse_log(hit.metadata[key]))

    def _remember(self, step: SubGoal, attempt: Attempt, hit: Recollection | None, session: str | None) -> None:
        if self.memory is None or not self.remember or not attempt.log:
            return
        done = "; ".join(map(str, effective(attempt.log)))
        text = f"{'Reached' if attempt.success else 'Failed'}: {step.text}. {done}".strip()
        told: dict[str, Any] = {
            "goal": {"verb": step.goal.verb, "object": step.goal.object, "count": step.goal.count},
            "actions": [taken.to_json() for taken in attempt.log],
            "success": attempt.success,
            "plan": hit.id if hit is not None and not hit.metadata["analogy"] else "",
            "knowledge": self.recipes.fingerprint,
        }
        self.memory.add(Episode(text, session=session, metadata=told))


def _planner(planner: str | Writer | Planner) -> Planner:
    if isinstance(planner, str):
        if planner == "rules":
            return RulePlanner()
        from memspan.models import load_language_model

        return ModelPlanner(load_language_model(planner))
    if isinstance(planner, Planner):
        return planner
    if isinstance(planner, Writer):
        return ModelPlanner(planner)
    raise InputError(f"{type(planner).__name__} is no planner: it needs plan(situation), or generate(…) of a model")
