"""The constants of reasoner, training and curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memspan.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReasonerConfig:
    """Constants of the policy and of its training; the paper gives none, so all are ours."""

    window: int = 1  # w, tokens of the question in sight
    d: int = 16  # dimensions of a code; a bank must have as many
    positions: Literal["relative", "absolute"] = "relative"  # where the window begins: cursor, or first token
    hidden: int = 64  # units in each of two layers
    batch: int = 512  # episodes of an update
    learning_rate: float = 3e-3  # of Adam
    value_weight: float = 0.5  # of the value's squared error
    entropy_weight: float = 0.06  # of the policy's entropy
    clip: float = 1.0  # largest norm of the gradient
    step_cost: float = 0.02  # taken off the reward for each operation, divided by the hops

    def __post_init__(self) -> None:
        for name in ("window", "d", "hidden", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.positions not in ("relative", "absolute"):
            raise InputError(f"positions must be 'relative' or 'absolute', not {self.positions!r}")
        if not (self.learning_rate > 0 and self.clip > 0):
            raise InputError("learning_rate and clip must be above 0")


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Which tasks are trained, from short to long."""

    # Those that reward alone teaches in about 600 updates; "count", "compare" and "return" it does not
    tasks: tuple[str, ...] = ("k-hop", "missing", "distractors", "branch")
    k_max: int = 3  # most hops that are trained
    pass_at: float = 0.95  # greedy accuracy of every task at K from which K grows
    check_every: int = 10  # updates between two checks
    check_episodes: int = 448  # episodes of a check, over all tasks
    settled: int = 3  # checks in a row without a wrong answer at k_max that end training early; 0: never
    entities: int = 24  # of a training world
    relations: int = 4  # of a training world

    def __post_init__(self) -> None:
        from memspan.longterm.get_go.tasks import TASKS

        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise InputError(f"no task is called {unknown[:1] or '(none)'}; tasks: {', '.join(TASKS)}")
        for name in ("k_max", "check_every", "check_episodes", "relations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.entities <= self.k_max:
            raise InputError(f"entities must be more than k_max ({self.k_max}), not {self.entities}")
