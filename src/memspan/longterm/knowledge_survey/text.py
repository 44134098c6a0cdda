"""Reading questions and sentences: where sentences end, what a question asks for, which words must match exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from memspan.longterm.passages import STOP_WORDS, term_hashes

Kind = Literal["when", "where", "who", "why", "number", "yes or no", "open"]
"""What kind of answer a question wants."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|\n+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'.])(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|e\.g|i\.e|approx|dept|inc|ltd|fig|[a-z])\.$", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_NAME = re.compile(r"(?:[A-Z][\w-]*[^\W\d_]|[A-Z])(?:['’]s)?\b")
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,:/-]\d+)*(?:st|nd|rd|th)?(?:\s?%)?|(?<=[$€£])\d[\d.,]*")
_SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_SMALL_NUMBERS)}
_NUMBER_WORDS |= {"twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70"}
_NUMBER_WORDS |= {"eighty": "80", "ninety": "90", "hundred": "100", "thousand": "1000", "million": "1000000"}
_NUMBER_WORDS |= {"dozen": "12", "twice": "2", "once": "1"}
QUANTITY = frozenset(_NUMBER_WORDS) | frozenset(
    ("couple", "few", "several", "half", "both", "every", "daily", "weekly", "monthly", "yearly", "lot")
)
"""Words that say how many."""

