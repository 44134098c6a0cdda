"""MemPalace: verbatim "drawers" in Chroma, vector hits re-scored by BM25; used through its MCP tools' functions.

Its embedder is the same MiniLM as an ONNX file under the home directory (see mempalace_model.py); it asks for one
thread, as everyone here has.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

os.environ["MEMPALACE_EMBEDDING_MODEL"] = "minilm"
os.environ["MEMPALACE_EMBEDDING_DEVICE"] = "cpu"


class Adapter:
    """One wing; a session is a room, so that equal words said in two sessions stay two drawers."""

    def __init__(self, folder: Path, embedder: Any) -> None:
        os.environ["MEMPALACE_PALACE_PATH"] = str(folder / "palace")
        from mempalace import mcp_server

        self._add = mcp_server.tool_add_drawer
        self._search = mcp_server.tool_search
        self._ids: dict[tuple[str, str], str] = {}
        # A first drawer: without one there is no palace to search. It is in nobody's evidence.
        self.add({"id": "hello", "session": "hello", "said": "Hello."})

    def add(self, item: dict[str, Any]) -> None:
        room = re.sub(r"\W+", "_", item["session"]).strip("_").lower()
        answer = self._add(wing="bench", room=room, content=item["said"])
        if not answer.get("success"):
            raise RuntimeError(str(answer.get("error", answer)))
        self._ids.setdefault((room, item["said"].strip()), item["id"])

    def search(self, query: str, k: int) -> list[str]:
        answer = self._search(query, limit=k)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return [self._ids[hit["room"], hit["text"].strip()] for hit in answer["results"]]

    def flush(self) -> None:
        """Every drawer is embedded and written by its own call."""

    def close(self) -> None:
        """The files are written as they go."""
