"""LongMem: what leaves the window is found again by a side network, and never becomes stale."""

from __future__ import annotations

import pytest
import torch

import memspan
from memspan.context.longmem import CAPACITY, LongMem
from memspan.context.slots import Slots
from memspan.core.errors import BudgetError, InputError
from memspan.core.testing import tiny_llama

SMALL = {"slots": 24, "chunk": 8, "sinks": 2, "capacity": 64, "top_k": 16}
GENERATE = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama(layers=5, initializer_range=0.2)


def made(model, **options):
    system = LongMem(**options)
    system.prepare(model)
    return system


# --- the side network ------------------------------------------------------------------------------------------------


def side_by_hand(model, tokens, wanted):
    """Logits of the side network over a whole text without memory: two layers beside four, and the fifth alone.

    The second reads the bank of layer 2, and is a copy of it.
    """
    with torch.no_grad():
        states = []
        hooks = [
            layer.register_forward_hook(lambda module, args, output: states.append(output))
            for layer in model.model.layers
        ]
        model(tokens)
        for hook in hooks:
            hook.remove()
        states = [model.get_input_embeddings()(tokens), *states]
        places = torch.arange(tokens.shape[1])[None]
        x = states[0]
        for j in range(2):
            if j in wanted:
                rotary = model.model.rotary_emb(x, places)
                layer = model.model.layers[(1, 2)[j]]
                causal = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf")).triu(1)[None, None]
                x = layer(x, position_embeddings=rotary, attention_mask=causal)
            x = x + states[2 * j + 2] - states[2 * j]
        return model.lm_head(model.model.norm(x + states[5] - states[4]))


@pytest.mark.parametrize("side", [None, (1,)])
@pytest.mark.parametrize("chunk", [7, 64])
def test_the_side_network_adds_what_the_models_layers_have_computed(model, side, chunk):
    tokens = ids(40)
    with torch.no_grad(), memspan.context("longmem", model, chunk=chunk, side=side) as reader:
        assert reader.system.memory_layer == 2 and reader.system.reader_layer == 1
        said = model(tokens).logits
        reader.reset()
        generated = model.generate(tokens, **GENERATE)
    assert torch.allclose(said, side_by_hand(model, tokens, {1} if side else {0, 1}), atol=1e-4)
    assert torch.equal(generated[:, 40], said[:, -1].argmax(-1))
    assert not torch.allclose(said, model(tokens).logits, atol=1e-2)


class Told(LongMem):
    """Is told of every layer."""

    def inherits(self):
        return None

    def on_evict(self, layer, k, v, pos, cache):
        if layer == self.memory_layer:
            super().on_evict(layer, k, v, pos, cache)


def test_only_the_layer_of_the_bank_is_copied_and_rotated_back(model, monkeypatch):
    plain, copied, found = Slots.at, [], {}

    def at(self, index):
        keys, values = plain(self, index)
        copied[-1] += keys.nbytes + values.nbytes
        return keys, values

    monkeypatch.setattr(Slots, "at", at)
    for kind in (LongMem, Told):
        copied.append(0)
        with torch.no_grad(), memspan.context(kind(**SMALL), model) as reader:
            reader.feed(ids(100))
            banks = {name: held.clone() for name, held in reader.cache.extra.items() if name.startswith("bank")}
            found[kind] = banks, model(ids(9, seed=1)).logits
    assert 0 < copied[0] * 5 == copied[1]
    assert torch.equal(found[LongMem][1], found[Told][1])
    assert all(torch.equal(held, found[Told][0][name]) for name, held in found[LongMem][0].items())


def test_prompt_lookup_takes_tokens_back_in_both_networks(model):
    tokens = ids(20).repeat(1, 2)
    with memspan.context("longmem", model) as reader:
        plain = model.generate(tokens, **GENERATE)
        reader.reset()
        assert torch.equal(model.generate(tokens, prompt_lookup_num_tokens=3, **GENERATE), plain)


def test_other_families_have_a_side_network_too():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sliding = Gemma3ForCausalLM(
            Gemma3TextConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                sliding_window=6,
                max_position_embeddings=128,
                layer_types=["sliding_attention", "full_attention"] * 2,
            )
        ).eval()
    tokens = ids(80)
    with torch.no_grad(), memspan.context("longmem", sliding, **SMALL) as reader:
        at_once = model_logits(sliding, tokens)
        reader.reset()
        parts = torch.cat([model_logits(sliding, tokens[:, at : at + 8]) for at in range(0, 80, 8)], 1)
    assert torch.allclose(at_once, parts, atol=1e-5) and at_once.isfinite().all()


def model_logits(model, tokens):
    return model(tokens).logits


