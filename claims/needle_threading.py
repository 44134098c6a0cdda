"""Needle Threading: longer haystacks and longer threads are harder, and the exam is exact about both.

The exam itself is examined first: an oracle is always right, a guesser never by more than chance, a subject that sees
only so far is found to see just so far. Then the bundled SmolLM2-135M-Instruct sits it by likelihood: the value of a
key among four values of the same haystack, of 5 to 40 pairs. The figures of the paper's models are not reproduced here,
and a smoke run leaves the model out.
"""

from __future__ import annotations

from statistics import fmean

import torch
from _context_data import language_model

from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.probes.needle_threading import TASKS, NeedleThreading, effective_length, surface
from memspan.probes.run import Report, run
from memspan.probes.statistics import difference
from memspan.probes.subjects import Guesser, ModelSubject, Oracle

TITLE = "Looking up in a haystack fails with its length, and sooner along a thread"
EXPECTED = "partly"  # the exam is sound; that threads are harder than needles is not seen at this size
SEEDS = (0,)

# Thresholds, fixed before the first run, from the card of the system: the oracle scores 1 on all six tasks up to 10,000
# pairs, a guesser at most 0.02 in writing; the length up to which a subject sees is found within one step of the sizes;
# the model is at least 15 points better at 5 pairs than at 40; a single needle is at least as easy as a thread of 2
# look-ups, that as one of 3, at equal length.
GUESSED = 0.02
POINTS = 0.15

PAIR = 47  # tokens of a pair, estimated


class ShortSighted(Oracle):
    """Right up to some characters only."""

    name = "short-sighted"
    most = 0
    _sees = True

    def read(self, item):
        """Looks at the length."""
        self._sees = len(item.context) <= self.most

    def weigh(self, choice):
        """The wrong way round where it does not see."""
        return [score if self._sees else -score for score in super().weigh(choice)]


def truth(full: bool) -> tuple[float, float]:
    """Mean score of an oracle over all tasks and sizes, and of a guesser."""
    sizes = [PAIR * pairs for pairs in ((25, 100, 1_000, 10_000) if full else (25, 400))]
    exam = NeedleThreading()
    right = run(exam, Oracle(exam), n=2 * len(TASKS), lengths=sizes, form="text")
    lots = run(exam, Guesser(exam), n=200, lengths=[PAIR * 200], form="text")
    return right.score, lots.score


def steps_off() -> float:
    """How many steps of the sizes the effective length is off, at most, for subjects that see up to three limits."""
    exam = NeedleThreading(tasks="single")
    lengths = [500, 1_000, 2_000, 4_000, 8_000]
    worst = 0.0
    for most in (1_500, 3_000, 6_000):
        subject = ShortSighted(exam)
        subject.most = most
        found = surface(run(exam, subject, n=11, lengths=lengths, form="likelihood"))
        seen = sum(size <= most for size in found.characters)
        low, high = found.characters[seen - 1], found.characters[seen]
        for reached in effective_length(found):
            worst = max(worst, (low - reached) / (high - low), (reached - high) / (high - low))
    return worst


def sat(task: str, pairs: int, n: int, seed: int, **options: int) -> Report:
    """The bundled model on one task, by likelihood, at a number of pairs of its own tokens."""
    exam = NeedleThreading(tasks=task, **options)
    subject = ModelSubject(language_model())
    sample = exam.items(1, 64 * PAIR, 0, subject.count_tokens)[0].group
    each = sample["tokens"] / sample["pairs"]
    return run(exam, subject, n=n, lengths=[round((pairs + 0.4) * each)], seed=seed, form="likelihood")


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    full = size == "full"
    right, lots = truth(full)
    parts = [
        Part(
            name="an oracle is right",
            metric="score over six tasks up to 10,000 pairs",
            value=right,
            threshold=at_least(1),
        ),
        Part(name="a guesser is not", metric="score in writing, 200 items", value=lots, threshold=at_most(GUESSED)),
        Part(
            name="the effective length is found",
            metric="steps of the sizes by which it is off beyond the step it lies in",
            value=max(0.0, steps_off()),
            threshold=at_most(1),
        ),
    ]
    if full:
        n, sizes, at = 22, (5, 10, 40), 10
        single = {pairs: sat("single", pairs, n, seed) for pairs in sizes}
        rows = [
            {"pairs": pairs, "right": f"{report.score:.0%}", "95 %": "{:.0%} – {:.0%}".format(*report.interval)}
            for pairs, report in single.items()
        ]
        two = sat("thread", at, n, seed, steps=2)
        three = sat("thread", at, n, seed, steps=3)
        scores = [[item.score for item in report.items] for report in (single[at], two, three)]
        gaps = [difference(one, other) for one, other in ((scores[0], scores[1]), (scores[1], scores[2]))]
        parts += [
            Part(
                name="length is hard",
                metric=f"share right at {sizes[0]} pairs, {n} items; chance 25 %",
                value=single[sizes[0]].score,
                baseline_name=f"{sizes[-1]} pairs",
                baseline=single[sizes[-1]].score,
                threshold=at_least(POINTS, of="difference"),
                rows=rows,
            ),
            Part(
                name="threads are harder",
                metric=f"the smaller of single − thread of 2 and thread of 2 − thread of 3, share right at {at} pairs",
                value=min(gap for gap, _, _ in gaps),
                threshold=at_least(0),
                rows=[
                    {"task": task, "right": f"{fmean(found):.0%}"}
                    for task, found in zip(("single", "thread of 2", "thread of 3"), scores, strict=True)
                ],
                note="; ".join(f"{gap:+.2f} ({low:+.2f} to {high:+.2f})" for gap, low, high in gaps),
            ),
        ]
    return Evidence(slug="needle-threading", size=size, parts=parts)
