"""What a question asks a graph of facts for: whom or what it is about, which attribute, what sort of value.

"Where did Jonas live on 31 March 2024?" names Jonas, asks for where one lives, and wants a place; its date belongs to
the view and counts as no word of the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memspan.longterm.scribe.dates import find_times
from memspan.longterm.zep.senses import SENSES, Unit, stem, units, words

_HALF = 0.5  # weight of what somebody's favourite is asked of ("favourite *dish*")
_IDLE = 0.1  # weight of a verb that says nothing of its own ("which diet does she *follow*")
_LIGHT = 0.4  # weight of a word that says of what sort the answer is ("which *city*"), or little at all ("the name of")
_NOTHING = frozenset(("much", "mani", "often", "be-a"))  # stems, as in the next two
_LIGHT_NOUNS = frozenset("name call set thing place long".split())
_LIGHT_VERBS = frozenset("follow use get go give make find need want be-a".split())
_ASIDE = re.compile(
    r"^\W*(?:as far as (?:we|i|you|anyone|anybody|one) (?:knew|know|knows)(?: (?:back )?then| at (?:the|that) time)?"
    r"|(?:can|could|would) you (?:please )?(?:tell me|remind me|say)|(?:please )?(?:tell|remind) me"
    r"|do (?:you|we) (?:know|remember)|i(?: would|['’]d) like to know|according to (?:what|all) we (?:know|knew)"
    r"|to (?:our|the best of our) knowledge)\b[\s,]*",
    re.IGNORECASE,
)
_VIEW = re.compile(
    r"\b(?:right now|as of now|by now|from now on|now|nowadays|these days|in those days|currently|presently|at present"
    r"|at the moment|at the time|at that time|at that point|in the meantime|back then|(?<=\w )then|any ?more|any longer"
    r"|still|lately|recently|today|to date|so far|current|present|latest)\b",
    re.IGNORECASE,
)
_WEEKDAY = re.compile(r"\W*(?:mon|tues|wednes|thurs|fri|satur|sun)day\W*", re.IGNORECASE)
_OF_A_NAME = re.compile(  # what follows a time that belongs to a name
    r"['’]s\b|\s+(?!(?:who|whom|whose|what|which|when|where|why|how|is|are|was|were|do|does|did|has|have|had|will|would|can"
    r"|could|should|in|at|on|for|to|with|from|by|of|as|about|and|or|that|if|according|before|after|until|till|since)\b)"
    r"[a-z]"
)
_FRONTED = re.compile(r"^\W*(in|at|on|for|to|with|from|by|of|as|about)\s+(?=(?:which|what|whom|whose|how)\b)", re.I)
_OPENING = re.compile(
    r"(?:who|whom|whose|what|which|when|where|why|how|is|are|was|were|do|does|did|has|have|had|will|would|can|could"
    r"|should|may|might|in|at|on|for|to|with|from|by|of|as|about|since|until|name|give|list|show|the|a|an|my|our)(?:['’]s)?",
    re.IGNORECASE,
)
_HOW = re.compile(r"\bhow\s+(much|many|old|tall|high|long|large|big|heavy|fast|far|expensive|wide|deep|often)\b", re.I)
_SORT_OF = re.compile(
    r"\b(?:which|what)\s+(?:(?:kind|sort|type|brand|make|name)s?\s+of\s+)?((?:[\w-]+\s+){0,2}?[\w-]+?)s?\s+"
    r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|must|may)\b",
    re.IGNORECASE,
)
_PROFESSION = re.compile(  # "what does she do for a living", "what does she do?"
    r"\b(?:do|doing)\s+for\s+(?:(?:a|his|her|their|my|your)\s+)?(?:living|work|job)\b"
    r"|(\bwhat\s+(?:do|does)\s+[^?]{1,60}?)\s+do\s*\?*\s*$",
    re.IGNORECASE,
)
_SORTS = {
    "place": "city town country village place street room floor building region island venue location",
    "time": "day date time month year weekday hour week evening morning",
    "person": "person man woman colleague friend teacher doctor",
    "org": "company firm school university college employer bank organisation organization team shop",
    "number": "number extension code pin",
    "amount": "amount sum price percentage",
}
_SAID_AS = (  # ways of asking whose words do not stand together
    (re.compile(r"\bcan(?:['’]t|not| not)((?:\s+[\w'’-]+){0,3}?)\s+stand\b", re.I), r"dislike\1"),
    (
        re.compile(r"\bhow\s+((?:is|are|was|were)\b[^?]{1,60}?)\s+(?:going|doing|coming along|getting on)\b", re.I),
        r"\1 status",
    ),
    (re.compile(r"\bhow\s+late\b", re.I), "closing time"),
)
_VALUES = {noun: sort for sort, nouns in _SORTS.items() for noun in nouns.split()}
_CLOCK = re.compile(r"\b(?:what|which)\s+(?:time|hour)\b|\bhow (?:early|late)\b", re.IGNORECASE)
_DAY_OF_WEEK = re.compile(r"\bday of the week\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the match of facts sees it.

    Attributes:
        names: lower-case words of the names in it, capitals tell; in order.
        units: what is asked of them, each with its weight.
        stems: stems of all words, names included.
        wanted: sorts of value that answer it; empty when anything may. "clock", "weekday" and "date" are times.
        sort: what of it is asked for: "city" in "which city".
        first_person: it asks about "I" or "my".
        masked: the question without names and times, for an embedder.
    """

    names: tuple[str, ...]
    units: tuple[tuple[Unit, float], ...]
    stems: frozenset[str]
    wanted: frozenset[str]
    sort: Unit | None
    first_person: bool
    masked: str


