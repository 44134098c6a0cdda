"""Which savers together make a job fit, best first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memspan.core.budget import format_bytes, parse_bytes
from memspan.core.errors import BudgetError, InputError, MissingExtraError, ModelError
from memspan.planner.imagine import imagine, runs_alone
from memspan.planner.promise import Promises, combinations, names
from memspan.planner.work import Hardware, measure_hardware
from memspan.training.base import Loss, OptimizerFactory, Saver, Stack, find_saver, known_savers
from memspan.training.estimate import Estimate, memory, replicated
from memspan.training.spec import Spec
from memspan.training.step import language_model_loss

MOST = 16  # combinations that are run
_ADAPTERS = "adapters"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to do the job, on each rank.

    Attributes:
        savers: names with their settings, in the order in which they change the step; none is plain AdamW.
        estimate: what the step holds.
        how: "repeated" (from the steps of one and of two layers) or "whole"; where ranks share it, "+ rank"
            (one was run, the others left out) or "+ formula".
        seconds: of a step, estimated: nothing overlaps, and nothing else uses the device.
        exact: the update is the plain one's but for rounding.
        quality: what is known to be lost.
        over: bytes by place that are missing; empty where the job fits.
        serves: it does what the task says; plain AdamW does not where the base model is to stay frozen.
        explained: what the savers have to say on how it came about, line by line.
    """

    savers: tuple[str, ...]
    estimate: Estimate
    how: str
    seconds: float
    exact: bool
    quality: str
    over: dict[str, int] = field(default_factory=dict)
    serves: bool = True
    explained: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it stays within the memory there is."""
        return not self.over

    @property
    def peak(self) -> int:
        """Bytes in memory at the moment with the most."""
        return memory(self.estimate.peak)

    @property
    def binding(self) -> str:
        """What the peak consists of most, and when: what a further saver should take on."""
        tiers = self.estimate.peak.in_memory.by_tier
        tier = max(tiers, key=lambda name: tiers[name]) if tiers else "nothing"
        return f"{tier} in the {_WHEN[self.estimate.busiest]}"

    def to_json(self) -> dict[str, Any]:
        """As JSON types; bytes, and seconds. Tiers are those in memory; what is on disk stands in "by_place"."""
        estimate = self.estimate
        return {
            "savers": list(self.savers),
            "peak_bytes": self.peak,
            "by_tier": estimate.peak.in_memory.by_tier,
            "by_place": estimate.peak.by_place,
            "highest": estimate.highest.in_memory.by_tier,
            "stretches": {name: held.in_memory.by_tier for name, held in estimate.stretches.items()},
            "fits": self.fits,
            "serves": self.serves,
            "over": self.over,
            "binding": self.binding,
            "seconds_per_step": self.seconds,
            "exact": self.exact,
            "quality": self.quality,
            "how": self.how,
            "parameters": estimate.parameters,
            "trainable": estimate.trainable,
            "flops": estimate.flops,
            "sent_bytes": estimate.sent,
        }


_WHEN = {
    "forward": "forward pass",
    "backward": "backward pass",
    "clip": "clipping",
    "update": "update",
    "clear": "update",
    "after": "work after the update",
}


@dataclass(frozen=True, kw_only=True)
class Plans:
    """All ways that were run, best first: what fits before what does not, exact before inexact, then by speed.

    Attributes:
        spec: the job.
        plans: at least the plain one.
        combinations: how many there are of the savers, of which `plans` are those that were run.
        skipped: savers that cannot serve this job, and why.
        hardware: on which the seconds are reckoned.
        device_memory, host_memory: bytes that there are; None is no bound.
    """

    spec: Spec
    plans: tuple[Plan, ...]
    combinations: int
    skipped: dict[str, str]
    hardware: Hardware
    device_memory: int | None
    host_memory: int | None

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.plans)

    @property
    def plain(self) -> Plan:
        """AdamW and nothing else."""
        return next(plan for plan in self.plans if not plan.savers)

    @property
    def least(self) -> Plan:
        """The plan with the smallest peak."""
        return min(self.plans, key=lambda plan: (not plan.serves, plan.peak))

    def best(self) -> Plan:
        """The first plan, which fits.

        Raises:
            BudgetError: none does; names the bytes that would do.
        """
        first = self.plans[0]
        if not first.serves:
            raise InputError(f"no saver for the task {self.spec.task} can be used here: {self._reasons()}")
        if first.fits:
            return first
        least = self.least
        how = " and ".join(least.savers) or "plain AdamW"
        raise BudgetError(
            f"the least that this job takes ({how})",
            needed=least.peak,
            allowed=self.device_memory or 0,
            advice=f"{format_bytes(least.peak)} of memory would do; or lower the batch or the length",
        )

    def _reasons(self) -> str:
        return "; ".join(f"{slug}: {reason}" for slug, reason in self.skipped.items()) or "none was named"

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        spec = self.spec
        return {
            "job": {
                name: getattr(spec, name)
                for name in ("task", "batch", "seq", "dtype", "attention", "devices", "device", "layers")
            },
            "device_memory": self.device_memory,
            "host_memory": self.host_memory,
            "needed_bytes": self.least.peak,
            "hardware": {
                "flops": self.hardware.flops,
                "bandwidth": self.hardware.bandwidth,
                "link": self.hardware.link,
                "measured": self.hardware.measured,
            },
            "combinations": self.combinations,
            "plans": [plan.to_json() for plan in self.plans],
            "skipped": self.skipped,
        }


def plan(
    spec: Spec,
    *,
    savers: Sequence[Saver | str] | None = None,
    device_memory: str | int | None = None,
    host_memory: str | int | None = None,
    optimizer: OptimizerFactory | None = None,
    loss: Loss = language_model_loss,
    clip: float | None = None,
    hardware: Hardware | None = None,
    whole: bool = False,
    together: bool = False,
    most: int = MOST,
    progress: Callable[[int], None] | None = None,
) -> Plans:
    """Predict what a job takes, alone and with every combination of savers that promises most.

    Every saver is run alone, or with the fewest others that it needs; then come the combinations that promise most by
    what their savers did there. None that is shown is predicted by rule: each step is run on tensors without bytes.

    Args:
        spec: the job.
        savers: which may be used; None means the ordinary ones and those of the catalogue that work.
        device_memory: bytes on each device, as "16GiB"; with `spec.device` "cpu" it is this machine's RAM.
        host_memory: bytes of RAM beside accelerators.
        optimizer: AdamW by default.
        loss: of the job, when it is no language model.
        clip: norm that gradients are clipped to.
        hardware: None times this machine's CPU.
        whole: run the whole model's steps, not those of one and of two layers.
        together: run the savers that are named all together, and no other combination of them.
        most: combinations to run.
        progress: called with 1 after each combination.

    Raises:
        UnsupportedModelError: the plain step itself cannot be run without values.
        InputError: a number of bytes is malformed, or a saver that was named cannot serve the job.
        ConflictError: savers that are to work together cannot.
    """
    if most < 1:
        raise InputError(f"most is {most}: at least one step has to be run")
    bounds = (_bytes(device_memory), _bytes(host_memory))
    hardware = hardware or measure_hardware(spec.torch_dtype)
    skipped: dict[str, str] = {}
    candidates = list(_candidates(spec, savers, skipped))

    def serves(together: Sequence[Saver]) -> bool:
        return spec.task != "lora" or any(_ADAPTERS in saver.brings for saver in together)

    def look(stack: Stack) -> Plan:
        estimate, how = imagine(spec, stack, optimizer, loss=loss, clip=clip, whole=whole)
        if spec.devices > 1:
            if runs_alone(spec, stack):
                how = f"{how} + rank"
            else:
                shared = stack.distributing is not None
                estimate = stack.estimate(spec, estimate) if shared else replicated(spec, estimate)
                how = f"{how} + formula"
        if progress is not None:
            progress(1)
        return Plan(
            savers=stack.names,
            estimate=estimate,
            how=how,
            seconds=hardware.seconds(estimate.flops, estimate.traffic, estimate.sent),
            exact=stack.exact,
            quality=stack.quality,
            over=_over(estimate.peak.by_place, spec, *bounds),
            serves=serves(stack.savers),
            explained=tuple(stack.explain(spec, estimate)),
        )

    search = _Search(spec, candidates, look, lambda held: _over(held, spec, *bounds), hardware)
    search.take(())
    if together:
        search.all_together()
    else:
        search.each(most)
        search.best(most, bounded=any(bound is not None for bound in bounds))
    skipped |= search.failed
    order = sorted(search.found, key=_rank)
    return Plans(
        spec=spec,
        plans=tuple(order),
        combinations=search.there,
        skipped=skipped,
        hardware=hardware,
        device_memory=bounds[0],
        host_memory=bounds[1],
    )


class _Search:
    """Runs combinations, those first that promise most.

    Attributes:
        found: a plan for each that could be run.
        failed: savers whose first combination could not be, and why.
        there: combinations that there are.
    """

    def __init__(
        self,
        spec: Spec,
        savers: Sequence[Saver],
        look: Callable[[Stack], Plan],
        over: Callable[[Mapping[str, float]], Mapping[str, float]],
        hardware: Hardware,
    ) -> None:
        self._savers, self._look, self._over, self._hardware = savers, look, over, hardware
        self._left = [(), *(one for one in combinations(savers, adapters=spec.task == "lora") if one)]
        self._promises = Promises()
        self.there = len(self._left)
        self.found: list[Plan] = []
        self.failed: dict[str, str] = {}

    def take(self, together: tuple[Saver, ...]) -> str:
        """Run one; what went wrong, if anything did."""
        self._left.remove(together)
        try:
            made = self._look(Stack(together))
        except (BudgetError, InputError, ModelError) as error:
            if not together:
                raise
            return str(error)
        self.found.append(made)
        self._promises.add(names(together), made.estimate)
        return ""

    def all_together(self) -> None:
        """Run the combination of all savers."""
        self.there = len({(), tuple(self._savers)})
        if self._savers:
            self.found.append(self._look(Stack(self._savers)))

    def each(self, most: int) -> None:
        """Run every saver in the smallest combination that it can be in."""
        for saver in self._savers:
            smallest = next((together for together in self._left if saver in together), None)
            if smallest is not None and len(self.found) < most:
                error = self.take(smallest)
                if error:
                    self.failed[saver.slug] = error

    def best(self, most: int, *, bounded: bool) -> None:
        """Run the others, in turn the one that promises the best plan and, so that the least is known, the smallest.

        Those of which two shallow steps do not tell all come last: they take many times as long to run.
        """
        while self._left and len(self.found) < most:
            by_rank = bounded and len(self.found) % 2 == 0
            quick = [one for one in self._left if all(saver.uniform and saver.period == 1 for saver in one)]
            self.take(min(quick or self._left, key=self._by_rank if by_rank else self._by_peak))

    def _by_rank(self, together: tuple[Saver, ...]) -> tuple[Any, ...]:
        promise = self._promises.of(names(together))
        held = promise.held()
        exact = all(saver.exact for saver in together)
        seconds = self._hardware.seconds(promise.flops, promise.traffic, promise.sent)
        return (*_order(not self._over(held), exact, seconds, sum(held.values())), sorted(names(together)))

    def _by_peak(self, together: tuple[Saver, ...]) -> tuple[Any, ...]:
        return sum(self._promises.of(names(together)).held().values()), sorted(names(together))


def _rank(one: Plan) -> tuple[Any, ...]:
    return (not one.serves, *_order(one.fits, one.exact, one.seconds, one.peak), one.savers)


def _order(fits: bool, exact: bool, seconds: float, peak: float) -> tuple[float, ...]:
    """What fits comes first, by exactness and speed; then what does not, by its bytes."""
    return (0, not exact, seconds, peak) if fits else (1, peak, seconds)


def _candidates(spec: Spec, named: Sequence[Saver | str] | None, skipped: dict[str, str]) -> Iterable[Saver]:
    for one in known_savers() if named is None else named:
        try:
            saver = find_saver(one) if isinstance(one, str) else one
            Stack([saver]) if not saver.needs else None
            if spec.task not in saver.tasks:
                continue
            # One device shares nothing; only a saver that runs all the same may be asked for by name.
            alone = spec.devices == 1 and "distribution" in saver.touches
            if alone and (named is None or not saver.runs_alone):
                continue
            saver.check(spec)
        except (InputError, ModelError, MissingExtraError) as error:
            if named is not None:
                raise
            skipped[one if isinstance(one, str) else one.slug] = str(error)
            continue
        yield saver


def _over(held: Mapping[str, float], spec: Spec, device: int | None, host: int | None) -> dict[str, int]:
    """Bytes by place that are too many, of those that are held by place."""
    bounds: dict[str, int | None] = {"device": device, "ram": host}
    if spec.device == "cpu":  # device and host are one memory
        bounds = {"ram": min((bound for bound in (device, host) if bound is not None), default=None)}
    return {
        where: round(held.get(where, 0)) - bound
        for where, bound in bounds.items()
        if bound is not None and held.get(where, 0) > bound
    }


def _bytes(value: str | int | None) -> int | None:
    return None if value is None else parse_bytes(value)
