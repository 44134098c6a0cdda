"""What this machine's disk and memory give: random reads past the page cache, and a stream of memory."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

BLOCKS = (4096, 16384)
DEPTHS = (1, 16, 32)
READS = 1500  # of one depth
STREAM = 256 << 20  # bytes


def _reads(path: str, block: int, count: int, seed: int) -> tuple[float, float]:
    """Begin and end of `count` aligned reads at random offsets."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, block)
    places = np.random.default_rng(seed).integers(0, os.fstat(fd).st_size // block, count).tolist()
    with suppress(OSError):  # as the indexes' queries are timed
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    begin = time.monotonic()
    for place in places:
        os.preadv(fd, [buffer], place * block)
    end = time.monotonic()
    os.close(fd)
    return begin, end


def file_of_noise(path: Path, size: int) -> Path:
    """A file of `size` random bytes, made when it is not there."""
    if not path.exists() or path.stat().st_size != size:
        random = np.random.Generator(np.random.SFC64(0))
        with path.open("wb") as out:
            for _ in range(size >> 24):
                out.write(random.bytes(1 << 24))
            out.flush()
            os.fsync(out.fileno())
    return path


def disk(path: Path) -> list[dict[str, Any]]:
    """Reads a second and microseconds a read, one process for each read in flight; empty without O_DIRECT."""
    found = []
    for block in BLOCKS:
        for depth in DEPTHS:
            count = READS if depth > 1 else READS // 3
            tasks = [(str(path), block, count // depth + 1, 1000 * depth + block + i) for i in range(depth)]
            try:
                with multiprocessing.get_context("fork").Pool(depth) as pool:
                    spans = pool.starmap(_reads, tasks, chunksize=1)
            except OSError:
                return []
            seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
            done = sum(task[2] for task in tasks)
            found.append(
                {"block": block, "depth": depth, "per_second": done / seconds, "us": seconds * depth / done * 1e6}
            )
    return found


def stream() -> float:
    """Bytes a second that one core reads from memory: the best of 8 products of a long vector with itself."""
    x = np.ones(STREAM // 4, np.float32)
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        np.dot(x, x)
        times.append(time.perf_counter() - begin)
    return float(x.nbytes / min(times))
