"""Progress bars on stderr that appear only when a job takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SHOW_AFTER_SECONDS = 2.0


class Advance(Protocol):
    """Tells a bar that `n` more steps are done, and what to show behind the description."""

    def __call__(self, n: int, said: str = "", /) -> None: ...


@contextmanager
def progress_bar(what: str, total: int, *, force: bool = False, show: bool = True) -> Iterator[Advance]:
    """Yield `advance(n)`. A bar appears once the whole job is expected to take over two seconds.

    Args:
        what: what is being done, as the bar shows it.
        total: how many steps there are.
        force: show it also when stderr is no terminal.
        show: false shows none.
    """
    if not show or not (force or sys.stderr.isatty()):
        yield lambda n, said="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=not force)
    task = bar.add_task(what, total=total)
    begun, done, shown = time.perf_counter(), 0, False

    def advance(n: int, said: str = "", /) -> None:
        nonlocal done, shown
        done += n
        elapsed = time.perf_counter() - begun
        if not shown and done and elapsed * total / done > SHOW_AFTER_SECONDS:
            bar.start()
            shown = True
        bar.update(task, completed=done, description=f"{what}: {said}" if said else what)

    try:
        yield advance
    finally:
        if shown:
            bar.stop()
