"""Blocks that can be inverted, and a backward pass that computes their inputs from their outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError
from memspan.training.base import has_values

_SAMPLE = 4096  # values of a block's input that are kept, in the first step, to hold the inverted one against


class Reversible(nn.Module):
    """Additive coupling of two modules: y1 = x1 + F(x2), y2 = x2 + G(y1), where x1 and x2 are the halves of x.

    By itself it is an ordinary module; `ReversibleSequential` gives it a backward pass that stores nothing of it.

    Args:
        f, g: modules that keep the shape of half of x. None of them may change its input in place.

    Raises:
        InputError: a module keeps running statistics, which a second pass would update again.
    """

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        for module in (f, g):
            _refuse_statistics(module)
        self.f, self.g = f, g

    def forward(self, x: Tensor, split: int = 1) -> Tensor:
        """x to y of the same shape, halved along dimension `split`."""
        return torch.cat(self.couple(*halves(x, split)), split)

    def inverse(self, y: Tensor, split: int = 1) -> Tensor:
        """The x that `forward` made this y of, but for rounding."""
        y1, y2 = halves(y, split)
        x2 = y2 - _same(self.g(y1), y2, "G")
        return torch.cat([y1 - _same(self.f(x2), y1, "F"), x2], split)

    def couple(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """The halves of y."""
        y1 = x1 + _applied(self.f, x2, "F", x2.dtype)
        return y1, x2 + _applied(self.g, y1, "G", y1.dtype)


class ReversibleSequential(nn.Module):
    """Reversible blocks, one after the other, of which the backward pass needs only the last one's output.

    Each block is inverted in the backward pass, with two more evaluations of its modules than otherwise: about a third
    more work. What is kept does not depend on how many blocks there are. Gradients are those of ordinary autograd but
    for the rounding of inverted inputs.

    Args:
        blocks: from input to output; the same block may stand there several times.
        split: dimension along which x is halved.
        check: how far, relative to the largest value, the inverted input of a block may lie from the true one. It is
            measured on some thousand values of every block in the first backward pass; None leaves it out.
        preserve_rng_state: modules with dropout draw the same again in the backward pass.
        invert: False leaves all to ordinary autograd.

    The two streams are float32 at least, also where modules compute in 16 bits: rounding would add up from block to
    block. `torch.autocast` is as it was in the forward pass when a block is computed again.

    Raises:
        InputError: there is no block, or one is of another kind.
    """

    def __init__(
        self,
        blocks: Iterable[Reversible],
        *,
        split: int = 1,
        check: float | None = 1e-2,
        preserve_rng_state: bool = True,
        invert: bool = True,
    ) -> None:
        super().__init__()
        given = list(blocks)
        if not given or not all(isinstance(block, Reversible) for block in given):
            raise InputError("a reversible stack needs one block or more, all of them Reversible")
        if check is not None and not check > 0:
            raise InputError(f"check is {check}: it must be above 0, or None")
        self.blocks = nn.ModuleList(given)
        self.split, self.check, self.preserve_rng_state, self.invert = split, check, preserve_rng_state, invert
        self.checked = False

    @classmethod
    def from_functions(cls, functions: Sequence[nn.Module], **options: Any) -> ReversibleSequential:
        """A stack of residual functions, two to a block: x + f(x) for halves of x in turn.

        Args:
            functions: modules that keep the shape of half of x; an even number.
            options: of the class.

        Raises:
            InputError: their number is odd.
        """
        if len(functions) % 2:
            raise InputError(f"there are {len(functions)} functions: a reversible block takes two, so give one more")
        return cls([Reversible(f, g) for f, g in zip(functions[::2], functions[1::2], strict=True)], **options)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, channels, ...] through all blocks.

        Raises:
            InputError: the dimension has no two equal halves, or a module changes shapes, or its input in place; in the
                backward pass: an inverted input is farther off than `check` allows.
        """
        stream = torch.promote_types(x.dtype, torch.float32)
        needed = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not (self.invert and torch.is_grad_enabled() and (x.requires_grad or needed)):
            streams = halves(x.to(stream), self.split)
            for block in self._blocks():
                streams = _step(block, *streams, x.dtype)
            return torch.cat(streams, self.split).to(x.dtype)
        result: Tensor = _Inverted.apply(self, x, needed, *needed)  # type: ignore[no-untyped-call]
        return result

    def inverse(self, y: Tensor) -> Tensor:
        """The x that `forward` made this y of, but for rounding."""
        for block in reversed(list(self._blocks())):
            y = block.inverse(y, self.split)
        return y

    def _blocks(self) -> Iterator[Reversible]:
        for block in self.blocks:
            assert isinstance(block, Reversible)
            yield block


