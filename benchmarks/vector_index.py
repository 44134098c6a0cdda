"""memspan's vector index beside faiss, hnswlib, usearch and lancedb on the same vectors, each in its own process.

    python benchmarks/vector_index.py --size 200k [--only memspan,hnswlib] [--env-dir DIR] [--cache DIR] [--json]

`--size` is 50k, 200k or 1m made vectors of 128 dimensions, or real: 50,000 embeddings of Debian's package
descriptions, 384 dimensions. Vectors, exact answers and the peers' indexes are kept in --cache and used again;
memspan's index is built anew unless `--reuse` says otherwise. An index is built and queried with one thread (the column
"2 threads" apart).

Every peer's effort is swept, and its speed at a recall is read off the best points between which that recall lies.
memspan is asked for recalls, and measured by what it finds. Warm: all files in the page cache. Cold: every query finds
none of the index's files there; memspan and faiss with re-ranking read past it. Times are taken under the real-time
scheduler where the system allows that, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, say
from products import Product, ProductError, environment
from vector_data import Data
from vector_limits import disk, file_of_noise, stream
from vector_tables import show
from vectors.indexes import KINDS

from memspan.core.errors import InputError, MemspanError

LEVELS = (0.90, 0.95, 0.98, 0.99)
WORKER = Path(__file__).resolve().parent / "vectors" / "worker.py"
PEERS = Product(
    "vector indexes",
    "vector-indexes",
    (("numpy==2.4.6", "faiss-cpu==1.15.1", "hnswlib==0.8.0", "usearch==2.26.6", "lancedb==0.40.0"),),
)
BATCH = 1000  # rows of one call of `add`
NOISE = 4 << 30  # bytes of the file for the disk's limits, of which a cache should hold little


def run(kind: str, python: Path, data: Data, folder: Path, task: str, threads: int = 1, **rest: Any) -> dict[str, Any]:
    """One task of one index in a fresh process.

    Raises:
        ProductError: it failed.
    """
    count = str(threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict.fromkeys(
        names, count
    )
    if KINDS[kind].name == "memspan":
        variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    asked = {
        "task": task, "kind": kind, "data": str(data.folder), "folder": str(folder), "dim": data.dim,
        "threads": threads, **rest,
    }  # fmt: skip
    command = [str(python), "-P", str(WORKER), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise ProductError(f"{task}: {lines[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def front(points: Sequence[dict[str, Any]], key: str = "us") -> list[dict[str, Any]]:
    """The points that no other beats in both recall and cost, by recall."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: (-p["recall"], p[key])):
        if not best or point[key] < best[-1][key]:
            best.append(point)
    return best[::-1]


def at_level(points: Sequence[dict[str, Any]], level: float, key: str = "us") -> float | None:
    """The value at a recall, between the two best points around it; None where none reaches it."""
    best = front(points)
    after = next((i for i, point in enumerate(best) if point["recall"] >= level), None)
    if after is None:
        return None
    b = best[after]
    if after == 0:
        return float(b[key])
    a = best[after - 1]
    share = (level - a["recall"]) / (b["recall"] - a["recall"])
    return float(np.exp((1 - share) * np.log(a[key]) + share * np.log(b[key])))


def setting_for(kind: str, points: Sequence[dict[str, Any]], level: float) -> Any:
    """The setting that reaches a recall most cheaply from disk; None where none does."""
    cost = KINDS[kind].cold_cost
    best = [point for point in points if point["recall"] >= level]
    if kind == "memspan" and best:
        by_asked = sorted(points, key=lambda point: point["setting"])
        recalls = np.maximum.accumulate([point["recall"] for point in by_asked])
        return float(np.interp(level, recalls, [point["setting"] for point in by_asked]))
    return min(best, key=lambda point: cost(point["setting"], point["us"]))["setting"] if best else None


