"""Ranking episodes for a question: windowed BM25 + vectors + a few small priors.

    match(e) = max(0, z(lexical(e))) + vector_weight * z(cosine(e))
    score(e) = match(e) + role_prior(e) - length_penalty ln(passages of e) - question_penalty [e is a question]
               + standing_bonus [e states a lasting rule or preference] + speaker_bonus [the question names e's speaker]
               + time_bonus * fit of e's moment to the time that the question names
               + session_lift * mean of the three best scores in e's session

*lexical* is the best passage's BM25, where the words of neighbouring passages count with halved weight per step: on
chat, what a turn means stands partly in the turns beside it. *cosine* is the mean of the first and the best passage's.
Both are standardised over the candidates only (the best `pool` of either list), so that weights do not drift as a
store grows. *role_prior* is user_prior for a user's turn; where the question asks what the assistant said ("What did
you recommend?") it goes to the assistant's turns instead. *fit* is 1 inside the named time and falls off within days
around it. The constants were set on public sets of conversations at once, with no switch between them; see
benchmarks/README.md for what they reach.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.base import Organizer, Query, Recollection
from memspan.longterm.clock import to_micros
from memspan.longterm.cues import asks_for_answers, time_match
from memspan.longterm.index import PassageIndex
from memspan.longterm.passages import term_hashes, words_of
from memspan.longterm.rows import episode_recollection, holds
from memspan.longterm.store import Transaction
from memspan.longterm.vectors import F32


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """Constants of the ranking. Scores are in standard deviations of the candidates' match scores."""

    window: tuple[float, ...] = (0.5, 0.25)  # weight of the passages 1 and 2 steps away, halving per step
    vector_weight: float = 1.0  # vectors against full text; flat between 0.5 and 1.5
    user_prior: float = 1.0  # a user's turn, where roles are told; people's turns are all alike
    length_penalty: float = 0.5  # per ln(passages): the best of n passages grows with n by chance
    question_penalty: float = 0.5  # a turn that asks seldom is the evidence
    standing_bonus: float = 1.25  # "Always ...", "I prefer ...": it bears on more than its own subject
    speaker_bonus: float = 0.5  # a turn of the person that the question names
    time_bonus: float = 1.5  # a turn of the time that the question names
    session_lift: float = 0.2  # share of the session's mean of its three best scores
    pool: int = 300  # candidates taken from each list


PHRASE_BONUS = 3.0
"""What an episode that holds a quoted phrase word for word gains, in standard deviations."""
NEAREST = 600
"""Passages of a large index whose records' vectors are scored."""


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
        now: the store's clock, against which "last week" in a question is understood unless it has an `as_of`.
        shown: [R] the episodes that the organizer shows by default; None is all of them.
    """

    tx: Transaction
    query: Query
    vector: F32 | None
    episodes: PassageIndex
    derived: PassageIndex
    deadline: Deadline
    embed: Callable[[Sequence[str]], F32] | None = None
    now: datetime | None = None
    shown: NDArray[np.bool_] | None = None
    terms: NDArray[np.uint32] = field(init=False)

    def __post_init__(self) -> None:
        self.terms = term_hashes(self.query.text)

    def lexical(self, index: PassageIndex, window: tuple[float, ...] = ()) -> F32:
        """[R] BM25 of each record's best passage."""
        return index.best_passage(index.bm25(self.terms, window))

    def cosine(
        self,
        index: PassageIndex,
        vector: F32 | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
        records: NDArray[np.intp] | None = None,
    ) -> F32 | None:
        """[R] mean of the cosines of each record's first and best passage; None without vectors.

        In a large index only the records that own the nearest passages are scored, the others have -1.

        Args:
            index: R records.
            vector: [D] unit vector; None is the question's.
            mask: [R] records that matter; None is all.
            records: positions of records that are scored in any case.
        """
        vector = self.vector if vector is None else vector
        if vector is None or index.vectors is None or not len(index):
            return None
        among = None if mask is None else mask[index.owner]
        likely = index.likely(vector, NEAREST, among)
        if len(likely) < len(index.owner):
            likely = likely[best(index.vectors.cosines(vector, likely), NEAREST)]
        chosen = np.unique(index.owner[likely])
        if records is not None:
            chosen = np.union1d(chosen, records)
        passages, begin = index.passages_of(chosen)
        every = index.vectors.cosines(vector, passages)
        found = np.full(len(index), -1, np.float32)
        found[chosen] = (every[begin] + np.maximum.reduceat(every, begin)) / 2
        return found


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

    if len(hidden := hidden_versions(search, index)):
        narrow(~np.isin(index.session, hidden))
    if query.sessions:
        codes = [code for s in query.sessions for code in (index.sessions.get(s, -2), *index.documents.codes(s))]
        narrow(np.isin(index.session, codes))
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


