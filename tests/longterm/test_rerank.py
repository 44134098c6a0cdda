"""Rerankers against their definitions."""

from __future__ import annotations

import math

import numpy as np

from memspan.longterm.rerank import (
    by_distance,
    by_mentions,
    graph_distance,
    maximal_marginal_relevance,
    reciprocal_rank_fusion,
)


def test_rrf_sums_reciprocal_ranks():
    assert reciprocal_rank_fusion([["a", "b"], ["b"]]) == [("b", 1 / 2 + 1), ("a", 1.0)]
    assert reciprocal_rank_fusion([["a"], ["b"]], 60)[0] == ("a", 1 / 60)


def test_mmr_takes_the_second_twin_last():
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8]], np.float32)
    order = [i for i, _ in maximal_marginal_relevance(np.array([1, 0.1], np.float32), vectors, 0.5)]
    assert order == [0, 2, 1]
    assert [i for i, _ in maximal_marginal_relevance(np.array([1, 0], np.float32), vectors, 1.0)] == [0, 1, 2]


def test_mentions_and_distance():
    assert [i for i, _ in by_mentions([1, 5, 5, 2])] == [1, 2, 3, 0]
    assert [i for i, _ in by_distance([math.inf, 2, 0])] == [2, 1, 0]


def test_distances_beyond_one_step():
    edges = {1: [2], 2: [1, 3], 3: [2, 4], 4: [3]}
    near = graph_distance([1], lambda nodes: {n: edges[n] for n in nodes}, 2)
    assert near == {1: 0, 2: 1, 3: 2}
