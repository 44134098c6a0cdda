"""IST: fewer bytes in a step than adapters in all layers need, and scores that tell which layers matter.

Bytes are those of SmolLM2-135M's architecture (30 layers, width 576) with LoRA of rank 8 on five linear layers each, or
RandLoRA where PEFT is not installed, one row of 512 tokens in float32, run on tensors without bytes: what is held for
the backward pass when it begins, beside parameters. Scores and losses are tried on a LLaMA-type net (8 layers, width
64) over bytes: trained on one text, then adapted to another by adapters (RandLoRA, rank 16) in all layers, in a quarter
drawn at random (RST), drawn by importance (IST), or in the upper quarter; with MEMSPAN_DATA texts are
`books/alice29.txt` and `books/lcet10.txt`, else made up. A layer's importance is checked against the rise of the
held-out loss when its adapters are switched off after training.
"""

from __future__ import annotations

import copy
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _context_data import made_up
from torch import nn

from memspan.core.claims import Evidence, Part, Series, at_least, at_most
from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama
from memspan.planner.fake import imagined
from memspan.training import AdamW, Saver, Spec, Stack, Step, find_saver
from memspan.training.ist import Ist, turned_down

TITLE = "Training the adapters of a few layers that matter costs fewer bytes and no accuracy"
SEEDS = (0, 1, 2)

# Thresholds, fixed before the first run, from the card of the system: activations, in the mean of steps, at most 0.8
# times those of adapters in all layers; rank correlation of importance and the loss without a layer's adapters at least
# 0.5; held-out loss no higher than RST's, and within 2 % of adapters in all layers.
BYTES = 0.80
CORRELATION = 0.5
BESIDE_RST = 0.0
BESIDE_ALL = 1.02

TARGETS = "q_proj,k_proj,v_proj,up_proj,down_proj"
LENGTH = 64
BASE = 300  # steps on the first text


# --- bytes -----------------------------------------------------------------------------------------------------------


def adapters() -> Saver:
    """LoRA where PEFT is installed."""
    if find_spec("peft") is None:
        return find_saver("randlora", targets=TARGETS)
    return find_saver("lora", rank=8, targets=TARGETS)


class Watching:
    """What is held in activations when the backward pass begins."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.found = ledger, []

    def mark(self, name: str) -> None:
        """Hear of a stretch."""
        if name == "backward":
            self.found.append(self.ledger.now.by_tier.get("activations", 0))


def held(savers: list[Any], steps: int) -> tuple[list[int], int]:
    """Activations of each step, and the peak of all, in bytes."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        tie_word_embeddings=True,
    )
    spec = Spec(config=config, batch=1, seq=512, task="lora")
    with imagined():
        stack = Stack(savers)
        model, optimizer = stack.prepare(spec.build(), AdamW())
        step = Step(model.train(), optimizer, stack)
        with Ledger(model, optimizer=optimizer) as ledger:
            marker = Watching(ledger)
            for _ in range(steps):
                step(spec.random_batch(), marker)
        return marker.found, ledger.peak.total


def memory(size: str, seed: int) -> list[Part]:
    """All layers, and a quarter of them in each step."""
    steps = 20 if size == "full" else 6
    (everything, *_), all_peak = held([adapters()], 2)
    found, peak = held([adapters(), Ist(policy="rst", seed=seed)], steps)
    rows = [
        {
            "adapters": "in all layers",
            "mean, MiB": everything / 2**20,
            "most": everything / 2**20,
            "peak": all_peak / 2**20,
        },
        {"adapters": "in 7 of 30", "mean, MiB": fmean(found) / 2**20, "most": max(found) / 2**20, "peak": peak / 2**20},
    ]
    return [
        Part(
            name="fewer activations",
            metric=f"bytes held for the backward pass, mean of {steps} steps",
            value=fmean(found),
            baseline_name="adapters in all layers",
            baseline=everything,
            threshold=at_most(BYTES, of="ratio"),
            rows=[{key: one if isinstance(one, str) else round(one, 1) for key, one in row.items()} for row in rows],
            note="Memory has to suffice for the step whose lowest layer is lowest, and Adam's state of all layers.",
            series=Series(
                lines={
                    "7 of 30 layers": (list(range(steps)), [one / 2**20 for one in found]),
                    "all layers": (list(range(steps)), [everything / 2**20] * steps),
                },
                x_label="step",
                y_label="activations, MiB",
            ),
        )
    ]


# --- scores and losses -----------------------------------------------------------------------------------------------


