"""HMT (He et al., NAACL 2025, arXiv 2405.06067): segments, and one memory embedding of each, recalled by relevance.

The model reads a text segment by segment and keeps no keys or values between them. Each segment runs as [P; the last
`sensory` tokens before it; its tokens; P]. The last hidden state of the P behind is the segment's memory M; the latest
`store` memories are kept. The P of the next segment is a mix of them: its first half, run as [T; tokens; T], gives a
query S, and P = softmax((W_q S)·(W_k M)ᵀ / √d_h) M. Untrained it is of no use: `fit` learns T, the P of a text without
memories, W_q and W_k, and with `backbone="lora"` adapters, through the unrolled segments. `recall=False` is RMT
(Bulatov et al. 2022, arXiv 2207.06881): P is the memory of the segment before, and nothing is chosen.

Notable choices. √d_h everywhere (the official code divides by d_h when it is large). Each segment begins at position 0.
A memory is a hidden state, which a model that is not trained along cannot read as an embedding: it is brought to the
size of an embedding (`fitting="scale"`), by a learned map besides (`"linear"`), or fed as it is, as in the paper
(`"none"`). `horizon` cuts the gradient that many memories back, which the official code means to do and does not. The
official code recalls by the first half alone, so that a question at the end of a text is not looked for: here, when an
answer is waited for, a segment that is not whole is recalled for by the latest tokens, and one that grows over several
calls is read anew once its first half is there, so that memories do not depend on how a text was cut into calls. What
is recalled for the first half of a segment was chosen by those very tokens: a perplexity over them is not clean, one
over the second half is. Choosing takes long to learn: in the few hundred steps of the claim memories were read and not
chosen among. Dynamic reading speed is left out; so is training of the whole model, which a loop of your own
over `segments_loss` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memspan.context.base import ContextConfig
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.learning import Fitted, LearningSystem, fit
from memspan.context.low_rank import LowRank
from memspan.context.reader import Reader
from memspan.context.slots import Track
from memspan.context.step import PlanState, Segment, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class HmtConfig(ContextConfig):
    """Settings of HMT.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    sinks: int = 0  # there are none
    segment: int = 256  # l: rows of one pass, 2 × memory + sensory + tokens (official code: 256; 1,024 for SmolLM)
    memory: int = 1  # m: embeddings of one memory (official code: 1)
    sensory: int = 32  # k: tokens of the segment before that are read again (official code: 32)
    store: int = 100  # N: memories kept (official code: 100)
    recall: bool = True  # False: RMT, the memory of the segment before
    summarized: float = 0.5  # share of a segment that its query reads (official code: 0.5)
    recall_dim: int = 1536  # d_h of W_q and W_k (official code: 4,096; 1,536 for SmolLM)
    fitting: str = "scale"  # how a memory becomes an embedding: "scale", "linear" or "none" (ours)
    backbone: str = "frozen"  # or "lora": adapters of low rank learn along
    rank: int = 8  # of the adapters (official code: 8)
    alpha: float = 32.0  # of the adapters (official code: 32)
    targets: tuple[str, ...] = ("q_proj", "v_proj")  # layers with adapters (official code: all linear ones)
    unroll: tuple[int, ...] = (2, 4, 6)  # segments that a step of training reads, from its begin to its end
    passed_on: float = 0.25  # share of the training, at its begin, in which memories are passed on as in RMT
    horizon: int | None = None  # memories that the gradient flows back through; earlier segments are only read
    loss: str = "last"  # tokens that count in training: of the "last" segment (official code) or of "all"
    retrieval: float = 0.05  # weight of the recall's own loss where the right segment is known (official code: 0.05)

    @property
    def tokens(self) -> int:
        """s: tokens of one segment."""
        return self.segment - 2 * self.memory - self.sensory

    @property
    def first(self) -> int:
        """Tokens that the query of a whole segment reads."""
        return max(1, int(self.tokens * self.summarized))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("memory", 1), ("sensory", 0), ("store", 1), ("recall_dim", 1), ("rank", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.tokens < 2:
            raise InputError(
                f"segment is {self.segment}: with 2 × {self.memory} memory embeddings and {self.sensory} sensory "
                f"tokens it must be at least {2 * self.memory + self.sensory + 2}"
            )
        if self.slots is not None or self.sinks:
            raise InputError("slots and sinks: give segment, memory and sensory, which say what is kept")
        if self.chunk is not None and self.chunk > self.tokens:
            raise InputError(f"chunk is {self.chunk}: a segment has {self.tokens} tokens")
        if not 0 < self.summarized <= 1:
            raise InputError(f"summarized is {self.summarized}: it must be above 0 and at most 1")
        if not self.unroll or min(self.unroll) < 1:
            raise InputError(f"unroll is {self.unroll}: name at least one number of segments, each at least 1")
        if not 0 <= self.passed_on <= 1:
            raise InputError(f"passed_on is {self.passed_on}: it must be from 0 to 1")
        if self.horizon is not None and self.horizon < 1:
            raise InputError(f"horizon is {self.horizon}: it must be at least 1")
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be {' or '.join(known)}")


_WORDS = {"fitting": ("scale", "linear", "none"), "backbone": ("frozen", "lora"), "loss": ("last", "all")}


@dataclass(frozen=True, slots=True)
class SegmentMemory:
    """One memory: of the tokens `begin` to `end` of the stream, and its share in the latest recall."""

    begin: int
    end: int
    share: float


class Hmt(LearningSystem):
    """Segment recurrence with recalled memory embeddings.

    Beside the slots of one segment the cache holds, in `extra`: the memories [B, N, m, d], the latest last, and
    `spans` [B, N, 2], the tokens they are of (0, 0 where there is none); `share` [B, N], the latest recall's weights;
    `prompt` [B, m, d], the P of the open segment; `recent` [B, k + s], the ids of its tokens and the ones before.
    """

    Config = HmtConfig
    as_slots = True
    exact = False
    trees = False

    # --- what is learned ---------------------------------------------------------------------------------------------

    def build(self, family: Family) -> None:
        """T, M_init, W_q and W_k; the map and the adapters where they are asked for."""
        config = self.config
        table = family.model.get_input_embeddings().weight.detach().float()
        width, size = table.shape[1], float(table.square().mean().sqrt())
        self.summary = nn.Parameter(torch.randn(1, width) * size)
        self.first_memory = nn.Parameter(torch.randn(config.memory, width) * size)
        self.scale = nn.Parameter(torch.tensor(size), requires_grad=config.fitting != "none")
        self.map = nn.Linear(width, width, bias=False) if config.fitting == "linear" else None
        if self.map is not None:
            nn.init.eye_(self.map.weight)
        self.query: nn.Linear | None = None
        self.key: nn.Linear | None = None
        if config.recall:
            self.query = nn.Linear(width, config.recall_dim, bias=False)
            self.key = nn.Linear(width, config.recall_dim, bias=False)
        self.adapters: LowRank | None = None
        if config.backbone == "lora":
            self.adapters = LowRank(family.model, config.targets, rank=config.rank, alpha=config.alpha)

    def attached(self, model: Any) -> AbstractContextManager[None]:
        """The adapters."""
        return nullcontext() if self.adapters is None else self.adapters.attached(model)

    def loss(self, reader: Reader, ids: Tensor, chance: torch.Generator) -> Tensor:
        """Cross-entropy of the last of as many segments as the training has come to."""
        stages = self.config.unroll
        count = stages[min(int(self.progress * len(stages)), len(stages) - 1)]
        if ids.shape[1] < self.config.tokens:
            raise InputError(f"windows of {ids.shape[1]} tokens are shorter than a segment of {self.config.tokens}")
        return self.segments_loss(reader, ids[:, : count * self.config.tokens])

    def segments_loss(
        self, reader: Reader, ids: Tensor, *, scored: Tensor | None = None, gold: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of whole segments, and of the recall where the right one is known; for loops of your own.

        Args:
            reader: one with this system attached and nothing read.
            ids: [B, T]; what goes beyond the last whole segment is left out.
            scored: bool [B, T], the tokens that count; None: as the option `loss` says.
            gold: int64 [B, n]: which segment each of the n segments should recall, -1 for none.
        """
        config, length = self.config, self.config.tokens
        count = ids.shape[1] // length
        learnt = 0 if config.horizon is None else max(0, count - 1 - config.horizon)
        if scored is None:
            scored = torch.zeros_like(ids, dtype=torch.bool)
            scored[:, (learnt if config.loss == "all" else count - 1) * length :] = True
        total, right = ids.new_zeros((), dtype=torch.float32), ids.new_zeros((), dtype=torch.float32)
        before: Tensor | None = None
        for n in range(count):
            at = slice(n * length, (n + 1) * length)
            with torch.set_grad_enabled(torch.is_grad_enabled() and n >= learnt):
                hidden = reader.model.base_model(input_ids=ids[:, at]).last_hidden_state
            rows = hidden[:, :-1] if before is None else torch.cat((before, hidden[:, :-1]), 1)
            count_these = scored[:, at][:, -rows.shape[1] :]
            if bool(count_these.any()):
                wanted = ids[:, at][:, -rows.shape[1] :][count_these]
                nats = nn.functional.cross_entropy(self.family.logits(rows[count_these]), wanted, reduction="sum")
                total = total + nats
            if gold is not None and n and bool((gold[:, n] >= 0).any()) and self._recalls:
                place = config.store - n - 1 + gold[:, n]  # the shares have moved on by the memory of segment n
                known = (gold[:, n] >= 0) & (place >= 0)
                shares = reader.cache.extra["share"][known].gather(1, place[known, None])
                right = right - shares.clamp_min(1e-9).log().sum()
            before = hidden[:, -1:]
        scored = scored[:, : count * length]
        loss = total / max(1, int(scored[:, 1:].sum()))
        if gold is not None and self._recalls:
            loss = loss + config.retrieval * right / max(1, int((gold[:, 1:] >= 0).sum()))
        return loss

    @property
    def _recalls(self) -> bool:
        return bool(self.config.recall and self.progress >= self.config.passed_on)

    def fit(self, model: Any, texts: Any, *, steps: int, **settings: Any) -> Fitted:
        """See `memspan.context.learning.fit`; `length` is what the most segments of `unroll` take."""
        settings.setdefault("length", self.config.tokens * max(self.config.unroll))
        return fit(self, model, texts, steps=steps, **settings)

    # --- sizes -------------------------------------------------------------------------------------------------------

    def fixed_bytes(self, family: Family, batch: int) -> int:
        """Memories, their spans and shares, the open segment's tokens and its P."""
        config = self.config
        width = family.config.hidden_size
        held = config.store * (4 * config.memory * width + 16 + 4)
        held += 8 * (config.sensory + config.tokens) + 4 * config.memory * width
        return int(super().fixed_bytes(family, batch) + batch * held)

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """The slots of one segment.

        Raises:
            BudgetError: the budget does not hold them and the memories; names the bytes that would do.
            InputError: the segment is longer than what the model was trained on.
        """
        self._prepare(family)
        self.family = family
        config = self.config
        if config.segment > family.trained_length:
            raise InputError(f"segment is {config.segment}: {family.name} was trained on {family.trained_length}")
        allowed = None if budget is None else budget.allowed("context")
        slots = batch * config.segment * self._slot_bytes(family)
        self._require(self.fixed_bytes(family, batch) + slots, allowed)
        chunk = config.chunk or config.tokens
        self.sizes = Sizes(config.segment - chunk, chunk, allowed)
        return self.sizes

    # --- reading -----------------------------------------------------------------------------------------------------

    def plan(self, ids: Tensor | None, state: PlanState) -> Iterator[Segment]:
        """Segment by segment: P and the sensory tokens before it, P behind it when it is whole."""
        if ids is None:
            raise InputError("hmt reads token ids: embeddings cannot be recalled for")
        cache, config = state.cache, self.config
        self._open(cache)
        if state.mask is not None:
            ids = ids.masked_fill(state.mask == 0, -1)
        at = 0
        while at < state.count:
            inside = int(cache.notes["inside"])
            end = min(at + config.tokens - inside, state.count)
            whole = inside + end - at == config.tokens
            chosen = self._query(ids[:, at:end], cache, whole, asking=state.asking and end == state.count)
            before = None
            if chosen is not None:
                query, cache.notes["final"] = chosen
                with_it = int(cache.notes["sensory"]) + inside
                cache.extra["prompt"] = self._prompt(query, state)
                held = cache.extra["recent"][:, cache.extra["recent"].shape[1] - with_it :]
                before = torch.cat((cache.extra["prompt"], self._embed(held)), 1)
            for begin in range(at, end, self.sizes.chunk):
                until = min(begin + self.sizes.chunk, end)
                yield Segment(
                    begin=begin,
                    end=until,
                    before=before if begin == at else None,
                    after=cache.extra["prompt"] if whole and until == end else None,
                    fresh=before is not None and begin == at,
                )
            at = end

    def _query(self, new: Tensor, cache: SlotCache, whole: bool, *, asking: bool) -> tuple[Tensor, bool] | None:
        """The tokens [B, n] that memories are recalled for, -1 for padding, and whether they are a first half.

        None: the P that is there stays.
        """
        inside, first, recent = int(cache.notes["inside"]), self.config.first, cache.extra["recent"]
        begins = inside == 0 or cache.tracks[0].n != cache.notes["rows"]
        known = inside + new.shape[1]
        ready = known >= first and (whole or not asking)
        anew = not cache.notes["final"] if ready else asking
        if not begins and (not anew or (asking and new.shape[1] == 1)):
            return None
        if ready:
            return torch.cat((recent[:, recent.shape[1] - inside :], new), 1)[:, :first], True
        return torch.cat((recent, new), 1)[:, -min(first, cache.seen + new.shape[1]) :], False

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.family.model.get_input_embeddings()(ids.clamp_min(0))
        return embedded

    def _prompt(self, query: Tensor, state: PlanState) -> Tensor:
        """P [B, m, d] for a query's tokens."""
        extra = state.cache.extra
        there = extra["spans"][..., 1] > extra["spans"][..., 0]
        chosen = self.first_memory.expand(len(query), -1, -1)
        if bool(there.any()):
            if self._recalls:
                share = self._recall(query, there, state)
                extra["share"] = share
                found = torch.einsum("bn,bnmd->bmd", share, extra["memories"])
            else:
                found = extra["memories"][:, -1]
            chosen = torch.where(there.any(1)[:, None, None], found, chosen)
        return self._fitted(chosen)

    def _recall(self, query: Tensor, there: Tensor, state: PlanState) -> Tensor:
        """The share of each memory, [B, N]; 0 in a row that has none."""
        assert self.query is not None and self.key is not None
        around = self.summary.expand(len(query), 1, -1)
        embeds = self._embed(query)
        ones = torch.ones_like(query[:, :1], dtype=torch.bool)
        mask = torch.cat((ones, query >= 0, ones), 1)
        around = around.to(embeds.dtype)
        rows = state.run(
            inputs_embeds=torch.cat((around, embeds, around), 1), mask=None if bool(mask.all()) else mask.long()
        )
        wanted = self.query(rows[:, -1].float())
        keys = self.key(state.cache.extra["memories"].mean(2))
        products = torch.einsum("bh,bnh->bn", wanted, keys) / math.sqrt(self.config.recall_dim)
        return products.masked_fill(~there, float("-inf")).softmax(-1).nan_to_num(0.0)

    def _fitted(self, memory: Tensor) -> Tensor:
        """Memories as embeddings."""
        if self.config.fitting == "none":
            return memory
        memory = memory * self.scale * memory.square().mean(-1, keepdim=True).add(1e-8).rsqrt()
        return memory if self.map is None else self.map(memory)

    def _open(self, cache: SlotCache) -> None:
        if "memories" in cache.extra:
            return
        config, rows = self.config, cache.batch
        device, width = self.family.device, self.summary.shape[1]
        cache.extra["memories"] = torch.zeros(rows, config.store, config.memory, width, device=device)
        cache.extra["spans"] = torch.zeros(rows, config.store, 2, dtype=torch.int64, device=device)
        cache.extra["share"] = torch.zeros(rows, config.store, device=device)
        cache.extra["prompt"] = torch.zeros(rows, config.memory, width, device=device)
        cache.extra["recent"] = torch.full((rows, config.sensory + config.tokens), -1, device=device)
        cache.notes.update(inside=0, sensory=0, rows=0, final=False)

    def begin(self, step: Step, cache: SlotCache) -> None:
        """Positions from 0 in each segment; padding among the sensory tokens stays padding."""
        if step.mask is not None:
            raise InputError("hmt plans its own passes: a mask of four dimensions cannot be followed")
        track, front = cache.tracks[0], step.rows.start or 0
        step.start = track.n
        real = step.pos >= 0
        if front > self.config.memory:
            held = cache.extra["recent"][:, self.config.memory - front :] >= 0
            if not bool(held.all()):
                real = torch.cat((real[:, : self.config.memory], held, real[:, front:]), 1)
                step.plain, track.padded = False, True
                step.scratch["padding"] = (~held).sum(1)
        places = real.cumsum(1) - 1
        step.pos = torch.where(real, track.following[:, None] + places, -1)
        step.rope = ((track.pos[:, 0, : track.n] >= 0).sum(1, keepdim=True) + places).clamp_min(0)

    def end(self, step: Step, cache: SlotCache, surprisal: Tensor | None) -> None:
        """Note the tokens; of a whole segment keep the memory."""
        assert step.ids is not None and step.hidden is not None
        config, extra, notes = self.config, cache.extra, cache.notes
        # The track counts every row before the tokens as no token that was read, padding too.
        cache.tracks[0].real = cache.tracks[0].real + step.scratch.get("padding", 0)
        new = step.ids.masked_fill(step.pos[:, step.rows] < 0, -1)
        recent = torch.cat((extra["recent"], new), 1)
        extra["recent"] = recent[:, new.shape[1] :].clone()
        notes["inside"] += new.shape[1]
        if step.rows.stop < step.count:
            memory = step.hidden[:, -config.memory :].float()[:, None]
            extra["memories"] = torch.cat((extra["memories"][:, 1:], memory), 1)
            last = cache.tracks[0].real
            first = last - (extra["recent"][:, -config.tokens :] >= 0).sum(1)
            extra["spans"] = torch.cat((extra["spans"][:, 1:], torch.stack((first, last), 1)[:, None]), 1)
            # Shares move with their memories; the new one had none.
            extra["share"] = torch.cat((extra["share"][:, 1:], torch.zeros_like(extra["share"][:, :1])), 1)
            notes.update(inside=0, sensory=min(config.sensory, cache.seen), final=False)
        notes["rows"] = cache.tracks[0].n

    # --- looking -----------------------------------------------------------------------------------------------------

    def memories(self, reader: Reader, row: int = 0) -> list[SegmentMemory]:
        """The memories of one row, the oldest first."""
        if "spans" not in reader.cache.extra:
            return []
        spans, shares = (reader.cache.extra[name][row].tolist() for name in ("spans", "share"))
        return [SegmentMemory(a, b, share) for (a, b), share in zip(spans, shares, strict=True) if b > a]

    def reason(self, track: Track) -> list[str]:
        """Memory embeddings, sensory tokens read again, or the open segment."""
        tokens = track.token[0, 0, : track.n].tolist()
        return ["segment" if token >= 0 else "memory or sensory" for token in tokens]
