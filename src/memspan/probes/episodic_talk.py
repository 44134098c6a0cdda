"""Making one conversation of `episodic`: what is asked is planted, and small talk fills up to the length."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from memspan.core.errors import InputError
from memspan.probes.base import Count, Turn
from memspan.probes.episodic_words import (
    ANSWERS,
    CHANGING,
    DAYS_BEFORE,
    EVENTS,
    OPENERS,
    PEOPLE,
    REPLIES,
    THINGS,
    TIES,
    TRAITS,
    Trait,
)
from memspan.probes.grading import DECLINED, written_dates
from memspan.probes.turns import day, transcript

_TOKENS_A_SESSION = 400
_TOKENS_A_MORE = 150  # for each thing that is said and not asked about
_MORE, _SESSIONS = 60, 400  # at most


@dataclass(eq=False, slots=True)
class Said:
    """Something planted: its session, who says it, and the words."""

    session: int
    speaker: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question: `right` are ways to write the answer (none: it is to be declined), `wrong` what spoils it."""

    task: str
    question: str
    right: tuple[str, ...]
    options: tuple[str, ...]
    evidence: tuple[Said, ...] = ()
    wrong: tuple[str, ...] = ()
    as_of: datetime | None = None
    asks: str = ""


Draft = Callable[[], Asked]
Line = tuple[str, str, Said | None]
"""Speaker, text, and what was planted."""


