"""One store from a hundred thousand to a million episodes: does every verb finish, how fast, in how many bytes.

    python benchmarks/scale.py [--sizes 100k,300k,1000k] [--vectors [--index]] [--budgets 450MB,150MB] [--json]

Texts are made by synthetic.py. A hundredth of them goes into a space of its own, so that a whole space can be
forgotten. With `--vectors` every passage gets a vector of 384 dimensions, which is no model's: a sum of fixed random
vectors, one a word (a model would need an hour for a million texts). So bytes and speed are measured, not quality.
Every stage is a process of its own; RSS is what the process holds beyond what it held before it opened the store, and
private RAM the part of it that no file holds, sampled every 2 ms: mapped pages of files can be given back at any time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, machine_line, positive, say, size, table
from numpy.typing import NDArray
from synthetic import DIM, episodes, questions

from memspan import Episode, Footprint, Memory
from memspan.longterm.recall import NEAREST, best
from memspan.longterm.vectors import VectorTable

BATCH = 1000
PART = 50_000  # texts made at a time
SMALL = 100  # every so-many-th batch goes into the small space
QUESTIONS = 200
WANTED_P95 = 100.0  # ms with everything in RAM, at a million


class WordVectors:
    """Sums of fixed random vectors, one a word: deterministic, cheap, and near for texts with common words."""

    name, fingerprint, dim, max_tokens = "hashed words", "hashed-words-384-4096", DIM, None
    _ROWS = 4096

    def __init__(self) -> None:
        self._rows = np.random.default_rng(3).standard_normal((self._ROWS, DIM)).astype(np.float32)
        self._known: dict[str, int] = {}

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> NDArray[np.float32]:
        """[n, 384] unit vectors."""
        places: list[int] = []
        starts = []
        for text in texts:
            starts.append(len(places))
            for word in text.lower().split() or [""]:
                at = self._known.get(word)
                if at is None:
                    at = self._known[word] = zlib.crc32(word.encode()) % self._ROWS
                places.append(at)
        summed = np.add.reduceat(self._rows[places], starts, axis=0)
        unit: NDArray[np.float32] = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-9)
        return unit

    def footprint(self) -> Footprint:
        """The table of words."""
        return Footprint.of("weights", "ram", self._rows.nbytes)


def batches(count: int) -> Iterator[tuple[list[Episode], str]]:
    """Batches of episodes and the space they belong to."""
    number = 0
    for begin in range(0, count, PART):
        turns = episodes(min(PART, count - begin), seed=begin // PART)
        for first in range(0, len(turns), BATCH):
            made = [
                Episode(
                    text=turn["text"],
                    speaker=turn["speaker"],
                    at=datetime.fromisoformat(turn["at"]),
                    session=f"{begin // PART}-{turn['session']}",
                    id=f"{begin // PART}-{turn['id']}",
                )
                for turn in turns[first : first + BATCH]
            ]
            yield made, "small" if number % SMALL == SMALL - 1 else "default"
            number += 1


def rss() -> int:
    """Bytes of RAM that this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def peak() -> int:
    """The most that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def private() -> int:
    """Bytes of RAM that no file holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


class PrivatePeak:
    """The most private RAM that a block took beyond what was held when this was made."""

    def __init__(self) -> None:
        self._before = private()
        self.most = 0

    def __enter__(self) -> PrivatePeak:
        self._ends = False
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._ends:
            self.most = max(self.most, private() - self._before)
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join()


def disk(folder: Path) -> int:
    """Bytes of the store's files and of the index beside it."""
    return sum(path.stat().st_size for path in folder.glob("memory.db*/*")) + sum(
        path.stat().st_size for path in folder.glob("memory.db*") if path.is_file()
    )


