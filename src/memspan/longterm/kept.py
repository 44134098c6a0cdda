"""Answers that an organizer keeps: the same question is answered the same, with the same sources, while these hold.

An organizer with `keeps_answers` is told of every answer that cites something, and is asked first the next time. A
kept answer is not given when the question is about a moving time ("last week"), when an episode that came later is
among the first for the question, or when the organizer no longer holds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from memspan.longterm import clock

if TYPE_CHECKING:
    from memspan.longterm.knowledge_survey import Answer
    from memspan.longterm.memory import Memory

KEPT = "kept thought"
"""`Answer.reader` of an answer that was kept."""
_FIRST = 10  # episodes among which a later one makes a kept answer doubtful
_NOT_OF_RECALL = frozenset(
    ("model", "abstain_below", "token_budget", "mode", "policy", "max_new_tokens", "judge", "config", "k")
)


def signature(memory: Memory, question: str, options: Mapping[str, Any]) -> str | None:
    """The circumstances of a question, under which its answer is the same; None when it cannot be kept."""
    from memspan.longterm.scribe.dates import question_time

    if options.get("as_of") is None:
        now = clock.from_micros(memory._now())
        assert now is not None
        spans = [question_time(question, moment) for moment in (now, now - timedelta(days=400))]
        bounds = [None if span is None else (span.start, span.end) for span in spans]
        if bounds[0] != bounds[1]:
            return None
    told = {key: value for key, value in options.items() if key != "space" and value is not None}
    if "model" in told and not isinstance(told["model"], str):
        told["model"] = told["model"].name
    try:
        return json.dumps(told, sort_keys=True, default=_moment)
    except TypeError:
        return None


def _moment(value: object) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError


def pack(answer: Answer) -> dict[str, Any]:
    """What has to be stored to give an answer again; the episodes' own texts are not copied."""
    return {
        "text": answer.text,
        "confidence": answer.confidence,
        "citations": [[c.number, c.episode, c.support, *c.span] for c in answer.citations],
        "claims": [[c.text, c.support, list(c.citations)] for c in answer.claims],
    }


def kept_answer(memory: Memory, question: str, options: Mapping[str, Any]) -> Answer | None:
    """The answer that was kept for this question, if it still holds."""
    circumstances = signature(memory, question, options)
    if circumstances is None:
        return None
    space = options.get("space") or memory.space
    with memory.store.read(memory._now(), space) as tx:
        known = memory.organizer.kept_answer(tx, question, circumstances)
        if known is None:
            return None
        later = tx.execute(
            "SELECT uid FROM record WHERE space = ? AND kind = 'episode' AND recorded_at > ?", (tx.space_id, known.at)
        ).fetchall()
    if later:
        asked = {key: value for key, value in options.items() if key not in _NOT_OF_RECALL and key != "kinds"}
        first = memory.recall(known.question, _FIRST, **asked)
        if {row[0] for row in later} & {hit.id for hit in first}:
            return None
    return _unpacked(memory, known.payload, space, options.get("as_of") is not None)


def keep_answer(memory: Memory, question: str, options: Mapping[str, Any], answer: Answer) -> None:
    """Tell the organizer of an answer that cites something."""
    circumstances = None if answer.abstained or not answer.citations else signature(memory, question, options)
    if circumstances is None:
        return
    cited = list(dict.fromkeys(citation.episode for citation in answer.citations))
    with memory.store.write(memory._now(), options.get("space") or memory.space) as tx:
        rows = tx.select(
            "SELECT id, uid FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", cited, tx.space_id
        )
        known = {row["uid"]: row["id"] for row in rows}
        if set(known) == set(cited):  # else one was forgotten meanwhile
            support = min((claim.support for claim in answer.claims), default=0.0)
            sources = [known[uid] for uid in cited]
            memory.organizer.on_answer(tx, question, circumstances, pack(answer), sources, support)


def _unpacked(memory: Memory, payload: Mapping[str, Any], space: str, asked_by_date: bool) -> Answer | None:
    """The answer as it was given; None when a source is forgotten, or no longer counts and no date was asked for."""
    from memspan.longterm.knowledge_survey import Answer
    from memspan.longterm.knowledge_survey.answer import Citation, Claim
    from memspan.longterm.rows import episode_recollection

    with memory.store.read(memory._now(), space) as tx:
        found = {uid: tx.find("episode", uid) for _, uid, *_ in payload["citations"]}
        versions = memory._index(tx, episodes=True).documents
        if not asked_by_date and any(row and versions.successor(row["session"], tx.now) for row in found.values()):
            return None
    citations, hits = [], []
    for number, uid, support, start, stop in payload["citations"]:
        row = found[uid]
        if row is None:
            return None
        hit = episode_recollection(row, support, "cited by the kept answer")
        hits.append(hit)
        citations.append(
            Citation(
                number=number,
                episode=uid,
                text=row["text"],
                speaker=row["speaker"],
                at=clock.from_micros(row["at"]),
                support=support,
                span=(start, stop),
                source=_document(hit.metadata),
            )
        )
    answer = Answer(
        text=payload["text"],
        citations=citations,
        confidence=payload["confidence"],
        reader=KEPT,
        claims=[Claim(text=text, support=support, citations=tuple(of)) for text, support, of in payload["claims"]],
        recollections=hits,
    )
    return replace(answer, ledger=memory.footprint())


def _document(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = ("doc", "version", "start", "stop", "source")
    return {name: metadata[name] for name in names if name in metadata}
