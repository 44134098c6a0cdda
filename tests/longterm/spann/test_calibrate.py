"""The recall that is measured is the recall that other rows get."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from memspan.longterm.spann import Effort, SpannConfig, VectorIndex
from memspan.longterm.spann.calibrate import CONFIDENCE, Point, are_heads, choose

from .rows import clustered


def point(recall: float, error: float, lists: int) -> Point:
    return Point(recall, error, Effort(cells=2 * lists, lists=lists, rerank=30))


def test_the_lower_bound_must_reach_what_is_asked_for() -> None:
    curve = [point(0.8, 0.01, 4), point(0.9, 0.01, 8), point(0.96, 0.005, 16), point(0.99, 0.001, 32)]
    assert choose(curve, 0.9).effort.lists > 8
    low, high = (p.recall - CONFIDENCE * p.error for p in curve[1:3])
    assert choose(curve, low).effort.lists == 8
    assert choose(curve, (low + high) / 2).effort.lists == 12
    assert choose(curve, 0.999).effort.lists == 32, "the best there is"
    assert choose(curve, 0.1).effort.lists == 4


def test_heads_are_known(tmp_path: Path) -> None:
    rows = clustered(1200, 24)
    with VectorIndex.build(rows, tmp_path, metric="l2", config=SpannConfig(cell=256), progress=False) as index:
        e = index._engine
        heads = are_heads(e, np.arange(1200))
        assert heads.sum() == len(e.tables.list_count)
        assert len(np.unique(e.primary_of(np.flatnonzero(heads)))) == heads.sum()


def test_rows_that_were_never_in_the_index_get_the_recall(tmp_path: Path, compiled: None) -> None:
    rows = clustered(9000, 48)
    rows, queries = rows[:8000], rows[8000:]
    with VectorIndex.build(rows, tmp_path, metric="l2", progress=False) as index:
        truth = index.search(queries, 10, recall=1).ids
        for asked in (0.8, 0.9, 0.95):
            found = index.search(queries, 10, recall=asked).ids
            shares = (found[:, :, None] == truth[:, None, :]).any(1).mean(1)
            assert shares.mean() + 2 * shares.std() / len(shares) ** 0.5 >= asked
