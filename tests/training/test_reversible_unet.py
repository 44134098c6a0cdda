"""Reversible blocks and the U-Net of them: exact gradients, memory that is flat in depth, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from memspan.core.errors import InputError
from memspan.core.ledger import Ledger
from memspan.planner.imagine import imagine
from memspan.training.base import AdamW, Stack
from memspan.training.loop import train
from memspan.training.reversible_unet import (
    MBConv,
    Reversible,
    ReversibleSequential,
    RevUNet,
    RevUNetConfig,
    dice_loss,
    dice_score,
)
from memspan.training.spec import Spec
from memspan.training.step import Step

SMALL = {"in_channels": 2, "classes": 2, "width": (8, 16), "depth": (2, 1), "expand": 2}


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def bottlenecks(blocks, channels=8, **options):
    config = RevUNetConfig(expand=2, dims=2)

    def make():
        return ReversibleSequential(
            [Reversible(MBConv(channels // 2, config), MBConv(channels // 2, config)) for _ in range(blocks)], **options
        )

    return seeded(make)


def dense(blocks, width=6, extra=None, **options):
    def function():
        return nn.Sequential(nn.Linear(width, width), nn.Tanh(), *([] if extra is None else [extra()]))

    return seeded(lambda: ReversibleSequential.from_functions([function() for _ in range(2 * blocks)], **options))


def both(stack):
    """The stack, and the same one under ordinary autograd."""
    other = copy.deepcopy(stack)
    other.invert = False
    return stack, other


def gradients(module, x, seed=None):
    """Of the parameters and of x, and the output."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    if seed is not None:
        torch.manual_seed(seed)
    y = module(x)
    y.float().square().sum().backward()
    return [x.grad, *(p.grad for p in module.parameters()), y.detach()]


def off(one, two):
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in zip(one, two, strict=True))


def saved_bytes(module, *args):
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module(*args)
    known = {p.untyped_storage()._cdata for p in module.parameters()}
    del result
    return sum(n for key, n in held.items() if key not in known)


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 16])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_gradients_are_those_of_autograd(blocks, dtype, most):
    ours, plain = both(bottlenecks(blocks).to(dtype))
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert off(gradients(ours, x), gradients(plain, x)) < most
    with torch.no_grad():
        assert off([ours.inverse(ours(x))], [x]) < most


def test_what_is_kept_does_not_grow_with_depth():
    x = torch.randn(2, 8, 6, 6)
    kept = {
        blocks: [saved_bytes(stack, x) for stack in both(bottlenecks(blocks, preserve_rng_state=False, check=None))]
        for blocks in (1, 2, 8)
    }
    assert kept[1][0] == kept[8][0] == x.nbytes  # the output
    assert kept[8][1] > 3.5 * kept[2][1] > 6 * kept[1][1]


