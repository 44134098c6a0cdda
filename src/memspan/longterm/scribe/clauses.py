"""Clauses of a parsed turn: who did what, in which tense, and whether the sentence asserts it at all.

Works on spaCy's English dependency scheme (ClearNLP labels). Questions, conditionals, modals, wishes and hearsay about
beliefs are not assertions and give no clause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

Tense = Literal["past", "present", "perfect", "progressive", "future"]

_MODALS = frozenset(("would", "could", "might", "may", "should", "can", "must", "shall", "ought", "'d", "ca", "wo"))
_FUTURE = frozenset(("will", "'ll", "’ll"))
_NEVER = frozenset(("never", "hardly", "barely", "rarely", "neither", "nor"))
_UNSURE = frozenset(("maybe", "perhaps", "probably", "possibly", "supposedly", "allegedly", "almost", "nearly"))
_SAYING = frozenset(("say", "tell", "announce", "mention", "hear", "know", "learn", "find", "realize", "forget", "be"))
_DOUBTERS = frozenset(("if", "unless", "whether", "as though", "suppose", "supposing", "imagine"))
_SUBJECTS = frozenset(("nsubj", "nsubjpass"))
_OUTSIDE = frozenset(("advcl", "ccomp", "parataxis", "relcl", "conj", "intj", "discourse", "csubj", "xcomp", "acl"))


@dataclass(slots=True)
class Clause:
    """One asserted clause. Tokens are spaCy's; everything it holds dies with the turn's `Doc`.

    Attributes:
        verb: the predicate's head: the main verb, or "be" for "Ann is a nurse".
        subjects: heads of the subjects ("Ann and Bob": two).
        tense: progressive is "is working"; a perfect progressive is "present".
        passive: "was hired", also "got hired".
        negated: "not", "never"; `ceased` is "no longer", "not … any more", "used to", "stopped …".
        ceased: it holds no longer.
        habit: "used to": it ended at an unknown time.
        begun: "started …": a change, whatever the verb.
        auxiliaries: the verb's auxiliaries.
    """

    verb: Token
    subjects: list[Token]
    tense: Tense
    passive: bool = False
    negated: bool = False
    ceased: bool = False
    habit: bool = False
    begun: bool = False
    auxiliaries: list[Token] = field(default_factory=list)

    def objects(self) -> list[Token]:
        """Heads of the direct objects, conjuncts included."""
        return [t for c in self.verb.children if c.dep_ in ("dobj", "obj") for t in with_conjuncts(c)]

    def complements(self) -> list[Token]:
        """Heads of what a linking verb says of its subject ("a nurse", "35", "married")."""
        return [t for c in self.verb.children if c.dep_ in ("attr", "acomp", "oprd") for t in with_conjuncts(c)]

    def after(self, *prepositions: str) -> list[Token]:
        """Heads of the noun phrases after one of the prepositions that belong to the verb or to its object."""
        found: list[Token] = []
        for child in self.verb.children:
            if child.dep_ in ("prep", "agent", "prt", "advmod") and child.lower_ in prepositions:
                found += [t for c in child.children if c.dep_ == "pobj" for t in with_conjuncts(c)]
                inner = [c for c in child.children if c.dep_ == "prep"]  # "moved out of Rome"
                inner += [c for c in self.verb.children if child.dep_ == "prt" and c.dep_ == "prep"]
                found += [t for p in inner for c in p.children if c.dep_ == "pobj" for t in with_conjuncts(c)]
            elif child.dep_ in ("dobj", "attr", "acomp", "prep"):
                for prep in child.children:
                    if prep.dep_ == "prep" and prep.lower_ in prepositions:
                        found += [t for c in prep.children if c.dep_ == "pobj" for t in with_conjuncts(c)]
        return found

    def tokens(self) -> list[Token]:
        """The clause's own tokens in order: without clauses inside it and without what is coordinated with it."""
        own: list[Token] = []

        def walk(token: Token, top: bool) -> None:
            own.append(token)
            for child in token.children:
                inner = (
                    child.dep_ in ("conj", "acl", "xcomp")
                    if not top
                    else child.dep_ == "xcomp" and child.pos_ != "VERB"
                )
                if child.dep_ in _OUTSIDE and not inner:
                    continue
                if child.dep_ == "pcomp" and any(c.dep_ in _SUBJECTS for c in child.children):
                    continue
                if top and child.dep_ in ("cc", "punct", "mark", "preconj"):
                    continue
                walk(child, False)

        walk(self.verb, True)
        return sorted(own, key=lambda token: token.i)


