"""Dates as the benchmarks write them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from memspan.longterm.readers.source import InputFile

_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip


def date_of(file: InputFile, where: str, text: Any, pattern: str, example: str) -> datetime | None:
    """A date by a pattern with named groups. `strptime` would read month names in the machine's language."""
    if text is None:
        return None
    found = re.fullmatch(pattern, text.strip(), re.IGNORECASE) if isinstance(text, str) else None
    try:
        if found is not None:
            part = {"hour": "0", "minute": "0", "half": "", **found.groupdict()}
            month, hour = part["month"].lower(), int(part["hour"])
            if part["half"]:
                hour = hour % 12 + 12 * (part["half"].lower() == "pm")
            number = int(month) if month.isdigit() else _MONTHS.index(month) + 1
            return datetime(int(part["year"]), number, int(part["day"]), hour, int(part["minute"]), tzinfo=UTC)
    except ValueError:
        pass
    file.fail(where, f"{json.dumps(text)[:60]} is not a date like {example!r}")
