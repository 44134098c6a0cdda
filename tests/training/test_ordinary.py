"""The ordinary savers compute what the plain step computes, and leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import UnsupportedModelError  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.training import AdamW, Spec, Stack, find_saver  # noqa: E402
from memspan.training.ordinary import language_model  # noqa: E402


def ids(rows: int = 3, length: int = 23, seed: int = 0) -> Any:
    return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return loss.detach(), found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tokens", [1, 5, 64, 1000])
def test_chunked_loss_is_the_loss(tokens: int, tied: bool):
    model = tiny_llama(tie_word_embeddings=tied).train()
    labels = ids()
    labels[0, :9] = -100  # left out of the loss
    batch = {"input_ids": ids(), "labels": labels}
    loss, plain = gradients(model, batch)
    Stack([find_saver("chunked-loss", tokens=tokens)]).prepare(model, AdamW())
    chunked_loss, chunked = gradients(model, batch)
    torch.testing.assert_close(chunked_loss, loss)
    assert plain.keys() == chunked.keys()
    for name in plain:
        torch.testing.assert_close(chunked[name], plain[name], rtol=1e-4, atol=1e-6)


def test_chunked_loss_counts_as_the_trainer_does():
    model = tiny_llama().train()
    expected = model(input_ids=ids(), labels=ids(), num_items_in_batch=torch.tensor(10)).loss
    Stack(["chunked-loss"]).prepare(model, AdamW())
    torch.testing.assert_close(model(input_ids=ids(), labels=ids(), num_items_in_batch=torch.tensor(10)).loss, expected)


def test_chunked_loss_leaves_other_calls_alone():
    model = tiny_llama()
    logits = model(input_ids=ids()).logits
    stack = Stack(["chunked-loss"])
    stack.prepare(model, AdamW())
    assert torch.equal(model(input_ids=ids()).logits, logits)
    assert model(input_ids=ids(), labels=ids()).logits is not None  # in evaluation
    stack.finish(model)
    assert "forward" not in model.__dict__


def test_chunked_loss_refuses_logits_that_are_not_the_heads():
    from transformers import GemmaConfig

    spec = Spec(config=GemmaConfig(num_hidden_layers=1), seq=8)
    find_saver("chunked-loss").check(spec)
    spec.config.final_logit_softcapping = 30.0
    with pytest.raises(UnsupportedModelError, match="final_logit_softcapping"):
        find_saver("chunked-loss").check(spec)

    model = tiny_llama().train()
    head = model.lm_head.forward
    plain = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, **kwargs)
        found.logits = found.logits * 2
        return found

    model.forward = scaled
    with pytest.raises(UnsupportedModelError, match="not its head's output"):
        Stack(["chunked-loss"]).prepare(model, AdamW())
    assert model.lm_head.forward == head


def test_checkpointing_changes_no_gradient():
    model = tiny_llama(layers=3).train()
    batch = {"input_ids": ids(), "labels": ids()}
    loss, plain = gradients(model, batch)
    stack = Stack(["checkpointing"])
    stack.prepare(model, AdamW())
    again, recomputed = gradients(model, batch)
    assert torch.equal(again, loss)
    assert all(torch.equal(recomputed[name], plain[name]) for name in plain)
    stack.finish(model)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_checkpointing_needs_a_language_model():
    with pytest.raises(UnsupportedModelError, match="holds no transformers language model"):
        Stack(["checkpointing"]).prepare(nn.Linear(2, 2), AdamW())


def test_lora_trains_adapters_alone_and_merges_them():
    pytest.importorskip("peft")
    model = tiny_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stack = Stack([find_saver("lora", rank=2, targets="q_proj,down_proj"), "chunked-loss"])
    adapted, optimizer = stack.prepare(model, AdamW(lr=0.1))
    adapted.train()
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    for _ in range(2):
        adapted(input_ids=ids(), labels=ids()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logits = adapted.eval()(input_ids=ids()).logits
    merged = stack.finish(adapted)
    assert type(merged) is type(tiny_llama())
    torch.testing.assert_close(merged(input_ids=ids()).logits, logits, rtol=1e-4, atol=1e-5)
    after = merged.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all("q_proj" in name or "down_proj" in name for name in changed)
    assert language_model(merged) is merged
