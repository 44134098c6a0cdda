"""The saver: settings, which layers are adapted, and a plain model at the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from memspan.core.errors import ConflictError, InputError, UnsupportedModelError
from memspan.training.base import OptimizerFactory, OtherOptimizer, Saver
from memspan.training.modules import output_heads, replace_modules
from memspan.training.randlora.basis import KINDS, Basis, make_basis, needed
from memspan.training.randlora.layer import ROUTES, RandLoraLinear, shape_of

SCALES = ("paper", "peft")
_FEW = 4  # ranks below train nearly as many numbers as the weight has


@dataclass(frozen=True, kw_only=True)
class RandLoraConfig:
    """Settings of RandLoRA.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    rank: int = 32  # r; the lower it is, the more is trained: d²/r + d numbers of a layer
    scale: str = "paper"  # of the update: alpha / (r sqrt(n)) as in the official code, or alpha / r as in "peft"
    alpha: float | None = None  # None: 2 r (paper's tables), or 20 r with the scale of PEFT (its default)
    dropout: float = 0.0  # of the update's input (paper, language models: 0.05)
    targets: str = "all-linear"  # names of layers with commas between, or all linear ones but the head
    basis: str = "uniform"  # entries: "uniform", "normal", "binary" or "ternary"
    s: float | None = 6.0  # ternary entries are 1 or -1 with a probability of 2 / s; None: s = sqrt(D)
    seed: int = 0  # of the basis
    route: str = "auto"  # of the products: "factors" as PEFT has it, "product", or whichever is cheaper
    decay: bool = False  # weight decay, which would pull Γ and with it the update to 0

    def __post_init__(self) -> None:
        for name, known in (("scale", SCALES), ("basis", KINDS), ("route", ROUTES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(known)}")
        if self.rank < 1:
            raise InputError(f"rank is {self.rank}: it must be at least 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: it must be at least 0")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise InputError(f"alpha is {self.alpha}: it must be above 0")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}: it must lie in [0, 1)")
        if self.s is not None and not 2 <= self.s < math.inf:
            raise InputError(f"s is {self.s}: it must be at least 2")

    def scaling(self, count: int) -> float:
        """s of a layer with n = `count` bases."""
        alpha = self.alpha or (2 if self.scale == "paper" else 20) * self.rank
        return alpha / self.rank / (math.sqrt(count) if self.scale == "paper" else 1.0)


class RandLora(Saver):
    """Freezes the model and trains, beside each linear layer, an update of full rank by its scales alone.

    When to use: finetuning where more rank of `lora` no longer helps, above all with much data; with little data LoRA
    was better in the paper, and in PEFT's comparison on mathematical problems both were as accurate, with RandLoRA
    slower and more forgetful. Relations: `lora` spends the same numbers on few directions, precisely; `ist` samples the
    layers whose adapters train, of either.

    Cost: d²/r + d trained numbers for a layer with the smaller side d, and, once for the model, a basis of about D d
    numbers of two bytes, or of two bits where they are binary or ternary. Kept for the backward pass is each layer's
    input, or what B makes of it, where that is smaller: d numbers a token, d rounded up to a multiple of r.

    Args:
        config: a `RandLoraConfig`.

    Raises:
        UnsupportedModelError: no layer of the model is a target, or one is not linear.
        ConflictError: a layer has an adapter already.
    """

    slug = "randlora"
    Config = RandLoraConfig
    touches = frozenset({"weights"})
    brings = frozenset({"adapters"})
    tasks = frozenset({"finetune", "lora"})
    exact: ClassVar[bool] = False
    quality: ClassVar[str] = "updates of full rank with few degrees of freedom"
    uniform = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._layers: list[RandLoraLinear] = []
        self._frozen: list[nn.Parameter] = []

    def change(self, model: nn.Module) -> nn.Module:
        """Put the adapters in, or take those that `load_adapter` has put in; all else is frozen."""
        layers = adapters(model)
        self._frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        if not layers:
            found = targets(model, self.config.targets)
            shapes = [shape_of(module) for module in found.values()]
            self._warn(shapes)
            s = self.config.s or math.sqrt(max(max(shape) for shape in shapes))
            basis = make_basis(self.config.basis, self.config.rank, shapes, self.config.seed, s)
            adapt(model, found, basis, self.config)
            layers = adapters(model)
        self._layers = list(layers.values())
        own = {id(parameter) for layer in self._layers for parameter in (layer.randlora_lambda, layer.randlora_gamma)}
        self._frozen = [parameter for parameter in self._frozen if id(parameter) not in own]
        for layer in self._layers:
            layer.randlora_lambda.requires_grad_()
            layer.randlora_gamma.requires_grad_()
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """The same without weight decay, unless it is asked for."""
        return factory if self.config.decay or not factory.weight_decay else _Undecayed(_undecayed, factory)

    def report(self) -> dict[str, Any]:
        """Layers, what is trained, what the basis takes, and the rank at which LoRA would train as many numbers."""
        if not self._layers:
            return {}
        trained = sum(one.randlora_lambda.numel() + one.randlora_gamma.numel() for one in self._layers)
        sides = sum(sum(one.shape) for one in self._layers)
        return {
            "layers": len(self._layers),
            "trainable": trained,
            "trainable_bytes": trained * 4,
            "basis_bytes": self._layers[0].basis.nbytes,
            "lora_rank": round(trained / sides, 2),
        }

    def finish(self, model: nn.Module) -> nn.Module:
        """The base model with the updates added to its weights."""
        for parameter in self._frozen:
            parameter.requires_grad_()
        return merge_adapters(model)

    def state_dict(self) -> dict[str, Any]:
        """What the basis, which is no part of the checkpoint, must agree on."""
        return {"basis": self._layers[0].basis.checksum()} if self._layers else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare the basis.

        Raises:
            InputError: this machine's torch made other random numbers from the seed.
        """
        check(self._layers[0].basis, state["basis"], "the checkpoint")

    def _warn(self, shapes: Sequence[tuple[int, int]]) -> None:
        rank = self.config.rank
        if rank < _FEW:
            warnings.warn(
                f"randlora: rank {rank} trains nearly as much as the weights are; it falls with r", stacklevel=4
            )
        elif rank > min(min(shape) for shape in shapes):
            warnings.warn(
                f"randlora: rank {rank} is above the smaller side of a layer, which has one base", stacklevel=4
            )


class _Undecayed(OtherOptimizer):
    """A factory without weight decay."""

    @property
    def weight_decay(self) -> float:
        """None."""
        return 0.0


def _undecayed(model: nn.Module, factory: OptimizerFactory) -> torch.optim.Optimizer:
    made = factory(model)
    for group in made.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    return made


def adapters(model: nn.Module) -> dict[str, RandLoraLinear]:
    """The adapted layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, RandLoraLinear)}


