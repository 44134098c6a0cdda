"""Facts whose value has a type: amounts, weekdays, times of day, rooms, phone numbers.

A verb with a value of such a type ("closes at 18:00", "pays 640 euros in rent", "meets on Tuesdays") holds for one
value at a time, as a definite description does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.filling import as_subject, fill
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import NAME, Statement, joined
from memspan.longterm.scribe.values import CLOCK, DAY, DOSE, MONEY, source_text, value
from memspan.longterm.scribe.wording import third_person

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader

_THING = r"(?P<s>(?:[Tt]he|[Mm]y|[Oo]ur|[Hh]is|[Hh]er|[Aa]n?|[Tt]heir|[A-Z][\w-]*) ?(?:[\w'&-]+ ){0,6}?[\w'&-]*)"
_PERSON = rf"(?P<s>I|[Ww]e|[Hh]e|[Ss]he|[Yy]ou|[Mm]y (?:\w+ )?\w+|{NAME})"

_CALL = (
    re.compile(
        rf"^(?:[Yy]ou|[Pp]eople|[Aa]nyone|[Ww]e) (?:can |could |may )?(?:reach|call"
        rf"|ring|text|get|contact|phone|find) (?P<s>me|us|him|her|{NAME})(?: (?:on"
        rf"|at|under|through))? (?P<v>(?:[+(\d]|\S+@).*)$"
    ),
    re.compile(
        rf"^(?:[Rr]each|[Cc]all|[Rr]ing|[Tt]ext|[Cc]ontact|[Pp]hone) (?P<s>me|us|him"
        rf"|her|{NAME})(?: (?:on|at|under|through))? (?P<v>(?:[+(\d]|\S+@).*)$"
    ),
    re.compile(
        r"^(?P<s>.+?) (?:can|could) (?:be|only be) (?:reached|called|contacted|phoned"
        r"|found) (?:on|at|under) (?P<v>(?:[+(\d]|\S+@).*)$"
    ),
    re.compile(
        rf"^{_PERSON} (?:have|has|am|'m|is|'s) (?:reachable|available|contactable)? ?(?:on"
        rf"|at) (?P<v>(?:[+(\d]|\S+@).*)$"
    ),
)


def call(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "You can reach me on V"."""
    for pattern in _CALL:
        if m := pattern.match(statement.text):
            mail = "@" in m["v"]
            found = m["v"].split(" ")[0] if mail else value(statement.group(m, "v"), "phone", reader.names)
            subject = reader.referent(statement.group(m, "s"))
            if found and subject:
                text = f"{as_subject(subject)}'s {'email address' if mail else 'phone number'} is {{v}}"
                effect: Effect = "change" if statement.now else "state"
                relation = "HAS_EMAIL" if mail else "HAS_PHONE_NUMBER"
                yield from reader.draft(statement, subject, relation, found, effect, text=text)
            return


