"""Q-GaLore: the projected step, coded weights that train, and bytes as promised."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from memspan.core.codecs import Affine
from memspan.core.errors import ConflictError, InputError, UnsupportedModelError
from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama
from memspan.planner.imagine import imagine
from memspan.training.base import AdamW, Stack
from memspan.training.packed_adam import PackedAdamW
from memspan.training.q_galore import QGaLore
from memspan.training.quantized_linear import QuantizedLinear
from memspan.training.spec import Spec
from memspan.training.step import Step

FLOAT = {"weight_bits": 32, "projector_bits": 32, "state_bits": 32, "lazy": False}
IDS = torch.arange(40).view(2, 20)
BATCH = {"input_ids": IDS, "labels": IDS}


def square(m, b):
    return (m(b["x"]) - b["y"]).square().mean()


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 12))


def data(seed=0):
    chance = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(64, 20, generator=chance), "y": torch.randn(64, 12, generator=chance)}


def run(saver, steps=5, model=None, loss=None, batch=None, rate=1e-2, decay=0.0):
    stack = Stack([saver])
    model, optimizer = stack.prepare(net() if model is None else model, AdamW(lr=rate, weight_decay=decay))
    step = Step(model.train(), optimizer, stack, loss or square)
    losses = [float(step(data() if batch is None else batch)) for _ in range(steps)]
    return stack, model, optimizer, step, losses


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_codecs_it_is_adamw(dtype):
    ours, theirs = net().to(dtype), net().to(dtype)
    options = {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.1}
    first = PackedAdamW([{"params": list(ours.parameters())}], **options)
    second = torch.optim.AdamW(theirs.parameters(), **options)
    for number in range(8):
        batch = {name: value.to(dtype) for name, value in data(number).items()}
        for model, optimizer in ((ours, first), (theirs, second)):
            square(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(
            a, b, rtol=1e-5 if dtype == torch.float32 else 0.05, atol=1e-6 if dtype == torch.float32 else 0.02
        )


def test_the_step_is_galores():
    """By hand: exact singular vectors, PyTorch's AdamW on the view, back, times alpha."""
    model = nn.Sequential(nn.Linear(20, 33, bias=False))
    weight = model[0].weight.detach().clone()
    batch = {"x": data()["x"], "y": torch.randn(64, 33, generator=torch.Generator().manual_seed(1))}
    _, trained, *_ = run(QGaLore(rank=4, refresh=3, **FLOAT), 5, model, batch=batch)
    low = nn.Parameter(torch.zeros(33, 4))
    inner = torch.optim.Adam([low], lr=1.0)
    for number in range(5):
        weight.requires_grad_()
        gradient = torch.autograd.grad((batch["x"] @ weight.t() - batch["y"]).square().mean(), weight)[0]
        weight = weight.detach()
        if number % 3 == 0:
            projector = torch.linalg.svd(gradient, full_matrices=False)[2][:4]
        before = low.detach().clone()
        low.grad = gradient @ projector.t()
        inner.step()
        weight += 1e-2 * 0.25 * (low.detach() - before) @ projector
    assert torch.allclose(trained[0].weight, weight, atol=1e-5)


def test_a_coded_layer_has_the_gradients_of_its_decoded_weight():
    linear = nn.Linear(37, 19)
    coded = QuantizedLinear(linear, Affine(group=64))
    plain = coded.plain()
    x = torch.randn(3, 5, 37)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    coded(a).square().sum().backward()
    coded_bias = coded.bias.grad.clone()
    coded.bias.grad = None
    plain(b).square().sum().backward()
    assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-5)
    assert torch.allclose(coded.weight.grad, plain.weight.grad, rtol=1e-5, atol=1e-4)
    assert torch.allclose(coded_bias, plain.bias.grad, rtol=1e-5, atol=1e-4)


def test_a_coded_layer_moves_and_is_saved():
    coded = QuantizedLinear(nn.Linear(37, 19), Affine(group=64))
    assert set(coded.state_dict()) == {"codes", "scale", "low", "bias"}
    other = QuantizedLinear(nn.Linear(37, 19), Affine(group=64))
    other.load_state_dict(coded.state_dict())
    assert torch.equal(other.decoded(), coded.decoded())
    plain = nn.Linear(37, 19)
    other.load_state_dict(plain.state_dict())
    assert (other.decoded() - plain.weight).abs().max() < 0.002
    other.to(torch.bfloat16)
    assert other.scale.dtype == torch.float32
    assert other.weight.dtype == torch.bfloat16 and other.weight.untyped_storage().nbytes() == 2


def test_bytes_are_those_of_the_formula():
    model = nn.Sequential(nn.Linear(512, 1_024, bias=False))
    batch = {"x": torch.randn(4, 512), "y": torch.randn(4, 1_024)}
    stack, model, optimizer, step, _ = run(QGaLore(rank=128), 1, model, batch=batch)
    with Ledger(model, optimizer=optimizer) as ledger:
        step(batch)
    held = ledger.now.by_tier
    count, projected, moment = 512 * 1_024, 128 * 512, 128 * 1_024
    assert held["weights"] == count + 8 * count // 256 + 4
    assert held["optimizer"] == projected // 2 + 8 * projected // 256 + 2 * (moment + 4 * moment // 256)
    said = stack.report()["q-galore"]["bytes"]
    assert said["projectors"] + said["moments"] == held["optimizer"]
    assert said["coded weights"] == held["weights"] - 4


