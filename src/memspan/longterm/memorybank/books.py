"""Daily and global texts as records: what is still to be written, writing it, and storing it with its sources.

A *book* is the summary of a space or the portrait of one speaker; its pages are days. A page is written once, when
someone first asks after the day's episodes came, and again only when the day's episodes have changed; the global text
is written anew from the pages whenever one changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from memspan.core.errors import MissingExtraError
from memspan.longterm.base import Episode
from memspan.longterm.changes import attributes
from memspan.longterm.clock import from_micros, to_micros
from memspan.longterm.memorybank.writing import Day, Pen, Text, fact_of, key_of
from memspan.longterm.passages import ROLES
from memspan.longterm.rows import episode_of
from memspan.longterm.store import Row, Transaction

BookKind = Literal["summary", "portrait"]
Book = tuple[BookKind, str]
"""What it is of: ("summary", "") or ("portrait", the speaker's name for comparison)."""
PAGE_KIND = {"summary": "summary", "portrait": "insight"}
KINDS = ("summary", "portrait", "insight")
USER_ROLES = frozenset(("user", "human"))


@dataclass(frozen=True, slots=True)
class Page:
    """A day of a book that is to be written: all its turns, and for a portrait the turns of the others."""

    day: str
    turns: Sequence[Episode]
    others: Sequence[Episode] = ()


@dataclass(slots=True)
class Draft:
    """A book that is to be brought up to date.

    Attributes:
        book: which.
        who: the speaker's name as written, "" for a summary.
        pages: days to write.
        kept: days that stay as they are.
        sources: day -> ids of the episodes it rests on.
        written: what `compose` wrote: the days, and the global text.
    """

    book: Book
    who: str
    pages: list[Page] = field(default_factory=list)
    kept: list[Day] = field(default_factory=list)
    sources: dict[str, list[str]] = field(default_factory=dict)
    written: dict[str, Text] = field(default_factory=dict)
    whole: Text = field(default_factory=Text)


@dataclass(frozen=True, slots=True)
class _Turn:
    record: int
    uid: str
    day: str
    who: str | None


def to_write(tx: Transaction, *, until: str | None = None) -> list[Draft]:
    """The books that are behind their episodes.

    Args:
        tx: the transaction.
        until: days from this one on (ISO) are left for later; None leaves none.
    """
    turns = [turn for turn in _turns(tx) if until is None or turn.day < until]
    rows = tx.execute(
        "SELECT * FROM record WHERE space = ? AND kind IN ('summary', 'portrait', 'insight')", (tx.space_id,)
    ).fetchall()
    known = {(row["kind"], row["uid"]): row for row in rows}
    days: dict[Book, dict[str, list[_Turn]]] = {}
    names: dict[Book, str] = {}
    everyone: dict[str, list[_Turn]] = {}
    for turn in turns:
        everyone.setdefault(turn.day, []).append(turn)
        days.setdefault(("summary", ""), {}).setdefault(turn.day, []).append(turn)
        if turn.who is not None:
            book: Book = ("portrait", key_of(turn.who))
            names[book] = " ".join(turn.who.split())
            days.setdefault(book, {}).setdefault(turn.day, []).append(turn)
    drafts = []
    for book, by_day in days.items():
        draft = Draft(book, names.get(book, ""))
        stale, kept = [], {}
        for day, said in by_day.items():
            row = known.get((PAGE_KIND[book[0]], page_uid(book, day)))
            if row is None or attributes(row).get("of") != _state(said):
                stale.append(day)
            else:
                kept[day] = row
        told = any(row["text"] for row in kept.values())
        if not stale and (not told or (book[0], book_uid(book)) in known):
            continue
        draft.kept = [Day(day=day, text=text_of(row)) for day, row in kept.items()]
        sources = tx.sources(row["id"] for row in kept.values())
        draft.sources = {day: sources.get(row["id"], []) for day, row in kept.items()}
        wanted = [turn.record for day in stale for turn in everyone[day]]
        episodes = {record: episode_of(row) for record, row in tx.records(wanted).items()}
        for day in stale:
            own = {turn.record for turn in by_day[day]}
            draft.pages.append(
                Page(
                    day,
                    [episodes[turn.record] for turn in by_day[day]],
                    [episodes[turn.record] for turn in everyone[day] if turn.record not in own],
                )
            )
        drafts.append(draft)
    return drafts


def write(drafts: list[Draft], pen: Pen) -> list[Draft]:
    """The same books with their texts; touches no store. Portraits are left out where what reads them is missing."""
    written = []
    for draft in drafts:
        try:
            _write(draft, pen)
        except MissingExtraError as error:
            pen.missing = error
            continue
        written.append(draft)
    return written


def _write(draft: Draft, pen: Pen) -> None:
    for page in draft.pages:
        if draft.book[0] == "summary":
            text = pen.day_events(page.day, page.turns)
        else:
            text = pen.day_insight(draft.who, page.day, page.turns, page.others)
        draft.written[page.day] = text
        draft.sources[page.day] = _ordered(text, [turn.id or "" for turn in page.turns])
    days = [*draft.kept, *(Day(day=day, text=text) for day, text in draft.written.items())]
    days = sorted((day for day in days if day.text.lines), key=lambda day: day.day)
    if days:
        draft.whole = pen.all_events(days) if draft.book[0] == "summary" else pen.portrait(draft.who, days)


def store(tx: Transaction, drafts: list[Draft]) -> int:
    """Store written books; a book of which an episode is gone meanwhile is left to be written again.

    Returns:
        How many texts were stored.
    """
    count = 0
    for draft in drafts:
        ids = _ids(tx, [uid for uids in draft.sources.values() for uid in uids])
        if None in ids.values():
            continue
        by_day = {page.day: page for page in draft.pages}
        for day, text in draft.written.items():
            start = datetime.fromisoformat(day).replace(tzinfo=UTC)
            state = [len(by_day[day].turns), _last(ids, by_day[day].turns)]
            title = f"{draft.who}, {day}" if draft.who else day
            data = {"level": "day", "day": day, "who": draft.who, "of": state, **text.data()}
            sources = [ids[uid] for uid in draft.sources[day]]
            _put(tx, PAGE_KIND[draft.book[0]], page_uid(draft.book, day), title, text, data, sources, start)
            count += 1
        if draft.whole.lines:
            every = list(dict.fromkeys(uid for day in sorted(draft.sources) for uid in draft.sources[day]))
            quoted = draft.whole.said if draft.whole.said and all(draft.whole.said) else every
            days = sorted(draft.sources)
            title = draft.who or f"{days[0]} to {days[-1]}"
            data = {"level": "global", "who": draft.who, **draft.whole.data()}
            sources = [ids[uid] for uid in dict.fromkeys(quoted)]
            _put(tx, draft.book[0], book_uid(draft.book), title, draft.whole, data, sources, None)
            count += 1
    return count


def text_of(row: Row) -> Text:
    """The text that a record holds: its first line is the title."""
    data = attributes(row)
    return Text(
        lines=tuple(row["text"].split("\n")[1:]),
        said=tuple(data.get("said", ())),
        facts=tuple(fact_of(fact) for fact in data.get("facts", ())),
        by=data.get("by", "rules"),
        fallback=data.get("fallback", ""),
    )


def page_uid(book: Book, day: str) -> str:
    """The record id of a day of a book."""
    return f"{day} {book[1]}".strip()


def book_uid(book: Book) -> str:
    """The record id of a global text: no day has it, as it does not begin with a digit."""
    return f"of {book[1] or 'all days'}"


def withdraw(tx: Transaction, touched: Sequence[int]) -> int:
    """Delete the texts that rest on a forgotten episode; what is left of the day is written when next asked for."""
    rows = [row for row in tx.records(touched).values() if row["kind"] in KINDS]
    tx.erased += [row["text"] for row in rows]
    tx.executemany("DELETE FROM record WHERE id = ?", [(row["id"],) for row in rows])
    if rows:
        tx.bump_derived()
    return len(rows)


def _turns(tx: Transaction) -> list[_Turn]:
    """All episodes of the space in the order of their time; an undated one is of the day it was stored."""
    rows = tx.execute(
        "SELECT id, uid, speaker, json_extract(data, '$.role') AS role, coalesce(at, recorded_at) AS moment"
        " FROM record WHERE space = ? AND kind = 'episode' ORDER BY moment, id",
        (tx.space_id,),
    )
    return [_Turn(row["id"], row["uid"], day_of(row["moment"]), _person(row["speaker"], row["role"])) for row in rows]


def day_of(moment: int) -> str:
    """The day of a moment in UTC, as ISO text."""
    when = from_micros(moment)
    assert when is not None
    return when.date().isoformat()


def _person(speaker: str | None, role: Any) -> str | None:
    """Whose portrait a turn belongs to: an assistant and an unnamed speaker have none."""
    if isinstance(role, str) and role.casefold() not in USER_ROLES:
        return None
    name = speaker or (role if isinstance(role, str) else None)
    if name is None or (name.casefold() in ROLES and name.casefold() not in USER_ROLES):
        return None
    return name


def _state(turns: Sequence[_Turn]) -> list[Any]:
    """What tells whether a day's episodes changed; made of callers' ids, which an export keeps."""
    return [len(turns), max(turns, key=lambda turn: turn.record).uid]


def _last(ids: Mapping[str, int | None], turns: Sequence[Episode]) -> str:
    return max((turn.id or "" for turn in turns), key=lambda uid: ids[uid] or 0)


def _ordered(text: Text, uids: Sequence[str]) -> list[str]:
    """Source episodes, those that the text quotes first."""
    return list(dict.fromkeys([*(uid for uid in text.said if uid), *uids]))


def _ids(tx: Transaction, uids: Sequence[str]) -> dict[str, int | None]:
    found: dict[str, int | None] = dict.fromkeys(uids)
    rows = tx.select(
        "SELECT id, uid FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", found, tx.space_id
    )
    found.update((row["uid"], row["id"]) for row in rows)
    return found


def _put(
    tx: Transaction,
    kind: str,
    uid: str,
    title: str,
    text: Text,
    data: Mapping[str, Any],
    sources: Sequence[int | None],
    start: datetime | None,
) -> None:
    """Write the record, in place of the one that is there."""
    body = "\n".join((title, *text.lines)) if text.lines else ""
    old = tx.find(kind, uid)
    if old is not None:
        tx.erased.append(old["text"])
        tx.execute("DELETE FROM record WHERE id = ?", (old["id"],))
        tx.bump_derived()
    tx.add_record(
        kind,
        uid,
        body,
        sources=[source for source in sources if source is not None],
        at=to_micros(start),
        valid_at=to_micros(start),
        invalid_at=None if start is None else to_micros(start + timedelta(days=1)),
        data={key: value for key, value in data.items() if value != ""},
        reason=f"written by {text.by}",
    )