def test_a_block_alone_is_an_ordinary_module():
    block = Reversible(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    y = block(x)
    y1 = x[:, :3] + block.f(x[:, 3:])
    assert torch.equal(y, torch.cat([y1, x[:, 3:] + block.g(y1)], 1))
    assert torch.allclose(block.inverse(y), x)
    y.sum().backward()
    assert x.grad is not None


def test_a_block_may_stand_there_twice_and_parameters_be_frozen():
    block = seeded(lambda: Reversible(nn.Linear(3, 3), nn.Linear(3, 3)).double())
    block.g.bias.requires_grad_(False)
    ours, plain = both(ReversibleSequential([block] * 3))
    x = torch.randn(5, 6, dtype=torch.float64)
    one, two = gradients(ours, x), gradients(plain, x)
    assert len(one) == 6 and one[4] is None and two[4] is None
    assert off(*([g for g in some if g is not None] for some in (one, two))) < 1e-12


def test_where_nothing_needs_a_gradient_there_is_no_graph():
    stack = dense(2).requires_grad_(False)
    assert not stack(torch.randn(3, 12)).requires_grad
    x = torch.randn(3, 12, requires_grad=True)
    stack(x).sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        assert stack(torch.randn(3, 12)).shape == (3, 12)


def test_a_skip_may_use_a_stacks_input_and_output_again():
    ours, plain = both(dense(3).double())

    class Skips(nn.Module):
        def __init__(self, stack):
            super().__init__()
            self.stack, self.before = stack, nn.Linear(12, 12).double()

        def forward(self, x):
            x = self.before(x)
            y = self.stack(x)
            return y * x + y.tanh()

    one = seeded(lambda: Skips(ours))
    two = copy.deepcopy(one)
    two.stack = plain
    x = torch.randn(4, 12, dtype=torch.float64)
    assert off(gradients(one, x), gradients(two, x)) < 1e-10


def test_the_backward_pass_may_run_twice():
    ours, plain = both(dense(3).double())
    x = torch.randn(4, 12, dtype=torch.float64)
    for stack in (ours, plain):
        loss = stack(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert off([p.grad for p in ours.parameters()], [p.grad for p in plain.parameters()]) < 1e-10


def test_dropout_draws_the_same_again():
    ours, plain = both(dense(4, extra=lambda: nn.Dropout(0.5)).double())
    x = torch.randn(4, 12, dtype=torch.float64)
    assert off(gradients(ours, x, seed=3), gradients(plain, x, seed=3)) < 1e-10
    after = torch.rand(1)
    gradients(plain, x, seed=3)
    assert torch.equal(torch.rand(1), after)  # the caller's draws go on as if nothing had been computed again
    ours.preserve_rng_state, ours.checked = False, False
    with pytest.raises(InputError, match="block 3 of 4 was inverted"):
        gradients(ours, x, seed=3)


def test_streams_are_float32_where_modules_are_not():
    ours, plain = both(bottlenecks(8).to(torch.bfloat16))
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    one, two = gradients(ours, x), gradients(plain, x)
    assert one[-1].dtype == torch.bfloat16 and torch.equal(one[-1], two[-1])
    for a, b in zip(one, two, strict=True):
        assert torch.nn.functional.cosine_similarity(a.float().flatten(), b.float().flatten(), dim=0) > 0.999


def test_autocast_is_as_it_was():
    ours, plain = both(bottlenecks(3))
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))

    def run(stack):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = stack(x)
        y.square().sum().backward()
        return [p.grad for p in stack.parameters()]

    one, two = run(ours), run(plain)
    assert ours(x).dtype == torch.float32
    for a, b in zip(one, two, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


def test_errors_that_grow_are_found_and_named():
    class Wild(nn.Module):
        def forward(self, x):
            return 1e5 * x

    stack = ReversibleSequential.from_functions([Wild() for _ in range(8)])
    x = torch.randn(4, 12, requires_grad=True)
    with pytest.raises(InputError, match=r"block \d of 4 was inverted with a relative error"):
        stack(x).sum().backward()
    calm = dense(2)
    calm(x).sum().backward()
    assert calm.checked  # and from now on no samples are kept


class Widens(nn.Module):
    """Of another shape."""

    def forward(self, x):
        return torch.cat([x, x], 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reversible(nn.BatchNorm1d(3), nn.Identity()), "running statistics"),
        (lambda: Reversible(nn.Identity(), nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True))), "'0' keeps"),
        (lambda: ReversibleSequential([]), "one block or more"),
        (lambda: ReversibleSequential([nn.Linear(2, 2)]), "all of them Reversible"),
        (lambda: ReversibleSequential.from_functions([nn.Identity()] * 3), "there are 3 functions"),
        (lambda: dense(1, check=0), "check is 0"),
        (lambda: dense(1)(torch.zeros(2, 7)), "no two equal halves"),
        (lambda: dense(1)(torch.zeros(12)), "no two equal halves"),
        (lambda: ReversibleSequential.from_functions([Widens()] * 2)(torch.zeros(2, 6)), "must keep the shape"),
        (
            lambda: ReversibleSequential.from_functions([nn.ReLU(inplace=True)] * 2)(torch.zeros(2, 6)),
            "F of a reversible block changes its input in place",
        ),
        (lambda: RevUNet(width=(8, 15), depth=(1, 1)), "must be even"),
        (lambda: RevUNet(width=(8, 16), depth=(1,)), "give as many"),
        (lambda: RevUNet(widths=(8,)), "no such option"),
        (lambda: RevUNet(RevUNetConfig(), dims=2), "not both"),
        (lambda: RevUNet(dims=4), "dims is 4"),
        (lambda: RevUNet(up="nearest"), "up is 'nearest'"),
        (lambda: RevUNet(expand=0), "expand is 0"),
        (lambda: RevUNet(dropout=1.0), "dropout is 1.0"),
        (lambda: RevUNet(depth=(0, 1, 1, 1)), "at least 1"),
        (lambda: RevUNet(**SMALL)(torch.zeros(1, 3, 8, 8, 8)), "must be \\[batch, 2"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- the net ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"up": "transposed", "activation": "relu6", "depth_up": 2}, {"dims": 2, "dropout": 0.3}]
)
def test_the_nets_gradients_are_those_of_autograd(options):
    net = seeded(lambda: RevUNet(**SMALL, **options)).double()
    plain = RevUNet(**SMALL, **options, invert=False).double()
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 2, *[6, 7, 5][: net.config.dims], dtype=torch.float64)  # of a size that must be padded
    one, two = gradients(net, x, seed=1), gradients(plain, x, seed=1)
    assert one[-1].shape == (2, 2, *x.shape[2:])
    assert off(one, two) < 1e-9


