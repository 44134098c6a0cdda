"""Book-SORT as an exam: items of a text, in writing and by likelihood, and what the results say."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

from memspan.core.errors import InputError
from memspan.probes.base import Choice, Count, Exam, Form, Grade, Item, Subject, likeliest
from memspan.probes.run import Report, run
from memspan.probes.sort_recall.books import chronicle, read_book
from memspan.probes.sort_recall.pairs import Sequenced, SortItem, paper_bins
from memspan.probes.statistics import coin, wilson

Scoring = Literal["labels", "continuation"]
LABELS = ("A", "B")
_TOKENS_A_WORD = 1.35  # of English novels in the tokenizers of Llama 3 and SmolLM2
_SHARES = ("≤ 1/4", "≤ 1/3", "≤ 1/2", "≤ 4/5")
_LONG_SHARES = ("≤ 1000 words", "≤ 1/4", "≤ 1/2", "≤ 4/5")

# What is asked, and how the answer begins. {which} is "first" or "last", {whole} the text's title or "the text".
PROMPTS: tuple[tuple[str, str], ...] = (
    (
        "Here are two segments of {whole}.\n\nSegment A: {a}\n\nSegment B: {b}\n\n"
        "Which of the two appeared {which} in {whole}?",
        "Answer: Segment",
    ),
    (
        "Segment A: “{a}”\nSegment B: “{b}”\n\nTask: remember the order of {whole}, and say which segment came "
        "{which}, A or B.",
        "The segment that came {which} is Segment",
    ),
    (
        "You have read {whole}. Two passages of it are shown in any order.\n\nSegment A: {a}\n\nSegment B: {b}\n\n"
        "Question: in the order of {whole}, which passage is met {which}?",
        "Answer: the passage in Segment",
    ),
    (
        "Segment A: {a}\n\nSegment B: {b}\n\nIn {whole}, which segment is {which}: A or B?",
        "It is Segment",
    ),
)
# Of continuation scoring: what stands before two segments, and what between them.
JOINTS: tuple[tuple[str, str], ...] = (("\n\n", " "), ("\n\n", "\n\n"), ("\n\n", " … "), ("\n\nIn this order:\n", "\n"))


@dataclass(frozen=True, kw_only=True)
class SortRecallConfig:
    """What the segments are of, and how they are asked about.

    Raises:
        InputError: a number or a name is not possible.
    """

    book: str = ""  # a text file; none is a made-up chronicle of 30,000 words
    title: str = "the text"  # as questions call it
    segment: int = 20  # words of a segment (paper: 20 and 50)
    excerpt: int = 0  # words of an excerpt (paper: 250 to 20,000); 0 is as many as the length holds
    bins: Any = "paper"  # of distance: the paper's four, or edges in words, as (20,100,400)
    reads: Literal["excerpt", "book"] = "excerpt"  # what is shown: the excerpt with both segments, or all of the text
    chunk: int = 100  # words of a piece, as a store takes it
    scoring: Scoring = "labels"  # of the likelihood form: labels, or which segment continues which
    asks: Literal["first", "last"] = "first"  # which segment is asked for
    prompt: int = 0  # of four wordings; `best_prompt` chooses

    def __post_init__(self) -> None:
        for name in ("segment", "chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name, known in (("reads", ("excerpt", "book")), ("asks", ("first", "last"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(known)}")
        if self.scoring not in get_args(Scoring):
            raise InputError(f"scoring is {self.scoring!r}: choose {' or '.join(get_args(Scoring))}")
        if self.prompt not in range(len(PROMPTS)):
            raise InputError(f"prompt is {self.prompt}: choose 0 to {len(PROMPTS) - 1}")
        if self.excerpt < 0:
            raise InputError(f"excerpt is {self.excerpt}: it must be 0 or more words")
        if self.bins != "paper":
            edges = self.bins if isinstance(self.bins, tuple | list) else ()
            if len(edges) < 2 or any(not isinstance(e, int) for e in edges) or any(a >= b for a, b in pairwise(edges)):
                raise InputError(f"bins are {self.bins!r}: paper, or ascending edges in words, as (20,100,400)")
            object.__setattr__(self, "bins", tuple(edges))


class SortRecall(Exam):
    """Which of two segments of a text came first."""

    slug = "sort-recall"
    Config = SortRecallConfig
    least = 128
    breakdown = ("bin", "length")
    prefers: ClassVar[Form | None] = "likelihood"

    def estimate(self, text: str) -> int:
        """1.35 tokens a word."""
        return round(len(text.split()) * _TOKENS_A_WORD)

    def items(self, n: int, length: int, seed: int, count: Count) -> list[Item]:
        """Bins take turns; half of the answers are A. `length` is the excerpt's also where all of the text is shown."""
        config = self.config
        text = Sequenced(read_book(str(config.book)) if config.book else chronicle())
        whole = text.part(0, len(text)) if config.reads == "book" else ""
        pieces = self._pieces(text, 0, len(text)) if whole else ()
        made, words, edges = self._drawn(text, n, length, seed, count)
        names = self._names(edges, words)
        tokens = count(whole) if whole else 0
        out = []
        for number, found in enumerate(made):
            context = whole or found.excerpt
            group = {
                "bin": names[found.bin],
                "length": length,
                "distance": found.distance,
                "segment": config.segment,
                "words": words,
                "tokens": tokens or count(context),
                "characters": len(context),
            }
            out.append(self._item(f"{length}-{seed}-{number}", found, context, group, pieces, text, words))
        return out

    def _drawn(
        self, text: Sequenced, n: int, length: int, seed: int, count: Count
    ) -> tuple[list[SortItem], int, tuple[int, ...]]:
        """Pairs, the words of an excerpt, and the edges: excerpts have the most words that always fit."""
        segment, words = self.config.segment, self.config.excerpt
        if not words:
            sample = text.part(0, min(len(text), 2_000))
            words = int(length * min(len(text), 2_000) / count(sample))
        for _ in range(12):
            edges = paper_bins(words, segment) if self.config.bins == "paper" else self.config.bins
            if words < 5 * segment:
                break
            counts = [n // (len(edges) - 1) + (i < n % (len(edges) - 1)) for i in range(len(edges) - 1)]
            made = text.pairs(words, segment, counts, edges, seed)
            longest = max((count(item.excerpt) for item in made), default=0)
            if longest <= length:
                return made, words, tuple(edges)
            if self.config.excerpt:
                break
            words = min(words - 1, int(words * length / longest))
        raise InputError(
            f"{length:,} tokens do not hold an excerpt of {self.config.excerpt or 5 * segment:,} words: ask for more "
            "tokens, or for fewer words"
        )

    def _names(self, edges: Sequence[int], words: int) -> list[str]:
        if self.config.bins == "paper":
            return list(_SHARES if words < 5000 else _LONG_SHARES)
        return [f"≤ {edge} words" for edge in edges[1:]]

    def _pieces(self, text: Sequenced, start: int, length: int) -> tuple[str, ...]:
        """Runs of whole words that give the text when they are joined."""
        ends = range(start, start + length, self.config.chunk)
        runs = [text.part(at, min(self.config.chunk, start + length - at)) for at in ends]
        return tuple(run if i == len(runs) - 1 else run + " " for i, run in enumerate(runs))

    def _item(
        self,
        name: str,
        found: SortItem,
        context: str,
        group: dict[str, str | int],
        pieces: tuple[str, ...],
        text: Sequenced,
        words: int,
    ) -> Item:
        config = self.config
        right = found.answer if config.asks == "first" else 1 - found.answer
        a, b = found.seg_a, found.seg_b
        said, begun = PROMPTS[config.prompt]
        named = {"which": config.asks, "whole": config.title}
        if config.scoring == "labels":
            choices = [
                Choice(
                    question=f"\n\n{said.format(a=one, b=other, **named)}\n\n{begun.format(**named)}",
                    options=tuple(f" {label}" for label in LABELS),
                    right=right ^ swapped,
                    earliest=(one, other) if config.asks == "first" else (other, one),
                )
                for swapped, (one, other) in enumerate(((a, b), (b, a)))
            ]
        else:
            before, between = JOINTS[config.prompt]
            choices = [
                Choice(
                    question=before,
                    options=(f"{a}{between}{b}", f"{b}{between}{a}"),
                    right=found.answer,
                    earliest=(a, b),
                )
            ]
        return Item(
            id=name,
            context=context,
            pieces=pieces or self._pieces(text, found.start, words),
            question=f"{said.format(a=a, b=b, **named)} Answer with A or B only.",
            answer=LABELS[right],
            choices=tuple(choices),
            group=group,
            new_tokens=16,
        )

    # --- marking -----------------------------------------------------------------------------------------------------

    def judge(self, item: Item, weighed: Sequence[Sequence[float]]) -> Grade:
        """The sums over both presentations decide, so that a liking for one label cancels out."""
        right = item.choices[0].right
        sums = [0.0, 0.0]
        for choice, figures in zip(item.choices, weighed, strict=True):
            same = choice.right == right
            for i in (0, 1):
                sums[i if same else 1 - i] += figures[i]
        if self.config.scoring == "continuation":
            return Grade(float(sums[right] > sums[1 - right]))
        said_a = sum(figures[0] >= figures[1] for figures in weighed) / len(weighed)
        return Grade(float(sums[right] > sums[1 - right]), more={"said A": said_a})

    def grade(self, item: Item, text: str) -> Grade:
        """A or B, alone, behind "segment" or "answer", or the only one of the two that is said."""
        said = _label(text)
        if said is None:
            return Grade(0.0, parsed=False)
        return Grade(float(said == item.answer), more={"said A": float(said == "A")})

    def guess(self, item: Item, chance: random.Random) -> str:
        """A label."""
        return chance.choice(LABELS)


def _label(text: str) -> str | None:
    clean = re.sub(r"[*_`\"'“”‘’()\[\]]", "", text).strip()
    if alone := re.match(r"(?:segment\s+)?([AB])(?:\s*[.,:;!]|\s*$|\s*\n|\s*-)", clean, re.IGNORECASE):
        return alone[1].upper()
    for pattern in (r"\banswer\s*(?:is|:)\s*(?:segment\s+)?([AB])\b", r"\bsegment\s+([AB])\b"):
        if named := {found.upper() for found in re.findall(pattern, clean, re.IGNORECASE)}:
            return named.pop() if len(named) == 1 else None
    return None


# --- what the results say --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How well a subject knows the order.

    Attributes:
        accuracy: share that is right; interval: Wilson's, 95 %.
        p: of the exact two-sided binomial test against one half.
        said_a: share of the answers "A", over both presentations; None where labels were not asked for.
        bins: by bin of distance and length in tokens: n, accuracy, interval.
    """

    accuracy: float
    interval: tuple[float, float]
    p: float
    said_a: float | None
    bins: dict[tuple[str, int], tuple[int, float, tuple[float, float]]]


def order(report: Report) -> Order:
    """Accuracy, bias and significance of a report of sort-recall."""
    right = round(sum(item.score for item in report.items))
    said = [item.more["said A"] for item in report.items if "said A" in item.more]
    bins = {}
    for (name, length), items in report.by("bin", "length").items():
        hits = sum(item.score for item in items)
        bins[str(name), int(length)] = (len(items), hits / len(items), wilson(hits, len(items)))
    return Order(
        accuracy=right / report.n,
        interval=wilson(right, report.n),
        p=coin(right, report.n),
        said_a=sum(said) / len(said) if said else None,
        bins=bins,
    )


def best_prompt(subject: Subject, *, n: int = 20, length: int = 512, seed: int = 10_000, **options: Any) -> int:
    """The wording with which a subject does best on items of another seed than those it will be examined with.

    `options` are those of the exam. The paper gives each model the best of thirteen.
    """
    scores = [
        run(SortRecall(**{**options, "prompt": prompt}), subject, n=n, lengths=[length], seed=seed).score
        for prompt in range(len(PROMPTS))
    ]
    return likeliest(scores)
