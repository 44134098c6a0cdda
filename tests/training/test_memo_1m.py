"""MEMO's dial: exact gradients, bytes as promised, attention never run again, and clear refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from memspan.core.errors import BudgetError, ConflictError, InputError, UnsupportedModelError
from memspan.core.testing import tiny_llama
from memspan.planner import plan
from memspan.planner.imagine import imagine
from memspan.planner.show import explain
from memspan.planner.work import Hardware
from memspan.training import AdamW, Spec, Stack, Step, train
from memspan.training.memo_1m import Memo
from memspan.training.memo_1m.dial import LayerCost, fastest, overlap, simulate, tokens
from tests.planner.test_imagine import config, measured

IDS = torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(0))
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def gpt():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config("GPT2", **NO_DROPOUT))


def llama():
    return tiny_llama(layers=5)


def gradients(model, savers, batches=1, **options):
    stack = Stack(savers)
    model, _ = stack.prepare(model.train(), AdamW())
    losses = []
    with stack.step_context():
        for number in range(batches):
            ids = IDS.roll(number, 1)
            loss = model(input_ids=ids, labels=ids, **{"use_cache": False, **options}).loss
            loss.backward()
            losses.append(float(loss.detach()))
    return losses, [one.grad for one in model.parameters()], stack


@pytest.mark.parametrize("make", [llama, gpt])
@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 0.99, 1])
def test_gradients_are_the_plain_steps(make, alpha):
    plain, wanted, _ = gradients(make(), [])
    losses, found, stack = gradients(make(), [Memo(alpha=alpha, block=4)])
    assert losses == plain
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))
    layers = 5 if make is llama else 4
    said = stack.report()["memo-1m"]
    assert said["attention calls"] == layers
    assert said["tokens recomputed"] == layers * 2 * (40 - tokens(alpha, 40, 4))


def test_gradients_add_up_over_batches():
    _, wanted, _ = gradients(llama(), [], 3)
    _, found, _ = gradients(llama(), [Memo(alpha=0.5, block=8)], 3)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("make", [llama, gpt])
def test_a_cache_that_nobody_declined_changes_nothing(make):
    _, wanted, _ = gradients(make(), [], use_cache=True)
    _, found, _ = gradients(make(), [Memo(alpha=0.5, block=8)], use_cache=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def test_with_adapters_and_a_loss_in_chunks():
    pytest.importorskip("peft")

    def run(savers):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, found, _ = gradients(llama(), [*savers, "lora", "chunked-loss"])
        return [one for one in found if one is not None]

    pairs = list(zip(run([Memo(alpha=0.4, block=8)]), run([]), strict=True))
    assert len(pairs) == 70 and all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_16_bits_under_autocast():
    def run(savers):
        with torch.autocast("cpu", torch.bfloat16):
            return gradients(llama(), savers)[1]

    for a, b in zip(run([Memo(alpha=0.4, block=8)]), run([]), strict=True):
        assert torch.allclose(a, b, atol=0.02 * float(b.abs().max()))


@pytest.mark.parametrize("alpha", [0, 0.4, 1])
@pytest.mark.parametrize(
    ("name", "more", "job"),
    [
        ("Llama", {"tie_word_embeddings": True}, {}),
        ("GPT2", NO_DROPOUT, {"batch": 3, "seq": 17}),
        ("Qwen3", {"head_dim": 32}, {"seq": 40, "dtype": "bfloat16"}),
        ("Mistral", {"sliding_window": 8}, {}),
    ],
)
def test_the_plan_is_what_a_step_holds(name, more, job, alpha):
    spec = Spec(config=config(name, **more), **{"batch": 2, "seq": 24, **job})
    ledger = measured(spec, [Memo(alpha=alpha, block=4)], clip=1.0)
    estimate, _ = imagine(spec, Stack([Memo(alpha=alpha, block=4)]), clip=1.0)
    assert estimate.stretches == ledger.stretches
    assert estimate.highest == ledger.highest
    assert estimate.peak.by_place["disk"] > 0


@pytest.mark.parametrize("alpha", [0.4, 1])
def test_a_deep_models_plan_is_that_of_its_whole_step(alpha):
    spec = Spec(config=config("Llama", num_hidden_layers=8), batch=2, seq=24)
    repeated, how = imagine(spec, Stack([Memo(alpha=alpha, block=4)]))
    whole, _ = imagine(spec, Stack([Memo(alpha=alpha, block=4)]), whole=True)
    assert how == "repeated"
    assert (repeated.stretches, repeated.highest) == (whole.stretches, whole.highest)
    assert (repeated.flops, repeated.traffic) == (whole.flops, whole.traffic)


def test_less_is_held_and_work_falls_with_alpha():
    spec = Spec(config=config("Llama", num_hidden_layers=8, vocab_size=32), batch=1, seq=512)
    plain = imagine(spec, Stack())[0]
    flops = []
    for alpha in (0, 0.5, 1):
        found = imagine(spec, Stack([Memo(alpha=alpha)]))[0]
        assert found.highest.entries["activations", "ram"] < 0.5 * plain.highest.entries["activations", "ram"]
        flops.append(found.flops)
    assert flops[2] == plain.flops  # all is moved, nothing recomputed
    assert flops[0] - flops[1] == pytest.approx(flops[1] - flops[2], rel=0.01)


def test_a_resumed_training_is_the_same(tmp_path):
    batches = [{"input_ids": IDS.roll(n, 1), "labels": IDS.roll(n, 1)} for n in range(6)]
    options = {"progress": False, "optimizer": AdamW(lr=1e-2)}
    whole = train(llama(), batches, steps=6, savers=[Memo(block=8)], out=tmp_path / "a", **options)
    train(llama(), batches, steps=3, savers=[Memo(block=8)], out=tmp_path / "b", **options)
    saver = Memo(block=8, bandwidth=1.0, flops=1e18)  # rates of another machine: the share is the first one's
    again = train(llama(), batches, steps=6, savers=[saver], out=tmp_path / "b", resume=True, **options)
    assert again.losses == whole.losses
    pairs = zip(again.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.report["memo-1m"]["shapes"] == whole.report["memo-1m"]["shapes"]


def test_finish_gives_the_plain_model_back(tmp_path):
    model = llama()
    stack = Stack([Memo(alpha=1, folder=str(tmp_path))])
    model, optimizer = stack.prepare(model.train(), AdamW())
    step = Step(model, optimizer, stack)
    step({"input_ids": IDS, "labels": IDS})
    assert stack.footprint().by_place["disk"] > 0
    assert list(tmp_path.iterdir()) == []  # the file has no name
    plain = stack.finish(model)
    assert stack.footprint().total == 0
    assert not any("forward" in one.__dict__ for one in plain.modules())
    plain(input_ids=IDS, labels=IDS).loss.backward()


def test_nothing_happens_outside_of_the_step():
    model, _ = Stack([Memo(alpha=0)]).prepare(llama().train(), AdamW())
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


# --- what it cannot do -----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention between two products, and something of a test's own after it."""

    def __init__(self, extra):
        super().__init__()
        self.inner, self.outer, self.extra = nn.Linear(16, 16), nn.Linear(16, 16), extra

    def forward(self, hidden):
        inner = self.inner(hidden).unflatten(-1, (2, 8)).transpose(1, 2)
        mixed = scaled_dot_product_attention(inner, inner, inner, is_causal=True).transpose(1, 2).flatten(-2)
        return hidden + self.extra(self.outer(mixed).tanh())