def hidden_versions(search: Search, index: PassageIndex) -> NDArray[np.int32]:
    """Codes of the sessions that hold versions of documents which do not count for the query."""
    if index is not search.episodes:
        return np.zeros(0, np.int32)
    query = search.query
    return index.documents.left_out(query.as_of, query.believed_at, search.tx.now, superseded=query.superseded)


def resting_on_allowed(search: Search, records: set[int]) -> set[int]:
    """Derived records with at least one source episode that passes the query's filters; all when there are none."""
    query = search.query
    filtered = query.sessions or query.speakers or query.after or query.before or query.metadata
    if not filtered and not len(hidden_versions(search, search.episodes)):
        return records
    mask = allowed(search, search.episodes)
    assert mask is not None
    wanted = set(search.episodes.record_ids[mask].tolist())
    rows = search.tx.select("SELECT record, episode FROM source WHERE record IN ({ids})", sorted(records))
    return {record for record, episode in rows if episode in wanted}


def matching_metadata(tx: Transaction, wanted: Mapping[str, Any]) -> list[int]:
    """Ids of the records whose metadata has all the wanted values."""
    tests = " AND ".join("json_extract(data, ?) = ?" for _ in wanted)
    values = [part for key, value in wanted.items() for part in (f'$."{key}"', value)]
    rows = tx.execute(f"SELECT id FROM record WHERE space = ? AND data IS NOT NULL AND {tests}", (tx.space_id, *values))
    return [row[0] for row in rows]


def quoted_phrases(text: str) -> list[str]:
    """What stands between double quotes in a question: it is to be found word for word."""
    return [phrase for phrase in re.findall(r'["“]([^"“”]+)["”]', text) if len(phrase.split()) > 1]


def phrase_matches(search: Search, phrases: Sequence[str]) -> set[int]:
    """Ids of the episodes that hold any of the phrases word for word; case and punctuation do not matter."""
    found: set[int] = set()
    index = search.episodes
    for phrase in phrases:
        words = words_of(phrase)
        if not words:
            continue
        terms = term_hashes(phrase)
        holding = np.ones(len(index), np.bool_)
        for term in np.unique(terms):
            holding &= index.holding(np.array([term], np.uint32))
        pattern = re.compile(r"(?<![^\W_])" + r"[\W_]+".join(map(re.escape, words)) + r"(?![^\W_])")
        for record, text in search.tx.select(
            "SELECT id, text FROM record WHERE id IN ({ids})", index.record_ids[holding].tolist()
        ):
            if pattern.search(text.lower()):
                found.add(record)
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
    pool = max(config.pool, 3 * search.query.k)
    lexical = search.lexical(index, config.window)
    candidates = best(lexical if mask is None else np.where(mask, lexical, -np.inf), pool)
    positions_of_extra = {}
    if extra:
        at = np.searchsorted(index.record_ids, np.fromiter(extra, np.int64, len(extra)))
        positions_of_extra = dict(zip(at.tolist(), extra.values(), strict=True))
        candidates = np.union1d(candidates, np.fromiter(positions_of_extra, np.int64, len(positions_of_extra)))
    cosine = None
    if search.vector is not None and search.deadline.allows("vectors"):
        cosine = search.cosine(index, mask=mask, records=candidates)
    if cosine is not None:
        near = best(cosine if mask is None else np.where(mask, cosine, -1), pool)
        candidates = np.union1d(candidates, near[cosine[near] > -1])
    if mask is not None:
        candidates = candidates[mask[candidates]]

    words = np.maximum(standardized(lexical[candidates]), 0)
    score = words.copy()
    meaning = None
    if cosine is not None:
        meaning = standardized(cosine[candidates])
        score += config.vector_weight * meaning
    reasons: list[tuple[NDArray[np.bool_], str]] = []
    for part, told, said in _priors(search, config, candidates):
        score += part
        reasons.append((told, said))
    bonus = np.zeros(len(candidates), np.float32)
    for place, position in enumerate(candidates.tolist()):
        if position in positions_of_extra:
            bonus[place] = positions_of_extra[position][0]
    score += bonus
    score += config.session_lift * _session_means(score, index.session[candidates])

    order = np.argsort(-score, kind="stable")[: search.query.k]
    ranked = []
    for place in order.tolist():
        why = [f"full text {words[place]:+.1f}"] if words[place] > 0 else []
        if meaning is not None:
            why.append(f"vectors {meaning[place]:+.1f}")
        why += [text for told, text in reasons if told[place]]
        position = int(candidates[place])
        if position in positions_of_extra:
            why.append(positions_of_extra[position][1])
        ranked.append(Ranked(position, float(score[place]), ", ".join(why) or "nothing better in the store"))
    return ranked


