"""Phrases of a behaviour's definition: comparisons of measures with numbers, durations and smoothing windows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from memspan.longterm.passages import STOP_WORDS

Spec = tuple[str, str, float, bool]
"""Measure, sign, value, per second."""

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_MEASURES = (
    (
        "distance",
        r"cent(?:er|re)s?[ -](?:to[ -]cent(?:er|re) )?distance|distance (?:of|between) (?:the|their) cent(?:er|re)s",
    ),
    ("closest_distance", r"(?:(?:closest|nearest|minimum|minimal|smallest) )?distance|gap|proximity"),
    ("head_angle", r"(?:relative )?head(?:ing)? angle|angle of (?:the|its) head|angle"),
    ("other_speed", r"other'?s? speed|(?:target|partner)(?:'s)? speed|speed of the (?:other|target|partner)"),
    ("speed", r"speed|velocity"),
    ("acceleration", r"acceleration"),
    ("turning", r"turning(?: rate| speed)?|turn rate|angular (?:speed|velocity)"),
)
_MEASURE = "|".join(f"(?P<{name}>{pattern})" for name, pattern in _MEASURES)
_LESS = r"<|less than|lower than|smaller than|below|under|shorter than"
_LESS_EQUAL = r"<=|≤|=<|at most|no more than|not more than|up to|within"
_MORE = r">|more than|greater than|larger than|higher than|bigger than|above|over|exceed(?:s|ing)?"
_MORE_EQUAL = r">=|≥|=>|at least|no less than|not less than|from"
_COMPARE = rf"(?P<le>{_LESS_EQUAL})|(?P<ge>{_MORE_EQUAL})|(?P<lt>{_LESS})|(?P<gt>{_MORE})"
_UNIT = (
    r"(?:\s*(?P<unit>px|pixels?|°|deg(?:rees?)?)?(?:\s*(?:/|per|a|each)\s*(?P<per>frame|f|s|sec|second)\b)?)(?![²]|\.?\w)"
    r"(?!\s*(?:[cmkµu]?m|met(?:er|re)s?|inch(?:es)?|rad(?:ians?)?|body|percent|%)(?:\b|(?<=%)))"
)
_LINK = r"\W{0,3}(?:(?:is|are|of|must be|should be|stays|being|that is|which is|to (?:the|an)other)\W+){0,2}"
_OF_MEASURE = re.compile(rf"(?:{_MEASURE}){_LINK}(?:{_COMPARE})\s*{_NUMBER}{_UNIT}")
_BETWEEN = re.compile(
    rf"(?:{_MEASURE}){_LINK}(?:(?:between|from|in|of)\s+)?{_NUMBER}\s*(?:px|pixels?|°|deg(?:rees?)?)?\s*(?:-|–|—|to|and|\.\.\.?)\s*"
    rf"{_NUMBER}{_UNIT}"
)
_CHAIN = re.compile(rf"{_NUMBER}\s*(?P<first><=?|≤)\s*(?:{_MEASURE})\s*(?P<second><=?|≤)\s*{_NUMBER}{_UNIT}")
_RANGE = re.compile(
    rf"(?:between\s+)?{_NUMBER}\s*(?:px)?\s*(?:-|–|—|to|and)\s*{_NUMBER}\s*(?P<unit>px|pixels?)\b(?!\s*(?:/|per))"
)
_WITHIN = re.compile(rf"\bwithin\s+{_NUMBER}\s*(?P<unit>px|pixels?)\b(?!\s*(?:/|per))")
_THAN = re.compile(
    rf"\b(?P<word>faster|quicker|slower|closer|nearer|farther|further)(?: to \w+(?: \w+)?)? than\s+{_NUMBER}{_UNIT}"
)
_WORDS = {
    "faster": ("speed", ">"),
    "quicker": ("speed", ">"),
    "slower": ("speed", "<"),
    "closer": ("closest_distance", "<"),
    "nearer": ("closest_distance", "<"),
    "farther": ("closest_distance", ">"),
    "further": ("closest_distance", ">"),
}
_TIME = r"(?P<time>frames?|ms|milliseconds?|s|secs?|seconds?)\b"
_LASTS = re.compile(
    r"(?:\b(?:for|lasting|lasts?|during|with|and|of|a|an)\W+)*(?:\b(?:min(?:imum|imal)?\.?\W+)?(?:duration|length|time)\W+(?:is\W+|of\W+)*)?"
    r"(?:>=?|≥|\b(?:at least|more than|longer than|no less than|no shorter than|min(?:imum)?(?: of)?|for|"
    rf"duration(?: of| is)?|lasting))\s*{_NUMBER}\s*{_TIME}"
)
_SMOOTH = re.compile(
    rf"(?:\b(?:with|and|a|an)\W+)*\bsmooth\w*(?:\W+(?:window|filter|the|mask|events?|result|it|over|with|by|of|a|is|at|size|in|majority))*"
    rf"\W*{_NUMBER}(?:\W?frames?)?(?:\W+(?:window|long))?"
)
_WINDOW = re.compile(rf"\b(?:a\s+)?window(?: size| length)?\W+(?:of\W+|is\W+|=\W*)?{_NUMBER}(?:\W?frames?)?")
_IDLE = STOP_WORDS | set(
    "define defined definition definitions as mean means meaning call called say says animal animals mouse mice fly"
    " flies fish rat rats bird birds it its one another other second first actor target partner both while during"
    " whenever each every time times frame frames px pixel pixels deg degree degrees least most event events behaviour"
    " behavior behaviors behaviours same new now instead except only let then also please set version want keep like"
    " holds hold true measure conditions condition satisfied met following refine change changed redefine name again"
    " toward towards save remember symbol use used make happen happens occur occurs given minimum"
    " maximum shortest".split()
)


@dataclass(slots=True)
class Phrases:
    """What was read, and what is left of the text."""

    conditions: list[tuple[int, Spec]] = field(default_factory=list)
    smooth: int = 1
    least_frames: int = 0
    least_seconds: float = 0.0
    rest: str = ""


def read_phrases(text: str) -> Phrases:
    """The phrases of a text whose symbols were blanked out; each stretch of text is read once."""
    found = Phrases(rest=text.lower())

    def take(match: re.Match[str]) -> None:
        start, stop = match.span()
        found.rest = found.rest[:start] + "\0" * (stop - start) + found.rest[stop:]

    def every(pattern: re.Pattern[str]) -> list[re.Match[str]]:
        matches = [match for match in pattern.finditer(found.rest) if "\0" not in match[0]]
        for match in matches:
            take(match)
        return matches

    def put(match: re.Match[str], measure: str, sign: str, value: str) -> None:
        per = match.groupdict().get("per")
        found.conditions.append((match.start(), (measure, sign, float(value), per in ("s", "sec", "second"))))

    for match in every(_SMOOTH) + every(_WINDOW):
        found.smooth = max(1, round(float(match[1])))
    for match in every(_LASTS):
        value, unit = float(match[1]), match["time"]
        if unit.startswith("frame"):
            found.least_frames = round(value)
        else:
            found.least_seconds = value / 1000 if unit.startswith(("ms", "milli")) else value
    for match in every(_CHAIN):
        numbers = _numbers(match)
        put(match, _measure(match), ">" if match["first"] == "<" else ">=", numbers[0])
        put(match, _measure(match), "<" if match["second"] == "<" else "<=", numbers[1])
    for match in every(_BETWEEN):
        low, high = sorted(_numbers(match), key=float)
        put(match, _measure(match), ">=", low)
        put(match, _measure(match), "<=", high)
    for match in every(_OF_MEASURE):
        sign = next(sign for name, sign in (("le", "<="), ("ge", ">="), ("lt", "<"), ("gt", ">")) if match[name])
        put(match, _measure(match), sign, _numbers(match)[0])
    for match in every(_THAN):
        measure, sign = _WORDS[match["word"]]
        put(match, measure, sign, _numbers(match)[0])
    for match in every(_RANGE):
        low, high = sorted(_numbers(match), key=float)
        put(match, "closest_distance", ">=", low)
        put(match, "closest_distance", "<=", high)
    for match in every(_WITHIN):
        put(match, "closest_distance", "<=", _numbers(match)[0])
    found.conditions.sort(key=lambda pair: pair[0])
    return found


def _measure(match: re.Match[str]) -> str:
    return next(name for name, _ in _MEASURES if match.groupdict().get(name))


def _numbers(match: re.Match[str]) -> list[str]:
    return [group for group in match.groups() if group is not None and re.fullmatch(_NUMBER, group)]


def unread_clauses(rest: str, names: set[str]) -> tuple[str, ...]:
    """Clauses that are left and say something: they hold a word that is neither idle nor a symbol's, or a number."""
    left = []
    for clause in re.split(r"[\0.,;:()\n]+|\b(?:and|but|or|with|when|while)\b", rest):
        words = re.findall(r"\w+(?:'\w+)?|[<>≤≥=]+", clause)
        if any(word not in _IDLE and word not in names and not re.fullmatch(r"[<>≤≥=]+|\w", word) for word in words):
            left.append(" ".join(clause.split()))
    return tuple(left)
