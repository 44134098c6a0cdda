"""Codes of 8 and 4 bits a dimension in blocks of 16 vectors, and their integer products: the reference of the kernels.

A head is held as `scale * (code - 64)`, codes 1-127. An entry of a list is held as its residual to the head *as coded*,
so that the head's own rounding cancels: `residual ~ scale * (code - 7.5)`, codes 0-15, and

    |q - x|^2 = |q - h|^2 + (|x|^2 - |h|^2) - 2 q.residual

Layouts (n blocks, d internal dimensions): 8 bits [n, d/4, 16 lanes, 4]; 4 bits [n, d/8, 16 lanes, 4] bytes whose low
nibbles are dimensions 8g..8g+3 and whose high ones 8g+4..8g+7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .space import Floats

Bytes = npt.NDArray[np.uint8]

LANES = 16
STEP = 0.335  # of the residual's spread: the best step of 16 even levels for a normal distribution (Max 1960)


@dataclass(frozen=True)
class Coded:
    """8-bit vectors in blocks; lanes without a vector have an infinite `norm`.

    Attributes:
        codes: [blocks, d/4, 16, 4].
        scale: [blocks, 16].
        norm: [blocks, 16], squared length of the vector as coded.
    """

    codes: Bytes
    scale: Floats
    norm: Floats

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.codes.nbytes + self.scale.nbytes + self.norm.nbytes


def encode8(x: Floats) -> Coded:
    """Codes of vectors [n, d], in ceil(n / 16) blocks."""
    n, d = x.shape
    blocks = -(-n // LANES)
    scale = np.zeros(blocks * LANES, np.float32)
    norm = np.full(blocks * LANES, np.inf, np.float32)
    codes = np.full((blocks * LANES, d), 64, np.uint8)
    if n:
        top = np.abs(x).max(1) / np.float32(63)
        step = np.where(top > 0, top, np.float32(1))
        rounded = np.rint(x / step[:, None])
        codes[:n] = (rounded + 64).astype(np.uint8)
        scale[:n] = step
        norm[:n] = (rounded * rounded).sum(1, dtype=np.float64) * step.astype(np.float64) ** 2
    packed = codes.reshape(blocks, LANES, d // 4, 4).transpose(0, 2, 1, 3)
    return Coded(np.ascontiguousarray(packed), scale.reshape(blocks, LANES), norm.reshape(blocks, LANES))


def decode8(codes: Bytes, scale: Floats) -> Floats:
    """Vectors [blocks * 16, d] of 8-bit blocks; lanes without a vector are zero."""
    blocks, groups, lanes, four = codes.shape
    flat = codes.transpose(0, 2, 1, 3).reshape(blocks * lanes, groups * four)
    return (flat.astype(np.float32) - 64) * scale.reshape(-1, 1)


def encode4(residual: Floats) -> tuple[Bytes, Floats]:
    """Codes [n, d] 0-15 and scale [n] of residuals [n, d], the scale by least squares."""
    spread = np.sqrt(np.einsum("nd,nd->n", residual, residual) / np.float32(residual.shape[1]))
    step = np.where(spread > 0, spread * np.float32(STEP), np.float32(1))
    codes = np.clip(np.floor(residual / step[:, None] + 8), 0, 15).astype(np.uint8)
    level = codes.astype(np.float32) - np.float32(7.5)
    scale = np.einsum("nd,nd->n", residual, level) / np.einsum("nd,nd->n", level, level)
    return codes, scale.astype(np.float32)


def nibbles(codes: Bytes) -> Bytes:
    """Codes [n, d] 0-15 as bytes [n, d/2]."""
    n, d = codes.shape
    group = codes.reshape(n, d // 8, 2, 4)
    return np.ascontiguousarray(group[:, :, 0] | group[:, :, 1] << 4).reshape(n, d // 2)


def unpack4(packed: Bytes) -> Bytes:
    """Codes [n, d] of bytes [n, d/2]."""
    n, half = packed.shape
    four = packed.reshape(n, half // 4, 1, 4)
    return np.concatenate([four & 15, four >> 4], axis=2).reshape(n, 2 * half)


def block_bytes(padded: int) -> int:
    """Bytes of one block of a list: the codes, then `add`, `scale` and slot of each lane."""
    return padded * LANES // 2 + 3 * 4 * LANES


def pack_list(packed: Bytes, add: Floats, scale: Floats, slots: npt.NDArray[np.uint32]) -> Bytes:
    """The bytes of a list of n entries: packed [n, d/2], add, scale and slots [n].

    Empty lanes have an infinite `add`.
    """
    n, half = packed.shape
    blocks = -(-n // LANES)
    out = np.zeros((blocks, block_bytes(2 * half)), np.uint8)
    lanes = np.zeros((blocks * LANES, half), np.uint8)
    lanes[:n] = packed
    packed = lanes.reshape(blocks, LANES, half // 4, 4).transpose(0, 2, 1, 3)
    out[:, : half * LANES] = packed.reshape(blocks, half * LANES)
    tail = out[:, half * LANES :].view(np.float32).reshape(blocks, 3, LANES)
    for column, values, empty in ((0, add, np.inf), (1, scale, 0.0)):
        padded = np.full(blocks * LANES, empty, np.float32)
        padded[:n] = values
        tail[:, column] = padded.reshape(blocks, LANES)
    whole = np.zeros(blocks * LANES, np.uint32)
    whole[:n] = slots
    tail[:, 2] = whole.reshape(blocks, LANES).view(np.float32)
    return out.reshape(-1)


@dataclass(frozen=True)
class Entries:
    """The entries of a list: packed [n, d/2], add, scale [n], slots [n]."""

    packed: Bytes
    add: Floats
    scale: Floats
    slots: npt.NDArray[np.uint32]


def unpack_list(data: Bytes, padded: int) -> Entries:
    """The entries of a list's bytes, empty lanes left out."""
    half = padded // 2
    blocks = len(data) // block_bytes(padded)
    body = data.reshape(blocks, block_bytes(padded))
    groups = body[:, : half * LANES].reshape(blocks, half // 4, LANES, 4).transpose(0, 2, 1, 3)
    packed = groups.reshape(blocks * LANES, half)
    tail = np.ascontiguousarray(body[:, half * LANES :]).view(np.float32).reshape(blocks, 3, LANES)
    full = np.isfinite(tail[:, 0].reshape(-1))
    slots = np.ascontiguousarray(tail[:, 2]).view(np.uint32).reshape(-1)
    return Entries(packed[full], tail[:, 0].reshape(-1)[full], tail[:, 1].reshape(-1)[full], slots[full])


def quantize_query(q: Floats) -> tuple[npt.NDArray[np.int8], np.float32]:
    """A query [d] in 8 bits and its step."""
    step = np.float32(np.abs(q).max(initial=0.0) / np.float32(127))
    step = step if step > 0 else np.float32(1)
    return np.rint(q / step).astype(np.int8), step


def dots8(codes: Bytes, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Integer products [blocks, 16] of 8-bit blocks with a query [d]."""
    products = np.einsum("bgli,gi->bl", codes.astype(np.int32), q.reshape(-1, 4).astype(np.int32))
    return np.asarray(products, np.int32)


def dots4(codes: Floats, q: npt.NDArray[np.int8]) -> Floats:
    """Products [n] of unpacked 4-bit entries [n, d] with a query [d]: whole numbers, which float32 holds exactly."""
    return np.asarray(codes @ q.astype(np.float32), np.float32)
