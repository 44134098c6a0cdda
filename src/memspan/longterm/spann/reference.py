"""The same assignment in numpy: what the kernels are tested against, and what runs where they were not compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import native
from .space import Floats

Ints = npt.NDArray[np.int32]


def closure(distances: Floats, heads: Floats, nearest: int, copies: int, slack: float, own: Ints) -> Ints:
    """Closure assignment by the rule of relative neighbourhood (paper §3.2.2).

    Args:
        distances: [n, m], squared, of n points to m heads.
        heads: [m, d].
        nearest: heads considered, the nearest first.
        copies: heads taken at most.
        slack: bound on a taken head's squared distance over the nearest's.
        own: [n], the head a point was clustered under, taken first when it is as near as the nearest; -1 for none.

    Returns:
        [n, copies] columns of `distances`, the nearest first, -1 behind. A head is passed over when it is at least as
        near to one already taken as to the point.
    """
    n, m = distances.shape
    nearest = min(nearest, m)
    out = np.full((n, copies), -1, np.int32)
    squares = np.einsum("md,md->m", heads, heads)
    for i in range(n):
        order = np.lexsort((np.arange(m), distances[i]))[:nearest]
        d = distances[i, order]
        if own[i] >= 0 and distances[i, own[i]] <= d[0]:
            # Of many heads at the same distance its own may not be among the candidates.
            at = np.flatnonzero(order == own[i])
            order[at] = order[0]
            order[0] = own[i]
        between = squares[order][:, None] + squares[order][None] - 2 * heads[order] @ heads[order].T
        taken: list[int] = []
        reach = d[0] * slack if np.isfinite(slack) else np.inf
        for c in range(len(order)):
            if len(taken) == copies or (taken and d[c] > reach):
                break
            if all(between[t, c] > d[c] for t in taken):
                out[i, len(taken)] = order[c]
                taken.append(c)
    return out


def assign(distances: Floats, heads: Floats, nearest: int, copies: int, slack: float, own: Ints) -> Ints:
    """`closure`, compiled where it can be."""
    if native.library() is not None:
        return native.closure(np.ascontiguousarray(distances), heads, nearest, copies, slack, own)
    return closure(distances, heads, nearest, copies, slack, own)
