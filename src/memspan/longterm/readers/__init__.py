"""Files in, episodes out: plain text, Markdown, episodes as JSON, chats, and three benchmarks' layouts.

| format | what it is | id of an episode | session |
|---|---|---|---|
| text | paragraphs; long ones are split at sentence ends | `<stem>:<n>` | file name |
| markdown | paragraphs under headings; fenced code blocks whole | `<stem>:<n>` | file name |
| jsonl | episodes: text, speaker, at, session, id, metadata | its own, else `<stem>:<n>` | its own |
| chat | OpenAI-style messages: role, content | its own, else `<stem>:[<chat>:]<n>` | its own, else from the stem |
| locomo | LoCoMo (snap-research/locomo) | `<dia_id>` | `<sample_id>/session_<n>` |
| longmemeval | LongMemEval (xiaowu0162/LongMemEval) | `<session id>_<turn>` | `<question_id>/<session id>` |
| beam | BEAM's chats, one a line | `<message id>` | `<chat_id>/batch_<n>` |

The last three put `<sample_id>/`, `<question_id>/` or `<chat_id>/` before the id when a file holds several of them.
What a benchmark's file says about its questions and answers (`qa`, `observation`, `has_answer`, …) is never read here;
`questions` reads it for exams, beside the episodes.

JSON may stand as one value (a list or a single entry) or one value a line. Text, Markdown and JSON lines are streamed;
a single JSON value is loaded as a whole, because the standard library reads it in no other way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import Episode
from memspan.longterm.readers import beam, chat, jsonl, locomo, longmemeval, markdown, text
from memspan.longterm.readers.source import LINE_SUFFIXES, Found, InputFile, json_name
from memspan.longterm.readers.text import PARAGRAPH_CHARS

__all__ = ["FORMATS", "PARAGRAPH_CHARS", "Episodes", "ReadFile", "Source", "read_all", "read_episodes", "read_files"]

Source = str | os.PathLike[str]

FORMATS = ("text", "markdown", "jsonl", "chat", "locomo", "longmemeval", "beam")
_SUFFIXES = {".txt": "text", ".text": "text", ".md": "markdown", ".markdown": "markdown"}
_JSON_START = re.compile(r'[{\[]$|\{\s*"|\[\s*[\[{]')
_PARSERS: dict[str, Callable[[InputFile], Found]] = {
    "text": text.read,
    "markdown": markdown.read,
    "jsonl": jsonl.read,
    "chat": chat.read,
    "locomo": locomo.read,
    "longmemeval": longmemeval.read,
    "beam": beam.read,
}


class Episodes(list[Episode]):
    """Episodes in the order of their files.

    Attributes:
        skipped: turns that were left out because they have no text.
    """

    skipped: int = 0


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file that was read to its end.

    Attributes:
        path: where it is.
        session: the session of its episodes, if it is a text: its name.
        format: one of `FORMATS`.
        episodes: what it holds.
        folder: the name of the folder that was named instead of the file; None for a file that was named itself.
    """

    path: Path
    session: str
    format: str
    episodes: Episodes
    folder: str | None = None

    @property
    def is_document(self) -> bool:
        """Whether it is running text, which is changed and read again, and no record of what was said."""
        return self.format in ("text", "markdown")


def read_files(paths: Source | Iterable[Source], *, format: str | None = None) -> list[ReadFile]:
    """The same file by file; of a folder every text and Markdown file below it, named "folder/path".

    Raises:
        InputError: as `read_all`; a folder holds no such file.
    """
    _check_format(format)
    given = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    single = [path for path in given if not path.is_dir()]
    inputs: list[tuple[InputFile, str | None]] = [
        (InputFile(path, *names), None) for path, names in zip(single, _names(single), strict=True)
    ]
    if not given:
        raise InputError("no file to read was named")
    for folder in (path for path in given if path.is_dir()):
        top = folder.resolve().name
        below = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES and path.is_file()]
        if not below:
            raise InputError(f"{folder} holds no file that ends in {', '.join(_SUFFIXES)}")
        named = [f"{top}/{path.relative_to(folder).as_posix()}" for path in below]
        inputs += [(InputFile(path, name, name), top) for path, name in zip(below, named, strict=True)]
    sessions = [each.session for each, _ in inputs]
    for each, _ in inputs:
        if sessions.count(each.session) > 1:
            raise InputError(f"{each.path} would be named {each.session!r}, as another file is; read them one by one")
        each.check()
    seen: dict[str, str] = {}
    found = []
    for each, folder_name in inputs:
        episodes = Episodes()
        for episode in _parsed(each, format or _format(each), seen):
            if episode is None:
                episodes.skipped += 1
            else:
                episodes.append(episode)
        found.append(ReadFile(each.path, each.session, format or _format(each), episodes, folder_name))
    return found


