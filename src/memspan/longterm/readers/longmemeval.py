"""LongMemEval: a haystack of sessions for each question."""

from __future__ import annotations

from memspan.longterm.readers.dates import date_of
from memspan.longterm.readers.source import Found, InputFile, at_path, several

_LONGMEMEVAL_DATE = (
    r"(?P<year>\d{4})/(?P<month>\d\d)/(?P<day>\d\d)(?: \([a-z]+\))?(?: (?P<hour>\d\d):(?P<minute>\d\d))?"
)


def read(file: InputFile) -> Found:
    """The turns of each haystack; a session that comes twice gets a number."""
    entries, many = several(file.entries())
    for where, entry in entries:
        file.need(where, entry, dict, "a haystack")
        group = file.name(where, entry, "question_id") or file.fail(where, "no question_id")
        names = ("haystack_sessions", "haystack_session_ids", "haystack_dates")
        lists = [file.need(at_path(where, f".{name}"), entry.get(name), list, name) for name in names]
        if len({len(values) for values in lists}) > 1:
            file.fail(where, f"{', '.join(names)} differ in length: {', '.join(str(len(values)) for values in lists)}")
        times_seen: dict[str, int] = {}
        for number, (turns, session, date) in enumerate(zip(*lists, strict=True)):
            path = at_path(where, f".haystack_sessions[{number}]")
            at = date_of(
                file, at_path(where, f".haystack_dates[{number}]"), date, _LONGMEMEVAL_DATE, "2023/05/20 (Sat) 02:21"
            )
            file.need(at_path(where, f".haystack_session_ids[{number}]"), session, str, "a session id")
            times_seen[session] = times_seen.get(session, 0) + 1
            name = session if times_seen[session] == 1 else f"{session}#{times_seen[session]}"
            for place, turn in enumerate(file.need(path, turns, list, "a session")):
                here = f"{path}[{place}]"
                file.need(here, turn, dict, "a turn")
                role = file.name(here, turn, "role")
                yield file.episode(
                    here,
                    file.need(f"{here}.content", turn.get("content"), str, "content"),
                    speaker=role,
                    at=at,
                    session=f"{group}/{name}",
                    id=f"{group}/{name}_{place + 1}" if many else f"{name}_{place + 1}",
                    metadata={"role": role} if role else {},
                )
