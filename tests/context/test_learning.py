"""What learns on a frozen model: the loop, taking it up again, and what is kept on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import nn

import memspan
from memspan.context.base import ContextConfig
from memspan.context.learning import LearningSystem, fit
from memspan.context.low_rank import LowRank
from memspan.core.errors import InputError
from memspan.core.testing import tiny_llama


def ids(count, seed=0):
    # Every token is followed by its double: something to learn.
    first = int(torch.randint(1, 64, (1,), generator=torch.Generator().manual_seed(seed)))
    rows = [first]
    for at in range(count - 1):
        rows.append(rows[-1] * 2 % 61 + (at % 13 == 0))
    return torch.tensor(rows)


@dataclass(frozen=True, kw_only=True)
class ShiftConfig(ContextConfig):
    width: int = 8


class Shift(LearningSystem):
    """Adds a learned function of the last hidden state to it."""

    Config = ShiftConfig

    def build(self, family):
        wide = family.config.hidden_size
        self.down, self.up = nn.Linear(wide, self.config.width), nn.Linear(self.config.width, wide)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def output(self, h, step):
        return h + self.up(torch.tanh(self.down(h)))

    def loss(self, reader, ids, chance):
        logits = reader.model(ids).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


SETTINGS = {"steps": 12, "length": 16, "batch": 2, "lr": 0.05, "every": 3}


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def test_it_learns_and_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    system = Shift(chunk=7)
    done = system.fit(model, ids(800), **{**SETTINGS, "steps": 60})
    assert done.after < 0.9 * done.before and done.losses[-1] < done.losses[0]
    assert done.parameters == sum(p.numel() for p in system.parameters()) == 32 * 8 * 2 + 8 + 32
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_taken_up_again_after_an_abrupt_end_it_has_the_same_losses(model, tmp_path):
    whole = Shift().fit(model, ids(400), **SETTINGS)
    script = f"""
import os, signal, torch
from memspan.core.testing import tiny_llama
from tests.context.test_learning import SETTINGS, Shift, ids
torch.set_num_threads(1)
def die(step, loss):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
Shift().fit(tiny_llama(), ids(400), out={str(tmp_path / "shift")!r}, on_step=die, **SETTINGS)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not (tmp_path / "shift").exists()
    system = Shift()
    again = system.fit(model, ids(400), out=tmp_path / "shift", **SETTINGS)
    assert again.resumed_at == 6
    assert again.losses == pytest.approx(whole.losses, abs=1e-6)
    assert not (tmp_path / "shift.training").exists()
    loaded = Shift.load(tmp_path / "shift", model)
    assert all(torch.equal(a, b) for a, b in zip(system.parameters(), loaded.parameters(), strict=True))


def test_ctrl_c_keeps_what_was_done_and_gives_the_model_back(model, tmp_path):
    def press(step, loss):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Shift().fit(model, ids(400), out=tmp_path / "shift", on_step=press, **SETTINGS)
    assert all(p.requires_grad for p in model.parameters()) and not model.model._forward_hooks
    again = Shift().fit(model, ids(400), out=tmp_path / "shift", **SETTINGS)
    assert again.resumed_at == 5
    assert again.losses == pytest.approx(Shift().fit(model, ids(400), **SETTINGS).losses, abs=1e-6)


def test_what_was_learned_is_used_and_counted(model, tmp_path):
    system = Shift(width=4)
    system.fit(model, ids(400), out=tmp_path / "shift", **SETTINGS)
    tokens = ids(20, seed=3)[None]
    with torch.no_grad(), memspan.context(system, model):
        wanted = model(tokens).logits
    restored = Shift.load(tmp_path / "shift", model, slots=30)
    assert restored.config.width == 4 and restored.config.slots == 30
    with torch.no_grad(), memspan.context(restored, model) as reader:
        assert torch.allclose(model(tokens).logits, wanted, atol=1e-5)
        assert reader.footprint().by_tier["weights"] == 4 * (32 * 4 * 2 + 4 + 32)


