"""What ships with memspan: a conversation written for it, and questions on it. Apache-2.0, like the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def conversation_path() -> Path:
    """A chat between two friends over 16 months, as JSON lines of episodes; several facts change on the way."""
    return _HERE / "conversation.jsonl"


def questions() -> list[dict[str, Any]]:
    """25 questions on the conversation, written before any system saw them; five cannot be answered from it.

    Each has id, question, answer (None when it cannot be answered), aliases, evidence (episode ids, any of which is
    a right citation), as_of (an ISO date or None) and category.
    """
    rows: list[dict[str, Any]] = json.loads((_HERE / "questions.json").read_text(encoding="utf-8"))
    return rows