class _Inverted(torch.autograd.Function):
    """All blocks of a stack; saves the output, and in the backward pass goes back from it block by block."""

    @staticmethod
    def forward(
        ctx: Any, stack: ReversibleSequential, x: Tensor, parameters: list[nn.Parameter], *same: nn.Parameter
    ) -> Tensor:
        ctx.stack, ctx.parameters, ctx.dtype = stack, parameters, x.dtype
        ctx.autocast = _autocast(x.device.type)
        ctx.states, ctx.samples = [], []
        checks = stack.check is not None and not stack.checked
        streams = halves(x.to(torch.promote_types(x.dtype, torch.float32)), stack.split)
        for block in stack._blocks():
            if checks:
                ctx.samples.append(tuple(_sample(stream) for stream in streams))
            states: list[Any] | None = [] if stack.preserve_rng_state else None
            streams = _step(block, *streams, x.dtype, states)
            ctx.states.append(states)
        y = torch.cat(streams, stack.split)
        ctx.save_for_backward(y)
        # In 16 bits the streams are saved and the rounded sum of them goes on.
        return y.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        stack: ReversibleSequential = ctx.stack
        (y,) = ctx.saved_tensors
        y1, y2 = halves(y, stack.split)
        d1, d2 = halves(delta.to(y.dtype), stack.split)
        gradients: dict[int, Tensor] = {}
        blocks = list(stack._blocks())
        del y, delta
        for number in reversed(range(len(blocks))):
            block, states = blocks[number], ctx.states[number]
            state_f, state_g = states or (None, None)
            with ctx.autocast():
                y2, d1 = _undo(block.g, y1, y2, d2, d1, ctx.dtype, state_g, gradients)
                y1, d2 = _undo(block.f, y2, y1, d1, d2, ctx.dtype, state_f, gradients)
            if ctx.samples:
                _hold_against(ctx.samples[number], (y1, y2), number, len(blocks), stack.check)
        stack.checked = stack.checked or bool(ctx.samples)
        d_x = torch.cat([d1, d2], stack.split).to(ctx.dtype) if ctx.needs_input_grad[1] else None
        return None, d_x, None, *(gradients.get(id(parameter)) for parameter in ctx.parameters)


def _undo(
    module: nn.Module,
    of: Tensor,
    total: Tensor,
    d_total: Tensor,
    d_of: Tensor,
    dtype: torch.dtype,
    state: Any,
    gradients: dict[int, Tensor],
) -> tuple[Tensor, Tensor]:
    """Take module(of) off `total` again, and its gradient with respect to `of` into `d_of`; returns both.

    The gradients of the module's parameters are added to `gradients`, by id.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with _random_state(state, of), torch.enable_grad():
        leaf = of.detach().to(dtype).requires_grad_()
        result = module(leaf)
    before = total - result.detach()
    found = torch.autograd.grad(result, [leaf, *parameters], d_total.to(result.dtype), allow_unused=True)
    for parameter, gradient in zip(parameters, found[1:], strict=True):
        if gradient is not None:
            held = gradients.get(id(parameter))
            gradients[id(parameter)] = gradient if held is None else held + gradient
    return before, d_of if found[0] is None else d_of + found[0].to(d_of.dtype)


def _step(
    block: Reversible, x1: Tensor, x2: Tensor, dtype: torch.dtype, states: list[Any] | None = None
) -> tuple[Tensor, Tensor]:
    """A block on two streams, whose modules compute in `dtype`; the random states before F and G go to `states`."""
    if states is not None:
        states.append(_get_state(x2))
    y1 = x1 + _applied(block.f, x2, "F", dtype)
    if states is not None:
        states.append(_get_state(x2))
    return y1, x2 + _applied(block.g, y1, "G", dtype)


def halves(x: Tensor, split: int) -> tuple[Tensor, Tensor]:
    """The two halves of x along a dimension.

    Raises:
        InputError: there are no two equal halves.
    """
    if not -x.ndim <= split < x.ndim or x.shape[split] % 2:
        raise InputError(f"a tensor of shape {tuple(x.shape)} has no two equal halves along dimension {split}")
    first, second = x.chunk(2, split)
    return first, second


def _applied(module: nn.Module, x: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    given = x.to(dtype)
    version = None if given.is_inference() else given._version
    result = _same(module(given), x, name)
    if version is not None and given._version != version:
        raise InputError(f"{name} of a reversible block changes its input in place: give it modules with inplace=False")
    return result


def _same(result: Tensor, like: Tensor, name: str) -> Tensor:
    if result.shape != like.shape:
        raise InputError(
            f"{name} of a reversible block makes {tuple(result.shape)} of {tuple(like.shape)}: it must keep the shape"
        )
    return result


def _refuse_statistics(module: nn.Module) -> None:
    for name, one in module.named_modules():
        batch = isinstance(one, nn.modules.batchnorm._BatchNorm)
        if batch or (isinstance(one, nn.modules.instancenorm._InstanceNorm) and one.track_running_stats):
            raise InputError(
                f"{type(one).__name__} {name!r} keeps running statistics, which the second pass would update again:"
                " use GroupNorm, or InstanceNorm without them"
            )


# --- what must be as it was in the first pass ------------------------------------------------------------------------


def _get_state(x: Tensor) -> tuple[Tensor, Tensor | None]:
    device = getattr(torch, x.device.type, None)
    other = None if x.device.type == "cpu" or device is None else device.get_rng_state(x.device)
    return torch.get_rng_state(), other


@contextmanager
def _random_state(state: tuple[Tensor, Tensor | None] | None, x: Tensor) -> Iterator[None]:
    """Draw as after this state, and leave the generators as they were."""
    if state is None:
        yield
        return
    before = _get_state(x)
    _set_state(state, x)
    try:
        yield
    finally:
        _set_state(before, x)


def _set_state(state: tuple[Tensor, Tensor | None], x: Tensor) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        getattr(torch, x.device.type).set_rng_state(state[1], x.device)


def _autocast(kind: str) -> Any:
    """What makes a context in which autocast is as it is now."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled)


def _sample(x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLE)].clone()


def _hold_against(
    wanted: tuple[Tensor, ...], found: tuple[Tensor, Tensor], number: int, blocks: int, most: float | None
) -> None:
    for true, stream in zip(wanted, found, strict=True):
        if most is None or not has_values(true):
            continue
        off = float((_sample(stream) - true).abs().max() / true.abs().max().clamp(min=1e-30))
        if not off <= most:
            raise InputError(
                f"block {number} of {blocks} was inverted with a relative error of {off:.2g}, above {most:g}: its"
                " modules make values too large, or draw differently the second time; lower their scale, keep"
                " preserve_rng_state, or use fewer blocks in a stack"
            )
