"""The guide to context systems: its example runs, and its hooks are there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import memspan
from memspan.context.base import ContextSystem
from memspan.core.testing import tiny_llama

GUIDE = (Path(__file__).parents[2] / "docs" / "context.md").read_text(encoding="utf-8")


def test_the_example_of_a_system_keeps_what_it_says():
    (code,) = re.findall(r"```python\n(from memspan\.context\.base.*?)```", GUIDE, re.DOTALL)
    model, names = tiny_llama(), {}
    exec(code, {"memspan": memspan, "model": model}, names)
    with memspan.context(names["EveryOther"](slots=24, chunk=8), model) as reader:
        reader.feed(torch.randint(1, 64, (60,), generator=torch.Generator().manual_seed(0)))
        kept = [slot.position for slot in reader.slots()]
    assert kept[:4] == [0, 1, 2, 3] and all(position % 2 for position in kept[4:-8])


def test_every_hook_of_the_guide_is_there():
    table = GUIDE.split("| hook | when | for |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)[(`]", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    assert len(named) > 10 and all(hasattr(ContextSystem, name) for name in named)
