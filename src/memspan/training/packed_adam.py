"""AdamW whose moments are coded between steps, and which may update each parameter inside the backward pass."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.codecs import Codec, Packed
from memspan.core.errors import ConflictError, InputError
from memspan.training.pieces import pieces

_PIECE = 1 << 20  # values that are decoded, updated and encoded at a time, which bounds what is held beside the state


def decaying(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters as groups; vectors and scalars do not decay.

    Raises:
        InputError: there are none.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("no parameter of the model requires a gradient: nothing would be trained")
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class PackedAdamW(torch.optim.Optimizer):
    """AdamW in float32 on moments that are packed between two steps.

    Without codecs it is PyTorch's AdamW. State of a parameter: "step" and "began", the steps done and the one at which
    the moments began; "first" and "second", the moments, each a float32 tensor or, coded, a dict of tensors.

    Args:
        groups: parameter groups, as any optimizer takes them.
        lr, betas, eps, weight_decay: settings of AdamW.
        first, second: codecs of the two moments; None keeps float32.
        smallest: parameters of fewer values keep float32 moments.
        in_backward: update a parameter as soon as its gradient is complete, and free the gradient; `step` then only
            ends the step.

    Raises:
        InputError: a setting is out of range, or a gradient is sparse or not finite.
        ConflictError: with `in_backward`, a second backward pass before `step`: there is nothing left to add it to.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        first: Codec | None = None,
        second: Codec | None = None,
        smallest: int = 0,
        in_backward: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}: it must not be negative")
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"betas are {betas}: both must lie in [0, 1)")
        super().__init__(groups, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})
        self._codecs = {"first": first, "second": second}
        self._smallest = smallest
        self._updated: set[int] = set()
        self._hooks: list[Any] = []
        if in_backward:
            for number, group in enumerate(self.param_groups):
                for parameter in group["params"]:
                    self._hooks.append(parameter.register_post_accumulate_grad_hook(self._hook(number)))

    @property
    def in_backward(self) -> bool:
        """Whether parameters are updated inside the backward pass."""
        return bool(self._hooks)

    @property
    def nbytes(self) -> int:
        """Bytes of the moments, with the scales of those that are coded."""
        held = (state[name] for state in self.state.values() for name in self._codecs if name in state)
        return sum(
            part.numel() * part.element_size()
            for moment in held
            for part in (moment.values() if isinstance(moment, dict) else (moment,))
        )

    def detach(self) -> None:
        """Take the hooks off the parameters; from then on `step` updates them."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._updated.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` gave."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._updated.clear()
        if not self._hooks:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._take(parameter, group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        self._updated.clear()
        super().zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, codes as codes: PyTorch's own would cast them to the parameters' dtype.

        Raises:
            InputError: it is of an optimizer with other groups.
        """
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            given = hook(self, state_dict)
            state_dict = state_dict if given is None else given
        groups, saved = self.param_groups, state_dict["param_groups"]
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved]:
            raise InputError("the state is of another optimizer: it has other groups of parameters")
        parameters = [parameter for group in groups for parameter in group["params"]]
        names = [number for group in saved for number in group["params"]]
        for group, other in zip(groups, saved, strict=True):
            group.update({name: value for name, value in other.items() if name != "params"})
            group["betas"] = tuple(group["betas"])
        known = dict(zip(names, parameters, strict=True))
        self.state = defaultdict(dict)
        for number, values in state_dict["state"].items():
            self.state[known[number]] = _copied(values, known[number].device)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    # --- one parameter -----------------------------------------------------------------------------------------------

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            if id(parameter) in self._updated:
                raise ConflictError(
                    "gradients cannot be accumulated while parameters are updated inside the backward pass: "
                    "call optimizer.step() after each backward(), or switch that off"
                )
            self._updated.add(id(parameter))
            with torch.no_grad():
                self._take(parameter, self.param_groups[number])
            parameter.grad = None

        return take

    def _take(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if gradient.is_sparse:
            raise InputError("a gradient is sparse, which packed AdamW does not take: make the embedding's dense")
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        self._update(parameter, gradient, state, group)

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Bring a parameter a step further."""
        contiguous = parameter.is_contiguous()
        flat = parameter.detach().reshape(-1) if contiguous else parameter.detach().flatten().clone()
        kept = 1 - group["lr"] * group["weight_decay"]
        for start, stop, direction in self._directions(gradient, state, group):
            piece = flat[start:stop]
            new = piece.float().mul_(kept).sub_(direction.mul_(group["lr"]))
            if piece.dtype != torch.float32:  # else it is the piece itself that was updated
                piece.copy_(new)
        if not contiguous:
            parameter.copy_(flat.view_as(parameter))

    def _directions(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Any:
        """Take a gradient into the moments; yields (start, stop, step of these values, to be scaled by the rate)."""
        flat = gradient.reshape(-1)
        count = flat.numel()
        codecs = {name: None if count < self._smallest else codec for name, codec in self._codecs.items()}
        for name, codec in codecs.items():
            if name not in state:
                zeros = torch.zeros_like(flat, dtype=torch.float32)
                state[name] = zeros if codec is None else codec.encode(zeros)
                state["began"] = state["step"]
        (rate1, rate2), done = group["betas"], state["step"] - state["began"] + 1
        size = _piece(count, codecs.values())
        for start, stop in pieces(flat, count, size):
            values = flat[start:stop].float()
            one = _read(state["first"], codecs["first"], start, stop)
            two = _read(state["second"], codecs["second"], start, stop)
            one.lerp_(values, 1 - rate1)
            two.mul_(rate2).addcmul_(values, values, value=1 - rate2)
            _write(state["first"], codecs["first"], start, stop, one)
            _write(state["second"], codecs["second"], start, stop, two)
            below = two.sqrt().div_(math.sqrt(1 - rate2**done)).add_(group["eps"])
            yield start, stop, (one / below).div_(1 - rate1**done)


def _piece(count: int, codecs: Iterable[Codec | None]) -> int:
    """How many values to take at a time: whole groups of every codec."""
    groups = [1 if codec is None else codec.group for codec in codecs]
    if None in groups:
        return max(count, 1)
    unit = math.lcm(*(group for group in groups if group is not None))
    return max(1, _PIECE // unit) * unit


def _read(held: Tensor | Packed, codec: Codec | None, start: int, stop: int) -> Tensor:
    if codec is None:
        assert isinstance(held, Tensor)
        return held[start:stop]
    assert isinstance(held, dict)
    whole = codec.group is None
    return codec.decode(held if whole else codec.part(held, start, stop), (stop - start,))


def _write(held: Tensor | Packed, codec: Codec | None, start: int, stop: int, values: Tensor) -> None:
    if codec is None:
        return  # the values are a view of what is held
    assert isinstance(held, dict)
    places = held if codec.group is None else codec.part(held, start, stop)
    for name, value in codec.encode(values).items():
        places[name].copy_(value)


def _copied(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(one, device) for key, one in value.items()}
    return list(value) if isinstance(value, list) else value
