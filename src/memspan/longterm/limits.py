"""What the index of a space takes in RAM: foretold from the counts that the store keeps, before anything is read."""

from __future__ import annotations

from collections.abc import Iterable

from memspan.longterm.passages import PASSAGE_CHARS
from memspan.longterm.store import Transaction


def expected_bytes(tx: Transaction, dim: int = 0) -> int:
    """RAM that the indexes of a space will take, counted from the file; the columns that grow are doubled at times.

    Args:
        tx: of the space.
        dim: length of the vectors that passages still wait for; 0 counts only those that are there.
    """
    words, count, vectors, there = tx.execute(
        "SELECT coalesce(sum(length(terms)) / 4, 0), count(*), count(v.id), coalesce(max(length(v.data)) / 2, 0)"
        " FROM passage p LEFT JOIN vector v ON v.passage = p.id WHERE p.space = ?",
        (tx.space_id,),
    ).fetchone()
    return _bytes_of(words, count, max(dim, there if vectors else 0))


def expected_of_texts(lengths: Iterable[int], dim: int) -> int:
    """RAM that texts of so many characters will take in the index, by an estimate of their words and passages."""
    words = count = 0
    for length in lengths:
        words += length // 6 + 1
        count += length // PASSAGE_CHARS + 1
    return _bytes_of(words, count, dim)


def _bytes_of(words: int, passages: int, dim: int) -> int:
    return 6 * words + (90 + dim + dim // 8) * passages  # vectors: a byte and a bit a dimension