def with_conjuncts(token: Token) -> list[Token]:
    """A head and what is coordinated with it by "and", but not by "or"."""
    if any(c.dep_ == "cc" and c.lower_ in ("or", "but") for c in token.children):
        return [token]
    return [
        token,
        *(
            c
            for c in token.conjuncts
            if c.i > token.i and (c.pos_ == token.pos_ or c.pos_ in ("NOUN", "PROPN") or c.lower_ == "i")
        ),
    ]


def phrase(head: Token) -> list[Token]:
    """The tokens of a noun phrase: modifiers and "of" phrases, without relative clauses and conjuncts."""
    kept: list[Token] = []

    def walk(token: Token) -> None:
        kept.append(token)
        for child in token.children:
            if _timed(child):
                continue
            inner = child.dep_ in ("det", "amod", "compound", "poss", "nummod", "quantmod", "case", "nmod", "advmod")
            inner = inner or child.dep_ in ("pobj", "punct", "npadvmod", "predet", "neg", "hmod", "acomp")
            if child.dep_ == "prep":
                inner = child.lower_ in ("of", "for", "with", "in", "from", "about", "on", "to") and child.i > head.i
            if child.dep_ == "punct":
                inner = child.text in ("-", "/", "$", "'") or child.is_quote
            if inner:
                walk(child)

    walk(head)
    kept.sort(key=lambda token: token.i)
    first = next((i for i in range(len(kept) - 1, 0, -1) if kept[i].i - kept[i - 1].i > 1 and kept[i].i <= head.i), 0)
    kept = kept[first:]
    last = next((i for i in range(1, len(kept)) if kept[i].i - kept[i - 1].i > 1 and kept[i].i > head.i), len(kept))
    return kept[:last]


def _timed(token: Token) -> bool:
    head = next((c for c in token.children if c.dep_ == "pobj"), token) if token.dep_ == "prep" else token
    return token.dep_ in ("prep", "npadvmod", "nmod") and head.ent_type_ in ("DATE", "TIME")


def is_question(sentence: Span) -> bool:
    """Whether a sentence asks: its mark, an auxiliary or a question word in front, or a tag."""
    text = sentence.text.rstrip()
    if "?" in text[-3:]:
        return True
    first = next((t for t in sentence if t.is_alpha), None)
    if first is None:
        return False
    root = sentence.root
    inverted = first.dep_ in ("aux", "auxpass") and first.head == root and first.tag_ != "VB"
    subject = next((c for c in root.children if c.dep_ in _SUBJECTS), None)
    inverted = inverted and subject is not None and subject.i > first.i
    return inverted or (first.tag_ in ("WP", "WDT", "WRB") and first.head == root and first.lower_ != "when")


def _subjects(verb: Token) -> list[Token]:
    for child in verb.children:
        if child.dep_ in _SUBJECTS:
            return with_conjuncts(child)
    if verb.dep_ == "conj" and verb.head.pos_ in ("VERB", "AUX"):  # "Ann left and joined Acme"
        return _subjects(verb.head)
    return []


def _doubtful(verb: Token) -> bool:
    """Whether the clause stands under an "if", a wish, a belief or another clause that does not assert it."""
    for child in verb.children:
        if child.dep_ == "mark" and child.lower_ in _DOUBTERS:
            return True
        if child.dep_ == "advcl" and any(c.dep_ == "mark" and c.lower_ in _DOUBTERS for c in child.children):
            return True
        if child.dep_ == "advmod" and child.lower_ in _UNSURE:
            return True
    if verb.dep_ == "ROOT":
        return False
    if verb.dep_ == "conj":
        return _doubtful(verb.head) or verb.head.tag_ == "VB"
    if verb.dep_ in ("ccomp", "parataxis"):
        head = verb.head
        direct = verb.dep_ == "parataxis" or verb.i < head.i  # "I moved to Rome, I think"
        negated = any(c.dep_ == "neg" for c in head.children)
        sure = head.lemma_ in _SAYING and not any(c.dep_ == "aux" and c.lower_ in _MODALS for c in head.children)
        told = sure or (direct and head.lemma_ not in ("think", "guess", "hope", "wish", "believe", "suppose"))
        return negated or not told or _doubtful(head)
    return not (
        verb.dep_ == "advcl" and any(c.dep_ == "mark" and c.lower_ in ("because", "since", "as") for c in verb.children)
    )


