"""memspan beside agent-memory products that work offline and without a language model, on the same pool of messages.

    python benchmarks/peers.py --data DIR --env-dir CACHE [--peers YantrikDB,Mem0] [--messages 1000] [--json]

DIR holds LoCoMo's file. Messages are added one call at a time, then questions are asked, ten results each; one
pool of three conversations. Everyone embeds with all-MiniLM-L6-v2 on one thread of one pinned core, without network
(where the system allows that), telemetry off, in an environment of its own that is made on first use. Processor time
counts all threads of the process, embedding included; for adding it includes what is left to a later flush. On a
shared machine it is the column to trust.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, machine_line, positive, say, size, table
from products import MEMSPAN, PEERS, Process, Product, ProductError, can_isolate, chosen, environment

from memspan.core.errors import InputError, MemspanError
from memspan.longterm.passages import embedded_text
from memspan.longterm.readers.questions import Conversation, load

K = 10


def pool(conversations: Sequence[Conversation], messages: int, questions: int) -> tuple[list[Any], list[Any]]:
    """The first turns of each conversation, one after the other, and questions whose evidence they hold.

    Returns:
        The messages as dictionaries, and `(question, evidence ids)` spread evenly over all that can be asked.

    Raises:
        InputError: too few turns.
    """
    share = -(-messages // len(conversations))
    items: list[dict[str, Any]] = []
    for conversation in conversations:
        for episode in conversation.episodes[: min(share, messages - len(items))]:
            items.append(
                {
                    "id": str(episode.id),
                    "text": episode.text,
                    "said": embedded_text(episode.text, episode.speaker, episode.metadata),
                    "speaker": episode.speaker,
                    "session": episode.session,
                    "at": episode.at.isoformat() if episode.at else None,
                    "metadata": dict(episode.metadata),
                }
            )
    if len(items) < messages:
        raise InputError(f"the conversations hold {len(items)} of {messages} messages; ask for fewer with --messages")
    there = {item["id"] for item in items}
    if len(there) < len(items):
        raise InputError("the conversations share ids; put them into one file")
    asked = []
    for conversation in conversations:
        for question in conversation.questions:
            if there.issuperset(question.evidence):
                asked.append((question.text, list(question.evidence)))
    if len(asked) < questions:
        raise InputError(f"only {len(asked)} questions have all their evidence among the messages; lower --questions")
    spread = np.linspace(0, len(asked) - 1, questions).round().astype(int)
    return items, [asked[place] for place in spread.tolist()]


def measure(
    product: Product,
    python: Path,
    items: list[dict[str, Any]],
    asked: list[tuple[str, list[str]]],
    *,
    core: int,
    isolated: bool,
    embedder: str = "minilm",
) -> dict[str, Any]:
    """One product on the pool.

    Raises:
        ProductError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="memspan-bench-", ignore_cleanup_errors=True) as scratch:
        store = Path(scratch, "store")
        store.mkdir()
        log = Path(tempfile.gettempdir(), f"memspan-bench-{Path(product.adapter).stem}.log")
        home = python.parent.parent / "home" if product.requirements else Path.home()
        with Process(product, python, core=core, isolated=isolated, home=home, log=log) as process:
            opened = process.ask("open", folder=str(store), embedder=embedder, packages=list(product.packages))
            # Not timed, so that a model that is loaded on first use is loaded: the same for everyone.
            process.ask("search", queries=["Is anyone there?"], k=K)
            ready = process.ask("size")
            added = process.ask("add", items=items)
            left = process.ask("flush")
            after = process.ask("size")
            found = process.ask("search", queries=[question for question, _ in asked], k=K)
            end = process.ask("size")
            closed = process.ask("close")
    recall = [
        len(set(ids[:K]) & set(evidence)) / len(evidence)
        for ids, (_, evidence) in zip(found["found"], asked, strict=True)
    ]
    calls, wall, cpu = (1000 * np.array(found_in) for found_in in (added["calls"], found["wall"], found["cpu"]))
    seconds = added["wall"] + left["wall"]
    return {
        "name": product.name,
        "versions": opened["versions"],
        "note": product.note,
        "open_seconds": opened["seconds"],
        "add_per_second": len(items) / seconds,
        "add_cpu_ms": 1000 * (added["cpu"] + left["cpu"]) / len(items),
        "add_call_ms": {"p50": float(np.median(calls)), "p95": float(np.percentile(calls, 95))},
        "search_wall_ms": {"p50": float(np.median(wall)), "p95": float(np.percentile(wall, 95))},
        "search_cpu_ms": {
            "p50": float(np.median(cpu)),
            "p95": float(np.percentile(cpu, 95)),
            "mean": float(cpu.mean()),
        },
        "recall_at_10": float(np.mean(recall)),
        "recall_by_question": recall,
        "rss_bytes": end["rss"],
        "rss_growth_bytes": after["rss"] - ready["rss"],
        "peak_rss_bytes": end["peak_rss"],
        "disk_bytes": closed["disk"],
    }


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    """For each peer whether memspan is ahead in recall and in processor time per add and per search."""
    ours = next((result for result in results if result["name"] == MEMSPAN.name and "error" not in result), None)
    lines = []
    for peer in results:
        if ours is None or "error" in peer or peer["name"].startswith(MEMSPAN.name):
            continue
        parts = (
            ("recall@10", ours["recall_at_10"] > peer["recall_at_10"]),
            ("CPU per add", ours["add_cpu_ms"] < peer["add_cpu_ms"]),
            ("CPU per search", ours["search_cpu_ms"]["p50"] < peer["search_cpu_ms"]["p50"]),
        )
        lines.append(
            f"{peer['name']}: "
            + ", ".join(f"{what} {'ahead' if ahead else 'NOT AHEAD'}" for what, ahead in parts)
            + f" ({100 * (ours['recall_at_10'] - peer['recall_at_10']):+.1f} points,"
            f" {peer['add_cpu_ms'] / ours['add_cpu_ms']:.1f}x the CPU per add,"
            f" {peer['search_cpu_ms']['p50'] / ours['search_cpu_ms']['p50']:.1f}x per search)"
        )
    return lines


