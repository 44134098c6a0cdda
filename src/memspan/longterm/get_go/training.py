"""Advantage actor-critic from random weights, with a curriculum; and imitation of the oracle, for comparison."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError
from memspan.longterm.get_go.config import Curriculum, ReasonerConfig
from memspan.longterm.get_go.tasks import TOKEN_KINDS, Batch, Machine, Worlds, join
from memspan.models.hardware import torch_threads
from memspan.models.progress import progress_bar

FORMAT = "memspan-get-go-1"


class Policy(nn.Module):
    """Two tanh layers, a head over operations and a head for the value. [B, features] -> [B, operations], [B]."""

    def __init__(self, config: ReasonerConfig) -> None:
        super().__init__()
        features = config.window * (TOKEN_KINDS + config.d) + 4 + 2 * config.d
        features += config.window + 1 if config.positions == "absolute" else 0
        self.body = nn.Sequential(
            nn.Linear(features, config.hidden), nn.Tanh(), nn.Linear(config.hidden, config.hidden), nn.Tanh()
        )
        self.operations = nn.Linear(config.hidden, config.window + 6)
        self.value = nn.Linear(config.hidden, 1)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of operations before the mask, and the value."""
        hidden = self.body(seen)
        return self.operations(hidden), self.value(hidden).squeeze(-1)


def greedy(policy: Policy, batch: Batch, config: ReasonerConfig) -> tuple[Machine, float]:
    """Run every episode to its end with the best operation.

    Returns:
        The machine, and the share of decisions in which the best operation was impossible, so that the mask acted.
    """
    machine = Machine(batch, config.window, config.positions)
    acted = decided = 0
    with torch.inference_mode():
        while not bool(machine.done.all()):
            seen, possible = machine.observe()
            scores = policy(seen)[0]
            live = ~machine.done
            wanted = scores.argmax(1)
            acted += int((~possible[machine.rows, wanted] & live).sum())
            decided += int(live.sum())
            machine.step(scores.masked_fill(~possible, -torch.inf).argmax(1))
    return machine, acted / max(1, decided)


