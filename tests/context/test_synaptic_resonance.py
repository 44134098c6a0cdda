"""Synaptic resonance: the rule written plainly, the layer of its own, off until learned, bytes, learning, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import memspan
from memspan.context.synaptic_resonance import (
    ResonantAttention,
    Synapses,
    SynapticResonance,
    SynapticResonanceConfig,
    effective_rank,
)
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
    s, z, agreed = torch.zeros(3, 4), torch.zeros(4), []
    for t in range(1, 7):
        phi = torch.where(k[0, 0, t] > 0, k[0, 0, t] + 1, k[0, 0, t].exp())
        phi = phi / phi.norm()
        said = s @ phi
        rho = float(said @ v[0, 0, t] / (said.norm() * v[0, 0, t].norm())) if float(said.norm()) else 0.0
        weight = 1 + reinforce * max(rho, 0) + correct * max(-rho, 0)
        agreed.append(rho)
        s, z = 0.9 * s + weight * torch.outer(v[0, 0, t], phi), 0.9 * z + weight * phi
    with torch.no_grad():
        ours = rule.write(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 4), k, v, real)
        assert torch.allclose(ours[0][0, 0], s, atol=1e-5) and torch.allclose(ours[1][0, 0], z, atol=1e-5)
        assert ours[2][0, 0, 0].isnan() and ours[2][0, 0, 1:].tolist() == pytest.approx(agreed, abs=1e-5)
        found = rule.read(*ours[:2], k.expand(1, 2, 7, 4))
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
            made.append(rule.write(*start, k, v, real)[:2])
    for other in made[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(made[0], other, strict=True))


def test_synapses_stay_below_their_ceiling():
    rule = Synapses(1, 1, SynapticResonanceConfig(decay=0.9999, ceiling=0.5))
    k = torch.ones(1, 1, 2_000, 4)
    with torch.no_grad():
        s, z, _ = rule.write(
            torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4), k, k, torch.ones(1, 2_000, dtype=torch.bool)
        )
    assert float(s.norm()) <= 0.5 * 4 + 1e-5 and s.isfinite().all() and z.isfinite().all()
    assert float(effective_rank(s)[0, 0]) == pytest.approx(1, abs=1e-2)
    assert float(effective_rank(torch.eye(4))) == pytest.approx(4, abs=1e-4)


# --- a layer of its own ----------------------------------------------------------------------------------------------


def small_layer(seed=0, **options):
    torch.manual_seed(seed)
    layer = ResonantAttention(16, 4, 6, **{"kv_heads": 2, "chunk": 4, "decay": 0.9, **options})
    with torch.no_grad():
        for parameter in layer.synapses.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return layer


def plainly(layer, x):
    """One row, token by token and head by head."""
    q, k, v = (h[0] for h in layer.project(x[None]))
    rule, out = layer.synapses, []
    for head in range(layer.heads):
        kv = head * layer.kv_heads // layer.heads
        phi_q, phi_k = (nn.functional.normalize(nn.functional.elu(h) + 1, dim=-1) for h in (q[head], k[kv]))
        decay, gamma = rule.decay[kv].sigmoid(), rule.share[head].sigmoid()
        s, z, written, rows = torch.zeros(4, 4), torch.zeros(4), 0, []
        for t in range(len(x)):
            first = max(0, t // layer.chunk * layer.chunk - layer.window)
            before = s
            while written < first:
                weight, at = rule.rate[kv].exp(), written
                said = before @ phi_k[at]
                rho = said @ v[kv, at] / (said.norm() * v[kv, at].norm()) if bool((before != 0).any()) else 0 * said[0]
                extra = 1 + (rule.kappa[kv].exp() * rho if rho > 0 else -rule.mu[kv].exp() * rho)
                s = decay * s + weight * extra * torch.outer(v[kv, at], phi_k[at])
                z, written = decay * z + weight * extra * phi_k[at], written + 1
            pos = torch.arange(first, t + 1)[None]
            turned = layer.rotate(k[None, kv : kv + 1, first : t + 1], pos)[0, 0]
            asking = layer.rotate(q[None, head : head + 1, t : t + 1], pos[:, -1:])[0, 0, 0]
            local = (turned @ asking / 2).softmax(0) @ v[kv, first : t + 1]
            rows.append(local if first == 0 else (1 - gamma) * local + gamma * (s @ phi_q[t]) / (z @ phi_q[t]))
        out.append(torch.stack(rows))
    return layer.o_proj(torch.cat(out, 1))


@pytest.mark.parametrize("length", [1, 6, 11, 31])
def test_the_layer_and_its_gradients_are_the_rule_token_by_token(length):
    layer = small_layer()
    x = torch.randn(length, 16, generator=torch.Generator().manual_seed(3))
    found = {}
    for name, made in (("ours", lambda: layer(x[None])[0]), ("plain", lambda: plainly(layer, x))):
        layer.zero_grad()
        out = made()
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        grads = {key: p.grad.clone() for key, p in layer.named_parameters() if p.grad is not None}
        found[name] = out.detach(), grads
    assert torch.allclose(found["ours"][0], found["plain"][0], atol=1e-5)
    for key, grad in found["plain"][1].items():
        assert torch.allclose(found["ours"][1][key], grad, atol=1e-4), key
    assert length < 12 or all(float(found["ours"][1][f"synapses.{key}"].abs().max()) > 1e-5 for key in ("kappa", "mu"))


@pytest.mark.parametrize("cuts", [[1] * 31, [4, 4, 23], [7, 24], [30, 1]])
def test_a_stream_of_the_layer_is_one_pass_in_constant_bytes(cuts):
    layer, x = small_layer(seed=1), torch.randn(2, 31, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        whole, state, said, sizes = layer(x), layer.start(2), [], []
        for part in x.split(cuts, 1):
            out, state = layer.step(part, state)
            said.append(out)
            sizes.append(state.nbytes)
        assert torch.allclose(torch.cat(said, 1), whole, atol=1e-6)
    assert state.read == 31 and max(sizes) <= 4 * 2 * 2 * (4 * 4 + 4 + (6 + 4) * 8)


def test_later_tokens_change_nothing_before_and_gradients_reach_what_was_written():
    layer, x = small_layer(), torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(5))
    other = x.clone()
    other[:, 25:] = 0
    assert torch.allclose(layer(x)[:, :25], layer(other)[:, :25], atol=1e-6)
    x.requires_grad_(True)
    layer(x)[:, -1].sum().backward()
    assert float(x.grad[0, 0].abs().max()) > 0
    x.grad.zero_()
    state = layer.step(x[:, :30], layer.start(1))[1]
    layer.step(x[:, 30:], state.detach())[0].sum().backward()
    assert float(x.grad[0, :30].abs().max()) == 0


def test_the_layer_and_the_reader_follow_the_same_rule(model):
    tokens, heard = ids(60), {}
    attention = model.model.layers[0].self_attn
    layer = ResonantAttention(32, 4, 16, kv_heads=2, chunk=8, share=-1.0)
    layer.load_state_dict(attention.state_dict(), strict=False)
    system = SynapticResonance(slots=16, chunk=8, write=8, sinks=0, share=-1.0)

    def listen(module, args, kwargs, output):
        heard["in"], heard["out"] = kwargs["hidden_states"], output[0]

    with torch.no_grad(), memspan.context(system, model) as reader:
        system.learned.fill_(True)
        state = layer.start(1)
        hook = attention.register_forward_hook(listen, with_kwargs=True)
        for part in tokens.split(8, 1):
            reader.feed(part)
            out, state = layer.step(heard["in"], state)
            assert torch.allclose(heard["out"], out, atol=1e-5)
        hook.remove()
        held = system.state(reader)[0]
        assert torch.allclose(held.s, state.s, atol=1e-5) and torch.allclose(held.z, state.z, atol=1e-5)


# --- the system ------------------------------------------------------------------------------------------------------


def test_the_state_can_be_looked_at(model):
    system = SynapticResonance(**SMALL, history=6)
    with memspan.context(system, model) as reader:
        reader.feed(ids(20))
        assert system.state(reader) == [None, None]
        reader.feed(ids(20, seed=1))
        first, second = system.state(reader)
        assert first.s.shape == (1, 2, 8, 8) and first.z.shape == (1, 2, 8) and first.resonance.shape == (1, 2, 5)
        assert (first.resonance[..., 0] == 0).all() and (first.resonance[..., 1:].abs() <= 1).all()
        assert ((second.rank >= 1) & (second.rank <= 8)).all()
        reader.feed(ids(200, seed=2))
        latest = system.state(reader)[0].resonance
        reader.feed(ids(8, seed=3))
        assert latest.shape == (1, 2, 6) and torch.equal(system.state(reader)[0].resonance[..., :4], latest[..., 2:])
    with memspan.context(SynapticResonance(**SMALL, history=0), model) as reader:
        reader.feed(ids(60))
        assert reader.system.state(reader)[0].resonance.shape == (1, 2, 0)


def test_bfloat16_keeps_its_synapses_in_float32():
    system = SynapticResonance(**SMALL, share=0.0)
    with torch.no_grad(), memspan.context(system, tiny_llama().to(torch.bfloat16)) as reader:
        system.learned.fill_(True)
        assert reader.feed(ids(60), nll=True)[0, 1:].isfinite().all()
        assert reader.cache.extra["s.0"].dtype == reader.cache.extra["z.0"].dtype == torch.float32


def test_nothing_is_read_until_something_was_learned(model):
    tokens = ids(70)
    system = SynapticResonance(**SMALL)
    with torch.no_grad():
        with memspan.context("window", model, slots=16, chunk=8):
            plain = model(tokens).logits
        with memspan.context(system, model) as reader:
            assert torch.equal(model(tokens).logits, plain)
            assert reader.cache.extra["s.0"].abs().sum() > 0
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


def test_the_shortest_windows_that_teach_anything(model):
    system = SynapticResonance(slots=17, chunk=8, write=4)
    done = system.fit(model, ids(300)[0], steps=2, length=27)
    assert all(0 < loss < 10 for loss in done.losses)
    with pytest.raises(InputError, match="at least 27"):
        system.fit(model, ids(300)[0], steps=1, length=26)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"decay": 1.0}, "decay"), ({"write": 0}, "write"), ({"ceiling": 0}, "ceiling"), ({"history": -1}, "history")],
)
def test_unusable_options_are_said(options, message):
    with pytest.raises(InputError, match=message):
        SynapticResonance(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"chunk": 7}, "window"), ({"kv_heads": 3}, "divide"), ({"decay": 0.0}, "decay"), ({"dim": 12}, "even")],
)
def test_an_unusable_layer_is_said(options, message):
    with pytest.raises(InputError, match=message):
        ResonantAttention(**{"dim": 16, "heads": 4, "window": 6, "chunk": 4, **options})