@cache
def texts() -> tuple[torch.Tensor, torch.Tensor, str]:
    """Bytes of a text to learn from first, of one to adapt to, and what they are."""
    folder = os.environ.get("MEMSPAN_DATA")
    books = [Path(folder) / "books" / name for name in ("alice29.txt", "lcet10.txt")] if folder else []
    if books and all(book.is_file() for book in books):
        first, second = (torch.tensor(list(book.read_bytes())) for book in books)
        return first, second, "alice29.txt, then lcet10.txt"
    first, second = (torch.tensor(list(made_up(seed, 4_000).encode())) for seed in (0, 1))
    return first, second.flip(0), "made-up text, then such text backwards"


def batches(ids: torch.Tensor, low: float, high: float, seed: int, rows: int = 4) -> Any:
    """Endless batches from a part of a text."""
    chance = torch.Generator().manual_seed(seed)
    start, stop = int(low * len(ids)), int(high * len(ids)) - LENGTH
    while True:
        picked = ids[torch.randint(start, stop, (rows, 1), generator=chance) + torch.arange(LENGTH)] % 256
        yield {"input_ids": picked, "labels": picked}


@cache
def base(seed: int, steps: int) -> nn.Module:
    """A net that knows the first text."""
    model = tiny_llama(layers=8, hidden=64, vocabulary=256, seed=seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, batch in zip(range(steps), batches(texts()[0], 0.0, 1.0, seed), strict=False):
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def held_out(model: nn.Module) -> float:
    """Loss of the second text's last tenth."""
    model.eval()
    with torch.no_grad():
        found = [float(model(**b).loss) for _, b in zip(range(4), batches(texts()[1], 0.9, 1.0, 99, 32), strict=False)]
    model.train()
    return fmean(found)


def adapted(saver: Ist | None, seed: int, steps: int) -> tuple[nn.Module, float]:
    """The net, adapted to the second text, adapters still in; and its held-out loss."""
    stack = Stack([find_saver("randlora", rank=16, scale="peft"), *([] if saver is None else [saver])])
    model, optimizer = stack.prepare(copy.deepcopy(base(seed, BASE if steps > 100 else 100)), AdamW(lr=3e-3))
    step = Step(model.train(), optimizer, stack)
    for _, batch in zip(range(steps), batches(texts()[1], 0.0, 0.9, seed), strict=False):
        step(batch)
    return model, held_out(model)


def ranks(values: list[float]) -> torch.Tensor:
    """Ranks; all values differ."""
    return torch.tensor(values).argsort().argsort().double()


def correlation(saver: Ist, model: nn.Module, loss: float) -> tuple[float, list[dict[str, Any]]]:
    """Spearman's, of the importance with the rise of the loss when a layer's adapters are switched off."""
    rises = []
    for layer in saver._layers:
        with turned_down([layer], 0.0):
            rises.append(held_out(model) - loss)
    scores = [-score for score in saver.scores]
    pair = torch.stack((ranks(scores), ranks(rises)))
    rows = [
        {"layer": at, "-s": round(s, 4), "rise of the loss": round(rise, 4), "steps trained": n}
        for at, (s, rise, n) in enumerate(zip(scores, rises, saver.trained, strict=True))
    ]
    return float(torch.corrcoef(pair)[0, 1]), rows


def trained(size: str, seed: int) -> list[Part]:
    """The four ways to train, and what the scores say."""
    steps = 300 if size == "full" else 40
    saver = Ist(seed=seed, lr=10.0)
    model, ist = adapted(saver, seed, steps)
    value, rows = correlation(saver, model, ist)
    parts = [
        Part(
            name="scores tell which layers matter",
            metric=f"rank correlation of importance and the rise of the loss without a layer's adapters, {steps} steps",
            value=value,
            threshold=at_least(CORRELATION),
            rows=rows,
        )
    ]
    if size == "smoke":
        return parts
    losses = {
        "all layers": adapted(None, seed, steps)[1],
        "RST": adapted(Ist(policy="rst", seed=seed), seed, steps)[1],
        "IST": ist,
        "upper quarter": adapted(Ist(policy="fixed", layers="6,7"), seed, steps)[1],
        "none": held_out(base(seed, BASE)),
    }
    metric = f"loss of held-out bytes, nats, {texts()[2]}"
    return [
        *parts,
        Part(
            name="no worse than layers drawn at random",
            metric=metric,
            value=losses["IST"],
            baseline_name="RST",
            baseline=losses["RST"],
            threshold=at_most(BESIDE_RST, of="difference"),
            rows=[{"adapters": name, "loss": round(loss, 4)} for name, loss in losses.items()],
        ),
        Part(
            name="as good as all layers",
            metric=metric,
            value=losses["IST"],
            baseline_name="adapters in all layers",
            baseline=losses["all layers"],
            threshold=at_most(BESIDE_ALL, of="ratio"),
        ),
    ]


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    return Evidence(slug="ist", size=size, parts=[*memory(size, seed), *trained(size, seed)])
