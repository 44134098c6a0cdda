"""How the ledger shows what it counted: a table in plain text, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memspan.core.budget import format_bytes
from memspan.core.errors import InputError, MissingExtraError
from memspan.core.footprint import PLACES, TIERS, Footprint


def table(now: Footprint, peak: Footprint, highest: Footprint, rss: int, peak_rss: int) -> str:
    """An aligned table: rows are tiers and places, columns the three footprints; then totals and the process."""

    def rank(key: tuple[str, str]) -> tuple[int, int, str, str]:
        tier, place = key
        return (
            TIERS.index(tier) if tier in TIERS else len(TIERS),
            PLACES.index(place) if place in PLACES else len(PLACES),
            tier,
            place,
        )

    columns = (now, peak, highest)
    rows: list[tuple[str, ...]] = [("tier", "place", "now", "at the peak", "highest")]
    for key in sorted({key for column in columns for key in column.entries}, key=rank):
        rows.append((*key, *(format_bytes(column.entries.get(key, 0)) for column in columns)))
    for place in PLACES:
        if place in {**now.by_place, **peak.by_place}:
            sums = (format_bytes(column.by_place.get(place, 0)) for column in (now, peak))
            rows.append(("all", place, *sums, ""))
    if rss:
        rows.append(("process", "ram", format_bytes(rss), "", format_bytes(peak_rss)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
        cells += [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def plot(timeline: Sequence[tuple[float, Footprint]], path: Path) -> Path:
    """Write bytes in memory over seconds, tiers stacked, bytes on disk as a dashed line."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib, which plots need,", "pip install 'memspan[plot]'") from error

    seconds = [when for when, _ in timeline]
    tiers = list(sum((held for _, held in timeline), Footprint()).by_tier)
    mebibytes = [
        [
            sum(n for (tier, place), n in held.entries.items() if tier == name and place != "disk") / 2**20
            for _, held in timeline
        ]
        for name in tiers
    ]
    shown = [(name, line) for name, line in zip(tiers, mebibytes, strict=True) if any(line)]
    disk = [held.by_place.get("disk", 0) / 2**20 for _, held in timeline]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    if shown:
        axes.stackplot(seconds, *(line for _, line in shown), labels=[name for name, _ in shown], step="post")
    if any(disk):
        axes.plot(seconds, disk, "--", color="black", drawstyle="steps-post", label="disk")
    if shown or any(disk):
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set(xlabel="seconds", ylabel="MiB in memory", ylim=(0, None))
    axes.margins(x=0)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the plot cannot be written to {path}: {error}") from error
    return path
