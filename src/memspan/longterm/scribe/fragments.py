"""Open statements that are no full clause: fragments, appositions, and what a pronoun or "it" stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.descriptions import Slot, describe, slot_of
from memspan.longterm.scribe.phrases import phrase, special
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import Statement
from memspan.longterm.scribe.values import role_like, source_text, trim
from memspan.longterm.scribe.wording import opening

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader


_HERE = re.compile(r"^(?:(?:a|an|your) )?(?P<v>[\w' -]+?) (?:here|speaking)$")
_NEW = re.compile(
    r"^(?:(?:[Mm]y|[Oo]ur|[Aa]) )?(?:brand )?[Nn]ew (?P<n>(?:[a-z-]+ ){0,2}?[a-z-]+)(?: (?:,|:|is) (?P<v>.+))?$"
)
_APPOSED = re.compile(
    r"^(?P<own>[Mm]y|[Oo]ur|[Hh]is|[Hh]er) (?P<n>(?:[a-z-]+ ){0,2}?[a-z-]+) (?P<c>, )?"
    r"(?P<v>(?:(?:Mr|Mrs|Ms|Dr|Prof)\.? )?[A-Z][\w'-]+(?: [A-Z][\w'-]+)?)(?= |$)"
)
_CALLED = re.compile(
    r"^(?P<s>.+?) (?:have|has|'ve got|see|sees|work with|works with|met|got) an? "
    r"(?P<n>(?:[a-z-]+ ){0,2}?[a-z-]+) (?:called|named) (?P<v>[A-Z].+)$"
)
_THERE = re.compile(r"^(?:.+ )?[Tt]here (?:is|'s|are) (?P<v>.+?) (?P<p>in|on|at) (?P<s>(?:the|our|my|[A-Z]).+)$")


_BEFORE = re.compile(r"^(?P<d>.+?) used to be (?P<o>.+)$")
_IT = re.compile(
    r"^(?:(?:[Ii]t|[Tt]hat) (?:is|'s)|(?:[Hh]is|[Hh]er|[Ii]ts|[Tt]heir) name (?:is|'s)"
    r"|(?:[Hh]e|[Ss]he|[Ii]t) (?:is|'s) (?:called|named))"
    r" (?P<v>.+?)(?: for (?:me|us))?$"
)


def before(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "It used to be X", "my locker used to be X": over, and the slot waits for its value."""
    m = _BEFORE.match(statement.text)
    if m is None:
        return
    described = statement.group(m, "d")
    slot = describe(reader, described)
    subject = slot.subject if slot else reader.told if described[0].pos_ == "PRON" else None
    if slot is not None:
        reader.slot, reader.pending = replace(slot, strong=True), reader.at
    yield from reader.over(statement, subject, trim(statement.group(m, "o"), prepositions=True))


def instead(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "(My X died), it's V now", "(I have a trainer), his name's V": the value of what was named before."""
    m = _IT.match(statement.text)
    found = phrase(statement.group(m, "v")) if m else None
    if m is None or found is None:
        return
    named = " name " in m[0] or "called" in m[0]
    if reader.before is not None and (named or statement.now or special(found.tokens)):
        yield from _filled(reader, statement, reader.before, found.tokens, "change" if statement.now else "state")
    elif reader.lost is not None and not named and (statement.now or statement.since or statement.spans):
        said = reader.names.render(found.tokens)
        text = f"{opening(reader.lost)} switched to {said}"
        yield from reader.draft(
            statement, reader.lost, "SWITCHED_TO", found.value, "change", text=text, functional=False
        )


def fragment(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Marine biologist here", "new boss, Ms Falk"."""
    speaker = reader.names.speaker
    if speaker is None:
        return
    if m := _HERE.match(statement.text):
        tokens = statement.group(m, "v")
        kept = trim(tokens)
        role = (
            kept
            and len(kept) < 8
            and all(t.pos_ not in ("VERB", "AUX", "PRON") or t.tag_ in ("VBN", "VBD") for t in kept)
        )
        said = source_text(kept)
        if (
            role
            and (role_like(kept[-1]) or any(role_like(t) or t.lower_ == "owner" for t in kept))
            and kept[0].pos_ != "PROPN"
        ):
            said = said[:1].lower() + said[1:]
            article = "an" if said[:1] in "aeiou" else "a"
            text = f"{speaker} is {article} {{v}}"
            told = replace(statement, tense="present")
            yield from reader.draft(told, speaker, "IS_A", said, "state", text=text, functional=False)
        return
    if m := _NEW.match(statement.text):
        slot = slot_of(speaker, statement.group(m, "n"), "{s}'s {n} is {v}")
        if slot is None or slot.kind == "time":
            return
        reader.slot = replace(slot, strong=True)
        reader.pending = next((s.start for s in statement.spans if s.start), reader.at)
        if m["v"]:
            yield from _filled(reader, statement, slot, statement.group(m, "v"), "change")


def apposed(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "My physio Pat …", "my new boss, Ms Falk, …", "I see a therapist called Miriam Katz"."""
    if m := _CALLED.match(statement.text):
        owner = reader.referent(statement.group(m, "s"))
    elif m := _APPOSED.match(statement.text):
        owner = reader.owner(statement.group(m, "own"))
    else:
        return
    noun = statement.group(m, "n")
    name = statement.group(m, "v")
    if (
        owner is None
        or (m.re is _APPOSED and name[0].ent_type_ not in ("PERSON", ""))
        or name[0].pos_ not in ("PROPN", "NOUN", "X")
    ):
        return
    slot = slot_of(owner, noun, "{s}'s {n} is {v}")
    if slot is not None and slot.kind in ("any", "name"):
        yield from _filled(reader, statement, slot, name, "change" if "new" in m[0] else "state")


def _filled(
    reader: StatementReader, statement: Statement, slot: Slot, tokens: Sequence[Token], effect: Effect
) -> Iterator[FactDraft]:
    found = phrase(tokens)
    shown = reader.names.render(trim(found.tokens)) if found else None
    if shown:
        yield from reader.draft(
            replace(statement, tense="present"), slot.subject, slot.relation, shown, effect, text=slot.template
        )


def there(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "There's a fig tree on our balcony"."""
    m = _THERE.match(statement.text)
    if m is None:
        return
    found = phrase(statement.group(m, "v"), strict=True)
    place = reader.referent(statement.group(m, "s"))
    where = reader.names.render(statement.group(m, "s"))
    if found is None or place is None or not where or found.after:
        return
    verb = "are" if found.tokens[-1].tag_ == "NNS" else "is"
    said = reader.names.render(found.tokens)
    text = f"There {verb} {said} {m['p']} {where}"
    effect: Effect = "change" if statement.now else "state"
    yield from reader.draft(statement, place, "HAS", found.value, effect, text=text, functional=False)
