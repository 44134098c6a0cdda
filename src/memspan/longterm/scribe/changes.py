"""Facts in slots: "my landlord is …", "… is the captain of the team", "the rent went up to …", "it's … now"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe.descriptions import POSSESSIVE, Slot, describe
from memspan.longterm.scribe.exchanges import exchanged
from memspan.longterm.scribe.favourites import favourites
from memspan.longterm.scribe.filling import as_subject, fill, fill_at, located
from memspan.longterm.scribe.posts import belongs, leads, rides, single
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import NAME, Statement, joined, plain
from memspan.longterm.scribe.typed import call, money, typed_verbs, weekly
from memspan.longterm.scribe.values import AMOUNT, PHONE, name_run, source_text, trim

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader

_WHO = rf"(?:I|[Ww]e|[Hh]e|[Ss]he|[Yy]ou|[Tt]hey|(?:[Tt]he|[Mm]y|[Oo]ur) (?:[\w'-]+ ){{0,3}}?[\w-]+|{NAME})"
_BE = re.compile(
    r" (?P<be>(?:will |'ll |has |have |'s |'ve |had )?(?:is|are|'s|am|'m|be|been"
    r"|was|were|became|become|becomes|stays|stayed"
    r"|remains|remained))(?: (?:called|named|set (?:to|at)|fixed at|none other than|a certain|spelled|spelt))?(?= )"
)
_CALLED = re.compile(r" (?:goes by|go by|answers to|went by)(?: the name(?: of)?)?(?= )")
_CHANGE = (
    r"(?:changed|moved|raised|increased|reduced|lowered|cut|set|updated|dropped"
    r"|rose|risen|fell|fallen|went|gone|grew|grown"
    r"|revised|adjusted|bumped|decreased|jumped|climbed|pushed|brought|shifted"
    r"|switched|postponed|rescheduled|extended"
    r"|renamed|transferred|reset|doubled|halved|swapped|put|corrected|slipped|shrank|shrunk|came|delayed|upgraded"
    r"|downgraded|relocated)"
)
_SET = (
    r"(?:change[sd]?|move[sd]?|raise[sd]?|increase[sd]?|reduce[sd]?|lower(?:s"
    r"|ed)?|cut|sets?|update[sd]?|drop(?:s|ped)?"
    r"|revised?|adjust(?:s|ed)?|bump(?:s|ed)?|push(?:es|ed)?|bring|brought|shift(?:s|ed)?|switch(?:es|ed)?|postponed?"
    r"|rescheduled?|extend(?:s|ed)?|renamed?|reset|put|fix(?:es|ed)?|upgraded?|downgraded?|fixed|delay(?:s|ed)?)"
)
_AWAY = r"(?: (?:up|down|back|out|forward|again|over|away|ahead))*"
_PASSIVE = re.compile(
    rf"^(?P<d>.+?) (?:(?:has|have|had|'s|will|'ll) )?(?:(?:was|were|is|are|got"
    rf"|been|be|is being|has been) )*{_CHANGE}{_AWAY}"
    r"(?: from (?P<o>.+?))?(?: by .+?)?(?: to| until| till|,? and is| into) (?:be (?:on|at|in) |on |at )?(?P<v>.+)$"
)
_ACTIVE = re.compile(
    rf"^(?:.+? )?{_SET}{_AWAY} (?P<d>(?:[Tt]he|[Mm]y|[Oo]ur|[Hh]is|[Hh]er|[Tt]heir|{NAME} 's) .+?)"
    rf"{_AWAY}(?: from (?P<o>.+?))? (?:to|at|until|till) (?P<v>.+)$"
)
_MOVED = re.compile(
    r"^(?:[Ww]e|[Tt]hey|" + NAME + r") (?:have |has |'ve )?(?:moved|shifted|relocated) (?P<d>.+?) to (?P<v>.+)$"
)
_HAS = re.compile(
    rf"^(?P<s>{_WHO}) (?:have |has |'ve |'s |will |'ll )?(?:have|has|had|got|'ve got"
    rf"|get|gets|found|hired|chosen|picked|signed up with)"
    r" (?:an? |another )?(?P<new>(?:brand )?new )?(?P<n>(?:[\w/-]+ ){0,3}?[\w/-]+)(?: (?:,"
    r"|called|named|of|:|who is|which is))+ (?P<v>.+)$"
)
_GAVE = re.compile(
    rf"^.+? (?:gave|given|give|granted|allotted|assigned|allocated) (?:us|me|them"
    rf"|{NAME}) an? (?P<n>[\w ]+?) of (?P<v>.+?) for (?P<s>.+)$"
)
_NEW = re.compile(
    rf"^(?P<s>{_WHO}) .*?\b(?:an?|(?P<own>my|his|her|our)) (?:brand )?new (?P<n>(?:[\w/-]+ ){{0,3}}?[\w/-]+)(?:"
    rf" (?P<comma>,|called|named|:|from .+|at .+))?(?: (?P<v>.+))?$"
)
_NUMBERS = re.compile(
    rf"^(?P<s>{_WHO}) .*?\b(?:changed|switched|swapped) (?:(?:my|his|her|our|their) )?(?P<n>[a-z ]+?)s?$"
)
_TAKES = re.compile(
    r"^(?P<v>.+?) (?:takes?|took|has taken|will take|is taking|stepped in|steps in"
    r"|stands in) (?:over )?(?:from \w+ )?(?:as|over as)"
    r" (?:the |our |my )?(?P<d>.+)$"
)
_STAYS = re.compile(
    r"^(?P<v>.+?) (?:has been|'s been|have been|stays|remains|stayed|remained"
    r"|is|became|becomes|has become|was elected|was appointed|was made"
    r"|was named|has been elected) (?P<d>(?:[a-z]+ )?[a-z]+)(?: (?P<of>of .+))?$"
)
_OTHERS = re.compile(
    r"^(?P<it>[Ii]t|[Tt]he new one|[Tt]his one|[Tt]he new (?:[a-z]+)|[Ss]he|[Hh]e|[Mm]ine) "
    r"(?P<be>is|'s|was|has been|'s been|will be|'ll be|became|are)(?: (?:called|named))? (?P<v>.+)$"
)


def slots(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """What stands in the slots that a statement names."""
    rules = (
        call,
        favourites,
        _introduced,
        _had,
        _given,
        weekly,
        _set,
        _equated,
        _took,
        _again,
        money,
        typed_verbs,
        leads,
        rides,
        belongs,
        single,
        _newly,
        exchanged,
        _alone,
    )
    yield from reader.first(statement, rules)
    _remember(reader, statement)


def _effect(statement: Statement, verb: str = "") -> Effect:
    return "change" if statement.now or "becom" in verb or "became" in verb else "state"


def _split(
    statement: Statement, pattern: re.Pattern[str], *, full: bool
) -> Iterator[tuple[list[Token], str, list[Token]]]:
    text = statement.full if full else statement.text
    for m in pattern.finditer(text):
        left = statement.between(0, m.start(), full=full)
        right = statement.between(m.end() + 1, len(text) + 1, full=full)
        if left and right:
            yield left, m[0].strip(), right


def _equated(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Ann's landlord is V", "V is the captain of our team", "my dog is called V"."""
    for pattern in (_BE, _CALLED):
        for full in (False, True):
            for left, verb, right in _split(statement, pattern, full=full):
                left = _without_lead(reader, statement, left) if full else left
                if not left:
                    continue
                slot = describe(reader, left, reader.topic if _alone_number(left) else None)
                timed = slot is not None and slot.kind == "time"
                if slot is not None and timed == full:
                    found = list(fill(reader, statement, slot, right, _effect(statement, verb), full=full))
                    if found:
                        yield from found
                        return
                if full or slot is not None:
                    continue
                right_slot = _right_slot(reader, right)
                if right_slot is None or right_slot.kind == "time":
                    continue
                if left[0].lower_ in ("that", "this", "it"):
                    left = reader.object if right_slot.kind not in ("any", "strict", "name") else []
                if not left:
                    continue
                found = list(fill(reader, statement, right_slot, left, _effect(statement, verb)))
                if found:
                    yield from found
                    return


