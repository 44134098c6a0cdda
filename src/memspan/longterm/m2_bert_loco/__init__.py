"""M2-BERT: long documents embedded whole (Saad-Falcon et al. 2024, arXiv 2402.07440).

An encoder in which gated long convolutions, computed by FFT, take the place of attention: the cost grows as L log L and
a document need not be cut. It is trained by masked language modelling on a mixture of full-length and short sequences,
and fine-tuned with a loss that needs no second example in the batch.

    from memspan.longterm.m2_bert_loco import M2Config, PretrainConfig, pretrain

    pretrain(texts, "my-encoder", M2Config.small(), PretrainConfig(steps=2000))  # goes on after Ctrl-C
    memory = Memory.open("agent.db", embedder="my-encoder")

    encoder, pieces = load("my-encoder")  # fine-tuning, one query a step
    fit_retriever(M2Retriever(encoder, pieces), batches, OrthogonalProjection(), lr=5e-6, steps=1000)
    save(encoder, "my-retriever", pieces)

Notable choices:
- Padding is set to zero before every convolution, and filters do not rescale time: a text's vector does not depend on
  what it is batched with. (In the authors' code padding is read, so that padding to the full length and not padding
  give different vectors.) The policy stands in config.json, and a directory with another one is refused.
- More tokens than the position table holds are an InputError in `M2Encoder` and `M2Embedder`. As `embedder=` of a
  store, loaded by name, it follows the embedders' rule: the first `max_len` tokens are read and the rest is ignored;
  a store's passages are about 100 tokens, so this takes a table shorter than that. In Python,
  `M2Embedder(directory, too_long="cut")` does the same.
- A store embeds passages, whatever the embedder: to embed documents whole, call `M2Embedder.embed` on them.
- `extend_length` lays the position table and the filters' features end to end while the decay goes on with true time:
  shorter texts keep their vectors to the bit.
- There are no token types: they were one constant vector.
- The weights are trained here or not at all; none are shipped.
- LoCo, the paper's benchmark, is the exam `memspan probe loco --subject embedder:DIRECTORY` (`memspan.probes.loco`).

What a small encoder trained here is good for: studying cost and losses, and text like yours after a training of hours;
not for search out of the box. On 60 documents of 2,048 tokens from public-domain books, nDCG@10 for a question that is
a sentence of the document's last quarter, and for one that is the line before its beginning: BM25 0.988 and 0.466, the
bundled MiniLM over chunks, the best one counting, 0.894 and 0.497, over each document's first 256 tokens 0.212 and
0.583, this encoder with random weights 0.078 and 0.097. Where a question repeats a document's words, BM25 is better
and costs nothing. The full claim trains for minutes from random weights and puts the result beside these.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memspan.longterm.m2_bert_loco.config import M2Config, PretrainConfig

if TYPE_CHECKING:
    from memspan.longterm.m2_bert_loco.embedder import M2Embedder, M2Retriever, load, save
    from memspan.longterm.m2_bert_loco.mlm import Pretrained, mixed_length_batches, pretrain
    from memspan.longterm.m2_bert_loco.model import M2Encoder, extend_length

_WHERE = {
    "M2Embedder": "embedder",
    "M2Encoder": "model",
    "M2Retriever": "embedder",
    "Pretrained": "mlm",
    "extend_length": "model",
    "load": "embedder",
    "mixed_length_batches": "mlm",
    "pretrain": "mlm",
    "save": "embedder",
}
__all__ = [
    "M2Config",
    "M2Embedder",
    "M2Encoder",
    "M2Retriever",
    "PretrainConfig",
    "Pretrained",
    "extend_length",
    "load",
    "mixed_length_batches",
    "pretrain",
    "save",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when first used."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    return value
