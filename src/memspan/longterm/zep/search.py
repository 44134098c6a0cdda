"""Zep's retrieval: three searches per kind of record, then a reranker (Zep, section 3)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm import rerank
from memspan.longterm.base import Recollection
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.passages import term_hashes
from memspan.longterm.recall import Search, best
from memspan.longterm.store import Transaction
from memspan.longterm.vectors import F32
from memspan.longterm.zep.resolve import normalize
from memspan.longterm.zep.temporal import Window

if TYPE_CHECKING:
    from memspan.longterm.zep.organizer import ZepConfig

CrossEncoder = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
_FACT_BONUS_POOL = 20
_CLOSED_MARGIN = 8  # how many times more candidates are looked at, since closed facts are dropped from them


def recall(search: Search, config: ZepConfig, cross: CrossEncoder) -> list[Recollection]:
    """The best records of every wanted kind, best first."""
    found: list[tuple[int, float, str]] = []
    for kind in search.query.kinds:
        if kind != "episode":
            found += _rank(search, config, kind, search.query.k, cross)
    found.sort(key=lambda hit: -hit[1])
    left_out = f" (left out: {', '.join(search.deadline.skipped)})" if search.deadline.skipped else ""
    hits = [(record, score, why + left_out) for record, score, why in found[: search.query.k]]
    believed = to_micros(search.query.believed_at)
    return recollections(search.tx, hits, windows(search.tx, [hit[0] for hit in hits], believed))


def _rank(
    search: Search, config: ZepConfig, kind: str, count: int, cross: CrossEncoder
) -> list[tuple[int, float, str]]:
    limit = config.fetch * count
    lists: dict[str, list[int]] = {}
    for name, scores in (("full text", search.lexical(search.derived)), ("vectors", search.cosine(search.derived))):
        if scores is not None and len(scores):
            lists[name] = _best_visible(search, kind, scores, limit, 0.0 if name == "full text" else config.min_cosine)
    origins = question_entities(search)
    distance: dict[int, int] = {}
    if origins and kind != "community" and search.deadline.allows("graph"):
        distance = rerank.graph_distance(origins, lambda nodes: fact_neighbours(search.tx, nodes), config.bfs_depth)
        lists["graph"] = _near(search, kind, distance, limit, lists.get("vectors", []) + lists.get("full text", []))
    if origins and kind == "fact":
        lists["relation"] = _asked_relation(search, origins, limit)
    fused = rerank.reciprocal_rank_fusion(list(lists.values()), config.rrf_constant)
    why = {
        record: ", ".join(f"{name} #{ids.index(record) + 1}" for name, ids in lists.items() if record in ids)
        for record, _ in fused
    }
    order = _reranked(search, config, kind, fused, distance, cross)
    return [(record, score, why[record]) for record, score in order[:count]]


def _asked_relation(search: Search, subjects: Sequence[int], limit: int) -> list[int]:
    """Facts of a named subject whose relation the question names too ("Where does Ann *live*": LIVES_IN)."""
    asked = set(search.terms.tolist())
    rows = search.tx.select(
        "SELECT f.record, f.relation, r.valid_at FROM fact f JOIN record r ON r.id = f.record"
        " WHERE f.subject IN ({ids})",
        subjects,
    )
    found = [(row[2] or 0, row[0]) for row in rows if asked & set(term_hashes(row[1].replace("_", " ")).tolist())]
    ids = [record for _, record in sorted(found, reverse=True)]
    seen = visible(search, ids)
    return [record for record in ids if record in seen][:limit]


def _best_visible(search: Search, kind: str, scores: F32, limit: int, least: float) -> list[int]:
    """Ids of the best records of a kind that hold in the asked view."""
    index = search.derived
    code = index.kinds.get(kind)
    if code is None:
        return []
    usable = np.where((index.kind == code) & (scores > least), scores, -np.inf)
    wanted = limit
    while True:
        wanted = min(wanted * _CLOSED_MARGIN, len(usable))
        places = best(usable, wanted)
        places = places[np.isfinite(usable[places])]
        places = places[np.argsort(-usable[places], kind="stable")]
        ids = [int(record) for record in index.record_ids[places]]
        seen = visible(search, ids) if kind == "fact" else set(ids)
        kept = [record for record in ids if record in seen]
        if len(kept) >= limit or wanted == len(usable):
            return kept[:limit]


def windows(tx: Transaction, ids: Sequence[int], believed: int | None) -> dict[int, Window]:
    """The windows of facts as the store believed them at a moment (None is now).

    Facts it did not know then, or does not believe, are left out.
    """
    if believed is None:
        rows = tx.select("SELECT id, valid_at, invalid_at FROM record WHERE id IN ({ids}) AND status = 'live'", ids)
    else:
        rows = tx.select(
            "SELECT record, valid_at, invalid_at FROM version WHERE record IN ({ids}) AND status = 'live'"
            " AND recorded_at <= ? AND (superseded_at IS NULL OR superseded_at > ?)",
            ids,
            believed,
            believed,
        )
    return {row[0]: Window(row[1], row[2]) for row in rows}


def visible(search: Search, ids: Sequence[int]) -> set[int]:
    """Which facts hold at the asked world time (`as_of`, else the store's `believed_at`, else now), filters applied."""
    moment = to_micros(search.query.as_of or search.query.believed_at)
    if moment is None:
        moment = search.tx.now
    believed = to_micros(search.query.believed_at)
    held = {record for record, window in windows(search.tx, ids, believed).items() if window.holds(moment)}
    return held & _from_wanted_episodes(search, held)


def _from_wanted_episodes(search: Search, records: set[int]) -> set[int]:
    """Records with at least one source episode that passes the query's filters."""
    query = search.query
    if not (query.sessions or query.speakers or query.after or query.before or query.metadata):
        return records
    from memspan.longterm.recall import allowed

    mask = allowed(search, search.episodes)
    assert mask is not None
    wanted = set(search.episodes.record_ids[mask].tolist())
    rows = search.tx.select("SELECT record, episode FROM source WHERE record IN ({ids})", sorted(records))
    return {record for record, episode in rows if episode in wanted}


def question_entities(search: Search) -> list[int]:
    """Entities that the question names, longest names first, found by their normalised names."""
    words = normalize(search.query.text).replace("?", " ").replace(",", " ").replace("'s", " ").split()
    names = {" ".join(words[i : i + n]).strip(".!;:\"'()") for n in (4, 3, 2, 1) for i in range(len(words) - n + 1)}
    rows = search.tx.select(
        "SELECT id, uid FROM record WHERE uid IN ({ids}) AND kind = 'entity' AND space = ?",
        sorted(name for name in names if len(name) > 1),
        search.tx.space_id,
    )
    return [row[0] for row in sorted(rows, key=lambda row: -len(row[1]))]


def fact_neighbours(tx: Transaction, nodes: Sequence[int]) -> Mapping[int, Sequence[int]]:
    """Entities one fact away, for a whole frontier."""
    near: dict[int, list[int]] = {}
    for one, other in (("subject", "object"), ("object", "subject")):
        for a, b in tx.select(f"SELECT {one}, {other} FROM fact WHERE {one} IN ({{ids}})", nodes):
            near.setdefault(a, []).append(b)
    return near


def _near(search: Search, kind: str, distance: Mapping[int, int], limit: int, found: Sequence[int]) -> list[int]:
    """Records of a kind in the order of their distance; those that a search found too come first in a step."""
    if kind == "entity":
        return sorted(distance, key=lambda node: (distance[node], node))[:limit]
    rank = {record: place for place, record in reversed(list(enumerate(found)))}
    facts: dict[int, int] = {}
    for record, a, b in search.tx.select("SELECT record, subject, object FROM fact WHERE subject IN ({ids})", distance):
        facts[record] = min(distance[a], distance.get(b, math.inf))  # type: ignore[assignment]
    for record, b in search.tx.select("SELECT record, object FROM fact WHERE object IN ({ids})", distance):
        facts[record] = min(facts.get(record, distance[b]), distance[b])
    ordered = sorted(facts, key=lambda record: (facts[record], rank.get(record, len(rank)), -record))
    ordered = ordered[: limit * _CLOSED_MARGIN]
    seen = visible(search, ordered)
    return [record for record in ordered if record in seen][:limit]


def _reranked(
    search: Search,
    config: ZepConfig,
    kind: str,
    fused: Sequence[tuple[int, float]],
    distance: Mapping[int, int],
    cross: CrossEncoder,
) -> list[tuple[int, float]]:
    name = search.query.rerank or "rrf"
    ids = [record for record, _ in fused]
    if name not in rerank.RERANKERS:
        raise InputError(f"reranker {name!r} is not known; use one of {', '.join(rerank.RERANKERS)}")
    if name == "rrf" or not ids or not search.deadline.allows(f"reranker {name}"):
        return list(fused)
    if name == "mmr":
        index = search.derived
        if search.vector is None or index.vectors is None:
            raise InputError("the 'mmr' reranker needs an embedder; open the store with one")
        rows = np.searchsorted(index.record_ids, ids)
        vectors = index.vectors.rows(index.first[rows])
        order = rerank.maximal_marginal_relevance(search.vector, vectors, config.mmr_trade_off)
    elif name == "mentions":
        rows_of = search.tx.select("SELECT record, count(*) FROM source WHERE record IN ({ids}) GROUP BY record", ids)
        counts = {int(row[0]): int(row[1]) for row in rows_of}
        order = rerank.by_mentions([counts.get(record, 0) for record in ids])
    elif name == "distance":
        order = rerank.by_distance([_record_distance(search, kind, record, distance) for record in ids])
    else:
        texts = search.tx.records(ids)
        order = rerank.by_cross_encoder(search.query.text, [texts[record]["text"] for record in ids], cross)
    return [(ids[position], score) for position, score in order]


def _record_distance(search: Search, kind: str, record: int, distance: Mapping[int, int]) -> float:
    if kind != "fact":
        return distance.get(record, math.inf)
    ends = search.tx.execute("SELECT subject, object FROM fact WHERE record = ?", (record,)).fetchone()
    return min(distance.get(ends[0], math.inf), distance.get(ends[1], math.inf))


def episode_bonus(search: Search, config: ZepConfig) -> dict[int, tuple[float, str]]:
    """record id of an episode -> (bonus, why), from the best facts for the question."""
    scores = search.cosine(search.derived)
    if scores is None:
        scores = search.lexical(search.derived)
    if not len(scores):
        return {}
    facts = _best_visible(
        search, "fact", scores, _FACT_BONUS_POOL, config.min_cosine if search.vector is not None else 0
    )
    rank = {record: place for place, record in enumerate(facts)}
    bonus: dict[int, tuple[float, str]] = {}
    for record, episode in search.tx.select("SELECT record, episode FROM source WHERE record IN ({ids})", facts):
        value = config.graph_bonus / (1 + rank[record])
        if episode not in bonus or bonus[episode][0] < value:
            bonus[episode] = (value, f"states fact #{rank[record] + 1}")
    return bonus


def recollections(
    tx: Transaction, hits: Sequence[tuple[int, float, str]], seen: Mapping[int, Window] | None = None
) -> list[Recollection]:
    """Records as users see them, with their source episodes, and the windows of a view where one is given."""
    ids = [hit[0] for hit in hits]
    rows, sources = tx.records(ids), tx.sources(ids)
    made = []
    for record, score, why in hits:
        row = rows[record]
        window = (seen or {}).get(record, Window(row["valid_at"], row["invalid_at"]))
        made.append(
            Recollection(
                kind=row["kind"],
                id=row["uid"],
                text=row["text"],
                score=score,
                episodes=sources.get(record, []),
                valid_at=from_micros(window.valid_at),
                invalid_at=from_micros(window.invalid_at),
                recorded_at=from_micros(row["recorded_at"]),
                retired_at=from_micros(row["retired_at"]),
                why=why,
                metadata=json.loads(row["data"]) if row["data"] else {},
            )
        )
    return made
