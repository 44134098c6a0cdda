from __future__ import annotations

import numpy as np
import pytest

from memspan.longterm.spann.space import Space, distances, orthogonal, unit

from .rows import clustered, true_distances

DIMENSIONS = [2, 3, 31, 32, 33, 128, 511, 512, 513, 770, 1537, 4096]


def internal(rows: np.ndarray, queries: np.ndarray, metric: str) -> tuple[Space, np.ndarray]:
    space = Space.fit(rows.astype(np.float32), metric, 0)
    x, q = space.rows(rows).astype(np.float64), space.queries(queries).astype(np.float64)
    return space, (q**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * q @ x.T


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_internal_distances_are_those_of_the_metric(dim: int, metric: str):
    rows, queries = clustered(40, dim) + np.float32(0.5), clustered(6, dim, seed=1)
    space, d = internal(rows, queries, metric)
    assert space.padded % 32 == 0 and space.padded >= dim + (metric == "ip")
    assert space.padded < 1.25 * dim + 64  # no more than the padding of its parts
    wanted = true_distances(rows, queries, metric)
    if metric == "ip":
        wanted = 2 * wanted + (queries.astype(np.float64) ** 2).sum(1)[:, None] + space.longest
    elif metric == "cosine":
        wanted = 2 * wanted
    assert np.allclose(d, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("dim", [2, 33, 512, 770])
def test_one_more_coordinate_makes_rows_equally_long_for_the_inner_product(dim: int):
    rows = clustered(30, dim)
    space = Space.fit(rows, "ip", 0)
    shifted = Space(space.dim, space.metric, space.padded, np.zeros(dim, np.float32), space.longest, space.rotation)
    assert space.longest == pytest.approx(float((rows.astype(np.float64) ** 2).sum(1).max()), rel=1e-5)
    assert np.allclose((shifted.rows(rows).astype(np.float64) ** 2).sum(1), space.longest, rtol=1e-4)


@pytest.mark.parametrize("dim", [513, 1537, 4096])
def test_one_coordinate_is_spread_over_all_parts(dim: int):
    space = Space.fit(np.zeros((1, dim), np.float32), "l2", 0)
    spike = np.zeros((1, dim), np.float32)
    spike[0, dim - 1] = 1
    out = space.rows(spike)[0]
    assert np.abs(out).max() < 0.35 and (np.abs(out) > 1e-6).mean() > 0.95


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_types_are_widened_exactly(dtype: str):
    rows = clustered(10, 33, dtype)
    space = Space.fit(rows.astype(np.float32), "l2", 0)
    assert (space.rows(rows) == space.rows(rows.astype(np.float32))).all()


def test_rows_of_zeros_stay_zero_and_are_at_distance_one():
    rows = np.zeros((2, 5), np.float32)
    rows[1, 0] = 3
    assert unit(rows).tolist() == [[0] * 5, [1, 0, 0, 0, 0]]
    assert distances(rows, np.ones((1, 5), np.float32), "cosine")[0, 0] == 1
    assert distances(rows, np.zeros((1, 5), np.float32), "cosine").tolist() == [[1, 1]]


@pytest.mark.parametrize("size", [32, 480])
def test_the_rotation_is_orthogonal_and_hangs_on_its_seed_alone(size: int):
    r = orthogonal(size, 3)
    assert np.allclose(r @ r.T, np.eye(size), atol=1e-5)
    assert (orthogonal(size, 3) == r).all() and not (orthogonal(size, 4) == r).all()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_distances_are_the_metrics(metric: str):
    rows, queries = clustered(50, 33), clustered(4, 33, seed=1)
    assert np.allclose(distances(rows, queries, metric), true_distances(rows, queries, metric), rtol=1e-4, atol=1e-4)


def test_euclidean_distances_far_from_the_origin_keep_their_digits():
    rows = clustered(200, 33) + np.float32(1000)
    found = distances(rows, rows[:1], "l2")[0]
    assert found[0] == 0
    assert np.allclose(found, true_distances(rows - rows[0], rows[:1] - rows[0], "l2")[0], rtol=1e-4)
