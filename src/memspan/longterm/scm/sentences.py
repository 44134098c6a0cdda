"""Sentences with their places, in chats and in books whose lines are broken; and how long a text is in tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from statistics import median

Counter = Callable[[str], int]
"""Counts the tokens of a text; a model's `count_tokens`, or `estimated_tokens`."""

_END = re.compile(r"[.!?…]+[\"'”’)\]_*]*(?=\s)|[。！？]")
_GAP = re.compile(r"\n[ \t]*\n\s*")
_LINE = re.compile(r"\n+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'.“‘])(?:mr|mrs|ms|dr|prof|st|rev|capt|col|gen|jr|sr|vs|etc|e\.g|i\.e|approx|inc|ltd|fig|no|[a-z]|\d{1,3})\.$",
    re.IGNORECASE,
)
_UNIT = re.compile(r"[㐀-鿿぀-ヿ가-힯]|[^\W_]{1,12}")
TOKENS_A_WORD = 1.3
_WRAPPED = (40, 100)  # a text of broken lines: usually longer than the first, never longer than the second


def estimated_tokens(text: str) -> int:
    """Tokens of a text without a tokenizer: words times 1.3, rounded up.

    A word has at most twelve letters, so that a long run of letters is not one word, and a Chinese, Japanese or Korean
    character is a word of its own.
    """
    return math.ceil(TOKENS_A_WORD * len(_UNIT.findall(text)))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Spans `(start, stop)` of the sentences of a text in order, without the space around them.

    An empty line always ends a sentence. A line's end does too, unless the text's lines are broken at one width.
    """
    lines = [len(line) for line in text.splitlines() if line.strip()]
    broken = len(lines) > 2 and max(lines) <= _WRAPPED[1] and median(lines) >= _WRAPPED[0]
    cuts = {match.end() for match in (_GAP if broken else _LINE).finditer(text)}
    for end in _END.finditer(text):
        if text[end.start()] != "." or not _ABBREVIATION.search(text[max(0, end.start() - 12) : end.start() + 1]):
            cuts.add(end.end())
    spans = []
    start = 0
    for stop in [*sorted(cuts), len(text)]:
        piece = text[start:stop]
        if any(character.isalnum() for character in piece):
            spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = stop
    return spans
