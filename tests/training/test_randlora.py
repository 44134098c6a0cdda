"""RandLoRA: the update by hand, what it keeps, PEFT's format, and bytes as promised."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from memspan.core.errors import ConflictError, InputError, UnsupportedModelError  # noqa: E402
from memspan.core.ledger import Ledger  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.planner.imagine import imagine  # noqa: E402
from memspan.training import AdamW, Spec, Stack, Step, find_saver, train  # noqa: E402
from memspan.training.randlora import (  # noqa: E402
    RandLora,
    RandLoraConfig,
    RandLoraLinear,
    load_adapter,
    remove_adapters,
    save_adapter,
)

IDS = torch.arange(40).view(2, 20)
BATCH = {"input_ids": IDS, "labels": IDS}


def adapted(saver=None, model=None, *, moved=True, rate=1e-2):
    """A model with adapters that do something, its optimizer and its saver."""
    saver = saver or RandLora(rank=8)
    stack = Stack([saver])
    model, optimizer = stack.prepare(tiny_llama() if model is None else model, AdamW(lr=rate))
    if moved:
        chance = torch.Generator().manual_seed(3)
        for layer in layers(model):
            shape = layer.randlora_lambda.shape
            layer.randlora_lambda.data = torch.randn(shape, generator=chance) * 0.1
            layer.randlora_gamma.data *= torch.randn(layer.randlora_gamma.shape, generator=chance)
    return model, optimizer, stack


def layers(model):
    return [one for one in model.modules() if isinstance(one, RandLoraLinear)]


def by_hand(layer):
    """Λ and Γ in float64, and s dW of them as the sum over j of B_j Λ_j A Γ_j, of PEFT's columns."""
    lam, gamma = (one.detach().double().requires_grad_() for one in (layer.randlora_lambda, layer.randlora_gamma))
    rank, count = lam.shape
    a = layer.basis.rows(gamma.shape[1])[:, 0].double()
    columns = layer.basis.columns(layer.large, count, torch.float64)
    total = torch.zeros(layer.large, gamma.shape[1], dtype=torch.float64)
    for j in range(count):
        total = total + columns[:, j::count] @ torch.diag(lam[:, j]) @ a @ torch.diag(gamma[j])
    assert columns.shape[1] == rank * count
    return lam, gamma, (total if layer.in_is_small else total.t()) * layer.scaling


@pytest.mark.parametrize("route", ["factors", "product"])
@pytest.mark.parametrize("kind", ["uniform", "normal", "binary", "ternary"])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_update_and_gradients_are_those_of_the_formula(shape, kind, route):
    linear = nn.Linear(shape[1], shape[0])
    weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
    model, _, _ = adapted(RandLora(rank=7, basis=kind, route=route), nn.Sequential(linear))
    layer = model[0]
    lam, gamma, delta = by_hand(layer)
    x = torch.randn(3, 5, shape[1])
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    found, wanted = layer(ours), theirs @ (weight + delta).t() + bias
    weights = torch.randn(wanted.shape)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    pairs = [
        (found, wanted),
        (ours.grad, theirs.grad),
        (layer.randlora_lambda.grad, lam.grad),
        (layer.randlora_gamma.grad, gamma.grad),
        (layer.delta(), delta),
    ]
    for one, other in pairs:
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_a_conv1d_is_a_linear_layer_turned():
    from transformers.pytorch_utils import Conv1D

    chance = torch.Generator().manual_seed(0)
    conv, linear = Conv1D(40, 24), nn.Linear(24, 40)
    linear.weight.data = torch.randn(40, 24, generator=chance)
    conv.weight.data, conv.bias.data = linear.weight.t().clone(), linear.bias.clone()
    x = torch.randn(6, 24)
    for route in ("factors", "product"):
        one, *_ = adapted(RandLora(rank=4, route=route), nn.Sequential(conv))
        two, *_ = adapted(RandLora(rank=4, route=route), nn.Sequential(linear))
        torch.testing.assert_close(one(x), two(x))
        remove_adapters(one), remove_adapters(two)
    model, _, stack = adapted(RandLora(rank=4), nn.Sequential(conv))
    expected = model(x)
    torch.testing.assert_close(stack.finish(model)(x), expected)
    assert model[0] is conv


