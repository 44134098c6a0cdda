"""IST: what is frozen, how layers are scored, what is saved, and that every setting comes back."""

from __future__ import annotations

import math
import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import ConflictError, InputError, UnsupportedModelError  # noqa: E402
from memspan.core.ledger import Ledger  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.planner.imagine import imagine  # noqa: E402
from memspan.training import AdamW, Spec, Stack, Step, find_saver, train  # noqa: E402
from memspan.training.ist import Ist, _drawn, _rewards, adapted_layers, turned_down  # noqa: E402

IDS = torch.arange(40).view(2, 20)
BATCH = {"input_ids": IDS, "labels": IDS}


def adapters():
    return find_saver("randlora", rank=8)


def prepared(saver, layers=8, savers=(), rate=1e-2, decay=0.0):
    stack = Stack([adapters(), saver, *savers])
    model, optimizer = stack.prepare(tiny_llama(layers=layers), AdamW(lr=rate, weight_decay=decay))
    return stack, model.train(), optimizer, Step(model, optimizer, stack)


def trainable(layer):
    return [parameter for name, parameter in layer.named_parameters() if "randlora_" in name]


def moved(model, before):
    """Which layers have changed."""
    pairs = [(at, p, before[at][n]) for at, one in enumerate(model.model.layers) for n, p in enumerate(trainable(one))]
    return sorted({at for at, now, then in pairs if not torch.equal(now, then)})


def snapshot(model):
    return [[one.detach().clone() for one in trainable(layer)] for layer in model.model.layers]


