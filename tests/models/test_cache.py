"""The vector cache: hits, bounds, several processes, and vectors that are gone when they are forgotten."""

import hashlib
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from memspan.core.errors import InputError, StoreBusyError, StoreError
from memspan.core.footprint import Footprint
from memspan.models import Embedder
from memspan.models.cache import CachedEmbedder


class Counting:
    """An embedder of the test's own: vectors from a hash of the text, and a record of what was asked."""

    name, dim, max_tokens = "counting", 32, None

    def __init__(self, fingerprint="one"):
        self.fingerprint, self.asked = fingerprint, []

    def embed(self, texts, *, progress=False):
        self.asked.extend(texts)
        rows = np.empty((len(texts), self.dim), dtype=np.float32)
        for i, text in enumerate(texts):
            seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
            rows[i] = np.random.default_rng(seed).standard_normal(self.dim)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if len(texts) else rows

    def footprint(self):
        return Footprint.of("weights", "ram", 100)


@pytest.fixture
def inner():
    return Counting()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "vectors.db"


def test_each_text_is_embedded_once(inner, path):
    with CachedEmbedder(inner, path) as cached:
        assert isinstance(cached, Embedder) and cached.fingerprint == "one"
        first = cached.embed(["a", "b", "a", "\ud83d"])
        assert inner.asked == ["a", "b", "\ud83d"]
        assert np.array_equal(first[0], first[2])
        np.testing.assert_allclose(first, inner.embed(["a", "b", "a", "\ud83d"]), atol=1e-3)
        inner.asked.clear()
        assert np.array_equal(cached.embed(["b", "a"]), first[[1, 0]])
        assert cached.embed([]).shape == (0, 32)
    with CachedEmbedder(inner, path) as again:
        assert np.array_equal(again.embed(["a"])[0], first[0])
    assert inner.asked == []


def test_rows_are_unit_vectors_and_the_callers_own(inner, path):
    with CachedEmbedder(inner, path) as cached:
        vector = cached.embed(["a"])
        np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-6)
        before = vector.copy()
        vector[:] = 0
        assert np.array_equal(cached.embed(["a"]), before)


def test_float32_is_exact(inner, path):
    with CachedEmbedder(inner, path, dtype="float32") as cached:
        cached.embed(["a", "b"])
        np.testing.assert_allclose(cached.embed(["a", "b"]), Counting().embed(["a", "b"]), atol=1e-7)


def test_another_model_finds_nothing(inner, path):
    other = Counting("two")
    with CachedEmbedder(inner, path) as cached, CachedEmbedder(other, path) as second:
        cached.embed(["a"])
        second.embed(["a"])
    assert other.asked == ["a"]


def test_size_is_bounded_and_the_oldest_go(inner, path):
    with CachedEmbedder(inner, path, max_bytes=10 * (32 * 2 + 64)) as cached:
        for i in range(25):
            cached.embed([f"t{i}", f"u{i}"])
            assert len(cached) <= 10
        inner.asked.clear()
        cached.embed(["t24", "u24", "t0"])
        assert inner.asked == ["t0"]


def test_forgotten_vectors_are_gone_from_the_files(inner, path):
    texts = [f"text {i}" for i in range(200)]
    with CachedEmbedder(inner, path) as cached:
        cached.embed(texts)
        cached.embed(["text 7"])  # kept in memory, too
        blob = inner.embed(["text 7"]).astype("<f2").tobytes()
        kept = inner.embed(["text 8"]).astype("<f2").tobytes()
        cached._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert blob in path.read_bytes()
        inner.asked.clear()
        assert cached.forget(["text 7", "text 7", "unknown"]) == 1
        on_disk = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert blob not in on_disk and kept in on_disk
        cached.embed(["text 7", "text 8"])
        assert inner.asked == ["text 7"]


def test_forget_says_when_a_reader_keeps_the_old_bytes(inner, path):
    with CachedEmbedder(inner, path, timeout=0.05) as cached:
        cached.embed(["a", "b"])
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM vector").fetchone()
        with pytest.raises(StoreBusyError, match="not yet wiped"):
            cached.forget(["a"])
        reader.execute("COMMIT")
        reader.close()
        assert cached.forget(["a"]) == 0


def test_a_second_writer_is_told(inner, path):
    with CachedEmbedder(inner, path, timeout=0.05) as cached:
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            cached.embed(["a"])
        writer.execute("ROLLBACK")
        writer.close()
        assert cached.embed(["a"]).shape == (1, 32)


def test_processes_share_one_file(path):
    code = (
        "import sys; from tests.models.test_cache import *\n"
        "cached = CachedEmbedder(Counting(), sys.argv[1])\n"
        "for i in range(40): cached.embed([f'{i % 20}', f'{sys.argv[2]}-{i}'])\n"
        "cached.close()"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    with CachedEmbedder(Counting(), path) as cached:
        assert len(cached) == 20 + 3 * 40
        assert cached._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_damage_is_healed_or_named(inner, path, tmp_path):
    with CachedEmbedder(inner, path) as cached:
        good = cached.embed(["a", "b"])
        cached._db.execute("UPDATE vector SET data = x'00'")
        assert np.array_equal(cached.embed(["a", "b"]), good)
    (tmp_path / "text.db").write_text("this is no database " * 100)
    with pytest.raises(StoreError, match=r"text\.db"):
        CachedEmbedder(inner, tmp_path / "text.db")
    with pytest.raises(StoreError):
        CachedEmbedder(inner, tmp_path)


def test_bad_options(inner, path):
    for options in ({"dtype": "int8"}, {"max_bytes": 0}, {"memory_items": -1}):
        with pytest.raises(InputError):
            CachedEmbedder(inner, path, **options)
    with CachedEmbedder(inner, path) as cached, pytest.raises(InputError):
        cached.embed("text")


def test_footprint_counts_the_file(inner, path):
    with CachedEmbedder(inner, path) as cached:
        cached.embed(["a"])
        by_place = cached.footprint().by_place
        assert by_place["disk"] >= path.stat().st_size > 0
        assert by_place["ram"] == 100 + 32 * 4