class Trainer:
    """The state of a training run: policy, optimizer, random numbers, curriculum and log."""

    def __init__(self, config: ReasonerConfig, curriculum: Curriculum, seed: int, imitated: int = 0) -> None:
        if imitated < 0:
            raise InputError(f"imitated must not be negative, but it is {imitated}")
        self.config, self.curriculum, self.seed, self.imitated = config, curriculum, seed, imitated
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = Policy(config)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates, self.perfect = 0, 0
        self.k = [1] * len(curriculum.tasks)  # K of each task: one that is hard holds none of the others back
        self.log: list[dict[str, float]] = []

    @property
    def worlds(self) -> Worlds:
        """What training worlds are drawn from."""
        return Worlds(entities=self.curriculum.entities, relations=self.curriculum.relations, d=self.config.d)

    def draw(self, episodes: int, *, exactly_k: bool = False) -> Batch:
        """Episodes spread evenly over the tasks, hops uniform in 1..K of each task, or all K."""
        tasks = self.curriculum.tasks
        parts = []
        share = -(-episodes // len(tasks))
        for number, task in enumerate(tasks):
            k = self.k[number]
            hops = torch.randint(k if exactly_k else 1, k + 1, (share,), generator=self.generator)
            parts.append(self.worlds.draw(task, hops, self.generator))
        return join(parts)

    def run(self, *, budget_s: float, updates: int | None, progress: bool = False) -> None:
        """Train until the budget of seconds, the number of updates (counted from the first), or settled answers."""
        begun = time.perf_counter()
        total = updates or 1000
        with torch_threads(1), progress_bar("training the reasoner", total, force=progress) as advance:
            while updates is None or self.updates < updates:
                if self._settled() or time.perf_counter() - begun > budget_s:
                    return
                self._update(imitating=self.updates < self.imitated)
                self.updates += 1
                if self.updates % self.curriculum.check_every == 0:
                    self._check()
                advance(1)

    def _settled(self) -> bool:
        return 0 < self.curriculum.settled <= self.perfect

    def _check(self) -> None:
        batch = self.draw(self.curriculum.check_episodes, exactly_k=True)
        machine, acted = greedy(self.policy, batch, self.config)
        size = -(-self.curriculum.check_episodes // len(self.curriculum.tasks))
        accuracy = [float(part.float().mean()) for part in torch.split(machine.right, size)]
        self.log.append(
            {
                "update": self.updates,
                "hops": min(self.k),
                "accuracy": float(machine.right.float().mean()),
                "worst_task": min(accuracy),
                "mask_acted": acted,
            }
        )
        k_max = self.curriculum.k_max
        self.perfect = self.perfect + 1 if min(self.k) == k_max and bool(machine.right.all()) else 0
        self.k = [min(k + (share > self.curriculum.pass_at), k_max) for k, share in zip(self.k, accuracy, strict=True)]

    def _update(self, *, imitating: bool) -> None:
        config = self.config
        machine = Machine(self.draw(config.batch), config.window, config.positions)
        seen_all, masks, chosen, lives = [], [], [], []
        with torch.no_grad():
            while not bool(machine.done.all()):
                seen, possible = machine.observe()
                if imitating:
                    operation = machine.oracle()
                else:
                    scores = self.policy(seen)[0].masked_fill(~possible, -torch.inf)
                    operation = torch.multinomial(scores.softmax(1), 1, generator=self.generator).squeeze(1)
                live = ~machine.done
                seen_all.append(seen[live])
                masks.append(possible[live])
                chosen.append(operation[live])
                lives.append(live)
                machine.step(operation)
        alive = torch.stack(lives)
        cost = config.step_cost / machine.batch.size.float()
        remaining = alive.flip(0).cumsum(0).flip(0)
        returns = (machine.right.float() - cost * remaining)[alive]
        scores, value = self.policy(torch.cat(seen_all))
        logits = scores.masked_fill(~torch.cat(masks), -torch.inf).log_softmax(1)
        taken = logits.gather(1, torch.cat(chosen)[:, None]).squeeze(1)
        if imitating:
            loss = -taken.mean()
        else:
            entropy = -(logits.exp() * logits.masked_fill(~torch.cat(masks), 0.0)).sum(1)
            advantage = returns - value.detach()
            loss = (
                -(advantage * taken).mean()
                + config.value_weight * (returns - value).square().mean()
                - config.entropy_weight * entropy.mean()
            )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), config.clip)
        self.optimizer.step()

    # --- checkpoints ---

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which training goes on exactly: safetensors, with everything else as JSON in it."""
        from safetensors.torch import save_file

        tensors = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        tensors["random"] = self.generator.get_state()
        state = {
            "format": FORMAT,
            "config": asdict(self.config),
            "curriculum": asdict(self.curriculum),
            **{name: getattr(self, name) for name in ("seed", "imitated", "updates", "k", "perfect", "log")},
        }
        draft = Path(f"{path}.part")
        try:
            save_file(
                {name: value.contiguous() for name, value in tensors.items()}, draft, {"state": json.dumps(state)}
            )
            draft.replace(path)
        except OSError as error:
            raise InputError(f"the policy cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Trainer:
        """Read a checkpoint.

        Raises:
            InputError: the file is missing or was not written by `save`.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                state: dict[str, Any] = json.loads((file.metadata() or {}).get("state", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a policy: {error}") from error
        if state.get("format") != FORMAT:
            raise InputError(f"{path} is not a policy of get-go; write one with: SmallWindowReasoner.save(path)")
        curriculum = Curriculum(**{**state["curriculum"], "tasks": tuple(state["curriculum"]["tasks"])})
        trainer = cls(ReasonerConfig(**state["config"]), curriculum, state["seed"], state["imitated"])
        trainer.policy.load_state_dict({n[7:]: t for n, t in tensors.items() if n.startswith("policy.")})
        trainer.generator.set_state(tensors["random"])
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                adam.setdefault(int(number), {})[key] = value
        groups = trainer.optimizer.state_dict()["param_groups"]
        trainer.optimizer.load_state_dict({"state": adam, "param_groups": groups})
        for name in ("updates", "k", "perfect", "log"):
            setattr(trainer, name, state[name])
        return trainer
