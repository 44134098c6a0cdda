"""Haystacks: the right answers are right, unique, of the asked length, and the same for the same seed."""

from __future__ import annotations

import json
import math
import time

import pytest

from memspan.core.errors import InputError
from memspan.probes.base import Item
from memspan.probes.needle_threading import (
    MARK,
    TASKS,
    NeedleThreading,
    Surface,
    characters_a_token,
    effective_length,
    surface,
)
from memspan.probes.run import run
from memspan.probes.subjects import Guesser, Oracle

HARD = {"needles": 4, "steps": 4, "threads": 3, "branches": 3}


def solved(item: Item, task: str) -> list[str]:
    """The answer by walking through the JSON, knowing nothing of how the item was made."""
    stack = json.loads(item.context)
    asked = [word for word in item.question.split('"') if len(word) == 36 or MARK in word]

    def follow(key):
        while isinstance(stack.get(key), str):
            key = stack[key]
        return key

    def chains(key, walked):
        held = stack.get(key)
        if held is None:
            yield walked
            return
        for one in [held] if isinstance(held, str) else held:
            yield from chains(one, [*walked, one])

    if task == "conditional":
        return [value for key, value in stack.items() if MARK in key]
    if task == "branched":
        found = sorted(chains(asked[0], []), key=len)
        assert len(found) == 1 or len(found[-1]) > len(found[-2])
        return [found[-1][-1]]
    if task in ("thread", "multithread"):
        return [follow(key) for key in asked]
    return [stack[key] for key in asked]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [1500, 20_000])
@pytest.mark.parametrize("placement", ["random", "clustered"])
@pytest.mark.parametrize("direction", ["forward", "backward", "random"])
def test_every_answer_can_be_found_and_no_other(task, length, placement, direction):
    exam = NeedleThreading(tasks=(task,), placement=placement, direction=direction, **HARD)
    for item in exam.items(4, length, 3, exam.estimate):
        assert solved(item, task) == item.answer
        stack = json.loads(item.context)
        flat = [one for held in stack.values() for one in ([held] if isinstance(held, str) else held)]
        assert len(set(flat)) == len(flat)
        linked = sum(one in stack for one in flat)
        wanted = {"thread": 3, "multithread": 9, "branched": 3 + 2 * 2}.get(task, 0)
        assert linked == wanted  # no value is a key by accident
        for choice in item.choices:
            assert len(set(choice.options)) == len(choice.options) == 4
            assert choice.options[choice.right] in item.answer
            if task != "multiple":  # there the value of another key that was asked for is as good a wrong option
                assert sum(option in item.answer for option in choice.options) == 1
        assert "{" + ",\n".join(item.pieces) + "}" == item.context


def test_lengths_are_exact_to_a_pair_and_fast():
    exam = NeedleThreading()
    begun = time.perf_counter()
    items = exam.items(6, 100_000, 0, exam.estimate)
    assert time.perf_counter() - begun < 12  # six haystacks
    for item in [*items, *exam.items(12, 500, 0, exam.estimate)]:
        each = item.group["tokens"] / item.group["pairs"]
        assert item.group["length"] - 2 * each < item.group["tokens"] <= item.group["length"]


def test_the_same_seed_makes_the_same_items():
    exam = NeedleThreading()
    assert exam.items(12, 800, 5, exam.estimate) == exam.items(12, 800, 5, exam.estimate)
    first, other = exam.items(6, 800, 5, exam.estimate), exam.items(6, 800, 6, exam.estimate)
    assert not {item.context for item in first} & {item.context for item in other}


def test_single_needles_stand_at_every_depth():
    exam = NeedleThreading(tasks="single")
    items = exam.items(11, 2_000, 0, exam.estimate)
    places = [list(json.loads(item.context)).index(item.question.split('"')[1]) for item in items]
    assert places == [round(i / 10 * (len(items[i].pieces) - 1)) for i in range(11)]


@pytest.mark.parametrize("form", ["text", "likelihood"])
def test_an_oracle_is_always_right_and_a_guesser_is_by_chance(form):
    exam = NeedleThreading(**HARD)
    assert run(exam, Oracle(exam), n=18, lengths=(1_500, 4_000), form=form).score == 1
    guessed = run(exam, Guesser(exam), n=240, lengths=(4_000,), form=form)
    low, high = guessed.interval
    if form == "likelihood":
        assert guessed.chance == 0.25
        assert low < 0.25 < high
    else:
        assert guessed.score < 0.02


@pytest.mark.parametrize(
    ("task", "said", "score"),
    [
        ("single", "The value is {0}.", 1),
        ("single", "no idea", 0),
        ("multiple", '["{0}", "{2}", "{1}"]', 1 / 3),
        ("multiple", '["{0}", "{1}"]', 2 / 3),
        ("conditional", "{2} {1} {0}", 1),
        ("conditional", "{2} {1} {0} {x} {y} {z}", 2 / 3),
        ("thread", "{x}", 0),
    ],
)
def test_answers_are_marked(task, said, score):
    exam = NeedleThreading(tasks=task)
    item = exam.items(1, 1_500, 0, exam.estimate)[0]
    others = [value for value in json.loads(item.context).values() if value not in item.answer]
    text = said.format(*item.answer, x=others[0], y=others[1], z=others[2])
    grade = exam.grade(item, text)
    assert grade.score == pytest.approx(score)
    assert grade.parsed == (said != "no idea")


def test_what_does_not_fit_is_said():
    exam = NeedleThreading(steps=30)
    with pytest.raises(InputError, match="fewer than the 33 pairs that thread needs"):
        exam.items(6, 800, 0, exam.estimate)
    with pytest.raises(InputError, match="at least 200 tokens"):
        run(NeedleThreading(), Oracle(NeedleThreading()), lengths=(100,))
    for options in ({"tasks": "double"}, {"steps": 0}, {"branches": 1}, {"direction": "up"}, {"placement": "near"}):
        with pytest.raises(InputError):
            NeedleThreading(**options)


class _ShortSighted(Oracle):
    """Right below some characters, and outside some depths."""

    name = "short-sighted"

    def __init__(self, exam, most=math.inf, blind=(2, 2)):
        super().__init__(exam)
        self._most, self._blind, self._sees = most, blind, True

    def read(self, item):
        self._sees = len(item.context) <= self._most and not self._blind[0] <= item.group["depth"] <= self._blind[1]

    def weigh(self, choice):
        return [score if self._sees else -score for score in super().weigh(choice)]


def test_the_effective_length_is_found():
    exam, lengths = NeedleThreading(tasks="single"), (500, 1_000, 2_000, 4_000, 8_000)
    report = run(exam, _ShortSighted(exam, most=4_000), n=11, lengths=lengths, form="likelihood")
    found = surface(report)
    sizes = found.characters
    for reached in effective_length(found):
        assert sizes[2] <= reached <= sizes[3]  # within a step of what it could see
    dip = effective_length(
        surface(run(exam, _ShortSighted(exam, blind=(0.35, 0.65)), n=11, lengths=lengths, form="likelihood"))
    )
    assert [value == 0 for value in dip] == [0.35 <= i / 10 <= 0.65 for i in range(11)]
    assert effective_length(Surface((0.5,), (10.0, 20.0, 30.0), ((1.0, 0.5, 1.0),)), 0.75) == (15.0,)
    with pytest.raises(InputError, match="has a colour"):
        surface(report, "colour")


def test_tokenizers_are_compared():
    found = characters_a_token(lambda text: len(text) // 2)
    assert set(found) == {"uuids", "numbers", "english"}
    assert all(value == pytest.approx(2, rel=0.01) for value in found.values())
