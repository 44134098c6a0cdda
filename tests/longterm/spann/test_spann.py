from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memspan.core.errors import InputError, StoreError
from memspan.longterm.spann import Effort, Hits, SpannConfig, VectorIndex, calibrate, index, native

from .rows import clustered, recall_of, true_distances

COUNT, DIM = 4000, 24
DRAWN = clustered(COUNT + 150, DIM)
ROWS, QUERIES = DRAWN[:COUNT], DRAWN[COUNT:]
IDS = np.random.default_rng(0).permutation(10 * COUNT)[:COUNT]
ROW_OF = np.full(10 * COUNT, -1)
ROW_OF[IDS] = np.arange(COUNT)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("search") / "x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "SAMPLE_NUMPY", 40)
        patch.setattr(calibrate, "LISTS", (1, 2, 4, 8, 16, 32, 64, 256, 1024))
        config = SpannConfig(cell=256, leaf=16)
        VectorIndex.build(ROWS, made, metric="l2", ids=IDS, config=config, progress=False).close()
    return made


@pytest.fixture
def opened(path: Path) -> Iterator[VectorIndex]:
    with VectorIndex.open(path) as one:
        yield one


@pytest.fixture
def either(kernels: str, path: Path) -> Iterator[VectorIndex]:
    with VectorIndex.open(path) as one:
        yield one


def found(ids: np.ndarray) -> np.ndarray:
    return np.where(ids >= 0, ROW_OF[ids], -1)


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
def test_recall_for_any_number_of_neighbours(k: int, either: VectorIndex):
    queries = QUERIES[:15]
    hits = either.search(queries, k, recall=0.95)
    assert hits.ids.shape == hits.distances.shape == (15, k) and hits.ids.min() >= 0
    assert (np.diff(hits.distances) >= 0).all()
    assert all(len(set(row)) == k for row in hits.ids.tolist())
    assert recall_of(found(hits.ids), true_distances(ROWS, queries, "l2"), k) >= 0.92


@pytest.mark.parametrize("k", [1, 10, 100])
def test_an_exact_search_is_exact(k: int, either: VectorIndex):
    hits = either.search(QUERIES[:20], k, recall=1)
    wanted = true_distances(ROWS, QUERIES[:20], "l2")
    assert recall_of(found(hits.ids), wanted, k) == 1 and hits.stats.recall is None
    assert np.allclose(hits.distances, np.sort(wanted, 1)[:, :k], rtol=1e-4, atol=1e-4)


def test_more_neighbours_than_rows_are_filled_up_with_none(either: VectorIndex):
    for recall in (0.9, 1.0):
        hits = either.search(QUERIES[:2], COUNT + 10, recall=recall)
        assert np.array_equal(np.sort(hits.ids[:, :COUNT], 1), np.sort(np.stack([IDS, IDS]), 1))
        assert (hits.ids[:, COUNT:] == -1).all() and np.isinf(hits.distances[:, COUNT:]).all()


