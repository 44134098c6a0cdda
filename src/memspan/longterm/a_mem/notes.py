"""Notes as rows: reading and writing attributes, rendering the document, and links that are symmetric and capped.

A link is one row, from the later note to the earlier, with the likeness that justified it; both ends see it. All that
were made are kept, and a link is *walked* when it is among the strongest `most` of both its ends: so a note that is
forgotten makes room again for the link it had pushed out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memspan.longterm.a_mem.attributes import Attributes, document
from memspan.longterm.changes import attributes
from memspan.longterm.passages import embedded_text
from memspan.longterm.store import Row, Transaction

SHARED, SUGGESTED = "SHARES_KEYWORD", "SUGGESTED"
"""Kinds of link: by the rule, and by a language model."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link as one of its ends sees it."""

    note: int
    kind: str
    likeness: float


def content_of(episode: Row) -> str:
    """What an episode's note holds of it: the text with its speaker and a photo's caption."""
    return embedded_text(episode["text"], episode["speaker"], json.loads(episode["data"]) if episode["data"] else None)


def read_attributes(note: Row) -> Attributes:
    """A note's attributes as they are now."""
    data = attributes(note)
    return Attributes(
        data.get("keywords", []),
        data.get("tags", []),
        data.get("context", ""),
        data.get("seen", []),
        data.get("by", "rules"),
        data.get("fallback", ""),
    )


def to_data(found: Attributes, seen: Sequence[str]) -> dict[str, Any]:
    """Attributes as a record's data; what is empty is left out."""
    data = {
        "keywords": found.keywords,
        "tags": found.tags,
        "context": found.context,
        "seen": sorted(set(seen)),
        "by": found.by,
        "fallback": found.fallback,
    }
    return {name: value for name, value in data.items() if value}


def write_data(tx: Transaction, note: int, data: Mapping[str, Any]) -> None:
    """Replace a note's data without a trace in the log: bookkeeping, and what must not be remembered."""
    tx.execute("UPDATE record SET data = ? WHERE id = ?", (json.dumps(data, ensure_ascii=False, sort_keys=True), note))


def episodes_by_id(tx: Transaction, uids: Iterable[str]) -> dict[str, Row]:
    """Episodes of the space by the caller's id."""
    rows = tx.select(
        "SELECT * FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", list(uids), tx.space_id
    )
    return {row["uid"]: row for row in rows}


def render(tx: Transaction, notes: Iterable[int]) -> dict[int, str]:
    """Bring the text of notes in line with their attributes; returns the documents that changed, by record id."""
    rows = tx.records(notes)
    own = episodes_by_id(tx, [row["uid"] for row in rows.values()])
    changed = {}
    for note, row in rows.items():
        if row["kind"] != "note" or row["uid"] not in own:
            continue
        found = read_attributes(row)
        text = document(content_of(own[row["uid"]]), found.context, found.keywords, found.tags)
        if text != row["text"]:
            tx.erased.append(row["text"])
            tx.set_text(note, text)
            tx.bump_derived()  # no count may remain of what it said: searches equal those of an index made anew
            changed[note] = text
    return changed


def links_of(tx: Transaction, notes: Iterable[int], most: int) -> dict[int, list[Link]]:
    """The links that are walked from each of these notes, the strongest first."""
    wanted = list(dict.fromkeys(notes))
    near = _strongest(tx, wanted, most)
    others = sorted({link.note for links in near.values() for link in links} - set(near))
    back = near | _strongest(tx, others, most)
    return {
        note: [link for link in near[note] if any(other.note == note for other in back[link.note])] for note in wanted
    }


def _strongest(tx: Transaction, notes: Sequence[int], most: int) -> dict[int, list[Link]]:
    found: dict[int, list[Link]] = {note: [] for note in notes}
    for here, there in (("src", "dst"), ("dst", "src")):
        rows = tx.select(
            f"SELECT {here}, {there}, kind, weight FROM link WHERE {here} IN ({{ids}}) AND kind IN (?, ?)",
            notes,
            SHARED,
            SUGGESTED,
        )
        for note, other, kind, weight in rows:
            found[note].append(Link(other, kind, weight))
    return {note: sorted(links, key=lambda link: (-link.likeness, link.note))[:most] for note, links in found.items()}
