"""SymbolMemory: two phases, versions, undo, the library, calling."""

from __future__ import annotations

import json

import numpy as np
import pytest

from memspan import Episode, InputError, Memory
from memspan.longterm.amadeusgpt import (
    CodeNotAllowedError,
    CycleError,
    ProgramError,
    SymbolMemory,
    demo_pose,
    read_program,
)
from tests.longterm.doubles import HashEmbedder

CHASES = "<|chases|> is distance < 40 px and speed > 2"


@pytest.fixture
def symbols():
    with SymbolMemory() as symbols:
        yield symbols


def test_nothing_is_defined_before_the_turn_went_well(symbols):
    failed = symbols.begin(CHASES)
    assert "chases" not in symbols
    assert symbols.commit(failed, ok=False) == [] and len(symbols) == 0
    later = symbols.begin("What is the weather like?")
    assert symbols.commit(later) == [] and len(symbols) == 0  # the failed turn's name is not given to this message
    with pytest.raises(InputError, match="committed before"):
        symbols.commit(failed)
    [made] = symbols.commit(symbols.begin(CHASES))
    assert made.definition == CHASES and symbols["CHASES"].name == "chases" and list(symbols) == ["chases"]


def test_redefinition_is_a_version_that_starts_from_the_one_before(symbols):
    symbols.define(CHASES)
    symbols.define("<|chases|> is <chases> but faster than 3")
    assert [v.number for v in symbols["chases"].versions] == [1, 2]
    assert [page.label for page in symbols.page("<chases>")] == ["<chases>, version 1", "<chases>"]
    assert str(symbols.behaviour("chases").conditions[1]) == "speed > 3 px/frame"
    assert str(symbols.behaviour("chases", 1).conditions[1]) == "speed > 2 px/frame"
    with pytest.raises(InputError, match="no version 7; there are 1, 2"):
        symbols.behaviour("chases", 7)
    assert symbols.undo("chases").definition == CHASES
    assert symbols.undo("chases") is None and "chases" not in symbols
    with pytest.raises(InputError, match="nothing can be undone"):
        symbols.undo("chases")


def test_a_circle_is_refused_and_nothing_changes(symbols):
    symbols.define("<|a|> is like <b>")
    assert symbols.parse("<b>").unresolved == ("b",)
    with pytest.raises(CycleError):
        symbols.begin("<|b|> is like <a>")
    assert list(symbols) == ["a"]
    pending = symbols.begin("<|b|> is near <c>")
    symbols.define("<|c|> is <a>")
    with pytest.raises(CycleError):
        symbols.commit(pending)
    assert list(symbols) == ["a", "c"]


def test_references_are_bound_when_they_are_read(symbols):
    symbols.define("<|a|> is like <b>")
    assert [p.place[0] for p in symbols.page("<a>")] == ["a"]
    symbols.define("<|b|> is near")
    assert [p.place[0] for p in symbols.page("<a>")] == ["b", "a"]
    symbols.forget("b")
    assert [p.place[0] for p in symbols.page("<a>")] == ["a"]


def test_versions_survive_reopening_and_two_processes_see_one_another(tmp_path):
    path = tmp_path / "lab.db"
    with SymbolMemory(path) as one, SymbolMemory(path) as other:
        one.define(CHASES)
        assert other["chases"].definition == CHASES
        other.define("<|chases|> is <chases> but faster than 3")
        assert one["chases"].current.number == 2
        assert one.save(tmp_path / "symbols.json") == 1
    told = json.loads((tmp_path / "symbols.json").read_text())
    assert [version["number"] for version in told["chases"]] == [1, 2]
    with SymbolMemory(path) as again:
        assert again["chases"].versions[0].text == CHASES


def test_names_without_brackets_are_suggested(symbols):
    symbols.define(CHASES)
    symbols.define("<|grooming|> is speed < 0.2")
    assert [hit.id for hit in symbols.suggest("the chasing thing")][:1] == ["chases"]
    with pytest.raises(InputError, match=r"<chase> is not defined.*like it: <chases>"):
        symbols.call("chase", demo_pose())
    with SymbolMemory(embedder=HashEmbedder()) as by_vectors:
        by_vectors.define(CHASES)
        assert by_vectors.suggest("speed and distance")[0].id == "chases"


