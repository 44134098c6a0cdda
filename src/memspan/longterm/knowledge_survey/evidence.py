"""From a question to the sentences that may answer it, best first, and how likely the best one does.

The retriever's episodes, and the replies to them, are split into sentences; a photo's caption is one more. A sentence
scores by what `features` finds in its words and in the turns before it, by its vector with and without the turn that it
follows, by its episode's rank, by its time, and by what the organizer's facts say of it: the sentence behind a fact
that holds gains, the sentence behind one that has ceased to hold loses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from memspan.longterm import clock
from memspan.longterm.base import Recollection
from memspan.longterm.knowledge_survey.confidence import confidence_features
from memspan.longterm.knowledge_survey.config import KnowledgeSurveyConfig, logistic, weighted
from memspan.longterm.knowledge_survey.conflicts import Conflict, conflicts
from memspan.longterm.knowledge_survey.copies import collapse
from memspan.longterm.knowledge_survey.features import (
    THREAD,
    Lexicon,
    Said,
    Sentence,
    judge_fit,
    judge_form,
    judge_naming,
    judge_persons,
    judge_words,
    last_question,
)
from memspan.longterm.knowledge_survey.kinds import form_of
from memspan.longterm.knowledge_survey.likeness import Likeness
from memspan.longterm.knowledge_survey.naming import Alias, aliases
from memspan.longterm.knowledge_survey.text import Question, read_question, sentence_spans, stems
from memspan.longterm.rows import ended_by
from memspan.longterm.scribe.dates import TimeSpan, find_times, question_time

if TYPE_CHECKING:
    from memspan.longterm.index import PassageIndex
    from memspan.longterm.memory import Memory
    from memspan.longterm.store import Transaction

_BEARING = 0.8  # share of the best coverage from which on a sentence bears on the question
_BEARING_FIRST = 0.4  # the first of several plans is seldom worded like the last
_FAR_BEHIND = 3.0  # standard deviations behind the best episode from which on the distance no longer counts
_FOLLOWED = 2  # turns after a retrieved one that may hold the answer


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
        conflicts: statements of the retrieved documents that contradict each other.
    """

    question: Question
    hits: list[Recollection]
    facts: list[Recollection]
    sentences: list[Sentence]
    features: dict[str, float]
    confidence: float
    idf: dict[int, float]
    conflicts: list[Conflict] = field(default_factory=list)


@dataclass(slots=True)
class _Turn:
    row: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    before: tuple[Said, ...] = ()
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
    found, copies = _recall(memory, question, config.k * config.depth, options)
    as_of = clock.as_moment(options.get("as_of"), "as_of")
    period = _named_time(question, as_of or clock.from_micros(memory._now()) or clock.now())
    facts: list[Recollection] = []
    if "fact" in memory.organizer.kinds:
        asked = dict(options)
        if as_of is None and period is not None:
            asked["as_of"] = _inside(period)
        facts = list(memory.recall(question, config.k, kinds=["fact"], **asked))
    others = [kind for kind in kinds if kind != "episode" and not (kind == "fact" and facts)]
    derived = list(memory.recall(question, config.k, kinds=others, **options)) if others else []
    found += derived
    space = options.get("space") or memory.space
    with memory.store.read(memory._now(), space) as tx:
        index = memory._index(tx, episodes=True)
        read = _timeless(read_question(question, [name for name in index.speakers if name]), period)
        idf = _idf(index, [*read.weights, *(term for name in read.names for term in stems(name))])
        versions = index.documents
        believed_at = clock.as_moment(options.get("believed_at"), "believed_at")
        codes = versions.left_out(as_of, believed_at, tx.now, superseded=bool(options.get("superseded")))
        gone = versions.sessions(codes.tolist())
        found, facts = _standing(tx, found, gone), _standing(tx, facts, gone)
        wanted = [hit.episodes[0] for hit in [*found, *facts] if hit.episodes]
        turns = _turns(tx, list(dict.fromkeys(wanted)))
        for turn in turns.values():
            turn.metadata = _metadata(turn.row) | ended_by(versions.successor(turn.row["session"], tx.now))
            if turn.row["uid"] in copies:
                turn.metadata["copies"] = copies[turn.row["uid"]]
        closed = (
            _closed_facts(tx, list(turns), clock.to_micros(as_of or (_inside(period) if period else None)) or tx.now)
            if facts or "fact" in memory.organizer.kinds
            else {}
        )
    sentences = _sentences(found, turns)
    form = form_of(question)
    lexicon = Lexicon(read, idf)
    known = aliases(sentences)
    for alias in known:
        lexicon.learn(alias.term, alias.texts, alias.weight)
    for sentence in sentences:
        judge_words(read, lexicon, sentence, alike=False)
        judge_form(read, form, sentence)
        judge_naming(form, lexicon, sentence)
        judge_persons(read, sentence)
    _factual(read, idf, sentences, facts, closed, as_of is not None or period is not None)
    if options.get("deadline_ms") is None:
        _meanings(memory, read, idf, sentences, known, config)
    for sentence in sentences:
        judge_fit(form, sentence)
    _temporal(read, sentences, as_of, period)
    for sentence in sentences:
        sentence.score = weighted(config.selection, sentence.features)
    sentences.sort(key=lambda s: -s.score)
    features = confidence_features(read, sentences, config.selection)
    confidence = logistic(weighted(config.confidence, features)) if sentences else 0.0
    # What a speaker says anew replaces what they said; only documents are held against each other.
    disagreeing = conflicts(question, [hit for hit in found[: config.k] if "doc" in hit.metadata])
    return Evidence(read, [*found[: config.k], *derived], facts, sentences, features, confidence, idf, disagreeing)