_MEETS = (
    r"(?:meets?|met|gathers?|gathered|gets? together|got together|comes? together|came together|rehearses?|rehearsed"
    r"|practi[sc]es?|practi[sc]ed|trains?|trained|convenes?|convened|takes? place"
    r"|took place|happens?|happened|runs?|ran"
    r"|plays?|played|sits?|sat|assembles?|assembled|is|are|was|were|'s|been|held|be)"
)
_WEEKLY = (
    re.compile(
        rf"^{_THING} (?:(?:has|have|had|'s|used to|will) )?(?:been )?{_MEETS}(?: (?:held"
        rf"|scheduled|always|on|every|each|a|for|set))* (?P<v>{DAY})(?= |$)"
    ),
    re.compile(
        rf"^(?P<v>{DAY}) (?:is|'s|are|was|has been|became) (?:the (?:\w+ )?day (?:of"
        rf"|for) (?P<s>.+)|(?P<t>.+?) (?:day|night|evening))$"
    ),
    re.compile(
        rf"^(?P<s>.+?) (?:(?:has|have|had|'s) )?(?:(?:was|were|is|are|got|been|be) )*(?:moved"
        rf"|changed|switched|shifted|rescheduled|pushed|put|gone|went|transferred)(?: (?:back"
        rf"|forward|over))?(?: from (?P<o>.+?))? (?:to|onto) (?:a |every )?(?P<v>{DAY})(?= "
        rf"|$)"
    ),
    re.compile(
        rf"^(?:.+? )?(?:moved|changed|switched|shifted|rescheduled|pushed|put|brought)(?: (?:back"
        rf"|forward|over))? (?P<s>.+?)(?: from (?P<o>.+?))? (?:to|onto) (?:a |every )?(?P<v>{DAY})(?="
        rf" |$)"
    ),
    re.compile(
        rf"^(?:[Ww]e|[Tt]hey) (?:now )?(?:have|hold|meet for|run) (?P<s>(?:the |our ).+?) (?:on"
        rf"|every|each) (?:a )?(?P<v>{DAY})(?= |$)"
    ),
)
_REGULAR = frozenset(("class", "lesson", "training", "practice", "rehearsal", "course", "standup"))
_DAY_OF = re.compile(r"^(?:[Tt]he )?(?:(?:meeting|new|regular|usual) )*(?:day|night|evening) (?:of|for) (?P<s>.+)$")
_IT_DAY = re.compile(rf"^(?:[Ii]t|[Tt]hat) (?:is|'s|was|has been)(?: (?:on|every|each|a))* (?P<v>{DAY})(?= |$)")


