"""Documents with versions: a document is kept as episodes, one for each chunk, and no version is ever overwritten.

The chunks of version n of a document stand in the session "doc:<id>@<n>", and name document, version, character span
and source in their metadata. A version is added in one transaction, so that readers see all of it or nothing. Which
version counts at a moment follows from the rows alone (see `memspan.longterm.versions`): the last one that is not later
than the moment. Hence an old version stays addressable (`read`, `as_of`), and forgetting the newest brings back the one
before. `withdraw` takes a document out of use and keeps its history; `forget_document` erases it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.adding import insert_episodes
from memspan.longterm.base import Episode
from memspan.longterm.passages import PASSAGE_CHARS, chunks
from memspan.longterm.versions import PREFIX, SessionVersion, version_of

if TYPE_CHECKING:
    from memspan.longterm.evict import Eviction
    from memspan.longterm.forget import Forgotten
    from memspan.longterm.memory import Memory
    from memspan.longterm.store import Transaction


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a document.

    Attributes:
        document: the document's id; number: counts from 1.
        at: since when it counts, None is always; source: where it came from.
        digest: SHA-256 of the text; episodes: ids of its chunks, in order.
        evictions: what had to go when it was added to make room for it; empty for one that is looked up.
    """

    document: str
    number: int
    at: datetime | None
    source: str | None
    digest: str
    episodes: tuple[str, ...]
    evictions: tuple[Eviction, ...] = ()


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
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"document {doc_id!r} has no text")
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise InputError(f"chunk must be a whole number of at least 1, not {chunk!r}")
    moment = clock.as_moment(at, "at") or clock.from_micros(memory._now())

    def episodes(version: int) -> list[Episode]:
        return [
            Episode(text=text[start:stop], id=f"{doc_id}@{version}#{place}", metadata={"start": start, "stop": stop})
            for place, (start, stop) in enumerate(_spans(text, chunk))
        ]

    return put(memory, doc_id, episodes, digest_of(text), source=source, at=moment, space=space)


def digest_of(*texts: str) -> str:
    """SHA-256 of texts, by which a document that has not changed is known."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def put(
    memory: Memory,
    doc_id: str,
    episodes: Callable[[int], Sequence[Episode]],
    digest: str,
    *,
    source: str | None = None,
    at: datetime | None = None,
    batch: int | None = None,
    space: str | None = None,
) -> Version:
    """Add a version that is already in pieces; of the newest version's digest only what is missing is added.

    Args:
        doc_id: any text without "@".
        episodes: number of the version -> its pieces, without session, time, and what names the document.
        digest: of the content.
        source: a file name or address, for citations.
        at: since when it counts; None is always, and only a first version can have it.
        batch: pieces a transaction; None is all of them, so that the version appears as a whole.

    Raises:
        InputError: an id that cannot be, or a time before the newest version's.
    """
    checked_document(doc_id)
    known, last, newest = _history(memory, doc_id, space)
    again = bool(known) and known[-1].number == last and known[-1].digest == digest
    if again:
        version, at = SessionVersion(doc_id, last), known[-1].at
    elif newest is not None and (at is None or at < newest):
        given = "no time" if at is None else at.isoformat()
        raise InputError(
            f"document {doc_id!r} has a version of {newest.isoformat()}, later than {given}: add versions in the order"
            " of their time"
        )
    else:
        version = SessionVersion(doc_id, last + 1)
    pieces = list(episodes(version.number))
    if again and (batch is None or len(known[-1].episodes) == len(pieces)):
        return known[-1]
    origin = {"doc": doc_id, "version": version.number, "source": source, "sha256": digest}
    pieces = [
        replace(piece, at=at, session=version.session, metadata=origin | dict(piece.metadata)) for piece in pieces
    ]
    ids: list[str] = []
    evictions: list[Eviction] = []
    for begin in range(0, len(pieces), batch or len(pieces)):
        added = memory.add(pieces[begin : begin + (batch or len(pieces))], space=space)
        ids += added
        evictions += [added.evicted] if added.evicted else []
    return Version(doc_id, version.number, at, source, digest, tuple(ids), tuple(evictions))


def checked_document(doc_id: str) -> str:
    """The id, if it can be a document's.

    Raises:
        InputError: it cannot.
    """
    if not isinstance(doc_id, str) or not doc_id.strip() or "@" in doc_id:
        raise InputError(f"document id {doc_id!r} must be text without '@'")
    return doc_id


def withdraw(
    memory: Memory, doc_id: str, *, at: datetime | date | str | None = None, space: str | None = None
) -> int | None:
    """Take a document out of use from a moment on; what it said before can still be asked for by date.

    Args:
        at: since when it no longer counts; None is the store's now.

    Returns:
        The number that the withdrawal has among the versions; None when the document was withdrawn already.

    Raises:
        InputError: there is no such document, or a time before its newest version's.
    """
    known, last, newest = _history(memory, doc_id, space)
    if not known:
        raise InputError(f"there is no document {doc_id!r} in this memory; add it with upsert")
    if known[-1].number != last:
        return None
    moment = clock.as_moment(at, "at") or clock.from_micros(memory._now())
    assert moment is not None
    if newest is not None and moment < newest:
        raise InputError(f"document {doc_id!r} has a version of {newest.isoformat()}, later than {moment.isoformat()}")
    version = SessionVersion(doc_id, last + 1, withdrawn=True)
    origin = {"doc": doc_id, "version": version.number, "withdrawn": True}
    note = Episode(
        text="(withdrawn)", at=moment, session=version.session, id=f"{doc_id}@{version.number}!", metadata=origin
    )
    with memory.store.write(memory._now(), memory.space if space is None else space) as tx:
        insert_episodes(tx, [note], [json.dumps(origin, ensure_ascii=False)])  # organizers have nothing to read in it
    return version.number


def forget_document(memory: Memory, doc_id: str, *, space: str | None = None) -> Forgotten:
    """Erase every version of a document, and what was derived only from it; see `Memory.forget`.

    Raises:
        InputError: there is no such document.
    """
    with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
        sessions = [version.session for version, _ in _rows(tx, doc_id)]
        rows = [
            row[0]
            for session in sessions
            for row in tx.execute(
                "SELECT uid FROM record WHERE space = ? AND session = ? AND kind = 'episode'", (tx.space_id, session)
            )
        ]
    if not rows:
        raise InputError(f"there is no document {doc_id!r} in this memory; nothing was forgotten")
    return memory.forget(rows, space=space)


def documents(memory: Memory, *, space: str | None = None) -> list[str]:
    """Ids of the documents that count now, in order."""
    with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
        rows = tx.execute(
            "SELECT DISTINCT session FROM record WHERE space = ? AND session >= ? AND session < ? AND kind = 'episode'",
            (tx.space_id, PREFIX, PREFIX[:-1] + chr(ord(PREFIX[-1]) + 1)),
        ).fetchall()
    newest: dict[str, SessionVersion] = {}
    for row in rows:
        if (version := version_of(row[0])) is not None:
            known = newest.get(version.document)
            newest[version.document] = version if known is None or known.number < version.number else known
    return sorted(document for document, version in newest.items() if not version.withdrawn)


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
        InputError: there is no such document, no such version, none at that time, or it was withdrawn then.
    """
    known = versions(memory, doc_id, space=space)
    moment = clock.as_moment(as_of, "as_of")
    if version is not None:
        chosen = [v.number for v in known if v.number == version]
    else:
        with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
            begun = [v for v, at in _rows(tx, doc_id) if moment is None or at is None or at <= moment]
        if begun and begun[-1].withdrawn:
            raise InputError(f"document {doc_id!r} was withdrawn; name a version, or an earlier as_of")
        chosen = [v.number for v in begun[-1:]]
    if not chosen:
        numbers = ", ".join(f"{v.number} ({'undated' if v.at is None else f'{v.at:%Y-%m-%d}'})" for v in known)
        raise InputError(f"document {doc_id!r} has no such version; it has {numbers}")
    with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
        rows = tx.execute(
            "SELECT text, data FROM record WHERE space = ? AND session = ? AND kind = 'episode' ORDER BY id",
            (tx.space_id, SessionVersion(doc_id, chosen[0]).session),
        ).fetchall()
    whole = all("start" in json.loads(row["data"]) for row in rows)  # chunks follow each other without a gap
    return ("" if whole else "\n\n").join(row["text"] for row in rows)


