"""Masked language modelling on a mixture of full-length and short sequences.

Queries of ten tokens and documents of thousands are both read by one encoder, so both must be in its training: some
examples are packed to the full length, the others are left short.
"""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memspan.core.checkpoint import interrupts, load_checkpoint, save_checkpoint
from memspan.core.errors import InputError
from memspan.longterm.m2_bert_loco.config import M2Config, PretrainConfig
from memspan.longterm.m2_bert_loco.embedder import save
from memspan.longterm.m2_bert_loco.model import M2Encoder
from memspan.longterm.m2_bert_loco.tokens import WordPieces
from memspan.models.progress import progress_bar

CHECKPOINT = "training/checkpoint.safetensors"  # beside the model it would count as its weights
_SHORTEST = 8  # tokens of the shortest example that is cut out of a longer text


class MixedLengths:
    """Batches by number, without end, each of long or of short examples, the same for the same seed.

    A long example starts in a random text and goes on through the following ones until it is full. A short one is
    a text as it is, or, of a text above `short_len`, a piece whose length is drawn log-uniformly.

    Args:
        docs: token ids of each text, [CLS] and [SEP] at their ends.
        max_len: length of the long examples.
        long_fraction: share of the examples that are long. Batches have about equal numbers of tokens, so that of the
            batches far more are long.
        batch_tokens: tokens of a batch; at least one example.
        short_len: longest short example.
        seed: of every draw.

    Raises:
        InputError: there is no text, or one without tokens.
    """

    def __init__(
        self,
        docs: Sequence[Sequence[int]],
        *,
        max_len: int,
        long_fraction: float = 0.7,
        batch_tokens: int = 4096,
        short_len: int = 128,
        seed: int = 0,
    ) -> None:
        if not docs or any(len(doc) < 3 for doc in docs):
            raise InputError("pre-training needs at least one text, and a token in each")
        if not 0 <= long_fraction <= 1 or min(max_len, batch_tokens, short_len) < 4:
            raise InputError("long_fraction must be 0 to 1, and max_len, batch_tokens and short_len at least 4")
        self._docs, self._seed = docs, seed
        self.max_len, self.short_len = max_len, min(short_len, max_len)
        self.rows = {"long": max(1, batch_tokens // max_len), "short": max(1, batch_tokens // self.short_len)}
        # With p the share of long batches, the share of long examples is p·rows_l / (p·rows_l + (1 − p)·rows_s).
        long, short = long_fraction * self.rows["short"], (1 - long_fraction) * self.rows["long"]
        self.long_batches = long / (long + short)

    def __getitem__(self, step: int) -> list[list[int]]:
        """The token rows of a step's batch."""
        chance = random.Random(f"{self._seed} {step}")
        if chance.random() < self.long_batches:
            return [self._long(chance) for _ in range(self.rows["long"])]
        return [self._short(chance) for _ in range(self.rows["short"])]

    def _long(self, chance: random.Random) -> list[int]:
        place = chance.choices(range(len(self._docs)), [len(doc) for doc in self._docs])[0]
        doc = self._docs[place]
        start = chance.randrange(1, max(2, len(doc) - 1)) if len(doc) > self.max_len else 1
        row = [doc[0], *doc[start : start + self.max_len - 1]]
        while len(row) < self.max_len:  # the next texts, the first one after the last
            place = (place + 1) % len(self._docs)
            row += self._docs[place][1 : 1 + self.max_len - len(row)]
        return [*row[:-1], doc[-1]]

    def _short(self, chance: random.Random) -> list[int]:
        doc = chance.choice(self._docs)
        if len(doc) <= self.short_len:
            return list(doc)
        ratio = self.short_len / _SHORTEST
        length = self.short_len if ratio <= 1 else round(_SHORTEST * ratio ** chance.random())
        start = chance.randrange(1, len(doc) - length + 2)
        return [doc[0], *doc[start : start + length - 2], doc[-1]]


def mixed_length_batches(
    docs: Sequence[str], long_fraction: float = 0.7, *, max_len: int, batch_tokens: int = 4096, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids [B, L] and masks [B, L] without end, of texts; see `MixedLengths`.

    Raises:
        InputError: there is no text, or a setting is out of range.
    """
    pieces = WordPieces()
    batches = MixedLengths(
        pieces.ids(docs), max_len=max_len, long_fraction=long_fraction, batch_tokens=batch_tokens, seed=seed
    )

    def every() -> Iterator[tuple[Tensor, Tensor]]:
        step = 0
        while True:
            yield pieces.batch(batches[step])
            step += 1

    return every()


def masked(ids: Tensor, keep: Tensor, pieces: WordPieces, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Ids with some tokens hidden, and which: of those chosen 80 % become [MASK], 10 % another token, 10 % stay."""
    draw = torch.Generator().manual_seed(seed)
    free = keep & (ids != pieces.cls) & (ids != pieces.sep)
    score = torch.rand(ids.shape, generator=draw).masked_fill(~free, 2.0)
    chosen = score < rate
    if not bool(chosen.any()):  # a batch of a few tokens: the one that was nearest to being chosen
        chosen = free & (score == score.min())
    how = torch.rand(ids.shape, generator=draw)
    hidden = torch.where(chosen & (how < 0.8), pieces.mask, ids)
    other = torch.randint(pieces.size, ids.shape, generator=draw)
    return torch.where(chosen & (how >= 0.9), other, hidden), chosen


def mlm_loss(model: M2Encoder, ids: Tensor, keep: Tensor, pieces: WordPieces, rate: float, seed: int) -> Tensor:
    """Mean cross-entropy of the hidden tokens, in nats; only those are scored against the vocabulary."""
    shown, chosen = masked(ids, keep, pieces, rate, seed)
    return F.cross_entropy(model.token_logits(model(shown, keep)[chosen]).float(), ids[chosen])


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What pre-training did.

    Attributes:
        model: the encoder, in evaluation mode.
        directory: where it was saved.
        losses: of every step, those of earlier runs included, in nats a hidden token.
        resumed_at: the step it was taken up from.
        seconds: of this run.
    """

    model: M2Encoder
    directory: Path
    losses: tuple[float, ...]
    resumed_at: int
    seconds: float


def parameter_groups(model: M2Encoder, config: PretrainConfig) -> list[dict[str, object]]:
    """AdamW's groups: position features, filter networks, and all the rest, each with its rate and decay."""
    features = [p for name, p in model.named_parameters() if name.endswith(".features")]
    networks = [p for name, p in model.named_parameters() if ".back." in name or ".ahead." in name]
    special = {id(p) for p in (*features, *networks)}
    rest = [p for p in model.parameters() if id(p) not in special]
    return [
        {"params": features, "lr": config.feature_lr, "weight_decay": 0.0},
        {"params": networks, "lr": config.filter_lr, "weight_decay": config.filter_weight_decay},
        {"params": rest, "lr": config.lr, "weight_decay": config.weight_decay},
    ]


def pretrain(
    texts: Sequence[str],
    directory: str | os.PathLike[str],
    encoder: M2Config | M2Encoder | None = None,
    config: PretrainConfig | None = None,
    *,
    tokenizer: WordPieces | None = None,
    every: int = 200,
    progress: bool = False,
) -> Pretrained:
    """Train an encoder on texts by masked language modelling, and save it.

    Training goes on from `training/checkpoint.safetensors` where the directory has one, and ends as it would have
    without a break. Ctrl-C finishes the step under way, writes the checkpoint and is raised; pressed again, it
    interrupts at once, and what the last checkpoint holds is kept.

    Args:
        texts: any lengths; only texts of the encoder's length teach it long ranges.
        directory: for the saved encoder and its checkpoint.
        encoder: its shape, or an encoder to go on with (as `extend_length` makes one); `M2Config.small()` when None.
        config: how to train.
        tokenizer: its word pieces; the bundled embedder's when None.
        every: steps between two checkpoints.
        progress: show a bar also where stderr is no terminal.

    Raises:
        InputError: no texts, the tokenizer has more tokens than the encoder, or a checkpoint of another training.
        KeyboardInterrupt: after the checkpoint was written.
    """
    config = config or PretrainConfig()
    pieces = tokenizer or WordPieces()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = encoder if isinstance(encoder, M2Encoder) else M2Encoder(encoder or M2Config.small())
    if pieces.size > model.config.vocabulary:
        raise InputError(f"the tokenizer has {pieces.size} tokens and the encoder {model.config.vocabulary}")
    if every < 1:
        raise InputError(f"every is {every}; it must be at least 1")
    docs = [row for row in pieces.ids(texts) if len(row) > 2]
    batches = MixedLengths(
        docs,
        max_len=model.config.max_len,
        long_fraction=config.long_fraction,
        batch_tokens=config.batch_tokens,
        short_len=config.short_len,
        seed=config.seed,
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, betas=config.betas, eps=1e-6)
    rates = [group["lr"] for group in optimizer.param_groups]
    # Through JSON a tuple comes back as a list.
    settings = {**dataclasses.asdict(config), "betas": list(config.betas), "task": "masked language modelling"}
    path = Path(directory) / CHECKPOINT
    losses = load_checkpoint(path, model, optimizer, settings) if path.exists() else []
    begun, start = time.perf_counter(), len(losses)
    model.train()
    with (
        torch.random.fork_rng(devices=[]),
        progress_bar("pre-training", config.steps, force=progress) as advance,
        interrupts() as interrupted,
    ):
        advance(start)
        for step in range(start, config.steps):
            torch.manual_seed(config.seed * 1_000_003 + step)  # what a step draws depends on nothing before it
            factor = rate_factor(step, config)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            ids, keep = pieces.batch(batches[step])
            value = mlm_loss(model, ids, keep, pieces, config.mask_rate, config.seed * 1_000_003 + step)
            if not bool(torch.isfinite(value)):
                raise InputError(f"the loss is {value.item()} at step {step}: lower the learning rate ({config.lr})")
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            losses.append(value.item())
            advance(1)
            stop = interrupted()
            if stop or (step + 1) % every == 0 or step + 1 == config.steps:
                save_checkpoint(path, model, optimizer, settings, losses)
            if stop:
                raise KeyboardInterrupt
    said = {"pretraining": settings, "texts": len(docs), "tokens": sum(map(len, docs)), "last_loss": losses[-1]}
    folder = save(model.eval(), directory, pieces, said)
    return Pretrained(
        model=model, directory=folder, losses=tuple(losses), resumed_at=start, seconds=time.perf_counter() - begun
    )


def rate_factor(step: int, config: PretrainConfig) -> float:
    """What the rates are multiplied by: up to 1 in the first `warmup` of the steps, then linearly down to `floor`."""
    rising = round(config.steps * config.warmup)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 1 - (1 - config.floor) * (step - rising) / max(1, config.steps - 1 - rising)
