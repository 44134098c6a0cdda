"""`memspan index`: a vector index on disk, from files of vectors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.cli.verbs import _note, _print_json, _table
from memspan.core.budget import format_bytes
from memspan.core.errors import InputError, StoreError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from memspan.longterm.spann import Hits, VectorIndex

ADDED = 8192  # rows of one call of `add`
SHOWN = 10  # queries whose neighbours are printed as a table; --json has them all


def add_options(sub: argparse.ArgumentParser) -> None:
    """The actions of `index` and their options."""
    actions = sub.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        for flag, what in (
            ("--json", "print one JSON value instead of text"),
            ("--quiet", "no progress bars, no notes"),
        ):
            # Suppressed, so that the verb's own flag before the action is not undone.
            made.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=what)
        return made

    build = action("build", "build an index in a directory; a build that was killed goes on where it stopped")
    build.add_argument("vectors", metavar="VECTORS", help="[n, dim] in .npy or .fvecs; read through a memory map")
    build.add_argument("index", metavar="DIR", help="where the index goes")
    build.add_argument("--ids", metavar="FILE", help="[n] whole numbers in .npy (default: row numbers)")
    build.add_argument("--metric", choices=("cosine", "ip", "l2"), default="cosine", help="(default: cosine)")
    build.add_argument(
        "--ram-budget", metavar="SIZE", help="private memory while serving (default: a tenth of the vectors)"
    )
    build.add_argument("--overwrite", action="store_true", help="replace an index that is there")
    search = action("search", "find the nearest vectors of queries")
    search.add_argument("index", metavar="DIR")
    search.add_argument("queries", metavar="QUERIES", help="[n, dim] or [dim] in .npy or .fvecs")
    search.add_argument("-k", type=int, default=10, help="neighbours of each query (default: 10)")
    search.add_argument(
        "--recall", type=float, default=0.95, help="share of them to be found (default: 0.95; 1 reads all)"
    )
    search.add_argument("--direct", action="store_true", help="read past the page cache")
    search.add_argument("--threads", type=int, metavar="N", help="queries at once (default: one a core)")
    add = action("add", "add vectors to an index; when it returns they are on disk and found")
    add.add_argument("index", metavar="DIR")
    add.add_argument("vectors", metavar="VECTORS", help="[n, dim] in .npy or .fvecs")
    add.add_argument("--ids", metavar="FILE", required=True, help="[n] whole numbers in .npy")
    add.add_argument("--upsert", action="store_true", help="replace rows of the same ids")
    delete = action("delete", "delete rows by their ids, at once for searches")
    delete.add_argument("index", metavar="DIR")
    delete.add_argument("ids", nargs="+", metavar="ID", type=int)
    for name, text in (
        ("stats", "rows, lists, bytes, and the recall measured"),
        ("compact", "write rows and lists anew without what was deleted; may be interrupted"),
    ):
        action(name, text).add_argument("index", metavar="DIR")
    verify = action("verify", "check every checksum and every row's place; exit code 4 where something is wrong")
    verify.add_argument("index", metavar="DIR")
    verify.add_argument("--repair", action="store_true", help="write what is damaged anew from the rows")


def run(options: argparse.Namespace) -> int:
    """`memspan index ACTION`."""
    actions = {
        **{"build": _build, "search": _search, "stats": _stats},
        **{"add": _add, "delete": _delete, "compact": _compact, "verify": _verify},
    }
    return actions[options.action](options)


def _build(options: argparse.Namespace) -> int:
    import numpy as np

    from memspan.longterm.spann import VectorIndex

    ids = None
    if options.ids:
        ids = np.asarray(_vectors(options.ids, dimensions=1))
    with VectorIndex.build(
        _vectors(options.vectors),
        options.index,
        metric=options.metric,
        ids=ids,
        ram_budget=options.ram_budget,
        overwrite=options.overwrite,
        progress=not options.quiet,
    ) as index:
        _note(options, f"built {options.index}")
        _print_stats(options, index)
    return 0


def _search(options: argparse.Namespace) -> int:
    import time

    from memspan.longterm.spann import VectorIndex

    with VectorIndex.open(options.index, direct=options.direct) as index:
        queries = _vectors(options.queries)
        begun = time.perf_counter()
        hits = index.search(queries, options.k, recall=options.recall, threads=options.threads)
        seconds = time.perf_counter() - begun
        memory = index.memory()
    if options.json:
        _print_json(
            {
                "ids": hits.ids.tolist(),
                "distances": [[d if d < float("inf") else None for d in row] for row in hits.distances.tolist()],
                "stats": {**vars(hits.stats), "seconds": seconds, "memory": memory},
            }
        )
        return 0
    _print_hits(hits, seconds, memory)
    return 0


def _print_hits(hits: Hits, seconds: float, memory: dict[str, int]) -> None:
    rows = [
        [str(query), str(place + 1), str(hits.ids[query, place]), f"{hits.distances[query, place]:.4f}"]
        for query in range(min(len(hits.ids), SHOWN))
        for place in range(hits.ids.shape[1])
        if hits.ids[query, place] >= 0
    ]
    print(_table(["query", "rank", "id", "distance"], rows, right={0, 1, 2, 3}))
    if len(hits.ids) > SHOWN:
        print(f"… and {len(hits.ids) - SHOWN:,} queries more; --json has them all")
    s = hits.stats
    each = max(s.queries, 1)
    how = "exact" if s.recall is None else f"recall {s.recall:.3f} expected"
    print(
        f"\n{s.queries:,} queries in {seconds:.3f} s, {how}; a query read {s.lists / each:.1f} lists,"
        f" {format_bytes(s.bytes // each)} in {s.reads / each:.1f} pieces"
        f"\nmemory: {format_bytes(memory['private'])} private, {format_bytes(memory['mapped'])} of its files mapped"
    )


def _add(options: argparse.Namespace) -> int:
    import numpy as np

    from memspan.longterm.spann import VectorIndex
    from memspan.models.progress import progress_bar

    vectors, ids = _vectors(options.vectors), np.asarray(_vectors(options.ids, dimensions=1))
    if len(ids) != len(vectors):
        raise InputError(f"{options.ids} holds {len(ids):,} ids for {len(vectors):,} vectors; every row needs its own")
    with VectorIndex.open(options.index) as index:
        with progress_bar("adding", len(vectors), show=not options.quiet) as advance:
            for at in range(0, len(vectors), ADDED):
                index.add(ids[at : at + ADDED], vectors[at : at + ADDED], upsert=options.upsert)
                advance(min(ADDED, len(vectors) - at))
        _say(options, {"added": len(vectors), "rows": len(index)}, f"added {len(vectors):,}; {len(index):,} rows now")
    return 0


def _delete(options: argparse.Namespace) -> int:
    from memspan.longterm.spann import VectorIndex

    with VectorIndex.open(options.index) as index:
        gone = index.delete(options.ids)
        said = (
            f"deleted {gone:,} of {len(options.ids):,}; {len(index):,} rows left. Their bytes go with `index compact`"
        )
        _say(options, {"deleted": gone, "rows": len(index)}, said)
    return 0


def _compact(options: argparse.Namespace) -> int:
    from memspan.longterm.spann import VectorIndex

    with VectorIndex.open(options.index) as index:
        before = index.footprint().by_place["disk"]
        index.compact(progress=not options.quiet)
        after = index.footprint().by_place["disk"]
        _say(options, {"before": before, "after": after}, f"{format_bytes(before)} before, {format_bytes(after)} now")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from memspan.longterm.spann import VectorIndex

    with VectorIndex.open(options.index) as index:
        problems = index.verify(repair=options.repair)
    mended = bool(problems) and options.repair
    _say(
        options,
        {"problems": problems, "repaired": mended},
        "\n".join([*problems, "repaired" if mended else ""]).strip() or "nothing is wrong",
    )
    return StoreError.exit_code if problems and not mended else 0


def _say(options: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    if options.json:
        _print_json(value)
    else:
        print(text)


def _stats(options: argparse.Namespace) -> int:
    from memspan.longterm.spann import VectorIndex

    with VectorIndex.open(options.index) as index:
        _print_stats(options, index)
    return 0


def _print_stats(options: argparse.Namespace, index: VectorIndex) -> None:
    stats: dict[str, Any] = index.stats()
    places = index.footprint().by_place
    if options.json:
        _print_json({**stats, "bytes": places})
        return
    lengths = stats["list_length"]
    lists = f"{stats['heads']:,} lists of {lengths['mean']:.0f} rows" if lengths else "no lists: scanned whole"
    print(f"{stats['rows']:,} rows x {stats['dim']} {stats['dtype']}, {stats['metric']}; {lists}; {stats['kernels']}")
    print(f"{format_bytes(places['ram'])} of private memory, {format_bytes(places['disk'])} on disk\n")
    for k, points in sorted(stats["recall"].items()):
        rows = [[f"{p['recall']:.4f}", str(p["lists"]), str(p["cells"]), str(p["rerank"])] for p in points]
        print(f"recall of {k} neighbours, measured on rows of the index")
        print(_table(["recall", "lists", "cells", "rows ranked"], rows, right={0, 1, 2, 3}) + "\n")


def _vectors(name: str, dimensions: int = 2) -> npt.NDArray[np.generic]:
    """The array of a file, mapped.

    Raises:
        InputError: there is no such file, or it is neither .npy nor .fvecs.
    """
    import numpy as np

    path = Path(name)
    if not path.is_file():
        raise InputError(f"{name}: no such file")
    if path.suffix == ".fvecs":
        # Each row is its length as int32, then so many float32.
        dim = int(np.fromfile(path, np.int32, 1)[0]) if path.stat().st_size >= 4 else 0
        if dim < 1 or path.stat().st_size % (4 * (dim + 1)):
            raise InputError(f"{name} is no .fvecs file: its size does not fit the length of its first row")
        return np.memmap(path, np.float32, "r", shape=(path.stat().st_size // (4 * (dim + 1)), dim + 1))[:, 1:]
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{name} cannot be read as .npy ({error}); save the array with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name} holds several arrays; save one with numpy.save")
    if array.ndim > dimensions:
        raise InputError(f"{name} has shape {array.shape}; {dimensions} dimensions at most are taken")
    return array
