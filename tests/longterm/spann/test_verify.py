"""Damage is found and mended; compaction leaves nothing of deleted rows; numpy answers as the kernels do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memspan.longterm.spann import VectorIndex
from memspan.longterm.spann.layout import SECTOR

from .test_updates import make, own, rows


def test_a_damaged_list_is_found_and_mended(tmp_path: Path) -> None:
    x = rows(2000)
    with make(tmp_path, x) as index:
        truth = index.search(x[:300], 10, recall=0.99).ids
        damaged = [3, 10, 40]
        with (tmp_path / "lists.bin").open("r+b") as f:
            for number in damaged:
                f.seek(int(index._engine.tables.list_sector[number]) * SECTOR + 8)
                f.write(os.urandom(64))
    with VectorIndex.open(tmp_path) as index:
        found = index.verify()
        assert [f"list {n} is damaged" in line for n, line in zip(damaged, found, strict=True)] == [True] * 3
        assert index.verify(repair=True) == found
        assert index.verify() == []
        again = index.search(x[:300], 10, recall=0.99).ids
        assert (again[:, :, None] == truth[:, None, :]).any(1).mean() > 0.98
    with VectorIndex.open(tmp_path) as index:
        assert index.verify() == []


def test_a_wrong_lookup_is_mended(tmp_path: Path) -> None:
    x = rows(1500)
    with make(tmp_path, x) as index:
        index.add([9000], x[:1] + 1)
        index.flush()
        order = index._files.order
    data = bytearray(order.read_bytes())
    data[:12], data[12:24] = data[12:24], data[:12]
    order.write_bytes(data)
    with VectorIndex.open(tmp_path) as index:
        assert index.verify(repair=True) == ["the lookup of ids does not agree with the rows"]
        assert index.verify() == []
        assert index.delete([0, 1]) == 2


@pytest.mark.parametrize("background", [False, True])
def test_compaction_leaves_no_byte_of_deleted_rows(tmp_path: Path, background: bool) -> None:
    x, crowd = rows(2000), rows(600, 5, 20.0)
    with make(tmp_path, x) as index:
        index.add(np.arange(5000, 5600), crowd)
        gone = np.concatenate([np.arange(0, 2000, 3), np.arange(5000, 5100)])
        index.delete(gone)
        kept = np.setdiff1d(np.arange(2000), gone)
        before = index.search(x[kept[:200]], 10, recall=0.95).ids
        handle = index.compact(progress=False, background=background)
        if handle is not None:
            index.search(x[:50], 10)
            handle.wait()
        assert index.verify() == []
        assert len(index) == 2600 - len(gone)
        after = index.search(x[kept[:200]], 10, recall=0.95).ids
        assert (after[:, :, None] == before[:, None, :]).any(1).mean() > 0.97
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    deleted = np.concatenate([x[::3], crowd[:100]])
    assert not any(row.tobytes() in everything for row in deleted)
    assert all(row.tobytes() in everything for row in x[kept[:100]])
    with VectorIndex.open(tmp_path) as index:
        assert np.mean(np.array(own(index, x[kept])) == kept) > 0.98


def test_a_cancelled_compaction_changes_nothing(tmp_path: Path) -> None:
    x = rows(3000)
    with make(tmp_path, x) as index:
        index.delete(np.arange(100))
        handle = index.compact(background=True)
        assert handle is not None
        handle.cancel()
        assert index.verify() == []
        assert len(index) == 2900
        names = {path.name for path in tmp_path.iterdir()}
        assert sum(name.startswith("lists") for name in names) == 1


SCRIPT = """
import json, sys
import numpy as np
from pathlib import Path
from memspan.longterm.spann import Effort
from tests.longterm.spann.test_updates import make, rows
x, crowd = rows(700), rows(120, 5, 9.0)
with make(Path(sys.argv[1]), x) as index:
    out = []
    effort = Effort(cells=8, lists=12, rerank=64)
    index.add(np.arange(5000, 5060), crowd[:60])
    index.delete(np.arange(0, 700, 5))
    for _ in range(2):
        out.append(index.search(np.concatenate([x[:40], crowd]), 5, effort=effort).ids.tolist())
        index.flush()
    index.add(np.arange(5060, 5120), crowd[60:])
    index.compact(progress=False)
    out.append(index.search(np.concatenate([x[:40], crowd]), 5, effort=effort).ids.tolist())
    assert index.verify() == []
print(json.dumps(out))
"""


def test_numpy_answers_as_the_kernels_do(tmp_path: Path) -> None:
    answers = []
    for native in ("0", "1"):
        environment = {**os.environ, "MEMSPAN_NATIVE": native, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / native)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answers.append(np.array(json.loads(done.stdout)))
    assert (answers[0] == answers[1]).mean() > 0.99
