"""SirLLM (Yao et al., ACL 2024, arXiv 2405.12528): a fixed cache that keeps what surprised the model.

A token's score is its surprisal, −log p(token | what came before), from the pass that reads it. When room is needed the
highest scores stay, beside the first and the latest tokens; once a turn all scores fade by `decay`. Surprising is not
the same as important: typos and rare names fill the cache, and a number split into digits, each cheap to guess, does
not survive by itself (`whole_words="sum"` scores it whole). Keys are rotated to their place in the buffer: after an
eviction distant sentences are neighbours.

Notable choices. The paper calls the surprisal "token entropy". As in its code, the first token of a turn gets the
highest score of its first pass (`first="max"`); `first="true"` uses the real one. A turn is one call of `feed` or `ask`
and at most `turn_tokens` of a stream. Turns longer than the cache are read in chunks with room made between them,
where the official code stops. The last `guard` tokens are never dropped, so that the end of a prompt is there when the
answer begins. Whole words are ours: every piece of a word gets its highest (or summed) score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from memspan.context.base import ContextConfig, ContextSystem
from memspan.context.cache import SlotCache
from memspan.context.slots import Track
from memspan.context.step import Step
from memspan.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SirLlmConfig(ContextConfig):
    """Settings of SirLLM.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    recent: int = 0  # latest tokens kept whatever their score (official runs: 0)
    guard: int = 32  # tokens at the very end that are never dropped (ours)
    decay: float = 1.0  # η: scores are multiplied by it once a turn (official runs: 1, 0.9, 0.7)
    first: str = "max"  # score of a turn's first token: "max" of its pass (official code) or "true"
    whole_words: str = "none"  # "max" or "sum" gives every piece of a word that score; needs word_starts (ours)
    turn_tokens: int = 256  # a stream without turns fades every so many tokens (ours)
    word_starts: tuple[bool, ...] | None = None  # for each token id whether it begins a word; see `word_starts`

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise InputError(f"decay is {self.decay}: it must be above 0 and at most 1")
        for name in ("recent", "guard"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 0")
        if self.turn_tokens < 1:
            raise InputError(f"turn_tokens is {self.turn_tokens}: it must be at least 1")
        if self.first not in ("max", "true"):
            raise InputError(f"first is {self.first!r}: it must be max or true")
        if self.whole_words not in ("none", "max", "sum"):
            raise InputError(f"whole_words is {self.whole_words!r}: it must be none, max or sum")
        if self.whole_words != "none" and self.word_starts is None:
            raise InputError("whole_words needs word_starts: memspan.context.sirllm.word_starts(tokenizer)")


def word_starts(tokenizer: Any) -> tuple[bool, ...]:
    """For each token id of a tokenizer whether its text begins a word: after a space, or with no letter or digit."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return tuple(piece is None or not piece[:1].isalnum() or piece[:1] in "Ġ▁" for piece in pieces)


class SirLlm(ContextSystem):
    """Keeps the most surprising tokens, and lets old ones fade."""

    Config = SirLlmConfig
    needs = frozenset({"surprisal"})
    as_slots = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        starts = self.config.word_starts
        self._starts = None if starts is None else torch.tensor(starts)

    @property
    def _protected(self) -> int:
        return int(max(self.config.recent, self.config.guard))

    @property
    def reserved(self) -> int:
        """Sinks, the protected end and one more."""
        return int(self.config.sinks + self._protected + 1)

    def turn(self, cache: SlotCache) -> None:
        """All scores fade; the next token is a turn's first."""
        super().turn(cache)
        self._fade(cache.tracks[0])
        cache.notes["turn_began"] = True

    def _fade(self, track: Track) -> None:
        if self.config.decay < 1:
            track.score[:, :, : track.n] *= self.config.decay

    def end(self, step: Step, cache: SlotCache, surprisal: torch.Tensor | None) -> None:
        """Score the new tokens."""
        assert surprisal is not None
        track = cache.tracks[0]
        padding = step.pos < 0
        if cache.notes.get("turn_began", True) and self.config.first == "max":
            # Of each row: with padding on the left the turn's first token is the first real one.
            known = surprisal.nan_to_num(nan=float("-inf")).masked_fill(padding, float("-inf"))
            first = (~padding).int().argmax(1, keepdim=True)
            surprisal = surprisal.scatter(1, first, known.amax(1, keepdim=True).clamp_min(0))
        cache.notes["turn_began"] = False
        score = surprisal.nan_to_num(nan=0.0).masked_fill(padding, float("-inf"))
        track.score[:, 0, track.n - step.count : track.n] = score
        if self._starts is not None and self.config.whole_words != "none":
            self._level_words(track, step.count)
        if track.seen % self.config.turn_tokens < step.count and track.seen - step.count >= self.config.turn_tokens:
            self._fade(track)

    def _level_words(self, track: Track, count: int) -> None:
        """Give the pieces of each new word one score."""
        assert self._starts is not None
        tokens = track.token[:, 0, track.n - count : track.n].long()
        begins = self._starts.to(tokens.device)[tokens.clamp_min(0)] | (tokens < 0)
        begins[:, 0] = True
        word = begins.cumsum(1) - 1
        score = track.score[:, 0, track.n - count : track.n]
        how = "amax" if self.config.whole_words == "max" else "sum"
        total = torch.zeros_like(score).scatter_reduce(1, word, score, how, include_self=False)
        track.score[:, 0, track.n - count : track.n] = total.gather(1, word)

    def priority(self, track: Track) -> torch.Tensor:
        """The score; the protected end above all."""
        rank = track.score[:, :, : track.n].clone()
        if self._protected:
            rank[:, :, -self._protected :] = float("inf")
        return rank

    def reason(self, track: Track) -> list[str]:
        """First, recent, or surprising."""
        edge = track.n - self._protected
        pos = track.pos[0, 0, : track.n].tolist()
        sinks = self.config.sinks
        return ["first" if 0 <= at < sinks else "recent" if i >= edge else "surprising" for i, at in enumerate(pos)]
