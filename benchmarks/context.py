"""The context cache: decoding against transformers' own cache, and a stream whose bytes and time stay flat.

    python benchmarks/context.py [--tokens 50000] [--lengths 2048 8192] [--plot stream.png]

CPU seconds of one thread on a random toy model with grouped heads (9 query, 3 key heads of 64), the caches in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from transformers import DynamicCache

import memspan
from memspan.core.testing import tiny_llama


def decode(lengths: list[int], steps: int = 8) -> list[dict[str, float]]:
    """Median CPU seconds a token at each cache length, transformers' DynamicCache against the system "full"."""
    model = tiny_llama(layers=4, hidden=576, heads=9, kv_heads=3, positions=65_536)
    rows = []
    one = torch.ones(1, 1, dtype=torch.long)
    for length in lengths:
        ids = torch.randint(0, 64, (1, length), generator=torch.Generator().manual_seed(0))
        times: dict[str, list[float]] = {"transformers": [], "memspan": []}
        with torch.no_grad():
            cache = DynamicCache(config=model.config)
            for at in range(0, length, 512):
                model.model(ids[:, at : at + 512], cache=cache)
            with memspan.context("full", model) as reader:
                reader.feed(ids)
                state = reader.cache
                said = model.model(one).last_hidden_state
            gap = float((said - model.model(one, cache=cache).last_hidden_state).abs().max())
            for _ in range(steps):
                begun = time.process_time()
                model.model(one, cache=cache)
                times["transformers"].append(time.process_time() - begun)
                with memspan.context("full", model) as reader:
                    reader.cache = state
                    begun = time.process_time()
                    model.model(one)
                    times["memspan"].append(time.process_time() - begun)
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows.append({"length": length, **medians, "ratio": medians["transformers"] / medians["memspan"], "gap": gap})
    return rows


def stream(slug: str, tokens: int, block: int) -> list[dict[str, float]]:
    """Bytes held and CPU microseconds a token, block by block, of a toy model."""
    chance = torch.Generator().manual_seed(0)
    rows = []
    with memspan.context(slug, tiny_llama(), budget="200KiB", chunk=64) as reader:
        for at in range(0, tokens, block):
            begun = time.process_time()
            reader.feed(torch.randint(0, 64, (block,), generator=chance))
            spent = time.process_time() - begun
            rows.append({"tokens": at + block, "bytes": reader.footprint().total, "us": spent / block * 1e6})
    return rows


def main() -> None:
    """Run both and print JSON; draw the stream with --plot."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tokens", type=int, default=50_000)
    options.add_argument("--lengths", type=int, nargs="+", default=[2_048, 8_192])
    options.add_argument("--plot")
    given = options.parse_args()
    torch.set_num_threads(1)
    streams = {slug: stream(slug, given.tokens, max(64, given.tokens // 10)) for slug in ("lm-infinite", "sirllm")}
    print(json.dumps({"decode": decode(given.lengths), "stream": streams}, indent=1))
    if given.plot:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3))
        for axis, key, label in zip(
            figure.subplots(1, 2), ("bytes", "us"), ("bytes held", "CPU µs a token"), strict=True
        ):
            for slug, rows in streams.items():
                axis.plot([row["tokens"] for row in rows], [row[key] for row in rows], label=slug)
            axis.set(xlabel="tokens read", ylabel=label, ylim=(0, None))
            axis.legend()
        figure.tight_layout()
        figure.savefig(given.plot)


if __name__ == "__main__":
    main()
