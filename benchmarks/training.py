"""Fine-tuning the bundled SmolLM2-135M on running text: bytes, seconds and loss, by saver and beside other packages.

Every row is one process on one thread. Bytes are the ledger's, of the second step or of the one that the saver names as
its largest. Loss is that of held-out windows of the same text, after as many steps as all have, and after as many
processor seconds as plain AdamW's steps took. Full-parameter training has rate 2e-5, adapters 2e-4, views of low rank
1e-4 (GaLore's scale of a quarter comes on top).

    python benchmarks/training.py --text BOOK [--steps 12] [--seq 256] [--only NAME,NAME] [--plot IMAGE] [--json]

peft, galore-torch and torchao are peers that are left out, with a line, where they are not installed. Targets, fixed
before the first run: full-parameter training at 0.35 times AdamW's peak or less, at 1.02 times its held-out loss or
less; and, at 1,024 tokens, below the peak of LoRA with lemo and memo-1m.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import machine, machine_line, positive, say, size, table, versions

PEAK_BAR, LOSS_BAR = 0.35, 1.02
TIERS = ("weights", "gradients", "optimizer", "activations")
WINDOWS = 6  # held out


@dataclass(frozen=True)
class Row:
    """A way to train.

    Attributes:
        savers: of memspan.
        rate: learning rate.
        peer: another package's optimizer: what makes it of a model and a rate.
    """

    savers: tuple[str, ...] = ()
    rate: float = 2e-5
    peer: Callable[[Any, float], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An optimizer factory around another package's class."""

    make: Callable[[Any, float], Any]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __call__(self, model: Any) -> Any:
        return self.make(model, self.lr)


