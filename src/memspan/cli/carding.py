"""`memspan probe all`: every exam that the subjects can sit, on one page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError, StoreError

if TYPE_CHECKING:
    from memspan.probes.base import Exam, Subject
    from memspan.probes.card import Card

FOLDER = "results/probe"


def card(options: argparse.Namespace, specs: list[str]) -> int:
    """`memspan probe all`."""
    from memspan.cli.probing import lengths_of, recordings
    from memspan.probes.card import N, sit_all
    from memspan.probes.page import page

    if options.export or options.option:
        raise InputError("--export and --option belong to one exam: name it instead of all")
    folder = Path(options.out or FOLDER).expanduser()
    found = sit_all(
        _exams(recordings(options.data)),
        [_kept(spec, options.seed, options.timeout) for spec in specs],
        n=N if options.n is None else options.n,
        lengths=lengths_of(options),
        seed=options.seed,
        form=options.form,
        out=folder,
        progress=not options.quiet and sys.stderr.isatty(),
    )
    said = json.dumps(found.to_json(), ensure_ascii=False, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "card.json").write_text(said, encoding="utf-8")
        (folder / "card.html").write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the report card cannot be written to {folder}: {error}") from error
    if options.json:
        print(said)
        return 0
    print(_shown(found))
    if not options.quiet:
        print(f"\nthe page: {folder / 'card.html'}", file=sys.stderr)
    return 0


def _exams(recorded: dict[str, list[Any]]) -> dict[str, Callable[[], Exam]]:
    """Exams of the catalogue that work, those that are no system of it, and those whose data is there."""
    from memspan.core.catalog import systems
    from memspan.probes.find import ALIASES, find_exam
    from memspan.probes.recorded import Recorded

    def make(kind: type[Exam]) -> Exam:
        if not issubclass(kind, Recorded):
            return kind()
        if kind.layout not in recorded:
            raise InputError(f"no conversations in the layout of {kind.slug} were named (--data)")
        return kind(conversations=recorded[kind.layout])

    slugs = dict.fromkeys((*ALIASES, *(info.slug for info in systems("probes", "working"))))
    return {slug: partial(make, find_exam(slug)) for slug in slugs}


def _kept(spec: str, seed: int, timeout: float) -> Callable[[Exam], Subject]:
    """The subject of a spec, made once for each role, but for those that look at the exam."""
    from memspan.cli.probing import subject_of

    made: dict[str, Subject] = {}

    def subject(exam: Exam) -> Subject:
        if spec.rpartition(":")[2] in ("oracle", "guesser"):
            return subject_of(spec, exam, seed, timeout)
        if exam.role not in made:
            made[exam.role] = subject_of(spec, exam, seed, timeout)
        return made[exam.role]

    return subject


def _shown(found: Card) -> str:
    from memspan.cli.verbs import _table

    rows = []
    for exam in found.exams:
        cells = []
        for subject in found.subjects:
            report = found.report(exam, subject)
            low, high = (0.0, 0.0) if report is None else report.interval
            cells.append("not sat" if report is None else f"{report.score:.0%} ({low:.0%} – {high:.0%})")
        if any(cell != "not sat" for cell in cells):
            rows.append([exam, *cells])
    lines = [_table(["exam", *found.subjects], rows)]
    reasons = [f"  {one.exam}, {one.subject or 'all'}: {one.reason}" for one in found.refusals]
    return "\n".join([*lines, *(["", "not sat:", *reasons] if reasons else [])])
