"""The MuZero agent: plays the game by a tree search inside a model that it learned from the games it has played.

h: representation, observation -> hidden state; g: dynamics, hidden state and action -> hidden state and reward; f:
prediction, hidden state -> policy over the three actions and value (Schrittwieser et al. 2020, arXiv 1911.08265). The
nets are small, so that the search evaluates them in numpy; PyTorch trains them. Rewards are in
units of the greedy mapping's benefit by decision, since benefits span many orders of magnitude from program to program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from memspan.core.errors import InputError
from memspan.training.mallocmuzero.game import Action, MallocGame, Program
from memspan.training.mallocmuzero.tree import EXPLORE

Vector = npt.NDArray[np.float32]
ACTIONS = len(Action)


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Settings of the agent (the report does not give its own).

    Raises:
        InputError: a number is out of range.
    """

    hidden: int = 64  # width of the nets and of the hidden state
    simulations: int = 32  # of the tree search before each decision
    rows: int = 32  # of the observed grid, addresses
    columns: int = 64  # of the observed grid, time
    unroll: int = 4  # steps of the model that are trained together (MuZero: 5)
    horizon: int = 10  # n of n-step returns (MuZero: 10 for Atari)
    discount: float = 0.95  # of what follows, a decision: what a decision does shows within some dozens
    batch: int = 64  # positions of a training step
    updates: int = 8  # training steps after each game
    memory: int = 100  # games that are kept for training
    rate: float = 2e-3  # of Adam
    noise: float = 0.25  # part of Dirichlet noise in the root's policy (MuZero: 0.25)
    concentration: float = 0.5  # of that noise

    def __post_init__(self) -> None:
        for name in ("hidden", "simulations", "rows", "columns", "unroll", "horizon", "batch", "updates", "memory"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.rate > 0 or not self.concentration > 0:
            raise InputError("rate and concentration must be above 0")
        if not 0 <= self.noise <= 1 or not 0 <= self.discount <= 1:
            raise InputError("noise and discount must be between 0 and 1")


class Nets(nn.Module):
    """h, g and f, each of two or three layers."""

    def __init__(self, observed: int, width: int) -> None:
        super().__init__()
        self.h1, self.h2 = nn.Linear(observed, width), nn.Linear(width, width)
        self.g1, self.g2 = nn.Linear(width + ACTIONS, width), nn.Linear(width, width)
        self.reward = nn.Linear(width, 1)
        self.f1 = nn.Linear(width, width)
        self.policy, self.value = nn.Linear(width, ACTIONS), nn.Linear(width, 1)

    def represent(self, seen: Tensor) -> Tensor:
        """Hidden states [batch, width] of observations [batch, observed]."""
        return _scaled(self.h2(torch.relu(self.h1(seen))))

    def advance(self, hidden: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Next hidden states [batch, width] and rewards [batch] for actions [batch]."""
        inner = torch.relu(self.g1(torch.cat([hidden, nn.functional.one_hot(actions, ACTIONS).float()], -1)))
        return _scaled(hidden + self.g2(inner)), self.reward(inner).squeeze(-1)

    def predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the policy [batch, 3] and values [batch]."""
        inner = torch.relu(self.f1(hidden))
        return self.policy(inner), self.value(inner).squeeze(-1)


def _scaled(hidden: Tensor) -> Tensor:
    low, high = hidden.amin(-1, keepdim=True), hidden.amax(-1, keepdim=True)
    return (hidden - low) / (high - low + 1e-5)


class Model:
    """The nets' weights in numpy, for one state at a time."""

    def __init__(self, nets: Nets) -> None:
        self.w: dict[str, Vector] = {name: value.detach().numpy() for name, value in nets.state_dict().items()}

    def _linear(self, name: str, x: Vector) -> Vector:
        out: Vector = self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]
        return out

    def represent(self, seen: Vector) -> Vector:
        """`Nets.represent` of one observation."""
        return _numpy_scaled(self._linear("h2", np.maximum(self._linear("h1", seen), 0)))

    def advance(self, hidden: Vector, action: int) -> tuple[Vector, float]:
        """`Nets.advance` of one state."""
        width = len(hidden)
        first = self.w["g1.weight"]
        inner = np.maximum(first[:, :width] @ hidden + first[:, width + action] + self.w["g1.bias"], 0)
        return _numpy_scaled(hidden + self._linear("g2", inner)), float(self._linear("reward", inner)[0])

    def predict(self, hidden: Vector) -> tuple[Vector, float]:
        """Policy [3], which sums to 1, and value."""
        inner = np.maximum(self._linear("f1", hidden), 0)
        logits = self._linear("policy", inner)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum(), float(self._linear("value", inner)[0])


def _numpy_scaled(hidden: Vector) -> Vector:
    low, high = hidden.min(), hidden.max()
    scaled: Vector = (hidden - low) / (high - low + np.float32(1e-5))
    return scaled


class _Node:
    """A state of the model: what followed from it, by action."""

    __slots__ = ("children", "hidden", "priors", "rewards", "values", "visits")

    def __init__(self, hidden: Vector, priors: dict[int, float]) -> None:
        self.hidden, self.priors = hidden, priors
        self.children: dict[int, _Node] = {}
        self.visits = dict.fromkeys(priors, 0)
        self.values = dict.fromkeys(priors, 0.0)  # sums of what followed, the reward of the step with it
        self.rewards = dict.fromkeys(priors, 0.0)


@dataclass
class _Game:
    """A game that was played, as training needs it: one entry for each decision."""

    seen: list[Vector] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    policies: list[Vector] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class Agent:
    """Learns one program by playing it.

    Args:
        program: what is played.
        config: see `AgentConfig`.
        seed: of the nets' first weights and of all draws.

    Attributes:
        best: the finished game with the largest benefit, None before the first.
        played: games so far.
    """

    def __init__(self, program: Program, config: AgentConfig | None = None, *, seed: int = 0) -> None:
        from memspan.training.mallocmuzero.mapping import greedy

        self.program, self.config = program, config or AgentConfig()
        self.best: MallocGame | None = None
        self.played = 0
        self.unit = (greedy(program)[1] or program.total) / len(program.turns)
        self._chance = np.random.default_rng(seed)
        observed = len(MallocGame(program).observe(self.config.rows, self.config.columns))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.nets = Nets(observed, self.config.hidden)
        self._optimizer = torch.optim.Adam(self.nets.parameters(), lr=self.config.rate)
        self._games: list[_Game] = []
        self.model = Model(self.nets)

    def play(self, *, explore: bool = True) -> MallocGame:
        """Play one game, and keep it for training where it explores; without, the most visited action is taken."""
        game, kept = MallocGame(self.program), _Game()
        while not game.over:
            legal = [int(action) for action in game.legal_actions()]
            seen = game.observe(self.config.rows, self.config.columns)
            visits, value = self._search(seen, legal, len(self.program.turns) - game.turn, explore)
            policy = visits / visits.sum()
            action = int(self._chance.choice(ACTIONS, p=policy)) if explore else int(policy.argmax())
            reward = game.step(action) / self.unit
            kept.seen.append(seen)
            kept.actions.append(action)
            kept.rewards.append(reward)
            kept.policies.append(policy.astype(np.float32))
            kept.values.append(value)
        self.played += 1
        if explore:
            self._games = [*self._games, kept][-self.config.memory :]
        if self.best is None or game.benefit > self.best.benefit:
            self.best = game
        return game

    def _search(self, seen: Vector, legal: list[int], left: int, explore: bool) -> tuple[npt.NDArray[Any], float]:
        """Visits of each action [3] and the value of the present state; only legal actions are tried at the root."""
        config, model = self.config, self.model
        visits = np.zeros(ACTIONS)
        hidden = model.represent(seen)
        policy, value = model.predict(hidden)
        if len(legal) == 1:
            visits[legal[0]] = 1
            return visits, value
        noise = self._chance.dirichlet([config.concentration] * len(legal)) if explore else np.zeros(len(legal))
        share = config.noise if explore else 0.0
        known = sum(float(policy[a]) for a in legal)
        priors = {a: (1 - share) * float(policy[a]) / known + share * float(noise[i]) for i, a in enumerate(legal)}
        root = _Node(hidden, priors)
        low, high = math.inf, -math.inf
        for _ in range(config.simulations):
            node, path = root, []
            while True:
                action = _choose(node, low, high)
                path.append((node, action))
                if action not in node.children or len(path) >= left:
                    break
                node = node.children[action]
            node, action = path[-1]
            hidden, reward = model.advance(node.hidden, action)
            policy, leaf = model.predict(hidden)
            node.rewards[action] = reward
            if len(path) < left:
                node.children[action] = _Node(hidden, dict(enumerate(policy.tolist())))
            else:
                leaf = 0.0  # nothing is left to decide
            for node, action in reversed(path):
                leaf = node.rewards[action] + config.discount * leaf
                node.visits[action] += 1
                node.values[action] += leaf
                mean = node.values[action] / node.visits[action]
                low, high = min(low, mean), max(high, mean)
        for action, n in root.visits.items():
            visits[action] = n
        return visits, sum(root.values.values()) / max(1, sum(root.visits.values()))

    def learn(self) -> float:
        """Train on the games that were kept; returns the mean loss."""
        config = self.config
        total = 0.0
        for _ in range(config.updates):
            loss = self._loss(*self._batch())
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.nets.parameters(), 5.0)
            self._optimizer.step()
            total += loss.item()
        self.model = Model(self.nets)
        return total / config.updates

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Observed [b, o]; actions [b, k]; rewards [b, k]; policies [b, k+1, 3]; values [b, k+1]; there [b, k+1]."""
        config = self.config
        b, k = config.batch, config.unroll
        actions, rewards = np.zeros((b, k), np.int64), np.zeros((b, k), np.float32)
        policies, values = np.zeros((b, k + 1, ACTIONS), np.float32), np.zeros((b, k + 1), np.float32)
        there = np.zeros((b, k + 1), np.float32)
        seen = []
        for row in range(b):
            game = self._games[int(self._chance.integers(len(self._games)))]
            start = int(self._chance.integers(len(game.actions)))
            seen.append(game.seen[start])
            for step in range(k + 1):
                at = start + step
                if at >= len(game.actions):
                    break
                end = at + config.horizon
                later = game.values[end] if end < len(game.values) else 0.0
                for reward in game.rewards[at:end][::-1]:
                    later = reward + config.discount * later
                values[row, step] = later
                policies[row, step], there[row, step] = game.policies[at], 1.0
                if step < k:
                    actions[row, step], rewards[row, step] = game.actions[at], game.rewards[at]
        arrays = (np.stack(seen), actions, rewards, policies, values, there)
        one, two, three, four, five, six = (torch.from_numpy(array) for array in arrays)
        return one, two, three, four, five, six

    def _loss(
        self, seen: Tensor, actions: Tensor, rewards: Tensor, policies: Tensor, values: Tensor, there: Tensor
    ) -> Tensor:
        steps = actions.shape[1]
        hidden = self.nets.represent(seen)
        loss = torch.zeros(())
        for step in range(steps + 1):
            logits, value = self.nets.predict(hidden)
            cross = -(policies[:, step] * logits.log_softmax(-1)).sum(-1)
            loss = loss + ((cross + 0.25 * (value - values[:, step]).square()) * there[:, step]).mean()
            if step < steps:
                hidden, reward = self.nets.advance(hidden, actions[:, step])
                loss = loss + ((reward - rewards[:, step]).square() * there[:, step]).mean()
        return loss


def _choose(node: _Node, low: float, high: float) -> int:
    total = math.sqrt(1 + sum(node.visits.values()))

    def score(action: int) -> float:
        n = node.visits[action]
        mean = 0.0
        if n:
            mean = node.values[action] / n
            mean = (mean - low) / (high - low) if high > low else 0.5
        return mean + EXPLORE * node.priors[action] * total / (1 + n)

    return max(node.priors, key=score)
