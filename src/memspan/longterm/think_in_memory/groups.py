"""Thoughts in the store: rows, groups (all thoughts of one head in one relation), and the writes that tidy them.

A `head` record stands for a head; a link of kind "HEAD <relation>" leads from each thought to it, and one of kind
"TAIL <relation> <tail>" from each that holds no others, so that the wordings of a triple are found through an index.
What a thought was merged into, and what superseded it, are attributes that the log of changes shows and `Memory.undo`
takes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from memspan.longterm.changes import attributes, set_attribute
from memspan.longterm.store import Row, Transaction
from memspan.longterm.think_in_memory.thoughts import Thought, thought_uid, union_text
from memspan.longterm.think_in_memory.tidy import began_after, clusters, near_pairs, superseded
from memspan.longterm.vectors import F32

HEAD, TAIL = "HEAD ", "TAIL "
CONTRADICTS, REPEATS = "CONTRADICTS", "REPEATS"
Key = tuple[int, str]
"""Record id of a head, and a relation."""
Fuse = Callable[[str, Sequence[str]], str]
"""Writes one sentence for several of one head."""

_TIMES = (
    "SELECT s.record, min(coalesce(s.seen_at, e.recorded_at)), max(coalesce(s.seen_at, e.recorded_at))"
    " FROM source s JOIN record e ON e.id = s.episode WHERE s.record IN ({ids}) GROUP BY s.record"
)


def by_rules(head: str, texts: Sequence[str]) -> str:
    """The union of the sentences."""
    return union_text(texts)


def members(row: Row) -> list[str]:
    """Ids of the thoughts that a merged one holds; none when it is no merged one."""
    return list(attributes(row).get("members", ()))


def keys_of(tx: Transaction, records: Iterable[int]) -> set[Key]:
    """The groups that thoughts are in."""
    rows = tx.select("SELECT dst, kind FROM link WHERE src IN ({ids}) AND kind LIKE 'HEAD %'", records)
    return {(row["dst"], row["kind"].removeprefix(HEAD)) for row in rows}


def rows_of(tx: Transaction, key: Key) -> list[Row]:
    """All thoughts of a group, merged ones too."""
    sql = "SELECT r.* FROM link l JOIN record r ON r.id = l.src WHERE l.dst = ? AND l.kind = ? ORDER BY r.id"
    return tx.execute(sql, (key[0], HEAD + key[1])).fetchall()


def tail_link(relation: str, tail: str) -> str:
    """Kind of the link by which the thoughts of one triple are found."""
    return f"{TAIL}{relation} {tail}"


def rows_around(tx: Transaction, key: Key, records: Iterable[int]) -> list[Row]:
    """Of a group, the thoughts that these can be merged with: of their triples, or linked as repeating; with those that
    hold them. Enough where the group has no functional relation and no ending.
    """
    found: dict[int, Row] = {}
    waiting = set(records)
    while waiting:
        fresh = tx.records(waiting - set(found))
        found.update(fresh)
        kinds = {tail_link(key[1], attributes(row)["tail_key"]) for row in fresh.values() if not members(row)}
        near = {row[0] for row in tx.select("SELECT src FROM link WHERE kind IN ({ids}) AND dst = ?", kinds, key[0])}
        near |= {record for pair in pairs(tx, REPEATS, fresh) for record in pair}
        holders = {attributes(row)["merged_into"] for row in fresh.values() if "merged_into" in attributes(row)}
        held_by = "SELECT id FROM record WHERE uid IN ({ids}) AND kind = 'thought' AND space = ?"
        near |= {row[0] for row in tx.select(held_by, holders, tx.space_id)}
        waiting = near - set(found)
    here = {
        row[0]
        for row in tx.select(
            "SELECT src FROM link WHERE src IN ({ids}) AND dst = ? AND kind = ?", found, key[0], HEAD + key[1]
        )
    }
    return [found[record] for record in sorted(here)]


def is_strict(tx: Transaction, key: Key) -> bool:
    """Whether the group has a functional relation or an ending, so that all of its thoughts may bear on each other."""
    row = tx.execute("SELECT data FROM record WHERE id = ?", (key[0],)).fetchone()
    return key[1] in json.loads(row[0] or "{}").get("strict", ())


def thoughts_of(tx: Transaction, rows: Iterable[Row], key: Key | None = None) -> list[Thought]:
    """The rules' view of rows; those that hold others are left out."""
    plain = [row for row in rows if not members(row)]
    ids = [row["id"] for row in plain]
    times = {row[0]: (row[1], row[2]) for row in tx.select(_TIMES, ids)}
    keys: dict[int, Key] = {}
    if key is None:
        for src, dst, kind in tx.select(
            "SELECT src, dst, kind FROM link WHERE src IN ({ids}) AND kind LIKE 'HEAD %'", ids
        ):
            keys[src] = (dst, kind.removeprefix(HEAD))
    found = []
    for row in plain:
        if row["id"] not in times:
            continue
        data = attributes(row)
        since, at = times[row["id"]]
        found.append(
            Thought(
                record=row["id"],
                uid=row["uid"],
                key=key or keys[row["id"]],
                tail=data["tail_key"],
                text=row["text"],
                origin=data["origin"],
                at=at,
                since=since,
                functional=data.get("functional", False),
                ends=data.get("ends", False),
                closed=data.get("closed", False),
                apart=data.get("apart", False),
                kept=data.get("kept", False),
            )
        )
    return found


