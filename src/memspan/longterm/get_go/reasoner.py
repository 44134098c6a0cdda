"""`SmallWindowReasoner`: training, and answering one question over a bank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint
from memspan.longterm.get_go.bank import KnowledgeBank, Named
from memspan.longterm.get_go.config import Curriculum, ReasonerConfig
from memspan.longterm.get_go.tasks import BACK, COUNT, ELSE, END, ENTITY, RELATION, TOKEN_KINDS
from memspan.longterm.get_go.training import Trainer
from memspan.models.base import Vectors

AFTER_WINDOW = ("advance", "write", "read", "tally", "answer", "abstain")


@dataclass(frozen=True, slots=True)
class Step:
    """One place of a question's path; a plain string is `Step(name)`, which follows a relation.

    Attributes:
        name: of a relation, or of an entity; "" for "back".
        kind: "relation"; "else", followed only if the look-up before found nothing; "count", how often the relation
            can be followed (last place only); "entity", keep the entity reached and go on from this one; "back", go
            back to the one that was kept.
    """

    name: str
    kind: str = "relation"


KINDS = {"relation": RELATION, "else": ELSE, "count": COUNT, "entity": ENTITY, "back": BACK}


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer.

    Attributes:
        value: an entity's name, a count, or None: the bank does not hold what is needed (or two ends differ).
        finished: whether the policy answered within its horizon.
        trace: an item for each operation: "op"; "read" and "source" where something was read.
        steps: operations.
        peak_window: most tokens of the question in sight at once.
        names: names that were not written as in the bank, and what each was taken for (None: nothing is near).
    """

    value: str | int | None
    finished: bool
    trace: list[dict[str, Any]] = field(repr=False)
    steps: int
    peak_window: int
    names: dict[str, str | None] = field(default_factory=dict)