def _recall(
    memory: Memory, question: str, count: int, options: Mapping[str, Any]
) -> tuple[list[Recollection], dict[str, list[str]]]:
    """`count` episodes that are no copies of each other, and the copies of each that has some."""
    wanted = count
    while True:
        hits = memory.recall(question, wanted, **options)
        kept, copies = collapse(hits)
        if len(kept) >= count or len(hits) < wanted:
            return kept[:count], copies
        wanted *= 2


def _named_time(question: str, now: datetime) -> TimeSpan | None:
    """The time that a question names ("in 2021", "last spring"), counted from `now`."""
    span = question_time(question, now)
    return span if span is not None and span.role == "at" and span.start is not None else None


def _timeless(question: Question, period: TimeSpan | None) -> Question:
    """The question without the words of the period that it names, which is compared as a time; see `_temporal`."""
    over = stems(period.text) if period is not None else frozenset()
    kept = {term: weight for term, weight in question.weights.items() if term not in over}
    if max(kept.values(), default=0.0) < 1:
        return question
    return replace(question, weights=kept, names=tuple(n for n in question.names if not stems(n) <= over))


def _inside(period: TimeSpan) -> datetime:
    """The last moment of a period but one."""
    start = period.start or period.end or clock.EPOCH
    return max(start, (period.end or start) - timedelta(microseconds=1))


def _idf(index: PassageIndex, terms: Sequence[int]) -> dict[int, float]:
    size = len(index)
    weights = {}
    for term in dict.fromkeys(terms):
        count = int(np.count_nonzero(index.holding(np.array([term], np.uint32)))) if size else 0
        weights[term] = float(np.log1p((size - count + 0.5) / (count + 0.5)))
    return weights


def _standing(tx: Transaction, hits: Sequence[Recollection], gone: frozenset[str]) -> list[Recollection]:
    """The hits with those of their sources that stand in no session of `gone`; without a source they are left out."""
    if not gone:
        return list(hits)
    uids = list(dict.fromkeys(uid for hit in hits for uid in hit.episodes))
    rows = tx.select(
        "SELECT uid, session FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", uids, tx.space_id
    )
    over = {row["uid"] for row in rows if row["session"] in gone}
    left = [replace(hit, episodes=[uid for uid in hit.episodes if uid not in over]) for hit in hits]
    return [hit for hit in left if hit.episodes]


