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
What a benchmark's file says about its questions and answers (`qa`, `observation`, `has_answer`, …) is never read.

JSON may stand as one value (a list or a single entry) or one value a line. Text, Markdown and JSON lines are streamed;
a single JSON value is loaded as a whole, because the standard library reads it in no other way.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Never

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.base import Episode

Source = str | os.PathLike[str]
Entries = Iterable[tuple[str, Any]]  # (where in the file, JSON value)
Found = Iterator[tuple[str, Episode | None]]  # (where in the file, episode); None stands for a turn without text

FORMATS = ("text", "markdown", "jsonl", "chat", "locomo", "longmemeval", "beam")
PARAGRAPH_CHARS = 1000
"""The longest episode made from plain text or from a Markdown paragraph."""

_SUFFIXES = {".txt": "text", ".text": "text", ".md": "markdown", ".markdown": "markdown"}
_LINE_SUFFIXES = (".jsonl", ".ndjson")
_BUFFER_CHARS = 65_536  # a paragraph longer than this is split while it is read
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?…][\"'”’)\]]*\s+|[。！？]")
_JSON_START = re.compile(r'[{\[]$|\{\s*"|\[\s*[\[{]')
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_EPISODE_KEYS = ("text", "speaker", "at", "session", "id", "metadata")


class Episodes(list[Episode]):
    """Episodes in the order of their files.

    Attributes:
        skipped: turns that were left out because they have no text.
    """

    skipped: int = 0


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
    if format is not None and format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; use one of {', '.join(FORMATS)}")
    files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    if not files:
        raise InputError("no file to read was named")
    inputs = [_Input(path, *names) for path, names in zip(files, _names(files), strict=True)]
    for each in inputs:
        each.check()
    seen: dict[str, str] = {}
    for each in inputs:
        none = True
        for where, episode in _PARSERS[format or _format(each)](each):
            if episode is not None:
                none = False
                _check_id(each, where, episode, seen)
            yield episode
        if none:
            raise InputError(f"{each.path} holds no text to remember")


def _check_id(file: _Input, where: str, episode: Episode, seen: dict[str, str]) -> None:
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


