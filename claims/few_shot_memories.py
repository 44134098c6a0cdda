"""Few-shot memories: recognition after one exposure, recall after three, and what ten updates leave of both.

The exam itself is examined first: an oracle is always right, a guesser never by more than chance. Then the bundled
SmolLM2-135M-Instruct studies sentences of at most 40 tokens by fine-tuning on one thread. Where the environment
variable MEMSPAN_DATA names a folder with `books/`, the sentences are of one public-domain book and those learned later
of another; else they are made up here. A smoke run studies 24 sentences once. The paper's models of 125 million to 13
billion parameters and its 100,000 updates are out of reach here, and nothing below speaks for or against them.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from _context_data import language_model

from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.longterm.examined import StoreStudent
from memspan.probes.few_shot_memories import KINDS, FewShotMemories, make_set
from memspan.probes.run import Report, run
from memspan.probes.sentences import read_sentences
from memspan.probes.students import ModelStudent
from memspan.probes.subjects import Guesser, Oracle

TITLE = "A sentence is known again after one exposure and completed after three; completing it fades first"
EXPECTED = "partly"  # a hundred updates of two texts at the paper's rate of 1e-5 take nothing from this model
SEEDS = (0,)

# Thresholds, fixed before the first run, from the card of the system. Before study recognition is within 10 points of
# chance for sentences and for lists of words, and at most 10 % where the foil is likelier; after one exposure it is at
# least 90 %, and 75 % where one word differs; after three, recall (ROUGE-L of the second half) is 3 times the floor;
# 10 updates on other text take 40 % of what recall had gained and at most 5 points of recognition, and over a step of
# the logarithm of the updates recall falls 3 times as steeply from 0 to 10 as from 10 to 100.
NEAR, AGAINST = 0.10, 0.10
ONCE, ONE_WORD = 0.90, 0.75
GAIN, LOST, KEPT, STEEPER = 3.0, 0.4, 0.05, 3.0

# Rate and batch are the best of six on 32 held-out sentences of a third book, by the margin of recognition after one
# exposure (1e-4 with batches of 2, 4, 8; 3e-4 with 4, 8; 3e-5 with 4): so few sentences are few steps.
STUDY = {"lr": 3e-4, "batch": 4, "later_lr": 1e-5, "later_batch": 2}
STUDIED, BEFORE, AGAINST_PAIRS, SMOKE = 36, 64, 24, 24
UPDATES = (0, 10, 30, 100)
MOST = 40  # tokens


def examined() -> tuple[float, float]:
    """Score of an oracle over all sets and both forms, and how far a guesser is from even in recognition."""
    exam = FewShotMemories(sets="all", updates=0)
    right = [run(exam, Oracle(exam), n=40, lengths=[2_400], form=form).score for form in ("text", "likelihood")]
    two = FewShotMemories(sets="all", updates=0, tests="recognition")
    lots = run(two, Guesser(two), n=70, lengths=[4_000], form="text")
    return min(right), abs(lots.score - 0.5)


@contextmanager
def texts() -> Iterator[tuple[dict[str, str], str]]:
    """What to study and what to learn later, as the exam's options, and what it is."""
    folder = Path(os.environ.get("MEMSPAN_DATA", "")) / "books"
    if not (os.environ.get("MEMSPAN_DATA") and folder.is_dir()):
        yield {}, "made-up sentences"
        return
    count = language_model().count_tokens
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for option, book in (("text", "69087-0.txt"), ("later", "lcet10.txt")):
            kept = [sentence for sentence in read_sentences(folder / book) if count(sentence) <= MOST]
            path = Path(scratch) / book
            path.write_text("\n".join(kept), encoding="utf-8")
            files[option] = str(path)
        yield files, "sentences of a public-domain book"


def sat(subject: object, kind: str, n: int, seed: int, files: dict[str, str], **options: object) -> Report:
    """The exam over a list of `n` texts, all of them asked about."""
    count = language_model().count_tokens
    corpus = read_sentences(Path(files["text"])) if "text" in files else None
    length = sum(map(count, make_set(kind, n, corpus=corpus, seed=seed, count=count)[0]))  # type: ignore[arg-type]
    exam = FewShotMemories(sets=kind, **STUDY, **files, **options)
    return run(exam, subject, n=n, lengths=[length], seed=seed, form="text")  # type: ignore[arg-type]


class Counted(StoreStudent):
    """A store without vectors, whose lists are as long as the model's."""

    def count_tokens(self, text: str) -> int:
        """The model's tokenizer."""
        return int(language_model().count_tokens(text))


def scores(report: Report) -> dict[tuple[str, int, int], float]:
    """By test, shots and updates."""
    return {(row["test"], row["shots"], row["updates"]): row["score"] for row in report.table()}


def shown(report: Report) -> list[dict[str, object]]:
    """Rows of a table."""
    return [
        {
            "test": row["test"],
            "set": row["set"],
            "exposures": row["shots"],
            "updates after": row["updates"],
            "n": row["n"],
            "score": round(row["score"], 3),
            "95 %": f"{row['low']:.3f} to {row['high']:.3f}",
        }
        for row in report.table()
    ]


