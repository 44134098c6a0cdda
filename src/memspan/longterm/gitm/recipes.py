"""Text knowledge: what is made from what, with which tools, where. Any prerequisite graph fits, not only a game's."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError
from memspan.longterm.gitm.goals import words

if TYPE_CHECKING:
    from memspan.longterm.gitm.decompose import Decomposition

_ROUNDS = 200  # of the cost's fixed point; batches make it converge geometrically
_LINE = re.compile(
    r"(?P<by>\S+)\s+(?:(?P<count>\d+)\s+)?(?P<makes>\S+)"
    r"(?:\s+from\s+(?P<materials>\d+\s+\S+(?:\s+and\s+\d+\s+\S+)*))?"
    r"(?:\s+with\s+(?P<tools>\S+(?:\s+or\s+\S+)*))?(?:\s+using\s+(?P<station>\S+))?(?:\s+at\s+(?P<at>\S+))?"
)


class Unreachable(InputError):
    """A goal that cannot be reached with the recipes and what is at hand.

    Attributes:
        goal: the item.
        missing: what is lacking on the cheapest way, with counts.
    """

    def __init__(self, goal: str, missing: Mapping[str, int]) -> None:
        self.goal = goal
        self.missing = dict(missing)
        lacking = ", ".join(f"{count} {item}" for item, count in self.missing.items()) or "a recipe"
        super().__init__(f"{goal} cannot be reached; missing: {lacking}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to come by an item.

    Args:
        makes: the item.
        count: how many one batch yields.
        by: the verb ("craft", "mine").
        materials: item -> count that one batch uses up.
        tools: any one of these must be at hand; none is used up.
        station: must be at hand too, and is not used up.
        at: the place where it is done, "" for anywhere.

    Raises:
        InputError: a field is not what it should be.
    """

    makes: str
    count: int = 1
    by: str = "craft"
    materials: Mapping[str, int] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    station: str = ""
    at: str = ""

    def __post_init__(self) -> None:
        for name in ("makes", "by", "station", "at"):
            value = getattr(self, name)
            if not isinstance(value, str) or (re.search(r"\s", value) or (name in ("makes", "by") and not value)):
                raise InputError(f"recipe of {self.makes!r}: {name} must be a name without spaces, not {value!r}")
        if isinstance(self.tools, str) or not all(isinstance(tool, str) and tool for tool in self.tools):
            raise InputError(f"recipe of {self.makes!r}: tools must be a list of names")
        counts = {self.makes: self.count, **self.materials}
        for item, count in counts.items():
            if not isinstance(item, str) or not item or not isinstance(count, int) or isinstance(count, bool):
                raise InputError(f"recipe of {self.makes!r}: {item!r} needs a whole number, not {count!r}")
            if count < 1:
                raise InputError(f"recipe of {self.makes!r}: the count of {item!r} must be at least 1, not {count}")
        object.__setattr__(self, "tools", tuple(self.tools))
        object.__setattr__(self, "materials", dict(self.materials))

    @property
    def text(self) -> str:
        """The recipe as one line, which `Recipes.from_text` reads."""
        parts = [self.by, str(self.count), self.makes]
        if self.materials:
            parts += ["from", " and ".join(f"{count} {item}" for item, count in self.materials.items())]
        if self.tools:
            parts += ["with", " or ".join(self.tools)]
        if self.station:
            parts += ["using", self.station]
        if self.at:
            parts += ["at", self.at]
        return " ".join(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """What may tell it from another way to the same item: its materials, its place, its tools."""
        return (*self.materials, *((self.at,) if self.at else ()), *self.tools)

    def batches(self, count: int) -> int:
        """How many batches give at least `count`."""
        return -(-count // self.count)


class Recipes:
    """A prerequisite graph.

    Args:
        recipes: all ways; several for one item are alternatives.

    Example:
        >>> kb = Recipes.from_text("mine log", "craft 4 planks from 1 log", "craft 4 stick from 2 planks")
        >>> [step.text for step in kb.decompose("stick", 5).steps]
        ['mine log', 'craft 4 planks', 'craft 8 stick']

    Raises:
        InputError: no recipe at all.
    """

    def __init__(self, recipes: Iterable[Recipe]) -> None:
        self.recipes = tuple(recipes)
        if not self.recipes:
            raise InputError("there is no recipe")
        ways: dict[str, list[Recipe]] = {}
        for recipe in self.recipes:
            ways.setdefault(recipe.makes, []).append(recipe)
        self.ways: Mapping[str, tuple[Recipe, ...]] = {item: tuple(rows) for item, rows in ways.items()}

    @classmethod
    def from_json(cls, source: str | Path | Iterable[Mapping[str, Any]]) -> Recipes:
        """From a JSON file or its rows: {"makes", "count", "by", "from": {item: count}, "tools", "station", "at"}.

        Raises:
            InputError: the file cannot be read, or a row is no recipe; the message names it.
        """
        if isinstance(source, str | Path):
            try:
                loaded = json.loads(Path(source).read_text(encoding="utf-8"))
            except OSError as error:
                raise InputError(f"cannot read the recipes in {source}: {error.strerror}") from error
            except ValueError as error:
                raise InputError(f"{source} is not JSON: {error}") from error
            rows = loaded.get("recipes") if isinstance(loaded, dict) else loaded
        else:
            rows = list(source)
        if not isinstance(rows, list):
            raise InputError("recipes must be a list of objects, or an object with a list 'recipes'")
        return cls(_from_row(number, row) for number, row in enumerate(rows))

    @classmethod
    def from_text(cls, *lines: str) -> Recipes:
        """From lines such as "craft 4 planks from 1 log", "mine stone with pick or drill using cart at quarry".

        Raises:
            InputError: a line has another form.
        """
        recipes = []
        for line in (line.strip() for text in lines for line in text.splitlines()):
            if not line:
                continue
            found = _LINE.fullmatch(line)
            if found is None:
                raise InputError(
                    f"not a recipe: {line!r}; write 'verb [count] item [from n a and m b] [with tool or tool]"
                    " [using station] [at place]'"
                )
            pairs = [pair.split() for pair in re.split(r"\s+and\s+", found["materials"] or "") if pair]
            recipes.append(
                Recipe(
                    makes=found["makes"],
                    count=int(found["count"] or 1),
                    by=found["by"],
                    materials={item: int(count) for count, item in pairs},
                    tools=tuple(re.split(r"\s+or\s+", found["tools"])) if found["tools"] else (),
                    station=found["station"] or "",
                    at=found["at"] or "",
                )
            )
        return cls(recipes)

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Every item that is made, used up or used, by name."""
        names = set(self.ways)
        for recipe in self.recipes:
            names.update(recipe.materials, recipe.tools, [recipe.station] if recipe.station else ())
        return tuple(sorted(names))

    @cached_property
    def gear(self) -> frozenset[str]:
        """Every tool and station that some recipe asks for."""
        asked = {name for recipe in self.recipes for name in (*recipe.tools, recipe.station)}
        return frozenset(asked - {""})

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the rules change: plans learnt under other rules are not used."""
        return hashlib.sha256("\n".join(sorted(recipe.text for recipe in self.recipes)).encode()).hexdigest()[:12]

    def item(self, name: str) -> str:
        """The item that a name means ("Iron Pickaxes" is iron_pickaxe).

        Raises:
            InputError: there is none; the message holds the nearest names.
        """
        if not isinstance(name, str):
            raise InputError(f"an item is named by a text, not {type(name).__name__}")
        if name in self.items:
            return name
        wanted = words(name)
        for item in self.items:
            if words(item) == wanted:
                return item
        near = difflib.get_close_matches("_".join(wanted), self.items, n=3, cutoff=0.5)
        raise InputError(f"no item is called {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))

    def decompose(self, goal: str, count: int = 1, inventory: Mapping[str, int] | None = None) -> Decomposition:
        """The sub-goals that lead to `count` of an item from what is at hand, in the order in which they can be done.

        Raises:
            InputError: an unknown item, or a negative count.
            Unreachable: it cannot be done; `.missing` says what is lacking.
        """
        from memspan.longterm.gitm.decompose import decompose

        return decompose(self, goal, count, inventory or {})

    # --- what decomposition needs to know of the whole graph ---

    def reachable(self, at_hand: Iterable[str] = ()) -> frozenset[str]:
        """Items that can be had in any number from nothing, and those that `at_hand` adds (in some number)."""
        extra = set(at_hand) - self._from_nothing
        return self._closure(self._from_nothing | extra) if extra else self._from_nothing

    @cached_property
    def _from_nothing(self) -> frozenset[str]:
        return self._closure(frozenset())

    def _closure(self, known: frozenset[str] | set[str]) -> frozenset[str]:
        had = set(known)
        waiting = [recipe for recipe in self.recipes if recipe.makes not in had]
        while True:
            able = [recipe for recipe in waiting if usable(recipe, had)]
            if not able:
                return frozenset(had)
            had.update(recipe.makes for recipe in able)
            waiting = [recipe for recipe in waiting if recipe.makes not in had]

    @cached_property
    def unit_cost(self) -> Mapping[str, float]:
        """Actions for one more of an item, its tools at hand already; infinite where it cannot be had from nothing."""
        cost = dict.fromkeys(self.items, math.inf)
        able = [recipe for recipe in self.recipes if usable(recipe, self._from_nothing)]
        for _ in range(_ROUNDS):
            changed = False
            for recipe in able:
                whole = 1 + sum(count * cost[item] for item, count in recipe.materials.items())
                if whole / recipe.count < cost[recipe.makes] - 1e-9:
                    cost[recipe.makes] = whole / recipe.count
                    changed = True
            if not changed:
                break
        return cost

    def cheapest_tool(self, recipe: Recipe) -> str:
        """The tool of a recipe that costs least, "" when it needs none."""
        return min(recipe.tools, key=lambda tool: self.unit_cost[tool], default="")

    @cached_property
    def equipment(self) -> Mapping[str, frozenset[str]]:
        """Tools and stations that the cheapest way to an item needs, its materials' and its tools' own included."""
        best: dict[str, Recipe] = {}
        for item, ways in self.ways.items():
            able = [recipe for recipe in ways if usable(recipe, self._from_nothing)]
            if able:
                best[item] = min(able, key=self._recipe_cost)
        found: dict[str, frozenset[str]] = {}
        for item in best:
            seen: set[str] = set()
            gear: set[str] = set()
            stack = [item]
            while stack:
                recipe = best.get(stack.pop())
                if recipe is None or recipe.makes in seen:
                    continue
                seen.add(recipe.makes)
                own = {name for name in (self.cheapest_tool(recipe), recipe.station) if name}
                gear |= own
                stack += [*recipe.materials, *own]
            found[item] = frozenset(gear)
        return found

    def _recipe_cost(self, recipe: Recipe) -> float:
        return (1 + sum(n * self.unit_cost[item] for item, n in recipe.materials.items())) / recipe.count


def usable(recipe: Recipe, had: frozenset[str] | set[str]) -> bool:
    """Whether everything that a recipe asks for is among the items."""
    return (
        all(item in had for item in recipe.materials)
        and (not recipe.station or recipe.station in had)
        and (not recipe.tools or any(tool in had for tool in recipe.tools))
    )


def _from_row(number: int, row: object) -> Recipe:
    known = {"makes", "count", "by", "from", "tools", "station", "at"}
    if not isinstance(row, Mapping) or "makes" not in row:
        raise InputError(f"recipe {number} must be an object with 'makes'")
    unknown = set(row) - known
    if unknown:
        raise InputError(f"recipe {number} has {sorted(map(str, unknown))[0]!r}; known: {', '.join(sorted(known))}")
    materials = row.get("from", {})
    if not isinstance(materials, Mapping):
        raise InputError(f"recipe {number}: 'from' must be an object of item: count")
    try:
        return Recipe(
            makes=row["makes"],
            count=row.get("count", 1),
            by=row.get("by", "craft"),
            materials=materials,
            tools=row.get("tools", ()),
            station=row.get("station", ""),
            at=row.get("at", ""),
        )
    except TypeError as error:
        raise InputError(f"recipe {number}: {error}") from None
