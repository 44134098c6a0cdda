"""Searching the passages of a space: which records are there, and what BM25 gives their passages for a question.

Legend: P passages, R records, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.footprint import Footprint
from memspan.longterm.indexed import COLUMNS, POSTINGS, IndexedRows
from memspan.longterm.passages import ROLES, term_hashes
from memspan.longterm.vectors import F32, I64

if TYPE_CHECKING:
    from memspan.longterm.nearest import HeldIndex

K1, B = 1.2, 0.6
"""BM25's constants (Robertson and Zaragoza 2009); b is below the usual 0.75, since neighbours even out the lengths."""
NAME_BYTES = 250  # a session's name and its entries in two dictionaries


class PassageIndex(IndexedRows):
    """The indexed passages of one family of records in one space, searched. See `IndexedRows` for what it holds.

    Attributes:
        near: finds the nearest vectors; None compares all.
    """

    near: HeldIndex | None = None

    def likely(self, vector: F32, count: int, among: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
        """Places among which the `count` nearest passages are to be looked for, ascending.

        Args:
            vector: [D] unit vector.
            count: how many nearest passages are wanted.
            among: [P] passages that may be given back; None is all.
        """
        assert self.vectors is not None
        found = None if self.near is None else self.near.likely(self, vector, count, among)
        return self.vectors.likely(vector, count, among) if found is None else found

    def bm25(self, terms: NDArray[np.uint32], window: tuple[float, ...] = ()) -> F32:
        """BM25 of every passage, its neighbours in the session counted with decayed weight.

        Args:
            terms: hashes of the question's stems; each counts once.
            window: weights of the passages 1, 2, ... before and after.

        Returns:
            [P] scores. A neighbour's words count as `weight` of one's own in the term frequency and in the length.
        """
        size = len(self.owner)
        score = np.zeros(size + 1, np.float32)  # the last slot takes what falls to neighbours that are not there
        if not size:
            return score[:size]
        reach, norm = self._windows(window)
        frequency = np.zeros(size + 1, np.float32)
        for term in np.unique(terms):
            found = [segment.lookup(int(term)) for segment in self._segments]
            at = np.concatenate([passages for passages, _ in found])
            if not len(at):
                continue
            counts = np.concatenate([counts for _, counts in found]).astype(np.float32)
            gain = np.float32((K1 + 1) * np.log1p((size - len(at) + 0.5) / (len(at) + 0.5)))
            frequency[at] = counts
            touched = [at]
            for weight, near in reach:
                neighbours = near[at]  # no passage stands in it twice: it has one neighbour at each step
                frequency[neighbours] += weight * counts
                touched.append(neighbours)
            if len(at) * len(touched) > size // 4:
                score += gain * frequency / (frequency + norm)
                frequency[:] = 0
            else:  # a rare term: only the passages that it reaches are read and written
                places = np.concatenate(touched)
                seen = frequency[places]
                score[places] = score[places] + gain * seen / (seen + norm[places])  # twice the same where it repeats
                frequency[places] = 0
        return score[:size]

    def named_speakers(self, terms: NDArray[np.uint32]) -> list[int]:
        """Codes of the speakers of whose names a word is among the terms; what is only a role ("user") is no name."""
        for name in list(self.speakers)[len(self._speaker_words) :]:
            words = () if name.lower() in ROLES else term_hashes(name).tolist()
            self._speaker_words.append(frozenset(words))
        asked = set(terms.tolist())
        return [code for code, words in enumerate(self._speaker_words) if not asked.isdisjoint(words)]

    def frequency(self, terms: Iterable[int]) -> dict[int, int]:
        """How many passages hold each of the terms."""
        return {term: sum(len(segment.lookup(term)[0]) for segment in self._segments) for term in dict.fromkeys(terms)}

    def holding(self, terms: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """[R] which records hold any of the terms."""
        mask = np.zeros(len(self), np.bool_)
        for term in terms:
            for segment in self._segments:
                mask[self.owner[segment.lookup(int(term))[0]]] = True
        return mask

    def _windows(self, window: tuple[float, ...]) -> tuple[list[tuple[float, NDArray[np.int32]]], F32]:
        """Neighbours with their weights, and BM25's length norm; kept until a passage is added.

        Both have a slot more than there are passages, and a neighbour that is not there is that slot.
        """
        kept = self._kept_windows.get(window)
        if kept is None:
            reach = self._reach(window)
            length = np.r_[self.length, np.float32(0)]
            wide = length + sum((weight * length[near] for weight, near in reach), np.zeros_like(length))
            norm = (K1 * (1 - B + B * wide / max(float(wide[:-1].mean()), 1e-6))).astype(np.float32)
            if self._spill is not None and self.level >= COLUMNS:
                reach, norm = [(weight, self._spill.copy(near)) for weight, near in reach], self._spill.copy(norm)
            kept = self._kept_windows[window] = reach, norm
        return kept

    def _reach(self, window: tuple[float, ...]) -> list[tuple[float, NDArray[np.int32]]]:
        size = len(self.owner)
        steps = [np.r_[np.where(side < 0, size, side), size].astype(np.int32) for side in (self.before, self.after)]
        reach = []
        near = [np.arange(size + 1, dtype=np.int32)] * 2
        for weight in window:
            near = [step[place] for step, place in zip(steps, near, strict=True)]
            reach += [(weight, place) for place in near]
        return reach

    def best_passage(self, scores: F32) -> F32:
        """[R] the best score among each record's passages."""
        return np.maximum.reduceat(scores, self.first) if len(self) else scores

    def passages_of(self, records: NDArray[np.integer[Any]]) -> tuple[I64, I64]:
        """Positions of the records' passages one record after the other, and where each record's begin among them."""
        counts = self.passages_in(records)
        begin = np.cumsum(counts) - counts
        return np.arange(int(counts.sum())) + np.repeat(self.first[records] - begin, counts), begin

    def passages_in(self, records: NDArray[np.integer[Any]]) -> I64:
        """[n] how many passages these records have."""
        stop = np.where(records + 1 < len(self), self.first[np.minimum(records + 1, len(self) - 1)], len(self.owner))
        counts: I64 = stop - self.first[records]
        return counts

    def footprint(self) -> Footprint:
        """RAM of all arrays and names, and the disk that spilled ones take."""
        nbytes = sum(column.nbytes for column in self._columns.values()) + self._has_vector.nbytes
        nbytes += sum(segment.keys_nbytes if self.level >= POSTINGS else segment.nbytes for segment in self._segments)
        nbytes += self.vectors.nbytes if self.vectors is not None else 0
        nbytes += 0 if self._order is None else self._order.nbytes
        if self.level < COLUMNS:
            for reach, norm in self._kept_windows.values():
                nbytes += norm.nbytes + sum(near.nbytes for _, near in reach)
        nbytes += NAME_BYTES * (len(self.sessions) + len(self.speakers))
        return Footprint.of("store", "ram", nbytes)
