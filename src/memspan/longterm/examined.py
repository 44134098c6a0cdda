"""A store as the subject of an exam: what an exam shows is added as episodes, and `ask` answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.memory import Memory

_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


class StoreSubject:
    """A memory with an organizer. Each piece of an item is an episode, a minute after the one before.

    Args:
        organizer: what is built from episodes.
        dated: episodes have their times; without, a store knows nothing of order but the order of adding.
        settings: further arguments of `Memory.open`.
    """

    forms: tuple[Any, ...] = ("text",)

    def __init__(self, organizer: str = "plain", *, dated: bool = True, **settings: Any) -> None:
        self.name = f"memory:{organizer}" + ("" if dated else ", no times")
        self._organizer, self._dated, self._settings = organizer, dated, settings
        self._memory: Memory | None = None

    def read(self, item: Any) -> None:
        """A new store in RAM with the item's pieces."""
        self.close()
        self._memory = Memory.open(":memory:", organizer=self._organizer, **self._settings)
        pieces = item.pieces or (item.context,)
        self._memory.add(
            [
                Episode(text, at=_BEGIN + timedelta(minutes=i) if self._dated else None, session="exam", id=f"E:{i}")
                for i, text in enumerate(pieces)
                if text.strip()
            ]
        )

    def write(self, item: Any) -> str:
        """What the store answers."""
        assert self._memory is not None
        return self._memory.ask(item.question).text

    def weigh(self, choice: Any) -> list[float]:
        """Not possible: a store answers in writing.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name} cannot weigh options: let it answer in writing (--form text)")

    def count_tokens(self, text: str) -> None:
        """A store has no tokenizer."""
        return

    def close(self) -> None:
        """Let the store go."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
