"""`Memory`: the facade a user holds over store, organizer, scribe, index and embedder.

Adding writes rows in one transaction and returns when they are on the disk. Vectors follow in batches (they can
always be made again from the rows), so that a slow embedder never stands between an agent and its durability; recall
first embeds what is still waiting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from memspan.core.errors import InputError, StoreBusyError
from memspan.core.footprint import Footprint
from memspan.longterm import clock
from memspan.longterm.adding import insert_episodes, turns_before
from memspan.longterm.base import Episode, Organizer, Query, Recollection, Scribe, Snapshot, Surroundings
from memspan.longterm.changes import Change, changes, undo
from memspan.longterm.embedding import EmbedderSlot
from memspan.longterm.evict import Added, Eviction, Evictor
from memspan.longterm.forget import Forgotten, forget_episodes
from memspan.longterm.index import PassageIndex
from memspan.longterm.indexes import Indexes
from memspan.longterm.kept import keep_answer, kept_answer
from memspan.longterm.limits import Bytes, Limits, WhenFull, known_dim, read_limits
from memspan.longterm.nearest import IndexChoice
from memspan.longterm.organizers import load_organizer
from memspan.longterm.recall import Deadline, RankingConfig, Recollections, Search, recall_episodes
from memspan.longterm.rows import checked_count, checked_episode, checked_question, index_derived, names
from memspan.longterm.store import Store, Transaction
from memspan.longterm.upkeep import change_limits, check_files, compose, expected_ram, maintain, make_room, stats, use

if TYPE_CHECKING:
    from memspan.core.budget import Budget
    from memspan.longterm.knowledge_survey import Answer
    from memspan.models.base import Embedder, LanguageModel

Moment = datetime | date | str | None


class Memory:
    """A long-term memory in one file.

    Example:
        >>> with Memory.open(":memory:", embedder=None) as memory:
        ...     _ = memory.add([Episode(text="I moved to Lisbon.", speaker="Ann", id="a1")])
        ...     memory.recall("Where did Ann move?")[0].id
        'a1'
    """

    def __init__(
        self,
        store: Store,
        organizer: Organizer,
        *,
        embedder: str | Embedder | None = "auto",
        space: str = "default",
        budget: Budget | None = None,
        now: Callable[[], datetime] = clock.now,
        ranking: RankingConfig | None = None,
        index: IndexChoice | None = None,
    ) -> None:
        self.store = store
        self.organizer = organizer
        self.space = space
        self.ranking = ranking or RankingConfig()
        self._clock = now
        self._embedding = EmbedderSlot(store, embedder, self._now)
        self._indexes = Indexes(store, budget, self._embedding.footprint, index or IndexChoice())
        self._evictor = Evictor(organizer)
        self._evicted: Eviction | None = None
        store.before_commit = self._make_room

    @classmethod
    def open(
        cls,
        target: str | Path = ":memory:",
        *,
        organizer: str | Organizer = "auto",
        scribe: str | Scribe = "rules",
        embedder: str | Embedder | None = "auto",
        space: str = "default",
        budget: str | int | Budget | None = None,
        disk_budget: Bytes | None = None,
        index: str | IndexChoice = "auto",
        index_above: int | None = None,
        timeout: float = 30.0,
        create: bool = True,
        now: Callable[[], datetime] = clock.now,
    ) -> Self:
        """Open a store, making it when it does not exist.

        Args:
            target: a path, "sqlite:///path" or ":memory:".
            organizer: what is built from episodes: "auto" ("zep" where the rule scribe's packages are installed, else
                "plain"), "plain" (nothing; adding is a hundred times as fast), another system's name, or an object.
            scribe: who reads the text for the organizer: "rules", "model", "endpoint:…", or an object.
            embedder: "auto" (the bundled one when it is installed, else none), a model spec, an object, or None
                for full text alone.
            space: the tenant; every other method can name another.
            budget: bytes the store may hold in RAM. An index that does not fit is kept on disk as far as it must be,
                which is slower; a `BudgetError` comes before one is loaded that does not fit even so.
            disk_budget: bytes the space may take on disk, from now on and for every later opener; see `limits`.
            index: what finds the nearest vectors: "auto" (an index in files beside the store, in spaces of more vectors
                than `index_above`), "exact" (all are compared), or an index's name (`index_above` is 0 then).
            timeout: seconds to wait for another writer.
            create: make the file when it is missing.
            now: the store's clock, for tests and for replaying history.

        Raises:
            InputError: an unknown organizer or an unusable path.
            StoreError: not a memspan store, damaged, or too new.
        """
        chosen, choice = load_organizer(organizer, scribe), IndexChoice.of(index, index_above)
        if isinstance(budget, str | int):
            from memspan.core.budget import Budget

            budget = Budget.parse(budget)
        store = Store(target, timeout=timeout, create=create)
        memory = cls(store, chosen, embedder=embedder, space=space, budget=budget, now=now, index=choice)
        if disk_budget is not None:
            try:
                memory.limits(disk=disk_budget)
            except BaseException:
                store.close()
                raise
        return memory

    @property
    def budget(self) -> Budget | None:
        """Bytes the store may hold in RAM; None is no limit. Set it before the first recall."""
        return self._indexes.budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        self._indexes.budget = budget

    def _now(self) -> int:
        moment = clock.to_micros(self._clock())
        assert moment is not None
        return moment

    # --- add ---

    def add(self, episodes: Iterable[Episode] | Episode, *, space: str | None = None) -> Added:
        """Add episodes: all of them, or none.

        An episode whose id is already there with the same text is left as it is, so that an interrupted run can
        simply be repeated.

        Returns:
            The ids, in order. The episodes survive a kill of the process from here on. `.evicted` says what had to go
            to make room for them.

        Raises:
            InputError: an episode cannot be stored; the message names its position.
            BudgetError: the space has no room for them, and nothing can or may be evicted.
            StoreBusyError: another process wrote for longer than the timeout.
        """
        batch = [episodes] if isinstance(episodes, Episode) else list(episodes)
        payloads = [checked_episode(position, episode) for position, episode in enumerate(batch)]
        if not batch:
            return Added()
        space = self.space if space is None else space
        self._know_vectors(space)
        around = Surroundings(
            snapshot=lambda: self._snapshot(space),
            embed=lambda texts: None if self._embedding.get() is None else self._embedding.embed(texts),
            embed_pending=self._embedding.embed_all,
        )
        prepared = self.organizer.prepare_with(around, batch, self._context(batch[0], space))
        with self.store.write(self._now(), space) as tx:
            ids, fresh = insert_episodes(tx, batch, payloads)
            if fresh:
                tx.added = [record for _, record in fresh]
                self.organizer.on_add(tx, [(record, batch[i], prepared[i]) for i, record in fresh])
                index_derived(tx)
        added = Added(ids)
        added.evicted, self._evicted = self._evicted, None
        if added.evicted is not None and self.store.loose():
            self.store.purge()
        self._embedding.embed_batches()
        self._indexes.added(self._now(), space, len(fresh))
        return added

    def _make_room(self, tx: Transaction) -> None:
        self._evicted = make_room(self, tx)

    def _know_vectors(self, space: str, *, limited: bool = False) -> None:
        """Load the embedder if a limit is set and nothing tells yet how long its vectors, still to be made, will be."""
        with self.store.read(self._now(), space) as tx:
            unknown = (limited or read_limits(tx).disk is not None) and not known_dim(tx)
        if unknown:
            self._embedding.get()

    def limits(
        self,
        *,
        disk: Bytes | None = None,
        ram: Bytes | None = None,
        when_full: WhenFull | None = None,
        space: str | None = None,
    ) -> Limits:
        """What a space may take, after changing what is given. Limits are kept in the store, for every later opener.

        Args:
            disk: bytes on disk, as a number or "200MB"; 0 takes the limit away. What is too much goes at once.
            ram: bytes of its index in RAM, in every process.
            when_full: "evict" (the default) or "raise", which leaves the store as it was.
            space: the tenant.

        Raises:
            InputError: no number of bytes, or an unknown `when_full`.
            BudgetError: the space takes more already and may not, or cannot, be made to fit.
        """
        return change_limits(self, self.space if space is None else space, disk=disk, ram=ram, when_full=when_full)

    @contextlib.contextmanager
    def _snapshot(self, space: str) -> Iterator[Snapshot]:
        with self.store.read(self._now(), space) as tx:
            indexes = [self._index(tx, episodes=episodes) for episodes in (True, False)]
            yield Snapshot(tx=tx, episodes=indexes[0], derived=indexes[1])

    def _context(self, first: Episode, space: str) -> list[Episode]:
        """The turns just before the first of a batch, which the scribe may need to read it."""
        if first.session is None or self.organizer.context_turns == 0:
            return []
        with self.store.read(self._now(), space) as tx:
            return turns_before(tx, first.session, self.organizer.context_turns)

    def embed_pending(self, *, progress: bool = False) -> int:
        """Embed everything that still waits for its vector; returns how many passages that was."""
        done = self._embedding.embed_all(progress=progress)
        self._indexes.keep_up(self._now(), self.space, progress=progress)
        return done

    # --- recall ---

    def recall(
        self,
        query: str,
        k: int = 10,
        *,
        kinds: Sequence[str] = ("episode",),
        session: str | Sequence[str] = (),
        speaker: str | Sequence[str] = (),
        after: Moment = None,
        before: Moment = None,
        metadata: Mapping[str, Any] | None = None,
        as_of: Moment = None,
        believed_at: Moment = None,
        rerank: str | None = None,
        superseded: bool = False,
        deadline_ms: float | None = None,
        space: str | None = None,
    ) -> Recollections:
        """What the memory holds on a question, best first.

        Args:
            query: the question. What stands between double quotes is looked for word for word; turns of a speaker
                or a time that it names come up before others.
            k: how many results.
            kinds: "episode", or what the organizer builds ("fact", "entity", "community").
            session, speaker: only these (a document's id stands for its versions); after, before: only episodes of that
                time (after inclusive).
            metadata: only episodes whose metadata has these values.
            as_of: facts that were true at this moment, instead of those that are true now; "last week" in the
                question is understood against it.
            believed_at: what the store believed at this moment.
            rerank: "rrf", "mmr", "mentions", "distance", "cross"; None is the organizer's own order.
            superseded: also versions of documents that newer ones replaced; else only what counts now, or counted at
                `as_of`.
            deadline_ms: leave stages out rather than take longer; `.skipped` and `why` say which.
            space: the tenant.

        Raises:
            InputError: an option that cannot be.
        """
        asked = Query(
            text=checked_question(query),
            k=checked_count(k),
            kinds=tuple([kinds] if isinstance(kinds, str) else kinds),
            space=self.space if space is None else space,
            as_of=clock.as_moment(as_of, "as_of"),
            believed_at=clock.as_moment(believed_at, "believed_at"),
            after=clock.as_moment(after, "after"),
            before=clock.as_moment(before, "before"),
            sessions=names(session),
            speakers=names(speaker),
            metadata=dict(metadata or {}),
            rerank=rerank,
            superseded=superseded,
        )
        if not asked.kinds:
            raise InputError("kinds is empty; name at least one, such as 'episode' or 'fact'")
        deadline = Deadline(deadline_ms)
        if not deadline.limited:
            if asked.kinds != ("episode",):
                # Another process that writes for long must not keep this one from reading.
                with contextlib.suppress(StoreBusyError):
                    compose(self, asked.space)
            self._embedding.embed_all()
        vector = self._embedding.embed_query(asked.text, deadline)
        self._indexes.prepare(self._now(), asked.space)
        with self.store.read(self._now(), asked.space) as tx:
            search = Search(
                tx=tx,
                query=asked,
                vector=vector,
                episodes=self._index(tx, episodes=True),
                derived=self._index(tx, episodes=False),
                deadline=deadline,
                embed=self._embedding.embed,
                now=self._clock(),
            )
            found: list[Recollection] = []
            if "episode" in asked.kinds:
                found += recall_episodes(search, self.organizer, self.ranking)
            if others := [kind for kind in asked.kinds if kind != "episode"]:
                unknown = [kind for kind in others if kind not in self.organizer.kinds]
                if unknown:
                    known = ", ".join(("episode", *self.organizer.kinds))
                    raise InputError(f"the {self.organizer.name} organizer builds no {unknown[0]!r}; kinds: {known}")
                found += self.organizer.recall(search)
        if len(asked.kinds) > 1:
            found.sort(key=lambda hit: -hit.score)
        results = Recollections(found[: asked.k])
        results.skipped = tuple(deadline.skipped)
        results.seconds = deadline.seconds
        self._indexes.release()
        return results

    def _index(self, tx: Transaction, *, episodes: bool) -> PassageIndex:
        return self._indexes.get(tx, episodes=episodes)

    def expected_ram(self, episodes: Sequence[Episode] = (), *, dim: int = 0, least: bool = False) -> int:
        """Bytes of RAM that the store will hold with its index loaded, `episodes` added and vectors of length `dim`.

        What is in the file is counted; for new episodes it is an estimate, with as much again for what an organizer
        derives from them. With `least`, as much of the index is on disk as can be.
        """
        return expected_ram(self, episodes, dim, least)

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer from memory with citations, or decline; see `knowledge_survey.GroundedAnswerer` for the options.

        An organizer that keeps answers gives the one it holds for this question while its sources hold.
        """
        from memspan.longterm.knowledge_survey import GroundedAnswerer

        asked = dict(options)
        answer = kept_answer(self, question, asked) if self.organizer.keeps_answers else None
        if answer is None:
            model: LanguageModel | str | None = options.pop("model", None)
            config = {key: options.pop(key) for key in list(options) if key in GroundedAnswerer.OPTIONS}
            answer = GroundedAnswerer(self, model, **config).ask(question, **options)
            if self.organizer.keeps_answers:
                keep_answer(self, question, asked, answer)
        if self.organizer.learns_from_use and answer.citations:
            self.use([citation.episode for citation in answer.citations], space=asked.get("space"))
        return answer

    def use(self, ids: str | Sequence[str], *, space: str | None = None) -> int:
        """Tell the organizer that episodes were used, in an answer or a prompt: what is used stays strong.

        `ask` does this for the episodes that it cites; call it when you build prompts from `recall` yourself.

        Returns:
            How many episodes were used.

        Raises:
            InputError: no episode has one of the ids.
        """
        with self.store.write(self._now(), self.space if space is None else space) as tx:
            return use(tx, self.organizer, list(dict.fromkeys(names(ids))))

    # --- look after ---

    def history(
        self,
        subject: str,
        relation: str | None = None,
        *,
        as_of: Moment = None,
        believed_at: Moment = None,
        space: str | None = None,
    ) -> list[Recollection]:
        """Every fact held about a subject, closed ones too, oldest first.

        Args:
            subject: the entity's name.
            relation: only this relation.
            as_of: only what was true at this moment.
            believed_at: only what the store believed at this moment, with the windows it believed then.
            space: the tenant.
        """
        world, known = clock.as_moment(as_of, "as_of"), clock.as_moment(believed_at, "believed_at")
        with self.store.read(self._now(), self.space if space is None else space) as tx:
            return self.organizer.history(tx, subject, relation, world, known)

    def changes(self, id: str | None = None, *, kind: str | None = None, space: str | None = None) -> list[Change]:
        """What the organizer changed in attributes of its records, oldest first: of one record, one kind, or all."""
        with self.store.read(self._now(), self.space if space is None else space) as tx:
            return changes(tx, id, kind)

    def undo(self, change: int, *, space: str | None = None) -> None:
        """Take back one change that `changes` lists; later changes of the same attribute stay.

        Raises:
            InputError: the space has no such change.
        """
        with self.store.write(self._now(), self.space if space is None else space) as tx:
            self.organizer.on_undo(tx, [undo(tx, change)])
            index_derived(tx)
        self._embedding.embed_batches()

    def forget(
        self,
        ids: str | Sequence[str] = (),
        *,
        session: str | None = None,
        speaker: str | None = None,
        before: Moment = None,
        space: str | None = None,
        everything: bool = False,
    ) -> Forgotten:
        """Erase episodes and everything derived only from them, from every index and from the file's bytes.

        Args:
            ids, session, speaker, before: which episodes; several conditions must all hold.
            space: the tenant; named without a condition, all of it is erased.
            everything: erase the whole space that the memory was opened with.

        Raises:
            InputError: no condition and no space, or an id that is not there (nothing is erased then).
        """
        wanted = names(ids)
        limit = clock.to_micros(clock.as_moment(before, "before"))
        whole = everything or space is not None
        if not (wanted or session is not None or speaker is not None or limit is not None or whole):
            raise InputError("forget needs ids, session, speaker, before or space; everything=True erases this space")
        with self.store.write(self._now(), self.space if space is None else space) as tx:
            report = forget_episodes(tx, self.organizer, wanted, session=session, speaker=speaker, before=limit)
            index_derived(tx)
            self._indexes.erased(tx)
        self._embedding.forget(tx.erased)
        swept = self._indexes.sweep(self._now(), self.space if space is None else space)
        return report.with_purge(self.store.purge() and swept)

    def export(self, path: str | Path) -> int:
        """Write everything to a JSONL file; returns the number of rows. The file appears whole or not at all."""
        from memspan.longterm.exchange import export_store

        return export_store(self.store, self._now(), Path(path))

    def import_(self, path: str | Path) -> int:
        """Read a file that `export` wrote into this store: all of it, or nothing; returns the number of rows."""
        from memspan.longterm.exchange import import_store

        return import_store(self.store, self._now(), Path(path))

    def maintain(self, *, prune: bool = False, reembed: bool = False) -> dict[str, int]:
        """Housekeeping: the organizer's (communities, summaries), pending vectors, the file's statistics.

        Args:
            prune: delete for good what the organizer has let fade, and give free pages back to the file system.
            reembed: drop all vectors and make them anew, after a change of the embedder.

        Returns:
            Counts of what was done.
        """
        return maintain(self, prune=prune, reembed=reembed)

    def check(self, *, repair: bool = False, progress: bool = False) -> list[str]:
        """Problems found in the file and between its rows and indexes; empty when sound.

        Args:
            repair: make indexes anew that are not what the rows say.
            progress: show bars on a terminal.
        """
        return self.store.check() + check_files(self, repair=repair, progress=progress)

    def stats(self, *, space: str | None = None) -> dict[str, Any]:
        """Counts by kind, vectors, sessions, speakers, the span of time, bytes, limits, and what was evicted."""
        return stats(self, self.space if space is None else space)

    def footprint(self) -> Footprint:
        """Bytes of the store: RAM of the loaded indexes and SQLite's cache, disk of the file and its log."""
        return self.store.footprint() + self._embedding.footprint() + self._indexes.footprint()

    def close(self) -> None:
        """Embed what waits if the embedder is loaded, and close the file."""
        self._embedding.close()
        self._indexes.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._embedding.abandon()
        self.close()
