"""What the temporal sets share: the item, how a value is looked for, and how items are made.

`TemplateSet.items` makes items from templates; in each, other people or things have the same relation, one value is
mentioned that is true of nobody, and there is chatter in between, so that neither the last nor the nearest value of the
right sort is always the answer. `read_dialogues` reads dialogues written by hand.

How to run an item: add its episodes one by one, in order, each with the store's clock at the episode's own `at`; then
ask `question` with `as_of` and `believed_at` and the clock at `asked_at`. A fact is right when `expected` stands in the
best result and none of `wrong` does (`mentions`). An episode may name the old and the new value in one sentence, so for
systems that answer with episodes show both counts: by the same rule, and by `expected` alone. The date is always in the
question as well, for systems that have no such options.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from memspan import Episode

Kind = Literal["now", "as_of", "believed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalItem:
    """A short conversation and a question on it.

    Attributes:
        id: "template/<relation>/<history>" or "written/<dialogue>/<number>".
        kind: "now", "as_of" (what was true then) or "believed" (what the store had been told by then).
        relation: what the question is about; "written" for the dialogues written by hand.
        episodes: in the order in which they are learnt; `at` never goes back.
        as_of, believed_at: passed to recall; at most one of them is set.
        asked_at: when the question is asked, after the last episode.
        expected: the value that must stand in the answer.
        wrong: values that must not: other times', other people's, or nobody's.
    """

    id: str
    kind: Kind
    relation: str
    episodes: tuple[Episode, ...]
    question: str
    as_of: datetime | None
    believed_at: datetime | None
    asked_at: datetime
    expected: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """How one relation is talked about.

    A sentence with `{s}` names its subject and is said by somebody else; one without is said by the subject. `{v}` is
    the value, `{old}` the one before, `{when}` a date in words, `{day}` a calendar date.

    Attributes:
        values: what it can be.
        subjects: whom or what it is about; empty for the people of the conversation.
        states: sentences that say what holds.
        changes: sentences that say what holds from now on.
        late: a change that is told long after `{day}`.
        past: what held between `{day}` and `{until}`, told later.
        traps: sentences that mention a value which is true of nobody.
        now, then: questions; `then` is completed with a date.
    """

    values: tuple[str, ...]
    subjects: tuple[str, ...] = ()
    states: tuple[str, ...]
    changes: tuple[str, ...]
    late: tuple[str, ...]
    past: tuple[str, ...]
    traps: tuple[str, ...]
    now: tuple[str, ...]
    then: tuple[str, ...]


def mentions(text: str, value: str) -> bool:
    """Whether a value stands in a text as whole words, in any case, also in the plural ("Mondays")."""
    return re.search(rf"(?<!\w){re.escape(value)}s?(?!\w)", text, re.IGNORECASE) is not None


def say_day(moment: datetime, *, year: bool = True) -> str:
    """For example "3 May 2024"."""
    return f"{moment.day} {moment:%B}" + (f" {moment.year}" if year else "")


def say_when(moment: datetime, chance: random.Random, *, weekdays: bool) -> str:
    """A date in the five weeks before `moment`, in words."""
    choices = ["yesterday", "last week", "two weeks ago", "ten days ago", "last month", "a month ago"]
    choices += [f"on {say_day(moment - timedelta(days=chance.randint(5, 30)), year=False)}"] * 2
    if weekdays:
        choices.append(f"last {chance.choice(('Tuesday', 'Thursday', 'Saturday'))}")
    return chance.choice(choices)


# --- items from templates --------------------------------------------------------------------------------------------

LAST_DAY = 330
HISTORIES = ("two-changes", "between", "before", "told-late", "not-yet-told", "old-story", "long-ago")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSet:
    """What the items of one set are made from.

    Attributes:
        people: who talks; two of them in each item.
        relations: by name.
        chatter: sentences that say nothing about any relation.
    """

    people: tuple[str, ...]
    relations: Mapping[str, Relation]
    chatter: tuple[str, ...]

    def items(self, seed: int = 0) -> Iterator[TemporalItem]:
        """One item for each relation and history."""
        for name in self.relations:
            for history in HISTORIES:
                yield _item(self, name, history, random.Random(f"{seed}/{name}/{history}"))


class _Talk:
    """Collects what is said in one item."""

    def __init__(self, templates: TemplateSet, relation: Relation, chance: random.Random) -> None:
        self.chance = chance
        self.relation = relation
        self.chatter = templates.chatter
        self.pair = chance.sample(templates.people, 2)
        self.start = datetime(2024, 1, 8, 9, tzinfo=UTC) + timedelta(days=chance.randrange(60))
        self.said: list[tuple[int, str, str]] = []  # day, speaker, text

    def date(self, day: int) -> datetime:
        return self.start + timedelta(days=day)

    def other(self, speaker: str) -> str:
        return self.pair[1] if speaker == self.pair[0] else self.pair[0]

    def tell(self, told: int, templates: Sequence[str], subject: str, **slots: str) -> None:
        template = self.chance.choice(templates)
        if "{when" in template:
            when = say_when(self.date(told), self.chance, weekdays=not self.relation.subjects)
            slots |= {"when": when, "when_first": when[0].upper() + when[1:]}
        if subject not in self.pair:
            speaker = self.chance.choice(self.pair)
        else:
            speaker = self.other(subject) if "{s}" in template else subject
        text = template.format(s=subject, **slots)
        self.said.append((told, speaker, text[0].upper() + text[1:]))

    def chat(self, days: Sequence[int]) -> None:
        lines = self.chance.sample(self.chatter, len(days))
        self.said += [(day, self.chance.choice(self.pair), line) for day, line in zip(days, lines, strict=True)]

    def episodes(self, name: str) -> tuple[Episode, ...]:
        ordered = sorted(self.said, key=lambda line: line[0])
        minutes: dict[int, int] = {}
        made = []
        for number, (day, speaker, text) in enumerate(ordered, start=1):
            minutes[day] = minutes.get(day, -1) + 1
            at = self.date(day) + timedelta(minutes=minutes[day])
            made.append(Episode(text, speaker=speaker, at=at, session=f"{name}/{day}", id=f"{name}/{number}"))
        return tuple(made)


def _item(templates: TemplateSet, name: str, history: str, chance: random.Random) -> TemporalItem:
    relation = templates.relations[name]
    talk = _Talk(templates, relation, chance)
    first, second, third, rival, rival_next, nobody = chance.sample(relation.values, 6)
    # Of the two friends one is asked about, and the other says the same sort of thing of himself or herself.
    subject, other = chance.sample(relation.subjects, 2) if relation.subjects else talk.pair
    talk.tell(0, relation.states, subject, v=first)
    talk.tell(2, relation.states, other, v=rival)
    talk.tell(40, relation.traps, "", v=nobody)
    talk.chat([0, 1, 40, 41, 110, 111, 260, 261])
    wrong = {first, second, rival, rival_next, nobody}
    kind: Kind = "as_of"
    if history in ("two-changes", "between", "before"):
        wrong.add(third)
        talk.tell(150, relation.changes, subject, v=second, old=first)
        talk.tell(300, relation.changes, subject, v=third, old=second)
        talk.tell(LAST_DAY, relation.changes, other, v=rival_next, old=rival)
        day, expected = {"two-changes": (LAST_DAY, third), "between": (225, second), "before": (75, first)}[history]
        if history == "two-changes":
            kind = "now"
    elif history in ("told-late", "not-yet-told"):  # came true on day 100, told on day 200, asked for day 150
        changed = say_day(talk.date(100), year=chance.random() < 0.5)
        talk.tell(200, relation.late, subject, v=second, old=first, day=changed)
        talk.tell(LAST_DAY, relation.changes, other, v=rival_next, old=rival)
        day, expected = 150, second
        if history == "not-yet-told":
            kind, expected = "believed", first
    else:
        wrong.add(third)
        talk.tell(120, relation.changes, other, v=rival_next, old=rival)
        talk.tell(150, relation.changes, subject, v=second, old=first)
        talk.tell(LAST_DAY, relation.past, subject, v=third, day="March 2022", until="June 2023")
        day, expected = LAST_DAY, third
        if history == "old-story":
            kind, expected = "now", second
    moment = talk.date(day).replace(hour=12)
    if history == "long-ago":
        moment = datetime(2022, 11, chance.randint(5, 25), 12, tzinfo=UTC)
    item_id = f"template/{name.replace(' ', '-')}/{history}"
    return TemporalItem(
        id=item_id,
        kind=kind,
        relation=name,
        episodes=talk.episodes(item_id),
        question=_question(kind, relation, subject, moment, chance),
        as_of=moment if kind == "as_of" else None,
        believed_at=moment if kind == "believed" else None,
        asked_at=talk.date(LAST_DAY + 14),
        expected=expected,
        wrong=tuple(sorted(wrong - {expected})),
    )


def _question(kind: Kind, relation: Relation, subject: str, moment: datetime, chance: random.Random) -> str:
    if kind == "now":
        return chance.choice(relation.now).format(s=subject)
    words = chance.choice(relation.then).format(s=subject)
    if kind == "believed":
        return f"As far as we knew on {say_day(moment)}, {words}?"
    return f"{words[0].upper()}{words[1:]} on {say_day(moment)}?"


# --- dialogues written by hand ---------------------------------------------------------------------------------------


def read_dialogues(written: str) -> Iterator[TemporalItem]:
    """The items of dialogues written by hand.

    A dialogue begins with "== title". A line of it is "date speaker: text", a question
    "? kind [date] | question | expected | wrong; wrong; …".
    """
    for block in written.split("\n== ")[1:]:
        title, *lines = block.strip().splitlines()
        name = f"written/{title.replace(' ', '-')}"
        episodes: list[Episode] = []
        asked: list[str] = []
        for line in lines:
            if line.startswith("? "):
                asked.append(line[2:])
                continue
            head, text = line.split(": ", 1)
            day, speaker = head.split(" ", 1)
            at = _noon(day).replace(hour=9)
            at += timedelta(minutes=sum(e.at is not None and e.at.date() == at.date() for e in episodes))
            number = len(episodes) + 1
            episodes.append(Episode(text, speaker=speaker, at=at, session=f"{name}/{day}", id=f"{name}/{number}"))
        last = episodes[-1].at
        assert last is not None
        for number, line in enumerate(asked, start=1):
            how, question, expected, wrong = (part.strip() for part in line.split(" | "))
            kind, _, day = how.partition(" ")
            moment = _noon(day) if day else None
            yield TemporalItem(
                id=f"{name}/{number}",
                kind=kind,  # type: ignore[arg-type]  # the test checks it
                relation="written",
                episodes=tuple(episodes),
                question=question,
                as_of=moment if kind == "as_of" else None,
                believed_at=moment if kind == "believed" else None,
                asked_at=max(last, moment or last) + timedelta(days=14),
                expected=expected,
                wrong=tuple(wrong.split("; ")),
            )


def _noon(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T12:00:00+00:00")
