"""Order is known from what is in the context or has a time, not from what was only learned.

The generator is examined first: counts, distances, sides and positions, over all conditions of the paper that the texts
are long enough for. Then a store that keeps times and one that does not sit the exam on a whole book, then the bundled
SmolLM2-135M-Instruct with the excerpt in its context, without it, and fine-tuned on 2,000 words. Texts are the paper's
public-domain books below MEMSPAN_DATA, else the made-up chronicle. A smoke run leaves the model out.
"""

from __future__ import annotations

import os
import tempfile
from itertools import product
from pathlib import Path

import torch
from _context_data import language_model

from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.longterm.examined import StoreSubject
from memspan.probes.in_weights import WeightsSubject
from memspan.probes.run import run
from memspan.probes.sort_recall import SortRecall, build, order, paper_bins
from memspan.probes.sort_recall.books import chronicle, read_book
from memspan.probes.statistics import difference, uniformity
from memspan.probes.subjects import Blind, Guesser, ModelSubject, Oracle

EXPECTED = "partly"
TITLE = "Which of two segments came first is known to a memory with times, not to one without"
SEEDS = (0,)

# Thresholds, fixed before the first run, from the card of the system: every pair keeps every rule, positions are
# uniform (p > 0.01), an oracle scores 1 and a coin 0.5 ± 0.03 over 2,000 items; the store with times reaches 0.97 and
# the one without at most 0.55; continuation scoring is 10 points better with the excerpt than without; asked for
# labels, the lower end of the paired 95 % interval of the same difference is above 0; fine-tuning lowers perplexity by
# 30 % or more while the order stays within 0.5 ± 0.08.
P = 0.01
COIN = 0.03
WITH_TIMES, WITHOUT = 0.97, 0.55
POINTS = 0.10
LEARNED, UNORDERED = 0.30, 0.08

BOOKS = ("69087-0.txt", "72600-0.txt", "72869-0.txt", "72958-0.txt", "72972-0.txt", "73017-0.txt")
LONG = "72958-0.txt"  # for stores and the model; 72869 was used to choose the wordings below
LABELS_PROMPT, CONTINUATION_PROMPT = 1, 2


def book(name: str) -> str:
    """A book's path, "" without it."""
    folder = os.environ.get("MEMSPAN_DATA")
    path = Path(folder, "books", name) if folder else None
    return str(path) if path is not None and path.is_file() else ""


def rules(full: bool, seed: int) -> tuple[float, float, list[dict[str, object]]]:
    """Share of pairs that keep all rules, the smallest p of excerpts' positions, and a row for each text."""
    texts = {name: read_book(book(name)) for name in BOOKS if book(name)} if full else {}
    texts = texts or {"made-up chronicle": chronicle()}
    kept = made = 0
    smallest, rows = 1.0, []
    for name, text in texts.items():
        words = text.split()
        before = made
        for excerpt, segment in product((250, 1000, 2500, 10_000, 20_000), (20, 50)):
            if len(words) < 1.1 * excerpt:
                continue
            edges, seeded = paper_bins(excerpt, segment), seed + excerpt + segment
            items = build(text, excerpt, segment, 100, seed=seeded)
            again = build(text, excerpt, segment, 100, seed=seeded)
            made += len(items)
            balanced = all(sum(i.answer for i in items if i.bin == b) == 50 for b in range(4)) and items == again
            for item in items:
                early, late = sorted(item.positions)
                kept += (
                    balanced
                    and edges[item.bin] < late - early <= edges[item.bin + 1]
                    and early + segment <= late
                    and item.start <= early
                    and late + segment <= item.start + excerpt
                    and item.seg_a.split() == words[item.positions[0] : item.positions[0] + segment]
                )
            starts = {item.start for item in items}
            smallest = min(smallest, uniformity([start / (len(words) - excerpt) for start in starts]))
        rows.append({"text": name, "words": len(words), "pairs": made - before})
    return kept / made, smallest, rows


