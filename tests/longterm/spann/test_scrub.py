"""What was deleted is taken off the files in place, heads and all, and the index answers as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from memspan.longterm.spann import VectorIndex
from memspan.longterm.spann.heads import Lanes

from .test_updates import make, own, rows


def held(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.iterdir())


def as_heads(index: VectorIndex, x: npt.NDArray[np.float32]) -> int:
    """How many of the rows stand among the heads and centres, as near as their own codes would."""
    t = index._engine.tables
    coded = [Lanes.unpack(c, np.zeros(0, np.uint32)).decoded() for c in (t.heads, t.cells)]
    inside = index._engine.space.rows(x)
    away = ((inside[:, None] - np.concatenate(coded)[None]) ** 2).sum(2).min(1)
    return int((away <= inside.shape[1] * (np.abs(inside).max(1) / 63) ** 2).sum())


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_nothing_of_deleted_rows_is_left(tmp_path: Path, metric: str) -> None:
    x, late = rows(3000), rows(300, 1, 0.5)
    with make(tmp_path, x, metric=metric) as index:
        index.add(np.arange(5000, 5300), late)
        index.flush()
        gone = np.concatenate([np.arange(0, 3000, 7), np.arange(5000, 5040)])
        away = np.concatenate([x[::7], late[:40]])
        assert as_heads(index, away) > 5 and all(row.tobytes() in held(tmp_path) for row in away[::20])
        truth = index.search(x[1:300:7], 1, recall=1).ids
        index.delete(gone)
        assert index.scrub() > 5
        assert as_heads(index, away) == 0
        whole = held(tmp_path)
        assert not [row for row in away if row.tobytes() in whole]
        assert index.verify() == [] and len(index) == 3300 - len(gone)
        assert ((index.search(x[1:300:7], 1, recall=1).ids == truth) | np.isin(truth, gone)).all()
        assert index.ids.tolist() == sorted({*range(3000), *range(5000, 5300)} - set(gone.tolist()))
    with VectorIndex.open(tmp_path) as index:
        assert index.verify() == []
        kept = np.delete(np.arange(3000), np.arange(0, 3000, 7))
        if metric != "ip":
            assert np.mean(np.array(own(index, x[kept])) == kept) > 0.98
        index.add([9000], x[:1])
        index.flush()
        assert index.verify() == [] and len(index) == 3301 - len(gone)


def test_bytes_that_were_written_and_never_acknowledged_go_too(tmp_path: Path) -> None:
    x = rows(1500)
    with make(tmp_path, x) as index:
        index.add([2000], rows(1, 5, 3.0))
        files = index._files
        with files.rows.open("r+b") as out:  # as a writer that was killed before its row was in the log
            out.seek(1501 * x.itemsize * x.shape[1])
            out.write(rows(1, 6, 4.0).tobytes())
        index.delete([2000])
        index.scrub()
        assert not [row for row in (rows(1, 5, 3.0), rows(1, 6, 4.0)) if row.tobytes() in held(tmp_path)]
        assert index.verify() == [] and index.scrub() == 0


def test_an_index_may_lose_all_of_a_region_or_all_of_its_rows(tmp_path: Path) -> None:
    x, crowd = rows(1500), rows(400, 3, 30.0)
    with make(tmp_path, np.concatenate([x, crowd])) as index:
        index.delete(np.arange(1500, 1900))
        index.scrub()
        assert as_heads(index, crowd) == 0 and index.verify() == []
        assert own(index, x[:50]) == list(range(50))
        index.delete(np.arange(1500))
        index.scrub()
        assert len(index) == 0 and index.verify() == []
        assert (index.search(x[:3], 5).ids == -1).all()
        index.add(np.arange(50), x[:50])
        assert own(index, x[:50]) == list(range(50))


def test_a_scanned_index_is_scrubbed(tmp_path: Path) -> None:
    x = rows(100)
    with make(tmp_path, x) as index:
        index.delete([3, 50])
        assert index.scrub() == 0
        assert not [row for row in x[[3, 50]] if row.tobytes() in held(tmp_path)]
        assert own(index, x[[2, 4]]) == [2, 4]


def test_a_reader_sees_the_scrubbed_index(tmp_path: Path) -> None:
    x = rows(2000)
    with make(tmp_path, x) as index, VectorIndex.open(tmp_path) as reader:
        for first in range(0, 1000, 100):
            index.delete(np.arange(first, first + 50))
            index.scrub()
            ids = np.arange(first + 50, first + 100)
            assert np.mean(np.array(own(reader, x[ids])) == ids) > 0.97
            assert len(reader) == len(index)
