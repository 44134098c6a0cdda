"""Fine-tuning one model on one text in many ways: bytes, seconds, and what the model then knows.

    python benchmarks/training.py --text BOOK [--configs NAMES] [--model bundled] [--seq 512] [--batch 1] [--steps 40]
        [--lr 2e-5] [--json] [--out FILE] [--plot FILE]

Each configuration has a process of its own. `all` are full fine-tuning with AdamW, LoRA (PEFT), GaLore (galore-torch),
torchao's 8-bit AdamW, each saver that works here, and "planned": the savers that the planner ranks first below 0.35
times AdamW's peak, or those with the least where none fits. Others are named as savers with plus signs, settings and a
rate: "q-galore+checkpointing", "lora+lemo:keep=0.25:block=32", "q-galore@1e-4". What is not installed is left out with
a line.

Bytes are the ledger's, which looks at every fourth step from the second on, before which savers are told to make the
next step their largest; "predicted" is the planner's figure for it. Seconds are of a processor, medians of the steps
without the ledger; the ledger's column is the ratio of the steps with it to those. Adapters have ten times the learning
rate, and low-rank views of gradients, whose step is scaled by a quarter, four times. Validation is on the text's last
tenth, by the plain forward pass: after all steps, and at the moment when a configuration had trained as long as AdamW
took for them (at most four times the steps).

Bars, fixed before the first run: full-parameter training at no more than 0.35 times AdamW's peak and 1.02 times its
validation loss; with lemo and memo-1m together below LoRA's peak, at 1,024 tokens.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import machine, machine_line, positive, say, table, versions
from torch import nn

from memspan.core.errors import ConflictError, InputError, MemspanError
from memspan.core.ledger import Ledger
from memspan.models.configuration import load_config, load_trainable
from memspan.planner import Hardware, plan
from memspan.planner.imagine import imagine
from memspan.planner.search import MOST
from memspan.training import AdamW, Saver, Spec, Stack, Step, TokenBatches, find_saver, known_savers
from memspan.training.data import tokens_of
from memspan.training.estimate import memory

PEAK_BAR, LOSS_BAR = 0.35, 1.02
LEDGER_EVERY = 4  # steps
MOST_STEPS = 4  # times the steps, for equal seconds
ADAPTER_RATE, VIEW_RATE = 10.0, 4.0
VIEWS = ("q-galore", "galore-torch")
PEERS = {"galore-torch": "galore_torch", "torchao-8bit": "torchao"}


# --- configurations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PeerOptimizer(AdamW):
    """An optimizer of another package, with AdamW's settings."""

    peer: str = ""

    def __call__(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer.

        Raises:
            ImportError: the package is not installed.
        """
        package: Any = importlib.import_module(PEERS[self.peer])
        options = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        if self.peer == "torchao-8bit":
            kind: Any = importlib.import_module("torchao.optim").AdamW8bit
            made: torch.optim.Optimizer = kind(model.parameters(), **options)
            return made
        inside = [one for name, one in model.named_modules() if isinstance(one, nn.Linear) and "head" not in name]
        linear = {id(one.weight) for one in inside}
        views = [one for one in model.parameters() if id(one) in linear]
        rank = min(min(one.shape) for one in views) // 4
        group = {"params": views, "rank": rank, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
        others = [one for one in model.parameters() if id(one) not in linear]
        made = package.GaLoreAdamW([{"params": others}, group], no_deprecation_warning=True, **options)
        return made


def savers_of(name: str) -> list[Saver]:
    """The savers that a configuration's name lists.

    Raises:
        InputError, MissingExtraError: one is not known, or a package that it needs is not installed.
    """
    if name == "adamw" or name in PEERS:
        return []
    return [find_saver(one) for one in name.split("+")]


def every(spec: Spec) -> list[str]:
    """AdamW, the peers, each saver that serves the job, alone or with adapters, and the planned one."""
    names = ["adamw", *PEERS]
    for slug in known_savers():
        try:
            saver = find_saver(slug)
            if spec.task not in saver.tasks or saver.touches == {"distribution"}:
                continue
            saver.check(spec)
        except MemspanError as error:
            say(f"{slug}: left out: {error}")
            continue
        names.append(f"lora+{slug}" if "adapters" in saver.needs else slug)
    return [*names, "planned"]


def rate_of(name: str, savers: Sequence[Saver], base: float) -> float:
    """The learning rate of a configuration."""
    if any("adapters" in one.brings for one in savers):
        return base * ADAPTER_RATE
    return base * VIEW_RATE if name in VIEWS or any(one.slug in VIEWS for one in savers) else base


# --- one configuration, in a process of its own ----------------------------------------------------------------------


class Training:
    """One configuration: its model, steps and figures.

    Args:
        job: model, seq, batch, steps, seconds, lr, rows, text, and the configuration's name and savers.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        name, _, rate = job["name"].partition("@")
        savers = savers_of("+".join(job["savers"]) or "adamw") if name == "planned" else savers_of(name)
        self.spec = Spec(config=load_config(job["model"]), batch=job["batch"], seq=job["seq"])
        self.stack = Stack(savers)
        self.stack.check(self.spec)
        options = {"lr": float(rate) if rate else rate_of(name, savers, job["lr"])}
        self.factory = PeerOptimizer(peer=name, **options) if name in PEERS else AdamW(**options)
        self.model, tokenizer = load_trainable(job["model"], dtype="float32")
        whole = tokens_of([Path(job["text"]).read_text(encoding="utf-8", errors="replace")], tokenizer)
        cut = len(whole) * 9 // 10
        self.batches = TokenBatches(whole[:cut], batch=job["batch"], seq=job["seq"])
        self.held_out = TokenBatches(whole[cut:], batch=1, seq=job["seq"])

    def validation(self) -> float:
        """Mean loss of held-out rows, in nats."""
        self.model.eval()
        with torch.no_grad():
            rows = min(self.job["rows"], self.held_out.rows)
            losses = [float(self.model(**self.held_out(number), use_cache=False).loss) for number in range(rows)]
        self.model.train()
        return statistics.fmean(losses)

    def run(self) -> dict[str, Any]:
        """All figures."""
        before = self.validation()
        self.model, optimizer = self.stack.prepare(self.model.train(), self.factory)
        step = Step(self.model, optimizer, self.stack)
        job, plain, counted = self.job, [], []
        trained, done = 0.0, 0
        after_steps = after_seconds = None
        peak, stretches = None, 0
        while after_steps is None or after_seconds is None:
            looked = done % LEDGER_EVERY == 1
            if done == 1:
                self.stack.make_worst()
            begun, wall = time.process_time(), time.perf_counter()
            if looked:
                with Ledger(self.model, optimizer=optimizer, stores=self.stack) as ledger:
                    step(self.batches(done), ledger)
                if peak is None or memory(ledger.peak) > memory(peak):
                    peak, stretches = ledger.peak, memory(ledger.peak)
            else:
                step(self.batches(done))
            spent = time.process_time() - begun
            if done:  # the first step makes the optimizer's state
                (counted if looked else plain).append((spent, time.perf_counter() - wall))
            done += 1
            # What the ledger costs is no part of the training.
            trained += statistics.median(one for one, _ in plain) if looked and plain else spent
            if done == job["steps"]:
                after_steps = self.validation()
                if job["seconds"] is None:
                    after_seconds = {"loss": after_steps, "steps": done}
            if after_seconds is None and (
                (job["seconds"] is not None and trained >= job["seconds"]) or done >= MOST_STEPS * job["steps"]
            ):
                loss = after_steps if done == job["steps"] else self.validation()
                after_seconds = {"loss": loss, "steps": done}
        assert peak is not None
        seconds = statistics.median(one for one, _ in plain)
        predicted = None
        if self.job["name"].partition("@")[0] not in PEERS:
            predicted = memory(imagine(self.spec, Stack(self._again()), self.factory)[0].peak)
        return {
            "savers": list(self.stack.slugs),
            "lr": self.factory.lr,
            "full_parameters": not any("adapters" in one.brings for one in self.stack.savers),
            "peak_bytes": stretches,
            "by_tier": peak.in_memory.by_tier,
            "by_place": peak.by_place,
            "predicted_bytes": predicted,
            "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "cpu_seconds_per_step": seconds,
            "wall_seconds_per_step": statistics.median(one for _, one in plain),
            "ledger_ratio": statistics.median(one for one, _ in counted) / seconds,
            "trained_seconds": trained,
            "validation": {"before": before, "after_steps": after_steps, "after_seconds": after_seconds},
            "report": self.stack.report(),
        }

    def _again(self) -> list[Saver]:
        return [type(one)(one.config) for one in self.stack.savers]


def worker(job: dict[str, Any]) -> dict[str, Any]:
    """The figures of one configuration, or why there are none."""
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    try:
        return Training(job).run()
    except (MemspanError, ConflictError, ImportError, RuntimeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def planned(given: argparse.Namespace, adamw: int) -> list[str]:
    """The savers that are ranked first below the bar for bytes, or those with the least."""
    spec = Spec(config=load_config(given.model), batch=given.batch, seq=given.seq)
    # Only the order of equally exact plans depends on the rates; fixed ones give the same plan everywhere.
    rates = Hardware(flops=1e11, bandwidth=1e10)
    plans = plan(spec, device_memory=int(PEAK_BAR * adamw), hardware=rates, most=given.most)
    fitting = [one for one in plans if one.fits and one.serves]
    return list((fitting[0] if fitting else plans.least).savers)


# --- all of them -----------------------------------------------------------------------------------------------------


def run(name: str, given: argparse.Namespace, seconds: float | None, savers: Sequence[str] = ()) -> dict[str, Any]:
    """One configuration's figures from a process of its own."""
    kept = ("model", "seq", "batch", "steps", "lr", "rows", "threads")
    job = {key: getattr(given, key) for key in kept}
    job |= {"name": name, "savers": list(savers), "seconds": seconds, "text": str(given.text)}
    command = [sys.executable, __file__, "--text", str(given.text), "--worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"error": last[0]}
    return found


def benchmark(given: argparse.Namespace) -> dict[str, Any]:
    """Every configuration in turn; AdamW first, since the others are held against it."""
    spec = Spec(config=load_config(given.model), batch=given.batch, seq=given.seq)
    names = [one for part in given.configs.split(",") for one in (every(spec) if part == "all" else [part.strip()])]
    names = ["adamw", *(one for one in dict.fromkeys(names) if one != "adamw")]
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        adamw = found.get("adamw", {})
        savers = planned(given, adamw["peak_bytes"]) if name == "planned" else []
        row = run(name, given, adamw.get("trained_seconds"), savers)
        if "error" in row:
            say(f"{name}: left out: {row['error']}")
            if name == "adamw":
                raise InputError(f"plain AdamW does not run here: {row['error']}")
        else:
            say(f"{name}: {row['peak_bytes'] / 2**20:,.0f} MiB, loss {row['validation']['after_steps']:.4f}")
        found[name] = row
    return {
        "machine": machine(),
        "versions": versions("torch", "transformers", "peft", "galore-torch", "torchao"),
        "job": {key: getattr(given, key) for key in ("model", "seq", "batch", "steps", "lr", "rows", "threads")},
        "text": given.text.name,
        "configurations": found,
        "bars": bars(found, given.seq),
    }


def bars(found: dict[str, dict[str, Any]], seq: int) -> dict[str, Any]:
    """What was promised, and what came out; None where it was not run."""
    made = {name: row for name, row in found.items() if "error" not in row}
    adamw = made["adamw"]
    within = [
        (row["validation"]["after_steps"] / adamw["validation"]["after_steps"], name)
        for name, row in made.items()
        if row["full_parameters"] and row["peak_bytes"] <= PEAK_BAR * adamw["peak_bytes"]
    ]
    both = [
        row["peak_bytes"] for row in made.values() if row["full_parameters"] and {"lemo", "memo-1m"} <= {*row["savers"]}
    ]
    loss, name = min(within, default=(None, None))
    return {
        "full_parameters": {
            "best": name,
            "loss_ratio": loss,
            "held": None if len(made) == 1 else bool(loss is not None and loss <= LOSS_BAR),
        },
        "below_lora": {
            "tokens": seq,
            "ratio": min(both) / made["lora"]["peak_bytes"] if both and "lora" in made else None,
            "held": min(both) < made["lora"]["peak_bytes"] if both and "lora" in made else None,
        },
    }


def show(report: dict[str, Any]) -> str:
    """The table, and the bars below it."""
    made = {name: row for name, row in report["configurations"].items() if "error" not in row}
    adamw = made["adamw"]
    tiers = list(dict.fromkeys(tier for row in made.values() for tier in row["by_tier"]))
    rows = []
    for name, row in made.items():
        said, base = row["validation"], adamw["validation"]["after_steps"]
        error = "" if row["predicted_bytes"] is None else f"{row['predicted_bytes'] / row['peak_bytes'] - 1:+.2%}"
        rows.append(
            [
                name if name != "planned" else f"planned: {'+'.join(row['savers'])}",
                f"{row['peak_bytes'] / 2**20:,.1f}",
                f"{row['peak_bytes'] / adamw['peak_bytes']:.3f}",
                *(f"{row['by_tier'].get(tier, 0) / 2**20:,.1f}" for tier in tiers),
                error,
                f"{row['cpu_seconds_per_step']:.2f}",
                f"{row['cpu_seconds_per_step'] / adamw['cpu_seconds_per_step']:.2f}",
                f"{row['ledger_ratio']:.2f}",
                f"{said['after_steps']:.4f}",
                f"{said['after_steps'] / base:.4f}",
                f"{said['after_seconds']['loss']:.4f}",
                f"{said['after_seconds']['steps']}",
            ]
        )
    header = ["configuration", "peak MiB", "x AdamW", *tiers, "predicted", "s/step", "x AdamW", "ledger x"]
    header += ["loss", "x AdamW", "at equal s", "steps"]
    parts = [table(header, rows)]
    left = [f"left out: {name}: {row['error']}" for name, row in report["configurations"].items() if "error" in row]
    full, lora = report["bars"]["full_parameters"], report["bars"]["below_lora"]
    verdict = {True: "held", False: "missed", None: "not run"}
    ratio = "" if full["loss_ratio"] is None else f" ({full['best']}: {full['loss_ratio']:.4f})"
    less = "" if lora["ratio"] is None else f" ({lora['ratio']:.3f})"
    job = report["job"]
    lines = [
        *left,
        f"{job['steps']} steps of {job['batch']} x {job['seq']}; loss before: {adamw['validation']['before']:.4f}",
        f"full parameters at <= {PEAK_BAR} x AdamW's peak, loss <= {LOSS_BAR} x: {verdict[full['held']]}{ratio}",
        f"lemo and memo-1m below LoRA's peak at {lora['tokens']} tokens: {verdict[lora['held']]}{less}",
        machine_line(report["machine"]),
    ]
    return "\n\n".join([*parts, "\n".join(lines)])


def draw(report: dict[str, Any], path: Path) -> None:
    """Bytes by tier as bars, and the loss over them."""
    from matplotlib.figure import Figure

    made = {name: row for name, row in report["configurations"].items() if "error" not in row}
    figure = Figure(figsize=(13, 0.35 * len(made) + 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    tiers = list(dict.fromkeys(tier for row in made.values() for tier in row["by_tier"]))
    begins = [0.0] * len(made)
    for tier in tiers:
        widths = [row["by_tier"].get(tier, 0) / 2**20 for row in made.values()]
        left.barh(range(len(made)), widths, left=begins, label=tier)
        begins = [one + width for one, width in zip(begins, widths, strict=True)]
    left.set_yticks(range(len(made)), list(made), fontsize=7)
    left.invert_yaxis()
    left.set(xlabel="MiB at the peak")
    left.legend(fontsize=7)
    named: dict[tuple[float, float], list[str]] = {}  # what lies at one place has one label
    for name, row in made.items():
        at = (row["peak_bytes"] / 2**20, row["validation"]["after_steps"])
        near = next((one for one in named if abs(one[0] - at[0]) < 25 and abs(one[1] - at[1]) < 1e-3), at)
        named.setdefault(near, []).append(name)
    for at, names in named.items():
        right.scatter(*at, s=14, color="tab:blue")
        right.annotate("\n".join(names), at, fontsize=6, xytext=(3, 3), textcoords="offset points", rotation=25)
    right.margins(x=0.25)
    right.set(xlabel="MiB at the peak", ylabel=f"validation loss after {report['job']['steps']} steps, nats")
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a long text")
    parser.add_argument("--configs", default="all", help="names with commas between; all (default)")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--seq", type=positive, default=512, help="tokens of a row (512)")
    parser.add_argument("--batch", type=positive, default=1, help="rows of a step (1)")
    parser.add_argument("--steps", type=positive, default=40, help="of training (40)")
    parser.add_argument("--lr", type=float, default=2e-5, help="learning rate of full fine-tuning (2e-5)")
    parser.add_argument("--rows", type=positive, default=8, help="held-out rows (8)")
    parser.add_argument("--most", type=positive, default=MOST, help=f"combinations that the planner runs ({MOST})")
    parser.add_argument("--threads", type=positive, default=1, help="threads of PyTorch (1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, help="a file for what --json prints")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw bytes and losses")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        print(json.dumps(worker(json.loads(given.worker))))
        return 0
    if given.steps < 3:
        say("error: --steps must be at least 3: the first makes the state, the second is counted, others are timed")
        return InputError.exit_code
    try:
        report = benchmark(given)
    except MemspanError as error:
        say(f"error: {error}")
        return error.exit_code
    if given.out:
        given.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1) if given.json else show(report))
    if given.plot:
        draw(report, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
