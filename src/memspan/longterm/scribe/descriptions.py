"""Definite descriptions as slots: "Ann's landlord", "the budget for the play", "the captain of our team".

A definite singular description picks out one thing at a time, so what stands in it is a functional relation: its owner
is the subject, and its noun names the relation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memspan.longterm.scribe.relations import KIN, SLOTS
from memspan.longterm.scribe.statements import NAME, joined, plain
from memspan.longterm.scribe.values import ValueKind, trim
from memspan.longterm.scribe.wording import EMPTY, opening, words

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader

_CURRENT = words("new current present latest actual official regular usual updated full own main very")
_PAST = words("old former previous ex late first last next other second original initial another past future")
_SPECIAL: dict[str, tuple[str, ValueKind]] = {
    **dict.fromkeys(("employer", "company", "workplace", "firm"), ("WORKS_AT", "org")),
    **dict.fromkeys(
        ("job", "job title", "title", "profession", "occupation", "position", "role", "trade", "line of work"),
        ("HAS_ROLE", "job"),
    ),
    **dict.fromkeys(("partner", "girlfriend", "boyfriend", "other half", "significant other"), ("PARTNER_OF", "name")),
    **dict.fromkeys(("husband", "wife", "spouse"), ("MARRIED_TO", "name")),
    **dict.fromkeys(("fiancé", "fiancée", "fiance", "fiancee"), ("ENGAGED_TO", "name")),
    **dict.fromkeys(
        (
            "phone number",
            "number",
            "phone",
            "mobile",
            "mobile number",
            "cell",
            "cell number",
            "cell phone",
            "telephone number",
            "telephone",
            "cellphone",
            "mobile phone",
        ),
        ("HAS_PHONE_NUMBER", "phone"),
    ),
    **dict.fromkeys(("home", "home town now", "city of residence", "residence"), ("LIVES_IN", "place")),
    **dict.fromkeys(("email", "e-mail", "email address"), ("HAS_EMAIL", "any")),
}
_MANY = words(
    "sister brother sibling cousin friend colleague coworker roommate neighbor neighbour aunt uncle niece nephew son "
    "daughter child kid parent"
)
_ABSTRACT = words(
    "problem point question answer goal plan idea reason thing part heart hope dream fear guess advice opinion mood "
    "life day week year month time night morning weekend trip secret mistake luck joy news story feeling world way "
    "experience journey concern worry issue trouble mind body back eye hand side kind favorite favourite choice "
    "passion inspiration motivation key truth fact trick rule lesson best worst most least highlight excuse wish bet "
    "end start beginning view take focus priority purpose strength weakness result outcome message impression sense "
    "turn bit lot majority rest only reality difference bottom top place house flat"
)
_NAMING = words(
    "password passcode code name surname nickname username handle pin codename motto title passphrase login"
)
_AREAS = words("group team club choir band class crew department office orchestra society committee")
PET = words("dog cat puppy kitten horse rabbit hamster parrot pony tortoise budgie guinea-pig goldfish")

POSSESSIVE = rf"(?:(?i:my|our|your|his|her|their)|(?:{NAME}|[Tt]he (?:[\w-]+ ){{0,3}}?[\w-]+) '(?:s)?)"
_OWNED = re.compile(rf"^(?P<own>{POSSESSIVE}) (?P<noun>(?:[\w/'-]+ ){{0,4}}?[\w/-]+)$")
_OF = re.compile(r"^(?:(?i:the|our|my) )(?P<noun>(?:[\w-]+ ){0,3}?[\w-]+) (?P<prep>of|for|at|in) (?P<own>.+)$")
_BARE = re.compile(r"^(?i:the|this) (?P<noun>(?:[\w/-]+ ){0,3}?[\w/-]+)$")


@dataclass(frozen=True, slots=True)
class Slot:
    """A description: whose it is, the relation its noun names, what can stand in it, and how it is said.

    `template` has {v} where the value goes.
    """

    subject: str
    relation: str
    kind: ValueKind
    template: str
    strong: bool


def describe(reader: StatementReader, tokens: Sequence[Token], owner: str | None = None) -> Slot | None:
    """The slot a noun phrase names; `owner` is who "the number" belongs to when the phrase does not say."""
    tokens = list(tokens)
    text = joined(tokens)
    if not tokens or len(tokens) > 12:
        return None
    if m := _OWNED.match(text):
        own, noun = _cut(tokens, m.span("own")), _cut(tokens, m.span("noun"))
        found = reader.owner(own)
        if found is None:
            return None
        return slot_of(found, noun, "{s}'s {n} is {v}")
    if m := _OF.match(text):
        own, noun = _cut(tokens, m.span("own")), _cut(tokens, m.span("noun"))
        if m["prep"] in ("at", "in") and own[0].pos_ != "PROPN" and own[0].lower_ not in ("the", "our", "my"):
            return None
        found = reader.referent(own)
        if found is None or len(trim(own)) < len([t for t in own if t.pos_ != "DET"]) - 1:
            return None
        shown = f"The {found}" if found[:1].islower() else found
        return slot_of(
            found,
            noun,
            f"The {{n}} {m['prep']} {shown[:1].lower() + shown[1:] if shown.startswith('The ') else shown} is {{v}}",
        )
    if m := _BARE.match(text):
        noun = _cut(tokens, m.span("noun"))
        if owner is not None:
            return slot_of(owner, noun, "{s}'s {n} is {v}")
        return _ownerless(reader, noun)
    return None


def _cut(tokens: Sequence[Token], span: tuple[int, int]) -> list[Token]:
    found, place = [], 0
    for token in tokens:
        if span[0] <= place < span[1]:
            found.append(token)
        place += len(plain(token)) + 1
    return found


def _noun(tokens: Sequence[Token], *, plural: bool = False) -> list[Token] | None:
    """The words that name a slot; None when they speak of another time's value or of no slot."""
    kept = [t for t in tokens if t.lower_ not in _CURRENT]
    if not kept or any(t.lower_ in _PAST for t in kept[:-1]) or kept[0].lower_ in _PAST:
        return None
    head = kept[-1]
    favourite = any(t.lower_ in ("favourite", "favorite") for t in kept)
    if head.lower_ in ("favourite", "favorite"):
        return kept
    if head.pos_ not in ("NOUN", "PROPN", "ADJ", "VERB") or (head.tag_ == "NNS" and not plural):
        return None
    if not favourite and (head.lower_ in EMPTY or head.lower_ in _ABSTRACT) and joined(kept).lower() not in _SPECIAL:
        return None
    if head.lower_ in EMPTY or any(t.pos_ in ("ADP", "CCONJ", "SCONJ", "PRON", "AUX") for t in kept):
        return None
    if any(t.pos_ == "VERB" and t.tag_ in ("VBD", "VBZ", "VBP") for t in kept[:-1]):
        return None
    return kept


