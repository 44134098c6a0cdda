"""Fit and measure what `memspan ask` answers by: which sentence is the evidence, and when to abstain.

    python benchmarks/answers.py [--data DIR] [--every N] [--fit] [--embedder bundled] [--cache FILE]

Questions come from conversations and passages made from seeds (see `memspan.longterm.knowledge_survey.generated`) and,
where --data names a folder with LoCoMo's layout, from LoCoMo (CC BY-NC 4.0; category 5 is unanswerable: false premises,
mostly about the wrong speaker). No text is kept. Without --fit the shipped weights are measured; with it they are
fitted anew on these questions first and printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memspan import Episode, Memory
from memspan.core.errors import MemspanError
from memspan.longterm.knowledge_survey.confidence import confidence_features
from memspan.longterm.knowledge_survey.config import CONFIDENCE, SELECTION, KnowledgeSurveyConfig, logistic, weighted
from memspan.longterm.knowledge_survey.evidence import Evidence, gather
from memspan.longterm.knowledge_survey.generated import conversation, encyclopedia, unanswerable
from memspan.longterm.readers.questions import load

CONVERSATIONS, ENCYCLOPEDIAS = range(100, 112), range(100, 103)
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
NOT_FITTED = ("void", "closed", "late")
WORDS_SHARE = 0.25  # a question without vectors weighs this much: vectors are what most stores have
REAL_SHARE = 4.0  # of the confidence: questions of people on conversations that no program made
REAL = ("LoCoMo", "BEAM")
UNSURE = 0.5  # what an answerable question counts as whose best sentence is not of the evidence


@dataclass(slots=True)
class Asked:
    """A question, its evidence (none when it cannot be answered) and what was found for it."""

    found: Evidence
    evidence: tuple[str, ...]
    answer: str
    conversation: str = ""


def made_up(embedder: Any, organizer: str) -> Iterator[Asked]:
    """Questions on made-up conversations and passages."""
    config = KnowledgeSurveyConfig()
    for seed in CONVERSATIONS:
        made = conversation(seed)
        with Memory.open(":memory:", organizer=organizer, embedder=embedder) as memory:
            memory.add(made.episodes)
            for item in (*made.answerable, *made.unanswerable):
                yield Asked(gather(memory, item.question, config, {}), item.evidence, item.answer)
    for seed in ENCYCLOPEDIAS:
        paragraphs = encyclopedia(seed, 40)
        with Memory.open(":memory:", organizer="plain", embedder=embedder) as memory:
            memory.add([Episode(text=p.text, id=p.id) for p in paragraphs])
            for item in (*(i for p in paragraphs for i in p.items[:2]), *unanswerable(paragraphs, seed)):
                yield Asked(gather(memory, item.question, config, {}), item.evidence, item.answer)


def locomo(folder: Path, embedder: Any, every: int = 1) -> Iterator[Asked]:
    """Every n-th of LoCoMo's questions; the adversarial ones count as unanswerable."""
    for dataset in load(folder):
        if dataset.layout != "locomo":
            continue
        for part in dataset.conversations:
            with Memory.open(":memory:", organizer="plain", embedder=embedder) as memory:
                memory.add(part.episodes)
                for question in part.questions[::every]:
                    evidence = () if question.category == "adversarial" else question.evidence
                    yield Asked(gather(memory, question.text, KnowledgeSurveyConfig(), {}), evidence, "", part.name)


def fitted_selection(sets: Mapping[str, Sequence[Asked]]) -> dict[str, float]:
    """Weights that raise the likelihood of the evidence's sentences among all sentences found."""
    import torch

    names = [name for name in SELECTION if name not in NOT_FITTED]
    rows: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]] = []
    for group, asked in sets.items():
        for one in asked:
            said = [s.episode in one.evidence for s in one.found.sentences]
            held = [a and one.answer.lower() in s.text.lower() for a, s in zip(said, one.found.sentences, strict=True)]
            right = held if any(held) else said
            if any(right):
                found = [[s.features.get(name, 0.0) for name in names] for s in one.found.sentences]
                rows.append((np.array(found), np.array(right), _share(group) / len(asked)))
    longest = max(len(right) for _, right, _ in rows)
    x = torch.zeros(len(rows), longest, len(names), dtype=torch.float64)
    y = torch.full((len(rows), longest), -30.0, dtype=torch.float64)
    padding = torch.full((len(rows), longest), -1e9, dtype=torch.float64)
    for i, (found, right, _) in enumerate(rows):
        x[i, : len(right)], padding[i, : len(right)] = torch.from_numpy(found), 0
        y[i, : len(right)][torch.from_numpy(right)] = 0
    share = torch.tensor([weight for _, _, weight in rows], dtype=torch.float64)
    share /= share.sum()
    weights = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = torch.log_softmax(x @ weights + padding, 1)
        value = -(share * torch.logsumexp(scores + y, 1)).sum() + 1e-3 * (weights**2).sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)
    fitted = dict(zip(names, weights.detach().round(decimals=2).tolist(), strict=True))
    return {name: fitted.get(name, SELECTION[name]) for name in SELECTION}


