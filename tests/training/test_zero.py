"""ZeRO: the same training on two ranks as on one, with the bytes that were foretold; ranks are processes with gloo."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from memspan.core.errors import BudgetError, ConflictError, InputError, UnsupportedModelError  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.planner import plan  # noqa: E402
from memspan.planner.fake import imagined, left_out  # noqa: E402
from memspan.planner.imagine import imagine  # noqa: E402
from memspan.planner.work import Hardware, WorkMode  # noqa: E402
from memspan.training import AdamW, Spec, Stack, Step, TokenBatches, train  # noqa: E402
from memspan.training.zero import Arena, Zero  # noqa: E402
from tests.training import zero_ranks  # noqa: E402
from tests.training.launch import launch  # noqa: E402

RATES = Hardware(flops=1e12, bandwidth=1e11, link=1e9)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What two ranks found, and their folder."""
    folder = tmp_path_factory.mktemp("zero")
    return launch("tests.training.zero_ranks", 2, folder / "found.json"), folder


@pytest.mark.parametrize("case", zero_ranks.CASES)
def test_ranks_train_as_one_process_does(pair: Any, case: str):
    """Rows with ignored labels, weight decay and clipping too."""
    found = pair[0]["cases"][case]
    assert found["losses"] < 1e-5
    assert found["differ"] < 1e-5


@pytest.mark.parametrize("case", zero_ranks.CASES)
def test_a_ranks_bytes_are_those_that_were_foretold(pair: Any, case: str):
    estimate, _ = imagine(zero_ranks.job(), Stack([Zero(**zero_ranks.CASES[case])]), clip=1.0)
    first, other = pair[0]["cases"][case]["held"]
    assert {name: held.by_tier for name, held in estimate.stretches.items()} == first
    for name, held in other.items():  # gradients come in another order to another rank, which may hold a bucket more
        assert sum(held.values()) <= sum(first[name].values()) + 20_000 * (case[0] == "2") + 64


def test_states_are_divided(pair: Any):
    cases = {name: one["report"] for name, one in pair[0]["cases"].items()}
    plain = cases["0"]
    for name in ("1", "2", "3"):
        assert cases[name]["optimizer"]["most"] <= 0.55 * plain["optimizer"]["most"]
    assert cases["3"]["weights"]["most"] <= 0.55 * plain["weights"]["most"]
    held = {name: one["held"][0] for name, one in pair[0]["cases"].items()}
    for name in ("2", "3"):
        assert held[name]["clip"]["gradients"] <= 0.55 * held["0"]["clip"]["gradients"]


def test_layer_inputs_are_divided():
    """The arena of the partitioned case is half as large as that of whole inputs."""
    whole, _ = imagine(zero_ranks.job(), Stack([Zero(stage=2, activations="checkpoint", model_parallel=2)]))
    parts, _ = imagine(zero_ranks.job(), Stack([Zero(stage=2, activations="partition", model_parallel=2)]))
    arena = zero_ranks.SIZE["layers"] * zero_ranks.SIZE["hidden"] * zero_ranks.LENGTH * 4
    saved = whole.stretches["forward"].by_tier["activations"] - parts.stretches["forward"].by_tier["activations"]
    assert saved == pytest.approx(arena / 2, rel=0.02)


def test_finish_gives_a_plain_model_on_the_first_rank(pair: Any):
    for name, one in pair[0]["cases"].items():
        assert one["plain"] == "LlamaForCausalLM" and one["tied"]
        assert one["meta"] == [False, name.startswith("3")]


def test_it_works_with_checkpointing_and_chunked_loss(pair: Any):
    assert pair[0]["together"] < 1e-5


@pytest.mark.parametrize("case", ["2", "3"])
def test_a_resumed_training_is_the_same_bit_by_bit(pair: Any, case: str):
    assert pair[0]["resumed"][case] == {"same losses": True, "differ": 0.0, "at": 3}


@pytest.mark.parametrize("case", ["2", "3"])
def test_one_process_takes_up_what_two_left(pair: Any, case: str):
    """The file is that of one process: whole tensors, under the same names."""
    saver = Zero(**zero_ranks.CASES[case])
    with pytest.warns(UserWarning, match="there is one rank"):
        again = zero_ranks.run([saver], 7, dropout=0.1, out=pair[1] / case, resume=True)
    assert again.resumed_at == 6 and len(again.losses) == 7


def test_what_ranks_cannot_share_is_refused(pair: Any):
    assert pair[0]["refused"] == {"rows": True, "accumulation": True, "no saver": True}


# --- without other processes -----------------------------------------------------------------------------------------


