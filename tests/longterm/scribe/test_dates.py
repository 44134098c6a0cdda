"""Time expressions: resolved against the text's own time, never against the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.longterm.scribe.dates import find_times, has_time, question_time

AT = datetime(2023, 5, 10, 13, 30, tzinfo=UTC)  # a Wednesday

# text, start, end, precision, role; "" is an open end
CASES = [
    ("I went yesterday.", "2023-05-09", "2023-05-10", "day", "at"),
    ("today", "2023-05-10", "2023-05-11", "day", "at"),
    ("see you tomorrow", "2023-05-11", "2023-05-12", "day", "at"),
    ("tomorrow at 3pm", "2023-05-11T15:00", "2023-05-11T15:01", "time", "at"),
    ("last night", "2023-05-09T18:00", "2023-05-10T06:00", "time", "at"),
    ("this morning", "2023-05-10T06:00", "2023-05-10T12:00", "time", "at"),
    ("yesterday evening", "2023-05-09T18:00", "2023-05-10", "time", "at"),
    ("the day before yesterday", "2023-05-08", "2023-05-09", "day", "at"),
    ("the day after tomorrow", "2023-05-12", "2023-05-13", "day", "at"),
    ("last week we met", "2023-05-01", "2023-05-08", "week", "at"),
    ("this week", "2023-05-08", "2023-05-15", "week", "at"),
    ("next week", "2023-05-15", "2023-05-22", "week", "at"),
    ("the week before last", "2023-04-24", "2023-05-01", "week", "at"),
    ("the week after next", "2023-05-22", "2023-05-29", "week", "at"),
    ("last month", "2023-04-01", "2023-05-01", "month", "at"),
    ("next month", "2023-06-01", "2023-07-01", "month", "at"),
    ("later this month", "2023-05-01", "2023-06-01", "month", "at"),
    ("last year", "2022-01-01", "2023-01-01", "year", "at"),
    ("late last year", "2022-01-01", "2023-01-01", "year", "at"),
    ("the year before last", "2021-01-01", "2022-01-01", "year", "at"),
    ("last Friday I ran", "2023-05-05", "2023-05-06", "day", "at"),
    ("last Wednesday", "2023-05-03", "2023-05-04", "day", "at"),
    ("this Friday", "2023-05-12", "2023-05-13", "day", "at"),
    ("next Monday", "2023-05-15", "2023-05-16", "day", "at"),
    ("on Friday", "2023-05-12", "2023-05-13", "day", "at"),
    ("Friday at 3 pm", "2023-05-12T15:00", "2023-05-12T15:01", "time", "at"),
    ("at 3pm on Friday", "2023-05-12T15:00", "2023-05-12T15:01", "time", "at"),
    ("Monday morning", "2023-05-08T06:00", "2023-05-08T12:00", "time", "at"),
    ("last Fri", "2023-05-05", "2023-05-06", "day", "at"),
    ("this weekend", "2023-05-13", "2023-05-15", "day", "at"),
    ("this past weekend", "2023-05-06", "2023-05-08", "day", "at"),
    ("last weekend", "2023-05-06", "2023-05-08", "day", "at"),
    ("the weekend before last", "2023-04-29", "2023-05-01", "day", "at"),
    ("last summer", "2022-06-01", "2022-09-01", "month", "at"),
    ("this summer", "2023-06-01", "2023-09-01", "month", "at"),
    ("next winter", "2023-12-01", "2024-03-01", "month", "at"),
    ("the summer of 2021", "2021-06-01", "2021-09-01", "month", "at"),
    ("in March we flew", "2023-03-01", "2023-04-01", "month", "at"),
    ("last March", "2023-03-01", "2023-04-01", "month", "at"),
    ("next May", "2024-05-01", "2024-06-01", "month", "at"),
    ("on 8 May she came", "2023-05-08", "2023-05-09", "day", "at"),
    ("May 8th", "2023-05-08", "2023-05-09", "day", "at"),
    ("the 15th of June, 2023", "2023-06-15", "2023-06-16", "day", "at"),
    ("May 8, 2023 at 14:00", "2023-05-08T14:00", "2023-05-08T14:01", "time", "at"),
    ("on the 15th", "2023-05-15", "2023-05-16", "day", "at"),
    ("May 2023", "2023-05-01", "2023-06-01", "month", "at"),
    ("Sept 2022", "2022-09-01", "2022-10-01", "month", "at"),
    ("in 2022", "2022-01-01", "2023-01-01", "year", "at"),
    ("early 2023", "2023-01-01", "2024-01-01", "year", "at"),
    ("back in 2015", "2015-01-01", "2016-01-01", "year", "at"),
    ("in the early 90s", "1990-01-01", "2000-01-01", "year", "at"),
    ("the 1980s", "1980-01-01", "1990-01-01", "year", "at"),
    ("2023-05-08", "2023-05-08", "2023-05-09", "day", "at"),
    ("2023-05-08T14:30", "2023-05-08T14:30", "2023-05-08T14:31", "time", "at"),
    ("5/8/2023", "2023-05-08", "2023-05-09", "day", "at"),
    ("13/5/2023", "2023-05-13", "2023-05-14", "day", "at"),
    ("08.05.2023", "2023-05-08", "2023-05-09", "day", "at"),
    ("3 days ago", "2023-05-07", "2023-05-08", "day", "at"),
    ("a week ago", "2023-05-01", "2023-05-08", "week", "at"),
    ("a couple of weeks ago", "2023-04-24", "2023-05-01", "week", "at"),
    ("We met two years ago", "2021-01-01", "2022-01-01", "year", "at"),
    ("a few days ago", "2023-05-05", "2023-05-09", "week", "at"),
    ("an hour ago", "2023-05-10T12:00", "2023-05-10T13:00", "time", "at"),
    ("two weeks from now", "2023-05-22", "2023-05-29", "week", "at"),
    ("in two weeks", "2023-05-22", "2023-05-29", "week", "at"),
    ("during the past three months", "2023-02-01", "2023-05-10T13:30", "month", "at"),
    ("the week before 9 June", "2023-05-29", "2023-06-05", "week", "at"),
    ("the Sunday before 25 May 2023", "2023-05-21", "2023-05-22", "day", "at"),
    ("two days before Christmas 2022", "2022-12-23", "2022-12-24", "day", "at"),
    ("last Christmas", "2022-12-25", "2022-12-26", "day", "at"),
    ("the first weekend of June", "2023-06-03", "2023-06-05", "day", "at"),
    ("the last Friday of May 2023", "2023-05-26", "2023-05-27", "day", "at"),
    ("week of 5 June", "2023-06-05", "2023-06-12", "week", "at"),
    ("from 2019 to 2021", "2019-01-01", "2022-01-01", "year", "at"),
    ("between 2019 and 2021", "2019-01-01", "2022-01-01", "year", "at"),
    ("from May to July", "2023-05-01", "2023-08-01", "month", "at"),
    ("since 2019", "2019-01-01", "", "year", "from"),
    ("since last summer", "2022-06-01", "", "month", "from"),
    ("starting next Monday", "2023-05-15", "", "day", "from"),
    ("from Monday on", "2023-05-08", "", "day", "from"),
    ("after 2020", "2021-01-01", "", "year", "from"),
    ("until June", "", "2023-06-01", "month", "until"),
    ("before 2020", "", "2020-01-01", "year", "until"),
    ("by Friday", "", "2023-05-13", "day", "until"),
    ("I've lived here for four years", "2019-01-01", "2023-05-10T13:30", "year", "for"),
]


def moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


@pytest.mark.parametrize(("text", "start", "end", "precision", "role"), CASES, ids=[c[0] for c in CASES])
def test_expressions(text: str, start: str, end: str, precision: str, role: str) -> None:
    (span,) = find_times(text, AT)
    assert (span.start, span.end, span.precision, span.role) == (moment(start), moment(end), precision, role)
    assert text[span.offset : span.offset + len(span.text)] == span.text


@pytest.mark.parametrize(
    "text",
    [
        "every Friday I swim",
        "on Fridays",
        "I may go",
        "He may come and March on",
        "It costs 2000 euros",
        "in 2000 steps",
        "I was 20 years old",
        "sit next to me",
        "10 years later",
        "five million years ago",
        "31 February 2023",
        "32 May 2023",
        "the second time",
        "a spring in my step",
        "in the 4th quarter",
        "the ratio is 3/4",
        "call 555-1234",
        "version 2.10.3",
        "",
        "   ",
    ],
)
def test_no_time(text: str) -> None:
    assert find_times(text, AT) == []


@pytest.mark.parametrize(
    ("text", "prefer", "start"),
    [
        ("in March", "past", "2023-03-01"),
        ("in March", "future", "2024-03-01"),
        ("in May", "past", "2023-05-01"),
        ("on Friday", "past", "2023-05-05"),
        ("on Friday", "future", "2023-05-12"),
        ("on Wednesday", "past", "2023-05-03"),
        ("on Wednesday", "future", "2023-05-17"),
        ("on 8 May", "past", "2023-05-08"),
        ("on 8 May", "future", "2024-05-08"),
        ("on 12 May", "past", "2022-05-12"),
        ("on 29 February", "past", "2020-02-29"),
        ("at Christmas", "past", "2022-12-25"),
        ("in the summer", "future", "2023-06-01"),
    ],
)
def test_the_tense_chooses(text: str, prefer: str, start: str) -> None:
    (span,) = find_times(text, AT, prefer=prefer)  # type: ignore[arg-type]
    assert span.start == moment(start)


def test_unknown_time_stays_unknown() -> None:
    assert find_times("yesterday, last week, in March, on Friday, two years ago, on 8 May", None) == []
    assert [s.text for s in find_times("since 2019, on 8 May 2023, in the summer of 2020", None)] == [
        "since 2019",
        "on 8 May 2023",
        "in the summer of 2020",
    ]


def test_several_in_one_text() -> None:
    text = "I moved last month, and on 8 May I met her; we leave in two weeks."
    assert [s.text for s in find_times(text, AT)] == ["last month", "on 8 May", "in two weeks"]


def test_time_zone_of_the_text_is_kept() -> None:
    zone = timezone(timedelta(hours=9))
    (span,) = find_times("yesterday", datetime(2023, 5, 10, 1, tzinfo=zone))
    assert span.start == datetime(2023, 5, 9, tzinfo=zone)
    (naive,) = find_times("yesterday", datetime(2023, 5, 10, 1))
    assert naive.start == datetime(2023, 5, 9, tzinfo=UTC)


def test_day_first() -> None:
    (span,) = find_times("5/8/2023", AT, day_first=True)
    assert span.start == moment("2023-08-05")


def test_turn_of_the_year_and_leap_days() -> None:
    january = datetime(2024, 1, 3, tzinfo=UTC)
    assert find_times("last month", january)[0].start == moment("2023-12-01")
    assert find_times("last week", january)[0].start == moment("2023-12-25")
    assert find_times("last winter", january)[0].start == moment("2022-12-01")  # this one has not ended
    assert find_times("a year ago", datetime(2024, 2, 29, tzinfo=UTC))[0].start == moment("2023-01-01")


@pytest.mark.parametrize("year", [1, 2, 9998, 9999])
def test_edges_of_the_calendar(year: int) -> None:
    for text in ("yesterday", "next year", "ten years ago", "in 30 years", "last summer", "on 8 May", "for 50 years"):
        find_times(text, datetime(year, 1, 1, tzinfo=UTC))
        find_times(text, datetime(year, 12, 31, 23, 59, tzinfo=UTC))


@pytest.mark.parametrize(
    ("question", "start", "end"),
    [
        ("What did Ann buy in May 2023?", "2023-05-01", "2023-06-01"),
        ("Where did she go last summer?", "2022-06-01", "2022-09-01"),
        ("What happened on 8 May?", "2023-05-08", "2023-05-09"),
        ("Where did he live before 2020?", "", "2020-01-01"),
        ("Who called in June?", "2022-06-01", "2022-07-01"),
        ("What will Ann do in June?", "2023-06-01", "2023-07-01"),
    ],
)
def test_question_time(question: str, start: str, end: str) -> None:
    span = question_time(question, AT)
    assert span is not None and (span.start, span.end) == (moment(start), moment(end))


def test_a_question_without_time() -> None:
    assert question_time("Where does Ann live now?", AT) is None
    assert question_time("Who has worked there for four years?", AT) is None


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("yesterday", "on 9 May 2023"),
        ("last week", "in the week of 1 May 2023"),
        ("in March", "in March 2023"),
        ("in 2022", "in 2022"),
        ("since 2019", "since 2019"),
        ("until June", "until June 2023"),
        ("tomorrow at 3pm", "on 11 May 2023 at 15:00"),
    ],
)
def test_phrase_can_be_read_at_any_time(text: str, phrase: str) -> None:
    assert find_times(text, AT)[0].phrase() == phrase


WORDS = (
    "last next this the week before after of May March 31 2023 0 9999 ago in on at for since until days am pm : / - 3"
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS.split()), max_size=10).map(" ".join)),
    st.one_of(st.none(), st.datetimes()),
)
def test_any_text_is_read(text: str, at: datetime | None) -> None:
    for span in find_times(text, at):
        assert text[span.offset : span.offset + len(span.text)] == span.text
        assert span.start is not None or span.end is not None
        assert span.start is None or span.end is None or span.start <= span.end
        assert has_time(text)
