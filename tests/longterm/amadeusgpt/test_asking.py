"""Questions about behaviour, the plot, and the verb of the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from memspan import InputError
from memspan.cli import main
from memspan.longterm.amadeusgpt import (
    SymbolMemory,
    ask_behaviour,
    demo_pose,
    make_pose,
    plot_found,
    synthetic_track,
    write_pose,
)

NEAR = "<|near|> is closest distance < 15 px"


@pytest.fixture
def symbols():
    with SymbolMemory() as symbols:
        symbols.define(NEAR)
        symbols.define("<|fast|> is speed > 4")
        yield symbols


@pytest.fixture
def pose():
    """Three animals on a line, 10 frames a second; b comes near a in frames 10 to 19, and moves fast from 30 on."""
    xy = np.zeros((40, 3, 2, 2))
    xy[:, 1], xy[:, 2] = (100, 0), (300, 0)
    xy[10:20, 1] = (10, 0)
    xy[30:, 2] += np.cumsum(np.full((10, 1, 2), 5.0), axis=0) * np.array([1, 0])
    return make_pose(xy, ("mouse1", "mouse2", "mouse3"), ("nose", "neck"), fps=10)


@pytest.mark.parametrize(
    ("question", "kind", "value", "text"),
    [
        ("How many times is mouse1 <near> mouse2?", "count", 1, "1 event for mouse1 → mouse2, 1.0 s in all."),
        ("How long is mouse 1 <near> Mouse2?", "duration", 1.0, "1.0 s for mouse1 → mouse2 in 1 event (mouse1"),
        ("What share of the time is mouse2 <near> mouse1?", "share", 0.25, "25.0% of 4.0 s for mouse2 → mouse1."),
        ("What is the longest <near> by mouse1?", "longest", 1.0, "1.00 s, mouse1 → mouse2, from 1.0 to 2.0 s."),
        ("When is mouse1 <near> mouse2?", "times", None, "1.0–2.0 s (mouse1 → mouse2)."),
        ("Who is <near> mouse1?", "who", None, "mouse2 → mouse1 1 times, 1.0 s."),
        ("<near> mouse3", "events", None, "It does not occur for any → mouse3 in 4.0 s."),
        ("How often is mouse3 <near> mouse1?", "count", 0, "It does not occur"),
        ("How many <near>?", "count", 2, "2 events, 2.0 s in all."),
        ("Who is <fast>?", "who", None, "mouse3 1 times, "),
        ("Is speed > 4 and not <near>?", "events", None, "(mouse3 → "),
    ],
)
def test_questions(symbols, pose, question, kind, value, text):
    found = ask_behaviour(symbols, pose, question)
    assert found.kind == kind and found.value == value and text in found.text, found.text


def test_an_answer_tells_what_it_rests_on(symbols, pose):
    symbols.define("<|near|> is <near> but closer than 11 px")
    found = ask_behaviour(symbols, pose, "How many <near> by mouse1?")
    assert found.symbols == (("near", 1, "e1"), ("near", 2, found.symbols[1][2])) and found.said == "<near>"
    [event] = found.events
    assert (event.actor, event.other, event.start, event.stop) == ("mouse1", "mouse2", 10, 20)
    told = found.to_json(pose)
    assert told["events"][0] == {
        "actor": "mouse1",
        "other": "mouse2",
        "start_frame": 10,
        "stop_frame": 20,
        "start_s": 1.0,
        "stop_s": 2.0,
        "seconds": 1.0,
    }
    assert json.dumps(told)


def test_words_stand_for_symbols_where_there_is_only_one(symbols, pose):
    found = ask_behaviour(symbols, pose, "How often is mouse1 near mouse2?")
    assert found.value == 1 and "read as <near>" in found.notes[0]


def test_what_was_not_understood_is_noted(symbols, pose):
    symbols.define("<|odd|> is speed > 4 and the whiskers move")
    assert "'the whiskers move'" in ask_behaviour(symbols, pose, "When <odd>?").notes[0]
    xy = pose.xy.copy()
    xy[:, 0, 0] = np.nan
    blind = make_pose(xy, pose.animals, pose.keypoints)
    assert "not seen" in ask_behaviour(symbols, blind, "When <fast>?").notes[0]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "empty"),
        ("How are you?", "no symbol and no condition.*<near>, <fast>"),
        ("When is <ner>?", "<ner> is not defined"),
        ("How often is mouse1 <fast> mouse2?", "one animal's own"),
    ],
)
def test_questions_that_cannot_be(symbols, pose, question, message):
    with pytest.raises(InputError, match=message):
        ask_behaviour(symbols, pose, question)


def test_the_scripted_chases_are_found():
    made = synthetic_track(4)
    with SymbolMemory() as symbols:
        symbols.define("<|chases|> is closest distance < 40 px, head angle < 30 deg, speed > 2")
        found = ask_behaviour(symbols, made.pose, "When <chases>?")
    for entry in made.script:
        if entry.what == "chase":
            same = [e for e in found.events if (e.actor, e.other) == (entry.actor, entry.other)]
            assert any(e.start < entry.stop and e.stop > entry.start for e in same)


def test_the_plot_is_drawn(symbols, pose, tmp_path):
    for number, question in enumerate(("How many <near>?", "<near> mouse3", "Who is <fast>?")):
        path = plot_found(ask_behaviour(symbols, pose, question), pose, symbols.table, tmp_path / f"{number}.png")
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    found = ask_behaviour(symbols, pose, "How many <near>?")
    with pytest.raises(InputError, match="cannot write the plot"):
        plot_found(found, pose, symbols.table, tmp_path / "x.nothing")
    with pytest.raises(InputError, match="cannot write the plot"):
        plot_found(found, pose, symbols.table, tmp_path / "no" / "x.png")


# --- the verb --------------------------------------------------------------------------------------------------------

CHASES = "<|chases|> is closest distance < 40 px, head angle < 30 deg, speed > 2"


def behave_json(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["behave", *arguments, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_behave_keeps_definitions_and_writes_files(capsys, tmp_path):
    store, plot, events = (str(tmp_path / name) for name in ("lab.db", "p.png", "e.csv"))
    made = behave_json(capsys, "demo", "--store", store, "--define", CHASES)
    assert made["defined"][0]["means"] == "closest distance < 40 px and head angle < 30 deg and speed > 2 px/frame"
    told = behave_json(
        capsys, "demo", "How often <chases>?", "--store", store, "--plot", plot, "--events", events, "--source"
    )
    assert told["value"] == len(told["events"]) > 3 and "def chases(pose):" in told["sources"][0]
    with Path(events).open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == told["value"]
    assert main(["behave", "demo", "--store", store, "How often <chases>?"]) == 0
    text = capsys.readouterr().out
    assert "who" in text and "looked for: <chases>" in text and "<chases> version 1, defined in e1" in text


def test_behave_refuses_words_too_many(capsys):
    for words in (["speed > 2", "speed > 3"], ["--what"], ["speed > 2", "--fps", "9", "more"]):
        with pytest.raises(SystemExit):
            main(["behave", "demo", *words])
        assert "unrecognized arguments" in capsys.readouterr().err


def test_behave_reads_a_track(capsys, tmp_path):
    path = str(tmp_path / "t.csv")
    made = synthetic_track(0, frames=200)
    write_pose(path, made.pose, made.likelihood)
    told = behave_json(capsys, path, "When is speed > 2?", "--fps", "50", "--head", "nose,neck")
    assert told["fps"] == 50 and told["frames"] == 200 and told["events"]


def test_behave_runs_code_only_when_told(capsys, tmp_path):
    path = tmp_path / "p.py"
    path.write_text("def quick(pose):\n    return pose.speed() > 4\n")
    arguments = ("demo", "Who is <quick>?", "--define", "<|quick|> by hand", "--program", str(path))
    assert main(["behave", *arguments]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert behave_json(capsys, *arguments, "--allow-code")["events"]
    path.write_text("def quick(pose):\n    return open('/etc/passwd').read()\n")
    assert main(["behave", *arguments, "--allow-code"]) == 1
    assert "PermissionError: not allowed in the sandbox" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["demo"], 2, "say what to look for"),
        (["demo", "How often <chases>?"], 2, "<chases> is not defined"),
        (["none.csv", "speed > 2"], 2, "cannot read none.csv"),
        (["demo", "speed > 2", "--fps", "0"], 2, "--fps must be above 0"),
        (["demo", "speed > 2", "--head", "nose"], 2, "--head takes two keypoints"),
        (["demo", "speed > 2", "--program", "x.py"], 2, "--program needs a --define"),
        (["demo", "speed > 2", "--define", "<|x|> y", "--program", "none.py"], 2, "cannot read the program"),
        (["demo", "--define", "<|a|> is <a|>"], 0, ""),
        (["demo", "--define", "nothing"], 2, "defines no symbol"),
        (["demo", "<a>", "--define", "<|a|> is <b>", "--define", "<|b|> is <a>"], 2, "go in a circle"),
        (["demo", "--write", "x"], 2, "<x> is not defined"),
    ],
)
def test_behave_errors_are_one_line(capsys, arguments, code, message):
    assert main(["behave", *arguments, "--quiet"]) == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == (1 if code else 0)


def test_the_demo_is_the_same_at_another_rate():
    assert np.array_equal(demo_pose().xy, demo_pose(fps=60).xy, equal_nan=True)