def _turns(tx: Transaction, uids: Sequence[str]) -> dict[str, _Turn]:
    """Episodes by id, and those that follow them, each with the turns around it in its session."""
    rows = tx.select("SELECT * FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", uids, tx.space_id)
    found = {row["uid"]: row for row in rows}
    turns: dict[str, _Turn] = {}
    waiting = [(found[uid], 0) for uid in uids if uid in found]
    near = (
        "SELECT * FROM record WHERE space = ? AND session = ? AND kind = 'episode' AND status = 'live'"
        " AND id {} ? ORDER BY id {} LIMIT ?"
    )
    for row, distance in waiting:
        if row["uid"] in turns:
            continue
        turn = turns[row["uid"]] = _Turn(row)
        if row["session"] is None:
            continue
        here = (tx.space_id, row["session"], row["id"])
        earlier = tx.execute(near.format("<", "DESC"), (*here, THREAD)).fetchall()
        turn.before = tuple(Said(r["text"], r["speaker"], _metadata(r).get("caption")) for r in earlier)
        later = tx.execute(near.format(">", "ASC"), (*here, _FOLLOWED)).fetchall()
        turn.after = later[0]["text"] if later else ""
        if distance == 0:
            waiting += [(r, 1) for r in later]
    return turns


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
    lexicon = Lexicon(question, idf)
    return lexicon.coverage(dict.fromkeys(terms & lexicon.weights.keys(), 1.0))


def _sentences(hits: Sequence[Recollection], turns: Mapping[str, _Turn]) -> list[Sentence]:
    first: dict[str, tuple[int, float]] = {}
    for rank, hit in enumerate(hits):
        for uid in hit.episodes[:1]:
            first.setdefault(uid, (rank, hit.score))
    top = max((hit.score for hit in hits if hit.kind == "episode"), default=0.0)
    found = []
    for uid, turn in turns.items():
        text, speaker = turn.row["text"], turn.row["speaker"]
        metadata = turn.metadata
        rank, score = first.get(uid, (len(hits), top - _FAR_BEHIND))
        retrieved = {
            "rank": 1 / (1 + rank),
            "behind": min(max(top - score, 0.0), _FAR_BEHIND) / _FAR_BEHIND,
        }
        spans = sentence_spans(text) or [(0, len(text))]
        pieces = [(span, text[span[0] : span[1]]) for span in spans]
        caption = metadata.get("caption")
        if isinstance(caption, str) and caption:
            pieces.append(((0, len(text)), caption))
        for place, (span, piece) in enumerate(pieces):
            sentence = Sentence(
                uid,
                span,
                piece,
                text,
                speaker,
                clock.from_micros(turn.row["at"]),
                rank,
                dict(retrieved),
                metadata=metadata,
                before=turn.before,
                after=turn.after,
                place=place,
            )
            sentence.features["caption"] = float(piece is caption)
            found.append(sentence)
    return found


def _metadata(row: Any) -> dict[str, Any]:
    return json.loads(row["data"]) if row["data"] else {}


def _temporal(
    question: Question, sentences: Sequence[Sentence], as_of: datetime | None, period: TimeSpan | None
) -> None:
    """Of what bears on the question the newest wins, or the oldest when the first is asked for.

    That holds for questions about a state ("does", "now", "finally"), not about what once happened. Nothing said after
    `as_of` counts. Where the question names a period, a sentence about that period or said in it is "timely".
    """
    told = {id(s): max(s.features["like_own"], s.features["match"]) for s in sentences if s.features["wrong"] < 0.5}
    most = max(told.values(), default=0.0)
    least = most * (_BEARING_FIRST if question.past else _BEARING)
    bearing = [s for s in sentences if most and told.get(id(s), 0.0) >= least and not s.features["question"]]
    times = sorted({s.at for s in bearing if s.at is not None and (as_of is None or s.at <= as_of)})
    place = {at: number / max(1, len(times) - 1) for number, at in enumerate(times)}
    bears = {id(sentence) for sentence in bearing}
    for sentence in sentences:
        late = as_of is not None and sentence.at is not None and sentence.at > as_of
        sentence.features["late"] = float(late)
        newest = place.get(sentence.at, 0.0) if sentence.at is not None and id(sentence) in bears else 0.0
        oldest = 1 - newest if sentence.at is not None and id(sentence) in bears else 0.0
        latest = (question.present or question.last or as_of is not None) and not question.past
        sentence.features["recency"] = (
            told.get(id(sentence), 0.0) * newest if latest else oldest if question.past else 0.0
        )
        sentence.features["timely"] = 0.0 if period is None else _timely(sentence, period)


