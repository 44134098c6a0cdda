"""Documents with versions: a document is kept as episodes, one for each chunk, and no version is ever overwritten.

The chunks of version n of a document stand in the session "doc:<id>@<n>", and name document, version, character span
and source in their metadata. A version is added in one transaction, so that readers see all of it or nothing. Which
version counts at a moment follows from the rows alone: the one with the latest time that is not after the moment.
Hence an old version stays addressable (`read`, `as_of`), and forgetting the newest brings back the one before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.base import Episode, Recollection
from memspan.longterm.passages import PASSAGE_CHARS, chunks

if TYPE_CHECKING:
    from memspan.longterm.memory import Memory
    from memspan.longterm.store import Transaction

_PREFIX = "doc:"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a document.

    Attributes:
        document: the document's id; number: counts from 1.
        at: since when it counts; source: where it came from.
        digest: SHA-256 of the text; episodes: ids of its chunks, in order.
    """

    document: str
    number: int
    at: datetime
    source: str | None
    digest: str
    episodes: tuple[str, ...]


def upsert(
    memory: Memory,
    doc_id: str,
    text: str,
    *,
    source: str | None = None,
    at: datetime | date | str | None = None,
    space: str | None = None,
    chunk: int = PASSAGE_CHARS,
) -> Version:
    """Add a document, or a new version of it; a text that equals the newest version's adds nothing.

    Args:
        doc_id: any text without "@".
        source: a file name or address, for citations.
        at: since when this version counts; None is the store's now.
        chunk: characters of a chunk; cut at sentence or line ends.

    Raises:
        InputError: an id or text that cannot be, or a time before the newest version's.
    """
    if not isinstance(doc_id, str) or not doc_id.strip() or "@" in doc_id:
        raise InputError(f"document id {doc_id!r} must be text without '@'")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"document {doc_id!r} has no text")
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise InputError(f"chunk must be a whole number of at least 1, not {chunk!r}")
    moment = clock.as_moment(at, "at") or clock.from_micros(memory._now())
    assert moment is not None
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    known = _versions(memory, doc_id, space)
    if known and known[-1].digest == digest:
        return known[-1]
    if known and moment < known[-1].at:
        raise InputError(
            f"document {doc_id!r} has a version of {known[-1].at.isoformat()}, later than {moment.isoformat()}:"
            " add versions in the order of their time"
        )
    number = known[-1].number + 1 if known else 1
    session = f"{_PREFIX}{doc_id}@{number}"
    origin = {"doc": doc_id, "version": number, "source": source, "sha256": digest}
    episodes = [
        Episode(
            text=text[start:stop],
            at=moment,
            session=session,
            id=f"{doc_id}@{number}#{place}",
            metadata=origin | {"start": start, "stop": stop},
        )
        for place, (start, stop) in enumerate(_spans(text, chunk))
    ]
    ids = memory.add(episodes, space=space)
    return Version(doc_id, number, moment, source, digest, tuple(ids))


def versions(memory: Memory, doc_id: str, *, space: str | None = None) -> list[Version]:
    """Every version of a document, the oldest first.

    Raises:
        InputError: there is no such document.
    """
    known = _versions(memory, doc_id, space)
    if not known:
        raise InputError(f"there is no document {doc_id!r} in this memory; add it with upsert")
    return known


def read(
    memory: Memory,
    doc_id: str,
    *,
    version: int | None = None,
    as_of: datetime | date | str | None = None,
    space: str | None = None,
) -> str:
    """The text of a document: of a version, of the one that counted at a moment, or of the newest.

    Raises:
        InputError: there is no such document, no such version, or none at that time.
    """
    known = versions(memory, doc_id, space=space)
    moment = clock.as_moment(as_of, "as_of")
    if version is not None:
        chosen = [v for v in known if v.number == version]
    else:
        chosen = [v for v in known if moment is None or v.at <= moment][-1:]
    if not chosen:
        numbers = ", ".join(f"{v.number} ({v.at:%Y-%m-%d})" for v in known)
        raise InputError(f"document {doc_id!r} has no such version; it has {numbers}")
    with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
        rows = tx.execute(
            "SELECT text FROM record WHERE space = ? AND session = ? AND kind = 'episode' ORDER BY id",
            (tx.space_id, f"{_PREFIX}{doc_id}@{chosen[0].number}"),
        ).fetchall()
    return "".join(row[0] for row in rows)


def current(hits: Iterable[Recollection], newest: Mapping[str, int]) -> list[Recollection]:
    """The hits without chunks of versions that do not count; see `newest_versions`."""
    return [
        hit
        for hit in hits
        if hit.kind != "episode"
        or "doc" not in hit.metadata
        or "version" not in hit.metadata
        or newest.get(hit.metadata["doc"]) == hit.metadata["version"]
    ]


def newest_versions(tx: Transaction, documents: Iterable[str], moment: datetime | None = None) -> dict[str, int]:
    """Document id -> number of the version that counts at the moment (None is now); none yet, no entry."""
    limit = tx.now if moment is None else clock.to_micros(moment)
    assert limit is not None
    found = {}
    for document in dict.fromkeys(documents):
        numbers = [row[0] for row in _rows(tx, document) if row[1] is None or row[1] <= limit]
        if numbers:
            found[document] = max(numbers)
    return found


def _rows(tx: Transaction, document: str) -> list[tuple[int, int | None]]:
    """(number, time) of every version."""
    low, high = f"{_PREFIX}{document}@", f"{_PREFIX}{document}A"  # "A" follows "@"
    rows = tx.execute(
        "SELECT session, max(at) FROM record WHERE space = ? AND session >= ? AND session < ? AND kind = 'episode'"
        " GROUP BY session",
        (tx.space_id, low, high),
    ).fetchall()
    return [(int(row[0].removeprefix(low)), row[1]) for row in rows if row[0].removeprefix(low).isdigit()]


def _versions(memory: Memory, doc_id: str, space: str | None) -> list[Version]:
    with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
        found = []
        for number, at in sorted(_rows(tx, doc_id), key=lambda row: row[0]):
            session = f"{_PREFIX}{doc_id}@{number}"
            rows = tx.execute(
                "SELECT uid, data FROM record WHERE space = ? AND session = ? AND kind = 'episode' ORDER BY id",
                (tx.space_id, session),
            ).fetchall()
            data = json.loads(rows[0]["data"] or "{}")
            moment = clock.from_micros(at)
            if "sha256" in data and moment is not None:
                uids = tuple(row["uid"] for row in rows)
                found.append(Version(doc_id, number, moment, data.get("source"), data["sha256"], uids))
    return found


def _spans(text: str, size: int) -> list[tuple[int, int]]:
    """Spans that cover the text without a gap, none of them blank."""
    starts = [start for start, _ in chunks(text, size)]
    stops = [*starts[1:], len(text)]
    return list(zip([0, *starts[1:]], stops, strict=True))
