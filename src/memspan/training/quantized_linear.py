"""A linear layer that trains while its weight is kept as codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.codecs import Codec, Packed


class QuantizedLinear(nn.Module):
    """A linear layer that keeps its weight as codes and computes with it decoded.

    Args:
        linear: the layer whose weight and bias it takes over.
        codec: of the weight.

    Attributes:
        weight: the stand-in [out, in]: no values, but gradients.
        codes, scale, low: the weight, coded.
    """

    codes: Tensor
    scale: Tensor
    low: Tensor

    def __init__(self, linear: nn.Linear, codec: Codec) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._codec = codec
        for name, part in codec.encode(linear.weight).items():
            self.register_buffer(name, part)
        self.weight = nn.Parameter(_stand_in(linear.weight), requires_grad=linear.weight.requires_grad)
        self.bias = linear.bias
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] times the weight, plus the bias: [..., out]."""
        result: Tensor = _Product.apply(x, self.weight, self.bias, self)  # type: ignore[no-untyped-call]
        return result

    def decoded(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out, in]."""
        return self._codec.decode(self._packed(), (self.out_features, self.in_features), dtype)

    def store(self, weight: Tensor, generator: torch.Generator | None = None) -> None:
        """Encode a new weight [out, in], stochastically with a generator."""
        for name, part in self._codec.encode(weight, generator).items():
            getattr(self, name).copy_(part)

    def plain(self) -> nn.Linear:
        """The layer as PyTorch has it."""
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(self.decoded(self.weight.dtype), requires_grad=self.weight.requires_grad)
        made.bias = self.bias
        return made.train(self.training)

    def extra_repr(self) -> str:
        """Sizes and codec, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, codec={self._codec}"

    def _packed(self) -> Packed:
        return {"codes": self.codes, "scale": self.scale, "low": self.low}

    # The stand-in is no state, would be stored as so many NaNs, and must keep its four bytes wherever it goes.

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(prefix + "weight")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        key = prefix + "weight"
        if key in state_dict:  # of a plain layer
            coded = self._codec.encode(state_dict.pop(key))
            state_dict.update({prefix + name: part for name, part in coded.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)
        missing: list[str] = args[2]
        if key in missing:
            missing.remove(key)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        stand_in = self._parameters.pop("weight")
        scales = {name: getattr(self, name) for name in ("scale", "low")}
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            self._parameters["weight"] = stand_in
        for name, before in scales.items():
            self._buffers[name] = before.to(getattr(self, name).device)  # float32, whatever the model becomes
        assert stand_in is not None
        stand_in.data = fn(stand_in.data[:1, :1].clone()).view(()).expand(stand_in.shape)
        return self


def _stand_in(weight: Tensor) -> Tensor:
    return weight.new_full((), torch.nan).expand(weight.shape)


class _Product(torch.autograd.Function):
    """x W^T + b with W decoded for the moment, in the forward and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: QuantizedLinear) -> Tensor:
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(x)
        ctx.layer, ctx.shape = layer, x.shape
        return nn.functional.linear(x, layer.decoded(x.dtype), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        rows = delta.reshape(-1, delta.shape[-1])
        d_x = d_weight = d_bias = None
        if wants_x:
            d_x = (rows @ ctx.layer.decoded(rows.dtype)).view(ctx.shape)
        if wants_weight:
            (x,) = ctx.saved_tensors
            d_weight = rows.t() @ x.reshape(-1, x.shape[-1]).to(rows.dtype)
        if wants_bias:
            d_bias = rows.sum(0)
        return d_x, d_weight, d_bias, None
