"""Between rows and what users hold: checking what comes in, rebuilding what goes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.base import Episode, Recollection
from memspan.longterm.passages import passages, term_hashes
from memspan.longterm.store import Row, Transaction
from memspan.longterm.versions import Successor


def index_derived(tx: Transaction) -> None:
    """Give every record that has no passage yet its passages."""
    rows = tx.execute(
        # Two ranges of the index instead of "<>", which would read every episode of the space.
        "SELECT r.id, r.text FROM record r LEFT JOIN passage p ON p.record = r.id"
        " WHERE r.space = ?1 AND r.kind < 'episode' AND p.id IS NULL UNION ALL"
        " SELECT r.id, r.text FROM record r LEFT JOIN passage p ON p.record = r.id"
        " WHERE r.space = ?1 AND r.kind > 'episode' AND p.id IS NULL ORDER BY 1",
        (tx.space_id,),
    ).fetchall()
    tx.executemany(
        "INSERT INTO passage (space, record, start, stop, terms) VALUES (?, ?, ?, ?, ?)",
        [(tx.space_id, row[0], part.start, part.stop, part.terms) for row in rows for part in passages(row[1])],
    )


def episodes_hold(tx: Transaction, phrase: str) -> bool:
    """Whether an episode of the space holds the stems of a phrase one after the other."""
    wanted = term_hashes(phrase).tobytes()
    rows = tx.execute(
        "SELECT p.terms FROM passage p JOIN record r ON r.id = p.record"
        " WHERE p.space = ? AND r.kind = 'episode' AND instr(p.terms, ?) > 0",
        (tx.space_id, wanted),
    )
    for (terms,) in rows:
        at = terms.find(wanted)
        while wanted and at >= 0:
            if at % 4 == 0:  # hashes are four bytes each
                return True
            at = terms.find(wanted, at + 1)
    return False


def episode_of(row: Row) -> Episode:
    """The episode a record holds, as it was added."""
    return Episode(
        text=row["text"],
        speaker=row["speaker"],
        at=clock.from_micros(row["at"]),
        session=row["session"],
        id=row["uid"],
        metadata=json.loads(row["data"]) if row["data"] else {},
    )


def episode_recollection(row: Row, score: float, why: str, later: Successor | None = None) -> Recollection:
    """An episode's row as users see it; `later` has replaced the version of a document that it belongs to."""
    return Recollection(
        kind="episode",
        id=row["uid"],
        text=row["text"],
        score=score,
        episodes=[row["uid"]],
        valid_at=clock.from_micros(row["valid_at"]),
        invalid_at=clock.from_micros(row["invalid_at"] if later is None else later.at),
        recorded_at=clock.from_micros(row["recorded_at"]),
        retired_at=clock.from_micros(row["retired_at"]),
        speaker=row["speaker"],
        session=row["session"],
        why=why,
        metadata=(json.loads(row["data"]) if row["data"] else {}) | ended_by(later),
    )


def ended_by(later: Successor | None) -> dict[str, Any]:
    """What a passage's metadata say of the version that replaced its own; nothing while its own counts."""
    if later is None:
        return {}
    until = clock.from_micros(later.at)
    assert until is not None
    return {"withdrawn" if later.withdrawn else "superseded_by": later.number, "valid_until": until.isoformat()}


def holds(sorted_ids: NDArray[np.int64], value: int) -> bool:
    """Whether a sorted array has a value."""
    at = int(np.searchsorted(sorted_ids, value))
    return at < len(sorted_ids) and int(sorted_ids[at]) == value


def checked_episode(position: int, episode: Episode) -> str | None:
    """The episode's metadata as JSON, after every field was found storable."""
    where = f"episode {position}"
    if not isinstance(episode, Episode):
        raise InputError(f"{where} is a {type(episode).__name__}; make it an Episode(text=…)")
    for name in ("text", "speaker", "session", "id"):
        value = getattr(episode, name)
        if value is None and name != "text":
            continue
        if not isinstance(value, str):
            raise InputError(f"{where}: {name} must be text, not {type(value).__name__}")
        if not value.strip():
            raise InputError(f"{where}: {name} is empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{where}: {name} holds half a surrogate pair; decode the input as UTF-8") from None
    if episode.at is not None and not isinstance(episode.at, datetime):
        raise InputError(f"{where}: at must be a datetime, not {type(episode.at).__name__}")
    if not isinstance(episode.metadata, Mapping):
        raise InputError(f"{where}: metadata must be a mapping, not {type(episode.metadata).__name__}")
    if not episode.metadata:
        return None
    try:
        return json.dumps(dict(episode.metadata), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: metadata cannot be written as JSON ({error})") from None


def checked_question(text: str) -> str:
    """The question, if it is one."""
    if not isinstance(text, str) or not text.strip():
        raise InputError("the question is empty")
    return text


def checked_count(k: int) -> int:
    """The number of results, if it is one."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, not {k!r}")
    return k


def names(value: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)
