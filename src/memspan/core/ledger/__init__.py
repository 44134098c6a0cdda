"""The ledger: exact bytes of live tensors by tier, with the bytes of stores and of the process beside them.

with Ledger(model) as ledger:
    model(x).sum().backward()
print(ledger.table())
ledger.peak.by_tier["activations"]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint
from memspan.core.ledger import report
from memspan.core.ledger.account import Account
from memspan.core.ledger.tensors import TensorWatch, require_torch

if TYPE_CHECKING:
    import torch

__all__ = ["Holder", "Ledger", "rss_bytes"]

_RSS_EVERY = 0.01  # seconds between two readings of the process's size while tensors are counted


@runtime_checkable
class Holder(Protocol):
    """Anything that says how many bytes it holds: a `Memory`, an index, an embedder."""

    def footprint(self) -> Footprint:
        """Bytes by tier and place."""


class StoreLine:
    """The bytes that the watched stores hold in one tier and place."""

    __slots__ = ("booked", "nbytes", "slot")

    def __init__(self, slot: int) -> None:
        self.slot, self.booked, self.nbytes = slot, 0, 0


class Ledger:
    """Counts bytes by tier and place while its `with` block runs.

    Tiers: *weights* are parameters and buffers; *gradients* are what `.grad` holds; *optimizer* is the state of
    optimizers, and parameters of theirs that are no model's (master copies); *context* is what can be reached from a
    transformers `Cache` that a watched model was called with or returned, and from what `watch_context` was given;
    *activations* is every other tensor made inside the block and still alive: saved for backward, temporary, output.
    A gradient, state or key is in its tier from its birth, not only from the moment it was put there.

    Storages are counted, each once however many tensors look at it, with all their bytes. Exactly counted are strided
    and sparse tensors and wrappers around them (DTensor, quantized subclasses), on the CPU (place "ram") and on
    accelerators (place "device"; written for CUDA and not tested there).

    Not counted: tensors made before the block, other than weights, gradients, optimizer state and context; what a
    kernel allocates for itself while it runs; what an allocator keeps or adds by rounding; tensors made in threads
    other than the one that entered the block and its backward passes; what code compiled by Inductor allocates.
    Memory mapped from files counts whole, loaded or not. `rss` shows the process as the system sees it, to hold the
    sums against.

    Models and optimizers are held weakly: deleting a model inside the block takes its weights off the books. On
    leaving the block, by an exception too, every hook and mode is gone, and the ledger keeps what it has counted.

    Args:
        model: a module, an object whose `.model` is one, several of them in a list or by name, or None.
        optimizer: found by itself when it steps a parameter of the model; pass it to count state that exists already.
        stores: objects with `footprint()`, read on entry, at each reading and on leaving. Their bytes are added to
            those of the tensors, so do not give a store and the model inside it.
        context: cache, or list of them, to watch from the start; see `watch_context`.
        activations: False counts only weights, gradients, optimizer state and context, at next to no cost in time.
            None means True, unless only stores are given: then tensors are left alone and torch is not needed.
        record: keep every change, for `trace`; takes some hundred bytes for each.

    Entered inside of a `FakeTensorMode`, a ledger counts fake tensors as if they were real; else they hold no bytes.

    Raises:
        InputError: an argument is of the wrong kind.
        MissingExtraError: tensors are to be counted and torch is not installed.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        stores: Holder | Iterable[Holder] = (),
        context: object = None,
        activations: bool | None = None,
        record: bool = False,
    ) -> None:
        self._stores = [stores] if isinstance(stores, Holder) else list(stores)
        for store in self._stores:
            if not isinstance(store, Holder):
                raise InputError(f"a store must have footprint(), and {type(store).__name__} has none")
        self._account = Account(record=record)
        self._store_lines: dict[tuple[str, str], StoreLine] = {}
        self._watch: TensorWatch | None = None
        self._state = "new"
        self._rss = self._peak_rss = 0
        self._rss_when = 0.0
        rooted = not (model is None and optimizer is None and context is None)
        if activations is None:
            activations = rooted or not self._stores
        if rooted or activations:
            require_torch()
            modules = _modules(model)
            _check_optimizer(optimizer)
            self._watch = TensorWatch(self._account, modules, optimizer, context, activations, self._read_rss)

    def __enter__(self) -> Self:
        if self._state != "new":
            raise InputError("a ledger counts one block: make a new Ledger for the next")
        self._account.start()
        self._read_stores()
        self._read_rss(at_once=True)
        if self._watch is not None:
            self._watch.start()
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state = "closed"
        try:
            if self._watch is not None:
                self._watch.stop()
            with suppress(Exception):  # a store that was closed in the block cannot answer; its last reading stands
                self._read_stores()
            self._read_rss(at_once=True)
        finally:
            self._account.stop()

    # --- readings ----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> Footprint:
        """What is held at this moment; after the block, what was held when it ended."""
        self._read()
        return self._account.footprint(self._account.now)

    @property
    def peak(self) -> Footprint:
        """What was held at the moment with the most bytes in memory (device and RAM together)."""
        self._read()
        return self._account.footprint(self._account.peak)

    @property
    def highest(self) -> Footprint:
        """The most that each tier held at any moment, each at its own; the sum may never have been held."""
        self._read()
        return self._account.footprint(self._account.most)

    @property
    def rss(self) -> int:
        """Bytes of RAM of the whole process at the last reading; 0 where the system does not tell."""
        return self._rss

    @property
    def peak_rss(self) -> int:
        """The largest `rss` of all readings: at both ends, when asked, after forward passes and optimizer steps."""
        return self._peak_rss

    @property
    def seconds(self) -> float:
        """Length of the block, so far."""
        return self._account.seconds

    def timeline(self) -> list[tuple[float, Footprint]]:
        """Seconds since entry, and what was held: the largest state of each of at most 2048 stretches of time."""
        self._read()
        return self._account.timeline()

    def mark(self, name: str) -> None:
        """Begin a stretch of the block, such as "forward", whose peak `stretches` tells apart from the others'.

        Raises:
            InputError: the block is not open, or the name is empty.
        """
        if self._state != "open" or not name:
            raise InputError("mark names a stretch of an open block: call it inside of the `with`, with a word")
        if self._watch is not None:
            self._watch.refresh()
        self._account.mark(name)

    @property
    def stretches(self) -> dict[str, Footprint]:
        """By the name of its mark: what was held at the moment of that stretch with the most bytes in memory."""
        self._read()
        return {name: self._account.footprint(column) for name, column in self._account.stretches.items()}

    def trace(self) -> dict[str, list[tuple[str, str, int]]]:
        """Every change of each stretch in its order: tier, place and bytes, negative where they were freed.

        "" is the stretch before the first mark. Bytes that move to another tier are freed in the one and come in the
        other. Empty without `record`.
        """
        self._read()
        keys = self._account.keys()
        return {name: [(*keys[slot], n) for slot, n in changes] for name, changes in self._account.trace.items()}

    def watch_context(self, context: object) -> None:
        """Count the tensors inside an object (a cache, slots, a list of tensors) as context, while the object lives.

        Caches of transformers that a watched model is called with, or returns, are found without this.

        Raises:
            InputError: the ledger counts no tensors, or the block is over.
        """
        if self._watch is None or self._state == "closed":
            raise InputError("this ledger counts no tensors: give it a model, or activations=True, and an open block")
        self._watch.watch_context(context)

    def table(self) -> str:
        """The readings as an aligned table: a row for each tier and place, the totals, and the process."""
        return report.table(self.now, self.peak, self.highest, self.rss, self.peak_rss)

    def to_json(self) -> dict[str, Any]:
        """`now`, `peak`, `highest` (each as `Footprint.to_json`), `rss`, `seconds` and `timeline`, as JSON types."""
        return {
            "now": self.now.to_json(),
            "peak": self.peak.to_json(),
            "highest": self.highest.to_json(),
            "rss": {"now": self.rss, "peak": self.peak_rss},
            "seconds": self.seconds,
            "timeline": [{"seconds": when, "by_tier": held.by_tier} for when, held in self.timeline()],
        }

    def plot(self, path: str | Path) -> Path:
        """Write a picture of the bytes in memory over time, the tiers stacked; the suffix says the format.

        Raises:
            InputError: the format is not known or the file cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        return report.plot(self.timeline(), Path(path))

    def _read(self) -> None:
        """Bring everything up to date."""
        if self._state == "open":
            if self._watch is not None:
                self._watch.refresh()
            self._read_stores()
            self._read_rss(at_once=True)
            self._account.settle()

    def _read_stores(self) -> None:
        total = sum((store.footprint() for store in self._stores), Footprint())
        for key in {**total.entries, **self._store_lines}:
            line = self._store_lines.get(key)
            if line is None:
                line = self._store_lines[key] = StoreLine(self._account.slot(*key))
            change = total.entries.get(key, 0) - line.nbytes
            if change:
                line.nbytes += change
                self._account.book(line, change)

    def _read_rss(self, *, at_once: bool = False) -> None:
        when = self._account.clock()
        if at_once or when - self._rss_when >= _RSS_EVERY:
            self._rss_when = when
            self._rss = rss_bytes()
            self._peak_rss = max(self._peak_rss, self._rss)


def rss_bytes() -> int:
    """Bytes of RAM that the process holds (resident set size); 0 where the system does not tell.

    Linux tells the present size. macOS tells only the largest so far, which is returned there.
    """
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except OSError:
        if sys.platform == "darwin":
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _modules(model: Any) -> list[torch.nn.Module]:
    """The modules that a caller's `model` argument names."""
    from torch import nn

    if model is None:
        return []
    given = model.values() if isinstance(model, Mapping) else model if isinstance(model, list | tuple) else [model]
    modules = []
    for one in given:
        module = one if isinstance(one, nn.Module) else getattr(one, "model", None)
        if not isinstance(module, nn.Module):
            raise InputError(f"a model must be a torch.nn.Module or have one in .model, not {type(one).__name__}")
        modules.append(module)
    return modules


def _check_optimizer(optimizer: object) -> None:
    from torch.optim import Optimizer

    if not (optimizer is None or isinstance(optimizer, Optimizer)):
        raise InputError(f"the optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
