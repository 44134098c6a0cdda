"""IST (Yao et al., Findings of EMNLP 2024, arXiv 2410.11772): learns which layers' adapters matter, and trains a
quarter of them in each step.

Every layer has a score s, 0 at the start. A step trains int(0.25 N) layers, drawn without replacement in proportion to
sigmoid(-s); adapters of the others act and are frozen. Every 10 steps three sets of half the layers are drawn in
proportion to sigmoid(s), the adapters of each in turn are turned down to a quarter, and the loss L_k is computed; with
the reward r_k = exp(-L_k) - mean, each layer of the set gets s += 10 r_k sigmoid(s) (1 - sigmoid(s)). So s rises where
turning down hurts least: the lower it is, the more important is the layer. "rst" draws all layers alike, which is the
paper's control.

What is saved are activations: nothing is kept below the lowest layer that trains, and frozen adapters keep nothing of
their own; and gradients. Not saved is optimizer state, since in time every layer is drawn.

Notable choices. The functions of the official code are named for the opposite of what they draw from; its signs are
kept. Probes use the batch that is about to be trained on, not one drawn from the training set besides, or the loss of a
held-out set (`probe`). Draws depend on the seed and the step alone. Adapters are found as modules with `base_layer` and
`scaling`, in whatever lists of layers there are, where the official code lists six classes. `reward="normal"` (ours)
takes z-scores of -L_k, since exp(-L) vanishes where the loss is large. Where the loss is chunked, probes are too.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training.base import OptimizerFactory, OtherOptimizer, Saver, has_values

POLICIES = ("ist", "rst", "fixed")
REWARDS = ("exp", "normal")
_MOST_DRAWS = 100  # for sets that differ


@dataclass(frozen=True, kw_only=True)
class IstConfig:
    """Settings of IST; defaults are the official code's.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    policy: str = "ist"  # "ist", "rst" (all layers alike) or "fixed" (those of `layers`)
    layers: str = ""  # which train, with the policy "fixed": numbers with commas between
    fraction: float = 0.25  # of the layers, trained in a step; at least one
    every: int = 10  # steps from one probe to the next
    trials: int = 3  # rl_step, sets of layers in a probe
    suppress: float = 0.25  # factor of the adapters' scaling while they are turned down
    suppress_fraction: float = 0.5  # of the layers, in a set
    lr: float = 10.0  # rl_lr, of the scores
    reward: str = "exp"  # exp(-loss) less its mean, or "normal": z-scores of -loss (ours)
    seed: int = 0  # of all draws

    def __post_init__(self) -> None:
        for name, known in (("policy", POLICIES), ("reward", REWARDS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(known)}")
        for name in ("fraction", "suppress_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must lie in (0, 1]")
        for name, least in (("every", 1), ("trials", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if not 0 <= self.suppress < 1:
            raise InputError(f"suppress is {self.suppress}: it must lie in [0, 1)")
        if not self.lr > 0:
            raise InputError(f"lr is {self.lr}: it must be above 0")
        if bool(self.layers) != (self.policy == "fixed"):
            raise InputError(f"layers go with the policy fixed, and it with them; policy is {self.policy}")


class Ist(Saver):
    """Trains the adapters of a few layers in each step, drawn by learned importance, at random, or fixed.

    When to use: beside `lora`, `randlora` or another saver that brings adapters, where activations are most of the
    memory; a large share is saved only in steps whose lowest layer is high, and the planner reckons with the worst.
    Relations: `checkpointing` saves more of the activations and recomputes them; both together are less than each.

    In a loop of one's own with a model of PEFT: `model, optimizer = Ist().prepare(model, AdamW())`, and
    `with saver.step_context():` around the passes of each step. `torch.compile` compiles anew for each set of layers,
    and DistributedDataParallel needs `find_unused_parameters=True`.

    Cost: one score for each layer; every `every` steps `trials` forward passes without gradients.

    Args:
        config: an `IstConfig`.
        probe: gives the loss, a scalar, of a model on a held-out set; None takes the model's own loss on the batch
            that comes next.

    Raises:
        UnsupportedModelError: no list of the model's layers holds adapters, or they cannot be turned down.
        InputError: there is only one layer, a fixed one does not exist, or the model gives no loss to probe with.
    """

    slug = "ist"
    Config = IstConfig
    touches = frozenset({"layers"})
    needs = frozenset({"adapters"})
    tasks = frozenset({"finetune", "lora"})
    exact: ClassVar[bool] = False
    quality: ClassVar[str] = "a quarter of the layers' adapters trained in each step"
    one_device: ClassVar[str] = "ranks that share parameters cannot freeze some of them by step"

    def __init__(self, config: Any = None, probe: Callable[[nn.Module], Tensor] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._probe_loss = probe
        self._layers: list[nn.Module] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self.scores: list[float] = []
        self.trained: list[int] = []
        self._step = self._probes = 0
        self._forced: list[int] | None = None
        # Where one layer of every so many trains, those of the largest step are spread like that, and the step repeats.
        period = round(1 / self.config.fraction)
        shares = all(int(self.config.fraction * period * n) == n for n in range(1, 100))
        self.uniform = shares and self.config.policy != "fixed"
        self.period = self.settles = period if self.uniform else 1

    def change(self, model: nn.Module) -> nn.Module:
        """Find the layers; nothing is changed, and nothing frozen before the optimizer has all adapters."""
        self._model = model
        self._layers = adapted_layers(model)
        count = len(self._layers)
        if self.config.policy == "ist":
            for layer in self._layers:
                if not _adapters(layer):
                    raise UnsupportedModelError("ist: adapters without a scaling cannot be turned down; policy=rst can")
        self._fixed = _numbers(self.config.layers, count)
        self.scores, self.trained = [0.0] * count, [0] * count
        self._warned = False
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """The same; the optimizer that it makes is kept."""
        return OtherOptimizer(self._make, factory)

    def _make(self, model: nn.Module, factory: OptimizerFactory) -> torch.optim.Optimizer:
        """The factory's own optimizer, which is kept: its state is filled where the planner asks for the worst."""
        made = self._optimizer = factory(model)
        return made

    def importance(self) -> list[float]:
        """Of each layer, -sigmoid(s): the higher, the more it matters; all -0.5 at the start."""
        return [-_sigmoid(score) for score in self.scores]

    def report(self) -> dict[str, Any]:
        """Importance of each layer, how often each was trained, and the number of probes."""
        return {"importance": self.importance(), "trained": list(self.trained), "probes": self._probes}

    @contextmanager
    def step_context(self) -> Iterator[None]:
        """Freeze all layers but those drawn, and probe where it is time."""
        chosen = self._forced or self._draw()
        due = self.config.policy == "ist" and (
            self._forced is not None or (self._step > 0 and self._step % self.config.every == 0)
        )
        self._forced = None
        frozen = [p for at, layer in enumerate(self._layers) if at not in chosen for p in layer.parameters()]
        frozen = [parameter for parameter in frozen if parameter.requires_grad]
        hooks = []
        if not self._warned:
            self._warned = True
            hooks.append(self._layers[0].register_forward_pre_hook(_warn_of_input))
        if due and self._probe_loss is not None:
            self._probe(lambda: self._probe_loss(self._model))  # type: ignore[misc]
        elif due:
            hooks.append(self._model.register_forward_pre_hook(self._probe_next, with_kwargs=True))
        for parameter in frozen:
            parameter.requires_grad_(False)
            parameter.grad = None  # not zero, which would let momentum and decay move it
        self._hooks = hooks
        try:
            yield
            self._step += 1
            for at in chosen:
                self.trained[at] += 1
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in frozen:
                parameter.requires_grad_()

    def make_worst(self) -> None:
        """The next step probes and trains the lowest layer, and the optimizer has the state of all."""
        count = len(self._layers)
        size = len(self._draw())
        if self.config.policy != "fixed":
            self._forced = [0, *range(count - 1, 0, -self.period)][:size]
        if self._optimizer is not None and self.config.policy != "fixed":
            _fill(self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Scores and counts."""
        return {"scores": list(self.scores), "trained": list(self.trained), "step": self._step, "probes": self._probes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if len(state["scores"]) != len(self.scores):
            raise InputError(f"ist: the state is of {len(state['scores'])} layers, the model has {len(self.scores)}")
        self.scores, self.trained = list(state["scores"]), list(state["trained"])
        self._step, self._probes = state["step"], state["probes"]

    # --- draws and probes --------------------------------------------------------------------------------------------

    def _draw(self) -> list[int]:
        """The layers to train in this step."""
        if self.config.policy == "fixed":
            return self._fixed
        chance = random.Random(f"{self.config.seed} {self._step} train")
        weights = [1.0 if self.config.policy == "rst" else _sigmoid(-score) for score in self.scores]
        return _drawn(chance, weights, max(1, int(self.config.fraction * len(self.scores))))

    def _probe_next(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a forward pass: probe with its batch."""
        self._hooks.pop().remove()

        def loss() -> Tensor:
            found: Any = getattr(module(*args, **kwargs), "loss", None)
            if not isinstance(found, Tensor):
                raise InputError(f"ist: {type(module).__name__} gives no loss to probe with: pass one as probe")
            return found

        self._probe(loss)

    def _probe(self, loss: Callable[[], Tensor]) -> None:
        """Turn sets of layers down, and score them by the loss."""
        config = self.config
        chance = random.Random(f"{config.seed} {self._step} probe")
        count = len(self.scores)
        size = max(1, int(config.suppress_fraction * count))
        weights = [_sigmoid(score) for score in self.scores]
        sets: list[list[int]] = []
        for _ in range(_MOST_DRAWS):
            drawn = sorted(_drawn(chance, weights, size))
            if drawn not in sets:
                sets.append(drawn)
            if len(sets) == config.trials:
                break
        losses: list[Tensor] = []
        with evaluating(self._model), torch.no_grad():
            for drawn in sets:
                with turned_down([self._layers[at] for at in drawn], config.suppress):
                    losses.append(loss().detach())
        self._probes += 1
        if not all(has_values(one) for one in losses):
            return
        rewards = _rewards([float(one) for one in losses], config.reward)
        for drawn, reward in zip(sets, rewards, strict=True):
            for at in drawn:
                share = _sigmoid(self.scores[at])
                self.scores[at] += config.lr * reward * share * (1 - share)


def adapted_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that hold something to train, from its outermost lists of two or more such layers.

    Raises:
        UnsupportedModelError: there is no such list; the message names the lists there are.
    """
    found: list[nn.Module] = []
    inside: set[int] = set()
    lists: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or id(module) in inside:
            continue
        lists.append(f"{name} ({len(module)})")
        held = [one for one in module if any(parameter.requires_grad for parameter in one.parameters())]
        if len(held) > 1:
            found += held
            inside |= {id(inner) for inner in module.modules()}
    if not found:
        raise UnsupportedModelError(
            f"ist: no list of layers in {type(model).__name__} holds two or more with adapters; "
            f"lists: {', '.join(lists) or 'none'}"
        )
    return found


@contextmanager
def turned_down(layers: Sequence[nn.Module], factor: float) -> Iterator[None]:
    """Adapters of these layers have their scaling multiplied inside.

    `scaling` is a number, or, in PEFT, a dict of numbers by adapter.
    """
    before: list[tuple[Any, Any]] = []
    try:
        for layer in layers:
            for module in _adapters(layer):
                scaling = module.scaling
                before.append((module, dict(scaling) if isinstance(scaling, dict) else scaling))
                if isinstance(scaling, dict):
                    for name in scaling:
                        scaling[name] = scaling[name] * factor
                else:
                    module.scaling = scaling * factor
        yield
    finally:
        for module, scaling in reversed(before):
            if isinstance(scaling, dict):
                module.scaling.update(scaling)
            else:
                module.scaling = scaling


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, but for modules whose forward a saver has replaced: their loss stays as it trains."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            if "forward" not in module.__dict__:
                module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _adapters(layer: nn.Module) -> list[Any]:
    return [module for module in layer.modules() if hasattr(module, "base_layer") and hasattr(module, "scaling")]


def _numbers(named: str, count: int) -> list[int]:
    try:
        found = sorted({int(one) for one in named.split(",") if one.strip()})
    except ValueError:
        raise InputError(f"layers is {named!r}: it must be numbers with commas between") from None
    if any(not 0 <= one < count for one in found):
        raise InputError(f"layers is {named!r}: the model's layers with adapters are 0 to {count - 1}")
    return found


def _drawn(chance: random.Random, weights: Sequence[float], size: int) -> list[int]:
    """`size` different numbers, one after the other in proportion to the weights (Efraimidis and Spirakis 2006)."""
    keys = [math.log(1 - chance.random()) / max(weight, 1e-12) for weight in weights]
    return sorted(range(len(weights)), key=lambda at: keys[at], reverse=True)[:size]


def _rewards(losses: Sequence[float], kind: str) -> list[float]:
    values = [math.exp(-loss) if kind == "exp" else -loss for loss in losses]
    mean = fmean(values)
    spread = pstdev(values) if kind == "normal" else 1.0
    return [(value - mean) / spread if spread else 0.0 for value in values]


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score)) if score > 0 else math.exp(score) / (1 + math.exp(score))


def _warn_of_input(module: nn.Module, args: Any) -> None:
    if args and isinstance(args[0], Tensor) and args[0].requires_grad:
        warnings.warn(
            "ist: the input of the first layer requires a gradient (embeddings train, or enable_input_require_grads "
            "was called), so that activations are kept from there on, whatever is drawn",
            stacklevel=2,
        )


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer the state of all its parameters, by a step of gradients that are zero, at a rate of zero."""
    rates = [group["lr"] for group in optimizer.param_groups]
    empty = [p for group in optimizer.param_groups for p in group["params"] if not optimizer.state.get(p)]
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0.0  # a tensor, in some optimizers
    for parameter in empty:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in empty:
        parameter.grad = None
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
