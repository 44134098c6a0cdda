"""Examples and batches: every batch from one task, so that a query's in-batch negatives are keys of its own task."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

from memspan.core.errors import InputError

Positive = Literal["first", "random", "teacher"]
Negatives = Literal["first", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A query with keys to tell apart.

    Attributes:
        positives: at least one.
        negatives: at least one where batches have more than one key a query.
        rewards: one a key, the positives' first; None where nothing was judged.
        answer: what a language model is to say after the query; only rewards are made from it.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    rewards: tuple[float, ...] | None = None
    answer: str = ""

    def __post_init__(self) -> None:
        if not self.positives:
            raise InputError(f"the query {self.query[:60]!r} has no positive key")
        keys = len(self.positives) + len(self.negatives)
        if self.rewards is not None and len(self.rewards) != keys:
            raise InputError(f"the query {self.query[:60]!r} has {keys} keys and {len(self.rewards)} rewards")


@dataclass(frozen=True, slots=True)
class TaskSet:
    """The examples of one task and how a query's keys are drawn from them.

    Attributes:
        task: its name, under which an encoder may hold instructions.
        positive: the "first", a "random" one, or of all keys the one that the "teacher" rewards most.
        negatives: the "first" ones or "random" ones; where there are too few they are repeated in turn.
    """

    task: str
    examples: Sequence[Example]
    positive: Positive = "first"
    negatives: Negatives = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B queries with N keys each, the positive first; rewards `[B, N]`, or None where an example has none."""

    tasks: tuple[str, ...]
    queries: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    rewards: Tensor | None = None

    def ids(self) -> Tensor:
        """[B, N] int64, equal for keys of equal text."""
        return text_ids([key for row in self.keys for key in row]).view(len(self.keys), -1)


class HomogeneousBatches:
    """Batches by number, without end, the same for the same seed.

    An epoch shuffles each set, cuts it into whole batches (the rest waits for another epoch) and shuffles the list of
    batches. With `mixed` all sets are shuffled together instead, which is what the paper compares with.

    Args:
        sets: the tasks; a set named twice is drawn from twice as often.
        batch: B, queries a batch.
        keys: N, keys a query.
        mixed: batches of all tasks together.
        seed: of every draw.

    Raises:
        InputError: no set fills a batch, or an example has no negative where one is needed.
    """

    def __init__(
        self, sets: Sequence[TaskSet], *, batch: int, keys: int = 8, mixed: bool = False, seed: int = 0
    ) -> None:
        if batch < 1 or keys < 1:
            raise InputError(f"batch {batch} and keys {keys} must be at least 1")
        for task in sets:
            for example in task.examples:
                if keys > 1 and len(example.positives) + len(example.negatives) < 2:
                    raise InputError(f"the query {example.query[:60]!r} of task {task.task!r} has no negative key")
                if task.positive == "teacher" and example.rewards is None:
                    raise InputError(f"task {task.task!r} takes the teacher's positive, and an example has no rewards")
        pools = [[(task, example) for example in task.examples] for task in sets]
        self._pools = [[row for pool in pools for row in pool]] if mixed else pools
        self.batch, self.keys, self.seed = batch, keys, seed
        self._epoch: tuple[int, list[list[tuple[TaskSet, Example]]]] | None = None
        if not len(self):
            sizes = ", ".join(f"{task.task}: {len(task.examples)}" for task in sets) or "none"
            raise InputError(f"no set of examples fills a batch of {batch} ({sizes})")

    def __len__(self) -> int:
        """Batches an epoch."""
        return sum(len(pool) // self.batch for pool in self._pools)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch."""
        return (self[step] for step in range(len(self)))

    def __getitem__(self, step: int) -> Batch:
        """The batch of a training step, 0 and up."""
        epoch, place = divmod(step, len(self))
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._cut(random.Random(f"{self.seed} epoch {epoch}")))
        rows = self._epoch[1][place]
        chance = random.Random(f"{self.seed} step {step}")
        drawn = [self._draw(task, example, chance) for task, example in rows]
        judged = [rewards for _, rewards in drawn if rewards is not None]
        return Batch(
            tasks=tuple(task.task for task, _ in rows),
            queries=tuple(example.query for _, example in rows),
            keys=tuple(tuple(keys) for keys, _ in drawn),
            rewards=torch.tensor(judged, dtype=torch.float32) if len(judged) == len(drawn) else None,
        )

    def _cut(self, chance: random.Random) -> list[list[tuple[TaskSet, Example]]]:
        batches = []
        for pool in self._pools:
            rows = chance.sample(pool, len(pool))
            whole = len(rows) // self.batch * self.batch
            batches += [rows[start : start + self.batch] for start in range(0, whole, self.batch)]
        chance.shuffle(batches)
        return batches

    def _draw(self, task: TaskSet, example: Example, chance: random.Random) -> tuple[list[str], list[float] | None]:
        """A query's keys, the positive first, with their rewards."""
        keys = [*example.positives, *example.negatives]
        rewards = example.rewards
        first = 0
        if task.positive == "random":
            first = chance.randrange(len(example.positives))
        elif task.positive == "teacher" and rewards is not None:
            first = max(range(len(keys)), key=lambda i: rewards[i])
        others = [i for i in range(len(example.positives), len(keys)) if i != first]
        if not others:  # the only negative was the teacher's choice, or there never was one
            others = [i for i in range(len(keys)) if i != first]
        if task.negatives == "random":
            chance.shuffle(others)
        chosen = [first, *(others[i % len(others)] for i in range(self.keys - 1))]
        return [keys[i] for i in chosen], None if rewards is None else [rewards[i] for i in chosen]


def text_ids(texts: Sequence[str]) -> Tensor:
    """[n] int64, equal for equal texts, in every process."""
    digests = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)
