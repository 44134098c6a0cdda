"""memspan: memory for AI systems, behind common interfaces, under one byte budget, counted by one ledger."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Answer": "memspan.longterm.knowledge_survey",
    "Budget": "memspan.core.budget",
    "BudgetError": "memspan.core.errors",
    "Episode": "memspan.longterm.base",
    "Footprint": "memspan.core.footprint",
    "InputError": "memspan.core.errors",
    "Ledger": "memspan.core.ledger",
    "Memory": "memspan.longterm.memory",
    "MemspanError": "memspan.core.errors",
    "Recollection": "memspan.longterm.base",
    "StoreError": "memspan.core.errors",
    "UnsupportedModelError": "memspan.core.errors",
    "VectorIndex": "memspan.longterm.spann",
    "context": "memspan.context",
    "load_embedder": "memspan.models",
    "load_language_model": "memspan.models",
    "systems": "memspan.core.catalog",
}
__all__ = [
    "Answer",
    "Budget",
    "BudgetError",
    "Episode",
    "Footprint",
    "InputError",
    "Ledger",
    "Memory",
    "MemspanError",
    "Recollection",
    "StoreError",
    "UnsupportedModelError",
    "VectorIndex",
    "__version__",
    "context",
    "load_embedder",
    "load_language_model",
    "systems",
]

if TYPE_CHECKING:
    from memspan import context as context
    from memspan.core.budget import Budget
    from memspan.core.catalog import systems
    from memspan.core.errors import BudgetError, InputError, MemspanError, StoreError, UnsupportedModelError
    from memspan.core.footprint import Footprint
    from memspan.core.ledger import Ledger
    from memspan.longterm.base import Episode, Recollection
    from memspan.longterm.knowledge_survey import Answer
    from memspan.longterm.memory import Memory
    from memspan.longterm.spann import VectorIndex
    from memspan.models import load_embedder, load_language_model


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import memspan` stays light."""
    if name not in _WHERE:
        raise AttributeError(f"module 'memspan' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
