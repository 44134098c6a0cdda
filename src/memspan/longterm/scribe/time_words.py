"""The English words and patterns that `dates` reads time expressions with. Data, no decisions.

Each pattern is matched at a position, without regard to case; named groups are the parts its rule asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MONTH_NAMES = [
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
]
DAY_NAMES = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
MONTHS = {name: i + 1 for i, name in enumerate(MONTH_NAMES)}
MONTHS |= {name[:3]: i + 1 for i, name in enumerate(MONTH_NAMES)} | {"sept": 9}
DAYS = {name: i for i, name in enumerate(DAY_NAMES)}
DAYS |= {"mon": 0, "tue": 1, "tues": 1, "wed": 2, "thu": 3, "thur": 3, "thurs": 3, "fri": 4, "sat": 5, "sun": 6}
SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
HOLIDAYS = {
    "christmas eve": (12, 24),
    "christmas day": (12, 25),
    "christmas": (12, 25),
    "new year's eve": (12, 31),
    "new year's day": (1, 1),
    "new year's": (1, 1),
    "halloween": (10, 31),
    "valentine's day": (2, 14),
}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
NUMBERS |= {"eleven": 11, "twelve": 12}
NUMBERS |= {"fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "a": 1, "an": 1, "a couple of": 2}
NUMBERS |= {"a couple": 2, "couple of": 2}
NTH = {"first": 1, "second": 2, "third": 3, "fourth": 4, "last": -1}
PARTS = {"morning": (6, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (18, 30)}  # hours of the day


def any_of(words: Iterable[str]) -> str:
    """A group that matches any of the words, the longest first."""
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_M = any_of(MONTHS) + r"\.?"
_W, _S, _H = any_of(DAYS), any_of(SEASONS), any_of(HOLIDAYS).replace("'", "['’]")
N = rf"(?:\d{{1,4}}|{any_of(NUMBERS)})"
UNIT = r"(?:minute|hour|day|week|fortnight|month|year|decade)"
ORD = r"(?:st|nd|rd|th)"
CLOCK = (
    r"(?:(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s*(?P<half>[ap])\.?m\b\.?|(?P<h24>[01]?\d|2[0-3]):(?P<m24>[0-5]\d)\b"
    r"|(?P<noon>noon|midnight)\b)"
)

HINT = re.compile(
    rf"\b(?:yesterday|today|tomorrow|tonight|ago|noon|midnight|weekend|{UNIT}s?|{any_of(PARTS)}|{any_of(MONTH_NAMES)}"
    rf"|{any_of(DAY_NAMES)}|{_S}|{_H}|(?:19|20)\d\d|\d+{ORD}|\d*\d0s|(?:{any_of(MONTHS)})\.? \d|\d (?:{any_of(MONTHS)})"
    rf"|mon|tues?|wed|thu(?:rs?)?|fri|\d+:\d\d|\d+\s*[ap]\.?m)\b",
    re.IGNORECASE,
)
START = re.compile(
    rf"(?<![\w$€£#.])(?:{any_of(MONTHS)}|{any_of(DAYS)}|{_S}|{_H}|{any_of(NUMBERS)}|{any_of(NTH)}|\d+|the|this|these"
    r"|last|next|past|coming|yesterday|today|tomorrow|tonight|day|week|weekend|month|year|in|on|at|by|for|of|from|since|starting"
    r"|beginning|until|till|up to|through|before|after|between|during|over|within|around|early|late|mid|later|earlier"
    r"|noon|midnight|back in|as of|every|each|most|any|few)(?![\w])",
    re.IGNORECASE,
)


def pattern(source: str) -> re.Pattern[str]:
    """The compiled pattern, without regard to case."""
    return re.compile(source, re.IGNORECASE)


WHAT = rf"(?:day|week|weekend|month|year|{any_of(DAY_NAMES)})"
Y = r"(?P<y>(?:1[5-9]|20)\d\d)(?!\w|[.,/:-]\d)"
ISO = pattern(
    r"(?P<y>\d{4})-(?P<m>0[1-9]|1[0-2])(?:-(?P<d>[0-3]\d)"
    r"(?:[T ](?P<h>[01]\d|2[0-3]):(?P<min>[0-5]\d)(?::\d\d)?Z?)?)?(?![\w-])"
)
NUMERIC = pattern(r"(?:\d{1,2}/\d{1,2}/\d{4}|\d{1,2}\.\d{1,2}\.\d{4}|\d{4}/\d{2}/\d{2})(?!\w|/)")
DAY_MONTH = rf"(?:(?:the\s+)?\d{{1,2}}{ORD}?\s+(?:of\s+)?{_M}(?!\w)|{_M}\s+(?:the\s+)?\d{{1,2}}{ORD}?(?![\w:%]|[.,]\d))"
WRITTEN = pattern(DAY_MONTH)
WRITTEN_YEAR = pattern(DAY_MONTH + rf",?\s+(?:in\s+)?{Y}")
MONTH_YEAR = pattern(rf"(?P<m>{_M}),?\s+(?:of\s+)?{Y}")
SEASON_YEAR = pattern(rf"(?:the\s+)?(?P<s>{_S}),?\s+(?:of\s+|in\s+)?{Y}")
HOLIDAY_YEAR = pattern(rf"(?P<h>{_H}),?\s+(?:of\s+|in\s+)?{Y}")
DECADE = pattern(r"(?:the\s+)?(?P<c>19|20)?['’]?(?P<y>[0-9])0s\b")
MEASURE = (
    r"(?!\s*(?:people|persons|euros?|dollars?|pounds|steps|cases|words|pages|miles|km|kg|meters|metres|times|%|items))"
)
YEAR = re.compile(r"(?:1[5-9]|20)\d\d(?!\w|[.,/:-]\d)" + MEASURE)
NTH_OF = pattern(rf"(?:the\s+)?(?P<n>{any_of(NTH)})\s+(?P<what>week|weekend|{any_of(DAY_NAMES)})\s+(?:of|in)\s+")
WEEK_OF = pattern(r"(?:the\s+)?(?P<what>week|weekend)\s+of\s+")
BEFORE_LAST = pattern(
    rf"(?:the\s+)?(?P<what>{WHAT})\s+(?P<side>before\s+last|after\s+next)"
    rf"(?!\s+(?:{_S}|{_W}|{_M}|{_H}|week|month|year|night)\b)"
)
BESIDE = pattern(
    rf"(?:(?P<n>{N})\s+|the\s+)?(?P<what>{WHAT})s?\s+(?P<side>before|after|prior\s+to)\s+(?:the\s+(?=\d))?"
)
RECURRING = pattern(r"(?:every|each|most|any)\s+(?:other\s+|single\s+)?\w+")
DEICTIC = pattern(rf"(?P<d>yesterday|today|tomorrow|tonight)(?:\s+(?P<part>{any_of(PARTS)}))?\b")
FEW = r"(?:a\s+few|few|several)"
AGO = pattern(rf"(?P<n>{N}|{FEW})\s+(?P<unit>{UNIT})s?\s+(?P<way>ago|back|from\s+(?:now|today))\b")
IN_STEPS = pattern(
    rf"(?:in|within)\s+(?:about\s+)?(?P<n>{N}|{FEW})\s+(?P<unit>{UNIT})s?(?:['’]\s+time)?\b(?!\s+(?:a|an|per|row)\b)"
)
LAST_FEW = pattern(rf"(?:(?:the|these)\s+)(?P<way>last|past|next)\s+(?:(?P<n>{N}|few|several)\s+)(?P<unit>{UNIT})s?\b")
TURN = pattern(
    rf"(?P<turn>this\s+past|this\s+coming|(?:the\s+)?last|(?:the\s+)?past|this|(?:the\s+)?next|(?:the\s+)?coming)\s+"
    rf"(?P<what>week|weekend|month|year|decade|{any_of(PARTS)}|{_W}|{_M}|{_S}|{_H})(?![\w])(?!\s+of\b)"
)
WEEKDAY = pattern(rf"(?P<w>(?P<full>{any_of(DAY_NAMES)})|mon|tues?|wed|thu(?:rs?)?|fri)(?!\w)")
MONTH = pattern(rf"(?P<m>{_M})(?!\w)")
SEASON = pattern(rf"(?:the\s+)?(?P<s>{_S})(?!\w)(?!\s+of\b)")
HOLIDAY = pattern(rf"(?P<h>{_H})(?!\w)")
WEEKEND = pattern(r"the\s+weekend\b(?!\s+(?:of|before|after)\b)")
NTH_DAY = pattern(
    r"(?:(?<=on )|(?<=by )|(?<=until )|(?<=since )|(?<=from ))"
    rf"the\s+(?P<d>[12]?\d|3[01]){ORD}\b"
    r"(?!\s+(?:floor|of|century|birthday|anniversary|time|grade|place|\w+ing)\b)"
)
SOFT = pattern(
    r"(?:(?:the\s+)?(?:very\s+)?"
    r"(?:early|late|later|earlier|mid|end\s+of|beginning\s+of|start\s+of|middle\s+of|summer\s+of(?=\s+last))"
    r"(?:\s+in|\s+of)?[\s-]+)"
)
CLOCK_FIRST = pattern(r"(?:(?:at|by|around|from)\s+)?" + CLOCK)
AT_CLOCK = pattern(r",?\s+(?:(?:at|around|by)\s+)?" + CLOCK)
DAY_PART = pattern(rf"\s+(?:in\s+the\s+)?(?P<part>{any_of(PARTS)})\b")
ON = pattern(r",?\s+(?:on\s+)?")
BETWEEN = pattern(r"(between|from)\s+")
AND = pattern(r"\s*(?:and|to|until|till|through|-|–)\s+")
ONWARD = pattern(r"\s+(?:on(?:wards?)?|onwards?)\b")
FOR = pattern(
    r"for\s+(?:about\s+|over\s+|almost\s+|nearly\s+|around\s+|the\s+(?:last|past)\s+)*"
    rf"(?P<n>{N}|a\s+few|few)\s+(?P<unit>{UNIT})s?\b(?!\s+(?:ago|from))"
)
LEAD = pattern(
    r"(?P<lead>since|starting|beginning|as\s+of|from|until|till|up\s+to|before|after|by|through|in|on|at|during|over|for"
    r"|around|within|back\s+in|of)\s+(?:(?:on|in|at|around|about)\s+)?(?:(?:the\s+)?year\s+(?=\d))?"
)
FUTURE_QUESTION = pattern(r"\b(?:will|going\s+to|upcoming|plan(?:s|ned|ning)?|shall)\b")
