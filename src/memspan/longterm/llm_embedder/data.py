"""Training data from a user's own files: what may be asked, what answers it, and what is easily taken for it.

Two tasks. "memory", from conversations: a question made by grammar about a turn (`questions.py`), or the one that
the turn replied to, to find the turn.
"lrlm", from documents, the paper's long-range modelling: the first sentence of a passage, to find the passage before
it; the wanted answer is the sentence that follows. In both, the passages that the encoder now takes for best are the
hard negatives. Sessions (or the end of a single document) are held out, and no text of them is trained on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.llm_embedder.encoder import LLMEmbedder
from memspan.longterm.llm_embedder.questions import asked_of, questions
from memspan.longterm.passages import ROLES, chunks, embedded_text
from memspan.longterm.retriever import Example

if TYPE_CHECKING:
    from spacy.language import Language

DataTask = Literal["memory", "lrlm"]
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z])")
_MIN_WORDS, _MAX_WORDS = 6, 60  # of a sentence that is asked with or for
_PEOPLE = frozenset(("user", "human"))
_PASSAGE_CHARS = 240  # of a document: what 64 tokens hold, the longest text in training
_HARD = 24  # of so many best-ranked wrong keys the hard negatives are drawn


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, what should be said after it, the place of the key that holds it, and keys that do not count."""

    query: str
    answer: str
    right: int
    barred: frozenset[int] = frozenset()


@dataclass(slots=True)
class Corpus:
    """Keys, and queries whose right keys are among them."""

    keys: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)


