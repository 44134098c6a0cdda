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
from memspan.longterm.parts import Parts
from memspan.longterm.spill import Spill
from memspan.longterm.store import Store, Transaction

if TYPE_CHECKING:
    from memspan.core.budget import Budget


class Indexes:
    """Loads indexes when they are asked for.

    Args:
        store: the store.
        budget: bytes of RAM for the store, the embedder and all indexes; None is no limit.
        beside: what is held beside the indexes.

    Indexes of other spaces are dropped before anything is spilled; they are read again when their space is asked.
    """

    def __init__(self, store: Store, budget: Budget | None, beside: Callable[[], Footprint]) -> None:
        self._store = store
        self.budget = budget
        self._beside = beside
        self._held: dict[tuple[int, bool], PassageIndex] = {}
        self._levels: dict[int, int] = {}
        self._spill = None if store.path == ":memory:" else Spill(Path(store.path).resolve().parent)
        self._parts = None if store.path == ":memory:" else Parts(store)

    def get(self, tx: Transaction, *, episodes: bool) -> PassageIndex:
        """The index of the transaction's space, up to date.

        Raises:
            BudgetError: it does not fit, even with all that can be on disk there.
        """
        level = self._level(tx)
        key = (tx.space_id, episodes)
        index = self._held.pop(key, None)
        if index is None or index.level < level:
            load = self._parts.load if self._parts is not None and episodes else None
            index = PassageIndex(tx.space_id, episodes=episodes, spill=self._spill, level=level, load=load)
        self._held[key] = index  # last, so that the first is the one that was longest not asked
        index.refresh(tx)
        return index

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

    def sweep(self, now: int, space: str) -> None:
        """Delete the files of parts that were replaced."""
        if self._parts is not None:
            self._parts.sweep(now, space)

    def check(self, tx: Transaction) -> list[str]:
        """Problems found in the parts of the transaction's space."""
        return [] if self._parts is None else self._parts.check(tx)

    # --- the budget ---

    def _level(self, tx: Transaction) -> int:
        """How much has to be spilled; never less than before."""
        limit = read_limits(tx).ram
        before = self._levels.get(tx.space_id, IN_RAM)
        if self.budget is None and limit is None:
            return before
        beside = self._beside()
        budget = math.inf if self.budget is None else self.budget.remaining(beside)
        levels = range(before, COLUMNS + 1 if self._spill is not None else before + 1)
        needs = {level: expected_bytes(tx, level=level) for level in levels}
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
        return total
