"""What claims on training savers share: bytes of running text, and a small language model that learns them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

import torch
from _context_data import made_up

from memspan.core.testing import tiny_llama
from memspan.training.base import AdamW, Saver, Stack
from memspan.training.step import Step

WIDTH = 64  # bytes of a row


@cache
def text() -> tuple[torch.Tensor, str]:
    """Bytes of running text, and what it is: a book below MEMSPAN_DATA, or made up here."""
    folder = os.environ.get("MEMSPAN_DATA")
    book = Path(folder) / "books" / "lcet10.txt" if folder else None
    if book is not None and book.is_file():
        return torch.tensor(list(book.read_bytes())), book.name
    return torch.tensor(list(made_up(0, 6_000).encode())), "made-up text"


def learn_bytes(savers: Sequence[Saver], rate: float, steps: int, seed: int) -> tuple[float, torch.optim.Optimizer]:
    """Train a LLaMA-type net (2 layers, width 128) on the text's first nine tenths, 8 rows a step.

    The rate rises over the first tenth of the steps and falls to a tenth. Returns the loss of held-out bytes of the
    last tenth, and the optimizer.
    """
    ids, _ = text()
    cut = len(ids) * 9 // 10
    model = tiny_llama(layers=2, hidden=128, vocabulary=256, seed=seed)
    stack = Stack(list(savers))
    model, optimizer = stack.prepare(model.train(), AdamW(lr=rate))
    step = Step(model, optimizer, stack)
    chance = torch.Generator().manual_seed(seed)

    def batch(low: int, high: int, rows: int) -> torch.Tensor:
        starts = torch.randint(low, high - WIDTH, (rows, 1), generator=chance)
        return ids[starts + torch.arange(WIDTH)]

    for number in range(steps):
        factor = min(1.0, (number + 1) / (0.1 * steps)) * (1 - 0.9 * number / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        rows = batch(0, cut, 8)
        step({"input_ids": rows, "labels": rows})
    model.eval()
    chance.manual_seed(1_000)
    with torch.no_grad():
        losses = [
            float(model(input_ids=rows, labels=rows).loss) for rows in (batch(cut, len(ids), 32) for _ in range(8))
        ]
    return fmean(losses), optimizer
