"""The six kinds of sets: pairs of what is studied and a foil that is not, from a seed and anyone's text or none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from memspan.core.errors import InputError
from memspan.probes.base import Count
from memspan.probes.sentences import (
    SYNONYMS,
    WORD,
    Sentence,
    count_roughly,
    made_up,
    one_word_exchanged,
    reworded,
)

Kind = Literal["sentences", "paraphrase", "one_word", "random_words", "random_vs_real", "gibberish_vs_real"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEAST, MOST = 8, 128
"""Tokens of an item: the authors cut at 128, here longer ones are left out."""
LIST_WORDS = 25
_ENOUGH = 20_000  # sentences in a row that are no use


@dataclass(frozen=True, slots=True)
class Pair:
    """One text to be studied, and one that never is."""

    seen: str
    foil: str


def make_set(
    kind: Kind, n: int, *, corpus: Sequence[str] | None = None, seed: int = 0, count: Count | None = None
) -> tuple[list[str], list[str]]:
    """`n` texts to be studied and as many foils, text i with foil i; no text is there twice.

    Args:
        kind: "sentences" (other sentences, of equal length in tokens), "paraphrase", "one_word" (a synonym),
            "random_words" (lists of words against others), "random_vs_real" and "gibberish_vs_real" (the foil is far
            likelier than what was studied, before it was).
        corpus: sentences of the user's; None makes them up.
        count: tokens of a text; None counts words and marks.

    Raises:
        InputError: no such kind, or the corpus has too few sentences of 8 to 128 tokens that can be used.
    """
    if n < 1:
        raise InputError(f"n is {n}: at least one pair is needed")
    made = list(islice(pairs(kind, seed, count or count_roughly, corpus), n))
    if len(made) < n:
        raise InputError(f"the text has sentences for {len(made):,} pairs of the kind {kind}, and {n:,} are asked for")
    return [pair.seen for pair in made], [pair.foil for pair in made]


def pairs(kind: Kind, seed: int, count: Count, corpus: Sequence[str] | None = None) -> Iterator[Pair]:
    """Pairs of a kind, without end unless there is a corpus; the first ones are the same however many are taken.

    Raises:
        InputError: no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is no kind of set: choose of {', '.join(KINDS)}")
    chance = random.Random(f"{kind} {seed}")
    used: set[str] = set()
    source = made_up(chance) if corpus is None else _given(corpus, chance)
    vocabulary = sorted({word for s in corpus or () for word in WORD.findall(s.lower()) if len(word) > 2}) or sorted(
        word for word in SYNONYMS if len(word) > 2
    )
    waiting: dict[int, str] = {}  # of each length one text that has no partner yet

    def fits(text: str) -> bool:
        return text not in used and LEAST <= count(text) <= MOST

    idle = 0
    for sentence in source:
        idle += 1
        if idle > _ENOUGH:
            return
        seen, foil = sentence.text, sentence.other
        if kind in ("sentences", "random_words"):
            if kind == "random_words":
                seen = _word_list(vocabulary, chance)
            partner = waiting.pop(count(seen), "")
            if not partner or partner == seen:
                if fits(seen):
                    waiting[count(seen)] = seen
                    used.add(seen)
                continue
            foil = partner
            used.discard(partner)
            if chance.random() < 0.5:
                seen, foil = foil, seen
        elif kind == "one_word":
            foil = one_word_exchanged(seen, chance)
        elif kind == "random_vs_real":
            seen, foil = _word_list(vocabulary, chance), seen
        elif kind == "gibberish_vs_real":
            seen, foil = _gibberish(seen, chance), seen
        if foil and seen != foil and fits(seen) and fits(foil):
            used |= {seen, foil}
            idle = 0
            yield Pair(seen, foil)


def other_sentences(seed: int, count: Count, corpus: Sequence[str] | None = None) -> Iterator[str]:
    """Sentences to go on learning from, each once."""
    chance = random.Random(f"later {seed}")
    used: set[str] = set()
    for sentence in made_up(chance) if corpus is None else _given(corpus, chance):
        if sentence.text not in used and LEAST <= count(sentence.text) <= MOST:
            used.add(sentence.text)
            yield sentence.text


# --- what becomes of sentences ---------------------------------------------------------------------------------------


def _given(corpus: Sequence[str], chance: random.Random) -> Iterator[Sentence]:
    """A user's sentences by lot."""
    shuffled = list(dict.fromkeys(corpus))
    chance.shuffle(shuffled)
    return (Sentence(text, reworded(text)) for text in shuffled)


def _word_list(vocabulary: Sequence[str], chance: random.Random) -> str:
    return " ".join(chance.choice(vocabulary) for _ in range(LIST_WORDS))


def _gibberish(text: str, chance: random.Random) -> str:
    """Letters shuffled inside the words, and the words."""
    mixed = ["".join(chance.sample(word, len(word))) for word in text.split()]
    chance.shuffle(mixed)
    return " ".join(mixed)
