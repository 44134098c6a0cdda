"""Open statements: any clause with a subject that can be named and a complement that is a value, whatever its verb.

The relation is the verb with its particle and preposition, the text the clause told in the third person. What one
begins to have or do ("signed up for", "ended up with") holds from then on; what one swaps or leaves is over. The
readers of single relations come first; this one reads what is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memspan.longterm.base import FactDraft
from memspan.longterm.scribe import verbs
from memspan.longterm.scribe.descriptions import describe, slot_of
from memspan.longterm.scribe.fragments import apposed, before, fragment, instead, there
from memspan.longterm.scribe.phrases import Phrase, capital, doing, phrase, special, tail
from memspan.longterm.scribe.relations import Effect
from memspan.longterm.scribe.statements import Statement, plain
from memspan.longterm.scribe.values import CLOCK, name_run, role_like, source_text, trim
from memspan.longterm.scribe.wording import TASTES, opening, third_person

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.told import StatementReader

_NOMINATIVE = frozenset(("i", "we", "he", "she", "they", "you"))
_CLITICS = frozenset(("'m", "'re", "'ve", "'s", "'ll"))
_FINITE = frozenset(("VBD", "VBZ", "VBP", "MD"))
_TYPED = re.compile(rf"^(?:{CLOCK}|[$€£]? ?\d)", re.IGNORECASE)


@dataclass(slots=True)
class _Clause:
    subject: str
    verb: list[Token]  # the finite verb, auxiliaries and the main verb
    rest: list[Token]  # what follows the main verb
    lemma: str
    passive: bool
    plural: bool  # the verb agrees with "I" or a plural pronoun
    generic: bool  # the subject is a bare noun ("practice", "members"): only a typed value is a fact about it

    @property
    def main(self) -> Token:
        return self.verb[-1]


def open_facts(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    """What a statement says that no reader of a single relation has read."""
    for rule in (before, instead, fragment, apposed, there, _clauses):
        if found := list(rule(reader, statement)):
            yield from found
            return


# --- clauses --------------------------------------------------------------------------------------------------------


def _clauses(reader: StatementReader, statement: Statement) -> Iterator[FactDraft]:
    clause = _clause(reader, statement.tokens)
    if clause is None:
        return
    for rule in (_put, _named):
        if found := list(rule(reader, statement, clause)):
            yield from found
            return
    if clause.verb[0].lower_ in ("can", "ca", "must") or (clause.passive and clause.main.lower_ in verbs.MOODS):
        return
    if clause.lemma in ("change", "move") and not clause.rest and not clause.passive:
        place = next(k for k, t in enumerate(statement.tokens) if t is clause.verb[0])
        if (slot := describe(reader, statement.tokens[:place])) is not None and slot.kind != "time":
            reader.slot = replace(slot, strong=True)
            reader.pending = next((s.start for s in statement.spans if s.start), None)
    if not clause.subject or (clause.lemma in verbs.TELLING and not _kept(clause)):
        return
    if clause.lemma in verbs.EXCHANGE and (found := list(_exchanged(reader, statement, clause))):
        yield from found
    elif clause.lemma not in verbs.EXCHANGE - {"switch", "change"} or (clause.rest and clause.rest[0].lower_ == "to"):
        yield from _complement(reader, statement, clause)


def _kept(clause: _Clause) -> bool:
    return bool(clause.rest) and f"{clause.lemma} {clause.rest[0].lower_}" in ("look after", "send to")


def _clause(reader: StatementReader, tokens: Sequence[Token]) -> _Clause | None:
    """Subject, verb group and the rest; without a subject, a verb of change is the speaker's."""
    place = _finite(tokens)
    if place is None or not plain(tokens[place]).strip("'").isalpha() or tokens[place].lower_ in ("'d", "’d"):
        return None
    head: list[Token] = []
    if place == 0:
        subject = (reader.names.speaker if verbs.lemma(tokens[0]) in verbs.CHANGES else None) or ""
    else:
        head = [t for t in tokens[:place] if t.tag_ not in ("RB", "UH") or t.pos_ == "PROPN"]
        while head and head[0].is_punct:
            head = head[1:]
        subject = (reader.referent(head) or "") if head and _nameable(head) else ""
        if not head:
            return None
    end = place
    while end + 1 < len(tokens) and _auxiliary(tokens, end):
        step = end + 1
        while step < len(tokens) and (tokens[step].pos_ == "ADV" or tokens[step].dep_ == "neg"):
            step += 1
        if step == len(tokens) or not _verbal(tokens[step]):
            break
        end = step
    group = [t for t in tokens[place : end + 1] if t.pos_ != "ADV" or t is tokens[end]]
    lemma = verbs.lemma(group[-1])
    helper = verbs.lemma(group[-2]) if len(group) > 1 else ""
    if lemma == "get" and helper == "have":
        lemma = "have"
    passive = group[-1].tag_ in ("VBN", "VBD") and helper in ("be", "get") and group[-1].lower_ != "been"
    plural = bool(head) and head[-1].lower_ in ("i", "we", "they", "you")
    generic = len(head) == 1 and head[0].pos_ != "PROPN" and head[0].lower_ not in _NOMINATIVE
    return _Clause(subject, group, list(tokens[end + 1 :]), lemma, passive, plural, generic)


