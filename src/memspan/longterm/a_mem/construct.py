"""Prompt P_s1: a language model writes a note's keywords, context and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memspan.longterm.a_mem.attributes import CONTEXT_CHARS, Attributes, clean
from memspan.longterm.prompts import Writer, ask_json, object_schema


def word_list(least: int) -> dict[str, Any]:
    """The schema of a list of short words."""
    word = {"type": "string", "minLength": 2, "maxLength": 40}
    return {"type": "array", "items": word, "minItems": least, "maxItems": 8}


SENTENCE = {"type": "string", "minLength": 1, "maxLength": CONTEXT_CHARS}
SCHEMA = object_schema(keywords=word_list(3), context=SENTENCE, tags=word_list(3))
_PROMPT = """Describe this message for a store of notes.

MESSAGE: {content}

Answer: {{"keywords": [...], "context": "...", "tags": [...]}}
- keywords: at least three specific words of the message, the most important first; no speakers' names and no times.
- context: one sentence that says what the message is about and for what it matters.
- tags: at least three broad words for its domain, its form and its kind."""


def construct(model: Writer, content: str, attempts: int) -> Attributes:
    """The attributes of a note as a model writes them.

    Raises:
        InputError, ModelError: no usable answer came.
    """
    return ask_json(model, _PROMPT.format(content=content[:4000]), SCHEMA, _check, attempts=attempts)


def _check(answer: Mapping[str, Any]) -> Attributes:
    return Attributes(
        clean(answer.get("keywords"), "keywords"),
        clean(answer.get("tags"), "tags"),
        one_line(answer.get("context"), "context"),
        by="model",
    )


def one_line(value: Any, what: str) -> str:
    """A sentence of bounded length.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} must be a sentence")
    line = " ".join(value.split())
    if len(line) > CONTEXT_CHARS:
        raise ValueError(f"{what} has {len(line)} characters and may have {CONTEXT_CHARS}")
    return line
