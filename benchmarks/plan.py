"""Predicted and measured bytes of training steps, side by side.

Every row is a job: its second step is run on tensors without bytes, as `memspan plan` does, and then in earnest under
the ledger; savers whose steps differ make the largest of theirs. Compared are the peak, and each tier, both at the
moment of the peak and at its own largest. Bars, fixed before the first run: 1 % of the peak, 2 % of each tier. Of a
tier that is under 1 % of the peak, the difference is held against that hundredth instead, since a percentage of next
to nothing says nothing.

With `--only published`, what papers and their code say that a model of 7 billion parameters takes is predicted instead;
the bar, fixed before the first run, is 10 %.

    python benchmarks/plan.py [--only small|bundled|published] [--json]

Needs the bundled language model, and peft for the rows with lora, which are left out without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from common import machine, machine_line, positive, say, table, versions

from memspan.core.ledger import Ledger
from memspan.models.configuration import load_config, load_trainable
from memspan.planner import Hardware, measure_hardware
from memspan.planner.imagine import imagine
from memspan.training import AdamW, Spec, Stack, Step
from memspan.training.estimate import Estimate, memory

PEAK_BAR, TIER_BAR, LEAST_SHARE, PUBLISHED_BAR = 0.01, 0.02, 0.01, 0.10


@dataclass(frozen=True)
class Job:
    """A row of the table."""

    model: str
    savers: tuple[str, ...]
    spec: Spec


def small() -> dict[str, Any]:
    """Configurations of other families, a few million parameters each."""
    from transformers import Gemma2Config, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    size = {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6, "num_hidden_layers": 6}
    grouped = {**size, "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 1024}
    return {
        "Llama": LlamaConfig(**grouped),
        "Llama, tied": LlamaConfig(**grouped, tie_word_embeddings=True),
        "GPT-2": GPT2Config(
            n_embd=192, n_layer=6, n_head=6, vocab_size=4096, n_positions=1024, bos_token_id=1, eos_token_id=2
        ),
        "Qwen2": Qwen2Config(**grouped),
        "Qwen3": Qwen3Config(**grouped, head_dim=32),
        "Mistral, window 64": MistralConfig(**grouped, sliding_window=64),
        "Gemma 2": Gemma2Config(**grouped, head_dim=32, sliding_window=64),
    }


def jobs(only: str | None) -> Iterator[Job]:
    """All rows."""
    lora = importlib.util.find_spec("peft") is not None

    def rows(name: str, ways: list[str], **job: Any) -> Iterator[Job]:
        for way in ways:
            savers = tuple(way.split("+")) if way else ()
            if lora or "lora" not in savers:
                yield Job(name, savers, Spec(**job))

    if only in (None, "small"):
        configs = small()
        for name, config in configs.items():
            gemma = name == "Gemma 2"  # transformers gives it no sdpa, and its logits are squashed
            ways = ["", "checkpointing"] if gemma else ["", "checkpointing", "chunked-loss"]
            attention = "eager" if gemma else "sdpa"
            yield from rows(name, ways, config=config, batch=3, seq=160, attention=attention)
        for name in ("Llama", "GPT-2"):
            ways = ["lora", "lora+checkpointing+chunked-loss"]
            yield from rows(name, ways, config=configs[name], batch=2, seq=384)
        ways = ["coat", "q-galore", "sst", "randlora", "lora+ist", "lemo", "memo-1m", "coat:activations=False"]
        ways += ["lora+lemo+memo-1m", "q-galore+lemo+memo-1m+chunked-loss", "coat+chunked-loss"]
        yield from rows("Llama, tied", ways, config=configs["Llama, tied"], batch=2, seq=384)
        yield from rows("Qwen2", ["", "checkpointing"], config=configs["Qwen2"], batch=4, seq=96, dtype="bfloat16")
        yield from rows("Llama", [""], config=configs["Llama"], batch=2, seq=128, attention="eager")
    if only in (None, "bundled"):
        config = load_config("bundled")
        ways = ["", "checkpointing", "chunked-loss", "checkpointing+chunked-loss"]
        yield from rows("SmolLM2-135M", [*ways, "lora", "lora+checkpointing"], config=config, batch=1, seq=128)
        yield from rows("SmolLM2-135M", ["", "checkpointing"], config=config, batch=1, seq=512)
        yield from rows("SmolLM2-135M", [""], config=config, batch=1, seq=512, attention="eager")
        yield from rows("SmolLM2-135M", ["", "lora+chunked-loss"], config=config, batch=4, seq=64)
        ways = ["q-galore+checkpointing+chunked-loss", "coat"]
        yield from rows("SmolLM2-135M", ways, config=config, batch=1, seq=256)


def run(job: Job) -> tuple[Ledger, float]:
    """The ledger of the second real step, and its processor seconds, without the ledger's own, of a third."""
    spec, stack = job.spec, Stack(job.savers)
    if job.model.startswith("SmolLM2"):
        model, _ = load_trainable("bundled", dtype=spec.dtype, attention=spec.attention)
    else:
        model = spec.build()
    model, optimizer = stack.prepare(model, AdamW())
    step = Step(model.train(), optimizer, stack)
    step(spec.random_batch())
    stack.make_worst()
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        batch = spec.random_batch()
        step(batch, ledger)
        del batch
    batch = spec.random_batch()
    begun = time.process_time()
    step(batch)
    return ledger, time.process_time() - begun


