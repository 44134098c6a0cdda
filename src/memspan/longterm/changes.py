"""The log of attribute changes: what a record's attribute was, what it became, why, and the way back.

Attributes are the values in a derived record's `data`. An organizer that rewrites them (A-MEM's evolution of
neighbours) does it through `set_attribute`, so that every change can be seen, undone, and taken back when the episode
that caused it is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.clock import from_micros
from memspan.longterm.store import Row, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one attribute.

    Attributes:
        id: what `Memory.undo` takes.
        kind, record: kind and id of the record that changed.
        field: name of the attribute.
        old, new: its values; None where there was or is none.
        at: when the store made the change.
        cause: id of the record that led to it, None when that is gone or it was nobody's.
        reason: why, in words.
    """

    id: int
    kind: str
    record: str
    field: str
    old: Any
    new: Any
    at: datetime | None
    cause: str | None = None
    reason: str = ""


def attributes(row: Row) -> dict[str, Any]:
    """A record's attributes."""
    return json.loads(row["data"]) if row["data"] else {}


def set_attribute(
    tx: Transaction, record: int, field: str, value: Any, *, cause: int | None = None, reason: str = ""
) -> int | None:
    """Give an attribute a new value and log it; None when it has this value already.

    Args:
        tx: the transaction.
        record: id of a derived record.
        field: the attribute.
        value: anything JSON can hold; None removes the attribute.
        cause: the episode that led to it; forgetting it takes the change back.
        reason: why, in words.

    Returns:
        The id of the change.
    """
    old = _attribute(tx, record, field)
    if old == value:
        return None
    _put(tx, record, field, value)
    cursor = tx.execute(
        "INSERT INTO change (record, field, old, new, recorded_at, cause, reason) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (record, field, _json(old), _json(value), tx.now, cause, reason),
    )
    return int(cursor.lastrowid or 0)


def changes(tx: Transaction, uid: str | None = None, kind: str | None = None) -> list[Change]:
    """The changes of a space, oldest first; only of the records with this id, or of this kind, when they are given."""
    rows = tx.execute(
        "SELECT c.*, r.kind, r.uid, w.uid AS cause_uid FROM change c JOIN record r ON r.id = c.record"
        " LEFT JOIN record w ON w.id = c.cause"
        " WHERE r.space = ? AND (? IS NULL OR r.uid = ?) AND (? IS NULL OR r.kind = ?) ORDER BY c.id",
        (tx.space_id, uid, uid, kind, kind),
    )
    return [
        Change(
            id=row["id"],
            kind=row["kind"],
            record=row["uid"],
            field=row["field"],
            old=json.loads(row["old"]),
            new=json.loads(row["new"]),
            at=from_micros(row["recorded_at"]),
            cause=row["cause_uid"],
            reason=row["reason"],
        )
        for row in rows
    ]


def undo(tx: Transaction, change: int) -> int:
    """Take one change back: the attribute is what it would be without it; returns the id of the record.

    A later change of the same attribute stays; it now starts from the value before the undone one.

    Raises:
        InputError: the space has no such change.
    """
    row = tx.execute(
        "SELECT c.* FROM change c JOIN record r ON r.id = c.record WHERE c.id = ? AND r.space = ?",
        (change, tx.space_id),
    ).fetchone()
    if row is None:
        raise InputError(f"there is no change {change} in space {tx.space!r}; Memory.changes() lists them")
    _splice(tx, row)
    return int(row["record"])


def take_back(tx: Transaction, causes: Sequence[int]) -> set[int]:
    """Undo every change that these episodes caused; returns the ids of the records."""
    rows = tx.select("SELECT * FROM change WHERE cause IN ({ids}) ORDER BY id DESC", causes)
    for row in sorted(rows, key=lambda row: -row["id"]):
        # A splice may have changed `old` of a row that is still to come: read it again.
        _splice(tx, tx.execute("SELECT * FROM change WHERE id = ?", (row["id"],)).fetchone())
    return {int(row["record"]) for row in rows}


def _splice(tx: Transaction, row: Row) -> None:
    later = tx.execute(
        "SELECT id, new FROM change WHERE record = ? AND field = ? AND id > ? ORDER BY id LIMIT 1",
        (row["record"], row["field"], row["id"]),
    ).fetchone()
    if later is None:
        _put(tx, row["record"], row["field"], json.loads(row["old"]))
    elif later["new"] == row["old"]:  # the later change had already gone back
        tx.execute("DELETE FROM change WHERE id = ?", (later["id"],))
    else:
        tx.execute("UPDATE change SET old = ? WHERE id = ?", (row["old"], later["id"]))
    tx.execute("DELETE FROM change WHERE id = ?", (row["id"],))


def _attribute(tx: Transaction, record: int, field: str) -> Any:
    return attributes(tx.records([record])[record]).get(field)


def _put(tx: Transaction, record: int, field: str, value: Any) -> None:
    data = attributes(tx.records([record])[record])
    if value is None:
        data.pop(field, None)
    else:
        data[field] = value
    tx.execute("UPDATE record SET data = ? WHERE id = ?", (_json(data) if data else None, record))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
