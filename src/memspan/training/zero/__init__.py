"""ZeRO (Rajbhandari et al., SC 2020, arXiv 1910.02054): what data parallelism copies is split over the ranks.

Every rank computes rows of its own. Stage 1 splits the optimizer's state, stage 2 the gradients too, stage 3 the
weights too, which are gathered for a layer while it computes. Residual states: layer inputs that several ranks have are
split among them and gathered to compute a layer again (P_a, with `offload` in host memory), gradients pass through one
buffer of a fixed size (C_B), and what is kept long lies in one arena, so that it leaves no holes (M_D).

Notation: Ψ parameters, N ranks, of which M at a time have the same rows.

| stage | weights | gradients | optimizer | sent in a step |
|---|---|---|---|---|
| 0 | wΨ | gΨ | kΨ | 2Ψ |
| 1 | wΨ | gΨ | kΨ/N | 2Ψ |
| 2 | wΨ | gΨ/N | kΨ/N | 2Ψ |
| 3 | wΨ/N | gΨ/N | kΨ/N | 3Ψ |

The paper's mixed precision has w, g, k = 2, 2, 12 bytes; training in float32 4, 4, 8, in bfloat16 2, 2, 4.

Notable choices. Stages 1 and 2 are PyTorch's ZeroRedundancyOptimizer: whole tensors have one owner, so that ranks are
uneven (`report` tells the largest and the mean; at rest the first rank is the fullest, in the backward pass of stage 2
another may hold a bucket more), gradients are reduced to their
owner, in stage 2 freed everywhere else as soon as they are, and weights are whole on every rank, as in the paper.
Stage 3 is FSDP2 (`fully_shard`), one layer at a time and the embeddings with the head, each tensor cut along its first
dimension; with `reshard=False` weights stay gathered between the passes, which elsewhere is called ZeRO-2. All ranks
start from the first one's weights. The loss that is reported is the mean over all ranks' tokens, and a rank with more
tokens that count weighs more. Gradients are clipped by the norm over all ranks. The arena holds layer inputs, not
gradients, which would be held before they exist; FSDP2 sizes its own buffers by the layer.
"""

from __future__ import annotations

from memspan.training.zero.arena import Arena, Slot
from memspan.training.zero.saver import Zero, ZeroConfig

__all__ = ["Arena", "Slot", "Zero", "ZeroConfig"]
