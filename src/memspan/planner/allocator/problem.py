"""What an allocator is asked and what it answers: buffers with lifespans, and an offset for each.

Times are whole numbers without a unit (the operations of a step, in their order); sizes and offsets are bytes. A
lifespan is half-open: a buffer that lives in [0, 3) and one that lives in [3, 9) may have the same bytes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from memspan.core.errors import InputError, MemspanError

Ints = npt.NDArray[np.int64]
MOST = 2**62  # of a size, an offset or a time: sums of two stay inside 64 bits


class PlacementError(MemspanError):
    """Offsets under which two buffers would hold the same byte at the same time, or that are out of range."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A stretch of bytes that is needed for a stretch of time.

    Attributes:
        id: its name, unique in a problem.
        lower, upper: lifespan [lower, upper).
        size: bytes, at least 1.
        alignment: its offset must be a multiple of this.
        gaps: stretches [from, until) of its lifespan during which its bytes may be another's.
        uses: times at which it is read or written, inside its lifespan; the first write is at `lower`. Not needed to
            pack.
        benefit: what it is worth to have it in a small fast memory (`mallocmuzero`), in any unit.
        alias: buffers of one such name share one placement in the fast memory; "" for none.
        kind: "temporary", or "input": there before the first time, as weights are.

    Raises:
        InputError: an empty lifespan, a size below 1, a number out of range, gaps or uses outside of the lifespan.
    """

    id: str
    lower: int
    upper: int
    size: int
    alignment: int = 1
    gaps: tuple[tuple[int, int], ...] = ()
    uses: tuple[int, ...] = ()
    benefit: float = 0.0
    alias: str = ""
    kind: str = "temporary"

    def __post_init__(self) -> None:
        if not -MOST <= self.lower < self.upper <= MOST:
            raise InputError(
                f"buffer {self.id}: it lives in [{self.lower}, {self.upper}): `lower` must be below `upper`, which is "
                "exclusive"
            )
        if not 1 <= self.size <= MOST:
            raise InputError(f"buffer {self.id}: size is {self.size}; a buffer has at least one byte")
        if not 1 <= self.alignment <= MOST:
            raise InputError(f"buffer {self.id}: alignment is {self.alignment}; it must be at least 1")
        at = self.lower
        for start, end in self.gaps:
            if not at <= start < end <= self.upper:
                raise InputError(
                    f"buffer {self.id}: gap [{start}, {end}) is empty, overlaps another, is out of order, or is not in "
                    f"[{self.lower}, {self.upper})"
                )
            at = end
        if self.uses and not (
            self.lower <= self.uses[0] and self.uses[-1] < self.upper and all(np.diff(self.uses) > 0)
        ):
            raise InputError(f"buffer {self.id}: uses must ascend inside of [{self.lower}, {self.upper})")
        if not 0 <= self.benefit < float("inf"):
            raise InputError(f"buffer {self.id}: benefit is {self.benefit}; it must be a number from 0")
        if self.kind not in ("temporary", "input"):
            raise InputError(f"buffer {self.id}: kind is {self.kind!r}; it must be temporary or input")

    @property
    def pieces(self) -> Iterator[tuple[int, int]]:
        """The stretches of time in which its bytes are its own."""
        at = self.lower
        for start, end in self.gaps:
            if at < start:
                yield at, start
            at = end
        if at < self.upper:
            yield at, self.upper


@dataclass(frozen=True)
class Problem:
    """Buffers to be placed in one address space.

    Attributes:
        buffers: in any order; a `Placement` has an offset for each, in this order.
        name: for messages and plots.

    Raises:
        InputError: no buffer, or two of the same id.
    """

    buffers: tuple[Buffer, ...]
    name: str = "buffers"

    def __post_init__(self) -> None:
        if not self.buffers:
            raise InputError(f"{self.name}: there is no buffer to place")
        (most, times), *_ = Counter(buffer.id for buffer in self.buffers).most_common(1)
        if times > 1:
            raise InputError(f"{self.name}: {times} buffers have the id {most!r}; each needs its own")
        if sum(buffer.size + buffer.alignment for buffer in self.buffers) > MOST:
            raise InputError(f"{self.name}: the sizes add up to more than 64 bits hold")

    def __len__(self) -> int:
        return len(self.buffers)

    @cached_property
    def lower(self) -> Ints:
        """First time of each lifespan [n]."""
        return np.array([buffer.lower for buffer in self.buffers], np.int64)

    @cached_property
    def upper(self) -> Ints:
        """End of each lifespan, exclusive [n]."""
        return np.array([buffer.upper for buffer in self.buffers], np.int64)

    @cached_property
    def size(self) -> Ints:
        """Bytes of each buffer [n]."""
        return np.array([buffer.size for buffer in self.buffers], np.int64)

    @cached_property
    def alignment(self) -> Ints:
        """Alignment of each buffer [n]."""
        return np.array([buffer.alignment for buffer in self.buffers], np.int64)

    @cached_property
    def plain(self) -> bool:
        """Whether no buffer has gaps or an alignment."""
        return all(buffer.alignment == 1 and not buffer.gaps for buffer in self.buffers)

    @cached_property
    def pieces(self) -> tuple[Ints, Ints, Ints]:
        """Start [m], end [m] and buffer number [m] of every stretch in which a buffer holds its bytes."""
        rows = [(start, end, i) for i, buffer in enumerate(self.buffers) for start, end in buffer.pieces]
        start, end, owner = np.array(rows, np.int64).reshape(-1, 3).T
        return start, end, owner

    def live(self) -> tuple[Ints, Ints]:
        """Times [k] at which the set of live buffers changes, and the bytes that live from each on [k]."""
        start, end, owner = self.pieces
        times = np.unique(np.concatenate([start, end]))
        change = np.zeros(len(times), np.int64)
        np.add.at(change, np.searchsorted(times, start), self.size[owner])
        np.subtract.at(change, np.searchsorted(times, end), self.size[owner])
        return times, np.cumsum(change)

    @cached_property
    def lower_bound(self) -> int:
        """The most bytes that live at one time: no placement has a smaller peak."""
        return int(max(self.live()[1].max(), self.size.max()))

    @cached_property
    def neighbours(self) -> list[Ints]:
        """For each buffer, the numbers of the others that hold bytes at one of the times that it does, ascending."""
        found: list[set[int]] = [set() for _ in self.buffers]
        start, end, owner = self.pieces
        open_now: dict[int, int] = {}  # piece -> its buffer
        events = [(int(end[p]), 0, p) for p in range(len(owner))] + [(int(start[p]), 1, p) for p in range(len(owner))]
        for _, begins, piece in sorted(events):
            if not begins:
                del open_now[piece]
                continue
            mine = int(owner[piece])
            for other in open_now.values():
                found[mine].add(other)
                found[other].add(mine)
            open_now[piece] = mine
        return [np.array(sorted(others), np.int64) for others in found]


@dataclass(frozen=True)
class Placement:
    """An answer: where each buffer lies.

    Attributes:
        problem: what was asked.
        offsets: bytes from the start of the address space [n].
        allocator: who found it.
        bound: no placement has a smaller peak than this.
        seconds: wall time that finding it took.
        stopped: why the search ended before it was done: "", "time" or "interrupted".
        notes: what the allocator has to say, as JSON types.
    """

    problem: Problem
    offsets: tuple[int, ...]
    allocator: str = ""
    bound: int = 0
    seconds: float = 0.0
    stopped: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", max(self.bound, self.problem.lower_bound))

    @cached_property
    def peak(self) -> int:
        """Bytes of address space: the largest end of a buffer."""
        return max(offset + buffer.size for offset, buffer in zip(self.offsets, self.problem.buffers, strict=True))

    @property
    def optimal(self) -> bool:
        """Whether no placement can have a smaller peak."""
        return self.peak <= self.bound

    def check(self) -> None:
        """Return if no two buffers hold the same byte at the same time, and all offsets are in range and aligned.

        Raises:
            PlacementError: otherwise; the message names the buffers.
        """
        check_offsets(self.problem, self.offsets)

    def to_json(self) -> dict[str, Any]:
        """Everything but the buffers, as JSON types; `offsets` by id."""
        return {
            "allocator": self.allocator,
            "peak": self.peak,
            "lower_bound": self.problem.lower_bound,
            "bound": self.bound,
            "optimal": self.optimal,
            "seconds": round(self.seconds, 4),
            "stopped": self.stopped,
            "notes": self.notes,
            "offsets": {b.id: offset for b, offset in zip(self.problem.buffers, self.offsets, strict=True)},
        }


def check_offsets(problem: Problem, offsets: Sequence[int]) -> None:
    """Independent of every allocator: a sweep over time that holds what lives sorted by offset.

    Raises:
        PlacementError: two buffers overlap, an offset is negative or not aligned, or there are too few.
    """
    buffers = problem.buffers
    if len(offsets) != len(buffers):
        raise PlacementError(f"{len(buffers)} buffers need as many offsets, not {len(offsets)}")
    for buffer, offset in zip(buffers, offsets, strict=True):
        if offset < 0 or offset % buffer.alignment:
            raise PlacementError(
                f"buffer {buffer.id} lies at {offset}, which is no multiple of {buffer.alignment} from 0 on"
            )
    events = []
    for i, buffer in enumerate(buffers):
        for start, end in buffer.pieces:
            events += [(end, 0, i), (start, 1, i)]
    live: list[tuple[int, int]] = []  # (offset, buffer), disjoint and ascending
    for when, begins, i in sorted(events):
        mine = (int(offsets[i]), i)
        at = bisect_left(live, mine)
        if not begins:
            del live[at]
            continue
        for place in (at - 1, at):
            if 0 <= place < len(live):
                start, other = live[place]
                if start < mine[0] + buffers[i].size and mine[0] < start + buffers[other].size:
                    raise PlacementError(
                        f"at {when}, buffers {buffers[other].id} at {start} and {buffers[i].id} at {mine[0]} overlap"
                    )
        insort(live, mine)


def align(offset: int, alignment: int) -> int:
    """The first multiple of `alignment` from `offset` on."""
    return -(-offset // alignment) * alignment


def lowest_offset(size: int, alignment: int, taken: Iterable[tuple[int, int]]) -> int:
    """The lowest aligned offset at which `size` bytes lie beside all [start, end) of `taken`, which are ascending."""
    at = 0
    for start, end in taken:
        if start - at >= size:
            break
        at = max(at, align(end, alignment))
    return at