# --- a file ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Input:
    path: Path
    stem: str
    session: str

    def fail(self, where: str, reason: str) -> Never:
        raise InputError(f"{self.path}, {where}: {reason}") from None

    def check(self) -> None:
        try:
            status = self.path.stat()
            if stat.S_ISDIR(status.st_mode):
                raise InputError(f"{self.path} is a folder; name the files in it")
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{self.path} is not a regular file; save it as a file first")
            with self.path.open("rb") as file:
                head = file.read(8192)
        except FileNotFoundError:
            raise InputError(f"{self.path} does not exist") from None
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise InputError(f"cannot read {self.path}: {getattr(error, 'strerror', None) or error}") from None
        if not head:
            raise InputError(f"{self.path} is empty")
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{self.path} is UTF-16 text; save it as UTF-8")
        if b"\0" in head or head.startswith(b"%PDF-"):
            raise InputError(f"{self.path} is a binary file; convert it to text first")

    def lines(self) -> Iterator[str]:
        """Lines with their ends; a byte order mark is dropped, and every line end becomes a newline."""
        try:
            with self.path.open(encoding="utf-8-sig") as file:
                # Bounded, so that a file without line ends does not fill the memory. JSON lines are joined again.
                yield from iter(lambda: file.readline(_BUFFER_CHARS), "")
        except UnicodeDecodeError:
            self.fail(f"line {self._undecodable()}", "not UTF-8 text; convert the file to UTF-8")
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from None

    def _undecodable(self) -> int:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return number
        return 1  # the file was changed in between

    def first_line(self) -> str:
        return next((line.strip() for line in self.lines() if line.strip()), "")

    def parse(self, text: str, line: int | None = None) -> Any:
        try:
            return json.loads(text, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            self.fail(f"line {line or error.lineno}", f"not JSON ({error.msg}, column {error.colno})")
        except (ValueError, RecursionError) as error:
            self.fail("$" if line is None else f"line {line}", f"cannot be read ({error})")

    def entries(self, *, lines: bool = False) -> Entries:
        """The JSON values of the file, one a line or the elements of its list, each with its place."""
        if lines or self.path.suffix.lower() in _LINE_SUFFIXES or self._is_lines():
            return self._line_entries()
        value = self.parse("".join(self.lines()))
        if isinstance(value, list):
            return ((f"$[{number}]", element) for number, element in enumerate(value))
        return [("$", value)]

    def _line_entries(self) -> Entries:
        number, parts = 1, list[str]()
        for part in chain(self.lines(), [""]):
            parts.append(part)
            if part and not part.endswith("\n"):
                continue
            if text := "".join(parts).strip():
                yield f"line {number}", self.parse(text, number)
            number, parts = number + 1, []

    def _is_lines(self) -> bool:
        """Whether the first two lines are JSON objects, each by itself."""
        firsts = []
        for line in self.lines():
            if line.strip():
                firsts.append(line)
            if len(firsts) == 2:
                return all(_is_json(line) for line in firsts)
        return False

    # --- values of one entry ---

    def need(self, where: str, value: Any, kind: type, what: str) -> Any:
        if not isinstance(value, kind):
            named: dict[Any, str] = {dict: "an object", list: "a list"}
            wanted = named.get(kind, "text")
            self.fail(where, f"{what} must be {wanted}, not {_json_name(value)}")
        return value

    def name(self, where: str, entry: dict[str, Any], key: str, default: str | None = None) -> str | None:
        """A name or a number as text."""
        value = entry.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.fail(_at(where, f".{key}"), f"{key} must be text, not {_json_name(value)}")
        if not str(value).strip():
            self.fail(_at(where, f".{key}"), f"{key} is empty; leave it out instead")
        return str(value)

    def moment(self, where: str, value: Any, *, seconds: bool = False) -> datetime | None:
        """ISO text; with `seconds`, also a number of seconds since 1970."""
        if value is None:
            return None
        try:
            if isinstance(value, str):
                return clock.parse_moment(value)
            if seconds and isinstance(value, int | float) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            pass
        self.fail(where, f"{json.dumps(value)[:60]} is not a date; write it as 2024-05-01T18:00")

    def episode(self, where: str, text: str, **fields: Any) -> tuple[str, Episode | None]:
        if not text.strip():
            return where, None
        for value in (text, *(value for value in fields.values() if isinstance(value, str))):
            try:
                value.encode()
            except UnicodeEncodeError:
                self.fail(where, "holds half a surrogate pair; write the file as UTF-8")
        return where, Episode(text, **fields)


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _at(where: str, path: str) -> str:
    """A place inside an entry: "$[0].messages[2]", or "line 3, messages[2]"."""
    return where + path if where.startswith("$") else f"{where}, {path.removeprefix('.')}"


def _several(entries: Entries) -> tuple[Entries, bool]:
    rest = iter(entries)
    first = [entry for _, entry in zip(range(2), rest, strict=False)]
    return chain(first, rest), len(first) > 1


# --- which format ----------------------------------------------------------------------------------------------------


def _format(file: _Input) -> str:
    suffix = file.path.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix not in (".json", *_LINE_SUFFIXES):
        line = file.first_line()
        if not _JSON_START.match(line):
            return "text"
    for where, value in file.entries():
        return _layout(file, where, value)
    raise InputError(f"{file.path} holds no text to remember")


def _layout(file: _Input, where: str, value: Any) -> str:
    if isinstance(value, list):
        return "chat"
    if not isinstance(value, dict):
        file.fail(where, f"an episode or a chat must be an object, not {_json_name(value)}")
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


# --- documents -------------------------------------------------------------------------------------------------------


def _text(file: _Input) -> Found:
    for number, text in enumerate(_paragraphs(file.lines()), start=1):
        yield file.episode(f"paragraph {number}", text, session=file.session, id=f"{file.stem}:{number}")


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    held, size = list[str](), 0
    for line in chain(lines, ["\n"]):
        if line.strip():
            held.append(line)
            size += len(line)
            if size <= _BUFFER_CHARS:
                continue
            *pieces, rest = _pieces("".join(held))
            held, size = [rest], len(rest)
        else:
            pieces = _pieces("".join(held).strip("\n"))
            held, size = [], 0
        yield from (piece.rstrip() for piece in pieces if piece.strip())


def _pieces(text: str) -> list[str]:
    """Parts of at most `PARAGRAPH_CHARS`, cut at a sentence end, else a line end, else a space."""
    pieces = []
    while len(text) > PARAGRAPH_CHARS:
        stop = min(PARAGRAPH_CHARS, len(text) - PARAGRAPH_CHARS // 4)  # leave no crumb at the end
        ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, stop)]
        cut = ends[-1] if ends else text.rfind("\n", 1, stop) + 1 or text.rfind(" ", 1, stop) + 1 or stop
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]


