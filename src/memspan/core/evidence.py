"""What a claim returns, and how it is judged.

Verdicts are computed from value, baseline, threshold and ceiling and never written by hand, except "void" (there was
no gap to close) and "untestable", which need a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from memspan.core.errors import InputError

Size = Literal["smoke", "full"]
Verdict = Literal["holds", "partly", "fails", "void", "untestable"]

SIZES: tuple[Size, ...] = get_args(Size)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


# --- what a claim returns --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound on the value, on its ratio to the baseline, or on its difference from it; see `at_least`, `at_most`."""

    bound: float
    direction: Literal["at least", "at most"]
    of: Literal["value", "ratio", "difference"] = "value"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.direction == "at least" else -1

    def limit(self, baseline: float | None) -> float:
        """The bound on the value itself."""
        if self.of == "value" or baseline is None:
            return self.bound
        return baseline * self.bound if self.of == "ratio" else baseline + self.bound

    def __str__(self) -> str:
        relation = "≥" if self.direction == "at least" else "≤"
        if self.of == "ratio":
            return f"{relation} {self.bound:g} × baseline"
        if self.of == "difference":
            return f"{relation} baseline {'+' if self.bound >= 0 else '−'} {abs(self.bound):g}"
        return f"{relation} {self.bound:g}"


def at_least(bound: float, of: Literal["value", "ratio", "difference"] = "value") -> Threshold:
    """The value (its ratio to the baseline, its difference from it) must reach `bound`."""
    return Threshold(float(bound), "at least", of)


def at_most(bound: float, of: Literal["value", "ratio", "difference"] = "value") -> Threshold:
    """The value (its ratio to the baseline, its difference from it) must not exceed `bound`."""
    return Threshold(float(bound), "at most", of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A plot: named lines (or groups of bars), each a pair of x and y of equal length.

    Attributes:
        lines: name -> (x, y); for bars x are the labels. A y that is None or not finite is left out.
        x_label, y_label: what the axes show, with units.
        kind: "line" or "bar".
        threshold: a level to draw.
        log_x: logarithmic x axis (lines only; x must be positive).
    """

    lines: Mapping[str, tuple[Sequence[Any], Sequence[Any]]]
    x_label: str
    y_label: str
    title: str = ""
    kind: Literal["line", "bar"] = "line"
    threshold: float | None = None
    log_x: bool = False

    def __post_init__(self) -> None:
        clean: dict[str, tuple[list[Any], list[float | None]]] = {}
        for name, (x, y) in self.lines.items():
            if len(x) != len(y) or len(x) == 0:
                raise InputError(f"series {name!r}: {len(x)} x and {len(y)} y; give as many of each, at least one")
            if self.kind == "line" and not all(math.isfinite(v) and (v > 0 or not self.log_x) for v in x):
                raise InputError(f"series {name!r}: x must be finite, and positive on a logarithmic axis")
            xs: list[Any] = [str(v) if self.kind == "bar" else float(v) for v in x]
            clean[name] = (xs, [None if v is None or not math.isfinite(v) else float(v) for v in y])
        if not clean:
            raise InputError("a series needs at least one line")
        object.__setattr__(self, "lines", clean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One measured statement of a claim.

    Attributes:
        name: the statement in a few words; unique within its claim.
        metric: what `value` and `baseline` are, with the unit.
        value: what the system reached.
        baseline_name, baseline: the competitor (at equal bytes) and what it reached.
        threshold: when the statement holds; fixed before the run.
        ceiling: the best that can be reached; with `min_gap` it tells when there was no gap to close.
        min_gap: the part is void when the baseline is this close to the ceiling, or closer.
        void, untestable: the reason, in place of value and threshold.
        note: what a reader should know.
        series: a plot; rows: a table, one mapping of column -> cell for each row.

    Raises:
        InputError: a number is missing or not finite, or a baseline that the threshold needs.
    """

    name: str
    metric: str
    value: float | None = None
    baseline_name: str = ""
    baseline: float | None = None
    threshold: Threshold | None = None
    ceiling: float | None = None
    min_gap: float = 0.0
    void: str = ""
    untestable: str = ""
    note: str = ""
    series: Series | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        for key in ("value", "baseline", "ceiling", "min_gap"):
            number = getattr(self, key)
            if number is not None:
                object.__setattr__(self, key, float(number))
                if not math.isfinite(number):
                    raise InputError(f"part {self.name!r}: {key} is {number}; a claim needs finite numbers")
        if self.void and self.untestable:
            raise InputError(f"part {self.name!r}: void or untestable, not both")
        if not (self.void or self.untestable):
            if self.value is None or self.threshold is None:
                raise InputError(f"part {self.name!r}: give value and threshold, or the reason in void= or untestable=")
            relative = self.threshold.of != "value" or self.ceiling is not None
            if relative and self.baseline is None:
                raise InputError(f"part {self.name!r}: its threshold or ceiling needs a baseline")
            if self.threshold.of == "ratio" and (self.baseline or 0) < 0:
                raise InputError(f"part {self.name!r}: no ratio to a negative baseline; use of='difference'")
        if self.baseline is not None and not self.baseline_name:
            raise InputError(f"part {self.name!r}: name the baseline")
        object.__setattr__(self, "rows", [{str(key): _cell(cell) for key, cell in row.items()} for row in self.rows])


def _cell(value: Any) -> str | int | float | None:
    """A table's cell as JSON knows it; scalars of numpy and torch become Python's, what is not finite None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) or value is None else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a claim found at one size with one seed."""

    slug: str
    size: Size
    parts: Sequence[Part]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names):
            raise InputError(f"{self.slug}: the parts of a claim must be one or more, each with its own name")


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; "–" for None."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


