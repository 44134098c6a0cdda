"""All organizers on the same conversations: evidence recall, and what each costs.

    python benchmarks/organizers.py --data DIR [--organizers plain,zep,…] [--json] [--no-vectors]

DIR is as for recall.py. One store per conversation, in a file; every organizer gets the same episodes in the same
batches, the same embedder and the `rules` scribe, and no language model takes part. Ingest is processor time without
embedding, which is the same for all; RAM is what the store holds after the questions, disk the file. "Tokens read" is
what an answer would have to read: the words of the first ten episodes, times 1.3.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, machine_line, say, size, table
from recall import KS, Outcome

from memspan import Memory
from memspan.core import catalog
from memspan.core.errors import MemspanError
from memspan.longterm.readers.questions import Conversation, load
from memspan.models import Embedder

BATCH = 100
WORDS_TO_TOKENS = 1.3


@dataclass
class Cost:
    """Sums over the conversations of a dataset."""

    cpu: float = 0.0
    episodes: int = 0
    ram: int = 0
    disk: int = 0
    tokens: list[float] = field(default_factory=list)


def organizers() -> list[str]:
    """`plain`, and every organizer that the catalogue says works."""
    return ["plain", *(i.slug for i in catalog.systems(status="working") if i.interface == "Organizer")]


def run(conversation: Conversation, organizer: str, embedder: Embedder | None, outcome: Outcome, cost: Cost) -> None:
    """Add a conversation, ask its questions, and note what was found and what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        with Memory.open(Path(folder) / "store.db", organizer=organizer, embedder=None) as memory:
            before = time.process_time()
            for first in range(0, len(conversation.episodes), BATCH):
                memory.add(conversation.episodes[first : first + BATCH])
            memory.maintain()
            cost.cpu += time.process_time() - before
        with Memory.open(Path(folder) / "store.db", organizer=organizer, embedder=embedder) as memory:
            memory.embed_pending()
            for question in conversation.questions:
                if not question.evidence:
                    continue
                hits = memory.recall(question.text, k=max(KS))
                outcome.questions.append(question)
                outcome.conversations.append(conversation.name)
                outcome.put(organizer, question.evidence, [hit.id for hit in hits])
                cost.tokens.append(WORDS_TO_TOKENS * sum(len(hit.text.split()) for hit in hits[:10]))
            shared = 0 if embedder is None else embedder.footprint().by_place.get("ram", 0)
            cost.ram += memory.footprint().by_place.get("ram", 0) - shared
            cost.disk += memory.store.disk_bytes()
        cost.episodes += len(conversation.episodes)


def rows(organizer: str, outcome: Outcome, cost: Cost) -> dict[str, Any]:
    """What one organizer did on one dataset."""
    recall = np.array(outcome.recall[organizer])
    return {
        "organizer": organizer,
        "recall": {
            name: {"questions": int(mask.sum())} | {f"@{k}": float(recall[mask, at].mean()) for at, k in enumerate(KS)}
            for name, mask in outcome.groups().items()
        },
        "ingest_cpu_ms": 1000 * cost.cpu / cost.episodes,
        "ram_bytes": cost.ram / cost.episodes,
        "disk_bytes": cost.disk / cost.episodes,
        "tokens_read": float(np.mean(cost.tokens)),
    }


def show(found: Sequence[dict[str, Any]]) -> str:
    """One line per organizer."""
    groups = [name for name in found[0]["recall"] if "no audit errors" not in name]
    header = ["R@5/10/20, %", *groups, "ingest, CPU ms each", "RAM each", "disk each", "tokens read"]
    lines = []
    for row in found:
        shares = [" / ".join(f"{100 * row['recall'][name][f'@{k}']:.1f}" for k in KS) for name in groups]
        costs = [f"{row['ingest_cpu_ms']:.2f}", size(row["ram_bytes"]), size(row["disk_bytes"])]
        lines.append([row["organizer"], *shares, *costs, f"{row['tokens_read']:,.0f}"])
    return table(header, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the files, or with such folders")
    parser.add_argument("--organizers", help="comma-separated (default: all that work)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--no-vectors", action="store_true", help="full text only")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/memspan/benchmark-vectors.db", help="vectors by content"
    )
    options = parser.parse_args(arguments)
    embedder = None
    if not options.no_vectors:
        from memspan.models import load_embedder

        embedder = load_embedder("bundled", cache=options.cache, dtype="float32")
    report: dict[str, Any] = {"machine": machine(), "datasets": []}
    for dataset in load(options.data):
        found = []
        for organizer in options.organizers.split(",") if options.organizers else organizers():
            outcome, cost = Outcome("turn"), Cost()
            for conversation in dataset.conversations:
                say(f"{dataset.name}, {organizer}: {conversation.name}")
                run(conversation, organizer, embedder, outcome, cost)
            if outcome.questions:
                found.append(rows(organizer, outcome, cost))
        if not found:
            continue
        report["datasets"].append({"name": dataset.name, "layout": dataset.layout, "organizers": found})
        if not options.json:
            print(f"== {dataset.name} ({dataset.layout}), by turn\n\n{show(found)}\n", flush=True)
    print(json.dumps(report, indent=1, ensure_ascii=False) if options.json else machine_line(report["machine"]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MemspanError as error:
        say(f"organizers: {error}")
        sys.exit(error.exit_code)
