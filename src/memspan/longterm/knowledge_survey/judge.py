"""Does a passage support a claim? By words, not by meaning: near in meaning is how wrong numbers slip through."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

from memspan.longterm.knowledge_survey.text import content, names, negations, numbers, sentence_spans, stems, words


class Support(NamedTuple):
    """How far a passage supports a claim (0 to 1), and the span of the sentence that does."""

    value: float
    span: tuple[int, int]


@runtime_checkable
class Judge(Protocol):
    """Says how far a passage supports a claim."""

    def support(self, claim: str, passage: str, speaker: str | None = None) -> Support:
        """`speaker` said the passage; their name counts as one of its words."""


class ExtractiveJudge:
    """A claim is supported by the share of its words that one or two neighbouring sentences of the passage hold.

    The share is weighted by how rare a word is. Whatever the share, support is 0 when a number or a name of the claim
    is not in the passage, or when one of the two denies something and the other does not.

    Args:
        idf: weight of a stem by its hash (see `memspan.longterm.passages.term_hashes`); None weighs all alike.
    """

    def __init__(self, idf: Mapping[int, float] | Callable[[int], float] | None = None) -> None:
        if idf is None:
            self._weight: Callable[[int], float] = lambda _: 1.0
        elif callable(idf):
            self._weight = idf
        else:
            self._weight = lambda term: idf.get(term, 1.0)

    def support(self, claim: str, passage: str, speaker: str | None = None) -> Support:
        """The best sentence, or pair of neighbours, for the claim."""
        spans = sentence_spans(passage)
        best = Support(0.0, spans[0] if spans else (0, 0))
        wanted, claimed_numbers = content(claim), numbers(claim)
        total = sum(self._weight(term) for term in wanted) + len(claimed_numbers)
        if not total:
            return best
        claimed_names = {name.casefold() for name in names(claim)}
        denies, claim_words = negations(claim), words(claim)
        spoken = set(words(speaker or ""))
        for span in [*spans, *((a[0], b[1]) for a, b in pairwise(spans))]:
            text = passage[span[0] : span[1]]
            found = words(text)
            if negations(text) != denies or not claimed_numbers <= numbers(text):
                continue
            if not claimed_names <= {name.casefold() for name in text_tokens(text)} | spoken:
                continue
            held = stems(text) | stems(speaker or "")
            value = (sum(self._weight(term) for term in wanted & held) + len(claimed_numbers)) / total
            if _contains(found, claim_words):
                value = 1.0
            if value > best.value + 1e-9:
                best = Support(value, span)
        return best


def text_tokens(text: str) -> set[str]:
    """Words as written, possessive endings removed."""
    return {re.sub(r"['’]s$", "", token) for token in re.findall(r"[^\W_][\w'’-]*", text)}


def _contains(text: list[str], part: list[str]) -> bool:
    size = len(part)
    return size > 0 and any(text[i : i + size] == part for i in range(len(text) - size + 1))
