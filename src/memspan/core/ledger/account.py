"""The ledger's books: bytes by tier and place over time, from a list of events. Knows nothing of tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from memspan.core.footprint import Footprint

_POINTS = 1024  # the timeline is halved when it reaches twice as many
_FIRST_WIDTH = 1e-4  # seconds that a point of the timeline stands for at first; doubles with every halving


class Line(Protocol):
    """Something whose bytes are booked: a storage, or one entry of a store.

    Attributes:
        slot: index of its tier and place.
        booked: bytes of it that `Account.settle` has counted so far.
    """

    slot: int
    booked: int


class Account:
    """Adds up events: a line, when, and by how many bytes it changed.

    Events are only collected while the watched work runs, and counted later, in `settle`: a tensor's tier is often
    known only after it was made (a gradient once it is in `.grad`, a key once it is in the cache), and is then right
    from its birth on.

    Attributes:
        events: what has not been counted yet: line, time and change of each event, one after the other in one flat
            list, because a tuple for each would set off the garbage collector. In the place of a line that ended
            may stand its slot.
        now: bytes per slot.
        most: largest bytes per slot so far, each at its own moment.
        peak: bytes per slot at the moment with the most bytes in memory.
        stretches: the same of each stretch between two marks, by the name of the mark that began it.
        trace: with `record`, all changes of each stretch in their order: slot, bytes.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, *, record: bool = False) -> None:
        self.clock = clock
        self.events: list[Any] = []
        self.now: list[int] = []
        self.most: list[int] = []
        self.peak: list[int] = []
        self.stretches: dict[str, list[int]] = {}
        self.trace: dict[str, list[tuple[int, int]]] = {}
        self._record = record
        self._stretch = ""  # the mark that began the stretch at hand, "" before the first
        self._stretch_memory: dict[str, int] = {}
        self._keys: list[tuple[str, str]] = []
        self._slots: dict[tuple[str, str], int] = {}
        self._memory = self._total = 0
        self._peak_memory = self._peak_total = 0
        self._began = self._edge = self._top_when = clock()
        self._ended: float | None = None
        self._width = _FIRST_WIDTH
        self._top: list[int] = []  # the largest state since the last point of the timeline
        self._top_memory = -1
        self._points: list[tuple[float, list[int]]] = []

    def start(self) -> None:
        """Begin the time that `seconds` and the timeline count."""
        self._began = self._edge = self._top_when = self.clock()

    def stop(self) -> None:
        """Count what is left and end that time."""
        self.settle()
        self._ended = self.clock()

    @property
    def seconds(self) -> float:
        """Time from `start` to `stop`, or until now."""
        return (self.clock() if self._ended is None else self._ended) - self._began

    def slot(self, tier: str, place: str) -> int:
        """The index of a tier and a place."""
        key = (tier, place)
        found = self._slots.get(key)
        if found is None:
            found = self._slots[key] = len(self._keys)
            self._keys.append(key)
            for column in (self.now, self.most, self.peak, *self.stretches.values()):
                column.append(0)
        return found

    def keys(self) -> list[tuple[str, str]]:
        """Tier and place of each slot."""
        return self._keys.copy()

    def tier(self, slot: int) -> str:
        """The tier of a slot."""
        return self._keys[slot][0]

    def place(self, slot: int) -> str:
        """The place of a slot."""
        return self._keys[slot][1]

    def book(self, line: Line, change: int) -> None:
        """Add an event that happens now."""
        self.events.extend((line, self.clock(), change))

    def move(self, moves: Iterable[tuple[Line, int]]) -> None:
        """Give lines other slots: those without booked bytes from their birth on, others from this moment on."""
        late = []
        for line, slot in moves:
            if line.booked:
                late.append((line, slot))
            else:
                line.slot = slot
        if late:
            self.settle()
        for line, slot in late:
            if self._record:
                self.trace.setdefault(self._stretch, []).extend(((line.slot, -line.booked), (slot, line.booked)))
            self.now[line.slot] -= line.booked
            self.now[slot] += line.booked
            self.most[slot] = max(self.most[slot], self.now[slot])
            line.slot = slot

    def mark(self, name: str) -> None:
        """Count all events, and begin a stretch; one of the same name goes on with the other's largest state."""
        self.settle()
        self._stretch = name
        if self._memory > self._stretch_memory.get(name, -1):
            self._stretch_memory[name] = self._memory
            self.stretches[name] = self.now.copy()

    def settle(self) -> None:
        """Count all events."""
        events, now, most = self.events, self.now, self.most
        stretch = self._stretch
        stretch_memory = self._stretch_memory.get(stretch, 0) if stretch else None
        trace = self.trace.setdefault(stretch, []) if self._record else None
        in_memory = [place != "disk" for _, place in self._keys]
        while events:  # a garbage collection during the loop can add to them
            batch = events[:]
            del events[: len(batch)]
            for line, when, change in zip(batch[::3], batch[1::3], batch[2::3], strict=True):
                if type(line) is int:
                    slot = line
                else:
                    slot = line.slot
                    line.booked += change
                now[slot] += change
                if trace is not None:
                    trace.append((slot, change))
                self._total += change
                if in_memory[slot]:
                    self._memory += change
                if change > 0:
                    if now[slot] > most[slot]:
                        most[slot] = now[slot]
                    if (self._memory, self._total) > (self._peak_memory, self._peak_total):
                        self._peak_memory, self._peak_total = self._memory, self._total
                        self.peak = now.copy()
                    if stretch_memory is not None and self._memory > stretch_memory:
                        stretch_memory = self._stretch_memory[stretch] = self._memory
                        self.stretches[stretch] = now.copy()
                if when >= self._edge:
                    self._point(when)
                if self._memory >= self._top_memory:
                    self._top_memory, self._top_when, self._top = self._memory, when, now.copy()

    def _point(self, when: float) -> None:
        """Close a point of the timeline: the largest state since the one before."""
        if self._top_memory >= 0:
            self._points.append((self._top_when, self._top))
        self._top_memory = -1
        self._edge = when + self._width
        if len(self._points) >= 2 * _POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [max(pair, key=lambda point: sum(point[1])) for pair in pairs]
            self._width *= 2

    def footprint(self, column: list[int]) -> Footprint:
        """One of `now`, `most` and `peak` as a footprint."""
        return Footprint({key: n for key, n in zip(self._keys, column, strict=False) if n})

    def timeline(self) -> list[tuple[float, Footprint]]:
        """Seconds since the beginning, and what was held: the largest state of each of at most 2048 stretches of time.

        The last entry is the state after the last event.
        """
        points = self._points + ([(self._top_when, self._top)] if self._top_memory >= 0 else [])
        points.append((self._began + self.seconds, self.now))
        return [(when - self._began, self.footprint(column)) for when, column in points]
