"""Subjects that rank documents for a question: by words, by vectors, or by how likely the question is after each."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from memspan.core.errors import InputError
from memspan.models.base import Embedder, LanguageModel
from memspan.probes.base import Choice, Form, Item

_WORD = re.compile(r"[^\W_]+")


@runtime_checkable
class Retriever(Protocol):
    """A subject that ranks documents.

    Attributes:
        name: as reports show it.
        forms: as of any subject.
    """

    name: str
    forms: tuple[Form, ...]

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> list[list[float]]:
        """A number for each query and document, [Q][D], higher where the document answers the query better."""

    def read(self, item: Item) -> None:
        """As of any subject."""

    def write(self, item: Item) -> str:
        """As of any subject."""

    def weigh(self, choice: Choice) -> list[float]:
        """As of any subject."""

    def count_tokens(self, text: str) -> int | None:
        """As of any subject."""


class _Ranks:
    """What a subject that does nothing but rank says to everything else."""

    name: str
    forms: tuple[Form, ...] = ("text", "likelihood")

    def read(self, item: Item) -> None:
        """Not possible. Raises InputError."""
        raise InputError(f"{self.name} ranks documents, and can sit exams of retrieval alone")

    def write(self, item: Item) -> str:
        """Not possible. Raises InputError."""
        raise InputError(f"{self.name} ranks documents, and can sit exams of retrieval alone")

    def weigh(self, choice: Choice) -> list[float]:
        """Not possible. Raises InputError."""
        raise InputError(f"{self.name} ranks documents, and can sit exams of retrieval alone")

    def count_tokens(self, text: str) -> int | None:
        """No tokenizer."""
        return None


class WordRetriever(_Ranks):
    """BM25 over whole documents (Robertson and Zaragoza 2009; k1 = 1.2, b = 0.75), on words in lower case."""

    name = "bm25"

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> list[list[float]]:
        """Sums of the weights of each query's words, each word once."""
        counts = [Counter(_WORD.findall(text.lower())) for text in documents]
        sizes = [sum(count.values()) for count in counts]
        mean = sum(sizes) / len(sizes) or 1
        holders = Counter(word for count in counts for word in count)
        found = []
        for query in queries:
            wanted = set(_WORD.findall(query.lower())) & holders.keys()
            weights = {
                word: math.log(1 + (len(documents) - holders[word] + 0.5) / (holders[word] + 0.5)) for word in wanted
            }
            found.append(
                [
                    sum(
                        weight * count[word] * 2.2 / (count[word] + 1.2 * (0.25 + 0.75 * size / mean))
                        for word, weight in weights.items()
                    )
                    for count, size in zip(counts, sizes, strict=True)
                ]
            )
        return found


class VectorRetriever(_Ranks):
    """Cosine of an embedder's vectors.

    Args:
        embedder: reads of a document as much as it does.
        name: as reports show it.
        pieces: cuts a document, whose best piece then counts; None embeds it whole.
    """

    def __init__(self, embedder: Embedder, name: str, pieces: Callable[[str], Sequence[str]] | None = None) -> None:
        self._embedder, self.name, self._pieces = embedder, name, pieces

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> list[list[float]]:
        """Cosines; of pieces the largest."""
        asks: Any = getattr(self._embedder, "embed_queries", self._embedder.embed)
        asked = asks(list(queries))
        cut = [[text] if self._pieces is None else list(self._pieces(text)) for text in documents]
        begin = np.cumsum([0, *map(len, cut)])[:-1]
        table = self._embedder.embed([piece for pieces in cut for piece in pieces])
        ranked: list[list[float]] = np.maximum.reduceat(asked @ table.T, begin, axis=1).tolist()
        return ranked


class LikelihoodRetriever(_Ranks):
    """A language model: how likely the query is after the document (Sachan et al., EMNLP 2022).

    Args:
        model: with log-likelihoods; each document must fit into its window, as nothing is cut off.
        name: as reports show it; the model's by default.
    """

    def __init__(self, model: LanguageModel, name: str | None = None) -> None:
        self._model, self.name = model, name or model.name

    def rank(self, queries: Sequence[str], documents: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of the queries; a document is read once for all of them."""
        columns = [
            self._model.loglik(f"{text}\n\nThe text above answers this:", [f" {query}" for query in queries])
            for text in documents
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def count_tokens(self, text: str) -> int | None:
        """The model's tokenizer."""
        return self._model.count_tokens(text)


def ndcg(ranking: Sequence[int], right: Sequence[int], k: int = 10) -> float:
    """Normalized discounted cumulative gain at k of a ranking against documents of equal worth, from 0 to 1."""
    wanted = set(right)
    gain = sum(1 / math.log2(rank + 2) for rank, one in enumerate(ranking[:k]) if one in wanted)
    return gain / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(wanted))))
