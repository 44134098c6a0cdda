"""One of the ranks of `sequence_parallelism.py`, `_sequence_ranks.py OUT SEED LAYERS`; the first writes a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from memspan.core.testing import tiny_llama
from memspan.training import AdamW, Stack, ranks
from memspan.training.sequence_parallelism import SequenceParallelism
from memspan.training.step import language_model_loss

LENGTH = 256
CASES: dict[str, dict[str, Any]] = {
    "ring": {},
    "ring, zigzag": {"order": "zigzag"},
    "rsa": {"method": "rsa"},
    "rsa, zigzag": {"method": "rsa", "order": "zigzag"},
}


def batch(seed: int) -> dict[str, torch.Tensor]:
    """Two rows; the second ends early, and its padding counts for nothing."""
    ids = torch.randint(0, 512, (2, LENGTH), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, -50:] = 0
    return {"input_ids": ids, "labels": ids.masked_fill(mask == 0, -100), "attention_mask": mask}


def gradients(savers: list[Any], seed: int, layers: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, for a net with SmolLM2's nine heads on three."""
    stack = Stack(savers)
    net = tiny_llama(
        layers=layers,
        hidden=144,
        heads=9,
        kv_heads=3,
        vocabulary=512,
        positions=LENGTH,
        seed=seed,
        tie_word_embeddings=True,
    )
    model, _ = stack.prepare(net.train(), AdamW())
    with stack.step_context():
        loss = stack.loss(language_model_loss)(model, stack.batch(batch(seed)))
        loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    stack.finish(model)
    return float(loss.detach()), found


def main() -> None:
    """Every method and order beside one process."""
    torch.set_num_threads(1)
    out, seed, layers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    loss, wanted = gradients([], seed, layers)
    found = {}
    with ranks.joined():
        for name, options in CASES.items():
            ours, mine = gradients([SequenceParallelism(**options)], seed, layers)
            off = max(float((mine[key] - one).abs().max() / one.abs().max()) for key, one in wanted.items())
            found[name] = {"loss": abs(ours / loss - 1), "gradients": off}
        if ranks.rank() == 0:
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