def _rows(tx: Transaction, document: str) -> list[tuple[SessionVersion, datetime | None]]:
    """Every version, withdrawals too, with its time, in order."""
    low, high = f"{PREFIX}{document}@", f"{PREFIX}{document}A"  # "A" follows "@"
    rows = tx.execute(
        "SELECT session, max(at) FROM record WHERE space = ? AND session >= ? AND session < ? AND kind = 'episode'"
        " GROUP BY session",
        (tx.space_id, low, high),
    ).fetchall()
    found = [(version_of(row[0]), clock.from_micros(row[1])) for row in rows]
    return sorted(((v, at) for v, at in found if v is not None and v.document == document), key=lambda r: r[0].number)


def _versions(memory: Memory, doc_id: str, space: str | None) -> list[Version]:
    return _history(memory, doc_id, space)[0]


def _history(memory: Memory, doc_id: str, space: str | None) -> tuple[list[Version], int, datetime | None]:
    """The versions that show something, the number of the last of all (0 is none), and the latest time of any."""
    with memory.store.read(memory._now(), memory.space if space is None else space) as tx:
        found, all_rows = [], _rows(tx, doc_id)
        for version, at in all_rows:
            rows = tx.execute(
                "SELECT uid, data FROM record WHERE space = ? AND session = ? AND kind = 'episode' ORDER BY id",
                (tx.space_id, version.session),
            ).fetchall()
            data = json.loads(rows[0]["data"] or "{}")
            if "sha256" in data and not version.withdrawn:
                uids = tuple(row["uid"] for row in rows)
                found.append(Version(doc_id, version.number, at, data.get("source"), data["sha256"], uids))
    times = [at for _, at in all_rows if at is not None]
    return found, all_rows[-1][0].number if all_rows else 0, max(times, default=None)


def _spans(text: str, size: int) -> list[tuple[int, int]]:
    """Spans that cover the text without a gap, none of them blank."""
    starts = [start for start, _ in chunks(text, size)]
    stops = [*starts[1:], len(text)]
    return list(zip([0, *starts[1:]], stops, strict=True))
