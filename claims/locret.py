"""Locret: small heads, trained on a frozen model, foretell what later tokens will attend to, and evict better for it.

The bundled SmolLM2-135M-Instruct; heads of width 256 (7.4 million numbers, 29.5 MB, not counted among the bytes of the
context) learn from windows of 512 tokens and an answer of 64. With MEMSPAN_DATA they learn from three books and are
tried on two others, else on made-up text. Caches are compared at equal bytes: 128 slots and a chunk of 128 for Locret,
as many more slots for the others as its bytes for scores and positions of every head allow. Prompts have 1,056 tokens,
of which 32 are the tail; then 64 tokens follow, teacher-forced. Planted words are those of the claim of SirLLM.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from statistics import fmean

import torch
from _context_data import language_model, made_up
from sirllm import streams

import memspan
from memspan.context import attention
from memspan.context.baselines import Random, Window
from memspan.context.locret import Locret, overlap
from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.core.testing import tiny_llama

TITLE = "Small trained heads foretell which keys later tokens will attend to, and evict better for it"
EXPECTED = "partly"  # the heads learn; at 128 slots running text is read worse than by a window, planted words better
SEEDS = (0,)

# Thresholds, fixed before the first run, from the card of the system.
# A, the heads learn: the overlap of the top tenth with the label's on held-out text is at least twice that of the best
#    untrained score (key norm, SnapKV with the prompt's last window, surprisal), and Spearman's rho is above 0.5 on the
#    mean of layers. In the smoke size: better than the key norm.
# B, it helps: surprisal of the 64 tokens after the prompt is below the window's and below chance's, and at least 40 %
#    of the gap from window to full cache is closed; planted words, likewise.
# C, bounded: a prompt of 16,384 tokens holds exactly b + B slots at its peak, and resident memory does not grow (1 MiB
#    for noise) between 4,096 and 16,384.
# D, stabilizers = 0 hurts.
TIMES_BEST = 2.0
SPEARMAN = 0.5
CLOSED = 0.4
NOISE = 1 << 20

SLOTS, CHUNK, TAIL = 128, 128, 32
PROMPT, ANSWER = 1_056, 64
LEARN_FROM, TRY_ON = ("69087-0.txt", "72600-0.txt", "72958-0.txt"), ("lcet10.txt", "alice29.txt")
STEPS, RATE = 60, 2e-3


def tokens(names: tuple[str, ...], each: int, seed: int) -> torch.Tensor:
    """Token ids [names x each] of books below MEMSPAN_DATA, from a fifth of each on, or of made-up text."""
    folder = os.environ.get("MEMSPAN_DATA")
    out = []
    for i, name in enumerate(names):
        if folder:
            whole = (Path(folder) / "books" / name).read_text(encoding="utf-8", errors="replace")
            whole = whole[len(whole) // 5 + seed * 10_000 :]
        else:
            whole = made_up(1_000 * seed + 10 * len(names) + i, each // 15)
        ids = language_model().tokenizer(whole[: each * 8], add_special_tokens=False, verbose=False)["input_ids"]
        out.append(torch.tensor(ids[:each]))
    return torch.cat(out)


# --- A: what the heads know ------------------------------------------------------------------------------------------


class Watched(Locret):
    """Also notes what untrained scores say of the same tokens, by layer: (key norm, SnapKV) [B, H, T - answer]."""

    untrained: list[dict[str, torch.Tensor]]

    def attend(self, layer, q, k, v, slots, step, call):
        """Nothing is changed."""
        out = super().attend(layer, q, k, v, slots, step, call)
        count = step.count - self.config.answer
        last = slice(count - 32, count)
        rotated = self.family.rotate(layer, q[:, :, last], step.rope[:, last])
        seen = attention.visible(step.pos[:, last], step.pos[:, None, :count], call.window)
        shares = attention.weights(attention.scores(rotated, slots.view()[0][:, :, :count], call.scaling), seen)
        votes = shares.sum((2, 3)) / seen.sum(2)
        pooled = torch.nn.functional.avg_pool1d(votes, 5, 1, 2, count_include_pad=False)
        self.untrained.append({"key norm": -k[:, :, :count].norm(dim=-1), "SnapKV": pooled})
        return out


def spearman(score: torch.Tensor, label: torch.Tensor) -> float:
    """Mean over rows of [..., n]."""
    a, b = (x.argsort(-1).argsort(-1).double() for x in (score, label))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean())


def knowledge(heads: Locret, windows: torch.Tensor):
    """Overlap of the top tenth with the label's for each score, and Spearman's rho of the heads, means over layers."""
    found: dict[str, list[float]] = {}
    watched = Watched(heads.config)
    watched.prepare(language_model().model)
    watched.load_state_dict(heads.state_dict())
    count = windows.shape[1] - heads.config.answer
    for row in windows:
        with memspan.context("full", language_model()) as reader:
            surprisal = reader.feed(row[None, :count], nll=True).nan_to_num(nan=0.0)[:, None]
        watched.untrained = []
        with memspan.context(watched, language_model()) as reader, torch.no_grad():
            pairs = watched.pairs(reader, row[None])
        for (score, label), others in zip(pairs, watched.untrained, strict=True):
            scores = {"Locret": score, **others, "surprisal": surprisal.expand_as(label)}
            for name, said in scores.items():
                found.setdefault(name, []).append(float(overlap(said, label).mean()))
            found.setdefault("rho", []).append(spearman(score, label))
    return {name: fmean(values) for name, values in found.items()}


# --- B and D: what it is good for ------------------------------------------------------------------------------------


def caches(heads: Locret, seed: int):
    """The caches that are compared, all within the same bytes but the full one."""
    options = {"slots": SLOTS, "chunk": CHUNK, "tail": TAIL, "sinks": 4, "hidden": heads.config.hidden}

    def with_heads(**more):
        system = Locret(**options, **more)
        system.prepare(language_model().model)
        system.load_state_dict(heads.state_dict())
        return system

    with memspan.context(with_heads(), language_model()) as reader:
        family, system = reader.family, reader.system
        bytes_ = system.fixed_bytes(family, 1) + (SLOTS + CHUNK) * system._slot_bytes(family)
    return bytes_, {
        "Locret": with_heads,
        "window": lambda: Window(chunk=CHUNK),
        "random": lambda: Random(chunk=CHUNK, seed=seed),
        "no stabilizers": lambda: with_heads(stabilizers=0),
        "full": lambda: memspan.context.reader.find_system("full")(chunk=512),
    }


def surprisal_after(make, prompt: torch.Tensor, following: torch.Tensor, budget: int | None) -> tuple[float, int]:
    """Mean surprisal in nats of tokens that follow a prompt, and the bytes held."""
    with memspan.context(make(), language_model(), budget=budget) as reader, torch.no_grad():
        reader.model.base_model(prompt[None])  # as `generate` begins: the end of the prompt is its tail
        said = reader.feed(following, nll=True)
        return float(said.mean()), reader.footprint().by_tier["context"]


def compare(makes, budget: int, rows) -> dict[str, float]:
    """Mean surprisal over (prompt, following), for each cache."""
    out = {}
    for name, make in makes.items():
        nats = []
        for prompt, following in rows:
            value, held = surprisal_after(make, prompt, following, None if name == "full" else budget)
            assert name == "full" or held <= budget, (name, held, budget)
            nats.append(value)
        out[name] = fmean(nats)
    return out


# --- C: bytes --------------------------------------------------------------------------------------------------------


def bounded(seed: int) -> tuple[int, int]:
    """The most slots that a pass saw in a prompt of 16,384 tokens, and resident bytes gained after the first 4,096."""

    class Counting(Locret):
        peak = 0

        def attend(self, layer, q, k, v, slots, step, call):
            self.peak = max(self.peak, slots.track.n)
            return super().attend(layer, q, k, v, slots, step, call)

    system = Counting(slots=64, chunk=64, hidden=16, tail=16)
    ids = torch.randint(1, 64, (1, 16_384), generator=torch.Generator().manual_seed(seed))
    with memspan.context(system, tiny_llama(positions=256)) as reader:
        reader.feed(ids[:, :4_096])
        before = resident()
        for at in range(4_096, 16_384, 4_096):
            reader.feed(ids[:, at : at + 4_096])
        return system.peak, max(0, resident() - before)


def resident() -> int:
    """Resident bytes of this process now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    full = size == "full"
    steps, windows = (STEPS, 3) if full else (8, 2)
    heads = Locret(hidden=256)
    learned = heads.fit(
        language_model(),
        tokens(LEARN_FROM, 40_000 if full else 4_000, seed),
        steps=steps,
        length=576 if full else 320,
        lr=RATE,
        held_out=0.0,
        seed=seed,
    )
    tried = tokens(TRY_ON, 16_000 if full else 1_200, seed)
    length = 576 if full else 320
    known = knowledge(heads, tried.unfold(0, length, len(tried) // windows)[:windows])
    table = [{"score": name, "overlap": round(value, 3)} for name, value in known.items() if name != "rho"]
    if not full:
        part = Part(
            name="the heads learn",
            metric=f"overlap of the top tenth with the label's, {steps} steps of 320 tokens",
            value=known["Locret"],
            baseline_name="key norm",
            baseline=known["key norm"],
            threshold=at_least(1.0, of="ratio"),
            rows=table,
        )
        return Evidence(slug="locret", size=size, parts=[part])
    best = max(("key norm", "SnapKV", "surprisal"), key=lambda name: known[name])
    budget, makes = caches(heads, seed)
    spans = tried.unfold(0, PROMPT + ANSWER, (len(tried) - PROMPT - ANSWER) // 5)[:6]
    nats = compare(makes, budget, [(row[:PROMPT], row[PROMPT:]) for row in spans])
    planted = [(torch.cat((ids, question)), item) for ids, _, question, item in streams(4, 1_024, seed, digits=False)]
    words = compare({name: makes[name] for name in ("Locret", "window", "random", "full")}, budget, planted)
    peak, growth = bounded(seed)
    said = [{"cache": name, "nats a token": round(value, 4)} for name, value in nats.items()]
    of_words = [{"cache": name, "nats per item token": round(value, 3)} for name, value in words.items()]
    parts = [
        Part(
            name="A: the heads learn",
            metric="overlap of the top tenth with the label's, 3 windows of held-out text",
            value=known["Locret"],
            baseline_name=best,
            baseline=known[best],
            threshold=at_least(TIMES_BEST, of="ratio"),
            rows=table,
            note=f"{steps} steps, {learned.parameters:,} numbers, loss {learned.losses[0]:.3f} to "
            f"{fmean(learned.losses[-10:]):.3f}",
        ),
        Part(
            name="A: rank correlation",
            metric="Spearman's rho of score and label, mean over layers",
            value=known["rho"],
            threshold=at_least(SPEARMAN),
        ),
        Part(
            name="B: below the window",
            metric=f"nats a token, 64 tokens after each of 6 prompts of {PROMPT:,}, {SLOTS} slots",
            value=nats["Locret"],
            baseline_name="sinks and window",
            baseline=nats["window"],
            threshold=at_most(0.0, of="difference"),
            rows=said,
        ),
        Part(
            name="B: below chance",
            metric="nats a token",
            value=nats["Locret"],
            baseline_name="random slots",
            baseline=nats["random"],
            threshold=at_most(0.0, of="difference"),
        ),
        closing("B: the gap to the full cache", nats),
        Part(
            name="B: planted words, below the window",
            metric="nats per item token, 4 streams of 1,024 tokens",
            value=words["Locret"],
            baseline_name="sinks and window",
            baseline=words["window"],
            threshold=at_most(0.0, of="difference"),
            rows=of_words,
        ),
        Part(
            name="B: planted words, below chance",
            metric="nats per item token",
            value=words["Locret"],
            baseline_name="random slots",
            baseline=words["random"],
            threshold=at_most(0.0, of="difference"),
        ),
        closing("B: planted words, the gap to the full cache", words),
        Part(
            name="C: slots at the peak",
            metric="slots in a prompt of 16,384 tokens, toy model, b = B = 64",
            value=peak,
            baseline_name="b + B",
            baseline=128,
            threshold=at_most(1.0, of="ratio"),
        ),
        Part(
            name="C: memory does not grow",
            metric="resident bytes gained from token 4,096 to 16,384, toy model",
            value=growth,
            threshold=at_most(NOISE),
        ),
        Part(
            name="D: stabilizers matter",
            metric="nats a token with stabilizers = 0",
            value=nats["no stabilizers"],
            baseline_name="with them",
            baseline=nats["Locret"],
            threshold=at_least(0.0, of="difference"),
        ),
    ]
    return Evidence(slug="locret", size=size, parts=parts)


def closing(name: str, nats: dict[str, float]) -> Part:
    """How much of the gap from window to full cache is closed."""
    gap = nats["window"] - nats["full"]
    metric = "share of the gap from window to full cache closed"
    if gap <= 0:
        return Part(name=name, metric=metric, void="the window is as good as the full cache")
    return Part(name=name, metric=metric, value=(nats["window"] - nats["Locret"]) / gap, threshold=at_least(CLOSED))
