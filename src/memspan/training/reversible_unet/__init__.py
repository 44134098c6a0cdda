"""Reversible U-Net (Pendse et al., BrainLes 2020, arXiv 2104.09648): memory that does not grow with the depth.

Blocks are additive couplings (RevNet, Gomez et al. 2017): each can be inverted, so the backward pass computes a block's
input from its output, and of a stack of blocks only the last output is kept. The functions inside are mobile inverted
bottlenecks (MobileNetV2), which are cheap to compute twice. As in the partially reversible U-Net (Brügger et al. 2019),
layers that change resolution are ordinary ones.

>>> net = RevUNet(in_channels=4, classes=3, width=(16, 32, 64), depth=(2, 2, 4))  # doctest: +SKIP
>>> dice_loss(net(volumes), labels).backward()  # doctest: +SKIP
>>> stack = ReversibleSequential([Reversible(f, g) for f, g in pairs])  # any modules that keep shapes  # doctest: +SKIP

Notable choices. The paper's text gives the three convolutions; norm (group), expansion (4), activation and merging of
skips are ours. Autograd's ordinary tensors are used: no storage is freed under anybody's hands, so that a stack's input
may also be a skip. Streams are float32 or wider, as inverting adds to rounding errors; the first backward pass compares
the inverted inputs with a sample of the true ones and names the block that is off. Modules with running statistics are
refused, since they would be updated twice; dropout draws the same again. Plans count it as any module: see
`Spec(make_model=…, make_batch=…)`.
"""

from __future__ import annotations

from memspan.training.reversible_unet.coupling import Reversible, ReversibleSequential
from memspan.training.reversible_unet.net import MBConv, RevUNet, RevUNetConfig, dice_loss, dice_score

__all__ = [
    "MBConv",
    "RevUNet",
    "RevUNetConfig",
    "Reversible",
    "ReversibleSequential",
    "dice_loss",
    "dice_score",
]
