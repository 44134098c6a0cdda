"""A language model that gives recorded answers, for tests only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Said:
    """What a model wrote."""

    text: str


class Recorded:
    """Gives recorded answers in order and keeps the prompts; the last answer repeats."""

    name = "recorded"

    def __init__(self, *answers: object) -> None:
        self.answers = [a if isinstance(a, str) else json.dumps(a) for a in answers]
        self.prompts: list[str] = []

    def generate(
        self,
        prompt: Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Said:
        """The next answer."""
        self.prompts.append(prompt[1]["content"])
        return Said(self.answers[min(len(self.prompts), len(self.answers)) - 1])
