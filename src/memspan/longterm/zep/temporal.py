"""The temporal closing rule and the two-axis view: pure functions of time (Zep, section 2.2.3, and graphiti's code).

Times are microseconds; None is unknown for a beginning, and open for an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Validity in the world: true from `valid_at` up to, not including, `invalid_at`."""

    valid_at: int | None
    invalid_at: int | None = None

    def holds(self, moment: int) -> bool:
        """Whether it is true at a moment; an unknown beginning counts as before every moment."""
        return (self.valid_at is None or self.valid_at <= moment) and (
            self.invalid_at is None or moment < self.invalid_at
        )


@dataclass(frozen=True, slots=True)
class Closing:
    """What a new fact changes.

    Attributes:
        new: the new fact's window.
        closed: (position, window) of every known fact whose window changes.
    """

    new: Window
    closed: tuple[tuple[int, Window], ...]


def closing_rule(new: Window, contradicted: Sequence[Window]) -> Closing:
    """Close facts that cannot be true together.

    A fact that contradicts known ones ends where the first later one begins, and ends the earlier ones where it
    begins itself. Windows that do not overlap are left alone, and where a beginning is unknown nothing is closed.
    The result does not depend on the order in which dated facts arrive.
    """
    start = new.valid_at
    if start is None:
        return Closing(new, ())
    end = new.invalid_at
    for later in sorted(w.valid_at for w in contradicted if w.valid_at is not None):
        if later > start:
            end = later if end is None else min(end, later)
            break
    closed = []
    for position, known in enumerate(contradicted):
        if known.valid_at is None or known.valid_at >= start:
            continue
        if known.invalid_at is not None and known.invalid_at <= start:
            continue  # it had ended before
        closed.append((position, Window(known.valid_at, start)))
    return Closing(Window(start, end), tuple(closed))


def same_state(known: Window, seen_at: int | None, rivals_seen: Sequence[int]) -> bool:
    """Whether a statement that something held at a moment speaks of a known window of the same fact.

    It does when the moment lies in the window, or before it and nothing that contradicts it was seen in between
    (`rivals_seen`, moments). After the window's end it is the same thing come true again.
    """
    if seen_at is None or known.valid_at is None:
        return known.invalid_at is None or seen_at is None or seen_at < known.invalid_at
    if seen_at >= known.valid_at:
        return known.invalid_at is None or seen_at < known.invalid_at
    return not any(seen_at < moment < known.valid_at for moment in rivals_seen)