# --- the bank --------------------------------------------------------------------------------------------------------


def test_the_bank_holds_one_layers_keys_and_values_before_any_rotation(model):
    tokens = ids(32)
    with torch.no_grad(), memspan.context("longmem", model, **SMALL) as reader:
        reader.feed(tokens)
        assert "bank.pos" not in reader.cache.extra
        reader.feed(ids(1, seed=1))
        held = reader.cache.extra
    states = []
    attention = model.model.layers[2].self_attn
    hook = attention.k_proj.register_forward_hook(lambda module, args, output: states.append((args[0], output)))
    with torch.no_grad():
        model(tokens)
        hook.remove()
        x, keys = states[0]
        values = attention.v_proj(x)
    assert held["bank.pos"][0].tolist() == list(range(2, 10))
    wide = keys.view(1, 32, 2, 8).transpose(1, 2)[:, :, 2:10]
    assert torch.allclose(held["bank.keys"], wide, atol=1e-5)
    assert torch.allclose(held["bank.values"], values.view(1, 32, 2, 8).transpose(1, 2)[:, :, 2:10], atol=1e-5)
    assert torch.allclose(held["bank.means"], wide.view(1, 2, 2, 4, 8).mean(3), atol=1e-5)


def test_a_token_is_in_the_window_or_in_the_bank_and_the_oldest_go_first(model):
    with memspan.context("longmem", model, **SMALL) as reader:
        for part in range(40):
            reader.feed(ids(7, seed=part))
            window = {slot.position for slot in reader.slots()}
            bank = set(reader.cache.extra["bank.pos"][0].tolist()) if part > 4 else set()
            assert not window & (bank - {-1})
            left = sorted(set(range(reader.seen)) - window)
            assert sorted(bank - {-1}) == (left[-64:] if part > 4 else [])


