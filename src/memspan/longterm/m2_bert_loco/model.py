"""The encoder: gated long convolutions mix tokens, a block-diagonal gated MLP mixes channels.

Letters: B batch, L tokens, D channels.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memspan.core.block_diagonal import BlockDiagonalLinear
from memspan.core.errors import InputError
from memspan.core.long_conv import LongConv, channel_step
from memspan.longterm.m2_bert_loco.config import M2Config

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
        # Taps at t − 2, t − 1 and t. Written out: PyTorch's depth-wise convolution is several times slower on a CPU.
        self.taps = nn.Parameter(torch.empty(3 * width, 3).uniform_(-(3**-0.5), 3**-0.5))
        self.taps_bias = nn.Parameter(torch.empty(3 * width).uniform_(-(3**-0.5), 3**-0.5))
        shape = {"order": config.filter_order, "bands": config.bands, "sine": config.sine, "method": config.method}
        self.gated = LongConv(width, config.max_len, span=config.span or None, **shape)  # type: ignore[arg-type]
        self.residual = LongConv(width, config.max_len, span=config.span or None, **shape)  # type: ignore[arg-type]
        self.project_out = nn.Linear(width, width)

    def short(self, p: Tensor, rows: Tensor) -> Tensor:
        """The causal convolution of three taps over [B, C, L], with the taps of these rows."""
        taps, bias = self.taps[rows], self.taps_bias[rows]
        out = p * taps[:, 2:] + bias[:, None]
        out[..., 1:] += p[..., :-1] * taps[:, 1:2]
        out[..., 2:] += p[..., :-2] * taps[:, :1]
        return out

    def forward(self, u: Tensor, keep: Tensor | None) -> Tensor:
        """[B, L, D] -> [B, L, D]; `keep` [B, L] is 1 at tokens and 0 at padding, at which u is 0 already."""
        batch, length, width = u.shape
        channels = u.transpose(1, 2)
        gated, residual = self.gated.filter(length), self.residual.filter(length)
        step = channel_step(batch, gated.n, width)
        parts = []
        for start in range(0, width, step):  # one pass for training; in blocks, memory stays small
            stop = min(start + step, width)
            rows = (torch.arange(start, stop, device=u.device) + torch.arange(3, device=u.device)[:, None] * width).flatten()
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

    Cost of a layer with D channels at L tokens: about 4 D² L + 6 D² L / blocks · expansion / 2 multiplications and eight
    transforms of D channels, two of which are kept in evaluation. `M2Config()` has 80M parameters.

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
        outer = [self.head[0], *(m for layer in self.layers for m in (layer.mix.project_in, layer.mix.project_out))]
        for module in (self.tokens, self.positions, *outer):
            nn.init.normal_(module.weight, std=_STD)
        for module in outer:
            nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The tokens' vectors, [B, L, D]; zeros at padding.

        Args:
            ids: [B, L] token ids.
            mask: [B, L], true at tokens, false at padding, which must stand at the end. None: no padding.

        Raises:
            InputError: more tokens than the position table has, a wrong shape, or padding before a token.
        """
        if ids.dim() != 2 or not 1 <= ids.shape[1]:
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
        if mask is None:
            return hidden.mean(1)
        return hidden.sum(1) / mask.sum(1, keepdim=True).to(hidden)

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
