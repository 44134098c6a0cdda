"""Formulas for several ranks, held against the tables of their papers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint
from memspan.training.estimate import Estimate, model_states, replicated, sharded, split_sequence
from memspan.training.spec import Spec


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_table_of_7_5_billion_parameters_on_64_ranks(stage: int, gigabytes: float):
    """Figure 1 of arXiv 1910.02054."""
    states = model_states(7_500_000_000, stage=stage, ranks=64)
    assert sum(states.values()) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_float32_states_are_sixteen_bytes_a_parameter():
    assert sum(model_states(10, stage=0, ranks=8, weight=4, gradient=4, state=8).values()) == 160


def estimate() -> Estimate:
    def held(**tiers: int) -> Footprint:
        return Footprint({(tier, "ram"): n for tier, n in tiers.items()})

    stretches = {
        "forward": held(weights=800, optimizer=1600, activations=400),
        "backward": held(weights=800, gradients=800, optimizer=1600, activations=300),
        "update": held(weights=800, gradients=800, optimizer=1600, activations=24),
    }
    highest = held(weights=800, gradients=800, optimizer=1600, activations=400)
    return Estimate(stretches=stretches, highest=highest, parameters=200, trainable=200, unit=20, flops=1000)


def spec(ranks: int) -> Spec:
    return Spec(make_model=lambda: None, make_batch=dict, devices=ranks, seq=8)


def test_stages_divide_what_they_say():
    plain = estimate()
    assert replicated(spec(8), plain).stretches == plain.stretches
    one, two, three = (sharded(spec(8), plain, stage=stage) for stage in (1, 2, 3))
    assert one.stretches["update"].by_tier == {"weights": 800, "gradients": 800, "optimizer": 200, "activations": 3}
    assert two.stretches["update"].by_tier["gradients"] == 100
    assert two.stretches["backward"].by_tier["gradients"] == 100 + 2 * 20
    assert three.stretches["update"].by_tier == {"weights": 100, "gradients": 100, "optimizer": 200, "activations": 3}
    assert three.stretches["forward"].by_tier["weights"] == 100 + 2 * 20
    assert one.peak.total > two.peak.total > three.peak.total


def test_stage_three_sends_half_as_much_again():
    two, three = (sharded(spec(8), estimate(), stage=stage) for stage in (2, 3))
    assert three.sent / two.sent == pytest.approx(1.5)
    assert two.sent == replicated(spec(8), estimate()).sent


def test_a_rank_never_holds_more_than_alone():
    for stage in (1, 2, 3):
        assert sharded(spec(2), estimate(), stage=stage).peak.total <= estimate().peak.total
    assert sharded(spec(1), estimate(), stage=3) == estimate()


def test_a_sequence_is_split_evenly():
    half = split_sequence(spec(2), estimate(), degree=2)
    assert half.stretches["backward"].by_tier["activations"] == 150
    assert half.stretches["backward"].by_tier["weights"] == 800
    assert half.flops == 500
    with pytest.raises(InputError, match="divide it evenly"):
        split_sequence(spec(3), estimate(), degree=3)


def test_unknown_stages_are_refused():
    with pytest.raises(InputError, match="stages 0, 1, 2, 3"):
        model_states(10, stage=4, ranks=2)
    with pytest.raises(InputError, match="stage is -1"):
        sharded(spec(2), estimate(), stage=-1)


def test_the_formula_of_stage_three_holds_for_fsdp():
    """Without other ranks: what one holds at rest within 1 %, and at the peaks of its passes within 20 %."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.training.ranks"]
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    measured, foretold = found["measured"], found["foretold"]
    for tier in ("weights", "optimizer"):
        assert foretold["after"][tier] == pytest.approx(measured["after"][tier], rel=0.01)
    assert foretold["clear"]["gradients"] == pytest.approx(measured["clear"]["gradients"], rel=0.01)
    assert sum(foretold["update"].values()) == pytest.approx(sum(measured["update"].values()), rel=0.01)
    for stretch in ("forward", "backward"):
        assert sum(foretold[stretch].values()) == pytest.approx(sum(measured[stretch].values()), rel=0.2)
