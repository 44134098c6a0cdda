"""The vector indexes under measurement behind one interface: build, open, search with a setting, add.

Each class imports its package when it is used, so that one environment need not hold them all. Rows are unit vectors,
so that Euclidean distance, which every index is given, ranks them as the cosine does. Parameters of the peers: 2,048
lists for a million rows and a square root's share for fewer, trained on 131,072 rows in 8 iterations; graphs of 16
links, built with a beam of 100.
"""

from __future__ import annotations

import inspect
import mmap
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

TRAINED = 131_072
PIECE = 50_000  # rows handed over at a time when an index is filled
BLOCK = 4096  # bytes, to which reads past the page cache are aligned
READERS = 16


def partitions(count: int) -> int:
    """A power of two near twice the root of the rows: 2,048 for a million."""
    return int(2 ** round(np.log2(2 * count**0.5)))


def pieces(rows: Any) -> Any:
    """(start, rows) of the rows, piece by piece."""
    for at in range(0, len(rows), PIECE):
        yield at, np.ascontiguousarray(rows[at : at + PIECE])


class Index:
    """What a worker asks of an index.

    Attributes:
        grows: it takes more rows after it is built.
        single: queries go in one a call.
        settings: efforts to sweep, from little to much.
        on_disk: what it can serve from files that are not in the page cache.
    """

    name = ""
    packages: tuple[str, ...] = ()
    grows = False
    single = False
    settings: Sequence[Any] = ()
    on_disk = True
    raw = False  # it needs the file of raw rows beside its own

    def __init__(self, folder: Path, raw_file: Path, dim: int, threads: int) -> None:
        self.folder, self.raw_file, self.dim, self.threads = folder, raw_file, dim, threads

    @staticmethod
    def cold_cost(setting: Any, us: float) -> float:
        """What a setting costs from disk, to choose among those of enough recall; `us` is its warm time."""
        return us

    def build(self, rows: Any) -> None:
        """Makes the index's files from mapped rows [n, dim]."""
        raise NotImplementedError

    def open(self, cold: bool = False) -> None:
        """Opens them; `cold`: for reading from disk what is not in memory."""
        raise NotImplementedError

    def search(self, queries: Any, k: int, setting: Any) -> Any:
        """Ids [q, k]."""
        raise NotImplementedError

    def add(self, ids: Any, rows: Any) -> None:
        """Adds rows."""
        raise NotImplementedError

    def work(self) -> dict[str, float]:
        """Lists, bytes and reads of the last search, where the index tells."""
        return {}


class Memspan(Index):
    """memspan's own."""

    name = "memspan"
    packages = ("memspan", "numpy")
    grows = True
    settings = (0.8, 0.85, 0.88, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.993, 0.996)
    config: Mapping[str, Any] = MappingProxyType({})

    def build(self, rows: Any) -> None:
        """A tenth of the vectors as budget."""
        from memspan.longterm.spann import SpannConfig, VectorIndex

        VectorIndex.build(rows, self.folder, metric="l2", progress=False, config=SpannConfig(**self.config)).close()

    def open(self, cold: bool = False) -> None:
        """With reads past the page cache when cold."""
        from memspan.longterm.spann import VectorIndex

        direct = {"direct": True} if cold and "direct" in inspect.signature(VectorIndex.open).parameters else {}
        self.direct = bool(direct)
        self.index = VectorIndex.open(self.folder, **direct)

    def search(self, queries: Any, k: int, setting: Any) -> Any:
        """The setting is the recall that is asked for."""
        hits = self.index.search(queries, k, recall=setting, threads=self.threads)
        self._stats = hits.stats
        return hits.ids

    def work(self) -> dict[str, float]:
        """From the search's own count."""
        s = self._stats
        return {"lists": s.lists / s.queries, "bytes": s.bytes / s.queries, "reads": s.reads / s.queries}

    def add(self, ids: Any, rows: Any) -> None:
        """In batches, durable when it returns."""
        self.index.add(ids, rows)

    @property
    def can_add(self) -> bool:
        """This version has `add`."""
        return hasattr(self.index, "add")


class Faiss(Index):
    """What both kinds of faiss index share."""

    packages = ("faiss-cpu", "numpy")
    file = "index.faiss"

    def _coarse(self, rows: Any) -> Any:
        import faiss

        count = partitions(len(rows))
        quantizer = faiss.IndexFlatL2(self.dim)
        return faiss, count, quantizer

    def _fill(self, faiss: Any, index: Any, rows: Any) -> None:
        index.cp.niter = 8
        index.cp.seed = 0
        picked = np.sort(np.random.default_rng(0).choice(len(rows), min(TRAINED, len(rows)), replace=False))
        index.train(np.ascontiguousarray(rows[picked]))
        for _, piece in pieces(rows):
            index.add(piece)
        faiss.write_index(index, str(self.folder / self.file))

    def open(self, cold: bool = False) -> None:
        """In memory; mapped when cold."""
        import faiss

        faiss.omp_set_num_threads(self.threads)
        self.faiss = faiss
        self.index = faiss.read_index(str(self.folder / self.file), faiss.IO_FLAG_MMAP if cold else 0)

    def add(self, ids: Any, rows: Any) -> None:
        """Behind the rows that are there."""
        self.index.add(rows)


