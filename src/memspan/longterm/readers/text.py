"""Plain text: paragraphs, and long ones in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from memspan.longterm.readers.source import BUFFER_CHARS, Found, InputFile

PARAGRAPH_CHARS = 1000
"""The longest episode made from plain text or from a Markdown paragraph."""
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?…][\"'”’)\]]*\s+|[。！？]")


def read(file: InputFile) -> Found:
    """Paragraphs, in pieces of at most `PARAGRAPH_CHARS`."""
    for number, text in enumerate(_paragraphs(file.lines()), start=1):
        yield file.episode(f"paragraph {number}", text, session=file.session, id=f"{file.stem}:{number}")


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    held, size = list[str](), 0
    for line in chain(lines, ["\n"]):
        if line.strip():
            held.append(line)
            size += len(line)
            if size <= BUFFER_CHARS:
                continue
            *pieces, rest = pieces_of("".join(held))
            held, size = [rest], len(rest)
        else:
            pieces = pieces_of("".join(held).strip("\n"))
            held, size = [], 0
        yield from (piece.rstrip() for piece in pieces if piece.strip())


def pieces_of(text: str) -> list[str]:
    """Parts of at most `PARAGRAPH_CHARS`, cut at a sentence end, else a line end, else a space."""
    pieces = []
    while len(text) > PARAGRAPH_CHARS:
        stop = min(PARAGRAPH_CHARS, len(text) - PARAGRAPH_CHARS // 4)  # leave no crumb at the end
        ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, stop)]
        cut = ends[-1] if ends else text.rfind("\n", 1, stop) + 1 or text.rfind(" ", 1, stop) + 1 or stop
        pieces.append(text[:cut])
        text = text[cut:]
    return [*pieces, text]
