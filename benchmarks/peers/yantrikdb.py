"""YantrikDB: an embedded engine in Rust on SQLite; hybrid recall with an embedder that is handed to it."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from yantrikdb import Backpressure, YantrikDB


class _Encoder:
    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder

    def encode(self, text: str) -> list[float]:
        vector: list[float] = self._embedder.encode([text])[0].tolist()
        return vector


class Adapter:
    """One namespace of one database file; the id travels in the metadata."""

    def __init__(self, folder: Path, embedder: Any) -> None:
        self._db = YantrikDB(str(folder / "yantrik.db"), embedding_dim=384, embedder=_Encoder(embedder))

    def add(self, item: dict[str, Any]) -> None:
        at = item.get("at")
        while True:
            try:
                self._db.record(
                    item["said"],
                    metadata={"id": item["id"], "session": item["session"]},
                    created_at=datetime.fromisoformat(at).timestamp() if at else None,
                )
                return
            except Backpressure:  # its ingest queue is full; its message asks for this
                time.sleep(0.05)

    def add_batch(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            self.add(item)

    def search(self, query: str, k: int) -> list[str]:
        return [hit["metadata"]["id"] for hit in self._db.recall(query, top_k=k)]

    def flush(self) -> None:
        """Every record is written by its own call."""

    def close(self) -> None:
        self._db.close()
