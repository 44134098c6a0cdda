"""`memspan train`: a language model on one's own texts, inside a byte budget."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.core.budget import format_bytes, parse_bytes
from memspan.core.errors import BudgetError, InputError

if TYPE_CHECKING:
    from memspan.planner.search import Plan, Plans
    from memspan.training.spec import Spec

CONFIG = "config.json"
# What a resumed run takes from its folder; all else may differ.
_KEPT = (
    "model",
    "task",
    "batch",
    "seq",
    "dtype",
    "attention",
    "clip",
    "lr",
    "weight_decay",
    "warmup",
    "seed",
    "savers",
)


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of `train`, besides the job's."""
    from memspan.cli.planning import add_job

    add_job(sub)
    sub.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="FILE",
        help='texts, or JSON lines with "text"; not needed with --resume',
    )
    sub.epilog = "Several ranks share a training: torchrun --nproc-per-node 2 -m memspan train --savers zero …\n" + (
        sub.epilog or ""
    )
    sub.add_argument("--out", required=True, metavar="DIR", help="the run's folder: settings, metrics, plots, model")
    sub.add_argument("--budget", default="2GiB", metavar="BYTES", help="memory that training may take (default: 2GiB)")
    sub.add_argument(
        "--savers",
        default="auto",
        metavar="A,B",
        help="auto (the best plan that fits, default), none, or a list, with settings as in zero:stage=2",
    )
    sub.add_argument("--steps", type=int, default=100, metavar="N", help="in all (default: 100)")
    sub.add_argument("--lr", type=float, default=1e-4, metavar="X", help="learning rate (default: 0.0001)")
    sub.add_argument("--weight-decay", type=float, default=0.0, metavar="X", help="of matrices (default: 0)")
    sub.add_argument("--warmup", type=int, default=0, metavar="N", help="steps up to the learning rate (default: 0)")
    sub.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")
    sub.add_argument("--save-every", type=int, default=50, metavar="N", help="steps between checkpoints (default: 50)")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out, with its settings")


def train(options: argparse.Namespace) -> int:
    """`memspan train`."""
    from memspan.cli.planning import job
    from memspan.cli.verbs import _note, _print_json
    from memspan.models.spec import require_local

    require_local()
    from memspan.planner import show
    from memspan.training import ranks
    from memspan.training.estimate import memory

    folder = Path(options.out)
    options.devices = ranks.launched()
    first = int(os.environ.get("RANK", "0")) == 0
    if options.resume:
        _take_up(options, folder)
    elif (folder / CONFIG).exists():
        raise InputError(f"{folder} holds a run: go on with --resume, or choose another folder")
    texts = [text for name in options.data for text in _texts(Path(name))]
    if not texts:
        raise InputError("there is nothing to train on: name files with --data")
    budget = parse_bytes(options.budget)
    spec = job(options)
    planned = _choose(options, spec, budget) if first else None  # before the ranks meet: a plan leaves others out
    with ranks.joined():
        plans, chosen = ranks.first_says(planned)
        if first:
            _note(options, "\n".join([show.name(chosen) + " is used:", *show.explain(plans, chosen)[1:], ""]))
            _write_config(options, folder, chosen, budget)
        trained = _run(options, spec, texts, chosen, budget, folder)
    if not first:
        return 0
    report = {
        "out": str(folder),
        "model": str(folder / "model"),
        "savers": list(chosen.savers),
        "steps": len(trained.losses),
        "resumed_at": trained.resumed_at,
        "loss": {"first": trained.losses[0], "last": trained.losses[-1]},
        "seconds": round(trained.seconds, 1),
        "peak_bytes": {"predicted": chosen.peak, "measured": memory(trained.peak), "budget": budget},
        "by_tier": trained.peak.in_memory.by_tier,
        "report": trained.report,
    }
    if options.json:
        _print_json(report)
        return 0
    print(
        f"{len(trained.losses):,} steps, loss {trained.losses[0]:.3f} to {trained.losses[-1]:.3f},"
        f" {trained.seconds:.0f} s"
    )
    if trained.peak.total:
        print(
            f"peak {format_bytes(memory(trained.peak))} of {format_bytes(budget)},"
            f" {format_bytes(chosen.peak)} foretold: "
            + ", ".join(f"{tier} {format_bytes(n)}" for tier, n in trained.peak.in_memory.by_tier.items())
        )
    print(f"the model: {folder / 'model'} (transformers loads it); metrics.jsonl, loss.png, ledger.png beside it")
    return 0


