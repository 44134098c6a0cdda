"""A picture of events: where the animals were, who did it when, and the measures behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memspan.core.errors import InputError, MissingExtraError
from memspan.longterm.amadeusgpt.asking import Event, Found
from memspan.longterm.amadeusgpt.behaviour import MEASURES, Condition, measured, read_behaviour
from memspan.longterm.amadeusgpt.kinematics import Pose
from memspan.longterm.amadeusgpt.table import SymbolTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_MEASURES_SHOWN = 3
_PAIRS_SHOWN = 12
_INK, _GREY = "#222222", "#C8C8C8"


def plot_found(found: Found, pose: Pose, table: SymbolTable, path: str | Path) -> Path:
    """Draw an answer and write it to a file (PNG, SVG or PDF by its ending).

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib, which plots need,", "pip install 'memspan[plot]'") from error
    rows = list(dict.fromkeys(event.who for event in sorted(found.events, key=lambda e: (e.actor, e.other))))
    rows = rows[:_PAIRS_SHOWN]
    colours = {who: _COLOURS[place % len(_COLOURS)] for place, who in enumerate(rows)}
    conditions = _conditions(found, table)[:_MEASURES_SHOWN]
    shown = _in_focus(found)
    heights = [max(1.1, 0.32 * max(len(rows), 1) + 0.5), *([1.25] * len(conditions))]
    figure = Figure(figsize=(12.5, max(4.6, sum(heights) + 1.5)), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(len(heights), 2, width_ratios=(1.0, 1.25), height_ratios=heights)
    _arena(figure.add_subplot(grid[:, 0]), found, pose, colours)
    first = figure.add_subplot(grid[0, 1])
    _ethogram(first, found, pose, rows, colours)
    for place, group in enumerate(conditions, start=1):
        axes = figure.add_subplot(grid[place, 1], sharex=first)
        _measure(axes, group, pose, shown, colours, found)
        if place < len(conditions):
            axes.tick_params(labelbottom=False)
    if conditions:
        first.tick_params(labelbottom=False)
    figure.axes[-1].set_xlabel("time (s)")
    figure.suptitle(_wrapped(f"{found.question}\n{found.text}"), fontsize=11, x=0.01, ha="left", color=_INK)
    target = Path(path)
    try:
        figure.savefig(target, dpi=140)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the plot {target}: {error}") from None
    return target


def _conditions(found: Found, table: SymbolTable) -> list[list[Condition]]:
    """The conditions behind an answer, by measure, those of the symbols it uses included."""
    every: dict[str, list[Condition]] = {}
    waiting, seen = [found.behaviour], set()
    while waiting:
        behaviour = waiting.pop(0)
        for condition in behaviour.conditions:
            own = every.setdefault(condition.measure, [])
            if condition not in own:
                own.append(condition)
        for used in behaviour.uses:
            if used.place not in seen:
                seen.add(used.place)
                waiting.append(read_behaviour(table, used.place))
    return list(every.values())


def _in_focus(found: Found) -> Event | None:
    """The event of the pair that does it longest; its measures are drawn."""
    total: dict[str, int] = {}
    for event in found.events:
        total[event.who] = total.get(event.who, 0) + event.frames
    return max(found.events, key=lambda event: total[event.who], default=None)


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)


def _arena(axes: Axes, found: Found, pose: Pose, colours: dict[str, str]) -> None:
    center = pose.center()
    for animal in range(len(pose.animals)):
        axes.plot(center[:, animal, 0], center[:, animal, 1], color=_GREY, linewidth=0.7, zorder=1)
    drawn: set[str] = set()
    for event in sorted(found.events, key=lambda event: list(colours).index(event.who) if event.who in colours else -1):
        if event.who not in colours or not event.actor:
            continue
        part = center[event.start : event.stop, pose.animals.index(event.actor)]
        label = event.who if event.who not in drawn else None
        drawn.add(event.who)
        axes.plot(part[:, 0], part[:, 1], color=colours[event.who], linewidth=2.2, zorder=3, label=label)
        axes.plot(*part[0], "o", color=colours[event.who], markersize=4.5, zorder=4)
        if event.other:
            part = center[event.start : event.stop, pose.animals.index(event.other)]
            axes.plot(part[:, 0], part[:, 1], color=colours[event.who], linewidth=1.1, linestyle=":", zorder=2)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")
    title = "paths in grey"
    if found.events:
        title += "; events in colour, a dot where they start"
        title += ",\nthe other's path dotted" if any(event.other for event in found.events) else ""
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    if drawn:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
    _bare(axes)


def _ethogram(axes: Axes, found: Found, pose: Pose, rows: list[str], colours: dict[str, str]) -> None:
    for place, who in enumerate(rows):
        spans = [(e.start / pose.fps, e.frames / pose.fps) for e in found.events if e.who == who]
        axes.broken_barh(spans, (place - 0.36, 0.72), facecolors=colours[who])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_xlim(0, pose.seconds)
    hidden = len({event.who for event in found.events}) - len(rows)
    axes.set_title(
        f"{len(found.events)} events of: {found.said}"[:110]
        + (f"; {hidden} more pairs not shown" if hidden > 0 else ""),
        fontsize=9,
        loc="left",
        color=_INK,
    )
    if not rows:
        axes.text(pose.seconds / 2, 0, "no event", ha="center", va="center", color=_INK)
        axes.set_yticks([])
    _bare(axes)


def _measure(
    axes: Axes, group: list[Condition], pose: Pose, shown: Event | None, colours: dict[str, str], found: Found
) -> None:
    """One measure of the pair in focus over time, with its thresholds and events."""
    name, unit = MEASURES[group[0].measure]
    values: Any = measured(pose, group[0].measure)
    seconds = np.arange(len(pose)) / pose.fps
    actor = pose.animals.index(shown.actor) if shown is not None and shown.actor else 0
    if values.ndim == 3:
        other = pose.animals.index(shown.other) if shown is not None and shown.other else (actor + 1) % values.shape[2]
        line, who = values[:, actor, other], f"{pose.animals[actor]} → {pose.animals[other]}"
    else:
        line, who = values[:, actor], pose.animals[actor]
    axes.plot(seconds, line, color=_INK, linewidth=0.8)
    limits = [c.value / pose.fps if c.per_second else c.value for c in group]
    for limit in dict.fromkeys(limits):
        axes.axhline(limit, color="#B22222", linewidth=1.0, linestyle="--")
    if shown is not None:
        for event in found.events:
            if event.who == shown.who:
                axes.axvspan(
                    event.start / pose.fps, event.stop / pose.fps, color=colours.get(event.who, _GREY), alpha=0.22, lw=0
                )
    finite = line[np.isfinite(line)]
    if len(finite):
        # What is far above every threshold is cut off, so that the thresholds can be read.
        top = min(float(np.percentile(finite, 99.5)), 8 * max(limits) if max(limits) > 0 else np.inf)
        axes.set_ylim(0 if finite.min() >= 0 else None, max(top, *limits) * 1.08)
    axes.set_title(f"{name} ({unit}), {who}", fontsize=9, loc="left", color=_INK)
    _bare(axes)


def _wrapped(text: str, width: int = 120) -> str:
    import textwrap

    return "\n".join("\n".join(textwrap.wrap(line, width)[:2]) for line in text.splitlines())
