"""What is predicted is what the ledger then measures, to the byte."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import UnsupportedModelError  # noqa: E402
from memspan.core.footprint import Footprint  # noqa: E402
from memspan.core.ledger import Ledger  # noqa: E402
from memspan.planner.fake import imagined  # noqa: E402
from memspan.planner.imagine import imagine  # noqa: E402
from memspan.planner.work import WorkMode  # noqa: E402
from memspan.training import AdamW, Saver, Spec, Stack, Step  # noqa: E402

SIZE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def config(name: str, **more: Any) -> Any:
    if name == "GPT2":
        return transformers.GPT2Config(
            n_layer=4, n_embd=64, n_head=4, vocab_size=512, bos_token_id=1, eos_token_id=2, **more
        )
    return getattr(transformers, f"{name}Config")(**{**SIZE, **more})


def measured(spec: Spec, savers: list[Any], **options: Any) -> Ledger:
    stack = Stack(savers)
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack, **options)
    step(spec.random_batch())
    stack.make_worst()
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    return ledger


CASES = [
    ("Llama", {"tie_word_embeddings": True}, {}, []),
    ("Llama", {"attention_bias": True}, {"attention": "eager"}, ["checkpointing"]),
    ("GPT2", {}, {"batch": 3, "seq": 17}, []),  # it has dropout
    ("Qwen2", {}, {"dtype": "bfloat16"}, ["chunked-loss"]),
    ("Qwen3", {"head_dim": 32}, {"seq": 40}, ["checkpointing", "chunked-loss"]),
    ("Mistral", {"sliding_window": 8}, {}, []),  # the window is shorter than the row, so that a mask is made
]


@pytest.mark.parametrize(("name", "more", "job", "savers"), CASES)
def test_a_prediction_is_exact(name: str, more: dict[str, Any], job: dict[str, Any], savers: list[str]):
    spec = Spec(config=config(name, **more), **{"batch": 2, "seq": 24, **job})
    ledger = measured(spec, savers, clip=1.0)
    estimate, how = imagine(spec, Stack(savers), clip=1.0)
    assert how == "repeated"
    assert estimate.stretches == ledger.stretches
    assert estimate.peak == ledger.peak
    assert estimate.highest == ledger.highest


def test_work_is_counted_alike_with_and_without_bytes():
    spec = Spec(config=config("Llama"), batch=2, seq=24)
    stack = Stack()
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    batch = spec.random_batch()
    with WorkMode() as work:
        step(batch)
    estimate, _ = imagine(spec, Stack(), whole=True)
    assert estimate.flops == work.flops
    assert estimate.traffic == pytest.approx(work.traffic, rel=0.02)  # the optimizer asks its step counts for values


def test_adapters_are_predicted_too():
    pytest.importorskip("peft")
    spec = Spec(config=config("Llama"), batch=2, seq=24)
    savers = ["lora", "checkpointing", "chunked-loss"]
    ledger = measured(spec, savers)
    estimate, _ = imagine(spec, Stack(savers))
    assert estimate.stretches == ledger.stretches
    assert estimate.trainable < estimate.parameters / 4


@pytest.mark.parametrize("savers", [[], ["checkpointing"], ["chunked-loss"]])
def test_layers_repeated_are_the_whole_model(savers: list[str]):
    spec = Spec(config=config("Llama", num_hidden_layers=5), batch=2, seq=24)
    repeated, how = imagine(spec, Stack(savers))
    whole, other = imagine(spec, Stack(savers), whole=True)
    assert (how, other) == ("repeated", "whole")
    assert repeated.stretches == whole.stretches
    assert repeated.highest == whole.highest
    assert (repeated.parameters, repeated.flops, repeated.traffic) == (whole.parameters, whole.flops, whole.traffic)
    assert repeated.saved_by_layer > 0


def test_layers_that_differ_are_run_whole():
    """The first layers are alike here, and the last has no window: two layers' steps do not tell."""
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    spec = Spec(config=config("Qwen2", sliding_window=8, use_sliding_window=True, layer_types=kinds), batch=1, seq=24)
    estimate, how = imagine(spec, Stack())
    assert how == "whole"
    assert estimate.stretches == measured(spec, []).stretches


