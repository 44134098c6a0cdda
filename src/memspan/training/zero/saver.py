"""The saver `zero`, and its settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memspan.core.budget import format_bytes, parse_bytes
from memspan.core.errors import InputError, UnsupportedModelError
from memspan.training import ranks
from memspan.training.base import Batch, Loss, OptimizerFactory, OtherOptimizer, Saver, has_values
from memspan.training.estimate import STAGES, Estimate, model_states, replicated, sharded
from memspan.training.ordinary import IGNORED, language_model
from memspan.training.reducing import GradientReducer
from memspan.training.spec import Spec
from memspan.training.zero import layers
from memspan.training.zero.optimizer import OwnedState, check_divisible
from memspan.training.zero.residual import Inputs, attach, detach

ACTIVATIONS = ("keep", "checkpoint", "partition")


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """Settings of ZeRO.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    stage: int = 3  # 1: P_os, 2: P_os+g, 3: P_os+g+p; 0 splits nothing
    reshard: bool = True  # stage 3: drop a layer's weights after its forward pass, and gather them again
    bucket: str | int = "25MiB"  # C_B, of the buffer for gradients in stages 0 to 2 (DeepSpeed: 5e8 elements)
    activations: str = "keep"  # or "checkpoint": layer inputs alone, or "partition": those split over M ranks (P_a)
    model_parallel: int = 1  # M, ranks next to one another that have the same rows (the paper's model parallelism)
    offload: bool = False  # layer inputs in the memory of the host (P_a+cpu)
    arena: bool = True  # M_D, layer inputs in one arena

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage is {self.stage!r}: ZeRO has the stages {', '.join(map(str, STAGES))}")
        if self.activations not in ACTIVATIONS:
            raise InputError(f"activations is {self.activations!r}: it must be one of {', '.join(ACTIVATIONS)}")
        if self.model_parallel < 1:
            raise InputError(f"model_parallel is {self.model_parallel}: it must be at least 1")
        if self.activations == "partition" and self.model_parallel == 1:
            raise InputError(
                "activations cannot be split: no two ranks have the same ones, unless model_parallel is above 1"
            )
        if self.offload and self.activations == "keep":
            raise InputError("offload is for layer inputs: set activations to checkpoint or partition")
        parse_bytes(self.bucket)