def _without_lead(reader: StatementReader, statement: Statement, tokens: list[Token]) -> list[Token]:
    timed = {i for s in statement.spans for i in range(s.offset, s.offset + len(s.text))}
    kept = [t for t in tokens if t.idx not in timed]
    while kept and (kept[0].is_punct or kept[0].lower_ in ("and", "but", "so", "that")):
        kept = kept[1:]
    while kept and kept[-1].lower_ in ("now", "still", "also", "just"):
        kept = kept[:-1]
    return kept


def _alone_number(tokens: Sequence[Token]) -> bool:
    return len(tokens) <= 3 and tokens[0].lower_ == "the"


def _right_slot(reader: StatementReader, tokens: Sequence[Token]) -> Slot | None:
    """A description that begins the tokens; what follows it belongs to something else."""
    first = tokens[0].lower_
    owned = re.match(rf"^{POSSESSIVE} ", joined(tokens))
    if first != "the" and not owned:
        return None
    stop = next(
        (
            k
            for k, t in enumerate(tokens)
            if k and (t.is_punct or t.pos_ in ("SCONJ", "CCONJ")) and plain(t) not in ("'s", "-")
        ),
        len(tokens),
    )
    for end in range(stop, 0, -1):
        if end < stop and (
            tokens[end].pos_ in ("NOUN", "PROPN", "NUM") or tokens[end].text in ("-", "/") or tokens[end].tag_ == "POS"
        ):
            continue
        slot = describe(reader, tokens[:end], reader.topic)
        if slot is not None and slot.kind != "strict" and slot.relation != "VALUE":
            return slot
    return None


