"""The saver: layers wrapped, two buffers between them, and the dial."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memspan.core.budget import format_bytes, parse_bytes
from memspan.core.errors import BudgetError, InputError, UnsupportedModelError
from memspan.core.footprint import Footprint
from memspan.training.base import Saver, has_values
from memspan.training.estimate import Estimate
from memspan.training.memo_1m.bilevel import BiLevel
from memspan.training.memo_1m.dial import OBJECTIVES, LayerCost, fastest, overlap, tokens
from memspan.training.memo_1m.layer import LayerPass, storage_key
from memspan.training.memo_1m.tiers import (
    Disk,
    Host,
    Ticket,
    Tier,
    done,
    free_bytes,
    timed_bandwidth,
    timed_flops,
)
from memspan.training.spec import Spec

_ATTENTION_BACKWARD = 2.5  # times the forward pass: five products of flash attention's backward to two


@dataclass(frozen=True, kw_only=True)
class MemoConfig:
    """Settings of `memo-1m`."""

    alpha: float | None = None  # share of the tokens whose activations are moved, the others recomputed; None: planned
    objective: str = "time"  # of the plan: "overlap" as in the paper (what hides), or the shortest step (ours)
    bandwidth: str | float | None = None  # B, bytes a second to slow memory; None: timed
    flops: float | None = None  # of the device, a second, from which T_layer comes; None: timed
    slow_memory: str | int | None = None  # M_slow, bytes that may be used; None: what the disk has free
    folder: str | None = None  # of the scratch file, where layers are on the CPU; None: for temporary files
    block: int = 64  # tokens to which the share is rounded down

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}: it must lie in [0, 1]")
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective is {self.objective!r}: it must be one of {', '.join(OBJECTIVES)}")
        if self.block < 1:
            raise InputError(f"block is {self.block}: it must be at least 1")
        for name, value in (("flops", self.flops), ("bandwidth", self.rate)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}: it must be above 0")
        if self.slow_memory is not None:
            parse_bytes(self.slow_memory)

    @property
    def rate(self) -> float | None:
        """The bandwidth as a number."""
        return float(parse_bytes(self.bandwidth)) if isinstance(self.bandwidth, str) else self.bandwidth


@dataclass(frozen=True)
class Dialled:
    """What was decided for batches of one shape."""

    cost: LayerCost
    alpha: float
    kept: int
    tokens: int


class Memo(Saver):
    """Moves the activations of the first tokens to slow memory, and computes those of the others again.

    Gradients are the plain step's but for rounding. Layers must call torch's `scaled_dot_product_attention` once or
    more and work on each token alone besides; the first layer's pass shows whether they do.

    Args:
        config: a `MemoConfig`.

    Raises:
        BudgetError: in the first layer of a pass: slow memory does not hold what is to be moved.
        UnsupportedModelError: in `change` or in the first layer: the model's layers are of another kind.
    """

    slug = "memo-1m"
    Config = MemoConfig
    Allocator = BiLevel
    touches = frozenset({"activations"})
    uniform = True
    settles = 4  # two buffers, and two layers that stay in them

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._device = ""  # that the job is planned for
        self._depth: int | None = None  # layers of the job, where it is planned from a shallower model
        self._resumed: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        self._layers: list[Any] = []
        self._tier: Tier | None = None
        self._passes: _Passes | None = None
        self._schemes: dict[Any, tuple[int, ...]] = {}
        self._dialled: dict[tuple[int, int], Dialled] = {}
        self._rates = (math.inf, math.inf)
        self.recomputed = self.moved = self.attended = 0

    # --- before the first step ---------------------------------------------------------------------------------------

    def check(self, spec: Spec) -> None:
        """Refuse attention whose bytes grow with the square of the length."""
        if spec.attention != "sdpa":
            raise InputError(f"memo-1m works with the attention sdpa, not with {spec.attention}")
        self._device, self._depth = spec.device, spec.layers

    def change(self, model: nn.Module) -> nn.Module:
        """Wrap the layers' forward methods.

        Raises:
            UnsupportedModelError: there is no list of layers, or they drop activations at random.
        """
        self._reset()
        self._layers = list(_layers(model))
        for layer in self._layers:
            for name, one in layer.named_modules():
                if isinstance(one, nn.modules.dropout._DropoutNd) and one.p > 0:
                    raise UnsupportedModelError(
                        f"memo-1m: {name} of a layer is dropout with p={one.p}, which cannot be drawn again for some"
                        " tokens: set it to 0 in the model's configuration"
                    )
        first = next(self._layers[0].parameters())
        if self.config.alpha is None and first.device.type == "cpu" and self._device in ("", "cpu"):
            from torch._subclasses.fake_tensor import unset_fake_temporarily

            with unset_fake_temporarily():  # in a plan, too, the rates are this machine's
                self._rates = (timed_flops(first.dtype), timed_bandwidth(self.config.folder))
        for index, layer in enumerate(self._layers):
            layer.forward = self._wrapped(index, layer, layer.forward)
        return model

    def _wrapped(self, index: int, layer: nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._passes is None or not torch.is_grad_enabled():
                return plain(*args, **kwargs)
            weights = {storage_key(one) for one in (*layer.parameters(), *layer.buffers())}
            given = tuple(_uncached(one) for one in args)
            named = {name: _uncached(one) for name, one in kwargs.items()}
            return self._passes.run(LayerPass(index, plain, given, named, weights), layer)

        return forward

    def finish(self, model: nn.Module) -> nn.Module:
        """Give the layers their own forward methods again, and slow memory back."""
        for layer in self._layers:
            layer.__dict__.pop("forward", None)
        if self._tier is not None:
            self._tier.close()
            self._tier = None
        return model

    # --- in every step -----------------------------------------------------------------------------------------------

    @contextmanager
    def step_context(self) -> Iterator[None]:
        """Layers that run inside are caught, and their backward passes served."""
        self._passes = _Passes(self, len(self._layers))
        self.recomputed = self.moved = self.attended = 0
        try:
            yield
        finally:
            passes, self._passes = self._passes, None
            passes.close()

    def tier(self, like: Tensor) -> Tier:
        """Slow memory for layers whose tensors are like this one."""
        if self._tier is None:
            accelerated = like.device.type != "cpu"
            if not has_values(like):
                self._tier = Tier("ram" if accelerated or self._device not in ("", "cpu") else "disk")
            elif accelerated:
                self._tier = Host(like.device)
            else:
                self._tier = Disk(self.config.folder)
        return self._tier

    def scheme(self, layer: LayerPass, module: nn.Module) -> tuple[int, ...]:
        """Where the tokens are in what a layer saves; layers of one kind are looked at once."""
        kind = (type(module), *((one.shape, one.dtype, one.requires_grad) for one in module.parameters()))
        key = (kind, layer.kind)
        if key not in self._schemes:
            self._schemes[key] = layer.scheme()
        return self._schemes[key]

    def dial(self, layer: LayerPass, module: nn.Module, place: str) -> Dialled:
        """How many tokens are moved in batches of this shape; decided with the first layer."""
        shape = (layer.batch, layer.tokens)
        if shape not in self._dialled:
            layers, memory = self._all_layers, self._slow_memory(place)
            cost = self._cost(layer, module)
            alpha = self.config.alpha
            if alpha is None:
                alpha = self._resumed.get(f"{shape[0]} x {shape[1]}")
            if alpha is None:
                choose = overlap if self.config.objective == "overlap" else fastest
                alpha = choose(cost, layers, self._bandwidth, memory)
            kept = tokens(alpha, layer.tokens, self.config.block)
            needed = max(layers - 2, 0) * math.ceil(cost.moved(kept / layer.tokens))
            if needed > memory:
                raise BudgetError(
                    f"moving {kept} of {layer.tokens} tokens of {layers - 2} layers",
                    needed=needed,
                    allowed=int(memory),
                    advice="give more slow memory, a smaller alpha, or fewer tokens",
                )
            self._dialled[shape] = Dialled(cost, alpha, kept, layer.tokens)
        return self._dialled[shape]

    @property
    def _all_layers(self) -> int:
        return max(len(self._layers), self._depth or 0)

    @property
    def _bandwidth(self) -> float:
        return self.config.rate or self._rates[1]

    def _slow_memory(self, place: str) -> float:
        if self.config.slow_memory is not None:
            return float(parse_bytes(self.config.slow_memory))
        held = 0 if self._tier is None else self._tier.nbytes
        return float(free_bytes(self.config.folder) + held) if place == "disk" else math.inf

    def _cost(self, layer: LayerPass, module: nn.Module) -> LayerCost:
        flops = self.config.flops or self._rates[0]
        weights = sum(one.numel() for one in module.parameters() if one.ndim > 1)
        products = 2 * layer.batch * layer.tokens * weights
        attention = sum(call.flops for call in layer.calls)
        if math.isinf(flops):
            return LayerCost(**layer.sizes())  # nothing is known but the bytes: all that fits is moved
        return LayerCost(
            **layer.sizes(),
            forward=(products + attention) / flops,
            backward=(2 * products + _ATTENTION_BACKWARD * attention) / flops,
            recompute=products / flops,
        )

    # --- besides -----------------------------------------------------------------------------------------------------

    def footprint(self) -> Footprint:
        """Slow memory."""
        if self._tier is None or not self._tier.nbytes:
            return Footprint()
        return Footprint.of("activations", self._tier.place, self._tier.nbytes)

    @property
    def planned(self) -> list[Dialled]:
        """What was decided, for each shape of a batch."""
        return list(self._dialled.values())

    def report(self) -> dict[str, Any]:
        """By shape of the batch: what was decided; and of the last step, what was done."""
        return {
            "shapes": {
                f"{batch} x {length}": {"alpha": one.alpha, "tokens moved": one.kept, "tokens": length}
                for (batch, length), one in self._dialled.items()
            },
            "bytes moved": self.moved,
            "tokens recomputed": self.recomputed,
            "attention calls": self.attended,
            "slow memory": 0 if self._tier is None else self._tier.nbytes,
        }

    def explain(self, spec: Spec, estimate: Estimate) -> list[str]:
        """The bytes of a layer, of all, and what the dial made of them."""

        def said(nbytes: float) -> str:
            return format_bytes(int(nbytes))

        lines: list[str] = []
        layers = self._all_layers
        for (batch, length), one in self._dialled.items():
            cost, moved = one.cost, one.cost.moved(one.kept / one.tokens)
            whole = cost.moved(1.0)
            shared = f"; {said(layers * whole / spec.devices)} on each of {spec.devices} devices that share a sequence"
            lines += [
                f"  memo-1m      {batch} x {length} tokens; a layer keeps {said(whole)} for its backward pass: its"
                f" input {said(cost.inputs)}, of attention {said(cost.attention)}, others {said(cost.others)}",
                f"               all {layers} layers: {said(layers * whole)}, of which inputs"
                f" {said(layers * cost.inputs)}" + (shared if spec.devices > 1 else ""),
                f"               alpha {one.alpha:.4g}, {self._reason(cost)}: {one.kept} tokens moved,"
                f" {length - one.kept} recomputed; {said(max(layers - 2, 0) * moved)} of slow memory, two buffers of"
                f" {said(moved)}",
            ]
        return lines

    def _reason(self, cost: LayerCost) -> str:
        if self.config.alpha is not None:
            return "as given"
        if math.isinf(cost.forward) or math.isinf(self._bandwidth):
            return "as much as fits, since no rates are given"
        move = cost.moved(1.0) / self._bandwidth
        return (
            f"by {self.config.objective}: forward {cost.forward:.3g} s, backward {cost.backward:.3g} s, moving all"
            f" {move:.3g} s, recomputing all {cost.recompute:.3g} s"
        )

    def state_dict(self) -> dict[str, Any]:
        """The shares, so that a resumed training rounds as the first one, however fast its machine is."""
        found = {f"{batch} x {length}": one.alpha for (batch, length), one in self._dialled.items()}
        return {"alpha": {**self._resumed, **found}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._resumed = dict(state["alpha"])


class _Passes:
    """The layers' passes of one step, and the two buffers they share.

    Layers use the buffers in turn. One that is full is copied to slow memory while the next layer computes, and comes
    back when the layer two above is done with it.
    """

    def __init__(self, saver: Memo, layers: int) -> None:
        self._saver, self._count = saver, layers
        self._buffers: list[Tensor | None] = [None, None]
        self._owners: list[LayerPass | None] = [None, None]
        self._tickets: list[Ticket] = [done, done]
        self._kept: list[LayerPass] = []
        self._places: dict[int, tuple[int, int]] = {}  # of a layer's index: offset in slow memory, bytes
        self._end = 0

    def run(self, layer: LayerPass, module: nn.Module) -> Any:
        """A layer's output; what it keeps goes into a buffer."""
        if self._kept and layer.index <= self._kept[-1].index:
            self._begin_again()
        output = layer.forward()
        self._saver.attended += len(layer.calls)
        if not layer.empty:
            self._keep(layer, module)
        return output

    def _begin_again(self) -> None:
        if any(one.live for one in self._kept if not one.over):
            raise InputError("memo-1m: a second forward pass before the first one's backward pass; run them in turn")
        self._release()

    def _keep(self, layer: LayerPass, module: nn.Module) -> None:
        saver = self._saver
        layer.sort(saver.scheme(layer, module))
        sample = next(iter(layer.storages.values())).flat
        assert sample is not None
        tier = saver.tier(sample)
        total = layer.lay_out(saver.dial(layer, module, tier.place).kept)
        side = len(self._kept) % 2
        self._tickets[side]()
        buffer = self._buffers[side]
        if buffer is None or len(buffer) < total:
            buffer = self._buffers[side] = torch.empty(total, dtype=torch.uint8, device=sample.device)
        del sample
        layer.stow(buffer)
        layer.fetch = self._fetch
        self._kept.append(layer)
        self._owners[side], self._tickets[side] = layer, done
        swapped = self._count - 2
        if layer.index < swapped:
            if not self._end:
                tier.reserve(total * swapped)  # before anything is moved: if there is too little, nothing was done
            tier.reserve(self._end + total)
            self._places[layer.index] = (self._end, total)
            self._end += total
            saver.moved += total
            self._tickets[side] = tier.put(self._places[layer.index][0], buffer[:total])

    def _fetch(self, layer: LayerPass) -> None:
        """Restore a layer, whose backward pass begins, and start to fetch the one below."""
        at = self._kept.index(layer)
        for one in self._kept[at + 1 :]:
            if not one.over:
                one.close()
        self._bring(at)
        if at:
            self._bring(at - 1)
        self._tickets[at % 2]()
        buffer = self._buffers[at % 2]
        assert buffer is not None
        self._saver.recomputed += layer.restore(buffer)
        if at < 2:  # nothing below needs this buffer: it goes with the last tensor that looks at it
            self._buffers[at % 2] = self._owners[at % 2] = None

    def _bring(self, at: int) -> None:
        layer, side = self._kept[at], at % 2
        buffer = self._buffers[side]
        if self._owners[side] is layer or buffer is None:
            return
        self._tickets[side]()
        begin, total = self._places[layer.index]
        tier = self._saver.tier(buffer)
        self._owners[side], self._tickets[side] = layer, tier.fetch(begin, buffer[:total])

    def _release(self) -> None:
        for ticket in self._tickets:
            ticket()
        for one in self._kept:
            one.close()
        self._kept, self._places, self._end = [], {}, 0
        self._owners, self._tickets, self._buffers = [None, None], [done, done], [None, None]

    def close(self) -> None:
        """The step is over: nothing is held any longer."""
        self._release()


def _uncached(value: Any) -> Any:
    """None for a cache that is empty, which transformers hands out in training, too, where none is declined."""
    length = getattr(value, "get_seq_length", None)
    return None if length is not None and not length() else value


def _layers(model: nn.Module) -> nn.ModuleList:
    """The list of layers that holds the most parameters."""
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) > 1]
    if not lists:
        raise UnsupportedModelError(f"{type(model).__name__} has no list of layers, which memo-1m needs")
    return max(lists, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))
