"""What the ledger costs in time: decoding and training with and without it, interleaved in one process.

    python benchmarks/ledger.py [--runs 7] [--threads 1] [--only NAME] [--json]

Columns: processor time without a ledger, then ratios to it; processor time, because the load of other programs does
not count into it. "empty mode" is a PyTorch dispatch mode that only passes operations on: what PyTorch itself asks
for showing them to Python, and so the floor of counting them all. "roots" is `Ledger(model, activations=False)`. The
cost is about constant per operation, so the ratio falls as the model grows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from common import machine, machine_line, positive, say, table, versions
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from memspan import Ledger, load_language_model
from memspan.core.errors import MemspanError
from memspan.core.testing import tiny_llama

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "hidden": 64, "vocabulary": 256},
    "small": {"layers": 8, "hidden": 384, "vocabulary": 8000},
}
PROMPT, NEW = 32, 16  # tokens of a decode
BATCH, LENGTH = 4, 128  # of a training step


class EmptyMode(TorchDispatchMode):
    """Sees every operation and does nothing about it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs) if kwargs else func(*args)


def decoding(model: Any) -> Callable[[], None]:
    """Greedy decoding of `NEW` tokens after a prompt, with a cache."""
    prompt = torch.arange(PROMPT)[None] % model.config.vocab_size

    def work() -> None:
        with torch.inference_mode():
            output = model(prompt, use_cache=True, logits_to_keep=1)
            word = "cache" if "cache" in output else "past_key_values"  # renamed in transformers 5.24
            for _ in range(NEW):
                output = model(output.logits[:, -1:].argmax(-1), use_cache=True, **{word: output[word]})

    return work


def training(model: Any) -> Callable[[], None]:
    """One step with Adam on a batch of random tokens."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-5)
    tokens = torch.randint(model.config.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))

    def work() -> None:
        adam.zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        adam.step()

    return work


def jobs(only: str | None) -> list[tuple[str, nn.Module, Callable[[], None]]]:
    """Name, model and work of everything that is measured."""
    found: list[tuple[str, nn.Module, Callable[[], None]]] = []
    for size, settings in SIZES.items():
        for name, work_on in (("decode", decoding), ("training step", training)):
            if only in (None, size):
                model = tiny_llama(positions=512, **settings)
                found.append((f"{name}, {size}", model, work_on(model)))
    if only in (None, "bundled"):
        try:
            bundled = load_language_model("bundled", dtype="float32").model
        except MemspanError as error:
            say(f"decode, bundled: left out: {error}")
        else:
            found.append(("decode, bundled", bundled, decoding(bundled)))
    return found


def measure(model: nn.Module, work: Callable[[], None], runs: int) -> dict[str, Any]:
    """Median seconds of processor time per way of running `work`, and ratios to running it plain."""
    ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "plain": nullcontext,
        "empty mode": EmptyMode,
        "ledger": lambda: Ledger(model),
        "roots": lambda: Ledger(model, activations=False),
    }
    work()  # allocators and caches warm up
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        # The ways alternate, so that a change of the machine's load meets all of them.
        for way, enter in ways.items():
            began = time.process_time()
            with enter():
                work()
            seconds[way].append(time.process_time() - began)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    # The median of the ratios of neighbours is steadier than the ratio of the medians.
    ratios = {
        way: statistics.median(one / plain for one, plain in zip(times, seconds["plain"], strict=True))
        for way, times in seconds.items()
        if way != "plain"
    }
    with Ledger(model) as ledger:
        work()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": medians,
        "ratios": ratios,
        "peak": ledger.peak.to_json(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, default=7, help="runs of each way, whose median counts (7)")
    parser.add_argument("--threads", type=positive, default=1, help="threads of PyTorch (1)")
    parser.add_argument("--only", choices=[*SIZES, "bundled"], help="measure models of this size only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = {}
    for name, model, work in jobs(given.only):
        say(name)
        results[name] = measure(model, work, given.runs)
    if given.json:
        facts = {"machine": machine(), "versions": versions("torch", "transformers"), "threads": given.threads}
        print(json.dumps({**facts, "runs": given.runs, "results": results}, indent=2))
        return
    header = ("work", "parameters", "plain", "empty mode", "ledger", "roots")
    rows = [
        (
            name,
            f"{found['parameters'] / 1e6:.1f} M",
            f"{found['seconds']['plain'] * 1e3:.1f} ms",
            *(f"{found['ratios'][way]:.2f}x" for way in header[3:]),
        )
        for name, found in results.items()
    ]
    print(table(header, rows))
    print(f"\n{NEW} tokens after {PROMPT}; batches of {BATCH} x {LENGTH} tokens; {given.threads} thread(s).")
    print(machine_line())


if __name__ == "__main__":
    main()
