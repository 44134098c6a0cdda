"""The baselines of evidence recall: BM25, MiniLM, their fusion, and BM25 over each turn with its neighbours.

All read the same text as memspan does: "Speaker: text [shared a photo: caption]", where a speaker who is only a role
("user", "assistant") is not named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import MissingExtraError
from memspan.longterm.passages import embedded_text
from memspan.longterm.readers.questions import Conversation

if TYPE_CHECKING:
    from memspan.models import Embedder

BASELINES = ("BM25", "MiniLM", "RRF", "BM25±1")
RRF_K = 60
Scores = NDArray[np.floating[Any]]


def texts(conversation: Conversation) -> list[str]:
    """What every baseline reads of each episode."""
    return [embedded_text(episode.text, episode.speaker, episode.metadata) for episode in conversation.episodes]


def with_neighbours(conversation: Conversation) -> list[str]:
    """Each episode's text between those of the turn before and the turn after, inside its session."""
    alone, episodes = texts(conversation), conversation.episodes
    joined = []
    for place, episode in enumerate(episodes):
        near = range(max(0, place - 1), min(len(alone), place + 2))
        joined.append(" ".join(alone[other] for other in near if episodes[other].session == episode.session))
    return joined


def bm25(documents: Sequence[str], questions: Sequence[str]) -> Scores:
    """[questions, documents] scores of bm25s (k1 = 1.5, b = 0.75), English stop words, Snowball stems."""
    try:
        import bm25s  # type: ignore[import-untyped]
        import Stemmer
    except ImportError:
        raise MissingExtraError("bm25s, which computes the BM25 baseline,", "pip install bm25s") from None
    stemmer = Stemmer.Stemmer("english")

    def tokens(batch: Sequence[str]) -> list[list[str]]:
        split: list[list[str]] = bm25s.tokenize(
            list(batch), stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
        )
        return split

    model = bm25s.BM25()
    model.index(tokens(documents), show_progress=False)
    empty = np.zeros(len(documents), np.float32)
    known = set(model.vocab_dict)
    scores = []
    for words in tokens(questions):
        words = [word for word in words if word in known]
        scores.append(model.get_scores(words) if words else empty)
    return np.stack(scores)


def cut(documents: Sequence[str], tokens: int) -> list[str]:
    """The texts as MiniLM reads them when its window is set to `tokens`, the two special ones included."""
    from tokenizers import Tokenizer

    from memspan.models.spec import bundled_embedder

    tokenizer = Tokenizer.from_file(str(bundled_embedder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    kept = max(1, tokens - 2)
    encoded = tokenizer.encode_batch(list(documents), add_special_tokens=False)
    return [
        text if len(found) <= kept else text[: found.offsets[kept - 1][1]]
        for text, found in zip(documents, encoded, strict=True)
    ]


def ranks(scores: Scores) -> NDArray[np.int64]:
    """[questions, documents] ranks from 0; ties go to the earlier document."""
    return np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)


def orders(
    conversation: Conversation, embedder: Embedder | None, k: int, tokens: int | None = None
) -> dict[str, NDArray[np.int64]]:
    """For each baseline [questions, k] positions of episodes, best first; without an embedder the BM25 ones only.

    `tokens` narrows MiniLM's window; None is its own, 256.
    """
    questions = [question.text for question in conversation.questions]
    scores: dict[str, Scores] = {"BM25": bm25(texts(conversation), questions)}
    if embedder is not None:
        read = texts(conversation) if tokens is None else cut(texts(conversation), tokens)
        cosine = embedder.embed(questions) @ embedder.embed(read).T
        fused = 1 / (RRF_K + 1 + ranks(scores["BM25"])) + 1 / (RRF_K + 1 + ranks(cosine))
        scores |= {"MiniLM": cosine, "RRF": fused}
    scores["BM25±1"] = bm25(with_neighbours(conversation), questions)
    return {name: np.argsort(-values, axis=1, kind="stable")[:, :k] for name, values in scores.items()}
