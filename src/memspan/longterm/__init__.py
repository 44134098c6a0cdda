"""Long-term memory: stores outside the model, with recall that says where it comes from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memspan.longterm.get_go import KnowledgeBank, SmallWindowReasoner

__all__ = ["KnowledgeBank", "SmallWindowReasoner"]


def __getattr__(name: str) -> Any:
    """Systems that work without a `Memory` are imported when first used."""
    if name not in __all__:
        raise AttributeError(f"module 'memspan.longterm' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module("memspan.longterm.get_go"), name)
    return value
