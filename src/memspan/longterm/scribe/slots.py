"""Facts about named slots: ages, favourites, budgets, dates of meetings, states of projects, couples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe import relations as table
from memspan.longterm.scribe import wording
from memspan.longterm.scribe.clauses import Clause, phrase
from memspan.longterm.scribe.dates import TimeSpan

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.facts import FactReader

_POSSESSION = frozenset(("'s", "’s", "'", "’"))


def slot_facts(reader: FactReader, clause: Clause) -> Iterator[FactDraft]:
    """ "I'm 35", "my favourite colour is blue", "the budget was raised to 6,000", "we moved the meeting to Friday"."""
    lemma = clause.verb.lemma_
    if lemma in ("be", "become", "turn"):
        for subject, token in reader.subjects(clause):
            yield from _person(reader, clause, subject, token)
    for head in clause.subjects:
        slot = _slot(reader, head)
        if slot is None:
            continue
        if lemma in ("be", "become") and clause.tense == "present" and not clause.negated:
            yield from _value(
                reader, clause, slot, head, [*clause.complements(), *clause.after("on", "at", "for", "in")]
            )
        elif lemma in table.SET_VERBS | table.MOVE_VERBS or lemma == "start":
            yield from _value(
                reader,
                clause,
                slot,
                head,
                [*clause.objects(), *clause.after("to", "for", "until", "at", "on", "up", "down", "back")],
            )
        elif lemma == "cancel" and slot[1] == "SCHEDULED_FOR" and clause.passive:
            yield from reader.fact(clause, slot[0], "SCHEDULED_FOR", "", "end")
    if not clause.passive and lemma in table.SET_VERBS | table.MOVE_VERBS:
        for head in clause.objects():
            slot = _slot(reader, head)
            if slot is not None:
                yield from _value(reader, clause, slot, head, clause.after("to", "for", "until", "up", "down", "back"))
    if lemma == "cost" and clause.tense == "present" and not clause.negated:
        for head in clause.subjects:
            name = _thing_name(reader, head)
            for value in clause.objects():
                if name and (amount := _amount(value)):
                    yield from reader.fact(clause, name, "PRICE", amount, "state")


def _person(reader: FactReader, clause: Clause, subject: str, token: Token) -> Iterator[FactDraft]:
    about_person = token.pos_ == "PRON" or reader.labels.get(subject) in ("PERSON", "THING")
    for head in (*clause.complements(), *clause.objects()):
        text = head.text
        years = head if head.lemma_ == "year" else next((c for c in head.children if c.lemma_ == "year"), None)
        number = head if head.like_num else next((c for c in (years.children if years else ()) if c.like_num), None)
        old = head.lower_ == "old" or any(c.lower_ == "old" for c in head.children)
        aged = head.like_num or (years is not None and old)
        if number is not None and number.text.isdigit() and aged and 0 < int(number.text) < 120 and about_person:
            bare = not any(c.dep_ in ("prep", "nmod") for c in head.children) and _ends_there(head)
            if (clause.verb.lemma_ == "turn" or bare or old) and not clause.negated:
                effect: table.Effect = "change" if clause.verb.lemma_ == "turn" else "state"
                yield from reader.fact(clause, subject, "AGE", number.text, effect)
        elif clause.verb.lemma_ == "be" and about_person and clause.tense == "present":
            if head.lower_ in table.COUPLE_STATUSES and not any(c.dep_ == "prep" for c in head.children):
                yield from reader.fact(clause, subject, "RELATIONSHIP_STATUS", text.lower(), "state")
            role = wording.fits(head, "role", reader.names) if head.pos_ in ("NOUN", "PROPN") else None
            owned = any(c.dep_ == "poss" for c in head.children)
            bare = not any(c.dep_ == "prep" or c.lower_ in ("such", "what", "quite") for c in head.children)
            employer = [t for c in head.children if c.dep_ == "prep" and c.lower_ in ("at", "for") for t in c.children]
            for place in employer if role else ():
                if company := wording.fits(place, "org", reader.names):
                    bare = True
                    yield from reader.fact(clause, subject, "WORKS_AT", reader.label(company, place, "org"), "state")
            if role and not owned and bare:
                said = reader.names.thing(head, article=True) or role
                yield from reader.fact(clause, subject, "HAS_ROLE", role, "state", said=said)
            elif head.pos_ == "NOUN" and any(c.lower_ in ("a", "an") for c in head.children) and wording.solid(head):
                value = reader.names.thing(head)
                if value and not clause.negated and (_identity(head) or role):
                    said = reader.names.thing(head, article=True) or value
                    yield from reader.fact(clause, subject, "IS_A", value, "state", said=said)


_IDENTITIES = wording.words(
    "vegetarian vegan christian muslim buddhist jew hindu atheist catholic student veteran immigrant parent mother "
    "father widow widower twin citizen native pescatarian refugee volunteer grandmother grandfather"
)


def _identity(head: Token) -> bool:
    return head.lemma_.lower() in _IDENTITIES


def _ends_there(head: Token) -> bool:
    after = head.doc[head.i + 1] if head.i + 1 < len(head.doc) else None
    return after is None or after.is_punct or after.lower_ in ("now", "and", "but", "years", "today", "already", "this")


_PASSING = wording.words("new next current initial original upcoming old final")


def _slot(reader: FactReader, head: Token) -> tuple[str, str, str, str] | None:
    """`(subject, relation, kind of value, words of the slot)` that a noun phrase names."""
    if head.pos_ not in ("NOUN", "PROPN"):
        return None
    noun = head.lemma_.lower()
    before = [c for c in head.children if c.dep_ in ("compound", "amod", "nmod") and c.i < head.i]
    two = " ".join([before[-1].lower_, noun]) if before else noun
    favourite = next((c for c in before if c.lower_ in ("favourite", "favorite")), None)
    owner = next((c for c in head.children if c.dep_ == "poss"), None)
    owner_name = None
    if owner is not None:
        mine = {"my": reader.names.speaker, "our": reader.names.speaker, "your": reader.names.other}
        lower = owner.lower_
        owner_name = mine[lower] if lower in mine else reader.names.person(owner) or _owner_thing(reader, owner)
        if owner_name is None:
            return None
    if favourite is not None:
        if owner_name is None or noun in wording.EMPTY:
            return None
        words = [c.lower_ for c in before if c.i > favourite.i] + [noun]
        return owner_name, "FAVOURITE_" + "_".join(words).upper().replace("-", "_"), "any", " ".join(words)
    kind = table.SLOTS.get(two) or table.SLOTS.get(noun)
    if kind is None or head.tag_ in ("NNS", "NNPS"):
        return None
    slot = two if two in table.SLOTS else noun
    relation = {"amount": "AMOUNT", "time": "SCHEDULED_FOR"}.get(
        kind, "HAS_" + slot.upper().replace(" ", "_").replace("-", "_")
    )
    if kind == "text" or slot in ("phone number", "number", "phone", "birthday"):
        if owner_name is None:
            return None
        name = "HAS_PHONE_NUMBER" if "phone" in slot or slot == "number" else "HAS_" + slot.upper().replace(" ", "_")
        return owner_name, name.replace("-", ""), kind, slot
    if owner_name is None and not any(c.lower_ in ("the", "this", "that") for c in head.children):
        return None
    own = [t for t in phrase(head) if t.dep_ not in ("det", "poss", "case") and t.ent_type_ != "DATE"]
    own = [t for t in own if t.head.dep_ != "poss" and t.lower_ not in _PASSING]
    text = reader.names.render(own)
    if not text:
        return None
    return (f"{owner_name}'s {text}" if owner_name else text), relation, kind, slot


def _owner_thing(reader: FactReader, owner: Token) -> str | None:
    return reader.names.thing(owner) if owner.pos_ == "NOUN" else None


def _thing_name(reader: FactReader, head: Token) -> str | None:
    if head.pos_ not in ("NOUN", "PROPN") or head.tag_ == "NNS":
        return None
    return reader.names.person(head) or reader.names.thing(head)


def _value(
    reader: FactReader, clause: Clause, slot: tuple[str, str, str, str], head: Token, values: Sequence[Token]
) -> Iterator[FactDraft]:
    subject, relation, kind, words = slot
    changed = clause.verb.lemma_ not in ("be", "become")
    if changed and (clause.negated or clause.tense == "future"):
        return
    found: str | None = None
    said = ""
    if kind == "time":
        span = _time(reader, clause, values)
        if span is not None:
            found, said = _moment(span), span.phrase().removeprefix("on ").removeprefix("in ")
            if relation == "HAS_BIRTHDAY" and span.start is not None:
                found = said = f"{span.start:%B} {span.start.day}"
    else:
        for value in values:
            if kind == "amount":
                found = _amount(value)
            elif value.i > head.i and value.head.dep_ != "agent" and (kind == "any" or not value.like_num):
                direct = value.dep_ in ("attr", "acomp", "oprd", "dobj") or changed
                found = reader.names.thing(value) if direct and value.pos_ != "PRON" and value.pos_ != "VERB" else None
            if found:
                break
    if not found or clause.negated:
        return
    for fact in reader.fact(clause, subject, relation, found, "change", said=said or found, dated=False):
        text = (
            fact.text
            if relation in table.RELATIONS
            else f"{wording.opening(subject)}'s {_words(relation, words)} is {said or found}."
        )
        yield FactDraft(
            subject=subject,
            relation=relation,
            object=found,
            text=text,
            valid_at=reader.at,
            functional=True,
            reason=fact.reason,
        )
    reader.labels.setdefault(subject, "THING")


def _words(relation: str, words: str) -> str:
    return f"favourite {words}" if relation.startswith("FAVOURITE_") else words


def _time(reader: FactReader, clause: Clause, values: Sequence[Token]) -> TimeSpan | None:
    """The time a slot is set to; for "moved from Monday to Friday" the one after "to"."""
    spans = [s for s in reader.spans(clause, "future") if s.role in ("at", "until", "from") and (s.start or s.end)]
    places = [(t.left_edge.idx, t.idx + len(t)) for t in values]
    fitting = [s for s in spans if any(s.offset < b and a < s.offset + len(s.text) for a, b in places)]
    return fitting[-1] if fitting else None


def _moment(span: TimeSpan) -> str:
    moment = span.start or span.end
    assert moment is not None  # _time gives no span without either
    if span.precision == "time":
        return f"{moment:%Y-%m-%d %H:%M}"
    return {"year": f"{moment:%Y}", "month": f"{moment:%Y-%m}"}.get(span.precision, f"{moment:%Y-%m-%d}")


def _amount(head: Token) -> str | None:
    """A number with its unit as written ("6,000 euros", "$50", "12%"), None without a digit."""
    if head.pos_ not in ("NUM", "NOUN", "SYM", "PROPN") and not head.like_num:
        return None
    text = "".join(t.text_with_ws for t in head.doc[head.left_edge.i : head.i + 1])
    after = head.doc[head.i + 1 : head.i + 4].text if head.like_num else ""
    if (m := re.match(r"\s*([-%]\s*\d[\d-]*|%|k\b|[mM]illion|[bB]illion)", after)) is not None:
        text += m[0]
    text = re.sub(
        r"^(?:up to|down to|the|about|around|now|only|just|over|under|nearly|almost|a)\s+",
        "",
        text.strip(),
        flags=re.IGNORECASE,
    )
    return text.strip(" ,.") if re.search(r"\d", text) and len(text.split()) <= 5 else None


def status(reader: FactReader, clause: Clause) -> Iterator[FactDraft]:
    """ "The project is on hold", "the launch was cancelled"."""
    if clause.tense not in ("present", "perfect", "past") or (clause.tense == "past" and not clause.passive):
        return
    words = [clause.verb] if clause.passive else clause.complements() if clause.verb.lemma_ == "be" else []
    hold = (
        [t for t in clause.after("on") if t.lower_ in ("hold", "track", "schedule")]
        if clause.verb.lemma_ == "be"
        else []
    )
    for head in clause.subjects:
        definite = any(c.lower_ in ("the", "our", "my", "this", "that") for c in head.children)
        if head.pos_ not in ("NOUN", "PROPN") or not (definite or head.pos_ == "PROPN") or head.tag_ == "NNS":
            continue
        name = _thing_name(reader, head)
        values = [w.lower_ for w in words if w.lower_ in table.STATUSES] + [f"on {t.lower_}" for t in hold]
        if clause.passive and clause.tense == "present" and clause.verb.lower_ not in table.STATUSES:
            values = []
        moved = bool(reader.spans(clause, "future")) and clause.verb.lemma_ in table.MOVE_VERBS
        for value in values:
            if name and not clause.negated and not moved:
                yield from reader.fact(clause, name, "STATUS", value, "change" if clause.passive else "state")


def couple(reader: FactReader, clause: Clause, subjects: Sequence[tuple[str, Token]]) -> Iterator[FactDraft]:
    """Weddings and divorces without a named partner, and "Ann and Bob got married"."""
    verb = clause.verb
    married = verb.lemma_ in ("marry", "divorce", "engage") or verb.lower_ in ("married", "divorced", "engaged")
    heads = (
        [verb] if clause.passive and married else [c for c in clause.complements() if c.lower_ in table.COUPLE_STATUSES]
    )
    heads = heads if verb.lemma_ in ("get", "be") or heads == [verb] else []
    for head in heads:
        word = head.lower_
        partners = [t for c in head.children if c.dep_ == "prep" and c.lower_ in ("to", "from") for t in c.children]
        relation = {"married": "MARRIED_TO", "engaged": "ENGAGED_TO", "divorced": "MARRIED_TO"}.get(word)
        effect: table.Effect = "end" if word == "divorced" else "state" if verb.lemma_ == "be" else "change"
        if relation is None:
            continue
        named = [p for p in (wording.fits(t, "person", reader.names) for t in partners) if p]
        for subject, _ in subjects:
            others = named or [name for name, _ in subjects if name != subject]
            if clause.passive and head == verb and partners:
                others = []  # the table of triggers has read them
            for other in named or others[:1]:
                reader.labels.setdefault(other, "PERSON")
                yield from reader.fact(clause, subject, relation, other, effect)
            if word == "divorced" and not others and not partners:
                yield from (
                    reader.fact(clause, subject, relation, "", "end") if verb != head or not clause.passive else ()
                )
            if not partners and (verb.lemma_ != "be" or clause.passive):
                yield from reader.fact(clause, subject, "RELATIONSHIP_STATUS", word, "change")