class Net(nn.Module):
    def __init__(self, extra, layers=4):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block(extra) for _ in range(layers))

    def forward(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden.square().mean()


def run_net(extra, **options):
    stack = Stack([Memo(**{"alpha": 0.5, "block": 2, **options})])
    model, _ = stack.prepare(Net(extra).train(), AdamW())
    with stack.step_context():
        loss = model(torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(1)))
        loss.backward()
    return model, loss, stack


def test_any_layers_that_work_on_each_token():
    model, _, stack = run_net(nn.Identity())
    wanted = Net(nn.Identity())
    wanted(torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(1))).backward()
    for a, b in zip(model.parameters(), wanted.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6)
    assert stack.report()["memo-1m"]["tokens recomputed"] == 4 * 2 * 6


def test_layers_that_mix_tokens_are_refused():
    class Before(nn.Module):
        def forward(self, x):
            return (x + nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]).tanh()

    with pytest.raises(UnsupportedModelError, match="token by token"):
        run_net(Before())


def test_dropout_in_a_layer_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"dropout with p=0\.1"):
        run_net(nn.Dropout(0.1))


def test_attention_that_is_not_seen_is_refused():
    with pytest.raises(InputError, match="sdpa, not with eager"):
        Memo().check(Spec(config=config("Llama"), seq=16, attention="eager"))
    stack = Stack([Memo(alpha=0)])
    model = transformers.LlamaForCausalLM._from_config(config("Llama"), attn_implementation="eager").train()
    model, _ = stack.prepare(model, AdamW())
    with pytest.raises(UnsupportedModelError, match="use attention sdpa"), stack.step_context():
        model(input_ids=IDS, labels=IDS, use_cache=False)


