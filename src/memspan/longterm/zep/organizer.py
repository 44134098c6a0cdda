"""The organizer: from extractions to entities, facts, summaries and communities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, Extraction, FactDraft, FactView, Organizer, Recollection, Scribe
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.recall import Search
from memspan.longterm.store import Row, Transaction
from memspan.longterm.zep import search as searching
from memspan.longterm.zep.community import label_propagation, strongest_label
from memspan.longterm.zep.resolve import EntityResolver, normalize
from memspan.longterm.zep.table import FactTable
from memspan.longterm.zep.temporal import Closing, Window, closing_rule, same_state
from memspan.longterm.zep.view import windows


@dataclass(frozen=True, kw_only=True)
class ZepConfig:
    """Zep's constants; sources in brackets."""

    context_turns: int = 4  # turns a scribe sees before a batch (section 2.2.1)
    known_facts: int = (
        20  # latest facts of the subject that a new one is compared with, beside its rivals (graphiti: 10)
    )
    summary_facts: int = 10  # facts an entity's summary is made from (ours)
    fetch: int = 2  # each search fetches this many times k (graphiti)
    min_cosine: float = 0.3  # ours; graphiti has 0.6
    bfs_depth: int = 3  # steps of the breadth-first search (graphiti)
    rrf_constant: float = 1.0  # section 3.2, graphiti
    mmr_trade_off: float = 0.5  # graphiti
    match_weight: float = 8.0  # of the structured match in the fusion, where each other search counts 1 (ours)
    match_pool: int = 32  # facts that the structured match reads word by word (ours)
    match_least: float = 0.15  # match below which a fact is not in that list (ours)
    match_margin: float = 0.1  # matches this near the best fit as well, and the fact that began last is first (ours)
    graph_bonus: float = 1.0  # what the best found fact lends its source episodes, in standard deviations (ours)
    community_rounds: int = 20  # cap of label propagation (ours)