def _run(options: argparse.Namespace, spec: Spec, texts: list[str], chosen: Plan, budget: int, folder: Path) -> Any:
    import torch

    from memspan.models.configuration import load_tokenizer, load_trainable
    from memspan.models.spec import quiet_transformers
    from memspan.training import AdamW, Stack, TokenBatches, ranks
    from memspan.training import train as run
    from memspan.training.data import tokens_of

    if spec.task == "pretrain":
        tokenizer = load_tokenizer(options.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model = spec.build()
    else:
        model, tokenizer = load_trainable(options.model, dtype=spec.dtype, attention=spec.attention)
    tokens = tokens_of(texts, tokenizer, vocabulary=spec.config.get_text_config().vocab_size)
    stack = Stack(chosen.savers)
    rows = spec.batch * stack.row_ranks(spec.devices)  # of all ranks; each takes its part
    batches = TokenBatches(tokens, batch=rows, seq=spec.seq, seed=options.seed)
    warm = options.warmup
    try:
        trained = run(
            model,
            batches,
            steps=options.steps,
            savers=stack,
            optimizer=AdamW(lr=options.lr, weight_decay=options.weight_decay),
            clip=options.clip,
            schedule=(lambda step: min(1.0, (step + 1) / warm)) if warm else None,
            seed=options.seed,
            budget=budget,
            out=folder,
            save_every=options.save_every,
            resume=options.resume,
            settings={"data": batches.fingerprint, "lr": options.lr},
            progress=not options.quiet and sys.stderr.isatty(),
            plot=True,
        )
    except KeyboardInterrupt:
        if not options.quiet and not ranks.rank():
            print(f"memspan: kept in {folder}; memspan train --resume --out {folder} goes on", file=sys.stderr)
        raise
    if ranks.rank():
        return trained
    with quiet_transformers():
        trained.model.save_pretrained(folder / "model")  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / "model")
    return trained


def _choose(options: argparse.Namespace, spec: Spec, budget: int) -> tuple[Plans, Plan]:
    """The plans, and the one to train by.

    Raises:
        BudgetError: what was asked for does not fit, or nothing does.
    """
    from memspan.cli.planning import names
    from memspan.models.progress import progress_bar
    from memspan.planner import plan as make_plans
    from memspan.planner import show
    from memspan.planner.search import MOST
    from memspan.training import Stack

    wanted = None if options.savers == "auto" else names(options.savers)
    if wanted is not None:
        wanted = list(Stack(wanted).names)
    with progress_bar("planning", MOST if wanted is None else 2, show=not options.quiet) as advance:
        plans = make_plans(
            spec,
            savers=wanted,
            together=wanted is not None,
            device_memory=budget,
            clip=options.clip,
            progress=advance,
        )
    if spec.devices > 1:
        plans = replace(plans, plans=tuple(one for one in plans if Stack(one.savers).distributing is not None))
        if not plans.plans:
            raise InputError(f"{spec.devices} ranks share the job, and no saver says what: --savers zero, for example")
    if wanted is None:
        return plans, plans.best()
    chosen = next((one for one in plans if list(one.savers) == wanted), None)
    if chosen is None or not chosen.serves:
        raise InputError(f"--savers {options.savers} does not serve the task {spec.task}")
    if not chosen.fits:
        raise BudgetError(
            f"training with {show.name(chosen)} ({chosen.binding})",
            needed=chosen.peak,
            allowed=budget,
            advice="leave --savers out to have some chosen, raise --budget, or lower --batch or --seq",
        )
    return plans, chosen


def _write_config(options: argparse.Namespace, folder: Path, chosen: Plan, budget: int) -> None:
    kept = {name: getattr(options, name) for name in _KEPT}
    kept |= {"savers": ",".join(chosen.savers) or "none", "data": [str(Path(name).resolve()) for name in options.data]}
    kept |= {"steps": options.steps, "budget": budget, "predicted": chosen.to_json()}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{CONFIG}.part"
    part.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / CONFIG)


def _take_up(options: argparse.Namespace, folder: Path) -> None:
    """Give the options the settings that the run in the folder has."""
    try:
        kept = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        for name in _KEPT:
            setattr(options, name, kept[name])
        options.data = options.data or kept["data"]
        options.steps = max(options.steps, kept["steps"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no run to go on with: {error}") from error


def _texts(path: Path) -> list[str]:
    from memspan.cli.reading import text_of

    text = text_of(path)
    if path.suffix.lower() not in (".jsonl", ".json"):
        return [text]
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError):
                raise InputError(f'{path}, line {number} is no JSON object with "text"') from None
    return found