class Zero(Saver):
    """Splits the optimizer's state, the gradients and the weights over the ranks of a data-parallel training.

    When to use: several devices, of which each computes a whole row, and the model's states do not fit in one.
    Relations: `sequence-parallelism` splits the rows and keeps whole states.

    Cost: in stages 1 and 2 as much is sent as in plain data parallelism, in stage 3 half as much again. Beside its
    share a rank holds, in stage 3, a layer's weights and gradients whole, with a buffer of each: that is the floor.

    Args:
        config: a `ZeroConfig`.

    Raises:
        InputError: the ranks, or the rows of a batch, cannot be divided.
        UnsupportedModelError: a parameter is no floating-point tensor; the optimizer is none of PyTorch's.
    """

    slug = "zero"
    Config = ZeroConfig
    touches = frozenset({"distribution"})
    exact: ClassVar[bool] = True
    settles = 2  # the weights of the next layer are gathered while one computes
    runs_alone: ClassVar[bool] = True

    def __init__(self, config: Any = None, **options: Any) -> None:
        super().__init__(config, **options)
        if self.config.activations != "keep":
            self.touches = frozenset({"distribution", "activations"})
        self.uniform = self.config.stage in (0, 3)  # else the tensors of a deeper model are dealt to other ranks
        self._group: Any = None  # of the ranks with rows of their own; None while there is nothing to share
        self._data = self._place = 1
        self._reducer: GradientReducer | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._inputs: Inputs | None = None
        self._held: list[dict[str, int]] = []

    def check(self, spec: Spec) -> None:
        """Refuse a number of devices that model parallelism does not divide."""
        self._divide(spec.devices)

    def row_ranks(self, devices: int) -> int:
        """All ranks, but those that have the same rows."""
        return self._divide(devices)

    def _divide(self, devices: int) -> int:
        degree: int = self.config.model_parallel
        if devices % degree:
            raise InputError(f"model_parallel is {degree}: {devices} ranks cannot be divided by it")
        return devices // degree

    # --- before the first step ---------------------------------------------------------------------------------------

    def change(self, model: nn.Module) -> nn.Module:
        """Give all ranks the first one's weights, and split them or see to the gradients."""
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                raise UnsupportedModelError(f"zero cannot split {name}, which is of {parameter.dtype}: leave it out")
        self._group = None
        if not ranks.shares(model):
            if ranks.count() == 1 and all(has_values(one) for one in model.parameters()):
                warnings.warn("zero: there is one rank, nothing is split; start several with torchrun", stacklevel=2)
            return self._recompute(model, None)
        degree = self.config.model_parallel
        device = next(model.parameters()).device.type
        mesh = ranks.mesh({"data": self._divide(ranks.count()), "model": degree}, device)
        ranks.copy_first(model)
        self._group = mesh.get_group("data")
        self._data, self._place = dist.get_world_size(self._group), dist.get_rank(self._group)
        model = self._recompute(model, mesh.get_group("model") if degree > 1 else None)
        if self.config.stage == 3:
            layers.shard(model, mesh["data"], reshard=self.config.reshard)
        return model

    def _recompute(self, model: nn.Module, group: Any) -> nn.Module:
        config = self.config
        if config.activations != "keep":
            split = group if config.activations == "partition" else None
            self._inputs = Inputs(split, offload=config.offload, in_arena=config.arena)
            attach(language_model(model), self._inputs)
        return model

    def optimizer(self, factory: OptimizerFactory) -> OptimizerFactory:
        """What makes an optimizer that holds a part of the state."""
        return OtherOptimizer(self._make, factory) if self._group is not None else factory

    def _make(self, model: nn.Module, factory: OptimizerFactory) -> torch.optim.Optimizer:
        """The optimizer of this rank, in the place of one that would hold all state."""
        made = factory(model)
        check_divisible(made)
        stage, owners = self.config.stage, None
        if stage in (1, 2):
            made = OwnedState(made, self._group)
            owners = made.owners
        if stage < 3:
            bucket = parse_bytes(self.config.bucket)
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            self._reducer = GradientReducer(trained, self._group, owners=owners, free=stage == 2, bucket=bucket)
        self._optimizer = made
        return made

    # --- in every step -----------------------------------------------------------------------------------------------

    def batch(self, batch: Batch) -> Batch:
        """This rank's rows: every tensor is divided along its first dimension.

        Raises:
            InputError: a tensor's rows cannot be divided by the ranks.
        """
        if self._group is None:
            return batch
        part: dict[str, Any] = {}
        for name, value in batch.items():
            part[name] = value
            if isinstance(value, Tensor) and value.ndim:
                if value.shape[0] % self._data:
                    raise InputError(
                        f"a batch of {value.shape[0]} rows ({name}) cannot be divided by {self._data} ranks"
                    )
                part[name] = value.chunk(self._data)[self._place]
        return part

    def loss(self, loss: Loss) -> Loss:
        """The mean over the tokens of all ranks."""
        if self._group is None:
            return loss

        def common(model: nn.Module, batch: Batch) -> Tensor:
            labels = batch.get("labels")
            kept = None
            if isinstance(labels, Tensor) and labels.ndim == 2 and not labels.is_floating_point():
                kept = (labels[:, 1:] != IGNORED).sum()
            return ranks.common_mean(loss(model, batch), kept, self._group)

        return common

    @contextmanager
    def step_context(self) -> Iterator[None]:
        """Sees to the gradients that are left after the backward pass."""
        try:
            yield
        except BaseException:
            if self._reducer is not None:
                self._reducer.reset()
            raise
        finally:
            if self._inputs is not None:
                self._inputs.end_step()
        if self._reducer is not None:
            self._reducer.settle()

    def clip(self, model: nn.Module, norm: float) -> None:
        """Scale the gradients down to this norm of all of them, which no rank alone has in stages 1 and 2."""
        if not isinstance(self._optimizer, OwnedState):
            nn.utils.clip_grad_norm_(model.parameters(), norm)
            return
        owned = [p.grad for p, owner in self._optimizer.owners.items() if owner == self._place and p.grad is not None]
        device = next(model.parameters()).device
        square = torch.zeros((), device=device)
        for gradient in owned:
            square += gradient.float().square().sum()
        dist.all_reduce(square, group=self._group)
        factor = (norm / (square.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in owned:
            gradient.mul_(factor.to(gradient.dtype))

    # --- besides -----------------------------------------------------------------------------------------------------

    def estimate(self, spec: Spec, before: Estimate) -> Estimate:
        """By the formula of the stage, where a rank's step cannot be run."""
        if self.config.stage == 0:
            return replicated(spec, before)
        return sharded(spec, before, stage=self.config.stage)

    def explain(self, spec: Spec, estimate: Estimate) -> list[str]:
        """The table of the stages, for the dtype of the job and for the paper's mixed precision."""
        if spec.devices == 1:
            return []
        size, count, shared = spec.torch_dtype.itemsize, estimate.trainable, self._divide(spec.devices)
        lines = [
            f"  zero         Ψ = {count:,} that train, N = {shared}; bytes of a rank by stage, without activations:"
        ]
        for title, w, g, k in ((spec.dtype, size, size, 2 * size), ("mixed precision, as in the paper", 2, 2, 12)):
            lines.append(f"    {title}: {w} of weights, {g} of gradients, {k} of optimizer state for each")
            for stage in STAGES:
                states = model_states(count, stage=stage, ranks=shared, weight=w, gradient=g, state=k)
                parts = (("weights", w, 3), ("gradients", g, 2), ("optimizer", k, 1))
                terms = [f"{each}Ψ/N" if stage >= least else f"{each}Ψ" for _, each, least in parts]
                mark = "  <- this one" if stage == self.config.stage and title == spec.dtype else ""
                total = sum(states.values())
                sent = "3Ψ" if stage == 3 else "2Ψ"
                lines.append(f"      stage {stage}: {' + '.join(terms):<24} = {total / 1e9:,.4g} GB, {sent} sent{mark}")
        whole = 2 * estimate.unit if self.config.stage == 3 else 0
        if whole:
            lines.append(f"    the largest layer is whole while it computes, with a buffer: {format_bytes(whole)} more")
        return lines

    def report(self) -> dict[str, Any]:
        """Stage and ranks, and bytes at rest of the fullest rank and on average; at the end of a training."""
        found: dict[str, Any] = {"stage": self.config.stage, "ranks": max(1, len(self._held))}
        for name in self._held[0] if self._held else ():
            held = [one[name] for one in self._held]
            found[name] = {"most": max(held), "mean": round(sum(held) / len(held))}
        return found

    def finish(self, model: nn.Module) -> nn.Module:
        """The trained model, plain; where weights were split (stage 3) only the first rank has their values."""
        if self._reducer is not None:
            self._reducer.close()
        if self._group is not None:
            self._held = ranks.from_all(_at_rest(model, self._optimizer))
            if self.config.stage == 3:
                layers.gather(model)
        if self._inputs is not None:
            detach(language_model(model))
        self._group = self._reducer = self._inputs = None
        return model


def _at_rest(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, int]:
    """Bytes of the weights and the optimizer's state that this rank has."""
    from memspan.core.ledger.tensors import storages, tensors_in

    def nbytes(tensors: Any) -> int:
        found = {id(one): one.nbytes() for tensor in tensors for one in storages(tensor)}
        return sum(found.values())

    state = [] if optimizer is None else list(optimizer.state.values())
    return {"weights": nbytes(model.parameters()), "optimizer": nbytes(list(tensors_in(state)))}
