"""What a disk budget costs in recall: evidence recall at shrinking budgets, by worth a byte, oldest first, and by lot.

    python benchmarks/eviction.py --data DIR [--shares 100,75,50,25,10] [--no-vectors] [--plot FILE] [--json]

Every conversation is added in order, eight turns at a time, into a store that may take a share of what the whole
conversation takes without a limit (rows, postings and vectors, as the store counts them), so that what goes is decided
while the rest is still to come. Then all questions are asked. R@10 of a question is the share of its evidence among the
first ten; what was evicted counts as not found. `kept` is the share of the evidence that is still there. A conversation
is refused, and counts as nothing found, when eight of its turns do not fit into its budget.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import machine, machine_line, say, table

from memspan import Episode, Memory
from memspan.core.errors import BudgetError, MemspanError
from memspan.longterm.evict import Candidates, Evictor, candidates
from memspan.longterm.readers.questions import BEAM_INDIRECT, Conversation, Dataset, load
from memspan.longterm.store import Transaction

if TYPE_CHECKING:
    from memspan.models import Embedder

K = 10
OURS, OLDEST, LOT = "worth a byte", "oldest first", "by lot"
PIECE = 8
SEEDS = 3  # runs of the lot, of which the mean is shown


def _oldest(tx: Transaction) -> Candidates:
    """The order in which they were added."""
    found = candidates(tx)
    return Candidates(found.records, found.records.astype(np.float64))


def _lot(seed: int) -> Callable[[Transaction], Candidates]:
    """A fixed draw for each episode."""

    def ranking(tx: Transaction) -> Candidates:
        found = candidates(tx)
        drawn = [zlib.crc32(f"{seed} {record}".encode()) for record in found.records.tolist()]
        return Candidates(found.records, np.array(drawn, np.float64))

    return ranking


class Cached:
    """An embedder that reads every text once in a run."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name, self.fingerprint = embedder.name, embedder.fingerprint
        self.dim, self.max_tokens = embedder.dim, embedder.max_tokens
        self._known: dict[str, Any] = {}

    def embed(self, texts: Sequence[str], *, progress: bool = False) -> Any:
        """[n, D] unit vectors."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embedder.embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])

    def footprint(self) -> Any:
        """The embedder's own."""
        return self._embedder.footprint()


def parts(conversation: Conversation) -> Iterator[list[Episode]]:
    """The episodes of a conversation in pieces: what is being added is not evicted, so they must be small."""
    batch: list[Episode] = []
    for episode in conversation.episodes:
        if batch and (episode.session != batch[-1].session or len(batch) == PIECE):
            yield batch
            batch = []
        batch.append(episode)
    yield batch


def run(
    conversation: Conversation, embedder: Any, budget: int | None, ranking: Callable[[Transaction], Candidates] | None
) -> tuple[int, list[tuple[float, float]]]:
    """Bytes used in the end, and `(recall, kept)` of every question."""
    with Memory.open(":memory:", embedder=embedder, organizer="plain") as memory:
        if ranking is not None:
            memory._evictor = Evictor(memory.organizer, ranking)
        if budget is not None:
            memory.limits(disk=budget)
        for batch in parts(conversation):
            memory.add(batch)
        memory.embed_pending()
        here = {row[0] for row in memory.store.connection.execute("SELECT uid FROM record WHERE kind = 'episode'")}
        scores = []
        for question in conversation.questions:
            wanted = set(question.evidence)
            found = {hit.id for hit in memory.recall(question.text, k=K)} if here else set()
            scores.append((len(found & wanted) / len(wanted), len(here & wanted) / len(wanted)))
        return memory.limits().used, scores


