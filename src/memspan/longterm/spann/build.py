"""Builds an index by streaming: sample, cells, rows sorted by cell on disk, leaves and heads, closure, lists.

Every stage reads files and writes files, so that no more than a few cells are in memory at once, and `build.json` says
which stages are done, so that a build that was killed goes on from the last of them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import codes, reference
from .clustering import leaves, nearest_centre
from .codes import Coded
from .config import SpannConfig
from .layout import SECTOR, Files, Tables, read_json, write_json
from .space import Floats, Space

Rows = npt.NDArray[np.generic]
Ids = npt.NDArray[np.int64]
Report = Callable[[str, int, int], None]  # stage, done, of

STAGES = ("cells", "sorted", "leaves", "closure", "members", "lists")
PIECE = 8 << 20  # bytes of a working matrix, at most
SHARE = 6  # of the budget, the part that a working matrix takes
EQUAL = 1e-6  # of squared lengths: below, a difference of squared distances is rounding
SAMPLE = 65_536  # rows that the cells are made of, at least, where the budget holds them
FITTED = 8_192  # of them, about, for the median that is subtracted
PER_CELL = 32  # of them for each cell, at least


@dataclass
class Source:
    """Rows [n, dim] and their ids, in memory or mapped, and the CRC-32 of both."""

    rows: Rows
    ids: Ids
    crc: int = 0

    def chunks(self, count: int) -> Iterator[tuple[int, Rows]]:
        """(start, rows) in order."""
        for at in range(0, len(self.rows), count):
            yield at, self.rows[at : at + count]


@dataclass
class Build:
    """One build: what is fixed at its start, and the paths of what it makes."""

    files: Files
    source: Source
    metric: str
    config: SpannConfig
    report: Report
    done: list[str] = field(default_factory=list)
    budget: int = 16_000_000

    def run(self) -> tuple[Space, Tables]:
        """All stages that are not done yet; the files of the index, and its tables, which the caller makes durable."""
        if self.files.build.exists():
            self.done = read_json(self.files.build)["done"]
        for stage in STAGES:
            if stage not in self.done:
                getattr(self, f"_{stage}")()
                self.done.append(stage)
                write_json(self.files.build, {**read_json(self.files.build), "done": self.done})
        return self._space(), self._tables()

    # Stages ----------------------------------------------------------------------------------------------------------

    def _cells(self) -> None:
        """A sample, the internal space, and the centres of the cells."""
        n = len(self.source.rows)
        rng = np.random.default_rng(self.config.seed)
        cells = max(1, round(n / self.config.cell))
        dim = self.source.rows.shape[1]
        held = self.budget // (
            4 * dim
        )  # rows whose vectors take the budget once; clustering them takes half as much more
        size = min(n, max(SAMPLE, PER_CELL * cells), max(held, 2 * cells, 1024))
        picked = np.sort(rng.choice(n, size, replace=False))
        fitted = picked[:: max(1, len(picked) // min(FITTED, max(1024, held // 4)))]
        space = Space.fit(self.source.rows[fitted].astype(np.float32), self.metric, self.config.seed)
        if self.metric == "ip":
            longest = 0.0
            for _, rows in self.source.chunks(self._count(space.dim)):
                longest = max(longest, float((rows.astype(np.float32) ** 2).sum(1).max()))
            space = Space(space.dim, space.metric, space.padded, space.centre, longest, space.rotation)
        x = np.empty((len(picked), space.padded), np.float32)
        step = self._count(space.padded)
        for at in range(0, len(picked), step):
            x[at : at + step] = space.rows(self.source.rows[picked[at : at + step]])
        parts = leaves(x, max(2, len(x) // cells), self.config.branching, self.config.seed)
        centres = np.stack([x[p].mean(0) for p in parts])
        self._save("space", centre=space.centre, rotation=space.rotation, longest=space.longest, padded=space.padded)
        self._save("centres", centres=centres)

    def _sorted(self) -> None:
        """Rows and ids in the order of their cells."""
        space, centres = self._space(), self._centres()
        n = len(self.source.rows)
        label = np.empty(n, np.uint32)
        step = self._count(space.padded, len(centres))
        for at, rows in self.source.chunks(step):
            label[at : at + len(rows)] = nearest_centre(space.rows(rows), centres)
            self.report("cells", at + len(rows), n)
        count = np.bincount(label, minlength=len(centres))
        start = np.concatenate([[0], np.cumsum(count)])
        cursor = start[:-1].copy()
        rows_out = _create(self.files.stage("rows"), self.source.rows.dtype, (n, space.dim))
        ids_out = _create(self.files.stage("ids"), np.dtype(np.int64), (n,))
        for at, rows in self.source.chunks(self._count(space.padded)):
            part = label[at : at + len(rows)]
            order = part.argsort(kind="stable")
            ranked = part[order]
            first = np.searchsorted(ranked, ranked)
            place = cursor[ranked] + np.arange(len(rows)) - first
            rows_out[place] = rows[order]
            ids_out[place] = self.source.ids[at : at + len(rows)][order]
            cursor += np.bincount(part, minlength=len(centres))
            self.report("sorting", at + len(rows), n)
        _sync(rows_out, ids_out)
        self._save("starts", start=start)

    def _leaves(self) -> None:
        """Leaves of each cell, a data point of each as its head, rows in the order of the leaves."""
        space, start = self._space(), self._load("starts")["start"]
        n = int(start[-1])
        rows_in = self._stage_rows(space.dim)
        ids_in = np.memmap(self.files.stage("ids"), np.int64, "r", shape=(n,))
        rows_out = _create(self.files.rows, rows_in.dtype, rows_in.shape)
        ids_out = _create(self.files.ids, np.dtype(np.int64), (n,))
        own = _create(self.files.stage("own"), np.dtype(np.uint32), (n,))
        coded: list[Coded] = []
        lists: list[npt.NDArray[np.uint32]] = []
        blocks = np.zeros(len(start), np.int64)
        heads = 0
        for c in range(len(start) - 1):
            a, b = int(start[c]), int(start[c + 1])
            rows = np.asarray(rows_in[a:b])
            x = space.rows(rows)
            parts = leaves(x, self.config.leaf, self.config.branching, self.config.seed) if b > a else []
            order = np.concatenate(parts) if parts else np.zeros(0, np.int64)
            rows_out[a:b] = rows[order]
            ids_out[a:b] = ids_in[a:b][order]
            own[a:b] = np.repeat(np.arange(len(parts), dtype=np.uint32) + heads, [len(p) for p in parts])
            points = [p[((x[p] - x[p].mean(0)) ** 2).sum(1).argmin()] for p in parts]
            coded.append(codes.encode8(x[points] if points else np.zeros((0, space.padded), np.float32)))
            number = np.full(len(coded[-1].norm) * codes.LANES, 0, np.uint32)
            number[: len(parts)] = np.arange(heads, heads + len(parts))
            lists.append(number.reshape(-1, codes.LANES))
            blocks[c + 1] = blocks[c] + len(coded[-1].norm)
            heads += len(parts)
            self.report("leaves", b, n)
        _sync(rows_out, ids_out, own)
        self._save(
            "heads",
            codes=np.concatenate([h.codes for h in coded]),
            scale=np.concatenate([h.scale for h in coded]),
            norm=np.concatenate([h.norm for h in coded]),
            head_list=np.concatenate(lists),
            cell_start=blocks,
            heads=heads,
        )

    def _closure(self) -> None:
        """For each row the lists it is copied to; the first is its primary one."""
        space, start, centres = self._space(), self._load("starts")["start"], self._centres()
        table = self._load("heads")
        n, first = int(start[-1]), table["cell_start"]
        rows_in = np.memmap(self.files.rows, self.source.rows.dtype, "r", shape=(n, space.dim))
        own = np.memmap(self.files.stage("own"), np.uint32, "r", shape=(n,))
        primary = _create(self.files.primary, np.dtype(np.uint32), (n,))
        count = np.zeros(int(table["heads"]), np.uint32)
        near = _nearest_rows(centres, self.config.neighbours)
        noise = np.float32(EQUAL**2) * (space.centre @ space.centre)  # what centring leaves of equal rows
        with self.files.stage("pairs").open("wb") as pairs:
            for c in range(len(start) - 1):
                a, b = int(start[c]), int(start[c + 1])
                blocks = np.concatenate([np.arange(first[j], first[j + 1]) for j in near[c]])
                full = np.isfinite(table["norm"][blocks].reshape(-1))
                heads = np.ascontiguousarray(codes.decode8(table["codes"][blocks], table["scale"][blocks])[full])
                number = table["head_list"][blocks].reshape(-1)[full]
                norms = np.einsum("md,md->m", heads, heads)
                column = np.full(int(table["heads"]), -1, np.int32)
                column[number] = np.arange(len(number))
                step = max(64, self._piece // (4 * max(len(number), 1)))
                for at in range(a, b, step):
                    to = min(at + step, b)
                    x = space.rows(np.asarray(rows_in[at:to]))
                    d: Floats = np.asarray(x @ (heads.T * np.float32(-2)), np.float32)
                    square = np.einsum("nd,nd->n", x, x)
                    d += norms + square[:, None]
                    # Heads that are equal are equally near but for rounding: then a row stays with its own.
                    mine, least, at_own = column[own[at:to]], d.min(1), np.arange(to - at)
                    tied = d[at_own, mine] - least <= EQUAL * (square + norms[mine]) + noise
                    d[at_own[tied], mine[tied]] = least[tied]
                    chosen = reference.assign(
                        d, heads, self.config.candidates, self.config.copies, self.config.closure**2, mine
                    )
                    primary[at:to] = number[chosen[:, 0]]
                    taken = chosen >= 0
                    pair = np.empty((int(taken.sum()), 2), np.uint32)
                    pair[:, 0] = number[chosen[taken]]
                    pair[:, 1] = np.repeat(np.arange(at, to, dtype=np.uint32), taken.sum(1))
                    count += np.bincount(pair[:, 0], minlength=len(count)).astype(np.uint32)
                    pairs.write(pair.tobytes())
                self.report("closure", b, n)
            pairs.flush()
            os.fsync(pairs.fileno())
        _sync(primary)
        self._save("counts", count=count)

    def _members(self) -> None:
        """The pairs sorted by list: the slots of every list."""
        count = self._load("counts")["count"]
        start = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
        cursor = start[:-1].copy()
        total = int(start[-1])
        pairs = np.memmap(self.files.stage("pairs"), np.uint32, "r", shape=(total, 2))
        out = _create(self.files.stage("members"), np.dtype(np.uint32), (total,))
        for at in range(0, total, 1 << 20):
            part = np.asarray(pairs[at : at + (1 << 20)])
            order = part[:, 0].argsort(kind="stable")
            ranked = part[order, 0]
            out[cursor[ranked] + np.arange(len(ranked)) - np.searchsorted(ranked, ranked)] = part[order, 1]
            cursor += np.bincount(ranked, minlength=len(count))
            self.report("members", min(at + (1 << 20), total), total)
        _sync(out)

    def _lists(self) -> None:
        """The lists, encoded and written cell by cell."""
        space, table = self._space(), self._load("heads")
        count, first = self._load("counts")["count"], table["cell_start"]
        start = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
        n = int(self._load("starts")["start"][-1])
        rows_in = np.memmap(self.files.rows, self.source.rows.dtype, "r", shape=(n, space.dim))
        members = np.memmap(self.files.stage("members"), np.uint32, "r", shape=(int(start[-1]),))
        primary = np.memmap(self.files.primary, np.uint32, "r", shape=(n,))
        sector, blocks, kept, crc = (np.zeros(len(count), np.uint32) for _ in range(4))
        at = 0
        with self.files.lists.open("wb") as out:
            for c in range(len(first) - 1):
                number = table["head_list"][first[c] : first[c + 1]].reshape(-1)
                full = np.isfinite(table["norm"][first[c] : first[c + 1]].reshape(-1))
                heads = codes.decode8(table["codes"][first[c] : first[c + 1]], table["scale"][first[c] : first[c + 1]])
                number, heads = number[full], heads[full]
                for j in range(0, len(number), 16):
                    some = number[j : j + 16]
                    slots = [np.asarray(members[start[i] : start[i + 1]]) for i in some]
                    whole, back = np.unique(np.concatenate(slots), return_inverse=True)
                    x = space.rows(np.asarray(rows_in[whole]))
                    ends = np.cumsum([len(s) for s in slots])
                    for i, s, h, end in zip(some, slots, heads[j : j + 16], ends, strict=True):
                        data, size = encode_list(x[back[end - len(s) : end]], h, s, primary[s] == i, self.config.limit)
                        sector[i], blocks[i], kept[i] = at // SECTOR, len(data) // codes.block_bytes(space.padded), size
                        crc[i] = zlib.crc32(data)
                        out.write(data)
                        out.write(b"\0" * (-len(data) % SECTOR))
                        at += -(-len(data) // SECTOR) * SECTOR
                self.report("lists", int(start[number[-1] + 1]) if len(number) else 0, int(start[-1]))
            out.flush()
            os.fsync(out.fileno())
        self._save("lists", sector=sector, blocks=blocks, kept=kept, crc=crc)

    # What the stages leave -------------------------------------------------------------------------------------------

    def _tables(self) -> Tables:
        heads, lists = self._load("heads"), self._load("lists")
        n = int(self._load("starts")["start"][-1])
        return Tables(
            codes.encode8(self._centres()),
            heads["cell_start"],
            Coded(heads["codes"], heads["scale"], heads["norm"]),
            heads["head_list"],
            lists["sector"],
            lists["blocks"],
            lists["kept"],
            lists["crc"],
            np.zeros(-(-n // 64), np.uint64),
        )

    def _space(self) -> Space:
        s = self._load("space")
        return Space(
            self.source.rows.shape[1], self.metric, int(s["padded"]), s["centre"], float(s["longest"]), s["rotation"]
        )

    def _centres(self) -> Floats:
        return np.asarray(self._load("centres")["centres"], np.float32)

    def _stage_rows(self, dim: int) -> Rows:
        return np.memmap(self.files.stage("rows"), self.source.rows.dtype, "r", shape=(len(self.source.rows), dim))

    def _save(self, name: str, **arrays: object) -> None:
        with self.files.stage(f"{name}.npz").open("wb") as out:
            np.savez(out, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
            out.flush()
            os.fsync(out.fileno())

    def _load(self, name: str) -> dict[str, npt.NDArray[Any]]:
        with np.load(self.files.stage(f"{name}.npz")) as f:
            return dict(f)

    def _count(self, *columns: int) -> int:
        """Rows of a working matrix of so many columns."""
        return max(256, self._piece // (4 * max(columns)))

    @property
    def _piece(self) -> int:
        return min(PIECE, self.budget // SHARE)


def encode_list(
    x: Floats, head: Floats, slots: npt.NDArray[np.uint32], own: npt.NDArray[np.bool_], limit: int
) -> tuple[bytes, int]:
    """The bytes of a list and its number of entries: rows x [n, d] as residuals to a head [d].

    Over `limit` the farthest copies are cut, never a row whose primary list this is.
    """
    residual = x - head
    if len(x) > limit:
        far = np.einsum("nd,nd->n", residual, residual)
        far[own] = -1
        kept = np.sort(far.argsort(kind="stable")[: max(limit, int(own.sum()))])
        x, residual, slots = x[kept], residual[kept], slots[kept]
    code, scale = codes.encode4(residual)
    add = np.einsum("nd,nd->n", x, x, dtype=np.float64) - np.einsum("d,d->", head, head, dtype=np.float64)
    return codes.pack_list(codes.nibbles(code), add.astype(np.float32), scale, slots).tobytes(), len(slots)


def _nearest_rows(x: Floats, count: int) -> list[npt.NDArray[np.int64]]:
    """For each row the numbers of its nearest rows, itself first."""
    norms = np.einsum("nd,nd->n", x, x)
    out = []
    for i in range(len(x)):
        d = norms - 2 * (x @ x[i])
        d[i] = -np.inf
        out.append(d.argsort(kind="stable")[:count])
    return out


def _create(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Rows:
    return np.memmap(path, dtype, "w+", shape=shape)


def _sync(*maps: Rows) -> None:
    for m in maps:
        if isinstance(m, np.memmap):
            m.flush()
