"""The hash: buckets, probes, the running mean, and agreement with exact search where it reads everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan import InputError
from memspan.longterm.lsh import LSHIndex, bucket_entropy, exact_search, quality


def unit(count: int, dim: int = 24, seed: int = 0, shared: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((count, dim)).astype(np.float32) + np.float32(shared)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_hash(index: LSHIndex, vector: np.ndarray) -> list[int]:
    half = index.n_buckets // 2
    found = []
    for table in range(index.n_tables):
        part = index._random[:, table * half : (table + 1) * half]
        shown = (vector - index.mean) @ part
        found.append(int(np.argmax(np.concatenate([shown, -shown]))))
    return found


@pytest.mark.parametrize(("buckets", "tables", "center"), [(2, 1, False), (8, 3, True), (34, 5, True)])
def test_the_bucket_is_the_largest_of_the_projections_and_their_negatives(buckets, tables, center):
    table = unit(63, shared=0.3)
    index = LSHIndex(24, buckets, tables, center=center, seed=3)
    index.add(table)
    assert index.hash(table).tolist() == [naive_hash(index, row) for row in table]


def test_the_same_seed_hashes_alike_and_another_does_not():
    table = unit(50)
    codes = []
    for seed in (1, 1, 2):
        index = LSHIndex(24, 16, 4, seed=seed)
        index.add(table)
        codes.append(index.hash(table).tolist())
    assert codes[0] == codes[1] != codes[2]
    again = LSHIndex(**LSHIndex(24, 16, 4, seed=1).parameters)
    again.add(table)
    assert again.hash(table).tolist() == codes[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 5))
def test_adding_in_portions_finds_what_all_at_once_finds(portions, probes, seed):
    table = unit(sum(portions), seed=seed)
    whole, parts = (LSHIndex(24, 8, 3, probes, center=False, seed=seed) for _ in range(2))
    whole.add(table)
    begin = 0
    for size in portions:
        parts.add(table[begin : begin + size])
        begin += size
        parts.candidates(table[0])  # sorts some now and leaves others for later
    for query in table[:5]:
        assert parts.candidates(query).tolist() == whole.candidates(query).tolist()


def test_every_vector_is_among_its_own_candidates():
    table = unit(200)
    index = LSHIndex(24, 16, 2)
    index.add(table)
    assert all(place in index.candidates(row) for place, row in enumerate(table))


def test_all_probes_read_everything_and_find_what_exact_search_finds():
    table, queries = unit(300), unit(7, seed=9)
    index = LSHIndex(24, 2, 1, 1)
    index.add(table)
    both = LSHIndex(24, 4, 40, 2)
    both.add(table)
    for query in queries:
        places, scores, read = both.search(query, 10, lambda at: table[at])
        assert read == 300 and places.tolist() == exact_search(query, 10, table).tolist()
        assert np.all(np.diff(scores) <= 0)
    assert 0 < index.search(queries[0], 3, lambda at: table[at])[2] < 300


def test_empty_buckets_fall_back_to_exact_search():
    table = np.repeat(unit(1), 5, axis=0)
    index = LSHIndex(24, 64, 1, center=False)
    index.add(table)
    assert len(index.candidates(-table[0])) == 0
    places, _, read = index.search(-table[0], 2, lambda at: table[at])
    assert read == 5 and places.tolist() == [0, 1]


def test_more_probes_never_find_less():
    table, queries = unit(500, shared=0.2), unit(20, seed=4, shared=0.2)
    found = []
    for probes in (1, 2, 4):
        index = LSHIndex(24, 16, 2, probes, seed=1)
        index.add(table)
        found.append(quality(index, queries, table))
    recall, read = zip(*found, strict=True)
    assert list(recall) == sorted(recall) and list(read) == sorted(read) and read[0] < read[2]


def test_a_shared_direction_fills_one_bucket_unless_it_is_taken_off():
    table = unit(400, shared=2.0)
    entropy = []
    for center in (False, True):
        index = LSHIndex(24, 16, 4, center=center)
        index.add(table)
        entropy.append(np.mean([bucket_entropy(row) for row in index.bucket_sizes()]))
        assert index.bucket_sizes().sum(axis=1).tolist() == [400] * 4
    assert entropy[1] > entropy[0] + 1


def test_a_mean_that_moved_asks_for_a_new_hash_and_gets_the_one_of_all_at_once():
    table = np.concatenate([unit(100, shared=1.0), unit(300, seed=1, shared=-1.0)])
    index = LSHIndex(24, 16, 4)
    index.add(table[:100])
    assert not index.drifted
    index.add(table[100:])
    assert index.drifted
    index.rehash(lambda places: table[places])
    whole = LSHIndex(24, 16, 4)
    whole.add(table)
    assert not index.drifted
    assert index.bucket_sizes().tolist() == whole.bucket_sizes().tolist()


def test_zero_vectors_and_an_empty_index_are_no_trouble():
    index = LSHIndex(4, 8, 2)
    zero = np.zeros((3, 4), np.float32)
    assert len(index.candidates(zero[0])) == 0
    index.add(zero[:0])
    index.add(zero)
    assert index.hash(zero).tolist() == [[0, 0]] * 3 and index.candidates(zero[0]).tolist() == [0, 1, 2]
    assert index.nbytes > 0 and bucket_entropy(index.bucket_sizes()[0]) == 0.0


@pytest.mark.parametrize(
    "options",
    [{"n_buckets": 7}, {"n_buckets": 0}, {"n_tables": 0}, {"dim": 0}, {"probes": 0}, {"probes": 17}, {"drift": -1.0}],
)
def test_parameters_that_cannot_be(options):
    with pytest.raises(InputError):
        LSHIndex(**{"dim": 8, **options})


def test_another_length_names_both_sizes():
    with pytest.raises(InputError, match=r"\(2, 5\).* 8 dimensions"):
        LSHIndex(8).add(np.zeros((2, 5), np.float32))
