"""BEAM: long chats in batches."""

from __future__ import annotations

from memspan.longterm.readers.dates import date_of
from memspan.longterm.readers.source import Found, InputFile, at_path, several

_BEAM_DATE = r"(?P<month>[a-z]+)-(?P<day>\d+)-(?P<year>\d{4})"


def read(file: InputFile) -> Found:
    """A message without a time anchor has that of its batch."""
    entries, many = several(file.entries())
    for where, entry in entries:
        file.need(where, entry, dict, "a chat")
        chat = file.name(where, entry, "chat_id") or file.fail(where, "no chat_id")
        batch, at = None, None
        messages = file.need(at_path(where, ".messages"), entry.get("messages"), list, "messages")
        for place, message in enumerate(messages):
            here = at_path(where, f".messages[{place}]")
            file.need(here, message, dict, "a message")
            role, number = file.name(here, message, "role"), file.name(here, message, "id")
            if number is None:
                file.fail(here, "no id")
            anchor = date_of(file, f"{here}.time_anchor", message.get("time_anchor"), _BEAM_DATE, "March-15-2024")
            if message.get("batch") != batch:
                batch, at = message.get("batch"), None
            at = anchor or at
            yield file.episode(
                here,
                file.need(f"{here}.content", message.get("content"), str, "content"),
                speaker=role,
                at=at,
                session=f"{chat}/batch_{batch}",
                id=f"{chat}/{number}" if many else number,
                metadata={"role": role} if role else {},
            )
