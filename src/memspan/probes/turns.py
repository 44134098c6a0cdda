"""Conversations as text: what a language model is shown of the turns that a store takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

from memspan.probes.base import Turn


def transcript(turns: Sequence[Turn]) -> tuple[str, ...]:
    """A piece of text a session: a line with its date, then a line a turn; without a date, the lines alone."""
    pieces = []
    for _, group in groupby(turns, key=lambda turn: turn.session):
        session = list(group)
        at = session[0].at
        pieces.append("\n".join([*([] if at is None else [f"[{day(at)}]"]), *map(line, session)]))
    return tuple(pieces)


def line(turn: Turn) -> str:
    """Who said what; a photo's caption behind it."""
    said = f"{turn.speaker}: {turn.text}" if turn.speaker else turn.text
    caption = turn.metadata.get("caption")
    return f"{said} (photo: {caption})" if caption else said


def day(moment: datetime) -> str:
    """A date as "16 May 2024"."""
    return f"{moment.day} {moment:%B %Y}"
