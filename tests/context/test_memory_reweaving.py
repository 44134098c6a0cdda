"""Memory reweaving: what is captured, how it is woven in against a plain reference, its bytes, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import layer_norm, softplus

import memspan
from memspan.context.memory_reweaving import CapturedToken, MemoryReweaving
from memspan.core.errors import BudgetError, InputError
from memspan.core.testing import tiny_llama

SMALL = {"layers": (0.5, 1.0), "period": 8, "capture": 3, "ring": 10, "slots": 12, "chunk": 6}
GENERATE = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def woven(model, **options):
    """A system whose gates are open."""
    system = MemoryReweaving(**{**SMALL, **options})
    system.prepare(model)
    with torch.no_grad():
        system.gates.copy_(torch.tensor([0.7, -0.4])[: len(system.gates)])
    return system


@pytest.mark.parametrize("chunk", [5, 64])
@pytest.mark.parametrize("options", [{}, {"strength": 0.0}])
def test_with_closed_gates_it_is_the_plain_model(model, chunk, options):
    system = MemoryReweaving(period=8, capture=3, ring=10, chunk=chunk, layers=(0.5, 1.0), **options)
    system.prepare(model)
    if options:
        torch.nn.init.ones_(system.gates)
    tokens = ids(40)
    plain = model.generate(tokens, **GENERATE)
    with torch.no_grad():
        logits = model(tokens).logits
        with memspan.context("full", model, chunk=min(chunk, 8)):
            same = model(tokens).logits
        with memspan.context(system, model) as reader:
            read = model(tokens).logits
            assert len(system.rings(reader)) == 10
            assert torch.allclose(read, logits, atol=1e-5)
            if chunk == 64:  # passes of 8, as the full cache's
                assert torch.equal(read, same)
            reader.reset()
            assert torch.equal(model.generate(tokens, **GENERATE), plain)


@pytest.mark.parametrize("options", [{}, {"layered": False}, {"reconstruct": False}, {"layers": (1,)}])
def test_states_are_woven_in_as_written_out(model, options):
    """Two periods: the second one, token by token, with the states rebuilt one by one."""
    system, tokens = woven(model, slots=60, chunk=8, **options), ids(16)
    seen = {}

    def note(layer):
        return model.model.layers[layer].register_forward_hook(lambda *x: seen.__setitem__(layer, x[2]))

    with torch.no_grad():
        hooks = [note(layer) for layer in range(2)]
        logits = model(tokens[:, :8]).logits[0]
        for hook in hooks:
            hook.remove()
        surprisal = torch.tensor([0.0] + [-logits[t].log_softmax(-1)[tokens[0, t + 1]].item() for t in range(7)])
        kept = sorted(surprisal.argsort(descending=True)[:3].tolist())
        states = {layer: layer_norm(seen[layer][0, kept], (32,)) for layer in range(2)}

        def weaving(index, layer):
            def weave(module, args, h):
                out = h.clone()
                for t in range(8, 16):
                    rebuilt = []
                    for j in range(3):
                        if not system.config.reconstruct:
                            rebuilt.append(states[layer][j])
                        elif system.config.layered:
                            codes = [system.encoders[i](states[own][j]) for i, own in enumerate(system.at)]
                            rebuilt.append(system.decoders[index](torch.cat(codes)))
                        else:
                            rebuilt.append(system.decoders[index](system.encoders[index](states[layer][j])))
                    rebuilt = torch.stack(rebuilt)
                    query = system.queries[index](layer_norm(h[0, t], (32,)))
                    products = system.keys[index](rebuilt) @ query / math.sqrt(8)
                    products = products - softplus(system.slopes[index]) * math.log(2)
                    mixed = products.softmax(0) @ rebuilt
                    out[0, t] += torch.tanh(system.gates[index]) * system.up[index](system.down[index](mixed))
                return out

            return model.model.layers[layer].register_forward_hook(weave)

        hooks = [weaving(index, layer) for index, layer in enumerate(system.at)]
        wanted = model(tokens).logits
        for hook in hooks:
            hook.remove()
        plain = model(tokens).logits
        with memspan.context(system, model) as reader:
            read = model(tokens).logits
            first = [row for row in system.rings(reader) if row.position < 8]
    assert first == [CapturedToken(position, 2) for position in kept]
    assert torch.allclose(read, wanted, atol=1e-5)
    assert float((read - plain)[0, 8:].abs().max()) > 1e-3


@pytest.mark.parametrize("piece", [1, 3, 8, 50])
def test_what_is_captured_does_not_depend_on_how_a_text_is_cut(model, piece):
    system, tokens = woven(model, slots=100), ids(50)
    with memspan.context(system, model) as reader:
        at_once = reader.feed(tokens, nll=True)
        ring = {name: tensor.clone() for name, tensor in reader.cache.extra.items()}
        reader.reset()
        pieces = torch.cat([reader.feed(tokens[:, at : at + piece], nll=True) for at in range(0, 50, piece)], 1)
        assert torch.allclose(pieces, at_once, atol=1e-4, equal_nan=True)
        assert torch.equal(reader.cache.extra["places"], ring["places"])
        assert torch.allclose(reader.cache.extra["ring"], ring["ring"], atol=1e-4)


@pytest.mark.parametrize("relevance", ["norm", "random"])
def test_other_choices_of_what_is_captured(model, relevance):
    tokens = ids(8)
    with torch.no_grad(), memspan.context(woven(model, relevance=relevance, slots=60, chunk=8), model) as reader:
        reader.feed(tokens)
        chosen = [row.position for row in reader.system.rings(reader)]
        again = woven(model, relevance=relevance, slots=60, chunk=8)
    assert len(chosen) == 3 and chosen == sorted(chosen)
    if relevance == "norm":
        out = model.model(tokens, output_hidden_states=True).hidden_states
        before_norm = []
        hook = model.model.layers[1].register_forward_hook(lambda *x: before_norm.append(x[2]))
        model.model(tokens)
        hook.remove()
        moved = (out[1] - out[0]).norm(dim=-1) + (before_norm[0] - out[1]).norm(dim=-1)
        assert chosen == sorted(moved[0].topk(3).indices.tolist())
    else:
        with memspan.context(again, model) as reader:
            reader.feed(tokens)
            assert [row.position for row in again.rings(reader)] == chosen


def test_states_do_not_grow_over_many_periods(model):
    system = woven(model)
    sizes = []
    hook = model.model.layers[1].register_forward_hook(lambda *x: sizes.append(float(x[2].norm(dim=-1).mean())))
    with memspan.context(system, model) as reader:
        sizes.clear()
        for part in range(50):
            reader.feed(ids(8, seed=part % 5))
    hook.remove()
    assert max(sizes[-20:]) < 1.5 * max(sizes[4:24]) and len(sizes) == 100


def test_left_padding_is_not_captured(model):
    tokens, mask = ids(26, batch=2), torch.ones(2, 26, dtype=torch.long)
    mask[0, :14] = 0
    system = woven(model)
    with torch.no_grad(), memspan.context(system, model, batch=2) as reader:
        together = model(tokens, attention_mask=mask).logits
        assert together.isfinite().all()
        assert {row.position for row in system.rings(reader, 0)} <= set(range(12))
        assert len(system.rings(reader, 0)) == 5 and len(system.rings(reader, 1)) == 9
        assert model.generate(tokens, attention_mask=mask, **GENERATE).shape == (2, 38)


@pytest.mark.parametrize("batch", [1, 2])
def test_bytes_are_counted_flat_and_in_the_budget(model, batch):
    with pytest.raises(BudgetError, match="raise the budget") as error:
        memspan.context("memory-reweaving", model, budget=100, batch=batch, **SMALL).__enter__()
    budget = error.value.needed
    with (
        memspan.context("memory-reweaving", model, budget=budget, batch=batch, **SMALL) as reader,
        memspan.Ledger(model) as ledger,
    ):
        held = set()
        for part in range(6):
            reader.feed(ids(40, batch, seed=part))
            held.add(reader.footprint().by_tier["context"])
        model.generate(ids(9, batch), **GENERATE)
        ledger.watch_context(reader.cache)
        held.add(ledger.now.by_tier["context"])
        assert len(held) == 1 and held.pop() <= budget
        assert reader.cache.extra["ring"].nbytes == batch * 10 * 2 * 8 * 4


def test_a_saved_context_goes_on_as_if_never_stopped(model, tmp_path):
    system = woven(model)
    with memspan.context(system, model) as reader:
        reader.feed(ids(41))
        reader.save(tmp_path / "context")
        went_on = reader.feed(ids(40, seed=1), nll=True)
    with memspan.context(system, model) as reader:
        reader.load(tmp_path / "context")
        with reader.fork():
            reader.feed(ids(30, seed=2))
        assert torch.equal(reader.feed(ids(40, seed=1), nll=True), went_on)


def test_an_interrupted_pass_is_taken_back(model):
    def stop(*_):
        raise KeyboardInterrupt

    with memspan.context(woven(model), model) as reader:
        reader.feed(ids(21))
        wanted = reader.feed(ids(9, seed=1), nll=True)
        reader.reset()
        reader.feed(ids(21))
        hook = model.model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            reader.feed(ids(9, seed=1))
        hook.remove()
        assert torch.allclose(reader.feed(ids(9, seed=1), nll=True), wanted, atol=1e-5)


def test_one_token_is_enough_and_it_writes_on_after_eviction(model):
    with memspan.context(woven(model), model) as reader:
        assert model(ids(1)).logits.isfinite().all()
        reader.feed(ids(90))
        assert model.generate(ids(3), **GENERATE).shape == (1, 15)
        assert len(reader.slots()) <= 18


def test_sixteen_bits(model):
    half = tiny_llama().to(torch.bfloat16)
    tokens = ids(40)
    with torch.no_grad():
        with memspan.context(woven(model, slots=60), model):
            wanted = model(tokens).logits
        with memspan.context(woven(half, slots=60), half) as reader:
            assert float((half(tokens).logits - wanted).abs().max()) < 0.05
            assert reader.cache.extra["ring"].dtype == torch.float32


# --- learning --------------------------------------------------------------------------------------------------------


def remembered(count):
    """Tokens of which only a few ever come: something to learn."""
    chance = torch.Generator().manual_seed(0)
    return torch.randint(1, 6, (count,), generator=chance) * 7


FIT = {"steps": 10, "batch": 2, "lr": 0.01, "every": 4, "length": 32}


@pytest.mark.parametrize("options", [{}, {"layered": False}, {"reconstruct": False}])
def test_it_learns_and_what_it_learned_is_used(model, tmp_path, options):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    system = MemoryReweaving(**SMALL, **options)
    done = system.fit(model, remembered(600), out=tmp_path / "woven", **{**FIT, "steps": 40})
    assert done.after < done.before and bool((system.gates != 0).all())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    tokens = ids(40)
    with torch.no_grad(), memspan.context(system, model):
        wanted = model(tokens).logits
    with torch.no_grad(), memspan.context("memory-reweaving", model, weights=tmp_path / "woven"):
        assert torch.allclose(model(tokens).logits, wanted, atol=1e-5)
    with torch.no_grad(), memspan.context("memory-reweaving", model, weights=tmp_path / "woven", strength=0.0):
        assert float((model(tokens).logits - wanted).abs().max()) > 1e-3


def test_training_taken_up_again_has_the_same_losses(model, tmp_path):
    def stop(step, loss):
        if step == 6:
            raise RuntimeError("on purpose")

    whole = MemoryReweaving(**SMALL).fit(model, remembered(300), **FIT)
    with pytest.raises(RuntimeError, match="on purpose"):
        MemoryReweaving(**SMALL).fit(model, remembered(300), out=tmp_path / "woven", on_step=stop, **FIT)
    again = MemoryReweaving(**SMALL).fit(model, remembered(300), out=tmp_path / "woven", **FIT)
    assert again.resumed_at == 4 and again.losses == pytest.approx(whole.losses, abs=1e-5)


def test_states_are_rebuilt_better_the_longer_it_learns(model):
    system = MemoryReweaving(**SMALL, rebuilding=10.0)
    done = system.fit(model, remembered(300), **{**FIT, "steps": 30})
    assert done.losses[-1] < 0.7 * done.losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ()}, "layers"),
        ({"layers": (0.5, 0.5)}, "each once"),
        ({"layers": (2,)}, "0 to 1"),
        ({"layers": (1.5,)}, "layers names 1.5"),
        ({"capture": 0}, "capture"),
        ({"ring": 32}, r"at most ring \(32\)"),
        ({"period": 32}, r"at most period \(32\)"),
        ({"rank": 0.0}, "rank"),
        ({"rank": 1.5}, "rank"),
        ({"relevance": "age"}, "relevance"),
        ({"strength": -1.0}, "strength"),
        ({"rebuilding": -1.0}, "rebuilding"),
    ],
)
def test_unusable_options_are_said(model, options, message):
    with pytest.raises(InputError, match=message), memspan.context("memory-reweaving", model, **options):
        pass


def test_windows_of_one_period_are_refused(model):
    with pytest.raises(InputError, match="no two periods"):
        MemoryReweaving(**SMALL).fit(model, ids(200)[0], **{**FIT, "length": 12})
