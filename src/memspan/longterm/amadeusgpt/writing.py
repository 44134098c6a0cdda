"""Programs written by a language model: a typed prompt, a check of every answer, and self-debugging by its errors.

A model that gives no usable program is replaced by what the rules read from the definition, and the result says so.
Nothing that a model wrote runs unless the caller allows code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memspan.core.errors import InputError, ModelError
from memspan.longterm.amadeusgpt.behaviour import checked_mask, helpers_of, program_of
from memspan.longterm.amadeusgpt.errors import CodeNotAllowedError, ProgramError
from memspan.longterm.amadeusgpt.grammar import plain
from memspan.longterm.amadeusgpt.kinematics import Pose
from memspan.longterm.amadeusgpt.programs import IMPORTS, Program, function_name, read_program
from memspan.longterm.amadeusgpt.sandbox import Sandbox
from memspan.longterm.amadeusgpt.symbols import SymbolMemory
from memspan.longterm.prompts import Writer, ask_json, object_schema

_SYSTEM = "You write short, correct Python with numpy. Answer with one JSON object and nothing else."
_API = """\
pose.animals, pose.keypoints: tuples of names; pose.fps; len(pose) is the number of frames T; A animals
pose.speed() -> [T, A] pixels a frame; pose.acceleration(), pose.turning() -> [T, A]
pose.closest_distance(), pose.distance() -> [T, A, A] pixels between two animals (nearest points, centers)
pose.head_angle() -> [T, A, A] degrees between where the first animal's head points and the second animal
pose.point(keypoint), pose.center() -> [T, A, 2] pixels
pose.of_other(values) -> [T, A] values of the second animal as [T, A, A]
pose.every(*masks), pose.either(*masks), pose.without(mask): and, or, not of masks of any of these shapes
pose.smooth(mask, frames), pose.lasting(mask, frames): majority filter, without shorter runs"""
_PROMPT = """Write one Python function {function}(pose) that returns a boolean mask, [T, A] or [T, A, A] (who does it, \
to whom), True where this behaviour holds:

{definition}

What pose offers (numpy is np):
{api}
{helpers}{modules}
Answer: {{"explanation": "in a few words", "code": "the source of the function, with a docstring"}}
- Exactly one function with exactly the parameter pose. Imports only from {imports}.
- Use the numbers of the definition as they stand.{feedback}"""
_FEEDBACK = """

Your last program was:
{source}
It failed: {error}
Write it again without this fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A program for a symbol.

    Attributes:
        program: it; by the rules where `fallback` says why.
        explanation: the model's own words.
        tries: programs that were run and failed before this one.
        ran: it was run on the pose without an error.
        fallback: why the rules' program stands in the model's place, "" when it does not.
    """

    program: Program
    explanation: str = ""
    tries: int = 0
    ran: bool = False
    fallback: str = ""


def write_program(
    symbols: SymbolMemory,
    name: str,
    model: Writer,
    pose: Pose | None = None,
    *,
    allow_code: bool = False,
    sandbox: Sandbox | None = None,
    debug_tries: int = 2,
    attempts: int = 3,
    max_new_tokens: int = 700,
) -> Written:
    """Let a model write the program of a symbol, and mend it by its own errors.

    Nothing is stored: `symbols.define(message, program)` does that, when you have read it.

    Args:
        symbols: holds the definition, what it rests on, and the library.
        name: the symbol.
        model: what writes.
        pose: a track to try the program on; None does not run it.
        allow_code: the program may run; without it a pose cannot be given.
        sandbox: with limits of your own.
        debug_tries: how often a failed program is given back with its error (the paper's 2).
        attempts, max_new_tokens: of one question to the model.

    Raises:
        CodeNotAllowedError: a pose is given, and code may not run.
        InputError: no such symbol; or neither model nor rules can make a program of it.
        CycleError: its definition is in a circle.
    """
    if pose is not None and not allow_code:
        raise CodeNotAllowedError("what the model writes")
    symbol = symbols.known(name)
    table, place = symbols.table, symbols.table.current(symbol.key)
    helpers = helpers_of(table, place)
    prompt: dict[str, Any] = {
        "function": function_name(symbol.key),
        "definition": plain(symbol.definition),
        "api": _API,
        "helpers": _listed("Functions that are there already, and that you may call:", helpers),
        "modules": _modules(symbols, plain(symbol.definition)),
        "imports": ", ".join(IMPORTS),
    }
    feedback, problem, tries = "", "", 0
    for _ in range(debug_tries + 1):
        try:
            explanation, program = ask_json(
                model,
                _PROMPT.format(**prompt, feedback=feedback),
                object_schema(
                    explanation={"type": "string", "maxLength": 300},
                    code={"type": "string", "minLength": 20, "maxLength": 4000},
                ),
                lambda answer: _checked(answer, prompt["function"]),
                system=_SYSTEM,
                attempts=attempts,
                max_new_tokens=max_new_tokens,
            )
        except (InputError, ModelError) as error:  # InputError: the prompt leaves no room in the context window
            problem = str(error)
            break
        if pose is None:
            return Written(program=program, explanation=explanation)
        try:
            _tried(program, helpers, pose, sandbox or Sandbox(), symbol.name)
            return Written(program=program, explanation=explanation, tries=tries, ran=True)
        except (ProgramError, InputError) as error:
            tries += 1
            problem = str(error)
            feedback = _FEEDBACK.format(source=program.source, error=problem[:500])
    try:
        program = program_of(table, place)
    except InputError as error:
        raise InputError(f"no program could be made of <{symbol.name}>: {problem}; and {error}") from None
    return Written(program=program, tries=tries, fallback=problem)


def _checked(answer: Mapping[str, Any], function: str) -> tuple[str, Program]:
    """The program of an answer, or what is wrong with it in words that a model can use."""
    code = answer.get("code")
    if not isinstance(code, str):
        raise ValueError("code must be text")
    program = read_program(code, "llm")
    if program.name != function:
        raise ValueError(f"the function must be called {function}, not {program.name}")
    return str(answer.get("explanation", "")), program


def _tried(program: Program, helpers: Sequence[Program], pose: Pose, sandbox: Sandbox, name: str) -> None:
    checked_mask(sandbox.run(program, pose, helpers=helpers, allow_code=True).value, pose, name)


def _listed(title: str, programs: Sequence[Program]) -> str:
    if not programs:
        return ""
    lines = [
        f"{program.signature}: {program.docstring.splitlines()[0] if program.docstring else ''}" for program in programs
    ]
    return "\n".join(["", title, *lines, ""])


def _modules(symbols: SymbolMemory, request: str) -> str:
    hits = symbols.modules(request)
    if not hits:
        return ""
    return "\n".join(["", "From the library:", *(hit.text[:400] for hit in hits), ""])