class Clock:
    """Wall and processor seconds of a block."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def opened(options: argparse.Namespace) -> Memory:
    """The store under test."""
    more: dict[str, Any] = {"budget": options.budget} if options.budget else {}
    if options.disk_budget:
        more["disk_budget"] = options.disk_budget
    more["index"] = "spann" if options.indexed else "exact"
    embedder = WordVectors() if options.vectors else None
    return Memory.open(Path(options.folder, "memory.db"), organizer="plain", embedder=embedder, **more)


def stage_add(options: argparse.Namespace) -> dict[str, Any]:
    """All episodes in batches."""
    count, wall, cpu, evicted, slowest = options.count, 0.0, 0.0, 0, 0.0
    before = rss()
    with opened(options) as memory:
        for batch, space in batches(count):
            with Clock() as clock:
                ids = memory.add(batch, space=space)
            wall, cpu, slowest = wall + clock.wall, cpu + clock.cpu, max(slowest, clock.wall)
            if getattr(ids, "evicted", None):
                evicted += ids.evicted.episodes
        with Clock() as clock:
            memory.embed_pending()
    return {
        "add_per_second": count / (wall + clock.wall),
        "add_per_cpu_second": count / (cpu + clock.cpu),
        "slowest_batch": slowest,
        "evicted": evicted,
        "disk": disk(Path(options.folder)),
        "rss": rss() - before,
    }


def stage_index(options: argparse.Namespace) -> dict[str, Any]:
    """The vector index of all that was added."""
    most = PrivatePeak()
    with opened(options) as memory, most, Clock() as clock:
        memory.maintain()
    with opened(options) as memory:
        return {"wall": clock.wall, "cpu": clock.cpu, "private": most.most, **memory.stats()["index"]}


def nearest_found(memory: Memory, asked: Sequence[str], count: int) -> float:
    """Share of the nearest passages that are among those which recall compares."""
    shares = []
    with memory.store.read(0, "default") as tx:
        index = memory._index(tx, episodes=True)
        assert index.vectors is not None
        for question in WordVectors().embed(asked):
            cosines = index.vectors.cosines(question)
            likely = index.likely(question, NEAREST)
            likely = likely[best(cosines[likely], NEAREST)]
            shares.append(len(np.intersect1d(best(cosines, count), likely)) / count)
    return float(np.mean(shares))


def stage_nearest(options: argparse.Namespace) -> dict[str, Any]:
    """The candidates of a question alone: signs and values in RAM, or the vector index at several efforts."""
    asked = WordVectors().embed(questions(episodes(PART, seed=0), 100))
    rows = {}
    with opened(options) as memory, memory.store.read(0, "default") as tx:
        index = memory._index(tx, episodes=True)
        assert index.vectors is not None and index.near is not None
        table = VectorTable(DIM)
        values, scale, signs = index.vectors.packed()
        table.extend(values, scale, np.stack(signs))
        wanted = [best(table.cosines(question), NEAREST // 2) for question in asked]

        def measured(likely: Callable[[NDArray[np.float32]], NDArray[np.intp]]) -> dict[str, float]:
            shares, times = [], []
            for question, true in zip(asked, wanted, strict=True):
                with Clock() as clock:
                    found = likely(question)
                    found = found[best(index.vectors.cosines(question, found), NEAREST)]
                times.append(1000 * clock.cpu)
                shares.append(len(np.intersect1d(found, true)) / len(true))
            return {"ms": float(np.median(times)), "found": float(np.mean(shares))}

        rows["in RAM"] = measured(lambda question: table.likely(question, NEAREST))
        for recall in (0.6, 0.8, 0.9, 0.95, 0.98):
            index.near.recall = recall
            rows[f"index, {recall}"] = measured(lambda question: index.likely(question, NEAREST))
    return rows


def stage_recall(options: argparse.Namespace) -> dict[str, Any]:
    """Open, the first recall, then all questions."""
    asked = questions(episodes(PART, seed=0), QUESTIONS + 1)
    before, first_peak, later_peak = rss(), PrivatePeak(), PrivatePeak()
    with first_peak:
        with Clock() as opening:
            memory = opened(options)
        with Clock() as first:
            memory.recall(asked[0])
    with memory:
        waits, busy, found, answers = [], [], 0, []
        with later_peak:
            for question in asked[1:]:
                with Clock() as clock:
                    hits = memory.recall(question)
                found += len(hits) == 10
                answers.append([hit.id for hit in hits])
                waits.append(1000 * clock.wall)
                busy.append(1000 * clock.cpu)
        report = {
            "open_ms": 1000 * opening.wall,
            "first_recall": first.wall,
            "first_recall_cpu": first.cpu,
            "private_first": first_peak.most,
            "private_later": later_peak.most,
            "recall_ms": {f"p{q}": float(np.percentile(waits, q)) for q in (50, 95, 99)},
            "recall_cpu_ms": {f"p{q}": float(np.percentile(busy, q)) for q in (50, 95)},
            "answered": found,
            "rss": rss() - before,
            "peak": peak() - before,
            "counted": memory.footprint().by_place,
            "answers": answers,
        }
        if options.vectors:
            report["nearest"] = {n: nearest_found(memory, asked[:60], n) for n in (10, 100, 300)}
        kind = f"{options.budget} {options.indexed}"
        place = zlib.crc32(kind.encode()) % (min(PART, options.count) // 2)  # of another episode for every run
        with Clock() as clock:
            memory.forget(f"0-t{place}")
        report["forget_one"] = clock.wall
        with Clock() as clock:
            memory.recall(asked[1])
        report["recall_after"] = clock.wall
    return report


def stage_forget(options: argparse.Namespace) -> dict[str, Any]:
    """A session, and a whole space."""
    with opened(options) as memory:
        with Clock() as session:
            one = memory.forget(session="0-s40")
        with Clock() as space:
            whole = memory.forget(space="small")
    return {
        "forget_session": session.wall,
        "session": one.episodes,
        "forget_space": space.wall,
        "space": whole.episodes,
        "purged": one.purged and whole.purged,
        "disk": disk(Path(options.folder)),
        "peak": peak(),
    }


def stage_export(options: argparse.Namespace) -> dict[str, Any]:
    """Everything as JSON lines."""
    path = Path(options.folder, "all.jsonl")
    with opened(options) as memory, Clock() as clock:
        rows = memory.export(path)
    written = path.stat().st_size
    path.unlink()
    return {"export": clock.wall, "rows": rows, "bytes": written, "peak": peak()}


STAGES = {"add": stage_add, "recall": stage_recall, "forget": stage_forget, "export": stage_export}
HIDDEN = {"index": stage_index, "nearest": stage_nearest}


def measure(options: argparse.Namespace, count: int) -> dict[str, Any]:
    """All stages at one size."""
    row: dict[str, Any] = {"episodes": count}
    exact: list[list[str]] = []
    budgets = options.budgets.split(",") if options.budgets else []
    stages = [("add", "add", ""), ("recall", "recall", "")]
    stages += [(f"recall within {budget}", "recall", budget) for budget in budgets]
    if options.index:
        stages += [("index", "index", ""), ("nearest by index", "nearest", ""), ("indexed recall", "recall", "")]
        stages += [(f"indexed recall within {budget}", "recall", budget) for budget in budgets]
    if not options.recall_alone:
        stages += [("forget", "forget", ""), ("export", "export", "")]
    with tempfile.TemporaryDirectory(prefix="memspan-scale-", dir=options.dir) as folder:
        for name, stage, budget in stages:
            say(f"{count:,} episodes: {name}")
            command = [sys.executable, __file__, "--stage", stage, "--count", str(count), "--folder", folder]
            command += ["--vectors"] if options.vectors else []
            command += ["--budget", budget] if budget else []
            command += ["--indexed"] if "index" in name else []
            command += ["--disk-budget", options.disk_budget] if options.disk_budget else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                row[name] = {"error": f"ended with status {done.returncode}"}
                continue
            row[name] = json.loads(done.stdout)
            answers = row[name].pop("answers", None)
            if name == "recall":
                exact = answers
            elif answers:
                same = [len(set(one) & set(other)) / len(one) for one, other in zip(answers, exact, strict=True)]
                row[name]["same"] = float(np.mean(same))
            say(f"  {json.dumps(row[name])}")
    return row


def show(rows: list[dict[str, Any]]) -> str:
    """An aligned table."""
    lines = []
    for row in rows:
        add, recall, forget, export = (row[name] for name in STAGES)
        if any("error" in part for part in (add, recall, forget, export)):
            lines.append([f"{row['episodes']:,}", *["failed"] * 14])
            continue
        waits = recall["recall_ms"]
        lines.append(
            [
                f"{row['episodes']:,}",
                f"{add['add_per_second']:,.0f}",
                size(add["disk"]),
                f"{recall['open_ms']:.0f} ms",
                f"{recall['first_recall']:.1f} s",
                f"{waits['p50']:.0f} / {waits['p95']:.0f} / {waits['p99']:.0f}",
                size(recall["rss"]),
                size(recall["counted"].get("ram", 0)),
                f"{recall['forget_one']:.1f} s",
                f"{recall['recall_after']:.1f} s",
                f"{forget['forget_session']:.1f} s",
                f"{forget['forget_space']:.1f} s",
                f"{export['export']:.0f} s",
                size(export["bytes"]),
            ]
        )
    header = ["episodes", "add/s", "disk", "open", "first recall", "recall ms p50/95/99", "RSS", "counted RAM"]
    header += ["forget 1", "recall after", "a session", "a space", "export", "file"]
    return table(header, lines)


def show_index(rows: list[dict[str, Any]], budgets: list[str]) -> str:
    """Recall that compares all vectors against recall through a vector index."""
    lines = []
    for row in rows:
        for budget in ("", *budgets):
            for name, told in (("recall", "all compared"), ("indexed recall", "vector index")):
                found = row[f"{name} within {budget}" if budget else name]
                if "error" in found:
                    lines.append([f"{row['episodes']:,}", budget, told, "refused", *[""] * 7])
                    continue
                waits, busy, near = found["recall_ms"], found["recall_cpu_ms"], found["nearest"]
                lines.append(
                    [
                        f"{row['episodes']:,}",
                        budget or "no limit",
                        told,
                        f"{waits['p50']:.0f} / {waits['p95']:.0f}",
                        f"{busy['p50']:.0f} / {busy['p95']:.0f}",
                        size(found["private_first"]),
                        size(found["private_later"]),
                        " / ".join(f"{100 * near[n]:.1f}" for n in ("10", "100", "300")),
                        f"{100 * found.get('same', 1):.1f}",
                        f"{found['forget_one']:.1f} s",
                        size(found["counted"].get("disk", 0)),
                    ]
                )
        for how, found in row["nearest by index"].items():
            if how != "error":
                line = [f"{row['episodes']:,}", "", f"candidates: {how}", "", f"{found['ms']:.1f}"]
                lines.append([*line, "", "", f"{100 * found['found']:.1f} of 300", "", "", ""])
        if "error" not in row["index"]:
            made = row["index"]
            lines.append([f"{row['episodes']:,}", "", f"made in {made['cpu']:.0f} CPU s", *[""] * 2])
            lines[-1] += [size(made["private"]), "", "", "", "", size(made["disk"])]
    header = ["episodes", "RAM budget", "nearest by", "recall ms p50/95", "CPU ms", "private, first", "later"]
    header += ["% of nearest 10/100/300", "% same answers", "forget 1", "disk"]
    return table(header, lines)


def show_budgets(rows: list[dict[str, Any]], budgets: list[str]) -> str:
    """What recall takes when the store may hold less RAM."""
    lines = []
    for row in rows:
        for budget in ("", *budgets):
            found = row[f"recall within {budget}" if budget else "recall"]
            if "error" in found:
                lines.append([f"{row['episodes']:,}", budget, "refused", *[""] * 6])
                continue
            waits, counted = found["recall_ms"], found["counted"]
            lines.append(
                [
                    f"{row['episodes']:,}",
                    budget or "no limit",
                    f"{found['first_recall']:.1f} s",
                    f"{waits['p50']:.0f} / {waits['p95']:.0f} / {waits['p99']:.0f}",
                    size(counted.get("ram", 0)),
                    size(found["private_first"]),
                    size(found["private_later"]),
                    size(found["rss"]),
                    size(counted.get("disk", 0)),
                ]
            )
    header = ["episodes", "RAM budget", "first recall", "recall ms p50/95/99", "counted RAM"]
    header += ["private peak, first", "later", "RSS", "disk"]
    return table(header, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100k,300k,1000k", help="numbers of episodes (default: 100k,300k,1000k)")
    parser.add_argument("--vectors", action="store_true", help="give every passage a vector of hashed words")
    parser.add_argument("--budgets", help="recall again with so much RAM for the store, such as 1GB,300MB")
    parser.add_argument("--disk-budget", help="disk that the default space may take, such as 500MB")
    parser.add_argument("--dir", help="where the stores are made (default: the system's temporary folder)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--index", action="store_true", help="with --vectors: recall through a vector index too")
    parser.add_argument("--recall-alone", action="store_true", help="neither forget much nor export")
    parser.add_argument("--budget", help=argparse.SUPPRESS)
    parser.add_argument("--indexed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stage", choices=(*STAGES, *HIDDEN), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        print(json.dumps((STAGES | HIDDEN)[options.stage](options)))
        return 0
    try:
        sizes = [positive(part) for part in options.sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes {options.sizes}: numbers such as 100k")
    if options.index and not options.vectors:
        parser.error("--index needs --vectors")
    facts = machine()
    rows = [measure(options, count) for count in sizes]
    failed = any("error" in part for row in rows for part in row.values() if isinstance(part, dict))
    if options.json:
        print(json.dumps({"machine": facts, "vectors": options.vectors, "rows": rows}, indent=1))
        return int(failed)
    print("Vectors are sums of random vectors of words, no model's." if options.vectors else "Full text alone.")
    if not options.recall_alone:
        print(show(rows))
    budgets = options.budgets.split(",") if options.budgets else []
    if budgets and not options.index:
        print("\n" + show_budgets(rows, budgets))
    if options.index:
        print("\n" + show_index(rows, budgets))
    for row in rows:
        if "error" not in row["recall"] and row["episodes"] >= 1_000_000:
            p95 = row["recall"]["recall_ms"]["p95"]
            print(f"recall p95: {p95:.0f} ms (wanted {WANTED_P95:.0f}): {'met' if p95 <= WANTED_P95 else 'NOT MET'}")
    print(f"\n{machine_line(facts)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
