"""The daily personality insight: traits, mood, and how best to reply (paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memspan.longterm.memorybank.prompts import line, shown, text_of
from memspan.longterm.prompts import Writer, ask_json, object_schema

PROMPT = """From what {who} says in this conversation of {day}: which traits does {who} show, in what mood is {who}, \
and how is {who} best replied to?

{turns}

Answer: {{"traits": ["...", "..."], "mood": "...", "reply": "..."}}
Use a few words for each. Say only what the conversation shows; traits may be empty."""
SCHEMA = object_schema(traits={"type": "array", "items": line(60), "maxItems": 8}, mood=line(120), reply=line(300))


_TRAIT_WORDS = 5


def ask(model: Writer, who: str, day: str, turns: Sequence[str]) -> list[str]:
    """Up to three lines.

    Raises:
        ModelError: no usable answer came.
    """
    return ask_json(model, PROMPT.format(who=who, day=day, turns=shown(turns)), SCHEMA, _lines)


def _lines(answer: Mapping[str, Any]) -> list[str]:
    traits = answer.get("traits")
    if not isinstance(traits, list) or not all(isinstance(trait, str) for trait in traits):
        raise ValueError("traits must be a list of texts")
    if any(len(trait.split()) > _TRAIT_WORDS for trait in traits):
        raise ValueError(f"each of the traits may have {_TRAIT_WORDS} words")
    named = dict.fromkeys(" ".join(trait.split()) for trait in traits if any(map(str.isalpha, trait)))
    lines = [f"Traits: {', '.join(named)}."] if named else []
    return [*lines, f"Mood: {text_of(answer, 'mood')}", f"Best reply: {text_of(answer, 'reply')}"]
