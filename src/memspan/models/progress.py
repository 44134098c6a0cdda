"""Progress bars on stderr that appear only when a job takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOW_AFTER_SECONDS = 2.0


@contextmanager
def progress_bar(what: str, total: int, *, force: bool = False, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`. A bar appears once the whole job is expected to take over two seconds.

    Args:
        what: what is being done, as the bar shows it.
        total: how many steps there are.
        force: show it also when stderr is no terminal.
        show: false shows none.
    """
    if not show or not (force or sys.stderr.isatty()):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=not force)
    task = bar.add_task(what, total=total)
    begun, done, shown = time.perf_counter(), 0, False

    def advance(n: int) -> None:
        nonlocal done, shown
        done += n
        elapsed = time.perf_counter() - begun
        if not shown and done and elapsed * total / done > SHOW_AFTER_SECONDS:
            bar.start()
            shown = True
        bar.update(task, completed=done)

    try:
        yield advance
    finally:
        if shown:
            bar.stop()
