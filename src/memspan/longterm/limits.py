"""How many bytes a space may take, on disk and in RAM, and what it takes.

On disk, what counts are the rows of the space as `schema` defines it: the bytes that they take in a file without slack,
and beforehand those of the vectors that passages still wait for. The file itself is larger by the pages of an empty
store (about 120 kB), by the log of what was erased (at most 0.6 MB), by its write-ahead log while it is open (4 MB, and
for a while what one transaction writes), and by pages that are free or half empty: it is rewritten when an eviction has
made them 30 % of it.

A vector index beside the store (`vector_index`) counts too, less the share of what it has still to lose. It goes before
any episode does, and is made only where there is room for it. Not counted are the files of the other index beside the
store (`parts`): about 140 bytes a passage, and of vectors D + D/8 + 5 bytes each, which can be deleted at any time and
are made again; `Memory.footprint` tells of them.

In RAM, what counts is what an index holds between two recalls and the arrays that one recall works with, the first one
too: an index is taken over from its files in pieces. Of sessions' names as many are reckoned as there are at ten
passages a session. Not counted are Python and its libraries, what an embedder works with, what one recall takes at any
size (up to 4 MB), pages of mapped files, which the system takes back when it needs them, and, while parts are written,
up to 40 MB. A vector index is made only where there is room for that: 48 MB, and 65,536 of its vectors in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from memspan.core.budget import parse_bytes
from memspan.core.errors import InputError
from memspan.longterm.indexed import COLUMNS, IN_RAM, POSTINGS, VALUES
from memspan.longterm.passages import PASSAGE_CHARS
from memspan.longterm.store import Transaction

WhenFull = Literal["evict", "raise"]
Bytes = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a space takes and may take, in bytes.

    Attributes:
        disk: allowed on disk; None is no limit.
        ram: allowed to its index in RAM, in every process; None is no limit.
        when_full: what an add does that would exceed `disk`: "evict" what is worth least, or "raise" a BudgetError.
        used: on disk now, vectors that are still to be made included.
        index: of that, the vector index.
    """

    disk: int | None = None
    ram: int | None = None
    when_full: WhenFull = "evict"
    used: int = 0
    index: int = 0


def read_limits(tx: Transaction) -> Limits:
    """The limits of the transaction's space; all are None where none was set."""
    row = tx.execute(
        "SELECT u.bytes, u.passages - u.vectors, b.disk, b.ram, b.when_full FROM usage u"
        " LEFT JOIN budget b ON b.space = u.space WHERE u.space = ?",
        (tx.space_id,),
    ).fetchone()
    if row is None:
        return Limits()
    used, waiting, disk, ram, when_full = row
    index = tx.execute(
        "SELECT coalesce(sum(disk * max(0, 1 - 1.0 * (SELECT count(*) FROM vector_gone WHERE space = ?) / size)), 0)"
        " FROM vector_index WHERE space = ? AND ready",
        (tx.space_id, tx.space_id),
    ).fetchone()[0]
    used += waiting * _vector_bytes(known_dim(tx)) + int(index)
    return Limits(disk=disk, ram=ram, when_full=when_full or "evict", used=used, index=int(index))


def set_limits(
    tx: Transaction,
    *,
    disk: Bytes | None = None,
    ram: Bytes | None = None,
    when_full: WhenFull | None = None,
) -> None:
    """Change what is given; 0 takes a limit away.

    Raises:
        InputError: no number of bytes, or an unknown `when_full`.
    """
    if when_full is not None and when_full not in get_args(WhenFull):
        raise InputError(f"when_full is {when_full!r}; it can be {' or '.join(get_args(WhenFull))}")
    now = read_limits(tx)
    values = [
        before if wanted is None else parse_bytes(wanted) or None
        for before, wanted in ((now.disk, disk), (now.ram, ram))
    ]
    tx.execute(
        "INSERT OR REPLACE INTO budget (space, disk, ram, when_full) VALUES (?, ?, ?, ?)",
        (tx.space_id, *values, when_full or now.when_full),
    )


def known_dim(tx: Transaction) -> int:
    """Length of the store's vectors; 0 when no embedder has been used with it."""
    known = tx.meta("embedder")
    return 0 if known is None else int(json.loads(known)["dim"])


def _vector_bytes(dim: int) -> int:
    """What the schema counts for a vector of this length."""
    size = 2 * dim
    if not size:
        return 0
    return 14 + (4096 // (4088 // (size + 14)) if size < 4000 else 4096 * (size // 4092 + 2))


# --- RAM -------------------------------------------------------------------------------------------------------------

_COLUMNS = 105  # bytes a passage of the columns, with room to grow, and of the neighbours with their weights
_NAMES = 25  # of the names of sessions, at ten passages a session
_WORK = 48  # of the arrays of one recall


def expected_bytes(tx: Transaction, dim: int = 0, level: int = IN_RAM, *, mapped: bool = False) -> int:
    """RAM that the indexes of a space will take.

    Args:
        tx: of the space.
        dim: length of the vectors that passages still wait for; 0 counts only those that are there.
        level: how much is spilled.
        mapped: a vector index is used, and vectors of parts stay in their files.
    """
    row = tx.execute("SELECT words, passages, vectors FROM usage WHERE space = ?", (tx.space_id,)).fetchone()
    words, passages, vectors = row or (0, 0, 0)
    dim = max(dim, known_dim(tx) if vectors else 0)
    if not mapped:
        return _bytes_of(words, passages, dim, level)
    kept, ram = tx.execute(
        "SELECT (SELECT coalesce(sum(passages - missing), 0) FROM part WHERE space = ?),"
        " (SELECT coalesce(max(ram), 0) FROM vector_index WHERE space = ?)",
        (tx.space_id, tx.space_id),
    ).fetchone()
    late = max(0, passages - kept)
    return int(_bytes_of(words, passages, 0, level) + late * (dim + dim // 8 + 4) * 5 // 4 + ram)


def expected_of_texts(lengths: Iterable[int], dim: int, level: int = IN_RAM) -> int:
    """RAM that texts of so many characters will take in the index, by an estimate of their words and passages."""
    words = count = 0
    for length in lengths:
        words += length // 6 + 1
        count += length // PASSAGE_CHARS + 1
    return _bytes_of(words, count, dim, level)


def _bytes_of(words: int, passages: int, dim: int, level: int) -> int:
    each = _NAMES + _WORK
    if level < COLUMNS:
        each += _COLUMNS + (dim // 8 + 4) * 5 // 4
    if level < VALUES:
        each += dim * 5 // 4
    return each * passages + (words if level >= POSTINGS else 7 * words)  # the terms themselves stay
