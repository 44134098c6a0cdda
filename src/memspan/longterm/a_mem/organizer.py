"""The organizer: every episode becomes a note that is linked to near ones and may change them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError
from memspan.longterm.a_mem import search as searching
from memspan.longterm.a_mem.attributes import Attributes, Statistics, context_of, keywords_of, stems
from memspan.longterm.a_mem.config import AMemConfig
from memspan.longterm.a_mem.notes import (
    SHARED,
    SUGGESTED,
    content_of,
    episodes_by_id,
    links_of,
    render,
    to_data,
    write_data,
)
from memspan.longterm.a_mem.planning import Cache, Draft, Plan
from memspan.longterm.base import Episode, Organizer, Recollection, Scribe, Surroundings
from memspan.longterm.changes import attributes, set_attribute
from memspan.longterm.passages import ROLES, term_hashes
from memspan.longterm.prompts import Writer
from memspan.longterm.recall import Search
from memspan.longterm.rows import episodes_hold, index_derived
from memspan.longterm.store import Row, Transaction


class AMem(Organizer):
    """Notes with context, keywords and tags, linked to near ones, which they may change.

    An episode may bring its note's attributes in metadata["note"]: an object with keywords and tags (lists of
    words) and context (a text), each optional.

    Args:
        scribe: "rules" (default), or "model", "model:SPEC", "endpoint:…", or an object with a language model in
            `.model`, which then writes attributes, links notes and changes old ones; where its answer cannot be used
            the rules decide, and the note says so.
        config: constants.

    Raises:
        InputError: `evolution="full"` without a language model.

    Example:
        >>> from memspan import Episode, Memory
        >>> with Memory.open(":memory:", organizer="a-mem", embedder=None) as memory:
        ...     _ = memory.add([
        ...         Episode("I joined a pottery class in town.", speaker="Ann", id="a"),
        ...         Episode("My pottery teacher showed us a kiln.", speaker="Ann", id="b"),
        ...         Episode("It rains.", speaker="Bo", id="c"),
        ...     ])
        ...     hit = memory.recall("Who showed the kiln?", kinds=["note"], k=1)[0]
        ...     hit.episodes, "pottery" in hit.metadata["keywords"]
        (['b'], True)
    """

    name = "a-mem"
    kinds = ("note",)
    Config = AMemConfig

    def __init__(self, scribe: str | Scribe = "rules", config: AMemConfig | None = None) -> None:
        self.config = config or AMemConfig()
        self.context_turns = self.config.context_turns
        self._scribe = scribe
        self._model: Writer | None = None
        self._model_known = False
        self._cache = Cache()
        if self.config.evolution == "full" and isinstance(scribe, str) and scribe.partition(":")[0] == "rules":
            raise InputError("evolution='full' needs a language model: scribe='model' or 'endpoint:…'")

    @property
    def model(self) -> Writer | None:
        """The language model that takes the decisions, loaded when first needed; None with the rules."""
        if not self._model_known:
            scribe = self._scribe
            if isinstance(scribe, str) and scribe.partition(":")[0] != "rules":
                from memspan.longterm.scribe import load_scribe

                scribe = load_scribe(scribe)
            model = getattr(scribe, "model", None)
            self._model = model if isinstance(model, Writer) else None
            self._model_known = True
        return self._model

    # --- add ---

    def prepare_with(
        self, around: Surroundings, episodes: Sequence[Episode], context: Sequence[Episode]
    ) -> Sequence[Draft | None]:
        """Decide everything about the batch's notes: attributes, vectors, links, and what they change."""
        return Plan(around, episodes, context, self.config, self.model, self._cache).drafts()

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Store the drafts; what they refer to and is gone meanwhile is left out."""
        drafts: list[tuple[int, Draft]] = [(record, draft) for record, _, draft in episodes if draft is not None]
        rows = tx.records(record for record, _ in drafts)
        uids = {draft.position: rows[record]["uid"] for record, draft in drafts}
        notes: dict[int, int] = {}
        vectors: dict[int, NDArray[np.float16]] = {}

        def resolved(note: int) -> int | None:
            if note < 0:
                return notes.get(-1 - note)
            row = tx.records([note]).get(note)
            return note if row is not None and row["kind"] == "note" else None

        def named(seen: Iterable[str | int]) -> list[str]:
            ids = {uids.get(source, "") if isinstance(source, int) else source for source in seen}
            return list(episodes_by_id(tx, ids))

        for record, draft in drafts:
            seen = named(draft.attributes.seen)
            note = notes[draft.position] = tx.add_record(
                "note",
                rows[record]["uid"],
                draft.document,
                sources=[record],
                at=rows[record]["at"],
                data=to_data(draft.attributes, seen),
                reason=f"attributes by {draft.attributes.by}",
            )
            if draft.document in draft.vectors:
                vectors[note] = draft.vectors[draft.document]
            for link in draft.links:
                if (other := resolved(link.note)) is not None:
                    tx.link(note, link.kind, other, link.likeness)
            for rewrite in draft.rewrites:
                target = resolved(rewrite.note)
                if target is None:
                    continue
                for name, value in rewrite.values.items():
                    set_attribute(tx, target, name, value, cause=record, reason=rewrite.reason)
                if rewrite.seen:
                    self._add_seen(tx, target, named(rewrite.seen))
                for changed, text in render(tx, [target]).items():
                    vectors.pop(changed, None)
                    if text in draft.vectors:
                        vectors[changed] = draft.vectors[text]
        index_derived(tx)
        _store_vectors(tx, vectors)
        _store_vectors(tx, {record: d.own_vector[None] for record, d in drafts if d.own_vector is not None})

    @staticmethod
    def _add_seen(tx: Transaction, note: int, seen: Sequence[str]) -> None:
        data = attributes(tx.records([note])[note])
        write_data(tx, note, {**data, "seen": sorted({*data.get("seen", []), *seen})})

    # --- undo, forget, maintain ---

    def on_undo(self, tx: Transaction, records: Sequence[int]) -> None:
        """Render notes anew from the attributes that hold now."""
        render(tx, records)

    def on_forget(self, tx: Transaction, touched: Sequence[int]) -> None:
        """Take out of the notes that are left what forgotten episodes said.

        A note whose attributes were written from a forgotten episode is written anew by the rules, and its changes are
        erased with it: their values may hold what is forgotten. A note that a forgotten episode only changed has its
        values of before again.
        """
        self._cache.clear()
        stale = tx.execute(
            "SELECT DISTINCT n.id, n.uid FROM record n, json_each(n.data, '$.seen') s"
            " WHERE n.space = ? AND n.kind = 'note' AND NOT EXISTS"
            " (SELECT 1 FROM record e WHERE e.space = n.space AND e.kind = 'episode' AND e.uid = s.value)",
            (tx.space_id,),
        ).fetchall()
        own = episodes_by_id(tx, [row["uid"] for row in stale])
        for row in stale:
            self._write_anew(tx, row["id"], own[row["uid"]])
        self._sweep_tags(tx)
        render(tx, [*touched, *(row["id"] for row in stale)])

    def _write_anew(self, tx: Transaction, note: int, episode: Row) -> None:
        """Attributes by rules, from the episode and what is left of the turns before it."""
        tx.execute("DELETE FROM change WHERE record = ?", (note,))
        window: list[Row] = []
        if episode["session"] is not None and self.config.context_turns:
            window = tx.execute(
                "SELECT * FROM record WHERE space = ? AND session = ? AND kind = 'episode' AND id < ?"
                " ORDER BY id DESC LIMIT ?",
                (tx.space_id, episode["session"], episode["id"], self.config.context_turns),
            ).fetchall()[::-1]
        speakers = tx.execute("SELECT DISTINCT speaker FROM record WHERE space = ?", (tx.space_id,)).fetchall()
        names = {word for (name,) in speakers if name and name.lower() not in ROLES for word in name.lower().split()}
        statistics = _counted(tx, [episode["text"], *(row["text"] for row in window)])
        context, place = context_of(content_of(episode), [(row["speaker"], row["text"]) for row in window], statistics)
        keywords = keywords_of(episode["text"], statistics, self.config.keywords, names)
        seen = [window[place]] if place >= 0 else []
        found = Attributes(keywords, [], context, fallback="written anew after an erasure")
        write_data(tx, note, to_data(found, [row["uid"] for row in seen]))

    @staticmethod
    def _sweep_tags(tx: Transaction) -> None:
        """Take off tags by rules that no episode holds any more: they were forgotten ones' words."""
        held: dict[str, bool] = {}

        def kept(tags: Sequence[str], own: set[int]) -> list[str]:
            for tag in tags:
                if tag not in held:
                    held[tag] = episodes_hold(tx, tag)
            return [tag for tag in tags if held[tag] or not stems([tag]).isdisjoint(own)]

        rows = tx.execute(
            "SELECT * FROM record WHERE space = ? AND kind = 'note' AND json_extract(data, '$.by') = 'rules'"
            " AND json_extract(data, '$.tags') IS NOT NULL",
            (tx.space_id,),
        ).fetchall()
        for row in rows:
            data = attributes(row)
            own = stems(data.get("keywords", []))
            if (left := kept(data["tags"], own)) == data["tags"]:
                continue
            write_data(tx, row["id"], {**data, "tags": left})
            for change in tx.execute(
                "SELECT id, old, new FROM change WHERE record = ? AND field = 'tags' ORDER BY id", (row["id"],)
            ).fetchall():
                old, new = (json.dumps(kept(json.loads(change[side]) or [], own)) for side in ("old", "new"))
                tx.execute("UPDATE change SET old = ?, new = ? WHERE id = ?", (old, new, change["id"]))
            render(tx, [row["id"]])

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Check every note's text against its attributes, as the paper's consolidation does; counts."""
        notes = [
            row[0] for row in tx.execute("SELECT id FROM record WHERE space = ? AND kind = 'note'", (tx.space_id,))
        ]
        return {"notes": len(notes), "notes_rendered": len(render(tx, notes))}

    def stats(self, tx: Transaction) -> dict[str, Any]:
        """Counts of notes by who wrote their attributes, links made and walked, changes of notes, and fallbacks."""
        notes = tx.execute(
            "SELECT id, json_extract(data, '$.by') AS by, json_extract(data, '$.fallback') IS NOT NULL AS fallback"
            " FROM record WHERE space = ? AND kind = 'note'",
            (tx.space_id,),
        ).fetchall()
        if not notes:
            return {}
        ids = [row["id"] for row in notes]
        walked = links_of(tx, ids, self.config.most_links)
        made = tx.select(
            "SELECT kind, weight FROM link WHERE src IN ({ids}) AND kind IN (?, ?)", ids, SHARED, SUGGESTED
        )
        changed = tx.select("SELECT record FROM change WHERE record IN ({ids})", ids)
        return {
            "notes": len(notes),
            "notes_by": {by: sum(row["by"] == by for row in notes) for by in sorted({row["by"] for row in notes})},
            "links": len(made),
            "links_by_rule": sum(row["kind"] == SHARED for row in made),
            "links_walked": sum(map(len, walked.values())) // 2,
            "links_of_a_note": round(sum(map(len, walked.values())) / len(notes), 2),
            "weakest_link": round(min((row["weight"] for row in made), default=0.0), 3),
            "changes": len(changed),
            "notes_changed": len({row["record"] for row in changed}),
            "fallbacks": sum(row["fallback"] for row in notes),
        }

    # --- recall ---

    def recall(self, search: Search) -> list[Recollection]:
        """Notes that fit, and notes that they link to where these fit too."""
        return searching.recollections(search, self.config)

    def episode_bonus(self, search: Search) -> dict[int, tuple[float, str]]:
        """An episode gains by its note's score and the links that lead to it."""
        return searching.bonuses(search, self.config)


