"""Trains a small model with dropout in a process of its own, which a test kills: runner.py FOLDER STEPS."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from memspan.core.testing import tiny_llama
from memspan.training import AdamW, TokenBatches, train


class Slow(TokenBatches):
    """Leaves the test the time to kill."""

    def __call__(self, number: int) -> dict[str, torch.Tensor]:
        time.sleep(float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
        return super().__call__(number)


def batches(kind: type[TokenBatches] = TokenBatches) -> TokenBatches:
    """Random tokens, in an order that lasts more than an epoch."""
    tokens = np.random.default_rng(0).integers(0, 64, 400).astype(np.int32)
    return kind(tokens, batch=2, seq=16)


def run(folder: str, steps: int, *, resume: bool = False, kind: type[TokenBatches] = TokenBatches, **options):
    """The training of these tests."""
    model = tiny_llama(attention_dropout=0.2, tie_word_embeddings=True)
    settings = {"savers": ["checkpointing"], "optimizer": AdamW(lr=1e-2, weight_decay=0.1), "clip": 1.0, **options}
    return train(model, batches(kind), steps=steps, out=folder, save_every=3, resume=resume, progress=False, **settings)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), kind=Slow)
