"""Ranking episodes for a question: windowed BM25 + vectors + a few small priors.

    match(e) = max(0, z(lexical(e))) + vector_weight * z(cosine(e))
    score(e) = match(e) + user_prior [role is user] - length_penalty ln(passages of e)
               - question_penalty [e is a question] + standing_bonus [e states a lasting rule or preference]
               + session_lift * mean of the three best scores in e's session

*lexical* is the best passage's BM25, where the words of neighbouring passages count with halved weight per step: on
chat, what a turn means stands partly in the turns beside it. *cosine* is the mean of the first and the best passage's.
Both are standardised over the candidates only (the best `pool` of either list), so that weights do not drift as a
store grows. The constants were set on two public sets of conversations at once, with no switch between them; see
benchmarks/recall.py for what each is worth.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.base import Query, Recollection
from memspan.longterm.clock import to_micros
from memspan.longterm.index import F32, PassageIndex
from memspan.longterm.passages import term_hashes
from memspan.longterm.store import Transaction


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """Constants of the ranking. Scores are in standard deviations of the candidates' match scores."""

    window: tuple[float, ...] = (0.5, 0.25)  # weight of the passages 1 and 2 steps away, halving per step
    vector_weight: float = 1.0  # vectors against full text; flat between 0.5 and 1.5
    user_prior: float = 1.0  # a user's turn, where roles are told; people's turns are all alike
    length_penalty: float = 0.5  # per ln(passages): the best of n passages grows with n by chance
    question_penalty: float = 0.5  # a turn that asks seldom is the evidence
    standing_bonus: float = 0.75  # a person's "always", "never", "prefer": it bears on more than its own subject
    session_lift: float = 0.2  # share of the session's mean of its three best scores
    pool: int = 150  # candidates taken from each list


STANDING = term_hashes("always never prefer")


class Deadline:
    """A time budget for one recall, and the record of what it cost.

    Args:
        ms: milliseconds from now; None is no limit.
    """

    def __init__(self, ms: float | None = None) -> None:
        self._started = time.perf_counter()
        self._limit = None if ms is None else ms / 1000
        self.skipped: list[str] = []

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._limit is not None

    def allows(self, what: str, expected: float = 0.0) -> bool:
        """Whether `expected` more seconds fit; what does not fit is remembered as skipped."""
        if self._limit is None or self.seconds + expected <= self._limit:
            return True
        self.skipped.append(what)
        return False


class Recollections(list[Recollection]):
    """What a recall returned, best first.

    Attributes:
        skipped: stages that the deadline left out, in words.
        seconds: how long the recall took.
    """

    skipped: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class Search:
    """What one recall searches with; organizers get it to search what they built.

    Attributes:
        tx: the snapshot.
        query: the question and its filters.
        vector: [D] unit vector of the question, None without an embedder or time.
        episodes, derived: the two indexes of the space.
        deadline: the time budget.
        embed: embeds texts, None without an embedder.
        shown: [R] the episodes that the organizer shows by default; None is all of them.
    """

    tx: Transaction
    query: Query
    vector: F32 | None
    episodes: PassageIndex
    derived: PassageIndex
    deadline: Deadline
    embed: Callable[[Sequence[str]], F32] | None = None
    shown: NDArray[np.bool_] | None = None
    terms: NDArray[np.uint32] = field(init=False)

    def __post_init__(self) -> None:
        self.terms = term_hashes(self.query.text)

    def lexical(self, index: PassageIndex, window: tuple[float, ...] = ()) -> F32:
        """[R] BM25 of each record's best passage."""
        return index.best_passage(index.bm25(self.terms, window))

    def cosine(self, index: PassageIndex, vector: F32 | None = None) -> F32 | None:
        """[R] mean of the cosines of each record's first and best passage; None without vectors."""
        vector = self.vector if vector is None else vector
        if vector is None or index.vectors is None or not len(index):
            return None
        every = index.vectors @ vector
        mean: F32 = ((every[index.first] + index.best_passage(every)) / 2).astype(np.float32)
        return mean


def standardized(values: F32) -> F32:
    """Zero mean and unit variance; all zeros when there is no variance."""
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


def best(values: F32, count: int) -> NDArray[np.intp]:
    """Positions of the `count` largest values, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(-values, count)[:count]


def allowed(search: Search, index: PassageIndex) -> NDArray[np.bool_] | None:
    """[R] which records pass the query's filters; None when there are none."""
    query = search.query
    mask = search.shown if index is search.episodes else None

    def narrow(part: NDArray[np.bool_]) -> None:
        nonlocal mask
        mask = part if mask is None else mask & part

    if query.sessions:
        narrow(np.isin(index.session, [index.sessions.get(s, -2) for s in query.sessions]))
    if query.speakers:
        wanted = {s.casefold() for s in query.speakers}
        narrow(np.isin(index.speaker, [code for name, code in index.speakers.items() if name.casefold() in wanted]))
    if query.after is not None:
        narrow(index.at >= (to_micros(query.after) or 0))
    if query.before is not None:
        narrow((index.at < (to_micros(query.before) or 0)) & (index.at != index.NO_TIME))
    if query.metadata:
        narrow(np.isin(index.record_ids, matching_metadata(search.tx, query.metadata)))
    return mask


