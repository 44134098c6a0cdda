"""How much work a step is, and how fast a machine does it: what predicted seconds are made of."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from memspan.core.errors import InputError
from memspan.training.pieces import standing

_SIDE = 1024  # of the matrices whose product is timed
# Numbers of the vector whose sum is timed: 8 MiB in float32, as activations are. From 32 MiB on, glibc gives the memory
# of every tensor back to the system, and what is timed is page faults.
_COPIED = 2 << 20
_RUNS = 5
_DEVICE = torch.ops.prim.device.default
_CPU_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"


class WorkMode(TorchDispatchMode):
    """Counts what the operations of its block do.

    Attributes:
        flops: of matrix products, convolutions and attention; a multiply-add is two.
        traffic: bytes that all other operations read and write; views are free.
        sent: bytes that collectives of `torch.distributed` take from this rank to the others, as a ring sends them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.traffic = 0
        self.sent = 0
        self._free: dict[Any, bool] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled where work is counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device  # which autograd asks of every fake tensor, as if that were an operation
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func.namespace == "c10d":
            self.sent += _sent(func, args)
            return output
        counted = flop_registry.get(func._overloadpacket)
        if counted is not None:
            self.flops += standing() * counted(*args, **kwargs, out_val=output)
        elif func._schema.name.startswith(_CPU_ATTENTION):
            self.flops += standing() * _attention_flops(func._schema.name, args)
        elif not self._is_view(func):
            self.traffic += standing() * (_bytes(args) + _bytes((output,)))
        return output

    def _is_view(self, func: Any) -> bool:
        found = self._free.get(func)
        if found is None:
            returns = func._schema.returns
            # A view returns an alias that it does not write to; an operation in place returns one that it does. Fake
            # tensors also dispatch questions about themselves, such as their device.
            aliases = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
            found = aliases or func.namespace == "prim" or func._schema.name == "aten::_unsafe_view"
            self._free[func] = found
        return found


# Of each collective, how often a rank sends the bytes of its largest tensors, times (N - 1) / N where they are divided.
_ROUNDS = {
    "allreduce_": 2.0,
    "reduce_": 1.0,
    "broadcast_": 1.0,
    "_allgather_base_": 1.0,
    "_reduce_scatter_base_": 1.0,
}


def _sent(func: Any, args: Any) -> int:
    """Bytes that a rank sends in a collective; a broadcast and a reduction pass through a chain of all ranks."""
    name = func._schema.name.split("::")[1]
    if name == "send":
        return _bytes(args[:1])
    if name not in _ROUNDS:
        return 0
    group = next((arg for arg in args if isinstance(arg, torch.ScriptObject)), None)
    size = _size(group)
    largest = max((_bytes((arg,)) for arg in args if isinstance(arg, torch.Tensor | list | tuple)), default=0)
    return round(_ROUNDS[name] * largest * (size - 1) / size)


def _size(group: Any) -> int:
    import torch.distributed as dist

    return int(dist.ProcessGroup.unbox(group).size()) if group is not None else dist.get_world_size()


def _attention_flops(name: str, args: Any) -> int:
    """Of the CPU's flash kernel, which PyTorch's table of formulas lacks: two products forward, five backward."""
    backward = name.endswith("_backward")
    query, key, value = args[1:4] if backward else args[:3]
    batch, heads, rows, width = query.shape
    product = 2 * batch * heads * rows * key.shape[2]
    if backward:
        return int(product * (3 * width + 2 * value.shape[3]))
    return int(product * (width + value.shape[3]))


def _bytes(values: Any) -> int:
    total = 0
    for value in values:
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, list | tuple):
            total += _bytes(value)
    return total


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """How fast a device works.

    Attributes:
        flops: floating-point operations a second in matrix products, in the dtype of the job.
        bandwidth: bytes a second that elementwise operations read and write.
        link: bytes a second from one rank to the next; None leaves communication out of account.
        measured: it was timed on this machine.

    Raises:
        InputError: a rate is not positive.
    """

    flops: float
    bandwidth: float
    link: float | None = None
    measured: bool = False

    def __post_init__(self) -> None:
        for name in ("flops", "bandwidth", "link"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}: a rate must be above 0")

    def seconds(self, flops: int, traffic: int, sent: int = 0) -> float:
        """Seconds of a step in which nothing overlaps: an estimate, and no promise."""
        return flops / self.flops + traffic / self.bandwidth + (sent / self.link if self.link else 0.0)


def measure_hardware(dtype: torch.dtype = torch.float32, *, link: float | None = None) -> Hardware:
    """Time a matrix product and a sum on this machine's CPU, with the threads that PyTorch is set to use; under 1 s.

    Processor time counts, shared by the threads, so that what else the machine does is left out of account.
    """
    left = torch.ones(_SIDE, _SIDE, dtype=dtype)
    vector = torch.ones(_COPIED, dtype=dtype)
    products = _fastest(lambda: left @ left)
    sums = _fastest(lambda: vector + 1)
    return Hardware(
        flops=2 * _SIDE**3 / products,
        bandwidth=2 * vector.numel() * dtype.itemsize / sums,
        link=link,
        measured=True,
    )


def _fastest(work: Any) -> float:
    work()
    times = []
    for _ in range(_RUNS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return max(min(times), 1e-9) / torch.get_num_threads()
