"""Symbols as rows: a record's attribute "definition", whose log of changes is the list of its versions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from memspan.longterm.amadeusgpt.grammar import key_of
from memspan.longterm.amadeusgpt.programs import Program
from memspan.longterm.amadeusgpt.table import Definition, Symbol, SymbolTable
from memspan.longterm.changes import attributes, set_attribute
from memspan.longterm.store import Transaction

FIELD = "definition"
_SECTION = re.compile(
    r"^[ \t]*(?:\w[\w ]*\n[ \t]*[-=]{3,}[ \t]*$"
    r"|(?:args|arguments|parameters|returns|raises|yields|examples?|notes?):[ \t]*$)",
    re.MULTILINE | re.IGNORECASE,
)


def load_table(
    tx: Transaction, *, believed_at: int | None = None, as_of: int | None = None, kind: str = "symbol"
) -> SymbolTable:
    """All symbols of the space, or those of a view: what the store had taken, what had been said by then."""
    rows = tx.execute(
        "SELECT r.uid, c.new, c.recorded_at FROM change c JOIN record r ON r.id = c.record"
        " WHERE r.space = ? AND r.kind = ? AND c.field = ? ORDER BY c.id",
        (tx.space_id, kind, FIELD),
    ).fetchall()
    versions: dict[str, list[Definition]] = {}
    for uid, new, recorded_at in rows:
        told = json.loads(new)
        said = told.get("at") if told else None
        if not told or (believed_at is not None and recorded_at > believed_at):
            continue
        if as_of is not None and said is not None and said > as_of:
            continue
        versions.setdefault(uid, []).append(definition_from(told, recorded_at))
    return SymbolTable({key: Symbol(key=key, versions=tuple(kept)) for key, kept in versions.items()})


def definition_from(told: Mapping[str, Any], recorded_at: int = 0) -> Definition:
    """A version as a row holds it."""
    return Definition(
        name=told["name"],
        number=told["number"],
        text=told["text"],
        program=Program.from_json(told["program"]) if told.get("program") else None,
        episode=told["episode"],
        at=told["at"],
        recorded_at=recorded_at,
    )


def define(
    tx: Transaction, kind: str, name: str, text: str, program: Program | None, episode: int, uid: str, at: int | None
) -> int:
    """Give a symbol (or a module) a new version, which the episode says; returns its record."""
    key = key_of(name) if kind == "symbol" else name
    row = tx.find(kind, key)
    record = int(row["id"]) if row is not None else tx.add_record(kind, key, text, sources=[episode], at=at)
    logged = tx.execute("SELECT new FROM change WHERE record = ? AND field = ?", (record, FIELD)).fetchall()
    number = 1 + max((told["number"] for (new,) in logged if (told := json.loads(new))), default=0)
    value = {
        "name": name,
        "number": number,
        "text": text,
        "program": program.to_json() if program else None,
        "episode": uid,
        "at": at,
    }
    set_attribute(tx, record, FIELD, value, cause=episode, reason="defined" if number == 1 else "defined anew")
    settle(tx, record)
    return record


def settle(tx: Transaction, record: int) -> None:
    """Make text and sources of a record follow its definition; a record that has none left is deleted."""
    row = tx.records([record]).get(record)
    if row is None:
        return
    told = attributes(row).get(FIELD)
    if told is None:
        tx.erased.append(row["text"])
        tx.execute("DELETE FROM record WHERE id = ?", (record,))
        tx.bump_derived()
        return
    text = shown_text(row["kind"], told)
    if text != row["text"]:
        tx.erased.append(row["text"])
        tx.set_text(record, text)
        tx.bump_derived()
    tx.execute("UPDATE record SET valid_at = ? WHERE id = ?", (told["at"], record))
    causes = [
        cause
        for (cause,) in tx.execute(
            "SELECT cause FROM change WHERE record = ? AND field = ? AND cause IS NOT NULL ORDER BY id DESC",
            (record, FIELD),
        )
    ]
    tx.execute("DELETE FROM source WHERE record = ?", (record,))
    tx.add_sources(record, dict.fromkeys(causes))


def shown_text(kind: str, told: Mapping[str, Any]) -> str:
    """What is indexed of a definition and what recall shows."""
    if kind == "symbol":
        return f"<{told['name']}>: {told['text']}"
    return f"{told['name']}: {description(told['text'])}"


def description(documentation: str) -> str:
    """The part of a docstring that says what the thing does: up to its first section on parameters and the like.

    Lists of arguments and examples are much alike from one function to the next, and drown what tells them apart.
    """
    found = _SECTION.search(documentation)
    head = documentation[: found.start()].strip() if found else documentation.strip()
    return head or documentation.strip()


def records_of(tx: Transaction, kind: str, keys: Sequence[str]) -> dict[str, int]:
    """Record ids by key."""
    rows = tx.select(
        "SELECT uid, id FROM record WHERE uid IN ({ids}) AND kind = ? AND space = ?", keys, kind, tx.space_id
    )
    return {row["uid"]: row["id"] for row in rows}