def corpora(
    episodes: Sequence[Episode], task: DataTask, *, held_out: float = 0.2, limit: int = 600, seed: int = 0
) -> tuple[Corpus, Corpus]:
    """Keys and queries to train on, and those held out, with no session in both.

    Args:
        episodes: in order.
        task: "memory" or "lrlm".
        held_out: share of the episodes, by whole sessions where there are at least five, else the last of them.
        limit: most queries to train on; half as many are held out at most.
        seed: of the choice of sessions and queries.

    Raises:
        InputError: too little text to learn from.
        MissingExtraError: "memory" without a spaCy pipeline.
    """
    if not 0 < held_out < 1:
        raise InputError(f"held_out is {held_out}; it is a share between 0 and 1")
    chance = random.Random(seed)
    kept, apart = _split(episodes, held_out, chance)
    made = []
    for part, most in ((kept, limit), (apart, max(1, limit // 2))):
        corpus = conversation_corpus(part) if task == "memory" else document_corpus(part)
        if len(corpus.asked) > most:
            corpus.asked = [corpus.asked[i] for i in sorted(chance.sample(range(len(corpus.asked)), most))]
        made.append(corpus)
    if len(made[0].asked) < 16 or len(made[1].asked) < 8:
        raise InputError(
            f"the files give {len(made[0].asked)} queries to train on and {len(made[1].asked)} to test with for task"
            f" {task!r}; at least 16 and 8 are needed: add files, or choose another task"
        )
    return made[0], made[1]


def has_speakers(episodes: Iterable[Episode]) -> bool:
    """Whether most episodes have a speaker, as conversations do."""
    flags = [episode.speaker is not None for episode in episodes]
    return sum(flags) * 2 > len(flags)


def examples(corpus: Corpus, encoder: LLMEmbedder, task: str, *, keys: int = 8, seed: int = 0) -> list[Example]:
    """One example a query: its right key, and `keys` − 1 wrong ones, half of them hard, half of them any."""
    chance = random.Random(seed)
    made = []
    order = _ranked(corpus, encoder, task)
    for asked, row in zip(corpus.asked, order, strict=True):
        right = corpus.keys[asked.right]
        wrong = [int(i) for i in row if i not in asked.barred and corpus.keys[i] != right]
        hard = chance.sample(wrong[:_HARD], min(keys // 2, len(wrong[:_HARD])))
        left = [i for i in wrong if i not in hard]
        chosen = hard + chance.sample(left, min(keys - 1 - len(hard), len(left)))
        negatives = tuple(corpus.keys[i] for i in chosen)
        made.append(Example(query=asked.query, positives=(right,), negatives=negatives, answer=asked.answer))
    return made


def ranks(corpus: Corpus, encoder: LLMEmbedder, task: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """[queries] the place of each right key among all keys, from 1."""
    found = []
    for asked, row in zip(corpus.asked, _ranked(corpus, encoder, task), strict=True):
        seen = [i for i in row if i not in asked.barred]
        found.append(1 + seen.index(asked.right))
    return np.array(found, np.int64)


def _ranked(corpus: Corpus, encoder: LLMEmbedder, task: str) -> list[list[int]]:
    vectors = encoder.encode(corpus.keys, task, "key")
    asked = encoder.encode([asked.query for asked in corpus.asked], task, "query")
    return [np.argsort(-row, kind="stable").tolist() for row in asked @ vectors.T]


def _split(
    episodes: Sequence[Episode], share: float, chance: random.Random
) -> tuple[list[list[Episode]], list[list[Episode]]]:
    """Episodes by session, to train on and held out."""
    sessions: dict[str | None, list[Episode]] = {}
    for episode in episodes:
        sessions.setdefault(episode.session, []).append(episode)
    if len(sessions) < 5:
        cuts = [(rows, round(len(rows) * (1 - share))) for rows in sessions.values()]
        return [rows[:cut] for rows, cut in cuts], [rows[cut:] for rows, cut in cuts]
    order = list(sessions.values())
    chance.shuffle(order)
    kept: list[list[Episode]] = []
    apart: list[list[Episode]] = []
    for rows in order:
        enough = sum(map(len, apart)) >= share * len(episodes)
        (kept if enough else apart).append(rows)
    return kept, apart


def conversation_corpus(sessions: Sequence[Sequence[Episode]]) -> Corpus:
    """Every turn's passages are keys; the statements in them are asked for."""
    nlp = _pipeline()
    corpus = Corpus()
    for episodes in sessions:
        spans = [chunks(episode.text) for episode in episodes]
        pieces = [(place, start, stop) for place, cut in enumerate(spans) for start, stop in cut]
        texts = [episodes[place].text[start:stop] for place, start, stop in pieces]
        for (place, start, _), text, doc in zip(pieces, texts, nlp.pipe(texts, batch_size=64), strict=True):
            episode = episodes[place]
            whole = text == episode.text
            corpus.keys.append(
                embedded_text(text, episode.speaker if start == 0 else None, episode.metadata if whole else None)
            )
            here, name = len(corpus.keys) - 1, episode.speaker or "user"
            if name.lower() in ROLES - _PEOPLE:
                continue  # what an assistant says is seldom about itself
            found = [pair for sentence in doc.sents for pair in questions(sentence, _called(name))]
            if whole and place and episodes[place - 1].speaker not in (None, episode.speaker):
                before = asked_of(episodes[place - 1].text, _called(name))
                reply = next((s.text.strip() for s in doc.sents if _MIN_WORDS <= len(s) <= _MAX_WORDS), None)
                if before is not None and reply is not None:
                    found.append((before, reply))
            corpus.asked += [Asked(query, answer, here) for query, answer in found]
    return corpus


def _called(name: str) -> str:
    return "the user" if name.lower() in ROLES else name


def document_corpus(documents: Sequence[Sequence[Episode]]) -> Corpus:
    """Passages are keys; each asks for the one before it."""
    corpus = Corpus()
    for episodes in documents:
        pieces = [e.text[start:stop].strip() for e in episodes for start, stop in chunks(e.text, _PASSAGE_CHARS)]
        before = len(corpus.keys)
        corpus.keys += pieces
        for place, piece in enumerate(pieces[1:], before + 1):
            parts = [" ".join(part.split()) for part in _SENTENCE_END.split(piece)]
            if len(parts) > 1 and all(_MIN_WORDS <= len(part.split()) <= _MAX_WORDS for part in parts[:2]):
                corpus.asked.append(Asked(parts[0], parts[1], place - 1, frozenset((place,))))
    return corpus


def _pipeline() -> Language:
    from memspan.longterm.scribe.rules import load_pipeline

    return load_pipeline()
