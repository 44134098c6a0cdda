"""Which plans are made, how they rank, and what they say when nothing fits."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from memspan.core.errors import BudgetError, ConflictError, InputError  # noqa: E402
from memspan.core.testing import tiny_llama  # noqa: E402
from memspan.planner import Hardware, measure_hardware, plan, show  # noqa: E402
from memspan.planner.imagine import imagine  # noqa: E402
from memspan.training import Estimate, Saver, Spec  # noqa: E402
from memspan.training.estimate import sharded  # noqa: E402

SEEN: dict[Any, Any] = {}


@pytest.fixture(autouse=True)
def each_step_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of these tests differ in what `key` holds, so a step that was run need not be run again."""
    from memspan.planner import search

    def remembered(spec: Spec, stack: Any, *args: Any, **options: Any) -> Any:
        key = (spec.batch, spec.seq, spec.device, stack.names)
        if key not in SEEN:
            SEEN[key] = imagine(spec, stack, *args, **options)
        return SEEN[key]

    monkeypatch.setattr(search, "imagine", remembered)


SLOW = Hardware(flops=1e9, bandwidth=1e9)
ORDINARY = ["checkpointing", "chunked-loss"]


def job(**more: Any) -> Spec:
    return Spec(config=tiny_llama(layers=6, vocabulary=1024, positions=256).config, **{"batch": 2, "seq": 128, **more})


class Adapters(Saver):
    """Freezes all but the norms, as if adapters were there."""

    slug = "adapters"
    touches = frozenset({"weights"})
    brings = frozenset({"adapters"})
    exact = False
    quality = "much"
    uniform = True

    def change(self, model: Any) -> Any:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
        return model


class OnAdapters(Saver):
    """Needs adapters, and changes nothing."""

    slug = "on-adapters"
    touches = frozenset({"layers"})
    needs = frozenset({"adapters"})
    uniform = True


class Sharded(Saver):
    """Stage 3 by formula."""

    slug = "sharded"
    touches = frozenset({"distribution"})
    uniform = True

    def estimate(self, spec: Spec, before: Estimate) -> Estimate:
        return sharded(spec, before, stage=3)


def test_what_fits_comes_first_and_the_plain_run_is_always_there():
    unbounded = plan(job(), savers=ORDINARY, hardware=SLOW)
    assert {one.savers for one in unbounded} == {
        (),
        ("checkpointing",),
        ("chunked-loss",),
        ("chunked-loss", "checkpointing"),
    }
    assert all(one.fits for one in unbounded)
    assert [one.seconds for one in unbounded] == sorted(one.seconds for one in unbounded)
    middle = sorted(one.peak for one in unbounded)[1]
    bounded = plan(job(), savers=ORDINARY, device_memory=middle, hardware=SLOW)
    assert [one.fits for one in bounded] == [True, True, False, False]
    assert bounded.plain.over == {"ram": bounded.plain.peak - middle}
    assert bounded.best() is bounded.plans[0]


def test_more_savers_take_less():
    peaks = {one.savers: one.peak for one in plan(job(), savers=ORDINARY, hardware=SLOW)}
    assert peaks[("chunked-loss", "checkpointing")] < min(peaks[("checkpointing",)], peaks[("chunked-loss",)])
    assert max(peaks[("checkpointing",)], peaks[("chunked-loss",)]) < peaks[()]


def test_when_nothing_fits_the_bytes_that_would_do_are_said():
    plans = plan(job(), savers=ORDINARY, device_memory="64KiB", hardware=SLOW)
    least = min(one.peak for one in plans)
    with pytest.raises(BudgetError, match="would do") as caught:
        plans.best()
    assert (caught.value.needed, caught.value.allowed) == (least, 64 * 1024)
    assert any(f"{least:,} bytes" in line for line in show.notes(plans))
    assert plan(job(), savers=ORDINARY, device_memory=least, hardware=SLOW).best().peak == least


def test_exact_plans_come_before_faster_inexact_ones():
    plans = plan(job(), savers=[Adapters(), "checkpointing"], hardware=SLOW)
    assert [one.exact for one in plans] == [True, True, False, False]
    assert plans.plans[-1].quality == "much"


def test_a_saver_that_needs_another_is_tried_with_it():
    found = {one.savers for one in plan(job(), savers=[OnAdapters(), Adapters()], hardware=SLOW)}
    assert found == {(), ("adapters",), ("adapters", "on-adapters")}


def test_the_task_lora_takes_adapters():
    plans = plan(job(task="lora"), savers=[Adapters(), "checkpointing"], hardware=SLOW)
    assert {one.savers for one in plans} == {(), ("adapters",), ("adapters", "checkpointing")}
    assert "adapters" in plans.best().savers
    assert not plans.plain.serves
    with pytest.raises(InputError, match="no saver for the task lora"):
        plan(job(task="lora"), savers=ORDINARY, hardware=SLOW).best()


