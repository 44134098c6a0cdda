from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memspan.core.errors import BudgetError, InputError, StoreError
from memspan.longterm.spann import Effort, SpannConfig, VectorIndex, build, calibrate, native, reference, source
from memspan.longterm.spann.build import STAGES
from memspan.longterm.spann.clustering import balanced_kmeans, leaves

from . import builder
from .rows import clustered, recall_of, true_distances


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recall is measured on fewer rows: what it is measured to be is for other tests."""
    patch_calibration(monkeypatch)


def patch_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "SAMPLE", 200)
    monkeypatch.setattr(calibrate, "SAMPLE_NUMPY", 10)
    monkeypatch.setattr(calibrate, "LISTS", (2, 4, 8, 24, 64, 256, 1024))


def made(rows: Any, path: Path, **options: Any) -> VectorIndex:
    return VectorIndex.build(rows, path, progress=False, **options)


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())}


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("dim", [33, 128, 770])
def test_recall(metric: str, dtype: str, dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibrate, "SAMPLE_NUMPY", 60)
    if native.library() is None and (dim > 33 or dtype == "float16" or (dtype == "int8" and metric != "ip")):
        pytest.skip("in numpy a few of them are enough")
    drawn = clustered(1140 if dim > 500 or native.library() is None else 2040, dim, dtype)
    rows, queries = drawn[:-40], drawn[-40:].astype(np.float32)
    with made(rows, tmp_path / "x", metric=metric, config=SpannConfig(cell=512)) as index:
        assert len(index) == len(rows) and index.stats()["dtype"] == dtype
        hits = index.search(queries, 10, recall=0.97)
        wanted = true_distances(rows, queries, metric)
        assert recall_of(hits.ids, wanted, 10) >= 0.94
        assert (np.diff(hits.distances) >= 0).all()
        true = np.take_along_axis(wanted, hits.ids, 1)
        assert np.allclose(hits.distances, true, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())
        assert recall_of(index.search(queries, 10, recall=1).ids, wanted, 10) == 1


def test_recall_either_way(kernels: str, tmp_path: Path):
    rows, queries = np.split(clustered(1230, 33), [1100])
    with made(rows, tmp_path / "x", metric="l2", config=SpannConfig(cell=256)) as index:
        assert (index.stats()["kernels"] == "numpy") == (kernels == "numpy")
        assert index.stats()["heads"] > 20 and index.stats()["cells"] > 2
        found = index.search(queries, 10, effort=Effort(cells=5, lists=16, rerank=60)).ids
        assert recall_of(found, true_distances(rows, queries, "l2"), 10) >= 0.94


def test_an_iterator_makes_the_index_of_the_array(tmp_path: Path):
    rows, ids = clustered(1500, 33), np.arange(1500) * 7 + 2**40
    made(rows, tmp_path / "array", ids=ids).close()

    def chunks() -> Iterator[tuple[Any, Any]]:
        for at in (0, 1, 700):
            to = {0: 1, 1: 700, 700: 1500}[at]
            yield ids[at:to], rows[at:to]

    made(chunks(), tmp_path / "iterator").close()
    assert contents(tmp_path / "array") == contents(tmp_path / "iterator")


def test_the_same_rows_make_the_same_index_whatever_holds_them(tmp_path: Path):
    rows = clustered(1200, 33)
    made(rows, tmp_path / "a").close()
    np.save(tmp_path / "rows.npy", rows)
    for name, same in {
        "mapped": np.load(tmp_path / "rows.npy", mmap_mode="r"),
        "big-endian in columns": np.asfortranarray(rows.astype(">f4")),
        "lists of 64 bits": rows.tolist(),
    }.items():
        made(same, tmp_path / name).close()
        assert contents(tmp_path / name) == contents(tmp_path / "a"), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a build that nothing stopped."""
    path = tmp_path_factory.mktemp("whole") / "x"
    with pytest.MonkeyPatch.context() as patch:
        patch_calibration(patch)
        made(clustered(1100, 33), path, metric="l2", config=builder.config()).close()
    return path


@pytest.mark.parametrize("iterator", [False, True])
@pytest.mark.parametrize("after", [*STAGES, "calibrate", "input"])
def test_a_build_that_was_killed_is_gone_on_with(after: str, iterator: bool, whole: Path, tmp_path: Path):
    if after == "input" and not iterator:
        pytest.skip("an array is not written first")
    rows = clustered(1100, 33)
    done = subprocess.run(
        [sys.executable, "-m", builder.__name__, str(tmp_path / "x"), after, "iterator" if iterator else "array"],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="build"):
        VectorIndex.open(tmp_path / "x")
    options: dict[str, Any] = {"metric": "l2", "config": builder.config()}
    source = builder.chunks(rows) if iterator else rows
    made(source, tmp_path / "x", **options).close()
    first, second = contents(tmp_path / "x"), contents(whole)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    with VectorIndex.open(tmp_path / "x") as one, VectorIndex.open(whole) as other:
        assert (one.search(rows[:20]).ids == other.search(rows[:20]).ids).all()


