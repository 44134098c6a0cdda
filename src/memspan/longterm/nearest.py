"""Which index finds the nearest vectors of a large space, and searching one together with the rows that it lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memspan.core import catalog
from memspan.core.errors import InputError, StoreError
from memspan.longterm.base import VectorIndex
from memspan.longterm.vectors import F32, I64, SCAN_ALL

if TYPE_CHECKING:
    from memspan.longterm.index import PassageIndex

ABOVE = 50_000
"""Vectors of a space above which an index is made: see benchmarks/README.md."""
DEFAULT = "spann"
_MORE = 64  # rows asked for beyond those wanted: the index ranks by values that are rounded otherwise


@dataclass(frozen=True, kw_only=True)
class IndexChoice:
    """How the nearest vectors are found.

    Args:
        system: slug of a system with the interface "VectorIndex"; "auto" is the one that ships, where its compiled
            kernels are there; "exact" is none.
        above: vectors of a space above which it is used; below all are compared.
        recall: share of the nearest that it is to find; 1 compares all.

    Raises:
        InputError: a value that cannot be.
    """

    system: str = "auto"
    above: int = ABOVE
    recall: float = 0.98

    def __post_init__(self) -> None:
        if not isinstance(self.above, int) or self.above < 0:
            raise InputError(f"index_above is {self.above!r}; it must be a number of vectors, 0 or more")
        if not 0 < self.recall <= 1:
            raise InputError(f"the recall of the vector index is {self.recall!r}; it must be over 0 and at most 1")
        if self.system not in ("auto", "exact"):
            load_system(self.system)

    @classmethod
    def of(cls, index: str | IndexChoice, above: int | None = None) -> IndexChoice:
        """The choice that a caller names; an index that is named is used from the first vector on."""
        if isinstance(index, IndexChoice):
            return index if above is None else replace(index, above=above)
        if above is None:
            above = ABOVE if index in ("auto", "exact") else 0
        return cls(system=index, above=above)

    def usable(self) -> type[VectorIndex] | None:
        """The system; None for exact."""
        if self.system == "exact":
            return None
        if self.system != "auto":
            return load_system(self.system)
        system = load_system(DEFAULT)
        return system if system.compiled() else None


def load_system(name: str) -> type[VectorIndex]:
    """A vector index by its name in the catalogue.

    Raises:
        InputError: no vector index of this name works.
    """
    working = [s.slug for s in catalog.systems() if s.status == "working" and s.interface == "VectorIndex"]
    if name not in working:
        raise InputError(f"index {name!r} cannot be used; those that work: {', '.join(['auto', 'exact', *working])}")
    return catalog.load(name)


class HeldIndex:
    """An index that is open for searching.

    Args:
        index: the index.
        folder: its name.
        recall: share of the nearest that it is to find.

    Attributes:
        upto: passages up to this id are in it.
        size: how many rows it has.
    """

    def __init__(self, index: VectorIndex, folder: str, recall: float) -> None:
        self.index, self.folder, self.recall = index, folder, recall
        self.upto = self.size = 0

    def likely(
        self, rows: PassageIndex, vector: F32, count: int, among: NDArray[np.bool_] | None
    ) -> NDArray[np.intp] | None:
        """Places among which the `count` nearest passages are to be looked for; None where a scan does as well.

        Args:
            rows: the passages.
            vector: [D] unit vector.
            count: how many nearest passages are wanted.
            among: [P] passages that may be given back; None is all.
        """
        assert rows.vectors is not None
        mask = rows.has_vector if among is None else rows.has_vector & among
        first = int(np.searchsorted(rows.passage_ids, self.upto, "right"))
        allowed = int(np.count_nonzero(mask[:first]))
        if allowed <= SCAN_ALL:
            return None
        try:
            found = self._found(rows, vector, count, mask[:first], allowed / max(self.size, allowed))
        except (StoreError, OSError):
            return None  # damaged, or taken away meanwhile
        late = np.zeros(len(mask), np.bool_)
        late[first:] = mask[first:]
        after = np.flatnonzero(late)
        if len(after) > SCAN_ALL:
            after = rows.vectors.likely(vector, count, late)
        return np.union1d(found, after)

    def _found(
        self, rows: PassageIndex, vector: F32, count: int, mask: NDArray[np.bool_], share: float
    ) -> NDArray[np.intp]:
        """Places of the rows that the index finds where `mask` is true, which holds for this share of what it has."""
        if share > 0.5:
            places = self._places(rows, vector, int(1.1 * count / share) + _MORE)
            places = places[mask[places]]
            if len(places) >= count:
                return places
        return self._places(rows, vector, count + _MORE, rows.passage_ids[: len(mask)][mask])

    def _places(self, rows: PassageIndex, vector: F32, count: int, ids: I64 | None = None) -> NDArray[np.intp]:
        count = max(1, min(count, self.size))
        found = self.index.search(vector, count, recall=self.recall, filter=ids, threads=1).ids[0]
        known = rows.passage_ids[: int(np.searchsorted(rows.passage_ids, self.upto, "right"))]
        places = np.minimum(np.searchsorted(known, found), len(known) - 1)
        return np.sort(places[known[places] == found])