def vectors_of(tx: Transaction, records: Iterable[int]) -> dict[int, F32]:
    """Record id -> [D] unit vector of the head of its text, where it is embedded."""
    rows = tx.select(
        "SELECT p.record, v.data FROM passage p JOIN vector v ON v.passage = p.id"
        " WHERE p.record IN ({ids}) AND p.start = 0",
        records,
    )
    found = {}
    for record, data in rows:
        vector = np.frombuffer(data, np.float16).astype(np.float32)
        found[record] = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return found


class Tidier:
    """Forgets and merges in groups, and writes only what changes.

    Args:
        tx: the transaction.
        fuse: writes the text of a merged thought.
        erase: remove merged thoughts that no longer stand for anything, as a forgetting asks; else they are retracted.
    """

    def __init__(self, tx: Transaction, fuse: Fuse = by_rules, *, erase: bool = False) -> None:
        self.tx = tx
        self.fuse = fuse
        self.erase = erase
        self.done = {"forgotten": 0, "merged": 0, "restored": 0}

    def tidy(self, keys: Iterable[Key]) -> None:
        """Bring groups to what the rules say of them, and then the answers that rested on what was forgotten."""
        self._tidy(dict.fromkeys(keys))

    def tidy_around(self, touched: Mapping[Key, set[int]]) -> None:
        """The same for the records of each group that are new or gained a source, and what these bear on."""
        self._tidy({key: None if is_strict(self.tx, key) else records for key, records in touched.items()})

    def _tidy(self, waiting: Mapping[Key, set[int] | None]) -> None:
        while waiting:
            lost: list[int] = []
            for key, records in sorted(waiting.items(), key=lambda item: item[0]):
                rows = rows_of(self.tx, key) if records is None else rows_around(self.tx, key, records)
                lost += self._group(key, {row["id"]: row for row in rows})
            waiting = dict.fromkeys(keys_of(self.tx, self._answers_on(lost)))

    def _answers_on(self, lost: Sequence[int]) -> list[int]:
        rows = self.tx.select(
            "SELECT DISTINCT r.id FROM source f JOIN source a ON a.episode = f.episode JOIN record r ON r.id = a.record"
            " WHERE f.record IN ({ids}) AND r.kind = 'thought' AND r.status = 'live'"
            " AND json_extract(r.data, '$.origin') = 'derived'",
            lost,
        )
        return [row[0] for row in rows]

    def _group(self, key: Key, rows: dict[int, Row]) -> list[int]:
        """Tidy one group or a part of it; returns the records that were forgotten just now."""
        thoughts = thoughts_of(self.tx, rows.values(), key)
        told = pairs(self.tx, CONTRADICTS, rows)
        outside = self.tx.records({record for pair in told for record in pair} - set(rows))
        losers = superseded(thoughts, [*thoughts, *thoughts_of(self.tx, outside.values())], told)
        lost = []
        for thought in thoughts:
            row = rows[thought.record]
            if thought.record in losers:
                winner = losers[thought.record]
                invalid_at = max(began_after(winner, thought), row["valid_at"] or thought.since)
                told_by = self._last_source(winner.record)
                changed = self._forget(row, winner.uid, invalid_at, told_by, f"superseded by: {winner.text}")
            elif thought.origin == "derived" and (stale := self._stale(row)) is not None:
                changed = self._forget(row, *stale)
            else:
                continue
            if changed:
                lost.append(thought.record)
        gone = {t.record for t in thoughts if t.record in losers} | {
            t.record for t in thoughts if t.origin == "derived" and self._stale(rows[t.record]) is not None
        }
        self._merge(key, rows, [t for t in thoughts if t.record not in gone])
        return lost

    def _last_source(self, record: int) -> int | None:
        row = self.tx.execute(
            "SELECT s.episode FROM source s JOIN record e ON e.id = s.episode WHERE s.record = ?"
            " ORDER BY coalesce(s.seen_at, e.recorded_at) DESC, s.episode DESC LIMIT 1",
            (record,),
        ).fetchone()
        return None if row is None else int(row[0])

    def _stale(self, row: Row) -> tuple[str, int | None, int | None, str] | None:
        """What a derived thought is forgotten for: a source of it tells something that was superseded since."""
        found = self.tx.execute(
            "SELECT f.* FROM source a JOIN source b ON b.episode = a.episode JOIN record f ON f.id = b.record"
            " WHERE a.record = ? AND f.kind = 'thought' AND f.status = 'forgotten' AND f.retired_at >= ?"
            " AND json_extract(f.data, '$.origin') <> 'derived' ORDER BY f.retired_at, f.id LIMIT 1",
            (row["id"], attributes(row).get("thought_at", 0)),
        ).fetchone()
        if found is None:
            return None
        version = self.tx.execute(
            "SELECT cause, reason FROM version WHERE record = ? AND status = 'forgotten' ORDER BY id DESC LIMIT 1",
            (found["id"],),
        ).fetchone()
        cause = None if version is None else version["cause"]
        by = attributes(found).get("superseded_by", "")
        return by, found["invalid_at"], cause, "what it rests on was superseded"

    def _forget(self, row: Row, by: str, invalid_at: int | None, cause: int | None, reason: str) -> bool:
        if row["status"] == "forgotten" and attributes(row).get("superseded_by") == by:
            return False
        self._attribute(row, superseded_by=by, cause=cause, reason=reason)
        self.tx.set_validity(
            row["id"],
            valid_at=row["valid_at"],
            invalid_at=invalid_at,
            retired=True,
            status="forgotten",
            cause=cause,
            reason=reason,
        )
        self.done["forgotten"] += 1
        return True

    def _attribute(self, row: Row, *, cause: int | None = None, reason: str, **wanted: str | None) -> None:
        """Set one of the two attributes that tell a thought's fate, and remove the other."""
        for field in ("superseded_by", "merged_into"):
            set_attribute(self.tx, row["id"], field, wanted.get(field), cause=cause, reason=reason)

    def _merge(self, key: Key, rows: dict[int, Row], thoughts: Sequence[Thought]) -> None:
        holders = {row["uid"]: row for row in rows.values() if members(row)}
        joined: dict[int, str] = {}
        for group in clusters(thoughts, pairs(self.tx, REPEATS, rows)):
            uids = [thought.uid for thought in group]
            shared = {uid: len(set(members(row)) & set(uids)) for uid, row in holders.items()}
            best = max(shared, key=lambda uid: (shared[uid], holders[uid]["status"] == "live", uid), default=None)
            holder = holders.pop(best) if best is not None and shared[best] else None
            uid = self._write_holder(key, holder, group, rows)
            joined.update((thought.record, uid) for thought in group)
        for row in holders.values():
            if self.erase:
                self.tx.erased.append(row["text"])
                self.tx.execute("DELETE FROM record WHERE id = ?", (row["id"],))
                self.tx.bump_derived()
            elif row["status"] == "live":
                self.tx.set_validity(
                    row["id"],
                    valid_at=row["valid_at"],
                    invalid_at=row["invalid_at"],
                    retired=True,
                    status="retracted",
                    reason="its members no longer belong together",
                )
        for thought in thoughts:
            row = rows[thought.record]
            uid = joined.get(thought.record, "")
            status = "merged" if uid else "live"
            if row["status"] == status and attributes(row).get("merged_into", "") == uid:
                continue
            reason = "says the same as others" if uid else "stands for itself again"
            self._attribute(row, reason=reason, merged_into=uid or None)
            if row["status"] != status:
                until = attributes(row).get("until")
                self.tx.set_validity(
                    row["id"], valid_at=row["valid_at"], invalid_at=until, status=status, reason=reason
                )
                self.tx.execute("UPDATE record SET retired_at = NULL WHERE id = ?", (row["id"],))
            self.done["merged" if uid else "restored"] += 1

    def _write_holder(self, key: Key, holder: Row | None, group: Sequence[Thought], rows: dict[int, Row]) -> str:
        """The merged thought of a cluster: the union of its members' texts, tails and sources."""
        uids = [thought.uid for thought in group]
        about = [attributes(rows[thought.record]) for thought in group]
        tails = list({data["tail_key"]: data["tail"] for data in reversed(about)}.values())[::-1]
        data = {
            "head": about[0]["head"],
            "rel": key[1],
            "tail": "; ".join(tails),
            "tails": tails,
            "members": uids,
            "origin": max(group, key=lambda thought: thought.rank).origin,
            "functional": any(thought.functional for thought in group),
            "ends": group[0].ends,
        }
        since = min(thought.since for thought in group)
        if holder is None:
            text = self._text(group, about[0]["head"])
            uid = thought_uid(str(key[0]), key[1], *uids)
            if self.tx.find("thought", uid) is not None:  # of members that had parted and meet again elsewhere
                uid += "'"
            record = self.tx.add_record("thought", uid, text, valid_at=since, data=data, reason="merged")
            self.tx.link(record, HEAD + key[1], key[0])
        else:
            record, uid = int(holder["id"]), holder["uid"]
            if members(holder) != uids:
                self.tx.erased.append(holder["text"])
                self.tx.set_text(record, self._text(group, about[0]["head"]))
            self.tx.execute("UPDATE record SET data = ? WHERE id = ?", (json.dumps(data, ensure_ascii=False), record))
            if holder["status"] != "live" or holder["valid_at"] != since:
                self.tx.set_validity(record, valid_at=since, invalid_at=None, reason="merged")
                self.tx.execute("UPDATE record SET retired_at = NULL WHERE id = ?", (record,))
        self._sources(record, [thought.record for thought in group])
        return str(uid)

    def _text(self, group: Sequence[Thought], head: str) -> str:
        if len({thought.tail for thought in group}) == 1:
            return group[0].text
        return self.fuse(head, [thought.text for thought in group])

    def _sources(self, record: int, of: Sequence[int]) -> None:
        wanted: dict[int, int | None] = {}
        rows = self.tx.select("SELECT episode, seen_at FROM source WHERE record IN ({ids})", of)
        for episode, seen_at in sorted(rows, key=lambda row: (row[1] is None, row[1] or 0, row[0])):
            wanted.setdefault(episode, seen_at)
        have = {row[0] for row in self.tx.execute("SELECT episode FROM source WHERE record = ?", (record,))}
        if have == set(wanted):
            return
        self.tx.execute("DELETE FROM source WHERE record = ?", (record,))
        self.tx.executemany(
            "INSERT INTO source (record, episode, rank, seen_at) VALUES (?, ?, ?, ?)",
            [(record, episode, rank, seen) for rank, (episode, seen) in enumerate(wanted.items())],
        )


