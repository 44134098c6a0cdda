"""Prompts P_s2 and P_s3 in one: a language model links a new note to near ones and rewrites attributes.

The model sees the near notes under numbers from 0; what it answers is checked against them before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memspan.longterm.a_mem.attributes import Attributes, clean
from memspan.longterm.a_mem.construct import SENTENCE, one_line, word_list
from memspan.longterm.prompts import Writer, ask_json, object_schema

_PROMPT = """A new note joins a store of notes.

NEW NOTE
{new}

NEAR NOTES
{near}

Which near notes belong with the new one, and what does the new one teach about them?
Answer: {{"connections": [numbers], "tags": [...], "updates": [{{"note": number, "context": "...", "keywords": [...], \
"tags": [...]}}]}}
- connections: numbers of the near notes that are about the same matter; [] if none is.
- tags: the new note's tags, given what is near.
- updates: only near notes whose context, keywords or tags should change now, each with all three as they should be."""


def schema(near: int) -> dict[str, Any]:
    """What may be decided about so many near notes."""
    number = {"type": "integer", "minimum": 0, "maximum": near - 1}
    update = object_schema(note=number, context=SENTENCE, keywords=word_list(1), tags=word_list(1))
    return object_schema(
        connections={"type": "array", "items": number, "maxItems": near},
        tags=word_list(0),
        updates={"type": "array", "items": update, "maxItems": near},
    )


@dataclass(frozen=True, slots=True)
class Update:
    """New attributes of the near note at a position."""

    place: int
    context: str
    keywords: list[str]
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a model decided: positions of the notes to link, the new note's tags, and updates of near notes."""

    connections: tuple[int, ...]
    tags: list[str]
    updates: tuple[Update, ...]


def described(content: str, attributes: Attributes) -> str:
    """A note as a model sees it."""
    return "\n".join(
        (
            f"content: {' '.join(content.split())[:1000]}",
            f"context: {attributes.context or '(none)'}",
            f"keywords: {', '.join(attributes.keywords) or '(none)'}",
            f"tags: {', '.join(attributes.tags) or '(none)'}",
        )
    )


def evolve(model: Writer, new: str, near: Sequence[str], attempts: int) -> Decision:
    """What a new note changes among near ones.

    Raises:
        InputError, ModelError: no usable answer came.
    """

    def number(value: Any) -> int:
        if type(value) is not int or not 0 <= value < len(near):
            raise ValueError(f"near notes are named by the whole numbers 0 to {len(near) - 1}")
        return value

    def check(answer: Mapping[str, Any]) -> Decision:
        connections, updates = answer.get("connections"), answer.get("updates")
        if not isinstance(connections, list) or not isinstance(updates, list):
            raise ValueError("connections and updates must be lists")
        if not all(isinstance(update, Mapping) for update in updates):
            raise ValueError("every update must be an object")
        read = [
            Update(
                number(update.get("note")),
                one_line(update.get("context"), "an update's context"),
                clean(update.get("keywords"), "an update's keywords"),
                clean(update.get("tags"), "an update's tags"),
            )
            for update in updates
        ]
        if len({update.place for update in read}) < len(read):
            raise ValueError("a near note is updated twice")
        return Decision(
            tuple(dict.fromkeys(map(number, connections))), clean(answer.get("tags"), "tags", 0), tuple(read)
        )

    shown = "\n\n".join(f"{place}:\n{text}" for place, text in enumerate(near))
    return ask_json(model, _PROMPT.format(new=new, near=shown), schema(len(near)), check, attempts=attempts)
