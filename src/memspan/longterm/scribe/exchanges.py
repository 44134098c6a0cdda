"""What somebody had and what they have instead: "I sold the O and drove home in a V"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.statements import NAME, Statement
from memspan.longterm.scribe.values import value

if TYPE_CHECKING:
    from memspan.longterm.scribe.told import StatementReader

_WHO = rf"(?:I|[Ww]e|[Hh]e|[Ss]he|[Yy]ou|[Tt]hey|(?:[Tt]he|[Mm]y|[Oo]ur) (?:[\w'-]+ ){{0,3}}?[\w-]+|{NAME})"
_SOLD = re.compile(
    rf"^(?P<s>{_WHO}) (?:have |has |'ve )?(?:sold|traded in|gave away|scrapped"
    rf"|returned|got rid of|traded|swapped|exchanged|replaced) (?:(?:the|my|his"
    rf"|her|our) )(?:old )?(?P<o>.+?)(?: (?:for|with|by) an? (?:new )?(?P<v>.+))?$"
)
_GOT = re.compile(
    rf"^(?P<s>{_WHO}) (?:have |has |'ve )?(?:bought|got|picked up|drove (?:home"
    rf"|off|away|back)(?: in)?|came home (?:with|in)|brought home|ordered|rode home on"
    rf"|leased|took home) (?:an? )(?:new )?(?P<v>.+)$"
)


def exchanged(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "I sold the O and drove home in a V": what one had, and what one has instead."""
    sold = _SOLD.match(statement.text)
    if sold is not None:
        subject = reader.referent(statement.group(sold, "s"))
        old = value(statement.group(sold, "o"), "thing", reader.names)
        if subject is None or old is None:
            return
        reader.sold = subject, statement
        start = reader.when(statement, "change")
        when = (None, start[0] if start else reader.at)
        relation, verb = (
            ("DRIVES", "drives") if "drove" in reader.doc.text or "drive" in reader.doc.text else ("OWNS", "owns")
        )
        article = "an" if old[:1].lower() in "aeiou" else "a"
        yield from reader.draft(
            statement, subject, relation, old, "end", text=f"{subject} {verb} {article} {{v}}", when=when
        )
        if sold["v"]:
            new = value(statement.group(sold, "v"), "thing", reader.names)
            yield from _gets(reader, statement, subject, new, start[0] if start else None, relation)
        return
    got = _GOT.match(statement.text)
    if got is None or reader.sold is None:
        return
    subject = reader.referent(statement.group(got, "s"))
    if subject != reader.sold[0]:
        return
    before = reader.when(reader.sold[1] if not statement.spans else statement, "change")
    new = value(statement.group(got, "v"), "thing", reader.names)
    relation = "DRIVES" if "drove" in reader.doc.text or "drive" in reader.doc.text else "OWNS"
    yield from _gets(reader, statement, subject, new, before[0] if before else None, relation)


def _gets(
    reader: StatementReader, statement: Statement, subject: str, new: str | None, start: object, relation: str
) -> Iterator[FactDraft]:
    if new:
        article = "an" if new[:1].lower() in "aeiou" else "a"
        verb = relation.lower()
        when = (start if isinstance(start, datetime) else reader.at, None)
        yield from reader.draft(
            statement, subject, relation, new, "change", text=f"{subject} {verb} {article} {{v}}", when=when
        )
