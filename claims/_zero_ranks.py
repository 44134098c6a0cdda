"""One of the ranks of `zero.py`: trains, and the first writes what came out; `_zero_ranks.py OUT SEED STEPS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama
from memspan.training import AdamW, Stack, Step, ranks
from memspan.training.estimate import memory
from memspan.training.zero import Zero

BUCKET = "256KiB"  # for gradients of 4 MB
SIZE: dict[str, Any] = {"layers": 4, "hidden": 128, "vocabulary": 512}
LENGTH = 64


def config(seed: int = 0) -> Any:
    """Of the model, with a tied embedding."""
    return tiny_llama(**SIZE, seed=seed, tie_word_embeddings=True).config


def train(savers: list[Zero], seed: int, steps: int) -> tuple[Any, dict[str, int], dict[str, int]]:
    """The model after some steps, and what the last one held at its peak and between passes, by tier."""
    model = tiny_llama(**SIZE, seed=seed, tie_word_embeddings=True)
    stack = Stack(savers)
    model, optimizer = stack.prepare(model, AdamW(lr=1e-3))
    step = Step(model.train(), optimizer, stack, clip=1.0)
    chance = torch.Generator().manual_seed(seed)
    for number in range(steps):
        ids = torch.randint(0, SIZE["vocabulary"], (2, LENGTH), generator=chance)
        if number + 1 < steps:
            step({"input_ids": ids, "labels": ids})
            continue
        with Ledger(model, optimizer=optimizer) as ledger:
            batch = {"input_ids": ids.clone()}
            batch["labels"] = batch["input_ids"]
            step(batch, ledger)
            del batch
    rest = ledger.stretches["clip"].by_tier
    return stack.finish(model), {"peak": memory(ledger.peak)}, rest


def main() -> None:
    """Stages 0 to 3 beside one process."""
    torch.set_num_threads(1)
    out, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    plain, _, _ = train([], seed, steps)
    found = {}
    with ranks.joined():
        for stage in range(4):
            model, peak, rest = train([Zero(stage=stage, bucket=BUCKET)], seed, steps)
            found[stage] = {"rest": rest, **peak}
            if ranks.rank() == 0:
                pairs = zip(model.parameters(), plain.parameters(), strict=True)
                found[stage]["differ"] = max(float((a - b).detach().abs().max()) for a, b in pairs)
        if ranks.rank() == 0:
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
