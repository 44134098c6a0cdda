"""Codecs: tensors of floats as few bits, truly packed, with their number of bytes known beforehand.

packed = Affine(bits=4, group=64).encode(weight)      # {"codes": uint8 [n / 2], "scale": [n / 64], "low": [n / 64]}
weight = Affine(bits=4, group=64).decode(packed, weight.shape)

Values are taken flat, row by row, in groups of `group` consecutive ones (the last may be shorter), and each group has
scales of its own. What comes out is a plain dict of tensors, so that it can stand in a module's buffers, in an
optimizer's state and in a checkpoint, and the ledger counts it as it is. Every codec reads back a group of equal values
as it was, but for float32's rounding, and zeros as zeros (`Affine` only where they are all of a group, or an end of its
range), and refuses infinities and NaN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from memspan.core.errors import InputError

Packed = dict[str, Tensor]

FLOAT8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
_TINY = 1e-30  # groups whose largest magnitude is smaller are read back as zeros by the floating codecs


class Codec(ABC):
    """What every codec does.

    Attributes:
        group: how many consecutive values share their scales; None: all.
        bits: of each code.
        scales: bytes of the scales of one group.
    """

    group: int | None
    bits: int
    scales: ClassVar[int] = 4

    def encode(self, values: Tensor, generator: torch.Generator | None = None) -> Packed:
        """Values of any shape and floating dtype as codes [numel * bits / 8] and scales [groups].

        Args:
            values: what is to be coded, contiguous or not.
            generator: makes the rounding stochastic, so that the mean of many codings is the value; only `Affine`.

        Raises:
            InputError: the values are not of floating point or not finite, or the codec cannot round stochastically.
        """
        if not values.is_floating_point():
            raise InputError(f"codecs are for floating point, not for {values.dtype}")
        if generator is not None and not isinstance(self, Affine):
            raise InputError(f"{type(self).__name__} rounds to the nearest only")
        flat = values.detach().reshape(-1).float()
        count, group = flat.numel(), self._group(flat.numel())
        short = -count % group
        if short:
            # The last group is filled with a value of its own, which changes neither its smallest nor its largest.
            flat = torch.cat((flat, flat[-1:].expand(short)))
        codes, packed = self._encode(flat.view(-1, group), generator)
        return {"codes": _pack(codes.reshape(-1)[:count], self.bits), **packed}

    def decode(self, packed: Packed, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The values of this shape, near to those that were encoded."""
        count = math.prod(shape)
        group = self._group(count)
        codes = _unpack(packed["codes"], self.bits, count)
        short = -count % group
        if short:
            codes = torch.cat((codes.view(torch.uint8), codes.new_zeros(short).view(torch.uint8))).view(codes.dtype)
        values = self._decode(codes.view(-1, group), packed)
        return values.reshape(-1)[:count].view(tuple(shape)).to(dtype)

    def nbytes(self, numel: int) -> int:
        """Bytes of this many values, encoded."""
        return -(-numel * self.bits // 8) + self.scales * -(-numel // self._group(numel))

    def part(self, packed: Packed, start: int, stop: int) -> Packed:
        """Views of the codes and scales of the values from `start` up to `stop`.

        Raises:
            InputError: `start` is not where a group begins, or all values are one group.
        """
        if self.group is None or start % self.group:
            raise InputError(f"a part must begin where a group of {self.group} does, not at {start}")
        groups = slice(start // self.group, -(-stop // self.group))
        codes = slice(start * self.bits // 8, -(-stop * self.bits // 8))
        return {name: one[codes if name == "codes" else groups] for name, one in packed.items()}

    def _group(self, count: int) -> int:
        return max(count, 1) if self.group is None else self.group

    def _check(self) -> None:
        if self.bits not in (2, 4, 8):
            raise InputError(f"bits is {self.bits}: it must be 2, 4 or 8")
        if self.group is not None and (self.group < 1 or self.group % (8 // self.bits)):
            raise InputError(f"group is {self.group}: it must be positive, and groups must fill whole bytes")

    @abstractmethod
    def _encode(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Packed]:
        """Codes [groups, group], one a byte, and scales by name, of float32 values [groups, group]."""

    @abstractmethod
    def _decode(self, codes: Tensor, packed: Packed) -> Tensor:
        """Float32 values [groups, group] of codes [groups, group]."""


@dataclass(frozen=True, kw_only=True)
class Affine(Codec):
    """Evenly spaced levels from the smallest to the largest value of each group.

    value = low + scale * code. `low` is a float, where many implementations keep a whole-numbered zero point in the
    range of the codes: that destroys groups whose values all have one sign.
    """

    bits: int = 8
    group: int | None = 256
    scales: ClassVar[int] = 8

    def __post_init__(self) -> None:
        self._check()

    def _encode(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Packed]:
        last = 2**self.bits - 1
        low, high = rows.aminmax(dim=1)
        scale = (high - low) / last
        _refuse(scale)
        steps = (rows - low.unsqueeze(1)) / torch.where(scale > 0, scale, 1.0).unsqueeze(1)
        if generator is None:
            steps.round_()
        else:
            steps.add_(torch.rand(steps.shape, generator=generator, device=steps.device)).floor_()
        return steps.clamp_(0, last).to(torch.uint8), {"scale": scale, "low": low}

    def _decode(self, codes: Tensor, packed: Packed) -> Tensor:
        return codes.float().mul_(packed["scale"].unsqueeze(1)).add_(packed["low"].unsqueeze(1))


@dataclass(frozen=True, kw_only=True)
class Codebook(Codec):
    """Given levels in [-1, 1], stretched to the largest magnitude of each group; a value gets the nearest.

    Args:
        levels: 4, 16 or 256 of them, ascending, with 0 and with 1 or -1 among them.
        group: values that share a scale.
        nonzero: what is not 0 is never read back as 0; for values that others are divided by.
    """

    levels: tuple[float, ...]
    group: int | None = 256
    nonzero: bool = False

    def __post_init__(self) -> None:
        if len(self.levels) not in (4, 16, 256) or any(
            a >= b for a, b in zip(self.levels, self.levels[1:], strict=False)
        ):
            raise InputError(f"a codebook has 4, 16 or 256 ascending levels, not {len(self.levels)}")
        if max(-self.levels[0], self.levels[-1]) != 1 or 0 not in self.levels:
            raise InputError("the levels of a codebook must reach to 1 or -1 and hold 0")
        self._check()

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Of each code."""
        return len(self.levels).bit_length() - 1

    def _encode(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Packed]:
        scale = rows.abs().amax(1)
        _refuse(scale)
        scale = torch.where(scale > _TINY, scale, 0.0)
        rows = rows / torch.where(scale > 0, scale, torch.inf).unsqueeze(1)
        middles = [(a + b) / 2 for a, b in zip(self.levels, self.levels[1:], strict=False)]
        codes = torch.bucketize(rows, torch.tensor(middles, device=rows.device), out_int32=True)
        if self.nonzero:
            zero = self.levels.index(0.0)
            lost = (codes == zero) & (rows != 0)
            # Signs are kept where there is a level of that sign.
            below = (rows < 0) if zero > 0 else torch.zeros_like(lost)
            codes = torch.where(lost, torch.where(below, zero - 1, zero + 1), codes)
        return codes.to(torch.uint8), {"scale": scale}

    def _decode(self, codes: Tensor, packed: Packed) -> Tensor:
        levels = torch.tensor(self.levels, device=codes.device)
        return levels[codes.int()].mul_(packed["scale"].unsqueeze(1))


@cache
def dynamic_map(*, signed: bool) -> tuple[float, ...]:
    """The 256 levels of 8-bit optimizers (Dettmers et al., ICLR 2022, arXiv 2110.02861): finer, the nearer to 0.

    Seven decades, each with twice as many levels as the one below, evenly spaced; with 0 and 1.
    """
    found = [0.0, 1.0]
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        for number in range(count):
            level = 10.0 ** (decade - 6) * (0.1 + 0.9 * (number + 0.5) / count)
            found += [level, -level] if signed else [level]
    return tuple(sorted(found))


@dataclass(frozen=True, kw_only=True)
class Float8(Codec):
    """Eight-bit floats, the largest magnitude of each group at the format's largest number.

    Args:
        format: "e4m3" (3 bits of mantissa) or "e5m2" (2 bits, and a wider range).
        group: values that share a scale; None: one scale for all.
        short_scales: scales in bfloat16, rounded up; for small groups, where four bytes each would weigh.
        nonzero: what is not 0 is never read back as 0; for values that others are divided by.
    """

    format: str = "e4m3"
    group: int | None = 128
    short_scales: bool = False
    nonzero: bool = False

    def __post_init__(self) -> None:
        _check_format(self.format)
        self._check()

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Of each code."""
        return 8

    @property
    def scales(self) -> int:  # type: ignore[override]
        """Bytes of a group's scale."""
        return 2 if self.short_scales else 4

    def _encode(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Packed]:
        largest = torch.finfo(FLOAT8[self.format]).max
        scale = torch.linalg.vector_norm(rows, torch.inf, dim=1) / largest
        _refuse(scale)
        scale = torch.where(scale > _TINY / largest, scale, 0.0)
        if self.short_scales:
            # A scale rounded down would cut off the largest values: one unit in bfloat16's last place more at most.
            scale = (scale * (1 + 2**-8)).to(torch.bfloat16)
        divisor = torch.where(scale > 0, scale.float(), torch.inf).unsqueeze(1)
        scaled = (rows / divisor).clamp_(-largest, largest)
        if self.nonzero:
            _lift(scaled, rows, scale > 0, self.format)
        return scaled.to(FLOAT8[self.format]), {"scale": scale}

    def _decode(self, codes: Tensor, packed: Packed) -> Tensor:
        return codes.float().mul_(packed["scale"].float().unsqueeze(1))


@dataclass(frozen=True, kw_only=True)
class ExpandedFloat8(Codec):
    """Eight-bit floats after a power function that makes each group just as wide as the format.

    Dynamic range expansion of COAT (Xi et al., ICLR 2025, arXiv 2410.19313, section 4), with its code's formula. A
    group with largest and smallest magnitude M and μ, R = M/μ and centre c = sqrt(Mμ) is stored as sign(x) (|x|/c)^k,
    where k = log(width of the format) / log(R), rounded down to a multiple of 1/`steps`.

    Three things differ from the code, which otherwise fails (relative errors of 0.2 and more, or NaN): the smallest
    magnitude is taken over what is not 0, and is at least 1e-8 of the largest; a group of equal magnitudes has k = 1; k
    may be below 1, to make a group narrower. Groups of values below 1e-30 become zeros.

    Args:
        format: "e4m3" or "e5m2", as for `Float8`.
        group: values that share the three numbers.
        steps: into how many parts k is divided.
        nonzero: what is not 0 is never read back as 0; for values that others are divided by.
    """

    format: str = "e4m3"
    group: int | None = 128
    steps: int = 16  # `expand_min` of the code
    nonzero: bool = False
    scales: ClassVar[int] = 12

    def __post_init__(self) -> None:
        _check_format(self.format)
        self._check()
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}: it must be at least 1")

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Of each code."""
        return 8

    def _encode(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Packed]:
        top = torch.finfo(FLOAT8[self.format]).max
        size = rows.abs()
        most = size.amax(1)
        _refuse(most)
        empty = most < _TINY
        most = torch.where(empty, 1.0, most)
        least = torch.where(size > 0, size, torch.inf).amin(1)
        least = torch.minimum(torch.maximum(least, most * _NARROWEST), most)
        ratio = most / least
        power = math.log2(top * top / 2) / ratio.log2()
        power = ((power * self.steps).floor() / self.steps).clamp(1 / self.steps, _MOST_POWER)
        power = torch.where(ratio < 1 + _EQUAL, 1.0, power)
        centre = most.sqrt() * least.sqrt()
        scale = (most / centre).pow(power) / top
        bent = (size / centre.unsqueeze(1)).pow_(power.unsqueeze(1)).div_(scale.unsqueeze(1)).clamp_(max=top)
        if self.nonzero:
            _lift(bent, rows, ~empty, self.format)
        scale = torch.where(empty, 0.0, scale)
        codes = bent.copysign_(rows).mul_((~empty).unsqueeze(1)).to(FLOAT8[self.format])
        return codes, {"scale": scale, "power": power, "centre": centre}

    def _decode(self, codes: Tensor, packed: Packed) -> Tensor:
        values = codes.float()
        size = values.abs().mul_(packed["scale"].unsqueeze(1)).pow_(packed["power"].reciprocal().unsqueeze(1))
        return size.mul_(packed["centre"].unsqueeze(1)).copysign_(values)


_NARROWEST = 1e-8  # of a group's largest magnitude: what is smaller does not widen the range that is to be stored
_MOST_POWER = 64.0
_EQUAL = 1e-4  # groups whose largest magnitude is that little above the smallest are not bent


def _lift(scaled: Tensor, rows: Tensor, kept: Tensor, name: str) -> None:
    """Bring what is not 0 in `rows` [groups, group], and would be rounded to 0, to the smallest code of its sign.

    `scaled` are the values as they go into the format, with or without signs; `kept` [groups]: groups not of zeros.
    """
    least = torch.finfo(FLOAT8[name]).smallest_normal * torch.finfo(FLOAT8[name]).eps  # the smallest subnormal number
    lost = (rows != 0) & (scaled.abs() < least) & kept.unsqueeze(1)
    torch.where(lost, torch.full_like(scaled, least).copysign_(scaled), scaled, out=scaled)


def _refuse(bounds: Tensor) -> None:
    """Refuse groups with infinities or NaN in them, which show in their bounds."""
    from torch._subclasses.fake_tensor import FakeTensor

    if not isinstance(bounds, FakeTensor) and not bool(bounds.isfinite().all()):
        raise InputError("values that are infinite or no numbers cannot be coded")


def _check_format(name: str) -> None:
    if name not in FLOAT8:
        raise InputError(f"format is {name!r}: it must be one of {', '.join(FLOAT8)}")


def _pack(codes: Tensor, bits: int) -> Tensor:
    """Codes, one a byte [n], as bytes [n * bits / 8], the first code in the lowest bits; of 8 bits as they are."""
    if bits == 8:
        return codes.clone() if codes.untyped_storage().nbytes() > codes.numel() else codes
    each = 8 // bits
    short = -codes.numel() % each
    if short:
        codes = torch.cat((codes, codes.new_zeros(short)))
    columns = codes.view(-1, each)
    packed = columns[:, 0].clone()
    for number in range(1, each):
        packed |= columns[:, number] << (bits * number)
    return packed


def _unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes, one a byte."""
    if bits == 8:
        return packed
    mask = 2**bits - 1
    return torch.stack([(packed >> (bits * number)) & mask for number in range(8 // bits)], 1).view(-1)[:count]
