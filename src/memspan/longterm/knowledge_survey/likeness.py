"""How alike two words are in meaning: the cosine of an embedder's vectors of the single words.

Exact stems miss that "picked" answers "chose". MiniLM's vectors of single words give such pairs 0.6 to 0.9, and words
that only share a topic 0.2 to 0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.knowledge_survey.text import stem, words

F32 = NDArray[np.float32]

_NOTHING, _SAME = 0.35, 0.8  # cosines at and below which words have nothing in common, and from which on they are one
_KEPT = 20_000


def content_words(text: str) -> list[str]:
    """Lower-case words of a text, each once, in order; no stop words and no numbers."""
    return list(dict.fromkeys(word for word in words(text) if len(word) > 1 and word.isalpha() and stem(word)))


class Likeness:
    """The likeness of a question's words to the words of texts, 0 to 1.

    Args:
        wanted: the question's words.
        texts: whose words are to be compared.
        embed: list of texts -> unit rows; `[len(texts), dim]`.
        known: vectors of words that were embedded before; new ones are added.
    """

    def __init__(
        self,
        wanted: Sequence[str],
        texts: Iterable[str],
        embed: Callable[[Sequence[str]], F32],
        known: dict[str, F32] | None = None,
    ) -> None:
        known = {} if known is None else known
        others = list(dict.fromkeys(word for text in texts for word in content_words(text)))
        new = [word for word in dict.fromkeys([*wanted, *others]) if word not in known]
        if new:
            if len(known) + len(new) > _KEPT:
                known.clear()
                new = list(dict.fromkeys([*wanted, *others]))
            known.update(zip(new, embed(new), strict=True))
        self._column = {word: number for number, word in enumerate(others)}
        self._rows: dict[str, F32] = {}
        if wanted and others:
            cosines = np.stack([known[word] for word in wanted]) @ np.stack([known[word] for word in others]).T
            alike = np.clip((cosines - _NOTHING) / (_SAME - _NOTHING), 0, 1)
            self._rows = dict(zip(wanted, alike, strict=True))

    def __call__(self, word: str, text: str) -> float:
        """The likeness of a question's word to the likest word of a text."""
        row = self._rows.get(word)
        if row is None:
            return 0.0
        columns = [self._column[other] for other in content_words(text) if other in self._column]
        return float(row[columns].max()) if columns else 0.0


def covered(weights: Mapping[int, float], found: Mapping[int, float]) -> float:
    """The weighted mean of how far each term is found; 0 when nothing has weight."""
    total = sum(weights.values())
    return sum(weight * found.get(term, 0.0) for term, weight in weights.items()) / total if total else 0.0
