"""The executor: runs a recorded step again with every tensor at its planned address in one arena.

Each operation's result is moved to its address, so that this costs a copy an operation: it shows that a plan is right,
by the same values, and what the arena must hold. To save memory an allocator has to hand the addresses out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from memspan.core.errors import InputError
from memspan.training.memo_1m.layer import ALIGNED, storage_key

if TYPE_CHECKING:
    from memspan.planner.allocator.problem import Placement


class Arena(TorchDispatchMode):
    """Inside of its `with` block, the storages that operations make lie in one arena.

    Tensors that are left over, such as gradients, look at the arena; running another step in it overwrites them.

    Args:
        placement: of a problem that `record_step` made of the same step, without inputs, all offsets multiples of 64
            bytes (`alignment=64`).

    Attributes:
        memory: the arena, uint8 [bytes].

    Raises:
        InputError: an offset is no multiple of 64, or the step makes other storages than the recorded one.
    """

    def __init__(self, placement: Placement) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if any(offset % ALIGNED for offset in placement.offsets):
            raise InputError(f"offsets must be multiples of {ALIGNED}: record the step with alignment={ALIGNED}")
        self._buffers = placement.problem.buffers
        self._offsets = placement.offsets
        self.memory = torch.empty(placement.peak, dtype=torch.uint8)
        self._next = 0

    def __enter__(self) -> Arena:
        self._next = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = {storage_key(self.memory)}
        there |= {storage_key(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        output = func(*args, **kwargs)
        moved: dict[int, int] = {}

        def move(tensor: Tensor) -> Tensor:
            key = storage_key(tensor)
            nbytes = tensor.untyped_storage().nbytes()
            if key in there or not nbytes or tensor.device.type == "meta":
                return tensor
            if key not in moved:
                moved[key] = self._place(tensor, nbytes)
            at = moved[key]
            flat = self.memory[at : at + nbytes].view(tensor.dtype)
            begin = int(flat.storage_offset()) + int(tensor.storage_offset())
            return flat.as_strided(tensor.shape, tensor.stride(), begin)

        return tree_map_only(Tensor, move, output)

    def _place(self, tensor: Tensor, nbytes: int) -> int:
        number = self._next
        self._next += 1
        if number >= len(self._buffers) or self._buffers[number].size != nbytes:
            wanted = f"of {self._buffers[number].size:,} bytes" if number < len(self._buffers) else "no more"
            raise InputError(f"the step makes a storage of {nbytes:,} bytes as number {number}; recorded was {wanted}")
        at = self._offsets[number]
        whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        self.memory[at : at + nbytes].copy_(whole)
        return at
