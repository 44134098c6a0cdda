"""What an answer is made of: the text, where each statement comes from, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memspan.core.footprint import Footprint
from memspan.longterm.base import Recollection
from memspan.longterm.knowledge_survey.conflicts import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """Where a statement comes from.

    Attributes:
        number: as it stands in the answer's text, "[1]".
        episode: the episode's id.
        text: the episode's whole text.
        speaker, at: who said it, and when.
        support: 0 to 1, how far the cited span supports the statements that cite it.
        span: `(start, stop)` of the supporting sentence in `text`.
        source: metadata of the episode that names a document (doc, version, start, stop, source), if it has any; with
            `superseded_by` or `withdrawn` (a version's number) and `valid_until` (ISO 8601) when the version cited no
            longer counts, and `copies`: ids of passages that say the same.
    """

    number: int
    episode: str
    text: str
    speaker: str | None = None
    at: datetime | None = None
    support: float = 1.0
    span: tuple[int, int] = (0, 0)
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def quote(self) -> str:
        """The words of the supporting sentence."""
        return self.text[self.span[0] : self.span[1]]

    @property
    def document_span(self) -> tuple[int, int] | None:
        """`(start, stop)` of that sentence in the whole document; None where the episode's place in it is not known."""
        start = self.source.get("start")
        return (start + self.span[0], start + self.span[1]) if isinstance(start, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement of an answer: its support, and the numbers of the citations that carry it."""

    text: str
    support: float
    citations: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer from memory, or the refusal of one.

    Attributes:
        text: the answer with its citations' numbers, or why there is none.
        citations: in the order of their numbers; an abstention cites nothing.
        abstained: the evidence was too weak, and no answer is given.
        confidence: the estimated probability that the best evidence answers the question, 0 to 1.
        reader: who wrote the text: "evidence sentence", "stated fact", or the language model's name.
        claims: the statements of the text, each with its support.
        recollections: what was retrieved, best first, also when the answer was refused.
        conflicts: statements of retrieved documents that contradict each other, with their dates.
        ledger: bytes of the store, of the models and of the model's context.
    """

    text: str
    citations: list[Citation] = field(default_factory=list)
    abstained: bool = False
    confidence: float = 0.0
    reader: str = "evidence sentence"
    claims: list[Claim] = field(default_factory=list)
    recollections: Sequence[Recollection] = ()
    conflicts: Sequence[Conflict] = ()
    ledger: Footprint = field(default_factory=Footprint)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types; times are ISO 8601 in UTC."""
        return {
            "text": self.text,
            "abstained": self.abstained,
            "confidence": self.confidence,
            "reader": self.reader,
            "citations": [
                {
                    "number": c.number,
                    "episode": c.episode,
                    "speaker": c.speaker,
                    "at": None if c.at is None else c.at.isoformat(),
                    "text": c.text,
                    "span": list(c.span),
                    "quote": c.quote,
                    "document_span": None if c.document_span is None else list(c.document_span),
                    "support": c.support,
                    "source": c.source,
                }
                for c in self.citations
            ],
            "claims": [{"text": c.text, "support": c.support, "citations": list(c.citations)} for c in self.claims],
            "recollections": [
                {"kind": r.kind, "id": r.id, "text": r.text, "score": r.score, "episodes": r.episodes, "why": r.why}
                for r in self.recollections
            ],
            "conflicts": [
                {
                    "dated": conflict.dated,
                    "statements": [
                        {"text": s.text, "episode": s.episode, "at": None if s.at is None else s.at.isoformat()}
                        for s in conflict.statements
                    ],
                }
                for conflict in self.conflicts
            ],
            "ledger": self.ledger.to_json(),
        }
