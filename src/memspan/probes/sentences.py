"""Sentences for exams, each in two wordings: made up from a seed, or a user's."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memspan.core.errors import InputError
from memspan.probes import words

TABLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "who": words.PEOPLE,
    "how": words.MANNERS,
    "what": words.THINGS,
    "kind": words.KINDS,
    "where": words.PLACES,
    "did": words.DEEDS,
    "when": words.TIMES,
}
SYNONYMS: dict[str, str] = {}
for _pair in (pair for table in words.EXCHANGED for pair in table):
    SYNONYMS.setdefault(_pair[0], _pair[1])
    SYNONYMS.setdefault(_pair[1], _pair[0])
# Of these another meaning is as common, so that in a user's sentence the synonym may be none.
_TWO_MEANINGS = frozenset(
    "left round kind minute idle seat plant yard note chest trunk store present lost sent observed plain real".split()
)
_EXCHANGEABLE = SYNONYMS.keys() - _TWO_MEANINGS
WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, and another wording of it, "" where there is none."""

    text: str
    other: str


def made_up(chance: random.Random, tables: Mapping[str, Sequence[tuple[str, str]]] = TABLES) -> Iterator[Sentence]:
    """Sentences without end; the other wording has another order and a synonym for every word that has one.

    Args:
        tables: what the places of a sentence are filled from; fewer words make texts with a subject of their own.
    """
    while True:
        one, other = chance.choice(words.WORDINGS)
        drawn = {name: chance.choice(table) for name, table in tables.items()}
        drawn["tail"] = chance.choice(words.TAILS) if chance.random() < 0.7 else ("", "")
        sides = []
        for side, wording in enumerate((one, other)):
            slots = {name: pair[side] for name, pair in drawn.items()}
            slots["tail"] = f" {slots['tail'].strip()}" if slots["tail"] else ""
            slots["When"] = slots["when"][:1].upper() + slots["when"][1:]
            sides.append(_articles(wording.format(**slots)))
        yield Sentence(*sides)


def reworded(text: str) -> str:
    """A user's sentence with synonyms for all words that have one here; "" where these are fewer than two."""
    known = _known(text)
    return _exchanged(text, known) if len(known) > 1 else ""


def one_word_exchanged(text: str, chance: random.Random) -> str:
    """The same with one word exchanged for its synonym; "" where none has one."""
    known = _known(text)
    return _exchanged(text, [chance.choice(known)]) if known else ""


def split_sentences(text: str) -> list[str]:
    """Sentences of a text, in order, each once."""
    found = re.split(r"(?<=[.!?])[\"”’)]*\s+(?=[\"“‘(]*[A-Z])", " ".join(text.split()))
    return list(dict.fromkeys(sentence for sentence in found if sentence))


def read_sentences(path: Path) -> list[str]:
    """Sentences of a file of text.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    found = split_sentences(text)
    if not found:
        raise InputError(f"{path} holds no sentence")
    return found


def count_roughly(text: str) -> int:
    """Tokens of English: a word of up to eight letters is one, and so is a mark."""
    return sum(-(-len(part) // 8) for part in re.findall(r"\w+|[^\w\s]", text))


def _known(text: str) -> list[re.Match[str]]:
    return [match for match in WORD.finditer(text) if match[0] in _EXCHANGEABLE]


def _exchanged(text: str, matches: Sequence[re.Match[str]]) -> str:
    for match in reversed(matches):
        text = text[: match.start()] + SYNONYMS[match[0]] + text[match.end() :]
    return _articles(text)


def _articles(text: str) -> str:
    """With "a" and "an" as the next letter wants them."""

    def fixed(match: re.Match[str]) -> str:
        vowel = match[2].lower() in "aeiou" and not re.match(r"us|uni|one", text[match.start(2) :].lower())
        return f"{match[1]}{'n' if vowel else ''} {match[2]}"

    return re.sub(r"\b([Aa])n? (\w)", fixed, text)
