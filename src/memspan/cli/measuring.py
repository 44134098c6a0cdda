"""`memspan calibrate`: how far the confidence of answers can be trusted on the user's own questions."""

from __future__ import annotations

import argparse
import math

from memspan.cli.verbs import _memory, _print_json, _table
from memspan.core.errors import InputError, StoreError

COVERAGE = 0.8
"""The share of answerable questions to answer when neither a coverage nor a risk is named."""


def calibrate(options: argparse.Namespace) -> int:
    """`memspan calibrate`."""
    from memspan.longterm.knowledge_survey import KnowledgeSurveyConfig
    from memspan.longterm.knowledge_survey.risk import measure, read_known_answers

    if options.coverage is not None and options.risk is not None:
        raise InputError("name --coverage or --risk, not both")
    questions = read_known_answers(options.questions)
    model = None
    if options.model != "none":
        from memspan.models import load_language_model

        model = load_language_model(options.model)
    with _memory(options) as memory:
        curve = measure(memory, questions, model=model)
    if options.risk is not None:
        wanted, threshold = f"risk at most {options.risk:.0%}", curve.threshold(risk=options.risk)
    else:
        coverage = COVERAGE if options.coverage is None else options.coverage
        wanted, threshold = f"{coverage:.0%} answered", curve.threshold(coverage=coverage)
    if options.plot:
        curve.plot(options.plot, threshold=threshold)
    default = KnowledgeSurveyConfig().abstain_below
    places = {
        name: {
            "threshold": value,
            "answered": _spoken(curve.answered(value)),
            "refused": _spoken(curve.refused(value)),
            "risk": curve.risk_at(value),
        }
        for name, value in ((wanted, threshold), ("the default", default))
    }
    if options.json:
        _print_json({**curve.to_json(), "thresholds": places})
        return 0
    unknown = len(questions) - int(curve.answerable.sum())
    print(f"{len(questions):,} questions, {unknown:,} without an answer in memory; AURC {curve.aurc:.3f}", end="")
    print("\n" if math.isnan(curve.auroc) else f", AUROC {curve.auroc:.3f}\n")
    rows = [
        [name, f"{at['threshold']:.3f}", *(_percent(at[what]) for what in ("answered", "refused", "risk"))]
        for name, at in places.items()
    ]
    columns = ["threshold for", "abstain_below", "answered", "refused of the rest", "wrong of those answered"]
    print(_table(columns, rows, right={1, 2, 3, 4}))
    if options.plot:
        print(f"\nthe curve: {options.plot}")
    return 0


def _spoken(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def doctor(options: argparse.Namespace) -> int:
    """`memspan doctor`."""
    from memspan.cli.verbs import _memory, _print_json

    options.embedder = "none"
    with _memory(options) as memory:
        problems = memory.check(repair=options.repair, progress=not options.quiet)
        left = memory.check() if options.repair and problems else problems
    if options.json:
        _print_json({"problems": problems, "left": left})
    else:
        told = [f"{'left' if problem in left else 'repaired'}: {problem}" for problem in problems]
        print("\n".join(told if options.repair else problems) or "sound")
    return StoreError.exit_code if left else 0
