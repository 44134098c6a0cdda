"""MEMO: activations moved or recomputed token by token, exactly, and addresses planned on two levels.

Gradients, bytes and work are those of real steps of a LLaMA-type net with the layers of SmolLM2-135M (width 576, 9
heads of 3 groups, 1536 in the feed-forward part), random weights, 512 tokens, float32, on the CPU with a scratch file.
The dial is held against the best of 65 shares in a simulation of the schedule, event by event, over links and lengths
around what this machine measures. The packing is of the same net's step, recorded with its layers repeated. The
paper's model is planned on tensors without bytes: 7B parameters (32 layers, width 4096, GELU), 1,048,576 tokens, 16
bits.
"""

from __future__ import annotations

import math
import random
from itertools import product
from statistics import correlation

import torch
from torch import nn

from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.core.ledger import Ledger
from memspan.core.testing import tiny_llama
from memspan.planner import record_job
from memspan.planner.allocator import Buffer, Problem, find_allocator, record_step
from memspan.planner.imagine import imagine
from memspan.planner.work import WorkMode
from memspan.training.base import AdamW, Stack
from memspan.training.memo_1m import Arena, BiLevel, Memo
from memspan.training.memo_1m.dial import LayerCost, fastest, overlap, simulate
from memspan.training.memo_1m.program import solve
from memspan.training.memo_1m.tiers import timed_bandwidth, timed_flops
from memspan.training.ordinary import ChunkedLoss
from memspan.training.spec import Spec
from memspan.training.step import Step

TITLE = (
    "Moving and recomputing by the token is exact, holds two layers, and addresses planned on two levels fit closely"
)
SEEDS = (0, 1)
EXPECTED = "partly"  # 4 KB more than two buffers; the paper's share is not the best; all hides from 32K, not 192K

# Thresholds, fixed before the first run, from the card of the system: gradients within 1e-5; moved bytes and recomputed
# work linear in alpha (R² above 0.999), attention never run again; memory at the end of the forward pass at most two
# buffers and what lies outside of the layers; the planned share within 1/64 of the best one; level-1 heights at most
# 1.02 times the bytes that live, and the same of the step; a program of 24 tensors proven. From the paper: 4096 GB of
# activations, to be met within 10 %; 8 devices of 80 GB; all hides from 192K tokens on, to be met within 25 %.
ERROR = 1e-5
LINEAR = 0.999
STEP = 1 / 64
HEIGHT = 1.02
SKELETAL = 4096 * 2**30
FIGURE = 0.10
DEVICE = 80e9
CROSSOVER = 192 * 1024
CLOSE = 0.25

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTH = 512


def net(layers: int, seed: int = 0) -> nn.Module:
    """Layers of SmolLM2-135M's kind."""
    shape = {"hidden": 576, "heads": 9, "kv_heads": 3, "intermediate_size": 1536}
    return tiny_llama(layers=layers, vocabulary=1024, positions=2048, seed=seed, **shape).train()


def ids(seed: int) -> torch.Tensor:
    """Random tokens [1, 512]."""
    return torch.randint(0, 1024, (1, LENGTH), generator=torch.Generator().manual_seed(seed))


# --- the step --------------------------------------------------------------------------------------------------------


def gradients(savers: list[Memo], layers: int, seed: int) -> tuple[list[torch.Tensor], Stack, int]:
    """Of one step; and its floating-point operations."""
    stack = Stack(savers)
    model, _ = stack.prepare(net(layers, seed), AdamW())
    rows = ids(seed)
    with stack.step_context():  # the first step also looks at the layers
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
    model.zero_grad()
    with WorkMode() as work, stack.step_context():
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
    return [one.grad for one in model.parameters()], stack, work.flops


