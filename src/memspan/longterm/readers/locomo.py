"""LoCoMo: conversations of two people in numbered sessions."""

from __future__ import annotations

import re

from memspan.longterm.readers.dates import date_of
from memspan.longterm.readers.source import Found, InputFile, at_path, several

_LOCOMO_DATE = r"(?P<hour>\d+):(?P<minute>\d\d) (?P<half>[ap]m) on (?P<day>\d+) (?P<month>[a-z]+),? (?P<year>\d{4})"


def read(file: InputFile) -> Found:
    """All turns of a session share its time; their order is that of the file."""
    entries, many = several(file.entries())
    for number, (where, entry) in enumerate(entries, start=1):
        file.need(where, entry, dict, "a sample")
        sample = file.name(where, entry, "sample_id", f"{file.stem}:{number}")
        talk = file.need(at_path(where, ".conversation"), entry.get("conversation"), dict, "conversation")
        for session in sorted(int(found[1]) for key in talk if (found := re.fullmatch(r"session_(\d+)", key))):
            key = f"session_{session}"
            path = at_path(where, f".conversation.{key}")
            at = date_of(
                file, f"{path}_date_time", talk.get(f"{key}_date_time"), _LOCOMO_DATE, "1:56 pm on 8 May, 2023"
            )
            for place, turn in enumerate(file.need(path, talk[key], list, key)):
                here = f"{path}[{place}]"
                file.need(here, turn, dict, "a turn")
                text = file.need(f"{here}.text", turn.get("text"), str, "text")
                dialogue_id = file.name(here, turn, "dia_id") or file.fail(here, "no dia_id")
                photo = {"caption": turn.get("blip_caption"), "img_url": turn.get("img_url")}
                metadata = {name: value for name, value in photo.items() if value}
                yield file.episode(
                    here,
                    "(photo)" if metadata.get("caption") and not text.strip() else text,
                    speaker=file.name(here, turn, "speaker"),
                    at=at,
                    session=f"{sample}/{key}",
                    id=f"{sample}/{dialogue_id}" if many else dialogue_id,
                    metadata=metadata,
                )
