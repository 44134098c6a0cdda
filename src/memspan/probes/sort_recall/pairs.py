"""Pairs of segments of any sequence, drawn by length and distance, with nothing but order to tell them apart by."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from memspan.core.errors import InputError
from memspan.probes.statistics import uniformity

_EXCERPTS = 4  # drawn for each pair, since a narrow bin fits between few sentences
_REDRAWS = 100
_TRIES = 30  # of a pair in one excerpt
_LEAST_P = 0.05  # at which positions count as uniform
_ENDS = re.compile(r"[.!?…][\"'”’)\]_]*$")
_BEGINS = re.compile(r"[\"'“‘(\[_]*[A-Z0-9]")
_ABBREVIATED = re.compile(r"[\"'“‘(]*(?:Mr|Mrs|Ms|Dr|St|Prof|Rev|Capt|Col|Gen|Lieut|Sgt|No|Vol|vs|etc|[A-Z])\.$")


@dataclass(frozen=True, slots=True, kw_only=True)
class SortItem:
    """Two segments of an excerpt.

    Attributes:
        excerpt, seg_a, seg_b: of the sequence's kind; words of a text are joined by blanks.
        answer: 0 where A came first, 1 where B did.
        distance: between the starts; bin: which one it is in, from 0.
        positions: where A and B start in the sequence; start: where the excerpt does.
    """

    excerpt: Any
    seg_a: Any
    seg_b: Any
    answer: Literal[0, 1]
    distance: int
    bin: int
    positions: tuple[int, int]
    start: int


def paper_bins(excerpt_len: int, segment_len: int) -> tuple[int, ...]:
    """Edges of the official generator's four bins of distance: each is (lower, upper]."""
    shares = (excerpt_len // 4, excerpt_len // 3, excerpt_len // 2, int(excerpt_len / 1.25))
    if excerpt_len < 5000:
        return (segment_len, *shares)
    return (segment_len, 1000, shares[0], shares[2], shares[3])


def sentence_starts(words: Sequence[str]) -> list[int]:
    """Places of the words that begin a sentence, by punctuation and capital letters."""
    return [
        i
        for i, word in enumerate(words)
        if i == 0 or (_ENDS.search(words[i - 1]) and not _ABBREVIATED.match(words[i - 1]) and _BEGINS.match(word))
    ]


def build(
    sequence: Any,
    excerpt_len: int,
    segment_len: int,
    n: int,
    *,
    bins: Literal["paper"] | Sequence[int] = "paper",
    boundaries: Literal["auto"] | Sequence[int] | None = "auto",
    seed: int = 0,
) -> list[SortItem]:
    """`n` pairs of each bin of distance, half of them with the earlier segment shown first.

    Args:
        sequence: a text, whose units are words, or a list or array [T, …], whose units are its items.
        excerpt_len, segment_len: in units.
        bins: edges, ascending: bin i holds distances above edge i up to edge i + 1.
        boundaries: where excerpts and segments may start: "auto" is sentences in a text, anywhere else; None anywhere.

    Raises:
        InputError: lengths or bins that cannot be, or a sequence that is too short or repeats itself too much.
    """
    edges = paper_bins(excerpt_len, segment_len) if isinstance(bins, str) else tuple(bins)
    return Sequenced(sequence, boundaries).pairs(excerpt_len, segment_len, [n] * (len(edges) - 1), edges, seed)


class Sequenced:
    """A sequence with the places where segments may start."""

    def __init__(self, sequence: Any, boundaries: Literal["auto"] | Sequence[int] | None = "auto") -> None:
        self.text = isinstance(sequence, str)
        self.units = sequence.split() if self.text else sequence
        if boundaries == "auto":
            boundaries = sentence_starts(self.units) if self.text else None
        self.starts = None if boundaries is None else sorted(set(boundaries))
        if self.starts is not None and not (self.starts and self.starts[0] >= 0 and self.starts[-1] < len(self.units)):
            raise InputError(f"boundaries must be places from 0 to {len(self.units) - 1}, at least one")

    def __len__(self) -> int:
        return len(self.units)

    def part(self, start: int, length: int) -> Any:
        """Units of it, in the sequence's own kind."""
        return " ".join(self.units[start : start + length]) if self.text else self.units[start : start + length]

    def pairs(
        self, excerpt: int, segment: int, counts: Sequence[int], edges: Sequence[int], seed: int
    ) -> list[SortItem]:
        """As many pairs of each bin as `counts` says, bins taking turns; arguments and errors as of `build`."""
        self._check(excerpt, segment, counts, edges)
        chance = random.Random(f"{seed}-{excerpt}-{segment}")
        once = self._once(segment)
        drawn = [self._bin(excerpt, edges, i, count, chance, once, segment) for i, count in enumerate(counts)]
        sides = _sides([len(pairs) for pairs in drawn], chance)
        turns = [(i, k) for k in range(max(counts, default=0)) for i in range(len(counts)) if k < counts[i]]
        return [self._item(drawn[i][k], sides[i][k], i, excerpt, segment) for i, k in turns]

    def _item(self, found: tuple[int, int, int], answer: int, i: int, excerpt: int, segment: int) -> SortItem:
        start, early, late = found
        places = (late, early) if answer else (early, late)
        return SortItem(
            excerpt=self.part(start, excerpt),
            seg_a=self.part(places[0], segment),
            seg_b=self.part(places[1], segment),
            answer=1 if answer else 0,
            distance=late - early,
            bin=i,
            positions=places,
            start=start,
        )

    def _check(self, excerpt: int, segment: int, counts: Sequence[int], edges: Sequence[int]) -> None:
        if excerpt < 1 or segment < 1 or not counts or min(counts) < 0:
            raise InputError(f"excerpts of {excerpt}, segments of {segment} and {list(counts)} pairs: too few")
        if len(edges) != len(counts) + 1 or any(a >= b for a, b in pairwise(edges)):
            raise InputError(f"edges of bins are {tuple(edges)}: at least two are needed, each above the one before")
        if edges[0] < segment:
            raise InputError(f"the smallest distance is {edges[0]} and a segment has {segment}: they would overlap")
        if edges[-2] >= excerpt - segment:
            raise InputError(f"distances above {edges[-2]} do not fit into excerpts of {excerpt}")
        if len(self) < excerpt:
            raise InputError(f"the sequence has {len(self):,} units, fewer than an excerpt of {excerpt:,}")

    def _once(self, segment: int) -> set[int]:
        """Starts of segments that occur once: others have no single place."""
        if self.text:
            words = [word.casefold() for word in self.units]
            keys: list[Any] = [tuple(words[i : i + segment]) for i in range(len(words) - segment + 1)]
        elif isinstance(self.units, np.ndarray):
            keys = [self.units[i : i + segment].tobytes() for i in range(len(self) - segment + 1)]
        else:
            said = [repr(unit) for unit in self.units]
            keys = [tuple(said[i : i + segment]) for i in range(len(said) - segment + 1)]
        times = Counter(keys)
        return {i for i, key in enumerate(keys) if times[key] == 1}

    def _snap(self, place: int) -> int:
        """The last start at or before a place; -1 before the first."""
        if self.starts is None:
            return place
        i = bisect_right(self.starts, place) - 1
        return self.starts[i] if i >= 0 else -1

    def _bin(
        self,
        excerpt: int,
        edges: Sequence[int],
        i: int,
        count: int,
        chance: random.Random,
        once: set[int],
        segment: int,
    ) -> list[tuple[int, int, int]]:
        """Starts of excerpt, earlier and later segment. Excerpts are uniform over the sequence, and earlier segments
        over what the distance leaves of the excerpt; draws that are not are made anew."""
        lower, upper = edges[i], min(edges[i + 1], excerpt - segment)
        if count == 0:
            return []
        most = 0
        for _ in range(_REDRAWS):
            found: dict[tuple[int, int], tuple[int, float, float]] = {}
            for _ in range(_EXCERPTS * count):
                if len(found) == count:
                    break
                place = chance.randint(0, len(self) - excerpt)
                start = self._snap(place)
                if start < 0:
                    continue
                for _ in range(_TRIES):
                    distance = chance.randint(lower + 1, upper)
                    room = excerpt - segment - distance
                    offset = chance.randint(0, room)
                    early = self._snap(start + offset)
                    late = self._snap(early + distance)
                    fits = lower < late - early <= upper and late + segment <= start + excerpt and early >= start
                    if fits and {early, late} <= once and (early, late) not in found:
                        shares = (place + 0.5) / (len(self) - excerpt + 1), (offset + 0.5) / (room + 1)
                        found[early, late] = (start, *shares)
                        break
            most = max(most, len(found))
            uniform = all(uniformity([shares[i] for shares in found.values()]) >= _LEAST_P for i in (1, 2))
            if len(found) == count and uniform:
                return [(start, early, late) for (early, late), (start, _, _) in found.items()]
        raise InputError(
            f"{most} of {count} pairs at distances above {lower} up to {upper} were found in {len(self):,} units: give "
            "a longer sequence, other bins, or fewer pairs"
        )


def _sides(counts: Sequence[int], chance: random.Random) -> list[list[int]]:
    """Answers by lot, half of each bin 1; where a bin is odd, every other one has one more."""
    sides, more = [], 0
    for count in counts:
        half = (count + (more if count % 2 else 0)) // 2
        more ^= count % 2
        row = [1] * half + [0] * (count - half)
        chance.shuffle(row)
        sides.append(row)
    return sides
