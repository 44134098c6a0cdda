"""A split sequence: loss and gradients of one process, for 2, 3 and 4 ranks; ranks are processes with gloo."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import ConflictError, InputError, UnsupportedModelError  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.planner import plan  # noqa: E402
from memspan.planner.fake import left_out  # noqa: E402
from memspan.planner.imagine import imagine  # noqa: E402
from memspan.planner.work import Hardware  # noqa: E402
from memspan.training import AdamW, Spec, Stack, TokenBatches, train  # noqa: E402
from memspan.training.sequence_parallelism import Layout, SequenceParallelism, projected_attention  # noqa: E402
from tests.training import sequence_ranks  # noqa: E402
from tests.training.launch import launch  # noqa: E402

MODULE = "tests.training.sequence_ranks"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What two ranks found."""
    return launch(MODULE, 2, tmp_path_factory.mktemp("sequence") / "found.json", "all")


def exact(found: Any) -> None:
    for loss, gradients in found["model"].values():
        assert loss < 1e-5 and gradients < 1e-5
    assert max(found["attention"].values()) < 5e-6
    assert found["linformer"] < 1e-5


def test_loss_and_gradients_are_those_of_one_process(pair: Any):
    """With either method and order, padded and not, at a length that the ranks do not divide."""
    exact(pair)


@pytest.mark.parametrize("ranks", [3, 4])
def test_with_more_ranks_too(ranks: int, tmp_path: Any):
    exact(launch(MODULE, ranks, tmp_path / "found.json"))


def test_it_works_with_checkpointing_and_chunked_loss(pair: Any):
    loss, gradients = pair["together"]
    assert loss < 1e-5 and gradients < 1e-5


@pytest.mark.parametrize("case", [*sequence_ranks.CASES, "together"])
def test_a_ranks_bytes_are_those_that_were_foretold(pair: Any, case: str):
    more = ["checkpointing", "chunked-loss"] if case == "together" else []
    saver = SequenceParallelism(bucket=sequence_ranks.BUCKET, **sequence_ranks.CASES.get(case, {}))
    estimate, _ = imagine(sequence_ranks.job(), Stack([saver, *more]), clip=1.0)
    assert {name: held.by_tier for name, held in estimate.stretches.items()} == pair["held"][case]


@pytest.mark.parametrize("case", ["ring zigzag", "rsa"])
def test_a_resumed_training_is_the_same_bit_by_bit(pair: Any, case: str):
    """With "rsa" there is dropout in the attention, other on each rank."""
    assert pair["resumed"][case] == {"losses": True, "weights": True, "at": 2}


def test_too_short_a_row_is_refused_and_attention_is_put_back(pair: Any):
    assert "2 ranks are more than the 1 tokens" in pair["refused"]
    assert pair["attention after"] == "sdpa"


# --- without other processes -----------------------------------------------------------------------------------------


def saved(devices: int, length: int, **options: Any) -> int:
    """Bytes that a layer keeps of its activations."""
    config = tiny_llama(layers=4, hidden=64, positions=1024).config
    spec = Spec(config=config, batch=1, seq=length, devices=devices)
    savers = [] if devices == 1 else [SequenceParallelism(**options)]
    estimate, how = imagine(spec, Stack(savers))
    assert how == "repeated"
    return estimate.saved_by_layer


def test_a_rank_keeps_its_part_of_a_layer():
    whole = saved(1, 256)
    for ranks in (2, 8):
        assert saved(ranks, 256) == pytest.approx(whole / ranks, rel=0.05)


