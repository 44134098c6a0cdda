"""`memspan behave`: questions about behaviour in a pose track."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.longterm.amadeusgpt import Found, Pose, SymbolMemory

EXAMPLES = """\
examples:
  memspan behave demo "When is speed > 8?"
  memspan behave demo "How often <chases>?" --plot chases.png \\
      --define "<|chases|> is closest distance < 40 px, head angle < 30 deg, speed > 2"
  memspan behave track.csv "How long does mouse1 <chases> mouse2?" --store lab.db --fps 60
  memspan behave demo "Who <near>?" --define "<|near|>" --program near.py --allow-code

A definition is kept in --store under its name and used again by <name>. The rules read comparisons of distance
(closest distance, px), head angle (deg), speed (px/frame or px/s), acceleration and turning with numbers; ranges; and,
or, not, but; "smoothing window N"; "for at least N s" or "N frames".

"""


def add_options(sub: argparse.ArgumentParser) -> None:
    """The verb's options, besides the store's."""
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = EXAMPLES + (sub.epilog or "")
    sub.add_argument("file", metavar="FILE", help="a pose track: DeepLabCut's CSV layout, or 'demo' (made by code)")
    sub.add_argument("question", nargs="?", help="with <symbols>, conditions such as 'speed > 8', or both")
    sub.set_defaults(behind="question")
    sub.add_argument(
        "--define", action="append", default=[], metavar="TEXT", help='"<|name|> is …", before asking (repeatable)'
    )
    sub.add_argument(
        "--program", metavar="FILE", help="a file with one Python function of the pose, for the last --define"
    )
    sub.add_argument("--write", metavar="NAME", help="let --model write the program of a symbol, show it, and keep it")
    sub.add_argument("--model", default="bundled", metavar="SPEC", help="what writes programs (default: bundled)")
    sub.add_argument(
        "--allow-code",
        action="store_true",
        help="programs that a user or a model wrote may run: in a process of their own, without files and network",
    )
    sub.add_argument("--cpu-seconds", type=int, default=10, metavar="N", help="of one program (default: 10)")
    sub.add_argument("--fps", type=float, default=30.0, metavar="N", help="frames a second (default: 30)")
    sub.add_argument(
        "--min-likelihood", type=float, default=0.6, metavar="P", help="points below count as not seen (default: 0.6)"
    )
    sub.add_argument(
        "--head", metavar="FRONT,BACK", help="keypoints at the front of the head and behind it, if not found by name"
    )
    sub.add_argument("--plot", metavar="IMAGE", help="draw paths, events and measures (PNG, SVG or PDF)")
    sub.add_argument("--events", metavar="CSV", help="write the table of events")
    sub.add_argument("--source", action="store_true", help="show the Python behind the symbols of the question")


def behave(options: argparse.Namespace) -> int:
    """`memspan behave`."""
    from memspan.cli.verbs import _note, _print_json
    from memspan.longterm.amadeusgpt import Sandbox, ask_behaviour

    if options.question is None and not (options.define or options.write):
        raise InputError('say what to look for: memspan behave FILE "How often <name>?", or --define "<|name|> is …"')
    pose = _pose(options)
    with contextlib.ExitStack() as stack:
        symbols = stack.enter_context(_symbols(options))
        made = _define(symbols, options)
        if options.write:
            made += [_written(symbols, pose, options)]
        if options.question is None:
            if options.json:
                _print_json({"defined": made})
            else:
                print("\n".join(f"defined <{one['name']}>, version {one['version']}: {one['means']}" for one in made))
            return 0
        sandbox = Sandbox(cpu_seconds=options.cpu_seconds, wall_seconds=3.0 * options.cpu_seconds)
        found = ask_behaviour(symbols, pose, options.question, allow_code=options.allow_code, sandbox=sandbox)
        if options.events:
            _write_events(found, pose, Path(options.events))
        if options.plot:
            from memspan.longterm.amadeusgpt import plot_found

            plot_found(found, pose, symbols.table, options.plot)
        sources = [symbols.program(name, number).source for name, number, _ in found.symbols] if options.source else []
    if options.json:
        told = {**found.to_json(pose), "defined": made, "plot": options.plot}
        _print_json({**told, "sources": sources} if options.source else told)
        return 0
    _print(found, pose)
    for source in sources:
        print(f"\n{source}", end="")
    for note in found.notes:
        _note(options, f"memspan: {note}")
    for path in filter(None, (options.plot, options.events)):
        _note(options, f"memspan: wrote {path}")
    return 0


def _pose(options: argparse.Namespace) -> Pose:
    from memspan.longterm.amadeusgpt import demo_pose, read_pose

    head = tuple(part.strip() for part in options.head.split(",")) if options.head else ()
    if head and len(head) != 2:
        raise InputError(f"--head takes two keypoints, FRONT,BACK, and got {options.head!r}")
    if not options.fps > 0:
        raise InputError(f"--fps must be above 0, not {options.fps:g}")
    if options.file == "demo":
        return demo_pose(fps=options.fps)
    return read_pose(options.file, fps=options.fps, min_likelihood=options.min_likelihood, head=head)


def _symbols(options: argparse.Namespace) -> SymbolMemory:
    from memspan.longterm.amadeusgpt import SymbolMemory

    return SymbolMemory(options.store, space=options.space)


def _define(symbols: SymbolMemory, options: argparse.Namespace) -> list[dict[str, object]]:
    """Take the definitions; returns what each means."""
    if options.program and not options.define:
        raise InputError('--program needs a --define "<|name|> …" that it belongs to')
    made: list[dict[str, object]] = []
    for place, text in enumerate(options.define):
        program = None
        if options.program and place == len(options.define) - 1:
            try:
                program = Path(options.program).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"cannot read the program {options.program}: {error}") from None
        made += [_told(symbols, symbol.name) for symbol in symbols.define(text, program)]
    return made


def _told(symbols: SymbolMemory, name: str) -> dict[str, object]:
    from memspan.longterm.amadeusgpt.asking import said

    try:
        behaviour = symbols.behaviour(name)
        means = said(behaviour, symbols.table)
        unread = list(behaviour.unread)
    except InputError:
        means, unread = "no condition that the rules can read; attach a program to use it", []
    if unread:
        means += f" (not understood: {'; '.join(unread)})"
    return {"name": name, "version": symbols[name].current.number, "means": means, "unread": unread}


def _written(symbols: SymbolMemory, pose: Pose, options: argparse.Namespace) -> dict[str, object]:
    """Let the model write a program, and keep it as a new version of the symbol."""
    import sys

    from memspan.longterm.amadeusgpt import write_program
    from memspan.models import load_language_model

    symbol = symbols.known(options.write)
    made = write_program(
        symbols,
        symbol.name,
        load_language_model(options.model),
        pose if options.allow_code else None,
        allow_code=options.allow_code,
    )
    if made.fallback:
        print(f"memspan: the model wrote no usable program ({made.fallback}); the rules' stands in", file=sys.stderr)
    symbols.define(symbol.definition, made.program)
    told = {"name": symbol.name, "version": symbols[symbol.name].current.number, "source": made.program.source}
    return {**told, "means": f"a program by the {made.program.creator}\n{made.program.source}", "ran": made.ran}


def _print(found: Found, pose: Pose) -> None:
    from memspan.cli.verbs import _table

    print(found.text)
    if found.events:
        rows = [
            [
                event.actor or "scene",
                event.other,
                *(f"{frames / pose.fps:.2f}" for frames in (event.start, event.stop, event.frames)),
                f"{event.start}–{event.stop}",
            ]
            for event in found.events
        ]
        print("\n" + _table(["who", "whom", "from (s)", "to (s)", "seconds", "frames"], rows, right={2, 3, 4}))
    print(f"\nlooked for: {found.said}")
    for name, number, episode in found.symbols:
        print(f"  <{name}> version {number}, defined in {episode}")


def _write_events(found: Found, pose: Pose, path: Path) -> None:
    import csv

    names = ("actor", "other", "start_frame", "stop_frame", "start_s", "stop_s", "seconds")
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(event.to_json(pose.fps) for event in found.events)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
