"""Planner: predicts bytes and chooses savers under a budget, before anything is spent.

from memspan.planner import plan
plan(Spec(config=config, batch=1, seq=2048), device_memory="16GiB").best()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Hardware": "memspan.planner.work",
    "Plan": "memspan.planner.search",
    "Plans": "memspan.planner.search",
    "measure_hardware": "memspan.planner.work",
    "plan": "memspan.planner.search",
    "record_job": "memspan.planner.record",
}
__all__ = ["Hardware", "Plan", "Plans", "measure_hardware", "plan", "record_job"]

if TYPE_CHECKING:
    from memspan.planner.record import record_job
    from memspan.planner.search import Plan, Plans, plan
    from memspan.planner.work import Hardware, measure_hardware


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: torch is loaded only by whoever plans."""
    if name not in _WHERE:
        raise AttributeError(f"module 'memspan.planner' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
