"""The guide to training: its examples run, and its methods are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama
from memspan.planner.imagine import imagine
from memspan.training import AdamW, Saver, Spec, Stack, Step

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_planning_and_training_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("memspan.planner.search.known_savers", lambda: ["checkpointing"])
    names: dict[str, Any] = {"model": tiny_llama(), "tokens": np.arange(900, dtype=np.int32) % 64}
    exec(CODE[0], names)
    assert len(names["trained"].losses) == 3
    ids = torch.ones(1, 8, dtype=torch.long)
    names["batches"] = [{"input_ids": ids, "labels": ids}] * 2
    exec(CODE[1], names)
    assert "forward" not in names["model"].__dict__


def test_addresses_are_given():
    def step() -> None:
        torch.ones(64).exp().sum()

    names: dict[str, Any] = {"step": step}
    exec(next(code for code in CODE if "find_allocator" in code), names)
    assert names["placement"].optimal and names["mapping"].benefit > 0


def test_the_example_of_a_saver_saves_what_is_foretold():
    names: dict[str, Any] = {}
    exec(CODE[-1], names)
    spec = Spec(config=tiny_llama(layers=4).config, batch=2, seq=64)
    saver = names["HalfSaved"]()
    stack = Stack([saver])
    model, optimizer = stack.prepare(spec.build(), AdamW())
    step = Step(model, optimizer, stack)
    step(spec.random_batch())
    with Ledger(model, optimizer=optimizer) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    estimate, how = imagine(spec, Stack([names["HalfSaved"]()]))
    plain, _ = imagine(spec, Stack())
    assert how == "repeated" and estimate.stretches == ledger.stretches
    assert estimate.saved_by_layer < 0.8 * plain.saved_by_layer


def test_every_method_of_the_guide_is_there():
    table = GUIDE.split("| method | when | for |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)\(", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    assert len(named) > 10 and all(hasattr(Saver, name) for name in named)