def test_a_replacement_that_was_killed_can_be_begun_again(tmp_path: Path):
    made(clustered(1100, 8), tmp_path / "x").close()
    done = subprocess.run(
        [sys.executable, "-m", builder.__name__, str(tmp_path / "x"), "clear", "array"],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="no index"):
        VectorIndex.open(tmp_path / "x")
    assert len(made(clustered(1200, 9), tmp_path / "x")) == 1200


@pytest.mark.parametrize("iterator", [False, True])
def test_an_unfinished_build_is_not_mixed_with_other_rows(iterator: bool, tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", builder.__name__, str(tmp_path / "x"), "leaves", "iterator" if iterator else "array"],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    other = clustered(1100, 33, seed=1)
    before = contents(tmp_path / "x")

    def source() -> Any:
        return builder.chunks(other) if iterator else other

    options: dict[str, Any] = {"metric": "l2", "config": builder.config()}
    with pytest.raises(StoreError, match="unfinished build of other vectors"):
        made(source(), tmp_path / "x", **options)
    assert contents(tmp_path / "x") == before
    with made(source(), tmp_path / "x", overwrite=True, **options) as index:
        assert index.search(other[:20], 1).ids[:, 0].tolist() == list(range(20))


def nan_in_the_last(count: int) -> np.ndarray:
    rows = clustered(count, 8)
    rows[-1, 3] = np.nan
    return rows


def broken() -> Iterator[tuple[Any, Any]]:
    yield [0, 1], np.ones((2, 8), np.float32)
    raise RuntimeError("the source broke")


ROWS = clustered(5, 8)
BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "nan": (nan_in_the_last(5), {}, InputError, "vector 4 holds NaN"),
    "infinite": (ROWS.astype(np.float64) * 1e300, {}, InputError, "vector 0 holds NaN or infinite"),
    "huge": (ROWS * np.float32(1e20), {}, InputError, "overflow"),
    "one dimension": (ROWS[0], {}, InputError, "shape"),
    "three dimensions": (ROWS[None], {}, InputError, "shape"),
    "too narrow": (ROWS[:, :1], {}, InputError, "1 dimensions"),
    "too wide": (np.zeros((2, 4097), np.int8), {}, InputError, "4097 dimensions"),
    "text": (np.array([["a", "b"]]), {}, InputError, "an index keeps"),
    "complex": (ROWS.astype(complex), {}, InputError, "an index keeps"),
    "ragged": ([[1.0, 2.0], [1.0]], {}, InputError, "no array"),
    "number": (3, {}, InputError, "pass an array"),
    "none": (None, {}, InputError, "pass an array"),
    "few ids": (ROWS, {"ids": [1, 2]}, InputError, r"need \[5\]"),
    "same ids": (ROWS, {"ids": [1, 2, 3, 2, 4]}, InputError, "id 2 is given more than once"),
    "negative ids": (ROWS, {"ids": [1, 2, 3, -2, 4]}, InputError, "whole numbers"),
    "large ids": (ROWS, {"ids": np.arange(5, dtype=np.uint64) + np.uint64(2**63)}, InputError, "whole numbers"),
    "float ids": (ROWS, {"ids": np.arange(5.0)}, InputError, "whole numbers"),
    "metric": (ROWS, {"metric": "hamming"}, InputError, "choose one of"),
    "budget": (ROWS, {"ram_budget": "much"}, InputError, "bytes"),
    "iterator and ids": (iter([]), {"ids": [1]}, InputError, "leave ids out"),
    "empty iterator": (iter([]), {}, InputError, "no chunk"),
    "not pairs": (iter([ROWS]), {}, InputError, "pairs"),
    "two widths": (iter([([0], ROWS[:1]), ([1], ROWS[:1, :5])]), {}, InputError, "this index has 8"),
    "two types": (iter([([0], ROWS[:1]), ([1], ROWS[:1].astype(np.int8))]), {}, InputError, "use one type"),
    "same ids in chunks": (iter([([0], ROWS[:1]), ([0], ROWS[:1])]), {}, InputError, "more than once"),
    "nan in a chunk": (iter([([0], ROWS[:1]), ([1], nan_in_the_last(1))]), {}, InputError, "vector 1 holds"),
    "source breaks": (broken(), {}, RuntimeError, "broke"),
    "small budget": (clustered(2000, 8), {"ram_budget": 1000}, BudgetError, "give at least"),
}


