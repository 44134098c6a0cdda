"""Who writes the four texts: the scribe's rules, or a language model with the rules behind it.

By rules every text is made of sentences that were said or of facts that were read, each with the episode it is from. A
model writes freely, so all it read is a source; where it gives no usable answer the rules write, and the text says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memspan.core.errors import InputError, MissingExtraError, ModelError
from memspan.longterm.base import Episode, Scribe
from memspan.longterm.memorybank.prompts import all_events, day_events, day_insight, portrait
from memspan.longterm.prompts import Writer

_BREAK = re.compile(r"(?<=[.!?])\s+|\n+")
_LEAST_WORDS = 5  # with the speaker's name; shorter sentences are greetings and thanks
_LONGEST = 240  # characters of a quoted sentence
_MOST_LINES = 200  # lines that compete for a place in a global text

Line = tuple[str, str]
"""A line and the id of the episode it is from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What an insight keeps of a fact, so that a portrait can tell what still holds."""

    relation: str
    object: str
    functional: bool
    ends: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A written text.

    Attributes:
        lines: what it says.
        said: for each line the id of the episode it is from; empty when all that was read is behind every line.
        facts: for each line of an insight the fact it states; empty when it states none.
        by: "rules" or "model".
        fallback: why the rules wrote although there is a model.
    """

    lines: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    by: str = "rules"
    fallback: str = ""

    def data(self) -> dict[str, Any]:
        """What a record keeps of it beside the lines."""
        facts = [[f.relation, f.object, f.functional, f.ends] for f in self.facts]
        found = {"said": list(self.said), "facts": facts, "by": self.by, "fallback": self.fallback}
        return {key: value for key, value in found.items() if value}


