"""Names that a conversation gives to things, so that "the bakery" is found where only its name is said.

"We named the boat Albatross", "a cook called Mateo" and "my sister Leyla" say in one sentence what the name stands for.
"You should call it Sorrel", "Her name is Ines" and a name that answers "What will you call her?" give it to what the
turns before are about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from memspan.longterm.knowledge_survey.features import Sentence, last_question
from memspan.longterm.knowledge_survey.kinds import form_of, names_first
from memspan.longterm.knowledge_survey.text import KINSHIP, names, stem

_NAME = r"[\"“‘]?(?P<name>[A-Z][\w-]+)"
_CALLED = re.compile(
    r"\b(?:call(?:s|ed|ing)?|nam(?:e|es|ed|ing)|christen(?:ed)?|baptis(?:e|ed)|dub(?:bed)?)\s+"
    rf"(?P<what>(?:the|my|our|his|her|their|this|that)\s+(?:[a-z][\w-]*\s+){{1,4}}?|(?:it|him|her|them|this|that)\s+)?{_NAME}"
)
_NAME_IS = re.compile(rf"\bname(?:['’]s|s? (?:is|was|are|will be))\s+{_NAME}")
_APPOSED = re.compile(rf"\b(?:[Mm]y|[Oo]ur|[Hh]is|[Hh]er|[Tt]heir)\s+(?P<what>(?:[a-z][\w-]*\s+){{1,3}}?){_NAME}")
_PRONOUN = re.compile(r"(?:it|him|her|them|this|that)\s", re.I)
_TOLD, _THREAD = 0.9, 0.6
_BEFORE = 6  # words before "called" that can be what is called so


@dataclass(frozen=True, slots=True)
class Alias:
    """A name and what it stands for.

    Attributes:
        term: the hash of the name's stem.
        texts: in which the thing itself is named.
        weight: how surely the name stands for what these texts name, 0 to 1.
    """

    term: int
    texts: tuple[str, ...]
    weight: float


def aliases(sentences: Sequence[Sentence]) -> list[Alias]:
    """The names that the sentences give; speakers are no aliases."""
    speakers = {word.casefold() for s in sentences for word in (s.speaker or "").split()}
    found: dict[tuple[int, tuple[str, ...]], Alias] = {}
    for sentence in sentences:
        for name, texts, weight in _named(sentence):
            term = stem(name.casefold())
            if term and name.casefold() not in speakers and names(f"it is {name}"):
                alias = Alias(term, texts, weight)
                found.setdefault((term, texts), alias)
    return list(found.values())


def _named(sentence: Sentence) -> list[tuple[str, tuple[str, ...], float]]:
    text = sentence.text
    thread = tuple(said.whole for said in sentence.before)
    found: list[tuple[str, tuple[str, ...], float]] = []
    for match in _CALLED.finditer(text):
        what = match["what"] or " ".join(text[: match.start()].split()[-_BEFORE:])
        if _PRONOUN.match(what):
            found.append((match["name"], thread, _THREAD))
        elif what:
            found.append((match["name"], (what,), _TOLD))
    found += [(match["name"], (*thread, text[: match.start()]), _THREAD) for match in _NAME_IS.finditer(text)]
    for match in _APPOSED.finditer(text):
        if not KINSHIP.isdisjoint(match["what"].split()):
            found.append((match["name"], (match["what"],), _TOLD))
    asked = sentence.asked
    if asked is not None and sentence.place == 0 and names_first(text):
        question = last_question(asked.text)
        if form_of(question) == "name":
            found.append((re.sub(r"\W.*", "", text.lstrip('"“‘'), flags=re.S), (question, *thread), _THREAD))
    return found
