"""Locret (Huang et al. 2024, arXiv 2410.01805): small trained heads foretell which keys and values will matter.

Attention scores need later queries, which do not exist yet when a long prompt is read in chunks. A retaining head, one
a layer, looks at what a token brings by itself, s = W₂ act(W₁ [q; k; v]), and gives one score for each key/value head
the moment the token is written; when room is needed each head keeps its own best slots. The `stabilizers` latest slots
always stay, so that scores of later tokens are still right, and the `tail` of a prompt is read last, over what was
kept. Keys are rotated to their place in the buffer: distances shrink to what is kept.

Heads are trained for one model (`fit`), on texts whose windows end in an "answer": the label of a token is the highest
attention logit that any of the answer's queries, in any query head of the group, has for it. A head that was not
trained gives chance scores. Scores of different heads are never compared. What heads learn in minutes is not enough for
a very small cache: measured here with 128 slots, running text is read worse than over a window of the same bytes.

Notable choices. As in the official code the label is the logit before the softmax, and the maximum, not the mean. The
query-aware variant of the paper's second version is left out: how it works is not said where we could read it. Room is
made when the next chunk needs it, not after every chunk, which keeps the same slots; while decoding too, with the
stabilizers, where the paper lets the cache grow. A prompt shorter than a chunk or than its tail is read as any other.
Decoders that guess several tokens a pass are refused, since scores are written in the pass itself. The first `sinks`
tokens stay in every head (ours; the paper leaves that to the scores). `fit` clips the norm of the gradient and lets the
rate fall by a half cosine; the paper clips values at 0.5 and falls linearly, with AdamW at 5e-4 over 3,000 windows of
10,240 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from memspan.context import attention
from memspan.context.base import ContextConfig
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.learning import LearningSystem
from memspan.context.slots import Slots, Track
from memspan.context.step import Call, PlanState, Segment, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.context.reader import Reader


@dataclass(frozen=True, kw_only=True)
class LocretConfig(ContextConfig):
    """Settings of Locret. The paper's `slots` and `chunk`: 6,000 and 3,072 for Phi-3-mini.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    stabilizers: int | None = None  # n_s: latest slots that always stay; None: 5/12 of all (paper: 2,500 of 6,000)
    tail: int = 100  # n_loc: last tokens of a prompt, read after room was made by score alone; at most a chunk
    hidden: int = 1024  # width of a retaining head
    answer: int = 64  # last tokens of a training window, whose queries give the labels of the others
    smoothness: float = 0.0025  # α: weight of the squared difference between neighbours' scores

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("stabilizers", 0), ("tail", 0), ("hidden", 1), ("answer", 1), ("smoothness", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}: it must be at least {least}")


class RetainingHead(nn.Module):
    """s = W₂ act(W₁ x), without biases: [B, T, width] to one score for each key/value head, [B, H, T], float32."""

    def __init__(self, width: int, hidden: int, kv_heads: int, act: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden, bias=False)
        self.outer = nn.Linear(hidden, kv_heads, bias=False)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.outer(self.act(self.inner(x.float()))).transpose(1, 2)
        return out


