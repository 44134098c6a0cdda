"""Prompt tokens: a few embeddings that make a frozen model guess the tokens after the next one, and how they learn.

Shapes: B rows of text, L tokens, C cuts, n prompt tokens, d hidden size, V tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memspan.context.baselines import Full
from memspan.context.family import Family
from memspan.context.learning import Loss
from memspan.context.reader import Reader
from memspan.core.errors import InputError
from memspan.models.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class PpdConfig:
    """Settings of parallel prompt decoding.

    Raises:
        InputError: a number is out of range; the message names the field.
    """

    n: int = 3  # prompt tokens (paper: 3 for 7B and 13B)
    decay: float = 0.8  # weight of the guess i is decay^i (official code)
    cuts: int = 16  # places of a row at which guesses are trained (ours: the official code takes one of each text)
    prompt: int = 32  # tokens of the user's text that a row of the model's own begins with (ours)
    own: int = 96  # tokens of the row that the model wrote itself (ours)
    top: int = 10  # guesses of each prompt token that the trees may use (official code)
    acceptance: str = "typical"  # when sampling: "typical", or "exact" for the model's own distribution
    threshold: float = 0.3  # typical acceptance: p > min(threshold, factor · exp(−entropy)) (official code)
    factor: float = 0.09  # see threshold (official code)

    def __post_init__(self) -> None:
        for name in ("n", "cuts", "prompt", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.own < self.n + 2:
            raise InputError(f"own is {self.own}: {self.n} guesses need at least {self.n + 2}")
        if self.acceptance not in ("typical", "exact"):
            raise InputError(f"acceptance is {self.acceptance!r}: it must be typical or exact")
        for name in ("decay", "threshold", "factor"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be above 0 and at most 1")


class PromptTokens(nn.Module):
    """n embeddings [n, d]: the i-th, read i places after a token, guesses the token i + 1 places after it."""

    embeddings: nn.Parameter

    def __init__(self, config: PpdConfig) -> None:
        super().__init__()
        self.config = config

    def prepare(self, model: Any) -> None:
        """Begin with the embeddings of tokens drawn from a fixed seed, unless they are there."""
        if "embeddings" in self._parameters:
            return
        table = model.get_input_embeddings().weight
        drawn = torch.randperm(table.shape[0], generator=torch.Generator().manual_seed(0))[: self.config.n]
        ids = drawn.to(table.device)
        with torch.no_grad():
            self.embeddings = nn.Parameter(model.get_input_embeddings()(ids).float().clone())

    @contextmanager
    def reader(self, model: Any, cuts: int) -> Iterator[Reader]:
        """A full cache that takes a row, or all prompt tokens of its cuts, in one pass."""
        rows = max(cuts * self.config.n, self.config.prompt + self.config.own)
        Family(model).check_logits()
        with Reader(Full(chunk=rows), model, None, None, 1, False) as reader:
            yield reader

    @contextmanager
    def learning(self, model: Any) -> Iterator[Loss]:
        """The loss over rows [B, L] that the model wrote itself from `prompt` tokens on."""
        with self.reader(model, self.config.cuts) as reader:

            def loss(ids: Tensor, chance: torch.Generator) -> Tensor:
                last = ids.shape[1] - self.config.n - 1
                places = torch.randperm(last - self.config.prompt + 1, generator=chance)[: self.config.cuts]
                guesses, truth = self.guess(reader, ids, places.sort().values + self.config.prompt)
                weights = self.config.decay ** torch.arange(1, self.config.n + 1, device=guesses.device)
                with torch.no_grad():
                    wanted = reader.family.logits(truth).log_softmax(-1)
                apart = (wanted.exp() * (wanted - guesses.log_softmax(-1))).sum(-1)
                return (apart * weights).mean()

            yield loss

    def guess(self, reader: Reader, ids: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses at some places of a text.

        Args:
            ids: [B, L]; cuts: places [C], at most L − n − 1.

        Returns:
            Logits [B, C, n, V] of the prompt tokens after each place, and the model's own last hidden states
            [B, C, n, d] one to n places after it, which foretell the same tokens.
        """
        n, batch = self.config.n, ids.shape[0]
        cuts = cuts.to(ids.device)
        with torch.no_grad():
            reader.reset()
            hidden = reader.model.base_model(input_ids=ids).last_hidden_state
        ahead = torch.arange(1, n + 1, device=ids.device)
        truth = hidden[:, cuts[:, None] + ahead]
        text = torch.arange(ids.shape[1], device=ids.device)[None, None] <= cuts[:, None, None]
        sees_text = text.expand(-1, n, -1).flatten(0, 1)
        same = torch.eye(len(cuts), dtype=torch.bool, device=ids.device)
        sees_prompts = torch.kron(same, torch.ones(n, n, dtype=torch.bool, device=ids.device).tril())
        mask = torch.cat((sees_text, sees_prompts), 1)[None, None].expand(batch, 1, -1, -1)
        embeds = self.embeddings.to(hidden.dtype).repeat(len(cuts), 1)[None].expand(batch, -1, -1)
        places = (cuts[:, None] + ahead).flatten()[None].expand(batch, -1)
        out = reader.model.base_model(inputs_embeds=embeds, attention_mask=mask, position_ids=places).last_hidden_state
        return reader.family.logits(out).view(batch, len(cuts), n, -1), truth


