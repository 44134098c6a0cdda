"""The global user portrait, from the daily insights."""

from __future__ import annotations

from collections.abc import Sequence

from memspan.longterm.memorybank.prompts import LONGEST, SENTENCE, line, shown, text_of
from memspan.longterm.prompts import Writer, ask_json, object_schema

PROMPT = """These are notes on {who} by day. Write a portrait of {who} in at most four sentences, and say how {who} is \
best replied to. Later notes count more. Add nothing that is not there.

{days}

Answer: {{"portrait": "...", "reply": "..."}}"""
SCHEMA = object_schema(portrait=line(LONGEST), reply=line(300))


def ask(model: Writer, who: str, days: Sequence[str]) -> list[str]:
    """Two lines.

    Raises:
        ModelError: no usable answer came.
    """
    return ask_json(
        model,
        PROMPT.format(who=who, days=shown(days)),
        SCHEMA,
        lambda answer: [text_of(answer, "portrait", SENTENCE), f"Best reply: {text_of(answer, 'reply')}"],
    )
