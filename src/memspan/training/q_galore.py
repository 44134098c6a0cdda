"""Q-GaLore (Zhang et al., CPAL 2025, arXiv 2407.08296): INT8 weights, and Adam in a low-rank view of gradients that is
kept in INT4 and renewed only where it still moves. With `weight_bits=32, projector_bits=32, state_bits=32, lazy=False`
it is GaLore (Zhao et al., ICML 2024, arXiv 2403.03507).

What is large tolerates few bits, if what is written often is rounded stochastically: a step far smaller than the
distance between two of a weight's 256 levels then moves it with a small probability, and is right on average, where
rounding to the nearest would lose it. All linear layers but the head are projected; the rest (embeddings, norms, head)
has ordinary 8-bit Adam. With r the rank and [m, n] a layer's weight: gradient [m, n], projector [r, n] and view [m, r]
where m >= n, else projector [m, r] and view [r, n].

Notable choices. The INT4 projector is packed, two values to the byte; the official code keeps one in each, and its
savings are computed. Codes are low + scale * code with a float `low`, since a zero point that is clamped to the codes'
range, as there, destroys groups of one sign. The similarity that decides on renewal is, as in the code, the cosine of
the first singular vectors, but without the sign, which a singular value decomposition leaves open;
`similarity="subspace"` compares all of them (||P_old P_new^T||² / r). Where the rank is small beside the matrix,
singular vectors come from a randomized range finder with power iterations (Halko et al. 2011, arXiv 0909.4061). In a
weight's place in its module stands a parameter of its shape and 4 bytes, which collects gradients as any other does,
and whose values are NaN, because nobody is to read them. 8-bit Adam never rounds a second moment to 0, which its step
is divided by. Random numbers depend on the seed, the parameter and the step alone: a resumed training needs no
generator's state, and updates inside the backward pass give the same weights as updates after it. One device: gradients
are not gathered over ranks before they are projected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memspan.core.codecs import Affine, Codebook, Codec, Packed, dynamic_map
from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training.base import OptimizerFactory, OtherOptimizer, Saver
from memspan.training.modules import output_heads, replace_modules
from memspan.training.packed_adam import PackedAdamW, decaying
from memspan.training.quantized_linear import QuantizedLinear

_MOST_SEED = 2**63 - 1
_EXTRA = 8  # columns of the range finder beyond the rank
_POWERS = 2  # its power iterations


@dataclass(frozen=True, kw_only=True)
class QGaLoreConfig:
    """Settings of Q-GaLore.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    rank: int | None = None  # r; None: a quarter of the smaller side (official: 128 of 512, 1024 of 4096); 0: no view
    scale: float = 0.25  # alpha, factor of the projected step
    refresh: int = 200  # T, steps from one projector to the next at first (official runs: 200; 7B: 500)
    lazy: bool = True  # renew a layer's projector more seldom, the steadier it is
    threshold: float = 0.4  # cos_threshold, mean similarity from which on the interval grows
    factor: int = 2  # gamma_proj, by which it grows
    window: int = 5  # queue_size, how many similarities are averaged
    similarity: str = "first"  # of "first" singular vectors, or of the whole "subspace" (ours)
    on_refresh: str = "keep"  # moments in a new view: "keep" (paper), "rotate" or "reset" them (ours)
    weight_bits: int = 8  # 8, or 32 to leave the weights as they are
    projector_bits: int = 4  # 4, 8, or 32 for the dtype of the gradient
    state_bits: int = 8  # 8, or 32 for float32
    group: int = 256  # values that share a scale
    rounding: str = "stochastic"  # of weights: "stochastic" or "nearest"
    in_backward: bool = True  # update a layer as soon as its gradient is there, and free the gradient
    targets: str = "all-linear"  # or parts of layers' names, with commas between (official code: "attn,mlp")
    smallest: int = 4096  # moments of fewer values are float32 (bitsandbytes' min_8bit_size)
    seed: int = 0  # of stochastic rounding and of the range finder

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "similarity": ("first", "subspace"),
            "on_refresh": ("keep", "rotate", "reset"),
            "weight_bits": (8, 32),
            "projector_bits": (4, 8, 32),
            "state_bits": (8, 32),
            "rounding": ("stochastic", "nearest"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(map(str, known))}")
        for name, least in (("refresh", 1), ("factor", 1), ("window", 1), ("group", 2), ("smallest", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.rank is not None and self.rank < 0:
            raise InputError(f"rank is {self.rank}: it must be at least 0")
        if not self.scale > 0:
            raise InputError(f"scale is {self.scale}: it must be above 0")


class GaLoreAdamW(PackedAdamW):
    """AdamW on low-rank views of gradients, and on weights that are codes.

    Args:
        groups: parameter groups; "rank" is 0 where nothing is projected.
        config: settings.
        layers: of each stand-in the layer that has the weight.
        names: of each parameter, for messages and the random numbers.
        options: as `PackedAdamW` takes them.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        config: QGaLoreConfig,
        layers: dict[nn.Parameter, QuantizedLinear],
        names: dict[nn.Parameter, str],
        **options: Any,
    ) -> None:
        group = config.group
        if config.state_bits == 8:
            options |= {
                "first": Codebook(levels=dynamic_map(signed=True), group=group),
                "second": Codebook(levels=dynamic_map(signed=False), group=group, nonzero=True),
                "smallest": config.smallest,
            }
        super().__init__(groups, in_backward=config.in_backward, **options)
        self._config, self.layers = config, layers
        self.names = names
        self._numbers = {parameter: number for number, parameter in enumerate(names)}
        bits = config.projector_bits
        self._projector: Codec | None = None if bits == 32 else Affine(bits=bits, group=group)

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        assert isinstance(parameter, nn.Parameter)
        layer, rank = self.layers.get(parameter), group["rank"]
        if layer is None and not rank:
            super()._update(parameter, gradient, state, group)
            return
        weight = parameter.detach().float() if layer is None else layer.decoded()
        if rank:
            projector = self._project(parameter, gradient, state, rank)
            change = _back(self._direction(_view(gradient, projector), state, group), projector)
            weight = weight.sub_(change, alpha=group["lr"] * self._config.scale)
            weight = weight.mul_(1 - group["lr"] * group["weight_decay"])
        else:
            weight = weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight = weight.sub_(self._direction(gradient, state, group), alpha=group["lr"])
        if layer is None:
            if parameter.dtype != torch.float32:
                parameter.copy_(weight)
        elif self._config.rounding == "nearest":
            layer.store(weight)
        else:
            layer.store(weight, self._generator(parameter, state, 0))

    def _direction(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        whole: Tensor | None = None
        for start, stop, direction in self._directions(gradient, state, group):
            if stop - start == gradient.numel():
                return direction.view(gradient.shape)  # type: ignore[no-any-return]
            if whole is None:
                whole = torch.empty(gradient.numel(), dtype=torch.float32, device=gradient.device)
            whole[start:stop] = direction
        assert whole is not None
        return whole.view(gradient.shape)

    def _generator(self, parameter: nn.Parameter, state: dict[str, Any], use: int) -> torch.Generator:
        """Random numbers of this seed, parameter, step and use."""
        seed = self._config.seed
        for number in (self._numbers[parameter], state["step"], use):
            seed = (seed * 6364136223846793005 + number + 1442695040888963407) & _MOST_SEED
        return torch.Generator(device=parameter.device).manual_seed(seed)

    # --- the projector -----------------------------------------------------------------------------------------------

    def _project(self, parameter: nn.Parameter, gradient: Tensor, state: dict[str, Any], rank: int) -> Tensor:
        """The projector to use in this step, renewed if it is time."""
        rows, columns = gradient.shape
        shape = (rank, columns) if rows >= columns else (rows, rank)
        if "projector" in state and state["step"] < state["due"]:
            return self._decoded(state["projector"], shape)
        fresh = _singular(gradient.float(), rank, self._generator(parameter, state, 1), self.names[parameter])
        if "projector" in state:
            self._compare(self._decoded(state["projector"], shape), fresh, state)
        coded = fresh.to(gradient.dtype) if self._projector is None else self._projector.encode(fresh)
        state["projector"] = coded
        state["refreshes"] = state.get("refreshes", 0) + 1
        state["due"] = state["step"] + state.setdefault("interval", self._config.refresh)
        return self._decoded(coded, shape)

    def _decoded(self, held: Tensor | Packed, shape: tuple[int, int]) -> Tensor:
        if isinstance(held, Tensor):
            return held.float()
        assert self._projector is not None
        return self._projector.decode(held, shape)

    def _compare(self, old: Tensor, new: Tensor, state: dict[str, Any]) -> None:
        """Lengthen the interval where the view stays what it was; carry the moments over."""
        config = self._config
        wide = old.shape[0] < old.shape[1]
        old_rows, new_rows = (old, new) if wide else (old.t(), new.t())
        if config.lazy:
            value = _likeness(old_rows, new_rows, config.similarity)
            kept = [*state.get("similarities", []), value][-config.window :]
            state["similarities"] = kept
            if len(kept) == config.window and sum(kept) / len(kept) >= config.threshold:
                state["interval"] = state.get("interval", config.refresh) * config.factor
        if config.on_refresh == "keep":
            return
        for name in ("first", "second"):
            held = state.pop(name)  # made anew, as zeros, where it is reset
            if config.on_refresh == "rotate":
                state[name] = self._rotated(name, held, new_rows @ old_rows.t(), wide)

    def _rotated(self, name: str, held: Tensor | Packed, turn: Tensor, wide: bool) -> Tensor | Packed:
        """A moment in the new view; `turn` [rank, rank]. Second moments, without signs, take its squares."""
        codec = None if isinstance(held, Tensor) else self._codecs[name]
        rank = turn.shape[0]
        count = held.numel() if isinstance(held, Tensor) else held["codes"].numel()
        shape = (count // rank, rank) if wide else (rank, count // rank)
        values = held.view(shape) if codec is None else codec.decode(held, shape)  # type: ignore[arg-type, union-attr]
        if name == "second":
            turn = turn.square()
        values = (values @ turn.t() if wide else turn @ values).reshape(-1)
        return values if codec is None else codec.encode(values)


def _view(gradient: Tensor, projector: Tensor) -> Tensor:
    gradient = gradient.float()
    return gradient @ projector.t() if gradient.shape[0] >= gradient.shape[1] else projector.t() @ gradient


def _back(low: Tensor, projector: Tensor) -> Tensor:
    right = low.shape[1] == projector.shape[0]  # [m, r] and [r, n]; else [r, n] and [m, r], where n is not m
    return low @ projector if right else projector @ low


def _likeness(old: Tensor, new: Tensor, kind: str) -> float:
    """Between 0 and 1, of two projectors [rank, width]; 0 on tensors without values."""
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(new, FakeTensor):
        return 0.0
    if kind == "first":
        return float(torch.cosine_similarity(old[0], new[0], dim=0).abs())
    return float((old @ new.t()).square().sum() / old.shape[0])


def _singular(gradient: Tensor, rank: int, generator: torch.Generator, name: str) -> Tensor:
    """The first singular vectors of a gradient [m, n]: right ones [rank, n] where m >= n, else left ones [m, rank]."""
    from torch._subclasses.fake_tensor import FakeTensor

    if not isinstance(gradient, FakeTensor) and not bool(gradient.isfinite().all()):
        raise InputError(f"the gradient of {name} is not finite: lower the learning rate, or clip gradients")
    tall = gradient.shape[0] >= gradient.shape[1]
    matrix = gradient if tall else gradient.t()  # [long, short], whose right vectors are wanted
    width = rank + _EXTRA
    if 2 * width >= matrix.shape[1]:
        right = torch.linalg.svd(matrix, full_matrices=False)[2][:rank]
    else:
        start = torch.randn(matrix.shape[0], width, generator=generator, device=matrix.device)
        basis = torch.linalg.qr(matrix.t() @ start)[0]  # [short, width]
        for _ in range(_POWERS):
            basis = torch.linalg.qr(matrix.t() @ torch.linalg.qr(matrix @ basis)[0])[0]
        inner = torch.linalg.svd(matrix @ basis, full_matrices=False)[2]
        right = inner[:rank] @ basis.t()
    found: Tensor = right if tall else right.t()
    return found.contiguous()


class QGaLore(Saver):
    """Trains all weights with INT8 weights, and Adam in low-rank views of their gradients.

    When to use: training of all parameters, from scratch or from a checkpoint, where weights, gradients and Adam's
    state do not fit. Relations: `lora` trains less and needs about as little; `coat` keeps all of Adam's state, in
    eight bits.

    Cost, in bytes for a weight [m, n] with m >= n and groups of g: (1 + 8/g) mn for the weight, (1/2 + 8/g) rn for the
    projector, 2 (1 + 4/g) rm for the moments, and with `in_backward` gradients of one layer at a time. Every `refresh`
    steps, or more seldom, a singular value decomposition of each layer's gradient.

    Args:
        config: a `QGaLoreConfig`.

    Raises:
        UnsupportedModelError: no layer of the model is a target.
        InputError: the rank is not below a matrix's smaller side; a gradient is not finite.
    """

    slug = "q-galore"
    Config = QGaLoreConfig
    touches = frozenset({"weights", "optimizer"})
    tasks = frozenset({"pretrain", "finetune"})
    exact: ClassVar[bool] = False
    quality: ClassVar[str] = "steps of low rank, weights of 8 bits"
    one_device: ClassVar[str] = "gradients are not gathered over ranks to be projected"
    uniform = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        if self.config.weight_bits == 32:
            self.touches = frozenset({"optimizer"})
        self.updates_in_backward = self.config.in_backward
        self._made: GaLoreAdamW | None = None

    def change(self, model: nn.Module) -> nn.Module:
        """Put coded layers in the place of linear ones."""
        targets = self._targets(model)
        self._ranks = {id(linear): self._rank(name, linear.weight) for name, linear in targets}
        if self.config.weight_bits == 8:
            codec = Affine(bits=8, group=self.config.group)
            made = {id(linear): QuantizedLinear(linear, codec) for _, linear in targets}
            replace_modules(model, made)
            self._ranks = {id(layer): self._ranks[old] for old, layer in made.items()}
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """What makes AdamW on low-rank views."""
        return OtherOptimizer(self.make, factory)

    def make(self, model: nn.Module, factory: OptimizerFactory) -> GaLoreAdamW:
        """The optimizer of a changed model, with the settings of the one that it replaces."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        layers = {one.weight: one for one in model.modules() if isinstance(one, QuantizedLinear)}
        ranks = {one.weight: self._ranks[id(one)] for one in model.modules() if id(one) in self._ranks}
        groups = []
        for group in decaying(model, factory.weight_decay):
            by_rank: dict[int, list[Any]] = {}
            for parameter in group["params"]:
                by_rank.setdefault(ranks.get(parameter, 0), []).append(parameter)
            groups += [{**group, "params": some, "rank": rank} for rank, some in by_rank.items()]
        options = {name: getattr(factory, name) for name in ("lr", "betas", "eps")}
        self._made = GaLoreAdamW(groups, self.config, layers, names, **options)
        return self._made

    def report(self) -> dict[str, Any]:
        """Bytes by class, renewals of projectors, and of each layer its rank, interval and last similarity."""
        if self._made is None:
            return {}
        layers = {}
        nbytes = {"projectors": 0, "moments": 0}
        for group in self._made.param_groups:
            for parameter in group["params"]:
                state = self._made.state.get(parameter, {})
                nbytes["projectors"] += _nbytes(state.get("projector"))
                nbytes["moments"] += _nbytes(state.get("first")) + _nbytes(state.get("second"))
                if group["rank"] and state:
                    layers[self._made.names[parameter]] = {
                        "rank": group["rank"],
                        "interval": state["interval"],
                        "refreshes": state["refreshes"],
                        "similarity": (state.get("similarities") or [None])[-1],
                    }
        nbytes["coded weights"] = sum(_nbytes(one._packed()) for one in self._made.layers.values())
        return {"refreshes": sum(one["refreshes"] for one in layers.values()), "bytes": nbytes, "layers": layers}

    def finish(self, model: nn.Module) -> nn.Module:
        """Linear layers in the place of coded ones, and no hooks."""
        if self._made is not None:
            self._made.detach()
        replace_modules(model, {id(one): one.plain() for one in model.modules() if isinstance(one, QuantizedLinear)})
        return model

    def _targets(self, model: nn.Module) -> list[tuple[str, nn.Linear]]:
        """The linear layers to train in low rank: not the head, and none that shares its weight."""
        heads = output_heads(model)
        owners: dict[int, int] = {}
        for module in model.modules():
            for parameter in module._parameters.values():
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        wanted = [part.strip() for part in self.config.targets.split(",") if part.strip()]
        found = [
            (name, module)
            for name, module in model.named_modules()
            if type(module) is nn.Linear
            and id(module) not in heads
            and module.weight.requires_grad
            and owners[id(module.weight)] == 1
            and (wanted == ["all-linear"] or any(part in name for part in wanted))
        ]
        if not found:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no trainable linear layer that {self.config.targets!r} names"
            )
        return found

    def _rank(self, name: str, weight: Tensor) -> int:
        side = min(weight.shape)
        rank = max(1, side // 4) if self.config.rank is None else int(self.config.rank)
        if rank and rank >= side:
            raise InputError(f"rank is {rank}: {name}, {tuple(weight.shape)}, has no more than {side}; lower it")
        return rank


def _nbytes(held: Any) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in _tensors(held))


def _tensors(held: Any) -> Iterator[Tensor]:
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        for one in held.values():
            yield from _tensors(one)
