"""MEMO (Zhao et al., SIGMOD 2025, arXiv 2407.12117): activations moved or recomputed token by token, and addresses
planned on two levels, so that sequences of a million tokens train on few devices.

Attention's work grows with the square of the length and the bytes that a layer keeps only with the length, so that
long sequences leave time in which those bytes can go to slower memory. A layer's input and its attention output always
go. Of all else (inputs of products, queries, keys, values: 14 of 16 parts in a GPT layer) the first alpha of the
tokens go, and what belongs to the others is computed again from those two before the layer's backward pass; attention
never is. alpha is the largest share whose bytes move during one layer's forward pass and fit into slow memory
(`dial.py`). Two buffers take turns: a full one is copied out while the next layer computes, and fetched when the layer
two above is done.

Tensors that live and die inside of one layer's pass are laid out once for all layers (`bilevel.py`): one program places
them inside the layer, another places the layers, as one block each, among the tensors of the whole step. Both are
solved as mixed-integer programs by HiGHS where they are small enough to be, else by orders of placement and a local
search; a placement says whether it is proven to be the best. `arena.py` runs a step at the addresses of a placement.

Notable choices. No model's code is copied: the layer's own forward pass, run on some tokens with the attention output
put in, saves the same tensors as before, only shorter, which also shows where the tokens are in each of them; a layer
for which that does not hold, because it mixes tokens elsewhere or draws dropout, is refused. Storages are moved, not
tensors, so that three views of one product are moved once. The buffers hold what is moved instead of all that a layer
keeps. `objective="time"` also moves more than hides behind computing where that takes less time than recomputing it;
"overlap" is the paper's program. T_layer comes from the layer's floating-point operations and a rate, so that a plan
made without weights decides as the run does; only products and attention count. Without an accelerator slow memory is
a scratch file, written and read by a thread; with one it is page-locked host memory and a stream of its own, which is
written for CUDA and not tested there. One backward pass a forward pass; attention through torch's
`scaled_dot_product_attention`.
"""

from memspan.training.memo_1m.arena import Arena
from memspan.training.memo_1m.bilevel import BiLevel, BiLevelConfig
from memspan.training.memo_1m.saver import Memo, MemoConfig

__all__ = ["Arena", "BiLevel", "BiLevelConfig", "Memo", "MemoConfig"]
