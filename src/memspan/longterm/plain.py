"""`plain`: episodes and nothing else. The baseline every organizer is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memspan.longterm.base import Episode, Organizer
from memspan.longterm.store import Transaction


class Plain(Organizer):
    """Keeps episodes as they are and derives nothing."""

    name = "plain"

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Nothing to build."""
