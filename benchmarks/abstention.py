"""How well `memspan ask` knows what is not in memory: risk against coverage, without a language model.

    python benchmarks/abstention.py --data DIR [--every N] [--fit] [--plot FILE.png] [--json] [--embedder SPEC]

DIR holds LoCoMo's layout (CC BY-NC 4.0; its category 5 asks one speaker for what the other said, and cannot be
answered), BEAM's (its ability `abstention` cannot be answered), or both. No text is kept. An answer is right when its
sentence is of the evidence; what cannot be answered is answered wrongly in any case. Reported are, for each set and for
both together, the area under the risk-coverage curve (AURC, lower is better), how often an answerable question gets
more confidence than one that is not (AUROC), and how many of the unanswerable are declined at the threshold that
answers 80 % of the others; each with a 95 % percentile bootstrap over conversations.

Without --fit the shipped weights are measured, which were fitted on the first halves of LoCoMo and of BEAM: on these
the figures flatter. With it they are fitted anew, on both and on the made-up sets of `answers.py`, and printed; each
conversation is then judged by weights that were fitted without it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from answers import Asked, fitted_confidence, made_up, right
from common import machine_line, say, table

from memspan import Memory
from memspan.core.errors import InputError, MemspanError
from memspan.longterm.knowledge_survey.config import CONFIDENCE, KnowledgeSurveyConfig, logistic, weighted
from memspan.longterm.knowledge_survey.evidence import Evidence, gather
from memspan.longterm.knowledge_survey.risk import RiskCoverage, plot_curves, risk_coverage
from memspan.longterm.readers.questions import load

KEPT = 0.8  # share of the answerable questions that are still answered
BAR = 0.6  # of the others, to be declined then
SETS = ("LoCoMo", "BEAM")
UNANSWERABLE = ("adversarial", "abstention")
RESAMPLES = 1000


def asked_of(folder: Path, layout: str, embedder: Any, every: int = 1) -> list[Asked]:
    """Every n-th of a set's questions that can be answered, and all that cannot."""
    found: list[Asked] = []
    for dataset in load(folder, unanswerable=True):
        if dataset.layout != layout:
            continue
        for part in dataset.conversations:
            with Memory.open(":memory:", organizer="plain", embedder=embedder) as memory:
                memory.add(part.episodes)
                for number, question in enumerate(part.questions):
                    evidence = () if question.category == "adversarial" else question.evidence
                    if number % every if evidence else question.category not in UNANSWERABLE:
                        continue
                    found.append(slim(Asked(_evidence(memory, question.text), evidence, "", part.name)))
            say(f"{dataset.name}, {'words' if embedder is None else 'vectors'}: {part.name}, {len(found)} questions")
    return found


def _evidence(memory: Memory, question: str) -> Evidence:
    return gather(memory, question, KnowledgeSurveyConfig(), {})


def slim(one: Asked) -> Asked:
    """Without all that the curve does not need: of long chats, everything that was found would fill the RAM."""
    one.found.sentences, one.found.hits, one.found.facts = one.found.sentences[:1], [], []
    return one


