"""The saver: factors in the place of weights, and when they are swapped and decomposed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training.base import OptimizerFactory, OtherOptimizer, Saver
from memspan.training.modules import output_heads, replace_modules
from memspan.training.sst.layer import SAMPLERS, SpectralLinear, check_finite, iterations_of_a_round

_MOST_SEED = 2**63 - 1
_LEAST = 8  # a matrix with fewer directions stays as it is
_GROUP = "spectral"  # key of the factors' parameter group


@dataclass(frozen=True, kw_only=True)
class SSTConfig:
    """Settings of sparse spectral training.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    rank: int | None = None  # r, pairs of vectors that train at a time; None: an eighth of the smaller side
    interval: int = 200  # T3, steps from one draw to the next
    warmup: int = 20  # steps after a draw in which the rate of factors rises to its full height
    sampler: str = "mix"  # "mix" (half by size, half alike), "uniform", "topr" or "sequential"
    enhanced: bool = True  # gradients of vectors without the factor of their singular value
    resvd: int | None = None  # draws from one decomposition to the next; None: those of a round; 0: never
    recompute: bool = True  # V^T x in the backward pass, instead of keeping it
    targets: str = "all-linear"  # or parts of layers' names, with commas between
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler is {self.sampler!r}: it must be one of {', '.join(SAMPLERS)}")
        for name, least in (("rank", 1), ("interval", 1), ("warmup", 0), ("resvd", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}: it must be at least {least}")
        if self.warmup > self.interval:
            raise InputError(f"warmup is {self.warmup}: it must not be above the interval, {self.interval}")


class SST(Saver):
    """Trains linear layers as their singular value decomposition: all values in each step, few vectors at a time.

    When to use: training from scratch where gradients and Adam's state do not fit, and a fixed subspace (`lora`) loses
    too much. Relations: `q-galore` keeps whole weights, in eight bits, and projects gradients; it needs less. Any
    optimizer may be given; with one of geoopt's, points on manifolds stay as they are there.

    Cost, in bytes for a weight [out, in] in float32 with m = min(out, in): 4 (m (out + in) + m) for the factors, which
    is twice the weight where it is square; 12 (r (out + in) + m) for gradients and Adam's state, against 12 out·in. For
    a square layer a step takes 5/3 of the products of a plain one, 4/3 with `recompute=False`; every `resvd` draws, a
    decomposition of each layer.

    Args:
        config: an `SSTConfig`.

    Raises:
        UnsupportedModelError: no layer of the model is a target.
        InputError: the rank is above a matrix's smaller side; a weight is not finite.
    """

    slug = "sst"
    Config = SSTConfig
    touches = frozenset({"weights", "optimizer"})
    tasks = frozenset({"pretrain", "finetune"})
    exact: ClassVar[bool] = False
    quality: ClassVar[str] = "few singular vectors train at a time"
    one_device: ClassVar[str] = "vectors are not swapped between shards of a matrix"
    uniform = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.layers: list[SpectralLinear] = []  # one for each weight
        self._made: torch.optim.Optimizer | None = None
        self._hooks: list[Any] = []
        self._rates: list[tuple[dict[str, Any], Any]] = []
        self._decay = 0.0
        self._steps = 0

    def change(self, model: nn.Module) -> nn.Module:
        """Put factors in the place of linear layers' weights."""
        config, targets = self.config, self._targets(model)
        ranks = [self._rank(name, linear.weight) for name, linear in targets]  # before anything is changed
        made: dict[int, SpectralLinear] = {}
        by_weight: dict[int, SpectralLinear] = {}
        for (name, linear), rank in zip(targets, ranks, strict=True):
            layer = made[id(linear)] = SpectralLinear(
                linear,
                rank,
                name=name,
                enhanced=config.enhanced,
                recompute=config.recompute,
                like=by_weight.get(id(linear.weight)),
            )
            by_weight.setdefault(id(linear.weight), layer)
            linear.register_parameter("weight", None)  # so that never more than one weight is there beside its factors
        replace_modules(model, made)
        self.layers = list(by_weight.values())
        default = iterations_of_a_round(self.layers)
        self._resvd: int = default if config.resvd is None else config.resvd
        for number, layer in enumerate(self.layers):
            self._draw(number, layer)
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """The same optimizer, with a group of their own for factors."""
        return OtherOptimizer(self.make, factory)

    def make(self, model: nn.Module, factory: OptimizerFactory) -> torch.optim.Optimizer:
        """The optimizer of a changed model."""
        optimizer = factory(model)
        factors = [factor for layer in self.layers for factor in (layer.sigma, layer.u, layer.v)]
        ours = {id(factor) for factor in factors}
        others = optimizer.param_groups[:]
        settings = {name: value for name, value in others[0].items() if name != "params"}
        for group in others:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ours]
        optimizer.add_param_group({**settings, "params": factors, "weight_decay": 0.0, _GROUP: True})
        # Layer by layer and before the embedding, so that the planner sees one list of layers end where another begins.
        optimizer.param_groups[:] = [optimizer.param_groups[-1], *(group for group in others if group["params"])]
        self._made, self._decay = optimizer, factory.weight_decay
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_update),
            optimizer.register_step_post_hook(self._restore),
        ]
        return optimizer

    def after_step(self) -> None:
        """Project; at the end of an interval, begin anew with other vectors."""
        self._steps += 1
        ends = self._steps % self.config.interval == 0
        for number, layer in enumerate(self.layers):
            layer.project()
            if ends and self._turn() == 0:
                layer.decompose_again()
                self._forget(layer.sigma)
            if ends:
                self._draw(number, layer)

    def make_worst(self) -> None:
        """Let the next step end an interval and a round."""
        self._steps = self.config.interval * (self._resvd or 1) - 1

    def report(self) -> dict[str, Any]:
        """Draws and decompositions so far, and of each layer the rank, the directions, and how many values are 0."""
        draws = self._steps // self.config.interval
        return {
            "draws": draws + 1,
            "decompositions": 1 + (draws // self._resvd if self.layers and self._resvd else 0),
            "layers": {
                layer.name: {
                    "rank": layer.rank,
                    "directions": layer.directions,
                    "zero": int((layer.sigma == 0).sum()),
                }
                for layer in self.layers
            },
        }

    def finish(self, model: nn.Module) -> nn.Module:
        """Linear layers in the place of factors, and no hooks."""
        return self._replaced(model, SpectralLinear.plain)

    def prune(self, model: nn.Module, energy: float = 0.99) -> nn.Module:
        """In place of `finish`: every layer with as few singular values as have this share of their squares' sum.

        Returns:
            A model in which two `nn.Linear` stand for a layer wherever that takes fewer values.

        Raises:
            InputError: the share is not above 0 and at most 1.
        """
        if not 0 < energy <= 1:
            raise InputError(f"energy is {energy}: it must be above 0 and at most 1")
        return self._replaced(model, lambda layer: layer.pruned(energy))

    def state_dict(self) -> dict[str, Any]:
        """Steps done: all else stands in the model and in the optimizer."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after so many steps."""
        self._steps = int(state["steps"])

    # --- inside ------------------------------------------------------------------------------------------------------

    def _targets(self, model: nn.Module) -> list[tuple[str, nn.Linear]]:
        """The linear layers to factorise: not the head, nor one whose weight another kind of module has too."""
        heads = output_heads(model)
        foreign = {
            id(parameter)
            for module in model.modules()
            if type(module) is not nn.Linear or id(module) in heads
            for parameter in module._parameters.values()
        }
        wanted = [part.strip() for part in self.config.targets.split(",") if part.strip()]
        found = [
            (name, module)
            for name, module in model.named_modules()
            if type(module) is nn.Linear
            and module.weight.requires_grad
            and id(module.weight) not in foreign
            and min(module.weight.shape) >= _LEAST
            and (wanted == ["all-linear"] or any(part in name for part in wanted))
        ]
        if not found:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no trainable linear layer of {_LEAST} directions or more that"
                f" {self.config.targets!r} names"
            )
        return found

    def _rank(self, name: str, weight: Tensor) -> int:
        side = min(weight.shape)
        rank = max(1, side // 8) if self.config.rank is None else int(self.config.rank)
        if rank > side:
            raise InputError(f"rank is {rank}: {name}, {tuple(weight.shape)}, has {side} directions; lower it")
        check_finite(weight, name)
        return rank

    def _turn(self) -> int:
        """Draws since the last decomposition."""
        draws: int = self._steps // self.config.interval
        return draws % self._resvd if self._resvd else draws

    def _draw(self, number: int, layer: SpectralLinear) -> None:
        """Let other vectors of a layer train."""
        state: dict[str, Any] = {} if self._made is None else self._made.state.get(layer.sigma, {})
        shape = layer.sigma.shape
        moving = [value for value in state.values() if isinstance(value, Tensor) and value.shape == shape]
        layer.draw(self.config.sampler, self._turn(), self._generator(number, layer), moving)
        self._forget(layer.u, layer.v)

    def _generator(self, number: int, layer: SpectralLinear) -> torch.Generator:
        """Random numbers of this seed, layer and draw, so that a resumed training needs no generator's state."""
        seed = self.config.seed
        for one in (number, self._steps // self.config.interval):
            seed = (seed * 6364136223846793005 + one + 1442695040888963407) & _MOST_SEED
        return torch.Generator(device=layer.sigma.device).manual_seed(seed)

    def _forget(self, *parameters: nn.Parameter) -> None:
        """Let the optimizer's state of these begin anew."""
        if self._made is not None:
            for parameter in parameters:
                self._made.state.pop(parameter, None)

    def _before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Warm the rate up; let singular values decay, as AdamW's weights do, and vectors not, whose length is 1."""
        self._restore()
        since = self._steps % self.config.interval + 1
        for group in optimizer.param_groups:
            if not group.get(_GROUP):
                continue
            if since < self.config.warmup:
                self._rates.append((group, group["lr"]))
                group["lr"] = group["lr"] * since / self.config.warmup
            if self._decay:
                with torch.no_grad():
                    for layer in self.layers:
                        layer.sigma.mul_(1 - group["lr"] * self._decay)

    def _restore(self, *unused: Any) -> None:
        while self._rates:
            group, rate = self._rates.pop()
            group["lr"] = rate

    def _replaced(self, model: nn.Module, make: Any) -> nn.Module:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        made: dict[int, nn.Module] = {}
        by_weight: dict[int, Any] = {}
        for layer in model.modules():
            if isinstance(layer, SpectralLinear):
                new = made[id(layer)] = make(layer)
                before = by_weight.setdefault(id(layer.sigma), new)
                for one, other in zip(new.modules(), before.modules(), strict=True):
                    if isinstance(one, nn.Linear):
                        one.weight = other.weight
        replace_modules(model, made)
        return model