def test_updates_in_the_backward_pass_are_the_same_and_free_gradients():
    one = run(QGaLore(in_backward=False), 5, tiny_llama(), lambda m, b: m(**b).loss, BATCH)
    two = run(QGaLore(), 5, tiny_llama(), lambda m, b: m(**b).loss, BATCH)
    assert one[4] == two[4] and same(one[1], two[1])
    most = []
    for _, model, optimizer, step, _ in (one, two):
        with Ledger(model, optimizer=optimizer) as ledger:
            step(BATCH)
        most.append(ledger.highest.by_tier.get("gradients", 0))
    assert 0 < most[1] < most[0] / 4


def test_gradients_are_not_accumulated_or_clipped_where_they_are_gone():
    stack, model, optimizer, _, _ = run(QGaLore(), 1)
    square(model, data()).backward()
    with pytest.raises(ConflictError, match="accumulated"):
        square(model, data()).backward()
    with pytest.raises(ConflictError, match="clip"):
        Step(model, optimizer, stack, square, clip=1.0)


@pytest.mark.parametrize("refresh", ["keep", "rotate", "reset"])
def test_a_resumed_training_is_the_same(refresh):
    options = {"refresh": 2, "window": 1, "threshold": 0.0, "on_refresh": refresh, "smallest": 0}
    *_, whole, losses = (*run(QGaLore(**options), 8)[1:2], run(QGaLore(**options), 8)[4])
    _, model, optimizer, _, _ = run(QGaLore(**options), 4)
    stack = Stack([QGaLore(**options)])
    other, made = stack.prepare(net(1), AdamW(lr=1e-2))
    other.load_state_dict(model.state_dict())
    made.load_state_dict(optimizer.state_dict())
    step = Step(other.train(), made, stack, square)
    assert [float(step(data())) for _ in range(4)] == losses[4:]
    assert same(other, whole)


def test_finish_gives_a_plain_model_without_hooks():
    stack, model, _, _, _ = run(QGaLore(), 3, tiny_llama(), lambda m, b: m(**b).loss, BATCH)
    with torch.no_grad():
        before = model(IDS).logits
    plain = stack.finish(model)
    assert not any(isinstance(one, QuantizedLinear) for one in plain.modules())
    fresh = tiny_llama(seed=1)
    fresh.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(fresh(IDS).logits, before, atol=1e-5)
    plain(**BATCH).loss.backward()
    assert all(one.grad is not None for one in plain.parameters())


def test_small_steps_add_up_only_if_rounded_stochastically():
    def moved(**options):
        model = net()
        before = model[0].weight.detach().clone()
        stack, model, *_ = run(QGaLore(rank=0, state_bits=32, **options), 30, model, rate=2e-5)
        return stack.finish(model)[0].weight.detach() - before

    wanted = moved(weight_bits=32)
    share = {
        kind: float((moved(rounding=kind) * wanted).sum() / wanted.square().sum()) for kind in ("stochastic", "nearest")
    }
    assert share["stochastic"] == pytest.approx(1, abs=0.25)
    assert share["nearest"] < 0.5


def test_the_interval_grows_where_the_view_stays():
    model = nn.Sequential(nn.Linear(16, 24, bias=False))
    _, _, optimizer, *_ = run(
        QGaLore(rank=2, refresh=1, window=3, **{**FLOAT, "lazy": True}),
        4,
        model,
        batch={"x": torch.ones(4, 16), "y": torch.ones(4, 24)},
        rate=1e-6,
    )
    (state,) = optimizer.state.values()
    assert state["interval"] == 2 and min(state["similarities"]) > 0.99  # whatever sign the vectors came out with
    model = nn.Sequential(nn.Linear(16, 24, bias=False))
    _, _, optimizer, *_ = run(
        QGaLore(rank=2, refresh=1, window=3, **FLOAT),
        6,
        model,
        batch={"x": torch.ones(4, 16), "y": torch.ones(4, 24)},
        rate=1e-6,
    )
    (state,) = optimizer.state.values()
    assert state["interval"] == 1 and state["refreshes"] == 6


def test_the_range_finder_finds_the_singular_vectors():
    from memspan.training.q_galore import _singular

    chance = torch.Generator().manual_seed(0)
    matrix = torch.randn(200, 150, generator=chance) @ torch.diag(0.8 ** torch.arange(150.0))
    for one, side in ((matrix, 2), (matrix.t(), 0)):
        exact = torch.linalg.svd(one, full_matrices=False)[side]
        found = _singular(one, 6, chance, "it")
        found, exact = (found, exact[:6]) if side else (found.t(), exact[:, :6].t())
        assert float((found @ exact.t()).square().sum() / 6) > 0.999


def test_a_gradient_that_is_no_number_changes_nothing():
    _, model, optimizer, _, _ = run(QGaLore(in_backward=False, refresh=1), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.full(parameter.shape, math.nan)
    with pytest.raises(InputError, match="not finite"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="rank is 12"):
        run(QGaLore(rank=12))
    with pytest.raises(UnsupportedModelError, match="no trainable linear"):
        run(QGaLore(targets="nothing"))
    with pytest.raises(InputError, match="rounding is 'up'"):
        QGaLore(rounding="up")
    with pytest.raises(InputError, match="one device"):
        QGaLore().check(Spec(config=tiny_llama().config, seq=16, devices=2))
    with pytest.raises(ConflictError, match="weights"):
        Stack([QGaLore(), QGaLore()])
    assert QGaLore(weight_bits=32).touches == {"optimizer"}


def test_the_plan_is_what_a_step_holds():
    spec = Spec(config=tiny_llama(layers=5).config, seq=32)
    found, how = imagine(spec, Stack([QGaLore()]))
    assert how == "repeated"
    stack, model, optimizer, step, _ = run(
        QGaLore(), 1, spec.build(), lambda m, b: m(**b, use_cache=False).loss, spec.random_batch()
    )
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        step(spec.random_batch(), ledger)
    assert found.stretches == ledger.stretches and found.highest == ledger.highest