@dataclass(frozen=True, slots=True)
class Judged:
    """A set's questions with the confidence in each."""

    asked: Sequence[Asked]
    sure: Sequence[float]

    def curve(self) -> RiskCoverage:
        """All questions."""
        return _curve(self.asked, self.sure)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % of the figures over conversations that are drawn anew, with replacement."""
        named: dict[str, list[int]] = {}
        for place, one in enumerate(self.asked):
            named.setdefault(one.conversation, []).append(place)
        chance, groups = np.random.default_rng(0), list(named.values())
        drawn = []
        for _ in range(RESAMPLES):
            chosen = [i for k in chance.integers(0, len(groups), len(groups)) for i in groups[k]]
            found = _curve([self.asked[i] for i in chosen], [self.sure[i] for i in chosen])
            if 0 < found.answerable.sum() < len(chosen):
                drawn.append((found.aurc, found.auroc, found.refused(found.threshold(coverage=KEPT))))
        low, high = np.percentile(np.array(drawn), (2.5, 97.5), axis=0).tolist()
        return dict(zip(("aurc", "auroc", "refused_80"), zip(low, high, strict=True), strict=True))


def _curve(asked: Sequence[Asked], sure: Sequence[float]) -> RiskCoverage:
    return risk_coverage(sure, [right(one) for one in asked], [bool(one.evidence) for one in asked])


def judged(asked: Sequence[Asked], weights: Sequence[Mapping[str, float]]) -> Judged:
    """Questions, each judged by its weights."""
    sure = [
        logistic(weighted(own, one.found.features)) if one.found.sentences else 0.0
        for one, own in zip(asked, weights, strict=True)
    ]
    return Judged(asked, sure)


def together(sets: Sequence[Judged]) -> Judged:
    """The questions of several sets as one."""
    return Judged([one for part in sets for one in part.asked], [value for part in sets for value in part.sure])


def out_of_fold(sets: Mapping[str, Sequence[Asked]], names: Sequence[str]) -> dict[str, Judged]:
    """The sets of these names, each question judged by weights that are fitted without its conversation."""
    folds = {}
    for name in dict.fromkeys(one.conversation for group in names for one in sets[group]):
        rest = {group: [one for one in there if one.conversation != name] for group, there in sets.items()}
        folds[name] = fitted_confidence(rest)
    return {group: judged(sets[group], [folds[one.conversation] for one in sets[group]]) for group in names}


def row(name: str, questions: Judged) -> dict[str, Any]:
    """The figures of one curve."""
    found = questions.curve()
    threshold = found.threshold(coverage=KEPT)
    return {
        "set": name,
        **found.to_json(),
        "threshold_80": threshold,
        "refused_80": found.refused(threshold),
        "answered_shipped": found.answered(KnowledgeSurveyConfig().abstain_below),
        "refused_shipped": found.refused(KnowledgeSurveyConfig().abstain_below),
        "intervals": questions.intervals(),
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with LoCoMo's or BEAM's layout")
    parser.add_argument("--every", type=int, default=1, help="ask only every n-th question that can be answered")
    parser.add_argument("--embedder", default="bundled")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/memspan/benchmark-vectors.db", help="vectors by content"
    )
    parser.add_argument("--fit", action="store_true", help="fit anew, cross-validated, and print the weights")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    from memspan.models import load_embedder

    embedder = load_embedder(options.embedder, cache=options.cache)
    every = 1 if options.fit else options.every
    sets: dict[str, list[Asked]] = {}
    for name in SETS:
        if asked := asked_of(options.data, name.lower(), embedder, every):
            sets[f"{name}, vectors"] = asked
    if not sets:
        raise InputError(f"{options.data} holds neither LoCoMo's layout nor BEAM's")
    real, weights = list(sets), dict(CONFIDENCE)
    if options.fit:
        sets |= {
            f"{name.split(',')[0]}, words": asked_of(options.data, name.split(",")[0].lower(), None) for name in real
        }
        for vectors, chosen in (("words", None), ("vectors", embedder)):
            for organizer in ("plain", "zep"):
                sets[f"made up, {vectors}, {organizer}"] = [slim(one) for one in made_up(chosen, organizer)]
                say(f"made up, {vectors}, {organizer}")
        weights = fitted_confidence(sets)
        found = out_of_fold(sets, real)
        print("confidence", weights, file=sys.stderr if options.json else sys.stdout)
    else:
        found = {name: judged(sets[name], [weights] * len(sets[name])) for name in real}
    shown = {name.split(",")[0]: found[name] for name in real}
    if len(shown) > 1:
        shown["both"] = together(list(shown.values()))
    rows = [row(name, questions) for name, questions in shown.items()]
    if options.plot:
        plot_curves({name: questions.curve() for name, questions in shown.items()}, options.plot)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("each judged by weights fitted without its conversation" if options.fit else "by the shipped weights")
    header = ["set", "questions", "unanswerable", "AURC", "95 %", "AUROC", "95 %", "refused at 80 %", "95 %"]
    header += ["threshold", "at the default: answered", "refused"]
    print(table(header, [_cells(one) for one in rows]))
    for one in rows:
        verdict = "met" if one["refused_80"] >= BAR else "NOT MET"
        print(f"bar, {one['set']}: at least {BAR:.0%} refused where {KEPT:.0%} are answered: {verdict}")
    print(machine_line())


def _cells(one: Mapping[str, Any]) -> list[str]:
    cells = [one["set"], str(one["questions"]), str(one["questions"] - one["answerable"])]
    for name in ("aurc", "auroc", "refused_80"):
        low, high = one["intervals"][name]
        cells += [f"{one[name]:.3f}", f"{low:.2f} to {high:.2f}"]
    return [*cells, *(f"{one[name]:.3f}" for name in ("threshold_80", "answered_shipped", "refused_shipped"))]


if __name__ == "__main__":
    try:
        main()
    except MemspanError as error:
        raise SystemExit(f"abstention: {error}") from None
