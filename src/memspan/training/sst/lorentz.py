"""Layers on the hyperboloid, the Lorentz model of hyperbolic space with curvature -1 (Chen et al., ACL 2022, HyboNet).

A point is [time, space...] with <x, x> = -time² + |space|² = -1 and time > 0. A Lorentz linear layer has one ordinary
matrix inside, an `nn.Linear`, which is what `SST` factorises; the rest of the layer stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError

_LEAST_TIME = 1.1  # of scaled layers, as in HyboNet's code: above 1, so that the space-like part has a direction


def lift(space: Tensor) -> Tensor:
    """The points [..., d + 1] on the hyperboloid with these space-like parts [..., d]."""
    return torch.cat([(space.square().sum(-1, keepdim=True) + 1).sqrt(), space], -1)


def lorentz_product(x: Tensor, y: Tensor) -> Tensor:
    """<x, y> of points [..., d + 1]: -1 for a point with itself, less for others."""
    product = x * y
    return product[..., 1:].sum(-1) - product[..., 0]


def lorentz_distance(x: Tensor, y: Tensor) -> Tensor:
    """Geodesic distances of points [..., d + 1]."""
    return torch.acosh((-lorentz_product(x, y)).clamp(min=1))


class LorentzLinear(nn.Module):
    """A linear layer between hyperboloids.

    The space-like part is W f(x) + b, of the whole point [time, space] after the activation f; the time-like one
    follows from it.

    Args:
        in_features, out_features: space-like dimensions; points have one more.
        bias: whether there is a b.
        activation: f; None for none.
        dropout: share of f(x) that is left out in training.
        scaled: one more output of W decides, through a sigmoid, how far from the origin the point lies (HyboNet's
            normalisation); `scale` is the logarithm of the farthest time-like part, and trained.

    Raises:
        InputError: a size or the dropout is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Callable[[Tensor], Tensor] | None = None,
        dropout: float = 0.0,
        scaled: bool = False,
        scale: float = 2.0,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise InputError(f"sizes are {in_features} and {out_features}: both must be at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout}: it must lie in [0, 1)")
        self.linear = nn.Linear(in_features + 1, out_features + scaled, bias=bias)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.tensor(scale)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        """Points [..., in + 1] to points [..., out + 1]."""
        made = self.linear(self.dropout(x if self.activation is None else self.activation(x)))
        if self.scale is None:
            return lift(made)
        space = made[..., 1:]
        time = made[..., :1].sigmoid() * self.scale.exp() + _LEAST_TIME
        length = space.square().sum(-1, keepdim=True).clamp(min=1e-8)
        return lift(space * ((time.square() - 1) / length).sqrt())
