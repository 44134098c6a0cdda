"""The benchmark half of the m2-bert-loco claim: the exam `loco`, and who reads far enough to pass it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from memspan.core.claims import Part, at_least, at_most
from memspan.longterm.examined import StoreRetriever
from memspan.longterm.m2_bert_loco import M2Config, M2Encoder
from memspan.longterm.m2_bert_loco.embedder import cut, embed_rows
from memspan.longterm.m2_bert_loco.tokens import WordPieces
from memspan.longterm.passages import chunks
from memspan.probes.loco import TASKS, Loco
from memspan.probes.retrievers import VectorRetriever, WordRetriever
from memspan.probes.run import Report, run
from memspan.probes.sentences import split_sentences
from memspan.probes.subjects import Guesser, Oracle

# Thresholds, fixed before the first run of this half. The card asks that an oracle be always right, a guesser no better
# than chance, and no sentence be in both splits. For a sentence of the last quarter it expects BM25 and the best chunk
# to be strong: at least 0.8. An encoder that reads the first 256 tokens is to reach at most half of the best chunk.
STRONG, HALF, LOTS = 0.8, 0.5, 0.05
DOCUMENTS, LENGTH = 30, 1_000


class Untrained:
    """M2-BERT with random weights, which reads a document whole."""

    name = fingerprint = "m2, random weights"
    dim = 128

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self._pieces = WordPieces()
        self._model = M2Encoder(M2Config(hidden=128, layers=2, max_len=2048, filter_order=64, dropout=0.0)).eval()

    def embed(self, texts, *, progress=False):
        """Unit vectors."""
        return embed_rows(self._model, self._pieces, cut(self._pieces.ids(texts), 2048))


def by_task(report: Report) -> dict[str, float]:
    """Mean nDCG@10."""
    return {row["task"]: row["score"] for row in report.table()}


def proof(seed: int) -> list[Part]:
    """The exam about itself."""
    exam = Loco(documents=20)
    right = min(run(exam, Oracle(exam), n=30, lengths=[700, 2_000], form=form).score for form in ("text", "likelihood"))
    lots = run(exam, Guesser(exam, seed), n=60, lengths=[700, 750, 800, 850, 900], seed=seed)
    chance = ndcg_of_chance(20)
    held = []
    for split in ("test", "train"):
        made = Loco(split=split)
        every = [one for task in TASKS for one in made.collection(task, 40, 2_000, seed, made.estimate)]
        held.append({line for one in every for line in split_sentences(one.document)})
    return [
        Part(name="LoCo: an oracle is right", metric="nDCG@10, both forms", value=right, threshold=at_least(1)),
        Part(
            name="LoCo: a guesser is not",
            metric=f"distance of nDCG@10 from {chance:.3f}, {lots.n} questions to 20 documents",
            value=abs(lots.score - chance),
            threshold=at_most(LOTS),
        ),
        Part(
            name="LoCo: splits share nothing",
            metric=f"sentences in both, of {len(held[0]) + len(held[1]):,}",
            value=len(held[0] & held[1]),
            threshold=at_most(0),
        ),
    ]


def ndcg_of_chance(documents: int) -> float:
    """Expected nDCG@10 of an order by lot with one right document."""
    return sum(1 / math.log2(rank + 2) for rank in range(10)) / documents


def ranked(seed: int) -> list[Part]:
    """Who finds what stands late."""
    from memspan.models import load_embedder

    folder = Path(os.environ.get("MEMSPAN_DATA", "")) / "books"
    books = os.environ.get("MEMSPAN_DATA") and folder.is_dir()
    exam = Loco(documents=DOCUMENTS, text=str(folder) if books else "")
    embedder = load_embedder("bundled", threads=1)
    best = VectorRetriever(embedder, "MiniLM, best chunk", lambda text: [text[a:b] for a, b in chunks(text)])
    first = VectorRetriever(embedder, "MiniLM, first 256 tokens")
    subjects = [
        WordRetriever(),
        best,
        first,
        StoreRetriever("plain", embedder=None),
        VectorRetriever(Untrained(seed), "M2, random weights, whole"),
    ]
    reports = {
        subject.name: run(exam, subject, n=DOCUMENTS * len(TASKS), lengths=[LENGTH], seed=seed) for subject in subjects
    }
    found = {name: by_task(report) for name, report in reports.items()}
    late = {name: scores["late_key"] for name, scores in found.items()}
    what = (
        f"nDCG@10, {DOCUMENTS} documents of {LENGTH:,} tokens of {'public-domain books' if books else 'made-up text'}"
    )
    return [
        Part(
            name="LoCo: exact words are enough where they are repeated",
            metric=f"{what}, a sentence of the last quarter, the smaller of BM25 and the best chunk",
            value=min(late["bm25"], late[best.name]),
            threshold=at_least(STRONG),
            rows=[
                {"ranked by": name, **{task: round(score, 3) for task, score in scores.items()}}
                for name, scores in found.items()
            ],
            note=f"chance is {ndcg_of_chance(DOCUMENTS):.3f}",
        ),
        Part(
            name="LoCo: who reads the beginning alone does not find what stands late",
            metric=f"{what}, a sentence of the last quarter, MiniLM over the first 256 tokens",
            value=late[first.name],
            baseline_name=best.name,
            baseline=late[best.name],
            threshold=at_most(HALF, of="ratio"),
        ),
    ]


def loco(size: str, seed: int) -> list[Part]:
    """The parts of this half."""
    return [*proof(seed), *(ranked(seed) if size == "full" else [])]
