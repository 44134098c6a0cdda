"""Questions that a person could ask later about what was said: made from statements by grammar, no model needed.

"I painted a lake sunrise last year", said by Ann, answers "What did Ann paint last year?" and "When did Ann paint a
lake sunrise?". What is asked for is left out of the question, so that its words cannot find the statement alone. Only
statements of the speaker about the speaker are used: of others it is seldom clear who is meant. And what the other one
asked, the next turn answers: "What are you painting?", put to Ann, is "What is Ann painting?".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.tokens import Span, Token

_THIRD = {"i": "they", "me": "them", "my": "their", "mine": "theirs", "myself": "themselves", "we": "they"}
_THIRD |= {"us": "them", "our": "their", "ours": "theirs", "ourselves": "themselves"}
_VAGUE = frozenset(("it that this they them he she you what who which something anything lot bit way one").split())
_PLACES = frozenset(("GPE", "LOC", "FAC"))
_TOLD = frozenset(("think know guess hope mean feel say tell be have get want like love let need thank try").split())
_ADDRESSED = frozenset(("you", "your", "yours", "yourself"))
_SHORTEST, _LONGEST = 5, 14  # words of a question
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]+")
_YOU = re.compile(r"\byou(?:r|'ve|'re)?\b", re.IGNORECASE)
_ABOUT = [
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"\bare you\b", "is NAME"),
        (r"\bwere you\b", "was NAME"),
        (r"\bdo you\b", "does NAME"),
        (r"\bhave you\b", "has NAME"),
        (r"\byou've\b", "NAME has"),
        (r"\byou're\b", "NAME is"),
        (r"\byour\b", "NAME's"),
        (r"\byourself\b", "themselves"),
        (r"\byou\b", "NAME"),
    )
]


def questions(sentence: Span, speaker: str) -> Iterator[tuple[str, str]]:
    """Pairs of a question about a statement and the words of the statement that answer it.

    Args:
        sentence: one sentence as spaCy parsed it.
        speaker: who said it.
    """
    if sentence.text.rstrip().endswith("?"):
        return
    for verb in sentence:
        if verb.pos_ not in ("VERB", "AUX"):
            continue
        subject = next((child for child in verb.children if child.dep_ == "nsubj"), None)
        if subject is None or subject.i > verb.i or any(child.dep_ in ("neg", "mark") for child in verb.children):
            continue
        if any(token.lower_ in _ADDRESSED for token in verb.subtree):
            continue
        if verb.lemma_ == "be":
            yield from _identity(verb, subject, speaker)
        elif subject.lower_ == "i" and verb.lemma_ not in _TOLD:
            yield from _deed(verb, speaker)


def asked_of(text: str, name: str) -> str | None:
    """The last question of a turn, about the one it is put to instead of to them; None where there is none.

    "Nice! What are you painting now?" put to Ann is "What is Ann painting now?".
    """
    found = [part for part in _SENTENCE.findall(text) if part.endswith("?")]
    if not found:
        return None
    question = " ".join(found[-1].split())
    if not _YOU.search(question) or not _SHORTEST <= len(question.split()) <= _LONGEST:
        return None
    for pattern, words in _ABOUT:
        question = pattern.sub(words.replace("NAME", name.replace("\\", r"\\")), question)
    return question


def _identity(root: Token, subject: Token, speaker: str) -> Iterator[tuple[str, str]]:
    """ "My dog's name is Biscuit": what is its name?"""
    attribute = next((child for child in root.children if child.dep_ in ("attr", "acomp")), None)
    owner, *thing = subject.subtree
    if attribute is None or owner.lower_ != "my" or attribute.lower_ in _VAGUE:
        return
    if 0 < len(thing) <= 6:
        verb = root.lower_ if root.lower_ in ("is", "was", "are", "were") else "is"
        yield f"What {verb} {speaker}'s {_words(thing)}?", _words(attribute.subtree)


def _deed(root: Token, speaker: str) -> Iterator[tuple[str, str]]:
    """ "I painted a sunrise last year": what, where and when."""
    helpers = [child for child in root.children if child.dep_ in ("aux", "auxpass")]
    if any(helper.tag_ == "MD" for helper in helpers) or any(helper.dep_ == "auxpass" for helper in helpers):
        return
    if helpers and helpers[0].lemma_ == "have":
        start, verb = f"has {speaker}", root.text if root.tag_ == "VBN" else "been " + root.text
    elif helpers and helpers[0].lemma_ == "be":
        past = helpers[0].lower_ in ("was", "were")
        start, verb = f"{'was' if past else 'is'} {speaker}", root.text
    else:
        start, verb = f"{'did' if root.tag_ == 'VBD' else 'does'} {speaker}", root.lemma_
    parts = [child for child in root.rights if child.dep_ in ("dobj", "prep", "prt", "npadvmod", "advmod", "xcomp")]
    for asked in parts:
        word = _asked(asked)
        if word is None:
            continue
        rest = " ".join(filter(None, (_words(part.subtree) for part in parts if part is not asked)))
        question = " ".join(filter(None, (f"{word} {start} {verb}", rest))) + "?"
        answer = _words(asked.subtree)
        if len(question.split()) <= _LONGEST and 0 < len(answer.split()) <= _LONGEST:
            yield question, answer


def _asked(part: Token) -> str | None:
    """The question word for a part of the sentence, None where none fits."""
    inside = list(part.subtree)
    kinds = {token.ent_type_ for token in inside}
    if part.dep_ == "dobj":
        if part.pos_ not in ("NOUN", "PROPN") or part.lower_ in _VAGUE:
            return None
        return "Who" if part.ent_type_ == "PERSON" else "What"
    if part.dep_ in ("npadvmod", "advmod", "prep") and kinds & {"DATE", "TIME"}:
        return "When"
    if part.dep_ == "prep" and part.lower_ in ("in", "at", "to", "near") and kinds & _PLACES:
        return "Where"
    return None


def _words(tokens: Iterator[Token] | list[Token]) -> str:
    """The tokens in their order, said about the speaker in the third person."""
    kept = [token for token in sorted(tokens, key=lambda token: token.i) if not token.is_punct]
    return " ".join(_THIRD.get(token.lower_, token.text) for token in kept).replace(" '", "'").replace(" n't", "n't")
