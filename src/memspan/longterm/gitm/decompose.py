"""The decomposer: from one item to the ordered sub-goals that lead to it.

Materials that an ancestor has set aside are blocked while its other ingredients are made: without this, making sticks
eats the planks that the pickaxe needs. Tools and stations are blocked too, but not used up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from memspan.core.errors import InputError
from memspan.longterm.gitm.goals import Goal
from memspan.longterm.gitm.recipes import Recipe, Recipes, Unreachable, usable

_LOOK_AHEAD = 2  # recipes whose own ingredients are looked at when alternatives are compared
_EFFORT = 200_000  # tries of one recipe, after which a graph of circles is given up


@dataclass(frozen=True, slots=True)
class SubGoal:
    """One sub-goal in the paper's form: object, count, material, tool, info.

    Attributes:
        recipe: how it is reached.
        count: how many items it makes (whole batches).
    """

    recipe: Recipe
    count: int

    @property
    def object(self) -> str:
        """The item."""
        return self.recipe.makes

    @property
    def materials(self) -> dict[str, int]:
        """What it uses up in all."""
        batches = self.count // self.recipe.count
        return {item: batches * count for item, count in self.recipe.materials.items()}

    @property
    def tools(self) -> tuple[str, ...]:
        """Any one of these is needed."""
        return self.recipe.tools

    @property
    def info(self) -> str:
        """The knowledge it rests on, in words."""
        return self.recipe.text

    @property
    def goal(self) -> Goal:
        """What it is remembered under."""
        return Goal(self.recipe.by, self.object, self.count)

    @property
    def text(self) -> str:
        """In words, with the item's own name."""
        return f"{self.recipe.by} {self.count if self.count > 1 else ''} {self.object}".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Node:
    """A sub-goal and what has to be reached before it."""

    sub_goal: SubGoal
    children: tuple[Node, ...] = ()

    def post_order(self) -> Iterator[SubGoal]:
        """Children first: the order of execution."""
        for child in self.children:
            yield from child.post_order()
        yield self.sub_goal

    def to_json(self) -> dict[str, object]:
        """Texts only, for showing."""
        return {"goal": self.sub_goal.text, "children": [child.to_json() for child in self.children]}


@dataclass(frozen=True, slots=True)
class Decomposition:
    """A goal tree.

    Attributes:
        goal, count: what was asked for.
        trees: one tree for each time the goal itself has to be made; empty when enough is at hand.
        inventory: what is at hand when all sub-goals are reached.
    """

    goal: str
    count: int
    trees: tuple[Node, ...]
    inventory: Mapping[str, int]

    @property
    def steps(self) -> tuple[SubGoal, ...]:
        """All sub-goals in an order in which they can be done."""
        return tuple(step for tree in self.trees for step in tree.post_order())


def decompose(recipes: Recipes, goal: str, count: int, inventory: Mapping[str, int]) -> Decomposition:
    """See `Recipes.decompose`."""
    goal = recipes.item(goal)
    for name, number in (("count", count), *inventory.items()):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise InputError(f"{name} must be a whole number of at least 0, not {number!r}")
    at_hand = {item: number for item, number in inventory.items() if number}
    able = recipes.reachable(at_hand)
    work = _Work(recipes, Counter(at_hand), able)
    try:
        if goal not in able:
            raise _Lacking
        trees = work.need(goal, count, frozenset())
    except _Lacking:
        work = _Work(recipes, Counter(at_hand), able, lenient=True)
        work.need(goal, count, frozenset())
        raise Unreachable(goal, work.missing) from None
    except RecursionError:
        raise InputError(f"{goal} has a chain of prerequisites that is too long to follow") from None
    return Decomposition(goal, count, tuple(trees), dict(+work.inventory))


class _Lacking(Exception):
    """This way does not lead on."""