def test_only_the_published_method_keeps_scores():
    """B Z L²/N weights, where the blockwise one keeps its output and a sum for each query and head; 4 bytes each."""
    for length, ranks in ((128, 2), (256, 8)):
        more = saved(ranks, length, method="rsa") - saved(ranks, length)
        assert more == 4 * (4 * length**2 // ranks - length // ranks * 4)


def test_layouts():
    assert Layout(12, 3).pieces(1) == [(4, 8)]
    zigzag = Layout(12, 3, "zigzag")
    assert zigzag.pieces(0) == [(0, 2), (10, 12)] and zigzag.pieces(2) == [(4, 6), (6, 8)]
    assert zigzag.positions(1).tolist() == [2, 3, 8, 9]
    for layout in (Layout(12, 3), zigzag):
        held = torch.cat([layout.take(torch.arange(12)[None], rank)[0] for rank in range(3)])
        assert sorted(held.tolist()) == list(range(12))
    with pytest.raises(InputError, match="13 tokens cannot be cut into 6 parts"):
        Layout(13, 3, "zigzag")


def test_plans_for_several_devices_have_it():
    spec = Spec(config=tiny_llama(layers=4, positions=512).config, batch=2, seq=512, devices=4)
    rates = Hardware(flops=1e12, bandwidth=1e11, link=1e9)
    plans = plan(spec, savers=["sequence-parallelism"], hardware=rates)
    one = next(one for one in plans if one.savers)
    assert one.how == "repeated + rank" and one.estimate.sent > 0
    assert any("32H = 1,024" in line for line in one.explained)
    with left_out(2):
        formula = plan(spec, savers=["sequence-parallelism"], hardware=rates)
    assert all(two.how.endswith("+ formula") for two in formula)


def test_one_rank_is_warned_of_and_changes_nothing():
    batches = TokenBatches(torch.arange(64).numpy(), batch=2, seq=8)
    with pytest.warns(UserWarning, match="there is one rank"):
        trained = train(tiny_llama(), batches, steps=2, savers=["sequence-parallelism"], progress=False)
    assert trained.losses == train(tiny_llama(), batches, steps=2, progress=False).losses


def test_wrong_settings_and_models_are_refused():
    for options in ({"method": "tree"}, {"order": "random"}, {"bucket": "many"}):
        with pytest.raises(InputError):
            SequenceParallelism(**options)
    with pytest.raises(ConflictError, match="both change the distribution"):
        Stack(["zero", "sequence-parallelism"])
    stack = Stack(["sequence-parallelism"])
    with pytest.raises(InputError, match="9 ranks are more than the 8 tokens"):
        stack.check(Spec(config=tiny_llama().config, seq=8, devices=9))
    with pytest.raises(UnsupportedModelError, match="no dropout"):
        stack.check(Spec(config=tiny_llama(attention_dropout=0.1).config, seq=8, devices=2))
    with pytest.raises(UnsupportedModelError, match="needs a transformers language model"):
        stack.check(Spec(make_model=lambda: nn.Linear(1, 1), make_batch=dict, devices=2))
    kinds = ["full_attention", "sliding_attention"]
    windows = transformers.Qwen2Config(num_hidden_layers=2, use_sliding_window=True, layer_types=kinds)
    with pytest.raises(UnsupportedModelError, match="knows full attention, not sliding_attention"):
        stack.check(Spec(config=windows, seq=8, devices=2))


def test_a_batch_without_tokens_is_refused():
    stack = Stack([SequenceParallelism()])
    with left_out(2):
        model, _ = stack.prepare(tiny_llama(), AdamW())
        with pytest.raises(InputError, match="the batch has none"):
            stack.batch({"x": torch.ones(2)})
        ids = torch.zeros(1, 8, dtype=torch.long)
        with pytest.raises(InputError, match="must be that of input_ids"):
            stack.batch({"input_ids": ids, "attention_mask": torch.ones(1, 1, 8, 8)})
        stack.finish(model)


def test_projections_of_another_chunk_are_refused():
    one = torch.ones(1, 1, 4, 2)
    with pytest.raises(InputError, match=r"a chunk of 4 tokens takes \[k, 4\]"):
        projected_attention(one, one, one, torch.ones(2, 5), torch.ones(2, 4))
