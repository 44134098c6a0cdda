"""A paper is marked only by who reads and judges all of it; the further its instruction, the worse.

The exam itself is examined first: a perfect marker, an empty reply, one that calls everything wrong, one by lot;
lengths, numbers, shares and places of wrong answers. Then the bundled SmolLM2-135M-Instruct marks papers by
likelihood (each stated answer against an alternative), of the tasks whose questions it can do at all. The table of
the paper's models is not reproduced here, and a smoke run leaves the model out.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
import torch
from _context_data import language_model

from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.probes.longins import MODES, LongIns, score, solvable
from memspan.probes.run import Report, run
from memspan.probes.statistics import uniformity
from memspan.probes.subjects import Guesser, ModelSubject, Oracle

EXPECTED = "partly"
TITLE = "A paper is marked by who reads and judges all of it, and worse the further its instruction"
SEEDS = (0,)

# Thresholds, fixed before the first run, from the card of the system: a perfect marker scores 1 in all modes, an empty
# reply 0, one that calls all wrong exactly 2 e / (1 + e) for a share e of wrong answers, one by lot within 0.03 of a
# tenth over 200 papers; a paper lacks less than one question of its length, a tenth of its answers is wrong up to one
# question, all numbers exist, and places are uniform (p > 0.01). The model's F1 at 256 tokens is twice a random
# marker's or more; from 256 to 2,048 tokens it falls further in GIST than in LIST, which is void where the 95 %
# bootstrap interval of that difference covers 0.
EXACT = 1e-9
LOT = 0.03
P = 0.01
TIMES = 2.0

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
PAPERS = {256: 15, 512: 8, 1024: 5, 2048: 4}  # of each mode; fifteen of each take longer than a claim may
CANDIDATES = ("comparison", "kinds", "copying", "entities", "passages", "strings")


def truth(full: bool, seed: int) -> list[Part]:
    """What must be so without any model."""
    exam = LongIns()
    lengths = LENGTHS if full else LENGTHS[:4]
    perfect = run(exam, Oracle(exam), n=len(MODES) * 3, lengths=lengths, seed=seed, form="text").score
    papers = exam.items(30, 1024, seed, exam.estimate)
    off = 0.0
    for item in papers:
        total = len(item.choices)
        share = len(item.answer) / total
        all_wrong = score(str(list(range(1, total + 1))), item.answer).f1
        off = max(off, abs(all_wrong - 2 * share / (1 + share)), score("[]", item.answer).f1)
    # A paper of a hundred questions has ten wrong answers, up to one, so that a tenth marked by lot scores a tenth.
    hundred = LongIns(modes="GIST", pairs=100, tasks=("arithmetic", "comparison", "digits"))
    lots = run(hundred, Guesser(hundred, seed), n=200, lengths=(4096,), seed=seed, form="text").score
    lacking, shares, strange, count = 0.0, 0.0, 0, 0
    for length in lengths:
        for item in exam.items(12, length, seed, exam.estimate):
            each = max(exam.estimate(piece) for piece in item.pieces[1:]) + 1
            total, tokens = len(item.choices), int(item.group["tokens"])
            lacking = max(lacking, (length - tokens) / each if tokens <= length else np.inf)
            shares = max(shares, abs(len(item.answer) - 0.1 * total))
            strange += sum(not 1 <= number <= total for number in item.answer) + (not item.answer)
            count += 1
    placed = LongIns(modes="GIST", tasks="arithmetic")
    depths = [
        (number - 0.5) / len(item.choices)
        for item in placed.items(500, 512, seed, placed.estimate)
        for number in item.answer
    ]
    return [
        Part(name="a perfect marker is right", metric="F1 in all modes", value=perfect, threshold=at_least(1)),
        Part(
            name="all and nothing score what they must",
            metric="largest deviation from 2e/(1+e) and from 0",
            value=off,
            threshold=at_most(EXACT),
        ),
        Part(
            name="marks by lot are not right",
            metric="distance of F1 from 0.1, 200 papers of 100 questions",
            value=abs(lots - 0.1),
            threshold=at_most(LOT),
        ),
        Part(
            name="papers fill their length",
            metric=f"questions that would still fit, at most, {count} papers up to {lengths[-1]:,} tokens",
            value=lacking,
            threshold=at_most(1),
        ),
        Part(
            name="a tenth is wrong",
            metric="wrong answers more or fewer than a tenth, at most",
            value=shares,
            threshold=at_most(1),
        ),
        Part(name="numbers exist", metric="wrong numbers that do not", value=strange, threshold=at_most(0)),
        Part(
            name="wrong answers stand anywhere",
            metric="Kolmogorov-Smirnov p of their places, 500 papers",
            value=uniformity(depths),
            threshold=at_least(P),
        ),
    ]


def fall(gist: dict[int, list[float]], lists: dict[int, list[float]], seed: int) -> tuple[float, float, float]:
    """How much further GIST falls from the shortest to the longest than LIST, with its 95 % bootstrap interval."""
    short, long = min(gist), max(gist)
    chance = np.random.default_rng(seed)

    def drawn(scores: list[float]) -> np.ndarray:
        values = np.asarray(scores)
        return values[chance.integers(len(values), size=(2000, len(values)))].mean(1)

    falls = [drawn(scores[short]) - drawn(scores[long]) for scores in (gist, lists)]
    low, high = np.percentile(falls[0] - falls[1], (2.5, 97.5))
    means = [fmean(scores[short]) - fmean(scores[long]) for scores in (gist, lists)]
    return means[0] - means[1], float(low), float(high)


def model(seed: int) -> list[Part]:
    """The bundled model by likelihood, of tasks that it can do."""
    subject = ModelSubject(language_model())
    able = solvable(subject, tasks=CANDIDATES, n=30)
    reports: dict[str, dict[int, Report]] = {}
    for mode in ("GIST", "LIST"):
        exam = LongIns(modes=mode, tasks=able)
        reports[mode] = {
            length: run(exam, subject, n=n, lengths=[length], seed=seed, form="likelihood")
            for length, n in PAPERS.items()
        }
    scores = {mode: {x: [i.score for i in r.items] for x, r in found.items()} for mode, found in reports.items()}
    short = [report[256] for report in reports.values()]
    chance = fmean(report.chance or 0.0 for report in short)
    gap, low, high = fall(scores["GIST"], scores["LIST"], seed)
    rows = [
        {
            "mode": mode,
            "tokens": length,
            "papers": report.n,
            "F1": f"{report.score:.2f}",
            "95 %": "{:.2f} – {:.2f}".format(*report.interval),
            "by lot": f"{report.chance:.2f}",
            "pairs right": f"{fmean(i.more['pairs right'] for i in report.items):.0%}",
        }
        for mode, found in reports.items()
        for length, report in found.items()
    ]
    said = f"{gap:+.2f} ({low:+.2f} to {high:+.2f})"
    name, metric = "a far instruction is lost", "fall of F1 from 256 to 2,048 tokens, GIST − LIST"
    further = (
        Part(name=name, metric=metric, void=f"the interval covers 0: {said}")
        if low <= 0 <= high
        else Part(name=name, metric=metric, value=gap, threshold=at_least(0), note=said)
    )
    return [
        Part(
            name="short papers are marked",
            metric=f"F1 at 256 tokens, by likelihood, {sum(report.n for report in short)} papers of GIST and LIST",
            value=fmean(report.score for report in short),
            baseline_name="marks by lot",
            baseline=chance,
            threshold=at_least(TIMES, of="ratio"),
            rows=rows,
            note=f"of {', '.join(able)}, of whose questions the model does three in four",
        ),
        further,
    ]


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    parts = truth(size == "full", seed)
    if size == "full":
        parts += model(seed)
    return Evidence(slug="longins", size=size, parts=parts)
