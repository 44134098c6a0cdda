"""`memspan train-context`: what a context system learns for a frozen model, from one's own texts."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from pathlib import Path
from typing import Any

from memspan.core.errors import InputError


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of `train-context`."""
    sub.add_argument("slug", metavar="SLUG", help="a context system that learns; see memspan systems --folder context")
    sub.add_argument("files", nargs="+", metavar="FILE", help="texts to learn from")
    sub.add_argument("--out", required=True, metavar="DIR", help="where what is learned goes")
    sub.add_argument("--model", default="bundled", metavar="SPEC", help="bundled, a Hugging Face id, or a path")
    sub.add_argument("--steps", type=int, default=100, metavar="N", help="training steps in all (default: 100)")
    sub.add_argument("--length", type=int, default=512, metavar="N", help="tokens of a window (default: 512)")
    sub.add_argument("--batch", type=int, default=1, metavar="N", help="windows a step (default: 1)")
    sub.add_argument("--lr", type=float, default=1e-3, metavar="X", help="learning rate (default: 0.001)")
    sub.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")
    add_option(sub)


def add_option(sub: argparse.ArgumentParser) -> None:
    """--option, which any setting of a system can be given with."""
    sub.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the system (repeatable); memspan systems show SLUG lists them",
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What --option said: numbers, tuples, True, False and None as in Python, anything else a word.

    Raises:
        InputError: one is not NAME=VALUE.
    """
    found: dict[str, Any] = {}
    for said in options.option:
        name, equals, value = said.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--option {said!r} is not NAME=VALUE")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def train_context(options: argparse.Namespace) -> int:
    """`memspan train-context`."""
    from memspan.cli.reading import text_of

    texts = [text_of(Path(name)) for name in options.files]

    from memspan.context.learning import Fitted
    from memspan.context.reader import find_learner
    from memspan.models import load_language_model

    learner = find_learner(options.slug)(**settings(options))
    model = load_language_model(options.model, dtype="float32")
    kept = Path(f"{options.out}.training")
    try:
        fitted: Fitted = learner.fit(
            model,
            texts,
            steps=options.steps,
            out=options.out,
            length=options.length,
            batch=options.batch,
            lr=options.lr,
            seed=options.seed,
            progress=not options.quiet and sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        if kept.exists() and not options.quiet:
            print(f"memspan: kept in {kept}; the same command goes on from there", file=sys.stderr)
        raise
    report = {
        "system": options.slug,
        "directory": str(options.out),
        "steps": fitted.steps,
        "resumed_at": fitted.resumed_at,
        "parameters": fitted.parameters,
        "held_out_loss": {"before": _number(fitted.before), "after": _number(fitted.after)},
        "seconds": round(fitted.seconds, 1),
        "losses": [round(loss, 4) for loss in fitted.losses],
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    print(f"{options.slug}: {fitted.parameters:,} numbers learned in {fitted.steps:,} steps, {fitted.seconds:.0f} s")
    if report["held_out_loss"]["after"] is None:
        print("there was too little text to hold a part out, so whether it helped is not known")
    else:
        print(f"loss on held-out text: {fitted.before:.3f} before, {fitted.after:.3f} after")
    print(f'use it: memspan read --system {options.slug} --weights {options.out} FILE… "question"')
    return 0


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
