"""The search in numpy, where the kernels were not compiled, and what they are tested against."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import codes
from .effort import EASY, NONE, DamagedLists, Effort, Only, Slots, Work, test_bits
from .layout import Files, Tables
from .pages import Rows
from .pending import Pending
from .space import Floats, Space, distances

HELD = 1 << 20  # bytes of unpacked lists that a search keeps for its other queries


@dataclass(frozen=True)
class Unpacked:
    """The entries of a list that a search may answer with: codes [n, d], add, scale and slots [n]."""

    codes: Floats
    add: Floats
    scale: Floats
    slots: Slots


@dataclass
class Held:
    """Lists that earlier queries of a search unpacked."""

    lists: dict[int, list[Unpacked]] = field(default_factory=dict)
    bytes: int = 0

    def put(self, number: int, entries: list[Unpacked]) -> None:
        """Keeps a list; those kept before are let go when there is no more room."""
        size = sum(e.codes.nbytes for e in entries)
        if self.bytes + size > HELD:
            self.lists.clear()
            self.bytes = 0
        if size <= HELD:
            self.lists[number] = entries
            self.bytes += size


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
        held = Held()
        for i, q in enumerate(inner):
            number, base = self.near_heads(q, effort, only)
            slot, estimate, done = self._scan(q, number, base, k, effort, only, held)
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
        self,
        q: Floats,
        number: npt.NDArray[np.int64],
        base: Floats,
        k: int,
        effort: Effort,
        only: Only | None,
        held: Held,
    ) -> tuple[Slots, Floats, int]:
        """Slots seen in the lists, their estimates, and how many lists were read."""
        q8, step = codes.quantize_query(q)
        bias = np.float32(7.5) * np.float32(q8.astype(np.int64).sum())
        slots: Slots = np.zeros(0, np.uint32)
        estimates: Floats = np.zeros(0, np.float32)
        seen = np.zeros(self.slots, np.bool_)  # of which the system gives only the pages that are touched
        bounded = np.isfinite(effort.stop) or np.isfinite(effort.patience)
        last, best = 0, np.float32(np.inf)
        for j, (i, h) in enumerate(zip(number.tolist(), base, strict=True)):
            if bounded and len(estimates) >= k and (h > effort.stop * best or j >= effort.patience * (EASY + last)):
                return slots, estimates, j
            entries = held.lists.get(i)
            if entries is None:
                held.put(i, entries := self._unpacked(i, only))
            for e in entries:
                new = ~seen[e.slots]
                if not new.any():
                    continue
                seen[e.slots] = True
                d = ((h + e.add) - (2 * step * e.scale) * (codes.dots4(e.codes, q8) - bias))[new]
                if bounded and (len(estimates) < k or d.min() < best):
                    last = j + 1
                slots, estimates = np.concatenate([slots, e.slots[new]]), np.concatenate([estimates, d])
                if bounded and len(estimates) >= k:
                    best = np.partition(estimates, k - 1)[k - 1]
        return slots, estimates.astype(np.float32), len(number)

    def _unpacked(self, number: int, only: Only | None) -> list[Unpacked]:
        """The entries of a list without deleted rows and those that are not asked for."""
        if self.bad_lists(np.array([number])):
            raise DamagedLists(self.files.path, [number])
        out = []
        for e in self.entries(number):
            fine = e.slots < self.slots  # but in a damaged list
            fine[fine] = ~test_bits(self.tables.dead, e.slots[fine])
            if only is not None:
                fine[fine] = test_bits(only.slots, e.slots[fine])
            levels = codes.unpack4(e.packed[fine]).astype(np.float32)
            out.append(Unpacked(levels, e.add[fine], e.scale[fine], e.slots[fine]))
        return out

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
