"""The daily event summary (paper: "Summarize the events and key information in the content")."""

from __future__ import annotations

from collections.abc import Sequence

from memspan.longterm.memorybank.prompts import LONGEST, SENTENCE, line, shown, text_of
from memspan.longterm.prompts import Writer, ask_json, object_schema

PROMPT = """Summarize the events and the key information of this conversation of {day} in at most three sentences. \
Say who did what; add nothing that is not there.

{turns}

Answer: {{"summary": "..."}}"""
SCHEMA = object_schema(summary=line(LONGEST))


def ask(model: Writer, day: str, turns: Sequence[str]) -> list[str]:
    """The summary as one line.

    Raises:
        ModelError: no usable answer came.
    """
    prompt = PROMPT.format(day=day, turns=shown(turns))
    return ask_json(model, prompt, SCHEMA, lambda answer: [text_of(answer, "summary", SENTENCE)])
