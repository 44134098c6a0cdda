"""Noun phrases that can be values: names, numbers, and nouns that name a thing or an activity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from memspan.longterm.scribe import verbs
from memspan.longterm.scribe.values import name_run, source_text, trim

if TYPE_CHECKING:
    from spacy.tokens import Token


@dataclass(slots=True)
class Phrase:
    """A noun phrase, what follows it, and its text without the determiner."""

    tokens: list[Token]  # with its determiner
    after: list[Token]
    value: str


def phrase(
    tokens: Sequence[Token], *, definite: bool = True, strict: bool = False, light: bool = False
) -> Phrase | None:
    """The noun phrase that begins some tokens when it can be a value; `strict` asks for a name, a number or a thing."""
    tokens = list(tokens)
    while tokens and tokens[0].pos_ == "ADV" and not tokens[0].like_num:
        tokens = tokens[1:]
    cut = next((k for k, t in enumerate(tokens) if k and t.lower_ in ("called", "named")), len(tokens))
    kept = trim(tokens[:cut])
    if any(t.lower_ in ("a", "an") and before.pos_ in ("NOUN", "PROPN") for before, t in pairwise(kept)):
        return None  # "my mum a new car": two phrases
    if not kept or len(kept) > 7 or tokens[0].lower_ in verbs.POINTING:
        return None
    last = kept[-1]
    end = [t.i for t in tokens].index(last.i) + 1
    if last.tag_ == "POS" and len(kept) > 1:
        last = kept[-2]
    if any(t.pos_ in ("PRON", "VERB", "AUX") and t.tag_ not in ("VBG", "VBN", "PRP$", "VBD", "VB") for t in kept):
        return None
    marked = bool(name_run(kept)) or any(capital(t) for t in kept) or any(c.isdigit() for t in kept for c in t.text)
    marked = marked or any(t.like_num and t.lower_ != "one" for t in kept[:-1])
    first = tokens[0].lower_
    if not marked:
        lemma = last.lemma_.lower()
        if any(t.tag_ == "VB" for t in kept):
            return None
        noun = last.pos_ in ("NOUN", "PROPN", "NUM", "X") or last.tag_ == "VBG" or (last.pos_ == "ADJ" and not strict)
        idle = (lemma in verbs.LIGHT_NOUNS or last.lower_ in verbs.LIGHT_NOUNS) and not light
        if not noun or idle or not last.is_alpha:
            return None
        if any(t.lower_ in verbs.VAGUE for t in tokens[:end]):
            return None
        if strict and (verbs.abstract(lemma) or last.tag_ == "VBG" or (first == "the" and not definite)):
            return None
    if len(kept) == 1 and last.is_stop and not last.like_num and not marked:
        return None
    return Phrase(tokens[:end], tokens[end:], source_text(kept))


def capital(token: Token) -> bool:
    """Whether a word has a capital letter, as names do."""
    return any(c.isupper() for c in token.text) and token.lower_ not in ("i", "a")


def special(tokens: Sequence[Token]) -> bool:
    """Whether a phrase has a name or a number."""
    return any(capital(t) or t.tag_ == "CD" or any(c.isdigit() for c in t.text) for t in tokens)


def tail(found: Phrase) -> list[Token]:
    """What belongs to a value after it: an apposed name, the place it is at."""
    after = found.after
    kept: list[Token] = []
    if len(after) > 1 and after[0].text == "," and (named := phrase(after[1:])) and name_run(after[1:]):
        return [after[0], *named.tokens]
    while len(after) > 1 and after[0].lower_ in (
        "in",
        "at",
        "on",
        "of",
        "with",
        "near",
        "by",
        "for",
        "from",
        "called",
        "named",
    ):
        more = phrase(after[1:])
        if more is None or len(kept) + len(more.tokens) > 10:
            break
        kept += [after[0], *more.tokens]
        after = more.after
    return kept


def doing(found: Phrase) -> Phrase | None:
    """ "Started learning the piano": what is done belongs to the value."""
    more: list[Token] = []
    for token in found.after:
        if token.is_punct or token.pos_ in ("CCONJ", "SCONJ", "PRON"):
            break
        more.append(token)
    while more and more[-1].pos_ in ("ADP", "ADV", "DET", "PART"):
        more.pop()
    if found.after and not more and not found.after[0].is_punct and found.after[0].pos_ != "CCONJ":
        return None
    tokens = [*found.tokens, *more]
    return Phrase(tokens, [], source_text(tokens)) if len(tokens) < 8 else None
