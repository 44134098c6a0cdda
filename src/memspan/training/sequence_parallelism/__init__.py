"""Sequence parallelism (Li et al., ACL 2023, arXiv 2105.13120): every sequence is split over the ranks.

All but attention is computed for each token by itself, so that a rank has its tokens' activations alone. In attention
keys, then values, travel round a ring until every rank has seen all of them. Notation: N ranks, B rows of L tokens,
chunks of c = L/N, Z heads of size A, H = Z A. Query, key and value of a rank: [B, Z, c, A], keys and values with fewer
heads where the model groups them.

| method | held for the backward pass, by attention |
|---|---|
| "rsa" (the paper's) | scores of the chunk with all tokens, B Z L²/N, beside 4 B Z c A |
| "ring" (blockwise, arXiv 2310.01889) | 4 B Z c A, and a number for each row; scores are computed again |

In both the result is exact. Linformer's attention, whose keys and values are first projected to k << L tokens, needs no
ring: `projected_attention`.

Notable choices. Gradients of keys and values travel with them and come home after N hops, which sends what a
reduce-scatter would and holds no gradient of all tokens; the official code all-reduces them, and divides them, and the
queries', by N. Scores are divided by the square root of the head's size, there of the hidden size. The order is that of
the text, or with `order="zigzag"` chunks i and 2N - 1 - i on rank i, so that causal attention is as much work on every
rank. All hops of a layer and pass are in one function of autograd, so that every rank makes them in the same order. A
length that N does not divide is padded with tokens that count for nothing. Labels are shifted before the text is cut;
the loss is divided by the tokens that all ranks keep. Weights and optimizer state are whole on every rank.
"""

from __future__ import annotations

from memspan.training.sequence_parallelism.layout import Layout
from memspan.training.sequence_parallelism.linformer import projected_attention
from memspan.training.sequence_parallelism.ring import Ring, ring_attention
from memspan.training.sequence_parallelism.saver import SequenceParallelism, SequenceParallelismConfig

__all__ = [
    "Layout",
    "Ring",
    "SequenceParallelism",
    "SequenceParallelismConfig",
    "projected_attention",
    "ring_attention",
]
