"""How well `memspan ask` knows what is not in memory: risk against coverage, without a language model.

    python benchmarks/abstention.py --data DIR [--every N] [--fit] [--plot FILE.png] [--json] [--embedder SPEC]

DIR holds LoCoMo's layout (CC BY-NC 4.0; its category 5 asks one speaker for what the other said, and cannot be
answered), BEAM's (its ability `abstention` cannot be answered), or both. No text is kept. An answer is right when its
sentence is of the evidence; what cannot be answered is answered wrongly in any case. Reported are the area under the
risk-coverage curve (AURC, lower is better), how often an answerable question gets more confidence than one that is not
(AUROC), and how many of the unanswerable are declined at the threshold that answers 80 % of the others.

Without --fit the shipped weights are measured, which were fitted on LoCoMo's first half. With it they are fitted anew,
on the sets of `answers.py` and LoCoMo, and printed; each conversation of LoCoMo is then judged by weights that were
fitted without it. BEAM is never fitted on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from answers import Asked, fitted_confidence, locomo, made_up, right
from common import machine_line, say, table
from corpora import load

from memspan import Memory
from memspan.core.errors import InputError, MemspanError
from memspan.longterm.knowledge_survey.config import CONFIDENCE, KnowledgeSurveyConfig, logistic, weighted
from memspan.longterm.knowledge_survey.evidence import gather
from memspan.longterm.knowledge_survey.risk import RiskCoverage, plot_curves, risk_coverage

KEPT = 0.8  # share of the answerable questions that are still answered
BAR = 0.6  # of the others, to be declined then


def beam(folder: Path, embedder: Any, every: int = 1) -> list[Asked]:
    """Every n-th of BEAM's questions, and all that cannot be answered."""
    found = []
    for dataset in load(folder, unanswerable=True):
        if dataset.layout != "beam":
            continue
        for part in dataset.conversations:
            with Memory.open(":memory:", organizer="plain", embedder=embedder) as memory:
                memory.add(part.episodes)
                chosen = [q for n, q in enumerate(part.questions) if not q.evidence or n % every == 0]
                for question in chosen:
                    evidence = gather(memory, question.text, KnowledgeSurveyConfig(), {})
                    evidence.sentences, evidence.hits = (
                        evidence.sentences[:1],
                        [],
                    )  # chats are long, and kept they fill RAM
                    found.append(Asked(evidence, question.evidence, "", part.name))
            say(f"{dataset.name}: {part.name}")
    return found


def curve(asked: Sequence[Asked], weights: Sequence[Mapping[str, float]]) -> RiskCoverage:
    """The curve of questions, each judged by its weights."""
    sure = [
        logistic(weighted(own, one.found.features)) if one.found.sentences else 0.0
        for one, own in zip(asked, weights, strict=True)
    ]
    return risk_coverage(sure, [right(one) for one in asked], [bool(one.evidence) for one in asked])


def out_of_fold(sets: Mapping[str, Sequence[Asked]], asked: Sequence[Asked]) -> list[dict[str, float]]:
    """Of each question the weights that are fitted without its conversation."""
    folds = {}
    for name in dict.fromkeys(one.conversation for one in asked):
        rest = {group: [one for one in there if one.conversation != name] for group, there in sets.items()}
        folds[name] = fitted_confidence(rest)
    return [folds[one.conversation] for one in asked]


def row(name: str, found: RiskCoverage) -> dict[str, Any]:
    """The figures of one curve."""
    threshold = found.threshold(coverage=KEPT)
    return {
        "set": name,
        **found.to_json(),
        "threshold_80": threshold,
        "refused_80": found.refused(threshold),
        "answered_shipped": found.answered(KnowledgeSurveyConfig().abstain_below),
        "refused_shipped": found.refused(KnowledgeSurveyConfig().abstain_below),
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
    talks = list(locomo(options.data, embedder, 1 if options.fit else options.every))
    say(f"LoCoMo: {len(talks)} questions")
    chats = beam(options.data, embedder, options.every)
    curves: dict[str, RiskCoverage] = {}
    weights = dict(CONFIDENCE)
    if options.fit:
        if not talks:
            raise InputError(f"--fit needs LoCoMo's layout, and {options.data} does not hold it")
        sets: dict[str, list[Asked]] = {"LoCoMo, vectors": talks, "LoCoMo, words": list(locomo(options.data, None))}
        for vectors, chosen in (("words", None), ("vectors", embedder)):
            for organizer in ("plain", "zep"):
                sets[f"made up, {vectors}, {organizer}"] = list(made_up(chosen, organizer))
                say(f"made up, {vectors}, {organizer}")
        weights = fitted_confidence(sets)
        curves["LoCoMo, out of fold"] = curve(talks, out_of_fold(sets, talks))
        print("confidence", weights, file=sys.stderr if options.json else sys.stdout)
    elif talks:
        curves["LoCoMo, fitted on"] = curve(talks, [weights] * len(talks))
    if chats:
        curves["BEAM"] = curve(chats, [weights] * len(chats))
    rows = [row(name, found) for name, found in curves.items()]
    if options.plot:
        plot_curves(curves, options.plot)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    header = ["set", "questions", "unanswerable", "AURC", "AUROC", "refused at 80 %", "threshold"]
    header += ["at the default: answered", "refused"]
    print(table(header, [_cells(one) for one in rows]))
    for one in rows:
        verdict = "met" if one["refused_80"] >= BAR else "NOT MET"
        print(f"bar, {one['set']}: at least {BAR:.0%} refused where {KEPT:.0%} are answered: {verdict}")
    print(machine_line())


def _cells(one: Mapping[str, Any]) -> list[str]:
    figures = ("aurc", "auroc", "refused_80", "threshold_80", "answered_shipped", "refused_shipped")
    counts = [str(one["questions"]), str(one["questions"] - one["answerable"])]
    return [one["set"], *counts, *(f"{one[name]:.3f}" for name in figures)]


if __name__ == "__main__":
    try:
        main()
    except MemspanError as error:
        raise SystemExit(f"abstention: {error}") from None
