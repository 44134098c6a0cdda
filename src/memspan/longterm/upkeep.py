"""What a memory does beside adding and recalling: room on disk, housekeeping, counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError
from memspan.longterm import clock
from memspan.longterm.base import Episode, Organizer
from memspan.longterm.evict import Eviction
from memspan.longterm.indexed import COLUMNS, IN_RAM
from memspan.longterm.limits import (
    Bytes,
    Limits,
    WhenFull,
    expected_of_texts,
    known_dim,
    read_limits,
    set_limits,
)
from memspan.longterm.rows import index_derived
from memspan.longterm.store import Transaction

if TYPE_CHECKING:
    from memspan.longterm.memory import Memory


def make_room(memory: Memory, tx: Transaction) -> Eviction | None:
    """Evict in every space that takes more than it may; what was evicted in the transaction's own.

    A transaction may make other spaces than its own grow: vectors are made for all of them together, and an import
    brings several.

    Raises:
        BudgetError: see `Evictor.make_room`.
    """
    own = None
    names = tx.execute(
        "SELECT s.name FROM budget b JOIN space s ON s.id = b.space WHERE b.disk IS NOT NULL ORDER BY s.id"
    ).fetchall()
    for (name,) in names:
        of_space = tx if name == tx.space else Transaction(tx.store, tx.now, name, writable=False)
        done = memory._evictor.make_room(of_space, tx.added)
        if done is not None and name == tx.space:
            own = done
        if of_space.erased:
            memory._embedding.forget(of_space.erased)
    return own


def change_limits(
    memory: Memory, space: str, *, disk: Bytes | None, ram: Bytes | None, when_full: WhenFull | None
) -> Limits:
    """See `Memory.limits`."""
    if disk is not None or ram is not None or when_full is not None:
        memory._know_vectors(space, limited=disk is not None)
        with memory.store.write(memory._now(), space) as tx:
            set_limits(tx, disk=disk, ram=ram, when_full=when_full)
        if memory._evicted is not None and memory.store.loose():
            memory.store.purge()
    with memory.store.read(memory._now(), space) as tx:
        return read_limits(tx)


def check_files(memory: Memory, *, repair: bool, progress: bool) -> list[str]:
    """Problems found in the files of the indexes, over all spaces; put right with `repair`."""
    problems = []
    for (name,) in memory.store.connection.execute("SELECT name FROM space ORDER BY id").fetchall():
        if repair:
            problems += memory._indexes.repair(memory._now(), name, progress=progress)
            continue
        with memory.store.read(memory._now(), name) as tx:
            problems += memory._indexes.check(tx)
    return problems


def expected_ram(memory: Memory, episodes: Sequence[Episode], dim: int, least: bool) -> int:
    """See `Memory.expected_ram`."""
    level = COLUMNS if least else IN_RAM
    with memory.store.read(memory._now(), memory.space) as tx:
        kept = memory._indexes.expected(tx, dim, level)
    new = expected_of_texts((len(episode.text) for episode in episodes), dim, level)
    return memory.store.footprint().by_place.get("ram", 0) + kept + new * (2 if memory.organizer.kinds else 1)


def use(tx: Transaction, organizer: Organizer, ids: Sequence[str]) -> int:
    """See `Memory.use`."""
    rows = tx.select(
        "SELECT id, uid FROM record WHERE uid IN ({ids}) AND kind = 'episode' AND space = ?", ids, tx.space_id
    )
    if missing := set(ids) - {row["uid"] for row in rows}:
        raise InputError(f"no episode has the id {sorted(missing)[0]!r} in space {tx.space!r}")
    organizer.on_use(tx, [row["id"] for row in rows])
    return len(rows)


def compose(memory: Memory, space: str) -> None:
    """Let the organizer write what it writes late; the slow part is done while the store is not locked."""
    organizer = memory.organizer
    with memory.store.read(memory._now(), space) as tx:
        pending = organizer.pending(tx)
    if pending is None:
        return
    composed = organizer.compose(pending)
    with memory.store.write(memory._now(), space) as tx:
        organizer.on_composed(tx, composed)
        index_derived(tx)
    if tx.erased:
        memory._embedding.forget(tx.erased)


def maintain(memory: Memory, *, prune: bool, reembed: bool) -> dict[str, int]:
    """See `Memory.maintain`."""
    store, embedding = memory.store, memory._embedding
    done: dict[str, int] = {}
    if reembed:
        done["vectors_dropped"] = embedding.reset()
    done["embedded"] = embedding.embed_all()  # first, so that organizers can compare vectors
    for (name,) in store.connection.execute("SELECT name FROM space").fetchall():
        with store.write(memory._now(), name) as tx:
            for what, count in memory.organizer.maintain(tx, memory._clock(), prune=prune).items():
                done[what] = done.get(what, 0) + count
            index_derived(tx)
            if prune:
                memory._indexes.erased(tx)
        if tx.erased:
            embedding.forget(tx.erased)
        memory._indexes.sweep(memory._now(), name, every=prune)
        compose(memory, name)  # last, so that nothing is written that is about to go
    done["embedded"] += embedding.embed_all()
    for (name,) in store.connection.execute("SELECT name FROM space").fetchall():
        if memory._indexes.keep_up(memory._now(), name, all_of_it=True):
            done["indexes"] = done.get("indexes", 0) + 1
    with store.lock:
        store.connection.execute("PRAGMA optimize")
        if prune:
            before = store.disk_bytes()
            store.purge(rewrite=True)
            done["bytes_freed"] = max(0, before - store.disk_bytes())
    return done


def stats(memory: Memory, space: str) -> dict[str, Any]:
    """See `Memory.stats`."""
    with memory.store.read(memory._now(), space) as tx:
        kinds = dict(
            tx.execute("SELECT kind, count(*) FROM record WHERE space = ? GROUP BY kind", (tx.space_id,)).fetchall()
        )
        sessions, speakers, first, last = tx.execute(
            "SELECT count(DISTINCT session), count(DISTINCT speaker), min(at), max(at) FROM record"
            " WHERE space = ? AND kind = 'episode'",
            (tx.space_id,),
        ).fetchone()
        counted = tx.execute("SELECT passages, vectors FROM usage WHERE space = ?", (tx.space_id,)).fetchone()
        spaces = [row[0] for row in tx.execute("SELECT name FROM space ORDER BY name")]
        limits, dim = read_limits(tx), known_dim(tx)
        times, episodes, derived, freed, oldest, newest = tx.execute(
            "SELECT count(*), coalesce(sum(episodes), 0), coalesce(sum(derived), 0), coalesce(sum(bytes), 0),"
            " min(oldest), max(newest) FROM eviction WHERE space = ?",
            (tx.space_id,),
        ).fetchone()
        more, vectors_of = memory.organizer.stats(tx), memory._indexes.vectors
        index = {"system": "exact"} if vectors_of is None else vectors_of.stats(tx)
    passages, vectors = counted or (0, 0)
    return {
        "space": space,
        "spaces": spaces,
        "organizer": memory.organizer.name,
        "embedder": memory._embedding.name,
        "records": kinds,
        "sessions": sessions,
        "speakers": speakers,
        "first": _iso(first),
        "last": _iso(last),
        "passages": passages,
        "embedded": vectors,
        "dim": dim,
        "disk": {"used": limits.used, "allowed": limits.disk, "when_full": limits.when_full},
        "ram": {"allowed": limits.ram},
        "index": index,
        "evicted": {
            "times": times,
            "episodes": episodes,
            "derived": derived,
            "bytes": freed,
            "oldest": _iso(oldest),
            "newest": _iso(newest),
        },
        "bytes": memory.footprint().to_json(),
        **({memory.organizer.name: more} if more else {}),
    }


def _iso(micros: int | None) -> str | None:
    moment = clock.from_micros(micros)
    return None if moment is None else moment.isoformat()