def slot_of(owner: str, noun: Sequence[Token], template: str, *, plural: bool = False) -> Slot | None:
    """The slot that a noun names for an owner; the template has {s} for the owner and {n} for the noun."""
    kept = _noun(noun, plural=plural)
    if kept is None:
        return None
    named = joined(kept).lower().replace("favorite", "favourite")
    kind: ValueKind
    named = " ".join([*named.split()[:-1], kept[-1].lemma_.lower()]) if plural else named
    bare = named.split()[-1]
    if named in _SPECIAL:
        relation, kind = _SPECIAL[named]
        said = {"HAS_PHONE_NUMBER": "phone number", "HAS_EMAIL": "email address"}.get(relation)
        return Slot(owner, relation, kind, f"{opening(owner)}'s {said} is {{v}}" if said else "", True)
    if bare in _MANY:
        return None
    if bare in PET or bare in KIN:
        kind = "name"
    elif SLOTS.get(named, SLOTS.get(bare)) == "amount":
        kind = "amount"
    elif SLOTS.get(named, SLOTS.get(bare)) == "time":
        kind = "time"
    elif bare == "day":
        kind = "day"
    else:
        kind = "any"
    if named.startswith("favourite"):
        kind = "any"
    relation = re.sub(r"\W+", "_", named).strip("_").upper()
    if named in SLOTS and SLOTS[named] == "text":
        relation = f"HAS_{relation}"
    if kind == "time" and named != bare and owner[:1].islower():
        kind = "any"
    if kind == "time" and named not in ("deadline", "due date", "birthday"):
        return Slot(f"{owner}'s {named}", "SCHEDULED_FOR", kind, "", False)
    if kind == "time":
        relation = "HAS_BIRTHDAY" if named == "birthday" else "DEADLINE"
    template = template.replace(" is {v}", " is called {v}") if bare in PET else template
    said = template.replace("{n}", named).replace("{s}", opening(owner))
    return Slot(owner, relation, kind, said, named.startswith("favourite") or bare in PET or bare in _NAMING)


def _ownerless(reader: StatementReader, noun: Sequence[Token]) -> Slot | None:
    """ "The deadline", "the wifi password": the thing is its own subject."""
    kept = _noun(noun)
    if kept is None:
        return None
    named = joined(kept)
    known = SLOTS.get(named.lower(), SLOTS.get(named.lower().split()[-1]))
    if known == "time":
        return Slot(named, "SCHEDULED_FOR", "time", "", False)
    if known == "amount" or known == "text":
        relation = "AMOUNT" if known == "amount" else "VALUE"
        return Slot(named, relation, "amount" if known == "amount" else "any", f"The {named} is {{v}}", False)
    return Slot(named, "VALUE", "strict", f"The {named} is {{v}}", False)


def group(text: str) -> bool:
    """Whether a thing is a group of people."""
    return text.lower().split()[-1:] != [] and text.lower().split()[-1] in _AREAS


def described_post(reader: StatementReader, tokens: Sequence[Token]) -> Slot | None:
    """ "Captain of our team": a post without its article."""
    text = joined(tokens)
    m = re.match(r"^(?:(?:the|our|my) )?(?P<noun>(?:[\w-]+ ){0,2}?[\w-]+) (?:of|for) (?P<own>.+)$", text)
    if m is None:
        return None
    own = _cut(tokens, m.span("own"))
    found = reader.referent(own)
    if found is None:
        return None
    shown = f"the {found}" if found[:1].islower() else found
    return slot_of(found, _cut(tokens, m.span("noun")), f"The {{n}} of {shown} is {{v}}")