def test_one_backward_pass_after_each_forward_pass():
    stack = Stack([Memo(alpha=0.5, block=8)])
    model, _ = stack.prepare(llama().train(), AdamW())
    with stack.step_context(), pytest.raises(InputError, match="second forward pass"):
        kept = [model(input_ids=IDS, labels=IDS, use_cache=False).loss for _ in range(2)]
        assert kept
    with stack.step_context():
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    with pytest.raises(InputError, match="inside of the step's context"):
        loss.backward()
    with stack.step_context():
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward(retain_graph=True)
        with pytest.raises(InputError, match="one backward pass"):
            loss.backward()


def test_slow_memory_that_is_too_small_is_said_before_anything_moves():
    with pytest.raises(BudgetError) as said:
        run_net(nn.Identity(), slow_memory="1kB")
    assert said.value.needed > said.value.allowed == 1_000
    with pytest.raises(BudgetError, match="moving the inputs"):
        run_net(nn.Identity(), alpha=None, slow_memory="1kB")
    plans = plan(Spec(config=config("Llama"), seq=64), savers=[Memo(slow_memory="1kB")], hardware=RATES)
    assert "memo-1m" in plans.skipped and "budget" in plans.skipped["memo-1m"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"objective": "luck"}, "objective is 'luck'"),
        ({"block": 0}, "block is 0"),
        ({"bandwidth": 0.0}, "bandwidth is 0"),
        ({"flops": math.inf}, "flops is inf"),
        ({"beta": 1}, "no such option"),
    ],
)
def test_wrong_settings_are_said(options, message):
    with pytest.raises(InputError, match=message):
        Memo(**options)


def test_it_shares_activations_with_nobody():
    with pytest.raises(ConflictError, match="activations"):
        Stack([Memo(), "checkpointing"])
    with pytest.raises(InputError, match="no scratch file"):
        run_net(nn.Identity(), folder="/nowhere")
    with pytest.raises(UnsupportedModelError, match="no list of layers"):
        Stack([Memo()]).prepare(nn.Linear(2, 2), AdamW())


# --- the dial --------------------------------------------------------------------------------------------------------

COST = LayerCost(inputs=1e6, attention=1e6, others=14e6, forward=0.01, backward=0.02, recompute=0.004)
RATES = Hardware(flops=1e9, bandwidth=1e9)


