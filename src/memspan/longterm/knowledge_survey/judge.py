"""Does a passage support a claim? By words, not by meaning: near in meaning is how wrong numbers slip through."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

from memspan.core.errors import InputError, UnsupportedModelError
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
        claim_words, denies, agrees = words(claim), negations(claim), _agreement(claim, speaker)
        for span in _places(spans):
            text = passage[span[0] : span[1]]
            if _contains(words(text), claim_words) and negations(text) == denies:
                value = 1.0
            elif agrees(text):
                held = stems(text) | stems(speaker or "")
                value = (sum(self._weight(term) for term in wanted & held) + len(claimed_numbers)) / total
            else:
                continue
            if value > best.value + 1e-9:
                best = Support(value, span)
        return best


class CallableJudge:
    """A judge made from a function of claim and text, such as a cross-encoder's score or a question to a model.

    Args:
        score: (claim, text) -> support, 0 to 1; called on single sentences and on pairs of neighbours.
        exact: numbers, names and denials must match as in `ExtractiveJudge`, whatever the function says: scores by
            meaning are high for a wrong year.
    """

    def __init__(self, score: Callable[[str, str], float], *, exact: bool = True) -> None:
        self._score = score
        self._exact = exact

    def support(self, claim: str, passage: str, speaker: str | None = None) -> Support:
        """The best sentence, or pair of neighbours, for the claim.

        Raises:
            InputError: the function returned no number from 0 to 1.
        """
        spans = sentence_spans(passage)
        best = Support(0.0, spans[0] if spans else (0, 0))
        if not claim.strip():
            return best
        agrees = _agreement(claim, speaker)
        for span in _places(spans):
            text = passage[span[0] : span[1]]
            if self._exact and not agrees(text):
                continue
            value = float(self._score(claim, f"{speaker}: {text}" if speaker else text))
            if not 0 <= value <= 1:
                raise InputError(f"the judge's function returned {value!r}, which does not lie between 0 and 1")
            if value > best.value + 1e-9:
                best = Support(value, span)
        return best


class NLIJudge(CallableJudge):
    """Support is the probability that a natural-language-inference model gives to "the text entails the claim".

    Args:
        model: a transformers sequence classifier with a label named "entailment"; tokenizer: its own.
        exact: see `CallableJudge`.

    Raises:
        UnsupportedModelError: the model has no such label.
    """

    def __init__(self, model: Any, tokenizer: Any, *, exact: bool = True) -> None:
        labels = {str(name).casefold(): int(place) for name, place in (model.config.label2id or {}).items()}
        if "entailment" not in labels:
            raise UnsupportedModelError(
                f"an NLI model needs a label 'entailment'; this one has {', '.join(sorted(labels)) or 'none'}"
            )
        self._model, self._tokenizer, self._label = model.eval(), tokenizer, labels["entailment"]
        super().__init__(self._entails, exact=exact)

    def _entails(self, claim: str, text: str) -> float:
        import torch

        read = self._tokenizer(text, claim, return_tensors="pt", truncation="only_first").to(self._model.device)
        with torch.inference_mode():
            return float(self._model(**read).logits[0].float().softmax(-1)[self._label])


def _places(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sentences, then the pairs of neighbours."""
    return [*spans, *((a[0], b[1]) for a, b in pairwise(spans))]


def _agreement(claim: str, speaker: str | None) -> Callable[[str], bool]:
    """Whether a text holds the claim's numbers and names, and denies if the claim does."""
    claimed_numbers, denies = numbers(claim), negations(claim)
    claimed_names = {name.casefold() for name in names(claim)}
    spoken = set(words(speaker or ""))

    def agrees(text: str) -> bool:
        if negations(text) != denies or not claimed_numbers <= numbers(text):
            return False
        return claimed_names <= {name.casefold() for name in text_tokens(text)} | spoken

    return agrees


def text_tokens(text: str) -> set[str]:
    """Words as written, possessive endings removed; of "al-Biruni" also the parts."""
    whole = {re.sub(r"['’]s$", "", token) for token in re.findall(r"[^\W_][\w'’-]*", text)}
    return whole | {part for token in whole for part in re.findall(r"[^\W_]+", token)}


def _contains(text: list[str], part: list[str]) -> bool:
    size = len(part)
    return size > 0 and any(text[i : i + size] == part for i in range(len(text) - size + 1))