def _tense(verb: Token, auxiliaries: list[Token]) -> Tense | None:
    """The tense of a finite clause, None for a form that asserts nothing."""
    forms = {a.lower_ for a in auxiliaries}
    if forms & _MODALS:
        return None
    if forms & _FUTURE:
        return "future"
    has = any(a.lemma_ == "have" or a.lower_ in ("'ve", "’ve") for a in auxiliaries)
    past = any(a.tag_ == "VBD" for a in auxiliaries)
    be = any(a.lemma_ == "be" or a.lower_ in ("'m", "’m", "'re", "’re") for a in auxiliaries)
    if has:
        if past:
            return "past"
        return "present" if verb.tag_ == "VBG" and be else "perfect"
    if verb.tag_ == "VBG" and auxiliaries:
        return "past" if past else "progressive"
    if past or verb.tag_ == "VBD" or (verb.tag_ == "VBN" and not auxiliaries):
        return "past"
    if verb.tag_ in ("VBP", "VBZ") or auxiliaries:
        return "present"
    # The tagger often takes the first person's plain form for an infinitive ("I live", "We play").
    return "present" if verb.tag_ == "VB" and verb.dep_ in ("ROOT", "conj", "ccomp") else None


def _negation(verb: Token, auxiliaries: list[Token]) -> tuple[bool, bool]:
    """`(negated, ceased)`."""
    negated = ceased = False
    below = [c for c in verb.children if c.dep_ in ("neg", "advmod", "npadvmod", "preconj")]
    words = [c.lower_ for c in below]
    if "longer" in words or "anymore" in words:
        longer = next((c for c in below if c.lower_ == "longer"), None)
        no = longer is not None and any(
            t.lower_ in ("no", "any") for t in (*longer.lefts, longer.nbor(-1) if longer.i else longer)
        )
        ceased = no or "anymore" in words
    more = next((c for c in below if c.lower_ == "more"), None)
    ceased = ceased or (more is not None and more.i > 0 and more.nbor(-1).lower_ == "any")
    negated = any(c.dep_ == "neg" and c.lower_ != "no" for c in below) or any(w in _NEVER for w in words)
    return negated, ceased


def clauses(doc: Doc) -> Iterator[Clause]:
    """The asserted clauses of a turn, in order."""
    for sentence in doc.sents:
        if is_question(sentence):
            continue
        for verb in sentence:
            if verb.pos_ not in ("VERB", "AUX") or verb.dep_ in ("aux", "auxpass", "amod", "compound", "relcl", "acl"):
                continue
            if (made := _clause(verb)) is not None:
                yield made


def _clause(verb: Token) -> Clause | None:
    if verb.dep_ in ("xcomp", "pcomp") or _doubtful(verb):
        return None
    if any(c.tag_ in ("WRB", "WP", "WDT") and c.dep_ != "mark" for c in verb.children):  # "how you did it"
        return None
    subjects = _subjects(verb)
    auxiliaries = [c for c in verb.children if c.dep_ in ("aux", "auxpass")]
    if verb.dep_ == "conj" and not auxiliaries and not any(c.dep_ in _SUBJECTS for c in verb.children):
        shared = [c for c in verb.head.children if c.dep_ in ("aux", "auxpass")]
        auxiliaries = shared if verb.tag_ in ("VB", "VBN", "VBG") or not shared else []
        if any(c.dep_ == "neg" for c in verb.head.children) and verb.tag_ == "VB":
            return None
    tense = _tense(verb, auxiliaries)
    if not subjects or tense is None:
        return None
    negated, ceased = _negation(verb, auxiliaries)
    passive = any(c.dep_ == "auxpass" for c in auxiliaries) or subjects[0].dep_ == "nsubjpass"
    made = Clause(verb, subjects, tense, passive, negated, ceased, auxiliaries=auxiliaries)
    inner = [c for c in verb.children if c.dep_ == "xcomp" and c.pos_ in ("VERB", "AUX")]
    if verb.lemma_ == "use" and verb.tag_ in ("VBD", "VBN") and inner and not passive:  # "used to live"
        return None if negated else Clause(inner[0], subjects, "past", ceased=True, habit=True)
    if verb.lemma_ in ("stop", "quit", "cease") and inner and inner[0].tag_ == "VBG":  # "stopped smoking"
        return None if negated or tense == "future" else Clause(inner[0], subjects, tense, ceased=True)
    if verb.lemma_ in ("start", "begin") and inner and not negated:  # "started working at"
        return Clause(inner[0], subjects, tense, begun=True)
    if verb.lemma_ == "go" and verb.tag_ == "VBG" and inner:  # "is going to move": a plan
        return Clause(inner[0], subjects, "future", negated=negated)
    if verb.lemma_ == "get" and (
        done := [c for c in verb.children if c.dep_ in ("acomp", "auxpass") and c.tag_ == "VBN"]
    ):
        return Clause(done[0], subjects, tense, passive=True, negated=negated, ceased=ceased)
    return made
