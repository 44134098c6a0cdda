"""What a system is compared with: the full cache, sinks and a window, chance, and two attention scores.

`SnapKv` and `H2o` follow the idea of their papers (Li et al. 2024, arXiv 2404.14469; Zhang et al. 2023, arXiv
2306.14048) in the streaming form of this package: room is made whenever the buffer is full, not once after a prefill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool1d

from memspan.context import attention
from memspan.context.base import ContextConfig, ContextSystem
from memspan.context.cache import SlotCache
from memspan.context.slots import Slots, Track
from memspan.context.step import Call, Step
from memspan.core.errors import InputError


class Full(ContextSystem):
    """Keeps everything: the fastest exact cache, and the ceiling of every comparison."""

    bounded = False

    def reason(self, track: Track) -> list[str]:
        """Everything is kept."""
        return ["all"] * track.n


class Aside(Full):
    """Reads one pass and keeps none of its keys and values, not even until the next layer."""

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: Slots, step: Step, call: Call
    ) -> torch.Tensor:
        """The exact attention of the pass over itself."""
        q, k = self.family.rotate_both(layer, q, k, step.rope, step.angles)
        return self.over(q, k, v, slots, step, call)


class Window(ContextSystem):
    """Sinks and the latest tokens at their place in the buffer: StreamingLLM (Xiao et al. 2023, arXiv 2309.17453)."""

    as_slots = True


@dataclass(frozen=True, kw_only=True)
class RandomConfig(ContextConfig):
    """Settings of `Random`."""

    recent: int = 32  # latest tokens that always stay
    seed: int = 0  # of the choice


class Random(ContextSystem):
    """Sinks, a few recent tokens, and a random choice of the others."""

    Config = RandomConfig
    as_slots = True

    @property
    def reserved(self) -> int:
        """Sinks, recent tokens and one more."""
        return int(self.config.sinks + self.config.recent + 1)

    def end(self, step: Step, cache: SlotCache, surprisal: torch.Tensor | None) -> None:
        """A lot for each new token, drawn once."""
        chance = torch.Generator().manual_seed(self.config.seed * 1_000_003 + cache.tracks[0].seen)
        for track in cache.tracks:
            drawn = torch.rand(track.pos.shape[0], track.heads, step.count, generator=chance)
            track.score[:, :, track.n - step.count : track.n] = drawn.to(track.score.device)

    def priority(self, track: Track) -> torch.Tensor:
        """The lot, and the latest above all."""
        return _recent_first(track.score[:, :, : track.n], self.config.recent)

    def reason(self, track: Track) -> list[str]:
        """First, recent or chance."""
        return _reasons(self, track, "chance")


@dataclass(frozen=True, kw_only=True)
class AttentionScoreConfig(ContextConfig):
    """Settings of `SnapKv` and `H2o`."""

    recent: int = 32  # latest tokens that always stay; SnapKV's observation window
    kernel: int = 5  # width of SnapKV's pooling over neighbours, odd

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recent < 1:
            raise InputError(f"recent is {self.recent}: it must be at least 1")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"kernel is {self.kernel}: it must be odd and at least 1")


class _AttentionScore(ContextSystem):
    Config = AttentionScoreConfig
    per_head = True
    as_slots = True
    trees = False

    @property
    def reserved(self) -> int:
        """Sinks, recent tokens and one more."""
        return int(self.config.sinks + self.config.recent + 1)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: Slots, step: Step, call: Call
    ) -> torch.Tensor:
        """The exact attention, and how much of it each slot got."""
        out = super().attend(layer, q, k, v, slots, step, call)
        rows = self.observed(step)
        q = self.family.rotate(layer, q[:, :, -rows:], step.rope[:, -rows:])
        track = slots.track
        seen = attention.visible(step.pos[:, -rows:], track.pos[:, :, : track.n], call.window)
        shares = attention.weights(
            attention.scores(q, slots.view()[0], call.scaling), seen, softcap=call.softcap, sinks=call.sinks
        )
        shares = shares * (step.pos[:, None, None, -rows:, None] >= 0)
        self.observe(track, shares.sum((2, 3)))
        return out

    def observed(self, step: Step) -> int:
        """How many of the last queries vote."""
        raise NotImplementedError

    def observe(self, track: Track, votes: torch.Tensor) -> None:
        """Take the votes [B, H, n] into the score."""
        raise NotImplementedError

    def priority(self, track: Track) -> torch.Tensor:
        """The score, and the latest above all."""
        return _recent_first(track.score[:, :, : track.n], self.config.recent)

    def reason(self, track: Track) -> list[str]:
        """First, recent or attended."""
        return _reasons(self, track, "attended")


class SnapKv(_AttentionScore):
    """Keeps, per head, the tokens that the last queries attended to, with their neighbours."""

    def observed(self, step: Step) -> int:
        """The observation window."""
        return min(step.count, int(self.config.recent))

    def observe(self, track: Track, votes: torch.Tensor) -> None:
        """The latest window alone counts, smoothed over neighbours."""
        half = self.config.kernel // 2
        track.score[:, :, : track.n] = avg_pool1d(votes, self.config.kernel, 1, half, count_include_pad=False)


class H2o(_AttentionScore):
    """Keeps, per head, the heavy hitters: the tokens with the most attention over the whole stream."""

    def observed(self, step: Step) -> int:
        """Every query."""
        return step.count

    def observe(self, track: Track, votes: torch.Tensor) -> None:
        """Votes add up."""
        track.score[:, :, : track.n] += votes


def _recent_first(score: torch.Tensor, recent: int) -> torch.Tensor:
    rank = score.clone()
    if recent:
        rank[:, :, -recent:] = float("inf")
    return rank


def _reasons(system: ContextSystem, track: Track, otherwise: str) -> list[str]:
    recent = track.n - system.config.recent
    pos = track.pos[0, 0, : track.n].tolist()
    return [
        "first" if 0 <= at < system.config.sinks else "recent" if i >= recent else otherwise for i, at in enumerate(pos)
    ]


BASELINES: dict[str, type[ContextSystem]] = {
    "full": Full,
    "window": Window,
    "random": Random,
    "snapkv": SnapKv,
    "h2o": H2o,
}
