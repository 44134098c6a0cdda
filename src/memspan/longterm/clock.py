"""Time as the store keeps it: microseconds since 1970-01-01 UTC, exact and sortable, also before 1970."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from memspan.core.errors import InputError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def utc(moment: datetime) -> datetime:
    """`moment` with a time zone; a naive one is taken as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def to_micros(moment: datetime | None) -> int | None:
    """Microseconds since the epoch, or None for None."""
    return None if moment is None else (utc(moment) - EPOCH) // _MICROSECOND


def from_micros(micros: int | None) -> datetime | None:
    """The inverse of `to_micros`, always in UTC."""
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def parse_moment(text: str, option: str = "date") -> datetime:
    """An ISO date or datetime ("2024-05-01", "2024-05-01T18:00") as a moment in UTC.

    Raises:
        InputError: the text is not an ISO date.
    """
    try:
        return utc(datetime.fromisoformat(text.strip()))
    except ValueError:
        raise InputError(f"{option} {text!r} is not a date; write it as 2024-05-01 or 2024-05-01T18:00") from None


def as_moment(value: datetime | date | str | None, option: str) -> datetime | None:
    """Any accepted form of a moment as UTC: None, datetime, date (its start), or ISO text."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return utc(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str):
        return parse_moment(value, option)
    raise InputError(f"{option} must be a datetime, a date or ISO text, not {type(value).__name__}")
