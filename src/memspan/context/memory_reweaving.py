"""Contextual memory reweaving (Dillon et al. 2025, arXiv 2502.02046): states of several depths, fed back in later.

The paper's abstract names the parts (states captured at several layers, *layered latent state reconstruction*, their
integration into later tokens, no outside memory) and gives no equation, model or figure; nobody is known to have
reproduced it. What is here is a reading that can be tested, and every formula is ours. Read it as an idea; the claim
says what it was worth.

Attention sees the first tokens and a window. Of every `period` tokens the `capture` most surprising ones leave codes
z_l = E_l LN(h_l) of rank ρ of their hidden states at the layers `layers`, in a ring of `ring` places. The state of a
layer is rebuilt from the codes of all captured layers, ĥ_l = Σ D_l'l z_l', and woven into later tokens behind the same
layer: h ← h + strength · tanh(g_l) · W_o Σ_j α_j ĥ_j, where α is a softmax over the ring of
(W_q LN(h)) · (W_k ĥ_j) / √ρ − slope · log(1 + age in periods). g_l begins at 0: until `fit` the model is the plain one.

Notable choices. ĥ enters only linearly, so it is never computed while reading: the query is taken down to codes, and
the mix of codes is taken up. Tokens are chosen once for all layers, as the sum over layers needs it. States are
captured before anything is woven into them at their layer, and LN keeps their size, so that nothing grows by feeding
on itself; the gradient does not flow into captured states. Periods are counted in tokens read, so that it does not
matter how a text is cut into calls. `reconstruct=False` keeps LN(h) whole; `layered=False` rebuilds each layer from its
own code; `relevance` may be "norm" (how far the layers moved the state) or "random": these are for finding out what
helps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, softplus

from memspan.context.base import ContextConfig
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.learning import Fitted, LearningSystem, fit
from memspan.context.reader import Reader
from memspan.context.step import PlanState, Segment, Step
from memspan.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MemoryReweavingConfig(ContextConfig):
    """Settings of memory reweaving; every default is ours.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    layers: tuple[float, ...] = (0.25, 0.5, 0.75)  # Λ: shares of the depth (on one layer, it counts once), or layers
    period: int = 128  # tokens of which some are captured
    capture: int = 64  # B: how many
    ring: int = 512  # captured tokens kept
    rank: float = 0.25  # ρ: numbers of a code, as a share of the hidden size
    relevance: str = "surprisal"  # what is captured: "surprisal", "norm" or "random"
    reconstruct: bool = True  # False: the states themselves, no codes
    layered: bool = True  # False: each layer from its own code
    strength: float = 1.0  # of what is woven in; 0 is the plain model
    rebuilding: float = 0.1  # weight of the reconstruction's loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise InputError(f"layers is {self.layers}: name at least one, each once")
        if not 1 <= self.capture <= min(self.period, self.ring):
            raise InputError(
                f"capture is {self.capture}: it must be at least 1, at most period ({self.period}) and at most "
                f"ring ({self.ring})"
            )
        if not 0 < self.rank <= 1:
            raise InputError(f"rank is {self.rank}: it must be above 0 and at most 1")
        if self.relevance not in ("surprisal", "norm", "random"):
            raise InputError(f"relevance is {self.relevance!r}: it must be surprisal, norm or random")
        for name in ("strength", "rebuilding"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 0")


@dataclass(frozen=True, slots=True)
class CapturedToken:
    """A token in the ring: its true position, and its age in periods."""

    position: int
    age: int


class MemoryReweaving(LearningSystem):
    """A window of tokens, and captured hidden states woven into later ones.

    In `extra`, with n captured layers and codes of w numbers: `ring` [B, R, n, w], `places` and `born` [B, R], the
    tokens' positions and periods, -1 where nothing is; the same for the open period: `held` [B, period, n, w],
    `held_places` and `held_scores` [B, period].
    """

    Config = MemoryReweavingConfig
    needs = frozenset({"hidden", "surprisal"})
    as_slots = True
    exact = False
    trees = False

    # --- what is learned ---------------------------------------------------------------------------------------------

    def build(self, family: Family) -> None:
        """E, D, W_q, W_k, W_o, the gates and the slopes of every captured layer."""
        config, depth = self.config, len(family.layers)
        self.at = self._layers(depth)
        count, width = len(self.at), family.config.hidden_size
        rank = max(1, round(config.rank * width))
        self._rank = rank
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        if config.reconstruct:
            self.encoders.extend(nn.Linear(width, rank, bias=False) for _ in self.at)
            codes = rank * count if config.layered else rank
            self.decoders.extend(nn.Linear(codes, width, bias=False) for _ in self.at)
        self.queries = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in self.at)
        self.keys = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in self.at)
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in self.at)
        self.up = nn.ModuleList(nn.Linear(rank, width, bias=False) for _ in self.at)
        self.gates = nn.Parameter(torch.zeros(count))
        self.slopes = nn.Parameter(torch.full((count,), -2.0))  # before softplus: 0.13
        self._errors: list[Tensor] | None = None

    def _layers(self, depth: int) -> list[int]:
        found = []
        for said in self.config.layers:
            layer = said if isinstance(said, int) else max(0, round(said * depth) - 1)
            if not 0 <= layer < depth or (isinstance(said, float) and not 0 < said <= 1):
                raise InputError(f"layers names {said}: the model has layers 0 to {depth - 1}; shares are from 0 to 1")
            found.append(layer)
        return sorted(set(found))

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """Cross-entropy of what follows the first period, and how badly states are rebuilt."""
        period = self.config.period
        if ids.shape[1] < 2 * period:
            raise InputError(f"windows of {ids.shape[1]} tokens hold no two periods of {period}")
        self._errors = []
        try:
            hidden = reader.model.base_model(input_ids=ids).last_hidden_state
            rows, wanted = hidden[:, period - 1 : -1], ids[:, period:]
            nats: Tensor = nn.functional.cross_entropy(self.family.logits(rows).flatten(0, 1), wanted.flatten())
            errors = torch.stack(self._errors).mean() if self._errors else nats.new_zeros(())
            return torch.add(nats, errors, alpha=self.config.rebuilding)
        finally:
            self._errors = None

    def fit(self, model: Any, texts: Any, *, steps: int, **settings: Any) -> Fitted:
        """See `memspan.context.learning.fit`; `length` is four periods unless it is given."""
        settings.setdefault("length", 4 * self.config.period)
        return fit(self, model, texts, steps=steps, **settings)

    # --- sizes -------------------------------------------------------------------------------------------------------

    def fixed_bytes(self, family: Family, batch: int) -> int:
        """The ring and the open period."""
        config, width = self.config, family.config.hidden_size
        code = max(1, round(config.rank * width)) if config.reconstruct else width
        states = 4 * len(self.at) * code
        held = config.ring * (states + 16) + config.period * (states + 12)
        return int(super().fixed_bytes(family, batch) + batch * held)

    def _open(self, cache: SlotCache) -> None:
        if "ring" in cache.extra:
            return
        config, rows, device = self.config, cache.batch, self.family.device
        code = self._rank if config.reconstruct else self.family.config.hidden_size
        cache.extra["ring"] = torch.zeros(rows, config.ring, len(self.at), code, device=device)
        cache.extra["places"] = torch.full((rows, config.ring), -1, device=device)
        cache.extra["born"] = torch.full((rows, config.ring), -1, device=device)
        cache.extra["held"] = torch.zeros(rows, config.period, len(self.at), code, device=device)
        cache.extra["held_places"] = torch.full((rows, config.period), -1, device=device)
        cache.extra["held_scores"] = torch.zeros(rows, config.period, device=device)
        cache.notes.update(inside=0, periods=0)

    # --- reading -----------------------------------------------------------------------------------------------------

    def plan(self, ids: Tensor | None, state: PlanState) -> Iterator[Segment]:
        """Chunks that end where a period does."""
        at, inside = 0, int(state.cache.notes.get("inside", 0))
        while at < state.count:
            end = min(at + self.sizes.chunk, at + self.config.period - inside, state.count)
            yield Segment(begin=at, end=end)
            inside = (inside + end - at) % self.config.period
            at = end

    def begin(self, step: Step, cache: SlotCache) -> None:
        """Make room, and the ring on the first pass."""
        super().begin(step, cache)
        self._open(cache)

    def hidden(self, layer: int, h: Tensor, step: Step) -> Tensor:
        """Note the state of a captured layer, and weave the ring's into it."""
        if layer in self.at:
            index = self.at.index(layer)
            step.scratch[f"state.{index}"] = h.detach()
            if self.config.relevance == "norm":
                moved = (h - step.scratch["before"]).detach().float().norm(dim=-1)
                step.scratch["moved"] = step.scratch.get("moved", 0) + moved
            h = self._woven(index, h, step.cache)
        if self.config.relevance == "norm":
            step.scratch["before"] = h
        return h

    def _woven(self, index: int, h: Tensor, cache: SlotCache) -> Tensor:
        there = cache.extra["born"] >= 0
        if self.config.strength == 0 or not bool(there.any()):
            return h
        query = self.queries[index](_normed(h)) @ self.keys[index].weight
        codes = self._codes(index, cache.extra["ring"])
        if self.config.reconstruct:
            query = query @ self.decoders[index].weight
        age = (cache.notes["periods"] - cache.extra["born"]).float()
        products = query @ codes.transpose(1, 2) / math.sqrt(self._rank)
        products = products - (softplus(self.slopes[index]) * age.log1p())[:, None]
        shares = products.masked_fill(~there[:, None], float("-inf")).softmax(-1).nan_to_num(0.0)
        mixed = shares @ codes
        if self.config.reconstruct:
            mixed = self.decoders[index](mixed)
        added: Tensor = self.config.strength * torch.tanh(self.gates[index]) * self.up[index](self.down[index](mixed))
        return h + added.to(h.dtype)

    def _codes(self, index: int, codes: Tensor) -> Tensor:
        """What a layer is rebuilt from: [B, R, n · w], or its own [B, R, w]."""
        if self.config.reconstruct and self.config.layered:
            return codes.flatten(2)
        return codes[:, :, index]

    def end(self, step: Step, cache: SlotCache, surprisal: Tensor | None) -> None:
        """Hold the codes of what was read; at the end of a period the most relevant go into the ring."""
        assert surprisal is not None
        config, extra, notes = self.config, cache.extra, cache.notes
        states = _normed(torch.stack([step.scratch[f"state.{i}"][:, step.rows] for i in range(len(self.at))], 2))
        codes = states
        if config.reconstruct:
            codes = torch.stack([encode(states[:, :, i]) for i, encode in enumerate(self.encoders)], 2)
            if self._errors is not None:
                rebuilt = torch.stack(
                    [_normed(decode(self._codes(i, codes))) for i, decode in enumerate(self.decoders)], 2
                )
                self._errors.append((rebuilt - states).square().mean())
        pos = step.pos[:, step.rows]
        score = surprisal.nan_to_num(nan=0.0)
        if config.relevance == "norm":
            score = step.scratch["moved"][:, step.rows]
        elif config.relevance == "random":
            chance = torch.Generator().manual_seed(cache.seen)
            score = torch.rand(score.shape, generator=chance).to(score.device)
        new = {"held": codes, "held_places": pos, "held_scores": score.masked_fill(pos < 0, float("-inf"))}
        for name, tensor in new.items():
            extra[name] = torch.cat((extra[name], tensor), 1)[:, tensor.shape[1] :].clone()
        notes["inside"] = min(notes["inside"] + pos.shape[1], config.period)
        if notes["inside"] == config.period:
            self._capture(cache)
            notes.update(inside=0, periods=notes["periods"] + 1)

    def _capture(self, cache: SlotCache) -> None:
        extra, count = cache.extra, self.config.capture
        best = extra["held_scores"].topk(count, dim=1).indices.sort(1).values
        codes = extra["held"].gather(1, best[:, :, None, None].expand(-1, -1, *extra["held"].shape[2:]))
        places = extra["held_places"].gather(1, best)
        born = torch.where(places >= 0, cache.notes["periods"], -1)
        for name, tensor in (("ring", codes), ("places", places), ("born", born)):
            extra[name] = torch.cat((extra[name][:, count:], tensor), 1)

    # --- looking -----------------------------------------------------------------------------------------------------

    def rings(self, reader: Reader, row: int = 0) -> list[CapturedToken]:
        """The captured tokens of one row, the oldest first; each holds a code of every captured layer (`at`)."""
        extra = reader.cache.extra
        if "ring" not in extra:
            return []
        periods = reader.cache.notes["periods"]
        rows = zip(extra["places"][row].tolist(), extra["born"][row].tolist(), strict=True)
        return [CapturedToken(place, periods - born) for place, born in rows if born >= 0]


def _normed(x: Tensor) -> Tensor:
    """LN without weights, float32."""
    return layer_norm(x.float(), x.shape[-1:])
