"""Structured actions: what an agent does, as (name, object, count, using), and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from memspan.core.errors import InputError
from memspan.longterm.gitm.goals import Goal, words

Outcome = Literal["done", "failed", "held"]
SLOT = "goal"
"""How JSON writes the count of an action that takes the goal's count."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a plan.

    Args:
        name: the verb; a whole command of another world ("git pull") may stand here alone.
        object: what it acts on.
        count: how many, or how far; None stands for what the goal still needs.
        using: which of several ways, named by what only this one needs (a material, a tool, a place).
    """

    name: str
    object: str = ""
    count: int | None = 1
    using: str = ""

    def __str__(self) -> str:
        count = "" if self.count in (None, 1) else f" {self.count}"
        return f"{self.name}{count} {self.object}".strip() + (f" using {self.using}" if self.using else "")

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        plain: dict[str, Any] = {"name": self.name}
        if self.object:
            plain["object"] = self.object
        if self.count != 1:
            plain["count"] = SLOT if self.count is None else self.count
        if self.using:
            plain["using"] = self.using
        return plain

    def achieves(self, goal: Goal) -> bool:
        """Whether it is the goal's own act."""
        return self.name == goal.verb and words(self.object) == words(goal.object)

    def slotted(self, goal: Goal) -> Action:
        """With a slot where the goal's count and way stand, so that the plan serves every count."""
        own = self.achieves(goal)
        if own and self.count in (goal.count, None):
            return replace(self, count=None, using="")
        same = self.count == goal.count > 1 and words(self.object) == words(goal.object)
        return replace(self, count=None) if same else self

    def filled(self, count: int, using: str = "") -> Action:
        """With the slot filled."""
        return self if self.count is not None else replace(self, count=count, using=self.using or using)

    def renamed(self, old: str, new: str) -> Action:
        """With one object's name in place of another's, also as a part of a name ("iron_ore" -> "gold_ore")."""
        if not old:
            return self
        swapped = [f"_{part}_".replace(f"_{old}_", f"_{new}_").strip("_") for part in (self.object, self.using)]
        return replace(self, object=swapped[0], using=swapped[1])


@dataclass(frozen=True, slots=True)
class Taken:
    """One action as it was taken.

    Args:
        action: the action.
        outcome: "done", "failed", or "held": not done, because what it is for was so already.
    """

    action: Action
    outcome: Outcome = "done"

    def to_json(self) -> dict[str, Any]:
        """The action's fields, and the outcome unless it is "done"."""
        return self.action.to_json() | ({} if self.outcome == "done" else {"outcome": self.outcome})


def effective(log: Sequence[Taken]) -> tuple[Action, ...]:
    """The actions that worked or were not needed: a log without its failed attempts."""
    return tuple(taken.action for taken in log if taken.outcome != "failed")


def parse_action(value: object) -> Taken:
    """An action from JSON: a text, or {"name", "object", "count", "using", "outcome"}.

    Raises:
        InputError: it is no action.
    """
    if isinstance(value, str):
        if not value.strip():
            raise InputError("an action is empty")
        return Taken(Action(" ".join(value.split())))
    if not isinstance(value, Mapping):
        raise InputError(f"an action is a text or a mapping with a name, not {type(value).__name__}")
    unknown = set(value) - {"name", "object", "count", "using", "outcome"}
    if unknown:
        raise InputError(
            f"an action has name, object, count, using and outcome, and no {sorted(map(str, unknown))[0]!r}"
        )
    for key in ("name", "object", "using"):
        if not isinstance(value.get(key, ""), str):
            raise InputError(f"an action's {key} must be text, not {value[key]!r}")
    if not value.get("name", "").strip():
        raise InputError("an action needs a name")
    count = value.get("count", 1)
    if count != SLOT and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise InputError(f"an action's count must be a whole number of at least 0, or {SLOT!r}, not {count!r}")
    outcome = value.get("outcome", "done")
    if outcome not in get_args(Outcome):
        raise InputError(f"an action's outcome is {outcome!r}; it must be one of {', '.join(get_args(Outcome))}")
    action = Action(value["name"], value.get("object", ""), None if count == SLOT else count, value.get("using", ""))
    return Taken(action, outcome)


def parse_log(values: object) -> tuple[Taken, ...]:
    """A list of actions from JSON.

    Raises:
        InputError: it is no list, or an element is no action; the message names its position.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"actions must be a list, not {type(values).__name__}")
    log = []
    for position, value in enumerate(values):
        try:
            log.append(parse_action(value))
        except InputError as error:
            raise InputError(f"action {position}: {error}") from None
    return tuple(log)
