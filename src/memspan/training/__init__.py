"""Training: gradients, optimizer state and activations, planned before they are spent.

savers = Stack(["checkpointing", "chunked-loss"])
model, optimizer = savers.prepare(model, AdamW(lr=1e-4))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "AdamW": "memspan.training.base",
    "Estimate": "memspan.training.estimate",
    "Saver": "memspan.training.base",
    "SaverConfig": "memspan.training.base",
    "Spec": "memspan.training.spec",
    "Stack": "memspan.training.base",
    "Step": "memspan.training.step",
    "TokenBatches": "memspan.training.data",
    "TrainerParts": "memspan.training.trainer",
    "find_saver": "memspan.training.base",
    "for_trainer": "memspan.training.trainer",
    "has_values": "memspan.training.base",
    "known_savers": "memspan.training.base",
    "train": "memspan.training.loop",
}
__all__ = [
    "AdamW",
    "Estimate",
    "Saver",
    "SaverConfig",
    "Spec",
    "Stack",
    "Step",
    "TokenBatches",
    "TrainerParts",
    "find_saver",
    "for_trainer",
    "has_values",
    "known_savers",
    "train",
]

if TYPE_CHECKING:
    from memspan.training.base import AdamW, Saver, SaverConfig, Stack, find_saver, has_values, known_savers
    from memspan.training.data import TokenBatches
    from memspan.training.estimate import Estimate
    from memspan.training.loop import train
    from memspan.training.spec import Spec
    from memspan.training.step import Step
    from memspan.training.trainer import TrainerParts, for_trainer


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: torch is loaded only by whoever trains."""
    if name not in _WHERE:
        raise AttributeError(f"module 'memspan.training' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value
