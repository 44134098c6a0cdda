"""Placements for people: a table, and a picture of the address space over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memspan.core.errors import InputError, MissingExtraError
from memspan.planner.allocator.problem import Placement


def rows(placements: Sequence[Placement], capacity: int | None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, in the order given."""
    header = ["allocator", "peak, bytes", "above the bound", "seconds", *(["fits"] if capacity is not None else []), ""]
    table = []
    for one in placements:
        row = [one.allocator, f"{one.peak:,}", f"{100 * (one.peak / one.bound - 1):.2f} %", f"{one.seconds:.2f}"]
        if capacity is not None:
            row.append("yes" if one.peak <= capacity else f"no, {one.peak - capacity:,} over")
        ends = {"time": "stopped when its time was over", "interrupted": "interrupted; the best so far"}
        row.append("optimal" if one.optimal else ends.get(one.stopped, ""))
        table.append(row)
    return header, table


def plot(placement: Placement, path: Path, capacity: int | None = None) -> Path:
    """Draw every buffer as a rectangle, time to the right and addresses upward; the suffix says the format.

    Raises:
        InputError: the format is not known or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib, which plots need,", "pip install 'memspan[plot]'") from error
    problem = placement.problem
    start, end, owner = problem.pieces
    low = np.array(placement.offsets, float)[owner]
    high = low + problem.size[owner]
    scale, unit = _scale(placement.peak)
    sides = ((start, low), (end, low), (end, high), (start, high))
    corners = np.stack([np.stack([x, y / scale], 1) for x, y in sides], axis=1)
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    # Neighbours in the list get colours far apart: steps of the golden ratio through the colour map.
    boxes = PolyCollection(list(corners), edgecolors="white", linewidths=0.3 if len(problem) < 2_000 else 0.0)
    boxes.set_array(owner * 0.618034 % 1.0)
    boxes.set_cmap("turbo")
    axes.add_collection(boxes)
    times, live = problem.live()
    axes.step(times, live / scale, where="post", color="black", linewidth=1.0, label="bytes that live")
    axes.axhline(placement.peak / scale, color="black", linestyle=":", label=f"peak {placement.peak:,}")
    if capacity is not None:
        axes.axhline(capacity / scale, color="red", linestyle="--", label=f"capacity {capacity:,}")
    axes.set(xlabel="time", ylabel=f"address, {unit}", title=f"{problem.name}: {placement.allocator}")
    axes.set_xlim(int(start.min()), int(end.max()))
    axes.set_ylim(0, max(placement.peak, capacity or 0) / scale * 1.02)
    axes.legend(loc="upper right", framealpha=0.9)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the plot cannot be written to {path}: {error}") from error
    return path


def _scale(nbytes: int) -> tuple[float, str]:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if nbytes >= 2 * 1024**power:
            return float(1024**power), unit
    return 1.0, "bytes"
