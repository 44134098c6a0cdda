"""A note's attributes by rules: keywords, tags and a context sentence, all taken from words that were said."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.passages import STOP_WORDS, term_hashes
from memspan.longterm.scribe.time_words import DAYS, HOLIDAYS, MONTHS, NUMBERS, PARTS, SEASONS
from memspan.longterm.vectors import F32

MOST = 12  # keywords or tags of a note, whoever wrote them
CONTEXT_CHARS = 300
_MOST_WORDS = 5  # of a keyword or tag
_WORD = re.compile(r"[^\W_]+")
_POSSESSIVE = re.compile(r"['’]s\b")
_LEAST_LETTERS = 3
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# No keyword names a time (the paper's prompt says so).
_TIMES = frozenset(
    word for names in (DAYS, HOLIDAYS, MONTHS, NUMBERS, PARTS, SEASONS) for name in names for word in name.split()
) | frozenset(
    "yesterday today tomorrow tonight ago noon midnight weekend weekends minute minutes hour hours day days week weeks"
    " month months year years decade last next recently soon later now then time".split()
)
_TAG_LIST = 64  # words that serve as tags
_LEAST_NOTES, _LEAST_SHARE = 3, 0.01  # how many notes a word must be a keyword of to be a tag


@dataclass(frozen=True, slots=True)
class Statistics:
    """How many texts the store holds, and how many of them hold each term."""

    texts: int
    frequency: Mapping[int, int]

    def weight(self, term: int) -> float:
        """Inverse document frequency, as BM25 has it."""
        held = self.frequency.get(term, 0)
        return math.log1p((max(self.texts, held) - held + 0.5) / (held + 0.5))


@dataclass(slots=True)
class Attributes:
    """What a note holds beside its content.

    Attributes:
        keywords: ordered by salience; no speakers, no times.
        tags: broader words.
        context: a sentence.
        seen: the other episodes that the attributes were written from: ids, or positions in the batch.
        by: "rules", "model" or "caller".
        fallback: why the rules decided where a model was to, in words.
    """

    keywords: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    context: str = ""
    seen: list[str | int] = field(default_factory=list)
    by: str = "rules"
    fallback: str = ""


def document(content: str, context: str, keywords: Sequence[str], tags: Sequence[str]) -> str:
    """The one form in which a note is indexed and embedded."""
    return "\n".join(part for part in (content, context, ", ".join(keywords), ", ".join(tags)) if part)


def words(text: str, leave_out: Collection[str] = ()) -> dict[int, str]:
    """Stems' hashes and the first form of each, in order; without stop words, times and `leave_out` (lower case)."""
    found: dict[int, str] = {}
    for word in _WORD.findall(_POSSESSIVE.sub("", text.lower())):
        if len(word) < _LEAST_LETTERS or not word.isalpha():
            continue
        if word in STOP_WORDS or word in _TIMES or word in leave_out:
            continue
        for term in term_hashes(word).tolist():
            found.setdefault(term, word)
    return found


def stems(phrases: Iterable[str]) -> set[int]:
    """Hashes of the stems of several words or phrases."""
    return set(term_hashes(" ".join(phrases)).tolist())


def keywords_of(text: str, statistics: Statistics, count: int, leave_out: Collection[str] = ()) -> list[str]:
    """The terms that tell most of a text: term frequency times inverse document frequency; ties in their order."""
    found = words(text, leave_out)
    often = Counter(term_hashes(text).tolist())
    ranked = sorted(found, key=lambda term: -often[term] * statistics.weight(term))
    return [found[term] for term in ranked[:count]]


def context_of(content: str, window: Sequence[tuple[str | None, str]], statistics: Statistics) -> tuple[str, int]:
    """The sentence of the turns before that says best what a text is about; ("", -1) when there is none.

    Args:
        content: the text.
        window: (speaker, text) of the turns before, the latest last.
        statistics: of the store.

    Returns:
        The sentence with its speaker, and which turn it is from.
    """
    own = set(words(content))
    best: tuple[tuple[float, int, float], str, int] | None = None
    for place, (speaker, text) in enumerate(window):
        for sentence in _SENTENCE.split(text):
            terms = words(sentence)
            if len(terms) < 2:
                continue
            weights = {term: statistics.weight(term) for term in terms}
            shared = sum(weight for term, weight in weights.items() if term in own)
            rank = (shared, place, sum(weights.values()) / len(weights))
            if best is None or rank > best[0]:
                said = f"{speaker}: {sentence.strip()}" if speaker else sentence.strip()
                best = rank, said[:CONTEXT_CHARS].strip(), place
    return ("", -1) if best is None else best[1:]


def tag_list(keywords: Sequence[Sequence[str]]) -> list[str]:
    """The words that serve as tags: keywords of several notes, the most frequent first."""
    least = max(_LEAST_NOTES, math.ceil(_LEAST_SHARE * len(keywords)))
    counts: Counter[int] = Counter()
    forms: dict[int, Counter[str]] = {}
    for of_note in keywords:
        for word in of_note:
            for term in term_hashes(word).tolist()[:1]:
                counts[term] += 1
                forms.setdefault(term, Counter())[word] += 1
    ranked = sorted((term for term in counts if counts[term] >= least), key=lambda t: (-counts[t], min(forms[t])))
    return [min(forms[t], key=lambda word: (-forms[t][word], word)) for t in ranked[:_TAG_LIST]]


def tags_of(
    text: str, tags: Sequence[str], count: int, vectors: F32 | None = None, own: F32 | None = None
) -> list[str]:
    """The tags nearest to a text.

    Args:
        text: the text with its local window.
        tags: what serves as a tag.
        count: how many.
        vectors: [len(tags), D] of the tags; without them a tag must stand in the text.
        own: [D] of the text.
    """
    if vectors is None or own is None:
        held = set(words(text))
        return [tag for tag in tags if not stems([tag]).isdisjoint(held)][:count]
    nearest = np.argsort(-(vectors @ own), kind="stable")[:count]
    return [tags[place] for place in nearest.tolist()]


def given(episode: Episode, where: str) -> Attributes | None:
    """The attributes that the caller gives in the metadata's "note"; None when there are none.

    Raises:
        InputError: they cannot be used.
    """
    if not isinstance(episode, Episode) or not isinstance(episode.metadata, Mapping):
        return None
    told: Any = episode.metadata.get("note")
    if told is None:
        return None
    if not isinstance(told, Mapping) or set(told) - {"keywords", "tags", "context"}:
        raise InputError(f"{where}: metadata['note'] must be an object with keywords, tags and context")
    context = told.get("context", "")
    if not isinstance(context, str):
        raise InputError(f"{where}: the note's context must be text")
    try:
        return Attributes(
            clean(told.get("keywords", []), "keywords", 0), clean(told.get("tags", []), "tags", 0), context.strip()
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def clean(value: Any, what: str, least: int = 1) -> list[str]:
    """A list of short words or phrases, each once.

    Raises:
        ValueError: it is none, or has fewer than `least`.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{what} must be a list of words")
    kept = list(dict.fromkeys(" ".join(item.split()) for item in value if item.strip()))
    if any(len(item) > 60 or len(item.split()) > _MOST_WORDS or "," in item for item in kept):
        raise ValueError(f"each of the {what} must be one to {_MOST_WORDS} words without a comma")
    if len(kept) < least:
        raise ValueError(f"{what} needs at least {least}")
    return kept[:MOST]
