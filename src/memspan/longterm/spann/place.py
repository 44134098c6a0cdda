"""Where rows go: the lists of a row by the closure rule, and its entries in them."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import numpy.typing as npt

from . import codes, native, reference
from .codes import Entries
from .effort import Effort
from .engine import Engine
from .heads import NOWHERE, places, vectors
from .space import Floats, Space

U32 = npt.NDArray[np.uint32]

SAMPLE = 1000  # rows whose distance to their heads is measured


def choose_lists(
    engine: Engine, place: U32, x: Floats, *, cells: int, candidates: int, copies: int, slack: float | None
) -> U32:
    """The lists [n, copies] of internal vectors [n, d], the nearest first, NOWHERE behind.

    Args:
        engine: whose heads.
        place: where each list's head is (`heads.places`).
        x: the vectors.
        cells: nearest cells whose heads are looked at.
        candidates: nearest heads that are looked at.
        copies: lists wanted at most.
        slack: bound on a list's squared distance over the nearest's; None for the nearest lists, without the rule of
            relative neighbourhood.
    """
    x = np.ascontiguousarray(x)
    out = np.full((len(x), copies), NOWHERE, np.uint32)
    if (lib := native.library()) is not None:
        params = native.ParamsStruct(k=1, cells=cells, lists=candidates, rerank=1, stop=0)
        point = native.pointer
        index = engine.struct()
        lib.spann_place(
            ctypes.byref(index), ctypes.byref(params), point(place), point(x), len(x), copies,
            -1.0 if slack is None else slack, os.cpu_count() or 1, point(out),
        )  # fmt: skip
        return out
    effort = Effort(cells=cells, lists=candidates, rerank=1)
    for i, v in enumerate(x):
        lists = engine.near_heads(v, effort, None)[0]
        heads = vectors(engine.tables, place, lists)
        d = ((heads - v) ** 2).sum(1)[None]
        if slack is None:
            near = d[0].argsort(kind="stable")[:copies]
        else:
            near = reference.closure(d, heads, len(lists), copies, slack, np.full(1, -1, np.int32))[0]
            near = near[near >= 0]
        out[i, : len(near)] = lists[near]
    return out


def encode_entries(
    engine: Engine, place: U32, x: Floats, rows: npt.NDArray[np.generic], lists: U32, slots: U32, excess: Floats
) -> Entries:
    """Entries [n] of internal vectors `x[rows]`, each relative to the head of its list.

    Args:
        engine: whose heads; `place`: where each list's head is.
        x: vectors [m, d]; `rows`: [n], numbers of them.
        lists, slots: [n], of each entry.
        excess: [m], as `beyond` gives it.
    """
    if (lib := native.library()) is None:
        return encoded(x[rows], vectors(engine.tables, place, lists), slots, excess[rows])
    n = len(rows)
    x, at, to = np.ascontiguousarray(x), rows.astype(np.uint32), np.ascontiguousarray(lists, np.uint32)
    out = Entries(np.empty((n, x.shape[1] // 2), np.uint8), np.empty(n, np.float32), np.empty(n, np.float32), slots)
    less = np.ascontiguousarray(excess[rows], np.float32)
    index, point = engine.struct(), native.pointer
    lib.spann_encode(
        ctypes.byref(index), point(place), point(x), point(at), point(to), point(less), n, os.cpu_count() or 1,
        point(out.packed), point(out.add), point(out.scale),
    )  # fmt: skip
    return out


def encoded(x: Floats, heads: Floats, slots: U32, excess: Floats) -> Entries:
    """Entries of internal vectors x [n, d] relative to heads [n, d] or [d]."""
    code, scale = codes.encode4(x - heads)
    add = np.einsum("nd,nd->n", x, x, dtype=np.float64) - np.einsum("...d,...d->...", heads, heads, dtype=np.float64)
    return Entries(codes.nibbles(code), (add - excess).astype(np.float32), scale, slots)


def beyond(space: Space, rows: npt.NDArray[np.generic]) -> Floats:
    """By how much the squared length [n] of rows [n, dim] exceeds that of the longest when the index was built.

    With inner products internal vectors are equally long but for rows added later that are longer still; less this,
    their distance is that of their product.
    """
    if space.metric != "ip":
        return np.zeros(len(rows), np.float32)
    x = rows.astype(np.float64)
    return np.asarray(np.maximum(np.einsum("nd,nd->n", x, x) - space.longest, 0), np.float32)


def spread(engine: Engine, seed: int) -> float:
    """The squared distance to their primary heads that 99 % of the rows keep under, by a sample."""
    live = engine.live()
    picked = np.sort(np.random.default_rng([seed, len(live)]).choice(live, min(SAMPLE, len(live)), replace=False))
    if not len(picked):
        return float("inf")
    heads = vectors(engine.tables, places(engine.tables), engine.primary_of(picked))
    return float(np.quantile(((engine.space.rows(np.asarray(engine.rows[picked])) - heads) ** 2).sum(1), 0.99))
