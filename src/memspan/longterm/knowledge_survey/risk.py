"""How far a confidence can be trusted: of the questions that are answered, how many wrongly, at every threshold.

Selective prediction: coverage is the share of the questions that are answered, risk the share of wrong answers among
those (El-Yaniv and Wiener 2010); the area under risk over coverage, AURC, sums the curve up (Geifman et al. 2019).
A question without an answer in memory is answered wrongly whatever is said, and rightly declined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import InputError, MissingExtraError
from memspan.longterm.knowledge_survey.answerer import GroundedAnswerer

if TYPE_CHECKING:
    from memspan.longterm.memory import Memory

F64 = NDArray[np.float64]
_SPELLED = 12  # points of the curve that `to_json` keeps


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """Confidences with what became of the answers, the surest first.

    Attributes:
        confidence: [N] descending.
        right: [N] whether the answer is right; never for a question that memory cannot answer.
        answerable: [N] whether memory can answer it.
    """

    confidence: F64
    right: NDArray[np.bool_]
    answerable: NDArray[np.bool_]

    @property
    def coverage(self) -> F64:
        """[N] share of the questions that are answered when the first 1, 2, … N are."""
        return np.arange(1, len(self.confidence) + 1) / len(self.confidence)

    @property
    def risk(self) -> F64:
        """[N] share of wrong answers among the first 1, 2, … N; among equal confidences the order is left to chance."""
        wrong = np.r_[0.0, np.cumsum(~self.right)]
        ends = np.flatnonzero(np.r_[self.confidence[1:] != self.confidence[:-1], True]) + 1
        count = np.arange(1, len(self.confidence) + 1)
        risk: F64 = np.interp(count, np.r_[0, ends], np.r_[0.0, wrong[ends]]) / count
        return risk

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve: the mean risk over all coverages; lower is better."""
        return float(self.risk.mean())

    @property
    def auroc(self) -> float:
        """How often an answerable question gets more confidence than one that is not; NaN without both kinds."""
        known, rest = self.confidence[self.answerable], np.sort(self.confidence[~self.answerable])
        if not len(known) or not len(rest):
            return float("nan")
        below = np.searchsorted(rest, known, "left") + np.searchsorted(rest, known, "right")
        return float(below.mean() / (2 * len(rest)))

    def answered(self, threshold: float) -> float:
        """Share of the answerable questions that are answered at a threshold; NaN without any."""
        known = self.confidence[self.answerable]
        return float((known >= threshold).mean()) if len(known) else float("nan")

    def refused(self, threshold: float) -> float:
        """Share of the questions without an answer that are declined at a threshold; NaN without any."""
        rest = self.confidence[~self.answerable]
        return float((rest < threshold).mean()) if len(rest) else float("nan")

    def risk_at(self, threshold: float) -> float:
        """Share of wrong answers among those given at a threshold; 0 when none is."""
        given = self.confidence >= threshold
        return float((~self.right[given]).mean()) if given.any() else 0.0

    def threshold(self, *, coverage: float | None = None, risk: float | None = None) -> float:
        """A value for `abstain_below`.

        Args:
            coverage: the largest threshold that still answers this share of the answerable questions, 0 to 1.
            risk: the threshold that answers the most with at most this share of wrong answers, 0 to 1; 1 when there is
                none.

        Raises:
            InputError: not exactly one of the two, a value that is no share, or no answerable question.
        """
        if (coverage is None) == (risk is None):
            raise InputError("name either a coverage or a risk for the threshold")
        wanted = coverage if coverage is not None else risk
        if not isinstance(wanted, int | float) or not 0 <= wanted <= 1:
            raise InputError(f"coverage and risk must lie between 0 and 1, not {wanted!r}")
        if coverage is not None:
            known = self.confidence[self.answerable]
            if not len(known):
                raise InputError("a coverage needs questions that can be answered, and there is none")
            last = int(np.ceil(coverage * len(known) - 1e-9))
            return float(known[last - 1]) if last else 1.0
        held = [value for value in np.unique(self.confidence).tolist() if self.risk_at(value) <= wanted]
        return float(min(held, default=1.0))

    def to_json(self) -> dict[str, Any]:
        """The figures, and some points of the curve."""
        places = np.unique(np.linspace(0, len(self.confidence) - 1, _SPELLED).round().astype(int))
        return {
            "questions": len(self.confidence),
            "answerable": int(self.answerable.sum()),
            "right": int(self.right.sum()),
            "aurc": self.aurc,
            "auroc": _spoken(self.auroc),
            "curve": [
                {
                    "threshold": float(self.confidence[i]),
                    "coverage": float(self.coverage[i]),
                    "risk": float(self.risk[i]),
                }
                for i in places.tolist()
            ],
        }

    def plot(self, path: str | Path, *, threshold: float | None = None, label: str = "memspan") -> None:
        """Draw the curve into an image file; `threshold` is marked.

        Raises:
            MissingExtraError: matplotlib is not installed.
            InputError: the file cannot be written.
        """
        plot_curves({label: self}, path, threshold=threshold)


