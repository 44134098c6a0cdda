"""A step as an allocation problem: the storages that its operations make, when they come, are touched and go.

The identity is the storage, as in the ledger, since views and results in place are tensors on the storage of another.
Time counts the operations that reach PyTorch's dispatcher. An operation's results and arguments live together; what is
freed after it is not there for the next. The most bytes that live at one time are the ledger's peak.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError
from memspan.core.ledger.tensors import require_torch, storages
from memspan.planner.allocator.problem import Buffer, Problem

if TYPE_CHECKING:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode


class _Line(weakref.ref):  # type: ignore[type-arg]
    """A storage's place in the recording, and the weak reference that tells of its end."""

    __slots__ = ("key", "lower", "name", "nbytes", "number", "uses")
    key: int
    lower: int
    name: str
    nbytes: int
    number: int
    uses: list[int]


class Recorder:
    """Records storages while its `with` block runs.

    Args:
        inputs: also those that were there before and are touched, such as weights, as buffers of kind "input" that
            live through the whole block.
        alignment: of every buffer.

    Entered inside of a `FakeTensorMode`, it records what fake tensors would hold. Tensors on the device "meta" hold
    nothing. A storage that is resized becomes another buffer.

    Raises:
        MissingExtraError: torch is not installed.
    """

    def __init__(self, *, inputs: bool = False, alignment: int = 1) -> None:
        require_torch()
        self.now = 0
        self._inputs, self._alignment = inputs, alignment
        self._live: dict[int, _Line] = {}
        self._ended: list[tuple[_Line, int, bool]] = []  # line, end, whether it was there before
        self._before: set[int] = set()
        self._count = 0
        self._fake = False
        self._mode: TorchDispatchMode | None = None
        self._collecting = False

    def __enter__(self) -> Recorder:
        import torch

        self._fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
        self._collecting = gc.isenabled()
        gc.disable()  # a collection in the middle would end storages at a moment that means nothing
        self._mode = _mode(self)
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._mode is not None
        self._mode.__exit__(*error)  # type: ignore[no-untyped-call]
        if self._collecting:
            gc.enable()
        for line in list(self._live.values()):
            self._end(line)

    def problem(self, name: str = "step") -> Problem:
        """What was recorded; a buffer's benefit is the bytes that its uses move.

        Raises:
            InputError: the block made no tensor.
        """
        horizon = max(self.now, 1)
        buffers: list[Buffer] = []
        for line, end, before in sorted(self._ended, key=lambda one: one[0].number):
            lower, upper = (0, horizon) if before else (line.lower, end)
            if before and not self._inputs:
                continue
            buffers.append(
                Buffer(
                    id=f"{len(buffers)}:{line.name}",
                    lower=lower,
                    upper=upper,
                    size=line.nbytes,
                    alignment=self._alignment,
                    uses=tuple(line.uses),
                    benefit=float(line.nbytes * len(line.uses)),
                    kind="input" if before else "temporary",
                )
            )
        if not buffers:
            raise InputError("nothing was recorded: the block made no tensor that holds bytes")
        return Problem(tuple(buffers), name=name)

    def touch(self, tensor: torch.Tensor, name: str, *, made: bool) -> None:
        """Note that the present operation reads (`made`: returns) a tensor."""
        for storage in storages(tensor):
            line = self._live.get(id(storage))
            nbytes = storage.nbytes()
            if line is not None and line.nbytes != nbytes:
                del self._live[line.key]
                self._end(line)
                line = None
                made = True
            if line is None:
                device = tensor.device if self._fake else storage.device
                if nbytes == 0 or device.type == "meta":
                    continue
                line = self._begin(storage, nbytes, name if made else "input", before=not made)
            if not line.uses or line.uses[-1] != self.now:
                line.uses.append(self.now)

    def _begin(self, storage: torch.UntypedStorage, nbytes: int, name: str, *, before: bool) -> _Line:
        line = _Line(storage, self._freed)
        line.key, line.nbytes, line.name, line.number = id(storage), nbytes, name, self._count
        line.lower, line.uses = self.now, []
        self._live[line.key] = line
        if before:
            self._before.add(self._count)
        self._count += 1
        return line

    def _freed(self, line: _Line) -> None:
        if self._live.get(line.key) is line:
            del self._live[line.key]
            self._end(line)

    def _end(self, line: _Line) -> None:
        self._ended.append((line, max(self.now, line.lower + 1), line.number in self._before))


def record_step(step: Callable[[], object], *, inputs: bool = False, alignment: int = 1, name: str = "step") -> Problem:
    """Run `step` once, and return its storages as a problem; see `Recorder` for the arguments.

    Run the step before, once, where its first differs from others (optimizer state).

    Raises:
        InputError: it makes no tensor that holds bytes.
        MissingExtraError: torch is not installed.
    """
    with Recorder(inputs=inputs, alignment=alignment) as recorder:
        step()
    return recorder.problem(name)


def _mode(recorder: Recorder) -> TorchDispatchMode:
    """A dispatch mode that tells the recorder of every tensor that goes into an operation or comes out."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    plain = torch.Tensor

    class RecordingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        supports_higher_order_operators = True

        @classmethod
        def ignore_compile_internals(cls) -> bool:
            return True  # else functions compiled with fullgraph=True refuse to run

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", str(func)).partition(".")[0]
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, plain):
                    recorder.touch(value, name, made=False)
            output = func(*args, **kwargs) if kwargs else func(*args)
            for value in tree_leaves(output):
                if isinstance(value, plain):
                    recorder.touch(value, name, made=True)
            recorder.now += 1
            return output

    return RecordingMode()  # type: ignore[no-untyped-call]