def test_the_papers_table_is_derived():
    """Figure 1 of arXiv 1910.02054: 120, 31.4, 16.6 and 1.9 GB for 7.5 billion parameters on 64 ranks."""
    from memspan.training.estimate import Estimate

    estimate = Estimate(stretches={}, parameters=7_500_000_000, trainable=7_500_000_000, unit=1)
    lines = Zero().explain(Spec(make_model=lambda: None, make_batch=dict, devices=64), estimate)
    table = lines[lines.index(next(line for line in lines if "mixed precision" in line)) :]
    for stage, said in enumerate(("= 120 GB, 2Ψ", "= 31.41 GB, 2Ψ", "= 16.64 GB, 2Ψ", "= 1.875 GB, 3Ψ")):
        assert any(f"stage {stage}:" in line and said in line for line in table), table
    assert any("4Ψ/N + 4Ψ/N + 8Ψ/N" in line and "this one" in line for line in lines)


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_at_rest_a_rank_holds_its_share(ranks: int):
    config = tiny_llama(layers=5, hidden=128, vocabulary=512).config
    plain, _ = imagine(Spec(config=config, seq=16), Stack())
    estimate, how = imagine(Spec(config=config, seq=16, devices=ranks), Stack([Zero()]))
    rest = sum(estimate.stretches["after"].by_tier[tier] for tier in ("weights", "optimizer"))
    assert how == "repeated"
    assert rest == pytest.approx(3 * 4 * plain.parameters / ranks, rel=0.02)


def test_stage_three_sends_half_as_much_again():
    config = tiny_llama(layers=8, hidden=128, vocabulary=64).config
    spec = Spec(config=config, seq=16, devices=8)
    sent = {stage: imagine(spec, Stack([Zero(stage=stage)]))[0].sent for stage in (2, 3)}
    assert sent[3] / sent[2] == pytest.approx(1.5, abs=0.05)


def test_layers_repeated_are_the_whole_model():
    spec = Spec(config=tiny_llama(layers=6, hidden=64).config, seq=16, devices=4)
    repeated, how = imagine(spec, Stack([Zero()]), clip=1.0)
    whole, other = imagine(spec, Stack([Zero()]), clip=1.0, whole=True)
    assert (how, other) == ("repeated", "whole")
    assert repeated.stretches == whole.stretches and repeated.sent == whole.sent


def test_plans_for_several_devices_have_it():
    spec = Spec(config=tiny_llama(layers=3).config, seq=16, devices=4)
    plans = plan(spec, savers=["zero"], hardware=RATES)
    one = next(one for one in plans if one.savers == ("zero",))
    assert one.how.endswith("+ rank") and one.peak < plans.plain.peak
    assert any("this one" in line for line in one.explained)


def test_inside_of_a_process_group_the_formula_is_asked():
    spec = Spec(config=tiny_llama(layers=3).config, seq=16, devices=4)
    with left_out(2):
        plans = plan(spec, savers=["zero"], hardware=RATES)
    assert all(one.how.endswith("+ formula") for one in plans)


def test_the_formula_is_near_what_a_rank_holds():
    spec = Spec(config=tiny_llama(layers=6, hidden=128, vocabulary=512).config, seq=16, devices=8)
    stack = Stack([Zero(stage=2, bucket=100_000)])
    run, _ = imagine(spec, stack)
    formula = stack.estimate(spec, imagine(Spec(config=spec.config, seq=16), Stack())[0])
    for stretch in ("forward", "after"):
        measured = sum(run.stretches[stretch].by_tier.values())
        assert sum(formula.stretches[stretch].by_tier.values()) == pytest.approx(measured, rel=0.05)


def test_gradients_are_freed_as_they_are_sent():
    """Stage 2 holds the gradients of a few buckets beside its own; stage 1 holds all."""
    spec = Spec(config=tiny_llama(layers=6, hidden=128).config, seq=8, devices=8)
    most = {s: imagine(spec, Stack([Zero(stage=s, bucket=100_000)]))[0].highest.by_tier for s in (1, 2)}
    assert most[2]["gradients"] < 0.35 * most[1]["gradients"]


def test_the_collectives_of_a_step_are_counted():
    net = Spec(
        make_model=lambda: nn.Linear(100, 100, bias=False), make_batch=lambda: {"x": torch.ones(8, 100)}, devices=8
    )
    with left_out(8), imagined():
        stack = Stack([Zero(stage=0)])
        model, optimizer = stack.prepare(net.build(), AdamW())
        step = Step(model, optimizer, stack, lambda m, b: m(b["x"]).sum())
        with WorkMode() as work:
            step(net.random_batch())
    assert work.sent == pytest.approx(2 * 40_000 * 7 / 8, rel=0.001)


