"""Sparse spectral training: gradients of factors, swaps that lose nothing, and bytes as promised."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from memspan.core.errors import ConflictError, InputError, UnsupportedModelError
from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama
from memspan.planner.imagine import imagine
from memspan.training.base import AdamW, Stack
from memspan.training.loop import train
from memspan.training.spec import Spec
from memspan.training.sst import (
    SST,
    LorentzLinear,
    SpectralLinear,
    lift,
    lorentz_distance,
    lorentz_product,
)
from memspan.training.sst import layer as layers
from memspan.training.step import Step

IDS = torch.arange(40).view(2, 20)
BATCH = {"input_ids": IDS, "labels": IDS}
QUICK = {"rank": 3, "interval": 2, "warmup": 0}


def square(m, b):
    return (m(b["x"]) - b["y"]).square().mean()


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def net(seed=0):
    return seeded(lambda: nn.Sequential(nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 12)), seed)


def data(seed=0):
    chance = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(64, 20, generator=chance), "y": torch.randn(64, 12, generator=chance)}


class Sgd:
    """A factory of plain gradient descent."""

    lr, betas, eps, weight_decay = 0.1, (0.9, 0.999), 1e-8, 0.0

    def __init__(self, **options):
        self.options = options

    def __call__(self, model):
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=self.lr, **self.options)


def run(saver, steps=5, model=None, optimizer=None, loss=square, batch=None):
    stack = Stack([saver])
    model, made = stack.prepare(net() if model is None else model, optimizer or AdamW(lr=1e-2))
    step = Step(model.train(), made, stack, loss)
    losses = [float(step(data() if batch is None else batch)) for _ in range(steps)]
    return stack, model, made, step, losses


def spectral(out=14, inside=11, rank=4, **options):
    linear = seeded(lambda: nn.Linear(inside, out)).double()
    return SpectralLinear(linear, rank, name="it", **options), linear


# --- the layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(14, 11), (9, 16), (8, 8)])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("enhanced", [True, False])
def test_gradients_are_those_of_the_weight(shape, recompute, enhanced):
    """By the chain rule from the gradient G of the whole weight: u_i^T G v_i, G v_i, G^T u_i."""
    layer, linear = spectral(*shape, enhanced=enhanced, recompute=recompute)
    chance = torch.Generator().manual_seed(1)
    layer.draw("uniform", 0, chance, [])
    x = torch.randn(3, 5, shape[1], generator=chance, dtype=torch.float64)
    target = torch.randn(3, 5, shape[0], generator=chance, dtype=torch.float64)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(one)
    assert torch.allclose(y, linear(x), atol=1e-12)
    (y - target).square().sum().backward()
    (linear(two) - target).square().sum().backward()
    grad = linear.weight.grad
    u, v = torch.cat([layer.u, layer.u_rest]).detach(), torch.cat([layer.v, layer.v_rest]).detach()
    assert torch.allclose(one.grad, two.grad, atol=1e-12)
    assert torch.allclose(layer.bias.grad, linear.bias.grad, atol=1e-12)
    assert torch.allclose(layer.sigma.grad, ((u @ grad) * v).sum(1), atol=1e-12)
    factor = torch.ones(4, 1) if enhanced else layer.sigma.detach()[:4, None]
    assert torch.allclose(layer.u.grad, factor * (v[:4] @ grad.t()), atol=1e-11)
    assert torch.allclose(layer.v.grad, factor * (u[:4] @ grad), atol=1e-11)
    assert layer.u_rest.grad is None and layer.v_rest.grad is None


@pytest.mark.parametrize("sampler", layers.SAMPLERS)
@pytest.mark.parametrize("rank", [1, 4, 7, 11])
def test_a_draw_permutes_pairs_and_changes_nothing_else(sampler, rank):
    layer, linear = spectral(rank=rank)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = {float(s): torch.cat([u, v]) for s, u, v in _pairs(layer)}
    follower = layer.sigma.detach().clone()
    for turn in range(5):
        layer.draw(sampler, turn, chance, [follower])
        assert torch.allclose(layer.composed(), linear.weight, atol=1e-12)
        assert torch.equal(follower, layer.sigma)
        pairs = {float(s): torch.cat([u, v]) for s, u, v in _pairs(layer)}
        assert pairs.keys() == before.keys() and all(torch.equal(pairs[s], before[s]) for s in pairs)


def _pairs(layer):
    u, v = torch.cat([layer.u, layer.u_rest]), torch.cat([layer.v, layer.v_rest])
    return zip(layer.sigma.detach(), u.detach(), v.detach(), strict=True)


def test_samplers_draw_what_they_say():
    layer, _ = spectral(16, 16, rank=4)
    values = torch.tensor([float(2 ** (-n)) for n in range(16)], dtype=torch.float64)
    layer.sigma.data.copy_(values)

    def counted(sampler, times=3_000):
        chance, seen = torch.Generator().manual_seed(0), dict.fromkeys(values.tolist(), 0)
        for turn in range(times):
            layer.draw(sampler, turn, chance, [])
            for value in layer.sigma[:4].tolist():
                seen[value] += 1 / times
        return list(seen.values())

    assert counted("topr", 5)[:4] == pytest.approx([1] * 4) and sum(counted("topr", 5)[4:]) == 0
    assert counted("uniform") == pytest.approx([0.25] * 16, abs=0.04)
    mixed = counted("mix")
    assert mixed[0] > 0.7 and mixed[0] > mixed[1] > mixed[3]
    assert min(mixed) > 0.09 and sum(mixed) == pytest.approx(4)  # the smallest have their chance too
    with torch.no_grad():
        layer.sigma.zero_()
    layer.draw("mix", 1, torch.Generator().manual_seed(0), [])  # nothing to go by: all alike


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_sequential_draws_visit_every_direction(rank):
    layer, _ = spectral(rank=rank)
    seen = set()
    for turn in range(math.ceil(11 / rank)):
        layer.draw("sequential", turn, torch.Generator(), [])
        seen |= set(layer.sigma[:rank].tolist())
    assert len(seen) == 11


def test_a_fresh_decomposition_restores_orthogonality():
    _, model, *_ = run(SST(rank=3, interval=100, warmup=0), 20)
    layer = model[0]
    weight = layer.composed()
    eye = torch.eye(layer.directions)

    def off():
        vectors = torch.cat([layer.u, layer.u_rest]).detach()
        return (vectors @ vectors.t() - eye).abs().max()

    assert off() > 0.01
    assert torch.allclose(layer.u.norm(dim=1), torch.ones(3), atol=1e-6)
    layer.decompose_again()
    assert off() < 1e-5 and torch.allclose(layer.composed(), weight, atol=1e-5)
    assert torch.equal(layer.sigma, layer.sigma.sort(descending=True).values)


def test_singular_values_stay_above_zero_and_can_come_back():
    layer, _ = spectral()
    with torch.no_grad():
        layer.sigma[2] = -0.5
    layer.project()
    assert layer.sigma[2] == 0
    layer(torch.ones(2, 11, dtype=torch.float64)).square().sum().backward()
    assert layer.sigma.grad[2] != 0 and layer.u.grad[2].abs().sum() > 0


def test_decompositions_that_fail_are_tried_in_float64_and_named(monkeypatch):
    asked, plain = [], torch.linalg.svd

    def failing(matrix, full_matrices):
        asked.append(matrix.dtype)
        if matrix.dtype in refused:
            raise torch.linalg.LinAlgError("no")
        return plain(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", failing)
    refused = {torch.float32}
    u, sigma, v = layers.decompose(torch.eye(9), "here")
    assert asked == [torch.float32, torch.float64] and sigma.dtype == torch.float32
    assert torch.allclose(u.t() @ v, torch.eye(9), atol=1e-6)
    refused = {torch.float32, torch.float64}
    with pytest.raises(InputError, match="here does not converge"):
        layers.decompose(torch.eye(9), "here")
    with pytest.raises(InputError, match="here is not finite"):
        layers.decompose(torch.full((9, 9), math.nan), "here")


# --- training --------------------------------------------------------------------------------------------------------


def test_with_full_rank_and_gradient_descent_it_is_a_step_on_the_factors():
    """One step by hand from autograd on U diag(S) V^T, projected."""
    x, y = data()["x"], data()["y"]
    model = seeded(lambda: nn.Sequential(nn.Linear(20, 12, bias=False)))
    u, s, v = (part.requires_grad_() for part in torch.linalg.svd(model[0].weight.detach(), full_matrices=False))
    (x @ (u @ torch.diag(s) @ v).t() - y).square().mean().backward()
    for part in (u, s, v):
        part.data -= 0.1 * part.grad
    u.data, v.data = nn.functional.normalize(u.data, dim=0), nn.functional.normalize(v.data, dim=1)
    wanted = (u @ torch.diag(s.clamp(min=0)) @ v).detach()
    saver = SST(rank=12, enhanced=False, warmup=0)
    _, trained, *_ = run(saver, 1, model, Sgd())
    assert torch.allclose(trained[0].weight, wanted, atol=1e-5)


def test_the_enhanced_gradient_tells_under_sgd_and_hardly_under_adam():
    def apart(optimizer):
        ends = [
            run(SST(rank=4, warmup=0, enhanced=enhanced), 1, None, optimizer)[1][2].u.detach()
            for enhanced in (True, False)
        ]
        moved = (ends[0] - run(SST(rank=4), 0, None, optimizer)[1][2].u.detach()).norm()
        return float((ends[0] - ends[1]).norm() / moved)

    assert apart(Sgd()) > 0.2
    assert apart(AdamW(lr=1e-2)) < 1e-2


def test_state_follows_the_pair_and_vectors_begin_anew():
    saver = SST(rank=3, interval=3, warmup=0, resvd=4)
    stack, model, optimizer, step, _ = run(saver, 2)
    layer = model[0]
    square(model, data()).backward()
    optimizer.step()
    optimizer.zero_grad()
    held = optimizer.state[layer.sigma]["exp_avg"]
    before = dict(zip(layer.sigma.tolist(), held.tolist(), strict=True))
    training = set(layer.sigma[:3].tolist())
    stack.after_step()
    assert set(layer.sigma[:3].tolist()) != training
    assert dict(zip(layer.sigma.tolist(), held.tolist(), strict=True)) == before
    assert layer.u not in optimizer.state and layer.v not in optimizer.state
    step(data())
    assert optimizer.state[layer.u]["step"] == 1 and optimizer.state[layer.sigma]["step"] == 4
    assert saver.report()["draws"] == 2
    for _ in range(8):
        step(data())
    assert saver.report()["decompositions"] == 2 and layer.sigma not in optimizer.state


def test_the_rate_of_factors_is_warmed_up_and_left_as_it_was():
    saver = SST(rank=3, interval=4, warmup=4)
    stack = Stack([saver])
    model, optimizer = stack.prepare(net(), AdamW(lr=0.01))
    seen = []

    def hear(*_):
        seen.append({bool(group.get("spectral")): group["lr"] for group in optimizer.param_groups})

    optimizer.register_step_pre_hook(hear)
    step = Step(model, optimizer, stack, square)
    for _ in range(9):
        step(data())
        assert all(group["lr"] == 0.01 for group in optimizer.param_groups)
    assert [one[True] for one in seen] == pytest.approx([0.0025, 0.005, 0.0075, 0.01] * 2 + [0.0025])
    assert all(one[False] == 0.01 for one in seen)


def test_only_singular_values_decay():
    stack = Stack([SST(rank=3, warmup=2)])
    model, optimizer = stack.prepare(net(), AdamW(lr=0.1, weight_decay=0.3))
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # at half the rate
    for name, value in model.state_dict().items():
        wanted = before[name] * (1 - 0.05 * 0.3) if name.endswith("sigma") else before[name]
        assert torch.allclose(value, wanted), name


def test_it_learns_what_a_fixed_subspace_cannot():
    """A random target of full rank: all directions must have had their turn."""
    chance = torch.Generator().manual_seed(0)
    x, target = torch.randn(256, 16, generator=chance), torch.randn(16, 16, generator=chance)
    batch = {"x": x, "y": x @ target}

    def last(**options):
        model = seeded(lambda: nn.Sequential(nn.Linear(16, 16, bias=False)))
        return run(SST(rank=2, warmup=0, **options), 600, model, AdamW(lr=0.03), batch=batch)[4][-1]

    assert last(interval=20) < 0.5 * last(interval=10_000)


def test_it_is_kept_in_low_precision_but_projected_in_float32():
    model = net().to(torch.bfloat16)
    batch = {name: value.bfloat16() for name, value in data().items()}
    _, trained, _, _, losses = run(SST(**QUICK), 30, model, batch=batch)
    assert losses[-1] < losses[0]
    assert {p.dtype for p in trained.parameters()} == {torch.bfloat16}
    lengths = trained[0].u.float().norm(dim=1)
    assert (lengths - 1).abs().max() < 0.01


def test_a_resumed_training_is_the_same(tmp_path):
    def go(steps, seed=0, resume=False):
        batches = [data(number) for number in range(4)]
        return train(
            net(seed),
            batches,
            steps=steps,
            savers=[SST(rank=3, interval=2, warmup=1, resvd=3)],
            optimizer=AdamW(lr=1e-2),
            loss=square,
            out=tmp_path / ("parts" if resume or steps == 7 else "whole"),
            resume=resume,
            progress=False,
        )

    whole = go(14)
    go(7)
    resumed = go(14, seed=1, resume=True)
    assert resumed.resumed_at == 7 and resumed.losses == whole.losses
    assert all(
        torch.equal(a, b)
        for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    )


def test_finish_gives_a_plain_model():
    stack, model, optimizer, _, _ = run(SST(**QUICK), 3, tiny_llama(), loss=lambda m, b: m(**b).loss, batch=BATCH)
    with torch.no_grad():
        before = model(IDS).logits
    plain = stack.finish(model)
    assert not any(isinstance(one, SpectralLinear) for one in plain.modules())
    fresh = tiny_llama(seed=1)
    fresh.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(fresh(IDS).logits, before, atol=1e-4)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_pruning_keeps_the_energy():
    saver = SST(**QUICK)
    _, model, *_ = run(saver, 2)
    with torch.no_grad():
        layer = model[0]
        layer.sigma.copy_(torch.tensor([3.0, 2.0, 1.0] + [0.01] * 17))
    before = model[0].composed()
    small = saver.prune(model, 0.99)
    down, up = small[0]
    assert isinstance(small[2], nn.Linear)  # two layers would be no smaller there
    assert down.weight.shape == (3, 20) and down.bias is None and torch.equal(up.bias, layer.bias)
    assert ((up.weight @ down.weight - before).norm() / before.norm()) ** 2 <= 0.01
    with pytest.raises(InputError, match="energy is 0"):
        saver.prune(model, 0)


def test_weights_that_are_tied_are_factorised_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(20, 16), nn.Linear(16, 20)
            self.out.weight = self.embedding.weight
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.out(self.two(torch.tanh(self.one(self.embedding(x)))))

    def loss(m, b):
        return nn.functional.cross_entropy(m(b["x"]), b["x"])

    saver, batch = SST(**QUICK), {"x": torch.arange(20)}
    stack, model, _, _, losses = run(saver, 9, seeded(Tied), loss=loss, batch=batch)
    assert len(saver.layers) == 1 and type(model.out) is nn.Linear and losses[-1] < losses[0]
    assert model.one.u is model.two.u and model.one.bias is not model.two.bias
    plain = stack.finish(model)
    assert plain.one.weight is plain.two.weight and plain.one.bias is not plain.two.bias


# --- hyperbolic layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_lorentz_layers_stay_on_the_hyperboloid(scaled):
    layer = seeded(lambda: LorentzLinear(8, 12, activation=torch.relu, scaled=scaled)).double()
    x = lift(torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    y = layer(x)
    assert y.shape == (50, 13)
    assert (lorentz_product(y, y) + 1).abs().max() < 1e-9 and (y[:, 0] >= 1).all()
    assert lorentz_distance(x, x).abs().max() < 1e-5
    made = layer.linear(torch.relu(x)).detach()
    if not scaled:
        assert torch.allclose(y[:, 1:], made)
    else:  # the direction is the matrix's, the time-like part the sigmoid's
        assert torch.allclose(y[:, 0], made[:, 0].sigmoid() * math.exp(2) + 1.1)
        cosine = torch.cosine_similarity(y[:, 1:], made[:, 1:], dim=1)
        assert torch.allclose(cosine, torch.ones_like(cosine))


def test_distances_are_those_along_a_geodesic():
    at = torch.tensor([0.0, 0.5, 2.0, 4.0], dtype=torch.float64)
    points = torch.stack([at.cosh(), at.sinh(), torch.zeros_like(at)], 1)  # through the origin, at unit speed
    assert torch.allclose(lorentz_distance(points[:1], points), at, atol=1e-7)
    assert torch.allclose(lift(points[:, 1:]), points)


def test_the_matrix_inside_a_lorentz_layer_is_factorised():
    model = seeded(lambda: nn.Sequential(LorentzLinear(12, 12), LorentzLinear(12, 9)))
    x = lift(torch.randn(16, 12, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        before = model(x)
    stack = Stack([SST(**QUICK)])
    model, optimizer = stack.prepare(model, AdamW(lr=1e-2))
    assert all(isinstance(one.linear, SpectralLinear) for one in model)
    with torch.no_grad():
        assert torch.allclose(model(x), before, atol=1e-4)
    step = Step(model, optimizer, stack, lambda m, b: lorentz_distance(m(b["x"]), b["y"]).square().mean())
    target = lift(torch.zeros(16, 9))
    losses = [float(step({"x": x, "y": target})) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    stack.finish(model)
    assert all(type(one.linear) is nn.Linear for one in model)


def test_points_of_another_library_keep_their_optimizer():
    geoopt = pytest.importorskip("geoopt")
    manifold = geoopt.Lorentz()

    class Points(nn.Module):
        def __init__(self):
            super().__init__()
            self.points = geoopt.ManifoldParameter(lift(torch.randn(30, 12, dtype=torch.float64)), manifold=manifold)
            self.layer = LorentzLinear(12, 12).double()

        def forward(self):
            return self.layer(self.points)

    class Riemannian(Sgd):
        def __call__(self, model):
            trainable = [p for p in model.parameters() if p.requires_grad]
            return geoopt.optim.RiemannianAdam(trainable, lr=1e-2)

    def loss(m, b):
        return lorentz_distance(m(), b["x"]).square().mean()

    target = lift(torch.randn(30, 12, dtype=torch.float64))
    _, model, _, _, losses = run(SST(**QUICK), 30, seeded(Points), Riemannian(), loss, {"x": target})
    assert losses[-1] < 0.9 * losses[0]
    points = model.points.detach()
    assert (lorentz_product(points, points) + 1).abs().max() < 1e-6
    assert torch.allclose(lorentz_distance(points, target), manifold.dist(points, target), atol=1e-6)


# --- bytes and refusals ----------------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_formula():
    model = nn.Sequential(nn.Linear(256, 192, bias=False))
    batch = {"x": torch.randn(4, 256), "y": torch.randn(4, 192)}
    _, model, optimizer, step, _ = run(SST(rank=16), 1, model, batch=batch)
    with Ledger(model, optimizer=optimizer) as ledger:
        step(batch)
    values = 16 * (256 + 192) + 192
    assert ledger.now.by_tier["weights"] == 4 * (192 * (256 + 192) + 192)
    assert ledger.highest.by_tier["gradients"] == 4 * values
    assert ledger.now.by_tier["optimizer"] == 8 * values + 12  # and three counters of steps


@pytest.mark.parametrize("recompute", [True, False])
def test_what_is_kept_for_the_backward_pass(recompute):
    layer = SpectralLinear(nn.Linear(64, 48, bias=False), 8, recompute=recompute)
    x = torch.randn(32, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    known = {p.untyped_storage()._cdata for p in (*layer.parameters(), x)}
    assert sum(t.numel() for t in kept if t.untyped_storage()._cdata not in known) == (0 if recompute else 32 * 48)


@pytest.mark.parametrize(("savers", "tied"), [([], True), (["checkpointing", "chunked-loss"], False)])
def test_the_plan_is_what_a_step_holds(savers, tied):
    spec = Spec(config=tiny_llama(layers=5, tie_word_embeddings=tied).config, seq=32)
    found, how = imagine(spec, Stack([SST(), *savers]))
    assert how == "repeated"
    stack = Stack([SST(), *savers])
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


def test_a_model_that_is_refused_is_left_as_it_was():
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    for saver, message in ((SST(rank=13), "rank is 13"), (SST(rank=3), "weight of 2 is not finite")):
        with pytest.raises(InputError, match=message):
            saver.change(model)
    assert [type(one) for one in model] == [nn.Linear, nn.Tanh, nn.Linear] and model[0].weight.shape == (33, 20)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"rank is 13: 2, \(12, 33\), has 12"):
        run(SST(rank=13))
    with pytest.raises(UnsupportedModelError, match="no trainable linear"):
        run(SST(targets="nothing"))
    with pytest.raises(UnsupportedModelError, match="8 directions"):
        run(SST(), model=nn.Sequential(nn.Linear(20, 7), nn.Linear(7, 12)))
    with pytest.raises(InputError, match="sampler is 'best'"):
        SST(sampler="best")
    with pytest.raises(InputError, match="warmup is 30"):
        SST(interval=20, warmup=30)
    with pytest.raises(InputError, match="interval is 0"):
        SST(interval=0)
    with pytest.raises(InputError, match="one device"):
        SST().check(Spec(config=tiny_llama().config, seq=16, devices=2))
    with pytest.raises(ConflictError, match="weights"):
        Stack([SST(), SST()])
    for wrong in ({"in_features": 0}, {"dropout": 1.0}):
        with pytest.raises(InputError):
            LorentzLinear(**{"in_features": 8, "out_features": 8, **wrong})
