"""Time expressions in English text, resolved against the moment the text was written.

Nothing here reads the wall clock: "last week" in an episode of 2023 is a week of 2023, and without the episode's own
time only expressions that carry their year ("8 May 2023", "since 2019") are resolved; the rest stays unknown.

Written-out calendar dates are read by `dateparser`. Spans, granularity and what it does not know ("last summer", "the
week before 9 June", "since", "until") are read here, by rules that are tried in order at each word that can begin a
time expression. Conventions: spans are half open, weeks begin on Monday, seasons are the northern ones (spring begins
in March), "next Friday" is the first Friday after today, "two years ago" is that calendar year.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal

from memspan.longterm.scribe import time_words as words

Precision = Literal["year", "month", "week", "day", "time"]
Role = Literal["at", "from", "until", "for"]
Prefer = Literal["past", "future", "nearest"]
_Range = tuple[datetime, datetime, Precision]


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A stretch of time named in a text.

    Attributes:
        start: its first moment; None when only its end is known ("until June").
        end: the first moment after it; None when it is open ("since 2019").
        precision: the grain of the expression, not the length of the span ("last summer" has grain "month").
        text: the expression with its preposition, as written.
        offset: where `text` begins in the source.
        role: "at" happened in it, "from" holds since its start, "until" held up to its end, "for" a length of time that
            ends at the text's own moment if the tense says so ("I have lived here for four years").
    """

    start: datetime | None
    end: datetime | None
    precision: Precision
    text: str
    offset: int
    role: Role = "at"

    def phrase(self) -> str:
        """The span in words that stay true whenever they are read: "on 7 May 2023", "since 2019"."""
        if self.role == "until" and self.end is not None:
            return f"until {_name(self.end, self.precision)}"
        if self.start is None:
            return ""
        if self.role in ("from", "for"):
            return f"since {_name(self.start, self.precision)}"
        lead = {"year": "in", "month": "in", "week": "in the week of", "day": "on", "time": "on"}[self.precision]
        return f"{lead} {_name(self.start, self.precision)}"


def _name(moment: datetime, precision: Precision) -> str:
    if precision == "year":
        return str(moment.year)
    if precision == "month":
        return f"{words.MONTH_NAMES[moment.month - 1].capitalize()} {moment.year}"
    day = f"{moment.day} {words.MONTH_NAMES[moment.month - 1].capitalize()} {moment.year}"
    return f"{day} at {moment:%H:%M}" if precision == "time" else day


def has_time(text: str) -> bool:
    """Whether the text can hold a time expression; a cheap test that lets most text skip the reading."""
    return words.HINT.search(text) is not None


# --- calendar arithmetic ----------------------------------------------------------------------------------------------


def _floor(moment: datetime, unit: str) -> datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit in ("week", "fortnight"):
        return day - timedelta(days=day.weekday())
    if unit == "month":
        return day.replace(day=1)
    if unit == "year":
        return day.replace(month=1, day=1)
    if unit == "decade":
        return day.replace(year=day.year - day.year % 10, month=1, day=1)
    if unit == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    return moment.replace(second=0, microsecond=0) if unit == "minute" else day