@pytest.mark.parametrize("length", [35, 61, 150, 203])
def test_what_is_found_is_what_a_plain_search_finds(model, length):
    system = made(model, **SMALL)
    with torch.no_grad(), memspan.context(system, model, batch=2) as reader:
        reader.feed(ids(length, batch=2))
        q = torch.randn(2, 4, 70, 8, generator=torch.Generator().manual_seed(1))
        found = system.memory(q, reader.cache, 0.3)
        held, written = reader.cache.extra, reader.cache.notes["written"]
    being_written = written // 4 % 16 if written % 4 else None
    whole = [c for c in range(min(16, -(-written // 4))) if c != being_written]
    assert found is not None and found[1].all()
    for row in range(2):
        for head in range(4):
            keys, values = held["bank.keys"][row, head // 2], held["bank.values"][row, head // 2]
            for t in range(70):
                query = q[row, head, t]
                fit = {c: float(query @ keys[4 * c : 4 * c + 4].mean(0)) for c in whole}
                best = sorted(whole, key=fit.__getitem__)[-4:]
                tokens = [4 * c + i for c in best for i in range(4)]
                wanted = (keys[tokens] @ query * 0.3).softmax(0) @ values[tokens]
                assert torch.allclose(found[0][row, head, t], wanted, atol=1e-4)


def test_the_gate_mixes_two_attentions(model):
    tokens, after = ids(100), ids(8, seed=1)
    said = {}
    for gate in (-50.0, 0.0, 50.0):
        system = made(model, **SMALL)
        with torch.no_grad():
            system.gate.fill_(gate)
            with memspan.context(system, model) as reader:
                reader.feed(tokens)
                with reader.fork():
                    said[gate] = model(after).logits
                reader.cache.notes.clear()
                emptied = model(after).logits
        if gate == -50.0:
            assert torch.allclose(said[gate], emptied, atol=1e-5)
        else:
            assert not torch.allclose(said[gate], emptied, atol=1e-3)
    assert not torch.allclose(said[0.0], said[50.0], atol=1e-3)


def test_rows_have_banks_of_their_own_and_padding_is_never_found(model):
    tokens = ids(90, batch=2)
    mask = torch.ones_like(tokens)
    mask[1, :21] = 0
    with torch.no_grad(), memspan.context("longmem", model, **SMALL) as reader:
        together = model(tokens, attention_mask=mask).logits
        pos = reader.cache.extra["bank.pos"]
        system = reader.system
        q = torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(1))
        found, _ = system.memory(q, reader.cache, 0.3)
        padding = (pos[1] < 0).nonzero()[:, 0]
        assert len(padding) > 0
        reader.cache.extra["bank.values"][1, :, padding] = 1e6
        reader.cache.extra["bank.values"][0] += 0.0
        assert torch.equal(system.memory(q, reader.cache, 0.3)[0], found)
        reader.cache = reader._new_cache(1)
        alone = model(tokens[:1]).logits
    assert torch.allclose(together[:1], alone, atol=1e-4)
    assert together.isfinite().all()


def test_examples_go_straight_to_the_bank(model):
    system = made(model, **SMALL)
    with memspan.context(system, model) as reader:
        system.remember(reader, ids(50))
        assert reader.cache.tracks[0].n == 0 and reader.cache.notes["written"] == 50
        assert sorted(reader.cache.extra["bank.pos"][0].tolist())[-50:] == list(range(50))
        reader.feed(ids(60, seed=1))
        slots = reader.slots()
        assert [slot.position for slot in slots[:2]] == [50, 51]
        assert [slot.reason for slot in slots[:3]] == ["first", "first", "recent"]
        assert reader.cache.notes["written"] + len(slots) == 110


def test_keys_do_not_become_stale_while_the_side_network_learns(model, tmp_path):
    system = made(model, **SMALL)

    def bank():
        with memspan.context(system, model) as reader:
            reader.feed(ids(100))
            return {name: x.clone() for name, x in reader.cache.extra.items() if name.startswith("bank")}

    before, weights = bank(), [p.clone() for p in system.parameters()]
    system.fit(model, ids(900)[0], steps=5, length=60, lr=0.01)
    after = bank()
    assert any(not torch.equal(a, b) for a, b in zip(weights, system.parameters(), strict=True))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


# --- learning, bytes, errors -----------------------------------------------------------------------------------------


def test_fit_trains_side_network_and_gates_and_goes_on_where_it_stopped(model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text = torch.arange(2_000) * 7 % 61 + 1
    settings = {"length": 48, "batch": 2, "lr": 0.003, "every": 5}
    system = LongMem(**SMALL)
    done = system.fit(model, text, steps=40, **settings)
    assert done.after < 0.7 * done.before
    assert float(system.gate.detach().abs().max()) > 0
    assert done.parameters == sum(p.numel() for p in system.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    whole = LongMem(**SMALL).fit(model, text, steps=10, **settings)

    def stop(step, loss):
        if step == 7:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        LongMem(**SMALL).fit(model, text, steps=10, out=tmp_path / "side", on_step=stop, **settings)
    again = LongMem(**SMALL).fit(model, text, steps=10, out=tmp_path / "side", **settings)
    assert again.resumed_at == 5 and again.losses == pytest.approx(whole.losses, abs=1e-6)
    with memspan.context("longmem", model, weights=tmp_path / "side", slots=30) as reader:
        reader.feed(ids(50))
        assert reader.sizes.slots == 30 and reader.system.config.capacity == 64
        assert reader.footprint().by_tier["weights"] == 4 * again.parameters


def test_a_budget_is_shared_by_window_and_bank(model):
    with memspan.context("longmem", model, budget=200_000) as reader:
        most = reader.system.fixed_bytes(reader.family, 1)
        assert 60_000 < most < 110_000 and reader.sizes.slots > 24
        reader.feed(ids(4_000))
        assert most < reader.footprint().by_tier["context"] <= 200_000
    with memspan.context("longmem", model) as reader:
        assert reader.system.bank_tokens == CAPACITY
    with (
        pytest.raises(BudgetError, match="bytes") as error,
        memspan.context("longmem", model, budget=50_000, capacity=4_096),
    ):
        pass
    with memspan.context("longmem", model, budget=error.value.needed, capacity=4_096) as reader:
        reader.feed(ids(1))
        assert reader.footprint().by_tier["context"] <= error.value.needed


def test_bfloat16_reads_and_generates():
    half = tiny_llama(layers=4).to(torch.bfloat16)
    with memspan.context("longmem", half, **SMALL) as reader:
        out = half.generate(ids(100), **GENERATE)
        assert out.shape == (1, 112) and reader.cache.extra["bank.keys"].dtype == torch.bfloat16


def test_unusable_options_are_said(model):
    for options, message in (
        ({"layer": 0.0}, "layer"),
        ({"layer": 1.5}, "layer"),
        ({"reduction": 0}, "reduction"),
        ({"top_k": 63}, "top_k"),
        ({"memory_chunk": 0}, "memory_chunk"),
        ({"capacity": 63}, "capacity"),
    ):
        with pytest.raises(InputError, match=message):
            memspan.context("longmem", model, **options)
    for options, message in (
        ({"reduction": 6}, "only 5 layers"),
        ({"side": (0,)}, "1 reads the bank"),
        ({"side": (1, 2)}, "0 to 1"),
        ({"chunk": 32, "capacity": 16}, "must hold the 32 tokens"),
    ):
        with pytest.raises(InputError, match=message), memspan.context("longmem", model, **options):
            pass
