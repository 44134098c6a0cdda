"""The dial: which share of the tokens is moved to slow memory, from bytes and seconds; and the schedule behind it.

All is of one rank and one layer, unless it says otherwise: bytes, seconds, bytes a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memspan.core.budget import format_bytes
from memspan.core.errors import BudgetError, InputError

OBJECTIVES = ("overlap", "time")


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer keeps for its backward pass, and how long it works.

    Attributes:
        inputs: S_input, bytes of the layer's input.
        attention: S_attn, bytes of what attention keeps beside queries, keys and values: its output, and the sums of
            its rows.
        others: S_others, bytes of all else that grows with the tokens; recomputed, or moved.
        forward: T_layer, seconds of the forward pass.
        backward: seconds of the backward pass without what is recomputed.
        recompute: seconds of recomputing all tokens: the forward pass without attention.
    """

    inputs: float
    attention: float
    others: float
    forward: float = math.inf
    backward: float = math.inf
    recompute: float = 0.0

    @property
    def always(self) -> float:
        """Bytes that are moved whatever the dial says."""
        return self.inputs + self.attention

    def moved(self, alpha: float) -> float:
        """Bytes that are moved with this share."""
        return self.always + alpha * self.others


def overlap(cost: LayerCost, layers: int, bandwidth: float, slow_memory: float) -> float:
    """The paper's alpha, in [0, 1]: as much as the link takes away during one layer's forward pass, and as fits.

    max alpha subject to `moved(alpha) / bandwidth <= forward` and `(layers - 2) * moved(alpha) <= slow_memory`, in
    closed form; the last two layers stay in the buffers.

    Raises:
        BudgetError: not even what is always moved fits.
    """
    allowed = _per_layer(cost, layers, slow_memory)
    most = min(bandwidth * cost.forward, allowed) - cost.always
    if not cost.others:
        return 1.0
    return min(max(most, 0.0), cost.others) / cost.others


def fastest(cost: LayerCost, layers: int, bandwidth: float, slow_memory: float) -> float:
    """The alpha with the shortest step, in [0, 1], where moving need not hide behind computing to be worth it.

    Both passes take the longer of computing and moving; recomputing falls as alpha grows. The sum is convex and made of
    straight pieces, so that its minimum stands at an end or where moving begins to take longer. For equal layers that
    is exact: in the forward pass the link has the time of one layer more than it moves.

    Raises:
        BudgetError: not even what is always moved fits.
    """
    allowed = _per_layer(cost, layers, slow_memory)
    if not cost.others:
        return 1.0
    most = min(max(allowed - cost.always, 0.0), cost.others) / cost.others
    swapped = max(layers - 2, 1)
    hidden = (bandwidth * cost.forward * (swapped + 1) / swapped - cost.always) / cost.others
    ends = {0.0, most, min(max(hidden, 0.0), most)}
    slope = cost.others / bandwidth + cost.recompute
    if slope:  # where fetching takes as long as the backward pass and what is left to recompute
        ends.add(min(max((cost.backward + cost.recompute - cost.always / bandwidth) / slope, 0.0), most))
    return max(ends, key=lambda alpha: (-_seconds(cost, alpha, bandwidth, layers), alpha))


def _seconds(cost: LayerCost, alpha: float, bandwidth: float, layers: int) -> float:
    """Of both passes, over those that no alpha changes."""
    link = max(layers - 2, 0) * cost.moved(alpha) / bandwidth
    again = (1 - alpha) * cost.recompute
    forward = max(link - (layers - 1) * cost.forward, 0.0)
    backward = max(link - max(layers - 2, 0) * (cost.backward + again), 0.0)
    return forward + backward + layers * again


def _per_layer(cost: LayerCost, layers: int, slow_memory: float) -> float:
    swapped = max(layers - 2, 0)
    if not swapped or math.isinf(slow_memory):
        return math.inf
    if swapped * cost.always > slow_memory:
        raise BudgetError(
            f"moving the inputs and attention outputs of {swapped} layers",
            needed=math.ceil(swapped * cost.always),
            allowed=math.floor(slow_memory),
            advice=f"give {format_bytes(math.ceil(swapped * cost.always))} of slow memory, or fewer tokens",
        )
    return slow_memory / swapped


def tokens(alpha: float, length: int, block: int) -> int:
    """How many of `length` tokens are moved: the share, rounded down to whole blocks; all with an alpha of 1."""
    if alpha >= 1:
        return length
    return min(int(alpha * length / block + 1e-9) * block, length)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a step over all layers goes.

    Attributes:
        seconds: of both passes.
        waited: of those, in which computing stood still for the link.
        recomputed: of those, spent on recomputing.
    """

    seconds: float
    waited: float
    recomputed: float


def simulate(cost: LayerCost, layers: int, bandwidth: float, alpha: float) -> Schedule:
    """Both passes over equal layers with two buffers and one link, event by event.

    Forward: a layer's buffer is copied out while the next layers compute, copies one after the other; layer i waits,
    before it fills its buffer, for the copy of layer i - 2. Backward: when layer i + 2 is done, layer i is fetched into
    its buffer, while layer i + 1 computes. The last two layers are not moved.

    Raises:
        InputError: there is no layer.
    """
    if layers < 1:
        raise InputError(f"layers is {layers}: there must be at least one")
    move = cost.moved(alpha) / bandwidth
    again = (1 - alpha) * cost.recompute
    now = link = waited = 0.0
    copied = [0.0] * layers
    for i in range(layers):
        now += cost.forward
        if i >= 2 and copied[i - 2] > now:
            waited += copied[i - 2] - now
            now = copied[i - 2]
        if i < layers - 2:
            copied[i] = link = max(link, now) + move
    fetched = [0.0] * layers
    for i in reversed(range(layers)):
        if fetched[i] > now:
            waited += fetched[i] - now
            now = fetched[i]
        now += again + cost.backward
        if i >= 2:
            fetched[i - 2] = link = max(link, now, copied[i - 2]) + move
    return Schedule(seconds=now, waited=waited, recomputed=layers * again)
