"""The agent: goals reached under a cap, with and without memory, by rules and by a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from memspan import InputError, Memory
from memspan.longterm.gitm import (
    Action,
    CraftingWorld,
    GhostAgent,
    ModelPlanner,
    Recipes,
    Result,
    RulePlanner,
    Situation,
    Unreachable,
)
from tests.longterm.doubles import Recorded


@pytest.fixture
def memory():
    with Memory.open(":memory:", organizer="gitm", embedder=None) as memory:
        yield memory


def test_a_diamond_takes_every_sub_goal_in_order():
    world = CraftingWorld()
    trace = GhostAgent(env=world).run("diamond")
    assert trace.success and trace.reason == "" and trace.from_memory == 0
    assert [attempt.goal for attempt in trace.attempts] == [s.text for t in trace.tree for s in t.post_order()]
    assert len(trace.attempts) >= 20 and world.observe()["inventory"]["diamond"] == 1
    assert trace.steps > trace.queries > trace.repairs > 0


def test_memory_saves_queries_and_steps(memory):
    first = GhostAgent(memory=memory, env=CraftingWorld()).run("diamond")
    second = GhostAgent(memory=memory, env=CraftingWorld()).run("diamond")
    bare = GhostAgent(env=CraftingWorld()).run("diamond")
    assert second.success and second.queries < first.queries < bare.queries
    assert second.from_memory == len(second.attempts) and second.steps < first.steps
    last = second.attempts[-1]
    assert last.from_memory == "exact" and last.held == sum(taken.outcome == "held" for taken in last.log)


def test_memory_pays_under_mishaps_and_a_cap(memory):
    cap = {"max_total_queries": 60}
    bare = [GhostAgent(env=CraftingWorld(failure_rate=0.3, seed=s), **cap).run("diamond") for s in range(10)]
    kept = [
        GhostAgent(memory=memory, env=CraftingWorld(failure_rate=0.3, seed=s), **cap).run("diamond") for s in range(10)
    ]
    assert sum(trace.success for trace in kept[3:]) > sum(trace.success for trace in bare[3:]) + 3
    assert sum(t.queries for t in kept[5:]) < 0.7 * sum(t.queries for t in bare[5:])


def test_verbatim_replay_does_everything_again():
    steps = {}
    for replay in ("aware", "verbatim"):
        with Memory.open(":memory:", organizer="gitm", embedder=None) as memory:
            for _ in range(2):
                trace = GhostAgent(memory=memory, env=CraftingWorld(), replay=replay).run("iron_ingot", 2)  # type: ignore[arg-type]
            assert trace.success
            steps[replay] = (trace.steps, trace.queries)
    assert steps["verbatim"][0] > steps["aware"][0] and steps["verbatim"][1] > steps["aware"][1]


def test_the_papers_protocol_asks_with_the_reference(memory):
    GhostAgent(memory=memory, env=CraftingWorld()).run("furnace")
    trace = GhostAgent(memory=memory, env=CraftingWorld(), ask_with_reference=True, remember=False).run("furnace")
    assert trace.success and trace.queries >= len(trace.attempts) == trace.from_memory


def test_reading_only_leaves_the_memory_as_it_was(memory):
    GhostAgent(memory=memory, env=CraftingWorld(), remember=False).run("stick")
    assert memory.stats()["records"] == {}


def test_runs_are_episodes_and_failures_are_told(memory):
    agent = GhostAgent(memory=memory, env=CraftingWorld(failure_rate=0.9, seed=3), max_queries=2)
    trace = agent.run("log", session="first day")
    assert not trace.success and "not reached with 2 questions" in trace.reason
    assert memory.recall("log", kinds=["plan"]) == []
    [goal] = memory.recall("mine log", kinds=["goal"])
    assert (goal.metadata["successes"], goal.metadata["failures"]) == (0, 1)
    [episode] = memory.recall("failed mine log")
    assert episode.text.startswith("Failed: mine log.") and episode.session == "first day"


def test_the_cap_of_a_run_holds():
    trace = GhostAgent(env=CraftingWorld(failure_rate=0.3, seed=1), max_total_queries=25).run("diamond")
    assert not trace.success and trace.queries == 25 and "not reached" in trace.reason


def test_what_is_at_hand_counts():
    trace = GhostAgent(env=CraftingWorld(inventory={"diamond": 2})).run("diamond", 2)
    assert trace.success and trace.attempts == ()
    trace = GhostAgent(env=CraftingWorld(inventory={"planks": 2})).run("Sticks", 4)
    assert [attempt.goal for attempt in trace.attempts] == ["craft 4 stick"]


def test_plans_learnt_under_other_rules_are_not_used(memory):
    old = Recipes.from_text("mine log at tree", "craft 2 planks from 1 log")
    new = Recipes.from_text("mine log at forest", "craft 4 planks from 1 log")
    GhostAgent(old, memory, CraftingWorld(old)).run("planks")
    trace = GhostAgent(new, memory, CraftingWorld(new)).run("planks")
    assert trace.success and trace.from_memory == 0
    assert GhostAgent(new, memory, CraftingWorld(new)).run("planks").from_memory == 2
    assert memory.maintain()["plans_stale"] == 2


def test_a_remembered_step_that_makes_no_sense_here_is_left_out(memory):
    """The plan was learnt with a stone pickaxe, which this agent never had."""
    worlds = [CraftingWorld(inventory={tool: 1}) for tool in ("stone_pickaxe", "iron_pickaxe")]
    traces = [GhostAgent(memory=memory, env=world).run("coal") for world in worlds]
    assert all(trace.success for trace in traces) and traces[1].from_memory == 1


def test_like_goals_help_on_goals_never_run(memory):
    def world() -> CraftingWorld:
        return CraftingWorld(inventory={"iron_pickaxe": 1})

    GhostAgent(memory=memory, env=world()).run("iron_ore")
    bare = GhostAgent(env=world()).run("gold_ore")
    like = GhostAgent(memory=memory, env=world()).run("gold_ore")
    assert like.success and like.attempts[0].from_memory == "analogy" and like.queries < bare.queries
    apart = CraftingWorld(inventory={"iron_pickaxe": 1})
    assert GhostAgent(memory=memory, env=apart, analogies=False).run("lapis").from_memory == 0


class Leaky(CraftingWorld):
    """Loses every log after it was mined."""

    def do(self, action: Action) -> Result:
        self.inventory["log"] = 0 if action.name == "craft" else self.inventory["log"]
        return super().do(action)


def test_a_world_that_takes_things_away_ends_in_a_reason():
    trace = GhostAgent(env=Leaky()).run("planks")
    assert not trace.success and "gave it up" in trace.reason

    class Empty(CraftingWorld):
        def observe(self) -> dict[str, Any]:
            seen = super().observe()
            self.inventory["planks"] = 0
            return seen

    trace = GhostAgent(env=Empty()).run("planks")
    assert not trace.success and trace.reason


class Door:
    """A world of one's own: a door that opens with a key from a drawer, with one's own feedback."""

    actions: Mapping[str, str] = {"take": "take THING", "open": "open THING"}

    def __init__(self) -> None:
        self.have: dict[str, int] = {}
        self.drawer = False

    def observe(self) -> dict[str, Any]:
        return {"inventory": dict(self.have)}

    def holds(self, action: Action) -> bool:
        return action == Action("open", "drawer") and self.drawer

    def do(self, action: Action) -> Result:
        if action == Action("open", "drawer"):
            self.drawer = True
        elif action.object == "key" and not self.drawer:
            return Result(ok=False, reason="the drawer is shut", code="shut", detail={"what": "drawer"})
        else:
            self.have[action.object] = 1
        return Result(ok=True)


def test_a_world_of_ones_own(memory):
    kb = Recipes.from_text("take key", "open door with key")
    planner = RulePlanner({"shut": lambda s: [Action("open", s.result.detail["what"])] if s.result else []})
    first = GhostAgent(kb, memory, Door(), planner).run("door")
    second = GhostAgent(kb, memory, Door(), planner).run("door")
    assert (first.success, first.queries, second.success, second.queries) == (True, 3, True, 0)
    with pytest.raises(InputError, match="brings no recipes"):
        GhostAgent(env=Door())


def test_bad_options(memory):
    with pytest.raises(InputError, match="at least 1"):
        GhostAgent(max_queries=0)
    with pytest.raises(InputError, match="aware or verbatim"):
        GhostAgent(replay="blind")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no planner"):
        GhostAgent(planner=3)  # type: ignore[arg-type]
    with (
        Memory.open(":memory:", embedder=None, organizer="plain") as plain,
        pytest.raises(InputError, match="organizer='gitm'"),
    ):
        GhostAgent(memory=plain)
    with pytest.raises(Unreachable, match="gunpowder"):
        GhostAgent().run("tnt")
    with pytest.raises(InputError, match="did you mean"):
        GhostAgent().run("dimond")
    with pytest.raises(InputError, match="whole number"):
        GhostAgent().run("log", -1)


# --- a model that plans ---

PLAN = {
    "explanation": "",
    "thought": "find a tree, go there, take the log",
    "actions": [
        {"name": "explore", "object": "tree", "count": 1},
        {"name": "approach", "object": "tree", "count": 1},
        {"name": "mine", "object": "log", "count": "goal"},
    ],
}


def test_a_models_plan_is_followed():
    model = Recorded(PLAN)
    trace = GhostAgent(planner=model, env=CraftingWorld()).run("log", 2)
    assert trace.success and (trace.queries, trace.steps, trace.fallbacks) == (1, 3, 0)
    asked = model.prompts[0][1]["content"]
    assert "GOAL: mine 2 log (2 still needed)" in asked and "KNOWLEDGE: mine 1 log at tree" in asked
    assert "- approach PLACE" in asked and "REFERENCE PLAN (what worked before): none" in asked


def test_a_model_is_told_what_failed_and_what_worked_before(memory):
    GhostAgent(memory=memory, env=CraftingWorld()).run("log")
    model = Recorded({**PLAN, "actions": PLAN["actions"][2:]}, PLAN)
    trace = GhostAgent(memory=memory, planner=model, env=CraftingWorld(), ask_with_reference=True).run("log")
    assert trace.success and (trace.queries, trace.repairs) == (2, 1)
    first, second = (prompt[1]["content"] for prompt in model.prompts)
    assert "(what worked before): explore tree; approach tree; mine log" in first and "FEEDBACK: none" in first
    assert "FEEDBACK: mine log: tree is not near: approach it first" in second
    assert "DONE SO FAR: mine log (failed)" in second


@pytest.mark.parametrize(
    "answer",
    [
        "I would look for a tree.",
        {"actions": []},
        {"actions": "mine"},
        {"actions": [{"name": "teleport", "object": "tree"}]},
        {"actions": [{"name": "mine", "object": 3}]},
        {"actions": [{"name": "mine", "object": "log", "count": -2}]},
        {"actions": [{"name": "explore", "object": "tree"}] * 40},
    ],
)
def test_a_model_that_gives_no_plan_is_replaced_by_the_rules_and_that_is_said(answer):
    model = Recorded(answer)
    trace = GhostAgent(planner=ModelPlanner(model, attempts=2), env=CraftingWorld()).run("log")
    assert trace.success and trace.fallbacks == trace.queries > 0
    assert len(model.prompts) == 2 * trace.queries
    assert "That cannot be used" in model.prompts[1][-1]["content"]


def test_a_model_that_runs_in_circles_stops_at_the_cap():
    model = Recorded({**PLAN, "actions": [{"name": "explore", "object": "tree", "count": 1}]})
    trace = GhostAgent(planner=model, env=CraftingWorld(), max_queries=4).run("log")
    assert not trace.success and trace.queries == 4


def test_the_rules_are_a_function_of_the_situation():
    recipes = CraftingWorld().recipes
    [step] = recipes.decompose("log").steps
    blank = Situation(goal=step, needed=1, observation={"inventory": {}}, interface={})
    assert RulePlanner().plan(blank) == [Action("mine", "log", None)]
    no_tool = Situation(
        goal=step,
        needed=1,
        observation={"inventory": {}},
        interface={},
        failed=Action("mine", "log", None),
        result=Result(ok=False, code="tool", detail={"tools": ("axe",)}),
    )
    assert RulePlanner().plan(no_tool) == []


@pytest.mark.parametrize("module", ["organizer", "recipes", "world"])
def test_the_examples_in_the_docstrings_run(module):
    import doctest
    import importlib

    outcome = doctest.testmod(importlib.import_module(f"memspan.longterm.gitm.{module}"))
    assert outcome.attempted > 0 and outcome.failed == 0
