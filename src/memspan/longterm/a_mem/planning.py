"""What becomes of a batch: attributes, vectors, links and evolution of every note, decided before the store is locked.

A note of the batch is referred to as -1 - p, p being its position; a stored note by its record id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError, ModelError
from memspan.longterm.a_mem import attributes as rules
from memspan.longterm.a_mem.attributes import Attributes, Statistics, document
from memspan.longterm.a_mem.config import AMemConfig
from memspan.longterm.a_mem.construct import construct
from memspan.longterm.a_mem.evolve import Decision, described, evolve
from memspan.longterm.a_mem.neighbours import Neighbour, Neighbourhood, StateKey, note_kind, state_key
from memspan.longterm.a_mem.notes import SHARED, SUGGESTED, Link, content_of, episodes_by_id, read_attributes
from memspan.longterm.base import Episode, Snapshot, Surroundings
from memspan.longterm.passages import ROLES, embedded_text, passages, term_hashes
from memspan.longterm.prompts import Writer
from memspan.longterm.vectors import F32

MOST_SEEN = 200
"""Episodes that the attributes of a note may rest on; a note that would rest on more is not given to a model."""
_SAMPLE = 1024  # notes whose keywords make the list of tags


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A change of an old note: new values by attribute, why, and the episodes that it was written from."""

    note: int
    values: dict[str, Any]
    reason: str
    seen: tuple[str | int, ...] = ()


@dataclass(slots=True)
class Draft:
    """A note that is not stored yet."""

    position: int
    content: str
    attributes: Attributes
    links: list[Link] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)
    vectors: dict[str, NDArray[np.float16]] = field(default_factory=dict)  # of documents, shared by the batch
    own_vector: NDArray[np.float16] | None = None  # of the episode, when one passage holds it

    @property
    def document(self) -> str:
        """The form in which the note is indexed."""
        return document(self.content, self.attributes.context, self.attributes.keywords, self.attributes.tags)


@dataclass(slots=True)
class _Known:
    """A note as the batch sees it: what it says, and the episodes that its attributes rest on."""

    content: str
    attributes: Attributes
    own: str | int
    causes: set[str | int] = field(default_factory=set)


@dataclass(slots=True)
class Cache:
    """What is read off the store once: vectors of tags, tags, and values of tau."""

    generation: str = ""  # of the store, as it was then: an erasure or new vectors begin another
    tag_vectors: dict[str, F32] = field(default_factory=dict)
    tags: dict[StateKey, list[str]] = field(default_factory=dict)
    thresholds: dict[StateKey, float] = field(default_factory=dict)

    def clear(self) -> None:
        """Hold nothing: words may be among what was erased."""
        for part in (self.tag_vectors, self.tags, self.thresholds):
            part.clear()


