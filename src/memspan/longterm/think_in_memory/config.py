"""Think-in-Memory's constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memspan.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ThinkInMemoryConfig:
    """Think-in-Memory's constants; sources in brackets. The paper's b, d and thresholds are not known."""

    index: Literal["auto", "exact", "lsh"] = "auto"  # auto: as the store was last written, else exact (ours)
    n_buckets: int = 32  # b, groups of a table (ours)
    n_tables: int = 8  # L (the paper has 1, which finds too little: see the claim)
    probes: int = 1  # buckets read in a table (the paper's 1)
    center: bool = True  # hash x - mean: uncentred, one bucket can hold half of all thoughts (ours)
    seed: int = 0  # of the random matrix R
    merge_at: float = 0.95  # tau_m, least cosine of a merge; MiniLM finds two events of one kind alike at .9 (ours)
    functional: frozenset[str] = frozenset()  # relations with one tail at a time, beside the scribe's
    tidy_on_add: bool = True  # forget and merge in the groups that an addition touches (the paper's stage 2)
    known_thoughts: int = 20  # latest thoughts of the head that a scribe compares a new one with (ours)
    context_turns: int = 4  # turns a scribe sees before a batch (ours)
    lexical_weight: float = 1.0  # full text against vectors in recall; 0 is the paper's similarity alone
    pool: int = 300  # candidates taken from each list (ours)
    thought_bonus: float = 1.0  # what the best thought lends to its source episodes, in standard deviations (ours)
    bonus_thoughts: int = 10  # thoughts that lend (ours)
    least_coverage: float = 0.5  # share of a tail's words that the source of a model's thought must hold (ours)
    keep_answers: bool = False  # stage 2 after `Memory.ask`: an answer is kept and given again (opt-in)
    least_support: float = 0.5  # of each statement of an answer that is kept (ours)

    def __post_init__(self) -> None:
        if self.index not in ("auto", "exact", "lsh"):
            raise InputError(f"index must be 'auto', 'exact' or 'lsh', not {self.index!r}")
        if isinstance(self.functional, str):
            raise InputError("functional takes a set of relation names, not one string: write {'LIVES_IN'}")
        if not 0 < self.merge_at <= 1:
            raise InputError(f"merge_at is a cosine and must be above 0 and at most 1, not {self.merge_at}")
        if self.n_buckets < 2 or self.n_buckets % 2 or self.n_tables < 1:
            raise InputError(
                f"n_buckets must be even and at least 2, n_tables at least 1; not {self.n_buckets}, {self.n_tables}"
            )
        if not 1 <= self.probes <= self.n_buckets // 2:
            raise InputError(f"probes must be from 1 to n_buckets / 2 = {self.n_buckets // 2}, not {self.probes}")
        if min(self.known_thoughts, self.pool, self.bonus_thoughts) < 1 or self.lexical_weight < 0:
            raise InputError("known_thoughts, pool and bonus_thoughts must be at least 1, lexical_weight at least 0")
