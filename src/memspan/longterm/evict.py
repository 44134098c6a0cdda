"""Eviction: when a space takes more disk than it may, the episodes that are worth least a byte go, with what was
derived from them alone.

    value(e) = information(e) * prior(e) * strength(e) * left(e) / bytes(e)

*information* is the sum over the distinct terms of its passages of log2(passages / times said), in the space: what
nothing else tells is worth much, a greeting next to nothing. *prior*: a lasting rule or preference counts four times, a
question half, an assistant's turn (where roles are told) half, and an episode of which a later one says nearly the same
a tenth. *strength* grows by use, and *left* is a power law of the time since the last use, slow enough (a year takes a
tenth) that age alone decides little. What has a true `pinned` in its metadata stays, and so does what the present
transaction adds. benchmarks/eviction.py measures what this costs in recall.

Looking at every episode costs some 20 microseconds each, so of a large space a tenth is queued at a time, and a little
more room is made than is needed. Evicted bytes are overwritten, but what `forget` promises of every copy in the file
holds for them only after the next `forget` or `maintain(prune=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import BudgetError
from memspan.longterm import clock, schema, vector_index
from memspan.longterm.base import Organizer
from memspan.longterm.cues import STANDING_TERMS, is_standing
from memspan.longterm.forget import remove_episodes
from memspan.longterm.limits import read_limits
from memspan.longterm.retention import Retention, elapsed_days
from memspan.longterm.rows import index_derived
from memspan.longterm.store import Transaction

F64 = NDArray[np.float64]
Ranking = Callable[[Transaction], "Candidates"]
STANDING, QUESTION, ANSWERING, REPEATED = 4.0, 0.5, 0.5, 0.1
"""Factors of the prior: see above."""
_FADING = Retention("power", days=365.0)
_HEADROOM = 0.02  # of the limit is freed beyond what is needed
_RANKED_ANEW = 10_000  # passages up to which every eviction looks at all of them
_QUEUED = 0.1  # of the episodes are queued at a time when there are more
_STEP = 256  # episodes taken out before the bytes are looked at again
_CHUNK = 16_384  # passages read at a time
_TABLE = 2**20  # counters of terms: those that share one are few
_HASHES, _BAND = 8, 2  # minima of hashed terms that tell near-duplicates, and how many make a bucket's key
_ALIKE = 7  # of the minima are the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What was taken out of a space to make room.

    Attributes:
        space: its name.
        episodes: how many episodes.
        derived: how many records that rested on them alone.
        bytes: what they took on disk.
        oldest, newest: moments of the first and the last of them.
    """

    space: str
    episodes: int
    derived: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None


class Added(list[str]):
    """The ids that an `add` stored, in order.

    Attributes:
        evicted: what had to go to make room for them; None when nothing had to.
    """

    evicted: Eviction | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """[n] episodes that may be evicted, in the order of their record ids, and what each is worth a byte."""

    records: NDArray[np.int64]
    values: F64


