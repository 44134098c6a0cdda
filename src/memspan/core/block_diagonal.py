"""`BlockDiagonalLinear`: a linear map whose matrix is block diagonal, with as many times fewer parameters as blocks.

The structured linear layer of Monarch Mixer (Fu et al. 2023, arXiv 2310.12109). Importing this module imports torch.
"""

from __future__ import annotations

import math

from memspan.core.errors import InputError, MissingExtraError

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError("torch", "pip install 'memspan[local]'") from error


class BlockDiagonalLinear(nn.Module):
    """y = x Wᵀ + b with W block diagonal: output block i reads input block i alone.

    Args:
        inputs: length of x; a multiple of `blocks`.
        outputs: length of y; a multiple of `blocks`.
        blocks: number of blocks; 1 is a dense layer.
        bias: whether there is a b.

    Raises:
        InputError: a length is no multiple of `blocks`.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int = 4, *, bias: bool = True) -> None:
        super().__init__()
        if blocks < 1 or inputs < 1 or outputs < 1 or inputs % blocks or outputs % blocks:
            raise InputError(f"{inputs} inputs and {outputs} outputs must both be multiples of {blocks} blocks")
        self.inputs, self.outputs, self.blocks = inputs, outputs, blocks
        self.weight = nn.Parameter(torch.empty(blocks, outputs // blocks, inputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        bound = 1 / math.sqrt(inputs // blocks)  # as torch.nn.Linear does for each block's own number of inputs
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        lead = x.shape[:-1]
        blocks = x.reshape(-1, self.blocks, self.inputs // self.blocks).transpose(0, 1)
        out = torch.bmm(blocks, self.weight.transpose(1, 2)).transpose(0, 1).reshape(*lead, self.outputs)
        return out if self.bias is None else out + self.bias

    def dense(self) -> Tensor:
        """The matrix with its zeros, [outputs, inputs]."""
        whole: Tensor = torch.block_diag(*self.weight.unbind())  # type: ignore[no-untyped-call]
        return whole

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"inputs={self.inputs}, outputs={self.outputs}, blocks={self.blocks}, bias={self.bias is not None}"
