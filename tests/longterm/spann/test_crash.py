"""What was acknowledged survives the death of the writer at any moment, and torn or damaged files are found."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from memspan.core.errors import StoreBusyError, StoreError
from memspan.longterm.spann import SpannConfig, VectorIndex

from .writer import row

KILLS = 32


def make(path: Path) -> None:
    rows = np.stack([row(i, 0) for i in range(2000)])
    config = SpannConfig(leaf=10, limit=60, cell=128)
    VectorIndex.build(rows, path, metric="l2", ram_budget=1_000_000, config=config, progress=False).close()


def lines_until_killed(path: Path, seed: int, first: int, seconds: float) -> list[str]:
    command = [sys.executable, "-m", "tests.longterm.spann.writer", str(path), str(seed), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline()]
        time.sleep(seconds)
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
    return [line.strip() for line in said if line.endswith("\n")]


def state_after(lines: list[str], state: dict[int, int]) -> tuple[dict[int, int], dict[int, tuple[int | None, ...]]]:
    """Versions of the ids that must be there, and for ids of the call that was cut short what may be there."""
    unsure: dict[int, tuple[int | None, ...]] = {}
    for line in lines:
        said, call, version, *words = line.split()
        ids = [int(w) for w in words]
        for i in ids:
            after = None if call == "delete" else int(version)
            if said == "try":
                unsure[i] = (state.get(i), after)
            else:
                unsure.pop(i, None)
                if after is None:
                    state.pop(i, None)
                else:
                    state[i] = after
    return state, unsure


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "index"
    make(path)
    state = dict.fromkeys(range(2000), 0)
    rng = np.random.default_rng(3)
    for kill in range(KILLS):
        lines = lines_until_killed(path, kill, 1 + kill * 10_000, float(rng.uniform(0.0, 0.5)))
        state, unsure = state_after(lines, state)
        with VectorIndex.open(path) as index:
            assert index.verify() == []
            for i, versions in unsure.items():
                found = [v for v in versions if v is not None and holds(index, i, v)]
                state.pop(i, None)
                if found:
                    state[i] = found[0]
                else:
                    assert None in versions
            sure = list(state)
            vectors = np.stack([row(i, state[i]) for i in sure])
            hits = index.search(vectors, 1, recall=1)
            assert hits.ids[:, 0].tolist() == sure
            assert np.abs(hits.distances).max() < 1e-3
            assert len(index) == len(sure)
            some = rng.choice(len(sure), 500, replace=False)
            listed = index.search(vectors[some], 1, recall=0.99)
            assert (listed.ids[:, 0] == np.array(sure)[some]).mean() > 0.98


def holds(index: VectorIndex, id: int, version: int) -> bool:
    hits = index.search(row(id, version), 1, recall=1)
    return bool(hits.ids[0, 0] == id and hits.distances[0, 0] < 1e-3)


def test_a_torn_log_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "index"
    make(path)
    index = VectorIndex.open(path)
    index.add([10_000], row(10_000, 1)[None])
    whole = index._wal.size
    index.add([10_001], row(10_001, 1)[None])
    index.close()
    log = path / "wal.log"
    data = log.read_bytes()
    for size in (len(data) - 1, whole + 5, whole + 40):
        log.write_bytes(data[:size])
        with VectorIndex.open(path) as again:
            assert len(again) == 2001
            assert holds(again, 10_000, 1)
    log.write_bytes(data[:whole] + bytes(len(data) - whole))
    with VectorIndex.open(path) as again:
        assert again.delete([10_000]) == 1
    with VectorIndex.open(path) as again:
        assert len(again) == 2000


def test_a_log_damaged_in_its_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "index"
    make(path)
    with VectorIndex.open(path) as index:
        for i in range(3):
            index.add([10_000 + i], row(10_000 + i, 1)[None])
    log = path / "wal.log"
    data = bytearray(log.read_bytes())
    data[50] ^= 1
    log.write_bytes(data)
    with pytest.raises(StoreError, match=r"wal\.log is damaged at byte 0"):
        VectorIndex.open(path)


def test_one_writes_and_others_read(tmp_path: Path) -> None:
    path = tmp_path / "index"
    make(path)
    with VectorIndex.open(path) as writer, VectorIndex.open(path) as reader:
        writer.add([10_000], row(10_000, 1)[None])
        with pytest.raises(StoreBusyError, match="another process"):
            reader.add([10_001], row(10_001, 1)[None])
        with pytest.raises(StoreBusyError):
            reader.delete([1])
        assert holds(VectorIndex.open(path), 10_000, 1)
        writer.flush()
        assert holds(reader, 10_000, 1), "a flush is seen by those that have the index open"
        for version in range(2, 6):
            writer.add(list(range(500)), np.stack([row(i, version) for i in range(500)]), upsert=True)
            writer.flush()
            assert all(holds(reader, i, version) for i in range(0, 500, 50))
    with VectorIndex.open(path) as second:
        assert second.delete([10_000]) == 1


def test_a_flush_that_fails_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index"
    make(path)
    with VectorIndex.open(path) as index:
        for at in ("write_durably", "write_checkpoint", "write_json", "write_order"):
            monkeypatch.setattr(f"memspan.longterm.spann.maintain.{at}", full_disk)
            number = 20_000 + len(index)
            index.add([number], row(number, 1)[None])
            with pytest.raises(OSError, match="disk full"):
                index.flush()
            monkeypatch.undo()
            assert holds(index, number, 1)
            assert index.verify() == []
        index.flush()
        assert len(index) == 2004
    with VectorIndex.open(path) as index:
        assert len(index) == 2004
        assert index.verify() == []


def full_disk(*_: object) -> None:
    raise OSError(28, "disk full")