def test_a_saver_that_treats_layers_differently_is_run_whole():
    class Halving(Saver):
        """Trains the upper half of the layers."""

        slug = "halving"
        touches = frozenset({"layers"})

        def change(self, model: nn.Module) -> nn.Module:
            layers = model.model.layers
            model.requires_grad_(False)
            layers[len(layers) // 2 :].requires_grad_(True)
            return model

    spec = Spec(config=config("Llama"), batch=2, seq=24)
    estimate, how = imagine(spec, Stack([Halving()]))
    assert how == "whole"
    assert estimate.stretches == measured(spec, [Halving()]).stretches


def test_work_of_savers_is_seen():
    """State in the optimizer, packed activations, work after the step, and a file: everything a saver may do."""

    class Busy(Saver):
        slug = "busy"
        touches = frozenset({"activations", "optimizer"})

        def optimizer(self, factory: Any) -> Any:
            return lambda model: torch.optim.SGD(model.parameters(), lr=factory.lr, momentum=0.9)

        @contextmanager
        def step_context(self) -> Iterator[None]:
            def pack(tensor: Any) -> Any:
                return (
                    tensor.to(torch.float8_e4m3fn) if tensor.dtype == torch.float32 and tensor.numel() > 64 else tensor
                )

            def unpack(tensor: Any) -> Any:
                return tensor.float() if tensor.dtype == torch.float8_e4m3fn else tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                yield

        def after_step(self) -> None:
            self.kept = torch.zeros(10_000 if self.often else 10)

        often = False

        def make_worst(self) -> None:
            self.often = True

        def footprint(self) -> Footprint:
            return Footprint.of("activations", "disk", 123)

    spec = Spec(config=config("Llama"), batch=2, seq=24)
    ledger = measured(spec, [Busy()])
    estimate, _ = imagine(spec, Stack([Busy()]))
    assert estimate.stretches == ledger.stretches
    assert estimate.peak.by_place["disk"] == 123


def test_any_module_can_be_planned():
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 10))

    def batch() -> dict[str, Any]:
        return {"x": torch.ones(4, 3, 8, 8), "y": torch.zeros(4, dtype=torch.long)}

    def loss(model: nn.Module, batch: Any) -> Any:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    spec = Spec(make_model=model, make_batch=batch)
    ledger = measured(spec, [], loss=loss)
    estimate, how = imagine(spec, Stack(), loss=loss)
    assert how == "whole"
    assert estimate.stretches == ledger.stretches
    assert estimate.flops > 0


def test_a_step_that_reads_values_is_refused():
    def loss(model: nn.Module, batch: Any) -> Any:
        out = model(batch["x"]).sum()
        return out if out > 0 else -out

    spec = Spec(make_model=lambda: nn.Linear(2, 2), make_batch=lambda: {"x": torch.ones(1, 2)})
    with pytest.raises(UnsupportedModelError, match="depends on the values of tensors"):
        imagine(spec, Stack(), loss=loss)


def test_imagining_leaves_nothing_behind():
    import transformers.masking_utils as masks

    before = (masks.is_tracing, masks.fast_all, nn.Module._apply, torch.initial_seed())
    with pytest.raises(RuntimeError, match="on purpose"), imagined():
        nn.Linear(2, 2).to(torch.bfloat16)
        raise RuntimeError("on purpose")
    assert (masks.is_tracing, masks.fast_all, nn.Module._apply, torch.initial_seed()) == before
    assert gc.isenabled()
    assert type(torch.ones(1)) is torch.Tensor


def test_modules_can_be_moved_while_they_are_imagined():
    with imagined():
        layer = nn.Linear(3, 4)
        layer.tied = layer.weight
        layer.to(torch.bfloat16)
        assert layer.weight.dtype == torch.bfloat16
        assert layer.tied is layer.weight
        assert layer.to("cpu").bias.dtype == torch.bfloat16


def test_a_large_model_needs_no_memory():
    """Llama 7B as published: 6,738,415,616 parameters, 80 GiB of plain training, planned in the RAM of a laptop."""
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
    spec = Spec(config=transformers.LlamaConfig(**sizes, vocab_size=32000), seq=2048, dtype="bfloat16")
    estimate, how = imagine(spec, Stack())
    assert how == "repeated"
    assert estimate.parameters == 6_738_415_616
    assert estimate.stretches["after"].by_tier["optimizer"] == pytest.approx(4 * 6_738_415_616, rel=1e-6)
    assert estimate.peak.by_tier["weights"] == pytest.approx(2 * 6_738_415_616, rel=1e-6)
    # Six FLOPs for each parameter and token, without the embedding, which only looks up; attention comes on top.
    products = 6 * 2048 * (6_738_415_616 - 32000 * 4096)
    assert 1.0 < estimate.flops / products < 1.2