class Talk:
    """A conversation of two people with the questions on it.

    Attributes:
        turns: what is said; ids: of the planted ones; asked: the questions, in the order wanted.
        asked_at: the day after the last session.

    Raises:
        InputError: the length does not hold what is asked.
    """

    def __init__(self, name: str, tasks: Sequence[str], length: int, options: int, count: Count) -> None:
        self._chance = chance = random.Random(f"episodic {name}")
        self._options, self._said = options, list[Said]()
        self._people = chance.sample(PEOPLE, len(PEOPLE))
        self._speakers = [self._people.pop(), self._people.pop()]
        self._ties = {speaker: chance.sample(TIES, len(TIES)) for speaker in self._speakers}
        self._events = chance.sample(EVENTS, len(EVENTS))
        self._pools = {trait: chance.sample(trait.values, len(trait.values)) for trait in (*TRAITS, *CHANGING)}
        self._known: dict[Trait, dict[str, str]] = {trait: {} for trait in self._pools}
        self._seen: set[tuple[Trait, str]] = set()
        sessions = max(3, min(_SESSIONS, length // _TOKENS_A_SESSION))
        at = datetime(2023, 1, 2, 17, tzinfo=UTC) + timedelta(days=chance.randrange(200))
        self._dates = []
        for _ in range(sessions):
            self._dates.append(at + timedelta(minutes=chance.randrange(240)))
            at += timedelta(days=chance.randint(5, 12))
        self.asked_at = at
        make = {
            "recall": self._recall,
            "order": self._order,
            "when": self._when,
            "update": self._update,
            "multi-hop": self._hop,
            "abstention": self._nothing,
        }
        self.asked: list[Asked] = []
        drafts = []
        for number, task in enumerate(tasks):
            drafts.append(make[task](number))
        for _ in range(min(_MORE, length // _TOKENS_A_MORE)):
            self._plant_trait(chance.choice(TRAITS))
        self.asked = [draft() for draft in drafts]  # options are drawn when all values are planted
        self.turns, self.ids = self._fill(length, count)

    # --- what is planted ---------------------------------------------------------------------------------------------

    def _someone(self, trait: Trait) -> str:
        """Somebody of whom this is not told yet, a speaker as often as not."""
        pool = self._speakers if self._chance.random() < 0.5 else self._people
        free = [one for one in pool if (trait, one) not in self._seen]
        free = free or [one for one in (*self._speakers, *self._people) if (trait, one) not in self._seen]
        return self._chance.choice(free)

    def _tell(self, session: int, who: str, own: str, told: str, **slots: str) -> Said:
        """Of a speaker, mostly by themselves."""
        if who in self._speakers and self._chance.random() < 0.8:
            said = Said(session, who, own.format(s=who, **slots))
        else:
            speaker = next((one for one in self._speakers if one != who), "") if who in self._speakers else ""
            said = Said(session, speaker or self._chance.choice(self._speakers), told.format(s=who, **slots))
        self._said.append(said)
        return said

    def _plant_trait(self, trait: Trait, who: str | None = None) -> tuple[str, str, Said] | None:
        """A trait of somebody, with a value that nobody else has; None where all values are taken."""
        pool = self._pools[trait]
        if len(pool) < 2:  # one stays untold, for the options
            return None
        who = who or self._someone(trait)
        value = pool.pop()
        self._seen.add((trait, who))
        self._known[trait][who] = value
        return who, value, self._tell(self._chance.randrange(len(self._dates)), who, trait.own, trait.told, v=value)

    def _fresh(self, traits: Sequence[Trait], number: int, values: int) -> Trait:
        """A trait with values left, another for each question where there are enough."""
        turn = [*traits[number % len(traits) :], *traits[: number % len(traits)]]
        found = next((trait for trait in turn if len(self._pools[trait]) > values), None)
        if found is None:
            raise InputError("so many questions on one conversation repeat themselves: ask for fewer (questions)")
        return found

    def _wrong(self, trait: Trait, right: str, near: Sequence[str], many: int) -> list[str]:
        """Values that are not right: first those near, then those told of others, then any."""
        told = [value for value in self._known[trait].values() if value != right and value not in near]
        rest = [value for value in trait.values if value not in (right, *near, *told)]
        chosen = [*near, *self._chance.sample(told, len(told)), *self._chance.sample(rest, len(rest))]
        return chosen[:many]

    def _with(self, right: str | None, wrong: Sequence[str]) -> tuple[str, ...]:
        """Options in any order, "not mentioned" among them."""
        options = [*([right] if right else []), *wrong, DECLINED]
        self._chance.shuffle(options)
        return tuple(options)

    # --- the tasks: each plants, and returns what makes the question --------------------------------------------------

    def _recall(self, number: int) -> Draft:
        trait = self._fresh(TRAITS, number + self._chance.randrange(len(TRAITS)), 1)
        planted = self._plant_trait(trait)
        assert planted is not None
        who, value, said = planted
        return lambda: Asked(
            task="recall",
            question=trait.asked.format(s=who),
            right=(value,),
            options=self._with(value, self._wrong(trait, value, (), self._options - 2)),
            evidence=(said,),
        )

    def _event(self, session: int) -> tuple[str, str, str, Said, int]:
        past, base = self._events.pop()
        who = self._chance.choice((*self._speakers, *self._people[:6]))
        when, before = self._chance.choice(DAYS_BEFORE)
        said = self._tell(session, who, f"{when} I {past}.", f"{when} {{s}} {past}.")
        return who, past, base, said, before

    def _order(self, number: int) -> Draft:
        first, second = sorted(self._chance.sample(range(len(self._dates)), 2))
        one, other = self._event(first), self._event(second)
        names = [f"{who} {past}" for who, past, *_ in (one, other)]
        options = tuple(self._chance.sample(names, 2))
        return lambda: Asked(
            task="order",
            question=f"Which happened first: {options[0]}, or {options[1]}?",
            right=(names[0],),
            wrong=(names[1],),
            options=options,
            evidence=(one[3], other[3]),
        )

    def _when(self, number: int) -> Draft:
        session = self._chance.randrange(len(self._dates))
        who, _, base, said, before = self._event(session)
        right = self._dates[session] - timedelta(days=before)
        shifts = self._chance.sample([days for days in range(-4, 5) if days], self._options - 2)
        wrong = [day(right + timedelta(days=shift)) for shift in shifts]
        return lambda: Asked(
            task="when",
            question=f"When did {who} {base}?",
            right=(day(right), *written_dates(right)),
            options=self._with(day(right), wrong),
            evidence=(said,),
        )

    def _update(self, number: int) -> Draft:
        trait = self._fresh(CHANGING, number + self._chance.randrange(len(CHANGING)), 2)
        who, pool = self._someone(trait), self._pools[trait]
        old, new = pool.pop(), pool.pop()
        self._seen.add((trait, who))
        self._known[trait][who] = new
        first, second = sorted(self._chance.sample(range(len(self._dates)), 2))
        before = self._tell(first, who, trait.own, trait.told, v=old)
        after = self._tell(second, who, trait.changed_own, trait.changed_told, v=new)
        now = self._chance.random() < 0.5
        then = (self._dates[first] + (self._dates[second] - self._dates[first]) / 2).replace(hour=12, minute=0)
        right, wrong, said = (new, old, after) if now else (old, new, before)
        question = trait.asked.format(s=who) if now else trait.then.format(s=who, d=day(then))
        return lambda: Asked(
            task="update",
            question=question,
            right=(right,),
            wrong=(wrong,),
            options=self._with(right, self._wrong(trait, right, (wrong,), self._options - 2)),
            evidence=(said,),
            as_of=None if now else then,
            asks="now" if now else "then",
        )

    def _hop(self, number: int) -> Draft:
        trait = self._fresh(TRAITS, number + self._chance.randrange(len(TRAITS)), 1)
        free = [one for one in self._people if (trait, one) not in self._seen]
        speaker, who = self._chance.choice(self._speakers), self._chance.choice(free)
        self._people.remove(who)  # nothing else is told of somebody who is asked about by tie
        tie = self._ties[speaker].pop()
        planted = self._plant_trait(trait, who)
        assert planted is not None
        _, value, said = planted
        named = Said(self._chance.randrange(len(self._dates)), speaker, f"By the way, my {tie} is called {who}.")
        self._said.append(named)
        return lambda: Asked(
            task="multi-hop",
            question=trait.asked.format(s=f"{speaker}'s {tie}"),
            right=(value,),
            options=self._with(value, self._wrong(trait, value, (), self._options - 2)),
            evidence=(named, said),
        )

    def _nothing(self, number: int) -> Draft:
        trait = self._fresh(TRAITS, number + self._chance.randrange(len(TRAITS)), 1)
        planted = self._plant_trait(trait)  # it is told of somebody else
        assert planted is not None
        who = self._someone(trait)
        self._seen.add((trait, who))
        return lambda: Asked(
            task="abstention",
            question=trait.asked.format(s=who),
            right=(),
            wrong=tuple(trait.values),
            options=self._with(None, self._wrong(trait, "", (), self._options - 1)),
        )

    # --- the conversation --------------------------------------------------------------------------------------------

    def _fill(self, length: int, count: Count) -> tuple[tuple[Turn, ...], dict[Said, str]]:
        """As many exchanges of small talk as fit."""
        chance = self._chance
        planted: list[list[list[Line]]] = [[] for _ in self._dates]
        for said in self._said:
            block: list[Line] = [(said.speaker, said.text, said)]
            if chance.random() < 0.3:
                block.append((self._other(said.speaker), chance.choice(ANSWERS), None))
            planted[said.session].append(block)
        talk = [self._small_talk() for _ in range(8)]
        least, some = self._laid(planted, []), self._laid(planted, talk)
        bare = count("\n\n".join(transcript(least[0])))
        if bare > length:
            raise InputError(
                f"{length:,} tokens do not hold what is asked about ({bare:,}): ask for more tokens, or fewer questions"
            )
        each = max(1.0, (count("\n\n".join(transcript(some[0]))) - bare) / len(talk))
        wanted, best = int((length - bare) / each), least
        talk += [self._small_talk() for _ in range(int(1.5 * wanted) + 8 - len(talk))]
        low, high = 0, len(talk) + 1  # exchanges that fit, and that do not
        for _ in range(10):
            laid = self._laid(planted, talk[:wanted])
            tokens = count("\n\n".join(transcript(laid[0])))
            if tokens <= length:
                low, best = max(low, wanted), laid
            else:
                high = min(high, wanted)
            step = round((length - tokens) / each)
            if high - low <= 1 or (tokens <= length and step == 0):
                break
            wanted = min(high - 1, max(low + (tokens <= length), wanted + step))
        return best

    def _small_talk(self) -> tuple[int, float, list[Line]]:
        """An exchange, with its session and its place in it."""
        chance = self._chance
        one = chance.choice(self._speakers)
        asked = chance.choice(OPENERS).format(thing=chance.choice(THINGS))
        block: list[Line] = [
            (one, asked, None),
            (self._other(one), chance.choice(REPLIES), None),
        ]
        return chance.randrange(len(self._dates)), chance.random(), block

    def _other(self, speaker: str) -> str:
        return self._speakers[speaker == self._speakers[0]]

    def _laid(
        self,
        planted: Sequence[Sequence[list[Line]]],
        talk: Sequence[tuple[int, float, list[Line]]],
    ) -> tuple[tuple[Turn, ...], dict[Said, str]]:
        between: list[list[tuple[float, list[Line]]]] = [[] for _ in self._dates]
        for session, blocks in enumerate(planted):
            between[session] += [((i + 0.5) / len(blocks), block) for i, block in enumerate(blocks)]
        for session, place, block in talk:
            between[session].append((place, block))
        turns, ids = list[Turn](), dict[Said, str]()
        for session, (date, there) in enumerate(zip(self._dates, between, strict=True), 1):
            lines = [line for _, block in sorted(there, key=lambda one: one[0]) for line in block]
            for place, (speaker, text, said) in enumerate(lines, 1):
                turn = Turn(
                    id=f"S{session}:{place}",
                    text=text,
                    speaker=speaker,
                    at=date + timedelta(minutes=place - 1),
                    session=f"S{session}",
                )
                turns.append(turn)
                if said is not None:
                    ids[said] = turn.id
        return tuple(turns), ids
