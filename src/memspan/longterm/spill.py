"""Arrays that live in unlinked temporary files beside the store instead of in RAM.

They are mapped, so code that reads them does not change; `release` gives the pages back after a search. The files have
no name: nothing of them is left when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import mmap
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from memspan.core.errors import StoreError


class Spill:
    """Makes arrays on disk.

    Args:
        folder: where; the store's own folder, since a system's folder for temporary files may be RAM.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A new array of zeros.

        Raises:
            StoreError: the folder cannot be written, or its disk is full.
        """
        kind = np.dtype(dtype)
        count = int(np.prod(shape))
        if not count:
            return np.zeros(shape, kind)
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.truncate(count * kind.itemsize)
                mapped = mmap.mmap(file.fileno(), 0)
        except OSError as error:
            raise StoreError(f"the index needs {count * kind.itemsize:,} bytes in {self._folder}: {error}") from error
        self._maps.add(mapped)
        return np.frombuffer(mapped, kind, count).reshape(shape)

    def copy(self, values: NDArray[Any]) -> NDArray[Any]:
        """The same values on disk."""
        made = self.zeros(values.shape, values.dtype)
        made[...] = values
        return made

    def release(self) -> None:
        """Let the system take back the RAM of all pages that were read or written; their content stays."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in list(self._maps):
                with contextlib.suppress(OSError, ValueError):
                    mapped.madvise(mmap.MADV_DONTNEED)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(len(mapped) for mapped in list(self._maps))
