"""Divide and conquer: a text of any length becomes a tree of summaries whose every part names its place in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from memspan.core.errors import InputError, ModelError
from memspan.longterm.prompts import Writer
from memspan.longterm.scm.ask_summary import ask_summary
from memspan.longterm.scm.extract import Stems, choose_sentences, rarity, stems
from memspan.longterm.scm.sentences import Counter, estimated_tokens, sentence_spans

Span = tuple[int, int]
"""Characters of the source, the second one excluded."""
Watch = Callable[[list[Any]], Iterable[Any]]
"""Goes through a list and may show how far it is."""

WINDOW = 4000  # tokens of the window that inner summaries are measured against (the code's)
_SENTENCE = re.compile(r"[a-z].*[.!?…][\"'”’)\]_*]*$", re.DOTALL)
_LONG = 220  # characters above which a sentence is left out of a summary by rules
RESERVE = 400  # tokens of it that the prompt takes (the code's)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a summary: a sentence of the source, or a text that was written about a span of it."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A node of the tree.

    Attributes:
        pieces: what it says, in the order of the source.
        start, stop: the span of the source that it sums up.
        level: 0 for a block, one more than its children's else.
        origin: who made it, and why not the model where one was asked.
        children: the summaries it was made from.
    """

    pieces: tuple[Piece, ...]
    start: int
    stop: int
    level: int = 0
    origin: str = ""
    children: tuple[Summary, ...] = ()

    @property
    def text(self) -> str:
        """The pieces as one text."""
        return " ".join(piece.text for piece in self.pieces)

    def walk(self) -> Iterator[Summary]:
        """This node and all below it, from the top."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_json(self) -> dict[str, Any]:
        """The tree as JSON knows it."""
        return {
            "level": self.level,
            "span": [self.start, self.stop],
            "text": self.text,
            "origin": self.origin,
            "pieces": [{"text": piece.text, "span": [piece.start, piece.stop]} for piece in self.pieces],
            "children": [child.to_json() for child in self.children],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LongSummary:
    """A text's summary.

    Attributes:
        root: the top of the tree.
        source: the text.
    """

    root: Summary
    source: str = field(repr=False)

    @property
    def text(self) -> str:
        """The summary."""
        return self.root.text

    def lines(self, piece: Piece | Summary) -> tuple[int, int]:
        """The first and the last line of the source that a part is about, counted from 1."""
        return _lines(self.source, piece.start, piece.stop)

    def expand(self, piece: Piece | Summary) -> str:
        """The source that a part is about."""
        return self.source[piece.start : piece.stop]

    @property
    def levels(self) -> int:
        """Levels of the tree, blocks included."""
        return self.root.level + 1

    @property
    def blocks(self) -> int:
        """Blocks that the text was cut into."""
        return sum(1 for node in self.root.walk() if not node.children)


def _lines(text: str, start: int, stop: int) -> tuple[int, int]:
    first = text.count("\n", 0, start) + 1
    return first, first + text.count("\n", start, max(start, stop - 1))


@runtime_checkable
class Summarizer(Protocol):
    """Makes fewer tokens of pieces of a text."""

    def summarize(self, pieces: Sequence[Piece], limit: int, background: str) -> tuple[list[Piece], str]:
        """At most about `limit` tokens, and where they come from; `background` is known already."""


class RuleSummarizer:
    """Picks the most telling of the pieces; every one stays word for word.

    Args:
        counter: counts tokens.
    """

    def __init__(self, counter: Counter = estimated_tokens) -> None:
        self.counter = counter
        self._known: dict[str, tuple[Stems, int]] = {}

    def summarize(self, pieces: Sequence[Piece], limit: int, background: str) -> tuple[list[Piece], str]:
        """By centrality, without repetition; headings and overlong sentences only where there is nothing else."""
        pieces = [piece for piece in pieces if _SENTENCE.search(piece.text) and len(piece.text) <= _LONG] or pieces
        for piece in pieces:
            if piece.text not in self._known:
                self._known[piece.text] = (stems(piece.text), self.counter(piece.text) + 1)
        words, costs = zip(*(self._known[piece.text] for piece in pieces), strict=True)
        # A block's first sentence is first by chance, so it gains nothing.
        chosen = choose_sentences(words, costs, limit, weights=rarity(words), said=stems(background), lead=0.0)
        return [pieces[place] for place in chosen], "extracted by rules"


class ModelSummarizer:
    """Asks a language model; where its answer is no summary, the rules' is taken.

    Args:
        model: what writes.
        counter: counts tokens; None is the model's.
        attempts: how often one summary is asked for.

    Attributes:
        fallbacks: how often the rules had to do it.
    """

    def __init__(self, model: Writer, *, counter: Counter | None = None, attempts: int = 3) -> None:
        self.model = model
        own: Counter = getattr(model, "count_tokens", estimated_tokens)
        self.counter = counter or own
        self.attempts = attempts
        self.fallbacks = 0
        self._rules = RuleSummarizer(self.counter)

    def summarize(self, pieces: Sequence[Piece], limit: int, background: str) -> tuple[list[Piece], str]:
        """One written piece over the span of all."""
        text = " ".join(piece.text for piece in pieces)
        try:
            written = ask_summary(self.model, text, limit, self.counter, background=background, attempts=self.attempts)
        except (InputError, ModelError) as error:  # InputError: the text leaves no room in the context window
            self.fallbacks += 1
            kept, origin = self._rules.summarize(pieces, limit, background)
            return kept, f"{origin} (the language model was of no use: {error})"
        span = (min(piece.start for piece in pieces), max(piece.stop for piece in pieces))
        return [Piece(text=written, start=span[0], stop=span[1])], "written by a language model"


def summarize_long(
    text: str,
    summarizer: Summarizer | None = None,
    *,
    block: int = 3000,
    group: int = 2300,
    leaf: int = 650,
    inner: int = 1000,
    last: int = 1500,
    counter: Counter = estimated_tokens,
    watch: Watch = iter,
) -> LongSummary:
    """Sum up a text of any length.

    It is cut at sentence ends into blocks; each is summed up with the summary of the one before as known background.
    Then neighbours are grouped and summed up again, level by level, until one is left.

    Args:
        text: the source.
        summarizer: None is by rules.
        block: tokens of a block.
        group: tokens of summaries that are summed up together; at least two are, so that there is an end.
        leaf, inner, last: tokens of a block's summary (500 words), of an inner one and of the last.
        counter: counts tokens.
        watch: goes through the blocks and shows how far it is.

    Raises:
        InputError: the text has no sentence, or a number is below 1.
    """
    for name, number in (("block", block), ("group", group), ("leaf", leaf), ("inner", inner), ("last", last)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, not {number}")
    summarizer = RuleSummarizer(counter) if summarizer is None else summarizer
    blocks = _blocks(text, block, counter)
    if not blocks:
        raise InputError("the text has no sentence to sum up")
    alone = len(blocks) == 1
    level: list[Summary] = []
    background = ""
    for pieces in watch(blocks):
        node = _node(summarizer, pieces, last if alone else leaf, background, counter)
        background = node.text
        level.append(node)
    while len(level) > 1:
        groups = _groups(level, group, counter)
        higher: list[Summary] = []
        for children in groups:
            if len(children) == 1:
                higher.append(children[0])
                continue
            size = sum(counter(child.text) for child in children)
            limit = last if len(groups) == 1 else max(leaf, min(WINDOW - size - RESERVE, inner))
            pieces = [piece for child in children for piece in child.pieces]
            higher.append(_node(summarizer, pieces, limit, "", counter, children))
        level = higher
    return LongSummary(root=level[0], source=text)


def _blocks(text: str, size: int, counter: Counter) -> list[list[Piece]]:
    blocks: list[list[Piece]] = []
    room = 0
    for start, stop in _cut(text, size, counter):
        piece = Piece(text=" ".join(text[start:stop].split()), start=start, stop=stop)
        cost = counter(piece.text)
        if cost > room or not blocks:
            blocks.append([])
            room = size
        blocks[-1].append(piece)
        room -= cost
    return blocks


def _cut(text: str, size: int, counter: Counter) -> Iterator[Span]:
    """Sentences; one that is longer than a block is halved until its parts fit."""
    left = sentence_spans(text)[::-1]
    while left:
        start, stop = left.pop()
        if stop - start > 1 and counter(text[start:stop]) > size:
            middle = (start + stop) // 2
            space = text.rfind(" ", start + 1, middle)
            at = space if space > start else middle
            left += [(at, stop), (start, at)]
        elif text[start:stop].strip():
            yield start, stop


def _groups(level: Sequence[Summary], size: int, counter: Counter) -> list[list[Summary]]:
    """Neighbours of together at most `size` tokens, but at least two in every group where there are two."""
    groups: list[list[Summary]] = []
    held = 0
    for node in level:
        cost = counter(node.text)
        if not groups or (held + cost > size and len(groups[-1]) > 1):
            groups.append([])
            held = 0
        groups[-1].append(node)
        held += cost
    return groups


def _node(
    summarizer: Summarizer,
    pieces: Sequence[Piece],
    limit: int,
    background: str,
    counter: Counter,
    children: Sequence[Summary] = (),
) -> Summary:
    before = sum(counter(piece.text) for piece in pieces)
    kept, origin = list(pieces), "short enough as it is"
    if before > limit:
        shorter, origin = summarizer.summarize(pieces, limit, background)
        if shorter and sum(counter(piece.text) for piece in shorter) < before:
            kept = shorter
        else:
            origin = f"{origin}; no shorter than its source, which stays"
    return Summary(
        pieces=tuple(kept),
        start=min(piece.start for piece in pieces) if not children else children[0].start,
        stop=max(piece.stop for piece in pieces) if not children else children[-1].stop,
        level=1 + max(child.level for child in children) if children else 0,
        origin=origin,
        children=tuple(children),
    )