def exact(layers: int, seed: int) -> list[Part]:
    """Gradients, moved bytes and work at five shares."""
    wanted, _, plain = gradients([], layers, seed)
    worst, moved, extra, calls, rows = 0.0, [], [], 0, []
    for alpha in ALPHAS:
        found, stack, flops = gradients([Memo(alpha=alpha)], layers, seed)
        pairs = zip(found, wanted, strict=True)
        error = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
        said = stack.report()["memo-1m"]
        worst, calls = max(worst, error), max(calls, said["attention calls"])
        moved.append(float(said["bytes moved"]))
        extra.append(float(flops - plain))
        rows.append({"alpha": alpha, "error": error, "bytes moved": said["bytes moved"], "extra FLOPs": flops - plain})
    return [
        Part(
            name="gradients are exact",
            metric=f"largest error of a gradient relative to its largest entry, {layers} layers, alpha 0 to 1",
            value=worst,
            threshold=at_most(ERROR),
            rows=rows,
        ),
        Part(
            name="bytes follow the dial",
            metric="R² of bytes moved to slow memory as a line in alpha",
            value=correlation(ALPHAS, moved) ** 2,
            threshold=at_least(LINEAR),
        ),
        Part(
            name="work follows the dial",
            metric="R² of recomputed floating-point operations as a line in 1 - alpha",
            value=correlation([1 - alpha for alpha in ALPHAS], extra) ** 2,
            threshold=at_least(LINEAR),
        ),
        Part(
            name="attention is never run again",
            metric="calls of attention in a step, for each layer",
            value=calls / layers,
            threshold=at_most(1),
        ),
    ]


class AtTheEnd:
    """Hears when the backward pass begins, and notes the activations in memory then."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.held = ledger, 0

    def mark(self, name: str) -> None:
        """As `Ledger.mark`."""
        self.ledger.mark(name)
        if name == "backward":
            self.held = self.ledger.now.entries["activations", "ram"]


def held(layers: int, savers: list[Memo]) -> tuple[int, Stack]:
    """Activations in memory at the end of the second step's forward pass, measured."""
    stack = Stack(savers)
    model, optimizer = stack.prepare(net(layers), AdamW())
    step = Step(model, optimizer, stack)
    rows = ids(0)
    step({"input_ids": rows, "labels": rows})
    with Ledger(model, optimizer=optimizer, stores=stack) as ledger:
        heard = AtTheEnd(ledger)
        step({"input_ids": rows, "labels": rows}, heard)
    return heard.held, stack


def buffers(layers: int) -> Part:
    """Memory of a deep net's activations against two buffers and what the head takes."""
    one, two = held(1, [])[0], held(2, [])[0]
    head, plain = 2 * one - two, one + (layers - 1) * (two - one)
    found, stack = held(layers, [Memo(alpha=0.5)])
    buffer = stack.report()["memo-1m"]["bytes moved"] / (layers - 2)
    bound = 2 * buffer + head
    return Part(
        name="two layers are held",
        metric=f"bytes of activations when the backward pass begins, {layers} layers, alpha 0.5",
        value=found,
        baseline_name="two buffers and what is outside of the layers",
        baseline=bound,
        threshold=at_most(1.0, of="ratio"),
        rows=[{"step": "plain AdamW", "bytes": plain}, {"step": "memo-1m", "bytes": found}],
        note=f"Above the two: {found - bound:,.0f} bytes, the tokens' positions, which recomputing needs.",
    )


# --- the dial --------------------------------------------------------------------------------------------------------


def cost(length: int, flops: float) -> LayerCost:
    """Of a layer of SmolLM2-135M in float32."""
    width, inner, keys = 576, 1536, 192
    weights = 2 * width * width + 2 * width * keys + 3 * width * inner
    attention = 2 * length**2 * width
    numbers = 3 * width + width + 2 * keys + 4 * inner  # norms and residual, query, key and value, feed-forward part
    return LayerCost(
        inputs=4 * length * width,
        attention=4 * length * (width + 9),
        others=4 * length * numbers,
        forward=(2 * length * weights + attention) / flops,
        backward=(4 * length * weights + 2.5 * attention) / flops,
        recompute=2 * length * weights / flops,
    )