def _finite(tokens: Sequence[Token]) -> int | None:
    if tokens and tokens[0].lower_ in _NOMINATIVE:
        return next((k for k, t in enumerate(tokens) if k and t.pos_ != "ADV" and not t.is_punct), None)
    if tokens and verbs.lemma(tokens[0]) in verbs.CHANGES and tokens[0].lower_ != verbs.lemma(tokens[0]):
        return 0 if tokens[0].tag_ != "VBG" else None
    found = next((k for k, t in enumerate(tokens) if t.tag_ in _FINITE or _clitic(t)), None)
    if found is None:
        found = next((k for k, t in enumerate(tokens) if k and t.dep_ == "ROOT" and t.tag_ in ("VB", "VBN")), None)
    return found


def _clitic(token: Token) -> bool:
    return plain(token).lower() in _CLITICS and (token.tag_ != "POS" or token.pos_ == "AUX")


def _auxiliary(tokens: Sequence[Token], place: int) -> bool:
    token = tokens[place]
    return token.tag_ == "MD" or _clitic(token) or verbs.lemma(token) in ("be", "have", "will", "get")


def _verbal(token: Token) -> bool:
    return token.tag_ in ("VBN", "VBG", "VBD") or (token.tag_ == "VB" and token.pos_ in ("VERB", "AUX"))


def _nameable(head: Sequence[Token]) -> bool:
    first = head[0]
    if first.tag_ in ("VBG", "VB"):
        return False
    owned = first.lower_ in ("my", "our", "the", "his", "her", "your") or any(t.tag_ == "POS" for t in head)
    if len(head) == 1 and first.lower_ in ("i", "we", "he", "she"):
        return True
    lower = first.lower_ in ("it", "that", "this", "there", "they", "you", "who", "what", "which", "one")
    if lower or any(t.lower_ in verbs.OTHERS for t in head):
        return False
    head_noun = trim(head)[-1] if trim(head) else first
    return (owned or first.pos_ == "PROPN" or head_noun.tag_ == "NNS" or len(head) == 1) and (
        head_noun.lemma_.lower() not in verbs.LIGHT_NOUNS
    )


