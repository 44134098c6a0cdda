"""`Decoder`: several tokens a pass, guessed as a tree and verified by the model itself, over any context system.

A decoder is passed to `model.generate(ids, custom_generate=decoder)`. Each pass reads a *draft*: the token that is
confirmed but not yet read (row 0), guesses of what follows it as a tree, and rows that are no tokens at all. The rows
on the accepted path stay in the slots, in order, and the system scores them one by one, as if they had been read
singly; the others leave no trace. A draft is never larger than what fits before the next eviction, so that slots are
dropped when plain decoding would drop them. Shapes: T rows of a draft, V tokens of the vocabulary, d hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from memspan.context.cache import uninterrupted
from memspan.context.family import Family
from memspan.context.passes import attached
from memspan.context.reader import Reader, open_reader
from memspan.context.step import Step
from memspan.core.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeDraft:
    """The rows of one pass, parents before children.

    Attributes:
        tokens: token ids [T]; row 0 is the confirmed token; -1 where a row is an embedding.
        parents: the row that each row follows [T]; -1 for row 0.
        embeds: embeddings [E, d] of the rows whose token is -1, in their order; None where there are none.
    """

    tokens: list[int]
    parents: list[int]
    embeds: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.parents) or self.parents[0] != -1:
            raise InputError("a draft has one parent for each row, and row 0 has none")
        if any(not 0 <= parent < row for row, parent in enumerate(self.parents[1:], 1)):
            raise InputError("the rows of a draft follow their parents")

    @property
    def depths(self) -> list[int]:
        """How far below row 0 each row is."""
        out = [0]
        for parent in self.parents[1:]:
            out.append(out[parent] + 1)
        return out

    @property
    def sees(self) -> torch.Tensor:
        """Which rows each row sees: its ancestors and itself, bool [T, T]."""
        count = len(self.tokens)
        out = torch.eye(count, dtype=torch.bool)
        for row in range(1, count):
            out[row] |= out[self.parents[row]]
        return out

    def children(self) -> list[list[int]]:
        """The rows that follow each row and are tokens."""
        out: list[list[int]] = [[] for _ in self.tokens]
        for row, parent in enumerate(self.parents):
            if parent >= 0 and self.tokens[row] >= 0:
                out[parent].append(row)
        return out


@dataclass(slots=True)
class DecodeState:
    """Where a generation stands.

    Attributes:
        ids: all tokens [1, L], the confirmed one, which is not read yet, included.
        remaining: tokens that may still be put out.
        rows: most rows that the next draft may have.
        sample: tokens are drawn; else the likeliest is taken.
        scores: logits [V] after the tokens [1, l] by the processors of the generation, `scores(logits, ids)`.
        draft: the draft of the pass under way.
        notes: what the decoder keeps between passes.
    """

    ids: torch.Tensor
    sample: bool
    scores: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    remaining: int = 0
    rows: int = 1
    draft: TreeDraft | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How deep a guess can be and still be put out."""
        return max(0, self.remaining - 1)

    def choose(self, logits: torch.Tensor, ids: torch.Tensor) -> int:
        """The token after `ids` [1, l] by its logits [V]."""
        scores = self.scores(logits, ids)
        return int(torch.multinomial(scores.softmax(-1), 1) if self.sample else scores.argmax())

    def longer(self, ids: torch.Tensor, token: int) -> torch.Tensor:
        """`ids` with one more token."""
        return torch.cat((ids, ids.new_tensor([[token]])), 1)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a decoder accepts: rows [m] of the path, row 0 first, and the token that follows the last of them."""

    rows: list[int]
    following: int


class Decoder(Protocol):
    """What guesses and decides; `decode` is its loop."""

    def draft(self, state: DecodeState) -> TreeDraft:
        """What the next pass reads."""

    def accept(self, state: DecodeState, logits: torch.Tensor) -> Accepted:
        """Which rows stay, by the logits [T, V] of the draft."""

    def passed(self, state: DecodeState, accepted: Accepted, logits: torch.Tensor) -> None:
        """After a pass, with the rows that stay in force."""


def run_draft(reader: Reader, draft: TreeDraft) -> torch.Tensor:
    """One pass over a draft: logits [T, V]. It is open until `accept_rows`; another pass takes it back.

    Raises:
        InputError: the reader holds several rows, or its system cannot take rows back.
    """
    reader._open()
    system, cache = reader.system, reader.cache
    if not system.trees:
        raise InputError(f"{type(system).__name__} scores every row that it reads, so it cannot take guesses back")
    if cache.batch != 1:
        raise InputError(f"the reader holds {cache.batch} rows: drafts go with one")
    device = reader.family.device
    tokens = torch.tensor([draft.tokens], device=device)
    offsets = torch.tensor([draft.depths], device=device)
    pos = cache.tracks[0].following[:, None] + offsets
    step = Step(
        ids=tokens,
        pos=pos,
        rope=pos,
        offsets=offsets,
        start=cache.tracks[0].n,
        plain=not cache.tracks[0].padded,
        cache=cache,
        tree=draft.sees.to(device),
    )
    words: dict[str, Any] = {}
    if draft.embeds is None:
        words["input_ids"] = tokens
    else:
        embeds = reader.model.get_input_embeddings()(tokens.clamp_min(0))
        embeds[tokens < 0] = draft.embeds.to(embeds.dtype)
        words["inputs_embeds"] = embeds
    return reader._run_step(words, step)[0]


def accept_rows(reader: Reader, rows: list[int]) -> None:
    """Keep these rows of the draft that was read, a path from row 0 on, as if they had been read one by one."""
    step, cache = reader._step, reader.cache
    if step is None or step.tree is None or step.hidden is None or step.ids is None:
        raise InputError("there is no draft to accept rows of")
    index = torch.tensor(rows, device=step.pos.device)
    with uninterrupted():
        for track, mark in reader._marks:
            track.back_to(mark)
        reader._step, reader._marks = None, []
        if rows != list(range(len(rows))):
            for layer in cache.layers:
                layer.gather_rows(step.start, index)
            for track in cache.tracks:
                track.gather_rows(step.start, index)
        for row in rows:
            for track in cache.tracks:
                track.step_on(step.pos[:, row])
            one = slice(row, row + 1)
            single = Step(
                ids=step.ids[:, one],
                pos=step.pos[:, one],
                rope=step.rope[:, one],
                offsets=torch.zeros_like(step.offsets[:, one]),
                start=cache.tracks[0].n - 1,
                plain=step.plain,
                cache=cache,
                hidden=step.hidden[:, one],
            )
            reader._finish(single)


def decode(
    decoder: Decoder,
    model: Any,
    input_ids: torch.Tensor,
    *,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    on_tokens: Callable[[list[int]], None] | None = None,
    family: Family | None = None,
    **model_kwargs: Any,
) -> torch.Tensor:
    """The loop of a decoder, with the arguments that `generate` gives a `custom_generate`.

    Over the reader that is attached to the model; where none is, the full cache is attached until the end.

    Args:
        on_tokens: called with the new tokens of each pass, since `generate` keeps its `streamer` from a
            `custom_generate`.
        family: what is known of the model's attention, where no reader is attached; asking it costs a few passes.

    Raises:
        InputError: several rows, beams, or outputs beside the tokens were asked for.
    """
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(generation_config, name, False):
            raise InputError(f"{name} is not there when several tokens are decoded at once")
    if generation_config.return_dict_in_generate:
        raise InputError("return_dict_in_generate is not there when several tokens are decoded at once")
    if input_ids.shape[0] != 1:
        raise InputError(f"{input_ids.shape[0]} rows were given: several tokens at once are decoded for one")
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise InputError("the prompt is padded: give one row without padding")
    given = model_kwargs.get("past_key_values", model_kwargs.get("cache"))
    with ExitStack() as stack:
        reader = attached(model)
        if reader is None:
            if given is not None and given.get_seq_length() > 0:
                raise InputError("a cache that was filled elsewhere cannot be decoded on: attach a context system")
            reader = open_reader("full", model)
            reader._known = family
            stack.enter_context(reader)
        filled = given is not None and getattr(given, "layers", None) is reader.cache.layers
        prompt = input_ids[:, reader.cache.seen :] if filled else input_ids
        if prompt.shape[1] == 0:
            raise InputError("the prompt was read already and nothing follows it: give at least one new token")
        limit = input_ids.shape[1] + _room(generation_config, input_ids)
        state = DecodeState(
            ids=input_ids,
            sample=bool(generation_config.do_sample),
            scores=lambda logits, ids: logits_processor(ids, logits[None].float())[0],
        )

        def put(tokens: list[int]) -> tuple[int, bool]:
            """Put tokens out until one of them ends the generation: how many were, and whether it ended."""
            count, stopped = 0, False
            while count < len(tokens) and not stopped:
                state.ids = state.longer(state.ids, tokens[count])
                count += 1
                stopped = state.ids.shape[1] >= limit or bool(stopping_criteria(state.ids, None).all())
            if on_tokens is not None:
                on_tokens(tokens[:count])
            return count, stopped

        with torch.no_grad():
            logits = reader.model(input_ids=prompt, logits_to_keep=1).logits[0]
            _, stopped = put([state.choose(logits[-1], state.ids)])
            while not stopped:
                state.remaining = limit - state.ids.shape[1]
                state.rows = reader.system.rows_left(reader.cache)
                state.draft = decoder.draft(state)
                logits = run_draft(reader, state.draft)
                accepted = decoder.accept(state, logits)
                new = [state.draft.tokens[row] for row in accepted.rows[1:]] + [accepted.following]
                count, stopped = put(new)
                # The last token that was put out is not read yet, as in plain decoding.
                kept = Accepted(accepted.rows[:count], new[count - 1])
                accept_rows(reader, kept.rows)
                decoder.passed(state, kept, logits)
    return state.ids


def _room(generation_config: Any, input_ids: torch.Tensor) -> int:
    room = int(generation_config.max_length) - input_ids.shape[1]
    if room < 1:
        raise InputError(f"max_length is {generation_config.max_length} and the prompt has {input_ids.shape[1]} tokens")
    return room


def walk(state: DecodeState, logits: torch.Tensor) -> Accepted:
    """The path that the model itself would take: from row 0 on, as long as its own choice is among the guesses.

    Greedy, and with every processor of logits, it is what plain decoding puts out; with sampling it has the same
    distribution, since each token is drawn from the model's own.
    """
    assert state.draft is not None
    below = state.draft.children()
    rows, ids = [0], state.ids
    while True:
        token = state.choose(logits[rows[-1]], ids)
        found = next((row for row in below[rows[-1]] if state.draft.tokens[row] == token), None)
        if found is None:
            return Accepted(rows, token)
        rows.append(found)
        ids = state.longer(ids, token)


def typical(state: DecodeState, logits: torch.Tensor, *, threshold: float, factor: float) -> Accepted:
    """The longest path whose tokens are typical: p > min(threshold, factor · exp(−entropy)) after their parents.

    The token after it is drawn from the model's distribution. Of equally long paths the likelier one is taken.
    """
    assert state.draft is not None
    tokens, below = state.draft.tokens, state.draft.children()
    best: tuple[int, float, list[int], torch.Tensor] = (1, 0.0, [0], state.ids)
    ahead = [best]
    while ahead:
        path = ahead.pop()
        if path[:2] > best[:2]:
            best = path
        count, weight, rows, ids = path
        if not below[rows[-1]]:
            continue
        logs = state.scores(logits[rows[-1]], ids).log_softmax(-1)
        entropy = -float((logs.exp() * logs.clamp_min(-1e4)).sum())
        least = min(threshold, factor * math.exp(-entropy))
        for row in below[rows[-1]]:
            log = float(logs[tokens[row]])
            if math.exp(log) > least:
                ahead.append((count + 1, weight + log, [*rows, row], state.longer(ids, tokens[row])))
    _, _, rows, ids = best
    return Accepted(rows, state.choose(logits[rows[-1]], ids))
