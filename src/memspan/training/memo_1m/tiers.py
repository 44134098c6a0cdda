"""Slow memory: where a layer's buffer goes between its forward and its backward pass, and how it gets there and back.

Without an accelerator that is a scratch file, written and read by one thread while the layers compute; with one it is
page-locked host memory, copied on a stream of its own. The second is written for CUDA and not tested there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memspan.core.errors import BudgetError, InputError

Ticket = Callable[[], None]
"""A copy under way: calling it waits until it is done, and raises what went wrong."""

_TIMED = 16 << 20  # bytes that are moved there and back to time the link


def done() -> None:
    """The ticket of what is done."""


class Tier:
    """Slow memory without bytes, for tensors without bytes: what is moved is counted alone.

    Attributes:
        place: "disk" or "ram", as in a `Footprint`.
        nbytes: reserved so far.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.nbytes = 0

    def reserve(self, nbytes: int) -> None:
        """Make sure of this many bytes in all, before anything is moved.

        Raises:
            BudgetError: they are not there.
        """
        self.nbytes = max(self.nbytes, nbytes)

    def put(self, at: int, buffer: Tensor) -> Ticket:
        """Begin to copy a buffer, uint8 [bytes], to the offset `at`."""
        return done

    def fetch(self, at: int, buffer: Tensor) -> Ticket:
        """Begin to copy it back, into a buffer that was put there."""
        return done

    def close(self) -> None:
        """Give the memory back."""
        self.nbytes = 0


class Disk(Tier):
    """A scratch file without a name, which goes with the process.

    Args:
        folder: where it lies; None is the system's folder for temporary files.
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__("disk")
        self.folder = folder or tempfile.gettempdir()
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise InputError(f"no scratch file can be made in {self.folder}: {error}; give another folder") from error
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memo-1m")
        self._close = weakref.finalize(self, _close, self._thread, self._file)

    def reserve(self, nbytes: int) -> None:
        """As `Tier.reserve`."""
        more = nbytes - self.nbytes
        if more <= 0:
            return
        free = free_bytes(self.folder)
        try:
            if more > free:
                raise OSError("it is full")
            os.posix_fallocate(self._file, 0, nbytes)
        except OSError:
            raise BudgetError(
                f"the scratch file in {self.folder}",
                needed=nbytes,
                allowed=self.nbytes + free,
                advice="give a folder on a larger disk, a smaller alpha, or fewer tokens",
            ) from None
        super().reserve(nbytes)

    def put(self, at: int, buffer: Tensor) -> Ticket:
        """As `Tier.put`."""
        return self._waiting(self._thread.submit(_all, os.pwritev, self._file, at, buffer))

    def fetch(self, at: int, buffer: Tensor) -> Ticket:
        """As `Tier.fetch`."""
        return self._waiting(self._thread.submit(_all, os.preadv, self._file, at, buffer))

    def _waiting(self, future: Future[None]) -> Ticket:
        def wait() -> None:
            try:
                future.result()
            except OSError as error:
                raise InputError(f"the scratch file in {self.folder} failed: {error}; give another folder") from error

        return wait

    def close(self) -> None:
        """As `Tier.close`."""
        self._close()
        super().close()


def _close(thread: ThreadPoolExecutor, file: int) -> None:
    thread.shutdown()
    os.close(file)


def _all(work: Callable[[int, list[Any], int], int], file: int, at: int, buffer: Tensor) -> None:
    array: Any = buffer.numpy()
    view = memoryview(array)
    moved = 0
    while moved < len(view):
        n = work(file, [view[moved:]], at + moved)
        if n <= 0:
            raise OSError("it ended early")
        moved += n


class Host(Tier):
    """Page-locked host memory beside an accelerator, and a stream that copies while others compute.

    Written for CUDA and untested: no accelerator was at hand. It is chosen by the device of the layers alone.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__("ram")
        if device.type != "cuda":
            raise InputError(f"memo-1m moves activations from the CPU and from CUDA, not from {device.type}")
        self._device = device
        make: Any = torch.cuda.Stream
        self._stream = make(device)
        self._memory: list[Tensor] = []  # pieces, so that growing moves nothing
        self._ends: list[int] = []

    def reserve(self, nbytes: int) -> None:
        """As `Tier.reserve`."""
        more = nbytes - self.nbytes
        if more <= 0:
            return
        try:
            self._memory.append(torch.empty(more, dtype=torch.uint8, pin_memory=True))
        except RuntimeError as error:
            raise BudgetError(
                "page-locked host memory", needed=nbytes, allowed=self.nbytes, advice=f"{error}; lower alpha"
            ) from error
        self._ends.append(nbytes)
        super().reserve(nbytes)

    def put(self, at: int, buffer: Tensor) -> Ticket:
        """As `Tier.put`; what the current stream has queued is done before."""
        return self._copy(at, buffer, out=True)

    def fetch(self, at: int, buffer: Tensor) -> Ticket:
        """As `Tier.fetch`; what the current stream has queued is done before."""
        return self._copy(at, buffer, out=False)

    def _copy(self, at: int, buffer: Tensor, *, out: bool) -> Ticket:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            begin = 0
            for memory, end in zip(self._memory, self._ends, strict=True):
                low, high = max(at, begin), min(at + len(buffer), end)
                if low < high:
                    slow, fast = memory[low - begin : high - begin], buffer[low - at : high - at]
                    (slow if out else fast).copy_(fast if out else slow, non_blocking=True)
                begin = end
            event = self._stream.record_event()
        buffer.record_stream(self._stream)
        return lambda: torch.cuda.current_stream(self._device).wait_event(event)

    def close(self) -> None:
        """As `Tier.close`."""
        torch.cuda.synchronize(self._device)
        self._memory.clear()
        self._ends.clear()
        super().close()


def free_bytes(folder: str | None) -> int:
    """Bytes that are free on the disk of a folder."""
    return shutil.disk_usage(Path(folder or tempfile.gettempdir())).free


@cache
def timed_bandwidth(folder: str | None) -> float:
    """Bytes a second to a scratch file and back, the slower of the two; timed once in a process."""
    tier = Disk(folder)
    tier.reserve(_TIMED)
    buffer = torch.zeros(_TIMED, dtype=torch.uint8)
    slowest = 0.0
    for copy in (tier.put, tier.fetch):
        copy(0, buffer)()
        begun = time.perf_counter()
        copy(0, buffer)()
        slowest = max(slowest, time.perf_counter() - begun)
    tier.close()
    return _TIMED / max(slowest, 1e-9)


@cache
def timed_flops(dtype: torch.dtype) -> float:
    """Floating-point operations a second in products on this CPU; timed once in a process."""
    side = 768
    left = torch.ones(side, side, dtype=dtype)
    fastest = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        left @ left
        fastest = min(fastest, time.perf_counter() - begun)
    return 2 * side**3 / max(fastest, 1e-9)
