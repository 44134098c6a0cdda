"""Of what sort the value of a fact is: a time, an amount, a number, a name, or a word."""

from __future__ import annotations

import re

from memspan.longterm.scribe.time_words import DAY_NAMES, MONTH_NAMES, any_of

_CLOCK = re.compile(
    r"\b(?:[01]?\d|2[0-3])[:.][0-5]\d\b|\b\d{1,2}\s*(?:[ap]\.?m\b|o['’]clock)|\b(?:noon|midnight)\b", re.I
)
_WEEKDAY = re.compile(rf"\b{any_of(DAY_NAMES)}s?\b|\bweekends?\b", re.IGNORECASE)
_DATE = re.compile(
    rf"\b\d{{4}}-\d\d(?:-\d\d)?\b|\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{any_of(MONTH_NAMES)}\b"
    rf"|\b{any_of(MONTH_NAMES)}\s+\d|^\W*{any_of(MONTH_NAMES)}\W*$|^\W*(?:in\s+)?(?:19|20)\d\d\W*$"
    r"|\b(?:today|tomorrow|yesterday|next week|next month|next year)\b",
    re.IGNORECASE,
)
_UNIT = (
    r"(?:%|percent|euros?|eur|dollars?|usd|pounds?|gbp|francs?|crowns?|yen|cents?|k\b|thousand|million|billion|m?g|kg|kilos?"
    r"|grams?|milligrams?|lbs?|tons?|tonnes?|ml|lit(?:re|er)s?|m|cm|mm|km|met(?:re|er)s?|feet|foot|inch(?:es)?|miles?"
    r"|kilomet(?:re|er)s?|years?|months?|weeks?|days?|hours?|minutes?|seconds?|people|persons?|members?|degrees?|°\w?"
    r"|times|pieces?|units?|gb|mb|tb|kwh?|watts?|kcal|calories|tablets?|pills?|drops?|points?|seats?)"
)
_AMOUNT = re.compile(rf"[$€£¥]\s*\d|\d[\d.,]*\s*[$€£¥]|\d[\d.,]*[\s-]*{_UNIT}(?!\w)", re.IGNORECASE)
_NUMBER = re.compile(r"\+?\d[\d\s()./-]{4,}\d")
_WORDED = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|half)\b", re.I
)
_PLACE = re.compile(
    r"\b(?:room|hall|floor|street|road|avenue|square|park|building|house|garden|office|lobby|basement|attic|city|town"
    r"|village|station|library|caf[eé]|restaurant|centre|center|kitchen|drawer|shelf|cupboard|box|bag|garage)\b",
    re.IGNORECASE,
)
_LABELS = {"PERSON": "person", "GPE": "place", "LOC": "place", "FAC": "place", "ORG": "org"}
TIMES = frozenset(("clock", "weekday", "date"))
NAMED = frozenset(("person", "place", "org"))


def sorts(value: str, label: str = "") -> frozenset[str]:
    """Sorts a value can be of: "clock", "weekday", "date", "amount", "number", "person", "place", "org".

    "proper" is a name of unknown kind, "word" is neither a name nor a figure.
    """
    found: set[str] = set()
    for name, shape in (("clock", _CLOCK), ("weekday", _WEEKDAY), ("date", _DATE), ("amount", _AMOUNT)):
        if shape.search(value):
            found.add(name)
    if not found and re.search(r"\d", value):
        if _NUMBER.search(value):
            found.add("number")
        elif re.fullmatch(r"\W*[\d.,]+\W*", value):
            found |= {"amount", "number"}
        else:
            found |= {"number", "word"}
    if not found and _WORDED.search(value):
        found |= {"amount", "word"}
    if not found or found == {"amount", "word"}:
        if _PLACE.search(value):
            found.add("place")
        if label in _LABELS:
            found.add(_LABELS[label])
        elif re.search(r"(?<!\w)[^\W\d_]", value) and any(word[:1].isupper() for word in value.split()):
            found.add("proper")
        else:
            found.add("word")
    return frozenset(found)


def fits(wanted: frozenset[str], found: frozenset[str]) -> float:
    """How well a value of these sorts answers a question that wants those, 0 to 1."""
    if not wanted or wanted & found or ("time" in wanted and TIMES & found):
        return 1.0
    if (wanted & TIMES or "time" in wanted) and TIMES & found:
        return 0.7  # a date where a weekday was asked for
    if wanted & NAMED:
        if "proper" in found:
            return 1.0
        return 0.75 if "word" in found or NAMED & found else 0.35  # labels are often wrong, figures are no names
    if wanted & {"amount", "number"} and found & {"amount", "number"}:
        return 0.8
    return 0.4
