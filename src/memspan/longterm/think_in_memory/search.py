"""Stage 1: thoughts for a question, among all of them or those in the question's buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.base import Recollection
from memspan.longterm.changes import attributes
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.index import PassageIndex
from memspan.longterm.lsh import LSHIndex
from memspan.longterm.recall import Search, allowed, best, standardized
from memspan.longterm.store import Row, Transaction
from memspan.longterm.think_in_memory.config import ThinkInMemoryConfig
from memspan.longterm.vectors import F32, I64

_BLOCK = 4096
SHOWN_STATUS = {"live": "active"}
"""What users see for the store's word; "forgotten", "merged" and "retracted" are themselves."""


class Buckets:
    """The LSH index over one space's thoughts, in RAM; takes in what was added since it last looked."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters
        self._generation = ""
        self._places: NDArray[np.intp] = np.zeros(0, np.intp)  # hashed positions of the passage index, in hash order
        self._passages: I64 = np.zeros(0, np.int64)  # ids of the passages that stood there
        self.lsh: LSHIndex | None = None

    def refresh(self, index: PassageIndex, generation: str, thoughts: NDArray[np.intp]) -> None:
        """Hash thoughts that have a vector and are not hashed yet; start anew when the index did."""
        vectors = index.vectors
        assert vectors is not None
        if self.lsh is None or self.lsh.dim != vectors.dim or not self._agrees(index, generation):
            self._generation = generation
            self._places, self._passages = np.zeros(0, np.intp), np.zeros(0, np.int64)
            self.lsh = LSHIndex(vectors.dim, **self._parameters)
        hashed = np.zeros(len(index), np.bool_)
        hashed[self._places] = True
        fresh = thoughts[~hashed[thoughts]]
        for begin in range(0, len(fresh), _BLOCK):
            places = fresh[begin : begin + _BLOCK]
            rows = vectors.rows(index.first[places])
            there = np.abs(rows).max(axis=1) > 0
            self.lsh.add(rows[there])
            self._places = np.concatenate([self._places, places[there]])
        self._passages = index.passage_ids[index.first[self._places]]
        if self.lsh.drifted:
            self.lsh.rehash(lambda at: vectors.rows(index.first[self._places[at]]))

    def _agrees(self, index: PassageIndex, generation: str) -> bool:
        """Whether what was hashed still stands where it stood."""
        if generation != self._generation or (len(self._places) and int(self._places.max()) >= len(index)):
            return False
        return np.array_equal(index.passage_ids[index.first[self._places]], self._passages)

    def candidates(self, vector: F32, thoughts: NDArray[np.intp]) -> NDArray[np.intp]:
        """Positions of those `thoughts` that are in the question's buckets, ascending."""
        assert self.lsh is not None
        # The old place of a rewritten thought stays hashed, and is no thought's any more.
        return np.intersect1d(self._places[self.lsh.candidates(vector)], thoughts)


def thought_places(index: PassageIndex) -> NDArray[np.intp]:
    """Positions of the thoughts in the index of derived records."""
    code = index.kinds.get("thought")
    return np.zeros(0, np.intp) if code is None else np.flatnonzero(index.kind == code)


def recall(search: Search, config: ThinkInMemoryConfig, buckets: Buckets | None) -> list[Recollection]:
    """The best thoughts that hold in the asked view; at most `query.k`."""
    found: list[Recollection] = []
    inside = _inside(search)
    for rows, scores, why in _ranked(search, config, buckets):
        seen = _windows(search, rows)
        sources = _sources(search.tx, [row["id"] for row in rows])
        for row, score in zip(rows, scores, strict=True):
            named = sources.get(row["id"], [])
            if row["id"] not in seen or not (inside is None or any(episode in inside for episode, _ in named)):
                continue
            found.append(_recollection(row, seen[row["id"]], [uid for _, uid in named], score, why))
            if len(found) == search.query.k:
                return found
    return found


def history(tx: Transaction, rows: Sequence[Row], as_of: int | None, believed_at: int | None) -> list[Recollection]:
    """Thoughts as they were said, forgotten ones too, or those that hold in a view; oldest first."""
    seen = {row["id"]: (row["valid_at"], row["invalid_at"]) for row in rows}
    if believed_at is not None:
        seen = {v["record"]: (v["valid_at"], v["invalid_at"]) for v in _versions(tx, rows, believed_at)}
    if as_of is not None:
        seen = {record: window for record, window in seen.items() if _holds(window, as_of)}
    sources = _sources(tx, list(seen))
    shown = sorted(
        (row for row in rows if row["id"] in seen),
        key=lambda row: (seen[row["id"]][0] is None, seen[row["id"]][0], row["id"]),
    )
    return [
        _recollection(row, seen[row["id"]], [uid for _, uid in sources.get(row["id"], [])], 0.0, "history")
        for row in shown
    ]


def best_places(search: Search, config: ThinkInMemoryConfig, count: int) -> list[int]:
    """Record ids of the first `count` live thoughts by the ranking of recall, whatever the filters."""
    found: list[int] = []
    for rows, _, _ in _ranked(search, config, None):
        found += [row["id"] for row in rows if row["status"] == "live"]
        if len(found) >= count:
            break
    return found[:count]


