"""Stages 1 and 2: the optimizer's state of each tensor with one owner, by PyTorch's ZeroRedundancyOptimizer."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn

from memspan.core.errors import UnsupportedModelError

with warnings.catch_warnings():  # the module of this class has functions that it still compiles by torch.jit
    warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
    from torch.distributed.optim import ZeroRedundancyOptimizer


class OwnedState(ZeroRedundancyOptimizer):
    """An optimizer that updates the tensors this rank owns, and sends them to the others.

    Attributes:
        state: of the tensors that this rank owns.
        owners: of each parameter the rank of the group; see `owns`.
    """

    _partition_parameters_cache: list[list[dict[str, Any]]]
    _param_to_rank: dict[nn.Parameter, int]

    def __init__(self, made: torch.optim.Optimizer, group: Any) -> None:
        known = inspect.signature(type(made).__init__).parameters
        settings = {name: value for name, value in made.defaults.items() if name in known}
        # Each parameter by itself: in one buffer their views would be counted, and freed, together.
        super().__init__(made.param_groups, type(made), process_group=group, **settings)
        self.state = self.optim.state

    def _partition_parameters(self, params_per_rank: Any = None) -> list[list[dict[str, Any]]]:
        """PyTorch's division, its fullest part for the first rank: what fits there fits everywhere."""
        if not self._partition_parameters_cache:
            super()._partition_parameters(params_per_rank)  # type: ignore[misc]
            self._partition_parameters_cache.sort(key=_elements, reverse=True)
        return self._partition_parameters_cache

    @property
    def owners(self) -> dict[nn.Parameter, int]:
        """Of each parameter the rank that has its state."""
        return self._param_to_rank

    def owns(self, parameter: Any) -> bool:
        """Whether this rank has the state of a parameter."""
        return bool(self._param_to_rank[parameter] == self.rank)


def _elements(part: list[dict[str, Any]]) -> int:
    return sum(parameter.numel() for group in part for parameter in group["params"])


def check_divisible(made: torch.optim.Optimizer) -> None:
    """Refuse optimizers that need whole tensors, or do more than update one tensor after the other.

    Raises:
        UnsupportedModelError: it is none of PyTorch's.
    """
    if not type(made).__module__.startswith("torch.optim."):
        raise UnsupportedModelError(
            f"{type(made).__name__} may need whole tensors, which ranks do not have: zero divides PyTorch's optimizers"
        )
