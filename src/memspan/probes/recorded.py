"""LoCoMo, BEAM and LongMemEval as exams: questions that people asked of recorded conversations, from a user's files.

The conversations come from `memspan.longterm.readers.questions.load`, and nothing of them ships with memspan.

    exam = Locomo(conversations=load(Path("locomo.json"), unanswerable=True)[0].conversations)
    run(exam, StoreSubject("zep"), n=100, lengths=(0,))

Which figure is which. The score is a rule's and no judge's: token F1 of the answer against the one in the file; of
LoCoMo's multi-hop questions list F1, as its paper has it, and of BEAM's event orderings list F1 over its rubric. A
question that cannot be answered scores 1 when it is declined. Beside it: `match`, the share of answers that hold the
file's answer word for word; `covered`, the share of its words, or of each part of BEAM's rubric, that the answer holds;
`declined`, of what can be answered; and of a store recall@k: the share of the evidence that the file names among the
first k turns recalled. The papers' own scores of LongMemEval and BEAM are given by a language model that judges: these
figures are no replacement for them, and compare subjects only with each other. A store that answers with the sentence
it found has a low F1, since that counts every word beside the answer; recall@k and `covered` say whether it found it.

Notable choices. Length 0 shows a conversation whole. With another, the evidence, the two turns before and after each,
and runs of turns from anywhere are shown in their order; where a file names only sessions, these are the evidence, and
recall of it is not told. Questions whose evidence does not fit are left out. By likelihood, the right answer stands
among answers to other questions of the same kind, and "not mentioned" among the options of all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from statistics import fmean
from typing import Any, ClassVar, Protocol

from memspan.core.errors import InputError
from memspan.probes.base import Choice, Count, Exam, Grade, Item, Turn
from memspan.probes.grading import DECLINED, declines, list_f1, mentions, normal, overlap
from memspan.probes.turns import line, transcript

_CHARACTERS_A_TOKEN = 4.0  # English under the usual byte-pair vocabularies
_DRAWN = 24  # answers to others that are looked at, so that as many differ as are needed
_NEAR, _RUN = 2, 8  # turns shown around evidence, and of a run from elsewhere


class Told(Protocol):
    """A turn of a recorded conversation."""

    @property
    def id(self) -> str | None: ...
    @property
    def text(self) -> str: ...
    @property
    def speaker(self) -> str | None: ...
    @property
    def at(self) -> datetime | None: ...
    @property
    def session(self) -> str | None: ...
    @property
    def metadata(self) -> Any: ...


class Posed(Protocol):
    """A question on it, with what is right."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def evidence(self) -> tuple[str, ...]: ...
    @property
    def sessions(self) -> tuple[str, ...]: ...
    @property
    def unanswerable(self) -> bool: ...
    @property
    def tempting(self) -> str: ...
    @property
    def audited(self) -> bool: ...
    @property
    def asked_at(self) -> datetime | None: ...


class Recording(Protocol):
    """A conversation with its questions."""

    @property
    def name(self) -> str: ...
    @property
    def episodes(self) -> Sequence[Told]: ...
    @property
    def questions(self) -> Sequence[Posed]: ...


@dataclass(frozen=True, kw_only=True)
class RecordedConfig:
    """Which questions are asked.

    Raises:
        InputError: a number is not possible.
    """

    tasks: tuple[str, ...] = ()  # kinds of questions; none is all
    audited: bool = True  # also questions whose answer or citation an audit found wrong (LoCoMo)
    options: int = 4  # of the likelihood form

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks))
        if not 3 <= self.options <= 10:
            raise InputError(f"options is {self.options}: choose from 3 to 10")


