"""Planners: who says what to do next. By rules from feedback, or by a language model through a typed prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from memspan.core.errors import InputError, ModelError
from memspan.longterm.gitm.actions import SLOT, Action, Taken
from memspan.longterm.gitm.decompose import SubGoal
from memspan.longterm.gitm.world import Result
from memspan.longterm.prompts import Writer, ask_json, object_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a planner is asked with.

    Attributes:
        goal: the sub-goal, with the knowledge it rests on.
        needed: how many items are still lacking.
        observation: what the world shows.
        interface: name -> description of the actions there are.
        failed, result: the action that just failed and what came of it; None at the start.
        pending: the actions that were to follow it.
        reference: the plan that memory holds; empty when it holds none.
        taken: everything done for this sub-goal so far.
    """

    goal: SubGoal
    needed: int
    observation: Mapping[str, Any]
    interface: Mapping[str, str]
    failed: Action | None = None
    result: Result | None = None
    pending: tuple[Action, ...] = ()
    reference: tuple[Action, ...] = ()
    taken: tuple[Taken, ...] = ()

    @property
    def own(self) -> Action:
        """The sub-goal's own act, with a slot for what is still lacking."""
        return Action(self.goal.recipe.by, self.goal.object, None)


@runtime_checkable
class Planner(Protocol):
    """Says what to do next."""

    name: str
    fallbacks: int

    def plan(self, situation: Situation) -> list[Action]:
        """The actions to do from here on; an empty list gives the sub-goal up."""


Repair = Callable[[Situation], list[Action]]
"""What to do before the failed action is tried again."""


def _to_depth(situation: Situation) -> list[Action]:
    assert situation.result is not None
    low, high = situation.result.detail["depth"]
    depth = situation.observation.get("depth", 0)
    return [Action("dig_down", count=low) if depth < low else Action("go_up", count=high)]


def _equip(situation: Situation) -> list[Action]:
    assert situation.result is not None
    held = situation.observation["inventory"]
    owned = [tool for tool in situation.result.detail["tools"] if held.get(tool, 0) > 0]
    return [Action("equip", owned[-1])] if owned else []


def _on(name: str, key: str) -> Repair:
    def repair(situation: Situation) -> list[Action]:
        assert situation.result is not None
        return [Action(name, situation.result.detail[key])]

    return repair


REPAIRS: Mapping[str, Repair] = {
    "far": _on("approach", "place"),
    "hidden": _on("explore", "place"),
    "depth": _to_depth,
    "tool": _equip,
    "station": _on("place", "station"),
}
"""Kind of failure -> what the rules do about it, in the world that is shipped."""

_HOPELESS = ("materials", "unknown")
"""Failures that stay the same when the action is tried again."""


class RulePlanner:
    """Starts from the bare action and repairs it by the kind of each failure. Deterministic.

    Args:
        repairs: kind of failure -> repair, beside `REPAIRS` or in their place. A failure of another kind is tried
            again; where nothing can be done ("materials", "unknown", a repair that gives nothing) a step of a
            remembered plan is left out, and a sub-goal whose own act it is, given up.
    """

    name = "rules"
    fallbacks = 0

    def __init__(self, repairs: Mapping[str, Repair] | None = None) -> None:
        self.repairs = {**REPAIRS, **(repairs or {})}

    def plan(self, situation: Situation) -> list[Action]:
        """The reference if there is one, else the bare action; after a failure its repair before it."""
        failed, result = situation.failed, situation.result
        if failed is None or result is None:
            return list(situation.reference if situation.reference and not situation.taken else [situation.own])
        code, own = result.code, failed.name == situation.own.name and failed.object == situation.own.object
        if code not in self.repairs and code not in _HOPELESS:
            return [failed, *situation.pending]
        before = self.repairs[code](situation) if code in self.repairs else []
        if before:
            return [*before, failed, *situation.pending]
        return [] if own else list(situation.pending) or [situation.own]  # a remembered step may be left out