@dataclass(slots=True)
class _Work:
    """A decomposition under way. `lenient` takes what is lacking as given and counts it."""

    recipes: Recipes
    inventory: Counter[str]
    able: frozenset[str]
    lenient: bool = False
    blocked: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    tried: int = 0

    def free(self, item: str) -> int:
        """What is at hand and not set aside."""
        return self.inventory[item] - self.blocked[item]

    def need(self, item: str, count: int, path: frozenset[str]) -> list[Node]:
        """Make what is lacking to `count`; `path` holds the items that are being made."""
        nodes: list[Node] = []
        for _ in range(len(self.recipes.gear) + count + 1):
            short = count - self.free(item)
            if short <= 0:
                return nodes
            node = self._make(item, short, path)
            if node is not None:
                nodes.append(node)
        raise _Lacking

    def _make(self, item: str, short: int, path: frozenset[str]) -> Node | None:
        ways = self.recipes.ways.get(item, ())
        if self.lenient:
            if item in path or not ways:
                self._borrow(item, short)
                return None
            ways = (min(ways, key=lambda recipe: self._lacking(recipe, path)),)
        elif item in path:
            raise _Lacking
        else:
            ways = tuple(recipe for recipe in ways if usable(recipe, self.able))
        if len(ways) > 1:
            ways = tuple(sorted(ways, key=lambda recipe: self._estimate(recipe, short, _LOOK_AHEAD)))
        for recipe in ways:
            self.tried += 1
            if self.tried > _EFFORT:
                raise InputError(f"the recipes around {item} go in too many circles to be searched")
            saved = self.inventory.copy(), self.blocked.copy()
            free, gear = self.free(item), self._gear_at_hand()
            try:
                node = self._use(recipe, short, path | {item})
                if self.free(item) > free or self._gear_at_hand() - gear:
                    return node
            except _Lacking:
                pass
            self.inventory, self.blocked = saved  # also when a circle of recipes used up as much as it made
        if not self.lenient:
            raise _Lacking
        self._borrow(item, short)
        return None

    def _borrow(self, item: str, count: int) -> None:
        """Count what is lacking and go on as if it were there."""
        self.missing[item] += count
        self.inventory[item] += count

    def _gear_at_hand(self) -> set[str]:
        return {tool for tool in self.recipes.gear if self.inventory[tool] > 0}

    def _lacking(self, recipe: Recipe, path: frozenset[str]) -> int:
        """How much of what a recipe asks for cannot be had."""
        asked = (*recipe.materials, *((recipe.station,) if recipe.station else ()))
        lacking = sum(item not in self.able or item in path for item in asked)
        return lacking + (bool(recipe.tools) and not any(tool in self.able for tool in recipe.tools))

    def _use(self, recipe: Recipe, short: int, path: frozenset[str]) -> Node:
        batches = recipe.batches(short)
        children: list[Node] = []
        aside: Counter[str] = Counter()

        def set_aside(item: str, count: int) -> None:
            aside[item] += count
            self.blocked[item] += count

        for choice in (recipe.tools, (recipe.station,) if recipe.station else ()):
            if not choice:
                continue
            tool = next((tool for tool in choice if self.inventory[tool] > 0), "")
            if not tool:
                tool, nodes = self._equip(choice, path)
                children += nodes
            if not self.blocked[tool]:  # else an ancestor keeps one until this is done
                set_aside(tool, 1)
        for item, count in recipe.materials.items():
            children += self.need(item, count * batches, path)
            set_aside(item, count * batches)
        self.blocked -= aside
        for item, count in recipe.materials.items():
            self.inventory[item] -= count * batches
        self.inventory[recipe.makes] += batches * recipe.count
        return Node(SubGoal(recipe, batches * recipe.count), tuple(children))

    def _equip(self, choice: tuple[str, ...], path: frozenset[str]) -> tuple[str, list[Node]]:
        """Come by the cheapest tool of a choice that can be had."""
        for tool in sorted(choice, key=lambda tool: self._whole(tool, 1, _LOOK_AHEAD)):
            saved = self.inventory.copy(), self.blocked.copy()
            try:
                return tool, self.need(tool, 1, path)
            except _Lacking:
                self.inventory, self.blocked = saved
        raise _Lacking

    def _estimate(self, recipe: Recipe, short: int, ahead: int) -> float:
        """Actions a way will take about, from what is at hand."""
        batches = recipe.batches(short)
        cost = float(batches)
        gear = {recipe.station} if recipe.station else set()
        if recipe.tools and not any(self.inventory[tool] > 0 for tool in recipe.tools):
            gear.add(self.recipes.cheapest_tool(recipe))
        for item, count in recipe.materials.items():
            lacking = count * batches - self.free(item)
            if lacking > 0:
                cost += self._material(item, lacking, ahead)
                gear |= self.recipes.equipment.get(item, frozenset())
        return cost + self._gear(gear)

    def _material(self, item: str, lacking: int, ahead: int) -> float:
        """Actions for one material, tools left out."""
        ways = [recipe for recipe in self.recipes.ways.get(item, ()) if usable(recipe, self.able)]
        if ahead == 0 or not ways:
            return lacking * self.recipes.unit_cost.get(item, 0.0)
        costs = []
        for recipe in ways:
            batches = recipe.batches(lacking)
            wanted = {m: max(0, n * batches - self.free(m)) for m, n in recipe.materials.items()}
            costs.append(batches + sum(self._material(m, n, ahead - 1) for m, n in wanted.items() if n))
        return min(costs)

    def _whole(self, item: str, count: int, ahead: int) -> float:
        return self._material(item, count, ahead) + self._gear(self.recipes.equipment.get(item, frozenset()))

    def _gear(self, gear: frozenset[str] | set[str]) -> float:
        """Actions for the tools and stations that are not at hand yet, each counted with its materials."""
        whole = set(gear)
        for tool in gear:
            whole |= self.recipes.equipment.get(tool, frozenset())
        return sum(self.recipes.unit_cost.get(tool, 0.0) for tool in whole if self.inventory[tool] <= 0)
