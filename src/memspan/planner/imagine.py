"""Runs a training step on tensors without bytes, and counts what it would hold.

The step is `memspan.training.Step`, prepared by the same savers as a real one and counted by the same ledger; of two
steps the second counts, since the optimizer has its state only then.

A deep model's step is that of a shallow one with a part repeated. `imagine` therefore takes the steps of one and of
two layers (of more, where a saver treats the first or the last ones apart), finds the parts by which the second is
longer, and repeats them; where the longer step is not the shorter one with something put in, as in stacks of layers
that differ, the whole model's step is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memspan.core.errors import UnsupportedModelError
from memspan.core.footprint import Footprint
from memspan.core.ledger import Ledger
from memspan.planner.fake import can_leave_out, imagined, left_out
from memspan.planner.work import WorkMode
from memspan.training.base import AdamW, Loss, OptimizerFactory, Stack
from memspan.training.estimate import STRETCHES, Estimate
from memspan.training.spec import Spec
from memspan.training.step import Step, language_model_loss

SHALLOW = 1  # layers of the smaller of the two steps, where no saver asks for more
Key = tuple[str, str]  # tier and place
Changes = list[tuple[Key, int]]
Parts = Sequence[tuple[Changes, int]]  # changes, and how often they come


@dataclass(frozen=True)
class Trace:
    """A step as the ledger saw it.

    Attributes:
        base: bytes by tier and place when it began.
        changes: by stretch, every change in its order.
        counts: parameters, trainable parameters, FLOPs, bytes of traffic, bytes sent: all grow linearly with the depth.
        unit: bytes of the largest layer's parameters.
        beside: what the savers hold outside of the step's tensors.
    """

    base: dict[Key, int]
    changes: dict[str, Changes]
    counts: tuple[int, int, int, int, int]
    unit: int
    beside: Footprint

    def estimate(self) -> Estimate:
        """What it held, without what the savers hold outside."""
        return _replay(self.base, [(name, [(self.changes.get(name, []), 1)]) for name in STRETCHES], self)


def trace(
    spec: Spec,
    stack: Stack,
    optimizer: OptimizerFactory | None = None,
    *,
    loss: Loss = language_model_loss,
    clip: float | None = None,
) -> Trace:
    """Run two steps on tensors without bytes; the trace of the second.

    Raises:
        UnsupportedModelError: the step depends on the values of tensors, or the configuration is of no known model.
    """
    alone = runs_alone(spec, stack)
    rows = spec.batch * (stack.row_ranks(spec.devices) if alone else 1)
    whole = replace(spec, batch=rows)  # the batch of all ranks, of which each takes its part
    with left_out(spec.devices) if alone else nullcontext(), imagined():
        model, made = stack.prepare(spec.build(), optimizer or AdamW())
        model.train()
        step = Step(model, made, stack, loss, clip=clip)
        step(whole.random_batch())
        stack.make_worst()
        work = WorkMode()
        with Ledger(model, optimizer=made, record=True) as ledger, work:
            batch = whole.random_batch()
            base = dict(ledger.now.entries)
            step(batch, ledger)
            del batch
        changes = ledger.trace()
        parameters = list(model.parameters())
        counts = (
            sum(parameter.numel() for parameter in parameters),
            sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            work.flops,
            work.traffic,
            work.sent,
        )
        by_stretch = {name: [((tier, place), n) for tier, place, n in changes.get(name, [])] for name in STRETCHES}
        return Trace(base, by_stretch, counts, _unit(model), stack.footprint())


def runs_alone(spec: Spec, stack: Stack) -> bool:
    """Whether one rank's step is run with the others left out; else what they take off it is a formula."""
    saver = stack.distributing
    return saver is not None and saver.runs_alone and can_leave_out(spec.devices)


