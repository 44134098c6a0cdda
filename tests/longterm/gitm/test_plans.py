"""Goals, actions, and how several runs become one plan."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.core.errors import InputError
from memspan.longterm.gitm import Action, Goal, Taken
from memspan.longterm.gitm.actions import effective, parse_action, parse_log
from memspan.longterm.gitm.plans import (
    Run,
    Shelf,
    distil_by_rules,
    is_subsequence,
    longest_common_subsequence,
    supported_plan,
    usable_plan,
)


def acts(letters: str) -> tuple[Action, ...]:
    return tuple(Action(letter) for letter in letters)


def run(letters: str, success: bool = True, **more: object) -> Run:
    return Run(
        episode=str(more.pop("episode", letters)),
        goal=Goal("win"),
        log=tuple(Taken(action) for action in acts(letters)),
        success=success,
        **more,  # type: ignore[arg-type]
    )


# --- goals and actions ---


@pytest.mark.parametrize(
    "one, other",
    [
        ("get 3 logs", "obtain a log"),
        ("Craft the iron axes", "make iron_axe x2"),
        ("How do I craft an iron axe?", "craft iron axe"),
        ("diamond", "obtain two diamonds"),
        ("deploy the Web-Shop", {"verb": "deploy", "object": "web_shop"}),
        ("mine cookies", "mine cookie"),
        ("do the dishes", "do dish"),
        ("Can I open the door?", "open door"),
    ],
)
def test_goals_that_are_one(one, other):
    assert Goal.parse(one).key == Goal.parse(other).key


def test_goals_that_are_not_one():
    keys = [Goal.parse(text).key for text in ("mine glass", "craft glass", "craft glass pane", "craft compass")]
    assert len(set(keys)) == 4


def test_counts_are_read():
    assert [Goal.parse(t).count for t in ("mine 3 logs", "mine logs x12", "mine two logs", "mine logs")] == [
        3,
        12,
        2,
        1,
    ]
    assert Goal.parse("craft 4 planks").text == "craft 4 planks" and Goal("craft", "iron_axe").text == "craft iron axe"


@pytest.mark.parametrize(
    "bad", ["", "  the ", "?!", 3, None, {"verb": ""}, {"object": 3}, {"what": "x"}, "mine 0 logs"]
)
def test_what_is_no_goal(bad):
    with pytest.raises(InputError):
        Goal.parse(bad)


def test_actions_read_back():
    for taken in (
        Taken(Action("git pull")),
        Taken(Action("mine", "log", None), "failed"),
        Taken(Action("go_up", count=0)),
    ):
        assert parse_action(taken.to_json()) == taken
    assert parse_action("  git   pull ") == Taken(Action("git pull"))
    assert (
        str(Action("craft", "heat", 3, "coal")) == "craft 3 heat using coal" and str(Action("dig", count=5)) == "dig 5"
    )


@pytest.mark.parametrize(
    "bad, message",
    [
        ("go", "must be a list"),
        ({"name": "go"}, "must be a list"),
        ([""], "action 0: an action is empty"),
        (["go", 3], "action 1"),
        ([{}], "needs a name"),
        ([{"name": 3}], "must be text"),
        ([{"name": "go", "count": -1}], "count must be"),
        ([{"name": "go", "count": True}], "count must be"),
        ([{"name": "go", "outcome": "well"}], "outcome is 'well'"),
        ([{"name": "go", "colour": "red"}], "no 'colour'"),
    ],
)
def test_bad_actions_are_named(bad, message):
    with pytest.raises(InputError, match=message):
        parse_log(bad)


def test_the_count_is_a_slot():
    goal = Goal("mine", "iron_ore", 3)
    act = Action("mine", "iron_ore", 3, "shaft").slotted(goal)
    assert act == Action("mine", "iron_ore", None)
    assert act.filled(7, "pit") == Action("mine", "iron_ore", 7, "pit")
    assert Action("approach", "tree", 1).slotted(goal) == Action("approach", "tree", 1)
    assert Action("explore", "iron_ore_vein").renamed("iron_ore", "gold_ore") == Action("explore", "gold_ore_vein")
    assert Action("explore", "iron_oreless").renamed("iron_ore", "gold_ore").object == "iron_oreless"


def test_failed_attempts_are_no_part_of_a_plan():
    log = (Taken(Action("a"), "failed"), Taken(Action("b")), Taken(Action("c"), "held"))
    assert effective(log) == acts("bc")


# --- from lists to one plan ---

WORDS = st.lists(st.text("abcd", max_size=9).map(acts), min_size=1, max_size=5)


@settings(deadline=None)
@given(WORDS)
def test_the_common_subsequence_is_in_every_list(lists):
    common = longest_common_subsequence(lists)
    assert all(is_subsequence(common, actions) for actions in lists)


@settings(deadline=None)
@given(st.lists(st.text("abc", max_size=5).map(acts), min_size=2, max_size=4))
def test_no_common_subsequence_is_longer(lists):
    from itertools import combinations

    found = longest_common_subsequence(lists)
    every = (c for n in range(len(lists[0]), len(found), -1) for c in combinations(lists[0], n))
    assert not any(all(is_subsequence(candidate, other) for other in lists) for candidate in every)


def test_long_lists_are_compared_two_by_two():
    lists = [acts("ab" * 40), acts("ba" * 40), acts("aab" * 40)]
    common = longest_common_subsequence(lists)
    assert len(common) > 30 and all(is_subsequence(common, actions) for actions in lists)
    assert longest_common_subsequence([]) == () and longest_common_subsequence([acts("ab" * 3000)]) == acts("ab" * 3000)


@settings(deadline=None)
@given(st.lists(st.text("abcd", min_size=1, max_size=8).map(acts), min_size=2, max_size=5), st.integers(1, 6))
def test_a_distilled_plan_is_proved_by_a_run(lists, support):
    plan, how = distil_by_rules(support)(Goal("win"), lists)
    assert how and usable_plan(plan, lists)
    if support >= len(lists) and "subsequence" in how:
        assert all(is_subsequence(plan, actions) for actions in lists)


def test_detours_go_and_needs_stay():
    lists = [acts("eam"), acts("eaqm"), acts("m"), acts("wm"), acts("m")]
    assert supported_plan(lists, 2) == acts("eam")  # two runs had to explore and approach, others were there already
    assert distil_by_rules(5)(Goal("win"), lists)[0] == acts("m")
    assert distil_by_rules(2)(Goal("win"), [acts("xa"), acts("yb"), acts("zzc")])[0] == acts("xa")  # nothing is shared


def test_what_is_not_usable():
    lists = [acts("abc"), acts("acb")]
    assert usable_plan(acts("bc"), lists) and not usable_plan(acts("ab"), [acts("abc")])
    assert not usable_plan((), lists) and not usable_plan(acts("cab"), lists)


# --- the shelf ---


def shelf_of(*runs: Run) -> Shelf:
    shelf = Shelf(Goal("win"))
    for each in runs:
        shelf.take(each, distil_after=3, retire_after=2, distil=distil_by_rules(2))
    return shelf


def test_first_run_is_the_reference_until_there_are_n():
    assert shelf_of(run("abc")).reference.actions == acts("abc")  # type: ignore[union-attr]
    two = shelf_of(run("axc"), run("abc"))
    assert two.reference.actions == acts("axc") and len(two.queue) == 1  # type: ignore[union-attr]
    three = shelf_of(run("axc"), run("abc"), run("abyc"))
    assert three.reference.actions == acts("abc") and not three.queue  # type: ignore[union-attr]
    assert three.reference.runs == ["axc", "abc", "abyc"] and three.ended[0].status == "merged"  # type: ignore[union-attr]


def test_failures_in_a_row_retire_and_a_success_between_does_not():
    shelf = shelf_of(run("ab"), run("ab", False), run("ab"), run("ab", False))
    assert shelf.reference.failed_in_a_row == 1 and (shelf.successes, shelf.failures) == (2, 2)  # type: ignore[union-attr]
    shelf = shelf_of(run("ab"), run("cb"), run("a", False), run("ab", False))
    assert [plan.status for plan in shelf.ended] == ["retired"]
    assert shelf.reference.actions == acts("cb")  # type: ignore[union-attr]  (the next of the queue)


def test_only_failures_of_the_plan_count_against_it():
    shelf = shelf_of(run("ab"), run("xyz", False), run("xyz", False), run("ab", False, plan="other"))
    assert shelf.reference.failures == 0  # type: ignore[union-attr]
    shelf = shelf_of(run("ab"), run("zz", False, plan="win #1"), run("zz", False, plan="win #1"))
    assert shelf.reference is None and shelf.ended[0].reason == "failed 2 times in a row"


def test_other_rules_make_a_plan_stale():
    shelf = shelf_of(run("ab", knowledge="old"), run("cb", knowledge="old"), run("db", knowledge="new"))
    assert shelf.ended[0].status == "stale" and shelf.reference.actions == acts("db")  # type: ignore[union-attr]


def test_partial_progress_is_no_plan():
    assert shelf_of(run("ab", False)).reference is None
    assert shelf_of(run("")).reference is None