def test_nothing_changes_at_the_start_and_gamma_waits_a_step():
    plain = tiny_llama()
    before = plain(IDS).logits
    model, *_ = adapted(moved=False)
    assert torch.equal(model(IDS).logits, before)
    model(**BATCH).loss.backward()
    assert all(layer.randlora_gamma.grad.abs().max() == 0 for layer in layers(model))
    assert all(layer.randlora_lambda.grad.abs().max() > 0 for layer in layers(model))
    assert {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.requires_grad} == {
        "randlora_lambda",
        "randlora_gamma",
    }


def test_the_update_has_full_rank_and_few_numbers():
    """n (r + d) of each layer; the rank is full once Γ differs, since all bases share A."""
    net = nn.Sequential(nn.Linear(576, 576, bias=False), nn.Linear(576, 192, bias=False))
    model, _, stack = adapted(RandLora(rank=32), net)
    assert stack.report()["randlora"]["trainable"] == 18 * (32 + 576) + 6 * (32 + 192)
    assert stack.report()["randlora"]["basis_bytes"] == 2 * (32 * 576 + 576 * 18 * 32)
    assert torch.linalg.matrix_rank(by_hand(model[0])[2]) == 576
    model[0].randlora_gamma.data.fill_(1 / 576)
    assert torch.linalg.matrix_rank(by_hand(model[0])[2]) == 32


def test_scales():
    assert RandLoraConfig(rank=32).scaling(18) == pytest.approx(64 / (32 * 18**0.5))
    assert RandLoraConfig(rank=32, scale="peft").scaling(18) == 20
    assert RandLoraConfig(rank=32, scale="peft", alpha=64).scaling(18) == 2


def test_what_is_kept_is_the_smaller_side():
    """Nothing but x, or the product of B and x where it is smaller: no A', no copy of the basis."""
    for shape, kept in (((64, 48), 48), ((48, 64), 48)):
        for route in ("factors", "product"):
            net = nn.Sequential(nn.Linear(shape[1], shape[0]))
            model, *_ = adapted(RandLora(rank=8, route=route), net)
            saved: list[int] = []
            own = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}

            def pack(tensor, saved=saved, own=own):
                if tensor.untyped_storage()._cdata not in own:
                    saved.append(tensor.untyped_storage().nbytes())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                model(torch.randn(10, shape[1])).sum()
            assert saved == [10 * kept * 4]


def test_binary_and_ternary_bases_take_two_bits():
    for kind in ("binary", "ternary"):
        model, *_ = adapted(RandLora(rank=8, basis=kind), nn.Sequential(nn.Linear(64, 96)))
        basis = model[0].basis
        assert basis.b.numel() == 96 * 64 // 4 and basis.b.dtype == torch.uint8
        values = basis.whole().unique()
        assert len(values) == (2 if kind == "binary" else 3)
        assert float(basis.whole().std()) == pytest.approx(1, abs=0.05)
    assert float((basis.whole() == 0).float().mean()) == pytest.approx(2 / 3, abs=0.03)