def _share(group: str) -> float:
    return WORDS_SHARE if "words" in group else 1.0


def right(one: Asked) -> bool:
    """Whether the best sentence is of the evidence."""
    return bool(one.found.sentences) and one.found.sentences[0].episode in one.evidence


def fitted_confidence(sets: Mapping[str, Sequence[Asked]]) -> dict[str, float]:
    """Logistic regressions: does the best sentence answer?

    It counts as an answer when it is of the evidence, and as half of one when the question has an answer elsewhere: to
    decline is worst where memory does hold one, to answer where it holds none. The weights of what only chats with an
    assistant have are fitted on these chats, the others before that on all else: the two ask differently.
    """
    rows = [
        (one, _share(group) * (REAL_SHARE if group.startswith(REAL) else 1) / len(asked))
        for group, asked in sets.items()
        for one in asked
        if one.found.sentences
    ]
    fitted = dict.fromkeys(CONFIDENCE, 0.0)
    for chat in (False, True):
        names = [name for name in CONFIDENCE if name not in NOT_FITTED and name.startswith("chat") == chat]
        part = [(one, share) for one, share in rows if bool(one.found.features.get("chat")) == chat]
        if part:
            fitted |= _logistic_fit(part, names, fitted)
    return {name: CONFIDENCE[name] if name in NOT_FITTED else fitted[name] for name in CONFIDENCE}


def _logistic_fit(
    rows: Sequence[tuple[Asked, float]], names: Sequence[str], given: Mapping[str, float]
) -> dict[str, float]:
    """Newton's method on the weights of these names, beside those that are given."""
    x = np.array([[weighted({name: 1.0}, one.found.features) for name in names] for one, _ in rows])
    y = np.array([1.0 if right(one) else UNSURE if one.evidence else 0.0 for one, _ in rows])
    before = np.array([weighted(given, one.found.features) for one, _ in rows])
    share = np.array([weight for _, weight in rows])
    share /= share.sum()
    ridge = 1e-3 * np.diag([float(name != "bias") for name in names])
    weights = np.zeros(len(names))
    for _ in range(50):
        p = 1 / (1 + np.exp(-before - x @ weights))
        curvature = (x * (share * p * (1 - p))[:, None]).T @ x + ridge
        weights -= np.linalg.solve(curvature, x.T @ (share * (p - y)) + ridge @ weights)
    return dict(zip(names, weights.round(2).tolist(), strict=True))


def ranked(sets: Mapping[str, Sequence[Asked]], weights: Mapping[str, float]) -> None:
    """Order every question's sentences by the weights, and compute the features of the confidence anew."""
    for asked in sets.values():
        for one in asked:
            for sentence in one.found.sentences:
                sentence.score = weighted(weights, sentence.features)
            one.found.sentences.sort(key=lambda s: -s.score)
            one.found.features = confidence_features(one.found.question, one.found.sentences, weights)


def report(sets: Mapping[str, Sequence[Asked]], weights: Mapping[str, float]) -> None:
    """For each set and threshold: how much is answered, how often rightly, how much of the unanswerable declined."""
    print(f"{'set':34}{'below':>7}{'answered':>10}{'cites right':>13}{'declined':>10}   (answerable; those; the rest)")
    for name, asked in sets.items():
        sure = np.array([logistic(weighted(weights, o.found.features)) if o.found.sentences else 0.0 for o in asked])
        known = np.array([bool(one.evidence) for one in asked])
        good = np.array([right(one) for one in asked])
        for threshold in THRESHOLDS:
            given = sure >= threshold
            answered, accuracy = given[known].mean(), good[known & given].mean()
            print(f"{name:34}{threshold:7.2f}{answered:10.3f}{accuracy:13.3f}{(~given)[~known].mean():10.3f}")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="a folder with LoCoMo's layout")
    parser.add_argument("--every", type=int, default=1, help="ask only every n-th question of LoCoMo")
    parser.add_argument("--embedder", default="bundled")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/memspan/benchmark-vectors.db", help="vectors by content"
    )
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    from memspan.models import load_embedder

    sets: dict[str, list[Asked]] = {}
    for vectors, embedder in (("words", None), ("vectors", load_embedder(options.embedder, cache=options.cache))):
        for organizer in ("plain", "zep"):
            sets[f"made up, {vectors}, {organizer}"] = list(made_up(embedder, organizer))
        if options.data:
            sets[f"LoCoMo, {vectors}"] = list(locomo(options.data, embedder, options.every))
    selection, confidence = dict(SELECTION), dict(CONFIDENCE)
    if options.fit:
        selection = fitted_selection(sets)
    ranked(sets, selection)
    for name, asked in sets.items():
        known = [one for one in asked if one.evidence]
        print(f"{name:34} best sentence is of the evidence: {np.mean([right(one) for one in known]):.3f}")
    if options.fit:
        confidence = fitted_confidence(sets)
        print("selection", selection)
        print("confidence", confidence)
    report(sets, confidence)


if __name__ == "__main__":
    try:
        main()
    except MemspanError as error:
        raise SystemExit(f"answers: {error}") from None
