"""The encoder: gated long convolutions mix tokens, a block-diagonal gated MLP mixes channels.

Letters: B batch, L tokens, D channels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memspan.core.block_diagonal import BlockDiagonalLinear
from memspan.core.convolution import fft_size
from memspan.core.errors import InputError
from memspan.core.long_conv import CACHE_BYTES, LongConv, channel_step
from memspan.longterm.m2_bert_loco.config import M2Config

if TYPE_CHECKING:
    from memspan.models.base import Embedder

_STD = 0.02  # of BERT's weights


class SeqMix(nn.Module):
    """The sequence mixer: W_out( x2 ⊙ (k1 * (v ⊙ x1) + b1 ⊙ …) + k2 * u + b2 ⊙ u ).

    x1, x2 and v are W_in u after a causal depth-wise convolution of three taps. The second long convolution reads the
    layer's input and stands for a residual connection.
    """

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        width = config.hidden
        self.project_in = nn.Linear(width, 3 * width)
        self.taps = nn.Parameter(torch.empty(3 * width, 3).uniform_(-(3**-0.5), 3**-0.5))  # as nn.Conv1d
        self.taps_bias = nn.Parameter(torch.empty(3 * width).uniform_(-(3**-0.5), 3**-0.5))
        shape = {"order": config.filter_order, "bands": config.bands, "sine": config.sine, "method": config.method}
        self.gated = LongConv(width, config.max_len, span=config.span or None, **shape)  # type: ignore[arg-type]
        self.residual = LongConv(width, config.max_len, span=config.span or None, **shape)  # type: ignore[arg-type]
        self.project_out = nn.Linear(width, width)

    def short(self, p: Tensor, rows: Tensor) -> Tensor:
        """The causal convolution of three taps over [B, C, L], with the taps of these rows."""
        taps = self.taps[rows][:, None]
        return F.conv1d(p, taps, self.taps_bias[rows], padding=2, groups=len(rows))[..., : p.shape[-1]]

    def forward(self, u: Tensor, keep: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]; `keep` [B, L] is 1 at tokens and 0 at padding, at which u is 0 already."""
        batch, length, width = u.shape
        channels = u.transpose(1, 2)
        gated, residual = self.gated.filter(length), self.residual.filter(length)
        step = channel_step(batch, gated.n, width)
        parts = []
        for start in range(0, width, step):  # one pass for training; in blocks, memory stays small
            stop = min(start + step, width)
            rows = torch.cat([torch.arange(start, stop, device=u.device) + i * width for i in range(3)])
            p = torch.matmul(self.project_in.weight[rows], channels) + self.project_in.bias[rows, None]
            x1, x2, v = self.short(p, rows).chunk(3, 1)
            v = v * x1 if keep is None else v * x1 * keep[:, None].to(v)
            mixed = self.gated.block(v, gated, start, stop) * x2
            parts.append(mixed + self.residual.block(channels[:, start:stop], residual, start, stop))
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        out: Tensor = self.project_out(whole.transpose(1, 2))
        return out


class GatedMLP(nn.Module):
    """W_out( GELU(g) ⊙ v ) with [g, v] = W_in h, both maps block diagonal."""

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        inner = config.expansion * config.hidden
        self.wide = BlockDiagonalLinear(config.hidden, 2 * inner, config.blocks, bias=False)
        self.out = BlockDiagonalLinear(inner, config.hidden, config.blocks)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, value = self.wide(h).chunk(2, -1)
        out: Tensor = self.out(self.dropout(F.gelu(gate) * value))
        return out


