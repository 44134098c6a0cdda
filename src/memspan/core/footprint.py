"""`Footprint`: how many bytes something holds, by tier and by place.

A *tier* says what the bytes are for (weights, gradients, optimizer, activations, context, store); a *place* says where
they are (device, ram, disk). Every system answers `footprint()` with one of these, and the ledger adds them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TIERS = ("weights", "gradients", "optimizer", "activations", "context", "store")
PLACES = ("device", "ram", "disk")


@dataclass(frozen=True)
class Footprint:
    """Bytes by `(tier, place)`. Immutable; add two with `+`, take the larger of each entry with `maximum`."""

    entries: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, tier: str, place: str, nbytes: int) -> Footprint:
        """A footprint with a single entry."""
        return cls({(tier, place): int(nbytes)})

    @property
    def total(self) -> int:
        """All bytes, on every place."""
        return sum(self.entries.values())

    @property
    def by_tier(self) -> dict[str, int]:
        """Bytes per tier, over all places; tiers without bytes are left out."""
        return self._summed(0, TIERS)

    @property
    def by_place(self) -> dict[str, int]:
        """Bytes per place, over all tiers; places without bytes are left out."""
        return self._summed(1, PLACES)

    @property
    def in_memory(self) -> Footprint:
        """What of it is in memory: on devices and in RAM."""
        return Footprint({key: nbytes for key, nbytes in self.entries.items() if key[1] != "disk"})

    def _summed(self, axis: int, order: Iterable[str]) -> dict[str, int]:
        sums: dict[str, int] = {}
        for key, nbytes in self.entries.items():
            sums[key[axis]] = sums.get(key[axis], 0) + nbytes
        known = [name for name in order if name in sums]
        return {name: sums[name] for name in (*known, *sorted(set(sums) - set(known)))}

    def __add__(self, other: Footprint) -> Footprint:
        merged = dict(self.entries)
        for key, nbytes in other.entries.items():
            merged[key] = merged.get(key, 0) + nbytes
        return Footprint(merged)

    def maximum(self, other: Footprint) -> Footprint:
        """The entry-wise maximum: what had to be available for each tier if the two did not coincide."""
        keys = {**self.entries, **other.entries}
        return Footprint({k: max(self.entries.get(k, 0), other.entries.get(k, 0)) for k in keys})

    def to_json(self) -> dict[str, object]:
        """A plain dictionary: `total`, `by_tier`, `by_place`, `entries`, all in bytes."""
        return {
            "total": self.total,
            "by_tier": self.by_tier,
            "by_place": self.by_place,
            "entries": [
                {"tier": tier, "place": place, "bytes": nbytes} for (tier, place), nbytes in self.entries.items()
            ],
        }
