"""SPANN: a vector index larger than memory. Heads in RAM, short overlapping posting lists on disk."""

from .config import SpannConfig
from .effort import Effort
from .index import Hits, SearchStats, VectorIndex

__all__ = ["Effort", "Hits", "SearchStats", "SpannConfig", "VectorIndex"]
