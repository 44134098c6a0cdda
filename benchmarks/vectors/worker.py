"""Measures one vector index in a process of its own: one task as JSON in argv, its answer as JSON on the last line.

    python -P worker.py '{"task": "build", "kind": "hnswlib", ...}'

All clocks and byte counts are here, so that every index is measured alike. Needs numpy and the index's own package.
Queries are timed in bursts under the real-time scheduler where this process may ask for it, so that other work on the
machine does not count.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from indexes import KINDS, Index

K = 10
BURST = 500  # queries timed at a time
REPEATS = 6  # of a burst at most: short ones are worth repeating
LONG_RUN = 10_000  # queries after which memory is read
SLOW = 2_000  # microseconds a query, over which fewer are asked


def status() -> dict[str, int]:
    """Bytes of this process: private (anonymous) and mapped pages that are resident."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[key].split()[0]) for name, key in (("private", "RssAnon"), ("mapped", "RssFile"))}


def read_bytes() -> int:
    """Bytes that the disk gave to this process."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


@contextmanager
def real_time() -> Iterator[None]:
    """At the head of the line where that is allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Peak:
    """The most private memory over what there was at the start, looked at every 10 ms."""

    def __enter__(self) -> Peak:
        self.base = self.bytes = status()["private"]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, status()["private"])

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes -= self.base


def recall(found: Any, truth: Any) -> float:
    """Share of the true neighbours found."""
    return float((found[:, :, None] == truth[:, None, :]).any(1).mean())


