"""Rules that mark a written answer: whole words, token F1, list F1, dates, and whether an answer declines.

No model judges. Token F1 is that of SQuAD with LoCoMo's normalisation (lower case, no punctuation, no articles, no
"and") and Porter stems; list F1 is LoCoMo's of answers that are lists: the mean over the right parts of the best F1 of
any given part.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

DECLINED = "not mentioned"
"""What an answer says where there is none."""
_DECLINES = re.compile(
    r"\b(?:i (?:do not|don't|don’t) know|(?:is|was|were|are|it)? ?n(?:ot|ever) (?:explicitly |specifically )?"
    r"(?:mentioned|stated|said|specified|told|discussed|given|known|provided|available|answerable)"
    r"|no (?:information|mention|evidence|answer|record)\b"
    r"|(?:can|could)(?:not|n't| not) (?:be )?(?:answer|determine|find|tell|say)"
    r"|unanswerable|(?:does|did)(?:n't|n’t| not) (?:say|mention|state|specify|tell)|unknown$)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"“[^”]*”|\"[^\"]*\"")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "“”’‘…–—")


@cache
def _stemmer() -> Any:
    from Stemmer import Stemmer

    return Stemmer("porter")


def normal(text: str) -> str:
    """Lower case, without punctuation, articles and "and", single spaces."""
    plain = text.lower().replace(",", "").translate(_PUNCTUATION)
    return " ".join(word for word in plain.split() if word not in ("a", "an", "the", "and"))


def tokens(text: str) -> list[str]:
    """Porter stems of the normal form."""
    stems: list[str] = _stemmer().stemWords(normal(text).split())
    return stems


def mentions(text: str, value: str) -> bool:
    """Whether the normal form of a value stands in that of a text as whole words; never where it is empty."""
    wanted = normal(value)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", normal(text)) is not None


def overlap(text: str, right: str) -> tuple[float, float, float]:
    """Token F1, precision, and recall of an answer against the right one."""
    said, wanted = Counter(tokens(text)), Counter(tokens(right))
    common = (said & wanted).total()
    if not common:
        return 0.0, 0.0, 0.0
    precision, recall = common / said.total(), common / wanted.total()
    return 2 * precision * recall / (precision + recall), precision, recall


def list_f1(text: str, right: Sequence[str]) -> float:
    """The mean over the right parts of the best token F1 of any part of the answer, parted at commas and lines."""
    said = [part for part in re.split(r"[,;\n]", text) if part.strip()]
    if not said or not right:
        return 0.0
    return sum(max(overlap(one, part)[0] for one in said) for part in right) / len(right)


def declines(text: str) -> bool:
    """Whether an answer says that there is none; what it quotes does not count, and an empty one declines."""
    return not text.strip() or _DECLINES.search(_QUOTED.sub("", text).strip().rstrip(".")) is not None


def written_dates(moment: datetime) -> tuple[str, ...]:
    """A day as people write it, without the year: "16 May", "May 16", "16th of May"; and as "2024-05-16"."""
    ends = {1: "st", 2: "nd", 3: "rd"}
    nth = f"{moment.day}{'th' if 4 <= moment.day % 100 <= 20 else ends.get(moment.day % 10, 'th')}"
    forms = [f"{moment:%Y-%m-%d}"]
    for month in (f"{moment:%B}", f"{moment:%b}"):
        for number in (str(moment.day), nth):
            forms += [f"{number} {month}", f"{month} {number}", f"{number} of {month}"]
    return tuple(dict.fromkeys(forms))


def holds_any(text: str, values: Iterable[str]) -> bool:
    """Whether any of some values is mentioned."""
    return any(mentions(text, value) for value in values)