def test_one_rank_is_warned_of_and_changes_nothing():
    batches = TokenBatches(torch.arange(64).numpy(), batch=2, seq=8)
    with pytest.warns(UserWarning, match="there is one rank"):
        trained = train(tiny_llama(), batches, steps=2, savers=["zero"], progress=False)
    plain = train(tiny_llama(), batches, steps=2, progress=False)
    assert trained.losses == plain.losses


def test_layer_inputs_in_an_arena_change_nothing():
    batches = TokenBatches(torch.arange(64).numpy(), batch=2, seq=8)
    found = {}
    for arena in (False, True):
        for offload in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                saver = Zero(activations="checkpoint", arena=arena, offload=offload)
                found[arena, offload] = train(
                    tiny_llama(attention_dropout=0.1), batches, steps=3, savers=[saver], progress=False
                )
    plain = train(tiny_llama(attention_dropout=0.1), batches, steps=3, savers=["checkpointing"], progress=False)
    assert all(one.losses == plain.losses for one in found.values())


def test_wrong_settings_and_impossible_lists_are_refused():
    for options, said in (
        ({"stage": 4}, "stages 0, 1, 2, 3"),
        ({"activations": "drop"}, "one of keep, checkpoint, partition"),
        ({"activations": "partition"}, "model_parallel is above 1"),
        ({"offload": True}, "set activations"),
        ({"model_parallel": 0}, "at least 1"),
        ({"bucket": "many"}, "many"),
    ):
        with pytest.raises(InputError, match=said):
            Zero(**options)
    with pytest.raises(ConflictError, match="both change the activations"):
        Stack([Zero(activations="checkpoint"), "checkpointing"])
    spec = Spec(config=tiny_llama().config, seq=8, devices=3)
    with pytest.raises(InputError, match="3 ranks cannot be divided"):
        Stack([Zero(model_parallel=2)]).check(spec)


def test_other_optimizers_and_whole_numbers_are_refused():
    from memspan.training.coat import Coat
    from memspan.training.q_galore import QGaLore

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)

    with pytest.raises(UnsupportedModelError, match=r"cannot split codes, which is of torch\.int8"):
        Zero().change(Counting())
    with left_out(2), pytest.raises(UnsupportedModelError, match="PackedAdamW may need whole tensors"):
        Stack([Zero(), Coat(activations=False)]).prepare(tiny_llama(), AdamW())
    with left_out(2), pytest.raises(InputError, match="q-galore works on one device"):
        Stack([Zero(), QGaLore(weight_bits=32)]).prepare(tiny_llama(), AdamW())


# --- the arena -------------------------------------------------------------------------------------------------------


def test_an_arena_moves_what_it_holds_when_only_holes_are_left():
    arena = Arena(4 * 64)
    slots = [arena.allocate((16,), torch.float32) for _ in range(4)]
    for number, slot in enumerate(slots):
        slot.tensor.fill_(number)
    slots[0].free()
    slots[2].free()
    slots[2].free()
    assert arena.used == 128
    large = arena.allocate((32,), torch.float32)
    large.tensor.fill_(9)
    assert arena.moved == 128
    assert [float(slots[i].tensor[5]) for i in (1, 3)] == [1, 3] and float(large.tensor.sum()) == 9 * 32
    with pytest.raises(BudgetError, match="make the arena larger"):
        arena.allocate((1,), torch.uint8)
    with pytest.raises(InputError, match="was freed"):
        _ = slots[0].tensor
    with pytest.raises(InputError, match="holds nothing"):
        Arena(0)


def test_an_arena_survives_any_order():
    chance = torch.Generator().manual_seed(0)
    arena, held, live = Arena(1 << 16), {}, 0
    for turn in range(400):
        if held and float(torch.rand(1, generator=chance)) < 0.45:
            number = list(held)[int(torch.randint(len(held), (1,), generator=chance))]
            slot, value = held.pop(number)
            assert bool((slot.tensor == value).all())
            slot.free()
        else:
            size = int(torch.randint(1, 3000, (1,), generator=chance))
            if arena.used + size + 64 > arena.size:
                continue
            slot = arena.allocate((size,), torch.uint8)
            slot.tensor.fill_(turn % 251)
            held[turn] = (slot, turn % 251)
        live = max(live, arena.used)
    assert all(bool((slot.tensor == value).all()) for slot, value in held.values())
    assert arena.top <= arena.size and live <= arena.size