def adapt(model: nn.Module, found: dict[str, nn.Module], basis: Basis, config: RandLoraConfig) -> None:
    """Put adapters around these layers, whose parameters are frozen."""
    new: dict[int, Any] = {}
    for name, module in found.items():
        basis.serve(name, shape_of(module))
        module.requires_grad_(False)
        weight: Any = module.weight
        basis.to(weight.device)
        scaling = config.scaling(needed(shape_of(module), basis.rank)[2])
        new[id(module)] = RandLoraLinear(module, basis, scaling=scaling, dropout=config.dropout, route=config.route)
    replace_modules(model, new)


def merge_adapters(model: nn.Module) -> nn.Module:
    """The model with every update added to its weight, and without adapters; in place."""
    replace_modules(model, {id(layer): layer.plain() for layer in adapters(model).values()})
    return model


def remove_adapters(model: nn.Module) -> nn.Module:
    """The model as it was before it was adapted, bit by bit; in place. Its parameters stay frozen."""
    replace_modules(model, {id(layer): layer.base_layer for layer in adapters(model).values()})
    return model


def targets(model: nn.Module, wanted: str) -> dict[str, nn.Module]:
    """The layers to adapt, by name.

    Raises:
        UnsupportedModelError: there is none, or one that is named is not linear.
        ConflictError: one has an adapter already.
    """
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    everything = parts == ["all-linear"]
    heads = output_heads(model)
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if everything and (not is_linear(module) or id(module) in heads):
            continue
        if not everything and not any(name == part or name.endswith("." + part) for part in parts):
            continue
        if hasattr(module, "base_layer"):
            raise ConflictError(f"{name} has an adapter already: finish or remove it first")
        if not is_linear(module):
            raise UnsupportedModelError(f"{name} is a {type(module).__name__}: RandLoRA is for linear layers only")
        found[name] = module
    if not found:
        raise UnsupportedModelError(f"{type(model).__name__} has no linear layer that {wanted!r} names{_names(model)}")
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a layer is `nn.Linear` or transformers' `Conv1D`, and no subclass, which might compute something else."""
    if type(module) is nn.Linear:
        return True
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def check(basis: Basis, wanted: Sequence[float], where: str) -> None:
    """Return if a basis is that of a checksum.

    Raises:
        InputError: it is not.
    """
    if basis.checksum() != list(wanted):
        raise InputError(
            f"the basis of {where} is not the one that this machine makes of its seed: other settings, or a torch that"
            " draws other numbers; load an adapter that was saved with its basis"
        )


def _names(model: nn.Module) -> str:
    last: Iterable[str] = {name.rsplit(".", 1)[-1] for name, one in model.named_modules() if is_linear(one)}
    return f"; there are {', '.join(sorted(last)[:12])}" if last else ""
