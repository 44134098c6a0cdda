"""XL3M (2024, arXiv 2405.17755): a long text is shown to the model piece by piece with the question, and it answers
from the pieces that made it certain.

Nothing inside the model is changed and nothing is trained; a plain pass over each piece is all, so that time grows with
the length of the text and memory does not, but for 4 bytes a token. It finds what stands in a few places: summaries,
counts and questions of many hops need more pieces than are kept, and a model can be certain and wrong. `segments` says
what was kept and how it scored.

Notable choices. The paper's score was not open to us; there are three readings, all from the same passes: the mean
entropy over the question (the default, which found planted facts best), the entropy behind its last token, and how much
likelier the piece makes the question itself. Entropies are taken relative to the question alone, so that questions can
be compared. What the chat template puts around a question is left out of the score, as is the end of the piece before
it. The pieces kept are joined in the order of the text, overlaps once, at positions from 0. A text that fits as a whole
is read as a whole, with the plain model's logits. The most pieces by default are those that fill half of the room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from memspan.context.base import ContextConfig, ContextSystem
from memspan.context.cache import SlotCache
from memspan.context.family import Family
from memspan.context.slots import Track
from memspan.context.step import PlanState, Segment, Sizes, Step
from memspan.core.budget import Budget
from memspan.core.errors import InputError
from memspan.models.progress import progress_bar

Score = Literal["question", "answer", "gain"]
Run = Callable[..., torch.Tensor]
_ROWS = 64  # rows of scores over the vocabulary at a time
_TOKEN_SHARE = 8  # a budget's part for the text's tokens is one in this many


@dataclass(frozen=True, kw_only=True)
class Xl3mConfig(ContextConfig):
    """Settings of XL3M.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    segment: int = 512  # tokens of a piece
    overlap: int = 64  # tokens that a piece shares with the one before
    keep: int | None = None  # k: pieces that are kept; None: what fills half of the room
    score: Score = "question"  # what certainty is measured by
    question: int = 64  # n_q: tokens at the end that ask, where text and question come in one
    longest: int = 256  # most tokens of a question
    first: bool = False  # the first piece is always kept: titles, instructions
    order: Literal["time", "score"] = "time"  # of the pieces that are kept
    refresh: int | None = None  # choose anew after so many tokens of the answer, by the latest ones
    ends: tuple[int, ...] = ()  # token ids after which a piece may end; see `sentence_ends`
    tokens: int | None = None  # most tokens of a text; None: an eighth of the budget

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("segment", "question", "longest"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("keep", "refresh", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if not 0 <= self.overlap < self.segment:
            raise InputError(f"overlap is {self.overlap}: it must be at least 0 and below the segment's {self.segment}")
        if self.question > self.longest:
            raise InputError(f"question is {self.question}, above longest, {self.longest}")
        if self.score not in get_args(Score):
            raise InputError(f"score is {self.score!r}: choose one of {', '.join(get_args(Score))}")
        if self.order not in ("time", "score"):
            raise InputError(f"order is {self.order!r}: choose time or score")


@dataclass(frozen=True, slots=True)
class ScoredSegment:
    """A piece of the text [begin, end) in tokens; its score, the higher the more certain; whether it was kept."""

    begin: int
    end: int
    score: float
    kept: bool


class Xl3m(ContextSystem):
    """Keeps the text as tokens, and lets the model read what is relevant when it is asked.

    Attributes:
        segments: the pieces of the text as the last question ranked them, in the order of the text; empty where the
            whole text was read.
    """

    Config = Xl3mConfig
    as_slots = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.segments: list[ScoredSegment] = []  # both are shared by forks: they tell of the last question
        self._spans: list[list[int]] = []

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def reserved(self) -> int:
        """A question, and as much text."""
        return int(2 * self.config.longest)

    def fixed_bytes(self, family: Family, batch: int) -> int:
        """The text's tokens are among them."""
        return super().fixed_bytes(family, batch) + 4 * batch * (self.config.tokens or 0)

    def bind(self, family: Family, budget: Budget | None, batch: int = 1) -> Sizes:
        """Solve the sizes; see `ContextSystem.bind`."""
        allowed = None if budget is None else budget.allowed("context")
        if self.config.tokens is None and allowed is not None:
            part = allowed // _TOKEN_SHARE
            self.most_tokens: int | None = part // 4
            rest = None if budget is None else Budget(allowed - part)
            sizes = super().bind(family, rest, batch)
            self.sizes = Sizes(sizes.slots, sizes.chunk, allowed)
        else:
            self.most_tokens = self.config.tokens
            super().bind(family, budget, batch)
        return self.sizes

    @property
    def room(self) -> int:
        """Tokens of text that are read at most before a question."""
        assert self.sizes.slots is not None
        return int(min(self.sizes.slots, self.family.trained_length) // 2)

    # --- planning ----------------------------------------------------------------------------------------------------

    def turn(self, cache: SlotCache) -> None:
        """What comes next is text again, or another question."""
        super().turn(cache)
        cache.notes["live"] = False

    def plan(self, ids: torch.Tensor | None, state: PlanState) -> Iterator[Segment]:
        """Text is only stored; a question is read behind the pieces that it chose."""
        cache, seen = state.cache, state.cache.seen
        if ids is None or ids.shape[0] != 1 or cache.tracks[0].padded:
            raise InputError("xl3m reads one row of token ids")
        text = self._text(cache)[:, :seen]
        if self.most_tokens is not None and text.shape[1] + ids.shape[1] > self.most_tokens:
            raise InputError(
                f"the text has {text.shape[1] + ids.shape[1]:,} tokens and {self.most_tokens:,} fit: raise the budget"
            )
        cache.extra["tokens"] = torch.cat((text, ids.to(torch.int32)), 1)
        if cache.notes.get("live"):
            if self._is_stale(cache, state.count):
                at = int(cache.notes["asked_at"])
                latest = text[:, max(at, seen - self.config.question) :].long()
                yield from self._answer(state, latest, at, said=text[:, at:].long())
                return
            yield from super().plan(ids, state)
            return
        if not state.asking:
            if state.frame[0]:
                cache.notes["opening"] = state.frame[0]
            return
        begin = 0
        if seen == 0 and state.count > self.config.longest:  # text and question in one
            begin = 0 if state.count <= self.room else state.count - int(self.config.question)
        elif state.count > self.config.longest:
            raise InputError(f"the question has {state.count:,} tokens; at most {self.config.longest:,} (longest)")
        lead, tail = state.frame
        asked = ids[:, begin + lead * (begin == 0) : ids.shape[1] - tail]
        cache.notes.update(live=True, since=0, asked_at=seen + begin)
        yield from self._answer(state, asked if asked.shape[1] else ids[:, begin:], seen + begin, begin)

    def _is_stale(self, cache: SlotCache, count: int) -> bool:
        every = self.config.refresh
        if every is None or count != 1 or not self.segments:
            return False
        cache.notes["since"] = (cache.notes["since"] + 1) % every
        return bool(cache.notes["since"] == 0)

    def _answer(
        self, state: PlanState, asked: torch.Tensor, end: int, begin: int = 0, said: torch.Tensor | None = None
    ) -> Iterator[Segment]:
        """Read what was chosen of the first `end` tokens, `said`, and the tokens given from `begin` on."""
        cache = state.cache
        seen, text = cache.seen, self._text(cache)[:, :end].long()
        self._spans[:] = self._choose(text, asked, state)
        parts = [text[:, a:b] for a, b in self._spans] + ([] if said is None else [said])
        context = torch.cat(parts, 1) if parts else text[:, :0]
        fresh = True
        for at in range(0, context.shape[1], self.sizes.chunk):
            yield Segment(ids=context[:, at : at + self.sizes.chunk], fresh=fresh)
            cache.seen, fresh = seen, False  # read a second time, and not counted
        for at in range(begin, state.count, self.sizes.chunk):
            yield Segment(begin=at, end=min(at + self.sizes.chunk, state.count), fresh=fresh)
            fresh = False

    @staticmethod
    def _text(cache: SlotCache) -> torch.Tensor:
        held = cache.extra.get("tokens")
        device = cache.tracks[0].pos.device
        return torch.empty(1, 0, dtype=torch.int32, device=device) if held is None else held

    # --- choosing ----------------------------------------------------------------------------------------------------

    def _choose(self, text: torch.Tensor, asked: torch.Tensor, state: PlanState) -> list[list[int]]:
        """Spans of the text to be read, in the order in which they are to be read; fills `segments`."""
        count, opening = text.shape[1], int(state.cache.notes.get("opening", 0))
        self.segments.clear()
        if count <= self.room:
            return [[0, count]] if count else []
        spans = self.pieces(text, opening)
        scores = self.certainties(text, spans, asked[:, -self.config.longest :], state.run)
        ranked = sorted(range(len(spans)), key=lambda i: -scores[i])
        if self.config.first:
            ranked.remove(0)
            ranked.insert(0, 0)
        kept: list[int] = []
        room = self.room - opening
        for i in ranked[: self.config.keep]:
            begin, end = spans[i]
            if end - begin <= room:
                room -= end - begin
                kept.append(i)
        self.segments.extend(ScoredSegment(begin, end, scores[i], i in kept) for i, (begin, end) in enumerate(spans))
        chosen = sorted(kept) if self.config.order == "time" else kept
        joined: list[list[int]] = [[0, opening]] if opening else []
        for i in chosen:
            begin, end = spans[i]
            if self.config.order == "time" and joined and begin <= joined[-1][1]:
                joined[-1][1] = end
            else:
                joined.append([begin, end])
        return joined

    def pieces(self, text: torch.Tensor, opening: int = 0) -> list[tuple[int, int]]:
        """The text behind its opening in pieces, cut behind a sentence where `ends` tells and one is near."""
        size, overlap, count = self.config.segment, self.config.overlap, text.shape[1]
        ends = set(self.config.ends)
        words = text[0].tolist() if ends else []
        spans, begin = [], opening
        while begin < count:
            end = min(begin + size, count)
            if end < count and ends:
                near = range(end, max(begin + overlap, end - size // 4), -1)
                end = next((at for at in near if words[at - 1] in ends), end)
            spans.append((begin, end))
            if end == count:
                break
            begin = max(end - overlap, begin + 1)
        return spans

    def certainties(
        self, text: torch.Tensor, spans: Sequence[tuple[int, int]], asked: torch.Tensor, run: Run
    ) -> list[float]:
        """How much more certain each piece [begin, end) of the text [1, N] makes the model over the question [1, n].

        Args:
            run: the last hidden states of a pass of its own, as `Reader.aside` or `PlanState.run`.
        """
        with torch.no_grad(), progress_bar("weighing the text's pieces", len(spans), show=len(spans) > 8) as advance:
            alone = self._certainty(asked, run)
            out = []
            for begin, end in spans:
                out.append(self._certainty(torch.cat((text[:, begin:end], asked), 1), run, asked.shape[1]) - alone)
                advance(1)
        return out

    def _certainty(self, ids: torch.Tensor, run: Run, asked: int | None = None) -> float:
        """How certain the model is over the last `asked` tokens, in nats; all of them without a piece before."""
        count = ids.shape[1] if asked is None else asked
        hidden = run(ids)[:, -count:]
        if self.config.score == "answer":
            hidden = hidden[:, -1:]
        total = torch.zeros((), dtype=torch.float64)
        if self.config.score == "gain":  # of the tokens after the question's first, which alone has nothing before it
            hidden, target = hidden[:, :-1], ids[:, -count + 1 :] if count > 1 else ids[:, :0]
        for at in range(0, hidden.shape[1], _ROWS):
            logs = self.family.logits(hidden[:, at : at + _ROWS]).float().log_softmax(-1)
            if self.config.score == "gain":
                total += logs.gather(2, target[:, at : at + _ROWS, None]).double().sum().cpu()
            else:
                total += (logs.exp() * logs).double().sum().cpu()
        return float(total) / max(1, hidden.shape[1])

    # --- the passes --------------------------------------------------------------------------------------------------

    def begin(self, step: Step, cache: SlotCache) -> None:
        """Positions count from 0 over what is read."""
        super().begin(step, cache)
        step.pos = (step.start + step.offsets).expand_as(step.pos)

    def reason(self, track: Track) -> list[str]:
        """Which tokens of the text a slot belongs to, or that it came with the question or after it."""
        said = [f"tokens {begin:,}-{end:,}" for begin, end in self._spans for _ in range(end - begin)]
        return (said + ["question or answer"] * track.n)[: track.n]


def sentence_ends(tokenizer: Any) -> tuple[int, ...]:
    """The ids of tokens that end a sentence or a line, for `Xl3mConfig.ends`."""
    found = []
    for word, index in tokenizer.get_vocab().items():
        text = str(tokenizer.convert_tokens_to_string([word]))
        if text.endswith("\n") or text.strip() in (".", "!", "?", "。", "…"):
            found.append(int(index))
    return tuple(sorted(found))
