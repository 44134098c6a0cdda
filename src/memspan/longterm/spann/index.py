"""`VectorIndex`: a vector index on disk that answers within a budget of memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memspan.core.budget import parse_bytes
from memspan.core.errors import InputError, StoreError
from memspan.core.footprint import Footprint
from memspan.models.progress import progress_bar

from . import native
from .bars import bars
from .build import Build, Report, Source
from .calibrate import Point, calibrate, choose
from .config import SpannConfig, fit
from .effort import NONE, DamagedLists, Effort, Only
from .engine import Engine
from .layout import FORMAT, Files, Tables, empty_tables, read_json, write_checkpoint, write_durably, write_json
from .lookup import write_order, write_owners
from .maintain import Maintenance
from .place import spread
from .scrub import dead_slots, has_dead_rows, next_version, take_out, zero_unused
from .seal import sealed
from .source import as_filter, as_queries, read_source
from .space import METRICS, Floats, Space
from .tenants import Name, as_name, codes_of
from .updates import MARGIN, load
from .workspace import Workspace

CALIBRATED = (10, 100)  # neighbours asked for, for which recall is measured
KEPT = 8  # tenants whose bitmaps are kept for their next search
CORES = os.cpu_count() or 1
FEW = 4096  # allowed rows up to which a filtered search is exact
DEFAULT_RECALL = 0.95


@dataclass(frozen=True)
class SearchStats:
    """What one call of `search` read.

    Attributes:
        queries: queries answered.
        lists: posting lists read, over all queries.
        bytes: bytes of lists and rows touched.
        reads: pieces of the files touched: lists and rows.
        recall: recall that the calibration expects, None where the answer is exact.
    """

    queries: int
    lists: int
    bytes: int
    reads: int
    recall: float | None


@dataclass(frozen=True)
class Hits:
    """The neighbours of n queries.

    Attributes:
        ids: [n, k] int64, the nearest first, -1 where there are fewer than k.
        distances: [n, k] float32: squared Euclidean (l2), minus the product (ip), 1 - cosine; infinite behind the last.
        stats: what it cost.
    """

    ids: npt.NDArray[np.int64]
    distances: Floats
    stats: SearchStats


class Chosen:
    """The slots that searches of one tenant or filter may answer.

    Attributes:
        state: engine, slots and deletes, when they were chosen.
        count: how many.
    """

    def __init__(self, engine: Engine, state: tuple[Any, ...], find: Callable[[], npt.NDArray[np.int64]]) -> None:
        self.state, self._engine, self._find = state, engine, find
        slots = find()
        self.count = len(slots)
        self._few = slots if len(slots) <= FEW else None
        self._only = None if self._few is not None else engine.only(slots)

    def slots(self) -> npt.NDArray[np.int64]:
        """The slots."""
        return self._find() if self._few is None else self._few

    def only(self) -> Only:
        """Their bitmaps."""
        return self._engine.only(self.slots()) if self._only is None else self._only


class VectorIndex(Maintenance):
    """SPANN (Chen et al., NeurIPS 2021): short overlapping posting lists on disk, their heads in memory.

    `build` and `open` make one; it is a context manager. One process writes, others may have it open for reading.
    """

    def __init__(self, files: Files, meta: dict[str, Any], engine: Engine, curves: dict[int, list[Point]]) -> None:
        self._files, self._meta, self._engine, self._curves = files, meta, engine, curves
        self._kept: dict[Name | None, Chosen] = {}
        self._codes: tuple[list[Name], dict[tuple[type, Name | None], int]] = ([], {})
        self._points: tuple[object, dict[tuple[int, float], Point]] = (None, {})
        self._begin()

    # Making and opening ----------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        vectors: npt.ArrayLike | Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
        path: str | Path,
        *,
        metric: str = "cosine",
        ids: npt.ArrayLike | None = None,
        ram_budget: str | int | None = None,
        tenants: Iterable[str | int | None] | None = None,
        config: SpannConfig | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> Self:
        """Builds an index of vectors in a directory. A build that was killed goes on where it stopped.

        Args:
            vectors: array or memory map [n, dim] of float32, float16 or int8 (float64 is kept as float32), or an
                iterator of (ids, chunk [m, dim]).
            path: a directory, new or empty unless `overwrite`.
            metric: "cosine", "ip" or "l2".
            ids: [n] integers, one to each row of an array; row numbers where none are given.
            ram_budget: private memory while serving, as "51MB" or bytes; a tenth of the vectors where none is given,
                and at least 16 MB. The build keeps under three times as much.
            tenants: [n], whose each row of an array is, for `search(tenant=)`; None for nobody's.
            config: settings.
            overwrite: replace an index that is there.
            progress: show bars on a terminal.

        Raises:
            InputError: the vectors, ids or settings cannot be used; nothing is left behind.
            BudgetError: the budget cannot hold the heads.
            StoreError: the directory holds something else.
        """
        if metric not in METRICS:
            raise InputError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
        files = Files(Path(path))
        budget = None if ram_budget is None else parse_bytes(ram_budget)
        if files.path.exists() and not files.path.is_dir():
            raise StoreError(f"{path} is a file; name a directory, or a new one")
        ours = files.meta.exists() or files.build.exists()
        if files.path.exists() and not ours and not all(map(files.owns, files.path.iterdir())):
            raise StoreError(f"{path} is not empty and holds no index; name another directory")
        if files.meta.exists():
            if not overwrite:
                raise StoreError(f"{path} holds an index already; open it, or ask for it to be overwritten")
            _remove(files.path.glob("stage.*"), [files.build])
        fresh, begun = not files.path.exists(), files.build.exists()
        files.path.mkdir(parents=True, exist_ok=True)
        try:
            source = read_source(vectors, ids, files, overwrite)
            n, dim = source.rows.shape
            names, owners = ([], None) if tenants is None else codes_of(tenants, n)
            budget = max(16_000_000, n * dim * source.rows.dtype.itemsize // 10) if budget is None else budget
            settings = fit(config or SpannConfig(), n, dim, budget)
        except BaseException:
            if not begun:
                _remove(files.path.glob("stage.*"))
            if fresh:
                files.path.rmdir()
            raise
        mark = {"rows": n, "dim": dim, "dtype": source.rows.dtype.name, "metric": metric, "config": settings.to_dict()}
        mark["crc"] = source.crc
        if begun:
            state = _read_state(files)
            begun = all(state.get(key) == value for key, value in json.loads(json.dumps(mark)).items())
            if not begun and not overwrite:
                raise StoreError(f"{path} holds an unfinished build of other vectors; remove it or overwrite it")
        if not begun:
            _clear(files)
            write_json(files.build, {**mark, "done": []})
        with bars(progress and n > settings.exact_below) as report:
            space, tables = _make(files, source, metric, settings, report, budget)
        if owners is not None:
            order = source.ids.argsort()
            at = np.searchsorted(source.ids[order], np.fromfile(files.ids, np.int64, n))
            write_durably(files.tenants, owners[order[at]])
        tables.owner_start = write_owners(files, np.arange(n), len(names))
        tables = replace(tables, **sealed(files, tables, n, source.rows.shape[1] * source.rows.dtype.itemsize))
        write_checkpoint(files.checkpoint(0), space, tables)
        meta = {"format": FORMAT, "generation": 0, **mark, "ram_budget": budget, "curves": {}, "tenants": names}
        engine = Engine(files, space, tables, source.rows.dtype.name, n, settings)
        made = cls(files, meta, engine, {})
        made._measure(progress)
        _remove(files.path.glob("stage.*"), [files.build])
        return made

    @classmethod
    def open(cls, path: str | Path, *, direct: bool = False) -> Self:
        """Opens an index.

        Args:
            path: its directory.
            direct: read lists and rows past the page cache, all those of a query at once: for an index that the cache
                cannot hold, or must not be pushed out by. Needs the compiled kernels; without them nothing changes.

        Raises:
            StoreError: there is none, it is damaged, or it was written by a newer memspan.
        """
        files, meta, engine, curves = load(Path(path))
        if direct:
            engine.read_directly()
        index = cls(files, meta, engine, curves)
        index._engine.check_tail()
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._engine.live())

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """[n] the ids of all rows, ascending."""
        return np.sort(np.asarray(self._engine.ids[self._engine.live()]))

    @staticmethod
    def compiled() -> bool:
        """Whether compiled kernels answer; numpy is slower by far."""
        return native.library() is not None

    def scrub(self) -> int:
        """Takes every byte of deleted rows off the files: far quicker than `compact` where few are deleted.

        Rows are zeroed, lists and heads that hold something of them written anew. When it returns this is on disk;
        where it is cut short the rows stay deleted, and calling it again ends it.

        Returns:
            how many lists were written anew.

        Raises:
            StoreBusyError: another process writes to the index.
        """
        with self._guard:
            self._begin_write()
            self.flush()
            e, old, written = self._engine, self._files, 0
            dead = dead_slots(e)
            if has_dead_rows(e, dead):
                tables, primary = e.tables, np.zeros(e.slots, np.uint32)
                new = Files(old.path, old.generation, old.version + 1)
                try:
                    if len(e.tables.list_count):
                        work = Workspace(e, SpannConfig(**self._meta["config"]))
                        try:
                            written = take_out(work, dead)
                            os.fsync(work.fd)
                        finally:
                            work.close()
                        tables, primary = work.tables, work.primary
                    next_version(e, dead, new)
                    self._commit(new, e.space, tables, primary)
                except BaseException:
                    if self._files.version == old.version:
                        self._reload()
                        self._remove_leftovers()
                    raise
            zero_unused(self._engine)
            return written

    # Searching -------------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        recall: float = DEFAULT_RECALL,
        filter: npt.ArrayLike | None = None,
        tenant: str | int | None = None,
        effort: Effort | None = None,
        threads: int | None = None,
    ) -> Hits:
        """The k nearest rows of each query.

        Args:
            queries: [n, dim] or [dim].
            k: neighbours wanted.
            recall: share of the true k nearest to be found, by the calibration; 1 scans every row.
            filter: ids; only these are answered.
            tenant: only rows of this tenant are answered.
            effort: in place of `recall`, how far to go.
            threads: queries answered at once; as many as the machine has cores where none are given.

        Raises:
            InputError: shape, NaN, k or recall out of range.
        """
        if self._closed:
            raise StoreError(f"{self._files.path} is closed; open it again")
        q = as_queries(queries, self.dim)
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}; ask for at least one neighbour")
        if not isinstance(recall, int | float | np.number) or not 0 < recall <= 1:
            raise InputError(f"recall is {recall!r}; it must be over 0 and at most 1")
        allowed, name = None if filter is None else as_filter(filter), as_name(tenant)
        self._refresh()
        while True:
            damage: StoreError | None = None
            try:
                hits = self._search(q, k, recall, allowed, name, effort, threads)
            except StoreError as e:
                damage = e
            # Another process may have written new lists where some of those just read were.
            if self._refresh():
                continue
            if damage is None:
                return hits
            if not isinstance(damage, DamagedLists):
                raise damage
            with self._guard:
                self._engine.trust(np.array(damage.lists))

    def _search(
        self,
        q: Floats,
        k: int,
        recall: float,
        filter: npt.NDArray[np.int64] | None,
        tenant: Name | None,
        effort: Effort | None,
        threads: int | None,
    ) -> Hits:
        engine = self._engine
        chosen = self._allowed(engine, filter, tenant)
        while engine is not self._engine:  # a compaction has given slots other numbers meanwhile
            engine = self._engine
            chosen = self._allowed(engine, filter, tenant)
        expected = None
        few = chosen is not None and chosen.count <= max(FEW, 4 * k)
        if not len(engine.tables.list_count) or few or (recall == 1 and effort is None):
            found, distances, work = engine.exact(q, k, None if chosen is None else chosen.slots())
        else:
            point = self._point(k, recall)
            far, expected = (effort, None) if effort is not None else (point.effort, point.recall)
            only = None
            if chosen is not None:
                only = chosen.only()
                # Fewer heads lead to an allowed row, and each of their lists holds fewer of them.
                far = far.scaled(min(8.0, (engine.slots / chosen.count) ** 0.5))
            workers = threads or CORES
            # When to stop was measured by the best of the calibrated number: so many are looked for.
            wanted, k = k, k if effort is not None else max(k, self._known(k))
            found, distances, work = engine.search(q, k, far, workers, only, mending=False)
            while effort is None and far.lists < len(engine.tables.list_count):
                # The lists read held fewer than k: further ones are read while there are any.
                short = np.flatnonzero(found[:, wanted - 1] == NONE)
                if not len(short):
                    break
                far = far.scaled(4)
                found[short], distances[short], more = engine.search(q[short], k, far, workers, only, mending=False)
                work = work.plus(more)
            found, distances = found[:, :wanted], distances[:, :wanted]
        ids = np.full(found.shape, -1, np.int64)
        full = found != NONE
        ids[full] = engine.ids_of(found[full])
        stats = SearchStats(len(q), work.lists, work.bytes, work.lists + work.rows, expected)
        return Hits(ids, distances, stats)

    def _allowed(self, engine: Engine, filter: npt.NDArray[np.int64] | None, tenant: Name | None) -> Chosen | None:
        """The slots that may be answered, None for all. What was found out about a tenant is kept for the next time."""
        if filter is None and tenant is None:
            return None
        state = (engine, engine.slots, len(self._gone))
        if filter is None:
            kept = self._kept.pop(tenant, None)
            if kept is None or kept.state != state:
                kept = Chosen(engine, state, lambda: engine.of_tenant(self._code(tenant)))
            self._kept[tenant] = kept
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
            return kept
        slots = self._slots_of(filter)
        if tenant is not None:
            slots = np.intersect1d(slots, engine.of_tenant(self._code(tenant)))
        return Chosen(engine, state, lambda: slots)

    def _code(self, tenant: Name | None) -> int:
        """The number of a tenant; one that no row has where there is none of that name."""
        names, known = self._codes
        if names is not self._names or len(known) != len(names):
            known = {(type(name), name): i + 1 for i, name in enumerate(self._names)}
            self._codes = (self._names, known)
        return known.get((type(tenant), tenant), len(self._names) + 1)

    def _point(self, k: int, recall: float) -> Point:
        """The calibrated point for a recall, scaled where k is beyond what was calibrated."""
        if self._points[0] is not self._curves:
            self._points = (self._curves, {})
        found = self._points[1].get((k, recall))
        if found is None:
            found = self._points[1][k, recall] = self._chosen_point(k, recall)
        return found

    def _chosen_point(self, k: int, recall: float) -> Point:
        known = self._known(k)
        point = choose(self._curves[known], recall)
        if k <= known:
            return point
        e = point.effort.scaled(k / known)
        return Point(point.recall, point.error, replace(e, rerank=3 * k, patience=point.effort.patience))

    def _known(self, k: int) -> int:
        """The neighbours of which recall was measured that are nearest to so many, from above where there are such."""
        return next((c for c in sorted(self._curves) if c >= k), max(self._curves))

    # What it is ------------------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return self._engine.space.dim

    @property
    def metric(self) -> str:
        """ "cosine", "ip" or "l2"."""
        return self._engine.space.metric

    def calibrate(self, *, progress: bool = True) -> None:
        """Measures again which effort gives which recall, on a sample of the rows, and keeps the result."""
        with self._guard:
            self._begin_write()
            self._measure(progress)

    def _measure(self, progress: bool, *, again: bool = False) -> None:
        """`again`: only the recall of the efforts that the curves have, as long as they reach as far as before."""
        engine, seed = self._engine, self._meta["config"]["seed"]
        if len(engine.tables.list_count):
            known = self._curves if again else {}
            with progress_bar("measuring recall", len(CALIBRATED), show=progress) as advance:
                self._curves = calibrate(engine, CALIBRATED, seed, advance, known)
            self._meta["spread"] = spread(engine, seed)
            self._far = MARGIN * self._meta["spread"]
        self._meta["curves"] = {k: [p.to_dict() for p in c] for k, c in self._curves.items()}
        self._meta["measured"] = {"rows": len(self), "generation": self._files.generation}
        self._meta["changed"] = 0
        write_json(self._files.meta, self._meta)
        self._mark = self._stamp()

    def stats(self) -> dict[str, Any]:
        """Rows, lists, their lengths, the calibrated recall, and what runs the search."""
        t = self._engine.tables
        count = t.list_count
        return {
            "rows": len(self),
            "deleted": self._engine.slots - len(self),
            "dim": self.dim,
            "metric": self.metric,
            "dtype": self._engine.dtype.name,
            "heads": len(count),
            "cells": len(t.cell_start) - 1,
            "copies": float(count.sum() / max(self._engine.slots, 1)),
            "list_length": {"mean": float(count.mean()), "std": float(count.std()), "max": int(count.max())}
            if len(count)
            else None,
            "kernels": native.LEVELS[self._engine.level] if native.library() else "numpy",
            "measured": self._meta.get("measured"),
            "recall": {k: [p.to_dict() for p in c] for k, c in self._curves.items()},
        }

    def footprint(self) -> Footprint:
        """Bytes held: `ram` is private memory, `disk` the files, which are mapped and may be in the page cache."""
        disk = sum(f.stat().st_size for f in self._files.path.iterdir() if f.is_file())
        return Footprint({("store", "ram"): self._engine.nbytes, ("store", "disk"): disk})

    def memory(self) -> dict[str, int]:
        """Bytes of this process for the index: `private`, and `mapped` pages of its files that are resident now."""
        return {"private": self._engine.nbytes, "mapped": resident(self._files.path)}


def resident(folder: Path) -> int:
    """Bytes of a folder's files that are mapped by this process and in memory; 0 where /proc does not tell."""
    total, inside = 0, False
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    prefix = str(folder.resolve()) + os.sep
    for line in lines:
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = prefix in line
        elif inside and words[0] == "Rss:":
            total += int(words[1]) * 1024
    return total


