"""The organizer: episodes that tell a run of a goal become reference plans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, Organizer, Recollection, Scribe
from memspan.longterm.clock import to_micros
from memspan.longterm.gitm import search as searching
from memspan.longterm.gitm.actions import parse_log
from memspan.longterm.gitm.distil import distil_with
from memspan.longterm.gitm.goals import Goal
from memspan.longterm.gitm.plans import Distiller, Plan, Run, Shelf, distil_by_rules
from memspan.longterm.prompts import Writer
from memspan.longterm.recall import Search
from memspan.longterm.rows import episode_of
from memspan.longterm.store import Row, Transaction


@dataclass(frozen=True, kw_only=True)
class GitmConfig:
    """GITM's constants; sources in brackets."""

    distil_after: int = 5  # entries of a goal's list that are distilled into one (the paper's N)
    least_support: int = 2  # runs that must share an action for it to stay; distil_after gives what all share (ours)
    retire_after: int = 3  # failures in a row after which a plan is used no more (ours)
    least_overlap: float = 0.3  # shared words of two goals' names for an analogy, as Jaccard's index (ours)
    least_cosine: float = (
        0.65  # the same by vectors, where there are any; MiniLM finds any two ores alike at 0.5 (ours)
    )

    def __post_init__(self) -> None:
        if self.distil_after < 2 or self.retire_after < 1 or self.least_support < 1:
            raise InputError("distil_after must be at least 2, retire_after and least_support at least 1")


def run_of(episode: Episode, uid: str, where: str = "the episode") -> Run | None:
    """The run an episode tells in its metadata; None when it tells none.

    Raises:
        InputError: "goal" and "actions" are there and cannot be used.
    """
    told = episode.metadata
    if not isinstance(told, Mapping) or "goal" not in told or "actions" not in told:
        return None
    try:
        success, plan, knowledge = told.get("success"), told.get("plan"), told.get("knowledge", "")
        if not isinstance(success, bool):
            raise InputError(f"success must be true or false, not {success!r}")
        if not (plan is None or isinstance(plan, str)) or not isinstance(knowledge, str):
            raise InputError("plan and knowledge must be text")
        return Run(
            episode=uid,
            goal=Goal.parse(told["goal"]),
            log=parse_log(told["actions"]),
            success=success,
            plan=plan,
            knowledge=knowledge,
            at=to_micros(episode.at),
        )
    except InputError as error:
        raise InputError(f"{where} tells a run of a goal, but {error}") from None


