"""CCA-Attention: exact where promised, pooling by the group's own attention, quality beside the full cache, and cost.

A toy model compares streaming with the mask. Toy models with two layers, trained from scratch, recall values whose
key stood 200 tokens or more back, with 64 exact tokens and groups of 8, pooled in three ways, or not seen at all. The
bundled SmolLM2-135M-Instruct reads 4,096 tokens with 512 exact and groups of 16, as it is and after a few steps of
adapters on another text; perplexity is of the last 1,024. Seconds are CPU seconds of one thread, for two layers of
SmolLM2's sizes with random weights. With MEMSPAN_DATA the texts are `books/lcet10.txt` and, to train on,
`books/alice29.txt`, else made up.
"""

from __future__ import annotations

import math
import random
import time

import torch
from _context_data import language_model, text
from torch import nn

import memspan
from memspan.context import attention
from memspan.context.baselines import Full
from memspan.context.cca_attention import CcaAttention, CcaLayer, border, whole
from memspan.context.lm_infinite import LmInfinite
from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.core.testing import tiny_llama

TITLE = "Core tokens pooled by attention keep what lies far back at a sixteenth of its bytes"
EXPECTED = "partly"  # far tokens pay on the toy; a book is read no better than by LM-Infinite at equal bytes
SEEDS = (0,)

# Thresholds, fixed before the first run, from the card of the system: streaming is the mask, and groups of one are full
# attention, to 1e-5; every past token counts once in 1,000 random settings; far recall is at least 10 points above mean
# pooling, and at chance (1 of 16, to 5 points) without core tokens; perplexity with trained adapters at most 1.05 times
# the full cache's and no worse than without, which is no worse than LM-Infinite's at equal bytes; the ratio of prefill
# seconds, full to CCA, grows with the length and is at least 2 at 16,384 tokens; bytes are exactly those of the slots.
LOGITS = 1e-5
POINTS = 0.10
CHANCE, BY_CHANCE = 1 / 16, 0.05
OF_FULL = 1.05
TIMES = 2.0

# --- exactness -------------------------------------------------------------------------------------------------------


class Mask(CcaAttention):
    """The same rule over a whole sequence at once."""

    def attend(self, layer, q, k, v, slots, step, call):
        """Pool every group and mask; nothing is dropped."""
        slots.write(k, v)
        config = self.config
        return whole(
            q,
            k,
            v,
            lambda x, pos: self.family.rotate(layer, x, pos),
            group=config.group,
            local=self.local,
            sinks=config.sinks,
            scaling=call.scaling,
        )


def logits(system, ids):
    """Of a toy model."""
    model = tiny_llama(positions=512)
    with torch.no_grad(), memspan.context(system, model):
        return model(ids).logits


def exactness(seed: int) -> list[Part]:
    """Streaming against the mask, groups of one against full attention, and what each query covers."""
    ids = torch.randint(1, 64, (1, 400), generator=torch.Generator().manual_seed(seed))
    options = {"group": 8, "local": 40, "cores": 400}
    streamed = logits(CcaAttention(**options, chunk=23), ids)
    masked = logits(Mask(**options, chunk=400), ids)
    ones = logits(CcaAttention(group=1, local=8, cores=400, chunk=23), ids)
    chance, once = random.Random(seed), 0
    for _ in range(1_000):
        group = chance.randint(1, 64)
        local, sinks, at = chance.randint(group, 300), chance.randint(0, 12), chance.randint(0, 4_000)
        edge = int(border(torch.tensor([[at]]), group=group, local=local, sinks=sinks))
        cores = [p for first in range(sinks, edge, group) for p in range(first, first + group)]
        once += sorted([*cores, *(p for p in range(at + 1) if p < sinks or p >= edge)]) == list(range(at + 1))
    return [
        Part(
            name="streaming is the mask",
            metric="largest difference of logits, toy model, 400 tokens",
            value=float((streamed - masked).abs().max()),
            threshold=at_most(LOGITS),
        ),
        Part(
            name="groups of one are full attention",
            metric="largest difference of logits, toy model, 400 tokens",
            value=float((ones - tiny_llama(positions=512)(ids).logits).abs().max()),
            threshold=at_most(LOGITS),
        ),
        Part(
            name="every past token counts once",
            metric="share of 1,000 random queries, groups, windows and sinks",
            value=once / 1_000,
            threshold=at_least(1.0),
        ),
    ]


# --- how groups are pooled -------------------------------------------------------------------------------------------

KEYS, VALUES, FILLERS = 16, 16, 16
LOCAL, GROUP, FAR = 64, 8, 200
# Length, share of pairs, rows, steps: keys come back later and later.
COURSE = ((64, 1.0, 32, 60), (256, 0.4, 12, 150), (1_024, 0.1, 4, 70))