def test_programs_are_stored_and_not_run(symbols):
    source = "def chases(data):\n    '''Sums.'''\n    return sum(data)\n"
    symbols.define(f"<|chases|> sums up:\n```python\n{source}```")
    program = symbols["chases"].program
    assert program.signature == "chases(data)" and program.docstring == "Sums." and program.creator == "human"
    with pytest.raises(CodeNotAllowedError, match="allow_code"):
        symbols.call("chases", [1, 2])
    assert symbols.call("chases", [1, 2], allow_code=True) == 3
    with pytest.raises(ProgramError, match="TypeError"):
        symbols.call("chases", 5, allow_code=True)
    symbols.define("<|talk|>:\n```python\nprint('no function')\n```")
    assert symbols["talk"].program is None


def test_a_program_can_call_those_its_definition_rests_on(symbols):
    pose = demo_pose()
    symbols.define(CHASES)
    symbols.define("<|long chase|> is <chases>, kept long", "def long_chase(p): return p.lasting(chases(p), 20)")
    symbols.define("<|calm|> is not <long chase>")
    mask = symbols.call("long chase", pose, allow_code=True)
    assert np.array_equal(mask, pose.lasting(symbols.call("chases", pose), 20)) and mask.any()
    calm = symbols.call("calm", pose, allow_code=True)
    assert not (calm & mask).any() and calm.any()
    with pytest.raises(CodeNotAllowedError):
        symbols.call("calm", pose)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "empty"),
        ("def f(:", "not Python: line 1"),
        ("x = 1\ndef f(a): return a", "one function"),
        ("def f(a, b): return a", "exactly one parameter"),
        ("def f(*a): return a", "exactly one parameter"),
        ("@g\ndef f(a): return a", "decorator"),
        ("import os\ndef f(a): return a", "imports 'os'"),
        ("def f(a):\n    from subprocess import run", "imports 'subprocess'"),
        ("def f(a):\n    from . import x", "imports '.'"),
        ("def f(a): pass\ndef g(a): pass", "one function"),
        ("def f(a): return a" + " " * 20_000, "characters"),
    ],
)
def test_what_is_no_program(symbols, source, message):
    with pytest.raises(InputError, match=message):
        read_program(source)
    with pytest.raises(InputError):
        symbols.define("<|x|> is it", source)
    assert len(symbols) == 0


def test_the_library_is_found_by_its_documentation(symbols):
    symbols.add_module("speeds", "How fast every animal moves.\n\nParameters\n----------\npose : the track")
    symbols.add_module("areas", "Divides the arena into areas.", "def areas(pose): return 1")
    [hit, *_] = symbols.modules("how fast do they move")
    assert hit.id == "speeds" and "Parameters" not in hit.text and "Parameters" in hit.metadata["definition"]
    assert symbols.modules("arena")[0].metadata["signature"] == "areas(pose)"


@pytest.mark.parametrize(
    ("message", "error"),
    [("no mark", "defines no symbol"), ("<|é|>", "'é' is no name")],
)
def test_a_message_that_defines_nothing(symbols, message, error):
    with pytest.raises(InputError, match=error):
        symbols.define(message)


def test_a_new_program_descends_from_the_one_before(symbols):
    for number in (1, 2, 2):
        symbols.define("<|x|> is it", f"def x(d): return {number}")
    first, second, again = (version.program for version in symbols["x"].versions)
    assert (first.parents, first.generation) == ((), 0)
    assert (second.parents, second.generation) == ((first.id,), 1)
    assert again.source == second.source and again.parents == ()


def test_a_program_for_several_symbols_goes_by_its_name(symbols):
    symbols.define("<|a|> is one. <|b c|> is two.", "def b_c(d): return 2")
    assert symbols["a"].program is None and symbols["b c"].program is not None
    with pytest.raises(InputError, match="name of none"):
        symbols.define("<|a|> is one. <|b|> is two.", "def z(d): return 2")


def test_it_can_share_a_memory():
    with Memory.open(":memory:", organizer="amadeusgpt", embedder=None) as memory:
        memory.add(Episode(CHASES, id="d1"))
        assert SymbolMemory(memory=memory)["chases"].current.episode == "d1"
    with (
        Memory.open(":memory:", organizer="plain", embedder=None) as memory,
        pytest.raises(InputError, match="plain organizer keeps no symbols"),
    ):
        SymbolMemory(memory=memory)