@pytest.mark.parametrize("what", ["absent", "empty", "index"])
def test_bad_input_leaves_nothing_behind(what: str, tmp_path: Path):
    path = tmp_path / "x"
    if what == "empty":
        path.mkdir()
    elif what == "index":
        made(ROWS, path).close()
    before = contents(path) if path.exists() else None
    for name, (rows, options, error, message) in BAD.items():
        rows = {"source breaks": broken()}.get(name, rows)
        if hasattr(rows, "__next__") and name != "source breaks" and what != "absent":
            continue  # an iterator can be read once
        with pytest.raises(error, match=message):
            made(rows, path, overwrite=True, **options)
        assert (contents(path) if path.exists() else None) == before, name


@pytest.mark.parametrize(
    "field",
    [
        *({"leaf": 1}, {"leaf": 2.5}, {"closure": 0.5}, {"closure": float("nan")}, {"limit": 50}, {"cell": 1}),
        *({"seed": -1}, {"branching": 1}, {"copies": 0}, {"candidates": 0}, {"neighbours": 0}, {"exact_below": 0}),
    ],
)
def test_settings_out_of_range_are_named(field: dict[str, Any]):
    with pytest.raises(InputError, match=f"SpannConfig.{next(iter(field))}"):
        SpannConfig(**field)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="not empty"):
            made(ROWS, tmp_path, overwrite=overwrite)
    with pytest.raises(StoreError, match="is a file"):
        made(ROWS, tmp_path / "notes.txt")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_overwriting_replaces_the_index_and_spares_other_files(tmp_path: Path):
    made(clustered(1100, 8), tmp_path / "x").close()
    with pytest.raises(StoreError, match="holds an index already"):
        made(ROWS, tmp_path / "x")
    (tmp_path / "x" / "readme.txt").write_text("mine")
    with made(ROWS, tmp_path / "x", overwrite=True) as index:
        assert len(index) == 5 and index.search(ROWS[2], 1).ids.tolist() == [[2]]
    assert (tmp_path / "x" / "readme.txt").exists() and (tmp_path / "x" / "lists.bin").stat().st_size == 0


def test_an_index_can_be_built_again_from_its_own_rows(tmp_path: Path):
    rows = clustered(1100, 8)
    made(rows, tmp_path / "x", metric="l2").close()
    again = np.memmap(tmp_path / "x" / "rows.bin", np.float32, "r", shape=rows.shape)
    wanted = np.array(again[:10])
    with made(again, tmp_path / "x", metric="l2", overwrite=True) as index:
        assert index.search(wanted, 1).ids[:, 0].tolist() == list(range(10))


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 64, 65, 999])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_empty_and_tiny_indexes_are_exact(count: int, metric: str, tmp_path: Path):
    rows, queries = clustered(1000, 8)[:count], clustered(10, 8, seed=1)
    with made(rows, tmp_path / "x", metric=metric, ids=np.arange(count) + 100) as index:
        hits = index.search(queries, 5)
        assert len(index) == count and hits.stats.recall is None
        found = min(count, 5)
        assert (hits.ids[:, found:] == -1).all() and np.isinf(hits.distances[:, found:]).all()
        if count:
            wanted = true_distances(rows, queries, metric)
            assert recall_of(hits.ids[:, :found] - 100, wanted, found) == 1
        assert index.search(queries, 3, filter=[100, 100 + count]).ids[:, 1:].max() == -1


@pytest.mark.parametrize("count", [2, 3, 17, 40])
def test_indexes_of_few_rows_may_have_lists(count: int, kernels: str, tmp_path: Path):
    rows = clustered(40, 8)[:count]
    with made(rows, tmp_path / "x", config=SpannConfig(exact_below=2, leaf=4, limit=16, cell=64)) as index:
        assert index.stats()["heads"] >= 1
        assert index.search(rows, 1).ids[:, 0].tolist() == list(range(count))
        assert np.sort(index.search(rows[0], count + 3).ids[0])[3:].tolist() == list(range(count))


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_rows_that_are_all_equal_are_all_found_and_their_lists_are_even(metric: str, tmp_path: Path):
    rows = np.full((2000, 33), 0.1234567, np.float32)
    with made(rows, tmp_path / "x", metric=metric, config=SpannConfig(cell=512)) as index:
        stats = index.stats()["list_length"]
        assert stats["max"] <= 640 and stats["std"] <= 0.5 * stats["mean"]
        for k in (10, 300, 2000):
            hits = index.search(rows[0], k)
            assert len(set(hits.ids[0].tolist()) - {-1}) == k and np.ptp(hits.distances) < 1e-5


