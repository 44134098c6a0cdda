"""A scribe for input that is already structured: facts stand in an episode's metadata, nothing is read out of text.

Episode(text="…", at=t, metadata={"facts": [{"subject": "Ann", "relation": "LIVES_IN", "object": "Oslo"}]})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import EntityDraft, Episode, Extraction, FactDraft, FactView, Relations
from memspan.longterm.clock import as_moment, utc


class StructuredScribe:
    """Takes facts from `metadata["facts"]`: mappings with subject, relation, object, and if known text, valid_at,
    invalid_at (ISO dates or datetimes). A fact without `valid_at` began when its episode was said.

    Args:
        functional: relations of which a subject has at most one object at a time; only these contradict.
    """

    name = "structured"

    def __init__(self, functional: Iterable[str] = ()) -> None:
        self.functional = frozenset(functional)

    def extract(self, episodes: Sequence[Episode], context: Sequence[Episode] = ()) -> list[Extraction]:
        """The facts each episode carries.

        Raises:
            InputError: a fact lacks a part, names a bad date, or ends before it begins.
        """
        return [self._read(episode) for episode in episodes]

    def _read(self, episode: Episode) -> Extraction:
        given = episode.metadata.get("facts", [])
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise InputError(f"episode {episode.id!r}: metadata['facts'] must be a list of mappings")
        facts = tuple(self._fact(episode, item) for item in given)
        names = dict.fromkeys(name for fact in facts for name in (fact.subject, fact.object))
        return Extraction(entities=tuple(EntityDraft(name=name) for name in names), facts=facts)

    def _fact(self, episode: Episode, item: Any) -> FactDraft:
        parts = [item.get(key) for key in ("subject", "relation", "object")] if isinstance(item, Mapping) else []
        if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
            raise InputError(f"episode {episode.id!r}: a fact needs subject, relation and object, all text")
        valid_at = as_moment(item.get("valid_at"), "valid_at") or (utc(episode.at) if episode.at else None)
        invalid_at = as_moment(item.get("invalid_at"), "invalid_at")
        if valid_at and invalid_at and invalid_at < valid_at:
            raise InputError(f"episode {episode.id!r}: a fact ends ({invalid_at}) before it begins ({valid_at})")
        subject, relation, target = (str(part) for part in parts)
        return FactDraft(
            subject=subject,
            relation=relation,
            object=target,
            text=item.get("text") or f"{subject} {relation.replace('_', ' ').lower()} {target}.",
            valid_at=valid_at,
            invalid_at=invalid_at,
            functional=relation in self.functional,
            reason="given",
        )

    def relate(self, fact: FactDraft, known: Sequence[FactView]) -> Relations:
        """The same object is a duplicate; another object of a functional relation is a contradiction."""
        subject = fact.subject.casefold()
        rivals = [i for i, k in enumerate(known) if k.relation == fact.relation and k.subject.casefold() == subject]
        same = tuple(i for i in rivals if known[i].object.casefold() == fact.object.casefold())
        if fact.relation not in self.functional:
            return Relations(duplicates=same)
        other = tuple(i for i in rivals if i not in same)
        return Relations(duplicates=same, contradicted=other, reason=f"{fact.relation} has one object at a time")

    def summarize(self, name: str, facts: Sequence[str], previous: str = "") -> str:
        """The facts themselves."""
        return " ".join(facts)