def galore(model: Any, rate: float) -> Any:
    """galore-torch's AdamW, with the settings that q-galore has here: rank a quarter, renewed every 200 steps."""
    from galore_torch import GaLoreAdamW

    projected = [
        p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "head" not in name
    ]
    seen = {id(p) for p in projected}
    others = [p for p in model.parameters() if id(p) not in seen]
    view = {"rank": 144, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    return GaLoreAdamW([{"params": others}, {"params": projected, **view}], lr=rate, no_deprecation_warning=True)


def torchao(model: Any, rate: float) -> Any:
    """torchao's AdamW with moments of 8 bits."""
    from torchao.optim import AdamW8bit

    return AdamW8bit(model.parameters(), lr=rate)


ROWS: dict[str, Row] = {
    "AdamW": Row(),
    "AdamW8bit (torchao)": Row(peer=torchao),
    "GaLore (galore-torch)": Row(rate=1e-4, peer=galore),
    "lora (PEFT)": Row(("lora",), 2e-4),
    "randlora": Row(("randlora",), 2e-4),
    "lora+ist": Row(("lora", "ist"), 2e-4),
    "coat": Row(("coat",)),
    "q-galore": Row(("q-galore",), 1e-4),
    "sst": Row(("sst",), 1e-4),
    "lemo": Row(("lemo",)),
    "memo-1m": Row(("memo-1m",)),
    "checkpointing+chunked-loss": Row(("checkpointing", "chunked-loss")),
    "q-galore+checkpointing+chunked-loss": Row(("q-galore", "checkpointing", "chunked-loss"), 1e-4),
    "lora+lemo+memo-1m": Row(("lora", "lemo", "memo-1m"), 2e-4),
    "q-galore+lemo+memo-1m+chunked-loss": Row(("q-galore", "lemo", "memo-1m", "chunked-loss"), 1e-4),
}


# --- one row, in a process of its own --------------------------------------------------------------------------------


def run(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Figures of one row."""
    import torch

    from memspan.core.ledger import Ledger
    from memspan.models.configuration import load_trainable
    from memspan.training import AdamW, Stack, Step, TokenBatches
    from memspan.training.data import tokens_of

    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    row = ROWS[name]
    model, tokenizer = load_trainable("bundled", dtype="float32")
    ids = tokens_of([given.text.read_text(encoding="utf-8", errors="replace")], tokenizer)
    cut = len(ids) - WINDOWS * given.seq
    held_out = [
        torch.from_numpy(ids[at : at + given.seq].astype("int64"))[None] for at in range(cut, len(ids), given.seq)
    ]
    batches = TokenBatches(ids[:cut], batch=given.batch, seq=given.seq, seed=given.seed)
    stack = Stack(row.savers)
    factory: Any = AdamW(lr=row.rate) if row.peer is None else Peer(make=row.peer, lr=row.rate)
    model, optimizer = stack.prepare(model.train(), factory)
    step = Step(model, optimizer, stack)

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            said = [float(model(input_ids=one, labels=one, use_cache=False).loss) for one in held_out]
        model.train()
        return sum(said) / len(said)

    at_first, seconds, after, with_ledger = loss(), [], {}, []
    for number in range(10_000):
        spent = sum(seconds)
        if number == given.steps:
            after["loss"] = loss()
        if given.seconds is None and number == given.steps:
            after["loss_at_equal_seconds"] = after["loss"]
        elif given.seconds is not None and "loss_at_equal_seconds" not in after and spent >= given.seconds:
            after["loss_at_equal_seconds"] = loss()
        if number >= given.steps and "loss_at_equal_seconds" in after:
            break
        begun = time.process_time()
        step(batches(number))
        seconds.append(time.process_time() - begun)
    stack.make_worst()
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        for number in range(3):
            begun = time.process_time()
            batch = batches(given.steps + number)
            step(batch, ledger)
            del batch
            with_ledger.append(time.process_time() - begun)
    peak = {tier: ledger.peak.by_tier.get(tier, 0) for tier in TIERS}
    later = sorted(seconds[1:] or seconds)
    return {
        "name": name,
        "peak": sum(n for (tier, place), n in ledger.peak.entries.items() if place != "disk"),
        "by_tier": peak,
        "disk": ledger.peak.by_place.get("disk", 0),
        "seconds": later[len(later) // 2],
        "ledger": sorted(with_ledger[1:])[0] / later[len(later) // 2] - 1,
        "trained": sum(seconds[: given.steps]),
        "at_first": at_first,
        **after,
    }


# --- all rows --------------------------------------------------------------------------------------------------------


def each(names: list[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row's figures, or why there are none; plain AdamW's seconds are the others' allowance."""
    found: list[dict[str, Any]] = []
    allowance: float | None = None
    for name in names:
        words = ["--text", str(given.text), "--one", name]
        for option in ("steps", "seq", "batch", "seed"):
            words += [f"--{option}", str(getattr(given, option))]
        if allowance is not None:
            words += ["--seconds", str(allowance)]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            say(f"{name}: left out: {last}")
            found.append({"name": name, "error": last})
            continue
        one = json.loads(done.stdout.splitlines()[-1])
        if name == "AdamW":
            allowance = one["trained"]
        say(
            f"{name}: {size(one['peak'])}, {one['seconds']:.1f} s a step, loss {one['at_first']:.3f} -> {one['loss']:.3f}"
        )
        found.append(one)
    return found


def show(found: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """The table and the verdicts."""
    base = next((one for one in found if one["name"] == "AdamW" and "error" not in one), None)
    header = ["", "peak", "of AdamW", *TIERS, "CPU s a step", "loss", "of AdamW", "at equal s", "ledger"]
    rows = []
    for one in found:
        if "error" in one:
            rows.append([one["name"], *[""] * (len(header) - 1)])
            continue
        ratio = one["peak"] / base["peak"] if base else math.nan
        rows.append(
            [one["name"], size(one["peak"]), f"{ratio:.3f}", *(size(one["by_tier"][tier]) for tier in TIERS),
             f"{one['seconds']:.2f}", f"{one['steps']:.4f}", f"{one['steps'] / base['steps']:.4f}" if base else "",
             f"{one['loss_at_equal_seconds']:.4f}", f"{one['ledger']:+.0%}"]
        )  # fmt: skip
    lines = [table(header, rows), ""]
    lines += [f"{one['name']}: {one['error']}" for one in found if "error" in one]
    if base:
        full = [one for one in found if "error" not in one and not set(ROWS[one["name"]].savers) & {"lora", "randlora"}]
        good = [
            one for one in full if one["peak"] <= PEAK_BAR * base["peak"] and one["loss"] <= LOSS_BAR * base["loss"]
        ]
        names = ", ".join(one["name"] for one in good) or "none"
        lines.append(f"all parameters, at most {PEAK_BAR} of AdamW's peak and {LOSS_BAR} of its loss: {names}")
    lora = next((one for one in found if one["name"].startswith("lora (") and "error" not in one), None)
    below = [
        one["name"] for one in found if "memo-1m" in one["name"] and lora and one.get("peak", math.inf) < lora["peak"]
    ]
    if lora:
        lines.append(f"below LoRA's peak with memo-1m, at {given.seq} tokens: {', '.join(below) or 'none'}")
    lines.append(f"{given.steps} steps of {given.batch} x {given.seq} tokens of {given.text.name}; loss at first "
                 f"{found[0].get('at_first', math.nan):.4f}")  # fmt: skip
    return "\n".join([*lines, machine_line()])


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Stacked bars of the tiers at the peak, and loss against the peak."""
    from matplotlib.figure import Figure

    made = [one for one in found if "error" not in one]
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    begins = [0.0] * len(made)
    for tier in TIERS:
        wide = [one["by_tier"][tier] / 1e6 for one in made]
        left.barh([one["name"] for one in made], wide, left=begins, label=tier)
        begins = [a + b for a, b in zip(begins, wide, strict=True)]
    left.invert_yaxis()
    left.set(xlabel="MB at the peak")
    left.tick_params(axis="y", labelsize=8)
    left.legend(fontsize=8)
    for one in made:
        right.scatter(one["peak"] / 1e6, one["loss"], s=18)
        right.annotate(
            one["name"], (one["peak"] / 1e6, one["loss"]), fontsize=6, xytext=(3, 3), textcoords="offset points"
        )
    right.set(xlabel="MB at the peak", ylabel="held-out loss after equal steps", xlim=(0, None))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run each row and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a long text, best a public-domain book")
    parser.add_argument("--steps", type=positive, default=12, help="of every row (12)")
    parser.add_argument("--seq", type=positive, default=256, help="tokens of a row of a batch (256)")
    parser.add_argument("--batch", type=positive, default=1, help="rows of a batch (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the text (0)")
    parser.add_argument("--only", help="these rows, with commas between")
    parser.add_argument("--plot", type=Path, help="draw tiers and losses")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(given.one, given)))
        return
    names = [one for one in ROWS if given.only is None or one in given.only.split(",")]
    found = each(names, given)
    if given.json:
        packages = versions("torch", "transformers", "peft", "galore-torch", "torchao")
        print(json.dumps({"machine": machine(), "versions": packages, "rows": found}, indent=2))
    else:
        print(show(found, given))
    if given.plot:
        draw(found, given.plot)


if __name__ == "__main__":
    main()
