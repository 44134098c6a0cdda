"""Placing and encoding rows: the kernels beside numpy, and lists that are the nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memspan.longterm.spann import SpannConfig, VectorIndex, native
from memspan.longterm.spann.heads import NOWHERE, vectors
from memspan.longterm.spann.place import choose_lists, encode_entries, encoded

from .rows import clustered

pytestmark = pytest.mark.usefixtures("compiled")


def made(path: Path, dim: int, metric: str) -> VectorIndex:
    config = SpannConfig(leaf=8, limit=64, cell=128, exact_below=200)
    return VectorIndex.build(clustered(2000, dim), path, metric=metric, config=config, progress=False)


def in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)


@pytest.mark.parametrize(("dim", "metric"), [(20, "l2"), (96, "cosine"), (130, "ip")])
def test_entries_are_those_of_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dim: int, metric: str) -> None:
    with made(tmp_path, dim, metric) as index:
        engine, rng = index._engine, np.random.default_rng(dim)
        x = engine.space.rows(clustered(500, dim, seed=1) * rng.choice([0.01, 1, 30], (500, 1)).astype(np.float32))
        x[0] = vectors(engine.tables, index._place, np.array([3]))[0]  # a row that is its head
        rows = np.concatenate([[0], rng.integers(0, 500, 3000)])
        lists = np.concatenate([[3], rng.integers(0, index.stats()["heads"], 3000)]).astype(np.uint32)
        excess = rng.random(500).astype(np.float32)
        slots = rng.integers(0, 2000, 3001).astype(np.uint32)
        fast = encode_entries(engine, index._place, x, rows, lists, slots, excess)
        slow = encoded(x[rows], vectors(engine.tables, index._place, lists), slots, excess[rows])
        # A sum in another order moves the step by its last bit, and so a value that lies between two codes.
        assert (fast.packed != slow.packed).mean() < 1e-3
        assert np.allclose(fast.scale, slow.scale, rtol=1e-3)
        assert np.allclose(fast.add, slow.add, rtol=1e-5, atol=1e-4)
        assert (fast.slots == slots).all()


@pytest.mark.parametrize("slack", [1.96, None])
def test_lists_are_those_of_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slack: float | None) -> None:
    with made(tmp_path, 40, "l2") as index:
        engine = index._engine
        x = engine.space.rows(clustered(400, 40, seed=2))
        x[:50] += 100  # nearest to cells' borders
        asked = {"cells": 6, "candidates": 20, "copies": 8, "slack": slack}
        fast = choose_lists(engine, index._place, x, **asked)
        in_numpy(monkeypatch)
        slow = choose_lists(engine, index._place, x, **asked)
        assert (fast[:, 0] == slow[:, 0]).mean() > 0.99
        assert (fast == slow).all(1).mean() > 0.95
        heads = vectors(engine.tables, index._place, np.arange(index.stats()["heads"]))
        d = ((x[50:, None] - heads[None]) ** 2).sum(2)
        assert (fast[50:, 0] == d.argmin(1)).mean() > 0.95
        assert ((fast != NOWHERE).sum(1) >= 1).all()


def test_threads_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(tmp_path, 40, "l2") as index:
        engine = index._engine
        x = engine.space.rows(clustered(1000, 40, seed=3))
        out = []
        for count in (1, 2, 7):
            monkeypatch.setattr("os.cpu_count", lambda count=count: count)
            out.append(choose_lists(engine, index._place, x, cells=6, candidates=20, copies=8, slack=1.96))
        assert (out[0] == out[1]).all() and (out[0] == out[2]).all()