def own_text(
    model: Any,
    stream: Tensor,
    rows: int,
    config: PpdConfig,
    *,
    seed: int = 0,
    batch: int = 16,
    keep: Path | None = None,
    progress: bool = False,
) -> Tensor:
    """Rows [rows, prompt + own] that begin with a window of a text and go on as the model itself does, greedily.

    Args:
        stream: token ids [N] of the text.
        keep: a file in which finished rows are kept, so that they are not made twice.

    Raises:
        InputError: the text is shorter than one window.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if len(stream) < config.prompt:
        raise InputError(f"{len(stream):,} tokens of text are fewer than a prompt of {config.prompt}")
    said = json.dumps([rows, config.prompt, config.own, seed, hashlib.sha256(stream.numpy().tobytes()).hexdigest()])
    key = hashlib.sha256(said.encode()).hexdigest()[:16]
    done = torch.empty(0, config.prompt + config.own, dtype=torch.int64)
    if keep is not None and keep.exists():
        try:
            done = load_file(keep).get(key, done)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{keep} cannot be read: {error}; remove it") from error
    chance = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(stream) - config.prompt + 1, (rows,), generator=chance)
    with progress_bar("the model's own text", rows, force=progress) as advance:
        advance(len(done))
        while len(done) < rows:
            at = starts[len(done) : len(done) + batch].tolist()
            ids = torch.stack([stream[i : i + config.prompt] for i in at]).to(model.device)
            # An end of text would leave nothing to learn from, so it is put off.
            settings = {"max_new_tokens": config.own, "min_new_tokens": config.own, "do_sample": False}
            with torch.no_grad():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
            done = torch.cat((done, out.cpu()))
            advance(len(at))
            if keep is not None:
                keep.parent.mkdir(parents=True, exist_ok=True)
                save_file({key: done}, keep.with_suffix(".part"))
                keep.with_suffix(".part").replace(keep)
    return done


def accuracies(prompts: PromptTokens, model: Any, rows: Tensor) -> list[list[float]]:
    """acc[i][r]: how often the guess of rank r of prompt token i + 1 is right, where those before it were in sight.

    Args:
        rows: [R, prompt + own] that the model wrote and that nothing was trained on.
    """
    config = prompts.config
    right = torch.zeros(config.n, config.top)
    asked = torch.zeros(config.n)
    places = torch.arange(config.prompt, rows.shape[1] - config.n - 1)
    ahead = torch.arange(2, config.n + 2)
    with prompts.reader(model, len(places)) as reader, torch.no_grad():
        for row in rows:
            logits, _ = prompts.guess(reader, row[None].to(model.device), places)
            best = logits[0].topk(min(config.top, logits.shape[-1]), dim=-1).indices.cpu()
            hits = best == row[places[:, None] + ahead][..., None]
            before = torch.ones(len(places), dtype=torch.bool)
            for i in range(config.n):
                asked[i] += before.sum()
                right[i, : hits.shape[2]] += hits[before, i].sum(0)
                before = before & hits[:, i].any(-1)
    return [(right[i] / max(1.0, float(asked[i]))).tolist() for i in range(config.n)]
