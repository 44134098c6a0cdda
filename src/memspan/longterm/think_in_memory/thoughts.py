"""Thoughts: sentences that contain a relation triple (head, relation, tail), and where they are read from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memspan.core.errors import InputError
from memspan.longterm.base import Episode, FactDraft
from memspan.longterm.clock import as_moment, to_micros
from memspan.longterm.passages import term_hashes
from memspan.longterm.scribe.names import normal_phrase, normalize_name

NOTED = "NOTED"
"""Relation of a given thought that names none: its tail is its sentence."""
ANSWERS = "ANSWERS"
"""Relation of a thought that answers a question: its head is the question."""
RANK = {"user": 2, "assistant": 1, "derived": 0}
"""Origins; a thought never overrides one of a higher rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A thought before it is stored.

    Attributes:
        fact: the triple and its sentence.
        at: when it was so, microseconds; None is not known.
        sources: ids of more source episodes, beside the one that it was read in.
    """

    fact: FactDraft
    at: int | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """A stored thought as the tidying rules see it.

    Attributes:
        record, uid: of its row.
        tail: normalised; "" where an ending names nothing.
        at: when it was last said to be so; since: when first. Microseconds.
        functional: one tail per head and relation at a time.
        ends: it says that the triple holds no longer.
        closed: it is about the past and competes with nothing.
        apart: a merge of it was undone; kept: its forgetting was undone.
    """

    record: int
    uid: str
    key: tuple[int, str]
    tail: str
    text: str
    origin: str
    at: int
    since: int
    functional: bool = False
    ends: bool = False
    closed: bool = False
    apart: bool = False
    kept: bool = False

    @property
    def rank(self) -> int:
        """Of its origin."""
        return RANK[self.origin]


def head_key(name: str) -> str:
    """Heads with the same key are the same."""
    return normalize_name(name) or name.casefold().strip()


def tail_key(value: str) -> str:
    """Tails with the same key are the same."""
    return normal_phrase(value) or value.casefold().strip()


def thought_uid(*parts: str) -> str:
    """An id that depends on the content alone, so that the order of adding does not show."""
    return "t" + hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


def origin_of(episode: Episode) -> str:
    """Whose statement an episode is: an assistant's, or a person's."""
    role = episode.metadata.get("role") if isinstance(episode.metadata, Mapping) else None
    return "assistant" if role in ("assistant", "ai", "bot", "model") else "user"


def of_fact(fact: FactDraft, said: datetime | None) -> Draft:
    """A scribe's fact as a thought."""
    return Draft(fact=fact, at=to_micros(fact.valid_at or said))


def given(episode: Episode, where: str, functional: Iterable[str] = ()) -> list[Draft] | None:
    """The thoughts that an episode brings in `metadata["thoughts"]`; None when it brings none.

    Each is a mapping with "head", "rel" and "tail", or with "head" and "text"; further "text", "at" (ISO),
    "functional", "ends" (booleans) and "sources" (ids of more episodes).

    Raises:
        InputError: a thought that cannot be used.
    """
    told = episode.metadata.get("thoughts") if isinstance(episode.metadata, Mapping) else None
    if told is None:
        return None
    if not isinstance(told, Sequence) or isinstance(told, str):
        raise InputError(f"{where}: metadata['thoughts'] must be a list of mappings")
    return [_given(item, episode, f"{where}, thought {number}", functional) for number, item in enumerate(told)]


def _given(item: Any, episode: Episode, where: str, functional: Iterable[str]) -> Draft:
    if not isinstance(item, Mapping):
        raise InputError(f"{where} is a {type(item).__name__}; it must be a mapping with head, rel and tail")
    for name in ("head", "rel", "tail", "text"):
        if name in item and not (isinstance(item[name], str) and item[name].strip()):
            raise InputError(f"{where}: {name} must be text, not {item[name]!r}")
    if "head" not in item or not (("rel" in item and "tail" in item) or "text" in item):
        raise InputError(f"{where} needs head, rel and tail, or head and text")
    for name in ("functional", "ends"):
        if not isinstance(item.get(name, False), bool):
            raise InputError(f"{where}: {name} must be true or false, not {item[name]!r}")
    sources = item.get("sources", ())
    if isinstance(sources, str) or not isinstance(sources, Sequence) or not all(isinstance(s, str) for s in sources):
        raise InputError(f"{where}: sources must be a list of episode ids")
    head, rel = item["head"], item.get("rel", NOTED) if "tail" in item else NOTED
    tail = item["tail"] if "tail" in item else item["text"]
    text = item.get("text") or f"{head} {rel.replace('_', ' ').lower()} {tail}."
    fact = FactDraft(
        subject=head,
        relation=rel,
        object=tail,
        text=text,
        ends=item.get("ends", False),
        functional=item.get("functional", False) or rel in functional,
        reason="given",
    )
    moment = as_moment(item.get("at"), f"{where}: at")
    return Draft(fact=fact, at=to_micros(moment or episode.at), sources=tuple(sources))


def union_text(texts: Sequence[str]) -> str:
    """The union of sentences about one head and relation: what they share is said once.

    Example:
        >>> union_text(["John works as an actor.", "John works as a director."])
        'John works as an actor and a director.'
    """
    whole = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    words = [text.rstrip(".").split(" ") for text in whole]
    shared = 0
    while all(len(row) > shared + 1 for row in words) and len({row[shared] for row in words}) == 1:
        shared += 1
    rest = [" ".join(row[shared:]) for row in words]
    if len(whole) == 1 or shared < 2 or any(re.search(r"[.;:!?]", part) for part in rest):
        return " ".join(whole)
    return f"{' '.join(words[0][:shared])} {', '.join(rest[:-1])} and {rest[-1]}."


def coverage(text: str, sources: Iterable[str]) -> float:
    """Share of a text's words (stems, without stop words) that its sources hold, 0 to 1; 1 when it has none.

    A check of thoughts that a model wrote: what the source does not say at all was made up.
    """
    words = set(term_hashes(text).tolist())
    held = {stem for source in sources for stem in term_hashes(source).tolist()}
    return len(words & held) / len(words) if words else 1.0