def weights(n: int, seed: int) -> list[Part]:
    """What fine-tuning on 2,000 words leaves: the words, and whether their order."""
    named = book(LONG)
    words = (read_book(named) if named else chronicle()).split()[5_000:7_000]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_text(" ".join(words), encoding="utf-8")
        exam = SortRecall(book=str(path), reads="book", excerpt=1000, prompt=LABELS_PROMPT)
        subject = WeightsSubject(language_model(), epochs=3)
        before = subject.perplexity(" ".join(words))
        report = run(exam, subject, n=n, lengths=[2_000], seed=seed, form="likelihood")
        after = subject.perplexity(" ".join(words))
        subject.close()
    found = order(report)
    return [
        Part(
            name="weights learn the words",
            metric="share by which perplexity falls, 3 epochs of 2,000 words",
            value=1 - after / before,
            threshold=at_least(LEARNED),
            note=f"{before:.1f} before, {after:.1f} after",
        ),
        Part(
            name="weights do not learn the order",
            metric=f"distance of accuracy from one half, labels without context, {n} items",
            value=abs(found.accuracy - 0.5),
            threshold=at_most(UNORDERED),
            note=f"{found.accuracy:.0%} ({found.interval[0]:.0%} to {found.interval[1]:.0%}), p {found.p:.2g}; "
            f"{found.said_a:.0%} of labels are A",
        ),
    ]


def model(n: int, n_labels: int, seed: int) -> list[Part]:
    """The bundled model with the excerpt of 250 words in its context and without, by continuations and by labels."""
    parts = []
    subject, named = ModelSubject(language_model()), book(LONG)
    for scoring, count, prompt in (("continuation", n, CONTINUATION_PROMPT), ("labels", n_labels, LABELS_PROMPT)):
        exam = SortRecall(book=named, excerpt=250, scoring=scoring, prompt=prompt)
        seen, unseen = (
            run(exam, one, n=count, lengths=[512], seed=seed, form="likelihood") for one in (subject, Blind(subject))
        )
        gap, low, high = difference([i.score for i in seen.items], [i.score for i in unseen.items])
        found = order(seen)
        said = "" if found.said_a is None else f"; {found.said_a:.0%} of labels are A"
        of_labels = scoring == "labels"
        parts.append(
            Part(
                name="labels need the excerpt" if of_labels else "continuations need the excerpt",
                metric=f"lower end of the interval of right with excerpt − without, {count} items"
                if of_labels
                else f"share right with 250 words in context, {count} items; chance 50 %",
                value=low if of_labels else seen.score,
                baseline_name="" if of_labels else "without",
                baseline=None if of_labels else unseen.score,
                threshold=at_least(0) if of_labels else at_least(POINTS, of="difference"),
                rows=[
                    {"distance": name, "n": amount, "right": f"{share:.0%}", "95 %": f"{ends[0]:.0%} – {ends[1]:.0%}"}
                    for (name, _), (amount, share, ends) in found.bins.items()
                ],
                note=f"{seen.score:.0%} with, {unseen.score:.0%} without, {gap:+.2f} ({low:+.2f} to {high:+.2f}){said}",
            )
        )
    return parts


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    full = size == "full"
    kept, smallest, rows = rules(full, seed)
    exam = SortRecall()
    right = run(exam, Oracle(exam), n=400, lengths=(400,), seed=seed, form="likelihood").score
    lots = run(exam, Guesser(exam, seed), n=2_000, lengths=(2_000,), seed=seed, form="text").score
    named, n = book(LONG) if full else "", 300 if full else 60
    whole = SortRecall(book=named, reads="book")
    stores = [run(whole, StoreSubject(dated=dated), n=n, lengths=[13_000], seed=seed) for dated in (True, False)]
    parts = [
        Part(name="pairs keep the rules", metric="share of pairs", value=kept, threshold=at_least(1), rows=rows),
        Part(
            name="excerpts are uniform",
            metric="smallest Kolmogorov-Smirnov p over all conditions",
            value=smallest,
            threshold=at_least(P),
        ),
        Part(name="an oracle is right", metric="accuracy, 400 items", value=right, threshold=at_least(1)),
        Part(
            name="a coin is not",
            metric="distance of accuracy from one half, 2,000 items",
            value=abs(lots - 0.5),
            threshold=at_most(COIN),
        ),
        Part(
            name="a store with times knows the order",
            metric=f"accuracy on a whole text, {n} items",
            value=stores[0].score,
            threshold=at_least(WITH_TIMES),
            note="{:.1%} to {:.1%}".format(*stores[0].interval),
        ),
        Part(
            name="a store without does not",
            metric=f"accuracy on the same, {n} items",
            value=stores[1].score,
            threshold=at_most(WITHOUT),
            note="{:.1%} to {:.1%}".format(*stores[1].interval),
        ),
    ]
    if full:
        parts += [*model(40, 16, seed), *weights(100, seed)]
    return Evidence(slug="sort-recall", size=size, parts=parts)
