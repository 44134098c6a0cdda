"""Which facts hold in the view of a question: in the world at a moment, as the store believed at a moment."""

from __future__ import annotations

from collections.abc import Sequence

from memspan.longterm.clock import to_micros
from memspan.longterm.recall import Search, resting_on_allowed
from memspan.longterm.store import Transaction
from memspan.longterm.zep.temporal import Window


def windows(tx: Transaction, ids: Sequence[int], believed: int | None) -> dict[int, Window]:
    """The windows of facts as the store believed them at a moment (None is now).

    Facts it did not know then, or does not believe, are left out.
    """
    if believed is None:
        rows = tx.select("SELECT id, valid_at, invalid_at FROM record WHERE id IN ({ids}) AND status = 'live'", ids)
    else:
        rows = tx.select(
            "SELECT record, valid_at, invalid_at FROM version WHERE record IN ({ids}) AND status = 'live'"
            " AND recorded_at <= ? AND (superseded_at IS NULL OR superseded_at > ?)",
            ids,
            believed,
            believed,
        )
    return {row[0]: Window(row[1], row[2]) for row in rows}


def visible(search: Search, ids: Sequence[int]) -> set[int]:
    """Which facts hold at the asked world time (`as_of`, else the store's `believed_at`, else now), filters applied."""
    moment = to_micros(search.query.as_of or search.query.believed_at)
    if moment is None:
        moment = search.tx.now
    believed = to_micros(search.query.believed_at)
    held = {record for record, window in windows(search.tx, ids, believed).items() if window.holds(moment)}
    return held & resting_on_allowed(search, held)
