"""Which combinations of savers are worth a look: there are more than anybody would wait for.

What a saver changed where it was looked at is carried over to combinations that were not, as ratios and as differences,
and the two are averaged: bytes that two savers both shrink go with the product, bytes that each takes a part of go with
the sum. That only decides which step is run next; every plan that is shown was run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from memspan.training.base import Saver
from memspan.training.estimate import STRETCHES, Estimate

Names = frozenset[str]
Figures = dict[tuple[str, ...], float]  # bytes by stretch, tier and place, and work


def combinations(savers: Sequence[Saver], *, adapters: bool) -> list[tuple[Saver, ...]]:
    """All sets of savers that can work together and have what they need, the small ones first.

    Args:
        savers: in the order in which they stand in a set.
        adapters: only those that bring adapters.
    """

    def grown(held: tuple[Saver, ...], rest: Sequence[Saver]) -> Iterator[tuple[Saver, ...]]:
        yield held
        for at, saver in enumerate(rest):
            if all(_together(saver, other) for other in held):
                yield from grown((*held, saver), rest[at + 1 :])

    found = []
    for together in grown((), savers):
        brought = {thing for saver in together for thing in saver.brings}
        if all(saver.needs <= brought for saver in together) and ("adapters" in brought or not adapters):
            found.append(together)
    return sorted(found, key=len)


def _together(one: Saver, other: Saver) -> bool:
    return not (one.touches & other.touches or one.slug in other.excludes or other.slug in one.excludes)


def names(savers: Sequence[Saver]) -> Names:
    """What tells sets of savers apart."""
    return frozenset(saver.name for saver in savers)


class Promises:
    """What combinations promise, from those that were looked at."""

    def __init__(self) -> None:
        self._seen: dict[Names, Figures] = {}

    def add(self, savers: Names, estimate: Estimate) -> None:
        """Take in what a combination was found to hold."""
        figures: Figures = {
            (stretch, *key): float(n)
            for stretch in STRETCHES
            if stretch in estimate.stretches
            for key, n in estimate.stretches[stretch].entries.items()
        }
        figures |= {("flops",): estimate.flops, ("traffic",): estimate.traffic, ("sent",): estimate.sent}
        self._seen[savers] = figures

    def of(self, savers: Names) -> Promise:
        """What a combination promises: the largest part of it that was seen, and what the others changed elsewhere."""
        known = max((seen for seen in self._seen if seen <= savers), key=lambda seen: (len(seen), sorted(seen)))
        base = self._seen[known]
        ratios, sums = dict(base), dict(base)
        for name in savers - known:
            before, after = self._effect(name)
            for key in {**base, **after}:
                old, new = before.get(key, 0.0), after.get(key, 0.0)
                sums[key] = sums.get(key, 0.0) + new - old
                ratios[key] = ratios.get(key, 0.0) * new / old if old else ratios.get(key, 0.0) + new
        return Promise({key: (ratios[key] + max(sums[key], 0.0)) / 2 for key in ratios})

    def _effect(self, name: str) -> tuple[Figures, Figures]:
        """The smallest step that was seen with and without a saver; no change where there is none."""
        pairs = [(seen - {name}, seen) for seen in self._seen if name in seen and seen - {name} in self._seen]
        if not pairs:
            return {}, {}
        before, after = min(pairs, key=lambda pair: (len(pair[1]), sorted(pair[1])))
        return self._seen[before], self._seen[after]


class Promise:
    """What a combination may turn out to hold and to do.

    Attributes:
        flops, traffic, sent: of a step, as `Estimate` has them.
    """

    def __init__(self, figures: Mapping[tuple[str, ...], float]) -> None:
        self._figures = figures
        self.flops, self.traffic, self.sent = (
            round(figures.get((name,), 0.0)) for name in ("flops", "traffic", "sent")
        )

    def held(self) -> dict[str, float]:
        """Bytes by place in the stretch with the most in memory."""
        by_stretch: dict[str, dict[str, float]] = {}
        for key, n in self._figures.items():
            if len(key) == 3 and key[2] != "disk":
                places = by_stretch.setdefault(key[0], {})
                places[key[2]] = places.get(key[2], 0.0) + n
        return max(by_stretch.values(), key=lambda places: sum(places.values()), default={})
