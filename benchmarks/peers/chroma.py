"""chromadb: a vector store on SQLite and HNSW; the vectors are handed to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chromadb
from chromadb.config import Settings


class Adapter:
    """One persistent collection with cosine distance."""

    def __init__(self, folder: Path, embedder: Any) -> None:
        self._embedder = embedder
        settings = Settings(anonymized_telemetry=False)
        self._client = chromadb.PersistentClient(str(folder / "chroma"), settings=settings)
        self._collection = self._client.create_collection(
            "bench", metadata={"hnsw:space": "cosine"}, embedding_function=None
        )

    def add(self, item: dict[str, Any]) -> None:
        self.add_batch([item])

    def add_batch(self, items: list[dict[str, Any]]) -> None:
        said = [item["said"] for item in items]
        self._collection.add(
            ids=[item["id"] for item in items],
            documents=said,
            embeddings=self._embedder.encode(said),
            metadatas=[{"speaker": item["speaker"], "session": item["session"]} for item in items],
        )

    def search(self, query: str, k: int) -> list[str]:
        vectors = self._embedder.encode([query])
        answer = self._collection.query(query_embeddings=vectors, n_results=k, include=["documents", "metadatas"])
        ids: list[str] = answer["ids"][0]
        return ids

    def flush(self) -> None:
        """Every batch is written by its own call."""

    def close(self) -> None:
        """The files are written as they go."""
