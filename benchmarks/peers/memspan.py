"""memspan itself, measured by the same worker: one `add` call per message, the embedder it opens with by default."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import memspan
from memspan import Episode, Footprint


class _Handed:
    """The benchmark's own embedder behind memspan's protocol."""

    name, fingerprint, dim, max_tokens = "benchmark", "benchmark-random-384", 384, None

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Any:
        return self._embedder.encode(list(texts))

    def footprint(self) -> Footprint:
        return Footprint()


class Adapter:
    """One file. With the worker's MiniLM asked for, memspan's own default embedder (the same model) is used."""

    def __init__(self, folder: Path, embedder: Any) -> None:
        if embedder is None:
            chosen: Any = None
        elif hasattr(embedder, "directory"):
            from memspan import load_embedder

            chosen = load_embedder("bundled", threads=1)
        else:
            chosen = _Handed(embedder)
        self._memory = memspan.Memory.open(folder / "memory.db", organizer="plain", embedder=chosen)

    @staticmethod
    def _episode(item: dict[str, Any]) -> Episode:
        at = item.get("at")
        return Episode(
            text=item["text"],
            speaker=item["speaker"],
            at=datetime.fromisoformat(at) if at else None,
            session=item["session"],
            id=item["id"],
            metadata=item.get("metadata") or {},
        )

    def add(self, item: dict[str, Any]) -> None:
        self._memory.add(self._episode(item))

    def add_batch(self, items: list[dict[str, Any]]) -> None:
        self._memory.add([self._episode(item) for item in items])

    def search(self, query: str, k: int) -> list[str]:
        return [hit.id for hit in self._memory.recall(query, k=k)]

    def flush(self) -> None:
        """Embed what still waits for a full batch."""
        self._memory.embed_pending()

    def close(self) -> None:
        self._memory.close()
