"""A report card: several subjects, every exam that they can sit, the same items for all.

Lengths are estimated alike for every subject, so that all of them answer the same questions and their scores can be
compared in pairs. What a subject cannot sit is listed with the reason. With a folder, each exam goes on where it
stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memspan.core.errors import BudgetError, InputError, MissingExtraError, UnsupportedModelError
from memspan.probes.base import Exam, Form, Subject
from memspan.probes.run import OtherRunError, Report, run
from memspan.probes.statistics import difference

SCHEMA = "memspan-card-1"
LENGTHS = (512, 1024)
_REASONS = (InputError, UnsupportedModelError, MissingExtraError, BudgetError)
N = 12


@dataclass(frozen=True, slots=True)
class Refusal:
    """An exam that a subject did not sit, and why."""

    exam: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Score of a subject less that of the first, over the same items, with a 95 % paired interval."""

    exam: str
    subject: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What subjects scored, side by side.

    Attributes:
        subjects, exams: in the order of the page.
        reports: of what was sat.
        refusals: of what was not.
    """

    subjects: tuple[str, ...]
    exams: tuple[str, ...]
    reports: tuple[Report, ...]
    refusals: tuple[Refusal, ...]

    def report(self, exam: str, subject: str) -> Report | None:
        """One cell of the card."""
        return next((one for one in self.reports if (one.exam, one.subject) == (exam, subject)), None)

    def differences(self) -> list[Difference]:
        """Each subject against the first, on exams that both sat in the same form."""
        found = []
        for exam in self.exams:
            first = self.report(exam, self.subjects[0])
            for subject in self.subjects[1:]:
                other = self.report(exam, subject)
                if first is None or other is None or first.form != other.form:
                    continue
                ours, theirs = ({item.id: item.score for item in one.items} for one in (other, first))
                both = [name for name in ours if name in theirs]
                if both:
                    gap = difference([ours[name] for name in both], [theirs[name] for name in both])
                    found.append(Difference(exam, subject, *gap))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": SCHEMA,
            "subjects": list(self.subjects),
            "exams": list(self.exams),
            "reports": [report.to_json() for report in self.reports],
            "refusals": [{"exam": one.exam, "subject": one.subject, "reason": one.reason} for one in self.refusals],
            "differences": [
                {"exam": one.exam, "subject": one.subject, "value": one.value, "interval": [one.low, one.high]}
                for one in self.differences()
            ],
        }


def sit_all(
    exams: Mapping[str, Callable[[], Exam]],
    subjects: Sequence[Callable[[Exam], Subject]],
    *,
    n: int = N,
    lengths: Sequence[int] = (),
    seed: int = 0,
    form: Form | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Card:
    """Let every subject sit every exam.

    Args:
        exams: by name; making one may fail, and is then a reason.
        subjects: each makes a subject for an exam; who can be made for none is an error, else a reason.
        n: items of each length.
        lengths: in tokens, estimated; none are 512 and 1,024, or what an exam takes at least.
        seed, form, out, progress: as of `run`.

    Raises:
        InputError: no exam or no subject, two subjects of one name, or answers of another run in the folder.
        ModelError: an endpoint fell silent; the same call with the same folder goes on.
    """
    if not exams or not subjects:
        raise InputError("a report card needs at least one exam and one subject")
    reports, refusals = list[Report](), list[Refusal]()
    made: dict[str, Exam] = {}
    for name, make in exams.items():
        try:
            made[name] = make()
        except (InputError, MissingExtraError) as error:
            refusals.append(Refusal(name, "", str(error)))
    sitting = [_made(subject, made) for subject in subjects]
    names = [next(one.name for one in by_exam.values() if not isinstance(one, Exception)) for by_exam in sitting]
    if len(set(names)) < len(names):
        raise InputError(f"two of the subjects are called the same: {', '.join(names)}")
    for name, exam in made.items():
        for called, by_exam in zip(names, sitting, strict=True):
            subject = by_exam[name]
            if isinstance(subject, Exception):
                refusals.append(Refusal(name, called, str(subject)))
                continue
            try:
                sizes = list(lengths) or _usual(exam)
                options: dict[str, Any] = {"seed": seed, "form": form, "out": out, "progress": progress}
                reports.append(run(exam, subject, n=n, lengths=sizes, alike=True, **options))
            except OtherRunError:
                raise
            except _REASONS as error:
                refusals.append(Refusal(name, called, str(error)))
    return Card(subjects=tuple(names), exams=tuple(exams), reports=tuple(reports), refusals=tuple(refusals))


def _made(make: Callable[[Exam], Subject], exams: Mapping[str, Exam]) -> dict[str, Subject | Exception]:
    """A subject for each exam, or why it cannot sit it; who can sit none is an error."""
    found: dict[str, Subject | Exception] = {}
    for name, exam in exams.items():
        try:
            found[name] = make(exam)
        except _REASONS as error:
            found[name] = error
    errors = [one for one in found.values() if isinstance(one, Exception)]
    if len(errors) == len(found):
        raise errors[0] if errors else InputError("none of the exams can be made")
    return found


def _usual(exam: Exam) -> list[int]:
    if exam.usual == (0,):
        return [0]
    return [length for length in LENGTHS if length >= exam.least] or [max(*LENGTHS, exam.least)]