def show(results: list[dict[str, Any]]) -> str:
    """The results as an aligned table, with what was skipped and the verdicts below."""
    rows = []
    for result in results:
        if "error" in result:
            continue
        rows.append(
            [
                result["name"],
                f"{result['recall_at_10']:.3f}",
                f"{result['add_cpu_ms']:.1f}",
                f"{result['add_per_second']:.1f}",
                f"{result['search_cpu_ms']['p50']:.1f} / {result['search_cpu_ms']['p95']:.1f}",
                f"{result['search_wall_ms']['p50']:.1f} / {result['search_wall_ms']['p95']:.1f}",
                size(result["rss_bytes"]),
                size(result["rss_growth_bytes"]),
                size(result["disk_bytes"]),
            ]
        )
    header = [
        "product",
        "recall@10",
        "add CPU ms",
        "add/s",
        "search CPU ms p50/p95",
        "wall ms p50/p95",
        "RSS",
        "of it by adding",
        "disk",
    ]
    lines = [table(header, rows), ""]
    lines += [f"{result['name']}: skipped, {result['error']}" for result in results if "error" in result]
    lines += [f"memspan against {line}" for line in verdicts(results)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with LoCoMo's file")
    parser.add_argument("--env-dir", type=Path, default=Path.home() / ".cache/memspan/peers", help="environments")
    parser.add_argument("--peers", help="comma-separated; default: all")
    parser.add_argument("--messages", type=positive, default=1000)
    parser.add_argument("--questions", type=positive, default=100)
    parser.add_argument("--conversations", type=positive, default=3)
    parser.add_argument("--install-minutes", type=float, default=10.0, help="per peer (default: 10)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to pin to")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        return benchmark(options)
    except MemspanError as error:
        say(f"error: {error}")
        return error.exit_code
    except ProductError as error:
        say(f"error: {error}")
        return 2


def benchmark(options: argparse.Namespace) -> int:
    """Measure everyone and print it."""
    peers = chosen(options.peers.split(",") if options.peers else None, PEERS)
    datasets = [dataset for dataset in load(options.data) if dataset.layout == "locomo"]
    if not datasets:
        raise InputError(f"{options.data} holds no data in LoCoMo's layout")
    conversations = datasets[0].conversations[: options.conversations]
    items, asked = pool(conversations, options.messages, options.questions)
    isolated = can_isolate()
    report: dict[str, Any] = {
        "machine": machine(),
        "pool": {
            "conversations": [conversation.name for conversation in conversations],
            "messages": len(items),
            "questions": len(asked),
        },
        "without_network": isolated,
        "core": options.core,
        "results": [],
    }
    runs = [(MEMSPAN, "minilm", MEMSPAN.name), (MEMSPAN, "none", "memspan, no vectors")]
    runs += [(peer, "minilm", peer.name) for peer in peers]
    for product, embedder, name in runs:
        say(f"{name}: {len(items)} messages, {len(asked)} questions")
        try:
            python = environment(product, options.env_dir.resolve(), options.install_minutes)
            result = measure(product, python, items, asked, core=options.core, isolated=isolated, embedder=embedder)
        except ProductError as error:
            say(f"{name}: skipped, {error}")
            result = {"error": str(error)}
        report["results"].append(result | {"name": name})
    if options.json:
        print(json.dumps(report, indent=1))
        return 0
    names = ", ".join(report["pool"]["conversations"])
    print(f"{len(items)} messages of {names}, one call each; {len(asked)} questions, {K} results\n")
    print(show(report["results"]))
    network = "no network" if isolated else "network not cut off"
    print(f"\none thread on core {options.core}, {network}; {machine_line(report['machine'])}")
    for result in report["results"]:
        if "error" not in result:
            parts = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
            print(f"{result['name']}: {parts}{'; ' * bool(result['note'])}{result['note']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
