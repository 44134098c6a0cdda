"""The organizer: thoughts are inserted, forgotten and merged in groups; answers may become thoughts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, FactDraft, FactView, KeptAnswer, Organizer, Recollection, Scribe
from memspan.longterm.changes import attributes
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.lsh import LSHIndex, bucket_entropy, quality
from memspan.longterm.prompts import Writer
from memspan.longterm.recall import Search
from memspan.longterm.store import Row, Transaction
from memspan.longterm.think_in_memory import search as searching
from memspan.longterm.think_in_memory.config import ThinkInMemoryConfig
from memspan.longterm.think_in_memory.groups import (
    CONTRADICTS,
    HEAD,
    REPEATS,
    Fuse,
    Key,
    Tidier,
    by_rules,
    keys_of,
    keys_to_tidy,
    link_near,
    members,
    tail_link,
    vectors_of,
)
from memspan.longterm.think_in_memory.questions import question_key
from memspan.longterm.think_in_memory.thoughts import (
    ANSWERS,
    Draft,
    coverage,
    given,
    head_key,
    of_fact,
    origin_of,
    tail_key,
    thought_uid,
)

_META = "think-in-memory"
"""The store's setting that holds how thoughts are searched and the hash's parameters."""
_SAMPLE = 200  # thoughts that `stats` asks for the neighbours of


class ThinkInMemory(Organizer):
    """Conclusions instead of raw history, kept tidy by insert, forget and merge.

    Thoughts are relation triples with their sentence. They come from an episode's `metadata["thoughts"]` (mappings with
    "head", "rel" and "tail", or "head" and "text") or, where it brings none, from the facts that the scribe reads.

    Args:
        scribe: "rules" (default), "model", "endpoint:…", or a `Scribe`; with a language model it also words merged
            thoughts and thinks about answers that are kept.
        config: constants.

    Example:
        >>> from memspan import Episode, Memory
        >>> with Memory.open(":memory:", organizer="think-in-memory", embedder=None) as memory:
        ...     for n, role in enumerate(("an actor", "a director")):
        ...         thought = {"head": "John", "rel": "WORKS_AS", "tail": role, "text": f"John works as {role}."}
        ...         _ = memory.add(Episode(f"I am {role}.", "John", id=f"j{n}", metadata={"thoughts": [thought]}))
        ...     [hit.text for hit in memory.recall("John works", kinds=["thought"])]
        ['John works as an actor.', 'John works as a director.']
    """

    name = "think-in-memory"
    kinds = ("thought",)
    Config = ThinkInMemoryConfig

    def __init__(self, scribe: str | Scribe = "rules", config: ThinkInMemoryConfig | None = None) -> None:
        self.config = config or ThinkInMemoryConfig()
        self.context_turns = self.config.context_turns
        self.keeps_answers = self.config.keep_answers
        self._scribe_spec = scribe
        self._scribe: Scribe | None = None if isinstance(scribe, str) else scribe
        self._buckets: dict[int, searching.Buckets] = {}

    @property
    def scribe(self) -> Scribe:
        """The scribe, loaded when first needed (recall needs none)."""
        if self._scribe is None:
            from memspan.longterm.scribe import load_scribe

            self._scribe = load_scribe(self._scribe_spec, functional=self.config.functional)
        return self._scribe

    @property
    def _model(self) -> Writer | None:
        """The language model behind the scribe, if it has one."""
        if self._scribe is None and isinstance(self._scribe_spec, str) and self._scribe_spec.startswith("rules"):
            return None
        model = getattr(self.scribe, "model", None)
        return model if isinstance(model, Writer) else None

    @property
    def _fuse(self) -> Fuse:
        if self._model is None:
            return by_rules
        from memspan.longterm.think_in_memory.prompts import fuse_with

        return fuse_with(self._model)

    # --- insert ---

    def prepare(self, episodes: Sequence[Episode], context: Sequence[Episode]) -> Sequence[list[Draft]]:
        """The thoughts of each episode: those that it brings, else those that the scribe reads in it."""
        functional = self.config.functional
        told = [given(episode, f"episode {place}", functional) for place, episode in enumerate(episodes)]
        silent = [episode for episode, thoughts in zip(episodes, told, strict=True) if thoughts is None]
        read = iter(self.scribe.extract(silent, context) if silent else ())
        return [
            [of_fact(fact, episode.at) for fact in next(read).facts if self._borne_out(fact, episode)]
            if thoughts is None
            else thoughts
            for episode, thoughts in zip(episodes, told, strict=True)
        ]

    def _borne_out(self, fact: FactDraft, episode: Episode) -> bool:
        """Whether the episode holds enough of the tail that a model read in it; rules take their words from there."""
        if self._model is None:
            return True
        return coverage(fact.object, [episode.text, episode.speaker or ""]) >= self.config.least_coverage

    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Insert the thoughts of a batch; forget and merge in the groups that they went to."""
        self._remember_parameters(tx)
        touched: dict[Key, set[int]] = {}
        for record, episode, drafts in episodes:
            for draft in drafts:
                self._insert(tx, draft, [*self._more(tx, draft), record], origin_of(episode), {}, touched)
        if self.config.tidy_on_add:
            Tidier(tx, self._fuse).tidy_around(touched)

    @staticmethod
    def _more(tx: Transaction, draft: Draft) -> list[int]:
        rows = [tx.find("episode", uid) for uid in draft.sources]
        if None in rows:
            missing = draft.sources[rows.index(None)]
            raise InputError(f"a thought names the source {missing!r}, and no episode has this id")
        return [row["id"] for row in rows if row is not None]

    def _insert(
        self,
        tx: Transaction,
        draft: Draft,
        episodes: Sequence[int],
        origin: str,
        more: Mapping[str, Any],
        touched: dict[Key, set[int]],
    ) -> None:
        """Store a thought, or name more sources of the one that is there; `touched` takes what is to be tidied."""
        fact = draft.fact
        head, tail = head_key(fact.subject), tail_key(fact.object) if fact.object else ""
        uid = thought_uid(head, fact.relation, tail, fact.text, origin, "ends" if fact.ends else "")
        hub = self._hub(tx, head, episodes, fact.relation if fact.functional or fact.ends else None)
        key = (hub, fact.relation)
        until = None if fact.ends else to_micros(fact.invalid_at)
        at = to_micros(fact.invalid_at) if fact.ends and fact.invalid_at else draft.at
        row = tx.find("thought", uid)
        if row is None:
            data = {
                "head": fact.subject,
                "rel": fact.relation,
                "tail": fact.object,
                "tail_key": tail,
                "origin": origin,
                **{name: True for name in ("functional", "ends") if getattr(fact, name)},
                **({"closed": True, "until": until} if until is not None else {}),
                **more,
            }
            record = tx.add_record(
                "thought", uid, fact.text, valid_at=at, invalid_at=until, data=data, reason=fact.reason
            )
            tx.link(record, HEAD + fact.relation, hub)
            tx.link(record, tail_link(fact.relation, tail), hub)
        else:
            record = int(row["id"])
            if more:
                data = {**attributes(row), **more}
                tx.execute("UPDATE record SET data = ? WHERE id = ?", (json.dumps(data, ensure_ascii=False), record))
            if at is not None and row["status"] == "live" and (row["valid_at"] is None or at < row["valid_at"]):
                tx.set_validity(
                    record, valid_at=at, invalid_at=row["invalid_at"], cause=episodes[-1], reason="began earlier"
                )
        tx.add_sources(record, episodes, at)
        touched.setdefault(key, set()).add(record)
        if row is None and origin != "derived":
            self._compare(tx, fact, record, key, touched)

    @staticmethod
    def _hub(tx: Transaction, head: str, episodes: Sequence[int], strict: str | None) -> int:
        """The head's record, which remembers relations in which all thoughts may bear on each other."""
        row = tx.find("head", head)
        hub = tx.add_record("head", head, head, sources=episodes) if row is None else int(row["id"])
        if row is not None:
            tx.add_sources(hub, episodes)
        if strict is not None:
            relations = {strict, *(attributes(row).get("strict", ()) if row is not None else ())}
            data = json.dumps({"strict": sorted(relations)}, ensure_ascii=False)
            tx.execute("UPDATE record SET data = ? WHERE id = ? AND data IS NOT ?", (data, hub, data))
        return hub

    def _compare(self, tx: Transaction, fact: FactDraft, record: int, key: Key, touched: dict[Key, set[int]]) -> None:
        """Ask the scribe which known thoughts of the head the new one repeats or contradicts, and note it."""
        latest = "SELECT src FROM link WHERE dst = ? AND kind {test} AND src <> ? ORDER BY src DESC LIMIT ?"
        near = [
            row[0]
            for test, values in (("= ?", (HEAD + key[1],)), ("BETWEEN ? AND ?", (HEAD, HEAD[:-1] + "!")))
            for row in tx.execute(
                latest.format(test=test), (key[0], *values, record, self.config.known_thoughts)
            ).fetchall()
        ]
        found_rows = tx.records(near)
        rows = [
            row
            for row in (found_rows[other] for other in dict.fromkeys(near))
            if row["status"] in ("live", "merged") and not members(row)
        ][: self.config.known_thoughts]
        if not rows:
            return
        about = [attributes(row) for row in rows]
        views = [
            FactView(
                subject=data["head"],
                relation=data["rel"],
                object=data["tail"],
                text=row["text"],
                valid_at=from_micros(row["valid_at"]),
                invalid_at=from_micros(row["invalid_at"]),
            )
            for row, data in zip(rows, about, strict=True)
        ]
        related = self.scribe.relate(fact, views)
        found = [
            (kind, rows[place]["id"])
            for kind, places in ((CONTRADICTS, related.contradicted), (REPEATS, related.duplicates))
            for place in places
            if 0 <= place < len(rows)
        ]
        for kind, other in found:
            tx.execute("INSERT OR IGNORE INTO link (src, kind, dst) VALUES (?, ?, ?)", (record, kind, other))
            for other_key in keys_of(tx, [other]):
                touched.setdefault(other_key, set()).add(other)

    # --- look after ---

    def on_forget(self, tx: Transaction, touched: Sequence[int]) -> None:
        """Look again at the groups that lost a source; an answer that rested on what is gone goes too."""
        rows = tx.records(touched)
        thoughts = {record: row for record, row in rows.items() if row["kind"] == "thought"}
        keys = keys_of(tx, thoughts)
        for record, row in sorted(thoughts.items()):
            if attributes(row).get("origin") == "derived" and not members(row):
                tx.erased.append(row["text"])
                tx.execute("DELETE FROM record WHERE id = ?", (record,))
                tx.bump_derived()
        Tidier(tx, self._fuse, erase=True).tidy(keys)
        for record in sorted(record for record, row in rows.items() if row["kind"] == "head"):
            tx.execute(
                "DELETE FROM record WHERE id = ? AND NOT EXISTS (SELECT 1 FROM link WHERE dst = record.id)", (record,)
            )

    def on_undo(self, tx: Transaction, records: Sequence[int]) -> None:
        """A thought whose merging or forgetting was undone stands for itself from now on."""
        rows = {record: row for record, row in tx.records(records).items() if row["kind"] == "thought"}
        for record, row in rows.items():
            data = attributes(row)
            if row["status"] == "merged" and "merged_into" not in data:
                data["apart"] = True
            elif row["status"] == "forgotten" and "superseded_by" not in data:
                data["kept"] = True
            tx.execute("UPDATE record SET data = ? WHERE id = ?", (json.dumps(data, ensure_ascii=False), record))
        Tidier(tx, self._fuse).tidy(keys_of(tx, rows))

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Forget and merge in every group, also what only vectors tell to be the same; nothing is deleted.

        Running it twice changes nothing.
        """
        self._remember_parameters(tx)
        keys = keys_to_tidy(tx)
        for key in keys:
            link_near(tx, key, self.config.merge_at)
        tidier = Tidier(tx, self._fuse)
        tidier.tidy(keys)
        return tidier.done

    def history(
        self,
        tx: Transaction,
        subject: str,
        relation: str | None,
        as_of: datetime | None,
        believed_at: datetime | None,
    ) -> list[Recollection]:
        """Every thought about a head as it was said, forgotten ones too, or those that hold in a view; oldest first."""
        hub = tx.find("head", head_key(subject))
        if hub is None:
            return []
        rows = tx.execute(
            "SELECT r.* FROM link l JOIN record r ON r.id = l.src WHERE l.dst = ? AND l.kind LIKE ?"
            " AND (? IS NULL OR l.kind = ?)",
            (hub["id"], HEAD + "%", relation, HEAD + (relation or "")),
        ).fetchall()
        return searching.history(
            tx, [row for row in rows if not members(row)], to_micros(as_of), to_micros(believed_at)
        )

    # --- the hash ---

    def _parameters(self, tx: Transaction) -> tuple[str, dict[str, Any]]:
        """How thoughts are searched, and the hash's parameters: the store's own when the config leaves it open."""
        config = self.config
        own = {name: getattr(config, name) for name in ("n_buckets", "n_tables", "probes", "center", "seed")}
        saved = tx.meta(_META)
        if config.index == "auto" and saved is not None:
            told = json.loads(saved)
            return told["index"], told["hash"]
        return ("exact" if config.index == "auto" else config.index), own

    def _remember_parameters(self, tx: Transaction) -> None:
        index, parameters = self._parameters(tx)
        text = json.dumps({"index": index, "hash": parameters}, sort_keys=True)
        if self.config.index != "auto" and tx.meta(_META) != text:
            tx.set_meta(_META, text)

    def stats(self, tx: Transaction) -> dict[str, Any]:
        """Thoughts by status and origin, the hash, its buckets, and what it would find and read on a sample."""
        statuses = tx.execute(
            "SELECT status, count(*) FROM record WHERE space = ? AND kind = 'thought' GROUP BY status ORDER BY status",
            (tx.space_id,),
        ).fetchall()
        active = tx.execute(
            "SELECT id, json_extract(data, '$.origin') FROM record WHERE space = ? AND kind = 'thought'"
            " AND status = 'live' ORDER BY id",
            (tx.space_id,),
        ).fetchall()
        index, parameters = self._parameters(tx)
        origins = [row[1] for row in active]
        told: dict[str, Any] = {
            "thoughts": {searching.SHOWN_STATUS.get(status, status): count for status, count in statuses},
            "origins": {name: origins.count(name) for name in sorted(set(origins))},
            "index": index,
            "hash": parameters,
        }
        return told | self._bucket_stats(tx, [row[0] for row in active], parameters)

    @staticmethod
    def _bucket_stats(tx: Transaction, active: Sequence[int], parameters: Mapping[str, Any]) -> dict[str, Any]:
        vectors = vectors_of(tx, active)
        if not vectors:
            return {}
        table = np.stack([vectors[record] for record in active if record in vectors])
        lsh = LSHIndex(table.shape[1], **parameters)
        lsh.add(table)
        sizes = lsh.bucket_sizes()
        sample = table[:: max(1, len(table) // _SAMPLE)][:_SAMPLE]
        recall, scanned = quality(lsh, sample, table, skip=1)
        return {
            "bucket_sizes": sizes.tolist(),
            "bucket_entropy_bits": round(float(np.mean([bucket_entropy(row) for row in sizes])), 3),
            "bucket_entropy_most": round(math.log2(lsh.n_buckets), 3),
            "largest_bucket_share": round(float(sizes.max(axis=1).mean()) / len(table), 3),
            "scanned_share": None if math.isnan(scanned) else round(scanned, 3),
            "recall_at_10_of_exact": None if math.isnan(recall) else round(recall, 3),
        }

    # --- stage 1 ---

    def recall(self, search: Search) -> list[Recollection]:
        """Thoughts by full text and cosine, among all of them or in the question's buckets."""
        return searching.recall(search, self.config, self._space_buckets(search.tx))

    def _space_buckets(self, tx: Transaction) -> searching.Buckets | None:
        index, parameters = self._parameters(tx)
        if index != "lsh":
            return None
        return self._buckets.setdefault(tx.space_id, searching.Buckets(parameters))

    def episode_bonus(self, search: Search) -> dict[int, tuple[float, str]]:
        """What the thoughts found for the question lend to the episodes that they come from."""
        config = self.config
        if not config.thought_bonus or not search.deadline.allows("thoughts"):
            return {}
        first = searching.best_places(search, config, config.bonus_thoughts)
        rank = {record: place for place, record in enumerate(first)}
        bonus: dict[int, tuple[float, str]] = {}
        for record, episode in search.tx.select("SELECT record, episode FROM source WHERE record IN ({ids})", first):
            value = config.thought_bonus / (1 + rank[record])
            if episode not in bonus or bonus[episode][0] < value:
                bonus[episode] = (value, f"source of thought #{rank[record] + 1}")
        return bonus

    # --- stage 2 ---

    def on_answer(
        self,
        tx: Transaction,
        question: str,
        circumstances: str,
        payload: Mapping[str, Any],
        sources: Sequence[int],
        support: float,
    ) -> None:
        """Post-think: keep a supported answer as a derived thought, and with a language model what follows from it."""
        if not self.keeps_answers or support < self.config.least_support:
            return
        wording = " ".join(str(payload["text"]).split())
        fact = FactDraft(
            subject=question_key(question) + (f" {circumstances}" if circumstances != "{}" else ""),
            relation=ANSWERS,
            object=wording,
            text=f"{question.strip()} {wording}",
            functional=True,
            reason="concluded from an answer",
        )
        more = {"question": question, "answer": dict(payload), "thought_at": tx.now}
        touched: dict[Key, set[int]] = {}
        self._insert(tx, Draft(fact=fact, at=tx.now), sources, "derived", more, touched)
        if self._model is not None:
            from memspan.longterm.think_in_memory.prompts import think

            texts = [row["text"] for row in tx.records(sources).values()]
            speakers = [row["speaker"] or "" for row in tx.records(sources).values()]
            said = [f"{who}: {text}" if who else text for who, text in zip(speakers, texts, strict=True)]
            for drawn in think(self._model, question, wording, said, self.config.least_coverage):
                draft = Draft(fact=drawn, at=tx.now)
                self._insert(tx, draft, sources, "derived", {"thought_at": tx.now}, touched)
        Tidier(tx, self._fuse).tidy(touched)
        self._index(tx)

    @staticmethod
    def _index(tx: Transaction) -> None:
        from memspan.longterm.rows import index_derived

        index_derived(tx)

    def kept_answer(self, tx: Transaction, question: str, circumstances: str) -> KeptAnswer | None:
        """The answer that is held for the same question, unless what it rests on was superseded."""
        key = question_key(question) + (f" {circumstances}" if circumstances != "{}" else "")
        row: Row | None = tx.execute(
            "SELECT r.* FROM record h JOIN link l ON l.dst = h.id JOIN record r ON r.id = l.src"
            " WHERE h.space = ? AND h.kind = 'head' AND h.uid = ? AND l.kind = ? AND r.status = 'live'"
            " ORDER BY r.id DESC LIMIT 1",
            (tx.space_id, head_key(key), HEAD + ANSWERS),
        ).fetchone()
        data = {} if row is None else attributes(row)
        if "answer" not in data:
            return None
        return KeptAnswer(question=data["question"], payload=data["answer"], at=data["thought_at"])
