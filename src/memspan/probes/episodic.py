"""Episodic memory of a conversation: what was said, when, in which order, what holds now, and what was never said.

Conversations are made from a seed, of any length in tokens, so that nobody can have read them before. Two people talk
over months; some of what they say is asked about, some is like it, the rest is small talk. Six tasks:

- recall: something said once of one person;
- order: which of two events came first;
- when: the day of an event that was told as "yesterday" or "two days ago";
- update: what holds now, or held on a day, of something that changed;
- multi-hop: what is true of somebody who is known by name in one turn and by tie ("my neighbour") in another;
- abstention: what was only said of somebody else, which is to be declined.

Notable choices. All questions on a conversation show the same turns, so that a store reads them once. Every person and
event is asked about once, values of a kind differ between people, and no small talk holds one. "Not mentioned" is among
the options of every task but order, so that it gives nothing away; the wrong values are, where there are enough, said
of others in the same conversation. A written answer is right when it holds the right value as whole words and no value
that once held; of two events, the one named first counts. Small talk repeats in conversations of more than 10,000
tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from memspan.core.errors import InputError
from memspan.probes.base import Choice, Count, Exam, Grade, Item
from memspan.probes.episodic_talk import Asked, Talk
from memspan.probes.grading import DECLINED, declines, holds_any, mentions, normal
from memspan.probes.turns import transcript

Task = Literal["recall", "order", "when", "update", "multi-hop", "abstention"]
TASKS: tuple[Task, ...] = get_args(Task)
_CHARACTERS_A_TOKEN = 4.0  # English under the usual byte-pair vocabularies
_TOKENS_A_QUESTION = 80  # that a conversation holds at least for each question on it


@dataclass(frozen=True, kw_only=True)
class EpisodicConfig:
    """What is asked.

    Raises:
        InputError: a number or a name is not possible.
    """

    tasks: tuple[Task, ...] = TASKS  # n items take turns at them
    questions: int = 12  # most on one conversation; fewer on one of less than 80 tokens for each
    options: int = 4  # of the likelihood form; order has two

    def __post_init__(self) -> None:
        tasks = (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)
        object.__setattr__(self, "tasks", tasks)
        if unknown := [task for task in tasks if task not in TASKS]:
            raise InputError(f"{unknown[0]!r} is no task: choose of {', '.join(TASKS)}")
        if not tasks or not 1 <= self.questions <= 24 or not 3 <= self.options <= 6:
            raise InputError(
                f"tasks are {tasks}, questions {self.questions} and options {self.options}: name a task, and 1 to 24 "
                "questions with 3 to 6 options"
            )


class Episodic(Exam):
    """Six kinds of questions on conversations of any length."""

    slug = "episodic"
    Config = EpisodicConfig
    least = 300

    def estimate(self, text: str) -> int:
        """A quarter of the characters."""
        return round(len(text) / _CHARACTERS_A_TOKEN)

    def items(self, n: int, length: int, seed: int, count: Count) -> list[Item]:
        """The tasks take turns; conversations are as long as fits."""
        tasks, made = self.config.tasks, list[Item]()
        group = max(1, min(self.config.questions, length // _TOKENS_A_QUESTION))
        for number, first in enumerate(range(0, n, group)):
            wanted = [tasks[i % len(tasks)] for i in range(first, min(first + group, n))]
            talk = Talk(f"{length}-{seed}-{number}", wanted, length, self.config.options, count)
            pieces = transcript(talk.turns)
            context = "\n\n".join(pieces)
            sizes = {"length": length, "tokens": count(context), "characters": len(context), "conversation": number}
            for place, asked in enumerate(talk.asked, first):
                made.append(self._item(f"{asked.task}-{length}-{seed}-{place}", talk, asked, context, pieces, sizes))
        return made

    def _item(
        self, name: str, talk: Talk, asked: Asked, context: str, pieces: tuple[str, ...], sizes: dict[str, int]
    ) -> Item:
        decline = None if asked.task == "order" else asked.options.index(DECLINED)
        choice = Choice(
            question=f"\n\nQuestion: {asked.question}\nAnswer:",
            options=tuple(f" {option}" for option in asked.options),
            right=asked.options.index(asked.right[0]) if asked.right else decline or 0,
            declines=decline,
            earliest=asked.options if asked.task == "order" else (),
        )
        how = "Answer in a few words" + (
            "." if decline is None else f', or with "{DECLINED}" if the conversation does not say.'
        )
        return Item(
            id=name,
            context=context,
            pieces=pieces,
            turns=talk.turns,
            question=f"{asked.question} {how}",
            asked=asked.question,
            answer={"right": list(asked.right), "wrong": list(asked.wrong)},
            choices=(choice,),
            evidence=tuple(talk.ids[said] for said in asked.evidence),
            asked_at=talk.asked_at,
            as_of=asked.as_of,
            group={"task": asked.task, **sizes, **({"asks": asked.asks} if asked.asks else {})},
            new_tokens=32,
        )

    def oracle(self, item: Item) -> str:
        """The value, or that it was not mentioned."""
        right: list[str] = item.answer["right"]
        return right[0] if right else DECLINED

    def guess(self, item: Item, chance: random.Random) -> str:
        """One of the options."""
        return chance.choice(item.choices[0].options).strip()

    def grade(self, item: Item, text: str) -> Grade:
        """The right value and no other; nothing, where there is none; of two events the one named first."""
        right: list[str] = item.answer["right"]
        wrong: list[str] = item.answer["wrong"]
        if not right:
            refused = declines(text)
            return Grade(float(refused), parsed=refused or holds_any(text, wrong))
        if item.group["task"] == "order":
            places = [_place(text, event) for event in (right[0], wrong[0])]
            known = [place for place in places if place is not None]
            return Grade(float(bool(known) and places[0] == min(known)), parsed=bool(known))
        held = holds_any(text, right)
        spoiled = holds_any(text, wrong)
        refused = not held and declines(text)
        return Grade(float(held and not spoiled), parsed=held or spoiled or refused, more={"declined": float(refused)})


def _place(text: str, event: str) -> int | None:
    """Where an event stands in a text, without the name of who did it, which an answer may leave out."""
    deed = event.partition(" ")[2]
    return normal(text).find(normal(deed)) if mentions(text, deed) else None


def conversation(length: int, seed: int = 0, count: Count | None = None, questions: int = 12) -> Sequence[Item]:
    """A conversation of `length` tokens with questions on it: `.turns`, `.asked`, `.answer`, `.evidence` of each item.

    Args:
        length: in tokens as `count` counts them; None estimates them.

    Raises:
        InputError: fewer tokens than a conversation takes.
    """
    exam = Episodic(questions=questions)
    if length < exam.least:
        raise InputError(f"a conversation takes at least {exam.least} tokens, and {length} are asked for")
    many = max(1, min(questions, length // _TOKENS_A_QUESTION))
    return exam.items(many, length, seed, count or exam.estimate)
