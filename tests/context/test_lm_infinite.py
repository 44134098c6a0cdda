"""LM-Infinite: the mask written plainly, its ceiling, its middle tokens, its bounds."""

from __future__ import annotations

import pytest
import torch

import memspan
from memspan.context import attention
from memspan.context.lm_infinite import LmInfinite
from memspan.core.testing import tiny_llama


def ids(count, seed=0):
    return torch.randint(1, 64, (1, count), generator=torch.Generator().manual_seed(seed))


class Masked(LmInfinite):
    """Every query by itself over everything that was read, as the paper writes it."""

    bounded = False

    def bind(self, family, budget, batch=1):
        self.window, self.distance = self.config.window, self.config.distance or self.config.window
        return super(LmInfinite, self).bind(family, budget, batch)

    def attend(self, layer, q, k, v, slots, step, call):
        slots.write(k, v)
        keys, values = slots.view()
        rows = []
        for t in range(step.count):
            at = int(step.pos[0, t])
            seen = [j for j in range(at + 1) if at - j < self.window or j < self.config.sinks]
            turned = self.family.rotate(
                layer, keys[:, :, seen], torch.tensor([[-min(at - j, self.distance) for j in seen]])
            )
            shares = attention.weights(attention.scores(q[:, :, t : t + 1], turned, call.scaling), None)
            rows.append(attention.mix(shares, values[:, :, seen]))
        return torch.cat(rows, 2)


@pytest.mark.parametrize("distance", [None, 9, 30])
@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_dropping_slots_is_the_mask(distance, chunk):
    model = tiny_llama()
    tokens = ids(90)
    options = {"window": 16, "sinks": 3, "distance": distance}
    with torch.no_grad():
        with memspan.context(LmInfinite(**options, chunk=chunk), model) as reader:
            dropped = model(tokens).logits
            assert reader.cache.tracks[0].n <= 16 + 3 + chunk
        with memspan.context(Masked(**options, chunk=50), model):
            masked = model(tokens).logits
    assert float((dropped - masked).abs().max()) < 1e-5


def test_the_middle_comes_back_for_the_last_query_alone():
    model = tiny_llama(layers=3)
    tokens = ids(60)
    options = {"window": 12, "sinks": 2, "chunk": 30}
    with torch.no_grad():
        with memspan.context(LmInfinite(**options), model):
            without = model(tokens).logits
        with memspan.context(LmInfinite(**options, top_k=4, top_k_from_layer=2), model):
            with_middle = model(tokens).logits
    changed = (with_middle - without).abs().amax((0, 2)) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [29, 59]


def test_the_budget_solves_for_the_window():
    model = tiny_llama(positions=4096)
    windows = []
    for budget in (100_000, 200_000):
        with memspan.context("lm-infinite", model, budget=budget) as reader:
            reader.feed(ids(1_500))
            windows.append(reader.system.window)
            assert budget * 0.9 < reader.footprint().total <= budget
    assert windows[1] > 1.8 * windows[0]


def test_why_a_token_is_kept():
    with memspan.context("lm-infinite", tiny_llama(), window=10, sinks=2, chunk=4) as reader:
        reader.feed(ids(50))
        reasons = [slot.reason for slot in reader.slots()]
    assert reasons[:2] == ["first", "first"] and reasons[-10:] == ["window"] * 10
