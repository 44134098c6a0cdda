"""Synaptic resonance (Applegarth et al. 2025, arXiv 2502.10699): what leaves the window is written into each head.

Beside a window of exact tokens every key head keeps a matrix of synapses S and a normaliser z. A token that leaves
the window is written, S <- lambda S + eta w v phi(k)^T, and every query reads m = S phi(q) / (z^T phi(q)), which is
mixed into the head's output by a share gamma. The weight w = 1 + kappa max(rho, 0) + mu max(-rho, 0) follows the
resonance rho, the cosine of what the synapses foretold for the key and what the token brought: kappa reinforces what
agrees, mu corrects what does not. Bytes are constant. Nothing is read until `fit` has learned: pre-trained heads do
not expect m. `ResonantAttention` is the same as a layer to train from scratch.

Notable choices. Only the abstract of the paper could be had, which names no formula: all formulas are ours, from the
family of fast weights, and kappa = mu = 0 (`reinforce=False, correct=False`) is that family's plain form. phi(x) is
elu(x) + 1 over its length, of keys and queries as before the rotation. Tokens are written in chunks of `write`, and
resonance looks at S as it was at the chunk's start. A query reads S as it was when its own chunk began and sees exactly
all that is not yet in S, so that nothing counts twice and nothing is missed; until something was written there is
attention only. Where S grows beyond `ceiling` times the root of its size, S and z shrink alike. S and z are float32.
lambda, eta, kappa and mu belong to key heads, gamma to query heads; eta, kappa and mu begin at 1. eta cancels in
S phi / z^T phi, so that it matters to the ceiling alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memspan.context import attention
from memspan.context.base import ContextConfig
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.layer import RotaryLayer
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
    history: int = 64  # written chunks whose mean resonance is kept to be looked at

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.write < 1:
            raise InputError(f"write is {self.write}: it must be at least 1")
        if not 0 < self.decay < 1:
            raise InputError(f"decay is {self.decay}: it must be above 0 and below 1")
        if self.ceiling <= 0:
            raise InputError(f"ceiling is {self.ceiling}: it must be above 0")
        if self.history < 0:
            raise InputError(f"history is {self.history}: it must be at least 0")


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

    def write(self, s: Tensor, z: Tensor, k: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S [B, H, Dv, Dk] and z [B, H, Dk] after keys and values [B, H, M, D], in chunks.

        The third tensor is the mean resonance of each chunk, [B, H, chunks], NaN where all of it is padding.

        Args:
            real: [B, M], which tokens are none.
        """
        resonance = []
        for at in range(0, k.shape[2], self.config.write):
            part = slice(at, at + self.config.write)
            s, z, rho = self.write_chunk(s, z, feature(k[:, :, part]), v[:, :, part].float(), real[:, part])
            resonance.append(rho.detach())
        return s, z, torch.stack(resonance, 2)

    def write_chunk(self, s: Tensor, z: Tensor, k: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk: `k` are features, `v` float32."""
        there = real[:, None]
        rho = nn.functional.cosine_similarity(k @ s.transpose(2, 3), v, dim=-1)
        weight = torch.ones_like(rho)
        if self.kappa is not None:
            weight = weight + self.kappa.exp()[:, None] * rho.clamp_min(0)
        if self.mu is not None:
            weight = weight + self.mu.exp()[:, None] * (-rho).clamp_min(0)
        later = real.flip(1).cumsum(1).flip(1) - real.int()
        fading = nn.functional.logsigmoid(self.decay)[:, None]
        weight = weight * (fading * later[:, None] + self.rate[:, None]).exp() * there
        kept = (fading * real.sum(1)[:, None, None]).exp()
        s = kept[..., None] * s + (weight[..., None] * v).transpose(2, 3) @ k
        z = kept * z + (weight[..., None] * k).sum(2)
        most = self.config.ceiling * math.sqrt(s.shape[2] * s.shape[3])
        shrink = (most / s.norm(dim=(2, 3)).clamp_min(_EPSILON)).clamp_max(1)
        return s * shrink[..., None, None], z * shrink[..., None], (rho * there).sum(2) / there.sum(2)

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


# --- a layer of its own ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResonantState:
    """What a `ResonantAttention` keeps of a stream.

    Attributes:
        s, z: the synapses [B, H, D, D] and their normaliser [B, H, D], float32.
        keys, values: exact tokens [B, H, n, D], keys not rotated; n is below window + chunk.
        read: tokens that were read.
    """

    s: Tensor
    z: Tensor
    keys: Tensor
    values: Tensor
    read: int

    def detach(self) -> ResonantState:
        """The same, with no gradient further back."""
        return ResonantState(self.s.detach(), self.z.detach(), self.keys.detach(), self.values.detach(), self.read)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(x.numel() * x.element_size() for x in (self.s, self.z, self.keys, self.values))


class ResonantAttention(RotaryLayer):
    """A window of exact attention and resonant synapses, to be trained from scratch.

    `forward` reads whole sequences; `start` and `step` read a stream bit by bit, with the same result, in memory that
    does not grow. A token sees between `window` and `window + chunk` tokens exactly, itself included.

    Args:
        dim: width d; heads: query heads; kv_heads: heads of keys and values, as many when None.
        window: tokens that are exact when a chunk begins; chunk: tokens written at once.
        share: a at the start, for each query head; 0 mixes both halves, where a pre-trained head would begin at -6.
        decay, reinforce, correct, ceiling: as in `SynapticResonanceConfig`.
        base: of the rotary frequencies.

    Raises:
        InputError: the heads do not divide the width, or each other, or a setting is out of range.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        *,
        kv_heads: int | None = None,
        chunk: int = 64,
        share: float = 0.0,
        decay: float = 0.999,
        reinforce: bool = True,
        correct: bool = True,
        ceiling: float = 10.0,
        base: float = 10_000.0,
    ) -> None:
        super().__init__(dim, heads, kv_heads=kv_heads, base=base)
        if window < chunk:
            raise InputError(f"window is {window}: it must be at least the chunk, {chunk}")
        config = SynapticResonanceConfig(
            write=chunk, decay=decay, reinforce=reinforce, correct=correct, share=share, ceiling=ceiling
        )
        self.window, self.chunk = window, chunk
        self.synapses = Synapses(self.kv_heads, heads, config)

    def start(self, batch: int) -> ResonantState:
        """The state before the first token."""
        like = self.q_proj.weight
        s = torch.zeros(batch, self.kv_heads, self.width, self.width, device=like.device)
        none = like.new_zeros(batch, self.kv_heads, 0, self.width)
        return ResonantState(s, s[..., 0], none, none, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] to [B, T, d]."""
        return self.step(x, self.start(x.shape[0]))[0]

    def step(self, x: Tensor, state: ResonantState) -> tuple[Tensor, ResonantState]:
        """The next tokens of a stream, [B, T, d] to [B, T, d], and the state after them."""
        q, k, v = self.project(x)
        said, at = [], 0
        while at < x.shape[1]:
            end = min(x.shape[1], at + self.chunk - state.read % self.chunk)
            out, state = self._part(q[:, :, at:end], k[:, :, at:end], v[:, :, at:end], state)
            said.append(out)
            at = end
        return self.put_out(torch.cat(said, 2)), state

    def _part(self, q: Tensor, k: Tensor, v: Tensor, state: ResonantState) -> tuple[Tensor, ResonantState]:
        """Tokens of one chunk."""
        s, z, keys, values = state.s, state.z, state.keys, state.values
        leaving = keys.shape[2] - self.window
        if state.read % self.chunk == 0 and leaving > 0:
            real = torch.ones(keys.shape[0], leaving, dtype=torch.bool, device=keys.device)
            s, z, _ = self.synapses.write(s, z, keys[:, :, :leaving], values[:, :, :leaving], real)
            keys, values = keys[:, :, leaving:], values[:, :, leaving:]
        keys, values = torch.cat((keys, k), 2), torch.cat((values, v), 2)
        places = torch.arange(keys.shape[2], device=keys.device)[None]
        asking = places[:, -q.shape[2] :]
        seen = attention.visible(asking, places[:, None], None)
        turned = self.rotate(q, asking), self.rotate(keys, places)
        out = attention.exact(*turned, values, seen, causal=False, scaling=self.width**-0.5)
        read = state.read + q.shape[2]
        if read > keys.shape[2]:
            out = self.synapses.mix(out, self.synapses.read(s, z, q))
        return out, ResonantState(s, z, keys, values, read)


# --- the system ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SynapticState:
    """The synapses of one layer of a reader, for looking at.

    Attributes:
        s, z: [B, H, Dv, Dk] and [B, H, Dk], float32; copies.
        rank: the effective rank of each head's S, [B, H]; 1 tells of a collapse.
        resonance: mean resonance of the latest chunks that were written, [B, H, up to `history`], the oldest first; NaN
            for chunks of padding.
    """

    s: Tensor
    z: Tensor
    rank: Tensor
    resonance: Tensor


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
        """S, z and the history of every layer come on top."""
        state = sum(
            layer.kv_heads * (layer.key_dim * (layer.value_dim + 1) + self.config.history) for layer in family.layers
        )
        return int(super().fixed_bytes(family, batch) + 4 * batch * state)

    def on_evict(self, layer: int, k: Tensor, v: Tensor, pos: Tensor, cache: SlotCache) -> None:
        """Write what leaves the window."""
        held = cache.extra
        if f"s.{layer}" not in held:
            held[f"s.{layer}"] = k.new_zeros(*k.shape[:2], v.shape[3], k.shape[3], dtype=torch.float32)
            held[f"z.{layer}"] = k.new_zeros(*k.shape[:2], k.shape[3], dtype=torch.float32)
            held[f"rho.{layer}"] = k.new_zeros(*k.shape[:2], self.config.history, dtype=torch.float32)
        s, z, rho = self._of(layer).write(held[f"s.{layer}"], held[f"z.{layer}"], k, v, pos[:, 0] >= 0)
        history = torch.cat((held[f"rho.{layer}"], rho), 2)[:, :, rho.shape[2] :].clone()
        held.update({f"s.{layer}": s, f"z.{layer}": z, f"rho.{layer}": history})
        if layer == 0:
            cache.notes["written"] = cache.notes.get("written", 0) + rho.shape[2]

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

    def state(self, reader: Reader) -> list[SynapticState | None]:
        """The synapses of each layer; None before anything was written."""
        held = reader.cache.extra
        latest = min(int(reader.cache.notes.get("written", 0)), self.config.history)
        out: list[SynapticState | None] = []
        for layer in range(len(self.synapses)):
            s = held.get(f"s.{layer}")
            if s is None:
                out.append(None)
                continue
            s, z, rho = (held[f"{name}.{layer}"].detach().clone() for name in ("s", "z", "rho"))
            out.append(SynapticState(s, z, effective_rank(s), rho[:, :, rho.shape[2] - latest :]))
        return out

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """Cross-entropy of what is read after the window is full; gradients cross one boundary of chunks.

        Raises:
            InputError: the windows are so short that nothing leaves the slots.
        """
        capacity, chunk = reader.sizes.capacity, reader.sizes.chunk
        assert capacity is not None
        if ids.shape[1] < capacity + 2:
            raise InputError(f"of {ids.shape[1]} tokens none leaves the window: length must be at least {capacity + 2}")
        total, count = torch.zeros((), device=ids.device), 0
        for i, at in enumerate(range(0, ids.shape[1] - 1, chunk)):
            end = min(at + chunk, ids.shape[1] - 1)
            if end <= capacity:  # nothing was written yet, so that nothing is to be learned here
                with torch.no_grad():
                    reader.model.base_model(ids[:, at:end])
                continue
            if i % 2 == 0:
                reader.cache.detach()
            scores = reader.family.logits(reader.model.base_model(ids[:, at:end]).last_hidden_state).flatten(0, 1)
            total = total + nn.functional.cross_entropy(scores, ids[:, at + 1 : end + 1].flatten(), reduction="sum")
            count += scores.shape[0]
        return total / count
