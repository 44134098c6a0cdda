"""A crafting world in text: hidden rules, seeded mishaps, feedback in words. And the protocol of any other world.

The rules that knowledge does not tell, and that an agent learns from feedback: a place must be found, then gone to,
before anything is taken from it; it lies at some depth, and digging needs a pickaxe in the hand; the right tool must be
in the hand, not only in the bag; a station must stand here, and is packed up when one moves on.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Protocol, runtime_checkable

from memspan.core.errors import InputError
from memspan.longterm.gitm.actions import Action
from memspan.longterm.gitm.recipes import Recipe, Recipes


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of an action.

    Attributes:
        ok: it did what it is for.
        reason: why not, in words.
        code: the reason's kind, which a planner by rules goes by; "" when it is ok.
        detail: what the reason is about, such as {"place": "tree"} or {"depth": [50, 60]}.
        changes: what is different now: "inventory" as {item: difference}, other keys of the observation as they are.
    """

    ok: bool
    reason: str = ""
    code: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Env(Protocol):
    """A world that an agent acts in.

    Attributes:
        actions: name -> what it does, with its arguments, for a planner that is a language model.
    """

    actions: Mapping[str, str]

    def observe(self) -> dict[str, Any]:
        """What there is to know: at least "inventory", item -> count."""

    def do(self, action: Action) -> Result:
        """Act; never raises because an action is impossible, but says so."""

    def holds(self, action: Action) -> bool:
        """Whether what the action is for is so already; False when that cannot be told."""


ACTIONS = {
    "explore": "explore PLACE: look for a place at this depth until it is in sight",
    "approach": "approach PLACE: go to a place that is in sight",
    "equip": "equip TOOL: take a tool from the inventory into the hand",
    "mine": "mine COUNT ITEM: take items from the place that is near",
    "attack": "attack COUNT ITEM: fight a creature that is near for what it drops",
    "apply": "apply COUNT ITEM: use a material on the place that is near, which gives the item",
    "dig_down": "dig_down COUNT: dig down to a depth",
    "go_up": "go_up COUNT: climb up to a depth",
    "place": "place STATION: put a station from the inventory down here",
    "craft": "craft COUNT ITEM: make items from materials, at a station where the recipe names one",
    "smelt": "smelt COUNT ITEM: make items in a furnace that stands here, with heat",
    "burn": "burn COUNT heat: turn fuel into heat in a furnace that stands here",
}
_MOVES = ("explore", "approach", "equip", "dig_down", "go_up", "place")


