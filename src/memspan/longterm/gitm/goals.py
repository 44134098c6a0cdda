"""Goals in one form, so that "get 3 logs" and "obtain a log" share what is remembered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memspan.core.errors import InputError

SYNONYMS = {
    **dict.fromkeys("get gather collect acquire fetch have need".split(), "obtain"),
    **dict.fromkeys("make create".split(), "craft"),
    **dict.fromkeys("chop harvest".split(), "mine"),
    **dict.fromkeys("kill fight".split(), "attack"),
    **dict.fromkeys("cook bake".split(), "smelt"),
}
"""Verbs that mean the same when a goal is named; every other verb stands for itself."""

_NUMBERS = {word: n for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_SKIPPED = frozenset("a an the some please of".split())
_ASKED = re.compile(r"^(?:how\s+)?(?:(?:do|did|can|could|should|would)\s+(?:i|we|you)\s+|to\s+)?")
_WORD = re.compile(r"[a-z0-9_.:/-]+")
_COUNT = re.compile(r"x?(\d+)x?")


def singular(word: str) -> str:
    """An English noun in one form for comparing, not for showing: "axes" and "axe" are both "ax"."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word.endswith("ie"):
        return word[:-2] + "y"
    return word[:-1] if word.endswith(("che", "she", "sse", "xe", "ze")) else word


def words(name: str) -> tuple[str, ...]:
    """The words of a name for comparing: "iron_Ores" -> ("iron", "ore")."""
    return tuple(singular(part) for part in re.split(r"[\s_-]+", name.lower()) if part)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached: (verb, object, count). Materials and tools are the knowledge's, not the goal's.

    Args:
        verb: what is done, one word.
        object: what it is done to; words joined by "_"; "" when the verb says all.
        count: how many, at least 1.

    Raises:
        InputError: no verb, or a count below 1.
    """

    verb: str
    object: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.verb, str) or not self.verb.strip() or not isinstance(self.object, str):
            raise InputError("a goal needs a verb and an object, both text")
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise InputError(f"a goal's count must be a whole number of at least 1, not {self.count!r}")

    @property
    def key(self) -> str:
        """What goals that are one and the same share. The count is not in it: plans have a slot for it."""
        verb = SYNONYMS.get(self.verb.lower(), self.verb.lower())
        return " ".join((verb, *words(self.object)))

    @property
    def name(self) -> str:
        """The goal without its count, in words."""
        return f"{self.verb} {self.object.replace('_', ' ')}".strip()

    @property
    def text(self) -> str:
        """The goal in words."""
        return f"{self.verb} {self.count if self.count > 1 else ''} {self.object.replace('_', ' ')}".replace("  ", " ")

    @classmethod
    def parse(cls, value: str | Mapping[str, Any] | Goal) -> Goal:
        """A goal from a sentence ("craft 4 planks", "diamond") or from {"verb", "object", "count"}.

        One word alone is an object to be obtained.

        Raises:
            InputError: there is no goal in it.
        """
        if isinstance(value, Goal):
            return value
        if isinstance(value, Mapping):
            unknown = set(value) - {"verb", "object", "count"}
            if unknown:
                raise InputError(f"a goal has verb, object and count, and no {sorted(map(str, unknown))[0]!r}")
            return cls(value.get("verb", "obtain"), value.get("object", ""), value.get("count", 1))
        if not isinstance(value, str):
            raise InputError(f"a goal is a text such as 'craft 4 planks', not {type(value).__name__}")
        count = 1
        kept = []
        for word in _WORD.findall(_ASKED.sub("", value.lower().strip())):
            number = _COUNT.fullmatch(word)
            if number or word in _NUMBERS:
                count = int(number[1]) if number else _NUMBERS[word]
            elif word not in _SKIPPED and (word := word.strip(".:/-")):
                kept.append(word)
        if not kept:
            raise InputError(f"the goal {value!r} names nothing; write it as 'craft 4 planks'")
        if len(kept) == 1:
            return cls("obtain", kept[0], count)
        return cls(kept[0], "_".join(kept[1:]), count)