class M2Layer(nn.Module):
    """h ← SeqMix(h), then h ← LayerNorm(h + GatedMLP(h)). There is no residual connection around the mixer."""

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        self.mix = SeqMix(config)
        self.mlp = GatedMLP(config)
        self.norm = nn.LayerNorm(config.hidden, eps=1e-12)

    def forward(self, h: Tensor, keep: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        h = self.mix(h, keep)
        out: Tensor = self.norm(h + self.mlp(h))
        return out if keep is None else out * keep[..., None].to(out)


class M2Encoder(nn.Module):
    """The Monarch Mixer encoder for texts of up to `max_len` tokens, in O(L log L).

    Cost of a layer with D channels at L tokens: 4 D² L multiplications in the mixer's projections, 12 D² L / blocks in
    the MLP, and six transforms of D channels; the filters' two are kept in evaluation. `M2Config()` has 80M parameters.

    Args:
        config: its shape; keyword arguments are changes to it.

    Example:
        >>> from memspan.longterm.m2_bert_loco import M2Config, M2Encoder
        >>> model = M2Encoder(M2Config.small(max_len=64)).eval()
        >>> model.embed(torch.tensor([[101, 2023, 102]])).shape
        torch.Size([1, 256])
    """

    Config: ClassVar[type[M2Config]] = M2Config

    def __init__(self, config: M2Config | None = None, **changes: object) -> None:
        super().__init__()
        config = dataclasses.replace(config or M2Config(), **changes)  # type: ignore[arg-type]
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.hidden)
        self.positions = nn.Embedding(config.max_len, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList([M2Layer(config) for _ in range(config.layers)])
        self.head = nn.Sequential(
            nn.Linear(config.hidden, config.hidden), nn.GELU(), nn.LayerNorm(config.hidden, eps=1e-12)
        )
        self.head_bias = nn.Parameter(torch.zeros(config.vocabulary))
        for name, weight in self.named_parameters():
            # Not the filter networks: their sines want the wider start that nn.Linear has.
            if name.endswith(("tokens.weight", "positions.weight", "project_in.weight", "project_out.weight")):
                nn.init.normal_(weight, std=_STD)
            elif name.endswith(("project_in.bias", "project_out.bias")):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The tokens' vectors, [B, L, D]; zeros at padding.

        Args:
            ids: [B, L] token ids.
            mask: [B, L], true at tokens, false at padding, which must stand at the end. None: no padding.

        Raises:
            InputError: more tokens than the position table has, a wrong shape, or padding before a token.
        """
        if ids.dim() != 2 or not ids.shape[1] >= 1:
            raise InputError(f"token ids must be [batch, length ≥ 1], not {list(ids.shape)}")
        if ids.shape[1] > self.config.max_len:
            raise InputError(
                f"the input has {ids.shape[1]:,} tokens and this encoder reads {self.config.max_len:,}: shorten it, or"
                " make the encoder longer with extend_length"
            )
        keep = None if mask is None else self._checked(mask, ids)
        h = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        h = self.dropout(self.norm(h))
        if keep is not None:
            h = h * keep[..., None].to(h)
        for layer in self.layers:
            h = layer(h, keep)
        out: Tensor = h
        return out

    @staticmethod
    def _checked(mask: Tensor, ids: Tensor) -> Tensor | None:
        """The mask as booleans, None when it hides nothing."""
        if mask.shape != ids.shape:
            raise InputError(f"the mask is {list(mask.shape)} and the token ids {list(ids.shape)}")
        keep = mask.bool()
        if bool((keep[:, 1:] & ~keep[:, :-1]).any()) or not bool(keep[:, 0].all()):
            raise InputError("padding must stand at the end, and each row must hold a token")
        return None if bool(keep.all()) else keep

    def embed(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean of the tokens' vectors without padding, [B, D], not scaled. Raises as `forward`."""
        hidden = self(ids, mask)
        total: Tensor = hidden.sum(1)
        return total / (ids.shape[1] if mask is None else mask.sum(1, keepdim=True).to(total))

    @classmethod
    def open_embedder(cls, directory: Path, *, name: str, threads: int | None) -> Embedder:
        """What `memspan.load_embedder` calls for a saved encoder: as every embedder, it cuts what is too long."""
        from memspan.longterm.m2_bert_loco.embedder import M2Embedder

        return M2Embedder(directory, name=name, too_long="cut", threads=threads)

    @classmethod
    def embedder_bytes(cls, directory: Path) -> tuple[int, int]:
        """Bytes of activations and of kept spectra, at most, and D, of a saved encoder that is not loaded."""
        from memspan.longterm.m2_bert_loco.embedder import BATCH_TOKENS, read_config

        config = read_config(directory)
        tokens = max(BATCH_TOKENS, config.max_len)
        inside = 4 * tokens * config.hidden * (5 * config.expansion + 4)  # the gated MLP is the widest
        largest = 8 * config.hidden * (fft_size(2 * config.max_len) // 2 + 1)
        # The lengths that share a spectrum have three steps an octave: together they have 4.5 times the largest.
        kept = 2 * config.layers * min(CACHE_BYTES, 9 * largest // 2)
        return inside + kept, config.hidden

    def token_logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., vocabulary]: which token stands there, by the embeddings themselves."""
        return F.linear(self.head(hidden), self.tokens.weight, self.head_bias)


def extend_length(model: M2Encoder, factor: int) -> M2Encoder:
    """A new encoder that reads `factor` times as many tokens, and computes the same for texts that `model` reads.

    The position table and the filters' position features are laid `factor` times end to end. The filters' decay goes on
    with true time, so that what is added begins at at most 5 % of its weight and no echo appears.

    Raises:
        InputError: the factor is below 1.
    """
    if factor < 1:
        raise InputError(f"factor is {factor}; it must be at least 1")
    config = model.config
    longer = dataclasses.replace(config, max_len=factor * config.max_len, span=config.span or config.max_len)
    made = M2Encoder(longer).to(model.positions.weight)
    state = model.state_dict()
    for name in state:
        if name == "positions.weight" or name.endswith(".features"):
            state[name] = state[name].repeat(factor, 1)
    made.load_state_dict(state)
    return made.train(model.training)
