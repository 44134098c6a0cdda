"""Synaptic resonance (Applegarth et al. 2025, arXiv 2502.10699): what leaves the window is written into each head.

Beside a window of exact tokens every key head keeps a matrix of synapses S and a normaliser z. A token that leaves
the window is written, S <- lambda S + eta w v phi(k)^T, and every query reads m = S phi(q) / (z^T phi(q)), which is
mixed into the head's output by a share gamma. The weight w = 1 + kappa max(rho, 0) + mu max(-rho, 0) follows the
resonance rho, the cosine of what the synapses foretold for the key and what the token brought: kappa reinforces what
agrees, mu corrects what does not. Bytes are constant. Nothing is read until `fit` has learned: pre-trained heads do
not expect m.

Notable choices. Only the abstract of the paper could be had, which names no formula: all formulas are ours, from the
family of fast weights, and kappa = mu = 0 (`reinforce=False, correct=False`) is that family's plain form. phi(x) is
elu(x) + 1 over its length, of keys and queries as before the rotation. Tokens are written in chunks of `write`, and
resonance looks at S as it was at the chunk's start. Where S grows beyond `ceiling` times the root of its size, S and
z shrink alike. S and z are float32. lambda, eta, kappa and mu belong to key heads, gamma to query heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memspan.context.base import ContextConfig
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.learning import LearningSystem, Loss
from memspan.context.reader import Reader
from memspan.context.slots import Slots
from memspan.context.step import Call, Step
from memspan.core.errors import InputError

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class SynapticResonanceConfig(ContextConfig):
    """Settings of synaptic resonance; the window is `slots`.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    write: int = 64  # C: tokens written at once
    decay: float = 0.999  # lambda at the start, of each token
    reinforce: bool = True  # kappa: what agrees with the synapses counts more
    correct: bool = True  # mu: what contradicts them counts more
    share: float = -6.0  # a at the start: gamma = sigma(a)
    ceiling: float = 10.0  # c: of the Frobenius norm of S, times the root of its size

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.write < 1:
            raise InputError(f"write is {self.write}: it must be at least 1")
        if not 0 < self.decay < 1:
            raise InputError(f"decay is {self.decay}: it must be above 0 and below 1")
        if self.ceiling <= 0:
            raise InputError(f"ceiling is {self.ceiling}: it must be above 0")


def feature(x: Tensor) -> Tensor:
    """phi: elu(x) + 1 over its length, float32."""
    return nn.functional.normalize(nn.functional.elu(x.float()) + 1, dim=-1)


