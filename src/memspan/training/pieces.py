"""Long vectors, some values at a time, in a way that the planner need not walk from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar

from torch import Tensor

from memspan.training.base import has_values

_standing: ContextVar[int] = ContextVar("standing", default=1)


def standing() -> int:
    """For how many runs of itself the code that runs now stands; for whoever counts what is done."""
    return _standing.get()


def pieces(values: Tensor, count: int, size: int) -> Iterator[tuple[int, int]]:
    """The (start, stop) of pieces of `size` values out of `count`; the last may be shorter.

    What is done to each must not depend on its number. On tensors without values the first, the second, which begins
    while what was made for the first is still held, and the last are given, and the second stands for all between.
    """
    starts = range(0, count, size)
    between = len(starts) - 2
    skipping = between > 1 and not has_values(values)
    for number, start in enumerate(starts):
        if skipping and number == 1:
            before = _standing.set(standing() * between)
            try:
                yield start, start + size
            finally:
                _standing.reset(before)
        elif not (skipping and 1 < number <= between):
            yield start, min(start + size, count)
