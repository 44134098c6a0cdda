"""A file to read: its lines, its JSON values with their places, and the errors that name them."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Never

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.base import Episode

Entries = Iterable[tuple[str, Any]]  # (where in the file, JSON value)
Found = Iterator[tuple[str, Episode | None]]  # (where in the file, episode); None stands for a turn without text

LINE_SUFFIXES = (".jsonl", ".ndjson")
BUFFER_CHARS = 65_536  # a paragraph longer than this is split while it is read


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file with the names that its episodes get; every error names the file and the place in it."""

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
                yield from iter(lambda: file.readline(BUFFER_CHARS), "")
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
        if lines or self.path.suffix.lower() in LINE_SUFFIXES or self._is_lines():
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
            self.fail(where, f"{what} must be {wanted}, not {json_name(value)}")
        return value

    def name(self, where: str, entry: dict[str, Any], key: str, default: str | None = None) -> str | None:
        """A name or a number as text."""
        value = entry.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.fail(at_path(where, f".{key}"), f"{key} must be text, not {json_name(value)}")
        if not str(value).strip():
            self.fail(at_path(where, f".{key}"), f"{key} is empty; leave it out instead")
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


def json_name(value: Any) -> str:
    """The kind of a JSON value, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def at_path(where: str, path: str) -> str:
    """A place inside an entry: "$[0].messages[2]", or "line 3, messages[2]"."""
    return where + path if where.startswith("$") else f"{where}, {path.removeprefix('.')}"


def several(entries: Entries) -> tuple[Entries, bool]:
    """The same entries, and whether they are more than one; only two are read ahead."""
    rest = iter(entries)
    first = [entry for _, entry in zip(range(2), rest, strict=False)]
    return chain(first, rest), len(first) > 1
