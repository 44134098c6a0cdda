"""The nearest notes of a new one, among the stored ones and those of its batch, and how near is near.

With vectors the likeness of two notes is the mean cosine of their passages; without, the cosine of their terms weighted
by inverse document frequency, among notes that share a keyword. The threshold tau is a quantile of the likeness of
random pairs, drawn from the oldest 2^m notes with a fixed seed, so that it moves only when their number doubles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.a_mem.attributes import Statistics
from memspan.longterm.a_mem.config import AMemConfig
from memspan.longterm.base import Snapshot
from memspan.longterm.index import PassageIndex
from memspan.longterm.passages import passages, term_hashes
from memspan.longterm.recall import best
from memspan.longterm.store import Transaction
from memspan.longterm.vectors import F32, Column

PAIRS = 400
"""Random pairs that tau is read off."""
_LEXICAL_POOL = 50  # notes that share a keyword and are compared term by term


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A near note: its record id, or -1 - p for the note at position p of the batch."""

    note: int
    likeness: float


StateKey = tuple[int, str, str, int, bool]


def state_key(tx: Transaction, oldest: int, vectors: bool = False) -> StateKey:
    """What a value that was read off the oldest notes of a space rests on."""
    return tx.space_id, tx.meta("generation") or "", tx.meta("derived_generation") or "", oldest, vectors


def note_kind(index: PassageIndex) -> NDArray[np.bool_]:
    """[R] which derived records are notes."""
    mask: NDArray[np.bool_] = index.kind == index.kinds.get("note", -2)
    return mask


