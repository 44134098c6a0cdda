"""Tensors without bytes, on which a step takes the same path through transformers as on real ones."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import UnsupportedModelError


def _no(*args: Any) -> bool:
    return False


def _yes(*args: Any) -> bool:
    return True


def _nothing(*args: Any) -> None:
    return None


# What transformers decides by reading values, as it comes out for full rows without padding. With fake tensors it would
# build a mask that the real step does without, and then repeat keys and values for grouped heads.
_READS = {"is_tracing": _no, "find_packed_sequence_indices": _nothing, "fast_all": _yes}


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which is behind `.to`: PyTorch's own swaps fake tensors and fails where nothing changes."""
    if recurse:
        for child in module.children():
            _apply(child, change)
    with torch.no_grad():
        for parameter in module._parameters.values():
            if parameter is not None:
                changed = change(parameter)
                if (changed.dtype, changed.device) != (parameter.dtype, parameter.device):
                    parameter.data = changed
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
    return module


@contextmanager
def imagined() -> Iterator[None]:
    """Tensors made inside have shapes and no bytes; nothing is computed.

    Raises:
        UnsupportedModelError: something inside needed the value of a tensor.
    """
    import transformers.masking_utils as masks
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        UnsupportedOperatorException,
    )

    from memspan.planner.shapes import ShapeMode

    before = {name: getattr(masks, name) for name in _READS if hasattr(masks, name)}
    apply = nn.Module._apply
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle would free what only a collection frees, at a moment that means nothing
    try:
        for name in before:
            setattr(masks, name, _READS[name])
        nn.Module._apply = _apply  # type: ignore[method-assign]
        with ShapeMode():
            yield
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        said = str(error).splitlines()[0]
        raise UnsupportedModelError(
            f"the step cannot be planned, it depends on the values of tensors: {said}"
        ) from error
    finally:
        for name, value in before.items():
            setattr(masks, name, value)
        nn.Module._apply = apply  # type: ignore[method-assign]
        if collecting:
            gc.enable()


@contextmanager
def left_out(ranks: int) -> Iterator[None]:
    """Be the first of so many ranks, of which no other exists: collectives return at once, and send nothing."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def can_leave_out(ranks: int) -> bool:
    """Whether `left_out` can stand for so many: not inside of a process group, and not without torch.distributed."""
    import torch.distributed as dist

    return ranks > 1 and dist.is_available() and not dist.is_initialized()