def drop(folders: list[Path]) -> None:
    """Takes the files out of the page cache: first out of this process's maps, then out of the cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    prefixes = tuple(str(folder.resolve()) for folder in folders)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5].startswith(prefixes):
            first, last = (int(part, 16) for part in words[0].split("-"))
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), 4)  # MADV_DONTNEED
    for folder in folders:
        for path in (p for p in [folder, *folder.rglob("*")] if p.is_file()):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def touch(folders: list[Path]) -> None:
    """Reads the files once, so that they are in the page cache; a small buffer, lest freed memory hide what follows."""
    buffer = bytearray(1 << 16)
    for folder in folders:
        for path in (p for p in [folder, *folder.rglob("*")] if p.is_file()):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


class Worker:
    """One index and its data."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.data, self.folder = Path(task["data"]), Path(task["folder"])
        self.dim = task["dim"]
        self.raw = Path(task.get("raw", self.data / "rows.f32"))
        kind = KINDS[task["kind"]]
        self.index: Index = kind(self.folder, self.raw, self.dim, task.get("threads", 1))
        if "config" in task:
            self.index.config = task["config"]  # type: ignore[attr-defined]
        self.rows = np.memmap(self.data / "rows.f32", np.float32, "r").reshape(-1, self.dim)

    @property
    def files(self) -> list[Path]:
        return [self.folder, *([self.raw] if self.index.raw else [])]

    def queries(self, name: str = "queries.npy") -> Any:
        """[q, dim]."""
        return np.load(self.data / name)

    def truth(self, name: str = "truth.npy") -> Any:
        """[q, k]."""
        return np.load(self.data / name)

    # Tasks -----------------------------------------------------------------------------------------------------------

    def build(self) -> dict[str, Any]:
        """Processor seconds, peak of private memory, bytes of files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with Peak() as peak:
            wall, cpu = time.perf_counter(), time.process_time()
            self.index.build(self.rows)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        found = {name: _version(name) for name in self.index.packages}
        return {
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "peak_private": peak.bytes,
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "file_bytes": size,
            "needs_raw_file": self.index.raw,
            "versions": {name: version for name, version in found.items() if version},
        }

    def serve(self) -> dict[str, Any]:
        """Warm: memory, opening, and recall and time of every setting."""
        touch(self.files)
        before = status()
        begin = time.perf_counter()
        self.index.open()
        opened = [time.perf_counter() - begin]
        queries, truth = self.queries(), self.truth()
        after = status()
        settings = [tuple(s) if isinstance(s, list) else s for s in self.task.get("settings") or self.index.settings]
        points = [self._point(queries, truth, setting) for setting in settings]
        out: dict[str, Any] = {"points": points, "private_opened": after["private"] - before["private"]}
        if self.task.get("memory"):
            middle = min(points, key=lambda point: abs(point["recall"] - 0.95))
            self._long_run(queries, middle)
            served = status()
            out |= {
                "private": served["private"] - before["private"],
                "mapped": served["mapped"] - before["mapped"],
                "latency": self._latency(queries, middle["setting"], 1000 if middle["us"] < SLOW else 100),
            }
            for _ in range(2):
                begin = time.perf_counter()
                self.index.open()
                opened.append(time.perf_counter() - begin)
            out["open_seconds"] = float(np.median(opened))
        return out

    def _point(self, queries: Any, truth: Any, setting: Any) -> dict[str, Any]:
        """A setting's recall over all queries and its time a query: the best of a few bursts."""
        few = queries[:20]
        with real_time():  # a pool of threads that is made now keeps what it is given now
            self.index.search(few, K, setting)
        begin = time.perf_counter()
        self.index.search(few, K, setting)
        slow = (time.perf_counter() - begin) / len(few) * 1e6 > SLOW
        burst = queries[: 100 if slow else BURST]
        times: list[tuple[float, float]] = []
        while len(times) < 2 or (len(times) < REPEATS and sum(wall for wall, _ in times) < 0.5):
            with real_time():
                begin, cpu = time.perf_counter(), time.process_time()
                found = self.index.search(burst, K, setting)
                times.append((time.perf_counter() - begin, time.process_time() - cpu))
        wall, cpu = min(times)
        rest = queries[len(burst) : 200 if slow else len(queries)]
        if len(rest):
            found = np.concatenate([found, self.index.search(rest, K, setting)])
        point = {
            "setting": setting,
            "recall": recall(found, truth[: len(found)]),
            "us": wall / len(burst) * 1e6,
            "cpu_us": cpu / len(burst) * 1e6,
        }
        return point | self.index.work()

    def _long_run(self, queries: Any, point: dict[str, Any]) -> None:
        count = LONG_RUN if point["us"] < SLOW else LONG_RUN // 20
        for at in range(0, count, BURST):
            place = at % len(queries)
            self.index.search(queries[place : place + BURST], K, point["setting"])

    def _latency(self, queries: Any, setting: Any, count: int) -> dict[str, float]:
        times = []
        for at in range(0, count, 100):
            with real_time():
                for i in range(at, at + 100):
                    q = queries[i % len(queries)][None]
                    begin = time.perf_counter()
                    self.index.search(q, K, setting)
                    times.append(time.perf_counter() - begin)
        p50, p99 = np.percentile(times, (50, 99)) * 1e6
        return {"p50_us": float(p50), "p99_us": float(p99)}

    def cold(self) -> dict[str, Any]:
        """Every query with nothing of the index's files in the page cache."""
        drop(self.files)
        self.index.open(cold=True)
        queries, truth = self.queries(), self.truth()
        levels = []
        for level, setting in self.task["levels"]:
            setting = tuple(setting) if isinstance(setting, list) else setting
            times: list[float] = []
            found = []
            read = read_bytes()
            stop = time.perf_counter() + self.task["seconds"]
            for q in queries[len(levels) * 200 :][: self.task["queries"]]:
                drop(self.files)
                with real_time():
                    begin = time.perf_counter()
                    found.append(self.index.search(q[None], K, setting)[0])
                    times.append(time.perf_counter() - begin)
                if time.perf_counter() > stop and len(times) >= 20:
                    break
            # Pages that an index read ahead and left unread count too: the disk gave them.
            read = read_bytes() - read
            first = len(levels) * 200
            p50, p99 = np.percentile(times, (50, 99))
            levels.append(
                {
                    "level": level,
                    "setting": setting,
                    "recall": recall(np.stack(found), truth[first : first + len(found)]),
                    "queries": len(times),
                    "qps": len(times) / sum(times),
                    "p50_ms": p50 * 1e3,
                    "p99_ms": p99 * 1e3,
                    "disk_bytes": read / len(times),
                    **self.index.work(),
                }
            )
        return {"levels": levels, "direct": bool(getattr(self.index, "direct", getattr(self.index, "cold", False)))}

    def add(self) -> dict[str, Any]:
        """Rate of adding shifted rows, and recall before and after at one setting."""
        self.index.open()
        if not getattr(self.index, "can_add", True):
            return {"void": "this version has no add"}
        setting = self.task["setting"]
        setting = tuple(setting) if isinstance(setting, list) else setting
        old, new = self.queries(), self.queries("extra-queries.npy")
        truth, grown = self.truth(), self.truth("grown-truth.npy")
        count = 100 if self.index.single else len(old)
        before = recall(self.index.search(old[:count], K, setting), truth[:count])
        extra = np.memmap(self.data / "extra.f32", np.float32, "r").reshape(-1, self.dim)
        with Peak() as peak:
            wall, cpu = time.perf_counter(), time.process_time()
            step = self.task["batch"]
            for at in range(0, len(extra), step):
                part = np.ascontiguousarray(extra[at : at + step])
                self.index.add(np.arange(len(self.rows) + at, len(self.rows) + at + len(part)), part)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = [
            recall(self.index.search(queries[:count], K, setting), part[:count])
            for queries, part in ((old, grown[: len(old)]), (new, grown[len(old) :]))
        ]
        return {
            "setting": setting,
            "rows": len(extra),
            "per_second": len(extra) / wall,
            "per_cpu_second": len(extra) / cpu,
            "peak_private": peak.bytes,
            "recall_before": before,
            "recall_old": after[0],
            "recall_new": after[1],
        }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """One task."""
    task = json.loads(sys.argv[1])
    worker = Worker(task)
    run: Callable[[], dict[str, Any]] = getattr(worker, task["task"])
    result = run()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
