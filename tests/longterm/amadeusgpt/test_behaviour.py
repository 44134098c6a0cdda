"""Definitions in words: what is read, what is told as unread, and the same as Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import InputError
from memspan.longterm.amadeusgpt import SymbolMemory, demo_pose, make_pose, read_behaviour
from memspan.longterm.amadeusgpt.behaviour import MEASURES, evaluate, helpers_of, program_of
from memspan.longterm.amadeusgpt.phrases import read_phrases
from memspan.longterm.amadeusgpt.sandbox import Sandbox


def read(text: str) -> list[str]:
    return [f"{m} {s} {v:g}{'/s' if per else ''}" for _, (m, s, v, per) in read_phrases(text).conditions]


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("closest distance < 40 px", ["closest_distance < 40"]),
        ("the distance is at most 40.5 pixels", ["closest_distance <= 40.5"]),
        ("centre distance over 12", ["distance > 12"]),
        ("a head angle of less than 30°", ["head_angle < 30"]),
        ("speed >= 2 px/frame", ["speed >= 2"]),
        ("its speed exceeds 60 px per second", ["speed > 60/s"]),
        ("the other's speed is below 1", ["other_speed < 1"]),
        ("turning rate above 5 deg", ["turning > 5"]),
        ("acceleration more than .5", ["acceleration > 0.5"]),
        ("faster than 3 and slower than 9", ["speed > 3", "speed < 9"]),
        ("closer than 40 px, not further than 9", ["closest_distance < 40", "closest_distance > 9"]),
        ("50–260 px", ["closest_distance >= 50", "closest_distance <= 260"]),
        ("distance between 50 and 260 px", ["closest_distance >= 50", "closest_distance <= 260"]),
        ("head angle 5 to 15 degrees", ["head_angle >= 5", "head_angle <= 15"]),
        ("10 < distance <= 40", ["closest_distance > 10", "closest_distance <= 40"]),
        ("within 60 px of the other", ["closest_distance <= 60"]),
        ("distance < 3 cm", []),
        ("distance < 3.5 cm", []),
        ("speed > 2 m/s", []),
        ("speed is high", []),
        ("version 2 of 40 videos", []),
    ],
)
def test_comparisons(text, conditions):
    assert read(text) == conditions


@pytest.mark.parametrize(
    ("text", "smooth", "frames", "seconds"),
    [
        ("speed > 2, smoothing window 15", 15, 0, 0),
        ("speed > 2, smoothed over 5 frames, for at least 10 frames", 5, 10, 0),
        ("speed > 2 for at least 0.5 s", 1, 0, 0.5),
        ("speed > 2 lasting more than 250 ms", 1, 0, 0.25),
        ("speed > 2 with a minimum duration of 3 seconds", 1, 0, 3),
        ("speed > 2 with a window of 7 frames", 7, 0, 0),
        ("speed > 2", 1, 0, 0),
    ],
)
def test_durations_and_smoothing(text, smooth, frames, seconds):
    found = read_phrases(text)
    assert (found.smooth, found.least_frames, found.least_seconds) == (smooth, frames, seconds)
    assert len(found.conditions) == 1


@pytest.fixture
def symbols():
    with SymbolMemory() as symbols:
        symbols.define("<|chases|> is closest distance < 40 px, head angle < 30 deg, speed > 2")
        symbols.define("<|watch|> is 50-260 px with head angle < 15 and smoothing window 15")
        symbols.define("<|idle|> is slower than 0.5 for at least 10 frames")
        yield symbols


def said(symbols, text: str) -> str:
    from memspan.longterm.amadeusgpt.asking import said

    symbols.define(text)
    return said(symbols.behaviour("x"), symbols.table)


def test_symbols_in_definitions(symbols):
    assert said(symbols, "<|x|> is <chases> and not <idle>") == "<chases> and not <idle>"
    assert said(symbols, "<|x|> is <chases> or <watch>") == "<chases> or <watch>"
    both = "<chases> and not <idle> or <watch> and not <idle>"
    assert said(symbols, "<|x|> is <chases> or <watch> but not <idle>") == both
    assert said(symbols, "<|x|> is <chases> and speed > 4") == "<chases> and speed > 4 px/frame"


def test_but_changes_the_condition_on_the_same_measure(symbols):
    changed = "closest distance < 40 px and head angle < 30 deg and speed > 1 px/frame"
    assert said(symbols, "<|x|> is <chases> but faster than 1") == changed
    assert said(symbols, "<|x|> is <watch> but head angle < 9, smoothed over 3 frames").endswith(
        "head angle < 9 deg, smoothed over 3 frames"
    )
    assert "for at least 10 frames" in said(symbols, "<|x|> is <idle> but slower than 0.1")


def test_what_is_not_understood_is_told(symbols):
    symbols.define("<|x|> is speed > 2, the tail is up and distance < 3 cm")
    assert symbols.behaviour("x").unread == ("the tail is up", "distance < 3 cm")
    symbols.define("<|x|> means that they are happy")
    with pytest.raises(InputError, match="holds no condition that can be read"):
        symbols.behaviour("x")


def test_masks_are_what_the_words_say(symbols):
    pose = demo_pose()
    gap, angle, speed = pose.closest_distance(), pose.head_angle(), pose.speed()
    chases = symbols.call("chases", pose)
    assert np.array_equal(chases, (gap < 40) & (angle < 30) & (speed > 2)[:, :, None]) and chases.any()
    idle = symbols.call("idle", pose)
    assert idle.shape == speed.shape and np.array_equal(idle, pose.lasting(speed < 0.5, 10))
    symbols.define("<|x|> is <chases> and the other's speed is more than 60 px/s")
    assert np.array_equal(symbols.call("x", pose), chases & (speed > 60 / pose.fps)[:, None, :])


def test_one_animal_has_no_other(symbols):
    alone = make_pose(np.random.default_rng(0).normal(size=(9, 1, 2, 2)), ("a",), ("nose", "neck"))
    with pytest.raises(InputError, match="needs two animals"):
        symbols.call("chases", alone)
    assert symbols.call("idle", alone).shape == (9, 1)
    headless = make_pose(np.zeros((9, 2, 2, 2)), ("a", "b"), ("p", "q"))
    with pytest.raises(InputError, match="the head cannot be found"):
        symbols.call("chases", headless)


@pytest.mark.parametrize(
    "source",
    [
        "def x(p): return 5",
        "def x(p): return np.zeros(3)",
        "def x(p): return p.speed()",
        "def x(p): return {'a': 1}",
    ],
)
def test_programs_must_return_a_mask(symbols, source):
    symbols.define("<|x|> by hand", source)
    symbols.define("<|y|> is not <x>")
    with pytest.raises(InputError, match="must return True or False for each frame"):
        symbols.call("y", demo_pose(), allow_code=True)


TEXTS = st.lists(
    st.one_of(
        st.builds(
            "{} {} {}".format,
            st.sampled_from([name for name, _ in MEASURES.values() if "center" not in name and "other" not in name]),
            st.sampled_from(["<", "<=", ">", ">="]),
            st.integers(1, 90),
        ),
        st.sampled_from(["<chases>", "not <idle>", "<watch>", "for at least 6 frames", "smoothing window 5"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=12, deadline=None)
@given(TEXTS, st.sampled_from([" and ", " or ", ", "]))
def test_the_python_of_a_definition_gives_the_same_mask(parts, joint):
    pose = demo_pose()
    with SymbolMemory() as symbols:
        symbols.define("<|chases|> is closest distance < 40 px, head angle < 30 deg, speed > 2")
        symbols.define("<|watch|> is 50-260 px with head angle < 15 and smoothing window 15")
        symbols.define("<|idle|> is slower than 0.5 for at least 0.3 s")
        symbols.define(f"<|x|> is {joint.join(parts)}")
        table, place = symbols.table, symbols.table.current("x")
        try:
            behaviour = read_behaviour(table, place)
        except InputError:
            assert all("at least" in part or "window" in part for part in parts)
            return
        mask = evaluate(table, behaviour, pose, lambda *_: pytest.fail("no stored program is in it"))
        made = Sandbox().run(program_of(table, place), pose, helpers=helpers_of(table, place), allow_code=True)
        assert np.array_equal(mask, made.value)