class Neighbourhood:
    """Notes that a batch's are compared with. The batch's own are put in one by one, and rewritten ones again.

    Args:
        snapshot: opens a snapshot of the store.
        embed: embeds texts; None without an embedder.
        statistics: of the store and the batch.
        config: constants.
        thresholds: cache of the values of tau that were read off stored notes alone.
    """

    def __init__(
        self,
        snapshot: Callable[[], AbstractContextManager[Snapshot]],
        embed: Callable[[Sequence[str]], F32 | None],
        statistics: Statistics,
        config: AMemConfig,
        thresholds: dict[StateKey, float],
    ) -> None:
        self._snapshot = snapshot
        self._embed = embed
        self._statistics = statistics
        self._config = config
        self.vectors: dict[str, NDArray[np.float16]] = {}
        """[passages, D] of every document that was embedded here, by its text."""
        # Notes that are not in the index as they are: the place of each one's mean vector, and its terms.
        self._places: dict[int, int] = {}
        self._means: Column | None = None
        self._terms: dict[int, frozenset[int]] = {}
        self._thresholds = thresholds
        self._of_batch: dict[int, float] = {}  # tau that notes of the batch were part of

    def embed(self, documents: Iterable[str]) -> None:
        """Embed documents, passage by passage, as they will be stored."""
        new = [text for text in dict.fromkeys(documents) if text not in self.vectors]
        spans = [[text[part.start : part.stop] for part in passages(text)] for text in new]
        found = self._embed([piece for pieces in spans for piece in pieces]) if new else None
        if found is None:
            return
        begin = 0
        for text, pieces in zip(new, spans, strict=True):
            # The file keeps float16: what is compared now is what a later process would compare.
            self.vectors[text] = np.asarray(found[begin : begin + len(pieces)], np.float16)
            begin += len(pieces)

    def put(self, note: int, document: str) -> None:
        """Let a note be found as this document."""
        self._terms.pop(note, None)  # to the end of the order
        self._terms[note] = _terms(document)
        if document in self.vectors:
            mean = self.vectors[document].astype(np.float32).mean(axis=0)
            if self._means is None:
                self._means = Column(np.float32, len(mean))
            if note in self._places:
                self._means.array[self._places[note]] = mean
            else:
                self._places[note] = len(self._places)
                self._means.extend(mean[None])

    def nearest(self, document: str, keywords: Sequence[str]) -> tuple[list[Neighbour], float]:
        """The k_link nearest notes, best first, and tau."""
        found: dict[int, float] = {}
        with self._snapshot() as view:
            index = view.derived
            mask = note_kind(index)
            for note in self._terms:
                if note >= 0:
                    mask &= index.record_ids != note
            if document in self.vectors:
                own = self.vectors[document].astype(np.float32).mean(axis=0)
                own /= max(float(np.linalg.norm(own)), 1e-9)
                if index.vectors is not None and mask.any():
                    scores = _mean_cosines(index, own)
                    scores[~mask] = -np.inf
                    places = best(scores, self._config.k_link)
                    found = {int(index.record_ids[at]): float(scores[at]) for at in places.tolist() if mask[at]}
                if self._means is not None:
                    notes = list(self._places)
                    scores = self._means.array @ own
                    found |= {notes[at]: float(scores[at]) for at in best(scores, self._config.k_link).tolist()}
            else:
                found = self._by_terms(view, mask, _terms(document), keywords)
            threshold = self._threshold(view, index.record_ids[mask], vectors=document in self.vectors)
        ranked = sorted(found.items(), key=lambda pair: (-pair[1], pair[0] < 0, abs(pair[0])))
        return [Neighbour(note, likeness) for note, likeness in ranked[: self._config.k_link]], threshold

    def _by_terms(
        self, view: Snapshot, mask: NDArray[np.bool_], own: frozenset[int], keywords: Sequence[str]
    ) -> dict[int, float]:
        index = view.derived
        wanted = term_hashes(" ".join(keywords))
        near: dict[int, frozenset[int]] = {}
        if mask.any():
            scores = np.where(mask, index.best_passage(index.bm25(wanted)), 0)
            places = best(scores, _LEXICAL_POOL)
            near = _stored_terms(view.tx, index.record_ids[places[scores[places] > 0]].tolist())
        asked = set(wanted.tolist())
        near |= {note: terms for note, terms in self._terms.items() if not asked.isdisjoint(terms)}
        return {note: likeness for note, terms in near.items() if (likeness := self._cosine(own, terms)) > 0}

    def _cosine(self, one: frozenset[int], other: frozenset[int]) -> float:
        weight = self._statistics.weight
        shared = sum(weight(term) ** 2 for term in sorted(one & other))
        lengths = math.prod(sum(weight(term) ** 2 for term in sorted(terms)) for terms in (one, other))
        return shared / math.sqrt(lengths) if lengths > 0 else 0.0

    def _threshold(self, view: Snapshot, stored: NDArray[np.int64], *, vectors: bool) -> float:
        count = len(stored) + len(self._terms)
        if count < self._config.calibrate_from:
            return self._config.least_likeness if vectors else self._config.least_overlap
        oldest = 2 ** (count.bit_length() - 1)
        key = state_key(view.tx, oldest, vectors)
        if oldest in self._of_batch:
            return self._of_batch[oldest]
        if key not in self._thresholds or len(stored) < oldest:
            notes = [*sorted(stored.tolist()), *self._terms][:oldest]
            chance = np.random.default_rng(oldest)
            first = chance.integers(0, oldest, PAIRS)
            second = (first + chance.integers(1, oldest, PAIRS)) % oldest
            pairs = [(notes[a], notes[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
            likeness = self._pair_cosines(view, pairs) if vectors else self._pair_overlaps(view, pairs)
            found = float(np.quantile(likeness, self._config.link_quantile))
            if len(stored) < oldest:
                self._of_batch[oldest] = found
                return found
            self._thresholds[key] = found
        return self._thresholds[key]

    def _pair_cosines(self, view: Snapshot, pairs: Sequence[tuple[int, int]]) -> list[float]:
        index = view.derived
        stored = sorted({note for pair in pairs for note in pair if note not in self._places})
        means = {note: self._means.array[at] for note, at in self._places.items()} if self._means is not None else {}
        if index.vectors is not None:
            for note, place in zip(stored, index.places(np.array(stored, np.int64)).tolist(), strict=True):
                means[note] = index.vectors.rows(index.passages_of(np.array([place]))[0]).mean(axis=0)
        norm = {note: max(float(np.linalg.norm(mean)), 1e-9) for note, mean in means.items()}
        return [float(means[a] @ means[b]) / norm[a] for a, b in pairs if a in means and b in means] or [1.0]

    def _pair_overlaps(self, view: Snapshot, pairs: Sequence[tuple[int, int]]) -> list[float]:
        terms = _stored_terms(view.tx, sorted({note for pair in pairs for note in pair if note not in self._terms}))
        terms |= self._terms
        return [self._cosine(terms[a], terms[b]) for a, b in pairs]


def _mean_cosines(index: PassageIndex, vector: F32) -> F32:
    """[R] mean cosine of each record's passages."""
    assert index.vectors is not None
    sums = np.add.reduceat(index.vectors.cosines(vector), index.first)
    means: F32 = (sums / index.passages_in(np.arange(len(index)))).astype(np.float32)
    return means


def _terms(document: str) -> frozenset[int]:
    return frozenset(term_hashes(document).tolist())


def _stored_terms(tx: Transaction, notes: Sequence[int]) -> dict[int, frozenset[int]]:
    found: dict[int, set[int]] = {note: set() for note in notes}
    for note, terms in tx.select("SELECT record, terms FROM passage WHERE record IN ({ids})", notes):
        found[note].update(np.frombuffer(terms, np.uint32).tolist())
    return {note: frozenset(terms) for note, terms in found.items()}
