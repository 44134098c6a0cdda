from __future__ import annotations

import numpy as np
import pytest

from memspan.longterm.spann.clustering import balanced_kmeans, leaves, nearest_centre

from .rows import clustered


def spread(sizes: np.ndarray) -> float:
    return float(sizes.std() / sizes.mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sizes_differ_at_most_half_as_much_as_those_of_plain_kmeans(seed: int):
    x = clustered(4000, 32, seed=seed)
    _, plain = balanced_kmeans(x, 32, seed, priced=0)
    _, balanced = balanced_kmeans(x, 32, seed)
    plain_spread, balanced_spread = (spread(np.bincount(labels, minlength=32)) for labels in (plain, balanced))
    assert plain_spread > 0.3  # skewed indeed
    assert balanced_spread <= 0.5 * plain_spread


def test_rows_without_clusters_are_shared_out_evenly_too():
    x = np.random.default_rng(0).standard_normal((1280, 64)).astype(np.float32)
    plain, balanced = (np.bincount(balanced_kmeans(x, 32, 0, priced=p)[1], minlength=32) for p in (0, 3))
    assert spread(balanced) <= 0.5 * spread(plain)


def test_balance_costs_little_of_the_distance():
    x = clustered(4000, 32)
    plain, balanced = (balanced_kmeans(x, 32, 0, priced=p) for p in (0, 3))
    costs = [((x - centres[labels]) ** 2).sum() for centres, labels in (plain, balanced)]
    assert costs[1] < 1.15 * costs[0]


@pytest.mark.parametrize("size", [10, 40, 200])
def test_leaves_are_a_partition_of_about_equal_parts(size: int):
    x = clustered(3000, 16)
    parts = leaves(x, size, 32, 0)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(3000))
    sizes = np.array([len(p) for p in parts])
    assert sizes.max() < 2.5 * size and 0.5 * size < sizes.mean() < 1.5 * size


@pytest.mark.parametrize("count", [0, 1, 2, 3, 39, 41])
def test_few_rows_are_one_leaf(count: int):
    parts = leaves(clustered(50, 8)[:count], 40, 32, 0)
    assert [p.tolist() for p in parts] == ([list(range(count))] if count else [])


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0])
def test_rows_that_are_all_equal_are_cut_by_number(value: float):
    parts = leaves(np.full((1000, 8), value, np.float32), 40, 32, 0)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    assert max(map(len, parts)) <= 60


def test_two_kinds_of_rows_and_one_far_row_are_cut_small_all_the_same():
    x = np.zeros((2001, 8), np.float32)
    x[1990:2000] = 1
    x[2000] = 1e6
    parts = leaves(x, 40, 32, 0)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(2001))
    assert max(map(len, parts)) <= 100


def test_as_many_clusters_as_rows():
    x = clustered(5, 8)
    centres, labels = balanced_kmeans(x, 5, 0)
    assert centres.shape == (5, 8) and labels.min() >= 0 and labels.max() < 5


def test_the_same_seed_gives_the_same_clusters():
    x = clustered(500, 8)
    first, second, other = (balanced_kmeans(x, 8, seed)[1] for seed in (0, 0, 1))
    assert (first == second).all() and (first != other).any()


def test_the_nearest_centre():
    x, centres = clustered(100, 8), clustered(7, 8, seed=1)
    assert (nearest_centre(x, centres) == ((x[:, None] - centres[None]) ** 2).sum(2).argmin(1)).all()
