"""Vectors that stay in files behave as those in RAM."""

from __future__ import annotations

import numpy as np
import pytest

from memspan.longterm import vectors
from memspan.longterm.mapped import MappedVectors
from memspan.longterm.vectors import VectorTable
from tests.longterm.test_vectors import table_of, unit_rows


def read_only(table: VectorTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of a table as a mapped part gives them."""
    values, scale, signs = table.packed()
    arrays = values.copy(), scale.copy(), np.stack(signs, axis=1).T
    for array in arrays:
        array.flags.writeable = False
    return arrays


def same(one: MappedVectors, other: VectorTable) -> None:
    assert len(one) == len(other)
    question = unit_rows(1, one.dim, seed=9)[0]
    places = np.random.default_rng(0).permutation(len(other))[:70]
    assert np.array_equal(one.rows(places), other.rows(places))
    for some in (None, places):
        assert np.allclose(one.cosines(question, some), other.cosines(question, some), atol=1e-6)
    for packed, wanted in zip(one.packed()[:2], other.packed()[:2], strict=True):
        assert np.array_equal(packed, wanted)
    assert all(map(np.array_equal, one.packed()[2], other.packed()[2]))
    among = np.arange(len(other)) % 3 > 0
    for mask in (None, among):
        assert np.array_equal(one.likely(question, 5, mask), other.likely(question, 5, mask))


@pytest.mark.parametrize("dim", [64, 100])
def test_mapped_runs_are_one_table(dim: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vectors, "SCAN_ALL", 50)
    monkeypatch.setattr(vectors, "SIFTED", 40)
    rows = unit_rows(400, dim)
    mapped, whole = MappedVectors(dim, 20), VectorTable(dim, 20)
    for begin in range(0, 300, 100):
        part = table_of(rows[begin : begin + 100])
        mapped.reserve(400)
        mapped.extend(*read_only(part))
        values, scale, signs = part.packed()
        whole.extend(values, scale, np.stack(signs))
    same(mapped, whole)
    for table in (mapped, whole):
        table.grow(80)
        table.put(np.arange(325, 390), rows[300:365])
    same(mapped, whole)
    assert mapped.in_ram == 100 and mapped.nbytes < whole.nbytes / 2
    for seed in range(3):
        keep = np.random.default_rng(seed).random(len(whole)) < 0.8
        for table in (mapped, whole):
            table.keep(keep)
        same(mapped, whole)
    late = np.array([0, len(whole) // 2, len(whole) - 1])  # in each kind of run
    for table in (mapped, whole):
        table.put(late, rows[365:368])
    same(mapped, whole)
    for table in (mapped, whole):
        table.keep(np.arange(len(whole)) < 30)
    same(mapped, whole)
