"""Vectors for measuring an index: made ones as hard as sentence embeddings, and real ones of package descriptions.

The made ones: a Gaussian mixture in a latent space, sent through a smooth random map onto the sphere, with heavy-tailed
noise. A mixture of separable clusters would be a trap: an inverted index that reads 4 of 2,048 lists finds 97 % of the
neighbours there, 76 % here and about as much among real embeddings of equal intrinsic dimension. `shifted` vectors come
from the same map and noise but other topics, moved by a constant: what a store meets when its users talk of new things.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import say
from numpy.typing import NDArray

Floats = NDArray[np.float32]

K = 10
QUERIES = 1000
REAL = 50_000
SEED = 7
LATENT, HIDDEN, TOPICS = 64, 256, 10_000
CHUNK = 100_000  # rows of one stream of random numbers
MOVED = 0.5  # of a latent coordinate's spread, by which shifted topics are moved


class Mixture:
    """The distribution of the made vectors. `draw` takes its randomness from the generator that it is given."""

    def __init__(self, dim: int = 128, seed: int = SEED) -> None:
        random = np.random.default_rng(seed)
        spread = np.arange(1, LATENT + 1) ** -0.4
        self.spread = (spread / np.sqrt((spread**2).mean())).astype(np.float32)
        self.inner = _normal(random, LATENT, HIDDEN, over=LATENT) * np.float32(1.2)
        self.bias = (random.standard_normal(HIDDEN) * 0.5).astype(np.float32)
        self.outer = _normal(random, HIDDEN, dim, over=HIDDEN)
        weight = np.arange(1, TOPICS + 1) ** -0.9
        self.weight = weight / weight.sum()
        self.topics = (random.standard_normal((TOPICS, LATENT)) * self.spread).astype(np.float32)
        self.width = np.exp(0.3 * random.standard_normal(TOPICS)).astype(np.float32)
        self.centre = self._map(self.topics).mean(0)

    def shift(self, seed: int) -> None:
        """Other topics from now on, all moved the same way."""
        random = np.random.default_rng([seed, 3])
        moved = MOVED * random.choice((-1.0, 1.0), LATENT)
        self.topics = ((random.standard_normal((TOPICS, LATENT)) + moved) * self.spread).astype(np.float32)

    def draw(self, count: int, random: np.random.Generator) -> Floats:
        """Unit vectors [count, dim]."""
        topic = random.choice(TOPICS, count, p=self.weight)
        around = random.standard_normal((count, LATENT)).astype(np.float32) * self.spread * np.float32(0.5)
        y = self._map(self.topics[topic] + around * self.width[topic][:, None]) - self.centre
        noise = random.standard_normal(y.shape).astype(np.float32)
        level = np.exp(np.float32(0.7) * random.standard_normal((count, 1)).astype(np.float32))
        y = y + noise * (np.float32(0.2) * level)
        return np.asarray(y / np.linalg.norm(y, axis=1, keepdims=True), np.float32)

    def _map(self, latent: Floats) -> Floats:
        return np.asarray(np.tanh(latent @ self.inner + self.bias) @ self.outer, np.float32)


def made(count: int, dim: int = 128, seed: int = SEED) -> Floats:
    """The first `count` made vectors."""
    return _chunks(Mixture(dim, seed), count, [seed, 1])


def made_queries(dim: int = 128, seed: int = SEED) -> Floats:
    """Queries from the same distribution."""
    return Mixture(dim, seed).draw(QUERIES, np.random.default_rng([seed, 2]))


def shifted(count: int, dim: int = 128, seed: int = SEED) -> tuple[Floats, Floats]:
    """Vectors from other topics, and queries among them."""
    mixture = Mixture(dim, seed)
    mixture.shift(seed)
    return _chunks(mixture, count, [seed, 4]), mixture.draw(QUERIES, np.random.default_rng([seed, 5]))


def _chunks(mixture: Mixture, count: int, seed: list[int]) -> Floats:
    parts = []
    for at in range(0, count, CHUNK):
        # A chunk is drawn whole: the first rows must not depend on how many are wanted.
        parts.append(mixture.draw(CHUNK, np.random.default_rng([*seed, at]))[: count - at])
    return np.concatenate(parts)


def _normal(random: np.random.Generator, rows: int, columns: int, over: int) -> Floats:
    return (random.standard_normal((rows, columns)) / np.sqrt(over)).astype(np.float32)


def exact(queries: Floats, rows: Floats, k: int = K) -> NDArray[np.int64]:
    """The k nearest rows [q, k] of unit queries among unit rows."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for at in range(0, len(rows), 20_000):
        product = queries @ np.asarray(rows[at : at + 20_000]).T
        top = np.argpartition(-product, min(k, product.shape[1]) - 1, axis=1)[:, :k]
        both = np.concatenate([best, np.take_along_axis(product, top, 1)], axis=1)
        number = np.concatenate([found, top + at], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        best, found = np.take_along_axis(both, order, 1), np.take_along_axis(number, order, 1)
    return found


def described_packages() -> list[str]:
    """Short descriptions, 25 characters or more, of the packages that the system's package manager knows."""
    if shutil.which("apt-cache") is None:
        raise FileNotFoundError("real vectors are made from Debian's package descriptions: apt-cache is not installed")
    listing = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout.decode(
        errors="replace"
    )
    lines = (line.removeprefix("Description: ") for line in listing.split("\n") if line.startswith("Description: "))
    return sorted({line for line in lines if len(line) >= 25})


def real() -> tuple[Floats, Floats]:
    """50,000 embeddings [n, 384] by the bundled embedder, and of other texts queries.

    Raises:
        FileNotFoundError: too few descriptions on this machine.
    """
    from memspan.models import load_embedder

    texts = described_packages()
    if len(texts) < REAL + QUERIES:
        raise FileNotFoundError(f"{len(texts):,} package descriptions; run apt-get update to have more")
    order = np.random.default_rng(SEED).permutation(len(texts))[: REAL + QUERIES]
    say(f"embedding {len(order):,} package descriptions")
    vectors = load_embedder("bundled").embed([texts[i] for i in order], progress=True)
    vectors = np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
    return vectors[:REAL], vectors[REAL:]


class Data:
    """One set on disk, made when it is not there: raw rows, queries, exact answers, and the shifted rows.

    Attributes:
        rows: rows.f32, [n, dim] float32 without a header, so that rows lie at multiples of their size.
        extra: extra.f32, as many as a fifth of the rows; only for made vectors.
    """

    def __init__(self, size: str, cache: Path) -> None:
        self.name = size
        self.folder = cache / size
        self.count = REAL if size == "real" else {"50k": 50_000, "200k": 200_000, "1m": 1_000_000}[size]
        self.dim = 384 if size == "real" else 128
        self.folder.mkdir(parents=True, exist_ok=True)
        if size == "real":
            self._arrays(("rows.f32", "queries.npy"), real)
        else:
            self._arrays(("rows.f32", "queries.npy"), lambda: (made(self.count), made_queries()))
            self._arrays(("extra.f32", "extra-queries.npy"), lambda: shifted(self.count // 5))
        self._arrays(("truth.npy",), lambda: (exact(self.queries, self.base),))
        if self.has_extra:
            self._arrays(("grown-truth.npy",), lambda: (self._grown(),))

    @property
    def has_extra(self) -> bool:
        """There are shifted vectors to add."""
        return self.name != "real"

    @property
    def base(self) -> Floats:
        """Mapped rows [n, dim]."""
        return mapped(self.folder / "rows.f32", self.dim)

    @property
    def queries(self) -> Floats:
        """[1000, dim]."""
        return np.asarray(np.load(self.folder / "queries.npy"), np.float32)

    def _grown(self) -> NDArray[np.int64]:
        """Exact answers of both kinds of queries [2000, k] over the rows and the extra ones behind them."""
        both = np.concatenate([self.queries, np.load(self.folder / "extra-queries.npy")])
        whole = np.concatenate([self.base, mapped(self.folder / "extra.f32", self.dim)])
        return exact(both, whole)

    def _arrays(self, names: tuple[str, ...], make: Callable[[], tuple[NDArray[np.generic], ...]]) -> None:
        if all((self.folder / name).exists() for name in names):
            return
        say(f"making {', '.join(names)} of {self.name}")
        for name, array in zip(names, make(), strict=True):
            part = self.folder / f"{name}.part"
            with part.open("wb") as out:
                if name.endswith(".f32"):
                    array.tofile(out)
                else:
                    np.save(out, array)
            part.rename(self.folder / name)


def mapped(path: Path, dim: int) -> Floats:
    """A file of float32 rows, mapped for reading."""
    return np.memmap(path, np.float32, "r").reshape(-1, dim)
