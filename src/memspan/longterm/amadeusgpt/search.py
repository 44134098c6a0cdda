"""Recall: what a question names first, with all that it rests on; then symbols and programs by words and meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memspan.longterm.amadeusgpt import rows
from memspan.longterm.amadeusgpt.errors import CycleError
from memspan.longterm.amadeusgpt.grammar import parse
from memspan.longterm.amadeusgpt.table import Paged, Place, SymbolTable
from memspan.longterm.base import Recollection
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.recall import Search, best, resting_on_allowed
from memspan.longterm.rerank import reciprocal_rank_fusion

NAMED = 3.0
"""Score of a symbol that the question names; what it rests on has 2, and likeness is at most 1."""
_POOL = 50


def table_of(search: Search, kind: str = "symbol") -> SymbolTable:
    """The symbols in the view that the query asks for."""
    query = search.query
    return rows.load_table(search.tx, believed_at=to_micros(query.believed_at), as_of=to_micros(query.as_of), kind=kind)


def named(table: SymbolTable, text: str) -> tuple[list[Paged], set[str], str]:
    """What a text names with all that it rests on, the keys that it names itself, and in words a circle found in it."""
    direct = [mark.key for mark in parse(text, table).references if mark.key in table]
    try:
        return table.closure(direct), set(direct), ""
    except CycleError as error:
        alone = [Paged(table.current(key), table.at(table.current(key)), True) for key in direct]
        return alone, set(direct), str(error).partition(";")[0]


def symbols(search: Search) -> list[Recollection]:
    """Symbols for the query, best first."""
    table = table_of(search)
    paged, direct, circle = named(table, search.query.text)
    hits = []
    # The one that the question names comes first and what it rests on last, in the order in which it is needed.
    for depth, page in enumerate(reversed(paged)):
        by_name = page.current and page.place[0] in direct
        why = f"<{page.definition.name}> stands in the question" if by_name else f"<{page.used_by}> rests on it"
        if circle:
            why += f"; {circle}"
        hits.append(recollection(table, page.place, score=(NAMED if by_name else NAMED - 1) - depth * 1e-3, why=why))
    seen = {page.place[0] for page in paged}
    for key, score, why in _alike(search, "symbol", table):
        if key not in seen:
            hits.append(recollection(table, table.current(key), score=score, why=why))
    return _allowed(search, "symbol", hits)


def programs(search: Search, least_cosine: float) -> list[Recollection]:
    """Entries of the library whose documentation is like the query: by cosine as in the paper, else by words.

    Requests and documentation seldom share words that tell functions apart, so words are not added to the vectors.
    """
    table = table_of(search, "program")
    hits = [
        recollection(table, table.current(key), score=score, why=why, kind="program")
        for key, score, why in _alike(search, "program", table, least_cosine)
    ]
    return _allowed(search, "program", hits)


def defining_episodes(search: Search, bonus: float) -> dict[int, tuple[float, str]]:
    """Record id -> bonus, of the episodes that define what the question names."""
    table = table_of(search)
    paged, direct, _ = named(table, search.query.text)
    told = {
        page.definition.episode: f"defines <{page.definition.name}>, which the question "
        + ("names" if page.place[0] in direct else "rests on")
        for page in paged
    }
    found = rows.records_of(search.tx, "episode", list(told))
    return {record: (bonus, told[uid]) for uid, record in found.items()}


def _alike(search: Search, kind: str, table: SymbolTable, least_cosine: float = 0.0) -> list[tuple[str, float, str]]:
    """(key, score up to 1, why) by full text and vectors."""
    index = search.derived
    code = index.kinds.get(kind)
    if code is None or not table.symbols:
        return []
    own = index.kind == code
    words = search.lexical(index)
    near = search.cosine(index, mask=own)
    lists = []
    by_words = None if kind == "program" and near is not None else words
    for scores, least in ((by_words, 0.0), (near, least_cosine)):
        if scores is None:
            continue
        shown = np.where(own & (scores > least), scores, -np.inf)
        places = best(shown, _POOL)
        places = places[np.isfinite(shown[places])]
        lists.append([int(at) for at in places[np.argsort(-shown[places], kind="stable")]])
    ranked = reciprocal_rank_fusion(lists, 10.0)
    found = search.tx.records(int(index.record_ids[at]) for at, _ in ranked)
    most = len(lists) / 10.0
    alike = []
    for at, score in ranked:
        row = found.get(int(index.record_ids[at]))
        if row is None or row["uid"] not in table:
            continue
        why = [f"full text {words[at]:.1f}"] if words[at] > 0 else []
        if near is not None:
            why.append(f"cosine {near[at]:.2f}")
        alike.append((str(row["uid"]), score / most, ", ".join(why)))
    return alike


def recollection(table: SymbolTable, place: Place, *, score: float, why: str, kind: str = "symbol") -> Recollection:
    """A version as users see it."""
    key, position = place
    symbol, version = table.symbols[key], table.at(place)
    uses = table.uses(place) if kind == "symbol" else []
    told: dict[str, Any] = {
        "name": version.name,
        "definition": version.text,
        "version": version.number,
        "versions": len(symbol.versions),
        "current": position == len(symbol.versions) - 1,
        "program": version.program.source if version.program else None,
        "signature": version.program.signature if version.program else None,
        "creator": version.program.creator if version.program else None,
    }
    if kind == "symbol":
        told["uses"] = [table.at(used).name for used in uses]
        told["unresolved"] = list(parse(version.text, table).unresolved)
        why += f"; version {version.number}" + ("" if told["current"] else ", which a later one starts from")
    others = [v.episode for v in reversed(symbol.versions) if v.episode != version.episode]
    return Recollection(
        kind=kind,
        id=key,
        text=rows.shown_text(kind, {"name": version.name, "text": version.text}),
        score=score,
        episodes=[version.episode, *dict.fromkeys(others)],
        valid_at=from_micros(version.at),
        recorded_at=from_micros(version.recorded_at),
        why=why,
        metadata=told,
    )


def _allowed(search: Search, kind: str, hits: Sequence[Recollection]) -> list[Recollection]:
    """The hits of which at least one source passes the query's filters."""
    ids = rows.records_of(search.tx, kind, list({hit.id for hit in hits}))
    kept = resting_on_allowed(search, set(ids.values()))
    return [hit for hit in hits if ids.get(hit.id) in kept]
