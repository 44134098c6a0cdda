"""Helpers of the claim of `spann`: the benchmark's vectors, builds of variants, lists at a recall, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from memspan.longterm.spann import Effort, SpannConfig, VectorIndex, build, reference

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from vector_data import Mixture, exact, made, made_queries, shifted

__all__ = ["Mixture", "exact", "made", "made_queries", "shifted"]

K = 10
WHOLE = 300  # rows ranked exactly, so that only the lists limit recall


def recall(found: Any, truth: Any) -> float:
    """Share of the true neighbours [q, k] found."""
    return float((found[:, :, None] == truth[:, None, :]).any(1).mean())


def make(rows: Any, folder: Path, **settings: Any) -> VectorIndex:
    """An index of the rows, by Euclidean distance."""
    return VectorIndex.build(rows, folder, metric="l2", config=SpannConfig(**settings), progress=False, overwrite=True)


@contextmanager
def nearest_only() -> Iterator[None]:
    """Builds assign rows to their nearest heads, whether these lie in different directions or not."""

    def nearest(distances: Any, heads: Any, nearest: int, copies: int, slack: float, own: Any) -> Any:
        order = np.argpartition(distances, copies - 1, axis=1)[:, :copies]
        ranked = np.argsort(np.take_along_axis(distances, order, 1), axis=1)
        return np.take_along_axis(order, ranked, 1).astype(np.int32)

    kept = build.reference.assign
    build.reference.assign = nearest
    try:
        yield
    finally:
        build.reference.assign = kept


def curve(index: VectorIndex, queries: Any, truth: Any, efforts: Sequence[Effort]) -> list[tuple[float, float]]:
    """(lists read for a query, recall) of each effort."""
    out = []
    for effort in efforts:
        hits = index.search(queries, K, effort=effort, threads=1)
        out.append((hits.stats.lists / len(queries), recall(hits.ids, truth)))
    return out


def fixed(index: VectorIndex, queries: Any, truth: Any, upto: float) -> list[tuple[float, float]]:
    """The curve of a fixed number of lists, until a recall is reached."""
    lists, cells = index.stats()["heads"], index.stats()["cells"]
    points: list[tuple[float, float]] = []
    count = 2.0
    while count < lists and (not points or points[-1][1] < upto):
        effort = Effort(cells=min(cells, max(32, int(count))), lists=int(count), rerank=WHOLE)
        points += curve(index, queries, truth, [effort])
        count *= 1.4
    return points


def lists_at(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """Lists read at a recall, between the two cheapest points around it."""
    best: list[tuple[float, float]] = []
    for lists, found in sorted(points):
        if not best or found > best[-1][1]:
            best.append((lists, found))
    after = next((i for i, (_, found) in enumerate(best) if found >= wanted), None)
    if after is None:
        return None
    if after == 0:
        return best[0][0]
    (a, low), (b, high) = best[after - 1], best[after]
    return a + (wanted - low) / (high - low) * (b - a)


def copies_by_heads(rows: Any, config: SpannConfig) -> tuple[float, float]:
    """Lists that hold a row, when heads are data points and when they are the means of the same leaves."""
    from memspan.longterm.spann.clustering import leaves
    from memspan.longterm.spann.space import Space

    space = Space.fit(rows, "l2", 0)
    x = space.rows(rows)
    parts = leaves(x, config.leaf, config.branching, 0)
    means = np.stack([x[p].mean(0) for p in parts])
    points = np.stack([x[p][((x[p] - x[p].mean(0)) ** 2).sum(1).argmin()] for p in parts])
    some = x[:2_000]
    own = np.full(len(some), -1, np.int32)
    found = []
    for heads in (points, means):
        d = (some**2).sum(1)[:, None] + (heads**2).sum(1) - 2 * some @ heads.T
        chosen = reference.assign(
            np.ascontiguousarray(d, np.float32), np.ascontiguousarray(heads), config.candidates, config.copies,
            config.closure**2, own,
        )  # fmt: skip
        found.append(float((chosen >= 0).sum(1).mean()))
    return found[0], found[1]


def plain_spread(rows: Any, count: int) -> float:
    """Standard deviation over mean of the sizes of `count` clusters of plain k-means."""
    from memspan.longterm.spann.clustering import nearest_centre

    random = np.random.default_rng(0)
    centres = rows[random.choice(len(rows), count, replace=False)].copy()
    for _ in range(8):
        labels = np.concatenate([nearest_centre(rows[at : at + 5_000], centres) for at in range(0, len(rows), 5_000)])
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, rows)
        sizes = np.bincount(labels, minlength=count)
        centres[sizes > 0] = sums[sizes > 0] / sizes[sizes > 0, None]
    return float(sizes.std() / sizes.mean())


_MEASURED = """
import json, sys, threading
import numpy as np
from memspan.longterm.spann import VectorIndex, native

def private():
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

task = json.loads(sys.argv[1])
rows = np.load(task["rows"], mmap_mode="r")
queries = np.load(task["queries"])
native.library()
base = private()
peak, done = [base], threading.Event()
def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], private())
watcher = threading.Thread(target=watch)
watcher.start()
if task["what"] == "build":
    VectorIndex.build(rows, task["folder"], metric="l2", progress=False, overwrite=True).close()
else:
    with VectorIndex.open(task["folder"], direct=task["direct"]) as index:
        for at in range(0, 10_000, 500):
            index.search(queries[at % len(queries):][:500], 10, recall=0.95, threads=1)
done.set()
watcher.join()
print(json.dumps({"growth": peak[0] - base}))
"""


def growth(what: str, rows: Path, queries: Path, folder: Path, direct: bool = True) -> int:
    """Most private bytes (RssAnon) that a fresh process takes on to "build", or to "serve" 10,000 queries."""
    task = {"what": what, "rows": str(rows), "queries": str(queries), "folder": str(folder), "direct": direct}
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, json.dumps(task)],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    return int(json.loads(done.stdout.strip().splitlines()[-1])["growth"])


def power_law(sizes: Sequence[int], values: Sequence[float]) -> Callable[[float], float]:
    """The straight line through the logarithms."""
    slope, shift = np.polyfit(np.log(sizes), np.log(values), 1)
    return lambda n: float(np.exp(shift + slope * np.log(n)))
