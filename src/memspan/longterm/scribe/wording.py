"""English words and forms that fact reading needs: verb forms, what a noun can be, how a clause is told again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from memspan.longterm.scribe.relations import KIN, ROLES, Kind

if TYPE_CHECKING:
    from spacy.tokens import Token

    from memspan.longterm.scribe.clauses import Clause
    from memspan.longterm.scribe.names import Names


def words(text: str) -> frozenset[str]:
    """A set of words written as one string."""
    return frozenset(text.split())


WANTS: Mapping[str, tuple[str, str]] = {
    "want": ("WANTS_TO", "wants"),
    "hope": ("HOPES_TO", "hopes"),
    "plan": ("PLANS_TO", "plans"),
    "intend": ("PLANS_TO", "plans"),
}
PREPOSITIONS = frozenset(("to", "at", "for", "in", "on", "with", "about"))
EMPTY = words(
    "thing things something anything nothing everything stuff lot lots bit way ways time times idea ideas kind sort "
    "fun point sense part chance moment feeling feelings word words break look turn care everyone someone people "
    "that this it one ones others much more all some same rest case place job something"
)
ORGANISATIONS = words(
    "company firm startup bank hospital school university restaurant café cafe shop store library factory museum "
    "bakery clinic lab laboratory agency hotel gym studio farm bookstore bookshop supermarket ngo nonprofit newspaper "
    "organization organisation college airline brewery pharmacy warehouse kindergarten daycare shelter"
)
_SCHOOLS = words("university college school academy institute uni")
_SERVICES = words("instagram facebook twitter linkedin whatsapp tiktok reddit discord zoom netflix youtube slack")
_JOBS = words("job position work career role internship")
# Verbs that say little of their object, or that say how something was said.
_WEAK = words(
    "be have do get make take say think know feel see hope guess mean let seem look thank appreciate find give come go "
    "tell ask talk speak hear happen try keep put set leave believe wonder wish need want sound agree bet suppose "
    "remember forget understand imagine show help bring call turn stay end run hold pass wait start begin stop "
    "realize notice mention share send check add use include involve mind care matter become consider excite hit "
    "move change shift postpone reschedule push book schedule"
)
_WEAK_WITH_PREPOSITION = _WEAK - frozenset(("go", "run"))
TASTES = words("like love enjoy hate prefer adore dislike")
TRANSITIVE_ONLY = words("like love enjoy hate prefer adopt buy own paint visit")
_BESIDE = words("also too sometimes occasionally temporarily weekends second both additionally parttime freelance")
_VAGUE_PAST = words("once originally previously formerly earlier long ago back")
_DROPPED = words("just now really actually also too so well still already finally recently even then anyway lately")
_OWNED = words("dog cat kid child son daughter brother sister car house boat pet horse bike cottage twin")
_LEANING = words("it this that these those they them he him she her his its their there here one")
_BAD_OBJECT_DETERMINERS = frozenset(("no", "any", "every", "such", "what", "which", "whose"))


def sentence(text: str) -> str:
    """Text as a sentence: first letter as it is (it is a name), one full stop."""
    return " ".join(text.split()).strip(" ,;:-–.!") + "."


def opening(subject: str) -> str:
    """A subject as it begins a sentence: things that are no names get their article back."""
    return f"The {subject}" if subject[:1].islower() else subject


def vague_past(tokens: Sequence[Token]) -> bool:
    """Whether a clause points at an unnamed earlier time ("once", "long ago")."""
    return any(t.lower_ in _VAGUE_PAST and t.dep_ in ("advmod", "pcomp") for t in tokens)


def just(clause: Clause) -> bool:
    """Whether the clause is news of the moment ("just", or a present perfect)."""
    return any(c.lower_ == "just" for c in clause.verb.children)


def fits(head: Token, kind: Kind, names: Names) -> str | None:
    """The object's name if it can be of the kind; "" for an unnamed one that an ending may speak of; else None."""
    if head.like_num or head.ent_type_ in ("DATE", "TIME", "CARDINAL", "MONEY", "PERCENT", "ORDINAL", "QUANTITY"):
        return None
    proper = head.pos_ == "PROPN"
    lemma = head.lemma_.lower()
    if kind == "role":
        role = (
            lemma in ROLES or lemma.endswith(("ologist", "ician", "engineer", "manager")) or head.text in ("CEO", "CTO")
        )
        return names.thing(head) if role and head.tag_ != "NNS" else None
    if kind == "person":
        if proper and head.ent_type_ not in ("ORG", "GPE", "LOC", "FAC", "NORP"):
            return names.person(head)
        return names.person(head) if lemma in KIN or head.lower_ in ("me", "him", "her") else None
    if kind == "place":
        if not proper or head.ent_type_ in ("NORP", "EVENT"):
            return None
        return names.person(head) if head.ent_type_ != "ORG" or _mistaken_for_org(head) else None
    if kind == "school":
        schooled = any(word in head.text.lower() for word in _SCHOOLS)
        if proper and (head.ent_type_ == "ORG" or schooled):
            return names.person(head)
        return names.thing(head) if lemma in _SCHOOLS else None
    if lemma in _SERVICES or lemma in KIN:
        return None
    preposition = head.dep_ == "pobj" and head.head.lower_ in ("at", "for", "by", "with", "from")
    if proper and (head.ent_type_ == "ORG" or (preposition and head.ent_type_ not in ("PERSON", "GPE", "LOC", "NORP"))):
        return names.person(head)
    if proper and preposition and head.head.lower_ in ("at", "from", "by", "for") and head.ent_type_ != "PERSON":
        return names.person(head)
    return names.thing(head) if lemma in ORGANISATIONS and preposition else None


