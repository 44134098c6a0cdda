"""Distillation by a language model: its summary counts only when it is a plan that the runs prove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memspan.core.errors import InputError, ModelError
from memspan.longterm.gitm.actions import Action
from memspan.longterm.gitm.goals import Goal
from memspan.longterm.gitm.plans import Distiller, usable_plan
from memspan.longterm.prompts import Writer, ask_json, object_schema

SCHEMA = object_schema(
    thought={"type": "string", "maxLength": 200},
    steps={"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 60},
)
_PROMPT = """An agent reached the goal "{goal}" {count} times. These are the actions it took, numbered:

{runs}

Which actions are essential to reach the goal, in which order? Leave out detours and what only one run needed.
Answer: {{"thought": "why, in a few words", "steps": [numbers]}}
The steps must all be numbers of one and the same run, ascending, and end with that run's last one."""


def distil_with(model: Writer, rules: Distiller) -> Distiller:
    """A distiller that asks a language model and falls back on the rules."""

    def distil(goal: Goal, lists: Sequence[tuple[Action, ...]]) -> tuple[tuple[Action, ...], str]:
        numbered: list[Action] = []
        lines = []
        for number, actions in enumerate(lists, start=1):
            shown = [f"{len(numbered) + place}: {action}" for place, action in enumerate(actions)]
            lines.append(f"run {number}: {'; '.join(shown)}")
            numbered += actions

        def check(answer: Mapping[str, Any]) -> tuple[Action, ...]:
            steps = answer.get("steps")
            if not isinstance(steps, list) or not all(type(step) is int for step in steps):
                raise ValueError("steps must be a list of numbers")
            if not all(0 <= step < len(numbered) for step in steps):
                raise ValueError(f"a step is not between 0 and {len(numbered) - 1}")
            plan = tuple(numbered[step] for step in steps)
            if not usable_plan(plan, lists):
                raise ValueError("the steps must be those of one run in its order, and end with its last one")
            return plan

        prompt = _PROMPT.format(goal=goal.name, count=len(lists), runs="\n".join(lines))
        try:
            return ask_json(model, prompt, SCHEMA, check), "summary by a language model"
        except (InputError, ModelError) as error:  # InputError: the runs do not fit into the context window
            actions, how = rules(goal, lists)
            return actions, f"{how} (the language model was of no use: {error})"

    return distil
