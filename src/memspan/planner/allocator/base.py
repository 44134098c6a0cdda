"""`Allocator`: a way to place buffers, and `allocate`, which runs one under a clock and checks what it finds.

An allocator is a class and a frozen dataclass of its settings. It implements `search`: it offers placements to the
`Run` as it finds them and leaves when the run is over. The catalogue's systems with such a class are found by their
slug: the class that `entry` names is an `Allocator`, or has one in its attribute `Allocator`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from memspan.core.catalog import load as load_system
from memspan.core.catalog import systems
from memspan.core.errors import InputError, MissingExtraError
from memspan.planner.allocator.problem import Placement, PlacementError, Problem, check_offsets

SECONDS = 60.0
"""How long a search may take when nothing is said."""

Tick = Callable[[float, str], None]
"""Told, now and then, which part of the time is over (0 to 1), and what the best peak is."""


class Run:
    """One search: its goal, its clock, and the best placement so far.

    Args:
        problem: the buffers.
        capacity: bytes of address space that there are; the search ends at the first placement that fits. None: the
            search goes on until nothing can be better.
        seconds: of wall time from now on.
        tick: see `Tick`.

    Attributes:
        offsets: the best placement's [n], None before the first.
        bound: no placement has a smaller peak.
        notes: what the allocator has to say, as JSON types.
    """

    def __init__(
        self, problem: Problem, *, capacity: int | None = None, seconds: float = SECONDS, tick: Tick | None = None
    ) -> None:
        self.problem, self.capacity, self.seconds = problem, capacity, seconds
        self.offsets: tuple[int, ...] | None = None
        self.bound = problem.lower_bound
        self.notes: dict[str, Any] = {}
        self._peak = 0
        self._begun = time.perf_counter()
        self._tick = tick

    @property
    def peak(self) -> int | None:
        """Of the best placement so far."""
        return None if self.offsets is None else self._peak

    @property
    def goal(self) -> int:
        """The search is done at a peak of this or less."""
        return max(self.bound, self.capacity or 0)

    @property
    def done(self) -> bool:
        """Whether the goal is reached."""
        return self.offsets is not None and self._peak <= self.goal

    @property
    def elapsed(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self._begun

    @property
    def left(self) -> float:
        """Seconds that it may still take, 0 when the time is over."""
        return max(0.0, self.seconds - self.elapsed)

    def over(self) -> bool:
        """Whether the search has to end: the goal is reached or the time is over. To be asked often."""
        if self._tick is not None:
            said = f"{self._peak:,} bytes" if self.offsets is not None else ""
            self._tick(min(1.0, self.elapsed / self.seconds) if self.seconds else 1.0, said)
        return self.done or self.left == 0

    def offer(self, offsets: Sequence[int]) -> bool:
        """Take a placement if its peak is the smallest so far; whether it was.

        Raises:
            PlacementError: it is none: the allocator is wrong.
        """
        taken = tuple(int(offset) for offset in offsets)
        if len(taken) != len(self.problem):
            raise PlacementError(f"{len(self.problem)} buffers need as many offsets, not {len(taken)}")
        peak = max(offset + buffer.size for offset, buffer in zip(taken, self.problem.buffers, strict=True))
        if self.offsets is not None and peak >= self._peak:
            return False
        check_offsets(self.problem, taken)
        self.offsets, self._peak = taken, peak
        return True

    def prove(self, bound: int) -> None:
        """Say that no placement has a smaller peak than this."""
        self.bound = max(self.bound, int(bound))


@dataclass(frozen=True, kw_only=True)
class AllocatorConfig:
    """Settings of an allocator that has none."""


class Allocator(ABC):
    """What every allocator is.

    Class attributes:
        slug: its name on the command line and in the catalogue.
        Config: its settings.
    """

    slug: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = AllocatorConfig

    def __init__(self, config: Any = None, **options: Any) -> None:
        if config is None:
            try:
                config = self.Config(**options)
            except TypeError as error:
                known = ", ".join(field.name for field in fields(self.Config)) or "none"
                raise InputError(f"{self.slug} has no such option ({error}); its options: {known}") from None
        elif options:
            raise InputError(f"{self.slug}: give a config or options, not both")
        self.config = config

    @abstractmethod
    def search(self, run: Run) -> None:
        """Offer placements to `run`, at least one, until `run.over()` or nothing is left to try.

        The first must come soon, without regard to the clock: what a search keeps when its time is over or the user
        interrupts it is the best that it has offered.
        """

    def place(
        self, problem: Problem, *, capacity: int | None = None, seconds: float = SECONDS, tick: Tick | None = None
    ) -> Placement:
        """Place all buffers, with as small a peak as can be found, or with one of at most `capacity` bytes.

        An interruption (KeyboardInterrupt) ends the search and not the caller, once there is a placement.

        Args:
            problem: the buffers.
            capacity: bytes of address space; the placement may exceed it where none that fits was found.
            seconds: wall time that the search may take.
            tick: hears of its progress.

        Raises:
            InputError: a capacity below 1 or a negative time.
        """
        if capacity is not None and capacity < 1:
            raise InputError(f"capacity is {capacity}; it must be at least one byte")
        if not seconds >= 0:
            raise InputError(f"the search may take {seconds} seconds; it must be a number from 0")
        run = Run(problem, capacity=capacity, seconds=seconds, tick=tick)
        stopped = ""
        try:
            self.search(run)
        except KeyboardInterrupt:
            if run.offsets is None:
                raise
            stopped = "interrupted"
        if run.offsets is None:
            raise PlacementError(f"{self.slug} left without a placement")
        if not stopped and not run.done and run.left == 0:
            stopped = "time"
        return Placement(
            problem=problem,
            offsets=run.offsets,
            allocator=self.slug,
            bound=run.bound,
            seconds=run.elapsed,
            stopped=stopped,
            notes=run.notes,
        )


def find_allocator(slug: str, **options: Any) -> Allocator:
    """The allocator of this name: one of the ordinary ones, or a working system of the catalogue.

    Raises:
        InputError: the name is not known, is planned only, or places no buffers; or an option is not known.
        MissingExtraError: a package it needs is not installed.
    """
    from memspan.planner.allocator.greedy import ORDINARY

    found: Any = ORDINARY.get(slug)
    if found is None:
        found = _allocator_of(load_system(slug)) if slug in {row.slug for row in systems()} else None
    if found is None:
        raise InputError(f"{slug} is no allocator; there are {', '.join(known_allocators())}")
    allocator: Allocator = found(**options)
    return allocator


def known_allocators() -> list[str]:
    """The slugs that `find_allocator` takes: the ordinary ones, then the catalogue's that work and can be loaded."""
    from memspan.planner.allocator.greedy import ORDINARY

    found = list(ORDINARY)
    for row in systems("training", "working"):
        try:
            if _allocator_of(load_system(row.slug)) is not None:
                found.append(row.slug)
        except MissingExtraError:
            continue
    return found


def _allocator_of(kind: type) -> type[Allocator] | None:
    inner = getattr(kind, "Allocator", kind)
    return inner if isinstance(inner, type) and issubclass(inner, Allocator) else None