@pytest.mark.parametrize("recall", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_the_recall_asked_for_is_met_within_two_points_on_fresh_queries(recall: float, k: int, opened: VectorIndex):
    hits = opened.search(QUERIES, k, recall=recall)
    assert recall_of(found(hits.ids), true_distances(ROWS, QUERIES, "l2"), k) >= recall - 0.02
    assert hits.stats.recall is not None and hits.stats.recall >= recall - 0.001


def test_more_recall_reads_more_lists(opened: VectorIndex):
    lists = [opened.search(QUERIES, 10, recall=r).stats.lists for r in (0.5, 0.9, 0.99)]
    assert lists[0] < lists[1] < lists[2]


EFFORTS = [
    Effort(cells=4, lists=3, rerank=30),
    Effort(cells=100, lists=40, rerank=100, stop=1.3),
    Effort(cells=100, lists=40, rerank=100, patience=1.2),
    Effort(cells=100, lists=80, rerank=100, patience=2.0, stop=2.5),
    Effort(cells=100, lists=1000, rerank=5),
    Effort(cells=1, lists=1, rerank=1),
]


def answers_of_all_efforts(path: Path) -> list[Hits]:
    with pytest.MonkeyPatch.context() as patch, VectorIndex.open(path) as one:
        patch.setattr(index, "FEW", 0)
        return [one.search(QUERIES[:12], 10, effort=e, filter=f) for e in EFFORTS for f in (None, IDS[::2])]


@pytest.fixture(scope="module")
def in_numpy(path: Path) -> list[Hits]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMSPAN_NATIVE", "0")
        native.library.cache_clear()
        answers = answers_of_all_efforts(path)
    native.library.cache_clear()
    return answers


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("level", range(4))
def test_native_search_is_the_search_in_numpy(
    level: int, path: Path, in_numpy: list[Hits], monkeypatch: pytest.MonkeyPatch
):
    best = native.level
    monkeypatch.setattr(native, "level", lambda: best(level))
    same = total = 0
    for a, b in zip(answers_of_all_efforts(path), in_numpy, strict=True):
        assert a.stats.lists == b.stats.lists
        for i in range(12):
            both = {x: d for x, d in zip(b.ids[i].tolist(), b.distances[i].tolist(), strict=True) if x >= 0}
            for x, d in zip(a.ids[i].tolist(), a.distances[i].tolist(), strict=True):
                total += x >= 0
                same += x in both
                assert x not in both or d == pytest.approx(both[x], rel=1e-5, abs=1e-5)
    assert same >= 0.99 * total


@pytest.mark.usefixtures("compiled")
def test_every_level_of_the_machine_gives_the_same_rows(path: Path):
    answers = []
    for level in range(native.level() + 1):
        with VectorIndex.open(path) as one:
            one._engine.level = level
            answers.append(one.search(QUERIES, 10, effort=Effort(cells=20, lists=12, rerank=40)))
    for other in answers[1:]:
        assert (other.ids == answers[0].ids).all() and other.stats == answers[0].stats
        assert np.allclose(other.distances, answers[0].distances, rtol=1e-5)


@pytest.mark.parametrize("direct", [False, True])
def test_threads_give_the_same_answers(direct: bool, path: Path):
    with VectorIndex.open(path, direct=direct) as one:
        answers = [one.search(QUERIES, 10, threads=threads) for threads in (1, 2, 7, 1000)]
    for other in answers[1:]:
        assert (other.ids == answers[0].ids).all() and (other.distances == answers[0].distances).all()
        assert other.stats.lists == answers[0].stats.lists


@pytest.mark.usefixtures("compiled")
def test_reads_past_the_page_cache_give_the_same_answers(path: Path):
    with VectorIndex.open(path) as mapped, VectorIndex.open(path, direct=True) as direct:
        pool = VectorIndex.open(path)
        pool._engine.read_directly(threads=True)
        for k, recall in ((10, 0.9), (100, 0.99)):
            a, b, c = (one.search(QUERIES[:40], k, recall=recall) for one in (mapped, direct, pool))
            assert (a.ids == b.ids).all() and (a.ids == c.ids).all() and (a.distances == b.distances).all()
        pool.close()


@pytest.mark.parametrize("share", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("by", ["chance", "place"])
def test_a_filter_lets_only_its_ids_through(share: float, by: str, either: VectorIndex, monkeypatch: Any):
    monkeypatch.setattr(index, "FEW", 0)  # no exact scan for few ids, but where there are under 4 k
    count = int(share * COUNT)
    chosen = np.random.default_rng(1).permutation(COUNT)[:count] if by == "chance" else ROWS[:, 0].argsort()[:count]
    k = min(10, count // 5)
    queries = QUERIES[:30]
    hits = either.search(queries, k, recall=0.95, filter=IDS[chosen])
    assert np.isin(hits.ids[hits.ids >= 0], IDS[chosen]).all()
    wanted = np.full((30, COUNT), np.inf)
    wanted[:, chosen] = true_distances(ROWS[chosen], queries, "l2")
    assert recall_of(found(hits.ids), wanted, k) >= 0.9


def test_few_ids_are_scanned(opened: VectorIndex):
    hits = opened.search(QUERIES[:10], 10, filter=IDS[:500])
    wanted = np.full((10, COUNT), np.inf)
    wanted[:, :500] = true_distances(ROWS[:500], QUERIES[:10], "l2")
    assert recall_of(found(hits.ids), wanted, 10) == 1 and hits.stats.lists == 0


def test_what_a_filter_may_be(opened: VectorIndex):
    few = IDS[:3].tolist()
    for allowed in (few, tuple(few), set(few), np.array(few, np.uint16 if max(few) < 65536 else np.uint32), few * 2):
        assert set(opened.search(QUERIES[0], 5, filter=allowed).ids[0].tolist()) == {*few, -1}
    unknown = np.setdiff1d(np.arange(100), IDS)[:2]
    for nothing in ([], unknown, [2**63 - 1], np.array([2**64 - 1], np.uint64), [-5]):
        assert (opened.search(QUERIES[0], 5, filter=nothing).ids == -1).all()
    for bad in ([0.5], np.ones(COUNT, bool), ["a"], [2**70], 3.0):
        with pytest.raises(InputError, match="filter"):
            opened.search(QUERIES[0], 5, filter=bad)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (QUERIES[:, :5], {}, r"takes \[n, 24\]"),
    (QUERIES[None], {}, "shape"),
    (3.0, {}, "shape"),
    (None, {}, "shape|numbers"),
    ("word", {}, "numbers"),
    ([[1.0], [1.0, 2.0]], {}, "numbers"),
    (np.full(DIM, np.nan), {}, "NaN"),
    (np.full(DIM, 1e300), {}, "infinite"),
    (np.full(DIM, 1e30), {}, "overflow"),
    (QUERIES, {"k": 0}, "k is 0"),
    (QUERIES, {"k": 2.5}, "k is 2.5"),
    (QUERIES, {"k": "ten"}, "k is 'ten'"),
    (QUERIES, {"recall": 0}, "recall is 0"),
    (QUERIES, {"recall": 1.01}, "recall is 1.01"),
    (QUERIES, {"recall": float("nan")}, "recall is nan"),
    (QUERIES, {"recall": "high"}, "recall is 'high'"),
]


@pytest.mark.parametrize(("queries", "options", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_queries_are_named(queries: Any, options: dict[str, Any], message: str, opened: VectorIndex):
    with pytest.raises(InputError, match=message):
        opened.search(queries, **options)


@pytest.mark.parametrize(
    "field", [{"cells": 0}, {"lists": 0}, {"rerank": 0}, {"stop": 0.0}, {"stop": float("nan")}, {"patience": 0.0}]
)
def test_an_effort_out_of_range_is_named(field: dict[str, Any]):
    with pytest.raises(InputError, match=f"Effort.{next(iter(field))}"):
        replace(Effort(cells=1, lists=1, rerank=1), **field)


def test_shapes_of_queries(either: VectorIndex):
    one = either.search(QUERIES[3], 4)
    assert one.ids.shape == (1, 4) and one.ids.dtype == np.int64 and one.distances.dtype == np.float32
    assert (either.search(QUERIES[3].tolist(), 4).ids == one.ids).all()
    assert (either.search(QUERIES[3:4].astype(np.float64), 4).ids == one.ids).all()
    for recall in (0.9, 1):
        assert either.search(QUERIES[:0], 4, recall=recall).ids.shape == (0, 4)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-30, 1e15])
def test_queries_of_any_size_are_answered(size: float, either: VectorIndex):
    hits = either.search(np.full(DIM, size, np.float32), 5)
    assert (hits.ids >= 0).all() and np.isfinite(hits.distances).all()


def test_a_closed_index_says_so(path: Path):
    one = VectorIndex.open(path)
    one.close()
    with pytest.raises(StoreError, match="open it again"):
        one.search(QUERIES[0])
    one.close()


def test_patience_saves_lists_of_easy_queries(path: Path, kernels: str):
    with VectorIndex.open(path) as one:
        whole = one.search(QUERIES, 10, effort=Effort(cells=100, lists=40, rerank=100))
        few = one.search(QUERIES, 10, effort=Effort(cells=100, lists=40, rerank=100, patience=2.0))
        none = one.search(QUERIES, 10, effort=Effort(cells=100, lists=40, rerank=100, patience=1e9))
        direct = VectorIndex.open(path, direct=True)
        again = direct.search(QUERIES, 10, effort=Effort(cells=100, lists=40, rerank=100, patience=2.0))
        direct.close()
    assert few.stats.lists < 0.9 * whole.stats.lists == 0.9 * none.stats.lists
    assert (few.ids[:, :, None] == whole.ids[:, None, :]).any(1).mean() > 0.95
    assert again.stats.lists == few.stats.lists and (again.ids == few.ids).all()
