"""From a question to the sentences that may answer it, best first, and how likely the best one does.

The retriever's episodes are split into sentences. A sentence scores by the weighted words of the question that it, its
turn and the turns beside it hold, by its vector, by its episode's rank, by whether it holds the kind of answer wanted
(a time, a number, a place, a name), by who said it, and by what the organizer's facts say of it: the sentence behind a
fact that holds gains, the sentence behind one that has ceased to hold loses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from memspan.longterm import clock
from memspan.longterm.base import Recollection
from memspan.longterm.knowledge_survey.config import KnowledgeSurveyConfig, logistic, weighted
from memspan.longterm.knowledge_survey.documents import current, newest_versions
from memspan.longterm.knowledge_survey.text import (
    Question,
    first_person,
    fits_kind,
    read_question,
    second_person,
    sentence_spans,
    stems,
    words,
)
from memspan.longterm.scribe.dates import find_times

if TYPE_CHECKING:
    from memspan.longterm.index import PassageIndex
    from memspan.longterm.memory import Memory
    from memspan.longterm.store import Transaction

_SHORT = 4  # words
_BEARING = 0.8  # share of the best coverage from which on a sentence bears on the question
_FAR_BEHIND = 3.0  # standard deviations behind the best episode from which on the distance no longer counts


@dataclass(slots=True)
class Sentence:
    """A sentence of a retrieved episode, and what speaks for it."""

    episode: str
    span: tuple[int, int]
    text: str
    whole: str
    speaker: str | None
    at: datetime | None
    rank: int
    features: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    terms: frozenset[int] = frozenset()
    """Stems of the sentence, its turn and its neighbours."""
    around: str = ""
    """The turn and its neighbours as text."""


@dataclass(slots=True)
class Evidence:
    """What was found for a question.

    Attributes:
        question: as it was read.
        hits: retrieved records, best first.
        facts: facts that hold at the asked time, best first; empty when the organizer keeps none.
        sentences: best first.
        features: of the confidence in the best sentence.
        confidence: 0 to 1.
        idf: weights of the question's terms in this store.
    """

    question: Question
    hits: list[Recollection]
    facts: list[Recollection]
    sentences: list[Sentence]
    features: dict[str, float]
    confidence: float
    idf: dict[int, float]


@dataclass(slots=True)
class _Turn:
    row: Any
    before: str = ""
    after: str = ""


def gather(memory: Memory, question: str, config: KnowledgeSurveyConfig, options: Mapping[str, Any]) -> Evidence:
    """Retrieve and rank the evidence for a question.

    Args:
        options: of `Memory.recall`; `kinds` adds kinds of record whose source episodes are read too.

    Raises:
        InputError: an option that cannot be.
    """
    options = dict(options)
    kinds = options.pop("kinds", ("episode",))
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    found = _recall(memory, question, config.k * config.depth, options)
    as_of = clock.as_moment(options.get("as_of"), "as_of")
    facts: list[Recollection] = []
    if "fact" in memory.organizer.kinds:
        asked = dict(options)
        if as_of is None and (named := _named_time(question)) is not None:
            asked["as_of"] = named
        facts = list(memory.recall(question, config.k, kinds=["fact"], **asked))
    others = [kind for kind in kinds if kind != "episode" and not (kind == "fact" and facts)]
    derived = list(memory.recall(question, config.k, kinds=others, **options)) if others else []
    found += derived
    space = options.get("space") or memory.space
    with memory.store.read(memory._now(), space) as tx:
        index = memory._index(tx, episodes=True)
        read = read_question(question, [name for name in index.speakers if name])
        idf = _idf(index, [*read.weights, *(term for name in read.names for term in stems(name))])
        wanted = [hit.episodes[0] for hit in [*found, *facts] if hit.episodes]
        turns = _turns(tx, list(dict.fromkeys(wanted)))
        closed = (
            _closed_facts(tx, list(turns), clock.to_micros(as_of) or tx.now)
            if facts or "fact" in memory.organizer.kinds
            else {}
        )
    sentences = _sentences(read, idf, found, turns)
    _who(read, sentences)
    _factual(read, idf, sentences, facts, closed)
    _temporal(read, sentences, as_of)
    if options.get("deadline_ms") is None:
        _cosines(memory, read, sentences, config)
    for sentence in sentences:
        sentence.score = weighted(config.selection, sentence.features)
    sentences.sort(key=lambda s: -s.score)
    features = confidence_features(read, idf, sentences)
    confidence = logistic(weighted(config.confidence, features)) if sentences else 0.0
    return Evidence(read, [*found[: config.k], *derived], facts, sentences, features, confidence, idf)


def _recall(memory: Memory, question: str, count: int, options: Mapping[str, Any]) -> list[Recollection]:
    """`count` episodes; more are asked for while chunks of superseded documents take their places."""
    as_of = clock.as_moment(options.get("as_of"), "as_of")
    wanted = count
    while True:
        hits = list(memory.recall(question, wanted, **options))
        documents = [hit.metadata["doc"] for hit in hits if isinstance(hit.metadata.get("doc"), str)]
        if not documents:
            return hits
        with memory.store.read(memory._now(), options.get("space") or memory.space) as tx:
            kept = current(hits, newest_versions(tx, documents, as_of))
        if len(kept) >= count or len(hits) < wanted:
            return kept[:count]
        wanted *= 4


def _named_time(question: str) -> datetime | None:
    """The end of the time that a question names with its year ("in 2021"), which needs no clock to be understood."""
    for span in find_times(question, None):
        if span.role == "at" and span.start is not None:
            return span.start
    return None


def _idf(index: PassageIndex, terms: Sequence[int]) -> dict[int, float]:
    size = len(index)
    weights = {}
    for term in dict.fromkeys(terms):
        count = int(np.count_nonzero(index.holding(np.array([term], np.uint32)))) if size else 0
        weights[term] = float(np.log1p((size - count + 0.5) / (count + 0.5)))
    return weights


def _turns(tx: Transaction, uids: Sequence[str]) -> dict[str, _Turn]:
    """Episodes by id, with the texts just before and after them in their session."""
    rows = tx.select("SELECT * FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", uids, tx.space_id)
    turns = {row["uid"]: _Turn(row) for row in rows}
    for turn in turns.values():
        if turn.row["session"] is None:
            continue
        here = (tx.space_id, turn.row["session"], turn.row["id"])
        where = "SELECT text, speaker FROM record WHERE space = ? AND session = ? AND kind = 'episode' AND id"
        if row := tx.execute(f"{where} < ? ORDER BY id DESC LIMIT 1", here).fetchone():
            turn.before = row[0]
        if row := tx.execute(f"{where} > ? ORDER BY id LIMIT 1", here).fetchone():
            turn.after = row[0]
    return {uid: turns[uid] for uid in uids if uid in turns}


def _closed_facts(tx: Transaction, uids: Sequence[str], moment: int) -> dict[str, list[str]]:
    """Episode id -> objects of its facts that have ceased to hold at the moment."""
    rows = tx.select(
        "SELECT e.uid, json_extract(o.data, '$.name') FROM record e JOIN source s ON s.episode = e.id"
        " JOIN record r ON r.id = s.record JOIN fact f ON f.record = r.id JOIN record o ON o.id = f.object"
        " WHERE e.uid IN ({ids}) AND e.kind = 'episode' AND e.space = ? AND r.status = 'live'"
        " AND r.invalid_at IS NOT NULL AND r.invalid_at <= ?",
        uids,
        tx.space_id,
        moment,
    )
    closed: dict[str, list[str]] = {}
    for uid, name in rows:
        if name:
            closed.setdefault(uid, []).append(name)
    return closed


def coverage(question: Question, idf: Mapping[int, float], terms: frozenset[int]) -> float:
    """The share of the question's weighted words that are among the terms."""
    total = sum(weight * idf[term] for term, weight in question.weights.items())
    if not total:
        return 0.0
    return sum(weight * idf[term] for term, weight in question.weights.items() if term in terms) / total