def _timely(sentence: Sentence, period: TimeSpan) -> float:
    start, stop = period.start or clock.EPOCH, _inside(period)
    for span in find_times(sentence.text, sentence.at):
        since = span.start or span.end
        if since is not None and since <= stop and (span.end or since) > start:
            return 1.0
    if sentence.at is None:
        return 0.0
    return 0.7 if start <= sentence.at <= stop else 0.3 * (sentence.at <= stop)


def _factual(
    question: Question,
    idf: Mapping[int, float],
    sentences: Sequence[Sentence],
    facts: Sequence[Recollection],
    closed: Mapping[str, Sequence[str]],
    asked_then: bool,
) -> None:
    """A fact that holds lends its source its words and its match; the source of one that ceased to hold is marked.

    Args:
        asked_then: the question is about a given time; else only one about the present is spoilt by what is over.
    """
    named = stems(question.subject or "")
    told = [(fact, stems(fact.text)) for fact in facts]
    for sentence in sentences:
        mine = stems(f"{sentence.text} {sentence.speaker or ''}")
        lent = match = 0.0
        for fact, words_ in told:
            if sentence.episode in fact.episodes and 2 * len((words_ - named) & mine) >= max(1, len(words_ - named)):
                lent = max(lent, coverage(question, idf, words_))
                match = max(match, fact_match(fact))
        sentence.features["fact"] = lent
        sentence.features["match"] = match * (1 - 0.5 * sentence.features["no_kind"])
        over = [stems(name) for name in closed.get(sentence.episode, ())]
        gone = any(terms and terms <= mine for terms in over)
        now = (question.present or asked_then) and not question.past and question.kind != "when"
        sentence.features["closed"] = float(gone and now)


def fact_match(fact: Recollection) -> float:
    """How well a fact fits the question by subject, attribute and sort of value, 0 to 1; 0 where nobody says."""
    value = fact.metadata.get("match", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _meanings(
    memory: Memory,
    question: Question,
    idf: Mapping[int, float],
    sentences: list[Sentence],
    known: Sequence[Alias],
    config: KnowledgeSurveyConfig,
) -> None:
    """The likeness in meaning of the likeliest sentences to the question; the others get the least of them.

    Speakers' names are left out on both sides: they make everything that a speaker says alike.
    """
    if not config.read_cosines or not sentences or memory._embedding.get() is None:
        return
    likely = sorted(sentences, key=lambda s: -weighted(config.selection, s.features))[: config.read_cosines]
    asked = question.text
    for name in (question.subject, *(question.subject or "").split()[:1]):
        if name:
            asked = re.sub(rf"\b{re.escape(name)}\b(?:['’]s)?", "", asked).strip() or question.text
    exchanges = [f"{s.before[0].text} {s.text}" if s.before else s.text for s in likely]
    questions = list(dict.fromkeys(last_question(s.asked.text) for s in likely if s.asked is not None))
    vectors = memory._embedding.embed([asked, *(s.text for s in likely), *exchanges, *questions])
    cosines = (vectors[1:] @ vectors[0]).tolist()
    own, exchange = cosines[: len(likely)], cosines[len(likely) : 2 * len(likely)]
    to_question = dict(zip(questions, cosines[2 * len(likely) :], strict=True))
    least = {"cosine": min(own), "exchange": min(exchange)}
    texts = [t for s in likely for t in (s.whole, s.caption or "", *(said.whole for said in s.before), s.after)]
    texts += [text for alias in known for text in alias.texts]
    names = frozenset().union(*(stems(name) for name in question.names))
    compared = [word for term, word in question.spelled.items() if term not in names]
    likeness = Likeness(compared, dict.fromkeys(texts), memory._embedding.embed, memory._embedding.words)
    lexicon = Lexicon(question, idf, likeness)
    for alias in known:
        lexicon.learn(alias.term, alias.texts, alias.weight)
    for sentence in sentences:
        sentence.features |= least
    for number, sentence in enumerate(likely):
        sentence.features["cosine"], sentence.features["exchange"] = own[number], exchange[number]
        if sentence.asked is not None:
            sentence.features["asked_cosine"] = max(0.0, to_question[last_question(sentence.asked.text)])
        judge_words(question, lexicon, sentence, alike=True)