def _shift(moment: datetime, count: int, unit: str) -> datetime:
    days = {"minute": 1 / 1440, "hour": 1 / 24, "day": 1, "week": 7, "fortnight": 14}
    if unit in days:
        return moment + timedelta(days=days[unit] * count)
    months = moment.year * 12 + moment.month - 1 + count * {"month": 1, "year": 12, "decade": 120}[unit]
    first = moment.replace(year=months // 12, month=months % 12 + 1, day=1)
    last_day = (_shift(first, 1, "month") - timedelta(days=1)).day if moment.day > 28 else 31
    return first.replace(day=min(moment.day, last_day))


_COARSER: dict[str, Precision] = {"minute": "day", "hour": "day", "day": "week", "week": "month"}


def _grain(unit: str) -> Precision:
    coarse: dict[str, Precision] = {"minute": "time", "hour": "time", "fortnight": "week", "decade": "year"}
    return coarse.get(unit, unit)  # type: ignore[arg-type]


def _unit(moment: datetime, unit: str) -> _Range:
    start = _floor(moment, unit)
    return start, _shift(start, 1, unit), _grain(unit)


def _number(word: str) -> int:
    word = " ".join(word.lower().split())
    return int(word) if word.isdigit() else words.NUMBERS[word]


@lru_cache(maxsize=4096)
def _calendar(text: str, day_first: bool) -> date | None:
    """A written-out date with its year, which does not depend on when it was said: hence the cache."""
    import dateparser  # type: ignore[import-untyped, unused-ignore]

    settings = {
        "DATE_ORDER": "DMY" if day_first else "MDY",
        "REQUIRE_PARTS": ["day", "month", "year"],
        "RELATIVE_BASE": datetime(2000, 1, 1),
        "PARSERS": ["absolute-time"],
    }
    found: datetime | None = dateparser.parse(text, languages=["en"], settings=settings)
    return None if found is None else found.date()


# --- reading ----------------------------------------------------------------------------------------------------------


class _Reader:
    """One text, its moment, and the rules; every rule answers a range or None."""

    def __init__(self, text: str, at: datetime | None, prefer: Prefer, day_first: bool) -> None:
        self.text = text
        self.known = at is not None
        self.at = at or datetime(2000, 1, 1, tzinfo=UTC)  # only rules that need no moment are asked when it is unknown
        self.prefer = prefer
        self.day_first = day_first
        self.today = _floor(self.at, "day")

    def day(self, year: int, month: int, day: int) -> datetime:
        return self.today.replace(year=year, month=month, day=day)

    def pick(self, ranges: list[_Range], *, strict: bool = False) -> _Range | None:
        """Of candidates in order, the one the tense points at; `strict` leaves out the one that holds today."""
        past = [r for r in ranges if (r[1] <= self.today if strict else r[0] <= self.at)]
        future = [r for r in ranges if (r[0] > self.today if strict else r[1] > self.at)]
        if self.prefer == "past":
            return past[-1] if past else None
        if self.prefer == "future":
            return future[0] if future else None
        return min(ranges, key=lambda r: abs((r[0] + (r[1] - r[0]) / 2) - self.at), default=None)

    def yearly(self, build: Callable[[int], _Range | None]) -> list[_Range]:
        years = range(max(1, self.at.year - 4), min(9998, self.at.year + 4) + 1)
        return [r for year in years if (r := build(year)) is not None]

    def turn(self, word: str, ranges: list[_Range]) -> _Range | None:
        """The last, this or next of things that come every year."""
        if word in ("last", "past"):
            return next((r for r in reversed(ranges) if r[1] <= self.at), None)
        if word in ("next", "coming"):
            return next((r for r in ranges if r[0] > self.at), None)
        return next((r for r in ranges if r[0].year == self.at.year), None)

    # ranges of named things

    def month(self, year: int, month: int) -> _Range:
        return _unit(self.day(year, month, 1), "month")

    def season(self, year: int, name: str) -> _Range:
        start = self.day(year, words.SEASONS[name], 1)
        return start, _shift(start, 3, "month"), "month"

    def holiday(self, year: int, name: str) -> _Range:
        return _unit(self.day(year, *words.HOLIDAYS[name]), "day")

    def date(self, text: str, year: int | None) -> _Range | None:
        day_first = self.day_first or bool(re.match(r"\d+\.", text))
        found = _calendar(text if year is None else f"{text} {year}", day_first)
        return None if found is None else _unit(self.day(found.year, found.month, found.day), "day")

    def weekend(self, weeks: int) -> _Range:
        saturday = _floor(self.at, "week") + timedelta(days=5 + 7 * weeks)
        return saturday, saturday + timedelta(days=2), "day"

    def weekday(self, name: str, word: str) -> _Range | None:
        first = self.today - timedelta(days=7 + self.today.weekday()) + timedelta(days=words.DAYS[name])
        ranges = [_unit(first + timedelta(days=7 * n), "day") for n in range(3)]
        if word in ("last", "past"):
            return [r for r in ranges if r[1] <= self.today][-1]
        if word in ("next", "coming"):
            return next(r for r in ranges if r[0] > self.today)
        if word == "this":
            return next((r for r in ranges if r[0] >= self.today), None) if self.prefer != "past" else ranges[1]
        return self.pick(ranges, strict=True)

    def part(self, span: _Range, name: str) -> _Range:
        first, last = words.PARTS[name]
        return span[0] + timedelta(hours=first), span[0] + timedelta(hours=last), "time"

    # rules, in the order they are tried

    def absolute(self, pos: int, led: bool) -> tuple[_Range, int] | None:
        """Expressions that carry their year."""
        if m := words.ISO.match(self.text, pos):
            year, month = int(m["y"]), int(m["m"])
            if m["d"] is None:
                return self.month(year, month), m.end()
            day = self.day(year, month, int(m["d"]))
            if m["h"] is None:
                return _unit(day, "day"), m.end()
            moment = day.replace(hour=int(m["h"]), minute=int(m["min"]))
            return (moment, moment + timedelta(minutes=1), "time"), m.end()
        if m := words.NUMERIC.match(self.text, pos) or words.WRITTEN_YEAR.match(self.text, pos):
            span = self.date(re.sub(r"(?i)^the\s+|\bof\b", "", m[0]), None)
            return None if span is None else (span, m.end())
        if m := words.MONTH_YEAR.match(self.text, pos):
            return self.month(int(m["y"]), words.MONTHS[m["m"].lower().rstrip(".")]), m.end()
        if m := words.SEASON_YEAR.match(self.text, pos):
            return self.season(int(m["y"]), m["s"].lower()), m.end()
        if m := words.HOLIDAY_YEAR.match(self.text, pos):
            return self.holiday(int(m["y"]), m["h"].lower().replace("’", "'")), m.end()
        if (m := words.DECADE.match(self.text, pos)) and (led or m[0][0] in "tT"):
            start = self.day(int(m["c"] or 19) * 100 + int(m["y"]) * 10, 1, 1)
            return (start, _shift(start, 10, "year"), "year"), m.end()
        if led and (m := words.YEAR.match(self.text, pos)):
            return _unit(self.day(int(m[0]), 1, 1), "year"), m.end()
        return None

    def nested(self, pos: int, led: bool) -> tuple[_Range, int] | None:
        """ "The week before 9 June", "two days after Christmas", "the second weekend of May"."""
        if m := words.NTH_OF.match(self.text, pos):
            inner = self.base(m.end(), True)
            if inner is None or inner[0][2] != "month":
                return None
            return self.nth(inner[0], words.NTH[m["n"].lower()], m["what"].lower()), inner[1]
        if m := words.WEEK_OF.match(self.text, pos):
            inner = self.base(m.end(), True)
            if inner is None or inner[0][2] != "day":
                return None
            week = _unit(inner[0][0], "week")
            saturday = week[0] + timedelta(days=5)
            weekend = m["what"].lower() == "weekend"
            return ((saturday, saturday + timedelta(days=2), "day") if weekend else week), inner[1]
        if self.known and (m := words.BEFORE_LAST.match(self.text, pos)):
            word = m["side"].lower().split()[-1]
            count = -2 if word == "last" else 2
            what = m["what"].lower()
            if what == "weekend":
                return self.weekend(count), m.end()
            if what in words.DAYS:
                span = self.weekday(what, word)
                return None if span is None else (_unit(_shift(span[0], count // 2, "week"), "day"), m.end())
            return _unit(_shift(_floor(self.at, what), count, what), what), m.end()
        if m := words.BESIDE.match(self.text, pos):
            inner = self.base(m.end(), True)
            return None if inner is None else (self.beside(inner[0], m), inner[1])
        return None

    def beside(self, span: _Range, m: re.Match[str]) -> _Range:
        before = m["side"].lower() != "after"
        what = m["what"].lower()
        if what == "weekend":
            saturday = _floor(span[0], "week") + timedelta(days=5)
            saturday += timedelta(days=(-7 if saturday + timedelta(days=2) > span[0] else 0) if before else 0)
            if not before and saturday < span[1]:
                saturday += timedelta(days=7)
            return saturday, saturday + timedelta(days=2), "day"
        if what in words.DAYS:
            edge = span[0] - timedelta(days=1) if before else span[1]
            step = (edge.weekday() - words.DAYS[what]) % 7 if before else -((words.DAYS[what] - edge.weekday()) % 7)
            return _unit(_floor(edge, "day") - timedelta(days=step), "day")
        count = _number(m["n"]) if m["n"] else 1
        return _unit(_shift(span[0], -count if before else count, what), what)

    def nth(self, month: _Range, n: int, what: str) -> _Range:
        days = (month[1] - month[0]).days
        starts = [month[0] + timedelta(days=d) for d in range(days)]
        weekday = {"week": 0, "weekend": 5}.get(what, words.DAYS.get(what, 0))
        hits = [s for s in starts if s.weekday() == weekday]
        start = hits[n - 1 if n > 0 else -1]
        if what == "week":
            return start, start + timedelta(days=7), "week"
        return start, start + timedelta(days=2 if what == "weekend" else 1), "day"

    def relative(self, pos: int, led: bool) -> tuple[_Range, int] | None:
        """Expressions that need the moment they were said at."""
        if m := words.DEICTIC.match(self.text, pos):
            day = {"yesterday": -1, "tomorrow": 1}.get(m["d"].lower(), 0)
            span = _unit(_shift(self.today, day, "day"), "day")
            name = "evening" if m["d"].lower() == "tonight" else (m["part"] or "").lower()
            return (self.part(span, name) if name else span), m.end()
        if m := words.AGO.match(self.text, pos):
            back = m["way"].lower() in ("ago", "back", "earlier")
            return self.steps(m, -1 if back else 1), m.end()
        if (m := words.IN_STEPS.match(self.text, pos)) and self.prefer != "past":
            return self.steps(m, 1), m.end()
        if m := words.LAST_FEW.match(self.text, pos):
            unit = m["unit"].lower()
            count = {"few": 3, "several": 4}.get((m["n"] or "1").lower()) or _number(m["n"] or "1")
            back = m["way"].lower() != "next"
            edge = _shift(self.at, -count if back else count, unit)
            stretch = (_floor(edge, unit), self.at) if back else (self.at, edge)
            return (*stretch, _grain(unit)), m.end()
        if m := words.TURN.match(self.text, pos):
            return self.turned(m)
        if (m := words.WEEKDAY.match(self.text, pos)) and (led or m["full"] or not m["w"].islower()):
            weekday = self.weekday(m["w"].lower(), "")
            return None if weekday is None else (weekday, m.end())
        if m := words.WRITTEN.match(self.text, pos):
            bare = re.sub(r"(?i)^the\s+|\bof\b", "", m[0])
            return self.picked(m, lambda year: self.date(bare, year))
        return self.led(pos) if led else None

    def led(self, pos: int) -> tuple[_Range, int] | None:
        """Bare names that count only after a preposition, because "may" and "march" and "spring" are also verbs."""
        if m := words.MONTH.match(self.text, pos):
            month = words.MONTHS[m["m"].lower().rstrip(".")]
            return self.picked(m, lambda year: self.month(year, month))
        if m := words.SEASON.match(self.text, pos):
            season = m["s"].lower()
            return self.picked(m, lambda year: self.season(year, season))
        if m := words.HOLIDAY.match(self.text, pos):
            holiday = m["h"].lower().replace("’", "'")
            return self.picked(m, lambda year: self.holiday(year, holiday))
        if m := words.NTH_DAY.match(self.text, pos):
            firsts = [_shift(_floor(self.at, "month"), n, "month") for n in (-2, -1, 0, 1, 2)]
            days = [first + timedelta(days=int(m["d"]) - 1) for first in firsts]
            span = self.pick(
                [_unit(day, "day") for day, first in zip(days, firsts, strict=True) if day.month == first.month]
            )
        elif m := words.WEEKEND.match(self.text, pos):
            span = self.pick([self.weekend(n) for n in (-1, 0, 1)])
        else:
            return None
        return None if span is None else (span, m.end())

    def picked(self, m: re.Match[str], build: Callable[[int], _Range | None]) -> tuple[_Range, int] | None:
        span = self.pick(self.yearly(build))
        return None if span is None else (span, m.end())

    def steps(self, m: re.Match[str], sign: int) -> _Range:
        unit = m["unit"].lower()
        if (m["n"] or "").lower().endswith(("few", "several")):
            near, far = _shift(self.at, 2 * sign, unit), _shift(self.at, 5 * sign, unit)
            first, last = (far, near) if sign < 0 else (near, far)
            return _floor(first, unit), _unit(last, unit)[1], _COARSER.get(unit, "year")
        moment = _shift(self.at, sign * _number(m["n"]), unit)
        return _unit(moment, unit)

    def turned(self, m: re.Match[str]) -> tuple[_Range, int] | None:
        word, what = m["turn"].lower().split()[-1], m["what"].lower().replace("’", "'").rstrip(".")
        step = {"last": -1, "past": -1, "this": 0, "next": 1, "coming": 1}[word]
        span: _Range | None
        if what in words.PARTS:
            if word != "this" and (word, what) != ("last", "night"):
                return None
            span = self.part(_unit(_shift(self.today, step, "day"), "day"), what)
        elif what == "weekend":
            span = self.weekend(step)
        elif what in ("week", "month", "year", "decade"):
            span = _unit(_shift(_floor(self.at, what), step, what), what)
        elif what in words.DAYS:
            span = self.weekday(what, word)
        elif what in words.SEASONS:
            span = self.turn(word, self.yearly(lambda year: self.season(year, what)))
        elif what in words.HOLIDAYS:
            span = self.turn(word, self.yearly(lambda year: self.holiday(year, what)))
        else:
            span = self.turn(word, self.yearly(lambda year: self.month(year, words.MONTHS[what])))
        return None if span is None else (span, m.end())

    def base(self, pos: int, led: bool) -> tuple[_Range, int] | None:
        """A time expression that begins at `pos`; `led` after a preposition, where a bare month or year counts."""
        if m := words.SOFT.match(self.text, pos):
            pos, led = m.end(), True
        try:
            found = self.nested(pos, led) or self.absolute(pos, led)
            if found is None and self.known:
                found = self.relative(pos, led)
        except (OverflowError, ValueError):  # 31 February, the year 0, a million years ago
            return None
        return None if found is None else self.with_clock(found)

    def with_clock(self, found: tuple[_Range, int]) -> tuple[_Range, int]:
        """Adds "at 3 pm" or "in the morning" to a day."""
        span, end = found
        if span[2] != "day" or (span[1] - span[0]).days != 1:
            return found
        if (m := words.AT_CLOCK.match(self.text, end)) and (clock := _clock(m)) is not None:
            moment = span[0] + clock
            return (moment, moment + timedelta(minutes=1), "time"), m.end()
        if m := words.DAY_PART.match(self.text, end):
            return self.part(span, m["part"].lower()), m.end()
        return found

    def expression(self, pos: int) -> TimeSpan | None:
        """The whole expression at `pos`, with what its preposition says of it."""
        if m := words.BETWEEN.match(self.text, pos):
            first = self.base(m.end(), True)
            glue = words.AND.match(self.text, first[1]) if first else None
            last = self.base(glue.end(), True) if glue else None
            if first and last and first[0][0] < last[0][1]:
                return self.made(pos, last[1], first[0][0], last[0][1], last[0][2], "at")
            if first and m[1].lower() == "from" and (on := words.ONWARD.match(self.text, first[1])):
                return self.made(pos, on.end(), first[0][0], None, first[0][2], "from")
            return None
        if self.known and (m := words.FOR.match(self.text, pos)):
            unit = m["unit"].lower()
            count = 3 if m["n"].lower().endswith("few") else _number(m["n"])
            try:
                start = _shift(self.at, -count, unit)
            except (OverflowError, ValueError):
                return None
            start = start if unit in ("minute", "hour") else _floor(start, unit)
            return self.made(pos, m.end(), start, self.at, _grain(unit), "for")
        if self.known and (m := words.CLOCK_FIRST.match(self.text, pos)) and (clock := _clock(m)) is not None:
            on = words.ON.match(self.text, m.end())
            inner = self.base(on.end() if on else m.end(), True)
            day, end = (inner[0], inner[1]) if inner and inner[0][2] == "day" else ((self.today, None, ""), m.end())
            moment = day[0] + clock
            return self.made(pos, end, moment, moment + timedelta(minutes=1), "time", "at")
        lead = words.LEAD.match(self.text, pos)
        word = lead["lead"].lower() if lead else ""
        found = self.base(lead.end() if lead else pos, bool(lead))
        if found is None and lead and word in ("in", "within") and self.known:
            found = self.base(pos, False)  # "in three days" is one rule
        if found is None:
            return None
        (start, stop, precision), end = found
        if word in ("since", "starting", "beginning", "as of", "from"):
            return self.made(pos, end, start, None, precision, "from")
        if word in ("until", "till", "up to", "before"):
            return self.made(pos, end, None, start, precision, "until")
        if word in ("by", "through"):
            return self.made(pos, end, None, stop, precision, "until")
        if word == "after":
            return self.made(pos, end, stop, None, precision, "from")
        return self.made(pos, end, start, stop, precision, "at")

    def made(
        self, pos: int, end: int, start: datetime | None, stop: datetime | None, precision: Precision, role: Role
    ) -> TimeSpan:
        return TimeSpan(start, stop, precision, self.text[pos:end], pos, role)


def _clock(m: re.Match[str]) -> timedelta | None:
    if m["noon"]:
        return timedelta(hours=12 if m["noon"].lower() == "noon" else 0)
    if m["h24"]:
        return timedelta(hours=int(m["h24"]), minutes=int(m["m24"]))
    hour, minute = int(m["hour"]), int(m["minute"] or 0)
    if not 1 <= hour <= 12 or minute > 59:
        return None
    return timedelta(hours=hour % 12 + (12 if m["half"].lower() == "p" else 0), minutes=minute)


# --- what others call -------------------------------------------------------------------------------------------------


def find_times(
    text: str, at: datetime | None, *, prefer: Prefer = "nearest", day_first: bool = False
) -> list[TimeSpan]:
    """Every time expression of a text, in order.

    Args:
        text: English text.
        at: when it was written; naive is taken as UTC. None leaves what needs it out.
        prefer: which year "in March", or which week "on Friday", is meant: the tense's. "nearest" when it is unknown.
        day_first: read 5/8/2023 as 5 August instead of 8 May; 5.8.2023 is always 5 August.
    """
    if not has_time(text):
        return []
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    reader = _Reader(text, at, prefer, day_first)
    spans: list[TimeSpan] = []
    pos = 0
    while m := words.START.search(text, pos):
        if skipped := words.RECURRING.match(text, m.start()):
            pos = skipped.end()
            continue
        span = reader.expression(m.start())
        if span is None:
            wrong = words.WRITTEN_YEAR.match(text, m.start())  # 31 February 2023 is not February 2023
            pos = wrong.end() if wrong else m.end()
        else:
            spans.append(span)
            pos = m.start() + len(span.text)
    return spans


def question_time(question: str, now: datetime) -> TimeSpan | None:
    """The time a question asks about ("in May 2023", "last summer", "before 2020"), or None.

    "In March" is the last March unless the question looks ahead ("will", "going to").
    """
    prefer: Prefer = "future" if words.FUTURE_QUESTION.search(question) else "past"
    return next((span for span in find_times(question, now, prefer=prefer) if span.role != "for"), None)