def test_padding_is_cropped_off_and_told_by_nothing():
    net = seeded(lambda: RevUNet(**SMALL)).eval()
    x = torch.randn(1, 2, 7, 8, 6)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 1))
    with torch.no_grad():
        assert torch.equal(net(x), net(padded)[:, :, :7])


@pytest.mark.parametrize("options", [{}, {"width": (8,), "depth": (3,)}, {"depth": (4, 2), "depth_up": 3, "expand": 4}])
def test_the_formula_is_near_what_is_kept(options):
    options = {**SMALL, **options, "check": None}
    net, plain = RevUNet(**options), RevUNet(**options, invert=False)
    x = torch.randn(1, 2, 12, 12, 12)
    told = net.kept_bytes((12, 12, 12))
    assert saved_bytes(net, x) == pytest.approx(told["inverted"], rel=0.01)
    assert saved_bytes(plain, x) == pytest.approx(told["plain"], rel=0.01)
    assert told["replay"] < told["plain"]
    assert RevUNet(**SMALL).kept_bytes((11, 12, 12)) == RevUNet(**SMALL).kept_bytes((12, 12, 12))  # padded


def test_a_plan_is_what_a_step_holds_and_flat_in_depth():
    def spec(depth, invert):
        return Spec(
            make_model=lambda: RevUNet(**{**SMALL, "depth": (depth, 1)}, invert=invert),
            make_batch=lambda: {"x": torch.ones(1, 2, 8, 8, 8), "y": torch.ones(1, 2, 8, 8, 8)},
        )

    def loss(model, batch):
        return dice_loss(model(batch["x"]), batch["y"])

    activations = {}
    for depth, invert in ((1, True), (6, True), (1, False), (6, False)):
        job = spec(depth, invert)
        found, _ = imagine(job, Stack(), loss=loss)
        model, optimizer = Stack().prepare(job.build(), AdamW())
        step = Step(model, optimizer, Stack(), loss)
        step(job.random_batch())
        with Ledger(model, optimizer=optimizer) as ledger:
            batch = job.random_batch()
            step(batch, ledger)
            del batch
        assert found.stretches == ledger.stretches and found.highest == ledger.highest
        activations[depth, invert] = found.highest.by_tier["activations"]
    assert activations[6, True] < 1.05 * activations[1, True]
    assert activations[6, False] > 2.5 * activations[1, False]


def test_it_learns_to_segment_and_resumes(tmp_path):
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 8, 8, 8, generator=chance)
    y = (torch.nn.functional.avg_pool3d(x, 3, 1, 1) > 0).float()

    def go(steps, out, resume=False, seed=0):
        return train(
            seeded(lambda: RevUNet(**SMALL), seed),
            [{"x": x, "y": y}],
            steps=steps,
            optimizer=AdamW(lr=1e-2),
            loss=lambda m, b: dice_loss(m(b["x"]), b["y"]),
            out=tmp_path / out,
            resume=resume,
            progress=False,
        )

    whole = go(30, "whole")
    go(12, "parts")
    resumed = go(30, "parts", resume=True, seed=1)
    assert resumed.losses == whole.losses
    assert whole.losses[-1] < 0.6 * whole.losses[0]
    with torch.no_grad():
        assert dice_score(whole.model(x), y).min() > 0.7


def test_dice_is_counted_by_class():
    logits = torch.full((1, 3, 4, 4), -5.0)
    logits[0, 0, :2] = 5.0
    target = torch.zeros(1, 3, 4, 4)
    target[0, 0, 1:3] = 1
    target[0, 1, 0] = 1
    assert dice_score(logits, target).tolist() == [0.5, 0.0, 1.0]
    assert dice_loss(20 * (2 * target - 1), target) < 0.01 < 1 < dice_loss(20 * (1 - 2 * target), target)
