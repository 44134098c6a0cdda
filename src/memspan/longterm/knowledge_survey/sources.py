"""Search engines as a source of memory: what they find becomes documents, with an address and a version.

memspan itself opens no connection: the search engine is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from memspan.core.errors import InputError
from memspan.longterm.knowledge_survey.documents import Version, upsert

if TYPE_CHECKING:
    from memspan.longterm.memory import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search engine found.

    Attributes:
        id: the document's id, the same whenever the same document is found; no "@".
        text: its words.
        source: its address, for citations.
        at: when it was published; None when that is not known: it then counts from now on.
    """

    id: str
    text: str
    source: str | None = None
    at: datetime | date | str | None = None


@runtime_checkable
class SearchEngine(Protocol):
    """Finds documents outside the store."""

    def search(self, query: str, k: int) -> Sequence[Found]:
        """At most `k` documents, best first."""


def remember_search(
    memory: Memory, engine: SearchEngine, query: str, k: int = 5, *, space: str | None = None
) -> list[Version]:
    """Search, and keep what was found as documents; what is known already adds nothing, what has changed a version.

    Returns:
        The version of each document found, best first; one without text is left out.

    Raises:
        InputError: an empty query, k below 1, more than k results, or a document that cannot be kept.
    """
    if not isinstance(query, str) or not query.strip():
        raise InputError("the query is empty")
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, not {k!r}")
    found = list(engine.search(query, k))
    if len(found) > k:
        raise InputError(f"the search engine was asked for {k} documents and gave {len(found)}")
    return [
        upsert(memory, one.id, one.text, source=one.source, at=one.at, space=space) for one in found if one.text.strip()
    ]
