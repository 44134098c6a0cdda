"""Context systems at equal bytes on one model: predicting a long text, planted facts, a book, speed.

    python benchmarks/context.py --text BOOK [--budget 24MiB] [--systems all] [--weights SLUG=DIR]
        [--model bundled] [--kvpress] [--plot FILE] [--json]

Every system reads the same text inside the same bytes, in chunks, and is asked the same things; "full" keeps all and
is the ceiling, transformers' own cache stands beside it. A system that learns takes part when `--weights` names what it
learned (`memspan train-context`). The text is a long public-domain book; there are questions
about `lcet10.txt` (google/snappy, testdata), and other texts leave that column out. `--kvpress` makes an environment
for NVIDIA's kvpress and gives it the planted facts: it reads a prompt whole and then drops to as many slots.

Perplexity is over the second half of each band of positions, counted in windows, where a window is what the system
"window" can hold. Speeds are tokens in a CPU second of one thread behind the text read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from common import machine, machine_line, positive, say, size, table
from context_tasks import BLOCK, Planted, Text, examine, transformers_cache
from products import Product, ProductError, environment
from transformers.utils.logging import disable_progress_bar

import memspan
from memspan.context.base import ContextSystem
from memspan.context.baselines import BASELINES
from memspan.context.learning import LearningSystem
from memspan.context.reader import Reader
from memspan.core.catalog import load, systems
from memspan.core.errors import InputError, MemspanError

KVPRESS = Product("kvpress", "kvpress.py", (("torch==2.13.0",), ("kvpress==0.5.5", "transformers==5.2.0")))
PRESSES = ("StreamingLLMPress", "SnapKVPress", "TOVAPress", "KnormPress", "KeyDiffPress", "ExpectedAttentionPress")
BANDS = (1, 2, 4, 8, 16)
UNTRAINED = ("cca-attention",)  # it can learn, and works without


def known(weights: Mapping[str, str] | None = None) -> list[str]:
    """The baselines, and every working system that needs no training or whose weights are given."""
    slugs = []
    for one in systems("context", "working"):
        kind = load(one.slug)
        learns = isinstance(kind, type) and issubclass(kind, LearningSystem) and one.slug not in UNTRAINED
        if isinstance(kind, type) and issubclass(kind, ContextSystem) and (not learns or one.slug in (weights or {})):
            slugs.append(one.slug)
    return [*BASELINES, *slugs]


def opener(slug: str, model: Any, budget: str, weights: Mapping[str, str]) -> AbstractContextManager[Reader]:
    """A reader; the full cache has no bound."""
    return memspan.context(slug, model, budget=None if slug == "full" else budget, weights=weights.get(slug))


def peer(python: Path, model: Any, slots: int, tasks: dict[str, list[Planted]]) -> dict[str, Any]:
    """kvpress on the planted facts.

    Raises:
        ProductError: its process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        disable_progress_bar()
        model.model.save_pretrained(folder)
        rows = {
            name: [{"prompt": row.prompt, "question": row.question, "answer": row.answer} for row in items]
            for name, items in tasks.items()
        }
        asked = {"model": folder, "slots": slots, "presses": PRESSES, "tasks": rows}
        worker = Path(__file__).resolve().parent / "context_kvpress.py"
        done = subprocess.run(
            [str(python), "-P", str(worker)], input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode:
        raise ProductError(f"kvpress ended with status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def benchmark(given: argparse.Namespace) -> dict[str, Any]:
    """Everything, as one object."""
    from memspan.models import load_language_model

    weights = dict(said.split("=", 1) for said in given.weights)
    there = known(weights)
    slugs = there if given.systems == "all" else given.systems.split(",")
    if unknown := [slug for slug in slugs if slug not in there]:
        raise InputError(f"{unknown[0]!r} is none of {', '.join(there)}; what learns needs --weights SLUG=DIR")
    model = load_language_model(given.model, dtype="float32", threads=1)
    torch.set_num_threads(1)
    with memspan.context("window", model, budget=given.budget) as reader:
        window, slots = reader.sizes.capacity, reader.sizes.slots
    assert window is not None and slots is not None
    length = 16 * window
    text = Text(given.text, model.tokenizer, length + BLOCK)
    planted = {"words": text.planted(given.facts, False, 0), "numbers": text.planted(given.facts, True, 1)}
    report: dict[str, Any] = {
        "model": given.model, "budget": given.budget, "window": window, "tokens": length, "text": text.path.name,
        "facts": given.facts, "machine": machine(), "systems": {},
    }  # fmt: skip
    for slug in slugs:
        say(slug)
        try:
            made = examine(
                lambda slug=slug: opener(slug, model, given.budget, weights), text, window, length, planted["words"],
                planted["numbers"],
            )  # fmt: skip
        except MemspanError as error:
            say(f"  {error}")
            made = {"error": str(error)}
        report["systems"][slug] = made
    say("transformers")
    report["transformers"] = transformers_cache(model.model, text.ids[:length])
    if given.kvpress:
        say("kvpress")
        try:
            python = given.python or environment(KVPRESS, given.env_dir.expanduser().resolve(), 10.0)
            report["kvpress"] = peer(python, model, slots, planted)
        except ProductError as error:
            report["kvpress"] = {"kvpress": {"error": str(error)}}
    return report


def show(report: dict[str, Any]) -> str:
    """The tables."""

    def number(value: float | None, form: str = ".1f") -> str:
        return "-" if value is None else format(value, form)

    rows = []
    for slug, made in report["systems"].items():
        if "error" in made:
            rows.append([slug, *["-"] * 13])
            continue
        words, numbers = made["words"], made["numbers"]
        rows.append(
            [slug, size(made["bytes"]), *(number(made["perplexity"][n]) for n in BANDS), number(words["nats"], ".2f"),
             f"{words['whole']:.0%}", number(numbers["nats"], ".2f"), f"{numbers['whole']:.0%}",
             "-" if made["book"] is None else f"{made['book']:.0%}", f"{made['speed']['read']:.0f}",
             f"{made['speed']['decode']:.1f}"]
        )  # fmt: skip
    own = report["transformers"]
    rows.append(
        ["transformers' cache", size(own["bytes"]), *["-"] * 10, f"{own['speed']['read']:.0f}",
         f"{own['speed']['decode']:.1f}"]
    )  # fmt: skip
    head = ["system", "most bytes", *(f"ppl {n}x" for n in BANDS), "word nats", "whole", "number nats", "whole",
            "book", "read/s", "decode/s"]  # fmt: skip
    parts = [
        f"{report['model']}, {report['budget']}, {report['tokens']:,} tokens of {report['text']}; 1x is "
        f"{report['window']} tokens; {report['facts']} planted words and numbers in prompts of 1,024 tokens",
        table(head, rows),
        *(f"{slug}: {made['error']}" for slug, made in report["systems"].items() if "error" in made),
    ]
    if "kvpress" in report:
        rows = [
            [name, "-", "-", "-", "-", "-", made["error"][:60]]
            if "error" in made
            else [name, str(made["words"]["slots"]), *(f"{made[task][key]:{form}}" for task in ("words", "numbers")
                  for key, form in (("nats", ".2f"), ("whole", ".0%"))), f"{made['words']['read']:.0f}"]
            for name, made in report["kvpress"].items()
        ]  # fmt: skip
        parts.append(table(["kvpress", "slots", "word nats", "whole", "number nats", "whole", "read/s"], rows))
    return "\n\n".join([*parts, machine_line(report["machine"])])


def draw(report: dict[str, Any], path: Path) -> None:
    """Perplexity by position, and what is remembered, one colour a system."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    made = {slug: row for slug, row in report["systems"].items() if "error" not in row}
    figure = Figure(figsize=(12, 4.4))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = colormaps["tab20"].colors
    for i, (slug, row) in enumerate(made.items()):
        points = [(n * report["window"], row["perplexity"][n]) for n in BANDS if row["perplexity"][n] is not None]
        if points:
            style = {"marker": "osv^D"[i % 5], "linestyle": ("-", "--")[i % 2], "color": colours[i % len(colours)]}
            left.plot(*zip(*points, strict=True), markersize=4, label=slug, **style)
    left.set(xlabel="tokens read", ylabel="perplexity", xscale="log", yscale="log")
    left.set_xticks([n * report["window"] for n in BANDS], [f"{n * report['window']:,}" for n in BANDS], fontsize=8)
    left.minorticks_off()
    left.set_yticks([15, 20, 25, 30, 40, 50, 70, 100])
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    at = range(len(made))
    right.barh([i + 0.2 for i in at], [row["words"]["nats"] for row in made.values()], 0.4, label="words")
    right.barh([i - 0.2 for i in at], [row["numbers"]["nats"] for row in made.values()], 0.4, label="numbers")
    right.set_yticks(list(at), list(made), fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="nats a token of a planted answer (less is better)")
    right.legend(fontsize=7)
    figure.suptitle(f"{report['model']}, {report['budget']} of context", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="a long text, best a public-domain book")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--budget", default="24MiB", help="bytes of context for every system but full")
    parser.add_argument("--systems", default="all", help="comma-separated, or all")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="SLUG=DIR", help="what memspan train-context learned"
    )
    parser.add_argument("--facts", type=positive, default=10, help="planted words, and as many numbers")
    parser.add_argument("--kvpress", action="store_true", help="give the planted facts to kvpress too")
    parser.add_argument("--env-dir", type=Path, default=Path("~/.cache/memspan/peers"), help="kvpress's environment")
    parser.add_argument("--python", type=Path, help="an interpreter that has kvpress, in place of an environment")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path, help="a file for what --json prints")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
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