def test_the_papers_program_in_closed_form():
    assert overlap(COST, 10, 9e8, math.inf) == pytest.approx(0.5)  # 9 MB in 0.01 s: 2 always, 7 of 14
    assert overlap(COST, 10, 1e8, math.inf) == 0 and overlap(COST, 10, 1e12, math.inf) == 1
    assert overlap(COST, 10, 1e12, 8 * 9e6) == pytest.approx(0.5)
    assert overlap(COST, 2, 1e12, 0.0) == 1  # two layers stay in the buffers
    with pytest.raises(BudgetError):
        overlap(COST, 10, 1e12, 1e6)


@pytest.mark.parametrize("rates", list(itertools.product((0.2, 1.0, 3.0), (0.1, 0.4, 2.0))))
def test_the_shortest_step_is_found(rates):
    speed, again = rates
    bandwidth = 16e6 / (speed * COST.forward)
    cost = LayerCost(inputs=1e6, attention=1e6, others=14e6, forward=0.01, backward=0.02, recompute=again * 0.01)
    found = fastest(cost, 200, bandwidth, math.inf)
    best = min(simulate(cost, 200, bandwidth, step / 64).seconds for step in range(65))
    assert simulate(cost, 200, bandwidth, found).seconds <= best * 1.01


def test_the_schedule_waits_where_the_link_is_slow():
    free = simulate(COST, 10, 1e15, 1.0)
    assert (free.waited, free.recomputed) == (pytest.approx(0, abs=1e-6), 0)
    assert free.seconds == pytest.approx(0.3, rel=1e-3)
    slow = simulate(COST, 10, 16e6 / 0.05, 1.0)
    assert slow.seconds == pytest.approx(slow.waited + 0.3) and slow.waited > 0.3
    assert simulate(COST, 10, 1e15, 0.25).recomputed == pytest.approx(0.03)


def test_tokens_come_in_blocks():
    assert [tokens(alpha, 100, 64) for alpha in (0, 0.63, 0.64, 0.99, 1)] == [0, 0, 64, 64, 100]


def test_a_plan_says_how_alpha_came_about():
    spec = Spec(config=config("Llama", num_hidden_layers=8), batch=1, seq=64, devices=4)
    (one,) = (
        made for made in plan(spec, savers=[Memo(flops=1e9, bandwidth="1MB", block=8)], hardware=RATES) if made.savers
    )
    text = "\n".join(explain(plan(spec, savers=[], hardware=RATES), one))
    assert "all 8 layers" in text and "by time: forward" in text and "on each of 4 devices" in text


def test_a_million_tokens_keep_what_the_paper_says():
    """Of a GPT of 7B parameters with h=4096 and 32 layers: 16 bsh numbers a layer, 4096 GB in 16 bits."""
    shape = {"hidden_size": 4096, "intermediate_size": 16384, "num_attention_heads": 32, "num_key_value_heads": 32}
    gpt7b = transformers.Starcoder2Config(
        **shape, num_hidden_layers=32, vocab_size=50257, max_position_embeddings=2**20, sliding_window=None
    )
    spec = Spec(config=gpt7b, seq=2**20, dtype="bfloat16", device="cuda", devices=8)
    saver = Memo(slow_memory="2TB")
    saver.check(spec)
    found, _ = imagine(spec, Stack([saver]))
    (dialled,) = saver.planned
    assert 32 * dialled.cost.moved(1) / 2**30 == pytest.approx(4096, rel=0.01)
    assert found.highest.entries["activations", "ram"] <= 2e12
    assert 0.3 < dialled.alpha < 0.5
    assert "4.00 TiB" in "\n".join(saver.explain(spec, found))


def test_memory_for_activations_does_not_grow_with_the_layers():
    found = []
    for layers in (6, 12):
        spec = Spec(config=config("Llama", num_hidden_layers=layers), batch=2, seq=64)
        found.append(measured(spec, [Memo(alpha=1)]))
    few, many = (ledger.stretches["forward"].entries for ledger in found)
    assert few["activations", "ram"] == many["activations", "ram"]
    assert few["activations", "disk"] * 10 == many["activations", "disk"] * 4
