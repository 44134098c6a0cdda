"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) of one text against another: F1, on words in lower case, without stemming."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def rouge(text: str, reference: str) -> dict[str, float]:
    """F1 from 0 to 1 by "rouge1", "rouge2" and "rougeL"; 0 where a text has too few words for it."""
    words, wanted = _words(text), _words(reference)
    return {
        "rouge1": _f1(_shared(words, wanted), len(words), len(wanted)),
        "rouge2": _f1(
            _shared(list(pairwise(words)), list(pairwise(wanted))), max(0, len(words) - 1), max(0, len(wanted) - 1)
        ),
        "rougeL": _f1(_longest(words, wanted), len(words), len(wanted)),
    }


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    return (Counter(one) & Counter(other)).total()


def _longest(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        above = row
        row = [0]
        for j, wanted in enumerate(other):
            row.append(above[j] + 1 if word == wanted else max(above[j + 1], row[j]))
    return row[-1]


def _f1(hits: int, said: int, wanted: int) -> float:
    return 2 * hits / (said + wanted) if hits else 0.0