class Locret(LearningSystem):
    """Keeps, head by head, the tokens that trained heads expect to be attended to."""

    Config = LocretConfig
    per_head = True
    as_slots = True
    trees = False

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._lesson: list[tuple[Tensor, Tensor]] | None = None  # scores and labels by layer, while `pairs` runs

    def build(self, family: Family) -> None:
        """One retaining head a layer, with the activation of the model's own feed-forward layers."""
        from transformers.activations import ACT2FN

        said = (getattr(family.config, name, None) for name in ("hidden_act", "hidden_activation"))
        act = next((name for name in said if isinstance(name, str)), "silu")
        self.heads = nn.ModuleList(
            RetainingHead(
                info.query_heads * info.key_dim + info.kv_heads * (info.key_dim + info.value_dim),
                self.config.hidden,
                info.kv_heads,
                ACT2FN[act],
            )
            for info in family.layers
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def reserved(self) -> int:
        """Sinks, stabilizers and one more."""
        return int(self.config.sinks + (self.config.stabilizers or 0) + 1)

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """Solve slots and chunk from the budget, and how many slots are stabilizers."""
        sizes = super().bind(family, budget, batch)
        assert sizes.slots is not None
        given = self.config.stabilizers
        self.stabilizers = min(sizes.slots * 5 // 12, sizes.slots - self.reserved) if given is None else given
        return sizes

    def plan(self, ids: Tensor | None, state: PlanState) -> Iterator[Segment]:
        """Chunks, and the tail of a prompt by itself; in training one pass."""
        if self._lesson is not None:
            yield Segment(end=state.count)
            return
        tail = min(self.config.tail, self.sizes.chunk) if state.asking else 0
        body = state.count - tail if state.count > tail else state.count
        for at in range(0, body, self.sizes.chunk):
            yield Segment(begin=at, end=min(at + self.sizes.chunk, body))
        if body < state.count:
            state.cache.notes["tail"] = True
            yield Segment(begin=body, end=state.count)

    def begin(self, step: Step, cache: SlotCache) -> None:
        """Make room; before a prompt's tail no slot is protected as a stabilizer."""
        self._protected = 0 if cache.notes.pop("tail", False) else self.stabilizers
        super().begin(step, cache)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, slots: Slots, step: Step, call: Call) -> Tensor:
        """The exact attention; the new slots get their scores."""
        out = super().attend(layer, q, k, v, slots, step, call)
        head = self.heads[layer]
        with torch.set_grad_enabled(self._lesson is not None and torch.is_grad_enabled()):
            score = head(torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, v)], -1).detach())
        track = slots.track
        track.score[:, :, track.n - step.count : track.n] = score.detach()
        if self._lesson is not None:
            self._lesson.append((score[:, :, : -self.config.answer], self._labels(layer, q, slots, step, call)))
        return out

    def priority(self, track: Track) -> Tensor:
        """The score; the stabilizers above all."""
        rank = track.score[:, :, : track.n].clone()
        if self._protected:
            rank[:, :, -self._protected :] = float("inf")
        return rank

    def reason(self, track: Track) -> list[str]:
        """First, recent, or expected to matter."""
        edge = track.n - self.stabilizers
        pos = track.pos[0, 0, : track.n].tolist()
        sinks = self.config.sinks
        return ["first" if 0 <= at < sinks else "recent" if i >= edge else "foretold" for i, at in enumerate(pos)]

    # --- learning ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _labels(self, layer: int, q: Tensor, slots: Slots, step: Step, call: Call) -> Tensor:
        """The highest logit [B, H, n] of the answer's queries for each token before it; −inf where none sees it."""
        count = self.config.answer
        q = self.family.rotate(layer, q[:, :, -count:], step.rope[:, -count:])
        keys = slots.view()[0][:, :, :-count]
        seen = step.visible(slots.track, call.window)[:, :, -count:, :-count]
        products = attention.scores(q, keys, call.scaling)
        return products.masked_fill(~seen[:, :, None], float("-inf")).amax((2, 3))

    def pairs(self, reader: Reader, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Scores and labels, [B, H, T − answer] each, of every layer, for windows [B, T] that are read whole.

        Raises:
            InputError: the windows are not longer than the answer, or longer than the model was trained on.
        """
        longest = self.family.trained_length
        if not self.config.answer < ids.shape[1] <= longest:
            raise InputError(
                f"windows of {ids.shape[1]} tokens: they must be longer than answer ({self.config.answer}) and at most "
                f"{longest}"
            )
        reader.reset()
        self._lesson = []
        try:
            reader.model.base_model(ids)
            return self._lesson
        finally:
            self._lesson = None

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """Smooth L1 between scores and labels, and α times the roughness of the scores."""
        fit, rough = [], []
        for score, label in self.pairs(reader, ids):
            known = label.isfinite()
            fit.append(functional.smooth_l1_loss(score[known], label[known]))
            rough.append((score[..., 1:] - score[..., :-1]).square().mean())
        total: Tensor = torch.stack(fit).mean() + self.config.smoothness * torch.stack(rough).sum()
        return total


def overlap(score: Tensor, label: Tensor, share: float = 0.1) -> Tensor:
    """Of each row of [..., n], the part of the `share` highest labels that are among the `share` highest scores."""
    count = max(1, round(share * score.shape[-1]))
    chosen = torch.zeros_like(score, dtype=torch.bool).scatter(-1, score.topk(count, dim=-1).indices, True)
    return chosen.gather(-1, label.topk(count, dim=-1).indices).float().mean(-1)
