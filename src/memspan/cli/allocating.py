"""`memspan plan --trace` and `--record`: addresses for the buffers of a step."""

from __future__ import annotations

import argparse
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


def record(options: argparse.Namespace) -> int:
    """`memspan plan --record FILE`."""
    from memspan.cli.planning import job, names
    from memspan.cli.verbs import _print_json
    from memspan.models.spec import require_local

    require_local()
    from memspan.planner.allocator import record_job, write_csv
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
