"""Errors that memspan raises on purpose.

Every message says what was wrong, where, and what to change. The command line prints the message of a
`MemspanError` in one line and exits with its `exit_code`; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class MemspanError(Exception):
    """Base of every error raised on purpose by memspan."""

    exit_code = 1


class InputError(MemspanError, ValueError):
    """The caller's value, file or option cannot be used as it is."""

    exit_code = 2


class ConflictError(InputError):
    """Things were asked for together that exclude each other; the message names both and the reason."""


class BudgetError(MemspanError):
    """A job cannot stay inside its budget, of bytes unless it says otherwise. Raised before the work starts.

    Attributes:
        needed: bytes (or tokens, …) the job needs.
        allowed: bytes the budget allows.
        advice: what to change so that it fits.
    """

    exit_code = 3

    def __init__(self, what: str, *, needed: int, allowed: int, advice: str, unit: str = "bytes") -> None:
        self.needed = int(needed)
        self.allowed = int(allowed)
        self.advice = advice
        super().__init__(f"{what} needs {self.needed:,} {unit} and the budget allows {self.allowed:,}: {advice}")


class StoreError(MemspanError):
    """The store cannot be opened, is damaged, or was written by a newer memspan."""

    exit_code = 4


class StoreBusyError(StoreError):
    """Another process holds the store's write lock for longer than the timeout."""

    exit_code = 5


class ModelError(MemspanError):
    """A model or an endpoint cannot be loaded, reached, or gave an unusable answer."""

    exit_code = 6


class UnsupportedModelError(ModelError):
    """The model's architecture lacks what the system needs."""


class MissingExtraError(MemspanError, ImportError):
    """An optional dependency is not installed. The message holds the command that installs it."""

    exit_code = 7

    def __init__(self, what: str, install: str) -> None:
        super().__init__(f"{what} is not installed; run: {install}")
        self.install = install
