"""From a text to what is indexed: passages, stems, and the words an embedder reads.

A passage is a whole short text or one chunk of a long one: long messages score by their best chunk, so that their
length neither drowns nor favours them.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import Stemmer
from numpy.typing import NDArray

PASSAGE_CHARS = 450
"""Target length of a chunk. About 100 tokens: short enough that one topic fills it."""
_SLACK = 1.33  # a text up to a third longer than a chunk stays whole rather than leaving a crumb

ROLES = frozenset({"user", "assistant", "system", "tool", "developer", "human", "ai", "bot"})
"""Speaker names that say what a speaker is rather than who: they are not indexed as words."""

_WORD = re.compile(r"[^\W_]+")
_POSSESSIVE = re.compile(r"['’]s\b")
_BREAK = re.compile(r"(?<=[.!?])\s+|\n+")
STOP_WORDS = frozenset(
    "a about all also am an and any are as at be been being but by can could d did didn do does doesn don for from"
    " had has have he her him his how i if in into is it its just ll m may me might must my no not of on or our re s"
    " shall she should so some such t than that the their them then there these they this to us ve very was we were"
    " what when where which who whom whose why will with would you your".split()
)
_CACHED_WORDS = 200_000
_local = threading.local()  # a Stemmer is not safe to share between threads


class _Hashes(dict[str, int]):
    """Word -> 32-bit hash of its stem, 0 for a stop word. Two of 100,000 stems collide about once in two corpora."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(STOP_WORDS, 0))
        self._stem = Stemmer.Stemmer("english", 0).stemWord

    def __missing__(self, word: str) -> int:
        value = self[word] = zlib.crc32(self._stem(word).encode()) or 1
        return value


def words_of(text: str) -> list[str]:
    """The words of a text in order, in lower case."""
    return _WORD.findall(text.lower())


def term_hashes(text: str) -> NDArray[np.uint32]:
    """Hashes of the stems of `text` in order, stop words left out. Shape [words], uint32."""
    known: _Hashes | None = getattr(_local, "known", None)
    if known is None or len(known) > _CACHED_WORDS:
        known = _local.known = _Hashes()
    lower = text.lower()
    if "'" in lower or "’" in lower:
        lower = _POSSESSIVE.sub("", lower)
    return np.array([value for word in _WORD.findall(lower) if (value := known[word])], dtype=np.uint32)


def indexed_text(text: str, speaker: str | None, metadata: Mapping[str, Any] | None) -> tuple[str, str]:
    """What search sees before and after the text itself: who said it, and the caption of a shared photo."""
    before = f"{speaker}: " if speaker and speaker.lower() not in ROLES else ""
    caption = (metadata or {}).get("caption")
    return before, f" [shared a photo: {caption}]" if caption else ""


def chunks(text: str, size: int = PASSAGE_CHARS) -> Iterable[tuple[int, int]]:
    """Spans `(start, stop)` that cover `text` in order, cut at sentence or line ends where there are any."""
    if len(text) <= size * _SLACK:
        return [(0, len(text))]
    cuts = [match.end() for match in _BREAK.finditer(text)]
    cuts.append(len(text))
    spans: list[tuple[int, int]] = []
    start = last = 0
    for cut in cuts:
        if cut - start > size and last > start:
            spans.append((start, last))
            start = last
        while cut - start > size * _SLACK:
            space = text.rfind(" ", start + size // 2, start + size)
            stop = space + 1 if space > 0 else start + size
            spans.append((start, stop))
            start = stop
        last = cut
    if start < len(text):
        spans.append((start, len(text)))
    return [span for span in spans if text[span[0] : span[1]].strip()] or [(0, len(text))]


@dataclass(frozen=True, slots=True)
class Passage:
    """One indexed span of a record's text, and its stems as bytes of uint32."""

    start: int
    stop: int
    terms: bytes


def passages(text: str, speaker: str | None = None, metadata: Mapping[str, Any] | None = None) -> list[Passage]:
    """The passages of a record."""
    before, after = indexed_text(text, speaker, metadata)
    if len(text) <= PASSAGE_CHARS * _SLACK:
        return [Passage(0, len(text), term_hashes(before + text + after).tobytes())]
    spans = list(chunks(text))
    made = []
    for number, (start, stop) in enumerate(spans):
        words = (before if number == 0 else "") + text[start:stop] + (after if number == len(spans) - 1 else "")
        made.append(Passage(start, stop, term_hashes(words).tobytes()))
    return made


def embedded_text(text: str, speaker: str | None = None, metadata: Mapping[str, Any] | None = None) -> str:
    """What the embedder reads of a record; it cuts what is longer than its window."""
    before, after = indexed_text(text, speaker, metadata)
    return before + text + after
