"""Allocators: where in one address space each buffer of a step lies, so that none overlaps and the peak is small.

problem = read_csv("step.csv")  # or record_step(step)
placement = find_allocator("best-fit").place(problem)
placement.peak, problem.lower_bound, placement.offsets
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Allocator": "memspan.planner.allocator.base",
    "AllocatorConfig": "memspan.planner.allocator.base",
    "Buffer": "memspan.planner.allocator.problem",
    "Placement": "memspan.planner.allocator.problem",
    "PlacementError": "memspan.planner.allocator.problem",
    "Problem": "memspan.planner.allocator.problem",
    "Run": "memspan.planner.allocator.base",
    "find_allocator": "memspan.planner.allocator.base",
    "known_allocators": "memspan.planner.allocator.base",
    "read_csv": "memspan.planner.allocator.files",
    "read_placement": "memspan.planner.allocator.files",
    "record_step": "memspan.planner.allocator.recording",
    "write_csv": "memspan.planner.allocator.files",
}
__all__ = [
    "Allocator",
    "AllocatorConfig",
    "Buffer",
    "Placement",
    "PlacementError",
    "Problem",
    "Run",
    "find_allocator",
    "known_allocators",
    "read_csv",
    "read_placement",
    "record_step",
    "write_csv",
]

if TYPE_CHECKING:
    from memspan.planner.allocator.base import Allocator, AllocatorConfig, Run, find_allocator, known_allocators
    from memspan.planner.allocator.files import read_csv, read_placement, write_csv
    from memspan.planner.allocator.problem import Buffer, Placement, PlacementError, Problem
    from memspan.planner.allocator.recording import record_step


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: torch is loaded only by whoever records a step."""
    if name not in _WHERE:
        raise AttributeError(f"module 'memspan.planner.allocator' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value
