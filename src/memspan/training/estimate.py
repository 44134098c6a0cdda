"""`Estimate`: the bytes of a training step before it is run, and the formulas that divide them over ranks.

One process runs one rank's step, on tensors without bytes; what other ranks take off it is arithmetic, and stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from memspan.core.errors import InputError
from memspan.core.footprint import Footprint

if TYPE_CHECKING:
    from memspan.training.spec import Spec

STRETCHES = ("forward", "backward", "clip", "update", "clear", "after")
"""The parts of a step: passes, clipping, the optimizer's update, gradients freed, and what savers do afterwards."""
STAGES = (0, 1, 2, 3)


def memory(footprint: Footprint) -> int:
    """Bytes in memory: on devices and in RAM, not on disk."""
    return footprint.in_memory.total


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one rank holds during one step, once the optimizer has its state.

    Attributes:
        stretches: for each of `STRETCHES`: what is held at the moment of it with the most bytes.
        highest: the most that each tier holds at any moment.
        parameters: of the model, tied ones once; what a saver adds or replaces counts.
        trainable: those that have a gradient.
        unit: bytes of the parameters of the largest layer, the least that must be whole while it computes.
        flops: of matrix products and attention, each multiply-add counted as two.
        traffic: bytes that all other operations read and write.
        sent: bytes that a rank sends over the network.
        saved_by_layer: bytes of activations that each layer keeps for the backward pass; 0 where layers differ.
    """

    stretches: Mapping[str, Footprint]
    highest: Footprint = field(default_factory=Footprint)
    parameters: int = 0
    trainable: int = 0
    unit: int = 0
    flops: int = 0
    traffic: int = 0
    sent: int = 0
    saved_by_layer: int = 0

    @property
    def busiest(self) -> str:
        """The stretch in which the most is held."""
        return max(self.stretches, key=lambda name: memory(self.stretches[name]))

    @property
    def peak(self) -> Footprint:
        """What is held at the moment with the most bytes in memory."""
        return self.stretches[self.busiest]

    def moved(self, change: Callable[[str, str, int], float], *, sent: float | None = None) -> Estimate:
        """The same step with other bytes: `change(stretch, tier, bytes)` gives the new ones of each entry.

        Tiers that an entry of a stretch lacks are not asked for. `highest` follows the stretches' ratios.
        """
        stretches = {
            name: Footprint({key: round(change(name, key[0], n)) for key, n in held.entries.items()})
            for name, held in self.stretches.items()
        }
        before = _fold(self.stretches)
        after = _fold(stretches)
        highest = Footprint(
            {
                key: round(n * after.entries.get(key, 0) / before.entries[key]) if before.entries.get(key) else n
                for key, n in self.highest.entries.items()
            }
        )
        return replace(self, stretches=stretches, highest=highest, sent=self.sent if sent is None else round(sent))

    def beside(self, held: Footprint) -> Estimate:
        """The same step with bytes that are held all the while."""
        stretches = {name: one + held for name, one in self.stretches.items()}
        return replace(self, stretches=stretches, highest=self.highest + held)

    def placed(self, place: str) -> Estimate:
        """The same step with everything in RAM at another place."""

        def put(held: Footprint) -> Footprint:
            return Footprint({(tier, place if at == "ram" else at): n for (tier, at), n in held.entries.items()})

        stretches = {name: put(one) for name, one in self.stretches.items()}
        return replace(self, stretches=stretches, highest=put(self.highest))


def _fold(stretches: Mapping[str, Footprint]) -> Footprint:
    held = Footprint()
    for one in stretches.values():
        held = held.maximum(one)
    return held


def model_states(
    parameters: int, *, stage: int, ranks: int, weight: float = 2, gradient: float = 2, state: float = 12
) -> dict[str, float]:
    """Bytes per rank of weights, gradients and optimizer state under ZeRO (arXiv 1910.02054, section 5, figure 1).

    Args:
        parameters: of the model.
        stage: 0 splits nothing, 1 the optimizer state, 2 the gradients too, 3 the weights too.
        ranks: how many share the job.
        weight, gradient, state: bytes for each parameter. The defaults are the paper's: 16-bit weights and gradients,
            and Adam's float32 master weights, momentum and variance. Float32 training has 4, 4 and 8.

    Raises:
        InputError: no such stage, or no rank.
    """
    _check_stage(stage, ranks)
    return {
        "weights": weight * parameters / (ranks if stage > 2 else 1),
        "gradients": gradient * parameters / (ranks if stage > 1 else 1),
        "optimizer": state * parameters / (ranks if stage > 0 else 1),
    }


def replicated(spec: Spec, before: Estimate) -> Estimate:
    """Plain data parallelism: every rank holds everything, and gradients are summed in the buckets they lie in."""
    return replace(before, sent=before.sent + round(2 * _gradients(before) * (spec.devices - 1) / spec.devices))


def sharded(spec: Spec, before: Estimate, *, stage: int) -> Estimate:
    """The step of one of `spec.devices` ranks under ZeRO's stage 1, 2 or 3 (3 is FSDP with resharding).

    Beside its share, a rank holds what must be whole for a while: in stage 3 a layer's weights and the buffer that they
    are gathered in, in the backward pass of stages 2 and 3 a layer's gradients and the buffer that they are reduced in.
    That is the floor that no number of ranks goes below.

    Raises:
        InputError: no such stage.
    """
    _check_stage(stage, spec.devices)
    ranks, unit = spec.devices, before.unit

    def change(stretch: str, tier: str, nbytes: int) -> float:
        # What the update works with is as large as what it updates.
        if stage > 0 and (tier == "optimizer" or (tier == "activations" and stretch == "update")):
            return nbytes / ranks
        if tier == "gradients" and stage > 1:
            whole = 2 * unit if stretch == "backward" else 0
            return min(nbytes, nbytes / ranks + whole)
        if tier == "weights" and stage > 2:
            whole = 2 * unit if stretch in ("forward", "backward") else 0
            return min(nbytes, nbytes / ranks + whole)
        return nbytes

    if ranks == 1:
        return before
    times = 3 if stage > 2 else 2  # stage 3 gathers the weights for the forward pass and again for the backward pass
    return before.moved(change, sent=before.sent + times * _gradients(before) * (ranks - 1) / ranks)


def split_sequence(spec: Spec, before: Estimate, *, degree: int) -> Estimate:
    """The step of one of `degree` ranks that share every sequence, keys and values travelling round a ring.

    Each rank holds its part of all activations, and a chunk of keys and values twice, to send and to receive. What
    attention holds must not grow with the square of the length, as it does not under "sdpa" (arXiv 2105.13120 keeps the
    matrix of scores, which is `degree` times as many bytes as this says of them).

    Raises:
        InputError: the length cannot be divided by the degree.
    """
    if degree < 1 or spec.seq % degree:
        raise InputError(f"a sequence of {spec.seq} tokens cannot be split over {degree} ranks: divide it evenly")
    if degree == 1:
        return before
    chunk = spec.batch * spec.seq // degree
    ring = 0
    if spec.config is not None:
        text = spec.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        ring = 4 * chunk * heads * width * spec.torch_dtype.itemsize

    def change(stretch: str, tier: str, nbytes: int) -> float:
        if tier != "activations" or stretch not in ("forward", "backward"):
            return nbytes
        return nbytes / degree + ring

    layers = spec.layers or 1
    hops = 2 * (degree - 1) * layers * ring  # forward and backward, keys and values, to one neighbour
    moved = before.moved(change, sent=before.sent + hops)
    return replace(moved, flops=before.flops // degree, saved_by_layer=before.saved_by_layer // degree)


def _gradients(estimate: Estimate) -> int:
    return max((held.by_tier.get("gradients", 0) for held in estimate.stretches.values()), default=0)


def _check_stage(stage: int, ranks: int) -> None:
    if stage not in STAGES:
        raise InputError(f"stage is {stage}: ZeRO has the stages {', '.join(map(str, STAGES))}")
    if ranks < 1:
        raise InputError(f"{ranks} ranks: it takes at least one")