def test_finish_merges_and_removal_is_exact():
    model, optimizer, stack = adapted(RandLora(rank=8, seed=5))
    Step(model.train(), optimizer, stack)(BATCH)
    logits = model.eval()(IDS).logits
    merged = stack.finish(model)
    assert not layers(merged) and all(parameter.requires_grad for parameter in merged.parameters())
    torch.testing.assert_close(merged(IDS).logits, logits, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == tiny_llama().state_dict().keys()

    model, optimizer, stack = adapted()
    Step(model.train(), optimizer, stack)(BATCH)
    after, before = remove_adapters(model).state_dict(), tiny_llama().state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_bfloat16_keeps_scales_in_float32():
    model, optimizer, stack = adapted(model=tiny_llama().to(torch.bfloat16))
    loss = Step(model.train(), optimizer, stack)(BATCH)
    assert loss.isfinite() and model(IDS).logits.dtype == torch.bfloat16
    assert all(layer.randlora_lambda.dtype == torch.float32 for layer in layers(model))
    assert all(p.dtype == torch.bfloat16 for p in stack.finish(model).parameters())


def test_autocast_works():
    model, *_ = adapted()
    with torch.autocast("cpu", torch.bfloat16):
        model(**BATCH).loss.backward()
    assert all(layer.randlora_gamma.grad.isfinite().all() for layer in layers(model))


def test_scales_do_not_decay_unless_asked():
    def groups(**options):
        _, optimizer = Stack([RandLora(rank=8, **options)]).prepare(tiny_llama(), AdamW(weight_decay=0.1))
        return {group["weight_decay"] for group in optimizer.param_groups}

    assert groups() == {0.0}
    assert groups(decay=True) == {0.1}


@pytest.mark.parametrize("savers", [[], ["checkpointing"], ["chunked-loss"]])
@pytest.mark.parametrize("options", [{"route": "factors"}, {"route": "product"}, {"basis": "ternary", "rank": 16}])
def test_the_plan_is_what_a_step_holds(savers, options):
    spec = Spec(config=tiny_llama(layers=5).config, batch=2, seq=24, task="lora")

    def savers_of():
        return Stack([RandLora(**{"rank": 8, **options}), *savers])

    stack = savers_of()
    stack.check(spec)
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    estimate, how = imagine(spec, savers_of())
    assert how == "repeated"
    assert estimate.stretches == ledger.stretches
    assert estimate.highest == ledger.highest


def test_other_savers_change_no_loss():
    losses = []
    for savers in ([], ["checkpointing"], ["chunked-loss"]):
        stack = Stack([RandLora(rank=8), *savers])
        model, optimizer = stack.prepare(tiny_llama(), AdamW(lr=1e-2))
        step = Step(model.train(), optimizer, stack)
        losses.append([float(step(BATCH)) for _ in range(4)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_a_resumed_training_is_the_same(tmp_path):
    def run(folder, steps, saver=None, **options):
        saver = saver or RandLora(rank=8, dropout=0.1)
        settings = {"optimizer": AdamW(lr=1e-2), "out": tmp_path / folder, "progress": False, **options}
        return train(tiny_llama(), [BATCH], steps=steps, savers=[saver], **settings)

    whole = run("whole", 6)
    run("parts", 3)
    resumed = run("parts", 6, resume=True)
    assert resumed.losses == whole.losses
    pairs = zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    run("seeded", 2)
    with pytest.raises(InputError, match="basis of the checkpoint"):
        run("seeded", 4, RandLora(rank=8, dropout=0.1, seed=1), resume=True)


def test_an_adapter_is_saved_small_and_comes_back(tmp_path):
    model, *_ = adapted()
    logits = model(IDS).logits
    nbytes = save_adapter(model, tmp_path / "small")
    assert nbytes == sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    whole = save_adapter(model, tmp_path / "whole", basis=True)
    assert whole > nbytes + model.model.layers[0].mlp.up_proj.basis.nbytes
    stored = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    assert sum("randlora_B" in name for name in stored) == 1
    for folder in ("small", "whole"):
        other = tiny_llama()
        load_adapter(other, tmp_path / folder)
        torch.testing.assert_close(other(IDS).logits, logits, rtol=1e-6, atol=1e-6)
    going, optimizer = Stack([RandLora(load_adapter(fresh := tiny_llama(), tmp_path / "small"))]).prepare(
        fresh, AdamW()
    )
    going(**BATCH).loss.backward()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2 * len(layers(model))


@pytest.mark.parametrize("options", [{"basis": "normal"}, {"basis": "ternary", "s": 9.0}])
def test_bases_that_peft_cannot_make_are_saved(tmp_path, options):
    model, *_ = adapted(RandLora(rank=8, **options))
    with pytest.raises(InputError, match="cannot make this basis"):
        save_adapter(model, tmp_path / "it")
    save_adapter(model, tmp_path / "it", basis=True)
    other = tiny_llama()
    load_adapter(other, tmp_path / "it")
    torch.testing.assert_close(other(IDS).logits, model(IDS).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"very_sparse": True}])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_adapters_go_to_peft_and_back(tmp_path, options, stored):
    peft = pytest.importorskip("peft")
    settings = peft.RandLoraConfig(r=8, target_modules="all-linear", save_projection=stored, **options)
    theirs = peft.get_peft_model(tiny_llama(hidden=48), settings).eval()
    chance = torch.Generator().manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "randlora_lambda" in name:
            parameter.data = torch.randn(parameter.shape, generator=chance) * 0.01
    theirs.save_pretrained(tmp_path / "theirs")
    ours = tiny_llama(hidden=48)
    load_adapter(ours, tmp_path / "theirs")
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=1e-5, atol=1e-6)
    save_adapter(ours, tmp_path / "ours", basis=stored)
    back = peft.PeftModel.from_pretrained(tiny_llama(hidden=48), tmp_path / "ours").eval()
    torch.testing.assert_close(back(IDS).logits, theirs(IDS).logits, rtol=1e-5, atol=1e-6)

    model, *_ = adapted(RandLora(rank=8), tiny_llama(hidden=48))  # of the paper's scale
    save_adapter(model, tmp_path / "paper")
    back = peft.PeftModel.from_pretrained(tiny_llama(hidden=48), tmp_path / "paper").eval()
    torch.testing.assert_close(back(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)


def test_another_basis_is_never_loaded_silently(tmp_path):
    model, *_ = adapted()
    save_adapter(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "projection_prng_key": 1}))
    with pytest.raises(InputError, match="not the one that this machine makes"):
        load_adapter(tiny_llama(), tmp_path)
    save_file(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
    with pytest.warns(UserWarning, match="neither its basis nor a checksum"):
        load_adapter(tiny_llama(), tmp_path)


def test_files_that_do_not_fit_are_refused(tmp_path):
    model, *_ = adapted()
    save_adapter(model, tmp_path, basis=True)
    with pytest.raises(InputError, match="cannot be read"):
        load_adapter(tiny_llama(), tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"of another model: there is no layer model\.layers\.1"):
        load_adapter(tiny_llama(layers=1), tmp_path)
    with pytest.raises(
        InputError, match=r"too small for model.layers.0.mlp.down_proj, 64 x 128: it needs A \[8, 1, 64\]"
    ):
        load_adapter(tiny_llama(hidden=64), tmp_path)
    with pytest.raises(InputError, match="has an adapter already"):
        load_adapter(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    for change, message in (({"peft_type": "LORA"}, "of the kind LORA"), ({"bias": "all"}, "biases or whole modules")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(InputError, match=message):
            load_adapter(tiny_llama(), tmp_path)
    with pytest.raises(InputError, match="no adapters"):
        save_adapter(tiny_llama(), tmp_path)


def test_what_cannot_be_is_refused():
    for options, message in (
        ({"rank": 0}, "rank is 0"),
        ({"scale": "mine"}, "scale is 'mine'"),
        ({"alpha": -1.0}, "alpha is"),
        ({"dropout": 1.0}, "dropout is"),
        ({"s": 1.0}, "s is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"speed": 1}, "no such option"),
    ):
        with pytest.raises(InputError, match=message):
            RandLora(**options)
    with pytest.raises(UnsupportedModelError, match="no linear layer that 'nothing' names; there are"):
        adapted(RandLora(targets="nothing"))
    with pytest.raises(UnsupportedModelError, match=r"model\.embed_tokens is a Embedding"):
        adapted(RandLora(targets="embed_tokens"))
    with pytest.raises(ConflictError, match="weights"):
        Stack([RandLora(), find_saver("q-galore")])
    with pytest.warns(UserWarning, match="rank 2 trains nearly as much"):
        adapted(RandLora(rank=2))
    with pytest.warns(UserWarning, match="above the smaller side"):
        adapted(RandLora(rank=100))
    with pytest.raises(InputError, match="for finetune and lora"):
        Stack([RandLora()]).check(Spec(config=tiny_llama().config, seq=8, task="pretrain"))