def _complement(reader: StatementReader, statement: Statement, clause: _Clause) -> Iterator[FactDraft]:
    """Subject, verb and the value that follows it."""
    rest = clause.rest
    lead: list[Token] = []
    while rest and (rest[0].tag_ == "RP" or rest[0].lower_ in verbs.PARTICLES) and len(rest) > 1:
        lead, rest = [*lead, rest[0]], rest[1:]
    lemma = clause.lemma
    while rest and rest[0].pos_ == "ADV":
        rest = rest[1:]
    state = None
    if lemma == "be" and rest and rest[0].pos_ in ("ADJ", "VERB") and len(rest) > 2 and rest[1].pos_ == "ADP":
        state = rest[0]
        person = reader.labels.get(clause.subject) == "PERSON" or all(w[:1].isupper() for w in clause.subject.split())
        if state.lower_ in verbs.MOODS or state.tag_ == "VBG" or not (person or state.pos_ == "VERB"):
            return
        lead, rest = [*lead, rest[0]], rest[1:]
    to = bool(rest) and rest[0].lower_ == "to" and clause.passive
    if rest and (to or rest[0].pos_ in ("ADP", "SCONJ")) and rest[0].tag_ in ("IN", "TO", "RP") and len(rest) > 1:
        lead, rest = [*lead, rest[0]], rest[1:]
    full = False
    if not rest:
        rest, full = _typed_rest(statement, clause), True
        if not rest:
            return
        if rest[0].pos_ == "ADP":
            lead, rest = [rest[0]], rest[1:]
    key = " ".join([lemma, *(t.lower_ for t in lead)])
    preposition = lead[-1].lower_ if lead and lead[-1].pos_ in ("ADP", "PART", "SCONJ") else ""
    begun = (
        key in verbs.ACQUIRE
        or key.removesuffix(" by") in verbs.ACQUIRE
        or (lemma in verbs.ACQUIRE and not preposition)
        or (clause.passive and lemma in verbs.GIVEN)
    )
    light = (lemma in verbs.LIGHT and key not in verbs.ACQUIRE) or key == "get"
    light = light and not (clause.passive and lemma in verbs.GIVEN)
    lost = key in verbs.LOSE or (lemma in verbs.LOSE and not preposition)
    if lemma in TASTES or (lost and statement.tense != "present") or not _lasts(statement, clause, begun):
        return
    if lemma == "be" and not lead:
        yield from _is(reader, statement, clause, rest, full=full)
        return
    if len(rest) >= 1 and rest[0].lower_ in ("me", "us", "him", "her") and (len(rest) == 1 or rest[1].pos_ == "ADP"):
        yield from _of_person(reader, statement, clause, lead, rest)
        return
    found = phrase(
        rest, definite=bool(statement.now) or lemma == "be", strict=light or preposition in ("in", "on", "at", "with")
    )
    if found is None:
        yield from _at_time(reader, statement, clause, [*lead, *rest])
        return
    marked = special(found.tokens)
    if (
        (clause.generic and not (marked or full))
        or (preposition == "like")
        or (light and not marked and found.tokens[0].tag_ == "PRP$")
    ):
        return
    if trim(found.tokens)[-1].tag_ == "VBG" and (found := doing(found)) is None:
        return
    if state is None and lemma == "be" and not _placeable(found, preposition, statement):
        return
    if f"{preposition} {found.value.lower()}" in verbs.IDIOMS:
        return
    tense = statement.tense
    if begun and lemma in verbs.PLANNED and statement.tense == "future" and not statement.spans:
        return
    news = (begun and tense != "present") or (clause.passive and tense == "perfect")
    effect: Effect = "change" if news or statement.now else "state"
    tokens = [*found.tokens, *tail(found)]
    yield from _fact(reader, statement, clause, lead, tokens, found, effect, full=full)
    if found.tokens[0].lower_ in ("a", "an", "my") and (begun or light or lemma == "work"):
        slot = slot_of(clause.subject, trim(found.tokens), "{s}'s {n} is {v}")
        if slot is not None and slot.kind != "time":
            reader.slot = replace(slot, strong=True)