class Synapses(nn.Module):
    """How the key heads of one layer write, and how its query heads read.

    Args:
        kv_heads, query_heads: numbers of heads.
    """

    def __init__(self, kv_heads: int, query_heads: int, config: SynapticResonanceConfig) -> None:
        super().__init__()
        self.config = config
        self.decay = nn.Parameter(torch.full((kv_heads,), math.log(config.decay / (1 - config.decay))))
        self.rate = nn.Parameter(torch.zeros(kv_heads))
        self.kappa = nn.Parameter(torch.zeros(kv_heads)) if config.reinforce else None
        self.mu = nn.Parameter(torch.zeros(kv_heads)) if config.correct else None
        self.share = nn.Parameter(torch.full((query_heads,), config.share))

    def write(self, s: Tensor, z: Tensor, k: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """S [B, H, Dv, Dk] and z [B, H, Dk] after keys and values [B, H, M, D]; `real` [B, M] tells padding."""
        for at in range(0, k.shape[2], self.config.write):
            part = slice(at, at + self.config.write)
            s, z = self._write_chunk(s, z, feature(k[:, :, part]), v[:, :, part].float(), real[:, part])
        return s, z

    def _write_chunk(self, s: Tensor, z: Tensor, k: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        weight = torch.ones_like(v[..., 0])
        if self.kappa is not None or self.mu is not None:
            rho = nn.functional.cosine_similarity(k @ s.transpose(2, 3), v, dim=-1)
            if self.kappa is not None:
                weight = weight + self.kappa.exp()[:, None] * rho.clamp_min(0)
            if self.mu is not None:
                weight = weight + self.mu.exp()[:, None] * (-rho).clamp_min(0)
        later = real.flip(1).cumsum(1).flip(1) - real.int()
        fading = nn.functional.logsigmoid(self.decay)[:, None]
        weight = weight * (fading * later[:, None] + self.rate[:, None]).exp() * real[:, None]
        kept = (fading * real.sum(1)[:, None, None]).exp()
        s = kept[..., None] * s + (weight[..., None] * v).transpose(2, 3) @ k
        z = kept * z + (weight[..., None] * k).sum(2)
        most = self.config.ceiling * math.sqrt(s.shape[2] * s.shape[3])
        shrink = (most / s.norm(dim=(2, 3)).clamp_min(_EPSILON)).clamp_max(1)
        return s * shrink[..., None, None], z * shrink[..., None]

    def read(self, s: Tensor, z: Tensor, q: Tensor) -> Tensor:
        """m for queries [B, Hq, T, Dk]: [B, Hq, T, Dv], float32."""
        grouped = feature(q).reshape(q.shape[0], s.shape[1], -1, q.shape[3])
        found = grouped @ s.transpose(2, 3) / (grouped @ z[..., None]).clamp_min(_EPSILON)
        out: Tensor = found.view(*q.shape[:3], -1)
        return out

    def mix(self, out: Tensor, found: Tensor) -> Tensor:
        """(1 - gamma) x attention + gamma x what was read."""
        gamma = self.share.sigmoid()[:, None, None]
        mixed: Tensor = (1 - gamma) * out.float() + gamma * found
        return mixed.to(out.dtype)


def effective_rank(s: Tensor) -> Tensor:
    """The exponential of the entropy of singular values, for each matrix [..., Dv, Dk]."""
    values = torch.linalg.svdvals(s.float())
    shares = values / values.sum(-1, keepdim=True).clamp_min(_EPSILON)
    entropy: Tensor = -(shares * shares.clamp_min(_EPSILON).log()).sum(-1)
    return entropy.exp()


class SynapticResonance(LearningSystem):
    """Sinks, a window, and a matrix a head for all that has left it."""

    Config = SynapticResonanceConfig
    needs = frozenset({"evicted"})
    as_slots = True
    trees = False

    def build(self, family: Family) -> None:
        """Four numbers for each key head, one for each query head."""
        self.synapses = nn.ModuleList(
            Synapses(layer.kv_heads, layer.query_heads, self.config) for layer in family.layers
        )
        self.learned: Tensor
        self.register_buffer("learned", torch.tensor(False))

    @contextmanager
    def learning(self, model: Any) -> Iterator[Loss]:
        """From here on what is in the synapses is read."""
        self.learned.fill_(True)
        with super().learning(model) as loss:
            yield loss

    def fixed_bytes(self, family: Family, batch: int) -> int:
        """S and z of every layer come on top."""
        state = sum(layer.kv_heads * layer.key_dim * (layer.value_dim + 1) for layer in family.layers)
        return super().fixed_bytes(family, batch) + 4 * batch * state

    def on_evict(self, layer: int, k: Tensor, v: Tensor, pos: Tensor, cache: SlotCache) -> None:
        """Write what leaves the window."""
        s, z = cache.extra.get(f"s.{layer}"), cache.extra.get(f"z.{layer}")
        if s is None or z is None:
            z = k.new_zeros(*k.shape[:2], k.shape[3], dtype=torch.float32)
            s = k.new_zeros(*k.shape[:2], v.shape[3], k.shape[3], dtype=torch.float32)
        s, z = self._of(layer).write(s, z, k, v, pos[:, 0] >= 0)
        cache.extra.update({f"s.{layer}": s, f"z.{layer}": z})

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, slots: Slots, step: Step, call: Call) -> Tensor:
        """The window's attention, and what the synapses say."""
        out = super().attend(layer, q, k, v, slots, step, call)
        s = step.cache.extra.get(f"s.{layer}")
        if s is None or not bool(self.learned):
            return out
        synapses = self._of(layer)
        return synapses.mix(out, synapses.read(s, step.cache.extra[f"z.{layer}"], q))

    def _of(self, layer: int) -> Synapses:
        found = self.synapses[layer]
        assert isinstance(found, Synapses)
        return found

    def ranks(self, cache: SlotCache) -> list[list[float]]:
        """The effective rank of S of the first row, for each layer and key head; 1 tells of a collapse."""
        held = [cache.extra.get(f"s.{layer}") for layer in range(len(self.synapses))]
        return [[] if s is None else effective_rank(s[0]).tolist() for s in held]

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """Cross-entropy of what is read after the window is full; gradients cross one boundary of chunks.

        Raises:
            InputError: the windows are so short that nothing leaves the slots.
        """
        capacity = reader.sizes.capacity
        assert capacity is not None
        if ids.shape[1] < capacity + 2:
            raise InputError(f"of {ids.shape[1]} tokens none leaves the window: length must be at least {capacity + 2}")
        total, count, chunk = torch.zeros((), device=ids.device), 0, reader.sizes.chunk
        for i, at in enumerate(range(0, ids.shape[1] - 1, chunk)):
            end = min(at + chunk, ids.shape[1] - 1)
            if i % 2 == 0:
                reader.cache.detach()
            hidden = reader.model.base_model(ids[:, at:end]).last_hidden_state
            if at >= capacity:
                scores = reader.family.logits(hidden).flatten(0, 1)
                total = total + nn.functional.cross_entropy(scores, ids[:, at + 1 : end + 1].flatten(), reduction="sum")
                count += scores.shape[0]
        return total / count
