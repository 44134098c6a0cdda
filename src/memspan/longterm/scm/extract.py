"""Summaries that are made of a text's own sentences: the central ones, those that bear on a question, none twice."""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence

from memspan.longterm.passages import term_hashes
from memspan.longterm.scm.sentences import Counter, sentence_spans

Stems = frozenset[int]
LEAD = 0.15  # what the first sentence of a text gains, halving with every next one: openings say what a text is about
_TELLING = 6  # stems below which a sentence is worth less: an exclamation is near any centre
QUESTION = 0.7  # share of the question in a sentence's worth, where there is one; the rest is the text's centre


def stems(text: str) -> Stems:
    """Hashes of the stems of a text, stop words left out."""
    return frozenset(term_hashes(text).tolist())


def rarity(texts: Iterable[Stems]) -> dict[int, float]:
    """Inverse document frequency of every stem, where each set is a document."""
    sets = list(texts)
    counts = Tally(stem for words in sets for stem in words)
    return {stem: math.log(1 + len(sets) / count) for stem, count in counts.items()}


def coverage(question: Stems, text: Stems, weights: Mapping[int, float]) -> float:
    """The share of the question's stems, weighted by rarity, that a text has; 0 when the question has none.

    A stem without a weight weighs as much as the rarest that has one: what no candidate says, none answers.
    """
    unseen = max(weights.values(), default=1.0)
    total = sum(weights.get(stem, unseen) for stem in question)
    return sum(weights.get(stem, unseen) for stem in question & text) / total if total else 0.0


def choose_sentences(
    sentences: Sequence[Stems],
    costs: Sequence[int],
    limit: int,
    *,
    weights: Mapping[int, float],
    question: Stems = frozenset(),
    said: Iterable[int] = (),
    lead: float = LEAD,
) -> list[int]:
    """Positions, ascending, of the sentences of a summary.

    One after another the sentence is taken whose worth is greatest: its cosine with the centroid of all (Radev et al.
    2004), mixed with its coverage of the question, times the share of its words that no taken one has said.

    Args:
        sentences: the stems of each.
        costs: the tokens of each.
        limit: tokens that may be taken together.
        weights: rarity of stems.
        question: stems of the question.
        said: stems that are known already.
        lead: what the first sentence gains.
    """
    known = set(said)
    centre = Tally(stem for words in sentences for stem in words)
    length = math.sqrt(sum((weights.get(stem, 1.0) * count) ** 2 for stem, count in centre.items())) or 1.0
    worth = []
    for place, words in enumerate(sentences):
        own = math.sqrt(sum(weights.get(stem, 1.0) ** 2 for stem in words)) or 1.0
        near = sum(weights.get(stem, 1.0) ** 2 * centre[stem] for stem in words) / (length * own)
        near = near * min(1.0, len(words) / _TELLING) + lead * 0.5**place
        worth.append((1 - QUESTION) * near + QUESTION * coverage(question, words, weights) if question else near)
    left = set(range(len(sentences)))
    chosen: list[int] = []
    room = limit
    while left:
        gains = {}
        for place in left:
            words = sentences[place]
            total = sum(weights.get(stem, 1.0) for stem in words) or 1.0
            gains[place] = worth[place] * sum(weights.get(stem, 1.0) for stem in words - known) / total
        best = max(left, key=lambda place: (gains[place], -place))
        left.discard(best)
        if costs[best] > room:
            left = {place for place in left if costs[place] <= room}
            continue
        if gains[best] <= 0 and chosen:
            break
        chosen.append(best)
        room -= costs[best]
        known |= sentences[best]
    return sorted(chosen)


def extract(
    text: str,
    limit: int,
    counter: Counter,
    *,
    question: str = "",
    weights: Mapping[int, float] | None = None,
) -> str:
    """The text's most telling sentences in their order, at most `limit` tokens; "" when not even one fits."""
    parts = [text[start:stop] for start, stop in sentence_spans(text)]
    words = [stems(part) for part in parts]
    costs = [counter(part) + 1 for part in parts]  # 1 for what joins them
    chosen = choose_sentences(
        words, costs, limit, weights=rarity(words) if weights is None else weights, question=stems(question)
    )
    while chosen:
        summary = " ".join(" ".join(parts[place].split()) for place in chosen)
        if counter(summary) <= limit:
            return summary
        chosen.pop()
    return ""
