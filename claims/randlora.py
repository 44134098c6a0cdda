"""RandLoRA: updates of full rank with as many trained numbers as LoRA's, and a file of kilobytes.

Rank is tried on matrices 256 x 192: what is left of a target, relative to its norm, after Adam has fitted a layer's
update to it, beside the least that LoRA can leave with at least as many numbers (the singular values that are cut off).
Accuracy is tried on 8x8 pictures of digits (scikit-learn's where it is installed, else made up): a frozen random net
64-256-256-256-10, whose layers are adapted by either with equal numbers; rates are chosen on 300 pictures that neither
trains on nor is tested with. Bytes kept for the backward pass are those of one layer, 576 to 1536 and back, 512 tokens.
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.core.testing import tiny_llama
from memspan.training.base import AdamW, Stack
from memspan.training.randlora import RandLora, RandLoraLinear, load_adapter, save_adapter

TITLE = "Random bases with trained scales give updates of full rank for as many numbers as LoRA trains"
EXPECTED = "holds"
SEEDS = (0, 1, 2)

# Thresholds, fixed before the first run, from the card of the system: on a flat spectrum at most 0.9 times the error of
# LoRA's best, on a target of rank 8 LoRA wins; no worse than LoRA by more than a point of accuracy; numerical rank at
# least 0.95 d; at most 1.1 times LoRA's bytes kept for the backward pass, and 3 times fewer than the products written
# out; what is saved brings the update back to 1e-6. The card names no rank for the first: counting degrees of freedom
# (p / D d of the target's square against p / d (D + d)), r = 2 is the largest power of two at which 0.9 can be
# expected. Ours: at most 0.8 times PEFT's seconds for a step at 2,048 tokens, whose product with the factors takes more
# than twice the operations; a hundredth of PEFT's file.
FLAT, FLAT_RANK = 0.9, 2
LOW_RANK_LOST = 0.1
ACCURACY = -1.0
RANK = 0.95
BYTES_LORA = 1.1
BYTES_NAIVE = 1 / 3
RELOAD = 1e-6
SECONDS = 0.8
FILE = 0.01

LARGE, SMALL = 256, 192


class LoraLinear(nn.Module):
    """LoRA by hand: W x + B A x, B zero at the start."""

    def __init__(self, base: nn.Linear, rank: int, scaling: float = 2.0) -> None:
        super().__init__()
        self.base, self.scaling = base.requires_grad_(False), scaling
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.a.t()) @ self.b.t() * self.scaling

    def delta(self) -> Tensor:
        return self.b.detach() @ self.a.detach() * self.scaling


def adapted(model: nn.Module, **options: Any) -> nn.Module:
    """The model with RandLoRA's layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small ranks, which are the subject here
        return Stack([RandLora(**options)]).prepare(model, AdamW())[0]


# --- rank ------------------------------------------------------------------------------------------------------------


def fitted(target: Tensor, rank: int, steps: int, seed: int) -> tuple[float, int]:
    """What Adam leaves of a target, relative to its norm, and the numbers that were trained."""
    linear = nn.Linear(SMALL, LARGE, bias=False)
    nn.init.zeros_(linear.weight)
    layer: Any = adapted(nn.Sequential(linear), rank=rank, seed=seed, scale="peft")[0]
    own = [layer.randlora_lambda, layer.randlora_gamma]
    optimizer = torch.optim.Adam(own, lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    layer.route = "product"
    inputs = torch.eye(SMALL)
    error = 1.0
    for _ in range(steps):
        off = layer(inputs).t() - target
        loss = off.square().sum() / target.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        error = math.sqrt(float(loss.detach()))
    return error, sum(one.numel() for one in own)


def spectra(size: str, seed: int) -> list[Part]:
    """A flat spectrum, and one of rank 8."""
    chance = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(side, SMALL, generator=chance))[0] for side in (LARGE, SMALL))
    eight = torch.zeros(SMALL)
    eight[:8] = 1
    rows, found = [], {}
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for name, values in (("flat", torch.ones(SMALL)), ("rank 8", eight)):
        target = left @ torch.diag(values) @ right.t()
        for rank in (1, 2, 4, 8, 16, 32) if size == "full" else (FLAT_RANK,):
            error, trained = fitted(target, rank, 400 if size == "full" else 200, seed)
            other = -(-trained // (LARGE + SMALL))
            least = float(values[other:].square().sum().div(values.square().sum()).sqrt())
            found[name, rank] = error, least
            rows.append({"target": name, "r": rank, "trained": trained, "error": round(error, 4), "LoRA's rank": other})
            rows[-1]["LoRA's least error"] = round(least, 4)
            for method, value in (("RandLoRA", error), ("LoRA", least)):
                x, y = lines.setdefault(f"{method}, {name}", ([], []))
                x.append(trained)
                y.append(value)
    (flat, flat_least), (low, low_least) = found["flat", FLAT_RANK], found["rank 8", FLAT_RANK]
    plot = Series(lines=lines, x_label="trained numbers", y_label="relative error", log_x=True)
    return [
        Part(
            name="better than LoRA on a flat spectrum",
            metric=f"relative error of the fitted update, {LARGE} x {SMALL}, r = {FLAT_RANK}",
            value=flat,
            baseline_name="LoRA's least",
            baseline=flat_least,
            threshold=at_most(FLAT, of="ratio"),
            rows=rows,
            series=plot,
        ),
        Part(
            name="worse than LoRA on a target of rank 8",
            metric=f"relative error of the fitted update, r = {FLAT_RANK}",
            value=low,
            baseline_name="LoRA's least",
            baseline=low_least,
            threshold=at_least(LOW_RANK_LOST, of="difference"),
        ),
    ]


# --- accuracy --------------------------------------------------------------------------------------------------------


@cache
def digits() -> tuple[Tensor, Tensor, str]:
    """Pictures [n, 64] between 0 and 1, their classes [n], and where they are from."""
    if find_spec("sklearn") is None:
        chance = torch.Generator().manual_seed(0)
        shapes = (torch.rand(10, 64, generator=chance) > 0.6).float()
        classes = torch.randint(0, 10, (1_797,), generator=chance)
        pictures = (shapes[classes] + 0.5 * torch.randn(1_797, 64, generator=chance)).clamp(0, 1)
        return pictures, classes, "made-up pictures"
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target), "scikit-learn's digits"


