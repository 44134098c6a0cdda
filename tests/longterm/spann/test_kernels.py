from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from memspan.longterm.spann import codes, native, reference
from memspan.longterm.spann.native import pointer

pytestmark = pytest.mark.usefixtures("compiled")

LEVELS = range(4)
Array = NDArray[np.generic]


def unaligned(array: Array, off: int) -> Array:
    """The same values, `off` bytes after the beginning of a cache line."""
    room = np.zeros(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + off
    out = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def scan(level: int, bits: int, blocks: Array, q: Array) -> NDArray[np.int32]:
    library = native.library()
    assert library is not None
    count = blocks.size * 8 // (bits * 16 * len(q))
    out = np.full((count, 16), -1, np.int32)
    library.spann_scan(level, bits, pointer(blocks), pointer(q), len(q), count, pointer(out))
    return out


def exact(level: int, rows: Array, q: Array, row_bytes: int | None = None) -> tuple[Array, Array]:
    library = native.library()
    assert library is not None
    dots, norms = np.empty((2, len(rows)), np.float32)
    dtype = ("float32", "float16", "int8").index(rows.dtype.name)
    step = rows.shape[1] * rows.itemsize if row_bytes is None else row_bytes
    library.spann_exact(
        level, dtype, pointer(rows), pointer(q), rows.shape[1], step, len(rows), pointer(dots), pointer(norms)
    )
    return dots, norms


def squares(level: int, rows: Array, q: Array) -> Array:
    library = native.library()
    assert library is not None
    out = np.empty(len(rows), np.float32)
    dtype = ("float32", "float16", "int8").index(rows.dtype.name)
    step = rows.shape[1] * rows.itemsize
    library.spann_exact(level, dtype, pointer(rows), pointer(q), rows.shape[1], step, len(rows), pointer(out), None)
    return out


def test_a_level_is_the_best_of_the_machine_up_to_the_limit():
    library = native.library()
    assert library is not None
    levels = [int(library.spann_level(n)) for n in LEVELS]
    assert levels[0] == 0 and levels == sorted(levels) and all(a <= n for n, a in enumerate(levels))
    assert native.level() == levels[-1]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("padded", [32, 64, 96, 128, 160, 480, 800, 4320])
@pytest.mark.parametrize("bits", [4, 8])
def test_integer_products_are_the_reference_bit_for_bit(level: int, padded: int, bits: int):
    rng = np.random.default_rng([padded, bits])
    count = 3
    for q in (
        rng.integers(-128, 128, padded).astype(np.int8),
        np.full(padded, -128, np.int8),
        np.full(padded, 127, np.int8),
        np.where(np.arange(padded) % 2, 127, -128).astype(np.int8),
        np.zeros(padded, np.int8),
    ):
        if bits == 8:
            for eight in (
                rng.integers(0, 128, (count, padded // 4, 16, 4)).astype(np.uint8),
                np.full((count, padded // 4, 16, 4), 127, np.uint8),
            ):
                assert (scan(level, 8, unaligned(eight, 13), unaligned(q, 7)) == codes.dots8(eight, q)).all()
        else:
            for four in (
                rng.integers(0, 16, (count * 16, padded)).astype(np.uint8),
                np.full((count * 16, padded), 15, np.uint8),
            ):
                packed = codes.nibbles(four)
                blocks = packed.reshape(count, 16, padded // 8, 4).transpose(0, 2, 1, 3).copy()
                wanted = codes.dots4(codes.unpack4(packed).astype(np.float32), q).reshape(count, 16)
                assert (scan(level, 4, unaligned(blocks, 21), unaligned(q, 3)) == wanted).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("dim", [2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100, 128, 770, 1000, 1537, 4095, 4096])
def test_exact_products_and_lengths(level: int, dtype: str, dim: int):
    rng = np.random.default_rng(dim)
    x = rng.standard_normal((5, dim)) * 30
    rows = np.rint(x).clip(-128, 127).astype(dtype) if dtype == "int8" else x.astype(dtype)
    q = rng.standard_normal(dim).astype(np.float32)
    dots, norms = exact(level, unaligned(rows, rows.itemsize), unaligned(q, 4))
    wide, qd = rows.astype(np.float64), q.astype(np.float64)
    rounding = (dim + 8) * 2.0**-24  # of a sum in 32 bits, at most
    assert (np.abs(dots - wide @ qd) <= rounding * (np.abs(wide) @ np.abs(qd))).all()
    assert np.allclose(norms, (wide**2).sum(1), rtol=rounding)
    far = rows + np.full(1, 100, dtype) if dtype != "int8" else rows
    near = far[0].astype(np.float32) + q
    wanted = ((far.astype(np.float64) - near) ** 2).sum(1)
    assert np.allclose(squares(level, unaligned(far, far.itemsize), unaligned(near, 4)), wanted, rtol=2 * rounding)


@pytest.mark.parametrize("level", LEVELS)
def test_exact_reads_no_byte_after_the_row(level: int):
    """What lies behind the last coordinate does not count, were it NaN."""
    for dim in range(2, 40):
        for dtype in ("float32", "float16"):
            room = np.full((3, dim + 8), np.nan, dtype)
            room[:, :dim] = 1
            q = np.full(dim + 8, np.nan, np.float32)
            q[:dim] = 2
            rows = room[:, :dim]
            dots, norms = exact(level, rows, q[:dim], row_bytes=room.strides[0])
            assert (dots == 2 * dim).all() and (norms == dim).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dim", [5, 16, 40])
def test_exact_keeps_not_a_number_and_infinity(level: int, dim: int):
    q = np.ones(dim, np.float32)
    for dtype in ("float32", "float16"):
        for at in (0, dim // 2, dim - 1):
            rows = np.ones((3, dim), dtype)
            rows[0, at], rows[1, at], rows[2, at] = np.nan, np.inf, -np.inf
            dots, norms = exact(level, rows, q)
            assert np.isnan(dots[0]) and np.isnan(norms[0])
            assert dots[1] == np.inf and dots[2] == -np.inf and np.isinf(norms[1:]).all()


@pytest.mark.parametrize("level", LEVELS)
def test_every_half_is_widened_exactly(level: int):
    """All 65,536 halves, denormal ones too, each alone in a row."""
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = every[~np.isnan(every)]
    for dim, at in ((2, 0), (9, 3), (9, 8)):  # in the vector part of every level, and in its rest
        rows = np.zeros((len(every), dim), np.float16)
        rows[:, at] = every
        q = np.zeros(dim, np.float32)
        q[at] = 1
        finite = np.isfinite(every)
        dots, norms = exact(level, rows[finite], q)
        assert (dots == every[finite].astype(np.float32)).all()
        assert (norms == every[finite].astype(np.float32) ** 2).all()
        assert np.isinf(exact(level, rows[~finite], q)[1]).all()


@pytest.mark.parametrize("level", LEVELS)
def test_denormal_floats_count(level: int):
    rows = np.full((1, 19), 1e-42, np.float32)
    dots, _ = exact(level, rows, np.full(19, 2, np.float32))
    assert dots[0] == pytest.approx(19 * 2 * float(rows[0, 0]), rel=1e-3)


def both_closures(distances: Array, heads: Array, own: Array, nearest: int, copies: int, slack: float) -> Array:
    d, h = np.ascontiguousarray(distances, np.float32), np.ascontiguousarray(heads, np.float32)
    o = np.ascontiguousarray(own, np.int32)
    fast = native.closure(d, h, nearest, copies, slack, o)
    slow = reference.closure(d, h, nearest, copies, slack, o)
    assert (fast == slow).all()
    return fast


def squared(x: Array, heads: Array) -> Array:
    return ((x[:, None].astype(np.float64) - heads[None]) ** 2).sum(2).astype(np.float32)


@pytest.mark.parametrize("slack", [1.0, 1.96, float("inf")])
@pytest.mark.parametrize(("nearest", "copies"), [(64, 8), (5, 8), (64, 1), (1, 1), (200, 200)])
def test_closure_is_the_reference(nearest: int, copies: int, slack: float):
    rng = np.random.default_rng(nearest)
    heads = rng.standard_normal((70, 32)).astype(np.float32)
    x = rng.standard_normal((60, 32)).astype(np.float32)
    d = squared(x, heads)
    own = np.where(np.arange(60) % 2, d.argmin(1), -1)
    chosen = both_closures(d, heads, own, nearest, copies, slack)
    assert (chosen[:, 0] == d.argmin(1)).all()
    for row, taken in zip(d, chosen, strict=True):
        some = taken[taken >= 0]
        assert (np.diff(row[some]) >= 0).all() and (row[some] <= row.min() * slack).all()
        assert len(set(some)) == len(some) and (taken[len(some) :] == -1).all()
        between = squared(heads[some], heads[some])
        for j in range(1, len(some)):
            assert (between[j, :j] > row[some[j]] - 1e-3).all()


def test_closure_with_ties_and_equal_heads_takes_its_own_and_then_the_lower_number():
    rng = np.random.default_rng(1)
    heads = rng.integers(-2, 3, (50, 32)).astype(np.float32)  # small whole numbers, so that every distance is exact
    heads[25:] = heads[:25]
    x = heads[rng.integers(0, 50, 80)] + rng.integers(0, 2, (80, 32))
    d = squared(x, heads)
    best = [np.flatnonzero(row == row.min()) for row in d]
    own = np.array([b[-1] for b in best])
    assert (both_closures(d, heads, own, 64, 8, 4.0)[:, 0] == own).all()
    lowest = np.array([b[0] for b in best])
    assert (both_closures(d, heads, np.full(80, -1), 64, 8, 4.0)[:, 0] == lowest).all()
    # A head that is not among the nearest is not preferred.
    assert (both_closures(d, heads, d.argmax(1), 64, 8, 4.0)[:, 0] == lowest).all()


def test_closure_takes_its_own_of_more_equal_heads_than_are_considered():
    heads = np.ones((40, 32), np.float32)
    own = np.arange(40)
    chosen = both_closures(np.ones((40, 40)), heads, own, 4, 3, 2.0)
    assert (chosen[:, 0] == own).all() and (chosen[:, 1:] == -1).all()


def test_closure_of_a_row_that_is_a_head_and_of_one_head():
    heads = np.eye(32, dtype=np.float32)
    assert (both_closures(squared(heads, heads), heads, np.arange(32), 64, 8, 1.96)[:, 1:] == -1).all()
    x = np.ones((3, 32), np.float32)
    assert both_closures(squared(x, heads[:1]), heads[:1], np.zeros(3), 64, 4, 1.96).tolist() == [[0, -1, -1, -1]] * 3