def weekly(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """The weekday of what comes every week."""
    from memspan.longterm.scribe.relations import SLOTS

    text = _untimed(statement)
    if not re.search(rf"\b{DAY}\b", text):
        if m := re.search(r"(?:[Tt]he )?day of (?P<s>the [\w ]+?)$", statement.text):
            reader.group = reader.referent(statement.group(m, "s"))
            reader.pending = next((s.start for s in statement.spans if s.start and s.role in ("at", "from")), None)
        return
    regular = re.search(
        rf"\b(?:{DAY[4:-3]})s\b|(?:every|each) {DAY}|\ba {DAY}|always|used to|any more", text, re.IGNORECASE
    )
    if (m := _IT_DAY.match(text)) and reader.group:
        yield from _on_day(reader, statement, reader.group, m["v"], "change", reader.pending)
        return
    for pattern in _WEEKLY:
        m = pattern.match(text)
        if m is None:
            continue
        groups = m.groupdict()
        which = "s" if groups.get("s") else "t"
        thing = _tokens(statement, groups.get(which) or "")
        if day_of := _DAY_OF.match(joined(thing)):
            thing = _tokens(statement, day_of["s"])
        if not thing:
            continue
        head = thing[-1].lemma_.lower()
        subject = reader.referent(thing)
        if subject is None or subject == reader.names.speaker or (len(thing) == 1 and thing[0].pos_ == "PRON"):
            continue
        changed = pattern in _WEEKLY[2:4]
        if head in SLOTS and head not in _REGULAR and not regular and pattern is not _WEEKLY[1]:
            return  # a single event has a date
        if not changed and not regular and " on " in f" {text} " and thing[0].lower_ in ("i", "we"):
            continue
        if thing[-1].pos_ not in ("NOUN", "PROPN", "VERB", "ADJ"):
            continue
        effect: Effect = "change" if changed or statement.now else "state"
        yield from _on_day(reader, statement, subject, m["v"], effect, None)
        return


def _on_day(
    reader: StatementReader, statement: Statement, subject: str, day: str, effect: Effect, start: object
) -> Iterator[FactDraft]:
    from dataclasses import replace
    from datetime import datetime

    named = day.lower().rstrip("s").capitalize()
    own = [t for t in statement.all if re.fullmatch(DAY, t.text) and not _relative(statement, t)]
    for fact in reader.draft(
        statement, subject, "SCHEDULED_FOR", named, effect, text=f"{as_subject(subject)} is on {{v}}s", without=own
    ):
        yield replace(fact, valid_at=start) if isinstance(start, datetime) and not statement.spans else fact


def _untimed(statement: Statement) -> str:
    """All words but those of time expressions that are no bare weekday."""
    dropped = set()
    for span in statement.spans:
        bare = re.fullmatch(rf"(?i)(?:(?:on|to|from|until|every) )?(?:a )?{DAY}(?:(?: to| until) {DAY})?", span.text)
        if not bare or re.match(r"(?i)(?:last|next|this) ", span.text):
            dropped |= {t.i for t in statement.all if span.offset <= t.idx < span.offset + len(span.text)}
    kept = [t for t in statement.all if t.i not in dropped]
    text = joined(kept)
    text = re.sub(
        r"(?i)(?:^| )(?:now|still|always|from now on|these days|any more|anymore|actually|just)(?= |$)", " ", text
    )
    text = re.sub(r"(?i) ,? ?(?:no longer|not|instead of) (?:on )?(?:an? )?\w+$", "", " ".join(text.split()))
    return re.sub(
        r"^(?:[,.:]|it (?:seems|turns out) that|and|but|so|that)+ ", "", text.strip(" ,."), flags=re.IGNORECASE
    )


def _tokens(statement: Statement, words: str) -> list[Token]:
    """The tokens of a stretch of words of the statement."""
    wanted = words.split(" ")
    texts = [joined([t]) for t in statement.all]
    for place in range(len(texts) - len(wanted) + 1):
        if texts[place : place + len(wanted)] == wanted:
            return statement.all[place : place + len(wanted)]
    return []


_FUNDS = re.compile(
    rf"^(?:[Ww]e|[Tt]hey|I|{NAME}|[Tt]he [\w ]+?) (?:have|has|'ve got|had|got"
    rf"|get|gets) (?:only |just |about )?(?P<v>{MONEY})(?: (?:to spend|available"
    rf"|set aside|left))? (?:for|on) (?P<s>(?:the|our|my) .+)$"
)
_THERE = re.compile(
    rf"^[Tt]here (?:is|are|'s|was) (?P<v>{MONEY}) (?:for|in the budget for) (?P<s>(?:the"
    rf"|our|my) .+)$"
)
_PAYS = (
    re.compile(
        rf"^{_PERSON} (?:pay|pays|paid|'m paying|am paying|is paying|'s paying) (?P<v>{MONEY}) (?:in"
        rf"|of|for|as) (?:(?:the|my|her|his) )?(?P<n>[\w ]+?)(?: (?:a|per|every|each) \w+)?(?: ,.*)?$"
    ),
    re.compile(rf"^{_PERSON} (?:pay|pays|paid) (?:an?|the) (?P<n>\w+) of (?P<v>{MONEY})"),
    re.compile(
        rf"^{_PERSON} (?:earn|earns|earned|make|makes) (?P<v>{MONEY})(?: (?:a|per"
        rf"|an) (?:month|year|hour|week))"
    ),
)
_COSTS = re.compile(
    rf"^(?P<s>.+?) (?:(?:has|have|will|'ll) )?(?:costs?|costed|sells? for|goes? for|is priced at) (?P<v>{MONEY})"
)
_PRICED = re.compile(
    rf"^(?P<s>(?:[Tt]he|[Aa]n?|[Oo]ur) .+?) (?:is|'s|was|has been|will be) (?:up to "
    rf"|down to |at )?(?P<v>{MONEY})(?: (?:a|per|each|now) ?\w*)?$"
)
_DOSES = re.compile(
    rf"^{_PERSON} (?:(?:have|has|'ve|will|must|is to|was|is|'s|'m|am) )?(?:been )?(?:takes?"
    rf"|taking|taken|took|gets?|getting|injects?|on|be given|given|receives?) (?P<v>{DOSE})(?:"
    rf" of (?P<n>.+))?"
)


def money(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """Budgets, rents, prices and doses told by verbs."""
    text = statement.text
    effect: Effect = "change" if statement.now else "state"
    for pattern in (_FUNDS, _THERE):
        if m := pattern.match(text):
            subject = reader.referent(statement.group(m, "s"))
            found = value(statement.group(m, "v"), "amount", reader.names)
            shown = f"the {subject}" if subject and subject[:1].islower() else subject
            yield from reader.draft(
                statement, subject, "BUDGET", found, effect, text=f"The budget for {shown} is {{v}}"
            )
            return
    for pattern in _PAYS:
        if m := pattern.match(text):
            noun = m.groupdict().get("n") or "salary"
            subject = reader.referent(statement.group(m, "s"))
            found = value(statement.group(m, "v"), "amount", reader.names)
            relation = re.sub(r"\W+", "_", noun).upper()
            if len(noun.split()) <= 2:
                yield from reader.draft(
                    statement, subject, relation, found, effect, text=f"{subject}'s {noun} is {{v}}"
                )
            return
    if m := _DOSES.match(text):
        subject = reader.referent(statement.group(m, "s"))
        found = source_text(statement.group(m, "v"))
        yield from reader.draft(statement, subject, "DOSE", found, effect, text=f"{subject}'s dose is {{v}}")
        return
    for pattern in (_COSTS, _PRICED):
        if m := pattern.match(text):
            subject = reader.referent(statement.group(m, "s"))
            found = value(statement.group(m, "v"), "amount", reader.names)
            yield from reader.draft(
                statement, subject, "PRICE", found, effect, text=f"{as_subject(subject or '')} costs {{v}}"
            )
            return


_CLOCKED = re.compile(
    rf"^{_THING} (?:(?:will|has|have|used to) )?(?P<verb>\w+)(?: (?P<part>up|down"
    rf"|out|off))? (?:at|from|until|by) (?P<v>{CLOCK})(?= |$)"
)
_IT_CLOCKED = re.compile(
    rf"^(?P<s>[Ii]t|[Tt]hey) (?P<verb>\w+)(?: (?P<part>up|down|out|off))? (?:at|from|until|by) (?P<v>{CLOCK})(?= |$)"
)
_ROOM = (
    r"(?P<v>(?:the |my |our )?(?:[\w'-]+ ){0,3}?(?:floor|room|hall|building|wing"
    r"|office|studio|gate|platform|lab|theatre"
    r"|auditorium|library|park|gym|annex|basement|attic|lounge|canteen|cafeteria"
    r"|classroom|church|pub|café|cafe|garden"
    r"|field|court|kitchen|centre|center|club)(?: (?:\d+\w?|[A-Z])(?!\w))?)(?= |$)"
)
_HELD = re.compile(
    rf"^{_THING} (?:(?:is|are|was|were|has been|will be|'s) )?(?P<verb>takes? place"
    rf"|took place|held|meets?|met|happens?|sits?"
    rf"|sat|located|based|leaves?|departs?|rehearses?|practi[sc]es?|trains?|is"
    rf"|are|was|been|stands?|lives?|moved|moves) (?P<p>in|on|at|to|from) {_ROOM}"
)
_DUE = re.compile(
    r"^(?P<s>(?:[Tt]he|[Mm]y|[Oo]ur|[Aa]n?|[A-Z][\w-]*) ?(?:[\w'-]+ ){0,5}?[\w'-]*) (?:is"
    r"|are|was|'s|were|will be|has been|comes?|falls?) (?:now |still |also )?(?:due"
    r"|expected|scheduled|planned)(?: (?:now|back|in))? (?P<v>(?:on|by|at|for"
    r"|in|before|until|next|this|tomorrow|today|\d).*)$"
)


def typed_verbs(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Closes at 18:00", "takes place in the Birch room", "is due on 15 November"."""
    yield from _due(reader, statement)
    effect: Effect = "change" if statement.now else "state"
    text = _spaced(statement)
    for pattern in (_CLOCKED, _IT_CLOCKED):
        m = pattern.match(text)
        if m is None:
            continue
        subject = reader.thing if pattern is _IT_CLOCKED else reader.referent(_tokens(statement, m["s"]))
        verb = next((t for t in statement.all if joined([t]) == m["verb"]), None)
        if (
            verb is None
            or verb.lemma_ in ("be", "arrive", "call", "come", "wake")
            or subject is None
            or subject == reader.names.speaker
        ):
            return
        if verb.pos_ not in ("VERB", "NOUN", "ADJ", "AUX"):
            return
        lemma = verb.lemma_.lower()
        part = f" {m['part']}" if m["part"] else ""
        preposition = "until" if " until " in m[0] else "from" if " from " in m[0] else "at"
        clock = [t for t in statement.all if t.idx >= verb.idx]
        shown = m["verb"] if m["verb"].endswith("s") and statement.tense == "present" else third_person(verb)
        relation = f"{shown}{part} {preposition}".upper().replace(" ", "_")
        plural = reader.doc[verb.i - 1].tag_ == "NNS"
        said = f"{as_subject(subject)} {lemma if plural else shown}{part} {preposition} {{v}}"
        reader.thing = subject
        if (lemma and statement.tense in ("present", "perfect", "future")) or statement.spans:
            own = [t for t in clock if re.match(r"[\d:]", t.text) and not _dated(statement, t)]
            yield from reader.draft(
                statement, subject, relation, m["v"].replace(" : ", ":"), effect, text=said, without=own
            )
        return
    if m := _HELD.match(statement.text):
        tokens = statement.group(m, "s")
        subject = reader.referent(tokens)
        if subject is None or reader.labels.get(subject) == "PERSON" or tokens[-1].ent_type_ == "PERSON":
            return
        if m["p"] in ("at", "on") and m["verb"] in ("is", "are", "was") and "floor" not in m["v"]:
            return
        where = m["v"]
        named = re.search(r"[A-Z\d]|floor", where.removeprefix("the "))
        if not named:
            return
        if m["verb"].startswith("move"):
            effect = "change"
        verb = (
            m["verb"] if m["verb"].startswith(("take", "meet", "happen", "sit", "stand", "leave", "depart")) else "is"
        )
        preposition = "from" if m["p"] == "from" else "on" if "floor" in where else "in"
        verb = {"take place": "takes place", "took place": "takes place", "met": "meets"}.get(verb, verb)
        said = f"{as_subject(subject)} {verb} {preposition} {{v}}"
        yield from reader.draft(
            statement, subject, "LOCATED_AT", where.removeprefix("the "), effect, text=said, said=where
        )


def _due(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    from memspan.longterm.scribe.descriptions import Slot

    text = re.sub(r"^(?:.* )?(?=(?:[Tt]he|[Mm]y|[Oo]ur) )", "", statement.full)
    m = _DUE.match(statement.full) or _DUE.match(text)
    if m is None:
        return
    subject = reader.referent(_tokens(statement, m["s"]))
    if subject:
        verb = "due" if " due" in m[0] else "scheduled"
        relation = "DUE_ON" if verb == "due" else "SCHEDULED_FOR"
        text = f"{as_subject(subject)} is due on {{v}}" if verb == "due" else ""
        yield from fill(
            reader, statement, Slot(subject, relation, "time", text, False), _tokens(statement, m["v"]), "change"
        )


def _spaced(statement: Statement) -> str:
    """All words but those of dates."""
    kept = [
        t for t in statement.all if not _dated(statement, t) and t.lower_ not in ("now", "still", "already", "always")
    ]
    return re.sub(r"^(?:[,.:]|and|but|so)+ ", "", joined(kept))


def _dated(statement: Statement, token: Token) -> bool:
    for span in statement.spans:
        if span.offset <= token.idx < span.offset + len(span.text) and span.precision != "time":
            return True
    return False


def _relative(statement: Statement, token: Token) -> bool:
    """Whether a weekday is one day in the calendar ("last Tuesday")."""
    return any(
        s.offset <= token.idx < s.offset + len(s.text) and re.match(r"(?i)(?:on )?(?:last|next|this|since)\b", s.text)
        for s in statement.spans
    )