class Plan:
    """Drafts of one batch.

    Args:
        around: the store and the embedder.
        episodes: the batch.
        context: turns before its first.
        config: constants.
        model: takes the decisions; None leaves them to the rules.
        cache: what stays good from batch to batch.
    """

    def __init__(
        self,
        around: Surroundings,
        episodes: Sequence[Episode],
        context: Sequence[Episode],
        config: AMemConfig,
        model: Writer | None,
        cache: Cache,
    ) -> None:
        self._cache = cache
        self._around = around
        self._episodes = episodes
        self._config = config
        self._model = model
        self._known: dict[int, _Known] = {}
        self._windows = _windows(episodes, context, config.context_turns)
        around.embed_pending()
        contents = [embedded_text(episode.text, episode.speaker, episode.metadata) for episode in episodes]
        with around.snapshot() as view:
            if (generation := view.tx.meta("generation") or "") != cache.generation:
                cache.clear()
                cache.generation = generation
            stored = episodes_by_id(view.tx, [episode.id for episode in episodes if episode.id is not None])
            self._statistics = _statistics(view, contents, [*context])
            speakers = [*view.episodes.speakers, *(turn.speaker or "" for turn in (*episodes, *context))]
            self._stored_tags = _stored_tags(view, cache) if _count(view) >= len(episodes) else None
            self._stored_keywords = [] if self._stored_tags is not None else _sampled_keywords(view)
        self._names = {word for name in speakers if name.lower() not in ROLES for word in name.lower().split()}
        taken = set(stored)
        self._contents: dict[int, str] = {}
        for position, episode in enumerate(episodes):
            if episode.id is None or episode.id not in taken:
                self._contents[position] = contents[position]
                taken.add(episode.id or "")

    def drafts(self) -> list[Draft | None]:
        """One draft per episode; None for one that is stored already."""
        made = {
            position: Draft(position, text, self._attributes(position)) for position, text in self._contents.items()
        }
        self._tag(list(made.values()))
        near = Neighbourhood(
            self._around.snapshot, self._around.embed, self._statistics, self._config, self._cache.thresholds
        )
        near.embed(draft.document for draft in made.values())
        for position, draft in made.items():
            draft.vectors = near.vectors
            self._link(draft, near)
            near.embed([draft.document])
            near.put(-1 - position, draft.document)
        return [made.get(position) for position in range(len(self._episodes))]

    # --- attributes ---

    def _attributes(self, position: int) -> Attributes:
        told = rules.given(self._episodes[position], f"episode {position}")
        if told is not None:
            return replace(told, by="caller")
        text, config = self._contents[position], self._config
        fallback = ""
        if self._model is not None:
            try:
                return construct(self._model, text, config.attempts)
            except (InputError, ModelError) as error:  # InputError: the text does not fit into the context window
                fallback = f"attributes: {error}"
        window = self._windows[position]
        said = [(turn.speaker, turn.text) for turn, _ in window]
        context, place = rules.context_of(text, said, self._statistics)
        found = rules.keywords_of(self._episodes[position].text, self._statistics, config.keywords, self._names)
        return Attributes(found, [], context, [window[place][1]] if place >= 0 else [], fallback=fallback)

    def _tag(self, drafts: list[Draft]) -> None:
        """Tags by rules, from the keywords that several notes have."""
        tags = self._stored_tags
        if tags is None:  # a batch larger than the store is its own measure
            tags = rules.tag_list([*self._stored_keywords, *(draft.attributes.keywords for draft in drafts)])
        cache = self._cache.tag_vectors
        single = [draft for draft in drafts if len(passages(draft.content)) == 1]
        own = self._around.embed([draft.content for draft in single])
        if own is not None:
            for draft, vector in zip(single, own, strict=True):
                draft.own_vector = np.asarray(vector, np.float16)
        wanting = [draft for draft in drafts if draft.attributes.by == "rules"]
        if not wanting or not tags:
            return
        vectors = None
        if own is not None:
            new = [tag for tag in tags if tag not in cache]
            found = self._around.embed(new) if new else None
            cache.update(zip(new, [] if found is None else found, strict=True))
            vectors = np.stack([cache[tag] for tag in tags])
        for draft in wanting:
            near = None if draft.own_vector is None else draft.own_vector.astype(np.float32)
            shown = f"{draft.content}\n{draft.attributes.context}"
            draft.attributes.tags = rules.tags_of(shown, tags, self._config.tags, vectors, near)

    # --- links and evolution ---

    def _link(self, draft: Draft, near: Neighbourhood) -> None:
        self._known[-1 - draft.position] = known = _Known(draft.content, draft.attributes, self._own(draft.position))
        found, threshold = near.nearest(draft.document, draft.attributes.keywords)
        with self._around.snapshot() as view:
            self._load(view, [n.note for n in found if n.note not in self._known])
        found = [neighbour for neighbour in found if neighbour.note in self._known]
        full = self._config.evolution in ("auto", "full") and self._model is not None
        if full and found and self._evolved(draft, known, found, near):
            return
        for neighbour in found:
            other = self._known[neighbour.note]
            shared = rules.stems(other.attributes.keywords) & rules.stems(draft.attributes.keywords)
            if neighbour.likeness < threshold or not shared:
                continue
            draft.links.append(Link(neighbour.note, SHARED, neighbour.likeness))
            if self._config.evolution == "strengthen":
                self._strengthen(draft, neighbour.note, shared, near)

    def _strengthen(self, draft: Draft, note: int, shared: set[int], near: Neighbourhood) -> None:
        """The keywords that linked notes share become tags of the old one: its own words, so nothing is made up."""
        other = self._known[note]
        held = rules.stems(other.attributes.tags)
        more = [
            word for word in other.attributes.keywords if (own := rules.stems([word])) <= shared and not own <= held
        ]
        tags = [*other.attributes.tags, *more][: rules.MOST]
        if tags != other.attributes.tags:
            reason = f"strengthened: a linked note shares {', '.join(more)}"
            self._rewrite(draft, Rewrite(note, {"tags": tags}, reason), near)

    def _evolved(self, draft: Draft, known: _Known, found: list[Neighbour], near: Neighbourhood) -> bool:
        """Whether the model took the decisions; else it is noted why not."""
        assert self._model is not None
        shown = [self._known[neighbour.note] for neighbour in found]
        seen = {source for other in shown for source in (other.own, *other.attributes.seen, *other.causes)}
        decided: Decision
        try:
            if len(seen) > MOST_SEEN:
                raise ModelError(f"the near notes rest on over {MOST_SEEN} episodes")
            decided = evolve(
                self._model,
                described(draft.content, draft.attributes),
                [described(other.content, other.attributes) for other in shown],
                self._config.attempts,
            )
        except (InputError, ModelError) as error:
            before = draft.attributes.fallback
            draft.attributes.fallback = f"{before}; links: {error}" if before else f"links: {error}"
            return False
        draft.links += [Link(found[p].note, SUGGESTED, found[p].likeness) for p in decided.connections]
        if decided.tags and draft.attributes.by != "caller":
            draft.attributes.tags = decided.tags
            draft.attributes.seen = _union(draft.attributes.seen, seen - {known.own})
        for update in decided.updates:
            target = self._known[found[update.place].note]
            values: dict[str, Any] = {"context": update.context, "keywords": update.keywords, "tags": update.tags}
            sources = (seen | set(draft.attributes.seen)) - {target.own, known.own}
            rewrite = Rewrite(
                found[update.place].note, values, "evolved by a language model", tuple(_union([], sources))
            )
            self._rewrite(draft, rewrite, near)
        return True

    def _rewrite(self, draft: Draft, rewrite: Rewrite, near: Neighbourhood) -> None:
        draft.rewrites.append(rewrite)
        target = self._known[rewrite.note]
        seen = _union(target.attributes.seen, set(rewrite.seen))
        # A copy: the draft of a note of this batch keeps the attributes that it is stored with before they change.
        target.attributes = replace(target.attributes, seen=seen, **rewrite.values)
        target.causes.add(self._own(draft.position))
        now = target.attributes
        text = document(target.content, now.context, now.keywords, now.tags)
        near.embed([text])
        near.put(rewrite.note, text)

    def _own(self, position: int) -> str | int:
        return self._episodes[position].id or position

    def _load(self, view: Snapshot, notes: Sequence[int]) -> None:
        rows = view.tx.records(note for note in notes if note >= 0)
        own = episodes_by_id(view.tx, [row["uid"] for row in rows.values()])
        causes = view.tx.select(
            "SELECT DISTINCT c.record, w.uid FROM change c JOIN record w ON w.id = c.cause WHERE c.record IN ({ids})",
            list(rows),
        )
        for note, row in rows.items():
            if row["uid"] in own:
                before = {uid for record, uid in causes if record == note}
                self._known[note] = _Known(content_of(own[row["uid"]]), read_attributes(row), row["uid"], before)


