"""The frozen random matrices of RandLoRA, one pair for all layers of a model, made again from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from memspan.core.codecs import Codebook
from memspan.core.errors import InputError

KINDS = ("uniform", "normal", "binary", "ternary")
STREAM = 1  # version of the order in which random numbers become a basis; part of every checksum
_CHECKED = 32  # values of each of the two matrices in a checksum
_PACKED = Codebook(levels=(-1.0, 0.0, 0.5, 1.0), group=None)  # exact for -c, 0 and c: two bits each; 0.5 is not used

Shape = tuple[int, int]  # of a linear layer: out, in


class Basis(nn.Module):
    """A [rank, 1, d] and B [D, n, rank], which the layers of a model take their corners of.

    They are buffers that no state dict holds. Bases of two or three different values take two bits each, others 16.

    Args:
        a, b: the two matrices, of any floating dtype.
        packed: keep B in two bits a number; its values must be -c, 0 and c.
        made_of: what it can be made of again: kind, seed and s; None where that is not known.
    """

    a: Tensor
    b: Tensor

    def __init__(
        self, a: Tensor, b: Tensor, *, packed: bool = False, made_of: tuple[str, int, float] | None = None
    ) -> None:
        super().__init__()
        self.made_of = made_of
        self.rank, self.small = a.shape[0], a.shape[2]
        self.large, self.count = b.shape[0], b.shape[1]
        self.packed = packed
        self.register_buffer("a", a, persistent=False)
        if packed:
            for name, part in _PACKED.encode(b).items():
                self.register_buffer("b" if name == "codes" else name, part, persistent=False)
        else:
            self.register_buffer("b", b, persistent=False)

    def rows(self, small: int) -> Tensor:
        """A as far as a layer needs it, [rank, 1, small], float32."""
        return self.a[:, :, :small].float()

    def columns(self, large: int, count: int, dtype: torch.dtype) -> Tensor:
        """B as far as a layer needs it, flat: [large, count * rank]."""
        return self.whole()[:large, :count].reshape(large, count * self.rank).to(dtype)

    def whole(self) -> Tensor:
        """B [D, n, rank], decoded where it is packed."""
        if not self.packed:
            return self.b
        packed = {"codes" if name == "b" else name: part for name, part in self._buffers.items() if name != "a"}
        return _PACKED.decode(packed, (self.large, self.count, self.rank))  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Bytes of both matrices as they are kept."""
        return sum(part.numel() * part.element_size() for part in self._buffers.values() if part is not None)

    def checksum(self) -> list[float]:
        """Version and sizes, then 64 of the values: what a basis that was made again must agree on exactly."""
        values = [self.a.flatten(), self.whole().flatten()]
        picked = [
            one[torch.arange(_CHECKED, device=one.device) * (one.numel() - 1) // (_CHECKED - 1)] for one in values
        ]
        return [STREAM, self.rank, self.small, self.large, self.count, *torch.cat([p.float() for p in picked]).tolist()]

    def serve(self, name: str, shape: Shape) -> None:
        """Return if a layer's corner lies within.

        Raises:
            InputError: it does not; the message names layer and size.
        """
        small, large, count = needed(shape, self.rank)
        if small > self.small or large > self.large or count > self.count:
            raise InputError(
                f"the basis is too small for {name}, {shape[0]} x {shape[1]}: it needs A [{self.rank}, 1, {small}] and"
                f" B [{large}, {count}, {self.rank}], and there are A [{self.rank}, 1, {self.small}] and"
                f" B [{self.large}, {self.count}, {self.rank}]"
            )


def needed(shape: Shape, rank: int) -> tuple[int, int, int]:
    """Of a layer: the smaller side d, the larger side D, and n = ceil(d / rank)."""
    small, large = sorted(shape)
    return small, large, -(-small // rank)


def make_basis(kind: str, rank: int, shapes: Iterable[Shape], seed: int, s: float) -> Basis:
    """The basis of a seed, as large as these layers need it.

    The uniform one is drawn as PEFT draws it, in bfloat16, and the ternary one too: the matrices are those of PEFT's
    `projection_prng_key`, but for rows and columns that no layer reads.

    Args:
        kind: of `KINDS`.
        rank: r.
        shapes: of the layers, at least one.
        seed: of the generator, which is the CPU's.
        s: a ternary entry is 1 with a probability of 1 / s, and -1 with the same.
    """
    shapes = list(shapes)
    outs, ins = max(out for out, _ in shapes), max(inner for _, inner in shapes)
    small, large = sorted((outs, ins))
    count = -(-small // rank)
    chance = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        root = math.sqrt(5)
        a = nn.init.kaiming_uniform_(torch.empty(rank, 1, small, dtype=torch.bfloat16), a=root, generator=chance)
        parts = [torch.empty(large, 1, rank, dtype=torch.bfloat16) for _ in range(count)]
        b = torch.cat([nn.init.kaiming_uniform_(part, a=root, generator=chance) for part in parts], dim=1)
    elif kind == "ternary":
        a, b = (_ternary(shape, s, chance) for shape in ((rank, 1, small), (large, count, rank)))
    else:
        draw = torch.randn if kind == "normal" else _signs
        a, b = (draw(shape, generator=chance) for shape in ((rank, 1, small), (large, count, rank)))
    if kind != "binary":  # entries of -1 and 1 have unit variance as they are
        a, b = a / a.std(), b / b.std()
    most = [needed(shape, rank) for shape in shapes]
    small, large, count = (max(one[at] for one in most) for at in range(3))
    a, b = a[:, :, :small], b[:large, :count]
    packed = kind in ("binary", "ternary")
    if kind == "normal":
        a, b = a.bfloat16(), b.bfloat16()
    return Basis(a.contiguous(), b.contiguous(), packed=packed, made_of=(kind, seed, s))


def _ternary(shape: tuple[int, ...], s: float, chance: torch.Generator) -> Tensor:
    uniform = torch.rand(shape, generator=chance)
    return (uniform > 1 - 1 / s).float() - (uniform < 1 / s).float()


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
