"""A linear layer with RandLoRA's update beside its frozen weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memspan.training.randlora.basis import Basis, Shape, needed

ROUTES = ("auto", "factors", "product")


class RandLoraLinear(nn.Module):
    """y = W x + s dW x with dW = B A', A' = Λ ⊙ A ⊙ Γ, or its transpose where the output is the smaller side.

    With d the smaller side of the layer, D the larger, r the rank, n = ceil(d / r): Λ [r, n] and Γ [n, d] are trained,
    A [r, 1, d] and B [D, n, r] are corners of the model's basis.

    Args:
        base: `nn.Linear`, or transformers' `Conv1D`; its parameters must not require gradients.
        basis: of the model.
        scaling: s.
        dropout: of the update's input.
        route: "factors" applies A' and B in turn; "product" adds dW to the weight for the moment, which costs fewer
            operations where there are more tokens than about three quarters of d; "auto" takes the cheaper one. The
            product is for float32 without dropout, others go by the factors.

    Attributes:
        scaling: s; may be changed at any time.
    """

    def __init__(self, base: nn.Module, basis: Basis, *, scaling: float, dropout: float, route: str) -> None:
        super().__init__()
        self.base_layer, self.basis = base, basis
        self.shape = shape_of(base)
        self.scaling, self.dropout, self.route = scaling, dropout, route
        small, self.large, self.count = needed(self.shape, basis.rank)
        self.in_is_small = self.shape[1] <= self.shape[0]
        device = self.weight.device
        self.randlora_lambda = nn.Parameter(torch.zeros(basis.rank, self.count, device=device))
        self.randlora_gamma = nn.Parameter(torch.full((self.count, small), 1 / max(self.count, small), device=device))
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The frozen weight."""
        found = self.base_layer.weight
        assert isinstance(found, Tensor)
        return found

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        found = self.base_layer.bias
        assert found is None or isinstance(found, Tensor)
        return found

    @property
    def turned(self) -> bool:
        """Whether the weight is kept [in, out]."""
        return not isinstance(self.base_layer, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        if self._as_product(x):
            found: Tensor = _Sum.apply(  # type: ignore[no-untyped-call]
                x, self.randlora_lambda, self.randlora_gamma, self.weight, self.bias, self
            )
            return found
        plain: Tensor = self.base_layer(x)
        x = nn.functional.dropout(x, self.dropout, self.training)
        update: Tensor = _Update.apply(x, self.randlora_lambda, self.randlora_gamma, self)  # type: ignore[no-untyped-call]
        return plain + update.to(plain.dtype)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """s dW [out, in], float32."""
        columns = self.basis.columns(self.large, self.count, torch.float32)
        found = columns @ scaled(self, self.randlora_lambda, self.randlora_gamma, torch.float32)
        return (found if self.in_is_small else found.t()).mul(self.scaling)

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """The layer itself with the update added to its weight, in float32 before it is rounded."""
        delta = self.delta()
        self.weight.copy_(self.weight.float() + (delta.t() if self.turned else delta))
        return self.base_layer.train(self.training)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"rank={self.basis.rank}, bases={self.count}, scaling={self.scaling:g}"

    def _as_product(self, x: Tensor) -> bool:
        if self.route == "factors" or (self.dropout and self.training) or torch.is_autocast_enabled(x.device.type):
            return False
        if x.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return False
        # Forward and backward pass with the factors take 3 (D + d) + 2 d products a token, beside the frozen weight's
        # 2 D, with n r for one of the sides; the sum takes 3 D a token, and 3 D d once for making and dividing it.
        small, large = min(self.shape), self.large
        tokens = x.numel() // x.shape[-1]
        return self.route == "product" or 2 * tokens * (large + small) > 3 * large * small


def shape_of(linear: nn.Module) -> Shape:
    """Out and in of a linear layer."""
    weight: Any = linear.weight
    out, inner = weight.shape if isinstance(linear, nn.Linear) else reversed(weight.shape)
    return int(out), int(inner)


def scaled(layer: RandLoraLinear, lam: Tensor, gamma: Tensor, dtype: torch.dtype) -> Tensor:
    """A' flat, [r n, d]."""
    a = layer.basis.rows(gamma.shape[1])
    return (lam.unsqueeze(2) * a).mul_(gamma).flatten(0, 1).to(dtype)


def _divided(layer: RandLoraLinear, d_scaled: Tensor, lam: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of Λ [r, n] and Γ [n, d], from that of A', [r n, d]."""
    weighed = d_scaled.float().view(*lam.shape, -1) * layer.basis.rows(gamma.shape[1])
    return torch.einsum("kbj,bj->kb", weighed, gamma), torch.einsum("kbj,kb->bj", weighed, lam)


class _Update(torch.autograd.Function):
    """s dW x by the factors. Of the activations x is kept, or B x where that is smaller; A' is made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lam: Tensor, gamma: Tensor, layer: RandLoraLinear) -> Tensor:
        ctx.layer, ctx.scaling, ctx.shape = layer, layer.scaling, x.shape
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1])
            columns = layer.basis.columns(layer.large, layer.count, x.dtype)
            a = scaled(layer, lam, gamma, x.dtype)
            if layer.in_is_small:
                kept, out = rows, (rows @ a.t()) @ columns.t()
            else:
                kept = rows @ columns
                out = kept @ a
            if any(ctx.needs_input_grad):
                ctx.save_for_backward(kept, lam, gamma)
            return out.mul_(layer.scaling).view(*x.shape[:-1], out.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        layer: RandLoraLinear = ctx.layer
        kept, lam, gamma = ctx.saved_tensors
        wants_x, *wants = ctx.needs_input_grad[:3]
        d_x = d_factors = d_gamma = None
        with torch.autocast(delta.device.type, enabled=False):
            delta = delta.reshape(-1, delta.shape[-1]) * ctx.scaling
            columns = layer.basis.columns(layer.large, layer.count, delta.dtype)
            inner = delta @ columns if layer.in_is_small else None
            if any(wants):
                d_scaled = kept.t() @ delta if inner is None else inner.t() @ kept
                d_factors, d_gamma = _divided(layer, d_scaled, lam, gamma)
            if wants_x:
                a = scaled(layer, lam, gamma, delta.dtype)
                d_x = ((delta @ a.t()) @ columns.t() if inner is None else inner @ a).view(ctx.shape)
        return d_x, d_factors, d_gamma, None


class _Sum(torch.autograd.Function):
    """(W + s dW) x + bias, with the sum made in the forward and again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lam: Tensor,
        gamma: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layer: RandLoraLinear,
    ) -> Tensor:
        ctx.layer, ctx.scaling, ctx.shape = layer, layer.scaling, x.shape
        rows = x.reshape(-1, x.shape[-1])
        columns = layer.basis.columns(layer.large, layer.count, x.dtype)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(rows if layer.in_is_small else rows @ columns, lam, gamma, weight)
        total = _total(layer, columns, lam, gamma, weight, layer.scaling)
        return nn.functional.linear(rows, total, bias).view(*x.shape[:-1], layer.shape[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        layer: RandLoraLinear = ctx.layer
        kept, lam, gamma, weight = ctx.saved_tensors
        wants_x, *wants = ctx.needs_input_grad[:3]
        d_x = d_factors = d_gamma = None
        delta = delta.reshape(-1, delta.shape[-1])
        columns = layer.basis.columns(layer.large, layer.count, delta.dtype)
        if wants_x:
            d_x = (delta @ _total(layer, columns, lam, gamma, weight, ctx.scaling)).view(ctx.shape)
        if any(wants):
            d_scaled = columns.t() @ (delta.t() @ kept) if layer.in_is_small else kept.t() @ delta
            d_factors, d_gamma = _divided(layer, d_scaled.mul_(ctx.scaling), lam, gamma)
        return d_x, d_factors, d_gamma, None, None, None


def _total(
    layer: RandLoraLinear, columns: Tensor, lam: Tensor, gamma: Tensor, weight: Tensor, scaling: float
) -> Tensor:
    """W + s dW [out, in]."""
    weight = weight.t() if layer.turned else weight
    a = scaled(layer, lam, gamma, columns.dtype)
    if layer.in_is_small:
        return torch.addmm(weight, columns, a, alpha=scaling)
    return torch.addmm(weight, a.t(), columns.t(), alpha=scaling)
