"""What speaks for a sentence as the answer to a question.

A turn of a chat leans on the turns before it: "About 380 euros." answers because of the question that it follows, and
"She left in May" is about whoever was named last. So a sentence is judged by its own words, by what it replies to, and
by the thread it stands in, each by exact stems and by likeness of meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memspan.longterm.knowledge_survey.kinds import WORKING, Form, form_of, holds_form, names_first
from memspan.longterm.knowledge_survey.likeness import Likeness, covered
from memspan.longterm.knowledge_survey.text import (
    Question,
    first_person,
    plain_words,
    second_person,
    sentence_spans,
    stem,
    stems,
    words,
)
from memspan.longterm.scribe.dates import find_times

_SHORT = 4  # words
_ELLIPTIC = 1  # content words up to which a question says nothing by itself
_TAG = re.compile(
    r"^(?!(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|has|have|had|can|could|will|would"
    r"|should|any|and you|so)\b).{12,},\s*(?:right|okay|ok|huh|eh|yes|no|correct|remember|you know"
    r"|(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|wo|ca)(?:n['’]t)?\b[^,]{0,40})\?$",
    re.I,
)
_PRONOUN = re.compile(
    r"\b(?:he|she|they|him|her|them|his|hers|their|theirs|it|its)\b(?!\s+(?:is|was) (?:true|funny))", re.I
)
_AHEAD = re.compile(
    r"\b(?:will|won['’]t|going to|gonna|plan(?:ning|s)? (?:to|on)|wants? to|hop(?:e|ing) to|about to|thinking of)\b"
    r"|['’](?:ll)\b|\b(?:I['’]m|am|is|are|we['’]re|they['’]re)\s+\w+ing\b",
    re.I,
)
LEANING = ("own", "turn", "reply", "thread", "near")
"""Shares of the question's words: in the sentence, and what its turn, the turn before, the thread and the turn after
add to that."""
_CHANGE = re.compile(
    r"\b(?:now|chang(?:e|es|ed|ing)|mov(?:e|ed|ing) (?:to|it to)|instead|anymore|any more|no longer|again|new|postponed"
    r"|put off|brought forward|cancelled|canceled|from now on|switched|raised|lowered|became|after all)\b",
    re.I,
)
# What is asked for is often said in other words, whole frames of them, that no likeness of single words finds.
_LIVES = re.compile(
    r"\b(?:I|we|he|she|they|[A-Z]\w+)(?:['’](?:m|re|s)| am| are| is| was| were)(?: (?:still|now|back|currently|here))*"
    r" in [A-Z]\w+|\b(?:mov(?:e|ed|ing)|relocat(?:e|ed|ing)) (?:back |over |out )?to\b|\bsettled in\b"
)
_OTHERWISE = 0.8
_OTHER_NAME = 0.4
_SAID_OTHERWISE = {
    **{stem(word): _LIVES for word in ("live", "living", "reside", "home")},
    **{stem(word): WORKING for word in ("work", "job", "profession", "occupation")},
}
_PHOTO = "photo picture image"  # what a caption says without saying it
THREAD = 4  # turns before a sentence that can say what it is about


@dataclass(frozen=True, slots=True)
class Said:
    """A neighbouring turn."""

    text: str
    speaker: str | None = None
    caption: str | None = None

    @property
    def whole(self) -> str:
        """Its text and the caption of its photo."""
        return f"{self.text} {self.caption}" if self.caption else self.text


@dataclass(slots=True)
class Sentence:
    """A sentence of an episode, and what speaks for it."""

    episode: str
    span: tuple[int, int]
    text: str
    whole: str
    speaker: str | None
    at: datetime | None
    rank: int
    features: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[Said, ...] = ()
    """The turns before its own, the nearest first."""
    after: str = ""
    place: int = 0
    """Its number in its turn."""
    found: dict[int, float] = field(default_factory=dict)
    """How far each term of the question is found in the sentence or in what it stands in, 0 to 1."""

    @property
    def caption(self) -> str | None:
        """The caption of the turn's photo."""
        value = self.metadata.get("caption")
        return value if isinstance(value, str) and value else None

    @property
    def asked(self) -> Said | None:
        """The question of another speaker to which the sentence is the reply."""
        if not self.before or self.place > 1 or self.text.endswith("?"):
            return None
        last = self.before[0]
        return last if last.speaker != self.speaker and "?" in last.text else None

    @property
    def around(self) -> tuple[str, ...]:
        """The texts of the turn and of its neighbours."""
        earlier = (said.whole for said in reversed(self.before[:2]))
        return (*earlier, self.speaker or "", self.whole, self.caption or "", self.after)


def last_question(text: str) -> str:
    """The last question that a turn asks."""
    asked = [text[start:stop] for start, stop in sentence_spans(text) if text[start:stop].endswith("?")]
    return asked[-1] if asked else text