class Zep(Organizer):
    """Temporal knowledge graph over a memory's store.

    Args:
        scribe: "rules" (default), "model", "endpoint:…", or a `Scribe`.
        config: constants.
        cross_encoder: scores (question, text) pairs for the "cross" reranker; without one a Hugging Face cross-encoder
            is loaded when it is first asked for.
    """

    name = "zep"
    kinds = ("fact", "entity", "community")
    Config = ZepConfig

    def __init__(
        self,
        scribe: str | Scribe = "rules",
        config: ZepConfig | None = None,
        cross_encoder: searching.CrossEncoder | None = None,
    ) -> None:
        self.config = config or ZepConfig()
        self.context_turns = self.config.context_turns
        self.cross_encoder = cross_encoder
        self._scribe_spec = scribe
        self._scribe: Scribe | None = None if isinstance(scribe, str) else scribe
        self._resolvers: dict[int, EntityResolver] = {}
        self._tables: dict[int, FactTable] = {}

    @property
    def scribe(self) -> Scribe:
        """The scribe, loaded when first needed (recall needs none)."""
        if self._scribe is None:
            from memspan.longterm.scribe import load_scribe

            self._scribe = load_scribe(self._scribe_spec)
        return self._scribe

    # --- add ---

    def prepare(self, episodes: Sequence[Episode], context: Sequence[Episode]) -> Sequence[Extraction]:
        """Read the batch with the scribe."""
        return self.scribe.extract(episodes, context)

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Resolve entities and facts, close what is contradicted, refresh summaries, extend communities."""
        resolver = self._resolvers.setdefault(tx.space_id, EntityResolver())
        resolver.refresh(tx)
        touched: dict[int, None] = {}
        born: dict[int, None] = {}
        for record, episode, extraction in episodes:
            names = [(entity.name, entity.label) for entity in extraction.entities]
            if episode.speaker:
                names.insert(0, (episode.speaker, "PERSON"))
            for name, label in names:
                self._entity(tx, resolver, name, label, record, born)
            for draft in extraction.facts:
                subject = self._entity(tx, resolver, draft.subject, "THING", record, born)
                if draft.ends and draft.invalid_at is None:
                    # It can only close what is known: something nobody has heard of needs no entity.
                    target = resolver.find(tx, normalize(draft.object)) if draft.object else None
                else:
                    target = self._entity(tx, resolver, draft.object, "THING", record, born)
                if subject is None or subject == target or (target is None and not draft.ends):
                    continue
                self._fact(tx, draft, subject, target, record, to_micros(episode.at))
                touched[subject] = None
                if target is not None:
                    touched[target] = None
        for entity in touched:
            self._summarize(tx, entity)
        self._extend_communities(tx, list(born))

    def _entity(
        self,
        tx: Transaction,
        resolver: EntityResolver,
        name: str,
        label: str,
        episode: int,
        born: dict[int, None],
    ) -> int | None:
        uid = normalize(name)
        if not uid:
            return None
        entity = resolver.find(tx, uid)
        if entity is None:
            entity = tx.add_record("entity", uid, name, sources=[episode], data={"name": name, "label": label})
            resolver.add(entity, uid)
            born[entity] = None
        else:
            tx.add_sources(entity, [episode])
            if label != "THING":  # a generic node takes over a specific label
                tx.execute(
                    "UPDATE record SET data = json_set(data, '$.label', ?) WHERE id = ?"
                    " AND json_extract(data, '$.label') = 'THING'",
                    (label, entity),
                )
        tx.execute("INSERT OR IGNORE INTO link (src, kind, dst) VALUES (?, 'MENTIONS', ?)", (episode, entity))
        return entity

    def _fact(
        self, tx: Transaction, draft: FactDraft, subject: int, target: int | None, episode: int, said_at: int | None
    ) -> None:
        """Zep, section 2.2.2-2.2.3: duplicates gain a source, contradicted facts are closed.

        Only facts that share an end with the new one are compared with it. `target` is None when the text says that
        something ended without naming it ("I quit my job").
        """
        known = self._known(tx, draft, subject, subject if target is None else target)
        views = [
            FactView(
                subject=row["subject_shown"],
                relation=row["relation"],
                object=row["object_shown"],
                text=row["text"],
                valid_at=from_micros(row["valid_at"]),
                invalid_at=from_micros(row["invalid_at"]),
            )
            for row in known
        ]
        related = self.scribe.relate(draft, views)
        valid_at, invalid_at = to_micros(draft.valid_at), to_micros(draft.invalid_at)
        contradicted = [known[i] for i in related.contradicted if 0 <= i < len(known)]
        duplicates = [known[i] for i in related.duplicates if 0 <= i < len(known)]
        if draft.ends:
            self._end(tx, [*contradicted, *duplicates], invalid_at or valid_at or said_at, episode, related.reason)
            if contradicted or duplicates or invalid_at is None or target is None:
                return
        assert target is not None
        rivals = [Window(row["valid_at"], row["invalid_at"]) for row in contradicted]
        rows = tx.select("SELECT seen_at FROM source WHERE record IN ({ids})", [row["id"] for row in contradicted])
        rivals_seen = [row[0] for row in rows if row[0] is not None]
        for row in duplicates:
            if not draft.ends and same_state(Window(row["valid_at"], row["invalid_at"]), valid_at, rivals_seen):
                tx.add_sources(row["id"], [episode], valid_at)
                if valid_at is not None and (row["valid_at"] is None or valid_at < row["valid_at"]):
                    reason = "began earlier than was told"
                    tx.set_validity(
                        row["id"], valid_at=valid_at, invalid_at=row["invalid_at"], cause=episode, reason=reason
                    )
                    closing = closing_rule(Window(valid_at, row["invalid_at"]), rivals)
                    self._close(tx, contradicted, closing, row["text"], related.reason, episode)
                return
        closing = closing_rule(Window(valid_at, invalid_at), rivals)
        record = self._write_fact(tx, draft, subject, target, [(episode, valid_at)], valid_at, invalid_at, said_at)
        resumed = self._close(tx, contradicted, closing, draft.text, related.reason, episode)
        end, cause = closing.new.invalid_at, [row for row in contradicted if row["valid_at"] == closing.new.invalid_at]
        if resumed is not None and (end is None or resumed["seen_at"] < end):
            end, cause = resumed["seen_at"], [resumed["row"]]
        if end != invalid_at:
            first = tx.execute(
                "SELECT episode FROM source WHERE record = ? ORDER BY rank", (cause[0]["id"],)
            ).fetchone()
            tx.set_validity(
                record,
                valid_at=valid_at,
                invalid_at=end,
                retired=True,
                cause=None if first is None else first[0],
                reason=f"already known when it was told: {cause[0]['text']}",
            )

    def _known(self, tx: Transaction, draft: FactDraft, subject: int, target: int) -> list[Row]:
        """The facts that a new one is compared with, each found through an index.

        All between the same two ends and, where one object is allowed at a time, all of the subject's in the relation;
        of the subject's other facts, and of those that a symmetric relation could reach, the last `known_facts`.
        """
        of_relation = "SELECT record FROM fact WHERE {end} = ? AND relation = ?"
        latest = f" ORDER BY record DESC LIMIT {int(self.config.known_facts)}"
        parts: list[tuple[str, tuple[int | str, ...]]] = [
            ("SELECT record FROM fact WHERE subject = ? AND object = ?", (subject, target)),
            (
                of_relation.format(end="subject") + ("" if draft.functional else latest),
                (subject, draft.relation),
            ),
            ("SELECT record FROM fact WHERE subject = ?" + latest, (subject,)),
            (of_relation.format(end="object") + latest, (subject, draft.relation)),
            (of_relation.format(end="subject") + latest, (target, draft.relation)),
            (of_relation.format(end="object") + latest, (target, draft.relation)),
        ]
        union = " UNION ".join(f"SELECT record FROM ({sql})" for sql, _ in parts)
        return tx.execute(
            "SELECT r.id, r.text, r.valid_at, r.invalid_at, f.relation, f.subject, f.object,"
            " json_extract(s.data, '$.name') AS subject_shown, json_extract(o.data, '$.name') AS object_shown"
            f" FROM ({union}) known JOIN fact f ON f.record = known.record JOIN record r ON r.id = f.record"
            " JOIN record s ON s.id = f.subject JOIN record o ON o.id = f.object"
            " WHERE r.status = 'live' AND r.space = ?"
            " ORDER BY (f.relation = ?) DESC, (f.subject = ?) DESC, (f.object = ?) DESC, r.id DESC",
            (*(value for _, values in parts for value in values), tx.space_id, draft.relation, subject, target),
        ).fetchall()

    @staticmethod
    def _write_fact(
        tx: Transaction,
        draft: FactDraft,
        subject: int,
        target: int,
        seen: Sequence[tuple[int, int | None]],
        valid_at: int | None,
        invalid_at: int | None,
        said_at: int | None,
    ) -> int:
        number = tx.execute(
            "SELECT count(*) FROM fact WHERE subject = ? AND relation = ? AND object = ?",
            (subject, draft.relation, target),
        ).fetchone()[0]
        names = tx.records([subject, target])
        uid = f"{names[subject]['uid']} {draft.relation} {names[target]['uid']}"
        while number and tx.find("fact", f"{uid} #{number + 1}") is not None:
            number += 1
        record = tx.add_record(
            "fact",
            f"{uid} #{number + 1}" if number else uid,
            draft.text,
            at=said_at,
            valid_at=valid_at,
            invalid_at=invalid_at,
            data={"subject": draft.subject, "relation": draft.relation, "object": draft.object},
            reason=draft.reason,
        )
        for episode, moment in seen:
            tx.add_sources(record, [episode], moment)
        tx.execute(
            "INSERT INTO fact (record, subject, relation, object, functional) VALUES (?, ?, ?, ?, ?)",
            (record, subject, draft.relation, target, draft.functional),
        )
        return record

    def _close(
        self, tx: Transaction, known: Sequence[Row], closing: Closing, text: str, reason: str, episode: int
    ) -> dict[str, Any] | None:
        """Close what the new fact contradicts. A closed fact that was seen to hold again later resumes there.

        Returns:
            The first fact that resumes: its row, and `seen_at`, where the new fact must end.
        """
        first: dict[str, Any] | None = None
        for position, window in closing.closed:
            row = known[position]
            tx.set_validity(
                row["id"],
                valid_at=window.valid_at,
                invalid_at=window.invalid_at,
                retired=True,
                cause=episode,
                reason=reason or f"contradicted by: {text}",
            )
            later = tx.execute(
                "SELECT episode, seen_at FROM source WHERE record = ? AND seen_at > ? ORDER BY seen_at",
                (row["id"], window.invalid_at),
            ).fetchall()
            if not later:
                continue
            fact = tx.execute("SELECT * FROM fact WHERE record = ?", (row["id"],)).fetchone()
            draft = FactDraft(
                subject=row["subject_shown"],
                relation=row["relation"],
                object=row["object_shown"],
                text=row["text"],
                functional=bool(fact["functional"]),
                reason="was true again",
            )
            seen = [(source["episode"], source["seen_at"]) for source in later]
            tx.executemany("DELETE FROM source WHERE record = ? AND episode = ?", [(row["id"], e) for e, _ in seen])
            resumed = self._write_fact(
                tx, draft, fact["subject"], fact["object"], seen, seen[0][1], row["invalid_at"], None
            )
            if first is None or seen[0][1] < first["seen_at"]:
                first = {"seen_at": seen[0][1], "row": {"id": resumed, "text": row["text"]}}
        return first

    @staticmethod
    def _end(tx: Transaction, rows: Sequence[Row], moment: int | None, episode: int, reason: str) -> None:
        """Close facts that the episode says hold no longer."""
        for row in rows:
            open_then = row["invalid_at"] is None or (moment is not None and moment < row["invalid_at"])
            started = row["valid_at"] is None or (moment is not None and row["valid_at"] <= moment)
            if moment is not None and open_then and started:
                tx.set_validity(
                    row["id"],
                    valid_at=row["valid_at"],
                    invalid_at=moment,
                    retired=True,
                    cause=episode,
                    reason=reason or "said to hold no longer",
                )

    @staticmethod
    def _close_again(tx: Transaction, record: int, window: Window) -> None:
        """A functional fact whose successor was forgotten ends where the next known one begins."""
        rivals = tx.execute(
            "SELECT r.id, r.valid_at, r.text FROM fact f JOIN fact other ON other.subject = f.subject"
            " AND other.relation = f.relation AND other.object <> f.object JOIN record r ON r.id = other.record"
            " WHERE f.record = ? AND f.functional AND r.status = 'live' AND r.valid_at > ? ORDER BY r.valid_at, r.id",
            (record, window.valid_at),
        ).fetchall()
        end = closing_rule(window, [Window(row["valid_at"]) for row in rivals]).new.invalid_at
        if end == window.invalid_at:
            return
        first = tx.execute("SELECT episode FROM source WHERE record = ? ORDER BY rank", (rivals[0]["id"],)).fetchone()
        tx.set_validity(
            record,
            valid_at=window.valid_at,
            invalid_at=end,
            retired=True,
            cause=None if first is None else first[0],
            reason=f"contradicted by: {rivals[0]['text']}",
        )

    # --- summaries and communities ---

    def _summarize(self, tx: Transaction, entity: int) -> None:
        row = tx.records([entity]).get(entity)
        if row is None:
            return
        data = json.loads(row["data"] or "{}")
        facts = tx.execute(
            "SELECT r.text FROM fact f JOIN record r ON r.id = f.record WHERE (f.subject = ? OR f.object = ?)"
            " AND r.status = 'live' AND r.invalid_at IS NULL ORDER BY r.id DESC LIMIT ?",
            (entity, entity, self.config.summary_facts),
        ).fetchall()
        name = data.get("name", row["uid"])
        summary = self.scribe.summarize(name, [fact[0] for fact in facts]) if facts else ""
        text = f"{name}: {summary}" if summary else name
        if text != row["text"]:
            tx.set_text(entity, text)

    def _graph(self, tx: Transaction) -> dict[int, dict[int, float]]:
        graph: dict[int, dict[int, float]] = {}
        rows = tx.execute(
            "SELECT f.subject, f.object, count(*) FROM fact f JOIN record r ON r.id = f.record"
            " WHERE r.space = ? AND r.status = 'live' GROUP BY f.subject, f.object",
            (tx.space_id,),
        )
        for a, b, weight in rows:
            for one, other in ((a, b), (b, a)):
                edges = graph.setdefault(one, {})
                edges[other] = edges.get(other, 0.0) + weight
        return graph

    def _extend_communities(self, tx: Transaction, born: Sequence[int]) -> None:
        """A new entity joins the community that most of its neighbours are in, until the next rebuild."""
        if not born or tx.execute("SELECT 1 FROM link WHERE kind = 'HAS_MEMBER' LIMIT 1").fetchone() is None:
            return
        for entity in born:
            edges: dict[int, float] = {}
            for a, b in tx.execute(
                "SELECT subject, object FROM fact WHERE subject = ? OR object = ?", (entity, entity)
            ).fetchall():
                other = b if a == entity else a
                edges[other] = edges.get(other, 0.0) + 1
            label = {
                row[1]: row[0]
                for row in tx.select("SELECT src, dst FROM link WHERE kind = 'HAS_MEMBER' AND dst IN ({ids})", edges)
            }
            if label:
                tx.link(strongest_label(edges, label, None), "HAS_MEMBER", entity)

    def _write_community(self, tx: Transaction, members: Sequence[int], community: int | None = None) -> None:
        rows = tx.records(members)
        ordered = sorted(rows.values(), key=lambda row: row["id"])
        names = [json.loads(row["data"] or "{}").get("name", row["uid"]) for row in ordered]
        title = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        text = self.scribe.summarize(title, [row["text"] for row in ordered]) or title
        episodes = [
            row[0] for row in tx.select("SELECT DISTINCT episode FROM source WHERE record IN ({ids})", sorted(rows))
        ]
        data = {"name": title, "members": len(ordered)}
        if community is not None:
            tx.execute("DELETE FROM record WHERE id = ?", (community,))
            tx.bump_derived()
        record = tx.add_record(
            "community", f"community of {ordered[0]['uid']}", text, sources=sorted(set(episodes)), data=data
        )
        for row in ordered:
            tx.link(record, "HAS_MEMBER", row["id"])

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Rebuild all communities from the facts that are believed."""
        tx.execute("DELETE FROM record WHERE space = ? AND kind = 'community'", (tx.space_id,))
        tx.bump_derived()
        label = label_propagation(self._graph(tx), rounds=self.config.community_rounds)
        groups: dict[int, list[int]] = {}
        for node, name in label.items():
            groups.setdefault(name, []).append(node)
        built = [sorted(members) for members in groups.values() if len(members) > 1]
        for members in sorted(built):
            self._write_community(tx, members)
        return {"communities": len(built)}

    def on_forget(self, tx: Transaction, touched: Sequence[int]) -> None:
        """Write summaries and communities anew from what is left; reopened facts end where the next one begins."""
        for record, row in sorted(tx.records(touched).items()):
            if row["kind"] == "fact":
                self._close_again(tx, record, Window(row["valid_at"], row["invalid_at"]))
        for record, row in sorted(tx.records(touched).items()):
            if row["kind"] == "entity":
                self._summarize(tx, record)
        for record, row in sorted(tx.records(touched).items()):
            if row["kind"] != "community":
                continue
            members = [
                m[0] for m in tx.execute("SELECT dst FROM link WHERE src = ? AND kind = 'HAS_MEMBER'", (record,))
            ]
            if len(members) > 1:
                self._write_community(tx, members, record)
            else:
                tx.execute("DELETE FROM record WHERE id = ?", (record,))

    # --- recall ---

    def recall(self, search: Search) -> list[Recollection]:
        """Facts, entities and communities by full text, cosine and breadth-first search, then a reranker.

        A fact's `metadata["match"]`, 0 to 1, says how well it fits the question: subject, attribute, sort of value.
        """
        return searching.recall(search, self.config, self._cross, self._graph_of(search.tx))

    def _graph_of(self, tx: Transaction) -> searching.Graph:
        resolver = self._resolvers.setdefault(tx.space_id, EntityResolver())
        resolver.refresh(tx)
        table = self._tables.setdefault(tx.space_id, FactTable())
        table.refresh(tx)
        return searching.Graph(table, resolver)

    def episode_bonus(self, search: Search) -> dict[int, tuple[float, str]]:
        """What the facts found for the question lend to the episodes that state them."""
        if not self.config.graph_bonus or not search.deadline.allows("graph"):
            return {}
        return searching.episode_bonus(search, self.config)

    def _cross(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        if self.cross_encoder is None:
            raise InputError(
                "the 'cross' reranker needs a cross-encoder: Zep(cross_encoder=load_cross_encoder('<model>'))"
            )
        return self.cross_encoder(pairs)

    def history(
        self,
        tx: Transaction,
        subject: str,
        relation: str | None,
        as_of: datetime | None,
        believed_at: datetime | None,
    ) -> list[Recollection]:
        """Every fact ever held about a subject, or those that hold in a view, oldest first."""
        resolver = self._resolvers.setdefault(tx.space_id, EntityResolver())
        resolver.refresh(tx)
        entity = resolver.find(tx, normalize(subject))
        if entity is None:
            return []
        rows = tx.execute(
            "SELECT f.record FROM fact f WHERE f.subject = ? AND (? IS NULL OR f.relation = ?)",
            (entity, relation, relation),
        ).fetchall()
        seen = windows(tx, [row[0] for row in rows], to_micros(believed_at))
        moment = to_micros(as_of)
        shown = [(record, w) for record, w in seen.items() if moment is None or w.holds(moment)]
        shown.sort(key=lambda pair: (pair[1].valid_at is None, pair[1].valid_at or 0, pair[0]))
        return searching.recollections(tx, [(record, 0.0, "history") for record, _ in shown], seen)
