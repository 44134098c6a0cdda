"""One of eight ranks of FSDP2, without the others: prints what the ledger measures and what the formula says."""

from __future__ import annotations

import json

import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama
from memspan.planner.imagine import imagine
from memspan.training import AdamW, Estimate, Saver, Spec, Stack, Step
from memspan.training.estimate import sharded

RANKS = 8


class Fsdp(Saver):
    """Each layer is gathered for itself."""

    slug = "fsdp"
    touches = frozenset({"distribution"})

    def change(self, model: nn.Module) -> nn.Module:
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)

    def estimate(self, spec: Spec, before: Estimate) -> Estimate:
        return sharded(spec, before, stage=3)


def main() -> None:
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    config = tiny_llama(layers=6, hidden=128, vocabulary=512).config
    spec = Spec(config=config, batch=1, seq=16, devices=RANKS)
    stack = Stack([Fsdp()])
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    with Ledger(model, optimizer=optimizer) as ledger:
        step(spec.random_batch(), ledger)
    foretold = stack.estimate(spec, imagine(spec, Stack())[0])
    found = {"measured": ledger.stretches, "foretold": foretold.stretches}
    print(json.dumps({way: {name: held.by_tier for name, held in at.items()} for way, at in found.items()}))


if __name__ == "__main__":
    main()