def measure(dataset: Dataset, embedder: Any, shares: Sequence[int]) -> dict[str, Any]:
    """Every policy at every budget on a dataset; means over its questions."""
    asked = [conversation for conversation in dataset.conversations if conversation.questions]
    direct = np.array([q.category not in BEAM_INDIRECT for c in asked for q in c.questions])
    policies: dict[str, list[Callable[[Transaction], Candidates]]] = {
        OURS: [candidates],
        OLDEST: [_oldest],
        LOT: [_lot(seed) for seed in range(SEEDS)],
    }
    rows = []
    whole: dict[str, tuple[int, list[tuple[float, float]]]] = {}
    for conversation in asked:
        say(f"{dataset.name} {conversation.name}: all")
        whole[conversation.name] = run(conversation, embedder, None, None)
    for share in shares:
        for name, rankings in policies.items():
            say(f"{dataset.name}: {share} %, {name}")
            scores, used, refused = [], [], 0
            for ranking in rankings:
                found: list[tuple[float, float]] = []
                for conversation in asked:
                    size, full = whole[conversation.name]
                    if share >= 100:
                        found += full
                        continue
                    try:
                        took, part = run(conversation, embedder, size * share // 100, ranking)
                    except BudgetError:
                        refused += 1
                        took, part = 0, [(0.0, 0.0)] * len(conversation.questions)
                    used.append(took / size)
                    found += part
                scores.append(found)
            means = np.array(scores).mean(axis=0)
            rows.append(
                {
                    "share": share,
                    "policy": name,
                    "recall": float(means[:, 0].mean()),
                    "kept": float(means[:, 1].mean()),
                    "recall_direct": float(means[direct, 0].mean()),
                    "used": float(np.mean(used)) if used else 1.0,
                    "refused": refused,
                }
            )
    return {"dataset": dataset.name, "questions": len(direct), "direct": int(direct.sum()), "rows": rows}


def show(report: dict[str, Any], shares: Sequence[int]) -> str:
    """A line per policy, a column per budget."""
    lines = []
    for name in (OURS, OLDEST, LOT):
        at = {row["share"]: row for row in report["rows"] if row["policy"] == name}
        cells = [f"{100 * at[s]['recall']:.1f} ({100 * at[s]['kept']:.0f})" for s in shares]
        refused = [f" {at[s]['refused']} refused" if at[s]["refused"] else "" for s in shares]
        lines.append([name, *(cell + said for cell, said in zip(cells, refused, strict=True))])
    title = f"== {report['dataset']}, {report['questions']} questions: R@10 in percent (evidence kept)"
    return title + "\n\n" + table(["what stays", *(f"{share} %" for share in shares)], lines)


def plot(reports: list[dict[str, Any]], path: Path) -> None:
    """R@10 over the share of the unlimited store, a panel per dataset."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(reports), figsize=(5 * len(reports), 4), squeeze=False)
    for panel, report in zip(panels[0], reports, strict=True):
        for name in (OURS, OLDEST, LOT):
            points = [(row["share"], 100 * row["recall"]) for row in report["rows"] if row["policy"] == name]
            panel.plot(*zip(*points, strict=True), marker="o", label=name)
        panel.set(title=report["dataset"], xlabel="disk, % of the store without a limit", ylabel="R@10, %")
        panel.set_ylim(0)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, action="append", help="folder with a dataset (repeatable)")
    parser.add_argument("--shares", default="100,75,50,25,10", help="budgets in percent (default: 100,75,50,25,10)")
    parser.add_argument("--no-vectors", action="store_true", help="full text alone")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    shares = [int(part) for part in options.shares.split(",")]
    facts = machine()
    try:
        embedder = None
        if not options.no_vectors:
            from memspan.models import load_embedder

            embedder = Cached(load_embedder("bundled"))
        datasets = [dataset for folder in options.data for dataset in load(folder)]
        reports = [measure(dataset, embedder, shares) for dataset in datasets]
    except MemspanError as error:
        say(f"error: {error}")
        return error.exit_code
    if options.plot:
        plot(reports, options.plot)
    if options.json:
        print(json.dumps({"machine": facts, "vectors": embedder is not None, "reports": reports}, indent=1))
        return 0
    print("With vectors of all-MiniLM-L6-v2." if embedder is not None else "Full text alone.", end="\n\n")
    for report in reports:
        print(show(report, shares), end="\n\n")
    print(machine_line(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
