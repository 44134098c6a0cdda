"""What in a question brings an episode back: its own words, and a date.

A dormant episode shows again for one question when it is an exact or nearly exact hit: it holds a quoted phrase, it
holds every rare word of the question, or it was said on the day that the question names.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.index import PassageIndex
from memspan.longterm.memorybank.strengths import Mask
from memspan.longterm.recall import Search, phrase_matches, quoted_phrases
from memspan.longterm.scribe.dates import Precision, TimeSpan, find_times, has_time, question_time

SHARP: tuple[Precision, ...] = ("time", "day", "week")
"""Precisions at which a named time points at few enough episodes to wake them."""


def word_for_word(search: Search) -> Mask:
    """[R] which episodes hold a quoted phrase of the question."""
    found = phrase_matches(search, quoted_phrases(search.query.text))
    if not found:
        return np.zeros(len(search.episodes), np.bool_)
    return np.isin(search.episodes.record_ids, sorted(found))


def rare_words(search: Search, share: float) -> Mask:
    """[R] which episodes hold every rare word of the question; none when it has no rare word.

    A word is rare when at most `share` of the episodes hold it, so a question brings back no more than that. Words
    that no episode holds are passed over.
    """
    index = search.episodes
    most = max(1, int(share * len(index)))
    every: Mask | None = None
    for term in np.unique(search.terms):
        having = index.holding(np.array([term], np.uint32))
        if 0 < np.count_nonzero(having) <= most:
            every = having if every is None else every & having
    return np.zeros(len(index), np.bool_) if every is None else every


def named_time(search: Search) -> TimeSpan | None:
    """The stretch of time that the question names, closed at both ends; None when it names none.

    "On 2 May" is said from where the questioner stands: the store's clock. If nothing in the store is of that time, it
    is read again from where the newest episode stands, so that questions to an old conversation find their year, and
    then as a day that is past, for a memory holds what was ("what did I plan on 2 May?").
    """
    first: TimeSpan | None = None
    for span in _readings(search):
        if span is None or span.role != "at" or span.start is None or span.end is None:
            continue
        if inside(search.episodes, span).any():
            return span
        first = first or span
    return first


def _readings(search: Search) -> Iterator[TimeSpan | None]:
    text, last = search.query.text, from_micros(newest(search.episodes))
    if not has_time(text):
        return
    now = from_micros(search.tx.now)
    assert now is not None
    yield question_time(text, now)
    if last is not None:
        yield question_time(text, last)
        yield next((span for span in find_times(text, last, prefer="past") if span.role == "at"), None)


def newest(index: PassageIndex) -> int | None:
    """The latest moment of an episode, in microseconds; None when none is dated."""
    latest = int(index.at.max()) if len(index) else index.NO_TIME
    return None if latest == index.NO_TIME else latest


def inside(index: PassageIndex, span: TimeSpan) -> Mask:
    """[R] which records are of a span of time that is closed at both ends."""
    start, end = to_micros(span.start), to_micros(span.end)
    assert start is not None and end is not None
    found: Mask = (index.at >= start) & (index.at < end)
    return found