def studied(seed: int) -> list[Part]:
    """Everything that the model has to learn for."""
    student = ModelStudent(language_model(), "SmolLM2-135M")
    with texts() as (files, kind_of_text):
        none = {"shots": 0, "updates": 0, "tests": "recognition"}
        before = {
            kind: sat(
                student, kind, BEFORE if kind in ("sentences", "random_words") else AGAINST_PAIRS, seed, files, **none
            )
            for kind in KINDS
            if kind not in ("paraphrase", "one_word")
        }
        once = sat(student, "sentences", STUDIED, seed, files, shots=(0, 1), updates=0)
        word = sat(student, "one_word", STUDIED, seed, files, shots=1, updates=0, tests="recognition")
        curve = sat(student, "sentences", STUDIED, seed, files, shots=3, updates=UPDATES)
        store = sat(Counted("plain", embedder=None), "sentences", STUDIED, seed, files, shots=1, updates=UPDATES)
    prior = {kind: report.score for kind, report in before.items()}
    floor, one, kept = scores(once)["recall", 0, 0], scores(once), scores(curve)
    recalled = {updates: kept["recall", 3, updates] for updates in UPDATES}
    first = (recalled[0] - recalled[10]) / math.log10(11)
    then = (recalled[10] - recalled[100]) / (math.log10(101) - math.log10(11))
    return [
        Part(
            name="recognition after one exposure",
            metric=f"share of {STUDIED} pairs, {kind_of_text}; chance 50 %",
            value=one["recognition", 1, 0],
            threshold=at_least(ONCE),
            rows=[*shown(once), *shown(word)],
        ),
        Part(
            name="recognition where one word differs",
            metric=f"share of {STUDIED} pairs, after one exposure",
            value=word.score,
            threshold=at_least(ONE_WORD),
        ),
        Part(
            name="nothing is known before",
            metric=f"distance from 50 % of {BEFORE} pairs, the larger of sentences and lists of words",
            value=max(abs(prior[kind] - 0.5) for kind in ("sentences", "random_words")),
            threshold=at_most(NEAR),
            rows=[{"set": kind, "recognition before study": round(score, 3)} for kind, score in prior.items()],
        ),
        Part(
            name="the foil is likelier before",
            metric=f"share of {AGAINST_PAIRS} pairs, the larger of lists of words and gibberish against sentences",
            value=max(prior[kind] for kind in ("random_vs_real", "gibberish_vs_real")),
            threshold=at_most(AGAINST),
        ),
        Part(
            name="recall after three exposures",
            metric="ROUGE-L of the second half of a sentence",
            value=recalled[0],
            baseline_name="before study",
            baseline=floor,
            threshold=at_least(GAIN, of="ratio"),
        ),
        Part(
            name="ten updates take recall",
            metric="share of the gain in ROUGE-L that is lost",
            value=(recalled[0] - recalled[10]) / max(recalled[0] - floor, 1e-9),
            threshold=at_least(LOST),
            rows=[*shown(curve), *({**row, "set": f"{row['set']}, memory:plain"} for row in shown(store))],
            note=f"27 steps at {STUDY['lr']}; then {STUDY['later_batch']} texts an update at {STUDY['later_lr']}",
            series=Series(
                lines={
                    test: ([u + 1 for u in UPDATES], [kept[test, 3, u] for u in UPDATES])
                    for test in ("recognition", "recall")
                },
                x_label="updates + 1",
                y_label="score",
                log_x=True,
            ),
        ),
        Part(
            name="ten updates leave recognition",
            metric="share of pairs lost",
            value=kept["recognition", 3, 0] - kept["recognition", 3, 10],
            threshold=at_most(KEPT),
        ),
        Part(
            name="the first updates cost most",
            metric="fall of ROUGE-L over a tenfold of (updates + 1), from 0 to 10",
            value=first,
            baseline_name="from 10 to 100",
            baseline=max(then, 0.0),
            threshold=at_least(STEEPER, of="ratio"),
        ),
    ]


def smoke(seed: int) -> Part:
    """A short list, once."""
    student = ModelStudent(language_model(), "SmolLM2-135M")
    with texts() as (files, kind_of_text):
        options = {"shots": (0, 1), "updates": 0, "tests": "recognition"}
        report = sat(student, "sentences", SMOKE, seed, files, **options)
    found = scores(report)
    return Part(
        name="recognition after one exposure",
        metric=f"share of {SMOKE} pairs, {kind_of_text}; chance 50 %",
        value=found["recognition", 1, 0],
        baseline_name="before study",
        baseline=found["recognition", 0, 0],
        threshold=at_least(ONCE),
    )


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    right, lots = examined()
    parts = [
        Part(name="an oracle is right", metric="score, six sets, both forms", value=right, threshold=at_least(1)),
        Part(
            name="a guesser is not",
            metric="distance of recognition from 50 %, 420 pairs",
            value=lots,
            threshold=at_most(0.1),
        ),
        *(studied(seed) if size == "full" else [smoke(seed)]),
    ]
    return Evidence(slug="few-shot-memories", size=size, parts=parts)