def read_all(paths: Source | Iterable[Source], *, format: str | None = None) -> Episodes:
    """Read files to the end and check them, so that nothing is added from input of which a part is bad.

    Args:
        paths: a file or several. Files of the same name get longer ids ("a/notes.md:1") when read together.
        format: one of `FORMATS`; told from name and content when it is left out.

    Raises:
        InputError: a file cannot be read, has no episode, or is damaged; two episodes share an id. The message names
            the file and the line or the JSON path.
    """
    episodes = Episodes()
    for episode in _read(paths, format):
        if episode is None:
            episodes.skipped += 1
        else:
            episodes.append(episode)
    return episodes


def read_episodes(paths: Source | Iterable[Source], *, format: str | None = None) -> Iterator[Episode]:
    """The same one by one, for input that is larger than memory. Turns without text are left out.

    Raises:
        InputError: as `read_all`, but only when the bad place is reached: episodes before it were already handed out.
    """
    return (episode for episode in _read(paths, format) if episode is not None)


def _read(paths: Source | Iterable[Source], format: str | None) -> Iterator[Episode | None]:
    _check_format(format)
    files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    if not files:
        raise InputError("no file to read was named")
    inputs = [InputFile(path, *names) for path, names in zip(files, _names(files), strict=True)]
    for each in inputs:
        each.check()
    seen: dict[str, str] = {}
    for each in inputs:
        yield from _parsed(each, format or _format(each), seen)


def _check_format(format: str | None) -> None:
    if format is not None and format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; use one of {', '.join(FORMATS)}")


def _parsed(file: InputFile, format: str, seen: dict[str, str]) -> Iterator[Episode | None]:
    none = True
    for where, episode in _PARSERS[format](file):
        if episode is not None:
            none = False
            _check_id(file, where, episode, seen)
        yield episode
    if none:
        raise InputError(f"{file.path} holds no text to remember")


def _check_id(file: InputFile, where: str, episode: Episode, seen: dict[str, str]) -> None:
    assert episode.id is not None
    place = f"{file.path}, {where}"
    first = seen.setdefault(episode.id, place)
    if first is not place:
        file.fail(where, f"the id {episode.id!r} is taken by {first}; give every episode an id of its own")


def _names(files: list[Path]) -> list[tuple[str, str]]:
    """(stem, session) of each file: the shortest names that tell them apart."""
    if len({path.stem for path in files}) == len(files):
        return [(path.stem, path.name) for path in files]
    whole = [path.resolve().parts for path in files]
    for depth in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(names):
            return [(name, name) for name in names]
    twice = next(path for path, parts in zip(files, whole, strict=True) if whole.count(parts) > 1)
    raise InputError(f"{twice} is named twice; name every file once")


def _format(file: InputFile) -> str:
    suffix = file.path.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix not in (".json", *LINE_SUFFIXES):
        line = file.first_line()
        if not _JSON_START.match(line):
            return "text"
    for where, value in file.entries():
        return _layout(file, where, value)
    raise InputError(f"{file.path} holds no text to remember")


def _layout(file: InputFile, where: str, value: Any) -> str:
    if isinstance(value, list):
        return "chat"
    if not isinstance(value, dict):
        file.fail(where, f"an episode or a chat must be an object, not {json_name(value)}")
    if value.get("format") == "memspan-export":
        raise InputError(f"{file.path} is an export of a store; read it with: memspan import")
    if "haystack_sessions" in value:
        return "longmemeval"
    if isinstance(value.get("conversation"), dict):
        return "locomo"
    if "messages" in value:
        messages = value["messages"]
        first = messages[0] if isinstance(messages, list) and messages else None
        return "beam" if "chat_id" in value and isinstance(first, dict) and "batch" in first else "chat"
    if "text" in value:
        return "jsonl"
    if "role" in value:
        return "chat"
    keys = ", ".join(list(value)[:6]) or "none"
    file.fail(where, f"no layout that is known (keys: {keys}); an episode has a text, a message role and content")
