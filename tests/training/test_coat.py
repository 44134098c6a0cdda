"""COAT: near to plain training, in the bytes promised, and gone when it is finished."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from memspan.core.codecs import ExpandedFloat8, Float8
from memspan.core.errors import ConflictError, InputError
from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama as tiny
from memspan.planner.imagine import imagine
from memspan.training.base import AdamW, Stack, find_saver
from memspan.training.coat import Coat
from memspan.training.loop import train
from memspan.training.packed_adam import PackedAdamW
from memspan.training.q_galore import QGaLore
from memspan.training.quantized_linear import QuantizedLinear
from memspan.training.saved_tensors import GROUPS, TENSOR, SavedTensors
from memspan.training.spec import Spec
from memspan.training.step import Step, language_model_loss

IDS = torch.arange(96).view(2, 48) % 61
BATCH = {"input_ids": IDS, "labels": IDS}


def tiny_llama(**options):
    return tiny(hidden=64, **options)


class Exact:
    """A codec that changes nothing, and counts."""

    group = 16

    def __init__(self):
        self.coded = []

    def encode(self, tensor):
        self.coded.append(tuple(tensor.shape))
        return {"values": tensor.detach().clone()}

    def decode(self, packed, shape, dtype):
        return packed["values"].view(shape).to(dtype)


def run(savers, steps=4, model=None, batch=BATCH, rate=1e-3, loss=language_model_loss):
    stack = Stack(savers)
    model = tiny_llama(layers=2) if model is None else model
    model, optimizer = stack.prepare(model.train(), AdamW(lr=rate))
    step = Step(model, optimizer, stack, loss)
    return stack, model, optimizer, step, [float(step(batch)) for _ in range(steps)]


def gradients(model, stack=None, batch=BATCH):
    with (stack or Stack()).step_context():
        loss = model(**batch, use_cache=False).loss
        loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return float(loss.detach()), found


def one_vector(found):
    return torch.cat([one.flatten() for one in found.values()]).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_rounding_gradients_are_the_plain_ones(dtype, attention):
    """The hooks, the granularities and the normalizations that are computed again change nothing by themselves."""
    model = tiny_llama(layers=2, attn_implementation=attention).to(dtype).train()
    loss, plain = gradients(model)
    codecs = {TENSOR: Exact(), GROUPS: Exact()}
    saved = SavedTensors(model, codecs)
    with saved.watching():
        again = model(**BATCH, use_cache=False).loss
        again.backward()
    assert float(again.detach()) == loss
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, plain[name], rtol=1e-4, atol=1e-6), name
    assert codecs[TENSOR].coded and codecs[GROUPS].coded


def test_each_tensor_is_coded_once_and_as_its_module_wants_it():
    model = tiny_llama(layers=1).train()
    codecs = {TENSOR: Exact(), GROUPS: Exact()}
    with SavedTensors(model, codecs).watching():
        model(**BATCH, use_cache=False).loss.backward()
    # Queries, keys and values share one input, as do gate and up; the output projection's is kept by attention.
    assert sorted(math.prod(shape) for shape in codecs[TENSOR].coded) == [96 * 64, 96 * 64, 96 * 128]
    # The inputs of three normalizations; gate, its activation, up.
    assert sorted(math.prod(shape) for shape in codecs[GROUPS].coded) == [96 * 64] * 3 + [96 * 128] * 3


def test_gradients_are_near():
    model = tiny_llama(layers=3).train()
    loss, plain = gradients(model)
    stack = Stack([Coat(optimizer=False)])
    stack.prepare(model, AdamW())
    again, near = gradients(model, stack)
    assert again == loss
    assert torch.cosine_similarity(one_vector(plain), one_vector(near), dim=0) > 0.998
    assert any(not torch.equal(near[name], plain[name]) for name in plain)


def test_the_step_is_adamws_on_coded_moments():
    """By hand, for one matrix: decoded moments, AdamW, encoded again."""
    model = nn.Sequential(nn.Linear(40, 24, bias=False))
    batch = {"x": torch.randn(8, 40, generator=torch.Generator().manual_seed(0))}
    weight = model[0].weight.detach().clone()
    saver = Coat(activations=False, smallest=0)
    first, second = saver.config.moments()
    _, trained, *_ = run([saver], 3, model, batch, loss=lambda m, b: m(b["x"]).square().mean())
    m = v = torch.zeros(24, 40)
    for number in range(1, 4):
        weight.requires_grad_()
        gradient = torch.autograd.grad((batch["x"] @ weight.t()).square().mean(), weight)[0]
        weight = weight.detach()
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient.square()
        weight = weight - 1e-3 * m / (1 - 0.9**number) / ((v / (1 - 0.999**number)).sqrt() + 1e-8)
        m, v = (codec.decode(codec.encode(one), one.shape) for codec, one in ((first, m), (second, v)))
    assert torch.allclose(trained[0].weight, weight, atol=1e-5)


def test_losses_are_those_of_plain_training():
    *_, plain = run([], 30)
    *_, ours = run([Coat(smallest=0)], 30)
    assert ours[-1] < plain[0] / 2
    assert ours[-1] == pytest.approx(plain[-1], rel=0.03)


def test_a_second_moment_is_not_lost():
    """A step is divided by its root: where FP8 loses small ones, the step is a million times what it should be."""
    gradient = torch.full((128,), 1e-3)
    gradient[0] = 10.0

    def largest(**options):
        weight = nn.Parameter(torch.zeros(1, 128))
        optimizer = PackedAdamW([{"params": [weight]}], lr=1.0, **options)
        for size in (1, 0):
            weight.grad = size * gradient.view(1, 128)
            optimizer.step()
        return float(weight.detach().abs().max())

    config = Coat().config
    assert largest(first=config.moments()[0], second=config.moments()[1]) < 2.2
    plain = Coat(expand=False).config.moments()
    assert largest(first=plain[0], second=plain[1]) < 2.2
    assert largest(first=Float8(), second=Float8()) > 100


@pytest.mark.parametrize("format", ["e4m3", "e5m2"])
@pytest.mark.parametrize("kind", [Float8, ExpandedFloat8])
def test_what_must_not_be_zero_is_not(kind, format):
    values = torch.tensor([1.0, -1e-3, 1e-9, -1e-15, 1e-25, 0.0])
    found = kind(format=format, group=None, nonzero=True)
    read = found.decode(found.encode(values), values.shape)
    assert (read != 0).tolist() == [True] * 5 + [False]
    assert torch.equal(read.sign(), values.sign())
    assert not kind(format=format, group=None).decode(kind(format=format, group=None).encode(values), (6,)).all()
    assert not found.decode(found.encode(torch.zeros(5)), (5,)).any()


def test_bytes_are_those_of_the_formula():
    model = nn.Sequential(nn.Linear(512, 256, bias=False))
    batch = {"x": torch.randn(4, 512)}
    stack, model, optimizer, step, _ = run([Coat()], 1, model, batch, loss=lambda m, b: m(b["x"]).square().mean())
    with Ledger(model, optimizer=optimizer) as ledger:
        step(batch)
    count = 512 * 256
    assert ledger.now.by_tier["optimizer"] == 2 * (count + 12 * count // 128)
    said = stack.report()["coat"]
    assert said["moments"] == ledger.now.by_tier["optimizer"]
    assert said["activations"] == {"tensors": 1, "bytes": 4 * 512 + 2, "before": 4 * 4 * 512}


def test_fewer_bytes_are_kept_for_the_backward_pass():
    most = []
    for savers in ([], [Coat(optimizer=False)]):
        stack, model, *_ = run(savers, 1)
        with stack.step_context(), Ledger(model) as ledger:
            hidden = model.model(IDS, use_cache=False)[0]
            most.append(ledger.now.by_tier["activations"])
            del hidden
    assert most[1] < most[0] / 2


CASES = [
    (["coat"], {}),
    (["coat"], {"dtype": "bfloat16", "batch": 3}),
    (["coat"], {"attention": "eager"}),
    (["coat", "chunked-loss"], {}),
    ([Coat(activations=False), "checkpointing"], {}),
    ([Coat(optimizer=False), QGaLore()], {}),
    ([Coat(expand=False, second="e5m2", saved="e5m2", smallest=0)], {}),
]


@pytest.mark.parametrize(("savers", "job"), CASES)
def test_the_plan_is_what_a_step_holds(savers, job):
    spec = Spec(config=tiny_llama(layers=4).config, **{"batch": 2, "seq": 48, **job})
    again = [type(saver)(saver.config) if isinstance(saver, Coat | QGaLore) else saver for saver in savers]
    found, how = imagine(spec, Stack(again))
    assert how == "repeated"
    stack = Stack(savers)
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    stack.make_worst()
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    assert found.stretches == ledger.stretches
    assert found.highest == ledger.highest


def test_other_families_are_planned_to_the_byte_too():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=4, n_embd=64, n_head=4, vocab_size=256, bos_token_id=1, eos_token_id=2)
    spec = Spec(config=config, batch=2, seq=24)
    found, _ = imagine(spec, Stack(["coat"]))
    stack = Stack(["coat"])
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    with Ledger(model, optimizer=optimizer) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    assert found.stretches == ledger.stretches


def test_it_goes_with_coded_weights():
    stack, model, _, _, losses = run([Coat(optimizer=False), QGaLore()], 20, rate=1e-2)
    assert any(isinstance(one, QuantizedLinear) for one in model.modules())
    assert losses[-1] < losses[0]
    assert stack.report()["coat"]["activations"]["tensors"] > 0
    assert not any(isinstance(one, QuantizedLinear) for one in stack.finish(model).modules())


def test_what_cannot_go_together_is_refused():
    with pytest.raises(ConflictError, match="activations"):
        Stack(["coat", "checkpointing"])
    with pytest.raises(ConflictError, match="optimizer"):
        Stack(["coat", "q-galore"])
    Stack([Coat(activations=False), "checkpointing"])
    Stack([Coat(optimizer=False), "q-galore"])


def test_a_resumed_training_is_the_same():
    _, whole, _, _, losses = run([Coat()], 6)
    _, model, optimizer, _, _ = run([Coat()], 3)
    stack = Stack([Coat()])
    other, made = stack.prepare(tiny_llama(layers=2, seed=1).train(), AdamW(lr=1e-3))
    other.load_state_dict(model.state_dict())
    made.load_state_dict(optimizer.state_dict())
    codes = [one["codes"] for state in made.state.values() for one in state.values() if isinstance(one, dict)]
    assert codes and all(one.dtype == torch.float8_e4m3fn for one in codes)
    step = Step(other, made, stack)
    assert [float(step(BATCH)) for _ in range(3)] == losses[3:]
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), whole.parameters(), strict=True))


def test_the_loop_keeps_codes_in_its_checkpoint(tmp_path):
    def batches(number):
        return {"input_ids": (IDS + number) % 64, "labels": (IDS + number) % 64}

    def go(folder, steps, **more):
        savers = [Coat(smallest=0)]
        return train(tiny_llama(), batches, steps=steps, savers=savers, out=folder, progress=False, **more)

    whole = go(tmp_path / "whole", 6)
    go(tmp_path / "half", 3)
    resumed = go(tmp_path / "half", 6, resume=True)
    assert resumed.resumed_at == 3 and resumed.losses == whole.losses
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_finish_leaves_a_plain_model():
    stack, model, *_ = run([Coat()], 2)
    assert stack.finish(model) is model
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in module.__dict__
    fresh = tiny_llama(layers=2, seed=1)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(IDS).logits, model.eval()(IDS).logits)


def test_a_pass_that_fails_leaves_nothing_running():
    class Fails(nn.Module):
        def forward(self, x):
            if x.abs().sum() > 1e6:
                raise RuntimeError("on purpose")
            return x.relu()

    model = nn.Sequential(nn.Linear(32, 32), Fails(), nn.Linear(32, 4))
    batch = {"x": torch.ones(2, 32)}
    stack, model, _, step, losses = run([Coat()], 2, model, batch, loss=lambda m, b: m(b["x"]).square().sum())
    with pytest.raises(RuntimeError, match="on purpose"):
        step({"x": torch.full((2, 32), 1e9)})
    assert not stack.savers[0]._saved._running
    assert float(step(batch)) < losses[0]


def test_frozen_layers_train_beside_others():
    model = tiny_llama(layers=3)
    model.requires_grad_(False)
    model.model.layers[1:].requires_grad_(True)
    _, trained, _, _, losses = run([Coat()], 5, model)
    assert losses[-1] < losses[0]
    assert all(one.grad is None for one in trained.model.layers[0].parameters())


def test_normalizations_with_statistics_are_computed_once():
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.LayerNorm(32), nn.Linear(32, 4))
    batch = {"x": torch.randn(16, 32, generator=torch.Generator().manual_seed(0))}
    _, model, *_ = run([Coat()], 3, model, batch, loss=lambda m, b: m(b["x"]).square().mean())
    assert int(model[1].num_batches_tracked) == 3


def test_bad_values_are_refused():
    model = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(InputError, match="infinite or no numbers"):
        run([Coat()], 1, model, {"x": torch.full((2, 32), math.inf)}, loss=lambda m, b: m(b["x"]).sum())
    sparse = nn.Embedding(64, 64, sparse=True)
    with pytest.raises(InputError, match="sparse"):
        run([Coat(activations=False)], 1, sparse, {"x": IDS % 64}, loss=lambda m, b: m(b["x"]).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": False, "activations": False}, "would do nothing"),
        ({"second": "e3m4"}, "second is 'e3m4'"),
        ({"group": 0}, "group is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"saved_group": 1}, "saved_group is 1"),
        ({"amsgrad": True}, "no such option"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        find_saver("coat", **options)
