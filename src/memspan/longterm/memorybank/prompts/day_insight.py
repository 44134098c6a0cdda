"""The daily personality insight: traits, mood, and how best to reply (paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memspan.longterm.memorybank.prompts import shown, text_of
from memspan.longterm.prompts import Writer, ask_json, object_schema

PROMPT = """From what {who} says in this conversation of {day}: which traits does {who} show, in what mood is {who}, \
and how is {who} best replied to?

{turns}

Answer: {{"traits": ["...", "..."], "mood": "...", "reply": "..."}}
Use a few words for each. Say only what the conversation shows; traits may be empty."""
SCHEMA = object_schema(
    traits={"type": "array", "items": {"type": "string"}, "maxItems": 8},
    mood={"type": "string"},
    reply={"type": "string"},
)


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
    named = ", ".join(" ".join(trait.split()) for trait in traits[:8] if trait.strip())
    lines = [f"Traits: {named}."] if named else []
    return [*lines, f"Mood: {text_of(answer, 'mood')}", f"Best reply: {text_of(answer, 'reply')}"]