class IvfFlat(Faiss):
    """faiss IndexIVFFlat."""

    name = "faiss IVF-Flat"
    grows = True
    settings = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

    def build(self, rows: Any) -> None:
        """Trains and fills."""
        faiss, count, quantizer = self._coarse(rows)
        self._fill(faiss, faiss.IndexIVFFlat(quantizer, self.dim, count), rows)

    def search(self, queries: Any, k: int, setting: Any) -> Any:
        """The setting is nprobe."""
        self.index.nprobe = setting
        return self.index.search(queries, k)[1]


class FastScan(Faiss):
    """faiss IndexIVFPQFastScan of 4 bits for every two dimensions, its best re-ranked by the mapped raw rows.

    Cold, the rows are read past the page cache by 16 threads; the codes stay in memory, as they always do.
    """

    name = "faiss IVF-PQ-FastScan, re-ranked"
    raw = True
    grows = True
    settings = tuple(
        (probes, rows)
        for probes in (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
        for rows in (30, 50, 100, 200, 400)
        if rows <= 4 * probes + 60
    )

    @staticmethod
    def cold_cost(setting: Any, us: float) -> float:
        """Reads of rows above all."""
        return float(setting[1]) * 1000 + us

    def build(self, rows: Any) -> None:
        """Trains and fills."""
        faiss, count, quantizer = self._coarse(rows)
        self._fill(faiss, faiss.IndexIVFPQFastScan(quantizer, self.dim, count, self.dim // 2, 4), rows)

    def open(self, cold: bool = False) -> None:
        """The codes into memory, the raw rows mapped in faiss's own format, or opened for direct reads."""
        super().open(False)
        self.cold, self.growing = cold, False
        if cold:
            self.fd = os.open(self.raw_file, os.O_RDONLY | os.O_DIRECT)
            self.pool = ThreadPoolExecutor(READERS)
            straddles = BLOCK % (self.dim * 4) != 0
            self.buffers = [
                mmap.mmap(-1, 4 * self.dim // BLOCK * BLOCK + BLOCK * (1 + straddles)) for _ in range(READERS)
            ]
        else:
            self._refine(self.faiss.read_index(str(self._mappable()), self.faiss.IO_FLAG_MMAP_IFC))

    def _refine(self, flat: Any) -> None:
        self.flat = flat
        self.whole = self.faiss.IndexRefine(self.index, flat)

    def _mappable(self) -> Path:
        """The raw rows as faiss maps them: not counted as the index's own."""
        path = self.raw_file.parent / "raw" / "rows.faiss"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            flat = self.faiss.IndexFlatL2(self.dim)
            flat.add(np.fromfile(self.raw_file, np.float32).reshape(-1, self.dim))
            self.faiss.write_index(flat, str(path))
        return path

    def search(self, queries: Any, k: int, setting: Any) -> Any:
        """The setting is (nprobe, rows re-ranked)."""
        self.index.nprobe, wanted = setting
        if not self.cold:
            self.whole.k_factor = wanted / k
            return self.whole.search(queries, k)[1]
        found = self.index.search(queries, wanted)[1]
        return np.stack([self._rank(q, f[f >= 0], k) for q, f in zip(queries, found, strict=True)])

    def _rank(self, query: Any, ids: Any, k: int) -> Any:
        difference = self._read(ids) - query
        out = np.full(k, -1, np.int64)
        best = ids[np.einsum("nd,nd->n", difference, difference).argsort()[:k]]
        out[: len(best)] = best
        return out

    def _read(self, ids: Any) -> Any:
        out = np.empty((len(ids), self.dim), np.float32)
        width = 4 * self.dim

        def some(worker: int) -> None:
            buffer = self.buffers[worker]
            for place in range(worker, len(ids), READERS):
                at = int(ids[place]) * width
                first = at // BLOCK * BLOCK
                size = -(-(at + width - first) // BLOCK) * BLOCK
                os.preadv(self.fd, [memoryview(buffer)[:size]], first)
                out[place] = np.frombuffer(buffer, np.float32, self.dim, at - first)

        list(self.pool.map(some, range(READERS)))
        return out

    def add(self, ids: Any, rows: Any) -> None:
        """Codes and rows, both in memory."""
        if not self.growing:
            own = self.faiss.IndexFlatL2(self.dim)
            own.add(np.fromfile(self.raw_file, np.float32).reshape(-1, self.dim))
            self._refine(own)
            self.growing = True
        self.whole.add(rows)


class Hnswlib(Index):
    """hnswlib."""

    name = "hnswlib"
    packages = ("hnswlib", "numpy")
    grows = True
    on_disk = False
    settings = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    file = "index.hnsw"

    def build(self, rows: Any) -> None:
        """M 16, efConstruction 100."""
        import hnswlib

        index = hnswlib.Index("l2", self.dim)
        index.init_index(len(rows), M=16, ef_construction=100, random_seed=0)
        for at, piece in pieces(rows):
            index.add_items(piece, np.arange(at, at + len(piece)), num_threads=1)
        index.save_index(str(self.folder / self.file))

    def open(self, cold: bool = False) -> None:
        """Into memory."""
        import hnswlib

        self.index = hnswlib.Index("l2", self.dim)
        self.index.load_index(str(self.folder / self.file))

    def search(self, queries: Any, k: int, setting: Any) -> Any:
        """The setting is ef."""
        self.index.set_ef(setting)
        return self.index.knn_query(queries, k, num_threads=self.threads)[0].astype(np.int64)

    def add(self, ids: Any, rows: Any) -> None:
        """Under their ids."""
        if self.index.get_max_elements() < self.index.element_count + len(rows):
            self.index.resize_index(self.index.element_count + 5 * len(rows))
        self.index.add_items(rows, ids, num_threads=self.threads)


class Usearch(Index):
    """usearch, float32."""

    name = "usearch"
    packages = ("usearch", "numpy")
    grows = True
    settings = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    file = "index.usearch"

    def build(self, rows: Any) -> None:
        """Connectivity 16, expansion 100."""
        from usearch.index import Index as Graph

        index = Graph(ndim=self.dim, metric="l2sq", dtype="f32", connectivity=16, expansion_add=100)
        for at, piece in pieces(rows):
            index.add(np.arange(at, at + len(piece)), piece, threads=1)
        index.save(str(self.folder / self.file))

    def open(self, cold: bool = False) -> None:
        """Into memory; mapped when cold."""
        from usearch.index import Index as Graph

        self.index = Graph.restore(str(self.folder / self.file), view=cold)

    def search(self, queries: Any, k: int, setting: Any) -> Any:
        """The setting is the expansion."""
        self.index.expansion_search = setting
        keys = self.index.search(queries, k, threads=self.threads).keys
        return np.asarray(keys).astype(np.int64).reshape(len(queries), k)

    def add(self, ids: Any, rows: Any) -> None:
        """Under their ids."""
        self.index.add(ids, rows, threads=self.threads)


class LanceDb(Index):
    """lancedb, IVF_PQ of a sub-vector for every four dimensions, one query a call."""

    name = "lancedb IVF_PQ"
    packages = ("lancedb", "pyarrow", "numpy")
    grows = True
    single = True
    settings = ((5, 5), (10, 5), (10, 10), (20, 10), (30, 10), (40, 10), (60, 20), (80, 20), (120, 30))

    def build(self, rows: Any) -> None:
        """1,024 partitions for a million rows."""
        table = self._database().create_table("rows", self._arrow(np.arange(len(rows)), rows))
        table.create_index(
            metric="l2",
            num_partitions=max(64, partitions(len(rows)) // 2),
            num_sub_vectors=self.dim // 4,
            vector_column_name="vector",
        )

    def open(self, cold: bool = False) -> None:
        """The table."""
        self.table = self._database().open_table("rows")

    def search(self, queries: Any, k: int, setting: Any) -> Any:
        """The setting is (nprobes, refine factor)."""
        probes, refine = setting
        out = np.full((len(queries), k), -1, np.int64)
        for row, q in zip(out, queries, strict=True):
            wanted = self.table.search(q).select(["id"]).limit(k).nprobes(probes).refine_factor(refine)
            ids = wanted.to_arrow()["id"].to_numpy()
            row[: len(ids)] = ids
        return out

    def add(self, ids: Any, rows: Any) -> None:
        """As a new fragment, then into the index."""
        self.table.add(self._arrow(ids, rows))
        self.table.optimize()

    def _database(self) -> Any:
        import lancedb

        return lancedb.connect(str(self.folder / "lance"))

    def _arrow(self, ids: Any, rows: Any) -> Any:
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(rows).reshape(-1)), self.dim)
        return pa.table({"id": pa.array(np.asarray(ids, np.int64)), "vector": vectors})


KINDS: dict[str, type[Index]] = {
    "memspan": Memspan,
    "faiss-fastscan": FastScan,
    "faiss-ivf": IvfFlat,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "lancedb": LanceDb,
}
