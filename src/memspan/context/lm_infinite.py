"""LM-Infinite (Han et al., NAACL 2024, arXiv 2308.16137): fluent on any length, without training, in constant memory.

It does not remember the middle: a token between the first ones and the window is gone, and only `top_k` brings a little
of what is still in the buffer back, for the last query alone. Each query sees the `window` latest tokens, itself
included, and the first `sinks`; no distance is larger than `distance`. Both together keep what attention sees inside
what the model was trained on.

Notable choices. The official code masks a full cache; here slots outside the mask are dropped when the buffer is full,
which gives the same logits. Window keys stay rotated at their true position and are never rotated again; the first
tokens' keys are turned back to position 0 and the query is rotated once more, to the ceiling. A first token inside the
window counts once, with its true distance. `triangle_offset`, off in the official code, is left out. With left padding
the first tokens are the first real ones of each row. Layers that slide by themselves keep their own window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memspan.context import attention
from memspan.context.base import ContextConfig, ContextSystem
from memspan.context.family import Family
from memspan.context.slots import Slots, Track
from memspan.context.step import Call, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LmInfiniteConfig(ContextConfig):
    """Settings of LM-Infinite.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    sinks: int = 10  # G: first tokens that every query sees (official drop-in: 10; "10–100 behave alike")
    window: int | None = (
        None  # L: latest tokens a query sees, itself included; None: what the budget or the model allows
    )
    distance: int | None = None  # D: ceiling of distances; None: the window
    top_k: int = 0  # k: dropped-out middle keys per head that the last query gets back while they are in the buffer
    top_k_from_layer: int = 4  # first layer that does so (official code: 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots is not None:
            raise InputError("slots is solved from window and sinks: give window")
        if self.window is not None and self.window < 2:
            raise InputError(f"window is {self.window}: it must be at least 2")
        if self.distance is not None and self.distance < 1:
            raise InputError(f"distance is {self.distance}: it must be at least 1")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}: it must be at least 0")


class LmInfinite(ContextSystem):
    """Λ-shaped attention with a ceiling on distances."""

    Config = LmInfiniteConfig

    @property
    def reserved(self) -> int:
        """Sinks and the smallest window."""
        return int(self.config.sinks) + 2

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """Solve the window from the budget; never longer than the trained length."""
        config = self.config
        sizes = super().bind(family, budget, batch)
        assert sizes.slots is not None
        if config.window is None:
            self.window = min(sizes.slots - config.sinks, family.trained_length - config.sinks)
        else:
            self.window = config.window
            chunk = config.chunk or min(sizes.chunk, max(1, self.window // 4))
            capacity = self.window + config.sinks + chunk
            needed = self.fixed_bytes(family, batch) + batch * capacity * self._slot_bytes(family)
            self._require(needed, sizes.limit)
            sizes = Sizes(self.window + config.sinks, chunk, sizes.limit)
        self.distance = config.distance or self.window
        self.sizes = sizes
        return sizes

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: Slots, step: Step, call: Call
    ) -> torch.Tensor:
        """One softmax over the window at true distances and the first tokens at most at the ceiling."""
        rotated, k = self.family.rotate_both(layer, q, k, step.rope, step.angles)
        slots.write(k, v)
        pos = slots.track.pos[:, :, : slots.track.n]
        reach = min(self.window, self.distance)
        if call.window is not None or step.mask is not None or int(slots.track.following.amax()) <= reach:
            mask, causal = self.mask(slots, step, call)
            return self._plain(rotated, slots, mask, causal, step, call)
        keys, values = slots.view()
        seen = step.visible(slots.track, self.window, self.config.sinks)
        products = attention.scores(rotated, keys, call.scaling)
        far = step.pos[:, None, :, None] - pos[:, :, None, :] > self.distance
        if self.family.layers[layer].rotary:
            self._cap(products, far, layer, q, keys, pos, call)
        if self.config.top_k and layer >= self.config.top_k_from_layer:
            seen = self._with_middle(seen, layer, q, keys, pos, products, step, call)
        return attention.mix(attention.weights(products, seen, softcap=call.softcap, sinks=call.sinks), values)

    def _plain(
        self,
        q: torch.Tensor,
        slots: Slots,
        mask: torch.Tensor | None,
        causal: bool,
        step: Step,
        call: Call,
    ) -> torch.Tensor:
        keys, values = slots.view()
        if call.softcap is None and call.sinks is None:
            return attention.exact(q, keys, values, mask, causal=causal, scaling=call.scaling)
        if causal:
            mask = step.visible(slots.track, call.window)
        shares = attention.weights(
            attention.scores(q, keys, call.scaling), mask, softcap=call.softcap, sinks=call.sinks
        )
        return attention.mix(shares, values)

    def _cap(
        self,
        products: torch.Tensor,
        far: torch.Tensor,
        layer: int,
        q: torch.Tensor,
        keys: torch.Tensor,
        pos: torch.Tensor,
        call: Call,
    ) -> None:
        """Put the products at distance D where the distance is larger, in place.

        Those are first tokens, and, with a ceiling below the window, window tokens too; their keys are turned to 0.
        """
        at = far.any(2).any(1).any(0).nonzero()[:, 0]
        if len(at) == 0:
            return
        still = self.family.rotate(layer, keys[:, :, at], -pos[:, :, at].clamp_min(0))
        ceiling = torch.full((1, 1), self.distance, dtype=torch.int64, device=q.device)
        capped = attention.scores(self.family.rotate(layer, q, ceiling.expand(1, q.shape[2])), still, call.scaling)
        products[..., at] = torch.where(far[:, :, None, :, at], capped, products[..., at])

    def _with_middle(
        self,
        seen: torch.Tensor,
        layer: int,
        q: torch.Tensor,
        keys: torch.Tensor,
        pos: torch.Tensor,
        products: torch.Tensor,
        step: Step,
        call: Call,
    ) -> torch.Tensor:
        """For the last query, the best `top_k` middle keys of each head, at distance D."""
        last = step.pos[:, None, -1:, None]
        middle = (pos[:, :, None, :] >= self.config.sinks) & (pos[:, :, None, :] <= last - self.window)
        count = min(self.config.top_k, int(middle.sum(3).amax()))
        if count == 0:
            return seen
        still = self.family.rotate(layer, keys, -pos.clamp_min(0))
        ceiling = torch.full((1, 1), self.distance, dtype=torch.int64, device=q.device)
        found = attention.scores(self.family.rotate(layer, q[:, :, -1:], ceiling), still, call.scaling)
        found = found.masked_fill(~middle[:, :, None], float("-inf"))
        best = found.topk(count, dim=-1)
        row = torch.full_like(found, float("-inf")).scatter(-1, best.indices, best.values)
        chosen = row > float("-inf")
        # Every query head has its own choice, so the mask of the last row is put into the products themselves.
        own = products[..., -1:, :].masked_fill(~seen[:, :, None, -1:], float("-inf"))
        products[..., -1:, :] = torch.where(chosen, row, own)
        wide = seen.expand(seen.shape[0], seen.shape[1], *seen.shape[2:]).clone()
        wide[:, :, -1] = True
        return wide

    def reason(self, track: Track) -> list[str]:
        """First, window, or waiting to be dropped."""
        pos = track.pos[0, 0, : track.n].tolist()
        edge = int(track.following[0]) - self.window
        sinks = self.config.sinks
        return ["first" if 0 <= at < sinks else "window" if at >= edge else "until room is needed" for at in pos]
