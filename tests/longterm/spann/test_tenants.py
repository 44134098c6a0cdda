"""Rows of tenants: a search asks for those of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memspan.core.errors import InputError
from memspan.longterm.spann import VectorIndex

from .test_updates import DIM, make, rows


@pytest.mark.parametrize("n", [100, 12_000])
def test_only_rows_of_the_tenant_are_answered(tmp_path: Path, n: int) -> None:
    x = rows(n)
    owner = [("a", "b", 7, None)[i % 4] if i % 10 else "rare" for i in range(n)]
    ids = np.random.default_rng(1).permutation(n)
    mine = {name: {int(i) for i, o in zip(ids, owner, strict=True) if o == name} for name in ("a", 7, "rare", None)}
    with make(tmp_path, x, ids=ids, tenants=owner) as index:
        index.add(np.arange(n, n + 50), x[:50], tenant="late")
        index.add(np.arange(n + 50, n + 100), x[:50])
        mine["late"] = set(range(n, n + 50))
        gone = sorted(mine["a"])[:5]
        index.delete(gone)
        mine["a"] -= set(gone)
        for step in ("as they are", "flushed", "compacted"):
            check(index, x, mine)
            index.flush() if step == "as they are" else index.compact(progress=False)
    with VectorIndex.open(tmp_path) as index:
        check(index, x, mine)
        hits = index.search(x[:5], 3, tenant="a", filter=sorted(mine["a"])[:2] + sorted(mine[7])[:2])
        assert set(hits.ids.ravel().tolist()) == {*sorted(mine["a"])[:2], -1}
        assert (index.search(x[:5], 3, tenant="nobody").ids == -1).all()
        assert (index.search(x[:5], 3, tenant="7").ids == -1).all()


def check(index: VectorIndex, x: np.ndarray, mine: dict[str | int | None, set[int]]) -> None:
    for name, held in mine.items():
        if name is not None:
            found = index.search(x[:40], 5, tenant=name).ids
            assert set(found.ravel().tolist()) <= held | {-1}
            assert (found >= 0).mean() > 0.95
            exact = index.search(x[:40], 5, tenant=name, recall=1).ids
            assert (found[:, :, None] == exact[:, None, :]).any(1).mean() > 0.9


def test_what_is_kept_of_a_tenant_follows_changes(
    tmp_path: Path, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memspan.longterm.spann.index.FEW", 20)
    x = rows(1500)
    with make(tmp_path, x, tenants=["a" if i % 5 == 0 else "b" for i in range(1500)]) as index:
        for _ in range(2):
            found = index.search(x[:200:5], 3, tenant="a")
            assert (found.ids[:, 0] == np.arange(0, 200, 5)).all()
            assert found.stats.lists, "more than few rows are not scanned"
        index.add(np.arange(3000, 3040), x[1:200:5], tenant="a")
        assert (index.search(x[1:200:5], 1, tenant="a").ids[:, 0] == np.arange(3000, 3040)).all()
        index.delete(np.arange(3000, 3040))
        assert (index.search(x[1:200:5], 3, tenant="a").ids % 5 == 0).all()
        index.flush()
        index.compact(progress=False)
        assert (index.search(x[:200:5], 1, tenant="a").ids[:, 0] == np.arange(0, 200, 5)).all()


def test_a_scanned_index_that_grows_keeps_its_tenants(tmp_path: Path) -> None:
    x = rows(900)
    with make(tmp_path, np.zeros((0, DIM), np.float32)) as index:
        for at in range(0, 900, 100):
            index.add(np.arange(at, at + 100), x[at : at + 100], tenant=at // 300)
        assert index.stats()["heads"] > 10
        for tenant in range(3):
            found = index.search(x[::20], 5, tenant=tenant).ids
            assert (found // 300 == tenant).all()


def test_bad_tenants(tmp_path: Path) -> None:
    x = rows(50)
    with pytest.raises(InputError, match="49 tenants were given for 50 vectors"):
        make(tmp_path / "a", x, tenants=["a"] * 49)
    with make(tmp_path / "b", x) as index:
        for bad in (1.5, True, b"a"):
            with pytest.raises(InputError, match="name it by a string or a whole number"):
                index.add([100], x[:1], tenant=bad)  # type: ignore[arg-type]
            with pytest.raises(InputError, match="name it by a string"):
                index.search(x[:1], tenant=bad)  # type: ignore[arg-type]