def compare(job: Job, hardware: Hardware) -> dict[str, Any]:
    """One row's figures."""
    begun = time.process_time()
    estimate, how = imagine(job.spec, Stack(job.savers))
    planned = time.process_time() - begun
    ledger, seconds = run(job)
    peak = memory(ledger.peak)
    return {
        "model": job.model,
        "savers": list(job.savers),
        "batch": job.spec.batch,
        "seq": job.spec.seq,
        "dtype": job.spec.dtype,
        "attention": job.spec.attention,
        "how": how,
        "predicted": memory(estimate.peak),
        "measured": peak,
        "error": memory(estimate.peak) / peak - 1,
        "worst_tier": worst_tier(estimate, ledger, peak),
        "exact": estimate.peak == ledger.peak and estimate.highest == ledger.highest,
        "planning_seconds": planned,
        "predicted_seconds": hardware.seconds(estimate.flops, estimate.traffic),
        "measured_seconds": seconds,
    }


def worst_tier(estimate: Estimate, ledger: Ledger, peak: int) -> float:
    """The largest relative error of any tier, at the peak and at its own largest."""
    worst = 0.0
    for predicted, measured in ((estimate.peak, ledger.peak), (estimate.highest, ledger.highest)):
        for tier in {**predicted.by_tier, **measured.by_tier}:
            there = measured.by_tier.get(tier, 0)
            error = abs(predicted.by_tier.get(tier, 0) - there) / max(there, LEAST_SHARE * peak)
            worst = max(worst, error)
    return worst


def published() -> list[dict[str, Any]]:
    """Figures of papers and their code, and the same predicted."""
    from transformers import LlamaConfig

    from memspan.training.coat import Coat
    from memspan.training.estimate import model_states
    from memspan.training.q_galore import QGaLore

    llama = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_attention_heads=32, num_hidden_layers=32, vocab_size=32_000
    )
    galore = Spec(config=llama, task="pretrain", batch=16, seq=256, dtype="bfloat16")
    coat = Spec(config=llama, batch=2, seq=2048, dtype="bfloat16")
    lean = imagine(galore, Stack(["checkpointing", "chunked-loss", QGaLore(rank=1024)]))[0]
    plain, coded = (imagine(coat, Stack(savers))[0] for savers in ([], [Coat(optimizer=False)]))
    found = [
        (f"ZeRO, 7.5B on 64 devices, stage {stage}, a device's model states, GB", said, sum(states.values()) / 1e9)
        for stage, said in enumerate((120, 31.4, 16.6, 1.9))
        for states in (model_states(7_500_000_000, stage=stage, ranks=64),)
    ]
    saved = [one.highest.by_tier["activations"] / 1e9 for one in (plain, coded)]
    found += [
        ("Q-GaLore, LLaMA 7B, batch 16, checkpointing, peak, GB", 15.26, memory(lean.peak) / 1e9),
        ("COAT, Llama 2 7B, 2 x 2,048 tokens, activations in bfloat16, GB", 25.8, saved[0]),
        ("COAT, Llama 2 7B, 2 x 2,048 tokens, activations in FP8, GB", 16.9, saved[1]),
    ]
    return [
        {"figure": name, "published": said, "predicted": ours, "error": ours / said - 1} for name, said, ours in found
    ]


def main() -> None:
    """Predict, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("small", "bundled", "published"), help="these only")
    parser.add_argument("--threads", type=positive, default=1, help="threads of PyTorch (1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.only == "published":
        told = published()
        if given.json:
            print(json.dumps({"versions": versions("torch", "transformers"), "rows": told}, indent=2))
            return
        cells = [
            (row["figure"], f"{row['published']:g}", f"{row['predicted']:.2f}", f"{row['error']:+.1%}") for row in told
        ]
        print(table(("figure", "published", "predicted", "error"), cells))
        print(f"\n{sum(abs(row['error']) <= PUBLISHED_BAR for row in told)} of {len(told)} within {PUBLISHED_BAR:.0%}")
        return
    rates = {dtype: measure_hardware(getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    found = []
    for job in jobs(given.only):
        found.append(compare(job, rates[job.spec.dtype]))
        say(f"{job.model} {'+'.join(job.savers) or 'AdamW'}: {found[-1]['error']:+.3%}")
    if given.json:
        facts = {"machine": machine(), "versions": versions("torch", "transformers", "peft"), "rows": found}
        print(json.dumps(facts, indent=2))
        return
    header = ("model", "savers", "tokens", "predicted MiB", "measured MiB", "error", "worst tier", "s predicted", "s")
    rows = [
        (
            row["model"]
            + ("" if row["dtype"] == "float32" else ", bf16")
            + ("" if row["attention"] == "sdpa" else ", eager"),
            "+".join(row["savers"]) or "AdamW",
            f"{row['batch']} x {row['seq']}",
            f"{row['predicted'] / 2**20:,.1f}",
            f"{row['measured'] / 2**20:,.1f}",
            f"{row['error']:+.2%}",
            f"{row['worst_tier']:.2%}",
            f"{row['predicted_seconds']:.2f}",
            f"{row['measured_seconds']:.2f}",
        )
        for row in found
    ]
    print(table(header, rows))
    held = sum(abs(row["error"]) <= PEAK_BAR and row["worst_tier"] <= TIER_BAR for row in found)
    same = sum(row["exact"] for row in found)
    ratios = sorted(row["predicted_seconds"] / row["measured_seconds"] for row in found)
    print(f"\n{held} of {len(found)} within {PEAK_BAR:.0%} of the peak and {TIER_BAR:.0%} a tier; {same} to the byte")
    print(
        f"predicted over measured seconds: {ratios[0]:.2f} to {ratios[-1]:.2f}, median {ratios[len(ratios) // 2]:.2f}"
    )
    print(f"planning a row: {max(row['planning_seconds'] for row in found):.1f} s of a processor at most")
    print(machine_line())


if __name__ == "__main__":
    main()
