"""Test doubles: an embedder of hashed words, a scribe of one kind of sentence, a model of recorded answers."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.footprint import Footprint
from memspan.longterm.base import EntityDraft, Episode, Extraction, FactDraft, FactView, Relations


class HashEmbedder:
    """Texts with common words are near each other."""

    name = "hash"
    dim = 64
    max_tokens = None

    def __init__(self, fingerprint: str = "hash-1") -> None:
        self.fingerprint = fingerprint
        self.calls: list[int] = []

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        self.calls.append(len(texts))
        rows = np.full((len(texts), self.dim), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % self.dim] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def footprint(self) -> Footprint:
        return Footprint.of("weights", "ram", 1)


class Words(HashEmbedder):
    """Texts with common words are near each other, and none are equally near to a third."""

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        rows = super().embed(texts)
        for row, text in zip(rows, texts, strict=True):
            row += 0.02 * np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.dim)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class ToyScribe:
    """Reads "X lives in Y", "X likes Y" and "X left Y"; LIVES_IN is functional."""

    name = "toy"
    _SAYS = re.compile(r"([A-Z]\w*) (lives in|likes|left) ([A-Z]\w*)")

    def extract(self, episodes: Sequence[Episode], context: Sequence[Episode] = ()) -> list[Extraction]:
        read = []
        for episode in episodes:
            facts = []
            for subject, verb, target in self._SAYS.findall(episode.text):
                relation = "LIKES" if verb == "likes" else "LIVES_IN"
                facts.append(
                    FactDraft(
                        subject=subject,
                        relation=relation,
                        object=target,
                        text=f"{subject} {verb} {target}.",
                        valid_at=episode.at,
                        ends=verb == "left",
                        functional=relation == "LIVES_IN",
                    )
                )
            names = {name for fact in facts for name in (fact.subject, fact.object)}
            read.append(Extraction(entities=tuple(EntityDraft(name=n) for n in sorted(names)), facts=tuple(facts)))
        return read

    def relate(self, fact: FactDraft, known: Sequence[FactView]) -> Relations:
        same = [i for i, k in enumerate(known) if (k.subject, k.relation) == (fact.subject, fact.relation)]
        equal = tuple(i for i in same if known[i].object == fact.object)
        if fact.ends:
            return Relations(contradicted=equal, reason="said to have left")
        other = tuple(i for i in same if i not in equal) if fact.functional else ()
        return Relations(duplicates=equal, contradicted=other, reason="lives in one place" if other else "")

    def summarize(self, name: str, facts: Sequence[str], previous: str = "") -> str:
        return " ".join(facts)


def day(number: int, year: int = 2024) -> datetime:
    """The n-th day of a year."""
    return datetime.fromordinal(datetime(year, 1, 1).toordinal() + number - 1).replace(tzinfo=UTC)


@dataclass
class Said:
    """What a model wrote."""

    text: str


class Recorded:
    """A language model that gives recorded answers in order; the last one repeats.

    Attributes:
        prompts: every prompt, as messages; asked: the user's first message of each; schemas: sent along with them.
    """

    name = "recorded"

    def __init__(self, *answers: object) -> None:
        self.answers = [a if isinstance(a, str) else json.dumps(a) for a in answers]
        self.prompts: list[list[Mapping[str, str]]] = []
        self.schemas: list[Mapping[str, Any] | None] = []

    @property
    def asked(self) -> list[str]:
        return [prompt[1]["content"] for prompt in self.prompts]

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
        self.prompts.append(list(prompt))
        self.schemas.append(schema)
        return Said(self.answers[min(len(self.prompts), len(self.answers)) - 1])
