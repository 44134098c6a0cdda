"""Recall: summaries, whole turns with what a controller needs to know of them, and how long ago a turn was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from memspan.longterm.base import Recollection
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.recall import RankingConfig, Search, best, rank_episodes, resting_on_allowed
from memspan.longterm.rerank import reciprocal_rank_fusion
from memspan.longterm.scm.extract import coverage
from memspan.longterm.store import Row, Transaction

_POOL = 100  # summaries that each search contributes
_SPARE = 3  # episodes looked at for each turn that is wanted: both sides of an exchange are one turn


def ages(search: Search, reach: float) -> dict[int, float]:
    """Record id -> turns since it was said or last used, for the episodes of the last `reach` turns."""
    ids = search.episodes.record_ids
    latest = ids[max(0, len(ids) - int(reach)) :]
    if not len(latest):
        return {}
    found = {int(record): float(len(latest) - 1 - place) for place, record in enumerate(latest)}
    used = search.tx.execute(
        "SELECT id, used_at FROM record WHERE space = ? AND used_at IS NOT NULL AND kind = 'episode'",
        (search.tx.space_id,),
    ).fetchall()
    if used:
        rows = search.tx.select("SELECT recorded_at FROM record WHERE id IN ({ids})", latest.tolist())
        recorded = np.sort(np.array([row[0] for row in rows], np.int64))
        for record, moment in used:
            since = float(len(recorded) - np.searchsorted(recorded, moment, side="right"))
            if since < len(recorded) or record in found:
                found[record] = min(found.get(record, since), since)
    return found


def turns(search: Search, reach: float) -> list[Recollection]:
    """The best turns, both sides of an exchange as one, scored by the shared ranking without recency.

    `metadata`: "summary"; "relevance", the best cosine with the question, or without an embedder the share of its words
    ("measure" tells which); "age" in turns, None beyond `reach`; "place" in the stream, counted in episodes.
    """
    wide = replace(search, query=replace(search.query, k=_SPARE * search.query.k))
    ranked = rank_episodes(wide, RankingConfig())
    index = search.episodes
    near = None
    if ranked:
        near = search.cosine(index, records=np.unique([hit.position for hit in ranked]))
    rows = search.tx.records(int(index.record_ids[hit.position]) for hit in ranked)
    recent = ages(search, reach)
    weights = {} if near is not None else _rarity(search)
    seen: set[int] = set()
    found: list[Recollection] = []
    for hit in ranked:
        record = int(index.record_ids[hit.position])
        if record in seen:
            continue
        members = exchange(search.tx, rows[record])
        seen.update(row["id"] for row in members)
        places = index.places(np.array([row["id"] for row in members], np.int64))
        places = places[places >= 0]
        relevance = _covered(search, members, weights) if near is None else max(0.0, float(near[places].max()))
        known = [recent[row["id"]] for row in members if row["id"] in recent]
        found.append(
            turn_recollection(
                search.tx,
                members,
                score=hit.score,
                why=hit.why,
                relevance=round(relevance, 4),
                measure="coverage" if near is None else "cosine",
                age=min(known) if known else None,
                place=int(places.min()) + 1,
            )
        )
        if len(found) == search.query.k:
            break
    return found


def exchange(tx: Transaction, row: Row) -> list[Row]:
    """The episodes of a turn: both sides of an exchange that was stored as one, else the episode alone."""
    pair = (json.loads(row["data"]) if row["data"] else {}).get("pair")
    other = tx.find("episode", pair) if isinstance(pair, str) else None
    return [row] if other is None else sorted([row, other], key=lambda one: int(one["id"]))


def turn_recollection(tx: Transaction, members: Sequence[Row], *, score: float, why: str, **more: Any) -> Recollection:
    """A turn as users see it."""
    first = members[0]
    short = {row["uid"]: row["text"] for row in _summaries_of(tx, [row["id"] for row in members])}
    return Recollection(
        kind="turn",
        id=first["uid"],
        text="\n".join(_said(row, row["text"]) for row in members),
        score=score,
        episodes=[row["uid"] for row in members],
        valid_at=from_micros(first["valid_at"]),
        recorded_at=from_micros(first["recorded_at"]),
        speaker=first["speaker"],
        session=first["session"],
        why=why,
        metadata={"summary": "\n".join(_said(row, short.get(row["uid"], row["text"])) for row in members), **more},
    )


def _summaries_of(tx: Transaction, episodes: Sequence[int]) -> list[Row]:
    return tx.select(
        "SELECT r.uid, r.text FROM source s JOIN record r ON r.id = s.record WHERE s.episode IN ({ids})"
        " AND r.kind = 'summary'",
        episodes,
    )


def _said(row: Row, text: str) -> str:
    return f"{row['speaker']}: {text}" if row["speaker"] else text


def _rarity(search: Search) -> dict[int, float]:
    """Inverse passage frequency of the question's stems."""
    index = search.episodes
    total = len(index.owner)
    counts = {int(term): int(np.count_nonzero(index.bm25(np.array([term], np.uint32)))) for term in search.terms}
    return {term: float(np.log(1 + total / max(count, 1))) for term, count in counts.items()}


def _covered(search: Search, members: Sequence[Row], weights: dict[int, float]) -> float:
    passages = search.tx.select("SELECT terms FROM passage WHERE record IN ({ids})", [row["id"] for row in members])
    words = frozenset(np.frombuffer(b"".join(row[0] for row in passages), np.uint32).tolist())
    return coverage(frozenset(search.terms.tolist()), words, weights)


def summaries(search: Search) -> list[Recollection]:
    """Summaries by full text and by vectors, fused; only of turns that pass the query's filters."""
    index = search.derived
    code = index.kinds.get("summary")
    if code is None:
        return []
    lists = []
    for scores in (search.lexical(index), search.cosine(index)):
        if scores is not None:
            shown = np.where((index.kind == code) & (scores > 0), scores, -np.inf)
            places = best(shown, _POOL)
            places = places[np.isfinite(shown[places])]
            lists.append([int(index.record_ids[at]) for at in places[np.argsort(-shown[places], kind="stable")]])
    ranked = reciprocal_rank_fusion(lists)
    rows = search.tx.records(record for record, _ in ranked)
    inside = resting_on_allowed(search, set(rows))
    believed = to_micros(search.query.believed_at)
    found = []
    for record, score in ranked:
        row = rows[record]
        if record not in inside or (believed is not None and row["recorded_at"] > believed):
            continue
        found.append(
            Recollection(
                kind="summary",
                id=row["uid"],
                text=row["text"],
                score=score,
                episodes=[row["uid"]],
                recorded_at=from_micros(row["recorded_at"]),
                why=f"summary of a long turn, {json.loads(row['data'])['origin']}",
            )
        )
    return found[: search.query.k]