def fact_of(row: Sequence[Any]) -> Fact:
    """The inverse of what `Text.data` keeps of a fact."""
    return Fact(relation=row[0], object=row[1], functional=row[2], ends=row[3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A written day as a global text reads it."""

    day: str
    text: Text


class Pen:
    """Writes with a scribe.

    Args:
        scribe: of `memspan.longterm.scribe`. One that has a `model` writes with that model.

    Attributes:
        missing: what must be installed before portraits can be written, once that was found out.
    """

    def __init__(self, scribe: Scribe) -> None:
        model = getattr(scribe, "model", None)
        self.model: Writer | None = model if isinstance(model, Writer) else None
        self.missing: MissingExtraError | None = None
        self._rules: Scribe | None = scribe if self.model is None else None

    @property
    def rules(self) -> Scribe:
        """The scribe that writes without a model."""
        if self._rules is None:
            from memspan.longterm.scribe import load_scribe

            self._rules = load_scribe("rules")
        return self._rules

    def day_events(self, day: str, turns: Sequence[Episode]) -> Text:
        """What happened on a day."""
        said = [(f"{_name(turn)}: " if _name(turn) else "", turn) for turn in turns]
        whole = [f"{who}{turn.text}" for who, turn in said]
        every = [(who + sentence, turn.id or "") for who, turn in said for sentence in _sentences(turn.text)]
        lines = [line for line in every if _tells(line[0])] or every
        return self._write(lambda model: day_events.ask(model, day, whole), lambda: self._chosen(day, lines))

    def all_events(self, days: Sequence[Day]) -> Text:
        """What happened over all days."""
        whole = [f"{d.day}: {' '.join(d.text.lines)}" for d in days]
        lines = [(f"{d.day}, {line}", uid) for d in days for line, uid in _lines(d.text)]
        return self._write(lambda model: all_events.ask(model, whole), lambda: self._chosen("", lines))

    def day_insight(self, who: str, day: str, turns: Sequence[Episode], others: Sequence[Episode]) -> Text:
        """What a day's own words tell of a speaker."""
        whole = [turn.text for turn in turns]
        return self._write(
            lambda model: day_insight.ask(model, who, day, whole), lambda: self._facts(who, turns, others)
        )

    def portrait(self, who: str, days: Sequence[Day]) -> Text:
        """What all days tell of a speaker."""
        whole = [f"{d.day}: {' '.join(d.text.lines)}" for d in days]
        return self._write(lambda model: portrait.ask(model, who, whole), lambda: self._chosen(who, _holding(days)))

    def _write(self, by_model: Callable[[Writer], list[str]], by_rules: Callable[[], Text]) -> Text:
        if self.model is None:
            return by_rules()
        try:
            return Text(lines=tuple(by_model(self.model)), by="model")
        except (ModelError, InputError) as error:  # no usable answer, or no room for one in its window
            text = by_rules()
            return Text(lines=text.lines, said=text.said, facts=text.facts, fallback=str(error)[:300])

    def _chosen(self, name: str, lines: Sequence[Line]) -> Text:
        """The lines that the scribe's summary is made of."""
        step = max(1.0, len(lines) / _MOST_LINES)
        thin = [lines[int(place * step)] for place in range(min(len(lines), _MOST_LINES))]
        unique = {" ".join(line.split()): uid for line, uid in reversed(thin)}  # of equal lines the first one's episode
        known = dict(reversed(unique.items()))
        if not known:
            return Text()
        summary = self.rules.summarize(name, list(known))
        rest, kept = summary, []
        for line, uid in known.items():
            if rest == line or rest.startswith(line + " "):
                kept.append((line, uid))
                rest = rest[len(line) :].lstrip()
        if rest:  # the scribe worded it anew
            return Text(lines=(summary,))
        return Text(lines=tuple(line for line, _ in kept), said=tuple(uid for _, uid in kept))

    def _facts(self, who: str, turns: Sequence[Episode], others: Sequence[Episode]) -> Text:
        found: dict[str, tuple[str, Fact]] = {}
        for turn, read in zip(turns, self.rules.extract(turns, others), strict=True):
            for draft in read.facts:
                if key_of(draft.subject) == key_of(who):
                    fact = Fact(
                        relation=draft.relation, object=draft.object, functional=draft.functional, ends=draft.ends
                    )
                    found.setdefault(" ".join(draft.text.split()), (turn.id or "", fact))
        return Text(
            lines=tuple(found),
            said=tuple(uid for uid, _ in found.values()),
            facts=tuple(fact for _, fact in found.values()),
        )


def key_of(name: str) -> str:
    """A speaker's name for comparison: case and stray spaces aside."""
    return " ".join(name.split()).casefold()


def _name(turn: Episode) -> str:
    return " ".join((turn.speaker or str(turn.metadata.get("role") or "")).split())


def _sentences(text: str) -> list[str]:
    every = [part.strip() for part in _BREAK.split(text) if part.strip()]
    return [part if len(part) <= _LONGEST else part[:_LONGEST].rsplit(" ", 1)[0] + " …" for part in every]


def _tells(sentence: str) -> bool:
    """No question, greeting or thanks."""
    return not sentence.endswith("?") and len(sentence.split()) >= _LEAST_WORDS


def _lines(text: Text) -> list[Line]:
    return list(zip(text.lines, text.said or ("",) * len(text.lines), strict=True))


def _holding(days: Sequence[Day]) -> list[Line]:
    """The lines of insights without those that a later one ended or replaced."""
    held: list[tuple[Line, Fact | None]] = []
    for day in days:
        facts: Sequence[Fact | None] = day.text.facts or (None,) * len(day.text.lines)
        for line, fact in zip(_lines(day.text), facts, strict=True):
            if fact is not None:
                held = [(one, known) for one, known in held if known is None or not _retires(fact, known)]
                if fact.ends:
                    continue
            held.append((line, fact))
    return [line for line, _ in held]


def _retires(new: Fact, known: Fact) -> bool:
    if new.relation != known.relation:
        return False
    same = key_of(new.object) == key_of(known.object)
    return (same or not new.object) if new.ends else (new.functional and not same)
