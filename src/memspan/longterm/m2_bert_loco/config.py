"""Settings of the encoder, of its pre-training, and what a saved directory says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memspan.core.errors import InputError, UnsupportedModelError

KIND = "m2-bert-loco"
FORMAT = 1
PADDING = "masked"
"""Padding is zeroed before every convolution, so that a text's vector does not depend on what it is batched with."""


@dataclass(frozen=True, kw_only=True)
class M2Config:
    """The encoder's shape. The defaults are M2-BERT-base at 8k (80M parameters).

    Raises:
        InputError: a size is out of range.
    """

    hidden: int = 768  # D (paper, repository)
    layers: int = 12  # paper, repository
    max_len: int = 8192  # L, tokens of the position table; the paper trains 128, 2048, 8192 and 32768
    blocks: int = 4  # blocks of the gated MLP's maps (repository)
    expansion: int = 4  # the gated MLP is this many times as wide as D (repository)
    filter_order: int = 128  # width of the networks that write the long filters (repository)
    bands: int = 2  # frequencies of the position features: 5 features (repository)
    sine: float = 10.0  # w, start of the frequencies in the filter networks (repository)
    span: int = 0  # positions over which a filter's time runs from 0 to 1; 0 is max_len, `extend_length` keeps the old
    dropout: float = 0.1  # hidden_dropout_prob (repository)
    vocabulary: int = 30522  # BERT-uncased
    method: str = "fft"  # of the long convolutions: "fft" or "monarch"

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "max_len", "blocks", "expansion", "filter_order", "bands", "vocabulary"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden % self.blocks:
            raise InputError(f"hidden is {self.hidden}; it must be a multiple of the {self.blocks} blocks")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if not 0 <= self.span <= self.max_len:
            raise InputError(f"span is {self.span}; it must be 0 to {self.max_len}")

    @classmethod
    def small(cls, **changes: Any) -> M2Config:
        """A size that trains on two cores: 4 layers of 256, 2,048 tokens, no dropout."""
        return cls(**{"hidden": 256, "layers": 4, "max_len": 2048, "filter_order": 64, "dropout": 0.0, **changes})


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Masked language modelling on a mixture of full-length and short sequences.

    Raises:
        InputError: a setting is out of range.
    """

    steps: int = 1000  # ours
    batch_tokens: int = 4096  # tokens a step; the paper's 128-token recipe has 4096 sequences
    long_fraction: float = 0.7  # share of the examples that are packed to max_len (the paper names no share)
    short_len: int = 128  # longest example that is left short (ours)
    mask_rate: float = 0.3  # repository
    lr: float = 8e-4  # repository
    filter_lr: float = 1e-3  # of the filter networks (repository)
    feature_lr: float = 1e-5  # of the position features z (repository)
    weight_decay: float = 1e-5  # repository
    filter_weight_decay: float = 0.1  # repository
    betas: tuple[float, float] = (0.9, 0.98)  # repository
    warmup: float = 0.06  # share of the steps in which the rate rises (repository)
    floor: float = 0.02  # the rate falls linearly to this share (repository)
    clip: float = 1.0  # largest norm of the gradient (repository)
    seed: int = 0  # of examples, masks and dropout

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_tokens < 1 or self.short_len < 4 or self.lr <= 0 or self.clip <= 0:
            raise InputError("steps and batch_tokens must be at least 1, short_len 4, and lr and clip above 0")
        for name, least, most in (("long_fraction", 0, 1), ("mask_rate", 0.01, 0.99), ("warmup", 0, 0.99)):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {least} to {most}")


def check_metadata(found: dict[str, Any], where: str) -> None:
    """Raise UnsupportedModelError when a config.json is not of an encoder that this version reads."""
    if found.get("kind") != KIND or found.get("format") != FORMAT:
        raise UnsupportedModelError(
            f"{where} says kind {found.get('kind')!r}, format {found.get('format')!r}; this reads {KIND!r}, {FORMAT}"
        )
    if found.get("padding") != PADDING:
        raise UnsupportedModelError(
            f"{where} was trained with padding {found.get('padding')!r}; here padding is {PADDING!r}, and its vectors"
            " would come out different"
        )
