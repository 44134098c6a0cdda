"""MemoryBank's four tasks for a language model, one module each: words of the prompt, schema, check.

The paper's prompts are for gpt-3.5-turbo and free text; these ask for the same four texts as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MOST_CHARS = 12_000
"""Characters of conversation in one prompt; of a longer day the last ones are read."""
LONGEST = 800
"""Characters of an answer; the paper allows 400 tokens."""


SENTENCE = 5
"""Words of the shortest summary: small models like to repeat a name, or the form of the answer."""


def line(most: int) -> dict[str, Any]:
    """The schema of a text of 1 to `most` characters: a small model that may write without end often does."""
    return {"type": "string", "minLength": 1, "maxLength": most}


def shown(lines: Sequence[str]) -> str:
    """The last lines that fit into a prompt."""
    kept: list[str] = []
    room = MOST_CHARS
    for one in reversed(lines):
        one = one[:room]
        room -= len(one) + 1
        kept.append(one)
        if room <= 0:
            break
    return "\n".join(reversed(kept))


def text_of(answer: Mapping[str, Any], key: str, least: int = 1) -> str:
    """A property that is a text of at least so many words and of usable length, in one line.

    Raises:
        ValueError: it is not.
    """
    value = answer.get(key)
    if not isinstance(value, str) or len(re.findall(r"[^\W\d_]+", value)) < least:
        raise ValueError(f"{key} must be a text of at least {least} {'word' if least == 1 else 'words'}")
    if len(value) > LONGEST:
        raise ValueError(f"{key} has {len(value)} characters and may have {LONGEST}")
    return " ".join(value.split())
