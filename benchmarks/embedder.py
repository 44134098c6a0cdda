"""Evidence recall on conversations that a trained embedder has not seen, against the same embedder untrained.

    python benchmarks/embedder.py --data DIR --work DIR [--folds 2] [--also DIR] [--loss stable] [--questions] [--json]

The conversations of each dataset in --data are dealt into folds; for each fold an embedder is trained on the text of
all the others, and asked the benchmark's questions about the fold. Training asks its own questions, made from the text
by grammar; with --questions it is given the other conversations' benchmark questions instead, which no user has: a
bound on what training could bring. --also names data on which the first fold's embedder is measured too. Embedders
and their vectors are kept in --work and used again. Intervals are 95 % percentile bootstraps, paired by question.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, machine_line, say, table
from numpy.typing import NDArray

from memspan import Memory
from memspan.core.errors import InputError, MemspanError
from memspan.longterm.llm_embedder import LLMEmbedder, LLMEmbedderConfig, train_embedder
from memspan.longterm.llm_embedder.data import Asked, Corpus, examples
from memspan.longterm.passages import embedded_text
from memspan.longterm.readers.questions import Conversation, load
from memspan.longterm.retriever import HomogeneousBatches, InfoNCE, TaskSet, fit_retriever
from memspan.models import Embedder, load_embedder, load_language_model
from memspan.models.progress import progress_bar

K = 10
Floats = NDArray[np.float64]


def recalls(conversations: Sequence[Conversation], embedder: Embedder) -> dict[str, Floats]:
    """[questions] evidence recall at 10 by the store's ranking and by vectors alone."""
    ask = getattr(embedder, "embed_queries", embedder.embed)
    found: dict[str, list[float]] = {"memspan": [], "vectors alone": []}
    total = sum(len(conversation.questions) for conversation in conversations)
    with progress_bar("questions", total) as advance:
        for conversation in conversations:
            ids = [str(episode.id) for episode in conversation.episodes]
            texts = [embedded_text(e.text, e.speaker, e.metadata) for e in conversation.episodes]
            scores = ask([q.text for q in conversation.questions]) @ embedder.embed(texts).T
            with Memory.open(":memory:", organizer="plain", embedder=embedder) as memory:
                memory.add(conversation.episodes)
                for question, row in zip(conversation.questions, scores, strict=True):
                    best = {
                        "memspan": [hit.id for hit in memory.recall(question.text, k=K)],
                        "vectors alone": [ids[i] for i in np.argsort(-row, kind="stable")[:K]],
                    }
                    wanted = set(question.evidence)
                    for name, hits in best.items():
                        found[name].append(len(set(hits) & wanted) / len(wanted))
                    advance(1)
    return {name: np.array(values) for name, values in found.items()}


def train_on_text(conversations: Sequence[Conversation], target: Path, config: LLMEmbedderConfig) -> None:
    """As a user would, from the conversations alone."""
    trained = train_embedder(
        [episode for conversation in conversations for episode in conversation.episodes],
        target,
        task="memory",
        judged_by=lambda: load_language_model("bundled"),
        config=config,
        resume=target.with_name(target.name + ".training").exists(),
        progress=sys.stderr.isatty(),
    )
    say(f"{target.name}: {trained.queries} queries; own questions held out: {trained.verdict()}")


def train_on_questions(conversations: Sequence[Conversation], target: Path, config: LLMEmbedderConfig) -> None:
    """With the benchmark's questions about these conversations, by InfoNCE."""
    encoder = LLMEmbedder.load(instructions={"memory": ("", "")}, tau=config.tau, max_tokens=config.max_tokens)
    rows = []
    for conversation in conversations:
        place = {str(episode.id): i for i, episode in enumerate(conversation.episodes)}
        corpus = Corpus([embedded_text(e.text, e.speaker, e.metadata) for e in conversation.episodes])
        for question in conversation.questions:
            right = [place[uid] for uid in question.evidence]
            corpus.asked += [Asked(question.text, "", i, frozenset(right) - {i}) for i in right]
        rows += examples(corpus, encoder, "memory", keys=config.keys, seed=config.seed)
    batches = HomogeneousBatches([TaskSet("memory", rows)], batch=config.batch, keys=config.keys, seed=config.seed)
    fit_retriever(
        encoder, batches, InfoNCE(tau=config.tau), lr=config.lr, steps=config.steps, seed=config.seed, autocast=True
    )
    encoder.save(target, task="memory", about={"trained on": "questions of other conversations"})


