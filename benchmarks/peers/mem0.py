"""Mem0 with `infer=False` (texts as they are, no language model), its default local Qdrant store, telemetry off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["MEM0_TELEMETRY"] = "False"


class Adapter:
    """One user. The constructor wants a language model's configuration although none is called."""

    def __init__(self, folder: Path, embedder: Any) -> None:
        os.environ["MEM0_DIR"] = str(folder / "mem0")
        os.environ.setdefault("OPENAI_API_KEY", "unused")
        import torch
        from mem0 import Memory

        torch.set_num_threads(1)
        store = {
            "collection_name": "bench",
            "path": str(folder / "qdrant"),
            "embedding_model_dims": 384,
            "on_disk": True,
        }
        self._memory = Memory.from_config(
            {
                "embedder": {
                    "provider": "huggingface",
                    "config": {"model": str(embedder.directory), "embedding_dims": 384},
                },
                "vector_store": {"provider": "qdrant", "config": store},
                "history_db_path": str(folder / "history.db"),
            }
        )

    def add(self, item: dict[str, Any]) -> None:
        self._memory.add(item["said"], user_id="bench", infer=False, metadata={"message": item["id"]})

    def search(self, query: str, k: int) -> list[str]:
        # The default threshold of 0.1 would drop results: without it Mem0 finds at least as much.
        hits = self._memory.search(query, top_k=k, filters={"user_id": "bench"}, threshold=0.0)["results"]
        return [hit["metadata"]["message"] for hit in hits]

    def flush(self) -> None:
        """Every message is written by its own call."""

    def close(self) -> None:
        self._memory.vector_store.client.close()