class SmallWindowReasoner:
    """A policy that sees `window` tokens of a question and looks everything else up in a bank.

    Args:
        window, d: constants that are set most often; `config` holds them all.
        config: in place of window and d.
    """

    Config = ReasonerConfig

    def __init__(self, window: int = 1, d: int = 16, *, config: ReasonerConfig | None = None) -> None:
        self.config = config or replace(ReasonerConfig(), window=window, d=d)
        self.trainer: Trainer | None = None

    def pretrain(
        self,
        tasks: Curriculum | None = None,
        budget_s: float = 120.0,
        *,
        updates: int | None = None,
        seed: int = 0,
        imitated: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> list[dict[str, float]]:
        """Train from random weights by reward, or go on where a checkpoint of the same settings stopped.

        Args:
            tasks: the curriculum.
            budget_s: seconds after which training stops; with the same number of updates a seed gives the same policy.
            updates: most updates, counted from the first one.
            seed: of weights, worlds and choices.
            imitated: the first so many updates imitate an oracle instead (the paper's supervised arm).
            checkpoint: read first if it exists, written at the end and when interrupted.
            progress: show a bar when stderr is no terminal too.

        Returns:
            The log: update, hops, accuracy, worst_task, and mask_acted of every check.

        Raises:
            InputError: the checkpoint was made with other settings.
        """
        curriculum = tasks or Curriculum()
        trainer = Trainer(self.config, curriculum, seed, imitated)
        if checkpoint is not None and Path(checkpoint).exists():
            trainer = Trainer.load(checkpoint)
            held = (trainer.config, trainer.curriculum, trainer.seed, trainer.imitated)
            if held != (self.config, curriculum, seed, imitated):
                raise InputError(f"{checkpoint} was made with other settings; name another file, or the same settings")
        self.trainer = trainer
        try:
            trainer.run(budget_s=budget_s, updates=updates, progress=progress)
        finally:
            if checkpoint is not None:
                trainer.save(checkpoint)
        return trainer.log

    def save(self, path: str | Path) -> None:
        """Write the policy with its training state (safetensors)."""
        self._trained().save(path)

    @classmethod
    def load(cls, path: str | Path) -> SmallWindowReasoner:
        """A reasoner from a file that `save` or `pretrain(checkpoint=)` wrote.

        Raises:
            InputError: no such file, or another one.
        """
        trainer = Trainer.load(path)
        reasoner = cls(config=trainer.config)
        reasoner.trainer = trainer
        return reasoner

    def footprint(self) -> Footprint:
        """Bytes of the policy's weights."""
        policy = self._trained().policy
        return Footprint.of("weights", "ram", sum(p.numel() * p.element_size() for p in policy.parameters()))

    def _trained(self) -> Trainer:
        if self.trainer is None:
            raise InputError("the reasoner is not trained: call pretrain(), or load() a policy")
        return self.trainer

    def solve(self, bank: KnowledgeBank, start: str, path: Sequence[str | Step]) -> Solution:
        """Answer one question by the policy's best operations; no weight changes.

        Raises:
            InputError: not trained, a bank of other dimensions, an empty path, a name without a code, a step of an
                unknown kind, or a path longer than an absolute window.
        """
        policy, w = self._trained().policy, self.config.window
        if bank.dim != self.config.d:
            raise InputError(f"the bank's codes have {bank.dim} dimensions, the policy's {self.config.d}")
        places = [step if isinstance(step, Step) else Step(step) for step in path]
        if isinstance(path, str) or not places:
            raise InputError("path must be a list of relations, one or more")
        if any(step.kind not in KINDS for step in places):
            raise InputError(f"a step's kind must be one of {', '.join(KINDS)}")
        if any(step.kind == "count" for step in places[:-1]):
            raise InputError("only the last step can be a count")
        absolute = self.config.positions == "absolute"
        if absolute and len(places) > w:
            raise InputError(f"the path has {len(places)} steps and the policy's absolute window {w}")
        run = _Run(bank, start, places, w, absolute)
        horizon = 3 * (len(places) + len(bank) * (places[-1].kind == "count")) + 2
        with torch.inference_mode():
            while not run.done and run.steps < horizon:
                seen, possible = run.observe()
                scores = policy(torch.from_numpy(seen)[None])[0][0]
                run.step(int(scores.masked_fill(~torch.from_numpy(possible), -torch.inf).argmax()))
        return Solution(run.value, run.done, run.trace, run.steps, run.peak, run.names)

    def successful_reads(
        self, bank: KnowledgeBank, questions: Iterable[tuple[str, Sequence[str | Step], str | int]], tries: int = 8
    ) -> list[tuple[str, str]]:
        """What a query adapter learns from: names as asked, and the held entity with which the episode was right.

        The start of each (start, path, answer) is read as its nearest entities in turn until the answer comes out.

        Raises:
            InputError: as `solve`.
        """
        found = []
        for start, path, answer in questions:
            for named in bank.candidates(start, tries):
                if named.held and self.solve(bank, named.name, path).value == answer:
                    found.append((start, named.name))
                    break
        return found


class _Run:
    """One question under way: `Machine` for a single episode, whose reads go to the bank."""

    def __init__(self, bank: KnowledgeBank, start: str, places: list[Step], window: int, absolute: bool) -> None:
        self.bank, self.places, self.window, self.absolute = bank, places, window, absolute
        zero = np.zeros(bank.dim, np.float32)
        self.names: dict[str, str | None] = {}
        tokens = [
            None if step.kind == "back" else self._named(step.name, relation=step.kind != "entity") for step in places
        ]
        self.codes = [zero if token is None else token.code for token in tokens]
        self.tokens = ["" if token is None else token.name for token in tokens]
        begin = self._named(start)
        self.register: tuple[str, Vectors] = (begin.name, begin.code)
        self.kept: tuple[str, Vectors] | None = None
        self.cursor = self.tally = self.steps = self.peak = 0
        self.looked = self.null = self.done = False
        self.value: str | int | None = None
        self.trace: list[dict[str, Any]] = []

    def _named(self, name: str, *, relation: bool = False) -> Named:
        named = self.bank.resolve(name, relation=relation)
        if not named.held or named.cosine < 1.0:
            self.names[name] = named.name if named.held else None
        return named

    def _kind(self, place: int) -> int:
        return KINDS[self.places[place].kind] if place < len(self.places) else END

    def observe(self) -> tuple[Vectors, Any]:
        """The features and the possible operations, laid out as `Machine.observe` does."""
        begin = 0 if self.absolute else self.cursor
        shown = range(begin, begin + self.window)
        kinds = [self._kind(place) for place in shown]
        self.peak = max(self.peak, sum(kind != END for kind in kinds))
        zero = np.zeros(self.bank.dim, np.float32)
        same = self.kept is not None and self.kept[0] == self.register[0]
        parts = [np.eye(TOKEN_KINDS, dtype=np.float32)[kinds].ravel()]
        parts.append(np.array([self.looked, self.null, self.kept is not None, same], np.float32))
        parts += [self.codes[place] if place < len(self.codes) else zero for place in shown]
        parts += [self.register[1], zero if self.kept is None else self.kept[1]]
        if self.absolute:
            parts.append(np.eye(self.window + 1, dtype=np.float32)[self.cursor])
        under = self._kind(self.cursor)
        possible = [kind != END for kind in kinds]
        possible += [under != END, True, self.kept is not None, under == COUNT, True, True]
        return np.concatenate(parts), np.array(possible)

    def step(self, operation: int) -> None:
        """One operation."""
        self.steps += 1
        if operation < self.window:
            self._look_up((0 if self.absolute else self.cursor) + operation)
            return
        name = AFTER_WINDOW[operation - self.window]
        self.trace.append({"op": name})
        if name == "advance":
            self.cursor, self.looked = self.cursor + 1, False
        elif name == "write":
            self.kept = self.register
        elif name == "read" and self.kept is not None:
            self.register, self.kept = self.kept, None
        elif name == "tally":
            self.tally, self.looked = self.tally + 1, False
        elif name in ("answer", "abstain"):
            self.done = True
            if name == "answer":
                self.value = self.tally if self._kind(self.cursor) == COUNT else self.register[0]

    def _look_up(self, place: int) -> None:
        step, self.looked = self.places[place], True
        item: dict[str, Any] = {"op": "lookup", "token": step.name, "read": None, "source": ()}
        self.trace.append(item)
        if step.kind == "entity":
            self.register, self.null = (self.tokens[place], self.codes[place]), False
            item["read"] = self.tokens[place]
            return
        found = None if step.kind == "back" else self.bank.read(self.register[1], self.codes[place])
        self.null = found is None
        if found is not None:
            self.register = (found.value, self.bank.code(found.value))
            item |= {"read": found.value, "source": found.sources, "key": found.key, "cosine": found.cosine}
            item |= {"others": found.others} if found.others else {}