class Recorded(Exam):
    """An exam of recorded conversations.

    Args:
        config: which questions; or its fields by name.
        conversations: in the layout of this exam.
    """

    Config = RecordedConfig
    least = 0
    usual = (0,)
    breakdown: ClassVar[tuple[str, ...]] = ("task",)
    layout: ClassVar[str]
    lists: ClassVar[tuple[str, ...]] = ()
    """Kinds of questions whose answers are lists."""
    new_tokens: ClassVar[int] = 64

    def __init__(self, config: Any = None, *, conversations: Sequence[Recording] = (), **options: Any) -> None:
        super().__init__(config, **options)
        self._talks = list(conversations)
        # Answers with their normal forms, by conversation and kind, by kind, and all, for wrong options.
        self._pools: dict[Any, list[tuple[str, str]]] = {}
        for talk in self._talks:
            for question in talk.questions:
                if question.answer and not question.unanswerable:
                    said = (normal(question.answer), question.answer)
                    for key in ((talk.name, question.category), question.category, ""):
                        self._pools.setdefault(key, []).append(said)

    def estimate(self, text: str) -> int:
        """A quarter of the characters."""
        return round(len(text) / _CHARACTERS_A_TOKEN)

    def items(self, n: int, length: int, seed: int, count: Count) -> list[Item]:
        """`n` questions by lot, or all where there are fewer, by conversation."""
        posed = [(talk, question) for talk in self._talks for question in talk.questions if self._wanted(question)]
        if not posed:
            known = sorted({question.category for talk in self._talks for question in talk.questions})
            said = f"none of the kinds {', '.join(self.config.tasks)}; there are: {', '.join(known)}" if known else ""
            raise InputError(
                f"{self.slug} has no question to ask: {said or f'name a file in its layout (--data {self.slug}.json)'}"
            )
        chance = random.Random(f"{self.slug} {seed}")
        chosen = chance.sample(range(len(posed)), len(posed))
        shown: dict[str, _Shown] = {}
        made: dict[int, Item] = {}
        for place in chosen:
            if len(made) == n:
                break
            talk, question = posed[place]
            if talk.name not in shown:
                shown[talk.name] = _Shown(talk, count)
            lot = random.Random(f"{self.slug} {seed} {question.id}")
            turns = shown[talk.name].whole if length == 0 else shown[talk.name].cut(question, length, lot)
            if turns is not None:
                made[place] = self._item(talk, question, turns, length, count, lot)
        if not made:
            raise InputError(f"{length:,} tokens hold the evidence of no question of {self.slug}: ask for more")
        return [made[place] for place in sorted(made)]

    def _wanted(self, question: Posed) -> bool:
        if self.config.tasks and question.category not in self.config.tasks:
            return False
        return (self.config.audited or not question.audited) and bool(question.answer or question.unanswerable)

    def _item(
        self, talk: Recording, question: Posed, turns: _Cut, length: int, count: Count, chance: random.Random
    ) -> Item:
        options = [DECLINED if question.unanswerable else question.answer, *self._wrong(talk, question, chance)]
        right = options[0]
        chance.shuffle(options)
        choice = Choice(
            question=f"\n\nQuestion: {question.text}\nAnswer:",
            options=tuple(f" {option}" for option in options),
            right=options.index(right),
            declines=options.index(DECLINED),
        )
        return Item(
            id=f"{question.id}-{length}",
            context=turns.context,
            pieces=turns.pieces,
            turns=turns.turns,
            question=f'{question.text} Answer briefly, or with "{DECLINED}" if the conversation does not say.',
            asked=question.text,
            answer={
                "right": "" if question.unanswerable else question.answer,
                "parts": [] if question.unanswerable else list(question.parts),
            },
            choices=(choice,),
            evidence=question.evidence,
            asked_at=question.asked_at,
            group={
                "task": question.category,
                "length": length,
                "tokens": turns.tokens,
                "conversation": talk.name,
                "audited": int(question.audited),
            },
            new_tokens=self.new_tokens,
        )

    def _wrong(self, talk: Recording, question: Posed, chance: random.Random) -> list[str]:
        """Answers to others: of its kind and conversation, of its kind, any; and that there is none."""
        near, kind, every = (
            self._pools.get(key, []) for key in ((talk.name, question.category), question.category, "")
        )
        found, seen = [], {normal(question.answer), ""}
        tiers = [[(normal(question.tempting), question.tempting)], near, kind, every]
        for form, answer in chain.from_iterable(chance.sample(tier, min(len(tier), _DRAWN)) for tier in tiers):
            if form not in seen:
                seen.add(form)
                found.append(answer)
        many = self.config.options - 1
        if question.unanswerable:
            return found[:many]
        return [*found[: many - 1], DECLINED]

    def oracle(self, item: Item) -> str:
        """The file's answer; where it is a list that has parts, these."""
        parts: list[str] = item.answer["parts"]
        if parts and item.group["task"] in self.lists:
            return "\n".join(part.replace(",", " ").replace(";", " ") for part in parts)
        return item.answer["right"] or DECLINED

    def guess(self, item: Item, chance: random.Random) -> str:
        """One of the options."""
        return chance.choice(item.choices[0].options).strip()

    def grade(self, item: Item, text: str) -> Grade:
        """See the module: F1, and beside it `match`, `covered` and `declined`."""
        right: str = item.answer["right"]
        if not right:
            return Grade(float(declines(text)))
        parts: list[str] = item.answer["parts"]
        whole, _, covered = overlap(text, right)
        if item.group["task"] in self.lists:
            # Commas part a list of the answer, and may stand in a part of the right one.
            whole = list_f1(text, [p.replace(",", " ").replace(";", " ") for p in parts] or _split(right))
        if parts:
            covered = fmean(overlap(text, part)[2] for part in parts)
        more = {"match": float(mentions(text, right)), "covered": covered}
        refused = declines(text) and not declines(right)
        return Grade(0.0 if refused else whole, more={**more, "declined": float(refused)})


