"""The U-Net of reversible mobile inverted bottlenecks, its loss, and what it keeps for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from memspan.core.errors import InputError
from memspan.training.reversible_unet.coupling import Reversible, ReversibleSequential

_ACTIVATIONS = {"silu": nn.SiLU, "relu6": nn.ReLU6}
_UP = ("linear", "transposed")


@dataclass(frozen=True, kw_only=True)
class RevUNetConfig:
    """Settings of the reversible U-Net.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    in_channels: int = 4  # of a volume (BraTS: four kinds of MRI)
    classes: int = 3  # of labels, which may overlap (BraTS: whole tumour, core, enhancing)
    width: tuple[int, ...] = (16, 32, 64, 128)  # channels of each level, from fine to coarse; even
    depth: tuple[int, ...] = (2, 2, 2, 4)  # reversible blocks of each level on the way down
    depth_up: int = 1  # and on the way up
    expand: int = 4  # t, by which a bottleneck is wider inside
    dims: int = 3  # 3 for volumes, 2 for pictures
    groups: int = 8  # of group normalisation, or as many as divide the channels
    activation: str = "silu"  # or "relu6"
    up: str = "linear"  # interpolation, or "transposed" convolution
    dropout: float = 0.0  # of whole channels, inside the bottlenecks
    invert: bool = True  # False: ordinary autograd, which keeps everything
    check: float | None = 1e-2  # largest relative error of an inverted input, looked at in the first step

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.width or len(self.width) != len(self.depth):
            raise InputError(f"width is {self.width} and depth is {self.depth}: give as many of each, one a level")
        if any(width < 2 or width % 2 for width in self.width):
            raise InputError(f"width is {self.width}: all must be even, since blocks halve the channels")
        if any(depth < 1 for depth in self.depth):
            raise InputError(f"depth is {self.depth}: all must be at least 1")
        for name in ("in_channels", "classes", "depth_up", "expand", "groups"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        choices: tuple[tuple[str, Any], ...] = (("dims", (2, 3)), ("activation", tuple(_ACTIVATIONS)), ("up", _UP))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(map(str, known))}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}: it must lie in [0, 1)")


class MBConv(nn.Sequential):
    """A mobile inverted bottleneck: expand 1³, depthwise 3³, project 1³, each with a norm, the last without activation.

    Args:
        channels: c, of input and output [batch, c, ...].
        config: of the net.
    """

    def __init__(self, channels: int, config: RevUNetConfig) -> None:
        inside = channels * config.expand
        conv, act = _conv(config.dims), _ACTIVATIONS[config.activation]
        drop = nn.Dropout3d if config.dims == 3 else nn.Dropout2d
        super().__init__(
            conv(channels, inside, 1, bias=False),
            _norm(inside, config),
            act(),
            conv(inside, inside, 3, padding=1, groups=inside, bias=False),
            _norm(inside, config),
            act(),
            *([drop(config.dropout)] if config.dropout else []),
            conv(inside, channels, 1, bias=False),
            _norm(channels, config),
        )


