from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from memspan.longterm import vectors
from memspan.longterm.vectors import VectorTable


def unit_rows(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows around a few centres, as texts on a few subjects are."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((20, dim))
    rows = (centres[random.integers(0, 20, count)] + random.standard_normal((count, dim))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def table_of(rows: NDArray[np.float32]) -> VectorTable:
    table = VectorTable(rows.shape[1], len(rows))
    table.put(np.arange(len(rows)), rows)
    return table


@pytest.mark.parametrize("dim", [3, 64, 100, 384])
def test_cosines_are_those_of_the_vectors_but_for_the_rounding(dim: int):
    rows = unit_rows(5000, dim)
    table = table_of(rows)
    exact = rows @ rows[7]
    assert np.abs(table.cosines(rows[7]) - exact).max() < 0.01
    some = np.array([4999, 0, 7])
    assert np.allclose(table.cosines(rows[7], some), table.cosines(rows[7])[some])
    assert np.abs(table.rows(some) - rows[some]).max() < 0.01


def test_a_row_without_a_vector_is_zero_and_can_be_set_later():
    table = VectorTable(64, 3)
    vector = unit_rows(1, 64)[0]
    assert table.cosines(vector).tolist() == [0, 0, 0]
    table.grow(1)
    table.put(np.array([3]), vector[None])
    assert np.allclose(table.cosines(vector), [0, 0, 0, 1], atol=0.01)


def test_signs_let_the_nearest_rows_through():
    rows = unit_rows(30_000, 128)
    table = table_of(rows)
    kept = []
    for question in rows[:20] + unit_rows(20, 128, seed=1) / 2:
        question = question / np.linalg.norm(question)
        likely = table.likely(question, 10)
        assert len(likely) < 10_000 and (np.diff(likely) > 0).all()
        kept.append(np.isin(np.argsort(-(rows @ question))[:10], likely).mean())
    assert np.mean(kept) > 0.98


def test_rows_that_are_not_asked_for_are_not_let_through():
    rows = unit_rows(30_000, 128)
    table = table_of(rows)
    among = np.zeros(len(rows), bool)
    among[::2] = True
    assert (table.likely(rows[1], 10, among) % 2 == 0).all()
    among[:] = False
    among[[5, 9]] = True
    assert table.likely(rows[1], 10, among).tolist() == [5, 9]


def test_a_small_table_is_not_sifted():
    assert len(table_of(unit_rows(500, 64)).likely(unit_rows(1, 64)[0], 10)) == 500


def test_bits_are_counted_alike_with_and_without_numpy_2():
    words = np.random.default_rng(0).integers(0, 2**63, (50,), np.uint64)
    assert vectors._table_count(words).tolist() == [int(word).bit_count() for word in words]
    assert vectors._count(words).tolist() == [int(word).bit_count() for word in words]
