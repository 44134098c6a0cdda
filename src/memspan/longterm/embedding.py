"""A store's embedder: loaded when first needed, checked against the vectors that are there, fed in batches."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from memspan.core.errors import MissingExtraError, StoreError
from memspan.core.footprint import Footprint
from memspan.longterm.passages import PASSAGE_CHARS, embedded_text
from memspan.longterm.recall import Deadline
from memspan.longterm.store import Store, Transaction
from memspan.longterm.vectors import F32

if TYPE_CHECKING:
    from memspan.models.base import Embedder

BATCH = 64
"""Passages that wait before they are embedded together: alone, a short text costs two to three times as much."""
GROUP = 1024  # passages per commit: sorted by length inside, so that padding is small
_QUERIES_KEPT = 256


class EmbedderSlot:
    """The place of an embedder in a `Memory`; empty when there is none."""

    def __init__(self, store: Store, embedder: str | Embedder | None, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._wanted = embedder
        self._embedder: Embedder | None = None if embedder is None or isinstance(embedder, str) else embedder
        self._checked = False
        self._absent = embedder is None
        self._done_to = 0  # every passage up to this id has its vector
        self._generation = ""
        self._queries: OrderedDict[str, F32] = OrderedDict()
        self._query_seconds = 0.0
        self.words: dict[str, F32] = {}
        """Vectors of single words that were compared; emptied when something is forgotten."""

    @property
    def name(self) -> str | None:
        """The embedder's name, or None; does not load it."""
        if self._embedder is not None:
            return self._embedder.name
        return None if self._absent else str(self._wanted)

    def get(self) -> Embedder | None:
        """The embedder, loaded and found to fit the store's vectors; None when there is none."""
        if self._absent:
            return None
        if self._embedder is None:
            from memspan.models import load_embedder

            spec = "bundled" if self._wanted == "auto" else str(self._wanted)
            try:
                self._embedder = load_embedder(spec)
            except MissingExtraError:
                if self._wanted != "auto":
                    raise
                self._absent = True
                return None
        if not self._checked:
            self._check(self._embedder)
        return self._embedder

    def _check(self, embedder: Embedder) -> None:
        identity = {"name": embedder.name, "fingerprint": embedder.fingerprint, "dim": embedder.dim}
        with self._store.read(self._now()) as tx:
            known = tx.meta("embedder")
        if known is None:
            with self._store.write(self._now()) as tx:
                if tx.meta("embedder") is None:
                    tx.set_meta("embedder", json.dumps(identity))
        elif json.loads(known)["fingerprint"] != embedder.fingerprint:
            raise StoreError(
                f"{self._store.path} holds vectors of {json.loads(known)['name']}, not of {embedder.name}: open it with"
                " that embedder, or run maintain(reembed=True)"
            )
        self._checked = True

    def embed(self, texts: Sequence[str]) -> F32:
        """[n, D] unit vectors.

        Raises:
            StoreError: there is no embedder.
        """
        embedder = self.get()
        if embedder is None:
            raise StoreError("this memory has no embedder; open it with embedder='bundled'")
        return embedder.embed(list(texts))

    def embed_query(self, text: str, deadline: Deadline) -> F32 | None:
        """[D] the question's vector, from the last questions or anew; None without an embedder, vectors or time."""
        if self._absent:
            return None
        if text in self._queries:
            self._queries.move_to_end(text)
            return self._queries[text]
        ready = self._embedder is not None and self._checked
        if deadline.limited and not (ready and deadline.allows("vectors", self._query_seconds)):
            if not ready:
                deadline.skipped.append("vectors: the embedder is not loaded yet")
            return None
        embedder = self.get()
        if embedder is None:
            return None
        started = time.perf_counter()
        embed = getattr(embedder, "embed_queries", embedder.embed)  # an embedder may read questions in its own way
        vector = np.asarray(embed([text])[0], np.float32)
        self._query_seconds = time.perf_counter() - started
        self._queries[text] = vector
        if len(self._queries) > _QUERIES_KEPT:
            self._queries.popitem(last=False)
        return vector

    def _pending(self, tx: Transaction, limit: int) -> list[tuple[int, str]]:
        generation = tx.meta("generation") or ""
        if generation != self._generation:
            self._generation, self._done_to = generation, 0
        newest = tx.execute("SELECT coalesce((SELECT max(id) FROM passage), 0)").fetchone()[0]
        if newest <= self._done_to:
            return []
        rows = tx.execute(
            "SELECT p.id, r.text, r.speaker, r.data, p.start, p.stop, r.kind"
            " FROM passage p CROSS JOIN record r ON r.id = p.record"
            " WHERE p.id > ? AND NOT EXISTS (SELECT 1 FROM vector v WHERE v.passage = p.id) ORDER BY p.id LIMIT ?",
            (self._done_to, limit),
        ).fetchall()
        if not rows:
            self._done_to = newest
        return [(row[0], _passage_text(*row[1:])) for row in rows]

    def embed_batches(self) -> None:
        """Embed what waits, as long as at least one batch does."""
        if self._absent:
            return
        with self._store.read(self._now()) as tx:
            waiting = len(self._pending(tx, BATCH))
        if waiting >= BATCH:
            self.embed_all()

    def embed_all(self, *, progress: bool = False) -> int:
        """Embed everything that waits, a group a commit; returns how many passages that was."""
        if self._absent:
            return 0
        done = 0
        while True:
            with self._store.read(self._now()) as tx:
                waiting = self._pending(tx, GROUP)
            if not waiting:
                return done
            embedder = self.get()
            if embedder is None:
                return done
            vectors = embedder.embed([text for _, text in waiting], progress=progress)
            packed = np.asarray(vectors, np.float16)
            with self._store.write(self._now()) as tx:
                # A passage may have been forgotten meanwhile: its vector must not come back.
                tx.executemany(
                    "INSERT OR IGNORE INTO vector (passage, data) SELECT id, ? FROM passage WHERE id = ?",
                    [(row.tobytes(), passage) for row, (passage, _) in zip(packed, waiting, strict=True)],
                )
            self._done_to = waiting[-1][0]
            done += len(waiting)

    def reset(self) -> int:
        """Drop all vectors and the embedder's identity; returns how many there were."""
        with self._store.write(self._now()) as tx:
            count: int = tx.execute("SELECT count(*) FROM vector").fetchone()[0]
            tx.execute("DELETE FROM vector")
            for table in ("part", "vector_index", "vector_gone"):  # the files that held them too
                tx.execute(f"DELETE FROM {table}")
            tx.execute("DELETE FROM meta WHERE key = 'embedder'")
            tx.bump()
        self._checked = False
        self._queries.clear()
        self.words.clear()
        return count

    def forget(self, texts: Sequence[str]) -> None:
        """Drop cached vectors of erased texts."""
        self._queries.clear()
        self.words.clear()
        forget = getattr(self._embedder, "forget", None)
        if forget is not None:
            forget(texts)

    def footprint(self) -> Footprint:
        """The embedder's weights, when it is loaded."""
        return Footprint() if self._embedder is None else self._embedder.footprint()

    def abandon(self) -> None:
        """Leave what waits to the next process."""
        self._absent = True

    def close(self) -> None:
        """Embed what waits, if that needs no loading."""
        if self._embedder is not None and self._checked:
            self.embed_all()


def _passage_text(text: str, speaker: str | None, data: str | None, start: int, stop: int, kind: str) -> str:
    """What the embedder reads of a passage: the speaker and a photo's caption stand with the whole of a short text."""
    if kind != "episode":
        return text[start:stop]
    if start == 0 and stop == len(text):
        return embedded_text(text, speaker, json.loads(data) if data else None)
    before, _ = ("", "") if start else (embedded_text("", speaker, None), "")
    # The first passage stands for the whole text's head, so it is read a little further than it is indexed.
    return before + text[start : max(stop, start + PASSAGE_CHARS)] if start == 0 else text[start:stop]
