"""Episodes into rows: the insert that `Memory.add` wraps in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.base import Episode
from memspan.longterm.passages import passages
from memspan.longterm.rows import episode_of
from memspan.longterm.store import Transaction


def insert_episodes(
    tx: Transaction, batch: Sequence[Episode], payloads: Sequence[str | None]
) -> tuple[list[str], list[tuple[int, int]]]:
    """Write the rows and passages of a batch of checked episodes.

    Args:
        tx: the transaction.
        batch: the episodes.
        payloads: their metadata as JSON.

    Returns:
        All ids in order, and `(position in the batch, record id)` of the episodes that are new: one whose id is stored
        with the same text is left as it is.

    Raises:
        InputError: another text is stored under an id.
    """
    last = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = 'record'").fetchone()
    next_id = (last[0] if last else 0) + 1
    known = _known(tx, [episode.id for episode in batch if episode.id is not None])
    # Ids are made from a counter, and a caller's own id may look like one of them.
    taken = set(_known(tx, [f"e{number}" for number in range(next_id, next_id + len(batch))]))
    taken.update(episode.id for episode in batch if episode.id is not None)
    ids: list[str] = []
    fresh: list[tuple[int, int]] = []
    rows = []
    pieces = []
    for position, (episode, payload) in enumerate(zip(batch, payloads, strict=True)):
        uid = episode.id
        if uid is None:
            uid = f"e{next_id}"
            while uid in taken:
                uid += "'"
        ids.append(uid)
        if uid in known:
            if known[uid] != episode.text:
                raise InputError(
                    f"episode {position} (id {uid!r}): another text is stored under this id, and episodes are"
                    " immutable; give it another id, or forget the old one first"
                )
            continue
        known[uid] = episode.text
        at = clock.to_micros(episode.at)
        rows.append(
            (next_id, tx.space_id, uid, episode.text, episode.speaker, episode.session, at, at, tx.now, payload)
        )
        pieces += [
            (tx.space_id, next_id, part.start, part.stop, part.terms)
            for part in passages(episode.text, episode.speaker, episode.metadata)
        ]
        fresh.append((position, next_id))
        next_id += 1
    tx.executemany(
        "INSERT INTO record (id, space, kind, uid, text, speaker, session, at, valid_at, recorded_at, data)"
        " VALUES (?, ?, 'episode', ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    tx.executemany("INSERT INTO passage (space, record, start, stop, terms) VALUES (?, ?, ?, ?, ?)", pieces)
    return ids, fresh


def _known(tx: Transaction, uids: Sequence[str]) -> dict[str, str]:
    """Stored episodes' texts by id."""
    rows = tx.select(
        "SELECT uid, text FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", uids, tx.space_id
    )
    return {row[0]: row[1] for row in rows}


def turns_before(tx: Transaction, session: str, count: int) -> list[Episode]:
    """The last turns of a session, in order."""
    rows = tx.execute(
        "SELECT * FROM record WHERE space = ? AND session = ? AND kind = 'episode' ORDER BY id DESC LIMIT ?",
        (tx.space_id, session, count),
    ).fetchall()
    return [episode_of(row) for row in reversed(rows)]