def _markdown(file: _Input) -> Found:
    for number, (text, headings) in enumerate(_blocks(file.lines()), start=1):
        metadata = {"heading": " > ".join(headings)} if headings else {}
        yield file.episode(f"block {number}", text, session=file.session, id=f"{file.stem}:{number}", metadata=metadata)


def _blocks(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """(text, headings above it). Heading lines also open the block that follows them, so that search sees them."""
    headings: dict[int, str] = {}
    opening: list[str] = []  # heading lines that wait for their first block
    held: list[str] = []
    fence = ""

    def flush(*, whole: bool = False) -> Iterator[tuple[str, list[str]]]:
        text = "".join(held).strip("\n")
        held.clear()
        if text.strip():
            text = "\n\n".join([*opening, text])
            opening.clear()
            path = [headings[level] for level in sorted(headings)]
            for piece in [text] if whole else _pieces(text):
                if piece.strip():
                    yield piece.rstrip(), path

    def head(level: int, title: str, line: str) -> None:
        for deeper in [known for known in headings if known >= level]:
            del headings[deeper]
        headings[level] = title
        opening.append(line)

    for number, line in enumerate(lines):
        bare = line.strip()
        if fence:
            held.append(line)
            if len(bare) >= len(fence) and bare == fence[0] * len(bare):
                fence = ""
                yield from flush(whole=True)
        elif opens := re.match(r"`{3,}(?!.*`)|~{3,}" if number else r"`{3,}(?!.*`)|~{3,}|---$", bare):
            yield from flush()
            fence = opens[0]  # a fenced code block, or front matter between two lines of "---"
            held.append(line)
        elif title := re.fullmatch(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*\n?", line):
            yield from flush()
            if title[2]:
                head(len(title[1]), title[2], bare)
        elif len(held) == 1 and re.fullmatch(r"=+|--+", bare):  # the other way to write a heading
            above = held.pop().strip()
            head(1 if bare[0] == "=" else 2, above, f"{above}\n{bare}")
        elif bare:
            held.append(line)
        else:
            yield from flush()
    yield from flush(whole=bool(fence))
    if opening:  # headings with nothing under them
        yield "\n\n".join(opening), [headings[level] for level in sorted(headings)]


# --- episodes and chats ----------------------------------------------------------------------------------------------


def _jsonl(file: _Input) -> Found:
    for number, (where, entry) in enumerate(file.entries(lines=file.path.suffix.lower() != ".json"), start=1):
        file.need(where, entry, dict, "an episode")
        if "text" not in entry:
            file.fail(where, f"no text; an episode has the keys {', '.join(_EPISODE_KEYS)}")
        metadata = dict(file.need(_at(where, ".metadata"), entry.get("metadata") or {}, dict, "metadata"))
        for key in entry:
            if key in _EPISODE_KEYS:
                continue
            if key in metadata:
                file.fail(where, f"{key} stands beside metadata and in it; keep one of them")
            metadata[key] = entry[key]
        yield file.episode(
            where,
            file.need(_at(where, ".text"), entry["text"], str, "text"),
            speaker=file.name(where, entry, "speaker"),
            at=file.moment(_at(where, ".at"), entry.get("at")),
            session=file.name(where, entry, "session"),
            id=file.name(where, entry, "id", f"{file.stem}:{number}"),
            metadata=metadata,
        )


_TIME_KEYS = ("at", "timestamp", "created_at", "create_time")
_CHAT_KEYS = ("session", "session_id", "conversation_id", "thread_id", "id")


def _chat(file: _Input) -> Found:
    entries, several = _several(file.entries())
    for number, (where, entry) in enumerate(entries, start=1):
        if isinstance(entry, dict) and "messages" not in entry:  # the file is one chat, and this is a message of it
            yield _message(file, where, entry, f"{file.stem}:{number}", file.stem, {})
            continue
        chat = entry if isinstance(entry, dict) else {"messages": file.need(where, entry, list, "a chat")}
        stem = f"{file.stem}:{number}" if several else file.stem
        session = next((name for key in _CHAT_KEYS if (name := file.name(where, chat, key))), stem)
        path = ".messages" if chat is entry else ""
        messages = file.need(_at(where, path), chat["messages"], list, "messages")
        for place, message in enumerate(messages):
            at = _at(where, f"{path}[{place}]")
            yield _message(file, at, message, f"{stem}:{place + 1}", session, chat)


def _message(
    file: _Input, where: str, message: Any, id: str, session: str, chat: dict[str, Any]
) -> tuple[str, Episode | None]:
    file.need(where, message, dict, "a message")
    if "role" not in message:
        file.fail(where, "no role; a message has role and content")
    role = file.name(where, message, "role") or file.fail(where, "role is null; a message has role and content")
    text, other = _content(file, _at(where, ".content"), message.get("content"))
    used = ("role", "content", "name", "id", *_TIME_KEYS)
    metadata = {"role": role, **{key: value for key, value in message.items() if key not in used}}
    if other:
        metadata["attachments"] = other
    stamps = ((_at(where, f".{key}"), given[key]) for given in (message, chat) for key in _TIME_KEYS if given.get(key))
    return file.episode(
        where,
        text,
        speaker=file.name(where, message, "name", role),
        at=next((file.moment(place, value, seconds=True) for place, value in stamps), None),
        session=session,
        id=file.name(where, message, "id", id),
        metadata=metadata,
    )


def _content(file: _Input, where: str, content: Any) -> tuple[str, list[str]]:
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


# --- benchmarks ------------------------------------------------------------------------------------------------------


def _date(file: _Input, where: str, text: Any, pattern: str, example: str) -> datetime | None:
    """A date by a pattern with named groups. `strptime` would read month names in the machine's language."""
    if text is None:
        return None
    found = re.fullmatch(pattern, text.strip(), re.IGNORECASE) if isinstance(text, str) else None
    try:
        if found is not None:
            part = {"hour": "0", "minute": "0", "half": "", **found.groupdict()}
            month, hour = part["month"].lower(), int(part["hour"])
            if part["half"]:
                hour = hour % 12 + 12 * (part["half"].lower() == "pm")
            number = int(month) if month.isdigit() else _MONTHS.index(month) + 1
            return datetime(int(part["year"]), number, int(part["day"]), hour, int(part["minute"]), tzinfo=UTC)
    except ValueError:
        pass
    file.fail(where, f"{json.dumps(text)[:60]} is not a date like {example!r}")


_LOCOMO_DATE = r"(?P<hour>\d+):(?P<minute>\d\d) (?P<half>[ap]m) on (?P<day>\d+) (?P<month>[a-z]+),? (?P<year>\d{4})"
_LONGMEMEVAL_DATE = (
    r"(?P<year>\d{4})/(?P<month>\d\d)/(?P<day>\d\d)(?: \([a-z]+\))?(?: (?P<hour>\d\d):(?P<minute>\d\d))?"
)
_BEAM_DATE = r"(?P<month>[a-z]+)-(?P<day>\d+)-(?P<year>\d{4})"


def _locomo(file: _Input) -> Found:
    """All turns of a session share its time; their order is that of the file."""
    entries, several = _several(file.entries())
    for number, (where, entry) in enumerate(entries, start=1):
        file.need(where, entry, dict, "a sample")
        sample = file.name(where, entry, "sample_id", f"{file.stem}:{number}")
        talk = file.need(_at(where, ".conversation"), entry.get("conversation"), dict, "conversation")
        for session in sorted(int(found[1]) for key in talk if (found := re.fullmatch(r"session_(\d+)", key))):
            key = f"session_{session}"
            path = _at(where, f".conversation.{key}")
            at = _date(file, f"{path}_date_time", talk.get(f"{key}_date_time"), _LOCOMO_DATE, "1:56 pm on 8 May, 2023")
            for place, turn in enumerate(file.need(path, talk[key], list, key)):
                here = f"{path}[{place}]"
                file.need(here, turn, dict, "a turn")
                text = file.need(f"{here}.text", turn.get("text"), str, "text")
                dialogue_id = file.name(here, turn, "dia_id") or file.fail(here, "no dia_id")
                photo = {"caption": turn.get("blip_caption"), "img_url": turn.get("img_url")}
                metadata = {name: value for name, value in photo.items() if value}
                yield file.episode(
                    here,
                    "(photo)" if metadata.get("caption") and not text.strip() else text,
                    speaker=file.name(here, turn, "speaker"),
                    at=at,
                    session=f"{sample}/{key}",
                    id=f"{sample}/{dialogue_id}" if several else dialogue_id,
                    metadata=metadata,
                )


def _longmemeval(file: _Input) -> Found:
    entries, several = _several(file.entries())
    for where, entry in entries:
        file.need(where, entry, dict, "a haystack")
        group = file.name(where, entry, "question_id") or file.fail(where, "no question_id")
        names = ("haystack_sessions", "haystack_session_ids", "haystack_dates")
        lists = [file.need(_at(where, f".{name}"), entry.get(name), list, name) for name in names]
        if len({len(values) for values in lists}) > 1:
            file.fail(where, f"{', '.join(names)} differ in length: {', '.join(str(len(values)) for values in lists)}")
        times_seen: dict[str, int] = {}
        for number, (turns, session, date) in enumerate(zip(*lists, strict=True)):
            path = _at(where, f".haystack_sessions[{number}]")
            at = _date(
                file, _at(where, f".haystack_dates[{number}]"), date, _LONGMEMEVAL_DATE, "2023/05/20 (Sat) 02:21"
            )
            file.need(_at(where, f".haystack_session_ids[{number}]"), session, str, "a session id")
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
                    id=f"{group}/{name}_{place + 1}" if several else f"{name}_{place + 1}",
                    metadata={"role": role} if role else {},
                )


def _beam(file: _Input) -> Found:
    """A message without a time anchor has that of its batch."""
    entries, several = _several(file.entries())
    for where, entry in entries:
        file.need(where, entry, dict, "a chat")
        chat = file.name(where, entry, "chat_id") or file.fail(where, "no chat_id")
        batch, at = None, None
        messages = file.need(_at(where, ".messages"), entry.get("messages"), list, "messages")
        for place, message in enumerate(messages):
            here = _at(where, f".messages[{place}]")
            file.need(here, message, dict, "a message")
            role, number = file.name(here, message, "role"), file.name(here, message, "id")
            if number is None:
                file.fail(here, "no id")
            anchor = _date(file, f"{here}.time_anchor", message.get("time_anchor"), _BEAM_DATE, "March-15-2024")
            if message.get("batch") != batch:
                batch, at = message.get("batch"), None
            at = anchor or at
            yield file.episode(
                here,
                file.need(f"{here}.content", message.get("content"), str, "content"),
                speaker=role,
                at=at,
                session=f"{chat}/batch_{batch}",
                id=f"{chat}/{number}" if several else number,
                metadata={"role": role} if role else {},
            )


_PARSERS: dict[str, Callable[[_Input], Found]] = {
    "text": _text,
    "markdown": _markdown,
    "jsonl": _jsonl,
    "chat": _chat,
    "locomo": _locomo,
    "longmemeval": _longmemeval,
    "beam": _beam,
}