def trunk(seed: int) -> nn.Sequential:
    """A random net."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inner, out in ((64, 256), (256, 256), (256, 256), (256, 10)):
            layers += [nn.Linear(inner, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def learnt(model: nn.Module, rate: float, steps: int, seed: int) -> tuple[float, float]:
    """Accuracy in percent on the pictures for choosing, and on those for testing."""
    pictures, classes, _ = digits()
    chance = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pictures), generator=chance)
    train, chosen, test = order[:-800], order[-800:-500], order[-500:]
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(own, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = train[torch.randint(0, len(train), (64,), generator=chance)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures[rows]), classes[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = [(model(pictures[rows]).argmax(1) == classes[rows]).float().mean() * 100 for rows in (chosen, test)]
    return float(right[0]), float(right[1])


def accuracy(seed: int) -> list[Part]:
    """Both at the rate that is best for each."""
    rank, steps = 16, 500
    best: dict[str, tuple[float, float, float, nn.Module]] = {}
    trained = 0
    for rate in (1e-3, 3e-3, 1e-2, 3e-2):
        ours = adapted(trunk(seed), rank=rank, seed=seed, scale="peft")
        trained = sum(parameter.numel() for parameter in ours.parameters() if parameter.requires_grad)
        lora = trunk(seed).requires_grad_(False)
        sides = sum(one.in_features + one.out_features for one in lora if isinstance(one, nn.Linear))
        other = -(-trained // sides)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lora = nn.Sequential(*(LoraLinear(one, other) if isinstance(one, nn.Linear) else one for one in lora))
        for name, model in ((f"RandLoRA, r = {rank}", ours), (f"LoRA, r = {other}", lora)):
            chosen, tested = learnt(model, rate, steps, seed)
            if name not in best or chosen > best[name][0]:
                best[name] = chosen, tested, rate, model
    (ours_name, ours_best), (lora_name, lora_best) = best.items()
    deltas = {name: model[2].delta().double() for name, (*_, model) in best.items()}
    ranks = {name: int(torch.linalg.matrix_rank(delta, rtol=1e-5)) for name, delta in deltas.items()}
    rows = [
        {"adapter": name, "accuracy, %": round(tested, 2), "rate": rate, "rank of the update": ranks[name]}
        for name, (_, tested, rate, _) in best.items()
    ]
    return [
        Part(
            name="as accurate as LoRA",
            metric=f"accuracy on 500 pictures, %, {trained} trained numbers, {digits()[2]}",
            value=ours_best[1],
            baseline_name=lora_name,
            baseline=lora_best[1],
            threshold=at_least(ACCURACY, of="difference"),
            rows=rows,
        ),
        Part(
            name="updates of full rank",
            metric="numerical rank of the update of a layer 256 x 256 (1e-5 of its norm), as a share of 256",
            value=ranks[ours_name] / 256,
            baseline_name=lora_name,
            baseline=ranks[lora_name] / 256,
            threshold=at_least(RANK),
        ),
    ]


# --- bytes -----------------------------------------------------------------------------------------------------------


def kept(model: nn.Module, inputs: Tensor) -> int:
    """Bytes that the backward pass of a model keeps, beside parameters and buffers."""
    own = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(inputs)
    del out
    return sum(found.values())


class Naive(nn.Module):
    """RandLoRA's products as they are written, for autograd to keep what it likes."""

    def __init__(self, layer: RandLoraLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        columns = layer.basis.columns(layer.large, layer.count, torch.float32)
        a = (layer.randlora_lambda.unsqueeze(2) * layer.basis.rows(min(layer.shape)) * layer.randlora_gamma).flatten(
            0, 1
        )
        first, second = (a, columns) if layer.in_is_small else (columns.t(), a.t())
        return layer.base_layer(x) + nn.functional.linear(nn.functional.linear(x, first), second) * layer.scaling


def memory() -> list[Part]:
    """LoRA, RandLoRA, and RandLoRA written out."""
    totals: dict[str, int] = {}
    rows = []
    for inner, out in ((576, 1536), (1536, 576)):
        inputs = torch.randn(512, inner, requires_grad=True)
        ours = adapted(nn.Sequential(nn.Linear(inner, out)))
        other = -(-sum(one.numel() for one in ours.parameters() if one.requires_grad) // (inner + out))
        kinds = {
            "RandLoRA": ours,
            f"LoRA, r = {other}": LoraLinear(nn.Linear(inner, out), other),
            "RandLoRA, products written out": Naive(ours[0]),
        }
        for name, model in kinds.items():
            nbytes = kept(model, inputs)
            totals[name] = totals.get(name, 0) + nbytes
            rows.append({"layer": f"{inner} to {out}", "adapter": name, "bytes": nbytes})
    (_, ours_bytes), (lora_name, lora_bytes), (_, naive_bytes) = totals.items()
    return [
        Part(
            name="no more activations than LoRA",
            metric="bytes kept for the backward pass of two adapted layers, 512 tokens",
            value=ours_bytes,
            baseline_name=lora_name,
            baseline=lora_bytes,
            threshold=at_most(BYTES_LORA, of="ratio"),
            rows=rows,
        ),
        Part(
            name="fewer activations than the products written out",
            metric="bytes kept for the backward pass of two adapted layers, 512 tokens",
            value=ours_bytes,
            baseline_name="autograd's",
            baseline=naive_bytes,
            threshold=at_most(BYTES_NAIVE, of="ratio"),
        ),
    ]


# --- files, and beside PEFT ------------------------------------------------------------------------------------------


def stirred(model: nn.Module) -> nn.Module:
    """Adapters that are no longer zero."""
    chance = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "randlora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=chance) * 0.01
    return model


def saved() -> Part:
    """Λ, Γ and a checksum, and the update from them."""
    ours = stirred(adapted(tiny_llama(hidden=64), rank=8))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(ours, folder)
        back = tiny_llama(hidden=64)
        load_adapter(back, folder)
    pairs = zip(
        *([one.delta() for one in m.modules() if isinstance(one, RandLoraLinear)] for m in (ours, back)), strict=True
    )
    worst = max(float((one - other).norm() / one.norm()) for one, other in pairs)
    return Part(
        name="a seed brings the basis back",
        metric="largest relative difference of a layer's update after saving without the basis and loading",
        value=worst,
        threshold=at_most(RELOAD),
    )


def beside_peft(seed: int) -> list[Part]:
    """The same logits, a smaller file, and fewer seconds."""
    names = ("the same update as PEFT's", "a small file", "faster than PEFT at many tokens")
    if find_spec("peft") is None:
        return [Part(name=name, metric="-", untestable="peft is not installed") for name in names]
    import peft

    size = {"layers": 2, "hidden": 512, "heads": 8, "kv_heads": 4, "positions": 2048}
    settings = peft.RandLoraConfig(r=32, target_modules="all-linear")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        theirs = stirred(peft.get_peft_model(tiny_llama(**size), settings)).train()
        theirs.save_pretrained(f"{folder}/theirs")
        ours = tiny_llama(**size)
        load_adapter(ours, f"{folder}/theirs")
        theirs_bytes = sum(path.stat().st_size for path in Path(f"{folder}/theirs").iterdir())
        fresh = stirred(adapted(tiny_llama(**size), scale="peft"))
        ours_bytes = save_adapter(fresh, f"{folder}/ours")
    ids = torch.randint(0, 64, (1, 2048), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        one, other = (model.eval()(ids[:, :64]).logits for model in (ours, theirs))
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(3):
        for name, model in (("ours", ours), ("theirs", theirs)):
            begun = time.process_time()
            model.train()(input_ids=ids, labels=ids).loss.backward()
            seconds[name].append(time.process_time() - begun)
    return [
        Part(
            name=names[0],
            metric="largest difference of logits from PEFT's, relative to the largest, with an adapter that PEFT saved",
            value=float((one - other).abs().max() / other.abs().max()),
            threshold=at_most(1e-4),
        ),
        Part(
            name=names[1],
            metric="bytes of a saved adapter, 14 layers of width 512",
            value=ours_bytes,
            baseline_name="PEFT, with its defaults",
            baseline=theirs_bytes,
            threshold=at_most(FILE, of="ratio"),
        ),
        Part(
            name=names[2],
            metric="CPU seconds of a forward and backward pass at 2,048 tokens, least of 3, width 512",
            value=min(seconds["ours"]),
            baseline_name="PEFT",
            baseline=min(seconds["theirs"]),
            threshold=at_most(SECONDS, of="ratio"),
        ),
    ]


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    parts = [*spectra(size, seed), *memory(), saved()]
    if size == "full":
        parts += [*accuracy(seed), *beside_peft(seed)]
    return Evidence(slug="randlora", size=size, parts=parts)
