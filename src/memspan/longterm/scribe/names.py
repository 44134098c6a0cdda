"""Who is meant: names, pronouns and kin in one turn, and the normal forms by which names and phrases are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from memspan.longterm.scribe.clauses import phrase
from memspan.longterm.scribe.relations import KIN

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_ARTICLES = frozenset(("a", "an", "the", "some", "this", "that", "these", "those"))
_FIRST = frozenset(("i", "we", "me", "us", "myself", "ourselves"))
_MINE = frozenset(("my", "our", "mine", "ours"))
_YOURS = frozenset(("your", "yours", "you", "yourself"))
_GENDER = {"he": "m", "him": "m", "his": "m", "himself": "m", "she": "f", "her": "f", "hers": "f", "herself": "f"}
_POSSESSIVE = frozenset(("my", "our", "your", "his", "her"))
_LABELS = frozenset(
    ("PERSON", "ORG", "GPE", "LOC", "FAC", "EVENT", "WORK_OF_ART", "PRODUCT", "NORP", "LANGUAGE", "LAW")
)


def normalize_name(name: str) -> str:
    """A name's form for comparison: case, spacing, underscores, articles in front and punctuation at the edges aside.

    >>> normalize_name(" The  Electronic_City's ")
    'electronic city'
    """
    text = unicodedata.normalize("NFKC", name).replace("’", "'").replace("_", " ").casefold()
    text = re.sub(r"^\W+|[^\w)%+#]+$", "", re.sub(r"\s+", " ", text).strip())
    text = re.sub(r"'s?$", "", text)
    return re.sub(r"^(?:the|an?) (?=\S)", "", text)


@lru_cache(maxsize=65536)
def normal_phrase(text: str) -> str:
    """A phrase's form for comparison: `normalize_name`, articles anywhere dropped, words stemmed."""
    import Stemmer  # type: ignore[import-not-found, unused-ignore]

    words = re.findall(r"[\w%$€£@.+'-]+", normalize_name(text))
    kept = [w.rstrip(".'") for w in words if w not in _ARTICLES] or words
    return " ".join(Stemmer.Stemmer("english").stemWords(kept))


def entity_label(token: Token) -> str:
    """spaCy's label of the entity the token stands in, "THING" without one."""
    return token.ent_type_ if token.ent_type_ in _LABELS else "THING"


def full_name(token: Token) -> list[Token]:
    """The tokens of the proper name around a token: its compounds, and its entity as far as that is made of names."""
    doc = token.doc
    named = ("PROPN", "NUM", "X")
    start, end = token.i, token.i + 1
    while (
        start > 0
        and doc[start - 1].pos_ in named
        and (doc[start - 1].dep_ in ("compound", "nmod") or doc[start].ent_iob_ == "I")
    ):
        start -= 1
    while token.ent_type_ and end < len(doc) and doc[end].ent_iob_ == "I":
        inner = doc[end].lower_ in ("of", "the", "&", "-") and end + 1 < len(doc) and doc[end + 1].ent_iob_ == "I"
        if doc[end].pos_ not in named and not inner:
            break
        end += 1
    return list(doc[start:end])