def _union(seen: Sequence[str | int], more: set[str | int]) -> list[str | int]:
    return sorted({*seen, *more}, key=lambda source: (isinstance(source, int), str(source)))


def _windows(
    episodes: Sequence[Episode], context: Sequence[Episode], turns: int
) -> list[list[tuple[Episode, str | int]]]:
    """For every episode the turns before it in its session, each with its id or its position in the batch."""
    sessions: dict[str, list[tuple[Episode, str | int]]] = {}
    for turn in context:
        if turn.session is not None and turn.id is not None:
            sessions.setdefault(turn.session, []).append((turn, turn.id))
    windows = []
    for position, episode in enumerate(episodes):
        before = sessions.setdefault(episode.session, []) if episode.session is not None else []
        windows.append(before[-turns:] if turns else [])
        before.append((episode, episode.id or position))
    return windows


def _statistics(view: Snapshot, contents: Sequence[str], context: Sequence[Episode]) -> Statistics:
    """Document frequencies over what is stored and the batch."""
    of_batch = [set(term_hashes(text).tolist()) for text in contents]
    counts = Counter(term for terms in of_batch for term in terms)
    asked = {*counts, *(term for turn in context for term in term_hashes(turn.text).tolist())}
    stored = view.episodes.frequency(asked)
    return Statistics(
        len(view.episodes.owner) + len(contents), {term: counts[term] + stored[term] for term in sorted(asked)}
    )


def _count(view: Snapshot) -> int:
    return int(np.count_nonzero(note_kind(view.derived)))


def _stored_tags(view: Snapshot, cache: Cache) -> list[str]:
    """The list of tags that the stored notes make."""
    count = _count(view)
    key = state_key(view.tx, 2 ** (count.bit_length() - 1) if count else 0)
    if key not in cache.tags:
        cache.tags.clear()
        cache.tags[key] = rules.tag_list(_sampled_keywords(view))
    return cache.tags[key]


def _sampled_keywords(view: Snapshot) -> list[list[str]]:
    """Keywords of at most `_SAMPLE` notes, evenly spaced over the oldest 2^m of them."""
    notes = sorted(view.derived.record_ids[note_kind(view.derived)].tolist())
    oldest = notes[: 2 ** (len(notes).bit_length() - 1)] if notes else []
    step = max(1, len(oldest) // _SAMPLE)
    rows = view.tx.records(oldest[::step])
    return [read_attributes(rows[note]).keywords for note in oldest[::step]]
