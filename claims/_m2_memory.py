"""Peak resident memory of one job of the m2-bert-loco claim, in a process of its own: prints bytes.

python _m2_memory.py layer LENGTH                     one mixer of 768 channels, in evaluation, the whole process
python _m2_memory.py train LOSS BATCH KEYS TOKENS     three training steps, the whole process
"""

from __future__ import annotations

import resource
import sys


def peak() -> int:
    """The largest resident set so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def layer(length: int) -> int:
    """One mixer over random input."""
    import torch

    from memspan.longterm.m2_bert_loco.config import M2Config
    from memspan.longterm.m2_bert_loco.model import SeqMix

    mixer = SeqMix(M2Config(max_len=length)).eval()
    with torch.inference_mode():
        mixer(torch.randn(1, length, 768), None)
    return peak()


def train(name: str, batch: int, keys: int, tokens: int) -> int:
    """Steps as `fit_retriever` makes them, on documents of `tokens` tokens."""
    import torch
    from m2_bert_loco import LOSSES, SHAPE

    from memspan.longterm.m2_bert_loco import M2Encoder

    model = M2Encoder(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        q = model.embed(torch.randint(1000, 30000, (batch, 32)))
        k = model.embed(torch.randint(1000, 30000, (batch * keys, tokens))).view(batch, keys, -1)
        LOSSES[name](q, k).backward()
        optimizer.step()
        optimizer.zero_grad()
    return peak()


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    print(layer(int(rest[0])) if job == "layer" else train(rest[0], *map(int, rest[1:])))
