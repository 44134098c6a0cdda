"""What the processor at hand can do, and how many of its cores an operation uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def has_native_bfloat16() -> bool:
    """Whether this processor computes bfloat16 products in hardware (AMX, AVX512-BF16); emulated they are slow."""
    import torch

    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(check is not None and check() for check in checks)


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Let PyTorch use `n` threads per operator inside, and as many as before afterwards; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    if n is None or n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
