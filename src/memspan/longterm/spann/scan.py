"""The search in numpy, where the kernels were not compiled, and what they are tested against."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from . import codes
from .effort import EASY, NONE, DamagedLists, Effort, Only, Slots, Work, test_bits
from .layout import Files, Tables
from .pages import Rows
from .pending import Pending
from .space import Floats, Space, distances


class Scan(ABC):
    """The searching half of `Engine` without kernels."""

    space: Space
    tables: Tables
    files: Files
    dtype: np.dtype[np.generic]
    slots: int
    rows: Rows
    pending: Pending | None

    @abstractmethod
    def bad_lists(self, lists: npt.NDArray[np.generic]) -> list[int]:
        """Those of the lists that are damaged."""

    @abstractmethod
    def trust(self, lists: npt.NDArray[np.generic]) -> None:
        """Checks lists before they are read, and mends those that are damaged."""

    @abstractmethod
    def bytes_of(self, number: int) -> npt.NDArray[np.uint8]:
        """The bytes of a list, unchecked."""

    def _search_numpy(
        self, inner: Floats, raw: Floats, k: int, effort: Effort, only: Only | None
    ) -> tuple[Slots, Floats, Work]:
        slots = np.full((len(raw), k), NONE, np.uint32)
        best = np.full((len(raw), k), np.inf, np.float32)
        read = touched = ranked = 0
        for i, q in enumerate(inner):
            number, base = self.near_heads(q, effort, only)
            slot, estimate, done = self._scan(q, number, base, k, effort, only)
            keep = estimate.argsort(kind="stable")[: max(effort.rerank, k)]
            slot = slot[keep]
            read += done
            touched += int(self.tables.list_blocks[number[:done]].sum()) * codes.block_bytes(self.space.padded)
            ranked += len(slot)
            if not len(slot):
                continue
            d = distances(self.rows[slot], raw[i : i + 1], self.space.metric)[0]
            order = np.lexsort((slot, d))[:k]
            slots[i, : len(order)], best[i, : len(order)] = slot[order], d[order]
        touched += ranked * self.space.dim * self.dtype.itemsize
        return slots, best, Work(read, touched, ranked)

    def near_heads(self, q: Floats, effort: Effort, only: Only | None) -> tuple[npt.NDArray[np.int64], Floats]:
        """The nearest lists of an internal query, and the squared distances of their heads."""
        t = self.tables
        q8, step = codes.quantize_query(q)
        total = int(q8.astype(np.int64).sum())
        square = np.float32((q * q).sum())

        def rank(coded: codes.Coded, blocks: npt.NDArray[np.int64] | slice) -> Floats:
            dot = codes.dots8(coded.codes[blocks], q8).astype(np.float32) - np.float32(64 * total)
            return np.asarray(square + coded.norm[blocks] - 2 * step * coded.scale[blocks] * dot, np.float32)

        away = rank(t.cells, slice(None)).reshape(-1)[: len(t.cell_start) - 1]
        if only is not None:
            away[~test_bits(only.cells, np.arange(len(away)))] = np.inf
        near = np.argsort(away, kind="stable")[: effort.cells]
        near = near[np.isfinite(away[near])]
        blocks = np.concatenate([np.arange(t.cell_start[c], t.cell_start[c + 1]) for c in near])
        d, number = rank(t.heads, blocks).reshape(-1), t.head_list[blocks].reshape(-1).astype(np.int64)
        full = np.isfinite(d)
        if only is not None:
            full &= test_bits(only.lists, number)
        d, number = d[full], number[full]
        order = d.argsort(kind="stable")[: effort.lists]
        return number[order], d[order]

    def _scan(
        self, q: Floats, number: npt.NDArray[np.int64], base: Floats, k: int, effort: Effort, only: Only | None
    ) -> tuple[Slots, Floats, int]:
        """Slots seen in the lists, their estimates, and how many lists were read."""
        q8, step = codes.quantize_query(q)
        bias = np.float32(7.5) * np.float32(q8.astype(np.int64).sum())
        slots: Slots = np.zeros(0, np.uint32)
        estimates: Floats = np.zeros(0, np.float32)
        seen = np.zeros(self.slots, np.bool_)  # of which the system gives only the pages that are touched
        bounded = np.isfinite(effort.stop) or np.isfinite(effort.patience)
        last, best = 0, np.float32(np.inf)
        for j, (i, h) in enumerate(zip(number, base, strict=True)):
            if bounded and len(estimates) >= k and (h > effort.stop * best or j >= effort.patience * (EASY + last)):
                return slots, estimates, j
            if self.bad_lists(np.array([i])):
                raise DamagedLists(self.files.path, [int(i)])
            for e in self.entries(int(i)):
                d = (h + e.add) - (2 * step * e.scale) * (codes.dots4(e.packed, q8).astype(np.float32) - bias)
                fine = e.slots < self.slots  # but in a damaged list
                fine[fine] = ~test_bits(self.tables.dead, e.slots[fine])
                if only is not None:
                    fine[fine] = test_bits(only.slots, e.slots[fine])
                fine[fine] = ~seen[e.slots[fine]]
                seen[e.slots[fine]] = True
                if bounded and fine.any() and (len(estimates) < k or d[fine].min() < best):
                    last = j + 1
                slots, estimates = np.concatenate([slots, e.slots[fine]]), np.concatenate([estimates, d[fine]])
                if bounded and len(estimates) >= k:
                    best = np.partition(estimates, k - 1)[k - 1]
        return slots, estimates.astype(np.float32), len(number)

    def entries(self, number: int, *, written: bool = True, pending: bool = True) -> list[codes.Entries]:
        """The entries of a list: those written, then those pending."""
        if written:
            self.trust(np.array([number]))
        data = self.bytes_of(number)
        out = [codes.unpack_list(data, self.space.padded)] if len(data) and written else []
        if pending and (p := self.pending) is not None and (e := int(p.first[number])) >= 0:
            chain = []
            while e >= 0:
                chain.append(e)
                e = int(p.next[e])
            out.append(codes.Entries(p.packed[chain], p.add[chain], p.scale[chain], p.slots[chain]))
        return out
