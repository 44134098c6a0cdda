"""Unit codes of names: random ones, or meaning and spelling under a fixed random projection."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.scribe.names import normalize_name
from memspan.models.base import Embedder, Vectors

_BUCKETS = 4096  # of character pairs and triples


class Encoder(Protocol):
    """Names to unit codes.

    Attributes:
        dim: dimensions of a code.
        open: whether a name that a bank does not hold has a code that means something.
        accept: the least cosine at which such a name is taken for one that the bank holds.
    """

    dim: int
    open: bool
    accept: float

    def encode(self, names: Sequence[str]) -> Vectors:
        """float32 [names, dim], rows of length 1."""


class RandomCodes:
    """A random direction for each name; equal names (case, spacing and underscores aside) get equal codes.

    Args:
        dim: dimensions of a code.
        seed: another seed gives other codes.
    """

    open = False
    accept = 1.0

    def __init__(self, dim: int = 16, seed: int = 0) -> None:
        if dim < 1:
            raise InputError(f"dim must be at least 1, not {dim}")
        self.dim, self.seed = dim, seed

    def encode(self, names: Sequence[str]) -> Vectors:
        """float32 [names, dim], rows of length 1."""
        keys = [list(normalize_name(name).encode("utf-8", "replace")) for name in names]
        drawn = [np.random.default_rng([self.seed, zlib.crc32(bytes(k)), *k]).standard_normal(self.dim) for k in keys]
        return _unit(np.array(drawn, np.float32).reshape(len(names), self.dim))


class TextCodes:
    """Meaning and spelling of a name under a random projection that is fixed by the seed.

    Meaning is the embedder's vector. Spelling is a vector of the name's character pairs and triples (hashed, unit
    length): a word with a typo falls into other tokens for an embedder, and still shares most of its letters.

    Args:
        embedder: gives the vectors.
        dim: dimensions of a code; names that are not written as in the bank need 64 or more.
        seed: of the projection.
        spelling: weight of spelling against meaning; 0 leaves it out.
        accept: the least cosine at which a name is taken for one that the bank holds. At 0.6, of names with a typo 7 %
            are refused, and of names that are not held about half are taken for one that is: look at the trace.

    Raises:
        InputError: dim below 1, or spelling below 0.
    """

    open = True

    def __init__(
        self, embedder: Embedder, dim: int = 64, seed: int = 0, *, spelling: float = 1.0, accept: float = 0.6
    ) -> None:
        if dim < 1:
            raise InputError(f"dim must be at least 1, not {dim}")
        if spelling < 0:
            raise InputError(f"spelling must not be negative, but it is {spelling}")
        self.dim, self.embedder, self.spelling, self.accept = dim, embedder, spelling, accept
        rng = np.random.default_rng(seed)
        self._meaning = (rng.standard_normal((embedder.dim, dim)) / np.sqrt(dim)).astype(np.float32)
        self._letters = (rng.standard_normal((_BUCKETS, dim)) / np.sqrt(dim)).astype(np.float32)

    def encode(self, names: Sequence[str]) -> Vectors:
        """float32 [names, dim], rows of length 1."""
        projected = self.embedder.embed([" ".join(name.replace("_", " ").split()) for name in names]) @ self._meaning
        if self.spelling > 0:
            for row, name in enumerate(names):
                places, counts = _letter_groups(normalize_name(name))
                projected[row] += self.spelling * (counts @ self._letters[places])
        return _unit(projected)


def _letter_groups(name: str) -> tuple[list[int], Vectors]:
    """Buckets of a name's character pairs and triples, and their signed counts, which have length 1 together."""
    text, found = f" {name} ", dict[int, float]()
    for size in (2, 3):
        for start in range(len(text) - size + 1):
            drawn = zlib.crc32(text[start : start + size].encode("utf-8", "replace"))
            bucket = drawn % _BUCKETS
            found[bucket] = found.get(bucket, 0.0) + (1.0 if drawn >> 31 else -1.0)
    return list(found), _unit(np.array([list(found.values())], np.float32))[0]


def _unit(vectors: Vectors) -> Vectors:
    out: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return out