def dial() -> list[Part]:
    """The planned share against the best of 65, over 7 lengths and 17 links."""
    flops, link = timed_flops(torch.float32), timed_bandwidth(None)
    near = {"time": [0, 0], "overlap": [0, 0]}
    longer = {"time": 0.0, "overlap": 0.0}
    rows = []
    for length, factor in product([2**n for n in range(9, 16)], [2.0 ** (n / 2) for n in range(-12, 5)]):
        one, bandwidth = cost(length, flops), link * factor
        seconds = [simulate(one, 30, bandwidth, step * STEP).seconds for step in range(65)]
        best = [step * STEP for step in range(65) if seconds[step] <= min(seconds) * (1 + 1e-6)]
        chosen = {
            "time": fastest(one, 30, bandwidth, math.inf),
            "overlap": overlap(one, 30, bandwidth, math.inf),
        }
        for name, alpha in chosen.items():
            if name == "overlap" and one.others / bandwidth < one.recompute:
                continue  # the paper's premise: recomputing a token costs less than waiting for it to be moved
            near[name][0] += min(abs(alpha - other) for other in best) <= STEP + 1e-9
            near[name][1] += 1
            longer[name] = max(longer[name], simulate(one, 30, bandwidth, alpha).seconds / min(seconds) - 1)
        if factor in (1 / 64, 1 / 8, 1.0):
            rows.append(
                {
                    "tokens": length,
                    "GB/s": bandwidth / 1e9,
                    "best": best[-1],
                    **{k: round(v, 3) for k, v in chosen.items()},
                }
            )
    return [
        Part(
            name="the share that is planned is the best",
            metric=f"of {near['time'][1]} links and lengths, share with the planned alpha within 1/64 of the best",
            value=near["time"][0] / near["time"][1],
            threshold=at_least(1.0),
            rows=rows,
            note=f"A step takes at most {100 * longer['time']:.1f} % longer than with the best share.",
        ),
        Part(
            name="so is the paper's, where moving costs more than recomputing",
            metric=f"the same of the paper's program, of {near['overlap'][1]} links and lengths",
            value=near["overlap"][0] / near["overlap"][1],
            threshold=at_least(1.0),
            note=f"A step takes at most {100 * longer['overlap']:.1f} % longer than with the best share.",
        ),
    ]


# --- addresses -------------------------------------------------------------------------------------------------------


def packing(layers: int, seconds: float) -> list[Part]:
    """A recorded step on two levels."""
    spec = Spec(config=net(1).config, seq=LENGTH).with_layers(layers)
    problem = record_job(spec, Stack())
    found = BiLevel().place(problem, seconds=seconds)
    found.check()
    kinds = found.notes["windows"]["kinds"]
    repeated = [one for one in kinds if one["times"] > 1]
    first = find_allocator("first-fit").place(problem)
    rows = [
        {"level": f"{one['times']} equal windows of {one['buffers']} tensors", **_row(one["height"], one["bound"])}
        for one in kinds
    ]
    rows.append({"level": f"the step, {len(problem)} tensors", **_row(found.peak, problem.lower_bound)})
    for slug in ("first-fit", "best-fit", "best-fit-by-size"):
        rows.append({"level": slug, **_row(find_allocator(slug).place(problem).peak, problem.lower_bound)})
    return [
        Part(
            name="inside of the layers",
            metric="largest height of a repeated window over the most bytes that live in it",
            value=max((one["height"] / one["bound"] for one in repeated), default=math.inf),
            threshold=at_most(HEIGHT),
            rows=rows,
        ),
        Part(
            name="the whole step",
            metric=f"address space over the most bytes that live, {layers} layers",
            value=found.peak / problem.lower_bound,
            baseline_name="first fit in the order of time",
            baseline=first.peak / problem.lower_bound,
            threshold=at_most(HEIGHT),
        ),
    ]


def _row(height: int, bound: int) -> dict[str, float]:
    return {"bytes": height, "over what lives": round(height / bound, 4)}


def executed() -> Part:
    """A step at its planned addresses."""
    model, rows = net(3), ids(0)[:, :64]

    def step() -> None:
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()

    step()
    wanted = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    problem = record_step(step, alignment=64)
    model.zero_grad()
    with Arena(BiLevel().place(problem, seconds=5)):
        step()
    pairs = zip(model.parameters(), wanted, strict=True)
    return Part(
        name="a step runs at its planned addresses",
        metric=f"largest difference of a gradient, {len(problem)} tensors in one arena",
        value=max(float((one.grad - other).abs().max()) for one, other in pairs),
        threshold=at_most(0),
    )


