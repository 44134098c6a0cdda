"""What every long-term memory system shares: the values users see, and the two roles a system can play.

An *organizer* decides what is built from episodes and how recall walks it. A *scribe* takes every language decision
(which entities, which facts, which dates, what contradicts what). The facade in `memory.py` owns transactions,
search, provenance and the clock; it calls both and neither touches a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from memspan.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from memspan.core.footprint import Footprint
    from memspan.longterm.index import PassageIndex
    from memspan.longterm.recall import Search
    from memspan.longterm.store import Transaction


@dataclass(frozen=True, slots=True)
class Episode:
    """One thing that was said or read, exactly as it came. Immutable once added.

    Args:
        text: what was said.
        speaker: who said it.
        at: when it was said; a naive datetime is taken as UTC.
        session: the conversation or document it belongs to; neighbours are looked for only inside a session.
        id: the caller's id, unique within a space; made from a counter when it is left out.
        metadata: anything JSON can hold. `role` ("user" or "assistant") and `caption` are used by recall.
    """

    text: str
    speaker: str | None = None
    at: datetime | None = None
    session: str | None = None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """One thing recalled, with where it comes from and why it was found.

    Attributes:
        kind: "episode", "fact", "entity", "community" or another kind of record.
        id: the record's id; for an episode the caller's id.
        text: the record's text.
        score: higher is better; comparable only within one recall.
        episodes: ids of the source episodes, the strongest first; an episode's own hit names itself.
        valid_at, invalid_at: when it began and ceased to be true in the world; None is unknown or still true.
        recorded_at, retired_at: when the store began and ceased to believe it.
        why: which searches found it and with what weight, in words.
        metadata: an episode's own; of a fact its subject, relation and object, and from recall `match`, 0 to 1: how
            well it fits the question by subject, attribute and sort of value.
    """

    kind: str
    id: str
    text: str
    score: float
    episodes: list[str]
    valid_at: datetime | None = None
    invalid_at: datetime | None = None
    recorded_at: datetime | None = None
    retired_at: datetime | None = None
    speaker: str | None = None
    session: str | None = None
    why: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


# --- what a scribe reads out of text -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityDraft:
    """An entity as a text names it: `name` as written (pronouns resolved), `label` in spaCy's scheme or "THING"."""

    name: str
    label: str = "THING"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactDraft:
    """A fact as one episode states it.

    Attributes:
        subject, object: entity names; `object` may be a value ("42", "vegetarian"), and is empty in an ending that
            does not name what ended ("I quit my job").
        relation: NAME_IN_CAPS.
        text: the fact as one sentence that can be read alone.
        valid_at: when it became true, None when the text does not say and the tense does not imply it.
        invalid_at: when it ceased to be true, if the text says so.
        ends: the text says that this fact holds no longer ("no longer works at X").
        functional: at most one object per subject can be true at a time (LIVES_IN, WORKS_AT).
        reason: the words that led to it, for `why` and for audits.
    """

    subject: str
    relation: str
    object: str
    text: str
    valid_at: datetime | None = None
    invalid_at: datetime | None = None
    ends: bool = False
    functional: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Everything a scribe read out of one episode."""

    entities: tuple[EntityDraft, ...] = ()
    facts: tuple[FactDraft, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FactView:
    """A stored fact as a scribe sees it when it relates a new one to it. Referred to by its position, never by id."""

    subject: str
    relation: str
    object: str
    text: str
    valid_at: datetime | None
    invalid_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """How a new fact relates to known ones: positions in the sequence that was passed in."""

    duplicates: tuple[int, ...] = ()
    contradicted: tuple[int, ...] = ()
    reason: str = ""


@runtime_checkable
class Scribe(Protocol):
    """Takes every language decision of a store. Deterministic unless its docstring says otherwise."""

    name: str

    def extract(self, episodes: Sequence[Episode], context: Sequence[Episode] = ()) -> list[Extraction]:
        """One extraction per episode; `context` are the turns just before the first of them."""

    def relate(self, fact: FactDraft, known: Sequence[FactView]) -> Relations:
        """Which known facts the new one repeats, and which it contradicts."""

    def summarize(self, name: str, facts: Sequence[str], previous: str = "") -> str:
        """A short summary of what is known of `name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """An answer that an organizer holds.

    Attributes:
        question: as it was first asked.
        payload: what `Organizer.on_answer` was given.
        at: when it was kept, microseconds.
    """

    question: str
    payload: Mapping[str, Any]
    at: int


# --- what an index of vectors does -----------------------------------------------------------------------------------


class Neighbours(Protocol):
    """What a search found: [n, k] ids, the nearest first, -1 where there are fewer."""

    @property
    def ids(self) -> NDArray[np.int64]: ...


class VectorIndex(Protocol):
    """Nearest vectors from files, within a budget of RAM: what a `Memory` needs of a system with this interface.

    One process writes, others may have it open for reading; a change is on the disk when its call returns.
    """

    @classmethod
    def build(
        cls, vectors: Any, path: str | Path, *, metric: str, ram_budget: int | None, overwrite: bool, progress: bool
    ) -> Self:
        """An index of an iterator of (ids [m], vectors [m, D] of int8) in a directory."""

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The index in a directory."""

    @staticmethod
    def compiled() -> bool:
        """Whether it is quick here."""

    def search(
        self, queries: ArrayLike, k: int, *, recall: float, filter: ArrayLike | None = None, threads: int | None = None
    ) -> Neighbours:
        """The k nearest rows, of which the share `recall` is to be right; only rows with an id in `filter`."""

    def add(self, ids: ArrayLike, vectors: ArrayLike, *, upsert: bool = False) -> None:
        """Add rows, or with `upsert` replace those of the same ids."""

    def delete(self, ids: ArrayLike) -> int:
        """Leave rows out; ids that are not there are passed over."""

    def flush(self) -> None:
        """Let other processes see what was changed."""

    def scrub(self) -> int:
        """Take every byte of deleted rows off the disk."""

    def verify(self, repair: bool = False) -> list[str]:
        """Problems found."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """[n] ids of all rows, ascending."""

    def __len__(self) -> int: ...

    def footprint(self) -> Footprint:
        """Private RAM, and the files."""

    def close(self) -> None:
        """Let go of files and locks."""


# --- what an organizer does ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question as recall sees it. All filters are already checked.

    Attributes:
        text: the question.
        k: how many results are wanted.
        kinds: kinds of record wanted.
        space: the tenant.
        as_of: world time the answer should hold at; None is now.
        believed_at: store time whose beliefs are asked for; None is now.
        after, before: bounds on the episodes' own time, after inclusive, before exclusive.
        sessions, speakers, metadata: filters; empty means any.
        rerank: name of the reranker.
        superseded: versions of documents that no longer count are wanted too.
    """

    text: str
    k: int = 10
    kinds: tuple[str, ...] = ("episode",)
    space: str = "default"
    as_of: datetime | None = None
    believed_at: datetime | None = None
    after: datetime | None = None
    before: datetime | None = None
    sessions: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rerank: str | None = None
    superseded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A space as it is now: rows, and the indexes of its episodes and of its derived records."""

    tx: Transaction
    episodes: PassageIndex
    derived: PassageIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an organizer may use while it prepares a batch, before the store is locked.

    Attributes:
        snapshot: opens a snapshot of the space. Other threads of the process wait while it is open, so nothing slow
            belongs inside.
        embed: [n, D] unit vectors of texts; None without an embedder.
        embed_pending: embeds what still waits for its vector, so that a snapshot has all of them.
    """

    snapshot: Callable[[], AbstractContextManager[Snapshot]]
    embed: Callable[[Sequence[str]], NDArray[np.float32] | None]
    embed_pending: Callable[[], object]


class Organizer(ABC):
    """Decides what is built from episodes and how recall walks it.

    Attributes:
        name: the catalogue's slug.
        kinds: the kinds of record it builds, which recall may be asked for.
        context_turns: how many turns before a batch its scribe wants to see.
        learns_from_use: `on_use` does something, so that an answer's sources are worth a write.
        keeps_answers: `on_answer` does something, and `kept_answer` is asked before a question is answered anew.
    """

    name: str
    kinds: tuple[str, ...] = ()
    context_turns: int = 0
    learns_from_use: bool = False
    keeps_answers: bool = False

    def prepare(self, episodes: Sequence[Episode], context: Sequence[Episode]) -> Sequence[Any]:
        """The slow reading of a batch, done before the store is locked; one value per episode."""
        return [None] * len(episodes)

    def prepare_with(
        self, around: Surroundings, episodes: Sequence[Episode], context: Sequence[Episode]
    ) -> Sequence[Any]:
        """`prepare`, for an organizer that must see what is stored, or embed, to read a batch."""
        return self.prepare(episodes, context)

    @abstractmethod
    def on_add(self, tx: Transaction, episodes: Sequence[tuple[int, Episode, Any]]) -> None:
        """Build from `(record id, episode, prepared)` inside the transaction that adds them; an error undoes it all."""

    def pending(self, tx: Transaction) -> Any:
        """What is to be written before records of the organizer's kinds are recalled; None when all is up to date.

        For what is written late and once, such as a day's summary: `recall` of these kinds and `maintain` call this,
        then `compose` outside of any transaction, then `on_composed`.
        """
        return None

    def compose(self, pending: Any) -> Any:
        """The slow writing of what `pending` found, done while the store is not locked."""
        return pending

    def on_composed(self, tx: Transaction, composed: Any) -> None:  # noqa: B027
        """Store what was composed. Episodes may have been forgotten since `pending`: what rests on them must not."""

    def recall(self, search: Search) -> list[Recollection]:
        """Records of the kinds that `search.query` wants, except episodes, best first."""
        return []

    def episode_bonus(self, search: Search) -> dict[int, tuple[float, str]]:
        """What the organizer's structure adds to episodes: record id -> (standard deviations, why)."""
        return {}

    def shown(self, search: Search) -> NDArray[np.bool_] | None:
        """[R] which episodes of `search.episodes` recall may show by default; None is all of them."""
        return None

    def on_use(self, tx: Transaction, records: Sequence[int]) -> None:  # noqa: B027
        """Strengthen records that went into an answer. Being a candidate, or being read by maintenance, is no use."""

    def on_answer(  # noqa: B027
        self,
        tx: Transaction,
        question: str,
        circumstances: str,
        payload: Mapping[str, Any],
        sources: Sequence[int],
        support: float,
    ) -> None:
        """Think about an answer that was given.

        Args:
            tx: the transaction.
            question: as it was asked.
            circumstances: the options that it was asked under; the answer is for these alone.
            payload: the answer as JSON types, its wording under "text".
            sources: record ids of the episodes that it cites.
            support: of its weakest statement, 0 to 1.
        """

    def kept_answer(self, tx: Transaction, question: str, circumstances: str) -> KeptAnswer | None:
        """The answer that is held for a question under these circumstances, if there is one."""
        return None

    def on_undo(self, tx: Transaction, records: Sequence[int]) -> None:  # noqa: B027
        """Rebuild what was made from attributes of these records, of which a change was undone."""

    def history(
        self,
        tx: Transaction,
        subject: str,
        relation: str | None,
        as_of: datetime | None,
        believed_at: datetime | None,
    ) -> list[Recollection]:
        """Every fact ever held about a subject, or those that hold in a view, oldest first."""
        raise InputError(f"the {self.name} organizer keeps no facts; open the store with organizer='zep'")

    def on_forget(self, tx: Transaction, touched: Sequence[int]) -> None:  # noqa: B027  (most have nothing to do)
        """Rebuild what was made from forgotten episodes and others together.

        Args:
            tx: the transaction that forgets.
            touched: ids of the derived records that lost a source, or whose validity a forgotten episode had changed.
        """

    def maintain(self, tx: Transaction, now: datetime, *, prune: bool = False) -> dict[str, int]:
        """Housekeeping; returns what was done as counts.

        Args:
            tx: the transaction.
            now: the store's time.
            prune: what has faded may be deleted for good.
        """
        return {}

    def stats(self, tx: Transaction) -> dict[str, Any]:
        """What `Memory.stats` adds about what this organizer built; anything JSON can hold."""
        return {}
