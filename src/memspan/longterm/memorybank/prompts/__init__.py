"""MemoryBank's four tasks for a language model, one module each: words of the prompt, schema, check.

The paper's prompts are for gpt-3.5-turbo and free text; these ask for the same four texts as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_CHARS = 12_000
"""Characters of conversation in one prompt; of a longer day the last ones are read."""
LONGEST = 800
"""Characters of an answer; the paper allows 400 tokens."""


def shown(lines: Sequence[str]) -> str:
    """The last lines that fit into a prompt."""
    kept: list[str] = []
    room = MOST_CHARS
    for line in reversed(lines):
        line = line[:room]
        room -= len(line) + 1
        kept.append(line)
        if room <= 0:
            break
    return "\n".join(reversed(kept))


def text_of(answer: Mapping[str, Any], key: str) -> str:
    """A property that is a text of usable length, in one line.

    Raises:
        ValueError: it is not.
    """
    value = answer.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text")
    if len(value) > LONGEST:
        raise ValueError(f"{key} has {len(value)} characters and may have {LONGEST}")
    return " ".join(value.split())