class Gitm(Organizer):
    """Procedure memory: what reached a goal before, as one plan to start from.

    An episode whose metadata has "goal", "actions" and "success" is one run. Its optional "plan" is the id of the plan
    that the run started from, its optional "knowledge" a fingerprint of the rules it was made under (plans learnt under
    others are no longer used). Other episodes are kept as they are.

    Args:
        scribe: "rules" (default: what at least two of the runs share), or "model", "model:SPEC", "endpoint:…", or an
            object with a language model in `.model`: that one sums up the runs, and the rules do where its answer is
            no plan.
        config: constants.

    Example:
        >>> from memspan import Episode, Memory
        >>> with Memory.open(":memory:", organizer="gitm", embedder=None) as memory:
        ...     done = ["run tests", "build image", "push image"]
        ...     run = {"goal": "deploy the shop", "actions": done, "success": True}
        ...     _ = memory.add(Episode("Deployed the shop.", metadata=run))
        ...     memory.recall("deploy shop", kinds=["plan"])[0].text
        'deploy shop: run tests; build image; push image'

    And an agent that fills and uses it, in the world that is shipped:
        >>> from memspan.longterm.gitm import CraftingWorld, GhostAgent
        >>> with Memory.open(":memory:", organizer="gitm", embedder=None) as memory:
        ...     first = GhostAgent(memory=memory, env=CraftingWorld()).run("diamond")
        ...     second = GhostAgent(memory=memory, env=CraftingWorld()).run("diamond")
        >>> first.success, second.success, len(second.attempts), second.queries < first.queries / 2
        (True, True, 21, True)
    """

    name = "gitm"
    kinds = ("plan", "goal")
    Config = GitmConfig

    def __init__(self, scribe: str | Scribe = "rules", config: GitmConfig | None = None) -> None:
        self.config = config or GitmConfig()
        self._scribe = scribe
        self._distil: Distiller | None = None

    @property
    def distil(self) -> Distiller:
        """How runs are distilled; a model is loaded when it is first needed."""
        if self._distil is None:
            self._distil = self._load_distiller()
        return self._distil

    def _load_distiller(self) -> Distiller:
        rules, scribe = distil_by_rules(self.config.least_support), self._scribe
        if isinstance(scribe, str):
            if scribe.partition(":")[0] == "rules":
                return rules
            from memspan.longterm.scribe import load_scribe

            scribe = load_scribe(scribe)
        model = getattr(scribe, "model", None)
        return distil_with(model, rules) if isinstance(model, Writer) else rules

    # --- add ---

    def prepare(self, episodes: Sequence[Episode], context: Sequence[Episode]) -> Sequence[bool]:
        """Which episodes tell a run; all of them are checked before the store is locked."""
        return [
            run_of(episode, episode.id or "", f"episode {position}") is not None
            for position, episode in enumerate(episodes)
        ]

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Take every run to its goal's shelf."""
        told = [record for record, _, tells in episodes if tells]
        for record, row in sorted(tx.records(told).items()):
            run = run_of(episode_of(row), row["uid"])
            assert run is not None
            hub = tx.find("goal", run.goal.key)
            if hub is None:
                shelf = Shelf(Goal(run.goal.verb, run.goal.object))
                goal = tx.add_record("goal", run.goal.key, run.goal.name, sources=[record], at=run.at)
            else:
                goal = hub["id"]
                shelf = self._load(tx, hub)
                tx.add_sources(goal, [record])
            self._take(shelf, run)
            self._save(tx, goal, shelf)

    def _take(self, shelf: Shelf, run: Run) -> None:
        shelf.take(run, self.config.distil_after, self.config.retire_after, self.distil)

    def _load(self, tx: Transaction, hub: Row) -> Shelf:
        data = json.loads(hub["data"])
        shelf = Shelf(
            Goal(data["verb"], data["object"]),
            made=data["made"],
            successes=data["successes"],
            failures=data["failures"],
        )
        for uid in data["queue"]:
            row = tx.find("episode", uid)
            run = None if row is None else run_of(episode_of(row), uid)
            if run is not None:
                shelf.queue.append(run)
        row = tx.find("plan", data["reference"]) if data["reference"] else None
        if row is not None:
            kept = json.loads(row["data"])
            shelf.reference = Plan(
                uid=row["uid"],
                actions=tuple(taken.action for taken in parse_log(kept["actions"])),
                log=parse_log(kept["log"]),
                runs=tx.sources([row["id"]]).get(row["id"], []),
                origin=kept["origin"],
                knowledge=kept["knowledge"],
                since=row["valid_at"],
                successes=kept["successes"],
                failures=kept["failures"],
                failed_in_a_row=kept["failed_in_a_row"],
            )
        return shelf

    def _save(self, tx: Transaction, goal: int, shelf: Shelf) -> None:
        data = {
            "verb": shelf.goal.verb,
            "object": shelf.goal.object,
            "reference": shelf.reference.uid if shelf.reference else "",
            "queue": [run.episode for run in shelf.queue],
            "made": shelf.made,
            "successes": shelf.successes,
            "failures": shelf.failures,
        }
        tx.execute("UPDATE record SET data = ? WHERE id = ?", (json.dumps(data, ensure_ascii=False), goal))
        for plan in [*shelf.ended, *([shelf.reference] if shelf.reference else [])]:
            self._save_plan(tx, goal, shelf.goal, plan)
        shelf.ended.clear()

    @staticmethod
    def _save_plan(tx: Transaction, goal: int, named: Goal, plan: Plan) -> None:
        data = {
            "goal": named.name,
            "verb": named.verb,
            "object": named.object,
            "actions": [action.to_json() for action in plan.actions],
            "log": [taken.to_json() for taken in plan.log],
            "origin": plan.origin,
            "knowledge": plan.knowledge,
            "successes": plan.successes,
            "failures": plan.failures,
            "failed_in_a_row": plan.failed_in_a_row,
        }
        row = tx.find("plan", plan.uid)
        if row is None:
            text = f"{named.name}: {'; '.join(map(str, plan.actions))}"
            record = tx.add_record("plan", plan.uid, text, valid_at=plan.since, data=data, reason=plan.origin)
            tx.link(record, "PLAN_OF", goal)
        else:
            record = int(row["id"])
            tx.execute("UPDATE record SET data = ? WHERE id = ?", (json.dumps(data, ensure_ascii=False), record))
        uids = [*plan.runs, plan.ended_by]
        found = tx.select(
            "SELECT uid, id FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", uids, tx.space_id
        )
        episodes = {source["uid"]: source["id"] for source in found}
        tx.add_sources(record, [episodes[uid] for uid in plan.runs if uid in episodes])
        if plan.status != "live":
            tx.set_validity(
                record,
                valid_at=plan.since,
                invalid_at=plan.until,
                retired=True,
                status=plan.status,
                cause=episodes.get(plan.ended_by),
                reason=plan.reason,
            )

    # --- forget and maintain ---

    def on_forget(self, tx: Transaction, touched: Sequence[int]) -> None:
        """Build the shelves of the goals anew from the runs that are left."""
        goals = {record for record, row in tx.records(touched).items() if row["kind"] == "goal"}
        goals.update(
            row[0] for row in tx.select("SELECT dst FROM link WHERE kind = 'PLAN_OF' AND src IN ({ids})", touched)
        )
        for goal in sorted(goals):
            self._rebuild(tx, goal)

    def _rebuild(self, tx: Transaction, goal: int) -> None:
        plans = tx.execute("SELECT src FROM link WHERE dst = ? AND kind = 'PLAN_OF'", (goal,)).fetchall()
        tx.executemany("DELETE FROM record WHERE id = ?", [(row[0],) for row in plans])
        rows = tx.execute(
            "SELECT r.* FROM source s JOIN record r ON r.id = s.episode WHERE s.record = ? ORDER BY s.rank, r.id",
            (goal,),
        ).fetchall()
        shelf: Shelf | None = None
        for row in rows:
            run = run_of(episode_of(row), row["uid"])
            if run is None:
                continue
            shelf = shelf or Shelf(Goal(run.goal.verb, run.goal.object))
            self._take(shelf, run)
        if shelf is not None:
            tx.set_text(goal, shelf.goal.name)
            self._save(tx, goal, shelf)
        tx.bump_derived()

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Counts of goals, and of plans by their status; there is nothing to tidy, and history is kept."""
        return self.stats(tx)

    def stats(self, tx: Transaction) -> dict[str, int]:
        """Counts of goals, and of plans by their status."""
        counted = tx.execute(
            "SELECT kind, status, count(*) FROM record WHERE space = ? AND kind IN ('goal', 'plan')"
            " GROUP BY kind, status ORDER BY kind, status",
            (tx.space_id,),
        ).fetchall()
        return {"goals" if kind == "goal" else f"plans_{status}": count for kind, status, count in counted}

    # --- recall ---

    def recall(self, search: Search) -> list[Recollection]:
        """The reference plan of the goal that the query names, then those of like goals; goals by name."""
        found: list[Recollection] = []
        if "plan" in search.query.kinds:
            found += searching.plans(search, self.config.least_overlap, self.config.least_cosine)
        if "goal" in search.query.kinds:
            found += searching.goals(search)
        return sorted(found, key=lambda hit: -hit.score)[: search.query.k]
