"""Knowledge and decomposition: exact counts, batches, surplus, alternatives, circles, and what is missing."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memspan.core.errors import InputError
from memspan.longterm.gitm import CraftingWorld, Recipe, Recipes, Unreachable
from memspan.longterm.gitm.decompose import Decomposition

WOOD = Recipes.from_text(
    """
    mine log
    craft 4 planks from 1 log
    craft 4 stick from 2 planks
    craft table from 4 planks
    craft pick from 3 planks and 2 stick using table
    mine stone with pick
    """
)


def follow(plan: Decomposition, inventory: dict[str, int] | None = None) -> Counter[str]:
    """Do the steps on paper; fails where something is missing."""
    held = Counter(inventory or {})
    for step in plan.steps:
        assert not step.tools or any(held[tool] > 0 for tool in step.tools), step
        assert not step.recipe.station or held[step.recipe.station] > 0, step
        for item, count in step.materials.items():
            held[item] -= count
            assert held[item] >= 0, step
        assert step.count % step.recipe.count == 0
        held[step.object] += step.count
    return held


def texts(plan: Decomposition) -> list[str]:
    return [step.text for step in plan.steps]


def test_making_sticks_does_not_eat_the_planks_of_the_pick():
    plan = WOOD.decompose("pick")
    held = follow(plan)
    assert held["pick"] == 1 and held == Counter(plan.inventory)
    assert sum(step.count for step in plan.steps if step.object == "log") == 3  # 9 planks: 4 + 3 + 2


def test_what_is_at_hand_is_used_and_surplus_reused():
    assert texts(WOOD.decompose("stick", 4, {"planks": 2})) == ["craft 4 stick"]
    assert texts(WOOD.decompose("planks", 3, {"planks": 3})) == []
    assert texts(WOOD.decompose("planks", 5)) == ["mine 2 log", "craft 8 planks"]
    plan = WOOD.decompose("stick", 5, {"planks": 1})
    assert follow(plan, {"planks": 1})["stick"] == 8 and plan.inventory["planks"] == 1
    assert WOOD.decompose("stick", 0).steps == ()


def test_the_tree_has_prerequisites_below_what_needs_them():
    [tree] = WOOD.decompose("stone").trees
    assert tree.sub_goal.text == "mine stone"
    assert [child.sub_goal.text for child in tree.children] == ["craft pick"]
    assert tree.to_json()["goal"] == "mine stone"


def test_of_alternatives_the_cheapest_from_here_is_taken():
    fuel = Recipes.from_text("mine coal with pick", "mine log", "craft pick from 3 log", "burn 8 heat from 1 coal")
    either = Recipes([*fuel.recipes, *Recipes.from_text("burn 3 heat from 2 log").recipes])
    assert texts(either.decompose("heat", 3)) == ["mine 2 log", "burn 3 heat"]
    assert texts(either.decompose("heat", 24)) == ["mine 3 log", "craft pick", "mine 3 coal", "burn 24 heat"]
    assert texts(either.decompose("heat", 3, {"coal": 1})) == ["burn 8 heat"]


def test_an_alternative_is_found_two_recipes_down():
    kinds = Recipes.from_text(
        "mine oak_log", "mine elm_log", "craft 4 oak from 1 oak_log", "craft 4 elm from 1 elm_log",
        "craft box from 4 oak", "craft box from 4 elm",
    )  # fmt: skip
    assert texts(kinds.decompose("box", 1, {"elm_log": 1})) == ["craft 4 elm", "craft box"]


def test_circles_end():
    ore = Recipes.from_text(
        "craft block from 9 ingot", "craft 9 ingot from 1 block", "mine ore", "smelt ingot from 1 ore"
    )
    assert texts(ore.decompose("block")) == ["mine 9 ore", "smelt 9 ingot", "craft block"]
    assert texts(ore.decompose("ingot", 9, {"block": 1})) == ["craft 9 ingot"]
    assert follow(ore.decompose("ingot", 10, {"ingot": 9}), {"ingot": 9})["ingot"] == 10
    only = Recipes.from_text("craft block from 9 ingot", "craft 9 ingot from 1 block")
    with pytest.raises(Unreachable) as caught:
        only.decompose("ingot", 10, {"ingot": 9})
    assert caught.value.missing
    assert texts(only.decompose("ingot", 9, {"block": 1})) == ["craft 9 ingot"]


def test_a_tool_that_is_also_a_material_is_kept_until_it_was_used():
    kit = Recipes.from_text("mine iron", "craft hammer from 2 iron", "craft plate from 1 iron and 1 hammer with hammer")
    plan = kit.decompose("plate")
    assert follow(plan)["plate"] == 1


def test_unreachable_says_what_is_missing():
    world = CraftingWorld()
    with pytest.raises(Unreachable, match="tnt cannot be reached; missing: 10 gunpowder") as caught:
        world.recipes.decompose("tnt", 2)
    assert caught.value.missing == {"gunpowder": 10} and isinstance(caught.value, InputError)
    few = Recipes.from_text("craft rope from 3 fibre")
    with pytest.raises(Unreachable) as caught:
        few.decompose("rope", 2, {"fibre": 4})
    assert caught.value.missing == {"fibre": 2}
    assert texts(few.decompose("rope", 1, {"fibre": 4})) == ["craft rope"]


def test_unknown_items_and_counts():
    with pytest.raises(InputError, match=r"did you mean .*iron_pickaxe"):
        CraftingWorld().recipes.decompose("iron_pikaxe")
    assert CraftingWorld().recipes.item("Iron Pickaxes") == "iron_pickaxe"
    for count in (-1, 1.5, True):
        with pytest.raises(InputError, match="whole number"):
            WOOD.decompose("log", count)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="planks must be a whole number"):
        WOOD.decompose("stick", 1, {"planks": -2})
    with pytest.raises(InputError, match="named by a text"):
        WOOD.item(3)  # type: ignore[arg-type]


def test_a_chain_that_is_too_long_is_an_error_of_ours():
    chain = Recipes(
        [Recipe(makes="i0", by="mine")] + [Recipe(makes=f"i{n}", materials={f"i{n - 1}": 1}) for n in range(1, 3000)]
    )
    with pytest.raises(InputError, match="too long"):
        chain.decompose("i2999")


def test_text_and_json_say_the_same(tmp_path):
    again = Recipes.from_text("\n".join(recipe.text for recipe in CraftingWorld().recipes.recipes))
    assert again.recipes == CraftingWorld().recipes.recipes
    assert again.fingerprint == CraftingWorld().recipes.fingerprint != WOOD.fingerprint
    file = tmp_path / "kb.json"
    file.write_text(
        json.dumps({"recipes": [{"makes": "planks", "count": 4, "from": {"log": 1}}, {"makes": "log", "by": "mine"}]})
    )
    assert texts(Recipes.from_json(file).decompose("planks")) == ["mine log", "craft 4 planks"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "no recipe"),
        ([{"by": "mine"}], "must be an object with 'makes'"),
        ([3], "must be an object"),
        ([{"makes": "a", "frm": {}}], "has 'frm'"),
        ([{"makes": "a", "from": ["b"]}], "'from' must be"),
        ([{"makes": "a", "from": {"b": 0}}], "at least 1"),
        ([{"makes": "a", "from": {"b": 1.5}}], "whole number"),
        ([{"makes": "a", "count": -1}], "at least 1"),
        ([{"makes": "a b"}], "without spaces"),
        ([{"makes": ""}], "without spaces"),
        ([{"makes": 3}], "must be a name"),
        ([{"makes": "a", "tools": "pick"}], "list of names"),
        ([{"makes": "a", "tools": 3}], "recipe 0"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(InputError, match=message):
        Recipes.from_json(rows)


def test_bad_files_and_lines(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        Recipes.from_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Recipes.from_json(tmp_path / "bad.json")
    (tmp_path / "other.json").write_text('{"rows": []}')
    with pytest.raises(InputError, match="must be a list"):
        Recipes.from_json(str(tmp_path / "other.json"))
    with pytest.raises(InputError, match="not a recipe: 'make 3 tea out of water'"):
        Recipes.from_text("make 3 tea out of water")


def test_the_shipped_world_is_large_and_deep():
    recipes = CraftingWorld().recipes
    assert len(recipes.reachable()) >= 60
    steps = recipes.decompose("diamond").steps
    assert len(steps) >= 20 and steps[-1].text == "mine diamond"
    for item in recipes.reachable():
        assert follow(recipes.decompose(item, 3))[item] >= 3


# --- any graph ------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> Recipes:
    """Random graphs with circles, batches, tools and stations; some items have no recipe."""
    names = [f"i{n}" for n in range(draw(st.integers(2, 9)))]
    item = st.sampled_from(names)
    recipes = []
    for makes in draw(st.lists(item, min_size=1, max_size=14)):
        recipes.append(
            Recipe(
                makes=makes,
                count=draw(st.integers(1, 5)),
                by=draw(st.sampled_from(["craft", "mine"])),
                materials=draw(st.dictionaries(item, st.integers(1, 4), max_size=3)),
                tools=tuple(draw(st.lists(item, max_size=2, unique=True))),
                station=draw(st.sampled_from(["", *names])),
            )
        )
    return Recipes(recipes)


@settings(max_examples=300, deadline=None)
@given(graphs(), st.data())
def test_every_decomposition_can_be_followed(recipes, data):
    goal = data.draw(st.sampled_from(recipes.items))
    count = data.draw(st.integers(1, 7))
    inventory = data.draw(st.dictionaries(st.sampled_from(recipes.items), st.integers(0, 6), max_size=4))
    try:
        plan = recipes.decompose(goal, count, inventory)
    except Unreachable as error:
        assert error.missing and all(n > 0 for n in error.missing.values())
        return
    held = follow(plan, inventory)
    assert held[goal] >= count
    assert +held == Counter(plan.inventory)
    assert recipes.decompose(goal, count, inventory) == plan


@settings(max_examples=200, deadline=None)
@given(graphs(), st.data())
def test_what_can_be_had_from_nothing_is_reached(recipes, data):
    """Reachability is decided by a closure; decomposition must agree where no circle feeds on itself."""
    assume(recipes.reachable())
    goal = data.draw(st.sampled_from(sorted(recipes.reachable())))
    assert follow(recipes.decompose(goal))[goal] >= 1
