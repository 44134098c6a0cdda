"""Adding and deleting go on while a compaction is under way, and neither is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memspan.core.errors import StoreError
from memspan.longterm.spann import VectorIndex, maintain
from memspan.longterm.spann.compact import Cancelled

from .test_updates import DIM, make, own, rows

SECONDS = 120.0  # after which a call counts as one that waits for ever


@contextmanager
def compacting(index: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A compaction that has written its files and stands still until the function that is given is called."""
    begun, go = threading.Event(), threading.Event()
    rewrite = maintain.rewrite

    def slow(*args: Any) -> Any:
        out = rewrite(*args)
        begun.set()
        while not go.wait(0.01):
            if args[-1]():
                raise Cancelled("stopped")
        return out

    monkeypatch.setattr(maintain, "rewrite", slow)
    handle = index.compact(background=True)
    assert handle is not None and begun.wait(SECONDS)

    def finish() -> None:
        go.set()
        handle.wait()

    try:
        yield finish
    finally:
        go.set()
        monkeypatch.undo()


def within(seconds: float, call: Callable[[], Any]) -> None:
    """Runs a call in a thread and fails when it has not returned in time."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for the compaction"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("scanned", [False, True])
def test_adds_and_deletes_return_while_a_compaction_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scanned: bool
) -> None:
    x = rows(150 if scanned else 1500)
    new = rows(300, 1, 1.0)
    with make(tmp_path, x) as index:
        index.delete(np.arange(0, 60, 2))
        with compacting(index, monkeypatch) as finish:
            within(SECONDS, lambda: index.add(np.arange(5000, 5150), new[:150]))
            within(SECONDS, lambda: index.add(np.arange(5150, 5300), new[150:], tenant="me"))
            within(SECONDS, lambda: index.add([1, 3], x[[1, 3]] + 7, upsert=True))
            within(SECONDS, lambda: index.delete([5, 7, 5000]))
            for _ in range(3):
                left = np.setdiff1d(np.arange(5000, 5300), [5000])
                assert own(index, new[left - 5000], recall=1) == left.tolist()
                assert own(index, x[[1, 3]] + 7, recall=1) == [1, 3]
                assert not np.isin(index.search(x[:60], 10, recall=1).ids, [5, 7, *range(0, 60, 2)]).any()
                assert index.search(new[200:201], 1, tenant="me").ids[0, 0] == 5200
                assert len(index) == len(x) - 30 + 300 - 3
                finish()
                assert index.verify() == []
                index.flush()
    with VectorIndex.open(tmp_path) as index:
        assert index.verify() == []
        assert len(index) == len(x) - 30 + 300 - 3
        assert own(index, new[1:], recall=1) == list(range(5001, 5300))


def test_waiting_entries_stay_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(1500)
    with make(tmp_path, x) as index, compacting(index, monkeypatch) as finish:
        added = threading.Event()
        many = rows(8000, 2)

        def add() -> None:
            index.add(np.arange(10_000, 18_000), many)
            added.set()

        thread = threading.Thread(target=add, daemon=True)
        thread.start()
        assert not added.wait(3.0), "more than half of the memory budget waits"
        held = index._engine.pending
        assert held is not None and held.used <= maintain.DURING * index._capacity
        finish()
        assert added.wait(SECONDS)
        thread.join()
        assert index.verify() == []
        assert len(index) == 9500


def test_closing_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make(tmp_path, rows(1500))
    with compacting(index, monkeypatch):
        index.add([5000], rows(1, 1))
        within(SECONDS, index.close)
        with pytest.raises(StoreError, match="is closed"):
            index.add([5001], rows(1, 2))
    with VectorIndex.open(tmp_path) as index:
        assert len(index) == 1501
        assert index.verify() == []


def test_a_reader_sees_what_came_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = rows(200, 1, 1.0)
    with make(tmp_path, rows(1500)) as index, compacting(index, monkeypatch) as finish:
        index.add(np.arange(5000, 5200), new)
        with VectorIndex.open(tmp_path) as reader:
            assert len(reader) == 1700
            finish()
            assert own(reader, new, recall=1) == list(range(5000, 5200))


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from memspan.longterm.spann import VectorIndex, maintain
from tests.longterm.spann.test_updates import rows

def change():
    index.add(np.arange(5000, 5200), rows(200, 1, 1.0))
    index.delete([5000, 100])

def then_die(call):
    def run(*args):
        call(*args)
        os.kill(os.getpid(), 9)
    return run

where, rewrite = sys.argv[2], maintain.rewrite

def changed_meanwhile(*args):
    change()
    if where == "begun":
        os.kill(os.getpid(), 9)
    out = rewrite(*args)
    if where == "written":
        os.kill(os.getpid(), 9)
    if where in ("write_order", "write_checkpoint", "write_json"):
        setattr(maintain, where, then_die(getattr(maintain, where)))
    return out

index = VectorIndex.open(Path(sys.argv[1]))
index.delete(np.arange(100))
index.flush()
maintain.rewrite = changed_meanwhile
index.compact(progress=False)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("where", ["begun", "written", "write_order", "write_checkpoint", "write_json", "done"])
def test_a_kill_during_a_compaction_loses_nothing(tmp_path: Path, where: str) -> None:
    x = rows(1500)
    make(tmp_path, x).close()
    command = [sys.executable, "-c", KILLED, str(tmp_path), where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    with VectorIndex.open(tmp_path) as index:
        assert index.verify() == []
        assert len(index) == 1500 - 101 + 199
        assert own(index, rows(200, 1, 1.0)[1:], recall=1) == list(range(5001, 5200))
        assert own(index, x[101:], recall=1) == list(range(101, 1500))
        index.add([9000], np.ones((1, DIM), np.float32))
        index.flush()
        assert index.verify() == []
        assert sum(path.name.startswith("lists") for path in tmp_path.iterdir()) == 1
