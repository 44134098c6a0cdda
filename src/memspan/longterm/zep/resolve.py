"""Which known entity a name means (Zep, section 2.2.1; thresholds as in graphiti).

Exact normalised names first; then, for names specific enough, MinHash over 3-gram shingles with locality-sensitive
hashing and a check of the true Jaccard similarity. What is left is a new entity: without a language model nothing
weaker may merge two people.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from memspan.longterm.store import Transaction

PERMUTATIONS = 32
BAND = 4  # rows per band: 8 bands, so that pairs of Jaccard 0.9 are missed once in 2e4
MIN_JACCARD = 0.9
MIN_ENTROPY = 1.5  # bits per character
_PRIME = np.uint64((1 << 31) - 1)
_generator = np.random.default_rng(0)
_A = _generator.integers(1, int(_PRIME), PERMUTATIONS, dtype=np.uint64)
_B = _generator.integers(0, int(_PRIME), PERMUTATIONS, dtype=np.uint64)


def normalize(name: str) -> str:
    """Case, width, underscores, possessives, leading articles and runs of spaces do not tell names apart."""
    text = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("’", "'")
    text = re.sub(r"'s$", "", " ".join(text.split()).strip(" .,;:!?\"'()[]"))
    return re.sub(r"^(?:the|a|an|my|our|his|her|their|your) (?=\S)", "", text)


def shingles(name: str) -> frozenset[str]:
    """3-grams of a normalised name without its spaces."""
    letters = name.replace(" ", "")
    return frozenset(letters[i : i + 3] for i in range(max(1, len(letters) - 2)))


def specific(name: str) -> bool:
    """Whether a name carries enough to be compared loosely: enough entropy, and length or several words."""
    letters = name.replace(" ", "")
    if not letters:
        return False
    counts = Counter(letters).values()
    entropy = -sum(n / len(letters) * math.log2(n / len(letters)) for n in counts)
    return entropy >= MIN_ENTROPY and (len(letters) >= 6 or " " in name)


def _signature(grams: frozenset[str]) -> NDArray[np.uint64]:
    hashes = np.array([zlib.crc32(gram.encode()) for gram in grams], dtype=np.uint64) % _PRIME
    permuted = (hashes[:, None] * _A + _B) % _PRIME
    smallest: NDArray[np.uint64] = permuted.min(axis=0)
    return smallest


def _bands(grams: frozenset[str]) -> list[bytes]:
    signature = _signature(grams)
    return [bytes([i]) + signature[i * BAND : (i + 1) * BAND].tobytes() for i in range(PERMUTATIONS // BAND)]


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared share of two sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


class EntityResolver:
    """Names of one space's entities, in RAM; reads what was added since it last looked.

    A transaction that was rolled back leaves names behind here: every candidate is checked against its row.
    """

    def __init__(self) -> None:
        self._generation: str | None = None
        self._last = 0
        self._buckets: dict[bytes, list[tuple[int, str]]] = {}

    def refresh(self, tx: Transaction) -> None:
        """Read entities added by other transactions; start anew when rows were removed."""
        generation = tx.meta("generation") or ""
        newest = tx.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
        if generation != self._generation or newest < self._last:
            self._generation, self._last, self._buckets = generation, 0, {}
        rows = tx.execute(
            "SELECT id, uid FROM record WHERE space = ? AND kind = 'entity' AND id > ?", (tx.space_id, self._last)
        )
        for record, uid in rows:
            self._remember(record, uid)
        self._last = newest

    def _remember(self, record: int, uid: str) -> None:
        if specific(uid):
            for band in _bands(shingles(uid)):
                self._buckets.setdefault(band, []).append((record, uid))

    def add(self, record: int, uid: str) -> None:
        """Note an entity that this transaction makes."""
        self._remember(record, uid)
        self._last = max(self._last, record)

    def find(self, tx: Transaction, uid: str) -> int | None:
        """The entity a normalised name means, or None."""
        row = tx.find("entity", uid)
        if row is not None:
            return int(row["id"])
        if not specific(uid):
            return None
        grams = shingles(uid)
        near = {entry for band in _bands(grams) for entry in self._buckets.get(band, ())}
        scored = sorted(((jaccard(grams, shingles(other)), -record) for record, other in near), reverse=True)
        names = dict(near)
        for similarity, negative in scored:
            if similarity < MIN_JACCARD:
                return None
            row = tx.find("entity", names[-negative])
            # Digits tell things apart that letters do not: "room 12" is not "room 13".
            if row is not None and re.findall(r"\d+", names[-negative]) == re.findall(r"\d+", uid):
                return int(row["id"])
        return None