def test_copies_of_a_row_are_all_found(tmp_path: Path):
    rows = clustered(1500, 33)
    copies = np.random.default_rng(0).choice(1500, 150, replace=False)
    rows[copies] = rows[copies[0]]
    with made(rows, tmp_path / "x", metric="l2") as index:
        hits = index.search(rows[copies[0]], 150)
        assert np.array_equal(np.sort(hits.ids[0]), np.sort(copies)) and hits.distances.max() < 1e-4
        assert set(index.search(rows[copies[0]], 10).ids[0]) <= set(copies.tolist())


def test_skewed_rows_lose_none_and_their_lists_keep_the_limit(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = clustered(3000, 16)
    rows[:2000] *= 0.01  # two thirds of the rows in a hundredth of the space
    rows[2990:] *= 1000
    rng.shuffle(rows)
    config = SpannConfig(limit=160, cell=256)
    with made(rows, tmp_path / "x", metric="l2", config=config) as index:
        stats, engine = index.stats()["list_length"], index._engine
        longest = max(160, np.bincount(engine.primary).max())
        assert stats["max"] <= longest < 200  # a row is never cut from its primary list
        held = np.concatenate([e.slots for i in range(index.stats()["heads"]) for e in engine.entries(i)])
        assert np.array_equal(np.unique(held), np.arange(3000))
        assert (index.search(rows[:200], 1, recall=0.99).distances == 0).mean() >= 0.97


def test_a_row_is_in_its_primary_list_and_in_no_list_twice(tmp_path: Path):
    with made(clustered(1100, 33), tmp_path / "x") as index:
        engine = index._engine
        primary = np.asarray(engine.primary)
        for i in range(index.stats()["heads"]):
            slots = np.concatenate([e.slots for e in engine.entries(i)] or [np.zeros(0, np.uint32)])
            assert len(set(slots.tolist())) == len(slots)
            assert set(np.flatnonzero(primary == i)) <= set(slots.tolist())


@pytest.mark.parametrize("budget", [None, "60kB", "200kB"])
def test_private_memory_stays_within_the_budget(budget: str | None, tmp_path: Path):
    rows = clustered(2000, 33)
    with made(rows, tmp_path / "x", ram_budget=budget, config=SpannConfig(leaf=4)) as index:
        allowed = {"60kB": 60_000, "200kB": 200_000, None: 16_000_000}[budget]
        assert index.memory()["private"] <= allowed
        assert index.footprint().total >= rows.nbytes


def test_heads_that_are_data_points_give_several_copies_and_means_do_not():
    """A mean is pulled to the middle: heads are nearer to each other than to the rows, and the rule lets no copy in."""
    x = np.random.default_rng(0).standard_normal((4000, 24)).astype(np.float32)
    parts = leaves(x, 16, 32, 0)
    points = np.stack([x[p][((x[p] - x[p].mean(0)) ** 2).sum(1).argmin()] for p in parts])
    means, _ = balanced_kmeans(x, len(parts), 0, priced=0)
    copies = []
    for heads in (points, means):
        d = true_distances(heads, x[:600], "l2").astype(np.float32)
        chosen = reference.assign(d, np.ascontiguousarray(heads), 64, 8, np.inf, np.full(600, -1, np.int32))
        copies.append((chosen >= 0).sum(1).mean())
    assert copies[0] > 3 and copies[1] < 2


@pytest.mark.parametrize("dtype", ["float64", ">f4", ">f2", "int32", "float16"])
def test_a_map_of_another_type_is_read_in_pieces(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: None
):
    rows = np.rint(clustered(3000, 24) * 50).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    most = []
    read = source.Narrowed.__getitem__

    def counted(self: source.Narrowed, at: object):
        out = read(self, at)
        most.append(len(out))
        return out

    monkeypatch.setattr(source.Narrowed, "__getitem__", counted)
    monkeypatch.setattr(source, "CHECKED", 1 << 15)
    monkeypatch.setattr(build, "PIECE", 1 << 15)
    monkeypatch.setattr(build, "SAMPLE", 500)
    with VectorIndex.build(mapped, tmp_path / "x", metric="l2", progress=False) as index:
        kept = np.float16 if np.dtype(dtype).itemsize == 2 else np.float32
        assert index.stats()["dtype"] == np.dtype(kept).name
        order = index._engine.ids[:3000]
        assert np.array_equal(index._engine.rows[:3000], rows[order].astype(kept))
    assert (max(most) < 700) if dtype != "float16" else not most