class Names:
    """Reference in one turn. `speaker` is who talks, `other` the only other one who takes part, if there is one."""

    def __init__(self, doc: Doc, speaker: str | None, other: str | None) -> None:
        self.doc = doc
        self.speaker = speaker
        self.other = other
        self.people: list[tuple[int, str, str]] = []  # position, name, gender
        self.kin: list[tuple[Token, str, str]] = []  # the kin noun, the owner, the name ("" without one)
        for token in doc:
            self._note(token)

    def _note(self, token: Token) -> None:
        if token.lemma_.lower() in KIN and token.pos_ == "NOUN":
            owner = self._owner(token)
            if owner is not None:
                named = next((c for c in token.children if c.dep_ == "appos" and c.pos_ == "PROPN"), None)
                if named is None and token.i + 1 < len(self.doc) and self.doc[token.i + 1].pos_ == "PROPN":
                    after = self.doc[token.i + 1]
                    named = after if after.head == token or token.head == after else None
                name = self.join(full_name(named)) if named is not None else ""
                self.kin.append((token, owner, name))
                self.people.append((token.i, name or f"{owner}'s {token.text.lower()}", KIN[token.lemma_.lower()][1]))
        elif token.ent_type_ == "PERSON" and token.pos_ == "PROPN" and token.dep_ != "compound":
            name = self.join(full_name(token))
            if name and all(name != known for _, known, _ in self.people):
                self.people.append((token.i, name, ""))

    def _owner(self, token: Token) -> str | None:
        for child in token.children:
            if child.dep_ == "poss":
                if child.lower_ in _MINE:
                    return self.speaker
                if child.lower_ == "your":
                    return self.other
                if child.lower_ in _GENDER:
                    return self.third(child)
                if child.pos_ == "PROPN":
                    return self.join(full_name(child))
        return None

    def third(self, pronoun: Token) -> str | None:
        """Who "she" is: the one person named before it in this turn who can be meant; None when there is a choice."""
        gender = _GENDER[pronoun.lower_]
        before = [(name, g) for i, name, g in self.people if i < pronoun.i and name != self.speaker]
        exact = {name for name, g in before if g == gender}
        loose = {name for name, g in before if g in ("", gender)}
        chosen = loose if len(loose) == 1 else exact if len(exact) == 1 and loose == exact else set()
        return next(iter(chosen), None)

    def person(self, token: Token) -> str | None:
        """The name of what a noun or pronoun refers to, None when that is not certain."""
        lower = token.lower_
        if token.pos_ == "PRON" or lower in _FIRST or lower in _GENDER:
            if lower in _FIRST:
                return self.speaker
            if lower in _YOURS:
                return self.other
            return self.third(token) if lower in _GENDER else None
        for noun, owner, name in self.kin:
            if noun == token or (name and token.head == noun and token.dep_ == "appos"):
                return name or f"{owner}'s {self.join(self._tail(noun))}"
            if name and noun.head == token and noun.dep_ in ("compound", "nmod"):  # "my sister Clara" headed by Clara
                return name
        if token.pos_ == "PROPN":
            return self.join(full_name(token)) or None
        return None

    def _tail(self, noun: Token) -> list[Token]:
        return [t for t in phrase(noun) if t == noun or (t.dep_ not in ("poss", "case") and t.i <= noun.i)]

    def thing(self, token: Token, *, article: bool = False) -> str | None:
        """A noun phrase as it can be read alone, None when it leans on something outside the turn."""
        if token.pos_ == "PRON":
            return self.person(token)
        if (named := self.person(token)) is not None and token.pos_ == "NOUN":
            return named
        tokens = phrase(token)
        if not article:
            while len(tokens) > 1 and tokens[0].lower_ in _ARTICLES:
                tokens = tokens[1:]
        text = self.render(tokens)
        if text is None or len(tokens) > 10 or not any(c.isalnum() for c in text):
            return None
        return text

    def render(self, tokens: Iterable[Token]) -> str | None:
        """Tokens as text with first and second persons replaced by names; None when one cannot be."""
        parts: list[str] = []
        for token in tokens:
            text = self.word(token)
            if text is None:
                return None
            parts.append(text + token.whitespace_)
        return re.sub(r"\s+", " ", "".join(parts)).strip(" ,;:-–")

    def word(self, token: Token) -> str | None:
        """One token as text; see `render`."""
        lower = token.lower_
        if lower in ("myself", "ourselves"):
            return ""  # "bought myself a bike" is to have bought a bike
        if lower in _FIRST:
            return self.speaker
        if lower in _MINE:
            return None if self.speaker is None else f"{self.speaker}'s"
        if lower in ("you", "yourself"):
            return self.other
        if lower in ("your", "yours"):
            return None if self.other is None else f"{self.other}'s"
        return str(token.text)

    def join(self, tokens: Iterable[Token]) -> str:
        """Tokens as they stand in the text."""
        return "".join(t.text_with_ws for t in tokens).strip()
