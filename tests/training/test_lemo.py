"""LeMo: what is dropped leaves a layer and nothing else, the choice, its predictors, and bytes as promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import ConflictError, InputError, UnsupportedModelError  # noqa: E402
from memspan.core.ledger import Ledger  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.planner.imagine import imagine  # noqa: E402
from memspan.training import AdamW, Saver, Spec, Stack, Step, find_saver, known_savers, train  # noqa: E402
from memspan.training.lemo import Lemo, Predictors, fit_predictors, profile_keep, refine_keep  # noqa: E402
from memspan.training.lemo.blocks import Kept, choose, counted  # noqa: E402
from memspan.training.lemo.predictors import collect  # noqa: E402
from memspan.training.lemo.profile import sparse_loss  # noqa: E402
from memspan.training.lemo.scores import by_block, pooled_scores, queries_and_keys  # noqa: E402

SIZE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


def config(name: str) -> Any:
    if name == "GPT2":
        sizes = {"n_layer": 4, "n_embd": 64, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return transformers.GPT2Config(**sizes, vocab_size=256, bos_token_id=1, eos_token_id=2)
    if name == "OPT":
        sizes = {key: SIZE[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")}
        return transformers.OPTConfig(
            **sizes, ffn_dim=128, word_embed_proj_dim=64, dropout=0.0, max_position_embeddings=256
        )
    return getattr(transformers, f"{name}Config")(**SIZE)


def built(name: str, **job: Any) -> nn.Module:
    torch.manual_seed(0)
    return Spec(config=config(name), seq=32, **job).build()


def ids(rows: int = 2, tokens: int = 32, seed: int = 0) -> Any:
    return torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(seed))


class Chosen(Lemo):
    """Keeps the same tokens in every layer."""

    def __init__(self, index: Any, **options: Any) -> None:
        super().__init__(**options)
        self.index = index

    def _chooser(self, number: int, layer: Any, branches: Any) -> Any:
        return lambda part, x, kwargs: self.index.expand(x.shape[0], -1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "mlp"), [("Llama", "same"), ("Llama", "own"), ("Qwen3", "own"), ("Mistral", "same")])
def test_kept_tokens_are_a_text_of_their_own_at_their_old_positions(name: str, mlp: str, attention: str):
    """Outputs and gradients are those of the dense model on the kept tokens alone, told where they stand."""
    index = torch.tensor([[0, 1, 2, 7, 8, 20, 30, 31]])
    model, text = built(name, attention=attention), ids()
    dense = model(
        input_ids=text[:, index[0]],
        position_ids=index.expand(2, -1),
        attention_mask=torch.ones(2, 8),  # else transformers takes a jump of positions for another text's begin
        use_cache=False,
    ).logits
    weights = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1))
    (dense * weights).sum().backward()
    wanted = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()

    saver = Chosen(index, mlp=mlp)
    saver.change(model)
    with saver.step_context():
        sparse = model(input_ids=text, use_cache=False).logits[:, index[0]]
        (sparse * weights).sum().backward()
    assert torch.allclose(sparse, dense, atol=1e-5)
    for name, one in model.named_parameters():
        assert torch.allclose(one.grad, wanted[name], rtol=1e-4, atol=1e-5), name


def test_dropped_tokens_pass_by():
    model, text = built("Llama"), ids()
    index = torch.arange(16).unsqueeze(0)
    saver = Chosen(index)
    saver.change(model)
    with saver.step_context():
        hidden = model.model(input_ids=text, use_cache=False)[0]
    embedded = model.model.norm(model.model.embed_tokens(text))
    assert torch.allclose(hidden[:, 16:], embedded[:, 16:])
    assert not torch.allclose(hidden[:, :16], embedded[:, :16])


@pytest.mark.parametrize("name", ["Llama", "GPT2", "OPT", "Qwen2", "Qwen3", "Mistral"])
@pytest.mark.parametrize("score", ["attention", "random"])
def test_families_train_and_are_given_back_whole(name: str, score: str):
    model, text = built(name), ids()
    before = model(input_ids=text, use_cache=False).logits
    stack = Stack([Lemo(block=4, keep=0.5, score=score)])
    model, _ = stack.prepare(model, AdamW(lr=1e-3))
    with stack.step_context():
        loss = model(input_ids=text, labels=text, use_cache=False).loss
        loss.backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
    assert stack.report()["lemo"] == {"tokens": 32, "kept": [16] * 4}
    sparse = model(input_ids=text, use_cache=False).logits
    assert torch.equal(sparse, before)  # outside of a step the model is dense
    with stack.step_context():
        model.eval()
        assert torch.equal(model(input_ids=text, use_cache=False).logits, before)
        model.train()
        assert not torch.equal(model(input_ids=text, use_cache=False).logits, before)
    plain = stack.finish(model)
    with stack.step_context():
        assert torch.equal(plain(input_ids=text, use_cache=False).logits, before)
    assert type(plain) is type(built(name))
    assert [type(one) for one in plain.modules()] == [type(one) for one in built(name).modules()]
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in plain.modules())


def test_all_blocks_kept_is_the_plain_step():
    losses = []
    for savers in ([], [Lemo(block=8, keep=1.0)], [Lemo(block=8, keep=1.0, mlp="own")]):
        model, optimizer = Stack(savers).prepare(built("Llama"), AdamW(lr=1e-2))
        step = Step(model, optimizer, Stack(savers))
        losses.append([float(step({"input_ids": ids(), "labels": ids()})) for _ in range(3)])
    assert losses[0] == losses[1] == losses[2]


def test_the_scores_are_those_of_the_definition():
    chance = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 21, 8, generator=chance), torch.randn(2, 2, 21, 8, generator=chance)
    mask = torch.ones(2, 1, 21, 21, dtype=torch.bool)
    mask[1, :, :, :5] = False
    for given in (None, mask, torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)):
        pooled = pooled_scores(query, key, 8, given)
        for row in range(2):
            wanted = torch.zeros(3, 3)
            for i in range(21):
                for j in range(i):
                    if given is not None and not (mask[row, 0, i, j] and mask[row, 0, i, i]):
                        continue
                    pairs = [max(float(query[row, h, i] @ key[row, h // 2, j]), 0.0) for h in range(4)]
                    wanted[i // 8, j // 8] = max(wanted[i // 8, j // 8], sum(pairs) / 4)
            assert torch.allclose(pooled[row], wanted, atol=1e-5)
    assert torch.allclose(by_block(pooled, "sum"), pooled.sum(1))
    means = [pooled[:, number:, number].mean(1) for number in range(3)]
    assert torch.allclose(by_block(pooled), torch.stack(means, dim=1))


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "OPT", "GPT2"])
def test_queries_and_keys_are_the_layers_own(name: str):
    """Their softmax is the attention that the model says it pays, in its first layer."""
    model, text = built(name, attention="eager").eval(), ids()
    found = []
    layer = next(one for one in model.modules() if isinstance(one, nn.ModuleList))[0]
    from memspan.training.lemo.scores import normed

    def before(layer: Any, args: Any, kwargs: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        found.append(queries_and_keys(layer, normed(layer, x), kwargs.get("position_embeddings")))

    hook = layer.register_forward_pre_hook(before, with_kwargs=True)
    with torch.no_grad():
        weights = model(input_ids=text, use_cache=False, output_attentions=True).attentions[0]
    hook.remove()
    query, key = found[0]
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores.masked_fill_(~torch.ones(32, 32, dtype=torch.bool).tril(), -torch.inf)
    assert torch.allclose(scores.softmax(-1), weights, atol=1e-5)


def test_the_choice():
    assert counted(64, 8, 0.5, True) == (8, 4, (0, 7))
    assert counted(61, 8, 0.5, False) == (8, 4, (7,))
    assert counted(64, 8, 0.01, False) == (8, 1, ())
    assert counted(20, 64, 0.5, True) == (1, 1, (0,))
    scores = torch.tensor([[0.0, 5.0, 1.0, 0.0], [0.0, 1.0, 5.0, 0.0]])
    index = choose(scores, 14, 4, 3, (0, 3))
    assert index.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 12, 13], [0, 1, 2, 3, 8, 9, 10, 11, 12, 13]]
    assert scores[0, 0] == 0  # what it was given is left as it was


def test_rows_leave_and_come_back():
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 2, 5], [1, 2, 3]])

    def through(x: Any) -> Any:
        kept = Kept(x, index)
        return kept.put(kept.rows.square())

    assert torch.autograd.gradcheck(through, x)
    kept = Kept(x, index)
    places = torch.arange(6).expand(1, 6)
    assert torch.equal(kept.of(places), index)
    mask = torch.arange(36).view(1, 1, 6, 6)
    assert torch.equal(kept.of(mask)[1, 0], mask[0, 0][index[1]][:, index[1]])
    assert kept.of({"a": None, "b": (3, "c")}) == {"a": None, "b": (3, "c")}
    with pytest.raises(UnsupportedModelError, match="cannot tell"):
        kept.of(torch.zeros(5, 6))


def test_padded_rows_choose_by_themselves():
    """A row's choice and loss do not depend on what it is padded with."""
    model, text = built("Llama"), ids()
    mask = torch.ones(2, 32, dtype=torch.long)
    mask[1, 24:] = 0
    labels = text.masked_fill(mask == 0, -100)
    saver = Lemo(block=4, keep=0.5)
    saver.change(model)
    losses = []
    for filled in (0, 7):
        with saver.step_context():
            one = text.masked_fill(mask == 0, filled)
            loss = model(input_ids=one, attention_mask=mask, labels=labels, use_cache=False).loss
            losses.append(loss.detach().item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("mlp", ["same", "own"])
def test_checkpointing_recomputes_with_the_same_tokens(mlp: str):
    """Random blocks would differ the second time if they were drawn anew; gradients tell."""
    gradients = []
    for savers in (["checkpointing"], []):
        torch.manual_seed(0)
        stack = Stack([Lemo(block=4, score="random", mlp=mlp), *savers])
        model, _ = stack.prepare(built("Llama"), AdamW())
        torch.manual_seed(1)
        with stack.step_context():
            model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
        gradients.append([one.grad for one in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


# --- predictors and shares -------------------------------------------------------------------------------------------


def test_predictors_learn_prune_and_are_read_back(tmp_path: Path):
    model = built("Llama")
    batches = [{"input_ids": ids(8, 32, seed)} for seed in range(4)]
    whole = fit_predictors(model, batches, block=4, hidden=24, epochs=60, lr=3e-3, prune=None)
    seen, wanted = collect(model, batches, 4)
    layer: Any = whole.layers[0]
    found = layer.of_blocks(seen[0])
    below = torch.ones(8, 8, dtype=torch.bool).tril()
    target = wanted[0] / wanted[0][:, below].mean()
    flat = target[:, below].mean(0)  # each pair's mean over texts: what is to be had without looking at the text
    assert (found - target)[:, below].square().mean() < 0.8 * (flat - target[:, below]).square().mean()

    pruned = whole.pruned(seen, 0.6)
    assert pruned.size < whole.size and not pruned.uniform and whole.uniform
    with torch.no_grad():
        layer.query.first.weight[0] = 0  # a dead unit may go and nothing changes
    before = layer.of_blocks(seen[0])
    smaller: Any = whole.pruned(seen, 1.0).layers[0]
    assert smaller.query.first.out_features < layer.query.first.out_features
    assert torch.allclose(smaller.of_blocks(seen[0]), before, atol=1e-4)

    pruned.save(tmp_path / "predictors.safetensors")
    read = Predictors.load(tmp_path / "predictors.safetensors")
    assert torch.equal(read.layers[3].of_blocks(seen[3]), pruned.layers[3].of_blocks(seen[3]))
    options = {"block": 4, "score": "predicted", "predictors": str(tmp_path / "predictors.safetensors")}
    stack = Stack([Lemo(**options)])
    trained, optimizer = stack.prepare(model, AdamW())
    step = Step(trained, optimizer, stack)
    step({"input_ids": ids(), "labels": ids()})
    assert stack.report()["lemo"]["kept"] == [16] * 4
    spec = Spec(config=model.config, batch=2, seq=32)
    with Ledger(trained, optimizer=optimizer, stores=stack) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    estimate, how = imagine(spec, Stack([Lemo(**options)]))
    assert how == "whole" and estimate.stretches == ledger.stretches
    names = set(stack.finish(trained).state_dict())
    assert names == set(built("Llama").state_dict())


def test_shares_come_from_scores_and_follow_the_loss():
    model = built("Llama")
    batches = [{"input_ids": ids(4, 32, 1), "labels": ids(4, 32, 1)}]
    shares = profile_keep(model, batches, block=4)
    _, pooled = collect(model, batches, 4)
    scores = by_block(pooled[2])
    assert shares[2] == pytest.approx(float((scores >= scores.mean()).float().mean()))
    half = profile_keep(model, batches, block=4, mean=0.5)
    assert sum(half) / 4 == pytest.approx(0.5) and max(half) <= 1
    moved = refine_keep(model, batches, half, step=0.125, block=4)
    assert sum(moved) / 4 == pytest.approx(0.5) and moved != half
    assert refine_keep(model, batches, half, rounds=0, block=4) == half
    saver = Lemo(keep=moved, block=4)
    assert not saver.uniform
    dense = sparse_loss(model, batches, keep=1.0, block=4)
    assert dense == pytest.approx(model(**batches[0], use_cache=False).loss.detach().item())
    with pytest.raises(InputError, match="step"):
        refine_keep(model, batches, half, step=0.0)
    with pytest.raises(InputError, match="mean"):
        profile_keep(model, batches, mean=2.0)


# --- together with others --------------------------------------------------------------------------------------------

TOGETHER: list[list[Any]] = [[], ["checkpointing"], ["chunked-loss"], ["q-galore", "checkpointing", "chunked-loss"]]


@pytest.mark.parametrize("others", TOGETHER)
@pytest.mark.parametrize("mlp", ["same", "own"])
def test_the_plan_is_what_a_step_holds(others: list[Any], mlp: str):
    spec = Spec(config=config("Llama"), batch=2, seq=40)
    stack = Stack([Lemo(block=8, mlp=mlp), *others])
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    stack.make_worst()
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    estimate, how = imagine(spec, Stack([Lemo(block=8, mlp=mlp), *others]))
    assert how == "repeated"
    if "q-galore" in others:  # whose own kernels are counted to a hundredth
        assert estimate.peak.total == pytest.approx(ledger.peak.total, rel=0.01)
    else:
        assert estimate.stretches == ledger.stretches


def test_activations_shrink_with_the_share():
    spec = Spec(config=config("Llama"), batch=1, seq=256)
    saved = {keep: imagine(spec, Stack([Lemo(block=16, keep=keep)]))[0].saved_by_layer for keep in (1.0, 0.5, 0.25)}
    assert saved[0.5] / saved[1.0] == pytest.approx(0.5, abs=0.02)
    assert saved[0.25] / saved[1.0] == pytest.approx(0.25, abs=0.02)


def test_adapters_train_with_fewer_tokens():
    pytest.importorskip("peft")
    spec = Spec(config=config("Llama"), task="lora", batch=2, seq=32)
    savers: list[Saver | str] = ["lora", Lemo(block=4), "checkpointing", "chunked-loss"]
    Stack(savers).check(spec)
    trained = train(spec.build(), [spec.random_batch()], steps=2, savers=savers, progress=False)
    assert trained.report["lemo"]["kept"] == [16] * 4
    assert trained.losses[1] != trained.losses[0]


@pytest.mark.skipif("memo-1m" not in known_savers(), reason="memo-1m is not there")
def test_what_is_kept_can_be_moved_and_recomputed():
    gradients = []
    for more in ({}, {"alpha": 0.5, "block": 4}):
        others: list[Saver] = [find_saver("memo-1m", **more)] if more else []
        stack = Stack([Lemo(block=4), *others])
        model, _ = stack.prepare(built("Llama"), AdamW())
        with stack.step_context():
            model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
        gradients.append([one.grad for one in model.parameters()])
        stack.finish(model)
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConflictError, match="memo-1m"):
        Stack([Lemo(mlp="own"), find_saver("memo-1m")])


def test_a_resumed_training_is_the_same(tmp_path: Path):
    batches = [{"input_ids": ids(2, 32, seed), "labels": ids(2, 32, seed)} for seed in range(4)]

    def run(steps: int, folder: str, resume: bool = False) -> Any:
        savers = [Lemo(block=4, score="random")]
        return train(
            built("Llama"), batches, steps=steps, savers=savers, out=tmp_path / folder, resume=resume, progress=False
        )

    whole = run(4, "whole")
    run(2, "halves")
    resumed = run(4, "halves", resume=True)
    assert resumed.losses == whole.losses
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_cannot_be_is_refused(tmp_path: Path):
    for options, message in (
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": (0.5, 2.0)}, "keep is 2.0"),
        ({"block": 0}, "block is 0"),
        ({"score": "size"}, "score is 'size'"),
        ({"mlp": "none"}, "mlp is 'none'"),
        ({"pool": "max"}, "pool is 'max'"),
        ({"score": "predicted"}, "go together"),
        ({"score": "predicted", "predictors": tmp_path / "none"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            Lemo(**options)
    spec = Spec(config=config("Llama"), seq=32)
    with pytest.raises(InputError, match="2 shares for 4 layers"):
        Lemo(keep=(0.5, 0.5)).check(spec)
    with pytest.raises(InputError, match="2 shares for 4 layers"):
        Lemo(keep=(0.5, 0.5)).change(spec.build())
    with pytest.raises(InputError, match="not for pretrain"):
        Stack([Lemo()]).check(Spec(config=config("Llama"), task="pretrain", seq=32))
    with pytest.raises(UnsupportedModelError, match="language model"):
        Lemo().check(Spec(make_model=lambda: nn.Linear(2, 2), make_batch=dict))
    with pytest.raises(ConflictError, match="tokens"):
        Stack([Lemo(), Lemo()])
    with pytest.raises(UnsupportedModelError, match="mlp='same'"):
        Lemo(mlp="own").change(built("GPT2"))
    predictors = fit_predictors(built("Llama"), [{"input_ids": ids()}], block=4, hidden=2, epochs=1, prune=None)
    predictors.save(tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="blocks of 4, not of 64"):
        Lemo(score="predicted", predictors=tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="for 4 layers, and the model has 6"):
        Lemo(score="predicted", block=4, predictors=tmp_path / "p.safetensors").change(tiny_llama(layers=6, hidden=64))
    (tmp_path / "junk.safetensors").write_text("junk")
    with pytest.raises(InputError, match="cannot be read"):
        Predictors.load(tmp_path / "junk.safetensors")
