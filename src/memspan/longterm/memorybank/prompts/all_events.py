"""The global event summary, from the daily ones."""

from __future__ import annotations

from collections.abc import Sequence

from memspan.longterm.memorybank.prompts import LONGEST, SENTENCE, line, shown, text_of
from memspan.longterm.prompts import Writer, ask_json, object_schema

PROMPT = """These are summaries of conversations by day. Write one summary of the whole in at most five sentences: \
what matters over the days, and what changed. Add nothing that is not there.

{days}

Answer: {{"summary": "..."}}"""
SCHEMA = object_schema(summary=line(LONGEST))


def ask(model: Writer, days: Sequence[str]) -> list[str]:
    """The summary as one line.

    Raises:
        ModelError: no usable answer came.
    """
    return ask_json(
        model, PROMPT.format(days=shown(days)), SCHEMA, lambda answer: [text_of(answer, "summary", SENTENCE)]
    )
