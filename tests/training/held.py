"""What a rank's ledger sees of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memspan.core.ledger import Ledger
from memspan.training import Step


def least_held(step: Step, make_batch: Callable[[], Any]) -> dict[str, dict[str, int]]:
    """The stretches of a step once there is state, by tier.

    Of three such steps the least, since gloo's thread may hold a tensor for a moment after its collective has returned.
    """
    seen = []
    for _ in range(3):
        with Ledger(step.model, optimizer=step.optimizer) as ledger:
            batch = make_batch()
            step(batch, ledger)
            del batch
        seen.append({name: one.by_tier for name, one in ledger.stretches.items()})
    return {name: min((one[name] for one in seen), key=lambda tiers: sum(tiers.values())) for name in seen[0]}