def imagine(
    spec: Spec,
    stack: Stack,
    optimizer: OptimizerFactory | None = None,
    *,
    loss: Loss = language_model_loss,
    clip: float | None = None,
    whole: bool = False,
) -> tuple[Estimate, str]:
    """What a step of this job would hold on one rank, without the formulas for several; and how that was found.

    With several devices, a saver that `runs_alone` has its rank run, the fullest one. Others, and all where a process
    group exists, are run as on one device.

    Args:
        spec, stack, optimizer, loss, clip: the job, as `train` takes it.
        whole: run the whole model's step, however deep it is.

    Returns:
        The estimate, and "whole" or "repeated". Tensors are at the place "ram" where `spec.device` is "cpu", else at
        "device".

    Raises:
        UnsupportedModelError: as `trace`.
    """

    def run(one: Spec) -> Trace:
        return trace(one, stack, optimizer, loss=loss, clip=clip)

    found, beside, how = None, Footprint(), "whole"
    layers = spec.layers
    uniform = all(saver.uniform for saver in stack.savers)
    least = max((saver.settles for saver in stack.savers), default=SHALLOW)
    more = math.lcm(*(saver.period for saver in stack.savers))
    least, times = least + ((layers or 0) - least) % more, ((layers or 0) - least) // more
    if not whole and uniform and times > 2 and _alike(spec):
        try:
            short, long = run(spec.with_layers(least)), run(spec.with_layers(least + more))
            found = _repeated(short, long, times, lambda: run(spec.with_layers(least + 2 * more)))
            if found is not None:
                found, how = replace(found, saved_by_layer=found.saved_by_layer // more), "repeated"
            beside = Footprint(_extended(short.beside.entries, long.beside.entries, times))
        except (UnsupportedModelError, ValueError, IndexError, KeyError):
            pass  # a configuration that cannot be cut; the whole model says what is wrong, if anything is
    if found is None:
        traced = run(spec)
        found, beside = traced.estimate(), traced.beside
    if spec.device != "cpu":
        found = found.placed("device")
    return found.beside(beside), how


_ALIKE: dict[str, bool] = {}  # by configuration: one model is planned with many savers


def _alike(spec: Spec) -> bool:
    """Whether the layers are of one kind, by what the configuration lists for each of them and by their parameters."""
    layers = spec.layers or 0
    text = spec.config.get_text_config()
    key = f"{layers} {spec.config.to_json_string(use_diff=False)}"
    if key not in _ALIKE:
        listed = [value for value in text.to_dict().values() if isinstance(value, list) and len(value) == layers]
        alike = all(value == values[0] for values in listed for value in values)
        if alike:
            depths = (SHALLOW, SHALLOW + 1, layers)
            one, two, all_layers = (_parameters(spec.with_layers(depth)) for depth in depths)
            alike = all_layers == _further(one, two, layers - SHALLOW)
        _ALIKE[key] = alike
    return _ALIKE[key]


def _parameters(spec: Spec) -> int:
    import torch

    with torch.device("meta"):
        model = spec.build()
    return sum(parameter.numel() for parameter in model.parameters())


def _repeated(short: Trace, long: Trace, times: int, longer: Callable[[], Trace]) -> Estimate | None:
    """The step of `times` more layers than `short` has; None where the steps do not show what a layer adds.

    `longer` gives the step of one layer more than `long`. It is asked for where a stretch is not the shorter one with
    one piece put in (norms of gradients, then their scaling): a third step then shows whether the pieces are right.
    """
    parts: list[tuple[str, Parts]] = []
    third: Trace | None = None
    for name in STRETCHES:
        one, two = short.changes.get(name, []), long.changes.get(name, [])
        found = _with_one_piece(one, two, times)
        if found is None:
            third = third or longer()
            found, expected = _with_pieces(one, two, times), _with_pieces(one, two, 2)
            if found is None or expected is None:
                return None
            if third.changes.get(name, []) != [change for changes, n in expected for change in changes * n]:
                return None
        parts.append((name, found))
    base = _extended(short.base, long.base, times)
    pairs = zip(short.counts, long.counts, strict=True)
    parameters, trainable, flops, traffic, sent = (_further(one, two, times) for one, two in pairs)
    counts = (parameters, trainable, flops, traffic, sent)
    estimate = _replay(base, parts, replace(long, counts=counts))
    key = ("activations", "ram")
    first, second = (_sum(step.changes["forward"]).get(key, 0) for step in (short, long))
    return replace(estimate, saved_by_layer=second - first)


def _with_one_piece(short: Changes, long: Changes, times: int) -> Parts | None:
    """`short` with `times` of what `long` has more; None where `long` is not `short` with one piece put in."""
    more = len(long) - len(short)
    at = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), min(len(short), len(long)))
    if more < 0 or long[at + more :] != short[at:]:
        return None
    return [(short[:at], 1), (long[at : at + more], times), (short[at:], 1)]


def _with_pieces(short: Changes, long: Changes, times: int) -> Parts | None:
    """The same for several pieces, and for changes whose bytes grow with the depth, such as a list of norms."""
    if len(long) < len(short):
        return None
    # What both begin and end with is set aside, since the time goes with the product of lengths.
    head = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    left = len(short) - head
    ends = zip(reversed(short[head:]), reversed(long[head:]), strict=False)
    tail = next((i for i, (x, y) in enumerate(ends) if x != y), left)
    middle = _aligned(short[head : head + left - tail], long[head : len(long) - tail], times)
    if middle is None:
        return None
    return [(short[:head], 1), *middle, (short[head + left - tail :], 1)]