def proven(seed: int) -> Part:
    """Random problems of 24 tensors, solved by the program."""
    chance = random.Random(seed)
    done, rows = 0, []
    while len(rows) < 3:
        buffers = []
        for i in range(24):
            begin = chance.randrange(40)
            buffers.append(Buffer(str(i), begin, begin + chance.randint(2, 14), chance.randint(1, 64) * 512))
        problem = Problem(tuple(buffers))
        if solve(problem, seconds=0, program=False).optimal:
            continue  # an order of placement does it
        level = solve(problem, seconds=15)
        done += level.optimal
        pairs = sum(map(len, problem.neighbours)) // 2
        over = level.height / problem.lower_bound
        rows.append({"problem": len(rows), "pairs": pairs, "over what lives": round(over, 4), "how": level.how})
    return Part(
        name="programs of 24 tensors are proven",
        metric="share of 3 random problems that no order solves, whose placement is proven to be the lowest in 15 s",
        value=done / 3,
        threshold=at_least(1.0),
        rows=rows,
    )


# --- the paper's figures ---------------------------------------------------------------------------------------------


def seven_billion() -> list[Part]:
    """7B parameters at a million tokens on 8 devices, planned."""
    from transformers import Starcoder2Config

    shape = {"hidden_size": 4096, "intermediate_size": 16384, "num_attention_heads": 32, "num_key_value_heads": 32}
    config = Starcoder2Config(
        **shape, num_hidden_layers=32, vocab_size=50_257, max_position_embeddings=2**20, sliding_window=None
    )
    spec = Spec(config=config, seq=2**20, dtype="bfloat16", device="cuda", devices=8)
    saver = Memo(slow_memory="2TB")
    stack = Stack([saver, ChunkedLoss(tokens=32_768)])
    stack.check(spec)
    found = imagine(spec, stack)[0]
    said = [line.strip().removeprefix("memo-1m") for line in saver.explain(spec, found)]
    lines = [{"derivation": line.strip()} for line in said]
    one = saver.planned[0].cost
    total = 32 * one.moved(1.0)
    device = found.peak.by_place["device"] / 8
    flops, link = 312e12 * 0.523, 32e9
    crossover = 16 * flops / link - 12 * 4096
    needed = 16 * flops / (CROSSOVER + 12 * 4096)
    return [
        Part(
            name="what 7B parameters keep at a million tokens",
            metric="distance of the planned bytes of activations from the paper's 4096 GB, as a share of it",
            value=abs(total / SKELETAL - 1),
            threshold=at_most(FIGURE),
            rows=[*lines, {"derivation": f"{total:,.0f} bytes are kept by 32 layers; the paper's are {SKELETAL:,}"}],
            note="The paper's GB are 2^30 bytes: 16 bsh numbers a layer in 16 bits.",
        ),
        Part(
            name="8 devices of 80 GB are enough",
            metric="bytes at the peak on each device, all shared evenly, with 2 TB of host memory and chunked loss",
            value=device,
            threshold=at_most(DEVICE),
            rows=[{"place": place, "bytes": n} for place, n in found.peak.by_place.items()],
            note="The optimizer state is AdamW's in 16 bits, as PyTorch keeps it for such weights.",
        ),
        Part(
            name="where all hides",
            metric="distance of the length from which on alpha is 1 from the paper's 192K tokens, as a share of it",
            value=abs(crossover / CROSSOVER - 1),
            threshold=at_most(CLOSE),
            note=f"With the paper's 312 TFLOP/s and MFU of 52.3 % and 32 GB/s a device it is {crossover:,.0f} tokens; "
            f"192K would follow from {needed / 1e9:.1f} GB/s a device.",
        ),
    ]


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    full = size == "full"
    parts = exact(4, seed)
    parts += [*dial(), proven(seed), executed()]
    if full:
        parts += [buffers(12), *packing(30, 40.0), *seven_billion()]
    return Evidence(slug="memo-1m", size=size, parts=parts)
