"""Which kind of answer a question wants, more finely than its question word says, and whether a sentence holds one."""

from __future__ import annotations

import re
from typing import Literal

from memspan.longterm.clock import EPOCH
from memspan.longterm.knowledge_survey.text import (
    KINSHIP,
    OPENERS,
    PLACE,
    QUANTITY,
    Question,
    kind_of,
    names,
    numbers,
    plain_words,
    stems,
    words,
)
from memspan.longterm.scribe.dates import find_times

Form = Literal[
    "name", "work", "colour", "money", "age", "duration", "frequency", "number",
    "when", "where", "who", "why", "which", "yes or no", "open",
]  # fmt: skip
"""A kind, or one of its narrower forms."""

_NAME = re.compile(
    r"\b(?:name[sd]?|called|nickname[ds]?|title[ds]?)\b(?! of)|\bname of\b"
    r"|\bwhat (?:do|does|did|will|would|shall|should|are) \w+ (?:\w+ )?(?:call|name|calling|naming)\b",
    re.I,
)
_NAMING = re.compile(
    r"\b(?:named?|names?|called|nicknamed|entitled|titled)\b|\bcall(?:s|ing)? (?:it|him|her|them|this|that)\b", re.I
)
_WORK = re.compile(
    r"\b(?:job|profession|occupation|career|for a living|position|employed|employer|work(?:s|ed|ing)? as)\b", re.I
)
WORKING = re.compile(
    r"\b(?:job|profession|career|position|promoted|hired|employed|shifts?|works?|worked|working)\b"
    r"|\b(?:I['’]?m|I am|is|was|as|became|become|been|he['’]s|she['’]s)\s+(?:now\s+)?(?:an?|the|our)"
    r"\s+(?:\w+\s+){0,3}?\w*"
    r"(?:er|or|ist|ian|ant|ent|man|woman|nurse|cook|chef|clerk|pilot|judge|guide|guard|coach|intern|curator)\b",
    re.I,
)
_BARE = 3  # words of a reply that is little more than its number
_HABIT = re.compile(
    r"\b(?:he|she)\s+(?!is\b|was\b|has\b|does\b|says\b|likes\b|loves\b|wants\b|looks\b|seems\b)\w+s\b"
    r"|\bI\s+(?:teach|sell|build|make|repair|fix|drive|design|run|write|paint|translate|program|manage|restore)\b",
    re.I,
)
_MONEY_ASKED = re.compile(
    r"\b(?:cost|costs|price|pay|paid|pays|spend|spent|charge[ds]?|money|budget|salary|rent|fee|earn|earned|worth|raise[ds]?)\b",
    re.I,
)
_DIGITS = re.compile(r"\d")
_MONEY = re.compile(
    r"[$€£¥]\s?\d|\d\s?(?:[$€£¥]|k\b)|\b(?:euros?|dollars?|pounds?|bucks?|quid|cents?|pence|francs?|crowns?|yen|grand)\b",
    re.I,
)
_AGE = re.compile(
    r"\b(?:years?|months?|weeks?)[- ]old\b|\bturn(?:s|ed|ing)?\s+(?:\d+|\w+ty|\w+teen|one|two|three|four|five|six|seven"
    r"|eight|nine|ten|eleven|twelve)\b|\baged?\b|\b\w+(?:st|nd|rd|th) birthday\b"
    r"|\b(?:I['’]m|is|am|he['’]s|she['’]s)\s+\d{1,2}\b",
    re.I,
)
_FREQUENCY = re.compile(
    r"\b(?:every|each|daily|weekly|monthly|yearly|annually|twice|always|never|rarely|seldom|times? an?|once an?"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)days)\b",
    re.I,
)
_WEEKDAYS = re.compile(r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b", re.I)
_REASON = re.compile(
    r"\b(?:because|since|so that|so (?:I|we|he|she|they)|in order|due to|thanks to|reasons?|therefore|that['’]?s why"
    r"|(?:wants?|wanted|needs?|needed|has|had|have) to)\b",
    re.I,
)
COLOURS = frozenset(
    "red orange yellow green blue purple violet pink brown black white grey gray beige turquoise gold golden silver"
    " teal navy maroon crimson scarlet lilac cream ivory khaki bronze magenta cyan mint mustard burgundy".split()
)
_NO_NAMES = frozenset("nobody none everyone everybody someone somebody anyone anybody nothing something both".split())
_OPENING_NAME = re.compile(
    r"[\"“]?([A-Z][\w-]+)(?:\s[A-Z][\w-]+)*(?=[,.!?]|$| (?:and|did|does|do|is|was|has|will|from|of)\b)"
)
_DURATION = re.compile(
    r"\b(?:seconds?|minutes?|hours?|days?|nights?|weeks?|weekends?|months?|years?|decades?|since|fortnight|ages)\b",
    re.I,
)


def form_of(question: str) -> Form:
    """The form of answer that a question wants."""
    kind = kind_of(question)
    if kind == "number":
        if re.search(r"\bhow old\b", question, re.I):
            return "age"
        if re.search(r"\bhow often\b", question, re.I):
            return "frequency"
        if re.search(r"\bhow long\b", question, re.I):
            return "duration"
        return "money" if re.search(r"\bhow much\b", question, re.I) and _MONEY_ASKED.search(question) else "number"
    if kind in ("open", "who") and re.search(r"\bwhat\b|\bwhich\b|\bhow\b", question, re.I):
        if _WORK.search(question):
            return "work"
        if _NAME.search(question):
            return "name"
        if re.search(r"\b(?:price|cost|budget|salary|rent)\b", question, re.I) and re.search(
            r"\bwhat (?:is|was|did|does)\b", question, re.I
        ):
            return "money"
        if re.search(r"\b(?:age)\b", question, re.I):
            return "age"
        if re.search(r"\b(?:what|which) colou?rs?\b", question, re.I):
            return "colour"
        if kind == "open" and re.search(r"\bwhich\b", question, re.I):
            return "which"
    return kind


def holds_form(form: Form, question: Question, sentence: str, speaker: str | None = None) -> float:
    """Whether a sentence holds the form of answer that is wanted: 1 yes, 0 no, values between when it is doubtful.

    What the question itself names is no answer to it.
    """
    found = set(words(sentence))
    counted = bool(numbers(sentence)) or not found.isdisjoint(QUANTITY)
    match form:
        case "when":
            return float(bool(find_times(sentence, EPOCH)) or _WEEKDAYS.search(sentence) is not None)
        case "why":
            return 1.0 if _REASON.search(sentence) else 0.3
        case "colour":
            return float(not found.isdisjoint(COLOURS - plain_words(question.text)))
        case "frequency":
            return 1.0 if _FREQUENCY.search(sentence) else 0.3 * bool(_DURATION.search(sentence))
        case "money":
            if counted and _MONEY.search(sentence):
                return 1.0
            return 0.4 * (bool(_DIGITS.search(sentence)) or (counted and len(words(sentence)) <= _BARE))
        case "age":
            return 1.0 if _AGE.search(sentence) else 0.5 * (counted and len(words(sentence)) <= _BARE)
        case "duration":
            return 1.0 if _DURATION.search(sentence) and counted else 0.5 * bool(_DURATION.search(sentence))
        case "number":
            return float(counted)
        case "where":
            asked = stems(question.text)
            return float(any(not stems(m.group()) & asked for m in PLACE.finditer(sentence)))
        case "who":
            fresh = _fresh(question, sentence, speaker)
            return 1.0 if fresh else 0.7 * (not found.isdisjoint(KINSHIP - plain_words(question.text)))
        case "name":
            fresh = _fresh(question, sentence, speaker) or re.search(r"[\"“]\w", sentence) is not None
            naming = _NAMING.search(sentence) is not None
            return 1.0 if fresh and naming else 0.3 * naming or 0.2 * fresh
        case "work":
            return 1.0 if WORKING.search(sentence) else 0.6 * bool(_HABIT.search(sentence))
    return 0.5


def _fresh(question: Question, sentence: str, speaker: str | None) -> bool:
    """Whether a sentence names someone or something that the question does not."""
    asked = plain_words(question.text)
    return any(name != speaker and not plain_words(name) & asked for name in _named(sentence))


def _named(sentence: str) -> list[str]:
    """Names, also the one that is a whole short answer ("Pixel.", "Clara did.")."""
    found = names(sentence)
    first = re.match(r"[\"“]?([A-Z][\w-]+)", sentence)
    if not found and first and len(words(sentence)) <= 2 and len(first.group(1)) > 1:
        found = names(f"it is {sentence}")
    return found


def names_first(sentence: str) -> bool:
    """Whether a reply opens with a name that stands for itself: "Samira, from accounting.", "Clara did." """
    match = _OPENING_NAME.match(sentence)
    if match is None:
        return False
    word = match.group(1).casefold()
    return bool(names(f"it is {match.group(1)}")) and word not in OPENERS | _NO_NAMES and bool(stems(word))