def measure(kind: str, python: Path, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one index.

    Raises:
        ProductError: it failed.
    """
    folder = data.folder / "indexes" / kind
    kept = folder.with_suffix(".json")
    again = options.rebuild or (kind == "memspan" and not options.reuse) or not kept.exists()
    if again:
        say("  building")
        shutil.rmtree(folder, ignore_errors=True)
        kept.unlink(missing_ok=True)
        folder.parent.mkdir(exist_ok=True)
        built = run(kind, python, data, folder, "build", **({"config": options.config} if kind == "memspan" else {}))
        kept.write_text(json.dumps(built))
    result: dict[str, Any] = {"name": KINDS[kind].name, "kind": kind, "build": json.loads(kept.read_text())}
    say("  warm, 1 thread")
    served = run(kind, python, data, folder, "serve", memory=True)
    points = served["points"]
    result |= {"serve": served, "levels": {}}
    say("  warm, 2 threads")
    near = [point["setting"] for point in _around(front(points))]
    two = run(kind, python, data, folder, "serve", threads=2, settings=near)["points"]
    for level in LEVELS:
        one_us, two_us = at_level(points, level), at_level(two, level)
        result["levels"][str(level)] = {
            "qps_1": 1e6 / one_us if one_us else None,
            "qps_2": 1e6 / two_us if two_us else None,
            **{name: at_level(points, level, name) for name in ("lists", "bytes", "reads") if name in points[0]},
        }
    result["two_threads"] = two
    if KINDS[kind].on_disk:
        say("  cold")
        levels = [(level, setting_for(kind, points, level)) for level in LEVELS]
        asked = [pair for pair in levels if pair[1] is not None]
        result["cold"] = _or_void(kind, python, data, folder, "cold", levels=asked, queries=150, seconds=10)
    if KINDS[kind].grows and data.has_extra and not options.no_add:
        say("  adding")
        setting = setting_for(kind, points, 0.95)
        with tempfile.TemporaryDirectory(dir=data.folder) as scratch:
            copy, raw = Path(scratch, "index"), Path(scratch, "rows.f32")
            shutil.copytree(folder, copy)
            if KINDS[kind].raw:
                shutil.copy(data.folder / "rows.f32", raw)
            result["add"] = _or_void(kind, python, data, copy, "add", setting=setting, batch=BATCH, raw=str(raw))
    return result


def _or_void(kind: str, python: Path, data: Data, folder: Path, task: str, **rest: Any) -> dict[str, Any]:
    """A task without which the other results stand."""
    try:
        return run(kind, python, data, folder, task, **rest)
    except ProductError as error:
        say(f"  {error}")
        return {"void": str(error)}


def _around(best: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points on both sides of every level."""
    wanted: dict[int, dict[str, Any]] = {}
    for level in LEVELS:
        after = next((i for i, point in enumerate(best) if point["recall"] >= level), len(best) - 1)
        wanted |= {i: best[i] for i in (max(after - 1, 0), after)}
    return [wanted[i] for i in sorted(wanted)]


def limits(cache: Path, size: int) -> dict[str, Any]:
    """The machine's limits, measured in the same run."""
    noise = file_of_noise(cache / "noise.bin", size)
    return {"disk": disk(noise), "stream_bytes_per_second": stream()}


def benchmark(options: argparse.Namespace) -> int:
    """Measures every index and prints the tables."""
    kinds = options.only.split(",") if options.only else list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"{unknown[0]!r} is none of {', '.join(KINDS)}")
    cache = options.cache.expanduser().resolve()
    data = Data(options.size, cache)
    report: dict[str, Any] = {
        "size": options.size, "rows": data.count, "dim": data.dim, "machine": machine(), "results": [],
    }  # fmt: skip
    say("the machine's limits")
    report["limits"] = limits(cache, options.noise << 20)
    python = None
    for kind in kinds:
        say(KINDS[kind].name)
        try:
            if kind != "memspan" and python is None:
                python = options.python or environment(PEERS, options.env_dir.expanduser().resolve(), 10.0)
            chosen = Path(sys.executable) if kind == "memspan" else python
            assert chosen is not None
            report["results"].append(measure(kind, chosen, data, options))
        except ProductError as error:
            say(f"  skipped: {error}")
            report["results"].append({"name": KINDS[kind].name, "kind": kind, "error": str(error)})
        if options.out:
            options.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1) if options.json else show(report))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("50k", "200k", "1m", "real"), default="50k")
    parser.add_argument("--only", help=f"comma-separated: {', '.join(KINDS)}")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/memspan/vector-index"), help="vectors and indexes")
    parser.add_argument("--env-dir", type=Path, default=Path("~/.cache/memspan/peers"), help="the peers' environment")
    parser.add_argument("--python", type=Path, help="an interpreter that has the peers, in place of an environment")
    parser.add_argument("--config", type=json.loads, default={}, help="SpannConfig's fields as JSON")
    parser.add_argument("--rebuild", action="store_true", help="build the peers' indexes again too")
    parser.add_argument("--reuse", action="store_true", help="memspan's index as it was built before")
    parser.add_argument("--no-add", action="store_true", help="leave out adding vectors")
    parser.add_argument("--noise", type=int, default=NOISE >> 20, help="MiB of the file for the disk's limits")
    parser.add_argument("--out", type=Path, help="a file for what --json prints, written after every index")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        return benchmark(options)
    except (FileNotFoundError, MemspanError) as error:
        say(f"error: {error}")
        return getattr(error, "exit_code", 2)


if __name__ == "__main__":
    sys.exit(main())
