"""Markdown: paragraphs under their headings, fenced code blocks whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from memspan.longterm.readers.source import Found, InputFile
from memspan.longterm.readers.text import pieces_of


def read(file: InputFile) -> Found:
    """Paragraphs and code blocks, with the headings above them in their metadata."""
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
            for piece in [text] if whole else pieces_of(text):
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
