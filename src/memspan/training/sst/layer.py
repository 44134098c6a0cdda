"""A linear layer that is kept as its singular value decomposition, and trained in it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError
from memspan.training.base import has_values

SAMPLERS = ("mix", "uniform", "topr", "sequential")


class SpectralLinear(nn.Module):
    """A linear layer W = U diag(S) V^T of which all singular values train, and `rank` pairs of singular vectors.

    Vectors stand in two blocks, those that train first: optimizer state exists for these alone. With m = min(out, in)
    and r the rank, vectors are rows.

    Args:
        linear: the layer whose weight and bias it takes over.
        rank: r, pairs that train at a time, from 1 to m.
        name: of the layer, for messages.
        enhanced: gradients of vectors are without the factor S_i.
        recompute: V^T x is computed again in the backward pass, instead of kept.
        like: another spectral layer of the same weight, whose factors this one shares.

    Attributes:
        sigma: singular values [m], those of the training pairs first.
        u, v: training vectors [r, out] and [r, in].
        u_rest, v_rest: all others [m - r, out] and [m - r, in], which need no gradient.

    Raises:
        InputError: the weight has no singular value decomposition.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        *,
        name: str = "",
        enhanced: bool = True,
        recompute: bool = True,
        like: SpectralLinear | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.directions, self.rank, self.name = min(linear.weight.shape), rank, name
        self.enhanced, self.recompute = enhanced, recompute
        if like is None:
            dtype = linear.weight.dtype
            u, sigma, v = decompose(linear.weight.detach(), name)
            self.sigma = nn.Parameter(sigma.to(dtype))
            # Copies, since a view would keep the whole decomposition.
            self.u = nn.Parameter(u[:rank].to(dtype, copy=True))
            self.v = nn.Parameter(v[:rank].to(dtype, copy=True))
            self.u_rest = nn.Parameter(u[rank:].to(dtype, copy=True), requires_grad=False)
            self.v_rest = nn.Parameter(v[rank:].to(dtype, copy=True), requires_grad=False)
        else:
            self.sigma, self.u, self.v = like.sigma, like.u, like.v
            self.u_rest, self.v_rest = like.u_rest, like.v_rest
        self.bias = linear.bias
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        """U (S * (V^T x)) plus the bias, for x [..., in]: [..., out]."""
        result: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            x, self.sigma, self.u, self.v, self.u_rest, self.v_rest, self.bias, self.enhanced, self.recompute
        )
        return result

    @property
    def weight(self) -> Tensor:
        """The weight [out, in], composed anew at each reading; nothing can be written to it."""
        return self.composed().to(self.sigma.dtype)

    @torch.no_grad()
    def composed(self) -> Tensor:
        """The weight [out, in] in at least float32."""
        dtype = torch.promote_types(self.sigma.dtype, torch.float32)
        sigma = self.sigma.to(dtype).unsqueeze(1)
        whole = self.u.to(dtype).t() @ (sigma[: self.rank] * self.v.to(dtype))
        return whole.addmm_(self.u_rest.to(dtype).t(), sigma[self.rank :] * self.v_rest.to(dtype))

    @torch.no_grad()
    def project(self) -> None:
        """Singular values not below 0, and training vectors of length 1."""
        self.sigma.clamp_(min=0)
        for vectors in (self.u, self.v):
            dtype = torch.promote_types(vectors.dtype, torch.float32)
            vectors.copy_(nn.functional.normalize(vectors.to(dtype), dim=1))

    @torch.no_grad()
    def decompose_again(self) -> None:
        """Put a fresh decomposition of the weight in the place of the factors, largest singular values first."""
        u, sigma, v = decompose(self.composed(), self.name)
        self.sigma.copy_(sigma)
        for fresh, train, rest in ((u, self.u, self.u_rest), (v, self.v, self.v_rest)):
            train.copy_(fresh[: self.rank])
            rest.copy_(fresh[self.rank :])

    @torch.no_grad()
    def draw(self, sampler: str, turn: int, generator: torch.Generator, moving: list[Tensor]) -> None:
        """Choose which pairs train from now on.

        Args:
            sampler: "mix" (half in proportion to the singular values, half alike), "uniform", "topr" (the largest) or
                "sequential".
            turn: how many draws there were since the last decomposition.
            generator: of the draws.
            moving: other tensors [m] in the order of the singular values, which follow their pairs.
        """
        chosen = self._chosen(sampler, turn, generator)
        if chosen is None:
            return
        out, back, moved = chosen
        rank = self.rank
        for first, second in (
            (self.u, self.u_rest),
            (self.v, self.v_rest),
            *((whole[:rank], whole[rank:]) for whole in (self.sigma.detach(), *moving)),
        ):
            swapped = moved if first.ndim == 1 else moved.unsqueeze(1)
            ours, theirs = first[out], second[back]
            first[out] = torch.where(swapped, theirs, ours)
            second[back] = torch.where(swapped, ours, theirs)

    def _chosen(self, sampler: str, turn: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
        """Places among the training pairs and among the others, as many each, and which of them change."""
        rank, rest = self.rank, self.directions - self.rank
        most = min(rank, rest)
        device = self.sigma.device
        if most == 0:
            return None
        if sampler == "sequential":
            if turn == 0:
                return None
            places = torch.arange(most, device=device)
            return places, ((turn - 1) * rank + places) % rest, torch.ones_like(places, dtype=torch.bool)
        sigma = self.sigma.float()
        if sampler == "topr":
            found = sigma.topk(rank).indices
        else:
            weights = torch.full_like(sigma, 1 / self.directions)
            if sampler == "mix":  # where all are 0, only the first half counts
                weights += sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny)
            found = torch.multinomial(weights, rank, generator=generator)
        mark = torch.zeros(self.directions, dtype=torch.int8, device=device).scatter_(
            0, found, torch.ones_like(found, dtype=torch.int8)
        )
        # How many change depends on values, and shapes may not: the first of both lists change, the others stay.
        out = mark[:rank].argsort(stable=True)[:most]
        back = mark[rank:].argsort(stable=True, descending=True)[:most]
        return out, back, (mark[:rank][out] == 0) & (mark[rank:][back] == 1)

    def plain(self) -> nn.Linear:
        """The layer as PyTorch has it."""
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(self.weight)
        made.bias = self.bias
        return made.train(self.training)

    @torch.no_grad()
    def pruned(self, energy: float) -> nn.Module:
        """The layer with as few singular values as have this share of the sum of their squares.

        Two linear layers of PyTorch, the first without bias; or one, where two would have no fewer values.
        """
        u, sigma, v = decompose(self.composed(), self.name)
        squares = sigma.double().square().cumsum(0)
        kept = min(int((squares < energy * squares[-1]).sum()) + 1, self.directions)
        whole = self.in_features * self.out_features
        root = sigma[:kept].sqrt().unsqueeze(1)
        down, up = root * v[:kept], (root * u[:kept]).t()
        dtype = self.sigma.dtype
        if kept * (self.in_features + self.out_features) >= whole:
            made = self.plain()
            made.weight = nn.Parameter((up @ down).to(dtype))
            return made
        first = nn.Linear(self.in_features, kept, bias=False, device="meta")
        second = nn.Linear(kept, self.out_features, bias=False, device="meta")
        first.weight, second.weight = nn.Parameter(down.to(dtype)), nn.Parameter(up.to(dtype).contiguous())
        second.bias = self.bias
        return nn.Sequential(first, second).train(self.training)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


