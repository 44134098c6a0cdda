"""`LowRank`: adapters of low rank beside linear layers of a frozen model (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError


class LowRank(nn.Module):
    """x W becomes x W + (alpha / rank) x A B for every linear layer whose name ends in one of `targets`.

    B begins at 0, so that the model is unchanged until something is learned. The model itself is not touched: the sum
    is made by forward hooks while `attached` lasts.

    Args:
        model: whose layers are meant; their names are kept, the model is not.
        rank: of A [d_in, rank] and B [rank, d_out].
        alpha: the factor's numerator.

    Raises:
        InputError: no layer has such a name, or the rank is below 1.
    """

    def __init__(
        self, model: nn.Module, targets: Sequence[str] = ("q_proj", "v_proj"), *, rank: int = 8, alpha: float = 16.0
    ) -> None:
        super().__init__()
        if rank < 1:
            raise InputError(f"rank is {rank}: it must be at least 1")
        found = {
            name: module
            for name, module in model.named_modules()
            if name.rpartition(".")[2] in targets and isinstance(module, nn.Linear)
        }
        if not found:
            raise InputError(f"{type(model).__name__} has no linear layer called {' or '.join(targets)}")
        self.names = list(found)
        self.factor = alpha / rank
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for linear in found.values():
            spread = 1 / math.sqrt(linear.in_features)
            self.down.append(nn.Parameter(torch.empty(linear.in_features, rank).uniform_(-spread, spread)))
            self.up.append(nn.Parameter(torch.zeros(rank, linear.out_features)))

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """The adapters work inside the block."""

        def adding(down: Tensor, up: Tensor) -> Any:
            def add(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                x = args[0]
                return output + (x.to(down.dtype) @ down @ up * self.factor).to(output.dtype)

            return add

        with ExitStack() as stack:
            for name, down, up in zip(self.names, self.down, self.up, strict=True):
                stack.callback(model.get_submodule(name).register_forward_hook(adding(down, up)).remove)
            yield
