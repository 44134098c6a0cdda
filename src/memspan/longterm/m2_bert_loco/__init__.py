"""M2-BERT: long documents embedded whole (Saad-Falcon et al. 2024, arXiv 2402.07440).

An encoder in which gated long convolutions, computed by FFT, take the place of attention: the cost grows as L log L and
a document need not be cut. It is trained by masked language modelling on a mixture of full-length and short sequences,
and fine-tuned with a loss that needs no second example in the batch.

    from memspan.longterm.m2_bert_loco import M2Config, PretrainConfig, pretrain

    pretrain(texts, "my-encoder", M2Config.small(), PretrainConfig(steps=2000))  # goes on after Ctrl-C
    memory = Memory.open("agent.db", embedder="my-encoder")

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
- The weights are trained here or not at all; none are shipped. A small encoder trained for minutes matches by the words
  of its training texts and knows no synonyms. The table above has BM25 and the bundled MiniLM over chunks beside it:
  where a question repeats a document's words, BM25 is better, costs nothing, and should be used. What is left for this
  encoder is what the words of one chunk do not tell, with a long training on text like yours.
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
