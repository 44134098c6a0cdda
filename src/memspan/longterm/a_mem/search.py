"""Recall of notes: direct hits, then what they link to where that fits the question too.

    direct(n) = max(0, z(BM25(n))) + z(cosine(n))                 z over the candidates, the best of either list
    score(n)  = direct(n) + link_weight * likeness(n, d)          if d is among the best direct hits, n links to it,
                                                                  and direct(n) reaches link_gate

Linked notes compete with direct ones for the same k places: what a link leads to has to fit the question by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.a_mem.config import AMemConfig
from memspan.longterm.a_mem.neighbours import note_kind
from memspan.longterm.a_mem.notes import Link, links_of, read_attributes
from memspan.longterm.base import Recollection
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.recall import Search, allowed, best, standardized

_POOL = 300  # candidates taken from each list, as for episodes
_LIFTED = 50  # best notes whose episodes gain


@dataclass(slots=True)
class Hit:
    """A note that was found: its record, what it scores by itself, and the link that lifts it."""

    note: int
    direct: float
    words: float
    meaning: float | None
    link: Link | None = None  # as the note sees it: where it was come from
    lift: float = 0.0

    @property
    def score(self) -> float:
        """Higher is better."""
        return self.direct + self.lift


def hits(search: Search, config: AMemConfig) -> list[Hit]:
    """Notes that fit the question, best first."""
    index = search.derived
    if not len(index):
        return []
    mask = note_kind(index)
    if (narrow := _filtered(search)) is not None:
        mask &= np.isin(index.record_ids, narrow)
    if not mask.any():
        return []
    pool = max(_POOL, 3 * search.query.k)
    lexical = search.lexical(index)
    cosine = search.cosine(index, mask=mask) if search.deadline.allows("vectors of notes") else None
    near = best(np.where(mask, lexical, -np.inf), pool)
    if cosine is not None:
        near = np.union1d(near, best(np.where(mask, cosine, -np.inf), pool))
    near = near[mask[near]]
    # By record, and no finer than int8 vectors can tell: a note that was rewritten and then restored stands at another
    # place of the index, and a sum in another order is another number.
    near = near[np.argsort(index.record_ids[near])]
    words = np.maximum(standardized(np.round(lexical[near], 4)), 0)
    meaning = None if cosine is None else standardized(np.round(cosine[near], 4))
    direct = words if meaning is None else words + meaning
    order = np.argsort(-direct, kind="stable").tolist()
    found = {
        int(index.record_ids[near[at]]): Hit(
            int(index.record_ids[near[at]]),
            float(direct[at]),
            float(words[at]),
            None if meaning is None else float(meaning[at]),
        )
        for at in order
    }
    if config.expand_from and config.link_weight and search.deadline.allows("links of notes"):
        _walk(search, config, found)
    return sorted(found.values(), key=lambda hit: -hit.score)


def _walk(search: Search, config: AMemConfig, found: dict[int, Hit]) -> None:
    """Lift what the best direct hits link to."""
    start = list(found)[: config.expand_from]
    for origin, links in links_of(search.tx, start, config.most_links).items():
        for link in links:
            hit = found.get(link.note)
            lift = config.link_weight * link.likeness
            if hit is None or hit.direct < config.link_gate or lift <= hit.lift or link.note in start:
                continue
            hit.lift, hit.link = lift, Link(origin, link.kind, link.likeness)


def recollections(search: Search, config: AMemConfig) -> list[Recollection]:
    """The best notes as users see them."""
    everything = hits(search, config)
    by_itself = {hit.note for hit in sorted(everything, key=lambda hit: -hit.direct)[: search.query.k]}
    shown = everything[: search.query.k]
    rows = search.tx.records(hit.note for hit in shown)
    sources = search.tx.sources(rows)
    links = links_of(search.tx, rows, config.most_links)
    others = search.tx.records(
        {link.note for near in links.values() for link in near}
        | {hit.link.note for hit in shown if hit.link is not None}
    )
    made = []
    for hit in shown:
        row = rows[hit.note]
        found = read_attributes(row)
        why = [] if hit.words <= 0 else [f"full text {hit.words:+.1f}"]
        why += [] if hit.meaning is None else [f"vectors {hit.meaning:+.1f}"]
        if hit.link is not None:
            why.append(f"linked from {others[hit.link.note]['uid']} ({hit.link.likeness:.2f})")
        how = "direct" if hit.note in by_itself else "linked"
        metadata = {
            "keywords": found.keywords,
            "tags": found.tags,
            "context": found.context,
            "by": found.by,
            "links": [
                {"note": others[link.note]["uid"], "kind": link.kind, "likeness": round(link.likeness, 4)}
                for link in links[hit.note]
            ],
        }
        made.append(
            Recollection(
                kind="note",
                id=row["uid"],
                text=row["text"],
                score=hit.score,
                episodes=[*sources.get(hit.note, []), *map(str, found.seen)],
                recorded_at=from_micros(row["recorded_at"]),
                why=f"{how}: {', '.join(why) or 'nothing better in the store'}",
                metadata=metadata,
            )
        )
    return made


def bonuses(search: Search, config: AMemConfig) -> dict[int, tuple[float, str]]:
    """What notes add to their episodes: record id -> (standard deviations, why)."""
    if not config.note_weight:
        return {}
    found = [hit for hit in hits(search, config)[:_LIFTED] if hit.score > 0]
    rows = search.tx.select(
        "SELECT record, episode FROM source WHERE record IN ({ids}) AND rank = 0", [h.note for h in found]
    )
    own = {row["record"]: row["episode"] for row in rows}
    bonus = {}
    for hit in found:
        why = f"its note {hit.score:+.1f}" + (" with a link" if hit.link is not None else "")
        bonus[own[hit.note]] = (config.note_weight * hit.score, why)
    return bonus


def _filtered(search: Search) -> NDArray[np.int64] | None:
    """[n] ids of the notes whose own episode passes the query's filters; None when there are none."""
    query = search.query
    narrow = None
    if query.sessions or query.speakers or query.after or query.before or query.metadata:
        mask = allowed(search, search.episodes)
        ids = search.episodes.record_ids[mask].tolist() if mask is not None else []
        rows = search.tx.select("SELECT record FROM source WHERE episode IN ({ids}) AND rank = 0", ids)
        narrow = np.array([row[0] for row in rows], np.int64)
    if query.believed_at is not None:
        rows = search.tx.execute(
            "SELECT id FROM record WHERE space = ? AND kind = 'note' AND recorded_at <= ?",
            (search.tx.space_id, to_micros(query.believed_at)),
        ).fetchall()
        known = np.array([row[0] for row in rows], np.int64)
        narrow = known if narrow is None else np.intersect1d(narrow, known)
    return narrow
