"""`CachedEmbedder`: vectors kept by content in an SQLite file, so that no text is embedded twice.

The key is a keyed hash of the text under the embedder's fingerprint: another model finds nothing, and the file holds
no text. A vector can still give away what its text was about, so `forget` removes it from the file's bytes as well.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError, StoreBusyError, StoreError
from memspan.core.footprint import Footprint
from memspan.models.base import Embedder, Vectors, checked_texts

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vector (
    key BLOB PRIMARY KEY,      -- SHA-256 of fingerprint and text
    data BLOB NOT NULL,        -- little-endian floats
    added INTEGER NOT NULL     -- a counter; the smallest goes first when the file is full
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS vector_added ON vector (added);
"""
_PER_QUERY = 500  # below SQLite's limit on bound parameters


class CachedEmbedder:
    """An embedder in front of which stands a cache. Safe to share between threads and between processes.

    Args:
        embedder: computes what the cache does not hold.
        path: the SQLite file; made when absent.
        max_bytes: bound of the vectors' bytes in the file; the oldest go first.
        dtype: "float16" (half the bytes, cosine changes by less than 1e-6) or "float32".
        memory_items: single texts, such as questions, kept in memory as well.
        timeout: seconds to wait for another process that is writing.

    Raises:
        StoreError: the file cannot be opened or is no database.
    """

    def __init__(
        self,
        embedder: Embedder,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 1 << 30,
        dtype: str = "float16",
        memory_items: int = 1024,
        timeout: float = 30.0,
    ) -> None:
        if dtype not in ("float16", "float32"):
            raise InputError(f"dtype '{dtype}' is neither float16 nor float32")
        if max_bytes < 1 or memory_items < 0:
            raise InputError("max_bytes must be at least 1, and memory_items at least 0")
        self.embedder = embedder
        self.path = Path(path).expanduser()
        self.max_items = max(1, max_bytes // (embedder.dim * np.dtype(dtype).itemsize + 64))
        self._dtype = np.dtype(f"<{np.dtype(dtype).str[1:]}")
        self._memory: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._memory_items = memory_items
        self._lock = threading.RLock()
        self._salt = f"{embedder.fingerprint}\0{dtype}\0".encode()
        self._reads_questions_apart = getattr(embedder, "query_prompt", "") != getattr(embedder, "prompt", "")
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Python's transactions are switched off: each one is opened by hand, in `_transaction`.
            self._db = sqlite3.connect(self.path, timeout=timeout, isolation_level=None, check_same_thread=False)
            self._use_wal(timeout)
            self._db.execute("PRAGMA synchronous = NORMAL")  # after a power cut the last vectors are computed again
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.executescript(_SCHEMA)

    @property
    def name(self) -> str:
        """The embedder's name."""
        return self.embedder.name

    @property
    def fingerprint(self) -> str:
        """The embedder's fingerprint: a cached vector is the same vector."""
        return self.embedder.fingerprint

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.embedder.dim

    @property
    def max_tokens(self) -> int | None:
        """Tokens read of each text."""
        return self.embedder.max_tokens

    def __len__(self) -> int:
        """Vectors in the file, those of other embedders included."""
        with self._lock, self._errors():
            return int(self._db.execute("SELECT count(*) FROM vector").fetchone()[0])

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Vectors:
        """As the embedder's `embed`; texts it has seen, and repetitions, cost a look-up."""
        return self._kept(checked_texts(texts), lambda missing: self.embedder.embed(missing, progress=progress))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """As the embedder's `embed_queries`; where it reads questions like other texts, they share their vectors."""
        if not self._reads_questions_apart:
            return self.embed(texts)
        ask: Callable[[Sequence[str]], Vectors] = self.embedder.embed_queries  # type: ignore[attr-defined]
        return self._kept(checked_texts(texts), ask, question=True)

    def _kept(
        self, checked: list[str], embed: Callable[[Sequence[str]], Vectors], *, question: bool = False
    ) -> Vectors:
        keys = [self._key(text, question=question) for text in checked]
        if len(keys) == 1 and (hit := self._remembered(keys[0])) is not None:
            return hit[None].copy()
        known = self._read(keys)
        missing = {key: text for key, text in zip(keys, checked, strict=True) if key not in known}
        if missing:
            fresh = embed(list(missing.values()))
            # As the file will give them back, so that the first call and the second agree to the bit.
            stored = dict(zip(missing, fresh.astype(self._dtype), strict=True))
            self._write(stored)
            known.update({key: _unit(row) for key, row in stored.items()})
        if len(keys) == 1:
            self._remember(keys[0], known[keys[0]])
        vectors = np.empty((len(keys), self.dim), dtype=np.float32)
        for row, key in enumerate(keys):
            vectors[row] = known[key]
        return vectors

    def forget(self, texts: Iterable[str]) -> int:
        """Remove these texts' vectors from memory and from the file's bytes; how many there were.

        Raises:
            StoreBusyError: another process kept reading or writing, so the old bytes may still stand in the
                write-ahead log; call it again.
        """
        sides = (False, True) if self._reads_questions_apart else (False,)
        keys = list({self._key(text, question=side) for text in checked_texts(list(texts)) for side in sides})
        removed = 0
        with self._lock, self._errors():
            for key in keys:
                self._memory.pop(key, None)
            with self._transaction():
                for part in _parts(keys):
                    marks = ",".join("?" * len(part))
                    removed += self._db.execute(f"DELETE FROM vector WHERE key IN ({marks})", part).rowcount
            # secure_delete wipes the page; the old page's copy in the log goes with the log.
            if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise StoreBusyError(f"{self.path} is in use: the vectors are forgotten, but not yet wiped; try again")
        return removed

    def close(self) -> None:
        """Close the file. Calling it twice does nothing."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> CachedEmbedder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def footprint(self) -> Footprint:
        """The embedder's bytes, the file's and the in-memory vectors'."""
        files = [Path(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm")]
        disk = sum(file.stat().st_size for file in files if file.is_file())
        ram = len(self._memory) * self.dim * 4
        return self.embedder.footprint() + Footprint({("store", "disk"): disk, ("store", "ram"): ram})

    def _key(self, text: str, *, question: bool = False) -> bytes:
        salt = self._salt + (b"question\0" if question else b"")
        return hashlib.sha256(salt + text.encode("utf-8", "surrogatepass")).digest()

    def _remembered(self, key: bytes) -> NDArray[np.float32] | None:
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
        return None

    def _remember(self, key: bytes, vector: NDArray[np.float32]) -> None:
        with self._lock:
            self._memory[key] = vector
            while len(self._memory) > self._memory_items:
                self._memory.popitem(last=False)

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        known = {}
        with self._lock, self._errors():
            for part in _parts(list(dict.fromkeys(keys))):
                marks = ",".join("?" * len(part))
                for key, data in self._db.execute(f"SELECT key, data FROM vector WHERE key IN ({marks})", part):
                    if len(data) == self.dim * self._dtype.itemsize:  # anything else is damage, and computed anew
                        known[key] = _unit(np.frombuffer(data, dtype=self._dtype))
        return known

    def _write(self, vectors: dict[bytes, NDArray[np.float32]]) -> None:
        with self._lock, self._errors(), self._transaction():
            last = self._db.execute("SELECT coalesce(max(added), 0) FROM vector").fetchone()[0]
            rows = [(key, vector.tobytes(), last + i) for i, (key, vector) in enumerate(vectors.items(), 1)]
            self._db.executemany("INSERT OR REPLACE INTO vector VALUES (?, ?, ?)", rows)
            # The counter bounds the number of rows without counting them.
            self._db.execute("DELETE FROM vector WHERE added <= ?", (last + len(rows) - self.max_items,))

    def _use_wal(self, timeout: float) -> None:
        """Switch the file to a write-ahead log: SQLite does not wait for others with this, as with all else it does."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")  # the lock at once: a reader that becomes a writer could fail midway
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise StoreBusyError(f"the vector cache {self.path} is being written by another process") from error
            raise StoreError(f"the vector cache {self.path} cannot be used: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the vector cache {self.path} cannot be used: {error}") from error


def _unit(row: NDArray[np.floating]) -> NDArray[np.float32]:
    """As float32 and of length 1 again: rounding to float16 changes the length by up to 1e-4."""
    vector = row.astype(np.float32)
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector


def _parts(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), _PER_QUERY):
        yield keys[start : start + _PER_QUERY]