_SYSTEM = (
    "You plan the actions of an agent that reaches one goal at a time in a world of text. "
    "Answer with one JSON object and nothing else."
)
_PROMPT = """ACTIONS:
{interface}

GOAL: {goal} ({needed} still needed)
KNOWLEDGE: {knowledge}
OBSERVATION: {observation}
REFERENCE PLAN (what worked before): {reference}
DONE SO FAR: {taken}
FEEDBACK: {feedback}

Answer: {{"explanation": "why the last action failed, empty at the start", "thought": "what has to be done, in a few \
words", "actions": [{{"name", "object", "count"}}]}}
- The actions from here on, in order, without those that are done. Names only from ACTIONS.
- object is a place, a tool, a station or an item, as the action asks; empty where it asks for none.
- count is a whole number, or "goal" for as many as the goal still needs."""


class ModelPlanner:
    """Asks a language model, in the paper's form: explanation, thought, action list.

    Args:
        model: what writes the answers.
        attempts: how often one question is put before the rules answer in its place.
        max_actions: longest list of actions that is taken.
        max_new_tokens: bound on one answer.

    Attributes:
        fallbacks: how often the rules had to answer.
    """

    name = "model"

    def __init__(self, model: Writer, *, attempts: int = 3, max_actions: int = 12, max_new_tokens: int = 500) -> None:
        self.model = model
        self.attempts = attempts
        self.max_actions = max_actions
        self.max_new_tokens = max_new_tokens
        self.fallbacks = 0
        self._rules = RulePlanner()

    def plan(self, situation: Situation) -> list[Action]:
        """The model's list if it is one, else the rules'."""
        interface = situation.interface
        schema = object_schema(
            explanation={"type": "string", "maxLength": 200},
            thought={"type": "string", "maxLength": 200},
            actions={
                "type": "array",
                "minItems": 1,
                "maxItems": self.max_actions,
                "items": object_schema(
                    name={"enum": sorted(interface)},
                    object={"type": "string", "maxLength": 40},
                    count={"anyOf": [{"type": "integer", "minimum": 0}, {"enum": [SLOT]}]},
                ),
            },
        )
        prompt = _PROMPT.format(
            interface="\n".join(f"- {text}" for text in interface.values()),
            goal=situation.goal.text,
            needed=situation.needed,
            knowledge=situation.goal.info,
            observation=json.dumps(dict(situation.observation)),
            reference="; ".join(map(str, situation.reference)) or "none",
            taken="; ".join(f"{taken.action} ({taken.outcome})" for taken in situation.taken[-10:]) or "nothing",
            feedback=f"{situation.failed}: {situation.result.reason}" if situation.result else "none",
        )
        try:
            return ask_json(
                self.model,
                prompt,
                schema,
                lambda answer: self._actions(answer, situation),
                system=_SYSTEM,
                attempts=self.attempts,
                max_new_tokens=self.max_new_tokens,
            )
        except (InputError, ModelError):  # InputError: the prompt leaves no room in the context window
            self.fallbacks += 1
            return self._rules.plan(situation)

    def _actions(self, answer: Mapping[str, Any], situation: Situation) -> list[Action]:
        listed = answer.get("actions")
        if not isinstance(listed, Sequence) or isinstance(listed, str) or not 0 < len(listed) <= self.max_actions:
            raise ValueError(f"actions must be a list of 1 to {self.max_actions} actions")
        actions = []
        for item in listed:
            if not isinstance(item, Mapping) or item.get("name") not in situation.interface:
                raise ValueError(f"an action's name must be one of {', '.join(sorted(situation.interface))}")
            target, count = item.get("object") or "", item.get("count", SLOT)
            if not isinstance(target, str) or not (count == SLOT or (type(count) is int and count >= 0)):
                raise ValueError(f"an action needs object as text and count as a whole number or {SLOT!r}")
            action = Action(item["name"], target.strip().replace(" ", "_"), None if count == SLOT else count)
            own = action.name == situation.own.name and action.object == situation.own.object
            actions.append(
                replace(action, count=None) if own else action if count != SLOT else replace(action, count=1)
            )
        return actions