def _mistaken_for_org(head: Token) -> bool:
    """A town that the pipeline takes for a company: one capitalised word that somebody lives in or moves to."""
    verb = head.head.head if head.dep_ == "pobj" else head
    lone = all(t.i == head.i for t in head.doc[max(0, head.i - 1) : head.i + 2] if t.ent_type_ == "ORG")
    home = verb.pos_ == "AUX" and any(t.lower_ == "home" for t in verb.children)
    return (
        lone
        and head.text.istitle()
        and (home or verb.lemma_ in ("move", "relocate", "emigrate", "settle", "live", "reside"))
    )


def beside(clause: Clause) -> bool:
    """Whether a clause adds to what is known instead of replacing it ("also", "part-time", "on weekends")."""
    own = {t.lower_ for t in clause.tokens()}
    return bool(own & _BESIDE) or {"part", "time"} <= own


def is_weak(verb: Token) -> bool:
    """Whether a verb says little without its object."""
    return verb.lemma_.lower() in _WEAK


def third_person(token: Token) -> str:
    """A present verb's third person singular."""
    lemma = str(token.lemma_).lower()
    irregular = {"be": "is", "have": "has", "do": "does", "go": "goes"}
    irregular |= {"'m": "is", "’m": "is", "'re": "is", "’re": "is", "'ve": "has", "’ve": "has"}
    if lemma in irregular:
        return irregular[lemma]
    if lemma.endswith(("s", "x", "z", "ch", "sh", "o")):
        return lemma + "es"
    if lemma.endswith("y") and len(lemma) > 1 and lemma[-2] not in "aeiou":
        return lemma[:-1] + "ies"
    return lemma + "s"


def relation_name(clause: Clause, preposition: str) -> str:
    """The verb as a relation: "LIKES", "ADOPTED", "WENT_TO"; a progressive or an ended habit counts as the present."""
    verb = clause.verb
    past = clause.tense in ("past", "perfect") and not clause.ceased
    if past and verb.tag_ == "VBG":
        return f"WAS_{verb.text}".upper()
    word = verb.text if past and verb.tag_ in ("VBD", "VBN") else third_person(verb)
    particle = next((c.lower_ for c in verb.children if c.dep_ == "prt"), "")
    return "_".join(p for p in (word, particle, preposition) if p).upper().replace("-", "_")