class CraftingWorld:
    """A deterministic world but for its mishaps, which come from a seed.

    Args:
        recipes: what is made from what; None is the world that is shipped (over 140 items).
        depths: place -> least and greatest depth; a place that is not named lies at the surface.
        failure_rate: the chance that an action fails by a mishap: it is interrupted, or one is driven away from the
            place, or drops what is in the hand.
        seed: of the mishaps.
        inventory: what is at hand at the start.

    Example:
        >>> world = CraftingWorld()
        >>> world.do(Action("mine", "log")).reason
        'tree is not near: approach it first'

    Raises:
        InputError: a failure rate outside [0, 1), or a negative count.
    """

    def __init__(
        self,
        recipes: Recipes | None = None,
        *,
        depths: Mapping[str, tuple[int, int]] | None = None,
        failure_rate: float = 0.0,
        seed: int = 0,
        inventory: Mapping[str, int] | None = None,
    ) -> None:
        if not 0 <= failure_rate < 1:
            raise InputError(f"failure_rate must be at least 0 and below 1, not {failure_rate!r}")
        for item, count in (inventory or {}).items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise InputError(f"inventory: {item} must be a whole number of at least 0, not {count!r}")
        shipped = _shipped() if recipes is None else {}
        self.recipes = shipped_recipes() if recipes is None else recipes
        named = shipped.get("places", {}) if depths is None else depths
        self.depths = {recipe.at: (0, 0) for recipe in self.recipes.recipes if recipe.at}
        self.depths |= {place: (int(low), int(high)) for place, (low, high) in named.items()}
        self.bottom = int(shipped.get("bottom", max((high for _, high in self.depths.values()), default=0)))
        dig = shipped.get("dig", {"below": self.bottom, "tools": []})
        self._dig_below, self._dig_tools = int(dig["below"]), tuple(dig["tools"])
        self.actions: Mapping[str, str] = {
            **{recipe.by: f"{recipe.by} COUNT ITEM" for recipe in self.recipes.recipes},
            **ACTIONS,
        }
        self.failure_rate = failure_rate
        self._chance = random.Random(seed)
        self.inventory = Counter({item: count for item, count in (inventory or {}).items() if count})
        self.depth = 0
        self.near = ""
        self.holding = ""
        self.in_sight: set[str] = set()
        self.placed: set[str] = set()

    def observe(self) -> dict[str, Any]:
        """Inventory (placed stations included), depth, what is near, in sight, in the hand and placed here."""
        return {
            "inventory": dict(sorted((+self.inventory).items())),
            "depth": self.depth,
            "near": self.near,
            "in_sight": sorted(self.in_sight),
            "holding": self.holding,
            "placed": sorted(self.placed),
        }

    def holds(self, action: Action) -> bool:
        """Whether a movement's or a preparation's end is reached; what makes items is always done anew."""
        reached = {
            "explore": action.object in self.in_sight or action.object == self.near,
            "approach": action.object == self.near,
            "equip": action.object == self.holding,
            "dig_down": self.depth >= (action.count or 0),
            "go_up": self.depth <= (action.count or 0),
            "place": action.object in self.placed,
        }
        return reached.get(action.name, False)

    def do(self, action: Action) -> Result:
        """Act once."""
        if action.name not in self.actions:
            known = ", ".join(self.actions)
            return _no(f"there is no action {action.name}; actions: {known}", "unknown")
        if self.failure_rate and self._chance.random() < self.failure_rate:
            return self._mishap()
        if action.name in _MOVES:
            result: Result = getattr(self, f"_{action.name}")(action)
            return result
        return self._make(action)

    def _mishap(self) -> Result:
        what = self._chance.choice(("interrupted", "away", "dropped"))
        if what == "away" and self.near:
            self.near = ""
            return _no("you were driven away from the place", "interrupted", changes={"near": ""})
        if what == "dropped" and self.holding:
            self.holding = ""
            return _no("you had to put away what was in your hand", "interrupted", changes={"holding": ""})
        return _no("you were interrupted: nothing happened", "interrupted")

    # --- moving and preparing ---

    def _explore(self, action: Action) -> Result:
        place = action.object
        if place not in self.depths:
            return _no(f"there is no place called {place}", "unknown")
        low, high = self.depths[place]
        if not low <= self.depth <= high:
            where = f"at depth {low}" if low == high else f"from depth {low} to {high}"
            return _no(f"no {place} at depth {self.depth}: it lies {where}", "depth", {"depth": [low, high]})
        self.in_sight.add(place)
        return Result(ok=True, changes={"in_sight": sorted(self.in_sight)})

    def _approach(self, action: Action) -> Result:
        if action.object not in self.in_sight:
            return _no(f"{action.object} is not in sight: explore first", "hidden", {"place": action.object})
        if self.near != action.object:
            self.near = action.object
            self.placed.clear()
        return Result(ok=True, changes={"near": self.near})

    def _equip(self, action: Action) -> Result:
        if self.inventory[action.object] < 1:
            return _no(f"you have no {action.object}", "materials", {"missing": {action.object: 1}})
        self.holding = action.object
        return Result(ok=True, changes={"holding": self.holding})

    def _dig_down(self, action: Action) -> Result:
        target = action.count or 0
        if target > self.bottom:
            return _no(f"the ground cannot be dug below depth {self.bottom}", "depth", {"depth": [0, self.bottom]})
        if target > self._dig_below and self._dig_tools and self.holding not in self._dig_tools:
            return self._wrong_tool(f"digging below depth {self._dig_below}", self._dig_tools)
        return self._move_to(max(self.depth, target))

    def _go_up(self, action: Action) -> Result:
        return self._move_to(min(self.depth, action.count or 0))

    def _move_to(self, depth: int) -> Result:
        if depth != self.depth:
            self.depth, self.near = depth, ""
            self.in_sight.clear()
            self.placed.clear()
        return Result(ok=True, changes={"depth": depth})

    def _place(self, action: Action) -> Result:
        if self.inventory[action.object] < 1:
            return _no(f"you have no {action.object} to place", "materials", {"missing": {action.object: 1}})
        self.placed.add(action.object)
        return Result(ok=True, changes={"placed": sorted(self.placed)})

    # --- making ---

    def _make(self, action: Action) -> Result:
        ways = [r for r in self.recipes.ways.get(action.object, ()) if r.by == action.name]
        if not ways:
            known = sorted({r.by for r in self.recipes.ways.get(action.object, ())})
            hint = f"; it is {' or '.join(known)}" if known else ""
            return _no(f"{action.object or 'nothing'} is not to be had by {action.name}{hint}", "unknown")
        recipe = self._way(ways, action)
        if recipe.at and self.near != recipe.at:
            return _no(f"{recipe.at} is not near: approach it first", "far", {"place": recipe.at})
        if recipe.station and recipe.station not in self.placed:
            return _no(f"no {recipe.station} stands here: place one", "station", {"station": recipe.station})
        if recipe.tools and self.holding not in recipe.tools:
            return self._wrong_tool(f"to {recipe.by} {recipe.makes}", recipe.tools)
        batches = recipe.batches(max(1, action.count or 1))
        lacking = self._lacking(recipe, batches)
        if lacking:
            listed = ", ".join(f"{count} {item}" for item, count in lacking.items())
            return _no(f"{listed} missing", "materials", {"missing": lacking})
        difference = Counter({recipe.makes: batches * recipe.count})
        difference.subtract({item: batches * count for item, count in recipe.materials.items()})
        self.inventory.update(difference)
        self.placed = {station for station in self.placed if self.inventory[station] > 0}
        self.holding = self.holding if self.inventory[self.holding] > 0 else ""
        return Result(ok=True, changes={"inventory": {item: n for item, n in difference.items() if n}})

    def _way(self, ways: list[Recipe], action: Action) -> Recipe:
        """The way that the action names by a material, tool or place, else the first whose materials are at hand."""
        if action.using:
            ways = [recipe for recipe in ways if action.using in recipe.names] or ways
        batches = max(1, action.count or 1)
        return next((r for r in ways if not self._lacking(r, r.batches(batches))), ways[0])

    def _lacking(self, recipe: Recipe, batches: int) -> dict[str, int]:
        short = {item: batches * count - self.inventory[item] for item, count in recipe.materials.items()}
        return {item: count for item, count in short.items() if count > 0}

    def _wrong_tool(self, what: str, tools: tuple[str, ...]) -> Result:
        shown = " or ".join(tools)
        return _no(
            f"{what} needs {shown} in the hand, and there is {self.holding or 'nothing'}", "tool", {"tools": tools}
        )


def _no(
    reason: str, code: str, detail: Mapping[str, Any] | None = None, changes: Mapping[str, Any] | None = None
) -> Result:
    return Result(ok=False, reason=reason, code=code, detail=detail or {}, changes=changes or {})


@cache
def shipped_recipes() -> Recipes:
    """The knowledge of the world that is shipped, made once."""
    return Recipes.from_json(_shipped()["recipes"])


@cache
def _shipped() -> dict[str, Any]:
    """The data of the world that is shipped."""
    text = files("memspan.longterm.gitm").joinpath("world.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
