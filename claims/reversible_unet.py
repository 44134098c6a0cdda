"""Reversible U-Net: exact gradients from inverted blocks, memory flat in depth, and what fits the same memory.

A plain net is the same net under ordinary autograd. Bytes kept are those of the tensors that autograd saves. For the
paper's three statements the peak of a step (AdamW, batch 1, four levels of width 16 to 128, two blocks each) of the
plain net at 64³ is the budget, and the largest volume, depth and width of the reversible net within it are searched
with the planner; at 16³ the planner's peaks are held against the ledger's of real steps. Quality: patches of 24³ of the
MNI152 2009a template (T1; grey and white matter), trained in the left half of the brain, tested in the right one; it is
one averaged brain, so this shows the mechanism and not generalisation. The template is read from the package nilearn
where that is installed; else volumes are made up. Times are CPU seconds, medians. Tables are of the first seed.
"""

from __future__ import annotations

import gzip
import importlib.util
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.core.ledger import Ledger
from memspan.planner.imagine import imagine
from memspan.training.base import AdamW, Stack
from memspan.training.estimate import memory
from memspan.training.reversible_unet import (
    MBConv,
    Reversible,
    ReversibleSequential,
    RevUNet,
    RevUNetConfig,
    dice_loss,
    dice_score,
)
from memspan.training.spec import Spec
from memspan.training.step import Step

TITLE = "Inverted blocks give exact gradients, and let larger volumes and nets into the same memory"
EXPECTED = "holds"
SEEDS = (0, 1)

# Thresholds, fixed before the first run, from the card of the system: at 16 blocks gradients within 1e-10 in float64
# and 1e-3 in float32 of autograd's, relative to the largest; what is kept grows with a block by at most 0.05 times the
# plain net's growth; in the plain net's memory at least 2.5 times the voxels (the paper: up to 3), 1.25 times the depth
# (25 % more) and 1.7 times the channels (up to 2); Dice at most 0.02 below the plain net's; at most 1.6 times its time
# a step.
FLOAT64 = 1e-10
FLOAT32 = 1e-3
SLOPE = 0.05
VOLUME = 2.5
DEPTH = 1.25
WIDTH = 1.7
DICE = -0.02
TIME = 1.6

WIDTHS, DEPTHS, EDGE = (16, 32, 64, 128), (2, 2, 2, 2), 64
PATCH = 24


def stack(blocks: int, invert: bool, seed: int = 0) -> ReversibleSequential:
    """Bottlenecks of width 16, expanded 4 times."""
    config = RevUNetConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = [Reversible(MBConv(8, config), MBConv(8, config)) for _ in range(blocks)]
    return ReversibleSequential(made, invert=invert, check=None, preserve_rng_state=False)


def exactness(seed: int) -> list[Part]:
    """Largest relative difference of any gradient, 16 blocks, 8³."""
    parts = []
    for dtype, most in ((torch.float64, FLOAT64), (torch.float32, FLOAT32)):
        found = []
        for invert in (True, False):
            chance = torch.Generator().manual_seed(seed)
            x = torch.randn(2, 16, 8, 8, 8, generator=chance, dtype=torch.float64).to(dtype).requires_grad_()
            model = stack(16, invert, seed).to(dtype)
            weights = torch.randn(x.shape, generator=chance, dtype=torch.float64).to(dtype)
            (model(x) * weights).sum().backward()
            found.append([x.grad, *(p.grad for p in model.parameters())])
        off = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))
        name = str(dtype).removeprefix("torch.")
        parts.append(
            Part(
                name=f"gradients are autograd's, {name}",
                metric="largest difference of a gradient, relative to its largest value, 16 blocks",
                value=off,
                threshold=at_most(most),
            )
        )
    return parts


def kept(module: nn.Module, x: Tensor) -> int:
    """Bytes of the tensors saved for the backward pass, without weights."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module(x)
    del result
    known = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    return sum(n for key, n in held.items() if key not in known)


def flat() -> Part:
    """Bytes kept by number of blocks, width 16, 16³."""
    x = torch.randn(1, 16, 16, 16, 16)
    counts = (1, 2, 4, 8, 16)
    found = {
        name: [kept(stack(blocks, invert), x) for blocks in counts]
        for name, invert in (("plain", False), ("reversible", True))
    }
    slopes = {name: (values[-1] - values[0]) / (counts[-1] - counts[0]) for name, values in found.items()}
    return Part(
        name="memory is flat in depth",
        metric="bytes kept for the backward pass that one more block adds, width 16, 16³",
        value=slopes["reversible"],
        baseline_name="ordinary autograd",
        baseline=slopes["plain"],
        threshold=at_most(SLOPE, of="ratio"),
        series=Series(
            lines={name: (counts, [n / 2**20 for n in values]) for name, values in found.items()},
            x_label="blocks",
            y_label="MiB kept",
        ),
    )


# --- the paper's three statements ------------------------------------------------------------------------------------


def job(width: tuple[int, ...], depth: tuple[int, ...], edge: int, invert: bool) -> Spec:
    """A step on one volume of four channels, with labels of three classes."""
    return Spec(
        make_model=lambda: RevUNet(width=width, depth=depth, invert=invert),
        make_batch=lambda: {"x": torch.randn(1, 4, edge, edge, edge), "y": torch.zeros(1, 3, edge, edge, edge)},
    )


def segmented(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Dice and cross entropy."""
    return dice_loss(model(batch["x"]), batch["y"])