def plain_verb(clause: Clause) -> bool:
    """Whether a clause's verb says enough to be a relation of its own."""
    verb = clause.verb
    if not verb.is_alpha or verb.pos_ != "VERB":
        return False
    if verb.lemma_ == "have":
        return clause.tense == "present" and any(possession(o) for o in clause.objects())
    return verb.lemma_ not in (_WEAK if clause.objects() else _WEAK_WITH_PREPOSITION)


def possession(head: Token) -> bool:
    """Whether "to have" this is to own it or to be related to it: kin, animals, things one owns."""
    return head.lemma_.lower() in _OWNED or head.lemma_.lower() in KIN


def solid(head: Token) -> bool:
    """Whether a noun can be the object of a fact by itself."""
    if head.pos_ not in ("NOUN", "PROPN") or head.lemma_.lower() in EMPTY or not any(c.isalpha() for c in head.text):
        return False
    return not any(c.lower_ in _BAD_OBJECT_DETERMINERS or c.dep_ == "neg" for c in head.children)


def pointed(head: Token) -> bool:
    """Whether a noun is only pointed at ("this book")."""
    return any(c.dep_ == "det" and c.lower_ in ("this", "that", "these", "those") for c in head.children)


def leans(tokens: Sequence[Token]) -> bool:
    """Whether a phrase holds a word that means nothing outside its turn."""
    return any(t.lower_ in _LEANING and t.pos_ in ("PRON", "DET", "ADV") and t.dep_ != "det" for t in tokens)


def _idle(token: Token) -> bool:
    """Whether an adverb can be left out; "too" in "too many" cannot."""
    if token.lower_ not in _DROPPED:
        return False
    after = token.nbor(1) if token.i + 1 < len(token.doc) else None
    return not (token.lower_ in ("too", "so", "even") and after is not None and after.pos_ in ("ADJ", "ADV"))


def retell(names: Names, clause: Clause, subject: str, token: Token, timed: Sequence[tuple[int, int]]) -> str | None:
    """The clause in the third person without its time words; None when it cannot stand alone."""
    tokens = [t for t in clause.tokens() if not any(a <= t.idx < b for a, b in timed)]
    inside = {t.i for s in clause.subjects for t in s.subtree}
    rest = [t for t in tokens if t.i not in inside and t.i > min(inside, default=-1) and not _idle(t)]
    while rest and (
        rest[-1].dep_ in ("prep", "cc", "punct", "det")
        or (len(rest) > 1 and rest[-1].pos_ == "ADV" and rest[-2].dep_ == "cc")
        or (rest[-1].lower_ == "back" and rest[-1].i + 1 < len(rest[-1].doc) and rest[-1].nbor(1).lower_ == "then")
    ):
        rest.pop()
    if not rest or len(rest) > 24 or clause.verb not in rest or leans(rest):
        return None
    if clause.verb.tag_ == "VBG" and not clause.ceased and not any(a in rest for a in clause.auxiliaries):
        return None
    plural = token.lower_ in ("i", "we", "you")
    parts = [subject + " "]
    finite = next((a for a in clause.auxiliaries if a in rest), clause.verb)
    for place, word in enumerate(rest):
        text = names.word(word)
        if text is None:
            return None
        present = word.tag_ in ("VBP", "VB") and clause.tense in ("present", "progressive", "perfect")
        if word == finite and plural and (present or word.text.startswith(("'", "’"))):
            text = third_person(word) if clause.tense != "past" else word.text
            if word.lower_ in ("'d", "’d"):
                text = "had"
        elif word == finite and word.text in ("'s", "’s"):
            text = "has" if clause.tense == "perfect" else "is"
        elif word == finite and word.lower_ == "were" and plural:
            text = "was"
        following = rest[place + 1].i if place + 1 < len(rest) else -1
        parts.append(text + (word.whitespace_ if following == word.i + 1 else " "))
    return "".join(parts)
