"""Savers, alone and together, with settings that let everything happen within a few steps of a toy model.

As a program it trains some of them in processes that a test kills: compositions.py FOLDER STEPS SECONDS NAMES.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from memspan.core.testing import tiny_llama
from memspan.training import AdamW, Saver, find_saver, train

_OPTIONS: dict[str, dict[str, Any]] = {
    "chunked-loss": {"tokens": 8},
    "lora": {"rank": 2},
    "q-galore": {"rank": 4, "refresh": 2, "smallest": 0, "group": 32},
    "coat": {"smallest": 0},
    "sst": {"rank": 2, "interval": 2, "warmup": 1},
    "randlora": {"rank": 8},
    "ist": {"every": 2, "reward": "normal"},
    "lemo": {"block": 4},
    "memo-1m": {"alpha": 0.5, "block": 4},
}
ALONE = tuple(slug for slug in ("checkpointing", *_OPTIONS) if slug != "ist")
TOGETHER = (
    "lora+ist+checkpointing",
    "randlora+ist+chunked-loss",
    "q-galore+lemo+memo-1m",
    "coat+chunked-loss",
    "sst+memo-1m",
)
ROWS = torch.randint(0, 64, (24, 12), generator=torch.Generator().manual_seed(0))


def savers(names: str, **options: Any) -> list[Saver]:
    """The savers of a name such as "sst+memo-1m"; `options` are the first one's."""
    first, *others = names.split("+")
    made = [find_saver(first, **{**_OPTIONS.get(first, {}), **options})]
    return made + [find_saver(one, **_OPTIONS.get(one, {})) for one in others]


def possible(names: str) -> bool:
    """Whether what the savers need is installed."""
    return "lora" not in names.split("+") or find_spec("peft") is not None


def run(names: str, steps: int, batches: Any = None, **options: Any) -> Any:
    """Train a toy model; attention has dropout, but where memo-1m would have to draw it again."""
    rows = [{"input_ids": two, "labels": two} for two in ROWS.split(2)]
    model = tiny_llama(attention_dropout=0.0 if "memo-1m" in names else 0.2)
    settings: dict[str, Any] = {"optimizer": AdamW(lr=1e-2, weight_decay=0.1), "progress": False, **options}
    return train(model, batches or rows, steps=steps, savers=savers(names), **settings)


def _serve(folder: Path, steps: int, seconds: float, names: Sequence[str]) -> None:
    """Train each composition in a process of its own, in its own folder, and tell the processes' numbers."""
    children = []
    for number, one in enumerate(names):
        child = os.fork()
        if not child:
            data = [{"input_ids": two, "labels": two} for two in ROWS.split(2)]

            def batches(step: int, data: Any = data) -> Any:
                time.sleep(seconds)  # which leaves the test the time to kill
                return data[step % len(data)]

            run(one, steps, batches, out=folder / str(number), save_every=2)
            os._exit(0)
        children.append(child)
    print(*children, flush=True)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