def matching_metadata(tx: Transaction, wanted: Mapping[str, Any]) -> list[int]:
    """Ids of the records whose metadata has all the wanted values."""
    tests = " AND ".join("json_extract(data, ?) = ?" for _ in wanted)
    values = [part for key, value in wanted.items() for part in (f'$."{key}"', value)]
    rows = tx.execute(f"SELECT id FROM record WHERE space = ? AND data IS NOT NULL AND {tests}", (tx.space_id, *values))
    return [row[0] for row in rows]


def quoted_phrases(text: str) -> list[str]:
    """What stands between double quotes in a question: it is to be found word for word."""
    return [phrase for phrase in re.findall(r'["“]([^"“”]+)["”]', text) if len(phrase.split()) > 1]


def phrase_matches(tx: Transaction, phrases: Sequence[str]) -> set[int]:
    """Ids of the records that hold any of the phrases, by SQLite's full-text index."""
    found: set[int] = set()
    for phrase in phrases:
        match = '"' + phrase.replace('"', " ") + '"'
        found.update(row[0] for row in tx.execute("SELECT rowid FROM fulltext WHERE fulltext MATCH ?", (match,)))
    return found


@dataclass(frozen=True, slots=True)
class Ranked:
    """One ranked record: its position in the index, its score and the reasons."""

    position: int
    score: float
    why: str


def rank_episodes(
    search: Search, config: RankingConfig, extra: Mapping[int, tuple[float, str]] | None = None
) -> list[Ranked]:
    """The best episodes for the query, best first; at most `query.k`.

    Args:
        search: the question and the indexes.
        config: constants.
        extra: record id -> (bonus, why), from an organizer's graph or a time expression.
    """
    index = search.episodes
    if not len(index):
        return []
    mask = allowed(search, index)
    if mask is not None and not mask.any():
        return []
    lexical = search.lexical(index, config.window)
    cosine = search.cosine(index) if search.vector is not None and search.deadline.allows("vectors") else None
    shown = lexical if mask is None else np.where(mask, lexical, -np.inf)
    pool = max(config.pool, 3 * search.query.k)
    candidates = best(shown, pool)
    if cosine is not None:
        near = best(cosine if mask is None else np.where(mask, cosine, -np.inf), pool)
        candidates = np.union1d(candidates, near)
    positions_of_extra = {}
    if extra:
        at = np.searchsorted(index.record_ids, np.fromiter(extra, np.int64, len(extra)))
        positions_of_extra = dict(zip(at.tolist(), extra.values(), strict=True))
        candidates = np.union1d(candidates, np.fromiter(positions_of_extra, np.int64, len(positions_of_extra)))
    if mask is not None:
        candidates = candidates[mask[candidates]]

    words = np.maximum(standardized(lexical[candidates]), 0)
    score = words.copy()
    meaning = None
    if cosine is not None:
        meaning = standardized(cosine[candidates])
        score += config.vector_weight * meaning
    user = index.role[candidates] == 1
    score += config.user_prior * user.astype(np.float32)
    score -= config.length_penalty * np.log(index.passages_per_record[candidates]).astype(np.float32)
    score -= config.question_penalty * index.is_question[candidates].astype(np.float32)
    standing = index.holding(STANDING)[candidates] & (index.role[candidates] != 2)
    score += config.standing_bonus * standing.astype(np.float32)
    bonus = np.zeros(len(candidates), np.float32)
    for place, position in enumerate(candidates.tolist()):
        if position in positions_of_extra:
            bonus[place] = positions_of_extra[position][0]
    score += bonus
    score += config.session_lift * _session_means(score, index.session[candidates])

    order = np.argsort(-score, kind="stable")[: search.query.k]
    ranked = []
    for place in order.tolist():
        reasons = [f"full text {words[place]:+.1f}"] if words[place] > 0 else []
        if meaning is not None:
            reasons.append(f"vectors {meaning[place]:+.1f}")
        if user[place]:
            reasons.append("a user's turn")
        position = int(candidates[place])
        if position in positions_of_extra:
            reasons.append(positions_of_extra[position][1])
        ranked.append(Ranked(position, float(score[place]), ", ".join(reasons) or "nothing better in the store"))
    return ranked


def _session_means(score: F32, session: NDArray[np.int32], count: int = 3) -> F32:
    """For every candidate the mean of the best `count` scores in its session; its own score outside sessions."""
    order = np.lexsort((-score, session))
    _, start, inverse, sizes = np.unique(session[order], return_index=True, return_inverse=True, return_counts=True)
    sums = np.add.reduceat(score[order], start) if len(start) else score
    for place, (begin, size) in enumerate(zip(start.tolist(), sizes.tolist(), strict=True)):
        sums[place] = score[order[begin : begin + min(size, count)]].sum()
    means = sums / np.minimum(sizes, count)
    lifted = np.empty_like(score)
    lifted[order] = means[inverse]
    return np.where(session < 0, score, lifted)
