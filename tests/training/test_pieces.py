"""Long vectors in pieces: all of them in earnest, three where there are no values, with the same bytes and work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memspan.core.ledger import Ledger
from memspan.planner.fake import imagined
from memspan.planner.imagine import imagine
from memspan.training import pieces as module
from memspan.training.base import AdamW, OtherOptimizer, Saver, Stack
from memspan.training.packed_adam import PackedAdamW, decaying
from memspan.training.pieces import pieces, standing
from memspan.training.spec import Spec
from memspan.training.step import Step


class Packed(Saver):
    """AdamW that works in pieces."""

    slug = "packed"
    touches = frozenset({"optimizer"})

    def optimizer(self, factory):
        return OtherOptimizer(lambda model, of: PackedAdamW(decaying(model, 0.1), lr=of.lr), factory)


def spec():
    return Spec(make_model=lambda: nn.Linear(2_048, 2_600), make_batch=lambda: {"x": torch.ones(2, 2_048)})


def loss(model, batch):
    return model(batch["x"]).sum()


@pytest.mark.parametrize(("count", "size"), [(0, 4), (3, 4), (8, 4), (11, 4), (40, 4), (41, 4)])
def test_pieces_are_all_of_it(count, size):
    real = list(pieces(torch.ones(count), count, size))
    assert [i for start, stop in real for i in range(start, stop)] == list(range(count))
    with imagined():
        found = [(start, stop, standing()) for start, stop in pieces(torch.ones(count), count, size)]
    assert len(found) <= 3 and sum((stop - start) * times for start, stop, times in found) == count
    assert standing() == 1


def test_what_breaks_off_stands_for_nothing_any_more():
    with imagined(), pytest.raises(RuntimeError, match="on purpose"):
        for start, _ in pieces(torch.ones(40), 40, 4):
            if start:
                raise RuntimeError("on purpose")
    assert standing() == 1


def test_a_plan_without_the_middle_is_the_same(monkeypatch):
    short, _ = imagine(spec(), Stack([Packed()]), loss=loss)
    monkeypatch.setattr(module, "has_values", lambda values: True)
    whole, _ = imagine(spec(), Stack([Packed()]), loss=loss)
    assert short == whole and short.traffic > 0


def test_a_plan_is_what_a_step_holds():
    job, stack = spec(), Stack([Packed()])
    found, _ = imagine(job, Stack([Packed()]), loss=loss)
    model, optimizer = stack.prepare(job.build(), AdamW())
    step = Step(model, optimizer, stack, loss)
    step(job.random_batch())
    with Ledger(model, optimizer=optimizer) as ledger:
        batch = job.random_batch()
        step(batch, ledger)
        del batch
    assert found.stretches == ledger.stretches
