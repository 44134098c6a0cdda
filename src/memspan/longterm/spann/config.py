"""Settings of the index: the paper's names and values, or ours where measurements point elsewhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from memspan.core.budget import format_bytes
from memspan.core.errors import BudgetError, InputError


@dataclass(frozen=True, kw_only=True)
class SpannConfig:
    """How an index is built. Kept in its `meta.json`; fixed for the life of the index.

    Raises:
        InputError: a field is outside its range.
    """

    branching: int = 32  # children of a node of the clustering tree (SPTAG, BKTKmeansK)
    leaf: int = 24  # points under a head, nominally; SPTAG selects 10-20 % of the points, which 4-bit lists need not
    cell: int = 2048  # points under a cell, the level above the heads, which replaces SPTAG's graph over the heads
    candidates: int = 64  # nearest heads that a point may be copied to (SPTAG, InternalResultNum)
    copies: int = 8  # lists that hold a point at most (paper, ReplicaCount)
    closure: float = 1.4  # 1 + eps1: a copy's distance is at most so many times the nearest head's (paper)
    neighbours: int = 40  # cells whose heads are candidates (ours)
    limit: int = 256  # entries of a list, after which the farthest copies are cut (paper, PostingPageLimit)
    reassign: bool = True  # place rows at the border of a list again after its split (SPFresh §3.3)
    exact_below: int = 1000  # rows under which the index is one exact scan (ours)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("branching", 2),
            ("leaf", 2),
            ("cell", 64),
            ("candidates", 1),
            ("copies", 1),
            ("neighbours", 1),
            ("limit", 1),
            ("exact_below", 2),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"SpannConfig.{name} is {value!r}; it must be a whole number of at least {least}")
        if not self.closure >= 1:
            raise InputError(f"SpannConfig.closure is {self.closure}; it must be at least 1 (inf for no bound)")
        if self.limit < 4 * self.leaf:
            raise InputError(f"SpannConfig.limit is {self.limit}; it must be at least four leaves, {4 * self.leaf}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return asdict(self)


def fit(config: SpannConfig, n: int, dim: int, budget: int) -> SpannConfig:
    """The settings with leaves large enough that heads and lists' tables keep inside half of the budget."""
    if n < config.exact_below:
        return config
    head = dim + 64 + 24  # bytes: codes, padding, scale, norm, list, place, length, checksum
    need = 2 * head * n // (config.limit // 4)
    if need > budget:
        advice = f"give at least {format_bytes(need)}, or raise SpannConfig.limit"
        raise BudgetError("the heads of the index", needed=need, allowed=budget, advice=advice)
    # A leaf holds somewhat over half of its nominal size.
    least = int(2 * head * n / 0.5 / budget)
    return replace(config, leaf=max(config.leaf, min(least, config.limit // 4)))