class Lexicon:
    """How far a question's terms are found in texts: by stems, and by likeness of meaning where that is known.

    Names are found by their stems only: "Clara" is like "Nadia" in meaning, and is somebody else.
    """

    def __init__(self, question: Question, idf: Mapping[int, float], likeness: Likeness | None = None) -> None:
        self.weights = {term: weight * idf[term] for term, weight in question.weights.items()}
        self._words = question.spelled
        self._names = frozenset().union(*(stems(name) for name in question.names))
        self._likeness = likeness
        self._known: dict[str, dict[int, float]] = {}
        self._aliases: dict[int, dict[int, float]] = {}

    def learn(self, name: int, texts: Iterable[str], weight: float) -> None:
        """A name (the hash of its stem) stands for what the texts speak of; `weight` says how surely, 0 to 1.

        Whatever names it then says, that far, the words of those texts. Names in the question are no such words.
        """
        known = self._aliases.setdefault(name, {})
        for term, value in _most(*(self._found(text) for text in texts)).items():
            if term != name and term not in self._names:
                known[term] = max(known.get(term, 0.0), weight * value)
        self._known.clear()

    def named(self, text: str) -> float | None:
        """How far the names in a text stand for what the question speaks of; None where none was learned."""
        known = self._aliases.keys() & stems(text)
        return max((self.coverage(self._aliases[name]) for name in known), default=None)

    def found(self, *texts: str) -> dict[int, float]:
        """Term -> how far it is found in the texts, 0 to 1."""
        return _most(*(self._found(text) for text in texts))

    def _found(self, text: str) -> dict[int, float]:
        found = self._known.get(text)
        if found is None:
            held = stems(text)
            found = {term: 1.0 for term in self.weights if term in held}
            if self._likeness is not None:
                for term in self.weights.keys() - held - self._names:
                    found[term] = self._likeness(self._words[term], text)
            for term, said in _SAID_OTHERWISE.items():
                if term in self.weights and said.search(text):
                    found[term] = max(found.get(term, 0.0), _OTHERWISE)
            for name in self._aliases.keys() & held:
                found = _most(found, self._aliases[name])
            self._known[text] = found
        return found

    def coverage(self, found: Mapping[int, float]) -> float:
        """The weighted share of the terms that are found."""
        return covered(self.weights, found)


def judge_words(question: Question, lexicon: Lexicon, sentence: Sentence, *, alike: bool) -> None:
    """The features that come of words: of the sentence, of its turn, of what it replies to, and of its thread.

    Args:
        alike: the lexicon knows likeness of meaning; then only the features of likeness are set anew.
    """
    photo = [sentence.caption, _PHOTO] if sentence.caption else []
    own = lexicon.found(sentence.text, *(photo if sentence.text == sentence.caption else []))
    in_turn = lexicon.found(sentence.whole, *photo)
    before = [lexicon.found(said.whole) for said in sentence.before]
    asked = lexicon.found(last_question(sentence.asked.text)) if sentence.asked else {}
    reply = _most(in_turn, asked, *before[:1])
    thread = _most(reply, *before[1:])
    near = _most(thread, lexicon.found(sentence.after))
    steps = [lexicon.coverage(found) for found in (own, in_turn, reply, thread, near)]
    covers = {name: now - less for name, now, less in zip(LEANING, steps, [0.0, *steps], strict=False)}
    # "Which one?" asks about what was said before it.
    elliptic = sentence.asked is not None and len(stems(last_question(sentence.asked.text))) <= _ELLIPTIC
    covers["asked"] = lexicon.coverage(_most(asked, own, *(before[:2] if elliptic else []))) if sentence.asked else 0.0
    features = sentence.features
    if not alike:
        features |= covers
    features |= {f"like_{name}": value for name, value in covers.items()}
    sentence.found = near
    content = [t for t, weight in question.weights.items() if weight == 1]
    features["missing"] = max((1 - near.get(t, 0.0) for t in content), default=0.0)
    term = next((t for t, word in question.spelled.items() if word == question.wanted), None)
    features["class"] = 0.5 if term is None else max(own.get(term, 0.0), 0.5 * reply.get(term, 0.0))
    features["no_class"] = 0.0 if term is None else 1 - near.get(term, 0.0)


def _most(*found: Mapping[int, float]) -> dict[int, float]:
    most: dict[int, float] = {}
    for one in found:
        for term, value in one.items():
            most[term] = max(value, most.get(term, 0.0))
    return most