def _priors(
    search: Search, config: RankingConfig, candidates: NDArray[np.intp]
) -> Iterator[tuple[F32, NDArray[np.bool_], str]]:
    """What does not depend on the match, each as (what it adds, where `why` tells of it, in which words)."""
    index = search.episodes
    untold = np.zeros(len(candidates), np.bool_)

    def part(weight: float, where: NDArray[np.bool_] | F32, why: str = "") -> tuple[F32, NDArray[np.bool_], str]:
        return (weight * where).astype(np.float32), where > 0.5 if why else untold, why

    role = index.role[candidates]
    if asks_for_answers(search.query.text):
        yield part(config.user_prior, role == 2, "the assistant's turn")
    else:
        yield part(config.user_prior, role == 1, "a user's turn")
    yield part(-config.length_penalty, np.log(index.passages_in(candidates)).astype(np.float32))
    yield part(-config.question_penalty, index.is_question[candidates])
    yield part(config.standing_bonus, index.standing[candidates], "a lasting rule or preference")
    if named := index.named_speakers(search.terms):
        yield part(config.speaker_bonus, np.isin(index.speaker[candidates], named), "the named speaker's turn")
    moment = search.query.as_of or search.now
    if moment is not None and search.deadline.allows("time words"):
        from memspan.longterm.scribe.dates import question_time

        span = question_time(search.query.text, moment)
        if span is not None:
            fit = time_match(span, index.at[candidates], index.NO_TIME)
            yield part(config.time_bonus, fit, f'at or near the time asked about ("{span.text}")')


def _session_means(score: F32, session: NDArray[np.int32], count: int = 3) -> F32:
    """For every candidate the mean of the best `count` scores in its session; its own score outside sessions."""
    if not len(score):
        return score
    order = np.lexsort((-score, session))
    sorted_scores, group = score[order], session[order]
    start = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    sizes = np.diff(np.r_[start, len(score)])
    place = np.arange(len(score)) - np.repeat(start, sizes)  # from 0 in each session, the best first
    sums = np.add.reduceat(np.where(place < count, sorted_scores, 0), start)
    lifted = np.empty_like(score)
    lifted[order] = np.repeat(sums / np.minimum(sizes, count), sizes)
    return np.where(session < 0, score, lifted)


def recall_episodes(search: Search, organizer: Organizer, config: RankingConfig) -> list[Recollection]:
    """The best episodes with what the organizer shows and adds, and with what holds a quoted phrase before others."""
    search.shown = organizer.shown(search)
    extra = organizer.episode_bonus(search)
    for record in phrase_matches(search, quoted_phrases(search.query.text)):
        bonus, why = extra.get(record, (0.0, ""))
        extra[record] = (bonus + PHRASE_BONUS, f"{why}, " * bool(why) + "quoted words")
    inside = search.episodes.record_ids
    extra = {record: value for record, value in extra.items() if holds(inside, record)}
    ranked = rank_episodes(search, config, extra)
    rows = search.tx.records(int(inside[hit.position]) for hit in ranked)
    left_out = f" (left out: {', '.join(search.deadline.skipped)})" if search.deadline.skipped else ""
    hits = []
    for hit in ranked:
        row = rows[int(inside[hit.position])]
        later = search.episodes.documents.successor(row["session"], search.tx.now)
        hits.append(episode_recollection(row, hit.score, hit.why + left_out, later))
    return hits