def _fact(
    reader: StatementReader,
    statement: Statement,
    clause: _Clause,
    lead: Sequence[Token],
    tokens: Sequence[Token],
    found: Phrase,
    effect: Effect,
    *,
    full: bool = False,
) -> Iterator[FactDraft]:
    said, shown = reader.names.render(tokens), reader.names.render(trim(found.tokens, prepositions=True))
    if not said or not shown:
        return
    said, shown = (text if text.count('"') % 2 == 0 else text.replace('"', "") for text in (said, shown))
    if statement.tense == "future" and clause.lemma == "be" and reader.labels.get(clause.subject) != "PERSON":
        statement = replace(statement, tense="present")
    group = _told(clause, statement)
    words = [group, *(plain(t) for t in lead), said]
    relation = verbs.relation(clause.lemma, lead)
    yield from reader.draft(
        statement,
        clause.subject,
        relation,
        shown,
        effect,
        text=f"{opening(clause.subject)} {' '.join(words)}".replace("{", "(").replace("}", ")"),
        functional=False,
        without=found.tokens if full else (),
    )


def _told(clause: _Clause, statement: Statement) -> str:
    """The verb group in the third person singular."""
    first, *others = clause.verb
    lower = plain(first).lower()
    plural = clause.plural
    following = others[0] if others else None
    if lower == "'s":
        perfect = following is not None and (following.lower_ in ("been", "got") or statement.tense == "perfect")
        head = "has" if perfect else "is"
    elif lower in ("'m", "'re", "am", "are"):
        head = "is" if plural or lower in ("'m", "am") else "are"
    elif lower in ("have", "'ve"):
        head = "has" if plural or lower == "'ve" else "have"
    elif lower == "were":
        head = "was" if plural else "were"
    elif lower == "'ll":
        head = "will"
    elif plural and first.tag_ not in ("VBD", "MD", "VBN") and first.pos_ != "AUX" and lower == verbs.lemma(first):
        head = third_person(first) if first.lemma_.lower() == lower else f"{lower}s"
    else:
        head = lower
    words = [head, *(plain(t) for t in others)]
    return " ".join(words).replace("has got", "has")


def _typed_rest(statement: Statement, clause: _Clause) -> list[Token]:
    """The time of day, date or number that follows the verb, which is no time expression of the clause then."""
    place = next((k for k, t in enumerate(statement.all) if t.i == clause.main.i), None)
    if place is None:
        return []
    rest = statement.all[place + 1 :]
    while rest and rest[0].pos_ == "ADV":
        rest = rest[1:]
    bare = rest[1:] if rest and rest[0].pos_ == "ADP" else rest
    while bare and bare[0].lower_ in ("about", "around"):
        bare = bare[1:]
    return rest if bare and (_TYPED.match(" ".join(plain(t) for t in bare)) or _clocked(bare)) else []


def _clocked(tokens: Sequence[Token]) -> bool:
    return tokens[0].like_num and (len(tokens) == 1 or tokens[1].pos_ != "NOUN")


def _lasts(statement: Statement, clause: _Clause, begun: bool) -> bool:
    """Whether a clause in the past tells what held for a while: one event is told by the reader of plain verbs."""
    if statement.tense != "past" or begun:
        return True
    long = clause.lemma != "have" and any(s.start and s.end and (s.end - s.start).days > 27 for s in statement.spans)
    long = long and not any(s.text.lower().startswith("for ") for s in statement.spans)
    ranged = any(s.text.lower().startswith(("from", "between")) for s in statement.spans)
    ranged = ranged or len({s.role for s in statement.spans} & {"from", "until"}) > 0
    return (long or ranged) and (clause.main.lemma_.lower() in verbs.STATES or clause.passive)


def _at_time(
    reader: StatementReader, statement: Statement, clause: _Clause, rest: Sequence[Token]
) -> Iterator[FactDraft]:
    """ "I go to bed at 11 pm": the value is the time of day."""
    m = re.search(rf" (?:at|until|till|from|by) (?P<v>{CLOCK})", statement.full, re.IGNORECASE)
    said = reader.names.render(rest) if m else None
    if m is None or not said or statement.tense != "present" or len(rest) > 5:
        return
    text = f"{opening(clause.subject)} {_told(clause, statement)} {said}{m[0]}"
    relation = verbs.relation(clause.lemma, [*(t for t in rest if t.is_alpha and not t.is_punct)])
    value = source_text(statement.group(m, "v"))
    yield from reader.draft(statement, clause.subject, relation, value, "state", text=text, without=statement.all)