def _sentences(
    question: Question, idf: Mapping[int, float], hits: Sequence[Recollection], turns: Mapping[str, _Turn]
) -> list[Sentence]:
    first: dict[str, tuple[int, float]] = {}
    for rank, hit in enumerate(hits):
        for uid in hit.episodes[:1]:
            first.setdefault(uid, (rank, hit.score))
    top = max((hit.score for hit in hits if hit.kind == "episode"), default=0.0)
    found = []
    for uid, turn in turns.items():
        text, speaker = turn.row["text"], turn.row["speaker"]
        caption = _metadata(turn.row).get("caption")
        rank, score = first.get(uid, (len(hits), top - _FAR_BEHIND))
        behind = min(max(top - score, 0.0), _FAR_BEHIND) / _FAR_BEHIND
        whole = stems(f"{text} {caption or ''}")
        near = whole | stems(turn.before) | stems(turn.after)
        in_turn, in_near = coverage(question, idf, whole), coverage(question, idf, near)
        spans = sentence_spans(text) or [(0, len(text))]
        for span in spans:
            piece = text[span[0] : span[1]]
            own = coverage(question, idf, stems(piece))
            features = {
                "own": own,
                "turn": in_turn - own,
                "near": in_near - in_turn,
                "rank": 1 / (1 + rank),
                "behind": behind,
                "kind": fits_kind(question.kind, piece, speaker),
                "question": float(piece.endswith("?")),
                "short": float(len(words(piece)) < _SHORT),
            }
            found.append(
                Sentence(
                    uid,
                    span,
                    piece,
                    text,
                    speaker,
                    clock.from_micros(turn.row["at"]),
                    rank,
                    features,
                    metadata=_metadata(turn.row),
                    terms=near,
                    around=f"{turn.before}\n{speaker or ''}: {text}\n{turn.after}",
                )
            )
    return found


