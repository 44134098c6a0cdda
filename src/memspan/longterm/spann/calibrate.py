"""Which effort gives which recall: measured on rows of the index itself, each left out of its own answer.

Efforts are chosen with some of the rows and measured with others, lest the luck of the former be taken for recall; and
a search is given the effort of which the lower bound of a confidence interval reaches the recall that it asks for.
Heads are no good questions: a search finds their own lists too well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import native
from .effort import Effort, Slots
from .engine import Engine
from .heads import Lanes, places, vectors
from .space import Floats

Value = TypeVar("Value", bound=np.generic)
Ints = npt.NDArray[np.int64]
Steps = tuple[int, ...]

SAMPLE = 1500  # rows asked for, in native code
SAMPLE_NUMPY = 100
SAMPLE_AGAIN = 300  # where only the recall of known efforts is measured
CHOOSING = 300  # of the rows, those that efforts are chosen with, where there are five times as many
ANSWERS = 15_000  # neighbours looked for in all, at most: for many neighbours fewer rows are asked for
AT_ONCE = 300  # of the rows whose true neighbours are found by one scan, which bounds memory
LEAST = 300  # rows asked for all the same
CONFIDENCE = 1.64  # standard errors under the mean that a recall is with 95 % probability above
LISTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
TOLERANCE = 0.003  # recall given up for a cheaper effort at the same number of lists
ENOUGH = 0.998  # recall after which no more lists are tried
LITTLE = 0.02  # share of the lists that is not worth a patience
ROUNDING = 1e-6  # relative, of distances that are the same
PATIENCE = (16.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.3)
# How far the other parts of an effort are lowered: rows ranked exactly for each neighbour, cells for each list.
PARTS = ((8.0, 5.0, 3.0, 2.0), (2.0, 1.25, 0.8, 0.5, 0.3))
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

    @property
    def surely(self) -> float:
        """What recall is at least, with 95 % probability."""
        return self.recall - CONFIDENCE * self.error

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
    size = most if native.library() else SAMPLE_NUMPY
    picked = np.sort(rng.choice(live, min(size, len(live)), replace=False))
    heads = are_heads(engine, picked)
    picked = picked[~heads] if heads.mean() < 0.5 else picked
    size = len(picked)
    queries = engine.rows[picked].astype(np.float32)
    wanted = min(max(neighbours) + 1, len(live))
    parts = [engine.exact(queries[at : at + AT_ONCE], wanted) for at in range(0, max(size, 1), AT_ONCE)]
    found, distances = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    truth = _without(found, picked, found)
    farthest = _without(found, picked, distances)
    for k in neighbours:
        part = rng.choice(size, min(size, max(LEAST, ANSWERS // k)), replace=False)
        yield k, (queries[part], picked[part], truth[part, :k], farthest[part, :k][:, -1])


def _again(
    engine: Engine, queries: Floats, picked: Ints, truth: Slots, farthest: Floats, known: list[Point]
) -> list[Point]:
    """The recall that the efforts of a curve have now; nothing when it reaches less far than it did."""
    curve = [Point(*_recall(engine, queries, picked, truth, farthest, p.effort)[:2], p.effort) for p in known]
    best = max((p.recall for p in curve), default=0.0)
    return curve if curve and best >= min(ENOUGH, max(p.recall for p in known)) - TOLERANCE else []


def _recall(
    engine: Engine, queries: Floats, picked: Ints, truth: Slots, farthest: Floats, effort: Effort
) -> tuple[float, float, float]:
    """Mean share found, its standard error, and lists read for a query."""
    found, distances, work = engine.search(queries, truth.shape[1] + 1, effort, 1)
    # A row that is as near as the k-th is one of the k nearest: of many that are equal, any will do.
    bound = farthest + ROUNDING * (1 + np.abs(farthest))
    hit = (_without(found, picked, found)[:, :, None] == truth[:, None, :]).any(2)
    shares = (hit | (_without(found, picked, distances) <= bound[:, None])).mean(1)
    return float(shares.mean()), float(shares.std() / np.sqrt(len(shares))), work.lists / len(queries)


def _curve(engine: Engine, queries: Floats, picked: Ints, truth: Slots, farthest: Floats) -> list[Point]:
    k = truth.shape[1]
    cells, lists = len(engine.tables.cell_start) - 1, len(engine.tables.list_count)

    def recall(effort: Effort, rows: slice) -> tuple[float, float, float]:
        return _recall(engine, queries[rows], picked[rows], truth[rows], farthest[rows], effort)

    curve: list[Point] = []
    before: tuple[float, float] | None = None
    steps: Steps = (0,) * len(PARTS)
    choosing = min(CHOOSING, max(len(queries) // 5, min(len(queries), 100)))
    measuring = slice(choosing if choosing < len(queries) // 2 else 0, None)
    for count in (*[n for n in LISTS if n < lists], lists) if lists <= LISTS[-1] else LISTS:
        plain = _effort(count, (0,) * len(PARTS), math.inf, k, cells)
        now, _, read = recall(plain, slice(choosing))
        slope = max(0.0, now - before[0]) / math.log(read / before[1]) if before else math.inf
        before = now, read
        patience = _patience(plain, (now, read), slope, lambda effort: recall(effort, slice(choosing)))
        made = partial(_effort, count, patience=patience, k=k, cells=cells)
        steps = _cheapest(steps, made, lambda effort: recall(effort, slice(choosing))[0])
        effort = made(steps)
        curve.append(Point(*recall(effort, measuring)[:2], effort))
        flat = len(curve) > 1 and count >= 32 and curve[-1].recall - curve[-2].recall < GAIN
        if curve[-1].recall >= ENOUGH or flat:
            break
    return curve


def _patience(
    plain: Effort, start: tuple[float, float], slope: float, recall: Callable[[Effort], tuple[float, float, float]]
) -> float:
    """The least patience that gives up less recall for the lists that it saves than fewer lists for all would.

    Args:
        plain: the effort without.
        start: recall and lists read with it.
        slope: recall lost by reading fewer lists for every query, by the logarithm of their number.
        recall: recall, its error and lists read of an effort.
    """
    best = plain.patience
    now, read = start
    for patience in PATIENCE:
        lower, _, fewer = recall(replace(plain, patience=patience))
        if fewer > read * (1 - LITTLE):
            continue
        if now - lower > slope * math.log(read / fewer):
            break
        best, now, read = patience, lower, fewer
    return best


def _effort(count: int, steps: Steps, patience: float, k: int, cells: int) -> Effort:
    """The effort for a number of lists: `steps` says how far each part is lowered."""
    rerank, share = (part[step] for part, step in zip(PARTS, steps, strict=True))
    return Effort(
        cells=min(cells, max(32, 2 * count) if not steps[1] else max(4, round(share * count))),
        lists=count,
        rerank=max(8 * k, 64) if not steps[0] else round(rerank * k) + 1,
        patience=patience,
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


def are_heads(engine: Engine, slots: Ints) -> npt.NDArray[np.bool_]:
    """Which of the rows are heads, as coded, of the lists nearest to them."""
    x = engine.space.rows(engine.rows[slots])
    coded = Lanes.encode(x, slots).decoded()
    return np.asarray((coded == vectors(engine.tables, places(engine.tables), engine.primary_of(slots))).all(1))


def choose(curve: list[Point], recall: float) -> Point:
    """The effort for a recall: between two points of the curve lists and cells between theirs, beyond it the best."""
    after = next((i for i, p in enumerate(curve) if p.surely >= recall), None)
    if after is None:
        return max(curve, key=lambda p: p.recall)
    if after == 0:
        return curve[0]
    a, b = curve[after - 1], curve[after]
    share = (recall - a.surely) / (b.surely - a.surely)
    lists = math.ceil(a.effort.lists + share * (b.effort.lists - a.effort.lists))
    cells = math.ceil(a.effort.cells + share * (b.effort.cells - a.effort.cells))
    effort = Effort(
        cells=max(cells, a.effort.cells),
        lists=lists,
        rerank=max(a.effort.rerank, b.effort.rerank),
        stop=max(a.effort.stop, b.effort.stop),
        patience=max(a.effort.patience, b.effort.patience),
    )
    return Point(recall, max(a.error, b.error), effort)