def _counted(tx: Transaction, texts: Sequence[str]) -> Statistics:
    """Document frequencies of the words of a few texts, counted in the rows."""
    asked = set(term_hashes(" ".join(texts)).tolist())
    counts = dict.fromkeys(asked, 0)
    passages = 0
    rows = tx.execute(
        "SELECT p.terms FROM passage p JOIN record r ON r.id = p.record WHERE p.space = ? AND r.kind = 'episode'",
        (tx.space_id,),
    )
    for (terms,) in rows:
        passages += 1
        for term in asked.intersection(np.frombuffer(terms, np.uint32).tolist()):
            counts[term] += 1
    return Statistics(passages, counts)


def _store_vectors(tx: Transaction, vectors: dict[int, NDArray[np.float16]]) -> None:
    """Give the passages of records their vectors, in order; a record with other passages is left to the embedder."""
    places: dict[int, list[int]] = {}
    for record, passage in tx.select("SELECT record, id FROM passage WHERE record IN ({ids}) ORDER BY id", vectors):
        places.setdefault(record, []).append(passage)
    tx.executemany(
        "INSERT OR IGNORE INTO vector (passage, data) VALUES (?, ?)",
        [
            (passage, row.tobytes())
            for record, rows in vectors.items()
            if len(places.get(record, ())) == len(rows)
            for passage, row in zip(places[record], rows, strict=True)
        ],
    )