class Locomo(Recorded):
    """LoCoMo (Maharana et al., ACL 2024, arXiv 2402.17753; data CC BY-NC 4.0): very long chats of two people."""

    slug = layout = "locomo"
    lists = ("multi-hop",)


class LongMemEval(Recorded):
    """LongMemEval (Wu et al., ICLR 2025, arXiv 2410.10813): a haystack of chats with an assistant for each question."""

    slug = layout = "longmemeval"


class Beam(Recorded):
    """BEAM (Tavakoli et al., ICLR 2026, arXiv 2510.27246): ten abilities over long chats with an assistant."""

    slug = layout = "beam"
    lists = ("event_ordering",)
    new_tokens = 128


def _split(right: str) -> list[str]:
    return [part.strip() for part in right.replace(";", ",").replace("\n", ",").split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is shown of a conversation."""

    turns: tuple[Turn, ...]
    pieces: tuple[str, ...]
    context: str
    tokens: int


class _Shown:
    """A conversation, whole or cut to a length."""

    def __init__(self, talk: Recording, count: Count) -> None:
        self._count = count
        self._turns = tuple(
            Turn(
                id=str(told.id),
                text=told.text,
                speaker=told.speaker,
                at=told.at,
                session=told.session,
                metadata=dict(told.metadata),
            )
            for told in talk.episodes
        )
        self._places = {turn.id: place for place, turn in enumerate(self._turns)}
        self._sizes: list[int] = []
        self._whole: _Cut | None = None

    @property
    def whole(self) -> _Cut:
        """All turns."""
        if self._whole is None:
            self._whole = self._of(self._turns)
        return self._whole

    def cut(self, question: Posed, length: int, chance: random.Random) -> _Cut | None:
        """The evidence and what fits beside it; None where it does not fit itself."""
        self._sizes = self._sizes or [self._count(line(turn)) + 3 for turn in self._turns]
        kept = dict.fromkeys(self._places[name] for name in question.evidence)
        if not kept:  # where a file names no turns, the sessions that hold the answer are the evidence
            kept = dict.fromkeys(i for i, turn in enumerate(self._turns) if turn.session in question.sessions)
        around = [at + step for at in kept for step in (-1, 1, -2, 2)][: 4 * len(kept)]
        order = dict.fromkeys(place for place in around if 0 <= place < len(self._turns) and place not in kept)
        for begin in chance.sample(range(0, len(self._turns), _RUN), len(range(0, len(self._turns), _RUN))):
            order.update(dict.fromkeys(place for place in range(begin, min(begin + _RUN, len(self._turns)))))
        fillers, held = [place for place in order if place not in kept], sum(self._sizes[place] for place in kept)
        added: list[int] = []
        for place in fillers:
            if held + self._sizes[place] <= length:
                held += self._sizes[place]
                added.append(place)
            elif len(added) > _NEAR * 2:
                break
        while True:  # lines of dates are not counted above
            made = self._of([self._turns[place] for place in sorted([*kept, *added])])
            if made.turns and made.tokens <= length:
                return made
            if not added:
                return None
            del added[-max(1, len(added) // 20) :]

    def _of(self, turns: Sequence[Turn]) -> _Cut:
        pieces = transcript(turns)
        context = "\n\n".join(pieces)
        return _Cut(tuple(turns), pieces, context, self._count(context))
