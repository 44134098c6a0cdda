"""`Exam` and `Subject`: what is asked, and whoever answers.

An exam makes items from a seed; a subject reads an item's context and answers it, in writing, or by saying how likely
each option is, which a small model can do before it can write. The exam grades. `run.py` puts both together.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from memspan.core.errors import InputError

Form = Literal["text", "likelihood"]
FORMS: tuple[Form, ...] = ("likelihood", "text")
Role = Literal["reader", "student", "retriever"]
Count = Callable[[str], int]
"""Tokens of a text."""
Said = str | list[list[float]]
"""What a subject made of an item: a text, or a weight of each option of each choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a conversation, as a store takes it."""

    id: str
    text: str
    speaker: str | None = None
    at: datetime | None = None
    session: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One question of the likelihood form: which of the options follows; `right` is its place among them.

    Attributes:
        earliest: of a question of order, a text for each option, of which the one that was met first tells the right
            one: a store compares when it met them, and need not weigh words.
        upto: cuts what stands before the question: so many characters of the context; None is all of it.
        declines: the place of the option that says that there is no answer, where there is one.
    """

    question: str
    options: tuple[str, ...]
    right: int
    earliest: tuple[str, ...] = ()
    upto: int | None = None
    declines: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One task of an exam.

    Attributes:
        id: the same whenever the same seed and settings make it.
        context: what is shown first, whole; pieces: the same in parts, as a store takes it.
        question: in the text form, with what the answer should look like.
        answer: the right answer, in the form that the exam grades.
        choices: of the likelihood form.
        group: what results are broken down by: task, length in tokens, characters, depth.
        new_tokens: most tokens of a written answer.
        turns: of a conversation, what a store takes instead of the pieces.
        asked: the question alone, as a store is asked it; "" is `question`.
        evidence: ids of the turns that hold the answer.
        asked_at: when the question is asked; as_of: the moment that it asks about, where it names one.
    """

    id: str
    context: str
    question: str
    answer: Any
    pieces: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    asked: str = ""
    evidence: tuple[str, ...] = ()
    asked_at: datetime | None = None
    as_of: datetime | None = None
    choices: tuple[Choice, ...] = ()
    group: Mapping[str, str | int | float] = field(default_factory=dict)
    new_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Grade:
    """What an answer is worth, from 0 to 1, and whether an answer could be read out of the text at all.

    `more` are further figures of it, such as precision and recall.
    """

    score: float
    parsed: bool = True
    more: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Subject(Protocol):
    """Whoever sits an exam.

    It may also have `recalled(item, k)`, the ids of the turns that it recalls on the item's question, best first, and
    `held()`, the `Footprint` of what it remembers the item's context by, or None.

    Attributes:
        name: as reports show it.
        forms: what it can do, the better first.
    """

    name: str
    forms: tuple[Form, ...]

    def read(self, item: Item) -> None:
        """Take in the item's context; nothing of an earlier item is left."""

    def write(self, item: Item) -> str:
        """Answer the item's question in writing."""

    def weigh(self, choice: Choice) -> list[float]:
        """How likely each option is behind the question: mean log-probability of its tokens, or any such figure."""

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text; None without a tokenizer, and lengths are then estimated by the exam."""


class Exam(ABC):
    """A maker and marker of items; a system of the folder `probes`.

    Class attributes:
        slug: its name.
        forms: in which it can be sat.
        prefers: the form that is taken where a subject has it too; None is the subject's better one.
        least: tokens below which no item can be made.
        usual: lengths in tokens where none are asked for; 0 is the whole of what there is.
        breakdown: groups that reports break the score down by.
        curve: one of them that is a number and what a plot goes along; "" is the length.
        role: what is made of a subject that can be more than a reader.
    """

    slug: ClassVar[str]
    forms: ClassVar[tuple[Form, ...]] = FORMS
    prefers: ClassVar[Form | None] = None
    least: ClassVar[int] = 1
    usual: ClassVar[tuple[int, ...]] = (1000,)
    breakdown: ClassVar[tuple[str, ...]] = ("task", "length")
    curve: ClassVar[str] = ""
    role: ClassVar[Role] = "reader"
    Config: ClassVar[type[Any]]

    def __init__(self, config: Any = None, **options: Any) -> None:
        if config is None:
            try:
                config = self.Config(**options)
            except TypeError as error:
                known = ", ".join(self.Config.__dataclass_fields__)
                raise InputError(f"{self.slug} has no such option ({error}); its options: {known}") from None
        self.config = config

    @abstractmethod
    def items(self, n: int, length: int, seed: int, count: Count) -> Sequence[Item]:
        """`n` items of at most `length` tokens; the same for the same arguments.

        Raises:
            InputError: no item fits into the length.
        """

    @abstractmethod
    def grade(self, item: Item, text: str) -> Grade:
        """Marks a written answer."""

    def judge(self, item: Item, weighed: Sequence[Sequence[float]]) -> Grade:
        """Marks the likelihood form, from a figure for each option of each choice: the share of choices got right."""
        pairs = zip(weighed, item.choices, strict=True)
        return Grade(sum(likeliest(figures) == choice.right for figures, choice in pairs) / len(item.choices))

    def chance(self, item: Item) -> float:
        """What a guesser scores on an item in the likelihood form."""
        return sum(1 / len(choice.options) for choice in item.choices) / len(item.choices)

    @abstractmethod
    def estimate(self, text: str) -> int:
        """Tokens of a text of the kind that this exam shows, where there is no tokenizer."""

    def sit(self, subject: Subject, items: Sequence[Item], form: Form) -> Iterator[tuple[Item, Said]]:
        """Each item, in order, with what the subject says; an exam that needs more than reading has its own."""
        for item in items:
            subject.read(item)
            yield item, subject.write(item) if form == "text" else [subject.weigh(choice) for choice in item.choices]

    def oracle(self, item: Item) -> str:
        """A written answer that is right."""
        return str(item.answer)

    def guess(self, item: Item, chance: random.Random) -> str:
        """A written answer by lot, from what the item shows."""
        return ", ".join(chance.choice(choice.options) for choice in item.choices)


def likeliest(figures: Sequence[float]) -> int:
    """The place of the largest figure, the first of equals."""
    return max(range(len(figures)), key=figures.__getitem__)


def check_length(exam: Exam, length: int) -> None:
    """Raises InputError where no item of the exam fits into `length` tokens."""
    if length < exam.least:
        raise InputError(f"{exam.slug} needs at least {exam.least} tokens, and the length is {length}")