def pairs(tx: Transaction, kind: str, records: Collection[int]) -> set[tuple[int, int]]:
    """Links of a kind that begin or end at one of the records."""
    found = {
        (row[0], row[1])
        for row in tx.select(f"SELECT src, dst FROM link WHERE src IN ({{ids}}) AND kind = '{kind}'", records)
    }
    found |= {
        (row[0], row[1])
        for row in tx.select(f"SELECT src, dst FROM link WHERE dst IN ({{ids}}) AND kind = '{kind}'", records)
    }
    return found


def link_near(tx: Transaction, key: Key, merge_at: float) -> None:
    """Note which thoughts of a group have near vectors, so that they stay merged whoever looks next."""
    thoughts = thoughts_of(tx, rows_of(tx, key), key)
    near = near_pairs(thoughts, vectors_of(tx, [thought.record for thought in thoughts]), merge_at)
    tx.executemany(f"INSERT OR IGNORE INTO link (src, kind, dst) VALUES (?, '{REPEATS}', ?)", near)


def keys_to_tidy(tx: Transaction) -> list[Key]:
    """Every group of the space in which there can be something to do."""
    rows = tx.execute(
        "SELECT l.dst, l.kind FROM record h JOIN link l ON l.dst = h.id JOIN record r ON r.id = l.src"
        " WHERE h.space = ? AND h.kind = 'head' AND l.kind LIKE 'HEAD %' GROUP BY l.dst, l.kind"
        " HAVING count(*) > 1 OR max(json_extract(r.data, '$.origin') = 'derived')"
        f" OR max(r.id IN (SELECT src FROM link WHERE kind = '{CONTRADICTS}'"
        f" UNION SELECT dst FROM link WHERE kind = '{CONTRADICTS}'))"
        " ORDER BY l.dst, l.kind",
        (tx.space_id,),
    ).fetchall()
    return [(row[0], row[1].removeprefix(HEAD)) for row in rows]
