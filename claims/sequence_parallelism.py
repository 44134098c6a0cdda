"""A sequence split over ranks: gradients of one process, activations by N, and where that beats splitting the weights.

Gradients: processes with gloo, a LLaMA-type net of random weights with SmolLM2's nine heads on three, two rows of 256
tokens of which one is padded. Bytes: a step on tensors without bytes, the other ranks left out (4 layers, width 64).
The crossover: bytes of a block of BERT's kind (MLP of H, 4H, H; attention of Z heads of A), four times its weights
(with gradients and Adam's state) and what autograd keeps, counted for tokens / N with all weights and for all tokens
with weights / N, at half and at twice the length that the paper's inequalities name; H = 64, A = 16, Z = 4, N = 4.
"""

from __future__ import annotations

import itertools
from functools import cache

import torch
from _ranks import launch
from torch import Tensor, nn

from memspan.core.claims import Evidence, Part, at_least, at_most
from memspan.core.testing import tiny_llama
from memspan.planner.fake import imagined, left_out
from memspan.planner.imagine import imagine
from memspan.training import Spec, Stack
from memspan.training.sequence_parallelism import SequenceParallelism, projected_attention

TITLE = "One sequence over several ranks: exact gradients, and a rank's part of the activations"
SEEDS = (0, 1)

# Thresholds, fixed before the first run, from the card of the system: loss and all gradients within 1e-5 of one
# process, relative; a layer's activations within 5 % of 1/N; with the published method B Z L²/N scores besides, within
# 5 %; the crossovers BL = 32H and BL = 16AZ on the right side at half and twice that; Linformer's bytes within 5 % of
# linear in L/N.
EXACT = 1e-5
LAW = 0.05
HEADS, WIDTH, RANKS = 4, 64, 4


def exactness(size: str, seed: int) -> Part:
    """All methods and orders, on two ranks; in full on three too."""
    rows = []
    for ranks in (2, 3) if size == "full" else (2,):
        for name, one in launch("_sequence_ranks.py", ranks, seed, 3 if size == "full" else 1).items():
            rows.append({"ranks": ranks, "method": name, **one})
    return Part(
        name="exact",
        metric="largest relative difference of loss or of any gradient to one process",
        value=max(max(row["loss"], row["gradients"]) for row in rows),
        threshold=at_most(EXACT),
        rows=rows,
    )


def kept(ranks: int, length: int, **options: str) -> int:
    """Bytes that a layer keeps of its activations on one rank."""
    net = tiny_llama(layers=4, hidden=WIDTH, heads=HEADS, positions=4096).config
    spec = Spec(config=net, batch=1, seq=length, devices=ranks)
    savers = [] if ranks == 1 else [SequenceParallelism(**options)]
    return imagine(spec, Stack(savers))[0].saved_by_layer


@cache
def bytes_by_rank(size: str) -> list[Part]:
    """What a layer keeps on N ranks, with and without scores."""
    length, rows, off, scores = 512, [], [], []
    whole = kept(1, length)
    for ranks in (2, 4, 8, 64) if size == "full" else (2, 8):
        blockwise, published = kept(ranks, length), kept(ranks, length, method="rsa")
        formula = 4 * HEADS * length**2 // ranks
        off.append(abs(blockwise * ranks / whole - 1))
        scores.append(abs((published - blockwise) / formula - 1))
        rows.append({"ranks": ranks, "ring": blockwise, "rsa": published, "BZL²/N scores": formula})
    return [
        Part(
            name="activations by N",
            metric=f"largest relative difference of a layer's bytes to 1/N of {whole:,}, blockwise",
            value=max(off),
            threshold=at_most(LAW),
            rows=rows,
        ),
        Part(
            name="scores of the published method",
            metric="largest relative difference of its further bytes to 4 B Z L²/N",
            value=max(scores),
            threshold=at_most(LAW),
        ),
    ]


