"""Progress of work in stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from memspan.models.progress import progress_bar

from .build import Report


@contextmanager
def bars(show: bool) -> Iterator[Report]:
    """One bar after the other, a stage each."""
    with ExitStack() as stack:
        now: dict[str, Any] = {"stage": None, "done": 0, "advance": lambda _: None}

        def report(stage: str, done: int, total: int) -> None:
            if not show:
                return
            if stage != now["stage"]:
                stack.close()
                now.update(stage=stage, done=0, advance=stack.enter_context(progress_bar(stage, total)))
            now["advance"](done - now["done"])
            now["done"] = done

        yield report
