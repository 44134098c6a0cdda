"""A language model that gives recorded answers, for tests only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from memspan.longterm.base import Episode, Extraction, FactDraft, FactView, Relations
from tests.longterm.doubles import Said


class Recorded:
    """Answers by what is asked: attributes of a message, or what a new note changes; keeps the prompts."""

    def __init__(self, attributes: object, *evolutions: object) -> None:
        self.attributes = attributes
        self.evolutions = list(evolutions)
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
        """The recorded answer; the last evolution repeats."""
        asked = prompt[1]["content"]
        self.prompts.append(asked)
        answer = self.attributes
        if asked.startswith("A new note"):
            answer = self.evolutions[0]
            if len(self.evolutions) > 1:
                self.evolutions.pop(0)
        return Said(answer if isinstance(answer, str) else json.dumps(answer))


class ModelOnly:
    """A scribe that brings a language model and nothing else."""

    name = "recorded"

    def __init__(self, model: Recorded) -> None:
        self.model = model

    def extract(self, episodes: Sequence[Episode], context: Sequence[Episode] = ()) -> list[Extraction]:
        return [Extraction() for _ in episodes]

    def relate(self, fact: FactDraft, known: Sequence[FactView]) -> Relations:
        return Relations()

    def summarize(self, name: str, facts: Sequence[str], previous: str = "") -> str:
        return previous
