"""`ContextSystem`: which of the tokens that were read are kept, and how they are attended to.

A system says what it would keep (`priority`) and may replace the attention (`attend`), the passes (`plan`), what a
layer puts out (`hidden`, `output`), and take over what is dropped (`on_evict`); the rest (seams in the model, bytes,
saving) is the reader's. What it keeps of the stream stands in the cache (`cache.extra`, `notes`, `zones`), never in
itself. Tensor shapes as in `slots.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from memspan.context import attention
from memspan.context.cache import OnEvict, SlotCache
from memspan.context.family import Family
from memspan.context.slots import TRACK_BYTES, Slots, Track
from memspan.context.step import Call, PlanState, Segment, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import BudgetError, InputError

DEFAULT_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Settings that every bounded system has.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    slots: int | None = None  # tokens kept beside the chunk being read; None: what the budget, or the model, allows
    chunk: int | None = None  # tokens read in one pass; None: a quarter of the slots, at most 512
    sinks: int = 4  # first tokens that are never dropped

    def __post_init__(self) -> None:
        for name in ("slots", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if self.sinks < 0:
            raise InputError(f"sinks is {self.sinks}: it must be at least 0")


class ContextSystem:
    """A policy over slots. The base class keeps the first and the latest tokens.

    Class attributes:
        needs: "surprisal" (of each token, at `end`), "hidden" (`hidden` is called for every layer), "evicted"
            (`on_evict` is called); the reader pays only for these.
        per_head: heads keep different tokens.
        as_slots: a key is rotated to its place in the buffer, so that no distance exceeds the capacity.
        bounded: the system has a capacity; one that has none keeps all, and refuses what the budget cannot hold.
        exact: with room for everything the logits are the plain model's.
        trees: a pass may hold rows that are thrown away again, as decoders need it: `plan` does no more than cut
            chunks, and nothing but keys and values is kept of a pass before `end`.
    """

    Config: ClassVar[type[Any]] = ContextConfig
    needs: ClassVar[frozenset[str]] = frozenset()
    per_head: ClassVar[bool] = False
    as_slots: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    trees: ClassVar[bool] = True

    family: Family
    sizes: Sizes

    def __init__(self, config: Any = None, **options: Any) -> None:
        if config is None:
            try:
                config = self.Config(**options)
            except TypeError as error:
                known = ", ".join(self.Config.__dataclass_fields__)
                raise InputError(f"{type(self).__name__} has no such option ({error}); its options: {known}") from None
        self.config = config

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def reserved(self) -> int:
        """Slots that must be there for the system to work."""
        return int(self.config.sinks) + 1

    def zones(self) -> Mapping[str, int | None]:
        """Further slots beside the main ones: names, and the most of each, None without bound; asked after `bind`."""
        return {}

    def fixed_bytes(self, family: Family, batch: int) -> int:
        """Bytes that do not depend on the number of slots; what stands in `extra` and `zones` belongs here."""
        tracks = len(family.layers) if self.per_head else 1
        hidden = family.base.config.get_text_config().hidden_size * family.dtype.itemsize
        return int(batch * (16 * tracks + hidden))

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """Solve slots and chunk from the budget, in bytes of the tier "context" for `batch` rows.

        Raises:
            BudgetError: it is too small; names the bytes that would do.
            InputError: `slots` leaves no room for what the system must keep.
        """
        self.family = family
        allowed = None if budget is None else budget.allowed("context")
        config = self.config
        slot = batch * self._slot_bytes(family)
        fixed = self.fixed_bytes(family, batch)
        if not self.bounded:
            self._require(fixed + slot, allowed)
            self.sizes = Sizes(None, config.chunk or DEFAULT_CHUNK, allowed)
            return self.sizes
        if config.slots is None:
            least = self.reserved + (config.chunk or 1)
        else:
            least = config.slots + (config.chunk or max(1, min(DEFAULT_CHUNK, config.slots // 4)))
        self._require(fixed + slot * least, allowed)
        most = family.trained_length if allowed is None else (allowed - fixed) // slot
        if self.as_slots:
            most = min(most, family.trained_length)
        if config.slots is None:
            chunk = config.chunk or max(1, min(DEFAULT_CHUNK, most // 4, most - self.reserved))
            slots = most - chunk
        else:
            slots, chunk = config.slots, least - config.slots
        if slots < self.reserved:
            raise InputError(f"slots is {slots}: {type(self).__name__} needs at least {self.reserved}")
        self.sizes = Sizes(slots, chunk, allowed)
        return self.sizes

    def _require(self, needed: int, allowed: int | None) -> None:
        if allowed is not None and needed > allowed:
            raise BudgetError(
                f"{type(self).__name__} on {self.family.name}",
                needed=needed,
                allowed=allowed,
                advice=f"raise the budget to at least {needed:,} bytes",
            )

    def attached(self, model: Any) -> AbstractContextManager[None]:
        """Entered with the reader's block, after `bind`: adapters beside the model's layers belong here."""
        return nullcontext()

    # --- one pass ----------------------------------------------------------------------------------------------------

    def plan(self, ids: torch.Tensor | None, state: PlanState) -> Iterator[Segment]:
        """Which tokens run, in which passes. Here all, in chunks.

        Each segment is run before the next is asked for. What no segment covers is not read, but counts as read; when
        `state.asking`, the last segment must end at the last token.

        Args:
            ids: [B, T], None when embeddings were given.
        """
        for at in range(0, state.count, self.sizes.chunk):
            yield Segment(begin=at, end=min(at + self.sizes.chunk, state.count))

    def begin(self, step: Step, cache: SlotCache) -> None:
        """Before the pass: make room for it, and say where its keys are rotated to.

        May set `step.inputs_embeds` and `step.mask`.
        """
        capacity = self.sizes.capacity
        if capacity is not None and cache.tracks[0].n + step.count > capacity:
            self.make_room(cache)
        elif capacity is None and self.sizes.limit is not None:
            self._require_growth(step, cache)
        step.start = cache.tracks[0].n
        if self.as_slots:
            step.rope = (step.start + step.offsets).expand_as(step.pos)
        else:
            step.rope = step.pos.clamp_min(0)

    def make_room(self, cache: SlotCache) -> None:
        """Drop slots until `sizes.slots` are left."""
        self.keep(cache, [self.choose(track) for track in cache.tracks])

    def keep(self, cache: SlotCache, indices: list[torch.Tensor]) -> None:
        """Keep the slots `indices`, one [B, P, M] for each track, ascending, and tell `on_evict` of the others."""
        told: OnEvict | None = None
        if "evicted" in self.needs:

            def told(layer: int, k: torch.Tensor, v: torch.Tensor, pos: torch.Tensor) -> None:
                self.on_evict(layer, k, v, pos, cache)

        cache.keep(indices, as_slots=self.as_slots, on_evict=told, told_of=self.inherits())

    def inherits(self) -> Collection[int] | None:
        """Layers of which `on_evict` is told, since each costs a copy and a rotation back; None: all."""
        return None

    def on_evict(self, layer: int, k: torch.Tensor, v: torch.Tensor, pos: torch.Tensor, cache: SlotCache) -> None:
        """Keys as before any rotation and values [B, H, M, D] that are about to be dropped, and where they stood.

        Called layer by layer, for those of `inherits`, before the pass that needs the room.

        Args:
            pos: true positions [B, P, M], -1 for padding.
        """

    def rows_left(self, cache: SlotCache) -> int:
        """Most rows of a pass that drops no slots earlier than passes of one row would."""
        used, capacity = cache.tracks[0].n, self.sizes.capacity
        if capacity is not None:
            return capacity - used if used < capacity else self.sizes.chunk
        if self.sizes.limit is None:
            return self.sizes.chunk
        room = self.sizes.limit - self.fixed_bytes(self.family, cache.batch)
        return max(1, min(self.sizes.chunk, room // (cache.batch * self._slot_bytes(self.family)) - used))

    def _slot_bytes(self, family: Family) -> int:
        """Bytes of one slot of one row, in all layers."""
        return family.slot_bytes(per_head=self.per_head, track=TRACK_BYTES)

    def _require_growth(self, step: Step, cache: SlotCache) -> None:
        batch = cache.batch
        slot = batch * self._slot_bytes(self.family)
        fixed = self.fixed_bytes(self.family, batch)
        self._require(fixed + slot * (cache.tracks[0].n + step.count), self.sizes.limit)
        for track in cache.tracks:
            track.limit = ((self.sizes.limit or 0) - fixed) // slot

    def choose(self, track: Track) -> torch.Tensor:
        """The slots to keep, [B, P, M] ascending: the first tokens, then those of the highest priority.

        Among equals the latest stay.
        """
        assert self.sizes.slots is not None
        rank = self.priority(track).clone()
        pos = track.pos[:, :, : track.n]
        rank[(pos >= 0) & (pos < self.config.sinks)] = float("inf")
        rank[pos < 0] = float("-inf")
        count = min(self.sizes.slots, track.n)
        order = rank.flip(2).argsort(dim=2, descending=True, stable=True)[:, :, :count]
        return (track.n - 1 - order).sort(dim=2).values

    def priority(self, track: Track) -> torch.Tensor:
        """What each slot is worth, float32 [B, P, n]: here how late it came."""
        return track.pos[:, :, : track.n].float()

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: Slots, step: Step, call: Call
    ) -> torch.Tensor:
        """Attention of the new tokens [B, Hq, T, D] over slots and themselves; q and k arrive un-rotated."""
        q, k = self.family.rotate_both(layer, q, k, step.rope, step.angles)
        slots.write(k, v)
        return self.over(q, *slots.view(), slots, step, call)

    def over(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: Slots, step: Step, call: Call
    ) -> torch.Tensor:
        """Exact causal attention of rotated queries over keys and values that stand where the track says."""
        mask, causal = self.mask(slots, step, call)
        if call.softcap is not None or call.sinks is not None:
            if causal:
                mask = step.visible(slots.track, call.window)
            products = attention.scores(q, keys, call.scaling)
            return attention.mix(attention.weights(products, mask, softcap=call.softcap, sinks=call.sinks), values)
        return attention.exact(q, keys, values, mask, causal=causal, scaling=call.scaling)

    def mask(self, slots: Slots, step: Step, call: Call) -> tuple[torch.Tensor | None, bool]:
        """The mask over all slots, made once for layers that share it, and whether the causal flag replaces it."""
        if step.mask is not None:
            return step.mask, False
        track, window = slots.track, call.window
        if window is not None and step.plain and int(track.following.amax()) <= window:
            window = None
        if step.plain and window is None:
            if step.count == 1:
                return None, False
            if step.start == 0 and step.tree is None:
                return None, True
        key = (window, slots.index if self.per_head else 0)
        if key not in step.masks:
            step.masks[key] = step.visible(track, window)
        return step.masks[key], False

    def hidden(self, layer: int, h: torch.Tensor, step: Step) -> torch.Tensor:
        """What decoder layer `layer` puts out, [B, T, d]; -1 are the embeddings. What is returned takes its place."""
        return h

    def output(self, h: torch.Tensor, step: Step) -> torch.Tensor:
        """The last hidden states [B, T, d], after the final norm. What is returned goes to the output embedding."""
        return h

    def end(self, step: Step, cache: SlotCache, surprisal: torch.Tensor | None) -> None:
        """After the pass. `surprisal` [B, T] in nats is NaN where it is not known; None unless the system needs it."""

    def turn(self, cache: SlotCache) -> None:
        """A new turn begins: one call of `feed`, or of `ask`."""
        for track in cache.tracks:
            track.current_turn += 1

    def reason(self, track: Track) -> list[str]:
        """Why each slot of the first row and head is kept."""
        pos = track.pos[0, 0, : track.n].tolist()
        return ["first" if 0 <= at < self.config.sinks else "recent" for at in pos]
