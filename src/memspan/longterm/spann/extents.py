"""Room in the file of the lists: space that no list of the checkpoint in force uses, else the end of the file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class Extents:
    """The free space. Nothing that the checkpoint names is ever handed out, so that a crash leaves its lists whole.

    Args:
        start, length: [lists], sectors in use.
    """

    def __init__(self, start: npt.NDArray[np.generic], length: npt.NDArray[np.generic]) -> None:
        used = np.flatnonzero(length)
        begin, size = start[used].astype(np.int64), length[used].astype(np.int64)
        order = begin.argsort()
        ends = np.maximum.accumulate((begin + size)[order]) if len(order) else np.zeros(0, np.int64)
        self.end = int(ends[-1]) if len(ends) else 0
        before = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        gap = begin[order] - before
        self._gaps = [(int(a), int(g)) for a, g in zip(before[gap > 0], gap[gap > 0], strict=True)][::-1]

    def release(self, start: npt.NDArray[np.generic], length: Numbers) -> None:
        """Takes back room that was handed out."""
        if not len(start):
            return
        gaps = sorted([*self._gaps, *zip(start.tolist(), length.tolist(), strict=True)])
        self._gaps = [gaps[0]]
        for at, room in gaps[1:]:
            before, size = self._gaps[-1]
            if before + size == at:
                self._gaps[-1] = (before, size + room)
            else:
                self._gaps.append((at, room))
        self._gaps.reverse()

    def place(self, lengths: Numbers) -> Numbers:
        """First sectors for lists of these lengths, one after the other as far as a gap holds them."""
        starts = np.empty(len(lengths), np.int64)
        ends = np.cumsum(lengths)
        i = 0
        while i < len(lengths):
            before = int(ends[i] - lengths[i])
            if self._gaps:
                at, room = self._gaps.pop()
                to = int(np.searchsorted(ends, before + room, side="right"))
                if to <= i:
                    continue
                if left := room - (int(ends[to - 1]) - before):
                    self._gaps.append((at + room - left, left))
            else:
                at, to = self.end, len(lengths)
                self.end += int(ends[-1]) - before
            starts[i:to] = at + ends[i:to] - lengths[i:to] - before
            i = to
        return starts