def judge_form(question: Question, form: Form, sentence: Sentence) -> None:
    """Whether the sentence holds the kind of answer wanted, and whether it replies to a question for that kind."""
    features = sentence.features
    held = holds_form(form, question, sentence.text, sentence.speaker)
    asked = sentence.asked
    same = 0.0
    if asked is not None:
        other = form_of(last_question(asked.text))
        same = float(other == form and form not in ("open", "yes or no"))
    if form in ("name", "who") and same and sentence.place == 0 and names_first(sentence.text):
        held = max(held, 0.9)
    if form in ("why", "which") and same:
        held = 1.0
    for name in ("when", "where", "who", "number"):
        features[name] = held if _family(form) == name else 0.0
    features["form"] = held if _family(form) == "form" else 0.0
    features["kind"] = held
    features["same"] = same * (0.5 + 0.5 * (held > 0.5))
    # What is announced does not tell when it came to pass.
    over = question.happened and not question.past
    features["ahead"] = float(over and _lies_ahead(sentence)) * (2 if form == "when" else 1)
    features["void"] = float(_void(form, held, bool(features["ahead"])))
    tagged = _TAG.match(sentence.text) is not None  # "We sail at noon, will you come?" states something
    features["question"] = float(sentence.text.endswith("?")) * (0.2 if tagged else 1.0)
    features["short"] = float(len(words(sentence.text)) < _SHORT and asked is None)
    features["answers"] = float(asked is not None)
    changed = _CHANGE.search(sentence.text) is not None
    features["change"] = float(changed and not question.past and (question.present or question.last))
    features["undone"] = float(changed and question.past)
    # A time may be the day on which it was said, so that a sentence without one can still tell when.
    features["no_kind"] = float(form not in ("open", "yes or no", "when", "which", "why") and held < 0.3)


def judge_naming(form: Form, lexicon: Lexicon, sentence: Sentence) -> None:
    """Where a name is asked for, the name of something else is none; "a cook called Ned" does not name the boat."""
    named = lexicon.named(sentence.text) if form == "name" else None
    if named is not None:
        sentence.features["kind"] *= _OTHER_NAME + (1 - _OTHER_NAME) * min(1.0, 2 * named)
        sentence.features["form"] = sentence.features["kind"]


def _void(form: Form, held: float, ahead: bool) -> bool:
    """Whether it cannot be the answer: no name where one is asked for, no number, or only announced when asked when."""
    match form:
        case "name":
            return held in (0.0, 0.3)
        case "number" | "money" | "age" | "duration" | "colour":
            return held == 0
        case "when":
            return held == 0 and ahead
    return False


def judge_fit(form: Form, sentence: Sentence) -> None:
    """Whether it says what was asked and holds the kind of answer wanted, both in one sentence."""
    features = sentence.features
    both = 0.0 if form in ("open", "yes or no", "which") else features["kind"] * features["like_own"]
    features["fits"], features["fits_when"] = (0.0, both) if form == "when" else (both, 0.0)
    features["replies"] = features["like_asked"] * (0.3 + 0.7 * features["same"])


def _lies_ahead(sentence: Sentence) -> bool:
    """Whether it speaks of what is still to come when it is said."""
    if _AHEAD.search(sentence.text) is not None:
        return True
    at = sentence.at
    return at is not None and any(s.start is not None and s.start > at for s in find_times(sentence.text, at))


def _family(form: Form) -> str:
    if form in ("money", "age", "duration", "frequency", "number"):
        return "number"
    if form in ("when", "where", "who"):
        return form
    return "form" if form in ("name", "work", "why", "colour") else "open"


def judge_persons(question: Question, sentence: Sentence) -> None:
    """Whether the sentence is said by, or about, those whom the question is about."""
    subject, text = question.subject, sentence.text
    right = wrong = 0.0
    if subject is not None and sentence.speaker is not None:
        listener = bool(sentence.before) and sentence.before[0].speaker == subject
        if sentence.speaker == subject:
            right = 1.0
        elif plain_words(subject) & plain_words(text):
            right = 0.7
        elif second_person(text) and listener and not first_person(text):
            right = 0.3
        elif first_person(text) or not second_person(text):
            wrong = 1.0
        else:
            wrong = 0.3
    elif question.first_person and sentence.metadata.get("role") in ("user", "assistant"):
        right = float(sentence.metadata["role"] == "user")
        wrong = 1 - right
    others = [plain_words(name) for name in question.names]
    sentence.features["right"] = right
    sentence.features["wrong"] = wrong
    sentence.features["about"] = sum(_about(name, sentence) for name in others) / len(others) if others else 0.0
    sentence.features["absent"] = (
        sum(all(name.isdisjoint(plain_words(t)) for t in sentence.around) for name in others) / len(others)
        if others
        else 0.0
    )


def _about(name: frozenset[str], sentence: Sentence) -> float:
    """1 when the sentence names them; less when a pronoun in it may stand for them."""
    own = plain_words(sentence.text)
    if name & own or (sentence.speaker and name & plain_words(sentence.speaker)):
        return 1.0
    pronoun = _PRONOUN.search(sentence.text) is not None
    if name & plain_words(sentence.whole):
        return 0.8 if pronoun else 0.5
    for distance, said in enumerate(sentence.before[:2]):
        if name & plain_words(said.text):
            return (0.9 if pronoun else 0.4) - 0.2 * distance
    return 0.0
