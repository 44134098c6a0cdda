"""Synaptic resonance: the rule written plainly, off until learned, bounded, constant bytes, learning, errors."""

from __future__ import annotations

import pytest
import torch

import memspan
from memspan.context.synaptic_resonance import Synapses, SynapticResonance, SynapticResonanceConfig, effective_rank
from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama

SMALL = {"slots": 16, "chunk": 8, "write": 4}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.mark.parametrize(("reinforce", "correct"), [(True, True), (True, False), (False, True), (False, False)])
def test_writing_and_reading_are_the_rule_token_by_token(reinforce, correct):
    chance = torch.Generator().manual_seed(0)
    rule = Synapses(1, 2, SynapticResonanceConfig(write=1, decay=0.9, reinforce=reinforce, correct=correct))
    k, v = torch.randn(1, 1, 7, 4, generator=chance), torch.randn(1, 1, 7, 3, generator=chance)
    real = torch.tensor([[False, True, True, True, True, True, True]])
    s, z = torch.zeros(3, 4), torch.zeros(4)
    for t in range(1, 7):
        phi = torch.where(k[0, 0, t] > 0, k[0, 0, t] + 1, k[0, 0, t].exp())
        phi = phi / phi.norm()
        said = s @ phi
        rho = float(said @ v[0, 0, t] / (said.norm() * v[0, 0, t].norm())) if float(said.norm()) else 0.0
        weight = 1 + reinforce * max(rho, 0) + correct * max(-rho, 0)
        s, z = 0.9 * s + weight * torch.outer(v[0, 0, t], phi), 0.9 * z + weight * phi
    with torch.no_grad():
        ours = rule.write(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 4), k, v, real)
        assert torch.allclose(ours[0][0, 0], s, atol=1e-5) and torch.allclose(ours[1][0, 0], z, atol=1e-5)
        found = rule.read(*ours, k.expand(1, 2, 7, 4))
    phi = torch.nn.functional.elu(k[0, 0, 3]) + 1
    phi = phi / phi.norm()
    assert torch.allclose(found[0, 1, 3], s @ phi / (z @ phi), atol=1e-5)


def test_a_chunk_without_resonance_is_its_tokens_one_after_the_other():
    chance = torch.Generator().manual_seed(1)
    k, v = torch.randn(2, 3, 10, 4, generator=chance), torch.randn(2, 3, 10, 4, generator=chance)
    real = torch.ones(2, 10, dtype=torch.bool)
    real[1, :4] = False
    start = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4)
    made = []
    for write in (1, 4, 10):
        rule = Synapses(3, 3, SynapticResonanceConfig(write=write, decay=0.8, reinforce=False, correct=False))
        with torch.no_grad():
            made.append(rule.write(*start, k, v, real))
    for other in made[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(made[0], other, strict=True))


def test_synapses_stay_below_their_ceiling():
    rule = Synapses(1, 1, SynapticResonanceConfig(decay=0.9999, ceiling=0.5))
    k = torch.ones(1, 1, 2_000, 4)
    with torch.no_grad():
        s, z = rule.write(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4), k, k, torch.ones(1, 2_000, dtype=torch.bool))
    assert float(s.norm()) <= 0.5 * 4 + 1e-5 and s.isfinite().all() and z.isfinite().all()
    assert float(effective_rank(s)[0, 0]) == pytest.approx(1, abs=1e-2)
    assert float(effective_rank(torch.eye(4))) == pytest.approx(4, abs=1e-4)


def test_nothing_is_read_until_something_was_learned(model):
    tokens = ids(70)
    system = SynapticResonance(**SMALL)
    with torch.no_grad():
        with memspan.context("window", model, slots=16, chunk=8):
            plain = model(tokens).logits
        with memspan.context(system, model) as reader:
            assert torch.equal(model(tokens).logits, plain)
            assert reader.cache.extra["s.0"].abs().sum() > 0
            assert len(system.ranks(reader.cache)[1]) == 2
            reader.reset()
            system.learned.fill_(True)
            assert not torch.equal(model(tokens).logits, plain)
            reader.reset()
            for part in system.synapses:
                part.share.fill_(-100)
            assert torch.allclose(model(tokens).logits, plain, atol=1e-6)


def test_bytes_are_constant_and_counted(model):
    with memspan.context(SynapticResonance(**SMALL), model) as reader:
        held = set()
        for part in range(5):
            reader.feed(ids(60, seed=part))
            held.add(reader.footprint().by_tier["context"])
        row = reader.family.slot_bytes(per_head=False, track=28)
        assert held == {24 * row + reader.system.fixed_bytes(reader.family, 1)}


def test_it_learns_goes_on_and_is_used(model, tmp_path):
    stream = ids(30).repeat(1, 30)[0]
    settings = {"steps": 10, "length": 60, "lr": 0.5, "every": 4}
    system = SynapticResonance(**SMALL)
    done = system.fit(model, stream, out=tmp_path / "whole", **settings)
    assert done.after < done.before and done.parameters == 2 * (4 * 2 + 4)

    def stop(step, loss):
        if step == 5:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        SynapticResonance(**SMALL).fit(model, stream, out=tmp_path / "again", on_step=stop, **settings)
    again = SynapticResonance(**SMALL).fit(model, stream, out=tmp_path / "again", **settings)
    assert again.resumed_at == 4 and again.losses == pytest.approx(done.losses, abs=1e-5)
    tokens = ids(60, seed=2)
    restored = SynapticResonance.load(tmp_path / "whole", model)
    with torch.no_grad():
        with memspan.context(system, model):
            wanted = model(tokens).logits
        with memspan.context(restored, model) as reader:
            assert torch.allclose(model(tokens).logits, wanted, atol=1e-6)
            reader.save(tmp_path / "context")
            went_on = model(tokens[:, :9]).logits
            reader.load(tmp_path / "context")
            assert torch.allclose(model(tokens[:, :9]).logits, went_on, atol=1e-6)


def test_unusable_options_are_said(model):
    for options, message in (({"decay": 1.0}, "decay"), ({"write": 0}, "write"), ({"ceiling": 0}, "ceiling")):
        with pytest.raises(InputError, match=message):
            SynapticResonance(**options)
    with pytest.raises(InputError, match="none leaves the window"):
        SynapticResonance(**SMALL).fit(model, ids(300)[0], steps=1, length=20)
