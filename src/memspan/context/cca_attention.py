"""CCA-Attention (Chen et al., ICML 2025, arXiv 2412.12465): old tokens in groups, each compressed into one core token.

Every `group` tokens become one core token, which the query of the group's last token pools from the group's keys and
values; a query sees the core tokens of all groups that lie `local` tokens back, and the tokens since then exactly, in
one softmax. Every past token counts once. Bytes grow with 1/group of the text, up to `cores` core tokens; beyond that
the oldest go. What a core token keeps was settled when its group was read: to copy a rare string from far back is lost.
Up to `local` tokens it is plain attention. It works without training at a cost in quality; `fit` with `rank` above 0
trains low-rank adapters that go with it (the paper trains the whole model).

Notable choices. Nothing of the official training code is public, so several details are ours: the exact tokens start
right behind the last core token that is seen (the printed formula would count one token twice); each key head pools
with the mean of its queries, rotated as in the model's attention, and pools keys as before the rotation; a core token
stands at the position of its group's last token; an incomplete group stays exact. `sinks` keeps the first tokens exact
(the paper's form is 0): when core tokens are dropped they are turned to follow, so that no distance exceeds what the
model was trained on. `fusion="gate"` reads the preprint's two fused attentions as a share that each head learns:
sigma(log of the softmax masses' ratio + a), where a begins at 0, so that it begins as the one softmax. Keys of models
that normalise them (Qwen3) reach us after the norm; a pooled key gets the mean length of its members back, as a norm
behind the pooling would give it. With left padding groups begin at each row's first token. Layers that slide by
themselves keep their window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memspan.context import attention
from memspan.context.base import DEFAULT_CHUNK, ContextConfig
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.layer import RotaryLayer
from memspan.context.learning import LearningSystem
from memspan.context.low_rank import LowRank
from memspan.context.reader import Reader
from memspan.context.slots import Slots, Track
from memspan.context.step import Call, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import InputError

POOLS = ("attention", "mean", "max")
_LOCAL = 1024  # s of the paper


@dataclass(frozen=True, kw_only=True)
class CcaAttentionConfig(ContextConfig):
    """Settings of CCA-Attention.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    group: int = 16  # g: tokens that one core token stands for (paper: 16)
    local: int | None = None  # s: latest tokens seen exactly (paper: 1,024); None: that, or what the budget allows
    cores: int | None = None  # most core tokens kept; None: what the budget, or the trained length, allows
    pool: str = "attention"  # "attention" of the group's last token, or, to compare, "mean" or "max"
    fusion: str = "softmax"  # "softmax" over both, or "gate": a share that each head learns (the preprint's reading)
    rank: int = 0  # of the adapters that `fit` trains on `targets`; 0: none, for use without training
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots is not None:
            raise InputError("slots is solved from local and group: give local")
        if self.group < 1:
            raise InputError(f"group is {self.group}: it must be at least 1")
        if self.local is not None and self.local < self.group:
            raise InputError(f"local is {self.local}: it must be at least group, {self.group}")
        if self.cores is not None and self.cores < 1:
            raise InputError(f"cores is {self.cores}: it must be at least 1")
        if self.pool not in POOLS:
            raise InputError(f"pool is {self.pool!r}: it must be one of {', '.join(POOLS)}")
        if self.fusion not in ("softmax", "gate"):
            raise InputError(f"fusion is {self.fusion!r}: it must be softmax or gate")
        if self.rank < 0:
            raise InputError(f"rank is {self.rank}: it must be at least 0")


# --- the attention ---------------------------------------------------------------------------------------------------


def border(pos: Tensor, *, group: int, local: int, sinks: int = 0) -> Tensor:
    """The first position that a query at `pos` sees exactly: from `sinks` up to it, it sees core tokens."""
    return sinks + (pos + 1 - sinks - local).clamp_min(0) // group * group