def test_all_layers_is_plain_training():
    losses = []
    for savers in ([adapters()], [adapters(), Ist(policy="rst", fraction=1.0)]):
        stack = Stack(savers)
        model, optimizer = stack.prepare(tiny_llama(layers=4), AdamW(lr=1e-2))
        step = Step(model.train(), optimizer, stack)
        losses.append([float(step(BATCH)) for _ in range(4)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_only_the_layers_drawn_are_updated(decay):
    saver = Ist(policy="rst")
    stack = Stack([find_saver("randlora", rank=8, decay=True), saver])
    model, optimizer = stack.prepare(tiny_llama(layers=8), AdamW(lr=1e-2, weight_decay=decay))
    step = Step(model.train(), optimizer, stack)
    drawn = set()
    for _ in range(12):
        before, counts = snapshot(model), list(saver.trained)
        step(BATCH)
        chosen = [at for at in range(8) if saver.trained[at] > counts[at]]
        assert len(chosen) == 2
        assert moved(model, before) == chosen  # neither momentum nor decay moves the others
        drawn |= set(chosen)
        assert all(one.requires_grad and one.grad is None for layer in model.model.layers for one in trainable(layer))
    assert len(drawn) > 4
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} >= {
        id(p) for layer in model.model.layers for p in trainable(layer)
    }


def test_gradients_are_the_plain_ones():
    stack, model, _, _ = prepared(Ist(policy="fixed", layers="1,3"), 4)
    for layer in model.model.layers:
        for one in trainable(layer):
            one.data += 0.01
    model(**BATCH).loss.backward()
    plain = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    with stack.step_context():
        model(**BATCH).loss.backward()
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert {name.split(".")[2] for name in found} == {"1", "3"}
    assert all(torch.equal(one, plain[name]) for name, one in found.items())


def test_layers_are_frozen_again_after_an_error():
    stack, model, *_ = prepared(Ist(policy="rst"))
    with pytest.raises(ZeroDivisionError), stack.step_context():
        raise ZeroDivisionError
    assert all(one.requires_grad for layer in model.model.layers for one in trainable(layer))


def test_scores_follow_the_formula():
    """Losses by how many layers above 5 are turned down: those rise in importance, that is, fall in score."""
    saver = Ist(probe=lambda model: torch.tensor(1.0 + 0.1 * sum(float(low) for low in lowered(model)[5:])))

    def lowered(model):
        return [next(iter(m for m in layer.modules() if hasattr(m, "base_layer"))).scaling < plain for layer in layers]

    _, model, *_ = prepared(saver)
    layers = model.model.layers
    plain = next(m for m in layers[0].modules() if hasattr(m, "base_layer")).scaling
    seen = []
    original = saver._probe_loss

    def watching(model):
        seen.append([at for at, low in enumerate(lowered(model)) if low])
        return original(model)

    saver._probe_loss = watching
    saver._probe(lambda: saver._probe_loss(model))
    assert len(seen) == 3 and all(len(one) == 4 for one in seen) and len({tuple(one) for one in seen}) == 3
    values = [math.exp(-(1.0 + 0.1 * sum(at >= 5 for at in one))) for one in seen]
    expected = [0.0] * 8
    for one, value in zip(seen, values, strict=True):
        for at in one:
            share = 1 / (1 + math.exp(-expected[at]))
            expected[at] += 10 * (value - sum(values) / 3) * share * (1 - share)
    assert saver.scores == pytest.approx(expected)
    for _ in range(200):
        saver._step += 1
        saver._probe(lambda: saver._probe_loss(model))
    assert max(saver.scores[5:]) < min(saver.scores[:5])
    assert min(saver.importance()[5:]) > max(saver.importance()[:5])
    assert not any(lowered(model))
    counts = [0] * 8
    for _ in range(300):
        saver._step += 1
        for at in saver._draw():
            counts[at] += 1
    assert min(counts[5:]) > max(counts[:5])


def test_draws_are_in_proportion():
    chance = random.Random(0)
    counts = [0] * 3
    for _ in range(4000):
        for at in _drawn(chance, [0.6, 0.3, 0.1], 1):
            counts[at] += 1
    assert [one / 4000 for one in counts] == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    assert all(len(set(_drawn(chance, [1.0] * 5, 3))) == 3 for _ in range(50))


def test_large_losses_need_normal_rewards():
    assert max(map(abs, _rewards([20.0, 21.0, 22.0], "exp"))) < 1e-8
    assert _rewards([20.0, 21.0, 22.0], "normal") == pytest.approx([1.2247, 0, -1.2247], abs=1e-4)
    assert _rewards([3.0, 3.0, 3.0], "normal") == [0, 0, 0]


def test_a_probe_leaves_no_trace_but_scores():
    """Neither weights, gradients, modes nor torch's random state: the losses are those without probes."""
    losses = []
    for every in (1000, 1):
        saver = Ist(every=every, seed=3, lr=1e-9)
        stack = Stack([find_saver("randlora", rank=8, dropout=0.2), saver])
        model, optimizer = stack.prepare(tiny_llama(layers=4, attention_dropout=0.2), AdamW(lr=1e-2))
        step = Step(model.train(), optimizer, stack)
        torch.manual_seed(0)
        losses.append([float(step(BATCH)) for _ in range(5)])
        assert all(module.training for module in model.modules())
    assert losses[0] == losses[1]
    assert saver.report()["probes"] == 4 and any(saver.scores)


def test_scaling_is_restored_in_numbers_and_dicts():
    class One(nn.Module):
        def __init__(self, scaling):
            super().__init__()
            self.base_layer, self.scaling = nn.Linear(2, 2), scaling

    layers = [nn.Sequential(One(2.0)), nn.Sequential(One({"default": 3.0}))]
    with pytest.raises(ZeroDivisionError), turned_down(layers, 0.25):
        assert layers[0][0].scaling == 0.5 and layers[1][0].scaling == {"default": 0.75}
        raise ZeroDivisionError
    assert layers[0][0].scaling == 2.0 and layers[1][0].scaling == {"default": 3.0}


@pytest.mark.parametrize("savers", [(), ("checkpointing",), ("chunked-loss",)])
@pytest.mark.parametrize("policy", ["ist", "rst"])
def test_the_plan_is_what_the_largest_step_holds(policy, savers):
    spec = Spec(config=tiny_llama(layers=5).config, batch=2, seq=24, task="lora")
    stack = Stack([adapters(), Ist(policy=policy), *savers])
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    stack.make_worst()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    estimate, how = imagine(spec, Stack([adapters(), Ist(policy=policy), *savers]))
    assert how == "whole"
    assert estimate.stretches == ledger.stretches
    for _ in range(12):
        with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
            step(spec.random_batch())
        assert ledger.peak.total <= estimate.peak.total


def test_activations_below_the_lowest_layer_are_not_kept():
    def kept(layers):
        stack, model, optimizer, step = prepared(Ist(policy="fixed", layers=layers))
        step(BATCH)
        found = []

        class Marker:
            def mark(self, name):
                found.append((name, ledger.now.by_tier.get("activations", 0)))

        with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
            step(BATCH, Marker())
        return dict(found)["backward"]

    low, middle, high = kept("0,7"), kept("3,7"), kept("6,7")
    assert high < middle < low


def test_inputs_that_require_gradients_are_warned_of():
    _, model, _, step = prepared(Ist(policy="rst"))
    hook = model.get_input_embeddings().register_forward_hook(lambda module, args, out: out.requires_grad_())
    with pytest.warns(UserWarning, match="requires a gradient"):
        step(BATCH)
    hook.remove()
    step(BATCH)


def test_a_resumed_training_is_the_same(tmp_path):
    def run(folder, steps, **options):
        settings = {"optimizer": AdamW(lr=3e-2), "out": tmp_path / folder, "progress": False, **options}
        savers = [adapters(), Ist(every=2, reward="normal")]
        return train(tiny_llama(layers=6), [BATCH], steps=steps, savers=savers, **settings)

    whole = run("whole", 9)
    run("parts", 5)
    resumed = run("parts", 9, resume=True)
    assert resumed.losses == whole.losses and resumed.report == whole.report
    assert any(resumed.report["ist"]["importance"][0] != one for one in resumed.report["ist"]["importance"])
    pairs = zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_loras_of_peft_are_found_and_turned_down():
    pytest.importorskip("peft")
    saver = Ist(every=1, lr=1e4)
    stack = Stack([find_saver("lora", rank=2), saver, "chunked-loss"])
    model, optimizer = stack.prepare(tiny_llama(layers=4), AdamW(lr=3e-2))
    step = Step(model.train(), optimizer, stack)
    for _ in range(4):
        step(BATCH)
    assert len(saver.scores) == 4 and any(saver.scores) and sum(saver.trained) == 4
    plain = stack.finish(model)
    assert type(plain) is type(tiny_llama())


def test_trainer_takes_it(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    from memspan.training import for_trainer

    saver = Ist(every=2)
    parts = for_trainer(tiny_llama(layers=4), [adapters(), saver], AdamW(lr=1e-2))
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=5,
        per_device_train_batch_size=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    Trainer(parts.model, arguments, train_dataset=rows, optimizers=parts.optimizers, callbacks=parts.callbacks).train()
    assert sum(saver.trained) == 5 and saver.report()["probes"] == 2
    parts.finish()


def test_what_cannot_be_is_refused():
    for options, message in (
        ({"policy": "lisa"}, "policy is 'lisa'"),
        ({"reward": "log"}, "reward is 'log'"),
        ({"fraction": 0.0}, "fraction is"),
        ({"every": 0}, "every is 0"),
        ({"trials": 1}, "trials is 1"),
        ({"suppress": 1.0}, "suppress is"),
        ({"lr": 0.0}, "lr is"),
        ({"layers": "1"}, "layers go with the policy fixed"),
        ({"policy": "fixed"}, "layers go with the policy fixed"),
    ):
        with pytest.raises(InputError, match=message):
            Ist(**options)
    with pytest.raises(ConflictError, match="needs adapters"):
        Stack([Ist()])
    with pytest.raises(UnsupportedModelError, match=r"lists: model\.layers \(1\)"):
        prepared(Ist(), 1)
    with pytest.raises(UnsupportedModelError, match="lists: none"):
        adapted_layers(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(InputError, match="are 0 to 3"):
        prepared(Ist(policy="fixed", layers="4"), 4)
    with pytest.raises(InputError, match="numbers with commas"):
        prepared(Ist(policy="fixed", layers="low"), 4)
    with pytest.raises(UnsupportedModelError, match="cannot be turned down"):
        Ist().prepare(tiny_llama(), AdamW())
    with pytest.raises(InputError, match="one device"):
        Ist().check(Spec(config=tiny_llama().config, seq=8, devices=2))
    stack, model, *_ = prepared(Ist(every=1))
    with stack.step_context():
        pass
    with pytest.raises(InputError, match="gives no loss to probe with"), stack.step_context():
        model(IDS)
    other = Ist()
    other.prepare(Stack([adapters()]).prepare(tiny_llama(layers=3), AdamW())[0], AdamW())
    with pytest.raises(InputError, match="of 8 layers, the model has 3"):
        other.load_state_dict(stack.state_dict()["ist"])