def _make(
    files: Files, source: Source, metric: str, config: SpannConfig, report: Report, budget: int
) -> tuple[Space, Tables]:
    n = len(source.rows)
    if n >= config.exact_below:
        space, tables = Build(files, source, metric, config, report, budget=budget).run()
    else:
        space = Space.fit(np.asarray(source.rows).astype(np.float32), metric, config.seed)
        tables = empty_tables(space.padded, n)
        write_durably(files.rows, np.asarray(source.rows))
        write_durably(files.ids, source.ids)
        write_durably(files.primary, np.zeros(n, np.uint32))
        files.lists.touch()
    write_order(files, np.arange(n))
    return space, tables


def _read_state(files: Files) -> dict[str, Any]:
    """How far a build got."""
    try:
        return read_json(files.build)
    except ValueError as e:
        raise StoreError(f"{files.build} is damaged ({e}); remove {files.path} and build again") from None


def _clear(files: Files) -> None:
    """Removes an index's files, the meta first, so that a half removed one is not taken for whole; input is kept."""
    made = [p for p in files.path.iterdir() if files.owns(p) and not p.name.startswith("stage.input")]
    _remove([files.meta, files.build], made)


def _remove(*paths: Iterable[Path]) -> None:
    for path in chain(*paths):
        path.unlink(missing_ok=True)
