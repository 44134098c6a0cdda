"""LongMem (Wang et al., NeurIPS 2023, arXiv 2306.07174): a frozen model writes a bank that a side network reads.

The model reads as ever, over the slots of a window. What leaves the window is written to a bank: the keys and values
of one layer m, as before any rotation. The model is frozen, so what it wrote never becomes stale. A side network runs
beside it, one layer for every `reduction` of the model's, begun as copies of them:
x ← SideLayer(x) + (H at the end of those layers − H at their beginning), from the embeddings on. Its output takes the
place of the model's last hidden state. In one of its layers every query also looks into the bank, head by head: the
`top_k / memory_chunk` chunks whose mean key fits best, and a gate σ(g) mixes the two attentions,
out = (1 − σ(g)) local + σ(g) memory, each with a softmax of its own. Only side network and gates are trained (`fit`).

The side network changes what the model says, with an empty bank too, and an untrained one spoils it, since the copies
add what the model's own layers have added already. The bank answers by likeness of keys: it brings back what was said
in a like context, and cannot reason over it.

Notable choices. The paper cuts a text into disjoint segments and writes a segment once it was read; here the window
moves on and what leaves it is written, so that nothing is ever in both and every token has a context. With RoPE the
bank's keys are not rotated, that is, at distance 0 (the paper: ALiBi, no bias on memory). Query heads that share keys
search the bank of their key head. Each row of a batch has a bank of its own, where the official code has one for all,
and tokens that do not fill a chunk wait instead of being dropped; when the bank is full the oldest go. Side layers
keep the model's own form (attention, then feed-forward) and the final norm stays the model's, where the paper has
parallel blocks and a trained copy. `side` leaves side layers out: such a layer passes the model's own difference on.
The side layer that reads the bank is a copy of layer m at every depth, as it is at the paper's: the queries of another
layer would have to learn what those keys mean. `fit` is AdamW with a half cosine; the paper: Adam (0.9, 0.98) at 2e-4,
26 billion tokens, windows in order. AdamW moves a number by about its rate at most, so that in a short training a gate
would stay at ½: gates learn at 0.03 at least. What matters most is the layer: it must be one in which the model itself
recalls, that is, whose queries fit keys of like contexts; one that does not leaves the side network nothing to find.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from memspan.context.base import ContextConfig
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.learning import LearningSystem
from memspan.context.slots import TRACK_BYTES, Slots, Track
from memspan.context.step import Call, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.context.reader import Reader

CAPACITY = 65_536  # tokens, as in the paper
_ROWS = 64  # query tokens that search at a time: each brings top_k keys and values a head


@dataclass(frozen=True, kw_only=True)
class LongMemConfig(ContextConfig):
    """Settings of LongMem. The paper's segments are 1,024 tokens.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    layer: float = 0.75  # m: the layer whose keys and values are kept, as a share of the depth (paper: 18 of 24)
    reduction: int = 2  # r: layers of the model for each layer of the side network
    side: tuple[int, ...] | None = None  # which side layers there are, from 0; None: all
    memory_chunk: int = 4  # c: tokens that are found together
    top_k: int = 64  # K: tokens that each query gets
    capacity: int | None = None  # tokens in the bank; None: 65,536, or half of what the budget leaves

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer <= 1:
            raise InputError(f"layer is {self.layer}: it must be above 0 and at most 1")
        for name in ("reduction", "memory_chunk", "top_k"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.top_k % self.memory_chunk:
            raise InputError(f"top_k is {self.top_k}: it must be a multiple of memory_chunk ({self.memory_chunk})")
        if self.capacity is not None and (self.capacity < 1 or self.capacity % self.memory_chunk):
            raise InputError(
                f"capacity is {self.capacity}: it must be a positive multiple of memory_chunk ({self.memory_chunk})"
            )


class LongMem(LearningSystem):
    """A window for the model, and a bank of what left it for a side network."""

    Config = LongMemConfig
    needs = frozenset({"hidden", "evicted"})
    as_slots = True
    exact = False
    trees = False
    least_rates = MappingProxyType({"gate": 0.03})

    # --- sizes -------------------------------------------------------------------------------------------------------

    def build(self, family: Family) -> None:
        """Copies of every r-th decoder layer, and a gate for each query head, at σ = ½."""
        config = self.config
        layers = family.decoder_layers()
        count = len(layers) // config.reduction
        if count == 0:
            raise InputError(f"reduction is {config.reduction}: {family.name} has only {len(layers)} layers")
        self.memory_layer = max(0, int(config.layer * len(layers)) - 1)
        self.reader_layer = min(self.memory_layer // config.reduction, count - 1)
        wanted = range(count) if config.side is None else sorted(set(config.side))
        if any(not 0 <= j < count for j in wanted) or self.reader_layer not in wanted:
            raise InputError(
                f"side is {config.side}: its layers are 0 to {count - 1}, and {self.reader_layer} reads the bank"
            )
        self.side = nn.ModuleDict({str(j): _copy(layers[self._copied(j)]) for j in wanted})
        self.gate = nn.Parameter(torch.zeros(family.layers[self.memory_layer].query_heads))

    def _copied(self, j: int) -> int:
        """The model's layer that side layer j is a copy of.

        The one that reads the bank is a copy of the layer that wrote it: only its queries fit those keys.
        """
        return int(self.memory_layer if j == self.reader_layer else (j + 1) * self.config.reduction - 1)

    def zones(self) -> dict[str, int | None]:
        """The side network's own keys and values, of the same tokens as the model's."""
        return {"side": self.sizes.capacity}

    def _slot_bytes(self, family: Family) -> int:
        infos = [family.layers[self._copied(int(j))] for j in self.side]
        kv = sum(info.kv_heads * (info.key_dim + info.value_dim) for info in infos)
        return int(super()._slot_bytes(family) + kv * family.dtype.itemsize + TRACK_BYTES)

    def _bank_bytes(self, family: Family) -> int:
        """Bytes of one chunk of the bank: keys, values, their mean key, and positions."""
        info, count = family.layers[self.memory_layer], self.config.memory_chunk
        numbers = count * (info.key_dim + info.value_dim) + info.key_dim
        return int(info.kv_heads * numbers * family.dtype.itemsize + 8 * count)

    def fixed_bytes(self, family: Family, batch: int) -> int:
        """What every system holds, the side network's track, and the bank."""
        chunks = self.bank_tokens // self.config.memory_chunk
        return int(super().fixed_bytes(family, batch) + batch * (16 + chunks * self._bank_bytes(family)))

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """Solve the bank, the slots and the chunk from the budget.

        Raises:
            BudgetError, InputError: see `ContextSystem.bind`; a bank given smaller than a chunk that is read.
        """
        self._prepare(family)
        config = self.config
        piece = config.memory_chunk
        allowed = None if budget is None else budget.allowed("context")
        if config.capacity is not None:
            self.bank_tokens = int(config.capacity)
        elif allowed is None:
            self.bank_tokens = CAPACITY // piece * piece
        else:
            self.bank_tokens = piece
            slots = self.reserved if config.slots is None else config.slots
            least = self.fixed_bytes(family, batch) + batch * (slots + (config.chunk or 1)) * self._slot_bytes(family)
            chunks = max(0, allowed - least) // (batch * self._bank_bytes(family))
            chunks = chunks if config.slots is not None and config.chunk is not None else chunks // 2
            self.bank_tokens = min(CAPACITY // piece, 1 + chunks) * piece
        sizes = super().bind(family, budget, batch)
        if config.capacity is not None and config.capacity < sizes.chunk:
            raise InputError(f"capacity is {config.capacity}: it must hold the {sizes.chunk} tokens of a chunk")
        return sizes

    # --- the bank ----------------------------------------------------------------------------------------------------

    def priority(self, track: Track) -> Tensor:
        """How late it came; the first `sinks` of the window above all, also after `put_away`."""
        pos = track.pos[:, :, : track.n]
        first = (pos >= 0) & ((pos >= 0).cumsum(2) <= self.config.sinks)
        return pos.float().masked_fill(first, float("inf"))

    def keep(self, cache: SlotCache, indices: list[Tensor]) -> None:
        """The side network keeps what the model keeps; the rest goes to the bank."""
        self._in_step(cache, cache.tracks[0].n)
        super().keep(cache, indices)
        cache.zones["side"].keep(indices, as_slots=True)

    def put_away(self, cache: SlotCache) -> None:
        """Move the whole window to the bank: what was read is memory, and the next token begins a context."""
        track = cache.tracks[0]
        empty = torch.zeros(track.pos.shape[0], 1, 0, dtype=torch.int64, device=track.pos.device)
        self.keep(cache, [empty])

    def remember(self, reader: Reader, data: Any) -> None:
        """Read examples or a document straight into the bank; `data` as `Reader.feed` takes it."""
        reader.feed(data)
        self.put_away(reader.cache)

    def inherits(self) -> tuple[int, ...]:
        """The layer that is kept."""
        return (self.memory_layer,)

    def on_evict(self, layer: int, k: Tensor, v: Tensor, pos: Tensor, cache: SlotCache) -> None:
        """Write one layer's keys and values to the bank, the oldest over first."""
        piece, written = self.config.memory_chunk, int(cache.notes.get("written", 0))
        k, v, pos = (x.detach()[..., -self.bank_tokens :, :] for x in (k, v, pos[:, 0, :, None]))
        count = k.shape[2]
        self._grow(cache, k, v, min(written + count, self.bank_tokens))
        held = cache.extra
        at = (written + torch.arange(count, device=k.device)) % self.bank_tokens
        held["bank.keys"][:, :, at] = k
        held["bank.values"][:, :, at] = v
        held["bank.pos"][:, at] = pos[..., 0]
        whole = torch.arange(written // piece, (written + count) // piece, device=k.device)
        whole = whole % (self.bank_tokens // piece)
        tokens = (whole[:, None] * piece + torch.arange(piece, device=k.device)).flatten()
        real = (held["bank.pos"][:, tokens] >= 0).view(k.shape[0], 1, len(whole), piece, 1)
        keys = held["bank.keys"][:, :, tokens].view(*k.shape[:2], len(whole), piece, k.shape[3]).float()
        mean = (keys * real).sum(3) / real.sum(3).clamp_min(1)
        held["bank.means"][:, :, whole] = mean.to(k.dtype)
        cache.notes["written"] = written + count

    def _grow(self, cache: SlotCache, k: Tensor, v: Tensor, needed: int) -> None:
        piece, held = self.config.memory_chunk, cache.extra
        has = held["bank.pos"].shape[1] if "bank.pos" in held else 0
        if needed <= has:
            return
        size = min(self.bank_tokens, -(-max(needed, has * 5 // 4) // piece) * piece)
        made = {
            "bank.keys": k.new_zeros(*k.shape[:2], size, k.shape[3]),
            "bank.values": v.new_zeros(*v.shape[:2], size, v.shape[3]),
            "bank.means": k.new_zeros(*k.shape[:2], size // piece, k.shape[3]),
            "bank.pos": torch.full((k.shape[0], size), -1, dtype=torch.int64, device=k.device),
        }
        if has:
            for name in ("bank.keys", "bank.values", "bank.means"):
                made[name][:, :, : held[name].shape[2]] = held[name]
            made["bank.pos"][:, :has] = held["bank.pos"]
        held.update(made)

    def _searchable(self, cache: SlotCache) -> Tensor | None:
        """Which chunks [B, C] are whole and hold a token; None when there is none."""
        written, piece = int(cache.notes.get("written", 0)), self.config.memory_chunk
        if written < piece:
            return None
        pos = cache.extra["bank.pos"]
        good = (pos >= 0).view(pos.shape[0], -1, piece).any(2)
        good[:, min(written, self.bank_tokens) // piece :] = False
        if written % piece:
            being_written = written // piece % (self.bank_tokens // piece)
            good[:, being_written : being_written + 1] = False
        return good if bool(good.any()) else None

    def memory(self, q: Tensor, cache: SlotCache, scaling: float) -> tuple[Tensor, Tensor] | None:
        """Attention [B, Hq, T, D] of queries as before any rotation over what each finds in the bank.

        The second tensor, bool [B], says which rows have a bank at all. None when none has.
        """
        good = self._searchable(cache)
        if good is None:
            return None
        held, piece = cache.extra, self.config.memory_chunk
        means = held["bank.means"].float().transpose(2, 3)
        batch, heads, kv = q.shape[0], q.shape[1], means.shape[1]
        group, count = heads // kv, min(self.config.top_k // piece, int(good.sum(1).amax()))
        rows = []
        for at in range(0, q.shape[2], _ROWS):
            part = q[:, :, at : at + _ROWS]
            packed = part.reshape(batch, kv, -1, part.shape[3]).float()
            with torch.no_grad():
                fit = (packed @ means).masked_fill(~good[:, None, None], float("-inf"))
                best = fit.topk(count, dim=-1)
                tokens = best.indices[..., None] * piece + torch.arange(piece, device=q.device)
                tokens = tokens.flatten(3)
                real = held["bank.pos"][:, None].expand(-1, kv, -1).gather(2, tokens.flatten(2)) >= 0
                real = real.view(tokens.shape) & best.values.isfinite().repeat_interleave(piece, -1)
                keys, values = (_pick(held[name], tokens).float() for name in ("bank.keys", "bank.values"))
            products = torch.einsum("bhrd,bhrnd->bhrn", packed, keys) * scaling
            shares = products.masked_fill(~real, float("-inf")).softmax(-1).nan_to_num(nan=0.0)
            out = torch.einsum("bhrn,bhrnd->bhrd", shares, values)
            rows.append(out.view(batch, kv, group, part.shape[2], -1).flatten(1, 2))
        return torch.cat(rows, 2).to(q.dtype), good.any(1)

    # --- the side network --------------------------------------------------------------------------------------------

    @staticmethod
    def _in_step(cache: SlotCache, count: int) -> None:
        """Take back what transformers took back from the model's slots alone."""
        track = cache.zones["side"].tracks[0]
        if track.n > count:
            track.drop_last(track.n - count)

    def hidden(self, layer: int, h: Tensor, step: Step) -> Tensor:
        """Run the side layer that stands beside this one; after the last layer the side network's output replaces h."""
        scratch, r = step.scratch, self.config.reduction
        if layer == -1:
            zone = step.cache.zones["side"]
            self._in_step(step.cache, step.start)
            zone.append(step.pos, step.rope)
            zone.tracks[0].padded = step.cache.tracks[0].padded
            scratch["x"] = scratch["before"] = h
            return h
        last = layer == len(self.family.layers) - 1
        whole = (layer + 1) % r == 0
        if not whole and not last:
            return h
        x, before = scratch["x"], scratch["before"]
        name = str((layer + 1) // r - 1)
        if whole and name in self.side:
            assert step.again is not None
            scratch["side"] = int(name)
            try:
                x = step.again(self.side[name], x)
            finally:
                del scratch["side"]
        scratch["x"], scratch["before"] = x + (h - before), h
        return scratch["x"] if last else h

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, slots: Slots, step: Step, call: Call) -> Tensor:
        """The exact attention; in a side layer over its own slots, and in the one that reads the bank the gated sum."""
        side = step.scratch.get("side")
        if side is None:
            return super().attend(layer, q, k, v, slots, step, call)
        local = super().attend(layer, q, k, v, step.cache.zones["side"].layers[layer], step, call)
        if side != self.reader_layer:
            return local
        found = self.memory(q, step.cache, call.scaling)
        if found is None:
            return local
        memory, has = found
        share = torch.sigmoid(self.gate)[None, :, None, None] * has[:, None, None, None]
        return ((1 - share) * local + share * memory).to(local.dtype)

    def end(self, step: Step, cache: SlotCache, surprisal: Tensor | None) -> None:
        """Gradients flow within a pass."""
        if torch.is_grad_enabled():
            cache.detach()

    def reason(self, track: Track) -> list[str]:
        """First, or recent; what left the window stands in the bank."""
        pos = track.pos[0, 0, : track.n]
        first = (pos >= 0) & ((pos >= 0).cumsum(0) <= self.config.sinks)
        return ["first" if one else "recent" for one in first.tolist()]

    # --- learning ----------------------------------------------------------------------------------------------------

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """Mean surprisal in windows [B, T]; the bank is read in those that are longer than slots and chunk."""
        hidden = reader.model.base_model(ids).last_hidden_state
        scores = self.family.logits(hidden[:, :-1])
        return functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())


def _copy(layer: nn.Module) -> nn.Module:
    """A decoder layer of its own that shares the model's configuration, in which the attention function stands."""
    shared = {id(m.config): m.config for m in layer.modules() if hasattr(m, "config")}
    made = copy.deepcopy(layer, shared)
    for parameter in made.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return made


def _pick(bank: Tensor, tokens: Tensor) -> Tensor:
    """Rows [B, H, R, n, D] of a bank [B, H, N, D] by tokens [B, H, R, n]."""
    wide = tokens.flatten(2)[..., None].expand(-1, -1, -1, bank.shape[3])
    return bank.gather(2, wide).view(*tokens.shape, bank.shape[3])
