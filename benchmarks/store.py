"""What the store itself costs: adding, recalling, RAM and disk, with peers beside it in the same run.

    python benchmarks/store.py [--sizes 1k,10k,100k] [--env-dir CACHE] [--json]

Texts are made by synthetic.py (Zipf's law, median 18 words). Vectors are random unit vectors from a small embedder
that is defined there, not a model's: it costs next to nothing, and its time is taken off, so what is measured is the
store. Only the part "with embedding" uses the real embedder. Beside memspan the same work goes through chromadb and
through YantrikDB, each in an environment and a process of its own, all on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, machine_line, positive, say, size, table
from products import CHROMADB, MEMSPAN, YANTRIKDB, Process, Product, ProductError, can_isolate, chosen, environment
from synthetic import episodes, questions

from memspan import Episode, Memory
from memspan.core.errors import MemspanError, MissingExtraError
from memspan.longterm.passages import embedded_text

K = 10
BATCH = 1000
WANTED_ADD = 10_000  # episodes/s without embedding
WANTED_SHARE = 0.90  # of the embedder's own throughput
WANTED_P95 = 25.0  # ms at 100,000 episodes
FULL_TEXT = "memspan, full text"


def measure(
    product: Product,
    python: Path,
    turns: list[dict[str, Any]],
    asked: list[str],
    *,
    name: str,
    embedder: str,
    seconds: float,
    isolated: bool,
) -> dict[str, Any]:
    """Add all turns in batches, then ask all questions.

    Raises:
        ProductError: it failed, or did not finish adding within `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="memspan-bench-", ignore_cleanup_errors=True) as scratch:
        store = Path(scratch, "store")
        store.mkdir()
        home = python.parent.parent / "home" if product.requirements else Path.home()
        log = Path(tempfile.gettempdir(), f"memspan-bench-{Path(product.adapter).stem}.log")
        with Process(product, python, core=None, isolated=isolated, home=home, log=log) as process:
            opened = process.ask("open", folder=str(store), embedder=embedder, packages=list(product.packages))
            process.ask("search", queries=["Is anyone there?"], k=K)
            before = process.ask("size")
            wall = cpu = 0.0
            for begin in range(0, len(turns), 10 * BATCH):
                added = process.ask("add", items=turns[begin : begin + 10 * BATCH], batch=BATCH)
                wall += added["wall"] - added["embed_wall"]
                cpu += added["cpu"] - added["embed_cpu"]
                if wall > seconds:
                    raise ProductError(f"{begin + 10 * BATCH:,} of {len(turns):,} added after {wall:.0f} s: given up")
            left = process.ask("flush")
            wall += left["wall"] - left["embed_wall"]
            cpu += left["cpu"] - left["embed_cpu"]
            first = process.ask("search", queries=asked[:1], k=K)  # builds or loads what recall keeps in RAM
            found = process.ask("search", queries=asked[1:], k=K)
            after = process.ask("size")
            closed = process.ask("close")
    if any(len(ids) < min(K, len(turns)) for ids in found["found"]) and embedder != "none":
        raise ProductError(f"a question found fewer than {K} episodes")
    if cpu <= 0 or wall <= 0:
        raise ProductError("the adds took no time that could be measured; use larger sizes")
    waits = 1000 * (np.array(found["wall"]) - np.array(found["embed_wall"]))
    busy = 1000 * (np.array(found["cpu"]) - np.array(found["embed_cpu"]))
    return {
        "name": name,
        "episodes": len(turns),
        "versions": opened["versions"],
        "add_per_second": len(turns) / wall,
        "add_cpu_us": 1e6 * cpu / len(turns),
        "first_recall_ms": 1000 * (first["wall"][0] - first["embed_wall"][0]),
        "recall_ms": {"p50": float(np.median(waits)), "p95": float(np.percentile(waits, 95))},
        "recall_cpu_ms": {"p50": float(np.median(busy)), "p95": float(np.percentile(busy, 95))},
        "ram_bytes_per_episode": (after["rss"] - before["rss"]) / len(turns),
        "disk_bytes_per_episode": closed["disk"] / len(turns),
    }


def embedding_share(count: int, rounds: int) -> dict[str, Any]:
    """`add` with the real embedder against that embedder alone on the same texts, in turn, several times.

    Raises:
        MissingExtraError: the embedder is not installed.
    """
    from memspan.models import load_embedder

    embedder = load_embedder("bundled")
    embedder.embed(["Warm up."] * 64)
    alone, through = [], []
    with tempfile.TemporaryDirectory(prefix="memspan-bench-") as scratch:
        for number in range(rounds):
            turns = episodes(count, seed=100 + number)
            batch = [Episode(text=t["text"], speaker=t["speaker"], session=t["session"], id=t["id"]) for t in turns]
            texts = [embedded_text(episode.text, episode.speaker) for episode in batch]

            def by_embedder(texts: list[str] = texts) -> float:
                started = time.perf_counter()
                embedder.embed(texts)
                return time.perf_counter() - started

            def by_memory(batch: list[Episode] = batch, number: int = number) -> float:
                with Memory.open(Path(scratch, f"{number}.db"), embedder=embedder, organizer="plain") as memory:
                    started = time.perf_counter()
                    memory.add(batch)
                    memory.embed_pending()
                    return time.perf_counter() - started

            if number % 2:  # whoever comes second finds the caches warm
                through.append(by_memory())
                alone.append(by_embedder())
            else:
                alone.append(by_embedder())
                through.append(by_memory())
            say(f"with embedding, round {number + 1}/{rounds}: {100 * alone[-1] / through[-1]:.0f} %")
    shares = [a / t for a, t in zip(alone, through, strict=True)]
    return {
        "episodes": count,
        "rounds": rounds,
        "embedder_per_second": count / float(np.median(alone)),
        "add_per_second": count / float(np.median(through)),
        "share": float(np.median(shares)),
        "shares": shares,
    }


def verdicts(report: dict[str, Any]) -> list[str]:
    """What was wanted, what was found."""
    lines = []
    for row in report["store"]:
        if "error" in row:
            continue
        if row["name"] == FULL_TEXT:
            met = "met" if row["add_per_second"] >= WANTED_ADD else "NOT MET"
            lines.append(
                f"add without embedding, {row['episodes']:,} episodes: {row['add_per_second']:,.0f}/s"
                f" (wanted {WANTED_ADD:,}): {met}"
            )
        if row["name"].startswith("memspan") and row["episodes"] >= 100_000:
            met = "met" if row["recall_ms"]["p95"] <= WANTED_P95 else "NOT MET"
            lines.append(
                f"recall p95, {row['name']}, {row['episodes']:,} episodes: {row['recall_ms']['p95']:.1f} ms"
                f" (wanted {WANTED_P95:.0f}): {met}"
            )
    share = report["embedding"]
    if "error" not in share:
        met = "met" if share["share"] >= WANTED_SHARE else "NOT MET"
        lines.append(
            f"add with embedding: {100 * share['share']:.0f} % of the embedder's own throughput, median of"
            f" {share['rounds']} rounds (wanted {100 * WANTED_SHARE:.0f} %): {met}"
        )
    return lines


def show(rows: list[dict[str, Any]]) -> str:
    """An aligned table; `x` columns are ratios to memspan with vectors at the same size, above 1 where it is better."""
    ours = {row["episodes"]: row for row in rows if row["name"] == MEMSPAN.name and "error" not in row}
    lines = []
    for row in rows:
        if "error" in row:
            lines.append([row["name"], f"{row['episodes']:,}", *["-"] * 10])
            continue
        base = ours.get(row["episodes"])
        faster = slower = ""
        if base is not None and base is not row:
            faster = f"{base['add_per_second'] / row['add_per_second']:.2g}"
            slower = f"{row['recall_ms']['p50'] / base['recall_ms']['p50']:.2g}"
        lines.append(
            [
                row["name"],
                f"{row['episodes']:,}",
                f"{row['add_per_second']:,.0f}",
                faster,
                f"{row['add_cpu_us']:,.0f}",
                f"{row['first_recall_ms']:,.0f}",
                f"{row['recall_ms']['p50']:.1f}",
                f"{row['recall_ms']['p95']:.1f}",
                f"{row['recall_cpu_ms']['p95']:.1f}",
                slower,
                size(row["ram_bytes_per_episode"]),
                size(row["disk_bytes_per_episode"]),
            ]
        )
    header = ["store", "episodes", "add/s", "x", "CPU us each", "first ms", "p50 ms", "p95 ms", "p95 CPU", "x"]
    header += ["RAM each", "disk each"]
    text = table(header, lines)
    for row in rows:
        if "error" in row:
            text += f"\n{row['name']}, {row['episodes']:,}: skipped, {row['error']}"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1k,10k,100k", help="numbers of episodes (default: 1k,10k,100k)")
    parser.add_argument("--questions", type=positive, default=200)
    parser.add_argument("--peers", help="comma-separated; default: chromadb,YantrikDB; 'none' for memspan alone")
    parser.add_argument("--env-dir", type=Path, default=Path.home() / ".cache/memspan/peers", help="environments")
    parser.add_argument("--peer-seconds", type=float, default=300.0, help="a peer that adds longer is given up")
    parser.add_argument("--install-minutes", type=float, default=10.0, help="per peer (default: 10)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        sizes = [positive(part) for part in options.sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes {options.sizes}: numbers such as 1k,10k")
    try:
        return benchmark(options, sizes)
    except MemspanError as error:
        say(f"error: {error}")
        return error.exit_code
    except ProductError as error:
        say(f"error: {error}")
        return 2


def benchmark(options: argparse.Namespace, sizes: list[int]) -> int:
    """Measure everything and print it."""
    names = [] if options.peers == "none" else options.peers.split(",") if options.peers else None
    peers = chosen(names, (CHROMADB, YANTRIKDB)) if names != [] else []
    report: dict[str, Any] = {"machine": machine(), "store": []}
    isolated = can_isolate()
    runs = [(MEMSPAN, FULL_TEXT, "none"), (MEMSPAN, MEMSPAN.name, "random")]
    runs += [(peer, peer.name, "random") for peer in peers]
    for count in sizes:
        turns = episodes(count)
        for turn in turns:
            turn["said"] = embedded_text(turn["text"], turn["speaker"])
        asked = questions(turns, options.questions + 1)
        for product, name, embedder in runs:
            say(f"{name}: {count:,} episodes, {options.questions} questions")
            seconds = options.peer_seconds if product is not MEMSPAN else float("inf")
            try:
                python = environment(product, options.env_dir.resolve(), options.install_minutes)
                row = measure(
                    product,
                    python,
                    turns,
                    asked,
                    name=name,
                    embedder=embedder,
                    seconds=seconds,
                    isolated=isolated,
                )
            except ProductError as error:
                say(f"{name}: skipped, {error}")
                row = {"name": name, "episodes": count, "error": str(error)}
            report["store"].append(row)
    try:
        report["embedding"] = embedding_share(1024, 5)
    except MissingExtraError as error:
        report["embedding"] = {"error": str(error)}
    if options.json:
        print(json.dumps(report, indent=1))
        return 0
    print("Adding in batches of 1,000 (embedding taken off), then recall of 10, one thread.")
    print("x: against memspan with vectors at the same size, above 1 where memspan is better.\n")
    print(show(report["store"]), end="\n\n")
    share = report["embedding"]
    if "error" in share:
        print(f"with embedding: skipped, {share['error']}")
    else:
        print(
            f"With embedding (all-MiniLM-L6-v2, {share['episodes']:,} episodes a round): the embedder alone"
            f" {share['embedder_per_second']:.0f}/s, add {share['add_per_second']:.0f}/s"
        )
    print("\n".join(verdicts(report)))
    print(f"\n{machine_line(report['machine'])}")
    shown = {row["name"]: row["versions"] for row in report["store"] if "error" not in row}
    print("; ".join(", ".join(f"{k} {v}" for k, v in found.items()) for found in shown.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
