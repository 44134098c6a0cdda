"""What the knowledge survey's claim asks about: passages made from a seed, and XQuAD and RGB where they are at hand."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memspan.longterm.knowledge_survey.generated import Item, encyclopedia
from memspan.longterm.passages import STOP_WORDS


@dataclass(frozen=True)
class Corpus:
    """Passages by id, and questions about them in an order drawn from the seed; `label` names it in the result."""

    label: str
    passages: dict[str, str]
    items: list[Item]

    def one_each(self) -> list[Item]:
        """The first question of each passage that has one, in the passages' order."""
        first: dict[str, Item] = {}
        for item in self.items:
            first.setdefault(item.evidence[0], item)
        return [first[uid] for uid in self.passages if uid in first]


def made_up(seed: int, count: int) -> Corpus:
    """Paragraphs with invented names, which no model can know."""
    paragraphs = encyclopedia(seed, count)
    items = [item for p in paragraphs for item in p.items]
    return Corpus("made-up passages", {p.id: p.text for p in paragraphs}, random.Random(seed).sample(items, len(items)))


def xquad(file: Path, seed: int) -> Corpus:
    """XQuAD's English paragraphs and questions (Artetxe et al. 2020, CC BY-SA 4.0), both in an order of their own."""
    chance = random.Random(seed)
    told = json.loads(file.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in told for paragraph in article["paragraphs"]]
    chance.shuffle(paragraphs)
    items = [
        Item(asked["question"], asked["answers"][0]["text"], (f"p{number}",))
        for number, paragraph in enumerate(paragraphs)
        for asked in paragraph["qas"]
    ]
    passages = {f"p{number}": paragraph["context"] for number, paragraph in enumerate(paragraphs)}
    return Corpus("XQuAD", passages, chance.sample(items, len(items)))


@dataclass(frozen=True)
class Edit:
    """Documents before and after an edit that changes the answer of a question; the answers in all their spellings."""

    question: str
    before: dict[str, str]
    after: dict[str, str]
    old: tuple[str, ...]
    new: tuple[str, ...]


def made_up_edits(seed: int, count: int) -> list[Edit]:
    """Paragraphs in which one value is edited."""
    return [
        Edit(p.edited_item.question, {p.id: p.text}, {p.id: p.edited}, (p.items[0].answer,), (p.edited_item.answer,))
        for p in encyclopedia(seed, count)
    ]


def rgb(file: Path) -> list[Edit]:
    """RGB's counterfactual set (Chen et al. 2024, CC BY-NC-SA 4.0): true documents, and the same edited to be false."""
    edits = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids = [f"q{row['id']}-{number}" for number in range(len(row["positive"]))]
        before = dict(zip(ids, row["positive"], strict=True))
        after = dict(zip(ids, row["positive_wrong"], strict=True))
        edits.append(Edit(row["query"], before, after, _spellings(row["answer"]), _spellings(row["fakeanswer"])))
    return edits


def _spellings(answer: str | list[str] | list[list[str]]) -> tuple[str, ...]:
    if isinstance(answer, str):
        return (answer,)
    return tuple(spelling for part in answer for spelling in _spellings(part))


def holds(text: str, *values: str) -> bool:
    """Whether one of the values stands in the text as words of its own."""
    return any(re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) for value in values)


def share(hits: Sequence[bool]) -> float:
    """Of all, how many are true."""
    return sum(hits) / len(hits)


def _normal(text: str) -> list[str]:
    words = re.sub(r"[^\w\s]", "", text.lower()).split()
    return [word for word in words if word not in ("a", "an", "the")]


def token_f1(text: str, value: str) -> float:
    """SQuAD's F1 over words; citations' numbers do not count."""
    said, wanted = _normal(re.sub(r"\[\d+\]", " ", text)), _normal(value)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def without_function_words(question: str) -> str:
    """A question as a hasty user types it."""
    return " ".join(word for word in re.findall(r"\w+", question) if word.lower() not in STOP_WORDS)