class Evictor:
    """Makes room in spaces that have a limit.

    Args:
        organizer: is told of what goes.
        ranking: gives candidates their values; another one is for comparison.
    """

    def __init__(self, organizer: Organizer, ranking: Ranking | None = None) -> None:
        self._organizer = organizer
        self._ranking = ranking or candidates
        self._queues: dict[int, tuple[int, list[int]]] = {}  # space -> when it was ranked, ids with the least last

    def make_room(self, tx: Transaction, fresh: Sequence[int] = ()) -> Eviction | None:
        """Evict until the transaction's space takes no more than it may; None when nothing had to go.

        Args:
            tx: the transaction that made it grow.
            fresh: ids of the records that it adds: they stay.

        Raises:
            BudgetError: the space is told to raise, or what may go is not enough. The transaction must be undone.
        """
        limits = read_limits(tx)
        if limits.index and limits.disk is not None and limits.used > limits.disk:
            vector_index.drop(tx)  # it can be made again, an episode cannot
            limits = read_limits(tx)
        if limits.disk is None or limits.used <= limits.disk:
            return None
        if limits.when_full == "raise":
            raise self._too_much(tx, limits.used, limits.disk, "raise its disk budget, or forget episodes")
        wanted = limits.disk - int(_HEADROOM * limits.disk)
        kept = set(fresh)
        episodes = derived = 0
        moments: list[int] = []
        used, reranked = limits.used, False
        passages = tx.execute("SELECT passages FROM usage WHERE space = ?", (tx.space_id,)).fetchone()[0]
        if passages <= _RANKED_ANEW:
            self._queues.pop(tx.space_id, None)
        while used > wanted:
            chosen = self._next(tx, used - wanted, kept)
            if not chosen and not reranked:
                self._rank(tx)
                reranked = True
                continue
            if not chosen:
                break
            report = remove_episodes(tx, self._organizer, [row[0] for row in chosen])
            index_derived(tx)
            episodes += report.episodes
            derived += sum(report.derived.values())
            moments += [row[2] for row in chosen]
            used, reranked = read_limits(tx).used, False
        if used > limits.disk:
            advice = "what is pinned or being added fills it: raise its disk budget, or add less at once"
            raise self._too_much(tx, used, limits.disk, advice)
        row = (tx.space_id, tx.now, episodes, derived, limits.used - used, min(moments), max(moments))
        tx.execute(
            "INSERT INTO eviction (space, evicted_at, episodes, derived, bytes, oldest, newest)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        oldest, newest = clock.from_micros(row[5]), clock.from_micros(row[6])
        return Eviction(space=tx.space, episodes=episodes, derived=derived, bytes=row[4], oldest=oldest, newest=newest)

    @staticmethod
    def _too_much(tx: Transaction, used: int, allowed: int, advice: str) -> BudgetError:
        return BudgetError(f"space {tx.space!r} on disk", needed=used, allowed=allowed, advice=advice)

    def _rank(self, tx: Transaction) -> None:
        """Queue the candidates that are worth least."""
        found = self._ranking(tx)
        count = int(_QUEUED * len(found.values)) if len(found.values) > _RANKED_ANEW else None
        order = np.argsort(found.values, kind="stable")[:count]
        self._queues[tx.space_id] = tx.now, found.records[order[::-1]].tolist()

    def _next(self, tx: Transaction, excess: int, kept: set[int]) -> list[tuple[int, int, int]]:
        """`(id, bytes, moment)` of the next episodes to go: as many as cover the excess, at most a step."""
        ranked_at, queue = self._queues.get(tx.space_id, (0, []))
        chosen: list[tuple[int, int, int]] = []
        while queue and excess > 0 and len(chosen) < _STEP:
            part = [queue.pop() for _ in range(min(16, len(queue)))]
            rows = {
                row[0]: row
                for row in tx.select(
                    f"SELECT r.id, {schema.EPISODE_BYTES}, coalesce(r.at, r.recorded_at) FROM record r"
                    " WHERE r.id IN ({ids}) AND coalesce(r.used_at, 0) <= ?",  # gone since, or used since
                    part,
                    ranked_at,
                )
            }
            for place, record in enumerate(part):
                if record in rows and record not in kept:
                    chosen.append(tuple(rows[record]))
                    excess -= rows[record][1]
                if excess <= 0:
                    queue.extend(reversed(part[place + 1 :]))
                    break
        return chosen


def candidates(tx: Transaction) -> Candidates:
    """The episodes of a space that are not pinned, with their values. Takes 60 bytes of RAM an episode."""
    said = np.zeros(_TABLE, np.int64)
    passages = 0
    for rows in _chunks(tx, "p.terms"):
        words = np.frombuffer(b"".join(row[0] for row in rows), np.uint32)
        said += np.bincount(words & np.uint32(_TABLE - 1), minlength=_TABLE)
        passages += len(rows)
    columns = (
        "r.id, p.terms, r.strength, coalesce(r.used_at, r.recorded_at), substr(rtrim(r.text), -1) = '?',"
        " coalesce(json_extract(r.data, '$.role'), ''), coalesce(json_extract(r.data, '$.pinned'), 0),"
        f" {schema.EPISODE_BYTES}"
    )
    parts: list[tuple[NDArray[Any], ...]] = []
    for rows in _chunks(tx, columns):
        ids, blobs, strengths, since, questions, roles, pinned, sizes = zip(*rows, strict=True)
        records = np.array(ids, np.int64)
        words = np.frombuffer(b"".join(blobs), np.uint32)
        owners = np.repeat(np.arange(len(ids)), [len(blob) // 4 for blob in blobs])
        pairs = np.unique((owners.astype(np.uint64) << np.uint64(32)) | words)
        times = np.maximum(said[(pairs & np.uint64(_TABLE - 1)).astype(np.int64)], 1)
        rarity = np.maximum(np.log2((passages + 1) / times), 0)
        information = np.bincount((pairs >> np.uint64(32)).astype(np.int64), rarity, len(ids))
        prior = np.where(np.array(questions, bool), QUESTION, 1.0)
        prior *= [ANSWERING if role and role not in ("user", "human") else 1.0 for role in roles]
        hinted = np.unique(records[np.unique(owners[np.isin(words, STANDING_TERMS)])])
        texts = tx.select("SELECT id, text FROM record WHERE id IN ({ids})", hinted.tolist())
        lasting = np.isin(records, [record for record, text in texts if is_standing(text)])
        prior[lasting & (prior > ANSWERING)] *= STANDING
        left = _FADING(elapsed_days(tx.now, np.array(since, np.int64)))
        factor = prior * np.array(strengths, np.float64) * left / np.array(sizes, np.float64)
        factor[np.array(pinned, bool)] = np.inf
        parts.append((records, information, factor, _minima(owners, words, len(ids))))
    if not parts:
        return Candidates(np.zeros(0, np.int64), np.zeros(0))
    records, information, factor, minima = (np.concatenate(column) for column in zip(*parts, strict=True))
    first = np.flatnonzero(np.r_[True, records[1:] != records[:-1]])  # passages of a record are neighbours
    values = np.add.reduceat(information, first) * factor[first]
    values[_said_again(np.minimum.reduceat(minima, first, axis=0))] *= REPEATED
    loose = np.isfinite(factor[first])
    return Candidates(records[first][loose], values[loose])


def _chunks(tx: Transaction, columns: str) -> Iterator[list[Any]]:
    """Rows of the passages of a space's episodes, in their order."""
    rows = tx.execute(
        f"SELECT {columns} FROM passage p CROSS JOIN record r ON r.id = p.record"
        " WHERE p.space = ? AND r.kind = 'episode' ORDER BY p.id",
        (tx.space_id,),
    )
    while read := rows.fetchmany(_CHUNK):
        yield read


def _minima(owners: NDArray[np.int64], words: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """[count, hashes] for each passage the least of its terms under several hash functions (Broder 1997)."""
    least = np.full((count, _HASHES), 0xFFFFFFFF, np.uint32)
    if len(words):
        begin = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        for number in range(_HASHES):
            mixed = words * np.uint32(2654435761 + 2 * 40503 * number)  # odd factors permute the 32-bit numbers
            mixed ^= mixed >> np.uint32(15)
            mixed *= np.uint32(2246822519)
            least[owners[begin], number] = np.minimum.reduceat(mixed, begin)
    return least


def _said_again(minima: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """[n] whether a later one is nearly the same: most of the minima are those of the next in one of its buckets."""
    again = np.zeros(len(minima), np.bool_)
    for number in range(0, _HASHES, _BAND):
        key = minima[:, number].astype(np.uint64) << np.uint64(32) | minima[:, number + 1]
        order = np.argsort(key, kind="stable")
        one, other = order[:-1], order[1:]
        alike = key[one] == key[other]
        one, other = one[alike], other[alike]
        again[one] |= np.count_nonzero(minima[one] == minima[other], axis=1) >= _ALIKE
    return again
