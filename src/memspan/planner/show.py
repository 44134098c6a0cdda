"""Plans for people: a table, how its numbers came about, and bars."""

from __future__ import annotations

from pathlib import Path

from memspan.core.budget import format_bytes
from memspan.core.errors import InputError, MissingExtraError
from memspan.planner.search import Plan, Plans
from memspan.training.estimate import STRETCHES, memory

TIERS = ("weights", "gradients", "optimizer", "activations")


def rows(plans: Plans) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: the ways in their order, the tiers at the moment of the peak."""
    bounded = plans.device_memory is not None or plans.host_memory is not None
    header = ["savers", "peak", *TIERS, "s/step", "quality lost", "most of it", *(["fits"] if bounded else [])]
    table = []
    for one in plans:
        tiers = one.estimate.peak.in_memory.by_tier
        row = [name(one), format_bytes(one.peak), *(format_bytes(tiers.get(tier, 0)) for tier in TIERS)]
        row += [_seconds(one.seconds), one.quality, one.binding]
        if bounded:
            row.append("yes" if one.fits else f"no, {format_bytes(max(one.over.values()))} over")
        table.append(row)
    return header, table


def name(one: Plan) -> str:
    """The savers of a plan in one word or more."""
    return " + ".join(one.savers) or "none (AdamW)"


def notes(plans: Plans) -> list[str]:
    """What the table does not say."""
    hardware = plans.hardware
    where = "timed on this machine just now" if hardware.measured else "as given"
    said = [
        "bytes of one rank's step, the tensors of PyTorch alone; seconds are an estimate from"
        f" {hardware.flops / 1e9:,.0f} GFLOP/s and {hardware.bandwidth / 1e9:,.1f} GB/s, {where}, nothing overlapping"
    ]
    if plans.combinations > len(plans.plans):
        said.append(
            f"{len(plans.plans)} of {plans.combinations} combinations were run: each saver by itself, then those that"
            " promised most; --most N runs more"
        )
    if plans.device_memory is not None and not plans.plans[0].fits:
        least = plans.least
        said.append(
            f"nothing fits {format_bytes(plans.device_memory)}: {least.peak:,} bytes ({format_bytes(least.peak)})"
            f" would do, with {name(least)}"
        )
    return said


def explain(plans: Plans, one: Plan) -> list[str]:
    """How a plan's numbers came about, line by line."""
    spec, found = plans.spec, one.estimate
    size = spec.torch_dtype.itemsize
    deep = f", {spec.layers} layers" if spec.layers is not None else ""
    lines = [f"{name(one)}: {spec.task}, {spec.batch} x {spec.seq} tokens, {spec.dtype}, {spec.attention}{deep}"]
    highest = found.highest.in_memory.by_tier
    lines.append(
        f"  weights      {format_bytes(highest.get('weights', 0))}: {found.parameters:,} parameters, {size} bytes each"
        " unless a saver stores them otherwise, and buffers"
    )
    lines.append(
        f"  gradients    {format_bytes(highest.get('gradients', 0))} at most, of {found.trainable:,} that train"
    )
    state = highest.get("optimizer", 0)
    each = state / found.trainable if found.trainable else 0
    lines.append(f"  optimizer    {format_bytes(state)}: {each:.2f} bytes for each that trains")
    kept = f"; {format_bytes(found.saved_by_layer)} of them kept by each layer" if found.saved_by_layer else ""
    lines.append(f"  activations  {format_bytes(highest.get('activations', 0))} at most, temporary tensors too{kept}")
    for stretch in STRETCHES:
        held = found.stretches.get(stretch)
        if held is not None and memory(held):
            parts = ", ".join(f"{tier} {format_bytes(n)}" for tier, n in held.in_memory.by_tier.items() if n)
            disk = held.by_place.get("disk", 0)
            parts += f"; on disk {format_bytes(disk)}" if disk else ""
            mark = "  <- the peak" if stretch == found.busiest else ""
            lines.append(f"  {stretch:<12} {format_bytes(memory(held))} = {parts}{mark}")
    lines.append(
        f"  work         {found.flops / 1e9:,.1f} GFLOP in products, {found.traffic / 1e9:,.1f} GB through all else"
    )
    if found.sent:
        lines.append(f"  sent         {format_bytes(found.sent)} by each rank")
    ways = {
        "repeated": "steps of two shallow depths were run on tensors without bytes, and their difference repeated",
        "whole": "the whole model's step was run on tensors without bytes",
    }
    how, _, shared = one.how.partition(" + ")
    rest = {"": "", "formula": "; ranks by formula", "rank": "; of the ranks the fullest, the others left out"}
    lines.append(f"  how          {ways[how]}{rest[shared]}")
    lines += one.explained
    return lines


def plot(plans: Plans, path: Path) -> Path:
    """Write stacked bars of the tiers at the peak, one for each plan; the suffix says the format.

    Raises:
        InputError: the format is not known or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib, which plots need,", "pip install 'memspan[plot]'") from error
    shown = list(plans)[::-1]
    figure = Figure(figsize=(9, 1.5 + 0.35 * len(shown)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(shown)
    tiers = dict.fromkeys(tier for one in shown for tier in one.estimate.peak.in_memory.by_tier)
    for tier in sorted(tiers, key=lambda word: TIERS.index(word) if word in TIERS else len(TIERS)):
        widths = [one.estimate.peak.in_memory.by_tier.get(tier, 0) / 2**30 for one in shown]
        axes.barh([name(one) for one in shown], widths, left=left, label=tier)
        left = [at + width for at, width in zip(left, widths, strict=True)]
    if plans.device_memory is not None:
        axes.axvline(plans.device_memory / 2**30, color="black", linestyle="--", label="memory there is")
    axes.set(xlabel="GiB at the peak of a step")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the plot cannot be written to {path}: {error}") from error
    return path


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"