@cache
def peak(width: tuple[int, ...], depth: tuple[int, ...], edge: int, invert: bool) -> int:
    """Bytes at the peak of a step, by the planner."""
    return memory(imagine(job(width, depth, edge, invert), Stack(), loss=segmented)[0].peak)


def largest(fits: Any, low: int, high: int) -> int:
    """The largest whole number from `low` up to `high` that fits, where smaller ones do."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@cache
def searched() -> list[Part]:
    """Volume, depth and width in the memory of the plain net."""
    budget = peak(WIDTHS, DEPTHS, EDGE, False)

    def wide(n: int) -> tuple[int, ...]:
        return tuple(2 * n * 2**level for level in range(4))

    edge = 8 * largest(lambda n: peak(WIDTHS, DEPTHS, 8 * n, True) <= budget, 8, 16)
    depth = largest(lambda n: peak(WIDTHS, (n,) * 4, EDGE, True) <= budget, 2, 17)
    width = 2 * largest(lambda n: peak(wide(n), DEPTHS, EDGE, True) <= budget, 8, 24)
    found = (
        ("larger volumes", "times the plain net's voxels that fit its memory", (edge / EDGE) ** 3, VOLUME),
        ("deeper nets", "times the plain net's blocks that fit its memory, 17 a level at most tried", depth / 2, DEPTH),
        ("wider nets", "times the plain net's channels that fit its memory", width / 16, WIDTH),
    )
    rows = [
        {"net": "plain, the budget", "edge": EDGE, "blocks a level": 2, "width": 16, "peak, MiB": budget / 2**20},
        *(
            {
                "net": f"reversible, {name}",
                "edge": one,
                "blocks a level": two,
                "width": three,
                "peak, MiB": peak(wide(three // 2), (two,) * 4, one, True) / 2**20,
            }
            for name, one, two, three in (
                ("the same", EDGE, 2, 16),
                ("volume", edge, 2, 16),
                ("depth", EDGE, depth, 16),
                ("width", EDGE, 2, width),
            )
        ),
    ]
    rows = [{**row, "peak, MiB": round(row["peak, MiB"], 1)} for row in rows]
    return [
        Part(name=name, metric=metric, value=value, threshold=at_least(bound), rows=rows if number == 0 else ())
        for number, (name, metric, value, bound) in enumerate(found)
    ]


def planned() -> Part:
    """The planner's peak against the ledger's, of plain, reversible, deeper and wider nets at 16³."""
    rows, most = [], 0.0
    for name, width, depth, invert in (
        ("plain", WIDTHS, DEPTHS, False),
        ("reversible", WIDTHS, DEPTHS, True),
        ("reversible, 6 blocks", WIDTHS, (6,) * 4, True),
        ("reversible, twice as wide", tuple(2 * n for n in WIDTHS), DEPTHS, True),
    ):
        spec = job(width, depth, 16, invert)
        model, optimizer = Stack().prepare(spec.build(), AdamW())
        step = Step(model, optimizer, Stack(), segmented)
        step(spec.random_batch())
        with Ledger(model, optimizer=optimizer) as ledger:
            batch = spec.random_batch()
            step(batch, ledger)
            del batch
        told, measured = peak(width, depth, 16, invert), memory(ledger.peak)
        rows.append({"net": name, "planned, MiB": round(told / 2**20, 2), "measured, MiB": round(measured / 2**20, 2)})
        most = max(most, abs(told / measured - 1))
    return Part(
        name="plans are what steps hold",
        metric="largest relative difference of the planner's peak from the ledger's, 16³",
        value=most,
        threshold=at_most(0.01),
        rows=rows,
    )


# --- quality ---------------------------------------------------------------------------------------------------------


@cache
def brain() -> tuple[Tensor, Tensor, str]:
    """A volume [1, x, y, z] of about unit variance, labels [2, x, y, z], and what it is; x goes from left to right."""
    found = importlib.util.find_spec("nilearn")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data" if found else None  # type: ignore[index]
    names = ("t1", "gm", "wm")
    paths = [] if folder is None else [folder / f"mni_icbm152_{n}_tal_nlin_sym_09a_converted.nii.gz" for n in names]
    if paths and all(path.is_file() for path in paths):
        image, grey, white = (nifti(path) for path in paths)
        labels = np.stack([grey, white])
        labels = labels / labels.max() > 0.5
        what = "the MNI152 2009a template"
    else:
        axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in (96, 112, 96)]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        radius = np.sqrt(x**2 + y**2 + z**2) + 0.08 * np.cos(9 * np.abs(x) + 3 * y) * np.cos(7 * z)
        labels = np.stack([(radius > 0.45) & (radius < 0.75), radius <= 0.45])
        noise = np.random.default_rng(0).normal(0, 0.35, radius.shape)
        image = (labels[0] + 1.6 * labels[1] + noise).astype(np.float32)
        what = "made-up volumes"
    volume = torch.tensor((image - image.mean()) / image.std(), dtype=torch.float32)[None]
    return volume, torch.tensor(labels, dtype=torch.float32), what


def nifti(path: Path) -> np.ndarray[Any, Any]:
    """The volume in a NIfTI-1 file, [x, y, z]."""
    data = gzip.decompress(path.read_bytes())
    order = "<" if int.from_bytes(data[:4], "little") == 348 else ">"
    shape = np.frombuffer(data, f"{order}i2", 4, 40)[1:]
    kind = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"}[int(np.frombuffer(data, f"{order}i2", 1, 70)[0])]
    start = int(np.frombuffer(data, f"{order}f4", 1, 108)[0])
    slope, shift = np.frombuffer(data, f"{order}f4", 2, 112)
    values = np.frombuffer(data, order + kind, int(np.prod(shape)), start).astype(np.float32)
    volume: np.ndarray[Any, Any] = values.reshape(shape, order="F")
    return volume * slope + shift if slope else volume


def patches(seed: int, right: bool, count: int) -> dict[str, Tensor]:
    """Patches of 24³ from one half of the brain, their middle inside of it."""
    volume, labels, _ = brain()
    half, deep, high = (n for n in volume.shape[1:])
    middle = half // 2
    chance = torch.Generator().manual_seed(seed)
    inside = labels.sum(0) > 0
    found: dict[str, list[Tensor]] = {"x": [], "y": []}
    low, end = (middle, half - PATCH) if right else (0, middle - PATCH)
    while len(found["x"]) < count:
        spans = ((low, end), (0, deep - PATCH), (0, high - PATCH))
        at = [int(torch.randint(a, b + 1, (1,), generator=chance)) for a, b in spans]
        place = (slice(None), *(slice(one, one + PATCH) for one in at))
        if inside[tuple(one + PATCH // 2 for one in at)]:
            found["x"].append(volume[place])
            found["y"].append(labels[place])
    return {name: torch.stack(values) for name, values in found.items()}


def trained(invert: bool, seed: int, steps: int) -> tuple[float, float]:
    """Mean Dice in the right half, and median CPU seconds of a step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RevUNet(in_channels=1, classes=2, width=(8, 16, 32), depth=(2, 1, 1), expand=2, invert=invert)
    model, optimizer = Stack().prepare(net.train(), AdamW(lr=5e-3))
    step = Step(model, optimizer, Stack(), segmented)
    seconds = []
    for number in range(steps):
        batch = patches(seed * 100_003 + number, False, 2)
        begun = time.process_time()
        step(batch)
        seconds.append(time.process_time() - begun)
    model.eval()
    test = patches(-1 - seed, True, 12)
    with torch.no_grad():
        return float(dice_score(model(test["x"]), test["y"]).mean()), median(seconds)


def quality(size: str, seed: int) -> list[Part]:
    """Dice and time of plain and reversible net."""
    steps = 60 if size == "full" else 20
    (ours, fast), (plain, slow) = trained(True, seed, steps), trained(False, seed, steps)
    where = f"{brain()[2]}, {steps} steps"
    return [
        Part(
            name="segments as well",
            metric=f"mean Dice of two classes, {where}",
            value=ours,
            baseline_name="ordinary autograd",
            baseline=plain,
            threshold=at_least(DICE, of="difference"),
        ),
        Part(
            name="a third more time",
            metric="CPU seconds of a step, median, one thread",
            value=fast,
            baseline_name="ordinary autograd",
            baseline=slow,
            threshold=at_most(TIME, of="ratio"),
        ),
    ]


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    parts = [*exactness(seed), flat(), *quality(size, seed)]
    if size == "full":
        parts += [*searched(), planned()]
    return Evidence(slug="reversible-unet", size=size, parts=parts)