def plot_curves(curves: Mapping[str, RiskCoverage], path: str | Path, *, threshold: float | None = None) -> None:
    """Several curves in one image, each beside the risk that it would have in a random order; see `RiskCoverage.plot`.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "pip install 'memspan[plot]'") from error
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    for number, (label, curve) in enumerate(curves.items()):
        colour = f"C{number}"
        axes.plot(100 * curve.coverage, 100 * curve.risk, color=colour, label=f"{label}: AURC {curve.aurc:.3f}")
        axes.axhline(100 * float((~curve.right).mean()), color=colour, linestyle=":", linewidth=1)
        if threshold is not None:
            given = curve.confidence >= threshold
            place = int(given.sum()) - 1
            if place >= 0:
                axes.plot(100 * curve.coverage[place], 100 * curve.risk[place], "o", color=colour)
    axes.set(xlabel="questions answered (%)", ylabel="of these answered wrongly (%)", xlim=(0, 100))
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    title = "Risk and coverage; dotted: answers in a random order"
    axes.set_title(title if threshold is None else f"{title}; dot: threshold {threshold:.2f}", fontsize=10)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the plot to {path}: {error}") from None


def risk_coverage(
    confidence: Sequence[float], right: Sequence[bool], answerable: Sequence[bool] | None = None
) -> RiskCoverage:
    """The curve of answers that were all given, with how sure each was and whether it is right.

    Args:
        confidence: [N] of each answer; right: [N] whether it is right.
        answerable: [N] whether the question has an answer in memory; None is all.

    Raises:
        InputError: no answer, lists of different lengths, a confidence that is not finite, or a right answer to a
            question that has none.
    """
    sure, good = np.asarray(confidence, np.float64), np.asarray(right, np.bool_)
    known = np.ones(len(good), np.bool_) if answerable is None else np.asarray(answerable, np.bool_)
    if not len(sure) or not len(sure) == len(good) == len(known):
        raise InputError(f"{len(sure)} confidences, {len(good)} and {len(known)} judgements must be as many, and some")
    if not np.isfinite(sure).all():
        raise InputError("a confidence is not finite")
    if (good & ~known).any():
        raise InputError("a question that memory cannot answer is marked as answered rightly")
    order = np.argsort(-sure, kind="stable")
    return RiskCoverage(sure[order], good[order], known[order])


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """A question whose answer is known.

    Attributes:
        question: as it is asked.
        answers: every spelling of the answer; empty where memory holds none.
        evidence: ids of the episodes that hold it; empty when any may be cited.
        as_of: the moment it asks about.
    """

    question: str
    answers: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    as_of: str | None = None

    @property
    def answerable(self) -> bool:
        """Whether memory holds an answer."""
        return bool(self.answers or self.evidence)


def read_known_answers(path: str | Path) -> list[KnownAnswer]:
    """Questions from JSON lines: `question`, `answer` (text, a list of spellings, or null), `evidence`, `as_of`.

    Raises:
        InputError: the file cannot be read, or a line is no such question.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg})") from None
        found.append(_known_answer(f"{path}, line {number}", row))
    if not found:
        raise InputError(f"{path} holds no question")
    return found


def _known_answer(where: str, row: Any) -> KnownAnswer:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise InputError(f'{where}: needs an object with a "question"')
    values: dict[str, tuple[str, ...]] = {}
    for name in ("answer", "aliases", "evidence"):
        value = row.get(name)
        texts = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(f"{where}: {name} must be text, a list of texts, or null")
        values[name] = tuple(texts)
    as_of = row.get("as_of")
    if as_of is not None and not isinstance(as_of, str):
        raise InputError(f"{where}: as_of must be a date, as text")
    answers = (*values["answer"], *values["aliases"])
    return KnownAnswer(question=row["question"], answers=answers, evidence=values["evidence"], as_of=as_of)


def measure(memory: Memory, questions: Iterable[KnownAnswer], *, model: Any = None, **options: Any) -> RiskCoverage:
    """Answer every question, however unsure, and hold the confidences against what is right.

    An answer is right when it holds one of the spellings as words of its own, and cites one of the evidence's episodes
    where these are named.

    Args:
        model, options: of `GroundedAnswerer`; `abstain_below` is 0.

    Raises:
        InputError: no question, or an option that cannot be.
    """
    answerer = GroundedAnswerer(memory, model, **{**options, "abstain_below": 0.0})
    sure, good, known = [], [], []
    for asked in questions:
        answer = answerer.ask(asked.question, as_of=asked.as_of)
        said = any(_holds(answer.text, value) for value in asked.answers) if asked.answers else True
        cited = not asked.evidence or not {c.episode for c in answer.citations}.isdisjoint(asked.evidence)
        sure.append(answer.confidence)
        good.append(asked.answerable and not answer.abstained and said and cited)
        known.append(asked.answerable)
    return risk_coverage(sure, good, known)


def _holds(text: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def _spoken(value: float) -> float | None:
    return None if np.isnan(value) else value
