"""`memspan plan --trace` and `--record`: addresses for the buffers of a step."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from memspan.core.budget import parse_bytes
from memspan.core.errors import BudgetError, InputError

if TYPE_CHECKING:
    from memspan.planner.allocator import Placement, Problem

DEFAULT = "mallocmuzero"
ALL = "all"


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of `plan` that concern addresses."""
    group = sub.add_argument_group(
        "addresses", "where each buffer of a recorded step lies in one address space, instead of a plan of savers"
    )
    group.add_argument("--record", metavar="FILE", help="write the step of the job, with --savers, as buffers (CSV)")
    group.add_argument(
        "--trace", metavar="FILE", help="place these buffers: CSV with id,lower,upper,size as minimalloc has it"
    )
    group.add_argument("--capacity", metavar="BYTES", help="address space that there is; exit code 3 if none fits")
    group.add_argument(
        "--allocator", metavar="NAME", help=f"first-fit, best-fit, …, {ALL}, with commas between (default: {DEFAULT})"
    )
    group.add_argument("--seconds", type=float, metavar="N", help="that each may search (default: 60); Ctrl-C ends it")
    group.add_argument("--out", metavar="FILE", help="write the best placement (CSV with offsets)")
    group.add_argument(
        "--fast-memory",
        metavar="BYTES",
        help="where not all fit: which uses are served from a fast memory of this size, by --allocator greedy, mcts "
        "(default) or muzero; --bandwidth is then the bytes from slow to fast in one unit of time",
    )


def record(options: argparse.Namespace) -> int:
    """`memspan plan --record FILE`."""
    from memspan.cli.planning import job, names
    from memspan.cli.verbs import _print_json
    from memspan.models.spec import require_local

    require_local()
    from memspan.planner import record_job
    from memspan.planner.allocator import write_csv
    from memspan.training.base import Stack

    stack = Stack([] if options.savers is None else names(options.savers))
    spec = job(options)
    stack.check(spec)
    problem = record_job(spec, stack, name=Path(options.record).name)
    write_csv(options.record, problem)
    if options.json:
        _print_json({"trace": options.record, "buffers": len(problem), "lower_bound": problem.lower_bound})
    elif options.record != "-":
        print(f"{len(problem):,} buffers, at most {problem.lower_bound:,} bytes at one time: {options.record}")
    return 0


def allocate(options: argparse.Namespace) -> int:
    """`memspan plan --trace FILE`."""
    from memspan.cli.verbs import _print_json, _table
    from memspan.planner.allocator import read_csv, show, write_csv

    if options.fast_memory is not None:
        return _map(options)
    capacity = None if options.capacity is None else parse_bytes(options.capacity)
    seconds = 60.0 if options.seconds is None else options.seconds
    problem = read_csv(options.trace)
    found = _place_all(problem, options.allocator or DEFAULT, capacity, seconds, quiet=options.quiet)
    best = min(found, key=lambda one: one.peak)
    if options.out:
        write_csv(options.out, problem, best)
    if options.plot:
        show.plot(best, Path(options.plot), capacity)
    if options.json:
        _print_json(
            {
                "trace": options.trace,
                "buffers": len(problem),
                "lower_bound": problem.lower_bound,
                "capacity": capacity,
                "best": best.allocator,
                "placements": [one.to_json() for one in found],
            }
        )
    else:
        header, rows = show.rows(found, capacity)
        print(_table(header, rows, right={1, 2, 3}))
        print(f"\n{len(problem):,} buffers, of which at most {problem.lower_bound:,} bytes live at one time")
        for what, path in (("offsets", options.out), ("the address space over time", options.plot)):
            if path and path != "-":
                print(f"{what}: {path}")
    if any(one.stopped == "interrupted" for one in found):
        return 130
    if capacity is not None and best.peak > capacity:
        impossible = best.bound > capacity
        raise BudgetError(
            f"the best placement found, by {best.allocator},",
            needed=best.peak,
            allowed=capacity,
            advice=f"no placement needs less than {best.bound:,}" if impossible else "give more --seconds or bytes",
        )
    return 0


def _map(options: argparse.Namespace) -> int:
    """`memspan plan --trace FILE --fast-memory BYTES`."""
    from memspan.cli.verbs import _print_json, _table
    from memspan.planner.allocator import read_csv
    from memspan.training.mallocmuzero import map_buffers

    for name in ("capacity", "plot", "out"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name} does not go with --fast-memory, where not all buffers are placed")
    problem = read_csv(options.trace)
    found = map_buffers(
        problem,
        parse_bytes(options.fast_memory),
        solver=options.allocator or "mcts",
        bandwidth=math.inf if options.bandwidth is None else float(parse_bytes(options.bandwidth)),
        seconds=60.0 if options.seconds is None else options.seconds,
    )
    program = found.program
    stays = sorted(found.stays, key=lambda stay: (stay.first, stay.offset))
    if options.json:
        rows = [
            {
                "id": problem.buffers[stay.buffer].id,
                "from": program.times[stay.first // 2],
                "to": program.times[stay.last // 2],
                "offset": stay.offset,
            }
            for stay in stays
        ]
        _print_json(
            {
                "trace": options.trace,
                "fast_memory": program.fast_bytes,
                "solver": found.solver,
                "benefit": found.benefit,
                "of": program.total,
                "height": found.height,
                "notes": found.notes,
                "stays": rows,
            }
        )
        return 0
    header = ["buffer", "bytes", "offset", "from", "to"]
    table = []
    for stay in stays:
        buffer = problem.buffers[stay.buffer]
        row = (f"{buffer.size:,}", f"{stay.offset:,}", program.times[stay.first // 2], program.times[stay.last // 2])
        table.append([buffer.id, *map(str, row)])
    print(_table(header, table, right={1, 2, 3, 4}))
    print(
        f"\nby {found.solver}: benefit {found.benefit:,.0f} of {program.total:,.0f} if all uses were served from fast "
        f"memory; greedy {found.notes['greedy']:,.0f}; {found.height:,} of {program.fast_bytes:,} bytes used"
    )
    return 0


def _place_all(problem: Problem, names: str, capacity: int | None, seconds: float, *, quiet: bool) -> list[Placement]:
    """What each allocator finds; after an interruption the rest are left out."""
    from memspan.models.progress import progress_bar
    from memspan.planner.allocator import find_allocator, known_allocators

    slugs = known_allocators() if names == ALL else [word.strip() for word in names.split(",") if word.strip()]
    if not slugs:
        raise InputError("--allocator names none")
    allocators = [find_allocator(slug) for slug in slugs]
    found = []
    for allocator in allocators:
        with progress_bar(allocator.slug, 1_000, show=not quiet) as advance:
            shown = 0

            def tick(part: float, said: str) -> None:
                nonlocal shown
                steps = int(1_000 * part) - shown
                if steps > 0:
                    shown += steps
                    advance(steps, said)

            found.append(allocator.place(problem, capacity=capacity, seconds=seconds, tick=tick))
        if found[-1].stopped == "interrupted":
            break
    for one in found:
        one.check()
    return found
