"""Which effort gives which recall: measured on rows of the index itself, each left out of its own answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import native
from .engine import Effort, Engine, Slots
from .space import Floats

Value = TypeVar("Value", bound=np.generic)
Ints = npt.NDArray[np.int64]
Steps = tuple[int, ...]

SAMPLE = 500  # rows asked for, in native code
SAMPLE_NUMPY = 100
SAMPLE_AGAIN = 200  # when only the recall of known efforts is measured
ANSWERS = 5000  # neighbours looked for in all, at most: for many neighbours fewer rows are asked for
LISTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
TOLERANCE = 0.003  # recall given up for a cheaper effort at the same number of lists
ENOUGH = 0.998  # recall after which no more lists are tried
ROUNDING = 1e-6  # relative, of distances that are the same
# How far each part of an effort is lowered: rows ranked exactly for each neighbour, cells for each list, `stop`.
PARTS = ((8.0, 5.0, 3.0, 2.0), (2.0, 1.25, 0.8, 0.5, 0.3), (math.inf, 1.7, 1.5, 1.35, 1.25))
GAIN = 0.0005  # recall gained by a step of lists, under which no more are tried


@dataclass(frozen=True)
class Point:
    """An effort and the recall measured with it.

    Attributes:
        recall: share of the k nearest found, mean over the sample.
        error: its standard error.
    """

    recall: float
    error: float
    effort: Effort

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"recall": self.recall, "error": self.error, **asdict(self.effort)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Point:
        """The point of `to_dict`."""
        effort = Effort(**{k: v for k, v in value.items() if k not in ("recall", "error")})
        return cls(value["recall"], value["error"], effort)


def calibrate(
    engine: Engine,
    neighbours: Sequence[int],
    seed: int,
    advance: Callable[[int], None],
    known: dict[int, list[Point]] | None = None,
) -> dict[int, list[Point]]:
    """The curves of recall for each number of neighbours, from few lists to many.

    Each point has the least effort that keeps the recall of its number of lists. `advance` is called once a curve.
    Where curves are `known`, only the recall of their efforts is measured, a tenth of the work, unless the best of them
    no longer reaches what it did.
    """
    if known and all(known.get(k) for k in neighbours):
        curves = {k: _again(engine, *asked, known[k]) for k, asked in _asked(engine, neighbours, seed, SAMPLE_AGAIN)}
        if all(curves.values()):
            advance(len(curves))
            return curves
    curves = {}
    for k, asked in _asked(engine, neighbours, seed, SAMPLE):
        curves[k] = _curve(engine, *asked)
        advance(1)
    return curves


def _asked(
    engine: Engine, neighbours: Sequence[int], seed: int, most: int
) -> Iterator[tuple[int, tuple[Floats, Ints, Slots, Floats]]]:
    """For each number of neighbours a sample of rows, their slots, neighbours and distances to the last of these."""
    live = engine.live()
    rng = np.random.default_rng([seed, len(live)])
    size = min(most if native.library() else SAMPLE_NUMPY, len(live))
    picked = np.sort(rng.choice(live, size, replace=False))
    queries = np.asarray(engine.rows[picked]).astype(np.float32)
    found, distances, _ = engine.exact(queries, min(max(neighbours) + 1, len(live)))
    truth = _without(found, picked, found)
    farthest = _without(found, picked, distances)
    for k in neighbours:
        part = rng.choice(size, min(size, max(100, ANSWERS // k)), replace=False)
        yield k, (queries[part], picked[part], truth[part, :k], farthest[part, :k][:, -1])


def _again(
    engine: Engine, queries: Floats, picked: Ints, truth: Slots, farthest: Floats, known: list[Point]
) -> list[Point]:
    """The recall that the efforts of a curve have now; nothing when it reaches less far than it did."""
    curve = [Point(*_recall(engine, queries, picked, truth, farthest, p.effort), p.effort) for p in known]
    best = max((p.recall for p in curve), default=0.0)
    return curve if curve and best >= min(ENOUGH, max(p.recall for p in known)) - TOLERANCE else []


def _recall(
    engine: Engine, queries: Floats, picked: Ints, truth: Slots, farthest: Floats, effort: Effort
) -> tuple[float, float]:
    found, distances, _ = engine.search(queries, truth.shape[1] + 1, effort, 1, None, None)
    # A row that is as near as the k-th is one of the k nearest: of many that are equal, any will do.
    bound = farthest + ROUNDING * (1 + np.abs(farthest))
    hit = (_without(found, picked, found)[:, :, None] == truth[:, None, :]).any(2)
    shares = (hit | (_without(found, picked, distances) <= bound[:, None])).mean(1)
    return float(shares.mean()), float(shares.std() / np.sqrt(len(shares)))


def _curve(engine: Engine, queries: Floats, picked: Ints, truth: Slots, farthest: Floats) -> list[Point]:
    k = truth.shape[1]
    cells, lists = len(engine.tables.cell_start) - 1, len(engine.tables.list_count)

    def recall(effort: Effort, rows: slice) -> tuple[float, float]:
        return _recall(engine, queries[rows], picked[rows], truth[rows], farthest[rows], effort)

    curve: list[Point] = []
    steps: Steps = (0,) * len(PARTS)
    half = slice(max(len(queries) // 2, min(len(queries), 100)))
    for count in (*[n for n in LISTS if n < lists], lists) if lists <= LISTS[-1] else LISTS:
        steps = _cheapest(steps, partial(_effort, count, k=k, cells=cells), lambda effort: recall(effort, half)[0])
        effort = _effort(count, steps, k, cells)
        curve.append(Point(*recall(effort, slice(None)), effort))
        flat = len(curve) > 1 and count >= 32 and curve[-1].recall - curve[-2].recall < GAIN
        if curve[-1].recall >= ENOUGH or flat:
            break
    return curve


def _effort(count: int, steps: Steps, k: int, cells: int) -> Effort:
    """The effort for a number of lists: `steps` says how far each part is lowered."""
    rerank, share, stop = (part[step] for part, step in zip(PARTS, steps, strict=True))
    return Effort(
        cells=min(cells, max(32, 2 * count) if not steps[1] else max(4, round(share * count))),
        lists=count,
        rerank=max(8 * k, 64) if not steps[0] else round(rerank * k) + 1,
        stop=stop,
    )


def _cheapest(start: Steps, effort: Callable[[Steps], Effort], recall: Callable[[Effort], float]) -> Steps:
    """The steps with every part lowered in turn, as long as recall stays near that of none lowered.

    `start`, those of the number of lists before, are gone on from where they keep it.
    """
    known: dict[Effort, float] = {}

    def measured(steps: Steps) -> float:
        at = effort(steps)
        if at not in known:
            known[at] = recall(at)
        return known[at]

    none = (0,) * len(PARTS)
    least = measured(none) - TOLERANCE
    steps = start if measured(start) >= least else none
    for part, values in enumerate(PARTS):
        while steps[part] + 1 < len(values):
            lower = (*steps[:part], steps[part] + 1, *steps[part + 1 :])
            if measured(lower) < least:
                break
            steps = lower
    return steps


def _without(found: Slots, own: Ints, values: npt.NDArray[Value]) -> npt.NDArray[Value]:
    """Values [n, k + 1] of the rows found, without that of the row that asked, [n, k]."""
    place = np.where((found == own[:, None]).any(1), (found == own[:, None]).argmax(1), found.shape[1] - 1)
    keep = np.arange(found.shape[1])[None, :] != place[:, None]
    return np.reshape(values[keep], (len(found), -1))


def choose(curve: list[Point], recall: float) -> Point:
    """The effort for a recall: between two points of the curve lists and cells between theirs, beyond it the best."""
    after = next((i for i, p in enumerate(curve) if p.recall >= recall), None)
    if after is None:
        return max(curve, key=lambda p: p.recall)
    if after == 0:
        return curve[0]
    a, b = curve[after - 1], curve[after]
    share = (recall - a.recall) / (b.recall - a.recall)
    lists = math.ceil(a.effort.lists + share * (b.effort.lists - a.effort.lists))
    cells = math.ceil(a.effort.cells + share * (b.effort.cells - a.effort.cells))
    effort = Effort(
        cells=max(cells, a.effort.cells),
        lists=lists,
        rerank=max(a.effort.rerank, b.effort.rerank),
        stop=max(a.effort.stop, b.effort.stop),
    )
    return Point(recall, max(a.error, b.error), effort)
