"""What can go wrong with symbols and with the programs behind them."""

from __future__ import annotations

from collections.abc import Sequence

from memspan.core.errors import InputError, MemspanError


class CycleError(InputError):
    """Definitions that use each other in a circle.

    Attributes:
        path: the names along the circle, the first one again at its end.
    """

    def __init__(self, path: Sequence[str]) -> None:
        self.path = tuple(path)
        shown = " → ".join(f"<{name}>" for name in path)
        super().__init__(f"the definitions go in a circle: {shown}; write one of them without the other")


class CodeNotAllowedError(InputError):
    """A stored program would have to run, and the caller did not allow code to run."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is code that somebody wrote; read it, then allow it with allow_code=True or --allow-code"
        )


class SandboxError(MemspanError):
    """This machine cannot isolate a program as asked for, or its process could not be started."""


class ProgramError(MemspanError):
    """A program failed, broke a rule of the sandbox, or gave no usable result.

    Attributes:
        kind: "error" (it raised), "refused" (it tried what is not allowed), "cpu", "wall", "memory", "output",
            "killed" or "result" (what it returned cannot be used).
    """

    def __init__(self, message: str, kind: str = "error") -> None:
        self.kind = kind
        super().__init__(message)