def decompose(weight: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors [m, out], singular values [m] and right vectors [m, in] of a weight [out, in], as rows.

    Computed in at least float32; in float64 where that does not converge.

    Raises:
        InputError: the weight is not finite, or even float64 does not converge.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    check_finite(weight, name)
    for precision in dict.fromkeys((dtype, torch.float64)):
        try:
            u, sigma, v = torch.linalg.svd(weight.to(precision), full_matrices=False)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            continue
        return u.t().to(dtype), sigma.to(dtype), v.to(dtype)
    raise InputError(f"the singular value decomposition of {name} does not converge, not even in float64")


def check_finite(weight: Tensor, name: str) -> None:
    """Return if all values of a weight are finite.

    Raises:
        InputError: they are not.
    """
    finite = weight.isfinite().all()  # also where it cannot be read, so that the planner sees the same tensors
    if has_values(weight) and not bool(finite):
        raise InputError(f"the weight of {name} is not finite: lower the learning rate, or clip gradients")


class _Product(torch.autograd.Function):
    """U (S * (V^T x)) + b, with gradients of all singular values and of the training vectors."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        sigma: Tensor,
        u: Tensor,
        v: Tensor,
        u_rest: Tensor,
        v_rest: Tensor,
        bias: Tensor | None,
        enhanced: bool,
        recompute: bool,
    ) -> Tensor:
        rank = u.shape[0]
        rows = x.reshape(-1, x.shape[-1]).to(u.dtype)
        inner, inner_rest = rows @ v.t(), rows @ v_rest.t()
        kept: tuple[Tensor, ...] = () if recompute else (inner, inner_rest)
        ctx.save_for_backward(x, sigma, u, v, u_rest, v_rest, *kept)
        ctx.enhanced = enhanced
        if recompute:
            y = inner.mul_(sigma[:rank]) @ u
            y.addmm_(inner_rest.mul_(sigma[rank:]), u_rest)
        else:
            y = (inner * sigma[:rank]) @ u
            y.addmm_(inner_rest * sigma[rank:], u_rest)
        if bias is not None:
            y += bias
        return y.view(*x.shape[:-1], u.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, sigma, u, v, u_rest, v_rest, *kept = ctx.saved_tensors
        wants_x, wants_sigma, wants_u, wants_v, _, _, wants_bias = ctx.needs_input_grad[:7]
        rank = u.shape[0]
        rows, delta_rows = x.reshape(-1, x.shape[-1]).to(u.dtype), delta.reshape(-1, delta.shape[-1]).to(u.dtype)
        d_x = d_sigma = d_u = d_v = d_bias = None
        if wants_u or wants_sigma:
            inner = kept[0] if kept else rows @ v.t()
        outer = delta_rows @ u.t()
        outer_rest = delta_rows @ u_rest.t() if wants_x or wants_sigma else None
        if wants_u:
            d_u = inner.t() @ delta_rows
        if wants_v:
            d_v = outer.t() @ rows
        if not ctx.enhanced:
            d_u, d_v = (None if one is None else one * sigma[:rank].unsqueeze(1) for one in (d_u, d_v))
        if wants_sigma:
            assert outer_rest is not None
            inner_rest = kept[1] if kept else rows @ v_rest.t()
            d_sigma = torch.cat([(outer * inner).sum(0), (outer_rest * inner_rest).sum(0)])
            del inner_rest
        if wants_x:
            assert outer_rest is not None
            d_x = outer.mul_(sigma[:rank]) @ v
            d_x.addmm_(outer_rest.mul_(sigma[rank:]), v_rest)
            d_x = d_x.view(x.shape).to(x.dtype)
        if wants_bias:
            d_bias = delta_rows.sum(0)
        return d_x, d_sigma, d_u, d_v, None, None, d_bias, None, None


def iterations_of_a_round(layers: list[SpectralLinear]) -> int:
    """Draws that could visit every direction of every layer once."""
    return max(math.ceil(layer.directions / layer.rank) for layer in layers)