# --- judging ---------------------------------------------------------------------------------------------------------


def judge(part: Part) -> tuple[Verdict, str]:
    """The verdict of one part and its reason.

    - *untestable*, *void*: as the claim says.
    - *fails*: the threshold is missed, and the value is not better than the baseline (or there is none).
    - *void*: there was no gap to close: the baseline is at the ceiling, or meets the same bound.
    - *holds*: the threshold is met.
    - *partly*: the threshold is missed, but the value is better than the baseline.
    """
    if part.untestable:
        return "untestable", part.untestable
    if part.void:
        return "void", part.void
    value, threshold, baseline = part.value, part.threshold, part.baseline
    assert value is not None and threshold is not None  # checked by Part
    sign, limit = threshold.sign, threshold.limit(baseline)
    met = sign * (value - limit) >= 0
    if baseline is None:
        return ("holds", f"{number(value)} {threshold}") if met else ("fails", f"{number(value)} is not {threshold}")
    better = sign * (value - baseline) > 0
    if threshold.of == "ratio" and baseline == 0:  # every multiple of 0 is 0, so only a gain counts
        met = better if sign > 0 else value <= 0
    against = f"{part.baseline_name} {number(baseline)}"
    if not met and sign * (value - baseline) < -part.min_gap:
        return "fails", f"{number(value)} is not {threshold}, and worse than {against}"
    if part.ceiling is not None and sign * (part.ceiling - baseline) <= part.min_gap:
        return "void", f"no gap to close: {against} is at the ceiling of {number(part.ceiling)}"
    if met and threshold.of == "value" and sign * (baseline - limit) >= 0:
        return "void", f"no gap to close: {against} meets the bound too"
    if met:
        return "holds", f"{number(value)} {threshold} ({against})"
    if better:
        return "partly", f"{number(value)} is better than {against}, but not {threshold}"
    return "fails", f"{number(value)} is not {threshold}, and no better than {against}"


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict for all parts: "holds" only if every one holds, "fails" if none of those judged holds even partly."""
    if all(verdict == "holds" for verdict in verdicts):
        return "holds"
    judged = [verdict for verdict in verdicts if verdict in ("holds", "partly", "fails")]
    if not judged:
        return "untestable" if all(verdict == "untestable" for verdict in verdicts) else "void"
    return "fails" if all(verdict == "fails" for verdict in judged) else "partly"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPart:
    """A part as the mean over the seeds, with its verdict, the reason, and the value of each seed."""

    part: Part
    verdict: Verdict
    reason: str
    values: list[float] = field(default_factory=list)


def combine(evidence: Sequence[Evidence]) -> list[JudgedPart]:
    """Judge the mean over seeds of each part; plots and tables are those of the first seed.

    Raises:
        InputError: the seeds differ in their parts, or a threshold moved with the seed.
    """
    first = evidence[0]
    judged = []
    for number, part in enumerate(first.parts):
        try:
            runs = [one.parts[number] for one in evidence]
        except IndexError:
            raise InputError(f"{first.slug}: the parts differ from seed to seed") from None
        if any(run.name != part.name for run in runs) or any(len(one.parts) != len(first.parts) for one in evidence):
            raise InputError(f"{first.slug}: the parts differ from seed to seed")
        left_out = [run for run in runs if run.void or run.untestable]
        if left_out:  # one seed that cannot be judged leaves the mean unjudged
            mean = left_out[0]
        else:
            if any(run.threshold != part.threshold for run in runs):
                raise InputError(f"{first.slug}, part {part.name!r}: the threshold moved with the seed")
            numbers = {key: _mean([getattr(run, key) for run in runs]) for key in ("value", "baseline", "ceiling")}
            mean = replace(part, **numbers)  # type: ignore[arg-type]
        verdict, reason = judge(mean)
        values = [run.value for run in runs if run.value is not None]
        judged.append(JudgedPart(part=mean, verdict=verdict, reason=reason, values=values))
    return judged


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(numbers) else None


def part_from_json(plain: Mapping[str, Any]) -> Part:
    """A part from its `dataclasses.asdict`, as it comes back from JSON."""
    nested: dict[str, Any] = {}
    if plain.get("threshold"):
        nested["threshold"] = Threshold(**plain["threshold"])
    if plain.get("series"):
        nested["series"] = Series(**plain["series"])
    return Part(**{**plain, **nested})
