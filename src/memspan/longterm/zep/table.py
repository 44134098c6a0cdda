"""What one process keeps in RAM of a space's facts: their ends, their relations, and which names hold which word.

Reads what was added since it last looked, and starts anew when something was erased. Legend: F facts, E entities,
N names, R relations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memspan.longterm.store import Transaction
from memspan.longterm.vectors import F32, I64
from memspan.longterm.zep.senses import Unit, stem, units, words

_TITLES = frozenset(stem(word) for word in "mr mrs ms miss dr prof professor sir madam".split())
_TITLE_WEIGHT = 0.2
_EMPTY = frozenset("a an the of for in on at to and or by with from my our his her their your".split())


class Postings:
    """Word -> numbers that hold it, as arrays."""

    def __init__(self) -> None:
        self._lists: dict[str, list[int]] = {}
        self._arrays: dict[str, I64] = {}

    def add(self, word: str, number: int) -> None:
        """Note that `number` holds a word."""
        self._lists.setdefault(word, []).append(number)

    def __contains__(self, word: str) -> bool:
        return word in self._lists

    def get(self, word: str) -> I64:
        """The numbers that hold a word, ascending."""
        held = self._arrays.get(word)
        numbers = self._lists.get(word, [])
        if held is None or len(held) != len(numbers):
            held = self._arrays[word] = np.array(numbers, np.int64)
        return held


class Names:
    """Names of entities as sets of stems; titles count little, function words nothing."""

    def __init__(self) -> None:
        self.stems: list[tuple[str, ...]] = []
        self.postings = Postings()
        self._weight: list[float] = []

    def add(self, name: str) -> None:
        """One more name; its number is how many there were before."""
        stems = tuple(dict.fromkeys(stem(word) for word in words(name) if word not in _EMPTY))
        for word in stems:
            self.postings.add(word, len(self.stems))
        self.stems.append(stems)
        self._weight.append(sum(weight(word) for word in stems) or 1.0)

    def covered(self, asked: Mapping[str, float]) -> F32:
        """[N] the share of each name that the asked stems cover, each with its own strength of 0 to 1."""
        found = np.zeros(len(self.stems), np.float32)
        for word, strength in asked.items():
            found[self.postings.get(word)] += strength * weight(word)
        np.divide(found, np.asarray(self._weight, np.float32), out=found)
        return found


def weight(word: str) -> float:
    """How much of a name a stem is."""
    return _TITLE_WEIGHT if word in _TITLES else 1.0


class FactTable:
    """The facts of one space.

    Attributes:
        entities: record id of an entity -> its position.
        shown: [E] its name as written.
        names: [E] the same as stems.
        said: [R] the units of each relation's name.
        senses, keys: which relations have a sense or a unit.
    """

    def __init__(self) -> None:
        self._reset(None)

    def _reset(self, generation: str | None) -> None:
        self._generation = generation
        self._last = 0
        self._rows: list[tuple[int, int, int, int]] = []
        self._array: I64 | None = None
        self._subjects: set[int] = set()
        self._codes: dict[str, int] = {}
        self.entities: dict[int, int] = {}
        self.shown: list[str] = []
        self.names = Names()
        self.said: list[tuple[Unit, ...]] = []
        self.senses = Postings()
        self.keys = Postings()

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self, tx: Transaction) -> None:
        """Read the facts that were committed since the last call."""
        generation = tx.meta("generation") or ""
        if generation != self._generation:
            self._reset(generation)
        newest = tx.execute("SELECT coalesce(max(record), 0) FROM fact").fetchone()[0]
        if newest <= self._last:
            return
        rows = tx.execute(
            "SELECT f.record, f.subject, f.relation, f.object FROM fact f CROSS JOIN record r ON r.id = f.record"
            " WHERE f.record > ? AND r.space = ? ORDER BY f.record",
            (self._last, tx.space_id),
        ).fetchall()
        self._last = newest
        unknown = dict.fromkeys(end for row in rows for end in (row[1], row[3]) if end not in self.entities)
        for record, name in tx.select(
            "SELECT id, coalesce(json_extract(data, '$.name'), uid) FROM record WHERE id IN ({ids})", unknown
        ):
            self.entities[record] = len(self.shown)
            self.shown.append(name)
            self.names.add(name)
        for record, subject, relation, target in rows:
            code = self._codes.get(relation)
            if code is None:
                code = self._new_relation(relation)
            self._rows.append((record, self.entities[subject], code, self.entities[target]))
            self._subjects.add(self.entities[subject])
        self._array = None

    def _new_relation(self, relation: str) -> int:
        code = self._codes[relation] = len(self.said)
        said = tuple(units(words(relation)))
        self.said.append(said)
        for key in {unit.key for unit in said}:
            self.keys.add(key, code)
        for sense in {sense for unit in said for sense in unit.senses}:
            self.senses.add(sense, code)
        return code

    @property
    def array(self) -> I64:
        """[F, 4] record id, subject, relation and object of every fact, by record id."""
        if self._array is None:
            self._array = np.array(self._rows, np.int64).reshape(len(self._rows), 4)
        return self._array

    def distances(self, origins: Sequence[int], steps: int) -> F32:
        """[E] how many facts lie between each entity and the nearest of these entities (record ids), else infinity."""
        distance = np.full(len(self.shown), np.inf, np.float32)
        distance[[self.entities[record] for record in origins if record in self.entities]] = 0
        subjects, objects = self.array[:, 1], self.array[:, 3]
        for step in range(1, steps + 1):
            last = distance == step - 1
            reached = np.zeros(len(distance), bool)
            reached[objects[last[subjects]]] = True
            reached[subjects[last[objects]]] = True
            reached &= np.isinf(distance)
            if not reached.any():
                break
            distance[reached] = step
        return distance

    def is_subject(self, entity: int) -> bool:
        """Whether any fact is about the entity at a position."""
        return entity in self._subjects

    def rows_of(self, records: I64) -> I64:
        """Rows of `array` that hold these records; records that are no facts are left out."""
        if not len(self):
            return np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self.array[:, 0], records), len(self) - 1)
        rows: I64 = at[self.array[at, 0] == records]
        return rows
