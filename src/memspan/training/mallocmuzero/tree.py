"""Monte Carlo tree search on the game itself: no model is learned, every simulation plays a whole game.

A simulation descends by pUCT to a decision that was never taken, goes on by a policy to the end, and gives its benefit
back along the way. The policy begins at what the greedy mapping does, and is drawn towards the decisions of the best
game so far (Rosin 2011, nested rollout policy adaptation), as MuZero's is towards its visits.
"""

from __future__ import annotations

import math

import numpy as np

from memspan.training.mallocmuzero.game import Action, MallocGame, Program

EXPLORE = 1.25  # pUCT's constant (MuZero: 1.25)
BIAS = 2.0  # of the policy's first logits towards the greedy mapping
RATE = 0.3  # of its adaptation, a simulation


class Node:
    """A decision in the tree: statistics of each of its actions, by action."""

    __slots__ = ("children", "priors", "values", "visits")

    def __init__(self, priors: dict[int, float]) -> None:
        self.priors = priors
        self.visits = dict.fromkeys(priors, 0)
        self.values = dict.fromkeys(priors, 0.0)
        self.children: dict[int, Node] = {}

    def choose(self) -> int:
        """The action with the highest upper confidence bound."""
        total = math.sqrt(1 + sum(self.visits.values()))

        def score(action: int) -> float:
            n = self.visits[action]
            mean = self.values[action] / n if n else 0.0
            return mean + EXPLORE * self.priors[action] * total / (1 + n)

        return max(self.priors, key=score)


class TreeSearch:
    """Search from the beginning of a program.

    Args:
        program: what is played.
        seed: of the policy's draws.

    Attributes:
        best: the finished game with the largest benefit, None before the first.
        played: simulations so far.
    """

    def __init__(self, program: Program, *, seed: int = 0) -> None:
        from memspan.training.mallocmuzero.mapping import greedy

        self.program = program
        self.best: MallocGame | None = None
        self.played = 0
        stays, _ = greedy(program)
        kept = {stay.buffer for stay in stays}
        self._logits = np.zeros((len(program.turns), len(Action)))
        for number, turn in enumerate(program.turns):
            self._logits[number, Action.DROP] = -BIAS if turn.buffer in kept else BIAS
            self._logits[number, Action.COPY] = -0.5
        self._chance = np.random.default_rng(seed)
        self._root: Node | None = None
        self._line: dict[int, tuple[list[Action], int]] = {}
        self._low, self._high = math.inf, -math.inf

    def _policy(self, turn: int, legal: list[Action]) -> dict[int, float]:
        logits = self._logits[turn, legal]
        weights = np.exp(logits - logits.max())
        return dict(zip(map(int, legal), (weights / weights.sum()).tolist(), strict=True))

    def simulate(self) -> float:
        """One simulation; returns the benefit of the game that it played."""
        game = MallocGame(self.program)
        path: list[tuple[Node, int]] = []
        taken: list[tuple[int, list[Action], int]] = []
        greedily = self.played == 0
        node = self._root
        grown = False
        while not game.over:
            legal = game.legal_actions()
            policy = self._policy(game.turn, legal)
            if not grown:
                if node is None:
                    node = Node(policy)
                    if path:
                        parent, action = path[-1]
                        parent.children[action] = node
                    else:
                        self._root = node
                    grown = True
                action = max(policy, key=lambda a: policy[a]) if greedily else node.choose()
                path.append((node, action))
                node = node.children.get(action)
            elif greedily or len(policy) == 1:
                action = max(policy, key=lambda a: policy[a])
            else:
                draw, action = self._chance.random(), int(legal[-1])
                for candidate, share in policy.items():
                    draw -= share
                    if draw < 0:
                        action = candidate
                        break
            taken.append((game.turn, legal, action))
            game.step(action)
            if game.turn != taken[-1][0] + 1:
                node, grown = None, True  # the game went back: what follows is not below this node
        self.played += 1
        self._low, self._high = min(self._low, game.benefit), max(self._high, game.benefit)
        value = (game.benefit - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        for passed, action in path:
            passed.visits[action] += 1
            passed.values[action] += value
        if self.best is None or game.benefit > self.best.benefit:
            self.best = game
            self._line = {turn: (legal, action) for turn, legal, action in taken}
        self._adapt()
        return game.benefit

    def _adapt(self) -> None:
        """Draw the policy towards the best game's decisions."""
        for turn, (legal, action) in self._line.items():
            for other, share in self._policy(turn, legal).items():
                self._logits[turn, other] += RATE * (float(other == action) - share)


def play_uniformly(program: Program, simulations: int, *, seed: int = 0) -> MallocGame:
    """A game by tree search that knows nothing: before each decision so many games, with uniform priors, to their end.

    What the agent is held against: the same number of simulations, the game itself in place of a learned model.
    """
    chance = np.random.default_rng(seed)
    game = MallocGame(program)
    low, high = math.inf, -math.inf
    while not game.over:
        legal = game.legal_actions()
        if len(legal) == 1:
            game.step(legal[0])
            continue
        root = _uniform(legal)
        for _ in range(simulations):
            trial, node, path = game.clone(), root, []
            while not trial.over:
                action = node.choose()
                path.append((node, action))
                trial.step(action)
                if trial.over:
                    break
                following = node.children.get(action)
                if following is None:
                    node.children[action] = _uniform(trial.legal_actions())
                    break
                now = trial.legal_actions()
                node = following if set(following.priors) == set(now) else _uniform(now)
            while not trial.over:
                open_now = trial.legal_actions()
                trial.step(open_now[int(chance.integers(len(open_now)))])
            low, high = min(low, trial.benefit), max(high, trial.benefit)
            value = (trial.benefit - low) / (high - low) if high > low else 0.5
            for passed, action in path:
                passed.visits[action] += 1
                passed.values[action] += value
        game.step(max(legal, key=lambda action: root.visits[action]))
    return game


def _uniform(legal: list[Action]) -> Node:
    return Node({int(action): 1 / len(legal) for action in legal})
