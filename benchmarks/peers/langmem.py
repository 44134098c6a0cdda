"""LangMem's memory tools on LangGraph's InMemoryStore: cosine over vectors, all in RAM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langgraph.store.memory import InMemoryStore
from langmem import create_manage_memory_tool, create_search_memory_tool


class Adapter:
    """One namespace. The tools give a memory an id of its own, so ids are told from the content they return."""

    def __init__(self, folder: Path, embedder: Any) -> None:
        def embed(texts: list[str]) -> list[list[float]]:
            vectors: list[list[float]] = embedder.encode(list(texts)).tolist()
            return vectors

        self._store = InMemoryStore(index={"dims": 384, "embed": embed})
        self._manage = create_manage_memory_tool(("memories",), store=self._store)
        self._search = create_search_memory_tool(
            ("memories",), store=self._store, response_format="content_and_artifact"
        )
        self._ids: dict[str, list[str]] = {}

    def add(self, item: dict[str, Any]) -> None:
        self._manage.invoke({"content": item["said"], "action": "create"})
        self._ids.setdefault(item["said"], []).append(item["id"])

    def search(self, query: str, k: int) -> list[str]:
        call = {"type": "tool_call", "id": "1", "name": self._search.name, "args": {"query": query, "limit": k}}
        hits = self._search.invoke(call).artifact
        # Turns with the same words ("Ann: Thanks!") are told apart by their order of arrival.
        seen: dict[str, int] = {}
        found = []
        for hit in hits:
            content = hit.value["content"]
            place = seen.get(content, 0)
            seen[content] = place + 1
            found.append(self._ids[content][place])
        return found

    def flush(self) -> None:
        """Every memory is embedded by its own call."""

    def close(self) -> None:
        """Nothing is kept."""
