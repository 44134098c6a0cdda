"""What a space's episodes have been through: when they were made, how often they were used, which are pinned.

Episodes are immutable, so what is read of them is kept per process and only the new ones are read again. Strengths and
uses change, but only of the episodes that were ever used, for which the store has an index.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.memorybank.config import MemoryBankConfig
from memspan.longterm.retention import F64, Retention, burden, draws, elapsed_days
from memspan.longterm.store import Transaction

Mask = NDArray[np.bool_]


class Strengths:
    """The episodes of one space.

    Attributes:
        ids: [R] record ids, ascending.
        created: [R] microseconds: when it was said, or when it was stored where that is not known.
        pinned: [R] whether its metadata says `"pin": true`.
        strength: [R] 1 until it is used.
        used: [R] microseconds of the last use; `created` where there was none.
    """

    def __init__(self, config: MemoryBankConfig) -> None:
        self._config = config
        self._retention = Retention(config.retention, config.days)
        self._forget("")

    def _forget(self, generation: str) -> None:
        self._generation = generation
        self.ids = np.zeros(0, np.int64)
        self.created = np.zeros(0, np.int64)
        self.pinned = np.zeros(0, np.bool_)
        self._luck = np.zeros(0, np.float64)
        self.strength = np.zeros(0, np.float64)
        self.used = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def refresh(self, tx: Transaction) -> None:
        """Read the episodes that are new, and every use."""
        generation = tx.meta("generation") or ""
        if generation != self._generation:
            self._forget(generation)
        # Without hints SQLite walks all episodes of the space to find that none is new, or used.
        rows = tx.execute(
            "SELECT id, coalesce(at, recorded_at), coalesce(json_extract(data, '$.pin'), 0) = 1, uid"
            " FROM record NOT INDEXED WHERE id > ? AND space = ? AND kind = 'episode' ORDER BY id",
            (int(self.ids[-1]) if len(self) else 0, tx.space_id),
        ).fetchall()
        if rows:
            ids, created, pinned, uids = zip(*rows, strict=True)
            self.ids = np.r_[self.ids, np.array(ids, np.int64)]
            self.created = np.r_[self.created, np.array(created, np.int64)]
            self.pinned = np.r_[self.pinned, np.array(pinned, np.bool_)]
            if self._config.forgetting == "chance":
                self._luck = np.r_[self._luck, draws(uids, self._config.seed)]
        self.strength = np.ones(len(self), np.float64)
        self.used = self.created.copy()
        uses = tx.execute(
            "SELECT id, strength, used_at FROM record INDEXED BY record_used"
            " WHERE space = ? AND used_at IS NOT NULL AND kind = 'episode'",
            (tx.space_id,),
        ).fetchall()
        if uses:
            places = np.searchsorted(self.ids, [row[0] for row in uses])
            self.strength[places] = [row[1] for row in uses]
            self.used[places] = [row[2] for row in uses]

    def retention(self, now: int) -> F64:
        """[R] what is left of each, 1 where it is pinned."""
        left = self._retention(elapsed_days(now, self.created, self.used), self.strength)
        return np.where(self.pinned, 1.0, left)

    def faded(self, now: int) -> Mask:
        """[R] which would be forgotten if there were no room."""
        left = self.retention(now)
        if self._config.forgetting == "chance":
            return (self._luck >= left) & ~self.pinned
        return left < self._config.threshold

    def dormant(self, now: int) -> Mask:
        """[R] which are forgotten: they have faded, and `awake` others are stronger or fresher."""
        faded = self.faded(now)
        room = self._config.awake - int(np.count_nonzero(~faded))
        if room > 0 and faded.any():
            places = np.flatnonzero(faded)
            load = burden(elapsed_days(now, self.created[places], self.used[places]), self.strength[places])
            faded[places[_least(load, room)]] = False
        return faded

    def days_left(self, now: int) -> F64:
        """[R] days until each has faded if it is not used again; 0 where it has, infinite where it never will."""
        lasts = self._retention.lasts(self._config.threshold, self.strength)
        left = np.maximum(lasts - elapsed_days(now, self.created, self.used), 0)
        return np.where(self.pinned, np.inf, left)


def _least(load: F64, count: int) -> NDArray[np.intp]:
    """Positions of the `count` smallest loads; of equal ones the last, which are the newest."""
    if count >= len(load):
        return np.arange(len(load))
    bound = np.partition(load, count - 1)[count - 1]
    below, level = np.flatnonzero(load < bound), np.flatnonzero(load == bound)
    return np.concatenate((below, level[len(below) - count :]))