def _placeable(found: Phrase, preposition: str, statement: Statement) -> bool:
    """Whether "to be on this" tells where or on what somebody is, not how they are."""
    marked = special(found.tokens)
    article = found.tokens[0].lower_ in ("a", "an") and len(found.tokens) > 2
    if found.tokens[0].tag_ == "PRP$" and not marked:
        return False
    return (
        marked
        or preposition in ("into", "about", "down to", "up to")
        or found.value.isdigit()
        or (
            preposition in ("on", "in", "with")
            and (article or bool(statement.now or statement.spans or statement.since))
        )
    )


def _is(
    reader: StatementReader, statement: Statement, clause: _Clause, rest: Sequence[Token], *, full: bool
) -> Iterator[FactDraft]:
    """ "Ann is Estonian", "the password is plumcake", "Ann is lactose intolerant"."""
    found = phrase(rest)
    if found is None:
        return
    kept = trim(found.tokens)
    last = kept[-1]
    person = reader.labels.get(clause.subject) == "PERSON" or clause.subject == reader.names.speaker
    person = person or clause.verb[0].nbor(-1).pos_ == "PROPN" if clause.verb[0].i else person
    subject = clause.subject.lower().split()[-1]
    digit = any(c.isdigit() for c in found.value)
    proper = any(capital(t) for t in kept)
    if person:
        people = last.ent_type_ in ("NORP", "LANGUAGE") or (proper and last.pos_ in ("ADJ", "NOUN", "PROPN"))
        compound = last.pos_ == "ADJ" and len(kept) == 2 and kept[0].pos_ in ("NOUN", "ADJ")
        compound = compound and not any(t.lower_ in verbs.MOODS or t.lower_ in verbs.VAGUE for t in kept)
        member = re.match(r"(?:member|owner|holder|resident|native|citizen)$", last.lower_) or (
            len(kept) > 2 and kept[0].lower_ in ("member", "owner", "captain")
        )
        if not (people or compound or member or (role_like(last) and found.tokens[0].lower_ in ("a", "an"))):
            return
    elif not (digit or proper or subject in verbs.DESIGNATING) or (last.pos_ == "ADJ" and not (digit or proper)):
        return
    effect: Effect = "change" if statement.now else "state"
    yield from _fact(reader, statement, clause, [], [*found.tokens, *tail(found)], found, effect, full=full)


def _of_person(
    reader: StatementReader, statement: Statement, clause: _Clause, lead: Sequence[Token], rest: Sequence[Token]
) -> Iterator[FactDraft]:
    """ "Ravi mentors me"."""
    other = reader.referent([rest[0]])
    if (
        clause.generic
        or other is None
        or other == clause.subject
        or clause.lemma in verbs.LIGHT
        or clause.lemma in verbs.MENTAL
    ):
        return
    if statement.tense == "past" and not statement.spans:
        return
    words = [_told(clause, statement), *(plain(t) for t in lead), other]
    relation = verbs.relation(clause.lemma, lead)
    text = f"{opening(clause.subject)} {' '.join(words)}"
    effect: Effect = "change" if statement.now else "state"
    yield from reader.draft(statement, clause.subject, relation, other, effect, text=text, functional=False)


# --- one value for another ------------------------------------------------------------------------------------------