def understand(text: str, now: datetime) -> Asked:
    """Read a question. `now` is only used to see which words are a time."""
    rest = _without_times(_ASIDE.sub("", text), now)
    asked = _ASIDE.sub("", rest).strip(" ,")
    if fronted := _FRONTED.match(asked):  # "for whom does she work" asks like "whom does she work for"
        asked = f"{asked[fronted.end() :].rstrip(' ?.!')} {fronted[1].lower()}?"
    asked = _PROFESSION.sub(lambda match: f"{match[1] or ''} profession ", _DAY_OF_WEEK.sub("weekday", asked))
    for shape, said in _SAID_AS:
        asked = shape.sub(said, asked)
    names = _names(asked)
    proper = {word for name in names for word in words(name)}
    plain = [word for word in words(asked) if word not in proper]
    sort = _SORT_OF.search(asked)
    weighed = _weighed(units(plain), words(sort[1]) if sort else [], _HOW.search(asked))
    stems = frozenset(stem(word) for word in (*proper, *plain))
    masked = " ".join(asked.split())
    for name in names:
        masked = re.sub(rf"\b{re.escape(name)}(?:['’]s)?", " ", masked)
    sorts = units(words(sort[1])[-1:]) if sort else []
    return Asked(
        names=tuple(dict.fromkeys(word for name in names for word in words(name))),
        units=tuple(weighed),
        stems=stems,
        wanted=_wanted(asked, sort[1] if sort else "", weighed),
        sort=sorts[0] if sorts else None,
        first_person=bool(re.search(r"\b(?:i|my|me|mine|myself)\b", asked, re.IGNORECASE)),
        masked=" ".join(masked.split()),
    )


def _weighed(read: Sequence[Unit], sort: Sequence[str], degree: re.Match[str] | None) -> list[tuple[Unit, float]]:
    """The units that are asked, each with its weight: words that say of what sort the answer is weigh less."""
    nouns = {stem(word) for word in sort}
    measure = stem(degree[1].lower()) if degree else ""
    kept = [unit for unit in dict.fromkeys(read) if unit.key not in _NOTHING]
    # What the sort of value tells already ("which *city* does she live in") is not asked twice.
    told = {stem(sort[-1])} if sort and sort[-1] in _VALUES else set()
    idle = {unit for unit in kept if unit.key.startswith("be ") or unit.key in told}
    if any(SENSES[name].value in ("amount", "number") for unit in kept if unit.key != measure for name in unit.senses):
        idle |= {unit for unit in kept if unit.key == measure}  # "how large is the budget"
    kept = [unit for unit in kept if unit not in idle] or kept
    weighed: list[tuple[Unit, float]] = []
    for unit in kept:
        favourite = bool(weighed) and "favourite" in weighed[-1][0].senses
        light = unit.key in nouns or unit.key == measure or unit.key in _LIGHT_NOUNS
        weight = _IDLE if unit.key in _LIGHT_VERBS else _HALF if favourite else _LIGHT if light else 1.0
        weighed.append((unit, weight if len(kept) > 1 else 1.0))
    return weighed


def _without_times(text: str, now: datetime) -> str:
    for span in reversed(find_times(text, now, prefer="past")):
        # "The summer party" and "the Monday class" are names, and June who has a dog is no month.
        after = text[span.offset + len(span.text) :]
        if not _WEEKDAY.fullmatch(span.text) and not _OF_A_NAME.match(after):
            text = f"{text[: span.offset]} {text[span.offset + len(span.text) :]}"
    return " ".join(_VIEW.sub(" ", text).split())


def _names(text: str) -> list[str]:
    """Capitalised words, without the one that only opens the sentence."""
    found = []
    for number, match in enumerate(re.finditer(r"[^\W_][\w.&-]*(?:['’](?!s\b)\w+)?", text)):
        word = match[0].strip(".")
        if not word[:1].isupper() or word == "I" or (number == 0 and _OPENING.fullmatch(word)):
            continue
        if number == 0 and any(unit.senses for unit in units(words(word))):
            continue
        found.append(word)
    return found


def _wanted(text: str, sort: str, weighed: list[tuple[Unit, float]]) -> frozenset[str]:
    lower = text.lower()
    found: set[str] = set()
    if _CLOCK.search(lower):
        return frozenset(("clock",))
    if re.search(r"\b(?:which|what) weekday\b", lower):
        return frozenset(("weekday",))
    noun = sort.lower().split()[-1] if sort else ""
    if noun in ("day", "date"):
        found |= {"weekday", "date"}
    elif noun in _VALUES:
        found.add(_VALUES[noun])
    elif re.search(r"\bwho(?:m|se)?\b", lower):
        found.add("person")
    elif re.search(r"\bwhere\b", lower):
        found.add("place")
    elif re.search(r"\bwhen\b", lower):
        found.add("time")
    elif _HOW.search(lower):
        found.add("amount")
    if sort and not found:
        return frozenset()  # "which dish", "what car": something of that sort, whatever else is said of it
    heaviest = max((weight for _, weight in weighed), default=0.0)
    for unit, weight in weighed:
        senses = [SENSES[name].value for name in unit.senses]
        if weight == heaviest and senses and all(senses) and "time" not in found:
            found.update(senses)
    return frozenset(found)
