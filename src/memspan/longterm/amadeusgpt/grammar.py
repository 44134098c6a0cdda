"""The grammar of symbols: `<|name|>` defines a name, `<name>` refers to it, `\\<` is a plain character.

A name has 1 to 64 letters A-Z, digits, spaces, `_` and `-`, and is the same in any case. Only a name that is known is a
reference, so that tags, generics and comparisons stay what they are; a known name is none either directly behind a
letter (`List<int>`) or where its closing tag follows (`<b>bold</b>`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass

from memspan.core.errors import InputError

NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_ -]{0,62}[A-Za-z0-9_-])?")
_DEFINES = re.compile(r"(?<!\\)(?:\\\\)*<\|([^<>|\n]{0,200})\|>")
_REFERS = re.compile(rf"(?<![\w\\])(?:\\\\)*<({NAME.pattern})>")
_ENDS = re.compile(r"(?<=[.!?;])\s+|\n+")


def key_of(name: str) -> str:
    """What a name is stored under: NFC, case folded, runs of spaces as one.

    Raises:
        InputError: it is no name.
    """
    shown = " ".join(unicodedata.normalize("NFC", name).split()) if isinstance(name, str) else ""
    if not NAME.fullmatch(shown):
        raise InputError(
            f"{name!r} is no symbol's name: 1 to 64 letters A-Z, digits, spaces, _ and -; look-alikes of other"
            " alphabets do not count"
        )
    return shown.casefold()


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a message where a symbol stands.

    Attributes:
        name: as it was written; key: what it is stored under.
        start, stop: span in the NFC text.
        defines: `<|name|>`, else `<name>`.
    """

    name: str
    key: str
    start: int
    stop: int
    defines: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A message and its symbols.

    Attributes:
        text: the message in NFC.
        defined: the names it defines, in order, each once.
        references: the known names it refers to, in order, each once.
        unresolved: names in single brackets that are not known, as written; they are plain text.
        malformed: what stands between `<|` and `|>` and is no name.
        marks: all of them, by place.
    """

    text: str
    defined: tuple[Mark, ...]
    references: tuple[Mark, ...]
    unresolved: tuple[str, ...]
    malformed: tuple[str, ...]
    marks: tuple[Mark, ...]


def parse(message: str, known: Collection[str] | Callable[[str], bool] = ()) -> Parsed:
    """The symbols in a message.

    Args:
        message: any text.
        known: the keys that are defined, or a test of one. Names that the message itself defines are known in it.

    Raises:
        InputError: the message is no text.
    """
    if not isinstance(message, str):
        raise InputError(f"a message must be text, not {type(message).__name__}")
    text = unicodedata.normalize("NFC", message)
    is_known = known if callable(known) else known.__contains__
    defined: dict[str, Mark] = {}
    malformed: list[str] = []
    marks: list[Mark] = []
    for found in _DEFINES.finditer(text):
        try:
            key = key_of(found[1])
        except InputError:
            malformed.append(found[1])
            continue
        mark = Mark(" ".join(found[1].split()), key, found.start(1) - 2, found.end(), True)
        marks.append(mark)
        defined.setdefault(key, mark)
    references: dict[str, Mark] = {}
    unresolved: dict[str, str] = {}
    for found in _REFERS.finditer(text):
        key = key_of(found[1])
        if f"</{found[1]}>" in text[found.end() :]:
            continue
        if not (is_known(key) or key in defined):
            unresolved.setdefault(key, found[1])
            continue
        mark = Mark(found[1], key, found.start(1) - 1, found.end(), False)
        marks.append(mark)
        references.setdefault(key, mark)
    return Parsed(
        text=text,
        defined=tuple(defined.values()),
        references=tuple(references.values()),
        unresolved=tuple(unresolved.values()),
        malformed=tuple(malformed),
        marks=tuple(sorted(marks, key=lambda mark: mark.start)),
    )


def definitions(parsed: Parsed) -> dict[str, str]:
    """Key -> the part of the message that defines it.

    A message that defines one symbol is its definition as a whole, as in the paper. With several, each gets the
    sentences from its own up to the next symbol's; what stands before the first belongs to the first.
    """
    if len(parsed.defined) == 1:
        return {parsed.defined[0].key: parsed.text.strip()}
    starts = [0, *(found.end() for found in _ENDS.finditer(parsed.text))]
    begin = [max(start for start in starts if start <= mark.start) for mark in parsed.defined]
    if begin:
        begin[0] = 0
    parts: dict[str, str] = {}
    for mark, start in zip(parsed.defined, begin, strict=True):
        stop = min((other for other in begin if other > start), default=len(parsed.text))
        parts[mark.key] = parsed.text[start:stop].strip()
    return parts


def escaped(text: str) -> str:
    """The text with its brackets as plain characters, so that no name in it is a symbol."""
    return text.replace("<", "\\<")


def plain(text: str) -> str:
    """The text without marks: `<|name|>` and `<name>` as the bare name, `\\<` as `<`."""
    text = re.sub(rf"<\|\s*({NAME.pattern})\s*\|>", r"\1", text)
    text = re.sub(rf"(?<![\w\\])<({NAME.pattern})>", r"\1", text)
    return text.replace("\\<", "<")
