"""A value put into a slot: which words of a statement are the value, and when it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.dates import find_times
from memspan.longterm.scribe.descriptions import PET, Slot
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import Statement, plain
from memspan.longterm.scribe.values import AMOUNT, MONEY, name_run, trim, value

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader


def fill(
    reader: StatementReader,
    statement: Statement,
    slot: Slot,
    tokens: Sequence[Token],
    effect: Effect,
    *,
    full: bool = False,
) -> Iterator[FactDraft]:
    """The value at the beginning of some tokens, put into a slot."""
    reader.slot = slot
    kind = slot.kind
    if kind == "time":
        yield from _scheduled(reader, statement, slot, tokens, effect)
        return
    if tokens and kind in ("any", "strict") and tokens[0].lower_ in ("in", "on", "at") and len(tokens) > 1:
        yield from located(reader, statement, slot, tokens, effect)
        return
    while tokens and tokens[0].pos_ == "ADP" and tokens[0].lower_ in ("in", "on", "at", "to"):
        tokens = tokens[1:]
    if (
        not tokens
        or (tokens[0].pos_ == "PRON" and len(tokens) > 1)
        or tokens[0].lower_ in ("it", "that", "this", "they")
        or tokens[0].lower_ in ("no", "not", "so", "too", "very")
    ):
        return
    strict = kind == "strict"
    if len(tokens) == 1 and tokens[0].pos_ == "PRON" and kind in ("any", "name"):
        who = reader.referent(tokens)
        yield from reader.draft(statement, slot.subject, slot.relation, who, effect, text=slot.template)
        return
    # "My dog Rex" may be one of two; a new dog comes after the old one.
    functional = not (slot.relation.lower() in PET and effect == "state")
    found = value(tokens, "any" if strict else kind, reader.names)
    if kind == "amount" and found is None and not slot.strong:
        return
    if found is None and kind in ("any", "strict"):
        found = value(tokens, "amount", reader.names) if tokens[0].like_num else None
    if found is None or not _fits(slot, tokens, found) or (tokens[0].tag_ in ("VBG", "VBD", "VBZ") and not slot.strong):
        return
    if kind in ("any", "strict") and re.match(rf"^{AMOUNT}", found) is None and tokens[0].like_num:
        found = value(tokens, "amount", reader.names) or found
    if slot.kind == "name" and slot.relation not in ("PARTNER_OF", "MARRIED_TO", "ENGAGED_TO"):
        reader.labels.setdefault(found, "THING" if slot.relation.lower() in PET else "PERSON")
    if strict and re.fullmatch(MONEY, found):
        yield from reader.draft(
            statement, slot.subject, "PRICE", found, effect, text=f"{as_subject(slot.subject)} costs {{v}}"
        )
        return
    said = f"{tokens[0].lower_} {found}" if tokens[0].lower_ in ("a", "an", "the") else found
    if slot.relation == "HAS_ROLE":
        said = f"{'an' if found[:1].lower() in 'aeiou' else 'a'} {found}"
    yield from reader.draft(
        statement,
        slot.subject,
        slot.relation,
        found,
        effect,
        text=slot.template,
        said=said,
        functional=functional,
        without=tokens if full else (),
    )


def fill_at(
    reader: StatementReader, statement: Statement, slot: Slot, tokens: Sequence[Token], effect: Effect, start: object
) -> Iterator[FactDraft]:
    """`fill`, with a beginning that was told before."""
    for fact in fill(reader, statement, slot, tokens, effect):
        yield replace(fact, valid_at=start) if isinstance(start, datetime) and not fact.ends else fact


def located(
    reader: StatementReader, statement: Statement, slot: Slot, tokens: Sequence[Token], effect: Effect
) -> Iterator[FactDraft]:
    """ "My desk is on the third floor": where a described thing is."""
    phrase = trim(tokens[1:])
    named = " ".join(plain(t) for t in phrase)
    if (
        not phrase
        or not (name_run(phrase) or re.search(r"\d|floor|room", named))
        or phrase[0].ent_type_ in ("DATE", "TIME")
    ):
        return
    thing = slot.template.split("'s ", 1)
    subject = slot.subject if slot.kind == "strict" else f"{slot.subject}'s {thing[-1].split(' is ')[0]}"
    where = reader.names.render(tokens[: [t.i for t in tokens].index(phrase[-1].i) + 1])
    found = reader.names.render(phrase)
    if where and found:
        text = f"{as_subject(subject)} is {where}"
        yield from reader.draft(statement, subject, "LOCATED_AT", found, effect, text=text)


def _fits(slot: Slot, tokens: Sequence[Token], found: str) -> bool:
    """Whether a value says what a slot holds now; "my car is a mess" describes the car and names nothing."""
    if slot.strong or slot.kind not in ("any", "strict"):
        return True
    if re.search(r"\d", found) or name_run(tokens):
        return True
    phrase = trim(tokens)
    head = phrase[-1]
    if tokens[0].lower_ in ("a", "an") or head.pos_ not in ("NOUN", "PROPN") or head.tag_ == "VBG":
        return False
    return slot.kind == "any" and len(phrase) <= 3 and (tokens[0].lower_ == "the" or head.tag_ in ("NN", "NNP"))


def _scheduled(
    reader: StatementReader, statement: Statement, slot: Slot, tokens: Sequence[Token], effect: Effect
) -> Iterator[FactDraft]:
    """The date of an event: the last time expression that stands in the value."""
    if not tokens:
        return
    first, last = tokens[0].idx, tokens[-1].idx + len(tokens[-1])
    while first > 0 and tokens[0].i and tokens[0].nbor(-1).lower_ in ("on", "at", "in"):
        first = tokens[0].nbor(-1).idx
        break
    # Read by itself: in "from 12 July to 19 July" the value is one date, not the stretch between two.
    spans = [s for s in find_times(reader.doc.text[first:last], reader.at, prefer="future") if s.start or s.end]
    if not spans:
        return
    span = spans[0]
    moment = span.start or span.end
    if moment is None:
        return
    found = f"{moment:%Y-%m-%d %H:%M}" if span.precision == "time" else f"{moment:%Y-%m-%d}"
    found = {"year": f"{moment:%Y}", "month": f"{moment:%Y-%m}"}.get(span.precision, found)
    said = span.phrase().removeprefix("on ").removeprefix("in ").removeprefix("since ").removeprefix("until ")
    weekday = re.search(r"(?i)\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b", span.text)
    if weekday and span.precision in ("day", "time"):
        said = f"{weekday[0].capitalize()}, {said}"
    if slot.relation == "HAS_BIRTHDAY":
        found = said = f"{moment:%B} {moment.day}"
    inside = [t for t in statement.all if first <= t.idx < first + span.offset + len(span.text)]
    when = reader.when(statement, "change", inside)
    if when is None or (when[0] and when[0] == span.start):
        when = (reader.at, None)
    if statement.tense == "future":
        when = (reader.at, None)
    yield from reader.draft(
        statement, slot.subject, slot.relation, found, "change", text=slot.template, said=said, when=when
    )


def as_subject(subject: str) -> str:
    """A subject as a sentence begins with it."""
    return f"The {subject}" if subject[:1].islower() else subject
