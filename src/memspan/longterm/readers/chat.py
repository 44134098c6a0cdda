"""Chats of messages with role and content, as the OpenAI interfaces have them."""

from __future__ import annotations

from typing import Any

from memspan.longterm.base import Episode
from memspan.longterm.readers.source import Found, InputFile, at_path, several

_TIME_KEYS = ("at", "timestamp", "created_at", "create_time")
_CHAT_KEYS = ("session", "session_id", "conversation_id", "thread_id", "id")


def read(file: InputFile) -> Found:
    """The messages of one chat or of several."""
    entries, many = several(file.entries())
    for number, (where, entry) in enumerate(entries, start=1):
        if isinstance(entry, dict) and "messages" not in entry:  # the file is one chat, and this is a message of it
            yield _message(file, where, entry, f"{file.stem}:{number}", file.stem, {})
            continue
        chat = entry if isinstance(entry, dict) else {"messages": file.need(where, entry, list, "a chat")}
        stem = f"{file.stem}:{number}" if many else file.stem
        session = next((name for key in _CHAT_KEYS if (name := file.name(where, chat, key))), stem)
        path = ".messages" if chat is entry else ""
        messages = file.need(at_path(where, path), chat["messages"], list, "messages")
        for place, message in enumerate(messages):
            at = at_path(where, f"{path}[{place}]")
            yield _message(file, at, message, f"{stem}:{place + 1}", session, chat)


def _message(
    file: InputFile, where: str, message: Any, id: str, session: str, chat: dict[str, Any]
) -> tuple[str, Episode | None]:
    file.need(where, message, dict, "a message")
    if "role" not in message:
        file.fail(where, "no role; a message has role and content")
    role = file.name(where, message, "role") or file.fail(where, "role is null; a message has role and content")
    text, other = _content(file, at_path(where, ".content"), message.get("content"))
    used = ("role", "content", "name", "id", *_TIME_KEYS)
    metadata = {"role": role, **{key: value for key, value in message.items() if key not in used}}
    if other:
        metadata["attachments"] = other
    stamps = (
        (at_path(where, f".{key}"), given[key]) for given in (message, chat) for key in _TIME_KEYS if given.get(key)
    )
    return file.episode(
        where,
        text,
        speaker=file.name(where, message, "name", role),
        at=next((file.moment(place, value, seconds=True) for place, value in stamps), None),
        session=session,
        id=file.name(where, message, "id", id),
        metadata=metadata,
    )


def _content(file: InputFile, where: str, content: Any) -> tuple[str, list[str]]:
    """The text of a message, and the types of its parts that are not text."""
    if content is None or isinstance(content, str):
        return content or "", []
    texts, other = [], []
    for number, part in enumerate(file.need(where, content, list, "content")):
        if isinstance(part, str):
            texts.append(part)
            continue
        file.need(f"{where}[{number}]", part, dict, "a part of content")
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            other.append(str(part.get("type", "unknown")))
    return "\n".join(texts), other
