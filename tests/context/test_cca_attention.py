"""CCA-Attention: streaming is the formula written plainly, every token counts once, bytes, learning, errors."""

from __future__ import annotations

import random

import pytest
import torch

import memspan
from memspan.context import attention
from memspan.context.cca_attention import CcaAttention, CcaLayer, border, joint, pooled, whole
from memspan.context.step import Call
from memspan.core.errors import BudgetError, InputError
from memspan.core.testing import tiny_llama
from tests.context.test_families import tiny

GENERATE = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}


def ids(count, batch=1, seed=0):
    return torch.randint(1, 64, (batch, count), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


class Plain(CcaAttention):
    """The paper's formulas query by query, in loops, over a cache that keeps all."""

    bounded = False

    def bind(self, family, budget, batch=1):
        super().bind(family, None, batch)
        self.sizes = type(self.sizes)(None, 64, None)
        return self.sizes

    def attend(self, layer, q, k, v, slots, step, call):
        slots.write(k, v)
        queries = step.cache.extra.get(f"q.{layer}")
        queries = q if queries is None else torch.cat((queries, q), 2)
        step.cache.extra[f"q.{layer}"] = queries
        keys, values = slots.view()
        g, s, first = self.config.group, self.local, self.config.sinks

        def turn(x, at):
            return self.family.rotate(layer, x, torch.tensor([at]))

        rows = []
        for t in range(step.count):
            i = int(step.pos[0, t])
            # The printed j = max(0, floor((i - s) / g)) for tokens counted from 1, after the sinks.
            cores = max(0, (i + 1 - first - s) // g)
            near = [*range(min(first, i + 1)), *range(first + cores * g, i + 1)]
            seen_k, seen_v = [turn(keys[:, :, near], near)], [values[:, :, near]]
            for c in range(cores):
                at = list(range(first + c * g, first + (c + 1) * g))
                core_k, core_v = [], []
                for head in range(keys.shape[1]):
                    share = q.shape[1] // keys.shape[1]
                    asked = queries[:, head * share : (head + 1) * share, at[-1] : at[-1] + 1].mean(1, keepdim=True)
                    weight = turn(asked, at[-1:]) @ turn(keys[:, head : head + 1, at], at).transpose(2, 3)
                    weight = (weight * call.scaling).softmax(-1)
                    core_k.append(weight @ keys[:, head : head + 1, at])
                    core_v.append(weight @ values[:, head : head + 1, at])
                seen_k.append(turn(torch.cat(core_k, 1), at[-1:]))
                seen_v.append(torch.cat(core_v, 1))
            asked = turn(q[:, :, t : t + 1], [i])
            shares = attention.weights(attention.scores(asked, torch.cat(seen_k, 2), call.scaling), None)
            rows.append(attention.mix(shares, torch.cat(seen_v, 2)))
        return torch.cat(rows, 2)


@pytest.mark.parametrize(("group", "local", "sinks"), [(4, 8, 0), (3, 7, 2), (1, 5, 0), (8, 8, 1)])
@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_streaming_is_the_formula(model, group, local, sinks, chunk):
    tokens = ids(61)
    options = {"group": group, "local": local, "sinks": sinks}
    with torch.no_grad():
        with memspan.context(CcaAttention(**options, chunk=chunk, cores=100), model) as reader:
            read = model(tokens).logits
            assert reader.cache.tracks[0].n <= sinks + local + group - 1 + chunk
            assert reader.cache.zones["core"].tracks[0].n == (61 - sinks) // group
        with memspan.context(Plain(**options), model):
            plain = model(tokens).logits
        full = model(tokens).logits
    assert float((read - plain).abs().max()) < 1e-5
    assert group == 1 or float((read - full).abs().max()) > 1e-4


def test_groups_of_one_are_plain_attention(model):
    tokens = ids(70)
    with torch.no_grad(), memspan.context("cca-attention", model, group=1, local=4, cores=100, chunk=9):
        read = model(tokens).logits
    with torch.no_grad():
        assert torch.allclose(read, model(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("pool", ["attention", "mean", "max"])
def test_a_whole_sequence_at_once_is_streaming(model, pool):
    class Whole(CcaAttention):
        def attend(self, layer, q, k, v, slots, step, call):
            slots.write(k, v)
            return whole(
                q,
                k,
                v,
                lambda x, pos: self.family.rotate(layer, x, pos),
                group=4,
                local=8,
                sinks=1,
                scaling=call.scaling,
                how=pool,
            )

    options = {"group": 4, "local": 8, "sinks": 1, "pool": pool, "cores": 100}
    for count in (1, 10, 50):
        tokens = ids(count)
        with torch.no_grad():
            with memspan.context(CcaAttention(**options, chunk=11), model):
                read = model(tokens).logits
            with memspan.context(Whole(**options, chunk=64), model):
                assert torch.allclose(model(tokens).logits, read, atol=1e-5)


def test_every_past_token_counts_once():
    chance = random.Random(0)
    for _ in range(1_000):
        group = chance.randint(1, 40)
        local, sinks, at = chance.randint(group, 200), chance.randint(0, 12), chance.randint(0, 2_000)
        edge = int(border(torch.tensor([[at]]), group=group, local=local, sinks=sinks))
        cores = [set(range(a, a + group)) for a in range(sinks, edge, group)]
        exact = {p for p in range(at + 1) if p < sinks or p >= edge}
        assert sorted([*exact, *(p for core in cores for p in core)]) == list(range(at + 1))
        assert edge == sinks or local <= at + 1 - edge < local + group


def test_the_last_query_of_a_group_settles_the_weights():
    chance = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, 2, *more, generator=chance) for heads, more in ((4, (8,)), (2, (3, 8)), (2, (3, 8)))
    )
    still = torch.randn(1, 2, 2, 3, 8, generator=chance)
    keys, values = pooled(q, k, still, v, scaling=0.3, how="attention", softcap=2.0)
    for head in range(2):
        for i in range(2):
            products = k[0, head, i] @ q[0, 2 * head : 2 * head + 2, i].mean(0) * 0.3
            shares = (torch.tanh(products / 2) * 2).softmax(0)
            assert torch.allclose(keys[0, head, i], shares @ still[0, head, i], atol=1e-6)
            assert torch.allclose(values[0, head, i], shares @ v[0, head, i], atol=1e-6)
    long, _ = pooled(q, k, still, v, scaling=0.3, how="attention", normed=True)
    assert (long.norm(dim=3) > keys.norm(dim=3)).all()


def test_a_gate_begins_as_the_one_softmax_and_moves_the_share(model):
    tokens = ids(50)
    options = {"group": 4, "local": 8, "chunk": 9}
    gated = CcaAttention(**options, fusion="gate")
    with torch.no_grad():
        with memspan.context(CcaAttention(**options), model):
            wanted = model(tokens).logits
        with memspan.context(gated, model):
            assert torch.allclose(model(tokens).logits, wanted, atol=1e-5)
            gated.gates[0].fill_(-30)
            gated.gates[1].fill_(-30)
            closed = model(tokens).logits
    # Against sigma(ratio of masses + a) of the two attentions, each by itself.
    chance = torch.Generator().manual_seed(0)
    q, far, near = (torch.randn(1, heads, n, 8, generator=chance) for heads, n in ((4, 5), (2, 6), (2, 7)))
    bias = torch.tensor([0.5, -1.0, 2.0, 0.0])
    out = torch.stack([torch.zeros(5, 8)] * 4)
    for head in range(4):
        a, b = (q[0, head] @ x[0, head // 2].T * 0.3 for x in (far, near))
        share = (a.logsumexp(1) - b.logsumexp(1) + bias[head]).sigmoid()[:, None]
        out[head] = share * (a.softmax(1) @ far[0, head // 2]) + (1 - share) * (b.softmax(1) @ near[0, head // 2])
    mask = torch.ones(1, 1, 5, 13, dtype=torch.bool)
    assert torch.allclose(joint(q, (far, far), (near, near), mask, Call(0.3), bias)[0], out, atol=1e-5)
    assert not torch.allclose(closed, wanted, atol=1e-4)


def test_padded_rows_have_groups_of_their_own(model):
    tokens, mask = ids(60, batch=3), torch.ones(3, 60, dtype=torch.long)
    mask[0, :21], mask[1, :2] = 0, 0
    options = {"group": 4, "local": 8, "sinks": 1, "cores": 30}
    with torch.no_grad():
        with memspan.context(CcaAttention(**options, chunk=7), model, batch=3):
            together = model(tokens, attention_mask=mask).logits
            said = model(ids(9, batch=3, seed=1)).logits
        for row in range(3):
            with memspan.context(CcaAttention(**options, chunk=5), model):
                alone = model(tokens[row : row + 1, int((mask[row] == 0).sum()) :]).logits
                assert torch.allclose(together[row : row + 1, -alone.shape[1] :], alone, atol=1e-5)
                assert torch.allclose(model(ids(9, batch=3, seed=1)[row : row + 1]).logits, said[row], atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "smollm3", "phi3", "olmo2"])
def test_families_read_in_chunks_as_at_once(kind):
    model = tiny(kind)
    tokens = torch.randint(3, 96, (1, 50), generator=torch.Generator().manual_seed(1))
    options = {"group": 4, "local": 8, "cores": 30}
    with torch.no_grad():
        plain = model(tokens).logits
        with memspan.context(CcaAttention(**options, chunk=64), model):
            at_once = model(tokens).logits
        with memspan.context(CcaAttention(**options, chunk=3), model):
            assert torch.allclose(model(tokens).logits, at_once, atol=1e-5)
        with memspan.context(CcaAttention(group=4, local=60), model):
            assert torch.allclose(model(tokens).logits, plain, atol=1e-5)
    assert not torch.allclose(at_once, plain, atol=1e-4)


def test_the_oldest_core_tokens_go_and_the_first_tokens_follow(model):
    options = {"group": 4, "local": 8, "sinks": 2, "cores": 5, "chunk": 4}
    with torch.no_grad(), memspan.context(CcaAttention(**options), model) as reader:
        reader.feed(ids(90))
        track, held = reader.cache.tracks[0], reader.cache.zones["core"].tracks[0]
        last = held.pos[0, 0, : held.n].tolist()
        assert last == list(range(last[0], 90, 4)) and 5 <= len(last) <= 6 and (last[-1] + 1 - 2) // 4 == 22
        # Dropped when room was last made, the first tokens stand right before what was the oldest group then.
        assert int(track.rope[0, 0, 1]) <= last[0] - 4 + 1 - 1 and int(track.rope[0, 0, 1]) > 50
        assert track.pos[0, 0, :2].tolist() == [0, 1]
        still, _ = reader.cache.layers[0].at(torch.tensor([[[0, 1]]]))
    with torch.no_grad(), memspan.context(CcaAttention(**options), model) as reader:
        reader.feed(ids(90)[:, :2])
        wanted, _ = reader.cache.layers[0].at(torch.tensor([[[0, 1]]]))
    assert torch.allclose(still, wanted, atol=1e-5)


def test_bytes_are_those_of_core_tokens_exact_ones_and_a_chunk(model):
    options = {"group": 4, "local": 16, "sinks": 1, "cores": 12, "chunk": 8}
    with memspan.context(CcaAttention(**options), model) as reader:
        reader.feed(ids(300))
        row = reader.family.slot_bytes(per_head=False, track=28)
        rows = (1 + 16 + 4 - 1 + 8) + (12 + 2)
        assert reader.footprint().total == rows * row + reader.system.fixed_bytes(reader.family, 1)


def test_a_budget_is_shared_between_both():
    model = tiny_llama(positions=2048)
    reach = []
    for budget in (60_000, 200_000):
        with memspan.context("cca-attention", model, budget=budget) as reader:
            reader.feed(ids(2_500))
            assert budget * 0.9 < reader.footprint().total <= budget
            reach.append((reader.system.local, reader.system.cores))
    assert reach[1][0] > 1.5 * reach[0][0] and reach[1][1] > 1.5 * reach[0][1]
    with (
        pytest.raises(BudgetError, match="at least") as error,
        memspan.context("cca-attention", model, budget=60_000, local=400),
    ):
        pass
    with memspan.context("cca-attention", model, budget=error.value.needed, local=400) as reader:
        reader.feed(ids(500))
        assert reader.footprint().total <= error.value.needed


def test_tokens_that_are_taken_back_leave_no_core_token(model):
    options = {"group": 4, "local": 8, "cores": 30, "chunk": 16}
    tokens = ids(24).repeat(1, 2)
    with torch.no_grad(), memspan.context(CcaAttention(**options), model) as reader:
        said = model.generate(tokens, **GENERATE)
        reader.reset()
        assert torch.equal(model.generate(tokens, prompt_lookup_num_tokens=3, **GENERATE), said)
        reader.reset()
        model(tokens)
        reader.cache.crop(-5)
        again = model(tokens[:, -5:]).logits
        reader.reset()
        assert torch.allclose(model(tokens).logits[:, -5:], again, atol=1e-5)


def test_bfloat16_is_close_to_float32():
    half, tokens = tiny_llama().to(torch.bfloat16), ids(60)
    with torch.no_grad():
        wanted = reader_logits(tokens, tiny_llama(), chunk=7)
        got = reader_logits(tokens, half, chunk=7)
    assert float((got - wanted).abs().max()) < 0.02


def reader_logits(tokens, model, **options):
    with memspan.context("cca-attention", model, group=4, local=8, **options):
        return model(tokens).logits


# --- learning --------------------------------------------------------------------------------------------------------


def stream(count):
    """Every token comes again 20 tokens later."""
    return ids(20).repeat(1, count // 20)[0]


@pytest.mark.parametrize("options", [{"rank": 4}, {"fusion": "gate"}, {"rank": 2, "fusion": "gate"}])
def test_it_learns_goes_on_and_is_used(model, options, tmp_path):
    options |= {"group": 4, "local": 8, "sinks": 1, "chunk": 16}
    settings = {"steps": 12, "length": 40, "lr": 0.02, "every": 4}
    system = CcaAttention(**options)
    done = system.fit(model, stream(800), out=tmp_path / "whole", **settings)
    assert done.after < done.before

    def stop(step, loss):
        if step == 9:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        CcaAttention(**options).fit(model, stream(800), out=tmp_path / "again", on_step=stop, **settings)
    again = CcaAttention(**options).fit(model, stream(800), out=tmp_path / "again", **settings)
    assert again.resumed_at == 8 and again.losses == pytest.approx(done.losses, abs=1e-5)
    tokens = ids(50, seed=2)
    with torch.no_grad():
        untrained = reader_logits(tokens, model, chunk=16, sinks=1)
        with memspan.context("cca-attention", model, weights=tmp_path / "whole") as reader:
            learned = model(tokens).logits
            assert reader.footprint().by_tier["weights"] == 4 * done.parameters
        with memspan.context(system, model):
            assert torch.allclose(model(tokens).logits, learned, atol=1e-5)
        assert torch.equal(model(tokens).logits, tiny_llama()(tokens).logits)
    assert not torch.allclose(untrained, learned, atol=1e-4)


def test_gradients_of_chunks_are_those_of_one_pass(model):
    embeds = model.get_input_embeddings()(ids(40)).detach().requires_grad_()
    found = []
    for chunk in (40, 9):
        with memspan.context("cca-attention", model, group=4, local=8, sinks=1, chunk=chunk):
            (gradient,) = torch.autograd.grad(model(inputs_embeds=embeds).logits[0, -1].square().sum(), embeds)
        found.append(gradient)
    assert torch.allclose(*found, atol=1e-5)


def test_a_layer_learns_from_scratch():
    torch.manual_seed(0)
    layer = CcaLayer(16, 4, kv_heads=2, group=4, local=8, fusion="gate")
    x = torch.randn(2, 30, 16)
    out = layer(x)
    assert out.shape == x.shape
    later = x.clone()
    later[:, 20:] += 1
    assert torch.allclose(layer(later)[:, :20], out[:, :20], atol=1e-5)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert layer(x[:, :1]).shape == (2, 1, 16)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 0}, "group"),
        ({"group": 8, "local": 7}, "local"),
        ({"cores": 0}, "cores"),
        ({"slots": 20}, "give local"),
        ({"pool": "min"}, "pool"),
        ({"fusion": "sum"}, "fusion"),
        ({"rank": -1}, "rank"),
    ],
)
def test_unusable_options_are_said(options, message):
    with pytest.raises(InputError, match=message):
        CcaAttention(**options)


def test_what_cannot_be_learned_is_said(model):
    with pytest.raises(InputError, match="no parameter"):
        CcaAttention(local=16).fit(model, stream(400), steps=1, length=40)
    with pytest.raises(InputError, match="at least 37"):
        CcaAttention(local=16, rank=1).fit(model, stream(400), steps=1, length=30)
    with pytest.raises(InputError, match="must divide"):
        CcaLayer(30, 4)
