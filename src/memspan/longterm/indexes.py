"""The indexes that a process holds, inside its budget: spilled level by level where they do not fit in RAM."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from memspan.core.errors import BudgetError, StoreError
from memspan.core.footprint import Footprint
from memspan.longterm.index import PassageIndex
from memspan.longterm.indexed import COLUMNS, IN_RAM
from memspan.longterm.limits import expected_bytes, read_limits
from memspan.longterm.mapped import MappedVectors
from memspan.longterm.nearest import IndexChoice
from memspan.longterm.parts import PASSAGES, Parts
from memspan.longterm.spill import Spill
from memspan.longterm.store import Store, Transaction
from memspan.longterm.vector_index import VectorIndexes

if TYPE_CHECKING:
    from memspan.core.budget import Budget


class Indexes:
    """Loads indexes when they are asked for.

    Args:
        store: the store.
        budget: bytes of RAM for the store, the embedder and all indexes; None is no limit.
        beside: what is held beside the indexes and the store.
        choice: what finds the nearest vectors.

    Indexes of other spaces are dropped before anything is spilled; they are read again when their space is asked.
    """

    def __init__(
        self, store: Store, budget: Budget | None, beside: Callable[[], Footprint], choice: IndexChoice
    ) -> None:
        self._store = store
        self.budget = budget
        self._besides = beside
        self._held: dict[tuple[int, bool], PassageIndex] = {}
        self._levels: dict[int, int] = {}
        self._spill = None if store.path == ":memory:" else Spill(Path(store.path).resolve().parent)
        self._parts = None if store.path == ":memory:" else Parts(store)
        self.vectors = None if store.path == ":memory:" else VectorIndexes(store, choice, self._room)

    def get(self, tx: Transaction, *, episodes: bool) -> PassageIndex:
        """The index of the transaction's space, up to date.

        Raises:
            BudgetError: it does not fit, even with all that can be on disk there.
        """
        level = self._level(tx)
        key = (tx.space_id, episodes)
        mapped = episodes and self._is_mapped(tx)
        index = self._held.pop(key, None)
        if index is None or index.level < level or index.mapped != mapped or self._outgrown(tx, index):
            load = self._parts.load if self._parts is not None and episodes else None
            index = PassageIndex(
                tx.space_id, episodes=episodes, spill=self._spill, level=level, load=load, mapped=mapped
            )
        self._held[key] = index  # last, so that the first is the one that was longest not asked
        index.refresh(tx)
        index.near = self.vectors.held(tx) if mapped and self.vectors is not None else None
        return index

    def _is_mapped(self, tx: Transaction) -> bool:
        return self.vectors is not None and self.vectors.row(tx) is not None

    @staticmethod
    def _outgrown(tx: Transaction, index: PassageIndex) -> bool:
        """Whether an index holds vectors in RAM that are in parts by now."""
        if not isinstance(index.vectors, MappedVectors) or index.vectors.in_ram <= 2 * PASSAGES:
            return False
        kept = tx.execute("SELECT coalesce(sum(passages), 0) FROM part WHERE space = ?", (tx.space_id,)).fetchone()[0]
        return index.vectors.in_ram > len(index.owner) - int(kept) + 2 * PASSAGES

    # --- the parts beside the store ---

    def prepare(self, now: int, space: str) -> None:
        """Write the parts that are wanting before a space's index is loaded; left when another process is writing."""
        if self._parts is None:
            return
        with self._store.read(now, space) as tx:
            if (tx.space_id, True) in self._held or not (self._parts.due(tx) or self._parts.unusable(tx)):
                return
        run = self._store.connection.execute
        with self._store.lock:
            run("PRAGMA busy_timeout = 0")  # another process that writes must not keep this one from reading
            try:
                self._write_parts(now, space)
            finally:
                run(f"PRAGMA busy_timeout = {int(self._store.timeout * 1000)}")

    def added(self, now: int, space: str, episodes: int) -> None:
        """Write parts when so many episodes more make it due."""
        if self._parts is None:
            return
        with self._store.read(now, space) as tx:
            due = self._parts.due(tx, episodes)
        if due:
            self._write_parts(now, space)
        self.keep_up(now, space)

    def keep_up(self, now: int, space: str, *, progress: bool = False, all_of_it: bool = False) -> bool:
        """Make or extend the space's vector index where that is due; see `VectorIndexes.keep_up`."""
        if self.vectors is None:
            return False
        self.vectors.sweep()
        with contextlib.suppress(StoreError):  # the store is busy: the rows can do without
            return self.vectors.keep_up(now, space, progress=progress, all_of_it=all_of_it)
        return False

    def _write_parts(self, now: int, space: str) -> None:
        assert self._parts is not None
        with contextlib.suppress(StoreError):  # the store is busy, or there is no room: the rows can do without
            while True:
                with self._store.write(now, space) as tx:
                    if not self._parts.extend(tx):
                        break
            self._parts.sweep(now, space)

    def erased(self, tx: Transaction) -> None:
        """Let no part of the transaction's space hold anything of what was erased."""
        if self._parts is not None:
            self._parts.clean(tx, every=True)

    def sweep(self, now: int, space: str, *, every: bool = False) -> bool:
        """Delete the files of parts that were replaced, and take what is no more off the vector index's.

        Args:
            now: the time.
            space: the space.
            every: also what is long gone.

        Returns:
            False when another process kept it from that.
        """
        if self._parts is None or self.vectors is None:
            return True
        self._parts.sweep(now, space)
        return self.vectors.erase(now, space, every=every)

    def check(self, tx: Transaction) -> list[str]:
        """Problems found in the parts and the vector index of the transaction's space."""
        if self._parts is None or self.vectors is None:
            return []
        return self._parts.check(tx) + self.vectors.check(tx)

    def repair(self, now: int, space: str, *, progress: bool = False) -> list[str]:
        """Make anew from the rows what `check` finds fault with, and give back what that was."""
        if self._parts is None or self.vectors is None:
            return []
        with self._store.read(now, space) as tx:
            of_parts, of_vectors = self._parts.check(tx), self.vectors.check(tx)
        if of_parts:
            with self._store.write(now, space) as tx:
                tx.execute("DELETE FROM part WHERE space = ?", (tx.space_id,))
            self.clear()
            self._write_parts(now, space)
        if of_vectors:
            self.vectors.repair(now, space, progress=progress)
        return of_parts + of_vectors

    # --- the budget ---

    def _room(self) -> float:
        """Bytes of RAM that may still be taken."""
        return math.inf if self.budget is None else self.budget.remaining(self._beside() + self.footprint())

    def expected(self, tx: Transaction, dim: int, level: int) -> int:
        """RAM that the indexes of a space will take, with vectors of length `dim` for what has none yet."""
        return expected_bytes(tx, dim, level, mapped=self._is_mapped(tx))

    def _beside(self) -> Footprint:
        return self._store.footprint() + self._besides()

    def _level(self, tx: Transaction) -> int:
        """How much has to be spilled; never less than before."""
        limit = read_limits(tx).ram
        before = self._levels.get(tx.space_id, IN_RAM)
        if self.budget is None and limit is None:
            return before
        beside = self._beside()
        budget = math.inf if self.budget is None else self.budget.remaining(beside)
        levels = range(before, COLUMNS + 1 if self._spill is not None else before + 1)
        needs = {level: self.expected(tx, 0, level) for level in levels}
        while (others := self._others(tx.space_id)) and needs[before] > budget - sum(others.values()):
            for key in [key for key in self._held if key[0] == next(iter(others))]:
                del self._held[key]
        allowed = min(budget, math.inf if limit is None else limit)
        for level, need in needs.items():
            if need <= allowed:
                self._levels[tx.space_id] = level
                return level
        held = beside.total - beside.by_place.get("disk", 0)
        least = min(needs.values())
        over_budget = self.budget is not None and least > budget
        raise BudgetError(
            "the store with its index" + (", beside the embedder," if beside.by_tier.get("weights") else ""),
            needed=(held if over_budget else 0) + least,
            allowed=self.budget.total if over_budget and self.budget is not None else int(allowed),
            advice="raise the budget, open with embedder=None, or move tenants to stores of their own",
        )

    def _others(self, space: int) -> dict[int, int]:
        """RAM of other spaces' indexes, the one that was longest not asked first."""
        others: dict[int, int] = {}
        for (owner, _), index in self._held.items():
            if owner != space:
                others[owner] = others.get(owner, 0) + index.footprint().total
        return others

    def values(self) -> list[PassageIndex]:
        """The indexes that are held."""
        return list(self._held.values())

    def clear(self) -> None:
        """Let go of all; they are read again when they are asked for."""
        self._held.clear()

    def release(self) -> None:
        """Give back the RAM that spilled arrays took while they were searched."""
        if self._spill is not None:
            self._spill.release()

    def footprint(self) -> Footprint:
        """RAM of the indexes, and the disk that spilled arrays take."""
        total = Footprint()
        for index in self._held.values():
            total += index.footprint()
        if self._spill is not None and self._spill.nbytes:
            total += Footprint.of("store", "disk", self._spill.nbytes)
        if self._parts is not None and (nbytes := self._parts.nbytes):
            total += Footprint.of("store", "disk", nbytes)
        return total if self.vectors is None else total + self.vectors.footprint()

    def close(self) -> None:
        """Let go of all files."""
        if self.vectors is not None:
            self.vectors.close()