def test_weights_of_another_model_or_shape_are_refused(model, tmp_path):
    Shift().fit(model, ids(400), out=tmp_path / "shift", **SETTINGS)
    with pytest.raises(InputError, match="another model"):
        Shift.load(tmp_path / "shift", tiny_llama(seed=1))
    with pytest.raises(InputError, match="does not fit"):
        Shift.load(tmp_path / "shift", model, width=9)
    with pytest.raises(InputError, match="cannot be read"):
        Shift.load(tmp_path, model)

    class Other(Shift):
        pass

    with pytest.raises(InputError, match="holds no Other"):
        Other.load(tmp_path / "shift", model)
    with pytest.raises(InputError, match="learns nothing"):
        memspan.context("window", model, weights=tmp_path / "shift")


def test_training_of_other_settings_is_refused(model, tmp_path):
    def fail(step, loss):
        if step == 4:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        Shift().fit(model, ids(400), out=tmp_path / "shift", on_step=fail, **SETTINGS)
    for changed in ({"lr": 0.01}, {"batch": 1}):
        with pytest.raises(InputError, match="was made with"):
            Shift().fit(model, ids(400), out=tmp_path / "shift", **{**SETTINGS, **changed})
    with pytest.raises(InputError, match="was made with"):
        Shift().fit(model, ids(300), out=tmp_path / "shift", **SETTINGS)


@pytest.mark.parametrize(
    ("texts", "changed", "message"),
    [
        (ids(10), {}, "fewer than one window"),
        (ids(400), {"steps": 0}, "too small"),
        (ids(400), {"warmup": 1.0}, "below 1"),
        ("text", {}, "list of texts"),
        (["text"], {}, "tokenizer"),
        ([], {}, "nothing to learn"),
        (ids(400), {"lr": 1e6, "steps": 40, "clip": 1e9}, "lower the learning rate"),
    ],
)
def test_what_cannot_be_learned_is_said(model, texts, changed, message):
    class Exploding(Shift):
        def loss(self, reader, ids, chance):
            return super().loss(reader, ids, chance) * (float("inf") if changed.get("lr", 0) > 1 else 1)

    with pytest.raises(InputError, match=message):
        fit(Exploding(), model, texts, **{**SETTINGS, **changed})


def test_adapters_of_low_rank_begin_as_nothing_and_learn(model):
    tokens = ids(20)[None]
    with torch.no_grad():
        plain = model(tokens).logits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = LowRank(model, ("q_proj", "v_proj"), rank=2, alpha=4.0)
    with adapter.attached(model):
        assert torch.equal(model(tokens).logits, plain)
        model(tokens).logits.square().sum().backward()
    assert all(up.grad is not None and bool((up.grad != 0).any()) for up in adapter.up)
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        adapter.up[0] += 1
        q = model.model.layers[0].self_attn.q_proj
        with adapter.attached(model):
            said = q(torch.ones(1, 32))
        wanted = q.weight.sum(1) + 2 * (adapter.down[0].sum(0) @ adapter.up[0])
        assert torch.allclose(said[0], wanted, atol=1e-5)
        assert torch.equal(model(tokens).logits, plain)
    with pytest.raises(InputError, match="no linear layer"):
        LowRank(model, ("nowhere",))


def test_some_parameters_have_a_rate_of_their_own_at_least(model):
    class Faster(Shift):
        least_rates = MappingProxyType({"up.bias": 0.05, "up.weight": 1e-6})

    made = {}
    for kind in (Shift, Faster):
        made[kind] = kind()
        made[kind].prepare(model)
        begun = {name: value.detach().clone() for name, value in made[kind].named_parameters()}
        made[kind].fit(model, ids(200), **{**SETTINGS, "steps": 1, "lr": 0.001, "warmup": 0.0})
    moved = {
        kind: {name: float((value.detach() - begun[name]).abs().max()) for name, value in one.named_parameters()}
        for kind, one in made.items()
    }
    assert moved[Faster]["up.bias"] == pytest.approx(0.05, rel=0.01)
    assert moved[Shift]["up.bias"] == pytest.approx(0.001, rel=0.01)
    assert all(moved[Faster][name] == moved[Shift][name] for name in ("up.weight", "down.weight", "down.bias"))