def _set(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "The rent went up to V", "they changed my shift from O to V"."""
    for full in (False, True):
        text = statement.full if full else statement.text
        for pattern in (_PASSIVE, _ACTIVE, _MOVED):
            m = pattern.match(text)
            if m is None:
                continue
            described = (
                statement.group(m, "d") if not full else _without_lead(reader, statement, statement.group(m, "d"))
            )
            slot = describe(reader, described)
            if slot is None or (slot.kind == "time") != full:
                if not full and slot is None:
                    yield from _placed(reader, statement, described, statement.group(m, "v"))
                continue
            tokens = statement.group(m, "v")
            if (
                re.search(r" (?:moved|relocated|shifted)\b", m[0])
                and slot.kind in ("any", "strict")
                and not tokens[0].like_num
            ):
                inside = [tokens[0].nbor(-1), *tokens] if tokens[0].i else tokens
                found = list(_moved(reader, statement, slot, inside))
            else:
                found = list(fill(reader, statement, slot, tokens, "change", full=full))
            if found:
                yield from found
                return


def _moved(reader: StatementReader, statement: Statement, slot: Slot, tokens: Sequence[Token]) -> Iterator[FactDraft]:
    """ "The office moved to Harbour Street": a thing that has a place, not a value."""
    for fact in located(reader, statement, slot, tokens, "change"):
        yield replace(fact, text=fact.text.replace(" is to ", " is in ").replace(" is into ", " is in "))


_PLACE = (
    r"(?:the )?(?:[\w'-]+ ){0,3}?(?:floor|room|hall|building|wing|office|studio"
    r"|desk|field|court|gate|platform|aisle|lab|theatre|auditorium|library|park"
    r"|gym|pool|terrace|annex|basement|attic|lounge|canteen|cafeteria|classroom"
    r"|shed|tent|church|pub|café|cafe|bar)(?: [\dA-Z]\w*)?(?!\w)"
)


def _placed(
    reader: StatementReader, statement: Statement, thing: Sequence[Token], tokens: Sequence[Token]
) -> Iterator[FactDraft]:
    """ "We moved accounts to the fifth floor"."""
    m = re.match(_PLACE, joined(tokens))
    subject = reader.referent(thing) if m else None
    if m and subject and reader.labels.get(subject) != "PERSON":
        where = joined(tokens)[: m.end()]
        preposition = "on" if " floor" in f" {where}" or "platform" in where else "in"
        text = f"{as_subject(subject)} is {preposition} {{v}}"
        yield from reader.draft(
            statement, subject, "LOCATED_AT", where.removeprefix("the "), "change", text=text, said=where
        )


def _had(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Ann has a new landlord, V", "the play has a budget of V"."""
    m = _HAS.match(statement.text)
    if m is None:
        return
    amount = re.match(rf"(?:about |around |only )?{AMOUNT}", m["v"])
    if not m["new"] and " of " in statement.text[m.end("n") : m.start("v")] and not amount:
        return
    yield from _owned_slot(reader, statement, m, "change" if m["new"] else _effect(statement))


def _given(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "They gave us a budget of V for the play"."""
    if m := _GAVE.match(statement.text):
        yield from _owned_slot(reader, statement, m, _effect(statement))


def _owned_slot(reader: StatementReader, statement: Statement, m: re.Match[str], effect: Effect) -> Iterator[FactDraft]:
    from memspan.longterm.scribe.descriptions import slot_of

    subject = reader.referent(statement.group(m, "s"))
    if subject is None:
        return
    thing = subject[:1].islower()
    template = f"The {{n}} for the {subject} is {{v}}" if thing else "{s}'s {n} is {v}"
    slot = slot_of(subject, statement.group(m, "n"), template)
    if slot is not None and slot.kind != "time":
        past = statement.tense
        if past == "past" and not statement.spans:
            statement.tense = "present"  # having got something is to have it
        yield from fill(reader, statement, slot, statement.group(m, "v"), effect)
        statement.tense = past


def _took(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Noa takes over as captain of our team", "Noa stays captain"."""
    from memspan.longterm.scribe.descriptions import described_post

    for pattern in (_TAKES, _STAYS):
        effect: Effect = "change" if pattern is _TAKES else "state"
        m = pattern.match(statement.text)
        if m is None:
            continue
        holder = statement.group(m, "v")
        run = name_run(holder)
        if not run or len(run) != len(holder):
            continue
        post = statement.group(m, "d")
        if pattern is _STAYS and post[0].pos_ == "DET":
            continue
        if pattern is _STAYS and m["of"]:
            post = [*post, *statement.group(m, "of")]
        slot = described_post(reader, post)
        if slot is None and reader.slot is None:
            continue
        if slot is not None:
            if statement.tense == "perfect":
                effect = "state"
            when = None
            start = next((s.start for s in statement.spans if s.start), None)
            if start is not None:
                when = (start, None)
            yield from reader.draft(
                statement,
                slot.subject,
                slot.relation,
                source_text(run),
                effect,
                text=slot.template,
                when=when,
            )
            return


def _again(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "It is V now", "the new one is V", "she is called V": the slot named before in the turn."""
    m = _OTHERS.match(statement.text)
    if m is None or reader.slot is None:
        full = (
            _OTHERS.match(statement.full.removeprefix(": "))
            if reader.slot is not None and reader.slot.kind == "time"
            else None
        )
        if full is None or reader.slot is None:
            return
        yield from fill(reader, statement, reader.slot, statement.group(full, "v"), "change", full=True)
        return
    it = m["it"].lower()
    if it in ("she", "he") and " called " not in statement.text and " named " not in statement.text:
        return
    if it == "mine":
        return
    tokens = statement.group(m, "v")
    if reader.slot.kind in ("any", "strict") and not (name_run(tokens) or tokens[0].like_num or statement.now):
        return
    slot = reader.slot
    effect: Effect = "change" if statement.now or statement.spans or it.startswith("the new") else "state"
    when = reader.pending if not statement.spans else None
    yield from fill_at(reader, statement, slot, tokens, effect, when)


def _newly(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Ann got a new number": a slot whose value follows ("…, she is called V", ": V")."""
    from memspan.longterm.scribe.descriptions import slot_of

    for pattern in (_NEW, _NUMBERS):
        m = pattern.match(statement.text)
        if m is None:
            continue
        subject = reader.referent(statement.group(m, "s"))
        if subject is None or subject[:1].islower():
            continue
        slot = slot_of(subject, statement.group(m, "n"), "{s}'s {n} is {v}", plural=pattern is _NUMBERS)
        if slot is None or slot.kind == "time":
            continue
        reader.slot = slot
        reader.pending = next((s.start for s in statement.spans if s.start and s.role in ("at", "from")), None)
        if pattern is _NEW and m["comma"] and m["v"]:
            yield from fill_at(reader, statement, slot, statement.group(m, "v"), "change", reader.pending)
        return


def _remember(reader: StatementReader, statement: Statement) -> None:
    """Notes the slot a statement names without filling it ("my number changed", "you have my old number")."""
    m = re.search(
        rf"(?P<d>{POSSESSIVE} (?:[\w/-]+ ){{0,3}}?[\w/-]+)(?= (?:changed|has changed"
        rf"|is different|moved|was changed)|$| ,)",
        statement.text,
    )
    of = re.search(
        r"(?P<d>[Tt]he (?:[\w-]+ ){0,2}[\w-]+ (?:of|for) (?:the|our|my) (?:[\w-]+ ){0,3}[\w-]+)$", statement.text
    )
    for found in (m, of):
        if found is None:
            continue
        tokens = [t for t in statement.group(found, "d") if t.lower_ not in ("old", "former", "previous")]
        slot = describe(reader, tokens)
        if slot is not None and slot.relation != "VALUE":
            reader.slot = slot
            start = next((s.start for s in statement.spans if s.start and s.role in ("at", "from")), None)
            reader.pending = start
            break
    chunk = statement.tokens
    verb = next((k for k, t in enumerate(chunk) if t.pos_ == "VERB"), None)
    if verb is not None and len(chunk) > verb + 1:
        reader.object = trim(chunk[verb + 1 :])
    elif verb is None and chunk:
        reader.object = list(chunk)
    if m := re.match(
        rf"^[Ii]f you (?:want to |need to |wish to |have to )?\w+(?: for| with| to)? (?P<s>{NAME})$", statement.text
    ):
        reader.topic = reader.referent(statement.group(m, "s"))


def _introduced(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """ "Ann Smith here", "this is Ann Smith": the speaker's surname."""
    speaker = reader.names.speaker
    m = re.match(
        rf"^(?:(?:[Tt]his is|I 'm|I am|[Ii]t 's|[Mm]y (?:full )?name is|[Hh]ere is) )?(?P<v>{NAME})(?:"
        rf" (?:here|speaking|again|from .+|, .+))*$",
        statement.text,
    )
    if m is None or speaker is None or not m["v"].startswith(f"{speaker} "):
        return
    surname = m["v"].removeprefix(f"{speaker} ")
    yield from reader.draft(statement, speaker, "SURNAME", surname, "state", text=f"{speaker}'s surname is {{v}}")


def _alone(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """A value by itself after a slot that waits for one: "…: 555-0100", "…, Rex"."""
    if reader.slot is None or (
        reader.pending is None and not re.match(PHONE, joined(statement.tokens).replace(" ", ""))
    ):
        return
    tokens = statement.tokens
    if 0 < len(tokens) <= 5 and not any(t.pos_ in ("VERB", "AUX", "PRON") for t in tokens):
        yield from fill_at(reader, statement, reader.slot, tokens, "change", reader.pending)
