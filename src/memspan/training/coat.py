"""COAT (Xi et al., ICLR 2025, arXiv 2410.19313): Adam's two moments, and what is kept for the backward pass, in FP8.

Two ideas. Groups of 128 values of a moment are far narrower than the range of an 8-bit float, so that most of its codes
would never be used: a power function widens each group to just that range before it is rounded (dynamic range
expansion, `memspan.core.codecs.ExpandedFloat8`). And inputs of linear layers take one scale a tensor, while those of
normalizations and activation functions, whose outliers lie in few columns, take one for every 16 values along the
hidden axis (mixed granularity). A parameter takes 2 bytes of state and 24 for each group of 128, instead of 8.

Notable choices. The scale, power and centre of a group are float32; in the weights' 16 bits, as in the code, decoding
is coarse. Groups with zeros, of equal values and of very wide range are coded as the codec says, where the code has NaN
or crushes them. A second moment that is not 0 is never read back as 0, since a step is divided by its root; the paper's
codec, and plain FP8 all the more, lose small ones. Normalizations keep their input alone and are computed again in the
backward pass; the functions of SwiGLU keep the tensors that PyTorch keeps, coded. Where attention keeps its output
anyway, the product that follows keeps that tensor, and no second one in 8 bits. Attention and rotary embeddings stay in
16 bits, as in the paper; so do the output head and the loss, and the products' operands and the gradients between
layers, which in 8 bits are for the paper's Tensor Cores, and held for a moment only. Scales of activations are
bfloat16, rounded up. The largest magnitude of a tensor is one reduction, where the paper takes it in two from what the
operation before has computed ("group scaling").
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from memspan.core.codecs import FLOAT8, Codec, ExpandedFloat8, Float8
from memspan.core.errors import InputError
from memspan.training.base import OptimizerFactory, OtherOptimizer, Saver
from memspan.training.packed_adam import PackedAdamW, decaying
from memspan.training.saved_tensors import GROUPS, TENSOR, SavedTensors


@dataclass(frozen=True, kw_only=True)
class CoatConfig:
    """Settings of COAT.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    optimizer: bool = True  # moments in 8 bits
    activations: bool = True  # what is kept for the backward pass in 8 bits
    expand: bool = True  # dynamic range expansion of both moments; False: plain 8-bit floats
    first: str = "e4m3"  # format of the first moment: "e4m3" or "e5m2"
    second: str = "e4m3"  # of the second
    group: int = 128  # G, values of a moment that share scale, power and centre (`qgroup_size`)
    steps: int = 16  # the power is a multiple of 1/steps (`expand_min`)
    smallest: int = 4096  # moments of fewer values are float32
    saved: str = "e4m3"  # format of what is kept for the backward pass
    saved_group: int = 16  # values that share a scale there, but in linear layers (`group_size`)

    def __post_init__(self) -> None:
        if not (self.optimizer or self.activations):
            raise InputError("coat with neither optimizer nor activations would do nothing")
        for name in ("first", "second", "saved"):
            if getattr(self, name) not in FLOAT8:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(FLOAT8)}")
        for name, least in (("group", 1), ("steps", 1), ("smallest", 0), ("saved_group", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least {least}")

    def moments(self) -> tuple[Codec, Codec]:
        """The codecs of the two moments."""
        if self.expand:
            return (
                ExpandedFloat8(format=self.first, group=self.group, steps=self.steps),
                ExpandedFloat8(format=self.second, group=self.group, steps=self.steps, nonzero=True),
            )
        return Float8(format=self.first, group=self.group), Float8(format=self.second, group=self.group, nonzero=True)


class Coat(Saver):
    """Trains with Adam's moments and the tensors kept for the backward pass in eight bits.

    When to use: training of all parameters where Adam's state or the activations are what does not fit. Relations:
    `checkpointing` keeps less and computes more, and goes with `coat` where that has `activations=False`; `q-galore`
    keeps less state, in a view of low rank, and goes with it where it has `optimizer=False`.

    Cost, in bytes: 2 (1 + 12/group) a parameter of state, and for each value kept for the backward pass 1, and 2 for
    each `saved_group` of them outside of linear layers.

    Args:
        config: a `CoatConfig`.

    Raises:
        InputError: a gradient is sparse or not finite, or so is what is kept for the backward pass.
    """

    slug = "coat"
    Config = CoatConfig
    touches = frozenset({"activations", "optimizer"})
    exact: ClassVar[bool] = False
    quality: ClassVar[str] = "moments and saved activations of 8 bits"
    uniform = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.touches = frozenset(part for part in ("activations", "optimizer") if getattr(self.config, part))
        self._saved: SavedTensors | None = None
        self._made: PackedAdamW | None = None

    def change(self, model: nn.Module) -> nn.Module:
        """Watch what the modules keep."""
        if self.config.activations:
            name, group = self.config.saved, self.config.saved_group
            codecs: dict[str, Codec] = {
                TENSOR: Float8(format=name, group=None, short_scales=True),
                GROUPS: Float8(format=name, group=group, short_scales=True),
            }
            self._saved = SavedTensors(model, codecs)
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """What makes AdamW on moments of eight bits."""
        return OtherOptimizer(self._make, factory) if self.config.optimizer else factory

    def _make(self, model: nn.Module, factory: OptimizerFactory) -> torch.optim.Optimizer:
        first, second = self.config.moments()
        self._made = PackedAdamW(
            decaying(model, factory.weight_decay),
            lr=factory.lr,
            betas=factory.betas,
            eps=factory.eps,
            first=first,
            second=second,
            smallest=self.config.smallest,
        )
        return self._made

    def step_context(self) -> AbstractContextManager[None]:
        """Code what is saved."""
        return nullcontext() if self._saved is None else self._saved.watching()

    def report(self) -> dict[str, Any]:
        """Bytes of the moments, and of what the last step's passes kept in eight bits, with what it was before."""
        found: dict[str, Any] = {}
        if self._made is not None:
            found["moments"] = self._made.nbytes
        if self._saved is not None:
            found["activations"] = {
                "tensors": self._saved.count,
                "bytes": self._saved.coded,
                "before": self._saved.before,
            }
        return found

    def finish(self, model: nn.Module) -> nn.Module:
        """The model without hooks."""
        if self._saved is not None:
            self._saved.detach()  # and is kept for `report`
        return model
