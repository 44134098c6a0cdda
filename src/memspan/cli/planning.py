"""`memspan plan`: what a training step will take, before anything is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memspan.cli import allocating
from memspan.core.budget import parse_bytes
from memspan.core.errors import InputError

if TYPE_CHECKING:
    from memspan.planner.work import Hardware
    from memspan.training.spec import Spec

EXAMPLES = """\
examples:
  memspan plan --model bundled --seq 2048 --device-memory 4GiB
  memspan plan --model llama7b/config.json --dtype bfloat16 --seq 4096 --device-memory 80GB --explain
  memspan plan --model config.json --devices 8 --savers zero:stage=1,zero:stage=2,zero:stage=3,checkpointing
  memspan plan --model config.json --task pretrain --batch 8 --devices 64 --flops 312e12 --bandwidth 2TB --link 100GB
  memspan plan --model bundled --seq 128 --record step.csv
  memspan plan --trace step.csv --allocator all --plot address.png

"""


def add_job(sub: argparse.ArgumentParser) -> None:
    """The options that say what is trained; `train` has them too."""
    sub.add_argument(
        "--model",
        default="bundled",
        metavar="SPEC",
        help="bundled (default), a Hugging Face id, a path, or a config.json",
    )
    sub.add_argument(
        "--task",
        choices=("pretrain", "finetune", "lora"),
        default="finetune",
        help="pretrain: from random weights; finetune (default); lora: the base model stays frozen",
    )
    sub.add_argument("--batch", type=int, default=1, metavar="N", help="rows of a batch on each device (default: 1)")
    sub.add_argument("--seq", type=int, default=512, metavar="N", help="tokens of a row (default: 512)")
    sub.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default: float32)"
    )
    sub.add_argument(
        "--attention", default="sdpa", metavar="NAME", help="as transformers names it: sdpa (default), eager"
    )
    sub.add_argument("--clip", type=float, metavar="NORM", help="scale gradients down to this norm")


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of `plan`."""
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = EXAMPLES + (sub.epilog or "")
    add_job(sub)
    sub.add_argument("--device-memory", metavar="BYTES", help="memory of each device, as 16GiB")
    sub.add_argument("--host-memory", metavar="BYTES", help="RAM beside each device")
    sub.add_argument("--devices", type=int, default=1, metavar="N", help="devices that share the job (default: 1)")
    sub.add_argument("--device", default="cpu", metavar="NAME", help="where tensors are: cpu (default), cuda, …")
    sub.add_argument(
        "--savers", metavar="A,B", help="consider these only (default: all that work); settings as in zero:stage=2"
    )
    sub.add_argument("--most", type=int, metavar="N", help="combinations to run at most (default: 16)")
    sub.add_argument("--flops", type=float, metavar="N", help="of the device, a second (default: this machine, timed)")
    sub.add_argument("--bandwidth", metavar="BYTES", help="of the device's memory, a second; goes with --flops")
    sub.add_argument("--link", metavar="BYTES", help="a second between devices (default: communication costs no time)")
    sub.add_argument("--explain", action="store_true", help="show how the numbers came about")
    sub.add_argument("--whole", action="store_true", help="run the whole model's step, not those of two layers")
    sub.add_argument("--plot", metavar="FILE", help="draw the tiers of each plan (PNG, SVG or PDF)")
    allocating.add_options(sub)


def job(options: argparse.Namespace) -> Spec:
    """The job that the options describe.

    Raises:
        InputError, ModelError: as `Spec` and `load_config`.
    """
    from memspan.models.configuration import load_config
    from memspan.training.spec import Spec

    return Spec(
        config=load_config(options.model),
        task=options.task,
        batch=options.batch,
        seq=options.seq,
        dtype=options.dtype,
        attention=options.attention,
        devices=getattr(options, "devices", 1),
        device=getattr(options, "device", "cpu"),
    )


def plan(options: argparse.Namespace) -> int:
    """`memspan plan`."""
    if options.trace:
        return allocating.allocate(options)
    for name in ("capacity", "allocator", "seconds", "out", "fast_memory"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is about addresses: it goes with --trace FILE")
    if options.record:
        return allocating.record(options)
    from memspan.cli.verbs import _print_json, _table
    from memspan.models.progress import progress_bar
    from memspan.models.spec import require_local

    require_local()
    from memspan.planner import plan as make_plans
    from memspan.planner import show
    from memspan.planner.search import MOST

    hardware = _hardware(options)
    spec = job(options)
    most = MOST if options.most is None else options.most
    with progress_bar("planning", most, show=not options.quiet) as advance:
        plans = make_plans(
            spec,
            savers=None if options.savers is None else names(options.savers),
            device_memory=options.device_memory,
            host_memory=options.host_memory,
            clip=options.clip,
            hardware=hardware,
            whole=options.whole,
            most=most,
            progress=advance,
        )
    if options.plot:
        show.plot(plans, Path(options.plot))
    if options.json:
        found: dict[str, Any] = plans.to_json()
        if options.explain:
            found["explained"] = {show.name(one): show.explain(plans, one) for one in plans}
        _print_json({"model": options.model, **found})
        return 0
    header, rows = show.rows(plans)
    print(_table(header, rows, right={1, 2, 3, 4, 5, 6}))
    for line in show.notes(plans):
        print(f"\n{line}")
    if options.explain:
        for one in plans:
            print("\n" + "\n".join(show.explain(plans, one)))
        for slug, reason in plans.skipped.items():
            print(f"\n{slug} was left out: {reason}")
    if options.plot:
        print(f"\nthe bars: {options.plot}")
    return 0


def names(text: str) -> list[str]:
    """The words of a list with commas; "none" is no word."""
    return [word.strip() for word in text.split(",") if word.strip() and word.strip() != "none"]


def _hardware(options: argparse.Namespace) -> Hardware | None:
    from memspan.planner.work import Hardware, measure_hardware

    link = None if options.link is None else float(parse_bytes(options.link))
    if options.flops is None and options.bandwidth is None:
        if link is None:
            return None
        import torch

        return measure_hardware(getattr(torch, options.dtype), link=link)
    if options.flops is None or options.bandwidth is None:
        raise InputError("--flops and --bandwidth go together: a step is products and everything else")
    return Hardware(flops=options.flops, bandwidth=float(parse_bytes(options.bandwidth)), link=link)
