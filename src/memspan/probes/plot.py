"""A picture of a report: scores with intervals by what the exam breaks them down by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError, MissingExtraError
from memspan.probes.run import Report


def plot(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw it: lines over the exam's curve, or over length where there are several, else bars (PNG, SVG or PDF).

    Raises:
        InputError: the picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "pip install 'memspan[local]'") from error
    rows = report.table()
    along = report.curve or ("length" if len(report.lengths) > 1 and "length" in report.breakdown else "")
    if along and len({row[along] for row in rows}) < 2:
        along = ""
    differing = [name for name in report.breakdown if name != along and len({str(row[name]) for row in rows}) > 1]

    def named(row: dict[str, Any]) -> str:
        """What tells a row from the others: the first group, and whatever else differs."""
        more = [f"{name} {row[name]}" for name in differing if name != report.breakdown[0]]
        return ", ".join([str(row[report.breakdown[0]]), *more])

    names = list(dict.fromkeys(named(row) for row in rows))
    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
    if along:
        for name in names:
            line = [row for row in rows if named(row) == name]
            x = [row[along] for row in line]
            y = [row["score"] for row in line]
            axis.plot(x, y, marker="o", markersize=4, label=name)
            axis.fill_between(x, [row["low"] for row in line], [row["high"] for row in line], alpha=0.12)
        places = sorted({row[along] for row in rows})
        if places[0] > 0:
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=1)
        axis.set_xlabel(report.curve or "tokens")
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    else:
        heights = [row["score"] for row in rows]
        errors = [
            [max(0.0, row["score"] - row["low"]) for row in rows],
            [max(0.0, row["high"] - row["score"]) for row in rows],
        ]
        axis.bar(range(len(rows)), heights, yerr=errors, capsize=3)
        axis.set_xticks(range(len(rows)), names)
    if report.chance is not None:
        axis.axhline(report.chance, linestyle=":", color="grey")
        axis.text(0.01, report.chance + 0.01, "chance", transform=axis.get_yaxis_transform(), fontsize=8, color="grey")
    axis.set(ylabel="score", ylim=(0, 1.03), title=f"{report.exam}: {report.subject}, by {report.form}")
    figure.tight_layout()
    try:
        figure.savefig(Path(path), dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"the picture cannot be written to {path}: {error}") from error
