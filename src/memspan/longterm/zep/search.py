"""Zep's retrieval: three searches per kind of record, then a reranker (Zep, section 3).

Facts are ranked by a fourth list, the structured match (`match`), which weighs most in the fusion: of the facts that
hold in the asked view, those about the question's subject that say what was asked come first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm import rerank
from memspan.longterm.base import Recollection
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.recall import Search, best
from memspan.longterm.store import Transaction
from memspan.longterm.vectors import F32, I64
from memspan.longterm.zep.match import Match, Matcher, ordered
from memspan.longterm.zep.resolve import EntityResolver, normalize
from memspan.longterm.zep.table import FactTable
from memspan.longterm.zep.temporal import Window
from memspan.longterm.zep.view import visible, windows

if TYPE_CHECKING:
    from memspan.longterm.zep.organizer import ZepConfig

CrossEncoder = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
_FACT_BONUS_POOL = 20
_CLOSED_MARGIN = 8  # how many times more candidates are looked at, since closed facts are dropped from them


@dataclass(frozen=True, slots=True)
class Graph:
    """What an organizer keeps in RAM of the space that is searched."""

    table: FactTable
    resolver: EntityResolver


@dataclass(frozen=True, slots=True)
class _Hit:
    record: int
    score: float
    why: str
    match: Match | None = None


def recall(search: Search, config: ZepConfig, cross: CrossEncoder, graph: Graph) -> list[Recollection]:
    """The best records of every wanted kind, best first."""
    found: list[_Hit] = []
    for kind in search.query.kinds:
        if kind != "episode":
            found += _rank(search, config, kind, search.query.k, cross, graph)
    found.sort(key=lambda hit: -hit.score)
    left_out = f" (left out: {', '.join(search.deadline.skipped)})" if search.deadline.skipped else ""
    kept = found[: search.query.k]
    hits = [(hit.record, hit.score, hit.why + left_out) for hit in kept]
    matches = {hit.record: round(hit.match.value, 3) for hit in kept if hit.match is not None}
    believed = to_micros(search.query.believed_at)
    return recollections(search.tx, hits, windows(search.tx, [hit.record for hit in kept], believed), matches)


def _rank(search: Search, config: ZepConfig, kind: str, count: int, cross: CrossEncoder, graph: Graph) -> list[_Hit]:
    limit = config.fetch * count
    lists: dict[str, list[int]] = {}
    lexical, cosine = search.lexical(search.derived), search.cosine(search.derived)
    for name, scores in (("full text", lexical), ("vectors", cosine)):
        if scores is not None and len(scores):
            lists[name] = _best_visible(search, kind, scores, limit, 0.0 if name == "full text" else config.min_cosine)
    origins = question_entities(search)
    far: Callable[[int], float] = _unconnected
    if origins and kind != "community" and search.deadline.allows("graph"):
        found = lists.get("vectors", []) + lists.get("full text", [])
        if kind == "fact":
            distance = graph.table.distances(origins, config.bfs_depth)
            lists["graph"] = _near_facts(search, graph.table, distance, limit, found)
            far = _fact_distance(graph.table, distance)
        else:
            steps = rerank.graph_distance(origins, lambda nodes: fact_neighbours(search.tx, nodes), config.bfs_depth)
            lists["graph"] = sorted(steps, key=lambda node: (steps[node], node))[:limit]
            far = lambda record: steps.get(record, math.inf)  # noqa: E731
    matches: dict[int, Match] = {}
    matcher: Matcher | None = None
    weights = [1.0] * len(lists)
    if kind == "fact":
        matcher = Matcher(search, graph.table, graph.resolver) if len(graph.table) else None
        if matcher is not None:
            matches, lists["match"] = matched(search, config, matcher, lexical, cosine, limit)
        else:
            lists["match"] = []
        weights.append(config.match_weight)
    fused = rerank.reciprocal_rank_fusion(list(lists.values()), config.rrf_constant, weights)
    places = {name: {record: place for place, record in enumerate(ids, 1)} for name, ids in lists.items()}
    order = _reranked(search, config, fused, far, cross)
    if matcher is not None:  # what only other searches found is read as well, so that every fact tells its match
        matches |= matcher.read([record for record, _ in order[:count] if record not in matches], by_meaning=False)
    hits = []
    for record, score in order[:count]:
        match = matches.get(record)
        reasons = [match.words()] if match is not None and match.value >= config.match_least else []
        reasons += [f"{name} #{ids[record]}" for name, ids in places.items() if record in ids]
        hits.append(_Hit(record, score, ", ".join(reason for reason in reasons if reason), match))
    return hits


def matched(
    search: Search, config: ZepConfig, matcher: Matcher, lexical: F32, cosine: F32 | None, limit: int
) -> tuple[dict[int, Match], list[int]]:
    """The match of the likeliest facts that hold, and the order it gives."""
    records, rough = matcher.pool(lexical, cosine)
    matches = matcher.read(_first_visible(search, records, rough, max(config.match_pool, limit)))
    began, sources = _statements(search, list(matches))
    return matches, ordered(matches, config, began, sources)[:limit]


def _statements(search: Search, ids: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """When each fact began to hold in the asked view (else when it was said), and how many episodes state it."""
    seen = windows(search.tx, ids, to_micros(search.query.believed_at))
    rows = search.tx.select(
        "SELECT r.id, coalesce(r.at, 0), count(s.episode) FROM record r LEFT JOIN source s ON s.record = r.id"
        " WHERE r.id IN ({ids}) GROUP BY r.id",
        ids,
    )
    said = {row[0]: row[1] for row in rows}
    began = {record: seen[record].valid_at if record in seen else None for record in ids}
    return (
        {record: said.get(record, 0) if moment is None else moment for record, moment in began.items()},
        {row[0]: row[2] for row in rows},
    )


def _first_visible(search: Search, records: I64, scores: F32, limit: int) -> list[int]:
    """The records with the highest scores that hold in the asked view, best first."""
    wanted = limit
    while True:
        wanted = min(wanted * _CLOSED_MARGIN, len(records))
        places = best(scores, wanted)
        places = places[np.argsort(-scores[places], kind="stable")]
        ids = [int(record) for record in records[places]]
        seen = visible(search, ids)
        kept = [record for record in ids if record in seen]
        if len(kept) >= limit or wanted == len(records):
            return kept[:limit]


def _best_visible(search: Search, kind: str, scores: F32, limit: int, least: float) -> list[int]:
    """Ids of the best records of a kind that hold in the asked view."""
    index = search.derived
    code = index.kinds.get(kind)
    if code is None:
        return []
    usable = np.flatnonzero((index.kind == code) & (scores > least))
    if kind == "fact":
        return _first_visible(search, index.record_ids[usable], scores[usable], limit)
    places = usable[best(scores[usable], limit)]
    places = places[np.argsort(-scores[places], kind="stable")]
    return [int(record) for record in index.record_ids[places]]


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


def _near_facts(search: Search, table: FactTable, distance: F32, limit: int, found: Sequence[int]) -> list[int]:
    """Facts in the order of their distance; those that a search found too come first in a step."""
    if not len(table):
        return []
    steps = np.minimum(distance[table.array[:, 1]], distance[table.array[:, 3]])
    rank = np.full(len(table), len(found))
    for place, record in reversed(list(enumerate(found))):
        rank[table.rows_of(np.array([record]))] = place
    order = np.lexsort((-table.array[:, 0], rank, steps))
    order = order[np.isfinite(steps[order])][: limit * _CLOSED_MARGIN]
    ids: list[int] = table.array[order, 0].tolist()
    seen = visible(search, ids)
    return [record for record in ids if record in seen][:limit]


def _fact_distance(table: FactTable, distance: F32) -> Callable[[int], float]:
    def far(record: int) -> float:
        rows = table.rows_of(np.array([record]))
        return float(distance[table.array[rows[0], [1, 3]]].min()) if len(rows) else math.inf

    return far


def _unconnected(_: int) -> float:
    return math.inf


def _reranked(
    search: Search,
    config: ZepConfig,
    fused: Sequence[tuple[int, float]],
    far: Callable[[int], float],
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
        vectors = index.vectors.rows(index.first[index.places(np.array(ids, np.int64))])
        order = rerank.maximal_marginal_relevance(search.vector, vectors, config.mmr_trade_off)
    elif name == "mentions":
        rows_of = search.tx.select("SELECT record, count(*) FROM source WHERE record IN ({ids}) GROUP BY record", ids)
        counts = {int(row[0]): int(row[1]) for row in rows_of}
        order = rerank.by_mentions([counts.get(record, 0) for record in ids])
    elif name == "distance":
        order = rerank.by_distance([far(record) for record in ids])
    else:
        texts = search.tx.records(ids)
        order = rerank.by_cross_encoder(search.query.text, [texts[record]["text"] for record in ids], cross)
    return [(ids[position], score) for position, score in order]


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
    tx: Transaction,
    hits: Sequence[tuple[int, float, str]],
    seen: Mapping[int, Window] | None = None,
    matches: Mapping[int, float] | None = None,
) -> list[Recollection]:
    """Records as users see them, with their source episodes.

    Args:
        tx: the snapshot.
        hits: record, score, why.
        seen: the windows of a view, where one is given.
        matches: of facts, for `metadata["match"]`.
    """
    ids = [hit[0] for hit in hits]
    rows, sources = tx.records(ids), tx.sources(ids)
    made = []
    for record, score, why in hits:
        row = rows[record]
        data = json.loads(row["data"]) if row["data"] else {}
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
                metadata=data | ({"match": matches[record]} if matches and record in matches else {}),
            )
        )
    return made