class Attention(nn.Module):
    """Heads of size 16 with all four projections; scores and weights are kept, as the paper counts them."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * WIDTH // HEADS
        self.project = nn.ModuleList(nn.Linear(WIDTH, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, WIDTH, bias=False)

    def forward(self, x: Tensor, whole: Tensor) -> Tensor:
        """Queries of x [B, c, H], keys and values of the whole sequence [B, L, H], which others hold a part of."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in zip(self.project, (x, whole, whole), strict=True)
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) / 4, -1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


def block_bytes(kind: str, tokens: int, *, split: str) -> int:
    """Four times the weights, and what autograd keeps, on one of four ranks."""
    share = RANKS if split == "weights" else 1
    mine = tokens if split == "weights" else tokens // RANKS
    if kind == "MLP":
        inner = 4 * WIDTH // share
        net: nn.Module = nn.Sequential(
            nn.Linear(WIDTH, inner, bias=False), nn.ReLU(), nn.Linear(inner, WIDTH, bias=False)
        )
    else:
        net = Attention(HEADS // share)
    held = {one.untyped_storage()._cdata: 4 * one.untyped_storage().nbytes() for one in net.parameters()}
    x, whole = torch.randn(1, mine, WIDTH), torch.randn(1, tokens, WIDTH)
    elsewhere = {whole.untyped_storage()._cdata} if split == "tokens" else set()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in elsewhere:
            # Keys and values of all tokens are a rank's own part only: the others come round again.
            part = 4 if split == "tokens" and tokens in tensor.shape and mine not in tensor.shape else 1
            held.setdefault(storage._cdata, storage.nbytes() // part)
            alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(x) if kind == "MLP" else net(x, x if split == "weights" else whole)
        out.sum()
    return sum(held.values())  # what a block puts out is the next one's input, and counted there


@cache
def crossover() -> Part:
    """The difference of the two ways at half and at twice the length where they should be equal."""
    rows, right = [], 0
    for kind, least in (("MLP", 32 * WIDTH), ("attention", 16 * WIDTH)):
        for factor in (0.5, 2.0):
            tokens = int(least * factor)
            by_tokens, by_weights = (block_bytes(kind, tokens, split=one) for one in ("tokens", "weights"))
            right += (by_tokens < by_weights) == (factor > 1)
            rows.append({"block": kind, "tokens": tokens, "tokens split": by_tokens, "weights split": by_weights})
    return Part(
        name="crossover",
        metric="cases of 4 on the side that BL > 32H and BL > 16AZ say",
        value=float(right),
        threshold=at_least(4),
        rows=rows,
    )


@cache
def linformer() -> Part:
    """What Linformer's attention keeps, k = 64, on one of four ranks."""
    rows = []
    for length in (1_024, 4_096, 16_384):
        chunk, held = length // RANKS, {}

        def keep(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()  # noqa: B023
            alive.append(tensor)  # noqa: B023
            return tensor

        alive: list[Tensor] = []
        with left_out(RANKS), imagined(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            parts = [torch.randn(1, 12, chunk, 64, requires_grad=True) for _ in range(3)]
            projections = [torch.randn(64, chunk, requires_grad=True) for _ in range(2)]
            projected_attention(*parts, *projections).sum()
        rows.append({"tokens": length, "bytes": sum(held.values()), "bytes a token": sum(held.values()) / chunk})
    slopes = [(two["bytes"] - one["bytes"]) / (two["tokens"] - one["tokens"]) for one, two in itertools.pairwise(rows)]
    return Part(
        name="Linformer is linear",
        metric="relative difference of the bytes that a further token takes, 1K to 4K and 4K to 16K tokens",
        value=abs(slopes[1] / slopes[0] - 1),
        threshold=at_most(LAW),
        rows=rows,
    )


def claim(size: str, seed: int) -> Evidence:
    """Every part above; see the header."""
    torch.set_num_threads(1)
    parts = [exactness(size, seed), *bytes_by_rank(size), crossover(), linformer()]
    return Evidence(slug="sequence-parallelism", size=size, parts=parts)