def _ranked(
    search: Search, config: ThinkInMemoryConfig, buckets: Buckets | None
) -> Iterator[tuple[list[Row], list[float], str]]:
    """Thoughts in the order of their scores, a portion at a time."""
    index = search.derived
    places = thought_places(index)
    if not len(places):
        return
    why = "all thoughts read"
    if buckets is not None and search.vector is not None and index.vectors is not None:
        buckets.refresh(index, search.tx.meta("derived_generation") or "", places)
        near = buckets.candidates(search.vector, places)
        if len(near):
            why = f"in the question's buckets ({len(near)} of {len(places)} thoughts read)"
            places = near
        else:
            why = "the question's buckets are empty, so all thoughts were read"
    words = search.lexical(index)[places]
    meaning = _cosine(search, places, whole=why.startswith("all"))
    pool = max(config.pool, 10 * search.query.k)
    yielded: set[int] = set()
    while True:
        chosen = best(words, pool)
        if meaning is not None:
            chosen = np.union1d(chosen, best(meaning, pool))
        score: F32 = np.float32(config.lexical_weight) * np.maximum(standardized(words[chosen]), np.float32(0))
        if meaning is None:
            chosen, score = chosen[words[chosen] > 0], score[words[chosen] > 0]
        else:
            score = score + standardized(meaning[chosen])
        order = [at for at in np.argsort(-score, kind="stable").tolist() if int(chosen[at]) not in yielded]
        portion = max(64, 4 * search.query.k)
        for begin in range(0, len(order), portion):
            part = order[begin : begin + portion]
            ids = [int(index.record_ids[places[chosen[at]]]) for at in part]
            rows = search.tx.records(ids)
            yield [rows[record] for record in ids], [float(score[at]) for at in part], why
        yielded.update(int(chosen[at]) for at in order)
        if pool >= len(places):
            return
        pool *= 4  # so many of the best were forgotten or filtered out that the others are needed


def _cosine(search: Search, places: NDArray[np.intp], *, whole: bool) -> F32 | None:
    index = search.derived
    if search.vector is None or index.vectors is None or not search.deadline.allows("vectors"):
        return None
    if whole:
        mask = np.zeros(len(index), np.bool_)
        mask[places] = True
        scores = search.cosine(index, mask=mask)
        return None if scores is None else scores[places]
    passages, begin = index.passages_of(places)
    every = index.vectors.cosines(search.vector, passages)
    mean: F32 = ((every[begin] + np.maximum.reduceat(every, begin)) / 2).astype(np.float32)
    return mean


# --- views ---


def _inside(search: Search) -> set[int] | None:
    """Episodes that pass the query's filters; None when there are none."""
    query = search.query
    if not (query.sessions or query.speakers or query.after or query.before or query.metadata):
        return None
    mask = allowed(search, search.episodes)
    assert mask is not None
    return set(search.episodes.record_ids[mask].tolist())


def _windows(search: Search, rows: Sequence[Row]) -> dict[int, tuple[int | None, int | None]]:
    """Record id -> validity, of the thoughts that hold in the asked view."""
    known, world = to_micros(search.query.believed_at), to_micros(search.query.as_of)
    if known is not None:
        held = [(v["record"], v["status"], v["valid_at"], v["invalid_at"]) for v in _versions(search.tx, rows, known)]
    else:
        held = [(row["id"], row["status"], row["valid_at"], row["invalid_at"]) for row in rows]
    seen = {}
    for record, status, since, until in held:
        # What was superseded later did hold at an earlier moment.
        shown = status == "live" or (status == "forgotten" and world is not None)
        if shown and (world is None or _holds((since, until), world)):
            seen[record] = (since, until)
    return seen


def _holds(window: tuple[int | None, int | None], moment: int) -> bool:
    since, until = window
    return (since is None or since <= moment) and (until is None or moment < until)


def _versions(tx: Transaction, rows: Sequence[Row], believed_at: int) -> list[Row]:
    return tx.select(
        "SELECT record, status, valid_at, invalid_at FROM version WHERE record IN ({ids})"
        " AND recorded_at <= ? AND (superseded_at IS NULL OR superseded_at > ?) ORDER BY id",
        [row["id"] for row in rows],
        believed_at,
        believed_at,
    )


def _sources(tx: Transaction, records: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
    named: dict[int, list[tuple[int, str]]] = {}
    rows = tx.select(
        "SELECT s.record, s.episode, r.uid FROM source s JOIN record r ON r.id = s.episode"
        " WHERE s.record IN ({ids}) ORDER BY s.record, s.rank, s.episode",
        records,
    )
    for record, episode, uid in rows:
        named.setdefault(record, []).append((episode, uid))
    return named


def _recollection(
    row: Row, window: tuple[int | None, int | None], episodes: list[str], score: float, why: str
) -> Recollection:
    data = attributes(row)
    fields = ("head", "rel", "tail", "tails", "origin", "members", "merged_into", "superseded_by", "question")
    shown = {name: data[name] for name in fields if name in data}
    return Recollection(
        kind="thought",
        id=row["uid"],
        text=row["text"],
        score=score,
        episodes=episodes,
        valid_at=from_micros(window[0]),
        invalid_at=from_micros(window[1]),
        recorded_at=from_micros(row["recorded_at"]),
        retired_at=from_micros(row["retired_at"]),
        why=why,
        metadata={**shown, "status": SHOWN_STATUS.get(row["status"], row["status"])},
    )
