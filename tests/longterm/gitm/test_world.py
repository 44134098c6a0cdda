"""The crafting world: hidden rules, feedback, mishaps, and worlds of one's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.core.errors import InputError
from memspan.longterm.gitm import Action, CraftingWorld, Env, Recipes


def does(world: CraftingWorld, *actions: Action) -> list[str]:
    """Codes of the results, "" for those that worked."""
    return [world.do(action).code for action in actions]


def test_a_place_is_found_then_gone_to():
    world = CraftingWorld()
    assert isinstance(world, Env)
    mine, approach, explore = Action("mine", "log"), Action("approach", "tree"), Action("explore", "tree")
    assert does(world, mine, approach, explore, mine, approach, mine) == ["far", "hidden", "", "far", "", ""]
    assert world.observe()["inventory"] == {"log": 1} and world.holds(approach) and not world.holds(mine)


def test_depth_needs_a_pickaxe_in_the_hand_and_loses_what_was_near():
    world = CraftingWorld(inventory={"wooden_pickaxe": 1})
    down = Action("dig_down", count=5)
    assert does(world, Action("explore", "coal_ore"), down, Action("equip", "wooden_pickaxe"), down) == [
        "depth",
        "tool",
        "",
        "",
    ]
    assert does(world, Action("explore", "coal_ore"), Action("approach", "coal_ore"), Action("mine", "coal", 3)) == [
        "",
        "",
        "",
    ]
    assert world.holds(Action("dig_down", count=4)) and not world.holds(Action("go_up", count=0))
    assert does(world, Action("go_up", count=0), Action("mine", "coal")) == ["", "far"]
    assert does(world, Action("dig_down", count=500)) == ["depth"]


def test_the_right_tool_must_be_in_the_hand():
    world = CraftingWorld(inventory={"wooden_pickaxe": 1, "stone_pickaxe": 1})
    there = [
        Action("equip", "wooden_pickaxe"),
        Action("dig_down", count=10),
        Action("explore", "iron_ore"),
        Action("approach", "iron_ore"),
    ]
    mine = Action("mine", "iron_ore")
    assert does(world, *there, mine, Action("equip", "stone_pickaxe"), mine) == ["", "", "", "", "tool", "", ""]
    result = world.do(Action("equip", "iron_pickaxe"))
    assert (result.code, result.reason) == ("materials", "you have no iron_pickaxe")


def test_a_station_stands_until_one_moves():
    world = CraftingWorld(inventory={"crafting_table": 1, "planks": 16, "stick": 8})
    craft, place = Action("craft", "wooden_pickaxe"), Action("place", "crafting_table")
    assert does(world, craft, place, craft) == ["station", "", ""]
    assert world.observe()["placed"] == ["crafting_table"] and world.observe()["inventory"]["crafting_table"] == 1
    assert does(world, Action("explore", "tree"), Action("approach", "tree"), craft) == ["", "", "station"]
    assert does(world, Action("place", "furnace")) == ["materials"]


def test_batches_and_ways():
    world = CraftingWorld(inventory={"log": 3, "coal": 1, "furnace": 1, "planks": 2})
    world.do(Action("place", "furnace"))
    assert world.do(Action("craft", "planks", 5)).changes == {"inventory": {"planks": 8, "log": -2}}
    assert world.do(Action("burn", "heat", 3, "planks")).changes == {"inventory": {"heat": 3, "planks": -2}}
    assert world.do(Action("burn", "heat")).changes == {"inventory": {"heat": 8, "coal": -1}}
    result = world.do(Action("craft", "planks", 9))
    assert result.code == "materials" and result.detail["missing"] == {"log": 2} and "2 log missing" in result.reason


def test_what_cannot_be_done_is_said():
    world = CraftingWorld()
    assert (
        does(world, Action("fly"), Action("mine", "planks"), Action("craft", "moon"), Action("explore", "moon"))
        == ["unknown"] * 4
    )
    assert "it is craft" in world.do(Action("mine", "planks")).reason


def test_mishaps_come_from_the_seed():
    actions = [Action("explore", "tree"), Action("approach", "tree"), Action("mine", "log")] * 30

    def lived(seed: int) -> list[str]:
        return does(CraftingWorld(failure_rate=0.3, seed=seed), *actions)

    assert lived(1) == lived(1) != lived(2)
    share = lived(1).count("interrupted") / len(actions)
    assert 0.15 < share < 0.45
    assert "interrupted" not in does(CraftingWorld(), *actions)


def test_any_recipes_make_a_world():
    kb = Recipes.from_text("collect ticket at counter", "board train from 1 ticket")
    world = CraftingWorld(kb)
    assert does(world, Action("collect", "ticket"), Action("explore", "counter"), Action("approach", "counter")) == [
        "far",
        "",
        "",
    ]
    assert does(world, Action("collect", "ticket"), Action("board", "train"), Action("board", "train")) == [
        "",
        "",
        "materials",
    ]
    deep = CraftingWorld(kb, depths={"counter": (3, 4)})
    assert does(deep, Action("explore", "counter"), Action("dig_down", count=3), Action("explore", "counter")) == [
        "depth",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "bad", [{"failure_rate": 1.0}, {"failure_rate": -0.1}, {"inventory": {"log": -1}}, {"inventory": {"log": 0.5}}]
)
def test_bad_options(bad):
    with pytest.raises(InputError):
        CraftingWorld(**bad)


WORLD = CraftingWorld()
ACTIONS = st.builds(
    Action,
    st.sampled_from([*sorted(WORLD.actions), "fly"]),
    st.sampled_from([*WORLD.recipes.items, *WORLD.depths, ""]),
    st.one_of(st.none(), st.integers(0, 70)),
    st.sampled_from(["", "coal", "log"]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ACTIONS, max_size=40), st.sampled_from([0.0, 0.3]))
def test_no_sequence_of_actions_makes_something_of_nothing(actions, rate):
    world = CraftingWorld(failure_rate=rate, inventory=dict.fromkeys(WORLD.recipes.items, 3))
    for action in actions:
        before = world.observe()["inventory"]
        result = world.do(action)
        after = world.observe()["inventory"]
        assert all(count > 0 for count in after.values())
        assert bool(result.ok) != bool(result.reason)
        changed = {
            i: after.get(i, 0) - before.get(i, 0) for i in {*before, *after} if after.get(i, 0) != before.get(i, 0)
        }
        assert changed == dict(result.changes.get("inventory", {}))
        if (
            result.ok
            and action.name != "place"
            and action.name in ("explore", "approach", "equip", "dig_down", "go_up")
        ):
            assert world.holds(action)