def recall_task(rows: int, length: int, share: float, chance: torch.Generator):
    """Ids [rows, length] of key-value pairs among fillers, what is to be predicted, -100 for nothing, how far back.

    Each row has its own table of values; a key that comes again asks for the value it had.
    """
    cells = length // 2
    table = KEYS + torch.randint(VALUES, (rows, KEYS), generator=chance)
    key = torch.randint(KEYS, (rows, cells), generator=chance)
    pair = torch.rand(rows, cells, generator=chance) < share
    filler = KEYS + VALUES + torch.randint(FILLERS, (rows, cells, 2), generator=chance)
    ids = torch.where(pair[..., None], torch.stack((key, table.gather(1, key)), 2), filler)
    same = ((key[:, :, None] == key[:, None]) & pair[:, :, None] & pair[:, None]).tril(-1)
    last = (same * torch.arange(1, cells + 1)).amax(2) - 1
    goal, back = torch.full((2, rows, length), -100)
    goal[:, 0::2] = torch.where(last >= 0, ids[:, :, 1], -100)
    back[:, 0::2] = 2 * (torch.arange(cells) - last)
    return ids.flatten(1), goal, back


class LocalLayer(CcaLayer):
    """Sees the exact tokens only."""

    def forward(self, x):
        """[B, T, d] to [B, T, d]."""
        q, k, v = (
            linear(x).unflatten(2, (-1, self.width)).transpose(1, 2)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        pos = torch.arange(x.shape[1])[None]
        edge = border(pos, group=GROUP, local=LOCAL)
        seen = attention.visible(pos, pos[:, None], None) & (pos[:, None, None] >= edge[:, None, :, None])
        q, k = self.rotate(q, pos), self.rotate(k, pos)
        out = attention.exact(q, k, v, seen, causal=False, scaling=self.width**-0.5)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, dim: int, pool: str) -> None:
        super().__init__()
        kind, how = (LocalLayer, "attention") if pool == "none" else (CcaLayer, pool)
        self.attention = kind(dim, 2, group=GROUP, local=LOCAL, pool=how, base=1e6)
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.forward_layer = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        """[B, T, d] to [B, T, d]."""
        x = x + self.attention(self.before(x))
        return x + self.forward_layer(self.between(x))


class Toy(nn.Module):
    """Two layers over embeddings of each token and of the one before."""

    def __init__(self, pool: str, dim: int = 64) -> None:
        super().__init__()
        vocabulary = KEYS + VALUES + FILLERS
        self.embed = nn.Embedding(vocabulary, dim // 2)
        self.blocks = nn.Sequential(Block(dim, pool), Block(dim, pool))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocabulary))

    def forward(self, ids):
        """Scores [B, T, V]."""
        h = self.embed(ids)
        return self.head(self.blocks(torch.cat((h, nn.functional.pad(h[:, :-1], (0, 0, 1, 0))), -1)))


def far_recall(pool: str, seed: int) -> float:
    """Share of values predicted, of keys last seen `FAR` tokens or more ago, after training."""
    torch.manual_seed(seed)
    model, chance = Toy(pool), torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    total, done = sum(stage[3] for stage in COURSE), 0
    for length, share, rows, steps in COURSE:
        for _ in range(steps):
            ids, goal, _ = recall_task(rows, length, share, chance)
            for group in optimizer.param_groups:
                group["lr"] = 5e-3 * min(1, (done + 1) / 20) * (1 - done / total)
            loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), goal.flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
    hit = asked = 0
    with torch.no_grad():
        for part in range(6):
            ids, goal, back = recall_task(8, 1_024, 0.1, torch.Generator().manual_seed(90_000 + part))
            far = (goal >= 0) & (back >= FAR)
            hit += int((model(ids).argmax(-1) == goal)[far].sum())
            asked += int(far.sum())
    return hit / asked


def pooling(seed: int) -> list[Part]:
    """Attention against mean, maximum and nothing."""
    found = {pool: far_recall(pool, seed) for pool in ("attention", "mean", "max", "none")}
    return [
        Part(
            name="pooling by attention matters",
            metric="share of values recalled from 200 tokens back or more, toy models from scratch",
            value=found["attention"],
            baseline_name="mean pooling",
            baseline=found["mean"],
            threshold=at_least(POINTS, of="difference"),
            rows=[{"core tokens": pool, "recalled": round(share, 3)} for pool, share in found.items()],
        ),
        Part(
            name="exact tokens alone know nothing of it",
            metric="share recalled without core tokens; chance is 1 of 16",
            value=found["none"],
            threshold=at_most(CHANCE + BY_CHANCE),
        ),
    ]


# --- a real model ----------------------------------------------------------------------------------------------------

LENGTH, TAIL, CHUNK = 4_096, 1_024, 512
OPTIONS = {"group": 16, "local": 512, "cores": 256, "chunk": CHUNK}
STEPS, WINDOWS = 12, 1_024


def perplexity(system, ids) -> tuple[float, int]:
    """Of the last `TAIL` tokens, and the bytes of the context."""
    with memspan.context(system, language_model()) as reader:
        reader.feed(ids[:-TAIL])
        nll = reader.feed(ids[-TAIL:], nll=True)
        return math.exp(float(nll.mean())), reader.footprint().by_tier["context"]


