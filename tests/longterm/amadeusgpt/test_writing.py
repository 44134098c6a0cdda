"""Programs that a language model writes: the typed prompt, the check, self-debugging, the rules in its place."""

from __future__ import annotations

import pytest

from memspan import InputError
from memspan.longterm.amadeusgpt import CodeNotAllowedError, SymbolMemory, demo_pose, write_program
from tests.longterm.doubles import Recorded

GOOD = {"explanation": "speed", "code": "def quick(pose):\n    '''Fast.'''\n    return pose.speed() > 4\n"}
WRONG = {"explanation": "speed", "code": "def quick(pose):\n    return pose.velocityy() > 4\n"}


@pytest.fixture
def symbols():
    with SymbolMemory() as symbols:
        symbols.define("<|near|> is distance < 20 px")
        symbols.define("<|quick|> is speed > 4 while <near>")
        yield symbols


def test_a_program_is_written_checked_and_not_run(symbols):
    model = Recorded(GOOD)
    made = write_program(symbols, "quick", model)
    assert made.program.creator == "llm" and made.explanation == "speed" and not made.ran and not made.fallback
    [asked] = model.asked
    assert "quick is speed > 4 while near" in asked and "near(pose)" in asked
    assert "<" not in asked.split("holds:")[1].partition("What pose")[0]
    assert model.schemas[0]["required"] == ["explanation", "code"]
    assert symbols["quick"].program is None  # nothing is stored


def test_an_answer_that_is_no_program_is_asked_again(symbols):
    model = Recorded(
        {"explanation": "", "code": "import os\ndef quick(pose): return 1"},
        {"explanation": "", "code": "def slow(pose): return pose.speed() < 1"},
        GOOD,
    )
    assert write_program(symbols, "quick", model).program.name == "quick"
    shown = [prompt[-1]["content"] for prompt in model.prompts]
    assert "imports 'os'" in shown[1] and "must be called quick" in shown[2]


def test_a_program_that_fails_is_mended_by_its_error(symbols):
    model = Recorded(WRONG, GOOD)
    made = write_program(symbols, "quick", model, demo_pose(), allow_code=True)
    assert made.ran and made.tries == 1 and made.program.docstring == "Fast."
    assert (
        "velocityy" in model.asked[1] and "AttributeError" in model.asked[1] and "Your last program" in model.asked[1]
    )


def test_after_two_tries_the_rules_stand_in_and_it_is_told(symbols):
    model = Recorded(WRONG)
    made = write_program(symbols, "quick", model, demo_pose(), allow_code=True)
    assert len(model.prompts) == 3 and made.tries == 3
    assert made.program.creator == "rules" and "AttributeError" in made.fallback
    no_json = write_program(symbols, "quick", Recorded("I cannot"))
    assert no_json.program.creator == "rules" and "no usable answer in 3 tries" in no_json.fallback
    assert "pose.speed() > 4" in no_json.program.source and "near(pose)" in no_json.program.source


def test_without_rules_or_model_it_is_an_error(symbols):
    symbols.define("<|happy|> means that they are happy")
    with pytest.raises(InputError, match="no program could be made of <happy>"):
        write_program(symbols, "happy", Recorded("I cannot"))


def test_nothing_written_runs_unless_allowed(symbols):
    model = Recorded(GOOD)
    with pytest.raises(CodeNotAllowedError):
        write_program(symbols, "quick", model, demo_pose())
    assert model.prompts == []


def test_the_library_is_loaded_for_the_request(symbols):
    symbols.add_module("speedometer", "Says at what speed an animal moves.")
    model = Recorded(GOOD)
    write_program(symbols, "quick", model)
    assert "From the library:\nspeedometer: Says at what speed" in model.asked[0]


def test_what_was_written_is_kept_as_a_version(symbols):
    made = write_program(symbols, "quick", Recorded(GOOD))
    symbols.define(symbols["quick"].definition, made.program)
    assert symbols["quick"].program == made.program and symbols["quick"].current.number == 2
    assert symbols.call("quick", demo_pose(), allow_code=True).any()