def compared(label: str, before: dict[str, Floats], after: dict[str, Floats], resamples: int = 2000) -> list[Any]:
    """One row a ranking: means, difference and its interval, in points."""
    rows = []
    for name in before:
        gain = 100 * (after[name] - before[name])
        draws = np.random.default_rng(0).integers(0, len(gain), (resamples, len(gain)))
        low, high = np.percentile(gain[draws].mean(axis=1), (2.5, 97.5))
        means = (100 * float(before[name].mean()), 100 * float(after[name].mean()), float(gain.mean()))
        rows.append(
            {
                "data": label,
                "ranking": name,
                "questions": len(gain),
                **dict(zip(("untrained", "trained", "gain"), means, strict=True)),
                "interval": [float(low), float(high)],
            }
        )
    return rows


def benchmark(options: argparse.Namespace) -> int:
    """Train, measure, print."""
    config = LLMEmbedderConfig(loss=options.loss, steps=options.steps, seed=options.seed)
    plain = load_embedder("bundled", cache=options.work / "vectors.db")
    rows: list[Any] = []
    also = [dataset for folder in options.also for dataset in load(folder)]
    for dataset in load(options.data):
        if not 2 <= options.folds <= len(dataset.conversations):
            raise InputError(
                f"--folds must be from 2 to {len(dataset.conversations)}, the conversations of {dataset.name}"
            )
        parts: dict[str, list[dict[str, Floats]]] = {"before": [], "after": []}
        for fold in range(options.folds):
            unseen = dataset.conversations[fold :: options.folds]
            seen = [conversation for conversation in dataset.conversations if conversation not in unseen]
            kind = "questions" if options.questions else options.loss
            target = options.work / f"{dataset.name}-{kind}-{options.steps}-{options.seed}-fold{fold}of{options.folds}"
            say(f"{dataset.name}, fold {fold}: trained on {', '.join(conversation.name for conversation in seen)}")
            if not target.exists():
                (train_on_questions if options.questions else train_on_text)(seen, target, config)
            own = load_embedder(target, cache=options.work / "vectors.db")
            parts["before"].append(recalls(unseen, plain))
            parts["after"].append(recalls(unseen, own))
            for row in compared(f"fold {fold}", parts["before"][-1], parts["after"][-1]):
                say(f"  {row['ranking']}: {row['gain']:+.2f} points over {row['questions']} questions")
            if fold == 0:
                for other in also:
                    rows += compared(other.name, recalls(other.conversations, plain), recalls(other.conversations, own))
        whole = {
            when: {name: np.concatenate([part[name] for part in found]) for name in found[0]}
            for when, found in parts.items()
        }
        rows = [*compared(dataset.name, whole["before"], whole["after"]), *rows]
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
        return 0
    cells = [
        [
            f"{row['data']}, {row['ranking']}",
            str(row["questions"]),
            f"{row['untrained']:.1f}",
            f"{row['trained']:.1f}",
            f"{row['gain']:+.2f} [{row['interval'][0]:+.2f}, {row['interval'][1]:+.2f}]",
        ]
        for row in rows
    ]
    print(table(["R@10, %", "n", "untrained", "trained", "gain, points"], cells))
    print(machine_line())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with conversations to train on and ask about")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the trained embedders")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more data to ask about")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--loss", default="stable", choices=("stable", "kl", "infonce", "opl"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", action="store_true", help="train on the other conversations' questions: a bound")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        return benchmark(options)
    except MemspanError as error:
        say(f"error: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