def _aligned(short: Changes, long: Changes, times: int) -> Parts | None:
    """What `_with_pieces` gives, found by trying all ways to put pieces in."""
    more = len(long) - len(short)
    numbers: dict[Key, int] = {}
    keys, others = (np.array([numbers.setdefault(key, len(numbers)) for key, _ in one]) for one in (short, long))
    sizes, grown = (np.array([n for _, n in one]) for one in (short, long))
    # whole[put], inside[put]: the least cost so far, with `put` of long's changes put in, and whether the last of them
    # was; came[i, put]: by which of the two that was reached. Beginning a piece costs 1, a change that has grown 2, so
    # that pieces stay whole.
    nowhere = (len(short) + len(long)) * 2
    whole, inside = np.full(more + 1, nowhere), np.full(more + 1, nowhere)
    whole[0] = 0
    came = np.zeros((len(short) + 1, more + 1, 2), dtype=np.uint8)
    for i in range(len(short) + 1):
        inside[1:] = np.minimum.accumulate(whole[:-1] + 1)
        came[i, 1:, 1] = inside[:-1] < whole[:-1] + 1
        if i == len(short):
            break
        x, y = sizes[i], grown[i : i + more + 1]
        fits = (keys[i] == others[i : i + more + 1]) & ((x == y) | ((x > 0) & (x < y)) | ((y < x) & (x < 0)))
        came[i, :, 0] = inside < whole
        whole = np.where(fits, np.minimum(whole, inside) + np.where(x == y, 0, 2), nowhere)
        inside = np.full(more + 1, nowhere)
    side = int(inside[more] < whole[more])
    if min(whole[more], inside[more]) >= nowhere:
        return None
    return _walked_back(short, long, times, came, side)


def _walked_back(short: Changes, long: Changes, times: int, came: NDArray[np.uint8], side: int) -> Parts:
    """The pieces along the way that `_aligned` found, from its end to its beginning."""
    i, put = len(short), len(long) - len(short)
    parts: list[tuple[Changes, int]] = []
    while i or put:
        piece: Changes = []
        if side:
            while side:
                piece.append(long[i + put - 1])
                side = int(came[i, put, 1])
                put -= 1
            parts.append((piece[::-1], times))
        else:
            while not side and i:
                i -= 1
                (key, x), (_, y) = short[i], long[i + put]
                piece.append((key, _further(x, y, times)))
                side = int(came[i, put, 0])
            parts.append((piece[::-1], 1))
    return parts[::-1]


def _extended(short: Mapping[Key, int], long: Mapping[Key, int], times: int) -> dict[Key, int]:
    return {key: _further(short.get(key, 0), long.get(key, 0), times) for key in {**short, **long}}


def _further(first: int, second: int, times: int) -> int:
    return first + times * (second - first)


def _replay(base: dict[Key, int], stretches: Iterable[tuple[str, Parts]], facts: Trace) -> Estimate:
    """Add up a step that is given as changes, each list of them repeated."""
    held = dict(base)
    peaks: dict[str, Footprint] = {}
    highest = dict(base)
    for name, parts in stretches:
        best, most = dict(held), _memory(held)
        for changes, times in parts:
            for turn in range(times):
                # What is held at one change grows by the same with each repetition, so the ends hold the largest.
                if turn not in (0, times - 1):
                    continue
                if turn:
                    skipped = _sum(changes)
                    for key, n in skipped.items():
                        held[key] = held.get(key, 0) + n * (times - 2)
                total = _memory(held)
                for key, n in changes:
                    held[key] = held.get(key, 0) + n
                    total += n if key[1] != "disk" else 0
                    if n > 0:
                        highest[key] = max(highest.get(key, 0), held[key])
                        if total > most:
                            best, most = dict(held), total
        peaks[name] = Footprint({key: n for key, n in best.items() if n})
    parameters, trainable, flops, traffic, sent = facts.counts
    return Estimate(
        stretches=peaks,
        highest=Footprint({key: n for key, n in highest.items() if n}),
        parameters=parameters,
        trainable=trainable,
        unit=facts.unit,
        flops=flops,
        traffic=traffic,
        sent=sent,
    )


def _sum(changes: Changes) -> dict[Key, int]:
    sums: dict[Key, int] = {}
    for key, n in changes:
        sums[key] = sums.get(key, 0) + n
    return sums


def _memory(held: dict[Key, int]) -> int:
    return sum(n for (_, place), n in held.items() if place != "disk")


def _unit(model: Any) -> int:
    """Bytes of the parameters of the largest entry of a list of layers, or of the whole model where it has none."""
    from torch import nn

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return max((size(layer) for layers in lists for layer in layers), default=size(model))
