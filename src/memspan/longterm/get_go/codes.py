"""Unit codes of names: random ones, or vectors of an embedder under a fixed random projection."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from memspan.core.errors import InputError
from memspan.longterm.scribe.names import normalize_name
from memspan.models.base import Embedder, Vectors


class Encoder(Protocol):
    """Names to unit codes. `open`: whether a name that a bank does not hold has a code that means something."""

    dim: int
    open: bool

    def encode(self, names: Sequence[str]) -> Vectors:
        """float32 [names, dim], rows of length 1."""


class RandomCodes:
    """A random direction for each name; equal names (case, spacing and underscores aside) get equal codes.

    Args:
        dim: dimensions of a code.
        seed: another seed gives other codes.
    """

    open = False

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
    """An embedder's vectors under a random projection that is fixed by the seed.

    Args:
        embedder: gives the vectors.
        dim: dimensions of a code; names that are not written as in the bank need 64 or more.
        seed: of the projection.
    """

    open = True

    def __init__(self, embedder: Embedder, dim: int = 64, seed: int = 0) -> None:
        if dim < 1:
            raise InputError(f"dim must be at least 1, not {dim}")
        self.dim, self.embedder = dim, embedder
        drawn = np.random.default_rng(seed).standard_normal((embedder.dim, dim))
        self._projection = (drawn / np.sqrt(dim)).astype(np.float32)

    def encode(self, names: Sequence[str]) -> Vectors:
        """float32 [names, dim], rows of length 1."""
        vectors = self.embedder.embed([" ".join(name.replace("_", " ").split()) for name in names])
        return _unit(vectors @ self._projection)


def _unit(vectors: Vectors) -> Vectors:
    out: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return out
