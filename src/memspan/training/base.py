"""`Saver`: a change to a training step that makes it cost fewer bytes, and `Stack`, several of them as one.

A saver is a class and a frozen dataclass of its settings. It may replace any of the six things that a step consists of;
what it leaves alone is the step's own. The planner runs the very same methods on tensors without bytes, so a saver that
runs is thereby predicted: a formula (`estimate`) is needed only for what one process cannot run, other ranks.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from memspan.core.catalog import load as load_system
from memspan.core.catalog import systems
from memspan.core.errors import ConflictError, InputError
from memspan.core.footprint import Footprint
from memspan.training import ranks
from memspan.training.estimate import Estimate
from memspan.training.spec import TASKS, Spec

PARTS = ("weights", "layers", "tokens", "loss", "activations", "optimizer", "distribution")
"""What a step consists of, in the order in which savers change it.

*weights*: the modules, and which parameters train. *layers*: which layers train in a step. *tokens*: which tokens a
layer sees. *loss*: the output embedding and the loss. *activations*: what is kept for the backward pass. *optimizer*:
the update and its state. *distribution*: what each rank holds.
"""

STATES = "memspan"
"""Where an optimizer's `state_dict` has the savers' own states."""

Batch = Mapping[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]


class OptimizerFactory(Protocol):
    """Makes the optimizer of a model's trainable parameters.

    Attributes:
        lr, betas, eps, weight_decay: settings, for savers that bring an optimizer of their own.
    """

    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def eps(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...

    def __call__(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer; called once, after every saver has changed the model."""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """PyTorch's AdamW over all trainable parameters; vectors and scalars do not decay.

    Raises:
        InputError: the model has no parameter to train.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __call__(self, model: nn.Module) -> torch.optim.Optimizer:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trainable:
            raise InputError("no parameter of the model requires a gradient: nothing would be trained")
        groups: list[dict[str, Any]] = [{"params": trainable}]
        if self.weight_decay:
            groups = [
                {"params": [p for p in trainable if p.ndim > 1]},
                {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
            ]
            groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class OtherOptimizer:
    """A factory with the settings of another, which makes an optimizer of its own.

    Args:
        make: gives the optimizer of a model and these settings.
        before: the factory whose settings are taken.
    """

    make: Callable[[nn.Module, OptimizerFactory], torch.optim.Optimizer]
    before: OptimizerFactory

    @property
    def lr(self) -> float:
        """Learning rate."""
        return self.before.lr

    @property
    def betas(self) -> tuple[float, float]:
        """Decay rates of the moments."""
        return self.before.betas

    @property
    def eps(self) -> float:
        """Added to what is divided by."""
        return self.before.eps

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay."""
        return self.before.weight_decay

    def __call__(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer."""
        return self.make(model, self.before)


@dataclass(frozen=True, kw_only=True)
class SaverConfig:
    """Settings of a saver that has none."""


class Saver:
    """What every saver is. The base class changes nothing.

    Tensors that a saver keeps between steps stand where the ledger can tell what they are: in the optimizer's state
    (tier "optimizer"), or as parameters and buffers of the model (tier "weights"); anything else counts as activations.

    Class attributes (an instance may narrow them in `__init__`):
        slug: its name, as in the catalogue.
        touches: parts of a step, of `PARTS`, that it takes for itself; two savers cannot share one.
        brings, needs: things such as "adapters" that it puts into the model, and that another must have put there.
        excludes: slugs of savers with which it does not work, for another reason than a shared part.
        tasks: what it is for: "pretrain", "finetune", "lora".
        exact: the update is the plain one's but for rounding.
        quality: what is known to be lost, in a few words; "none" where it is exact.
        uniform: it treats all layers alike, so that a deep model may be predicted from a shallow one's steps.
        settles: layers that a model needs until further ones add the same to a step, where `uniform`; more than one
            where layers work ahead of one another.
        period: after how many layers the largest step repeats, where `uniform`; more than one where layers take turns.
        runs_alone: with several devices, the planner runs one rank of it in one process, the others left out; without,
            `estimate` is asked.
        one_device: why ranks cannot share a job with it; empty where they can.
        updates_in_backward: parameters are updated inside the backward pass, after which there are no gradients to clip
            or to add to.
    """

    slug: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = SaverConfig
    touches: frozenset[str] = frozenset()
    brings: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    excludes: frozenset[str] = frozenset()
    tasks: ClassVar[frozenset[str]] = frozenset(TASKS)
    exact: ClassVar[bool] = True
    quality: ClassVar[str] = "none"
    uniform: bool = False
    settles: int = 1
    period: int = 1
    runs_alone: ClassVar[bool] = False
    one_device: ClassVar[str] = ""
    updates_in_backward: bool = False

    def __init__(self, config: Any = None, **options: Any) -> None:
        if config is None:
            try:
                config = self.Config(**options)
            except TypeError as error:
                known = ", ".join(field.name for field in fields(self.Config)) or "none"
                raise InputError(f"{self.slug} has no such option ({error}); its options: {known}") from None
        elif options:
            raise InputError(f"{self.slug}: give a config or options, not both")
        self.config = config

    @property
    def name(self) -> str:
        """The slug and, as `find_saver` reads them, the settings that are not the default ones."""
        said = [self.slug]
        for field in fields(self.config):
            value = getattr(self.config, field.name)
            if isinstance(value, bool | int | float | str) and value != field.default:
                said.append(f"{field.name}={value}")
        return ":".join(said)

    # --- before the first step ---------------------------------------------------------------------------------------

    def check(self, spec: Spec) -> None:
        """Return if the saver can serve this job; called before any model is made.

        Raises:
            InputError, UnsupportedModelError: it cannot; the message says why and what would help.
        """
        self.check_ranks(spec.devices)

    def check_ranks(self, count: int) -> None:
        """Return if so many ranks can share a job.

        Raises:
            InputError: they cannot.
        """
        if count > 1 and self.one_device:
            raise InputError(f"{self.slug} works on one device: {self.one_device}")

    def change(self, model: nn.Module) -> nn.Module:
        """Change the model in place, or wrap it, before the optimizer exists; returns what is trained."""
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """What makes the optimizer."""
        return factory

    def prepare(self, model: nn.Module, optimizer_factory: OptimizerFactory) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimizer to train with, of this saver alone; `Stack` prepares several."""
        model = self.change(model)
        return model, self.optimizer(optimizer_factory)(model)

    # --- in every step -----------------------------------------------------------------------------------------------

    def batch(self, batch: Batch) -> Batch:
        """The part of a batch that this process computes."""
        return batch

    def loss(self, loss: Loss) -> Loss:
        """What computes the loss."""
        return loss

    def step_context(self) -> AbstractContextManager[None]:
        """Entered around the forward and the backward pass of every step."""
        return nullcontext()

    def clip(self, model: nn.Module, norm: float) -> None:
        """Scale the gradients down to this norm of all of them; asked of the saver that touches the distribution."""
        nn.utils.clip_grad_norm_(model.parameters(), norm)

    def after_step(self) -> None:
        """Called after every update, when gradients are gone."""

    def make_worst(self) -> None:
        """Make the next step the one that holds the most, where steps differ: a projector renewed, a layer drawn.

        The planner calls it before the step that it counts, once a first step was run.
        """

    # --- besides -----------------------------------------------------------------------------------------------------

    def row_ranks(self, devices: int) -> int:
        """Into how many parts `batch` divides the rows of a batch, where so many ranks share the job."""
        return 1

    def estimate(self, spec: Spec, before: Estimate) -> Estimate:
        """What a rank holds with this saver, from what it would hold without: by formula.

        Asked only of savers that touch the distribution, when `spec.devices` is more than one and their step cannot be
        run; all others are run.
        """
        return before

    def explain(self, spec: Spec, estimate: Estimate) -> list[str]:
        """Lines that derive what it saves, for `memspan plan --explain`; asked once the step was imagined."""
        return []

    def footprint(self) -> Footprint:
        """Bytes that it holds where the ledger does not look: files, host memory of accelerators."""
        return Footprint()

    def report(self) -> dict[str, Any]:
        """What it has done, as JSON types."""
        return {}

    def finish(self, model: nn.Module) -> nn.Module:
        """The trained model as a plain one, which loads without memspan; undoes what `change` did."""
        return model

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs besides model and optimizer: numbers, words, tensors in dicts and lists."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""


class Stack:
    """Several savers as one, in the order in which parts are changed; the order of the list does not matter.

    Args:
        savers: savers, or slugs of them (`find_saver`).

    Raises:
        ConflictError: two exclude each other, or one needs what none brings.
        InputError: a slug is not known or is planned only.
    """

    def __init__(self, savers: Sequence[Saver | str] = ()) -> None:
        found = [find_saver(saver) if isinstance(saver, str) else saver for saver in savers]
        for saver in found:
            if not isinstance(saver, Saver):
                raise InputError(f"a saver is a slug or a Saver, not {type(saver).__name__}")
        _check_together(found)
        self.savers: list[Saver] = sorted(found, key=_place)

    @property
    def slugs(self) -> tuple[str, ...]:
        """The savers' names."""
        return tuple(saver.slug for saver in self.savers)

    @property
    def names(self) -> tuple[str, ...]:
        """The savers' names with their settings, from which `Stack` makes them again."""
        return tuple(saver.name for saver in self.savers)

    @property
    def distributing(self) -> Saver | None:
        """The one that touches the distribution."""
        return next((saver for saver in self.savers if "distribution" in saver.touches), None)

    def row_ranks(self, devices: int) -> int:
        """Into how many parts the rows of a batch are divided, where so many ranks share the job."""
        one = self.distributing
        return 1 if one is None else one.row_ranks(devices)

    def check(self, spec: Spec) -> None:
        """Return if all can serve the job.

        Raises:
            InputError, UnsupportedModelError: one cannot.
        """
        for saver in self.savers:
            if spec.task not in saver.tasks:
                raise InputError(
                    f"{saver.slug} is for {' and '.join(t for t in TASKS if t in saver.tasks)}, not for {spec.task}"
                )
            saver.check(spec)

    def prepare(self, model: nn.Module, optimizer_factory: OptimizerFactory) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimizer to train with.

        The optimizer's `state_dict` has the savers' states too, so that whoever keeps model and optimizer, such as
        transformers' `Trainer` or accelerate, keeps all.

        Raises:
            InputError: several ranks share the job, and a saver works on one device.
        """
        for saver in self.savers:
            saver.check_ranks(ranks.count())
        for saver in self.savers:
            model = saver.change(model)
            optimizer_factory = saver.optimizer(optimizer_factory)
        optimizer = optimizer_factory(model)
        if self.savers:
            optimizer.register_state_dict_post_hook(self._give)
            optimizer.register_load_state_dict_pre_hook(self._take)
        return model, optimizer

    def _give(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        state[STATES] = {"savers": sorted(self.slugs), "states": self.state_dict()}

    def _take(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        held = state.pop(STATES, None)
        if held is None:
            return
        if held["savers"] != sorted(self.slugs):
            raise InputError(
                f"the optimizer's state is of a training with the savers {held['savers']}, not {sorted(self.slugs)}"
            )
        self.load_state_dict(held["states"])

    def batch(self, batch: Batch) -> Batch:
        """The part of a batch that this process computes."""
        for saver in self.savers:
            batch = saver.batch(batch)
        return batch

    def loss(self, loss: Loss) -> Loss:
        """What computes the loss."""
        for saver in self.savers:
            loss = saver.loss(loss)
        return loss

    @contextmanager
    def step_context(self) -> Iterator[None]:
        """All contexts, the last saver's innermost."""
        with ExitStack() as stack:
            for saver in self.savers:
                stack.enter_context(saver.step_context())
            yield

    def clip(self, model: nn.Module, norm: float) -> None:
        """Scale the gradients down to this norm of all of them, on all ranks."""
        one = self.distributing
        if one is not None:
            one.clip(model, norm)
        else:
            nn.utils.clip_grad_norm_(model.parameters(), norm)

    def after_step(self) -> None:
        """To be called after every update."""
        for saver in self.savers:
            saver.after_step()

    def make_worst(self) -> None:
        """Make the next step the one that holds the most."""
        for saver in self.savers:
            saver.make_worst()

    def estimate(self, spec: Spec, before: Estimate) -> Estimate:
        """What a rank holds, by the formula of the saver that touches the distribution."""
        one = self.distributing
        return before if one is None else one.estimate(spec, before)

    def explain(self, spec: Spec, estimate: Estimate) -> list[str]:
        """Lines that derive what the savers save."""
        return [line for saver in self.savers for line in saver.explain(spec, estimate)]

    def footprint(self) -> Footprint:
        """What all hold where the ledger does not look."""
        return sum((saver.footprint() for saver in self.savers), Footprint())

    def report(self) -> dict[str, dict[str, Any]]:
        """What each has done, by slug."""
        return {saver.slug: saver.report() for saver in self.savers}

    def finish(self, model: nn.Module) -> nn.Module:
        """The trained model as a plain one."""
        for saver in reversed(self.savers):
            model = saver.finish(model)
        return model

    def state_dict(self) -> dict[str, Any]:
        """The savers' own states, by slug."""
        return {saver.slug: state for saver in self.savers if (state := saver.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for saver in self.savers:
            if saver.slug in state:
                saver.load_state_dict(state[saver.slug])

    @property
    def exact(self) -> bool:
        """Whether the update is the plain one's but for rounding."""
        return all(saver.exact for saver in self.savers)

    @property
    def quality(self) -> str:
        """What is known to be lost."""
        return "; ".join(dict.fromkeys(saver.quality for saver in self.savers if not saver.exact)) or "none"


def find_saver(slug: str, **options: Any) -> Saver:
    """The saver of this name: one of the ordinary ones, or a working system of the catalogue.

    Args:
        slug: its name, behind which settings may stand: "zero:stage=2", "lemo:keep=0.25:block=32".
        options: settings.

    Raises:
        InputError: the name is not known, is planned only, or is no saver; or a setting is not known or malformed.
        MissingExtraError: a package it needs is not installed.
    """
    from memspan.training.ordinary import ORDINARY

    slug, *settings = slug.split(":")
    for setting in settings:
        key, given, value = setting.partition("=")
        if not (key.isidentifier() and given and value):
            raise InputError(f"{setting!r} is no setting of {slug}: settings are written {slug}:NAME=VALUE:NAME=VALUE")
        if key in options:
            raise InputError(f"{slug}: {key} is given twice")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    kind: type[Any] = ORDINARY[slug] if slug in ORDINARY else load_system(slug)
    if not issubclass(kind, Saver):
        raise InputError(f"{slug} is no saver; there are {', '.join(known_savers())}")
    saver: Saver = kind(**options)
    return saver


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor can be read: not while the planner runs the step on tensors that have shapes alone."""
    from torch._subclasses.fake_tensor import FakeTensor

    return not isinstance(tensor, FakeTensor)


def known_savers() -> list[str]:
    """The slugs that `find_saver` takes: the ordinary ones, then the catalogue's that work."""
    from memspan.training.ordinary import ORDINARY

    return [*ORDINARY, *(row.slug for row in systems("training", "working") if row.interface == "Saver")]


def _place(saver: Saver) -> int:
    return min((PARTS.index(part) for part in saver.touches), default=len(PARTS))


def _check_together(savers: Sequence[Saver]) -> None:
    holders: dict[str, Saver] = {}
    for saver in savers:
        unknown = saver.touches - set(PARTS)
        if unknown:
            raise InputError(f"{saver.slug} touches {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
        for part in sorted(saver.touches, key=PARTS.index):
            if part in holders:
                raise ConflictError(
                    f"{holders[part].slug} and {saver.slug} both change the {part} of a step: leave one of them out"
                )
            holders[part] = saver
        for other in savers:
            if other is not saver and other.slug in saver.excludes:
                raise ConflictError(f"{saver.slug} does not work together with {other.slug}: leave one of them out")
        missing = saver.needs - frozenset().union(*(other.brings for other in savers))
        if missing:
            raise ConflictError(
                f"{saver.slug} needs {' and '.join(sorted(missing))}, which no other saver of the list brings"
            )
