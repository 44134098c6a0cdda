"""Erasure: what is forgotten is gone from rows, indexes, versions and the file's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from memspan.core.errors import InputError
from memspan.longterm.base import Organizer
from memspan.longterm.changes import take_back
from memspan.longterm.store import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What an erasure removed.

    Attributes:
        episodes: how many episodes.
        derived: how many records that rested on them alone, by kind.
        kept: how many derived records stay, resting on other episodes.
        reopened: how many facts had their validity looked at again, because what changed it is forgotten.
        purged: whether the bytes are gone from the file too; False when another reader held the log open, which
            `maintain(prune=True)` finishes later.
    """

    episodes: int
    derived: dict[str, int]
    kept: int
    reopened: int
    purged: bool = False

    def with_purge(self, purged: bool) -> Forgotten:
        """The same, with the result of the purge."""
        return replace(self, purged=purged)


def forget_episodes(
    tx: Transaction,
    organizer: Organizer,
    uids: Sequence[str],
    *,
    session: str | None,
    speaker: str | None,
    before: int | None,
) -> Forgotten:
    """Remove the selected episodes and everything derived only from them; the texts are added to `tx.erased`.

    Raises:
        InputError: an id is not in the space.
    """
    tests = ["space = ?", "kind = 'episode'"]
    values: list[object] = [tx.space_id]
    for test, value in (("session = ?", session), ("speaker = ?", speaker), ("at < ?", before)):
        if value is not None:
            tests.append(test)
            values.append(value)
    where = " AND ".join(tests)
    if uids:
        rows = tx.select(f"SELECT id, uid FROM record WHERE uid IN ({{ids}}) AND {where}", uids, *values)
        missing = set(uids) - {row["uid"] for row in rows}
        if missing and session is None and speaker is None and before is None:
            raise InputError(
                f"no episode has the id {sorted(missing)[0]!r} in space {tx.space!r}; nothing was forgotten"
            )
    else:
        rows = tx.execute(f"SELECT id, uid FROM record WHERE {where}", values).fetchall()
    return remove_episodes(tx, organizer, [row["id"] for row in rows])


def remove_episodes(tx: Transaction, organizer: Organizer, episodes: Sequence[int]) -> Forgotten:
    """Remove episodes by record id and everything derived only from them; the texts are added to `tx.erased`."""
    if not episodes:
        return Forgotten(episodes=0, derived={}, kept=0, reopened=0)
    texts = [row[0] for row in tx.select("SELECT text FROM record WHERE id IN ({ids})", episodes)]
    touched = {row[0] for row in tx.select("SELECT record FROM source WHERE episode IN ({ids})", episodes)}
    reopened = _take_back(tx, episodes)
    unmade = take_back(tx, episodes)
    _delete(tx, episodes)
    supported = {row[0] for row in tx.select("SELECT DISTINCT record FROM source WHERE record IN ({ids})", touched)}
    alone = sorted(touched - supported)
    derived: dict[str, int] = {}
    for row in tx.select("SELECT kind, text FROM record WHERE id IN ({ids})", alone):
        derived[row["kind"]] = derived.get(row["kind"], 0) + 1
        texts.append(row["text"])
    _delete(tx, alone)
    kept = sorted(touched & supported)
    organizer.on_forget(tx, sorted({*kept, *((reopened | unmade) - set(alone))}))
    tx.bump(episodes)
    tx.erased += texts
    return Forgotten(episodes=len(episodes), derived=derived, kept=len(kept), reopened=len(reopened))


def _delete(tx: Transaction, records: Sequence[int]) -> None:
    tx.executemany("DELETE FROM record WHERE id = ?", [(record,) for record in records])


def _take_back(tx: Transaction, episodes: Sequence[int]) -> set[int]:
    """Undo the changes of validity that the episodes caused: the last version that they did not cause holds again."""
    changed = {row[0] for row in tx.select("SELECT record FROM version WHERE cause IN ({ids})", episodes)}
    tx.executemany("DELETE FROM version WHERE cause = ?", [(episode,) for episode in episodes])
    for record in changed:
        rows = tx.execute("SELECT * FROM version WHERE record = ? ORDER BY id", (record,)).fetchall()
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            until = None if following is None else following["recorded_at"]
            tx.execute("UPDATE version SET superseded_at = ? WHERE id = ?", (until, row["id"]))
        if not rows:
            continue
        last = rows[-1]
        closed = last["invalid_at"] is not None and len(rows) > 1
        tx.execute(
            "UPDATE record SET valid_at = ?, invalid_at = ?, status = ?, retired_at = ? WHERE id = ?",
            (last["valid_at"], last["invalid_at"], last["status"], last["recorded_at"] if closed else None, record),
        )
    return changed