def _exchanged(reader: StatementReader, statement: Statement, clause: _Clause) -> Iterator[FactDraft]:
    """ "I swapped X for Y", "we went from X to Y", "changed my topic from X to Y"."""
    if statement.tense == "future" or clause.passive:
        return
    rest = clause.rest
    while rest and (rest[0].lower_ in verbs.PARTICLES or rest[0].tag_ == "RP") and rest[0].lower_ != "to":
        rest = rest[1:]
    thing: list[Token] = []
    sides = _sides(rest, "with" if clause.lemma == "replace" else "for")
    if sides is None:
        return
    thing, old, new = sides
    got = phrase(new, light=True) if new else None
    if got is None:
        return
    shown = reader.names.render(trim(got.tokens))
    said = reader.names.render([*got.tokens, *tail(got)])
    if not shown or not said:
        return
    if old:
        yield from reader.over(statement, clause.subject, trim(old, prepositions=True))
    effect: Effect = "change"
    slot = None
    if thing and thing[0].lower_ in ("my", "our", "his", "her", "the", "their"):
        slot = slot_of(clause.subject, trim(thing)[-2:] if thing[0].lower_ == "the" else thing[1:], "{s}'s {n} is {v}")
    if slot is not None and slot.kind != "time":
        yield from reader.draft(statement, slot.subject, slot.relation, shown, effect, text=slot.template, said=said)
        return
    text = f"{opening(clause.subject)} switched to {said}"
    yield from reader.draft(statement, clause.subject, "SWITCHED_TO", shown, effect, text=text, functional=False)


def _sides(rest: Sequence[Token], link: str) -> tuple[list[Token], list[Token], list[Token]] | None:
    """`(thing, old, new)` of "THING from OLD to NEW" and "OLD for NEW"; None when there are not two sides."""
    lower = [t.lower_ for t in rest]
    source = next((k for k, w in enumerate(lower) if w == "from"), None)
    target = next(
        (k for k, w in enumerate(lower) if w in ("to", link, "into") and (source is None or k > source)), None
    )
    if target is None or target + 1 >= len(rest):
        return None
    if source is not None:
        return list(rest[:source]), list(rest[source + 1 : target]), list(rest[target + 1 :])
    if target == 0:
        return ([], [], list(rest[1:])) if lower[0] == "to" else None
    return [], list(rest[:target]), list(rest[target + 1 :])


def _put(reader: StatementReader, statement: Statement, clause: _Clause) -> Iterator[FactDraft]:
    """ "They've put me in seat 14C", "the doctor put Ann on statins", "they gave me desk 17"."""
    if clause.lemma not in verbs.PUT or clause.passive or len(clause.rest) < 2 or statement.tense == "future":
        return
    run = name_run(clause.rest)
    who = clause.rest[:1] if clause.rest[0].lower_ in ("me", "us", "him", "her") else run
    after = clause.rest[len(who) :]
    person = reader.referent(who) if who else None
    if person is None or not after:
        return
    preposition = after[0] if after[0].pos_ == "ADP" else None
    impersonal = statement.tokens[0].lower_ in ("it", "that", "this")
    bare = preposition is None
    got = None if impersonal else phrase(after if bare else after[1:], strict=bare, definite=not bare)
    if got is None or (preposition is None and clause.lemma not in verbs.GIVEN):
        return
    said, shown = reader.names.render([*got.tokens, *tail(got)]), reader.names.render(trim(got.tokens))
    if not said or not shown:
        return
    placed = preposition is None or preposition.lower_ == "on" or _placeable(got, preposition.lower_, statement)
    if not placed and not any(t.lower_ == "of" for t in got.tokens):
        return
    verb = f"is {preposition.lower_}" if preposition is not None else "has"
    relation = f"IS_{preposition.lower_.upper()}" if preposition is not None else "HAS"
    text = f"{opening(person)} {verb} {said}"
    yield from reader.draft(statement, person, relation, shown, "change", text=text, functional=False)


def _named(reader: StatementReader, statement: Statement, clause: _Clause) -> Iterator[FactDraft]:
    """ "Everybody calls Roberta Bobbie", "people call me Fitz"."""
    if clause.lemma not in ("call", "name", "nickname") or len(clause.rest) < 2 or clause.passive:
        return
    first = clause.rest[0]
    if not (first.lower_ in ("me", "us", "him", "her") or capital(first)):
        return
    person, name = reader.referent([first]), name_run(clause.rest[1:])
    if person and name:
        text = f"{opening(person)} is called {{v}}"
        yield from reader.draft(statement, person, "CALLED", source_text(name), "state", text=text, functional=False)
