"""The context cache: decoding against transformers' own cache, and a stream whose bytes and time stay flat.

    python benchmarks/context_stream.py [--tokens 1000000] [--lengths 2048 8192] [--systems lm-infinite,sirllm]
        [--plot stream.png]

CPU seconds of one thread on a random toy model with grouped heads (9 query, 3 key heads of 64), the caches in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import machine_line, say, size, table
from transformers import DynamicCache

import memspan
from memspan.core.testing import tiny_llama

BLOCKS = 20  # of a stream


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


def stream(slug: str, tokens: int) -> list[dict[str, float]]:
    """Bytes held and CPU microseconds a token, block by block, of a toy model."""
    chance = torch.Generator().manual_seed(0)
    block = max(64, tokens // BLOCKS)
    rows = []
    with memspan.context(slug, tiny_llama(positions=1024), budget="200KiB", chunk=64) as reader:
        for at in range(0, tokens, block):
            begun = time.process_time()
            reader.feed(torch.randint(0, 64, (block,), generator=chance))
            spent = time.process_time() - begun
            rows.append({"tokens": at + block, "bytes": reader.footprint().total, "us": spent / block * 1e6})
    return rows


def draw(streams: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Bytes and time of every stream over the tokens read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axis, key, label in zip(figure.subplots(1, 2), ("bytes", "us"), ("bytes held", "CPU µs a token"), strict=True):
        for slug, rows in streams.items():
            axis.plot([row["tokens"] for row in rows], [row[key] for row in rows], label=slug)
        axis.set(xlabel="tokens read", ylabel=label, ylim=(0, None))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)


def show(decoding: list[dict[str, float]], streams: dict[str, list[dict[str, float]]]) -> str:
    """Both tables."""
    rows = [
        [f"{row['length']:,}", f"{row['transformers'] * 1e3:.1f}", f"{row['memspan'] * 1e3:.1f}",
         f"{row['ratio']:.2f}", f"{row['gap']:.0e}"]
        for row in decoding
    ]  # fmt: skip
    parts = [
        "one more token, CPU ms (median)\n"
        + table(["tokens in the cache", "transformers", "memspan", "ratio", "largest gap"], rows)
    ]
    rows = []
    for slug, points in streams.items():
        first, last = points[1:4], points[-3:]
        early, late = (statistics.median(row["us"] for row in some) for some in (first, last))
        bytes_range = (min(row["bytes"] for row in points[1:]), max(row["bytes"] for row in points[1:]))
        rows.append(
            [slug, f"{points[-1]['tokens']:,}", size(bytes_range[0]), size(bytes_range[1]), f"{early:.0f}",
             f"{late:.0f}", f"{late / early:.2f}"]
        )  # fmt: skip
    head = ["stream", "tokens", "least bytes", "most bytes", "µs a token, early", "late", "ratio"]
    return "\n\n".join([*parts, table(head, rows), machine_line()])


def main() -> None:
    """Run both and print tables, or JSON; draw the stream with --plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=50_000, help="length of the stream")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2_048, 8_192], help="of the cache when decoding")
    parser.add_argument("--systems", default="window,lm-infinite,sirllm")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    streams: dict[str, list[dict[str, float]]] = {}
    for slug in given.systems.split(","):
        say(slug)
        streams[slug] = stream(slug, given.tokens)
    decoding = decode(given.lengths)
    if given.json:
        report: dict[str, Any] = {"decode": decoding, "stream": streams}
        print(json.dumps(report, indent=1))
    else:
        print(show(decoding, streams))
    if given.plot:
        draw(streams, given.plot)


if __name__ == "__main__":
    main()