def pooled(
    q: Tensor,
    k: Tensor,
    still: Tensor,
    v: Tensor,
    *,
    scaling: float,
    how: str,
    softcap: float | None = None,
    normed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Keys and values [B, H, M, D] of core tokens.

    Args:
        q: rotated queries [B, Hq, M, D] of the last token of each of M groups.
        k, still: keys [B, H, M, g, D] of their members, rotated and not.
        v: values of their members.
        how: one of `POOLS`.
        normed: the keys come from a norm, so a pooled one gets the mean length of its members.
    """
    if how == "max":
        return still.amax(3), v.amax(3)
    if how == "mean":
        return still.mean(3), v.mean(3)
    batch, heads, count, _, width = k.shape
    asked = q.view(batch, heads, -1, count, width).float().mean(2)
    products = (k.float() @ asked[..., None]) * scaling
    if softcap is not None:
        products = torch.tanh(products / softcap) * softcap
    shares = products.softmax(3)
    keys = (shares * still.float()).sum(3)
    if normed:
        length = (shares * still.float().norm(dim=4, keepdim=True)).sum(3)
        keys = keys * (length / keys.norm(dim=3, keepdim=True).clamp_min(1e-6))
    return keys.to(v.dtype), (shares * v.float()).sum(3).to(v.dtype)


def joint(
    q: Tensor,
    cores: tuple[Tensor, Tensor],
    exact: tuple[Tensor, Tensor],
    mask: Tensor,
    call: Call,
    bias: Tensor | None = None,
) -> Tensor:
    """One softmax of queries [B, Hq, T, D] over keys and values of core tokens and of exact ones.

    Args:
        mask: bool [B, 1, T, M + N], core tokens first.
        bias: what is added to each head's logits of core tokens, [Hq].
    """
    count = cores[0].shape[2]
    if bias is None and call.softcap is None and call.sinks is None and q.shape[2] > attention.PACKED:
        keys, values = (torch.cat(pair, 2) for pair in zip(cores, exact, strict=True))
        return attention.exact(q, keys, values, mask, causal=False, scaling=call.scaling)
    far, near = attention.scores(q, cores[0], call.scaling), attention.scores(q, exact[0], call.scaling)
    if bias is not None:
        far = far + bias.float().view(1, far.shape[1], far.shape[2], 1, 1)
    shares = attention.weights(torch.cat((far, near), -1), mask, softcap=call.softcap, sinks=call.sinks)
    return attention.mix(shares[..., :count], cores[1]) + attention.mix(shares[..., count:], exact[1])


def whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotate: Callable[[Tensor, Tensor], Tensor],
    *,
    group: int,
    local: int,
    sinks: int = 0,
    scaling: float,
    how: str = "attention",
    bias: Tensor | None = None,
) -> Tensor:
    """CCA-Attention over a whole sequence at once, [B, Hq, T, D].

    Args:
        q, k, v: [B, Hq or H, T, D], not rotated.
        rotate: heads [B, H, T, D] by positions [1, T].
    """
    length = q.shape[2]
    pos = torch.arange(length, device=q.device)[None]
    turned_q, turned_k = rotate(q, pos), rotate(k, pos)
    call = Call(scaling)
    count = max(0, length - sinks) // group
    ends = sinks + group - 1 + group * torch.arange(count, device=q.device)
    seen = attention.visible(pos, pos[:, None], None)
    if count == 0 or int(ends[0]) >= int(border(pos[:, -1], group=group, local=local, sinks=sinks)):
        return attention.exact(turned_q, turned_k, v, seen, causal=False, scaling=scaling)

    def members(x: Tensor) -> Tensor:
        return x[:, :, sinks : sinks + count * group].reshape(*x.shape[:2], count, group, x.shape[3])

    keys, values = pooled(turned_q[:, :, ends], members(turned_k), members(k), members(v), scaling=scaling, how=how)
    edge = border(pos, group=group, local=local, sinks=sinks)
    exact = seen & ((pos[:, None, None] >= edge[:, None, :, None]) | (pos[:, None, None] < sinks))
    mask = torch.cat((ends[None, None, None] < edge[:, None, :, None], exact), 3)
    return joint(turned_q, (rotate(keys, ends[None]), values), (turned_k, v), mask, call, bias)


class CcaLayer(RotaryLayer):
    """CCA-Attention with projections and rotary positions of its own, to be trained from scratch.

    Args:
        dim: width d; heads: query heads; kv_heads: heads of keys and values, as many when None.
        group, local, pool, fusion: as in `CcaAttentionConfig`.
        base: of the rotary frequencies.

    Raises:
        InputError: the heads do not divide the width, or each other, or a setting is out of range.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        group: int = 16,
        local: int = 64,
        pool: str = "attention",
        fusion: str = "softmax",
        base: float = 10_000.0,
    ) -> None:
        super().__init__(dim, heads, kv_heads=kv_heads, base=base)
        self.config = CcaAttentionConfig(group=group, local=local, pool=pool, fusion=fusion)
        self.gate = nn.Parameter(torch.zeros(heads)) if fusion == "gate" else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] to [B, T, d]."""
        assert self.config.local is not None
        out = whole(
            *self.project(x),
            self.rotate,
            group=self.config.group,
            local=self.config.local,
            scaling=self.width**-0.5,
            how=self.config.pool,
            bias=self.gate,
        )
        return self.put_out(out)


# --- the system ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Groups:
    """The groups that end in a pass.

    Attributes:
        rows: their last tokens in the pass [B, M]; members: slots of all their tokens [B, M * g]; pos: where they end,
            [B, M], -1 where a row has fewer.
    """

    rows: Tensor
    members: Tensor
    pos: Tensor


class CcaAttention(LearningSystem):
    """Core tokens for what lies far back, exact tokens for what is near."""

    Config = CcaAttentionConfig
    trees = False

    def build(self, family: Family) -> None:
        """The adapters and the gate, where there are any."""
        config = self.config
        self.adapter = LowRank(family.model, config.targets, rank=config.rank) if config.rank else None
        heads = [layer.query_heads for layer in family.layers]
        gates = [nn.Parameter(torch.zeros(count)) for count in heads] if config.fusion == "gate" else []
        self.gates = nn.ParameterList(gates)

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """The adapters work while the reader does."""
        if self.adapter is None:
            yield
            return
        with self.adapter.attached(model):
            yield

    # --- sizes -------------------------------------------------------------------------------------------------------

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """Solve local, cores and chunk from the budget; never further back than the trained length."""
        self._prepare(family)
        self.family = family
        config, group, sinks = self.config, self.config.group, self.config.sinks
        self._normed = any(_normalises_keys(module) for module in family.attention_modules())
        allowed = None if budget is None else budget.allowed("context")
        slot, fixed = batch * self._slot_bytes(family), self.fixed_bytes(family, batch)

        def total(local: int, cores: int, chunk: int) -> int:
            return int(sinks + local + group - 1 + chunk + cores + _ended(chunk, group))

        least = config.local or group
        least = least, config.cores or least // group + 1
        chunk = config.chunk or DEFAULT_CHUNK
        reach = max(1, (family.trained_length - sinks) // group)
        usual = max(group, min(_LOCAL, family.trained_length // 2))
        if allowed is None:
            self.local, self.cores = config.local or usual, config.cores or reach
        else:
            most = (allowed - fixed) // slot
            if config.chunk is None:
                chunk = max(1, min(chunk, most // 4, (most - total(*least, 0)) * group // (group + 1)))
            self._require(fixed + slot * total(*least, chunk), allowed)
            room = most - total(0, 0, chunk)
            share = config.cores or min(reach, room // 2)
            self.local = config.local or max(group, min(usual, room - share))
            self.cores = config.cores or min(reach, room - self.local)
        self.sizes = Sizes(sinks + self.local + group - 1, chunk, allowed)
        return self.sizes

    def fixed_bytes(self, family: Family, batch: int) -> int:
        """What the zone of core tokens keeps beside its slots comes on top."""
        return super().fixed_bytes(family, batch) + 16 * batch

    def zones(self) -> Mapping[str, int | None]:
        """Core tokens, those of a pass included."""
        return {"core": self.cores + _ended(self.sizes.chunk, self.config.group)}

    # --- one pass ----------------------------------------------------------------------------------------------------

    def begin(self, step: Step, cache: SlotCache) -> None:
        """Make room for the tokens, and for the core tokens of the groups that end with them."""
        super().begin(step, cache)
        zone = cache.zones["core"]
        held = zone.tracks[0]
        if held.n == 0:
            return
        pos = held.pos[:, :, : held.n]
        pos[pos >= cache.tracks[0].following[:, None, None]] = -1  # of tokens that were taken back
        coming = int(self._ends(step.pos).sum(1).amax())
        if held.limit is not None and held.n + coming > held.limit:
            count = min(self.cores, int((pos >= 0).sum(2).amax()))
            zone.keep([pos.argsort(dim=2, stable=True)[:, :, held.n - count :].sort(dim=2).values])
            self._turn_sinks(cache)

    def make_room(self, cache: SlotCache) -> None:
        """Drop the tokens that core tokens stand for; what was read before cannot be taken back any more."""
        super().make_room(cache)
        cache.tracks[0].tail = 0

    def _ends(self, pos: Tensor) -> Tensor:
        """Which positions [B, T] are the last of a group."""
        within: Tensor = pos - self.config.sinks
        last: Tensor = (within + 1) % self.config.group == 0
        return last & (within >= 0)

    def _turn_sinks(self, cache: SlotCache) -> None:
        """Let the first tokens stand right before the oldest core token that is left."""
        track, held = cache.tracks[0], cache.zones["core"].tracks[0]
        pos, left = track.pos[:, :, : track.n], held.pos[:, :, : held.n]
        first = (pos >= 0) & (pos < self.config.sinks)
        at = first.any(1).any(0).nonzero()[:, 0]
        if len(at) == 0:
            return
        oldest = left.masked_fill(left < 0, torch.iinfo(torch.int64).max).amin(2, keepdim=True)
        wanted = oldest - self.config.group + 1 - self.config.sinks + pos
        by = torch.where(first, wanted - track.rope[:, :, : track.n], 0)
        cache.turn(at, by[:, :, at])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, slots: Slots, step: Step, call: Call) -> Tensor:
        """One softmax over core tokens and exact ones; groups that end in this pass get their core token first."""
        q, k = self.family.rotate_both(layer, q, k, step.rope, step.angles)
        slots.write(k, v)
        zone = step.cache.zones["core"]
        if "edge" not in step.scratch:
            self._look_ahead(slots.track, zone.tracks[0], step)
        groups: _Groups | None = step.scratch["groups"]
        if groups is not None:
            self._pool(layer, q, slots, zone.layers[layer], groups, call)
        if not step.scratch["far"]:
            return self.over(q, *slots.view(), slots, step, call)
        bias = self.gates[layer] if len(self.gates) else None
        mask = self._mask(slots.track, zone.tracks[0], step, call)
        return joint(q, zone.layers[layer].view(), slots.view(), mask, call, bias)

    def _look_ahead(self, track: Track, held: Track, step: Step) -> None:
        """Once a pass: what each query sees exactly, and which groups end; make room for their core tokens."""
        config = self.config
        edge = border(step.pos, group=config.group, local=self.local, sinks=config.sinks)
        step.scratch |= {"edge": edge, "far": bool((edge > config.sinks).any()), "groups": None}
        ends = self._ends(step.pos)
        count = int(ends.sum(1).amax())
        if count == 0:
            return
        real = track.pos[:, 0, : track.n] >= 0
        order = (~real).int().argsort(dim=1, stable=True)
        rows = (~ends).int().argsort(dim=1, stable=True)[:, :count]
        there = ends.gather(1, rows)
        rank = (real.cumsum(1) - 1)[:, track.n - step.count :].gather(1, rows)
        back = torch.arange(config.group - 1, -1, -1, device=rows.device)
        members = order.gather(1, (rank[..., None] - back).clamp_min(0).flatten(1))
        pos = torch.where(there, step.pos.gather(1, rows), -1)
        held.append(pos, pos.clamp_min(0))
        step.scratch["groups"] = _Groups(rows, members, pos)

    def _pool(self, layer: int, q: Tensor, slots: Slots, zone: Slots, groups: _Groups, call: Call) -> None:
        group, shape = self.config.group, groups.rows.shape
        still, values = slots.at(groups.members[:, None])
        pos = slots.track.pos[:, 0, : slots.track.n].gather(1, groups.members).clamp_min(0)
        turned = self.family.rotate(layer, still, pos)
        asking = q.gather(2, groups.rows[:, None, :, None].expand(shape[0], q.shape[1], shape[1], q.shape[3]))
        turned, still, values = (x.view(*x.shape[:2], shape[1], group, x.shape[3]) for x in (turned, still, values))
        keys, values = pooled(
            asking,
            turned,
            still,
            values,
            scaling=call.scaling,
            how=self.config.pool,
            softcap=call.softcap,
            normed=self._normed,
        )
        zone.write(self.family.rotate(layer, keys, groups.pos.clamp_min(0)), values)

    def _mask(self, track: Track, held: Track, step: Step, call: Call) -> Tensor:
        """What each query sees, bool [B, 1, T, M + N], core tokens first."""
        key = ("cca", call.window)
        if key not in step.masks:
            edge = step.scratch["edge"][:, None, :, None]
            last, pos = held.pos[:, :, None, : held.n], track.pos[:, :, None, : track.n]
            far = (last >= 0) & (last < edge)
            if call.window is not None:
                far &= step.pos[:, None, :, None] - last < call.window
            near = step.mask if step.mask is not None else step.visible(track, call.window)
            near = near & ((pos >= edge) | (pos < self.config.sinks))
            step.masks[key] = torch.cat((far.expand(*near.shape[:3], -1), near), 3)
        found = step.masks[key]
        assert found is not None
        return found

    def reason(self, track: Track) -> list[str]:
        """First or exact; core tokens are no tokens of the text."""
        pos = track.pos[0, 0, : track.n].tolist()
        return ["first" if 0 <= at < self.config.sinks else "exact" for at in pos]

    # --- learning ----------------------------------------------------------------------------------------------------

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """Cross-entropy of the tokens that see core tokens.

        Raises:
            InputError: the windows are too short for one.
        """
        first = self.config.sinks + self.local + self.config.group - 1
        if ids.shape[1] < first + 2:
            raise InputError(f"{ids.shape[1]} tokens show no core token: length must be at least {first + 2}")
        hidden = reader.model.base_model(ids).last_hidden_state
        scores = reader.family.logits(hidden[:, first:-1])
        return nn.functional.cross_entropy(scores.flatten(0, 1), ids[:, first + 1 :].flatten())


def _ended(count: int, group: int) -> int:
    """Most groups that end within `count` tokens."""
    return -(-count // group)


def _normalises_keys(module: nn.Module) -> bool:
    return any(name.startswith("k") and "norm" in name for name, _ in module.named_children())