def test_each_saver_is_run_and_then_what_promises_most():
    savers = ["checkpointing", "chunked-loss", "q-galore", "memo-1m"]
    every = plan(job(), savers=savers, hardware=SLOW, most=100)
    assert len(every.plans) == every.combinations == 12  # checkpointing and memo-1m are no pair
    assert not any("combinations were run" in line for line in show.notes(every))
    few = plan(job(), savers=savers, hardware=SLOW, most=6)
    assert (len(few.plans), few.combinations) == (6, 12)
    assert {one.savers for one in few} > {(), *((name,) for name in savers)}
    assert few.least.peak == every.least.peak
    assert any("6 of 12 combinations were run" in line for line in show.notes(few))


def test_what_fits_is_looked_for_where_it_is_promised():
    every = plan(job(), savers=["checkpointing", "chunked-loss", "q-galore", "lemo"], hardware=SLOW, most=100)
    bound = sorted(one.peak for one in every)[2]
    few = plan(
        job(), savers=["checkpointing", "chunked-loss", "q-galore", "lemo"], device_memory=bound, hardware=SLOW, most=8
    )
    assert few.best().peak <= bound


def test_settings_belong_to_the_name():
    plans = plan(job(), savers=["chunked-loss:tokens=32", "chunked-loss"], hardware=SLOW)
    assert {one.savers for one in plans} == {(), ("chunked-loss",), ("chunked-loss:tokens=32",)}
    assert len({one.peak for one in plans}) == 3


def test_savers_that_are_to_work_together_are_run_together_alone():
    plans = plan(job(), savers=ORDINARY, hardware=SLOW, together=True)
    assert {one.savers for one in plans} == {(), ("chunked-loss", "checkpointing")}
    assert {one.savers for one in plan(job(), savers=[], hardware=SLOW, together=True)} == {()}
    with pytest.raises(ConflictError, match="both change the activations"):
        plan(job(), savers=["checkpointing", "memo-1m"], hardware=SLOW, together=True)


def test_at_least_one_step_is_run():
    with pytest.raises(InputError, match="most is 0"):
        plan(job(), savers=ORDINARY, hardware=SLOW, most=0)


def test_only_working_systems_of_the_catalogue_are_offered(monkeypatch: pytest.MonkeyPatch):
    from memspan.core.catalog import systems
    from memspan.training import known_savers

    planned = {row.slug for row in systems("training", "planned")}
    assert not planned & set(known_savers())
    assert {row.slug for row in systems("training", "working") if row.interface == "Saver"} <= set(known_savers())
    monkeypatch.setattr("memspan.planner.search.known_savers", lambda: ["checkpointing", "zep"])
    plans = plan(job(), hardware=SLOW)
    assert {one.savers for one in plans} == {(), ("checkpointing",)}
    assert "no saver" in plans.skipped["zep"]


def test_several_devices_share_by_formula():
    spec = job(devices=64, device="cuda")
    plans = plan(spec, savers=[Sharded()], device_memory="1GiB", hardware=Hardware(flops=1e9, bandwidth=1e9, link=1e6))
    plain, shared = plans.plain, next(one for one in plans if one.savers)
    assert plain.how.endswith("+ formula")
    states = ("weights", "optimizer")
    held = {
        name: sum(one.estimate.stretches["after"].by_tier[tier] for tier in states)
        for name, one in (("plain", plain), ("shared", shared))
    }
    assert held["shared"] == pytest.approx(held["plain"] / 64, rel=0.01)
    assert shared.estimate.sent == pytest.approx(1.5 * plain.estimate.sent, rel=0.001)
    assert shared.seconds > plain.seconds  # over a slow link
    assert set(plain.estimate.peak.by_place) == {"device"}
    assert {one.savers for one in plan(job(), savers=[Sharded()], hardware=SLOW)} == {()}  # one device shares nothing


def test_plans_as_json():
    found = plan(job(), savers=["checkpointing"], device_memory="1GiB", hardware=SLOW).to_json()
    plain = next(one for one in found["plans"] if one["savers"] == [])
    assert sum(plain["by_tier"].values()) == plain["peak_bytes"]
    assert plain["fits"] is True and plain["seconds_per_step"] > 0
    assert found["needed_bytes"] == min(one["peak_bytes"] for one in found["plans"])


def test_explanations_add_up():
    plans = plan(job(), savers=[], hardware=SLOW)
    lines = show.explain(plans, plans.plain)
    assert any("8.00 bytes for each that trains" in line for line in lines)
    assert sum("<- the peak" in line for line in lines) == 1


def test_hardware_is_timed_or_given():
    timed = measure_hardware()
    assert timed.measured and timed.flops > 1e8 and timed.bandwidth > 1e7
    assert SLOW.seconds(2_000_000_000, 1_000_000_000) == pytest.approx(3.0)
    with pytest.raises(InputError, match="flops is 0"):
        Hardware(flops=0, bandwidth=1)


def test_a_plot_is_written(tmp_path: Any):
    pytest.importorskip("matplotlib")
    plans = plan(job(), savers=["checkpointing"], device_memory="1MiB", hardware=SLOW)
    assert show.plot(plans, tmp_path / "plans.svg").read_text().count("<svg") == 1
    with pytest.raises(InputError, match="cannot be written"):
        show.plot(plans, tmp_path / "plans.nonsense")
