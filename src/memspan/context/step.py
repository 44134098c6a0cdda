"""What one pass of the model is: its sizes, its tokens, and what a plan says of it.

Shapes: B batch rows, T rows of the pass, N slots, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from memspan.context import attention
from memspan.context.family import Angles

if TYPE_CHECKING:
    from memspan.context.cache import SlotCache
    from memspan.context.slots import Track


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a budget was solved to.

    Attributes:
        slots: tokens kept when room must be made, None without bound.
        chunk: most tokens read in one pass.
        limit: most bytes of the context, None without bound.
    """

    slots: int | None
    chunk: int
    limit: int | None

    @property
    def capacity(self) -> int | None:
        """Slots of the buffers: what is kept and the chunk being read."""
        return None if self.slots is None else self.slots + self.chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One pass of a plan: which of the given tokens it reads, and what stands around them.

    Attributes:
        begin, end: of the tokens that were given. The segment whose end is their number is the last one.
        ids: token ids [B, T] that are read instead and put out nothing; begin and end are not looked at.
        before, after: embeddings [B, m, d] around the tokens: read with them, counted in no length, not put out. They
            take positions of their own, so that later tokens stand that much further until the slots are cleared.
        fresh: the slots are emptied first.
    """

    begin: int = 0
    end: int = 0
    ids: torch.Tensor | None = None
    before: torch.Tensor | None = None
    after: torch.Tensor | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class PlanState:
    """What a plan may look at.

    Attributes:
        cache: what is kept; its `extra` and `notes` belong to the system.
        count: tokens that were given.
        asking: the caller waits for the output of the last token, as `generate` does; `feed` does not.
        run: the last hidden states [B, T, d] of a pass aside, `run(ids)` or `run(inputs_embeds=…)`, with `mask=` where
            there is padding: over nothing but what it is given, with the plain attention, and nothing of it is kept.
            Gradients flow where they are on.
        frame: how many of the tokens at the beginning and at the end are the chat template's.
        mask: [B, T], 1 for tokens and 0 for padding; None without padding.
    """

    cache: SlotCache
    count: int
    asking: bool
    run: Callable[..., torch.Tensor]
    frame: tuple[int, int] = (0, 0)
    mask: torch.Tensor | None = None


@dataclass(slots=True)
class Step:
    """One pass of the model over T rows.

    Attributes:
        ids: ids [B, t] of the tokens that were given, None when embeddings were; rows: where in the T rows they are.
        pos: true positions [B, T], -1 for padding; rope: positions that the keys are rotated to.
        offsets: places in the pass, [B or 1, T]: 0, 1, …, or the depths of a tree.
        start: slots in use before the pass.
        plain: no row was ever padded, so that nothing but order decides what is seen.
        cache: what is kept.
        inputs_embeds: `begin` may set it: embeddings [B, T, d] that run in place of the tokens' own.
        mask: `begin` may set it, or the caller passed it: bool [B, 1, T, N], which then decides alone what is seen.
        tree: bool [T, T]: which rows of this very pass each row sees, itself included.
        hidden: at `end`, the last hidden states [B, T, d].
        again: in `hidden`, runs a module that is called as the decoder layer at hand is, a copy of it, say, on other
            hidden states [B, T, d]; its attention comes to `attend` under the layer's number.
        scratch: what a system notes during the pass; gone after it.
        masks: what `visible` said, by window, for all layers.
        angles: of `rope`, once `begin` has set it; for all layers.
    """

    ids: torch.Tensor | None
    pos: torch.Tensor
    rope: torch.Tensor
    offsets: torch.Tensor
    start: int
    plain: bool
    cache: SlotCache
    rows: slice = field(default_factory=lambda: slice(None))
    inputs_embeds: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    tree: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    again: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] | None = None
    scratch: dict[str, Any] = field(default_factory=dict)
    masks: dict[Any, torch.Tensor | None] = field(default_factory=dict)
    angles: Angles = field(default_factory=dict)

    @property
    def count(self) -> int:
        """T."""
        return self.pos.shape[1]

    def visible(self, track: Track, window: int | None, sinks: int = 0) -> torch.Tensor:
        """Which slots each row may see, bool [B, P, T, N]; see `attention.visible`."""
        seen = attention.visible(self.pos, track.pos[:, :, : track.n], window, sinks)
        if self.tree is not None:
            seen[..., -self.count :] &= self.tree
        return seen


@dataclass(frozen=True, slots=True)
class Call:
    """What the model's attention asks for beside queries, keys and values."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None
