"""Typed prompts: one question to a language model and one JSON answer, which is checked before anything is believed.

A system keeps the words of its prompts, their schemas and their checks in a module of its own and asks through
`ask_json`. The schema is sent along, so that a local model's answer has its form from the start; an answer that does
not pass is shown to the model and asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from memspan.core.errors import InputError, ModelError
from memspan.models.schema import first_value

_T = TypeVar("_T")
SYSTEM = "Answer with one JSON object and nothing else."
_SHOWN = 2000  # characters of a wrong answer that are shown again, so that small context windows are not filled


class Written(Protocol):
    """What a model wrote."""

    @property
    def text(self) -> str:
        """The new text."""


@runtime_checkable
class Writer(Protocol):
    """What a typed prompt needs of a language model; every `memspan.models.LanguageModel` has it."""

    def generate(
        self,
        prompt: Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Written:
        """Continue the conversation."""


def object_schema(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object that has all of these properties and no other."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def first_object(text: str) -> Mapping[str, Any]:
    """The JSON object in an answer, whatever stands around it.

    Raises:
        ValueError: there is none.
    """
    value, _ = first_value(text)
    if not isinstance(value, dict):
        raise ValueError("the JSON is no object")
    return value


def ask_json(
    model: Writer,
    prompt: str,
    schema: Mapping[str, Any],
    check: Callable[[Mapping[str, Any]], _T],
    *,
    system: str = SYSTEM,
    attempts: int = 3,
    max_new_tokens: int = 800,
    advice: str = "use a larger model",
) -> _T:
    """Ask for one JSON object until `check` takes it.

    Args:
        model: what writes the answer, at temperature 0.
        prompt: the user's message.
        schema: the JSON schema of the answer.
        check: turns the object into a value, or raises ValueError with what is wrong, in words the model can use.
        system: the system's message.
        attempts: how often to ask.
        max_new_tokens: bound on one answer.
        advice: what the error says to do when no answer passes.

    Raises:
        InputError: `attempts` or `max_new_tokens` is below 1.
        ModelError: no usable answer came, or the model failed.
    """
    if attempts < 1 or max_new_tokens < 1:
        raise InputError("attempts and max_new_tokens must be at least 1")
    first = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    messages, problem = first, ""
    for _ in range(attempts):
        text = model.generate(messages, max_new_tokens=max_new_tokens, schema=schema).text
        try:
            return check(first_object(text))
        except ValueError as error:
            problem = str(error)
        messages = [
            *first,
            {"role": "assistant", "content": text[:_SHOWN] or "(nothing)"},
            {"role": "user", "content": f"That cannot be used: {problem}. Answer again with the JSON object only."},
        ]
    raise ModelError(f"the language model gave no usable answer in {attempts} tries ({problem}); {advice}")
