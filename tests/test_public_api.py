"""The public names, and what importing them costs."""

from __future__ import annotations

import statistics
import subprocess
import sys

import memspan


def test_every_public_name_is_there():
    assert sorted(memspan.__all__) == sorted({*memspan._WHERE, "__version__"})
    for name in memspan.__all__:
        assert getattr(memspan, name) is not None


def test_importing_pulls_in_nothing_heavy():
    heavy = ("torch", "numpy", "spacy", "transformers", "rich")
    code = f"import memspan, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_is_quick():
    code = "import time; t = time.perf_counter(); import memspan; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    assert statistics.median(float(run.stdout) for run in runs) < 0.150


def test_systems_that_need_no_memory_are_reached_by_name():
    import memspan.longterm
    from memspan.longterm.get_go import KnowledgeBank, SmallWindowReasoner

    assert memspan.longterm.KnowledgeBank is KnowledgeBank
    assert memspan.longterm.SmallWindowReasoner is SmallWindowReasoner
