"""mallocMuZero (Wang et al. 2023, arXiv 2305.07440): which buffers lie in a fast memory, when and where, as a game.

Two questions, one game object. *Pack*: all buffers have to lie in one address space and its height is to be small;
`MallocMuZero` is the `Allocator`. *Map*: fast memory is too small, and each use of a buffer is decided in the order of
the program: `DROP` (served from slow memory), `NO_COPY` (made in fast memory, or stays there) or `COPY` (a transfer
brings it). `map_buffers` plays that by a tree search on the game itself, or by the MuZero agent, which learns a model
of it; `MallocGame` is the plain game.

Notable choices. The report's code, data and compiler are not public, and its text was known in part only: actions,
drop-backup, alias groups and the hybrid with the greedy mapping are its own, all sizes of nets and searches are ours.
Fast memory's content is written through, so that a later copy from slow memory is always possible. The environment
prefers an address at which a buffer can stay to its last use without driving out another. The benefit is a model
(bytes that uses move, or the column `benefit`), not a run time. Packing is not played by the agent: with all buffers
given and none to drop, a search that can turn back is far better than one that cannot, and it proves its answers. It
builds placements from the bottom up (Moffitt 2023, "MiniMalloc", ASPLOS) with a sharper test of what may still come:
a buffer lies on the end of another or at 0, so one that lies lower than the last must first be raised. What no chain of
buffers joins in time any more is searched apart; in a section of time that is nearly full the few buffers that can come
next there are tried first, wherever it ends; what was refuted once is known when it comes about again. The search is
cut short and begun again in an order that learns from where the others turned back. What is compiled
(`build_native.py`) is that search alone; without a compiler numpy does a plainer one, which takes many times as long.
Mappings, the greedy one or the one that was played, are improved by a local search at the end, which is ours.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from memspan.core.errors import InputError
from memspan.planner.allocator.base import Allocator, Run

_WHERE = {
    "Action": "memspan.training.mallocmuzero.game",
    "Agent": "memspan.training.mallocmuzero.agent",
    "AgentConfig": "memspan.training.mallocmuzero.agent",
    "MallocGame": "memspan.training.mallocmuzero.game",
    "Mapping": "memspan.training.mallocmuzero.mapping",
    "Program": "memspan.training.mallocmuzero.game",
    "Stay": "memspan.training.mallocmuzero.game",
    "map_buffers": "memspan.training.mallocmuzero.mapping",
}
__all__ = [
    "Action",
    "Agent",
    "AgentConfig",
    "MallocGame",
    "MallocMuZero",
    "MallocMuZeroConfig",
    "Mapping",
    "Program",
    "Stay",
    "map_buffers",
]

if TYPE_CHECKING:
    from memspan.training.mallocmuzero.agent import Agent, AgentConfig
    from memspan.training.mallocmuzero.game import Action, MallocGame, Program, Stay
    from memspan.training.mallocmuzero.mapping import Mapping, map_buffers


@dataclass(frozen=True, kw_only=True)
class MallocMuZeroConfig:
    """Settings of the packing search.

    Raises:
        InputError: the seed is negative.
    """

    seed: int = 0  # of the noise in the orders in which buffers are tried

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be at least 0")


class MallocMuZero(Allocator):
    """Packs all buffers: greedy placements first, then a search that turns back, learns from it and proves its answers.

    With a capacity the search ends at the first placement that fits, without one when none can be smaller.
    """

    slug: ClassVar[str] = "mallocmuzero"
    Config: ClassVar[type[MallocMuZeroConfig]] = MallocMuZeroConfig

    def search(self, run: Run) -> None:
        """See `Allocator.search`; equal seeds visit equal nodes, and the clock says how many."""
        from memspan.training.mallocmuzero.packing import pack

        pack(run, self.config.seed)


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: torch is loaded only by whoever has an agent play."""
    if name not in _WHERE:
        raise AttributeError(f"module 'memspan.training.mallocmuzero' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return value
