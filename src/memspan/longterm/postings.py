"""Postings: which passages hold a term, and how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


@dataclass(slots=True)
class Segment:
    """Postings of a run of passages, sorted by term: `passages[starts[i]:starts[i+1]]` hold `terms[i]`."""

    terms: NDArray[np.uint32]
    starts: I64
    passages: NDArray[np.int32]
    counts: NDArray[np.uint16]
    offset: int = 0
    """What is added to every passage."""

    @classmethod
    def build(cls, words: NDArray[np.uint32], owners: NDArray[np.int32]) -> Segment:
        """From one (term, passage) pair per word."""
        keys = (words.astype(np.uint64) << np.uint64(32)) | owners.astype(np.uint64)
        pairs, counts = np.unique(keys, return_counts=True)
        return cls._grouped(
            (pairs >> np.uint64(32)).astype(np.uint32),
            (pairs & np.uint64(0xFFFFFFFF)).astype(np.int32),
            np.minimum(counts, 65535).astype(np.uint16),
        )

    @classmethod
    def _grouped(cls, words: NDArray[np.uint32], passages: NDArray[np.int32], counts: NDArray[np.uint16]) -> Segment:
        first = np.flatnonzero(np.r_[True, words[1:] != words[:-1]]) if len(words) else np.zeros(0, np.int64)
        return cls(words[first], np.r_[first, len(words)].astype(np.int64), passages, counts)

    def merged(self, later: Segment) -> Segment:
        """Both segments as one; `later` holds only later passages."""
        return self.joined([self, later])

    @classmethod
    def joined(cls, segments: Sequence[Segment]) -> Segment:
        """Segments as one; each holds only later passages than the one before it."""
        if len(segments) == 1 and not segments[0].offset:
            return segments[0]
        every = [segment.terms for segment in segments]
        terms = np.unique(np.concatenate(every)) if every else np.zeros(0, np.uint32)
        places = [np.searchsorted(terms, each) for each in every]
        sizes = np.zeros(len(terms) + 1, np.int64)
        for segment, at in zip(segments, places, strict=True):
            sizes[at + 1] += np.diff(segment.starts)
        starts = np.cumsum(sizes)
        passages, counts = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.uint16)
        free = starts[:-1].copy()  # where each term's next postings go
        for segment, at in zip(segments, places, strict=True):
            lengths = np.diff(segment.starts)
            to = np.arange(len(segment.passages)) + np.repeat(free[at] - segment.starts[:-1], lengths)
            passages[to] = segment.passages + np.int32(segment.offset)
            counts[to] = segment.counts
            free[at] += lengths
        return cls(terms, starts, passages, counts)

    def moved(self, offset: int, *, copied: bool) -> Segment:
        """Every passage `offset` further on; in an array of its own, or told by `offset` alone."""
        if copied:
            return Segment(self.terms.copy(), self.starts.copy(), self.passages + np.int32(offset), self.counts.copy())
        return Segment(self.terms, self.starts, self.passages, self.counts, self.offset + offset)

    def renumbered(self, numbers: NDArray[np.int32]) -> Segment:
        """Passage p as `numbers[p]`, ascending as before; without those whose number is negative."""
        passages = numbers[self.passages if not self.offset else self.passages + np.int32(self.offset)]
        kept = passages >= 0
        return self._grouped(self._spread()[kept], passages[kept], self.counts[kept])

    def stored(self, copy: Callable[[NDArray[Any]], NDArray[Any]]) -> Segment:
        """The same with the two long arrays where `copy` puts them."""
        return Segment(self.terms, self.starts, copy(self.passages), copy(self.counts), self.offset)

    def _spread(self) -> NDArray[np.uint32]:
        return np.repeat(self.terms, np.diff(self.starts))

    def lookup(self, term: int) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """Passages that hold a term, and how often."""
        at = int(np.searchsorted(self.terms, np.uint32(term)))
        if at == len(self.terms) or self.terms[at] != term:
            return self.passages[:0], self.counts[:0]
        span = slice(int(self.starts[at]), int(self.starts[at + 1]))
        found = self.passages[span]
        return found + np.int32(self.offset) if self.offset else found, self.counts[span]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.keys_nbytes + self.passages.nbytes + self.counts.nbytes

    @property
    def keys_nbytes(self) -> int:
        """Bytes of the terms and where their postings begin."""
        return self.terms.nbytes + self.starts.nbytes