def _metadata(row: Any) -> dict[str, Any]:
    return json.loads(row["data"]) if row["data"] else {}


def _who(question: Question, sentences: Sequence[Sentence]) -> None:
    """Whether the sentence is said by, or about, the one whom the question is about."""
    subject = question.subject
    for sentence in sentences:
        right = wrong = 0.0
        if subject is not None and sentence.speaker is not None:
            if sentence.speaker == subject:
                right = 1.0
            elif set(words(subject)) & set(words(sentence.text)):
                right = 0.7
            elif first_person(sentence.text) or not second_person(sentence.text):
                wrong = 1.0
            else:
                wrong = 0.3
        elif question.first_person and sentence.metadata.get("role") in ("user", "assistant"):
            right = float(sentence.metadata["role"] == "user")
            wrong = 1 - right
        sentence.features["right"] = right
        sentence.features["wrong"] = wrong


def _temporal(question: Question, sentences: Sequence[Sentence], as_of: datetime | None) -> None:
    """The newest of what bears on a question about the present wins; nothing said after `as_of` counts."""
    told = {id(s): max(s.features["own"], s.features["fact"]) for s in sentences}
    most = max(told.values(), default=0.0)
    bearing = [s for s in sentences if told[id(s)] >= most * _BEARING and not s.features["wrong"]] if most else []
    times = sorted({s.at for s in bearing if s.at is not None and (as_of is None or s.at <= as_of)})
    place = {at: number / max(1, len(times) - 1) for number, at in enumerate(times)}
    bears = {id(sentence) for sentence in bearing}
    for sentence in sentences:
        late = as_of is not None and sentence.at is not None and sentence.at > as_of
        sentence.features["late"] = float(late)
        newest = place.get(sentence.at, 0.0) if sentence.at is not None and id(sentence) in bears else 0.0
        sentence.features["recency"] = newest if question.present and not question.past else 0.0


def _factual(
    question: Question,
    idf: Mapping[int, float],
    sentences: Sequence[Sentence],
    facts: Sequence[Recollection],
    closed: Mapping[str, Sequence[str]],
) -> None:
    """A fact that holds lends its source its own words; the source of one that ceased to hold is marked."""
    named = stems(question.subject or "")
    for sentence in sentences:
        mine = stems(sentence.text)
        lent = 0.0
        for fact in facts:
            told = stems(fact.text)
            if sentence.episode in fact.episodes and 2 * len((told - named) & mine) >= max(1, len(told - named)):
                lent = max(lent, coverage(question, idf, told))
        sentence.features["fact"] = lent
        over = [stems(name) for name in closed.get(sentence.episode, ())]
        gone = any(terms and terms <= mine for terms in over)
        sentence.features["closed"] = float(gone and not question.past and question.kind != "when")


def _cosines(memory: Memory, question: Question, sentences: list[Sentence], config: KnowledgeSurveyConfig) -> None:
    """The cosine of the likeliest sentences with the question; the others get the least of them.

    Speakers' names are left out on both sides: they make everything that a speaker says alike.
    """
    if not config.read_cosines or not sentences or memory._embedding.get() is None:
        return
    likely = sorted(sentences, key=lambda s: -weighted(config.selection, s.features))[: config.read_cosines]
    asked = question.text
    for name in (question.subject, *(question.subject or "").split()[:1]):
        if name:
            asked = re.sub(rf"\b{re.escape(name)}\b(?:['’]s)?", "", asked).strip() or question.text
    vectors = memory._embedding.embed([asked, *(s.text for s in likely)])
    cosines = vectors[1:] @ vectors[0]
    for sentence in sentences:
        sentence.features["cosine"] = float(cosines.min())
    for sentence, cosine in zip(likely, cosines.tolist(), strict=True):
        sentence.features["cosine"] = cosine


def confidence_features(
    question: Question, idf: Mapping[int, float], sentences: Sequence[Sentence]
) -> dict[str, float]:
    """What the confidence in the best sentence is estimated from.

    "empty" is 1 when neither the sentence nor what stands beside it holds any word of the question but names: that a
    thing is spoken of does not mean that this is said of it.
    """
    if not sentences:
        return {}
    best = sentences[0]
    rival = next((s.score for s in sentences if s.episode != best.episode), best.score - 1)
    around, named = stems(best.around), [stems(name) for name in question.names]
    plain = set(question.weights).difference(*named)
    own = best.features["own"]
    return {
        "own": own,
        "coverage": own + best.features["turn"] + best.features["near"],
        "empty": float(bool(plain) and plain.isdisjoint(best.terms)),
        "names": sum(bool(terms & around) for terms in named) / len(named) if named else 1.0,
        "wrong": best.features["wrong"],
        "cosine": best.features.get("cosine", 0.0),
        "margin": min(2.0, best.score - rival),
        "kind": best.features["kind"],
        "fact": best.features["fact"],
        "late": best.features["late"],
    }
