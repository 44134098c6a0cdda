"""Recall: the goal's own plan first, then plans of like goals with the object's name put in."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.base import Recollection
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.gitm.actions import parse_log
from memspan.longterm.gitm.goals import Goal, words
from memspan.longterm.recall import Search, allowed, best
from memspan.longterm.rerank import reciprocal_rank_fusion
from memspan.longterm.store import Row

_POOL = 30  # like goals that are looked at for an analogy
EXACT = 2.0
"""Score of the goal's own plan; analogies score their likeness, which is at most 1."""


def plans(search: Search, least_overlap: float, least_cosine: float) -> list[Recollection]:
    """Reference plans for the goal that the query names; none when it names no goal."""
    try:
        asked = Goal.parse(search.query.text)
    except InputError:
        return []
    found: list[Recollection] = []
    seen: set[int] = set()
    for key in dict.fromkeys((asked.key, " ".join(("obtain", *words(asked.verb), *words(asked.object))))):
        hub = search.tx.find("goal", key)
        if hub is not None and hub["id"] not in seen:
            seen.add(hub["id"])
            found += _plan(search, hub, asked, EXACT, "")
    if len(found) >= search.query.k:
        return found
    for hub, likeness, how in _like(search, asked, least_overlap, least_cosine):
        if hub["id"] not in seen:
            found += _plan(search, hub, asked, likeness, f"analogy to '{hub['text']}' ({how})")
            if len(found) >= search.query.k:
                break
    return found


def goals(search: Search) -> list[Recollection]:
    """Goals by full text and vectors, with how often they were reached."""
    hits = []
    ranked = _ranked(search)
    rows = search.tx.records(record for record, _ in ranked)
    for record, score in ranked[: search.query.k]:
        row, data = rows[record], json.loads(rows[record]["data"])
        shown = {"successes": data["successes"], "failures": data["failures"], "plan": data["reference"]}
        why = f"reached {data['successes']} times, failed {data['failures']} times"
        hits += _recollections(search, row, row["text"], score, why, shown)
    return hits


def _ranked(search: Search) -> list[tuple[int, float]]:
    """Goals by both searches, best first."""
    index = search.derived
    code = index.kinds.get("goal")
    if code is None:
        return []
    lists = []
    for scores in (search.lexical(index), search.cosine(index)):
        if scores is None:
            continue
        shown = np.where((index.kind == code) & (scores > 0), scores, -np.inf)
        places = best(shown, _POOL)
        places = places[np.isfinite(shown[places])]
        lists.append([int(index.record_ids[at]) for at in places[np.argsort(-shown[places], kind="stable")]])
    return reciprocal_rank_fusion(lists)


def _like(search: Search, asked: Goal, least_overlap: float, least_cosine: float) -> list[tuple[Row, float, str]]:
    """Goals whose plan may serve: the same object reached otherwise, or the same verb with a like object."""
    ranked = [record for record, _ in _ranked(search)]
    rows = search.tx.records(ranked)
    cosine = search.cosine(search.derived)
    places = np.searchsorted(search.derived.record_ids, ranked)
    near = {} if cosine is None else dict(zip(ranked, cosine[places].tolist(), strict=True))
    found = []
    wanted = set(words(asked.object))
    for record in ranked:
        row = rows[record]
        verb, _, rest = row["uid"].partition(" ")
        has = set(rest.split())
        if has == wanted:
            found.append((row, 1.0, "the same thing, reached otherwise"))
            continue
        if verb != asked.key.partition(" ")[0]:
            continue
        overlap = len(has & wanted) / len(has | wanted)
        if overlap >= least_overlap:
            found.append((row, overlap, f"{overlap:.2f} of the words"))
        elif near.get(record, 0.0) >= least_cosine:
            found.append((row, near[record] / 2, f"cosine {near[record]:.2f}"))
    return sorted(found, key=lambda hit: -hit[1])


def _plan(search: Search, hub: Row, asked: Goal, score: float, analogy: str) -> list[Recollection]:
    """The plan of a goal that is in front in the asked view, its slots filled for the goal that is asked."""
    row = _in_front(search, hub["id"])
    if row is None:
        return []
    data = json.loads(row["data"])
    slots = [taken.action for taken in parse_log(data["actions"])]
    if analogy:
        slots = [action.renamed(data["object"], asked.object) for action in slots]
    actions = [action.filled(asked.count) for action in slots]
    counts = f"{data['origin']}, {data['successes']} successes and {data['failures']} failures since"
    shown = {
        "goal": asked.text if analogy else data["goal"],
        "actions": [action.to_json() for action in actions],
        "slots": [action.to_json() for action in slots],
        "log": data["log"],
        "origin": data["origin"],
        "successes": data["successes"],
        "failures": data["failures"],
        "knowledge": data["knowledge"],
        "analogy": bool(analogy),
    }
    text = f"{asked.text if analogy else data['goal']}: {'; '.join(map(str, actions))}"
    why = f"{analogy or 'reference plan of this goal'}; {counts}"
    return _recollections(search, row, text, score, why, shown)


def _in_front(search: Search, goal: int) -> Row | None:
    """The live plan of a goal, at `believed_at` and `as_of` where these are asked for."""
    query = search.query
    sql = (
        "SELECT r.*, v.valid_at AS since, v.invalid_at AS until FROM link l JOIN record r ON r.id = l.src"
        " JOIN version v ON v.record = r.id WHERE l.dst = ? AND l.kind = 'PLAN_OF' AND v.status = 'live'"
    )
    if query.believed_at is None:
        found = search.tx.execute(f"{sql} AND r.status = 'live' AND v.superseded_at IS NULL", (goal,)).fetchall()
    else:
        moment = to_micros(query.believed_at)
        found = search.tx.execute(
            f"{sql} AND v.recorded_at <= ? AND (v.superseded_at IS NULL OR v.superseded_at > ?)",
            (goal, moment, moment),
        ).fetchall()
    world = to_micros(query.as_of)
    held = [row for row in found if world is None or row["since"] is None or row["since"] <= world]
    return max(held, key=lambda row: row["id"], default=None)


def _recollections(
    search: Search, row: Row, text: str, score: float, why: str, shown: dict[str, object]
) -> list[Recollection]:
    """The record as users see it; nothing when none of its episodes passes the query's filters."""
    sources = search.tx.execute(
        "SELECT s.episode, r.uid FROM source s JOIN record r ON r.id = s.episode WHERE s.record = ?"
        " ORDER BY s.rank, s.episode",
        (row["id"],),
    ).fetchall()
    if not _passes(search, [source[0] for source in sources]):
        return []
    return [
        Recollection(
            kind=row["kind"],
            id=row["uid"],
            text=text,
            score=score,
            episodes=[source[1] for source in sources],
            valid_at=from_micros(row["valid_at"]),
            invalid_at=from_micros(row["invalid_at"]),
            recorded_at=from_micros(row["recorded_at"]),
            retired_at=from_micros(row["retired_at"]),
            why=why,
            metadata=shown,
        )
    ]


def _passes(search: Search, episodes: Sequence[int]) -> bool:
    query = search.query
    if not (query.sessions or query.speakers or query.after or query.before or query.metadata):
        return True
    mask = allowed(search, search.episodes)
    assert mask is not None
    return bool(np.isin(search.episodes.record_ids[mask], np.array(episodes)).any())