class RevUNet(nn.Module):
    """A 3D (or 2D) U-Net for segmentation whose memory does not grow with the depth of its levels.

    When to use: segmentation of volumes that do not fit, or that had to be cut into patches, for want of memory.
    Relations: `checkpointing` and other savers of activations are for language models; savers of weights and of the
    optimizer's state go with it.

    Each level is one reversible stack on the way down and one on the way up. Between levels stand ordinary layers,
    whose inputs are kept: a strided convolution down; up, a 1³ convolution and interpolation; skips are concatenated
    and merged by a 1³ convolution. Volumes of any size are padded with zeros to a multiple of 2^(levels - 1), and the
    result is cropped.

    Cost: see `kept_bytes`; about a third more work a step than ordinary autograd.

    Args:
        config: a `RevUNetConfig`, or its options by name.

    Raises:
        InputError: an option is not known or out of range.
    """

    Config = RevUNetConfig

    def __init__(self, config: RevUNetConfig | None = None, **options: Any) -> None:
        super().__init__()
        if config is not None and options:
            raise InputError("give a config or options, not both")
        try:
            self.config = config = RevUNetConfig(**options) if config is None else config
        except TypeError as error:
            raise InputError(f"RevUNet has no such option: {error}") from None
        conv = _conv(config.dims)
        width = config.width
        self.stem = conv(config.in_channels, width[0], 3, padding=1)
        self.down = nn.ModuleList(conv(fine, coarse, 2, stride=2) for fine, coarse in pairwise(width))
        self.encoder = nn.ModuleList(_stack(*level, config) for level in zip(width, config.depth, strict=True))
        self.up = nn.ModuleList(_up(coarse, fine, config) for fine, coarse in pairwise(width))
        self.merge = nn.ModuleList(conv(2 * fine, fine, 1) for fine in width[:-1])
        self.decoder = nn.ModuleList(_stack(fine, config.depth_up, config) for fine in width[:-1])
        self.head = conv(width[0], config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Volumes [batch, in_channels, depth, height, width] to logits [batch, classes, depth, height, width].

        Raises:
            InputError: the shape does not fit the net.
        """
        config = self.config
        if x.ndim != config.dims + 2 or x.shape[1] != config.in_channels:
            raise InputError(
                f"x has shape {tuple(x.shape)}: it must be [batch, {config.in_channels}, then {config.dims} lengths]"
            )
        size = x.shape[2:]
        unit = 2 ** (len(config.width) - 1)
        missing = [-length % unit for length in size]
        if any(missing):
            x = functional.pad(x, [pad for length in reversed(missing) for pad in (0, length)])
        x = self.stem(x)
        skips = []
        for level, stack in enumerate(self.encoder):
            x = stack(x)
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.down))):
            x = torch.cat([skips.pop(), self.up[level](x)], 1)
            x = self.decoder[level](self.merge[level](x))
        x = self.head(x)
        for axis, length in enumerate(size, 2):
            x = x.narrow(axis, 0, length)
        return x

    def kept_bytes(self, size: Sequence[int], batch: int = 1, *, itemsize: int = 4) -> dict[str, int]:
        """What is kept for the backward pass, by formula: with all of autograd, inverted, and for one replay.

        With C_l channels and V_l voxels of level l, k_l blocks there and t = `expand`, ordinary autograd keeps
        C_l V_l (6t + 2) for a block. A reversible stack keeps C_l V_l, and while a block is replayed half of what
        autograd would have kept of it. Both keep the volume, and for each merge 2 C_l V_l.

        Args:
            size: lengths of a volume.
            batch: volumes.
            itemsize: bytes of a value.

        Returns:
            "plain", "inverted" and "replay", in bytes; the peak of activations is near the sum of the last two.
        """
        config = self.config
        levels = len(config.width)
        unit = 2 ** (levels - 1)
        voxels = batch * math.prod(length + -length % unit for length in size)
        per_block = 6 * config.expand + 2
        plain = inverted = config.in_channels * voxels
        replay = 0
        for level, (width, depth) in enumerate(zip(config.width, config.depth, strict=True)):
            values = width * voxels // 2 ** (config.dims * level)
            merged = level < levels - 1
            plain += values * per_block * (depth + config.depth_up * merged)
            # A stack's output is the next layer's input; a plain one also keeps the other half of its own input.
            plain += values * (1 + merged) * 3 // 2
            inverted += values * (1 + merged)
            plain += 2 * values * merged
            inverted += 2 * values * merged
            replay = max(replay, values * per_block // 2)
        return {name: itemsize * n for name, n in (("plain", plain), ("inverted", inverted), ("replay", replay))}


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, averaged over volumes and classes, plus binary cross entropy; a scalar.

    Args:
        logits, target: [batch, classes, ...]; the target between 0 and 1.
    """
    chance, target = logits.sigmoid(), target.to(logits.dtype)
    axes = tuple(range(2, logits.ndim))
    overlap = (chance * target).sum(axes)
    dice = (2 * overlap + 1) / (chance.sum(axes) + target.sum(axes) + 1)
    return 1 - dice.mean() + functional.binary_cross_entropy_with_logits(logits, target)


@torch.no_grad()
def dice_score(logits: Tensor, target: Tensor) -> Tensor:
    """Dice of each class [classes], over all volumes, where logits above 0 mean the class; 1 where it is absent."""
    found, target = logits > 0, target > 0.5
    axes = (0, *range(2, logits.ndim))
    both, either = (found & target).sum(axes), found.sum(axes) + target.sum(axes)
    return torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0)


def _stack(channels: int, depth: int, config: RevUNetConfig) -> ReversibleSequential:
    blocks = [Reversible(MBConv(channels // 2, config), MBConv(channels // 2, config)) for _ in range(depth)]
    return ReversibleSequential(blocks, check=config.check, invert=config.invert, preserve_rng_state=config.dropout > 0)


def _conv(dims: int) -> Any:
    return nn.Conv3d if dims == 3 else nn.Conv2d


def _norm(channels: int, config: RevUNetConfig) -> nn.Module:
    return nn.GroupNorm(math.gcd(config.groups, channels), channels)


def _up(coarse: int, fine: int, config: RevUNetConfig) -> nn.Module:
    if config.up == "transposed":
        return (nn.ConvTranspose3d if config.dims == 3 else nn.ConvTranspose2d)(coarse, fine, 2, stride=2)
    # The convolution first, at an eighth of the voxels: both are linear, and interpolation keeps nothing.
    mode = "trilinear" if config.dims == 3 else "bilinear"
    return nn.Sequential(
        _conv(config.dims)(coarse, fine, 1), nn.Upsample(scale_factor=2, mode=mode, align_corners=False)
    )