_NEGATION = _words(
    "no not never none nobody nothing neither nor without cannot cant dont doesnt didnt wont isnt arent wasnt"
    " werent hasnt havent hadnt wouldnt couldnt shouldnt longer stopped quit refused"
)
_FIRST = _words("i me my mine we us our ours myself ourselves im ive id ill were weve")
_SECOND = _words("you your yours yourself youre youve")
_CALENDAR = _words(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august"
    " september october november december"
)
OPENERS = _words(
    "yesterday today tomorrow tonight then maybe perhaps yes hey hi hello well okay ok wow oh thanks dear once since"
    " although though while because until unless after before during sorry please finally recently usually sometimes"
)
_QUESTION_WORDS = _words("what which who whom whose when where why how")
# "What kind of car", "the name of": nouns that say which answer is wanted and seldom stand beside it.
_GENERIC = _words(
    "kind type sort name many much long often old time date day month year week number amount thing things ago"
    " recently exactly first last called named"
)
# Verbs and phrases that say that, not what: they match anything, or nothing ("Where is it *going to take place*?").
_LIGHT = re.compile(
    r"\b(?:t(?:ake|akes|ook|aken|aking) place|going to(?= (?-i:[a-z]))|supposed to|for a living|in the end|at first"
    r"|at last|happen(?:s|ed|ing)?|end(?:s|ed)? up|turn(?:s|ed)? out|at the moment|these days|nowadays"
    r"|original(?:ly)?|initial(?:ly)?|final(?:ly)?|eventually|ultimately|planned for|scheduled for)\b",
    re.I,
)
_DATED = re.compile(r"\bwhat(?:['’]s| is| was)\b.*?\b(?:deadline|due date|birthday|closing date)\b(?!['’]s)", re.I)
_NOW = _words("now currently current still today nowadays latest newest moment")  # they choose by time, not by words
KINSHIP = _words(
    "mother mom mum father dad parents sister brother siblings cousin aunt uncle grandmother grandma granny grandfather"
    " grandpa son daughter kids children wife husband partner girlfriend boyfriend fiance niece nephew friend friends"
    " neighbor neighbour colleague coworker boss teacher coach roommate flatmate"
)
"""Words for people by what they are to someone."""
_POSSESSIVE = re.compile(r"['’]s\b")
_SMALL = re.compile(r"[^\w]")
_PRESENT = re.compile(r"\b(now|currently|today|these days|at the moment|nowadays|still|latest|newest|current)\b", re.I)
_PRESENT_VERB = re.compile(r"\b(is|are|am|does|do|has|have)\b|['’](?:s|re)\b(?=\s+\w+ing)", re.I)
_HAPPENED = re.compile(r"\b(did|was|were|had)\b", re.I)
_LAST = re.compile(r"\b(finally|eventually|in the end|at last|ultimately|turn(?:ed)? out|end(?:ed)? up)\b", re.I)
_WANTED = re.compile(
    r"\b(?:what|which)\s+(?:(?:kind|type|sort|brand|make|style|form|piece)s?\s+of\s+)?((?:[\w-]+\s+){0,3}?[\w-]+)\s+"
    r"(?:do|does|did|is|are|was|were|has|have|had|can|could|will|would|should|must)\b",
    re.I,
)
_WANTED_FIRST = re.compile(r"\b(?:what|which)\s+(?:(?:kind|type|sort|brand|make|style)s?\s+of\s+)?([\w-]+)", re.I)
_PAST = re.compile(
    r"\b(before|used to|previous|previously|former|formerly|originally|initially|at first|earlier|once|ago|first)\b",
    re.I,
)
PLACE = re.compile(
    r"\b(?:in|at|to|from|near|around|outside|inside|into|by|through|across|off|on)\s+(?:the\s+|a\s+|an\s+|my\s+|our\s+|this\s+)?"
    r"(?:(?!(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?\b|(?:January|February|March|April|May|June|July|August|September"
    r"|October|November|December)\b)[A-Z]\w+|(?:\w+\s+){0,2}(?:home|house|park|beach|school|office|city|town|village|store|shop|cafe|café|museum|"
    r"library|gym|church|center|centre|hospital|university|college|studio|restaurant|market|lake|river|mountains?|"
    r"country|island|forest|garden|farm|station|airport|hotel|apartment|flat|kitchen|room|street|road|north|south|"
    r"east|west|bank|theater|theatre|camp|hall|building|basement|attic|garage|yard|court|club|coast|woods))\b"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Spans `(start, stop)` of the sentences of a text, in order, without the space around them."""
    spans = []
    start = 0
    for end in _END.finditer(text):
        if text[end.start()] == "." and _ABBREVIATION.search(text[start : end.start() + 1]):
            continue
        spans.append((start, end.end()))
        start = end.end()
    spans.append((start, len(text)))
    trimmed = []
    for begin, stop in spans:
        piece = text[begin:stop]
        if any(character.isalnum() for character in piece):
            left = begin + len(piece) - len(piece.lstrip())
            trimmed.append((left, begin + len(piece.rstrip())))
    return trimmed


def words(text: str) -> list[str]:
    """Lower-case words, apostrophes removed ("don't" is "dont")."""
    found = _WORD.findall(text.lower())
    if "'" in text or "’" in text:
        return [word.replace("'", "").replace("’", "") for word in found]
    return found


@lru_cache(maxsize=1024)  # the sentences of a long turn share it and its neighbours
def plain_words(text: str) -> frozenset[str]:
    """The set of its words, possessive endings removed."""
    return frozenset(words(_POSSESSIVE.sub("", text)))


@lru_cache(maxsize=20_000)
def stem(word: str) -> int:
    """The hash of a word's stem; 0 for a stop word."""
    hashes = term_hashes(word)
    return int(hashes[0]) if len(hashes) else 0


def stems(text: str) -> frozenset[int]:
    """Hashes of the stems of a text, stop words left out."""
    return frozenset(term_hashes(text).tolist())


def content(text: str) -> frozenset[int]:
    """The stems of a text without its numbers, which are compared by value; see `numbers`."""
    return stems(" ".join(word for word in _NUMBER.sub(" ", text).split() if _plain(word) not in _NUMBER_WORDS))


def _plain(word: str) -> str:
    return _SMALL.sub("", word.lower())


def numbers(text: str) -> frozenset[str]:
    """Numbers in a normal form: "1,200" is "1200" and "three" is "3"; "one" is too common to count."""
    found = {
        re.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", match.group().replace(",", "").replace(" ", ""))
        for match in _NUMBER.finditer(text)
    }
    found |= {_NUMBER_WORDS[word] for word in words(text) if word in _NUMBER_WORDS and word not in ("one", "once")}
    return frozenset(found)


def negations(text: str) -> bool:
    """Whether the text denies something."""
    found = words(text)
    return any(word in _NEGATION for word in found)


def names(text: str, *, known: Iterable[str] = ()) -> list[str]:
    """Capitalised words that are names, in order, without possessive endings.

    The first word of a sentence counts only when it is in `known`, or when it goes on as a name ("New York is …").
    """
    lowered = {name.casefold() for name in known}
    starts = {start for start, _ in sentence_spans(text)}
    found = []
    for match in _NAME.finditer(text):
        word = re.sub(r"['’]s$", "", match.group())
        plain = word.casefold()
        if plain == "i" or plain in STOP_WORDS or plain in _CALENDAR or plain in _QUESTION_WORDS:
            continue
        if plain in OPENERS and plain not in lowered:
            continue
        opens = match.start() in starts or text[match.start() - 1] in "\"“'‘(:"
        goes_on = re.match(r"\s[A-Z][a-z]", text[match.end() : match.end() + 3])
        if not opens or plain in lowered or goes_on or match.group() != word:
            found.append(word)
    return found


def first_person(text: str) -> bool:
    """Whether the speaker speaks of themselves."""
    return not _FIRST.isdisjoint(words(text))


def second_person(text: str) -> bool:
    """Whether the speaker speaks of the listener."""
    return not _SECOND.isdisjoint(words(text))


@dataclass(frozen=True, slots=True)
class Question:
    """A question as the reader sees it.

    Attributes:
        text: the question.
        kind: the kind of answer that it wants.
        weights: term hash -> how much of a content word it is: 1, or less for words that only say what is wanted.
        spelled: term hash -> the word, for messages.
        wanted: the noun that says which class of thing the answer is of ("Which *dish* does …"), or None.
        subject: the speaker whom it is about, as the store writes them; None when it names none or several.
        names: names in it that are no speakers.
        first_person: it asks about the asker ("my", "I").
        present, past: it asks what is true now, or what was before.
        happened: it asks about something that is over ("did", "was").
        last: it asks how something turned out ("finally", "in the end").
    """

    text: str
    kind: Kind
    weights: dict[int, float]
    spelled: dict[int, str]
    subject: str | None
    names: tuple[str, ...]
    first_person: bool
    present: bool
    past: bool
    wanted: str | None = None
    happened: bool = False
    last: bool = False


def kind_of(question: str) -> Kind:
    """The kind of answer a question wants, by its question word."""
    found = words(question)
    if not found:
        return "open"
    if _DATED.search(question):
        return "when"
    for place, word in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else ""
        if word == "when" or (word in ("what", "which") and after in ("date", "day", "month", "year", "time")):
            return "when"
        if word == "how" and after == "long" and "ago" in found:
            return "when"
        if word == "where" or (word in ("what", "which") and after in ("city", "country", "town", "place", "state")):
            return "where"
        if word in ("who", "whom", "whose"):
            return "who"
        if word == "why" or (word == "what" and after == "for"):
            return "why"
        if word == "how" and after in ("many", "much", "old", "long", "often", "far", "tall", "big", "large", "high"):
            return "number"
        if word in _QUESTION_WORDS:
            return "open"
    if found[0] in ("is", "are", "was", "were", "do", "does", "did", "has", "have", "had", "can", "could", "will"):
        return "yes or no"
    return "open"


def wanted_noun(question: str) -> str | None:
    """The noun after "what" or "which" that says which class of thing is asked for, lower-case; None without one."""
    match = _WANTED.search(question) or _WANTED_FIRST.search(question)
    if match is None:
        return None
    found = [word for word in words(match.group(1)) if stem(word) and word not in _GENERIC]
    first = words(match.group(1))[:1]
    opens = first and not stem(first[0])  # "What is", "What does": a verb stands where the noun would
    return None if opens or not found else found[-1]


def read_question(text: str, speakers: Iterable[str] = ()) -> Question:
    """Read a question against the speakers that the store knows."""
    by_word: dict[str, str] = {}
    for speaker in speakers:
        parts = [part.casefold() for part in _WORD.findall(speaker)]
        for part in parts[:1] if len(parts) > 1 else parts:
            by_word.setdefault(part, speaker)
        by_word[speaker.casefold()] = speaker
    found = _WORD.findall(text)
    named = [by_word[key] for word in found if (key := re.sub(r"['’]s$", "", word.casefold())) in by_word]
    subjects = list(dict.fromkeys(named))
    kind = kind_of(text)
    weights: dict[int, float] = {}
    spelled: dict[int, str] = {}
    wanted = wanted_noun(text)
    after_question_word = False
    light = {match.start() + m.start() for match in _LIGHT.finditer(text) for m in _WORD.finditer(match.group())}
    for place, word in ((match.start(), match.group()) for match in _WORD.finditer(text)):
        if place in light:
            continue
        plain = re.sub(r"['’]s$", "", word.casefold())
        if plain in _QUESTION_WORDS:
            after_question_word = plain in ("what", "which")
            continue
        term = stem(plain)
        if term and plain not in by_word and plain not in _NOW:
            generic = plain in _GENERIC or after_question_word or plain == wanted
            weight = 0.25 if generic else 1.0
            weights[term] = max(weight, weights.get(term, 0.0))
            spelled.setdefault(term, plain)
        after_question_word = False
    others = [name for name in names(text, known=by_word) if name.casefold() not in by_word]
    past = bool(_PAST.search(text)) or bool(_HAPPENED.search(text))
    present = bool(_PRESENT.search(text)) or (not past and bool(_PRESENT_VERB.search(text)))
    return Question(
        text=text,
        kind=kind,
        weights=weights,
        spelled=spelled,
        subject=subjects[0] if len(subjects) == 1 else None,
        names=tuple(dict.fromkeys(others)),
        first_person=not _FIRST.isdisjoint(set(words(text)) - {"were", "id", "ill"}) and not subjects,
        present=present,
        past=bool(_PAST.search(text)),
        wanted=wanted,
        happened=bool(_HAPPENED.search(text)),
        last=bool(_LAST.search(text)),
    )