def quality(seed: int) -> list[Part]:
    """The full cache, CCA trained and not, and LM-Infinite at equal bytes."""
    ids, name = text(LENGTH, seed)
    full, full_bytes = perplexity(Full(chunk=CHUNK), ids)
    free, held = perplexity(CcaAttention(**OPTIONS), ids)
    rows = held // language_model().model.config.num_hidden_layers // (2 * 3 * 64 * 4)
    window, window_bytes = perplexity(LmInfinite(window=rows - CHUNK - 10, chunk=CHUNK), ids)
    system = CcaAttention(**OPTIONS, rank=8)
    practice, _ = text(30_000, seed + 1, "alice29.txt")
    done = system.fit(
        language_model(), practice, steps=STEPS, length=WINDOWS, lr=1e-3, held_out=0.0, warmup=0.1, seed=seed
    )
    tuned, _ = perplexity(system, ids)
    table = [
        {"cache": "full", "perplexity": round(full, 2), "bytes": full_bytes},
        {"cache": "CCA, trained", "perplexity": round(tuned, 2), "bytes": held},
        {"cache": "CCA", "perplexity": round(free, 2), "bytes": held},
        {"cache": "LM-Infinite", "perplexity": round(window, 2), "bytes": window_bytes},
    ]
    return [
        Part(
            name="close to the full cache",
            metric=f"perplexity of tokens 3,072 to 4,096 of {name} after {STEPS} steps of {WINDOWS} tokens",
            value=tuned,
            baseline_name="full cache",
            baseline=full,
            threshold=at_most(OF_FULL, of="ratio"),
            rows=table,
            note=f"{done.parameters:,} numbers trained; {full_bytes / held:.1f} times the bytes in the full cache",
        ),
        Part(
            name="training helps",
            metric="perplexity",
            value=tuned,
            baseline_name="CCA without training",
            baseline=free,
            threshold=at_most(1.0, of="ratio"),
        ),
        Part(
            name="core tokens are worth their bytes",
            metric="perplexity without training",
            value=free,
            baseline_name="LM-Infinite at equal bytes",
            baseline=window,
            threshold=at_most(1.0, of="ratio"),
        ),
    ]


# --- cost ------------------------------------------------------------------------------------------------------------


def cost(lengths: tuple[int, int], seed: int, least: float | None) -> list[Part]:
    """CPU seconds of a prefill, and bytes."""
    longest = max(lengths)
    sizes = {"layers": 2, "hidden": 576, "heads": 9, "kv_heads": 3, "intermediate_size": 1_536}
    model = tiny_llama(**sizes, positions=4 * longest)
    ids = torch.randint(1, 64, (1, longest), generator=torch.Generator().manual_seed(seed))
    # As many core tokens as groups are read, those that end in a chunk included.
    group, local, cores = 16, min(1_024, longest // 8), (longest - CHUNK) // 16
    seconds: dict[str, dict[int, float]] = {}
    for name, system in (
        ("full", Full(chunk=CHUNK)),
        ("CCA", CcaAttention(group=group, local=local, sinks=0, cores=cores, chunk=CHUNK)),
    ):
        seconds[name] = {}
        with memspan.context(system, model) as reader:
            begun = time.process_time()
            for at in range(0, longest, CHUNK):
                reader.feed(ids[:, at : at + CHUNK])
                if at + CHUNK in lengths:
                    seconds[name][at + CHUNK] = time.process_time() - begun
            held, row = reader.footprint().total, reader.family.slot_bytes(per_head=False, track=28)
            beside = system.fixed_bytes(reader.family, 1)
    ratios = [seconds["full"][n] / seconds["CCA"][n] for n in lengths]
    rows = longest // group + local + group - 1 + CHUNK
    parts = [
        Part(
            name="the gain grows with the length",
            metric=f"CPU seconds of a prefill of {lengths[1]:,} tokens, full to CCA",
            value=ratios[1],
            baseline_name=f"of {lengths[0]:,} tokens",
            baseline=ratios[0],
            threshold=at_least(1.0, of="ratio"),
            rows=[{"tokens": n, **{name: f"{found[n]:.2f} s" for name, found in seconds.items()}} for n in lengths],
        ),
        Part(
            name="bytes are those of its slots",
            metric=f"bytes after {longest:,} tokens beyond m + s + g - 1 + chunk slots",
            value=abs(held - rows * row - beside),
            threshold=at_most(0),
            note=f"{held:,} bytes, the full cache {longest * row:,}",
        ),
    ]
    if least is not None:
        parts.append(
            Part(
                name="a long prefill is faster",
                metric=f"CPU seconds of a prefill of {lengths[1]:,} tokens, full to CCA",
                value=ratios[1],
                threshold=at_least(least),
            )
        )
    return parts


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    parts = exactness(seed)
    if size == "smoke":
        return Evidence(slug="cca-attention", size=size, parts=[*parts, *cost((1_024, 2_048), seed, None)])
    parts += [*pooling(seed), *quality(seed), *cost((4_096, 16_384), seed, TIMES)]
    return Evidence(slug="cca-attention", size=size, parts=parts)
