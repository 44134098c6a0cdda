from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.longterm.spann import codes

from .rows import clustered

SHAPES = [(1, 32), (15, 32), (16, 64), (17, 96), (33, 32), (40, 800)]


@pytest.mark.parametrize(("count", "dim"), SHAPES)
def test_eight_bits_are_within_half_a_step_and_their_norm_is_that_of_the_code(count: int, dim: int):
    x = clustered(count, dim)
    coded = codes.encode8(x)
    back = codes.decode8(coded.codes, coded.scale)
    assert coded.codes.shape == (-(-count // 16), dim // 4, 16, 4)
    assert coded.codes[:].min() >= 1 and coded.codes.max() <= 127
    step = np.abs(x).max(1) / 63
    assert (np.abs(back[:count] - x) <= step[:, None] * 0.5001).all()
    assert np.allclose(coded.norm.reshape(-1)[:count], (back[:count].astype(np.float64) ** 2).sum(1), rtol=1e-6)
    assert not back[count:].any() and np.isinf(coded.norm.reshape(-1)[count:]).all()


def test_eight_bit_blocks_hold_four_dimensions_of_sixteen_lanes_in_a_row():
    x = clustered(20, 32)
    coded = codes.encode8(x)
    for row, dim in ((0, 0), (3, 5), (15, 31), (16, 7), (19, 30)):
        value = float(coded.codes[row // 16, dim // 4, row % 16, dim % 4]) - 64
        assert abs(value * coded.scale[row // 16, row % 16] - x[row, dim]) <= np.abs(x[row]).max() / 63 * 0.5001


@pytest.mark.parametrize("dim", [8, 32, 96])
def test_nibbles_hold_a_group_of_eight_dimensions_low_half_first(dim: int):
    code = np.random.default_rng(0).integers(0, 16, (5, dim)).astype(np.uint8)
    packed = codes.nibbles(code)
    assert packed.shape == (5, dim // 2)
    assert packed[1, 3] == code[1, 3] | code[1, 7] << 4
    assert packed[2, -1] == code[2, -5] | code[2, -1] << 4
    assert (codes.unpack4(packed) == code).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_list_gives_back_its_entries_whatever_their_number(count: int, width: int, seed: int):
    rng = np.random.default_rng(seed)
    padded = 32 * width
    packed = rng.integers(0, 256, (count, padded // 2)).astype(np.uint8)
    add, scale = rng.standard_normal((2, count)).astype(np.float32)
    slots = rng.integers(0, 2**32, count, dtype=np.uint32)  # some are the bits of a NaN
    data = codes.pack_list(packed, add, scale, slots)
    assert len(data) == -(-count // 16) * codes.block_bytes(padded)
    back = codes.unpack_list(data, padded)
    assert (back.packed == packed).all() and (back.add == add).all() and (back.scale == scale).all()
    assert back.slots.dtype == np.uint32 and (back.slots == slots).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_four_bits_keep_the_direction_of_a_residual(count: int, width: int, seed: int, size: float):
    residual = (np.random.default_rng(seed).standard_normal((count, 32 * width)) * size).astype(np.float32)
    code, scale = codes.encode4(residual)
    assert code.max() <= 15
    back = (code.astype(np.float64) - 7.5) * scale[:, None]
    error = ((back - residual) ** 2).sum(1) / (residual.astype(np.float64) ** 2).sum(1)
    assert error.max() < 0.2
    # The scale is the best one for these codes: what is left is orthogonal to them.
    left = np.abs(((residual - back) * (code - 7.5)).sum(1))
    assert (left <= 1e-5 * size * 7.5 * 32 * width).all()


def test_four_bits_leave_little_more_of_a_normal_residual_than_the_best_even_quantizer():
    residual = np.random.default_rng(0).standard_normal((1000, 128)).astype(np.float32)
    code, scale = codes.encode4(residual)
    left = residual - (code - np.float32(7.5)) * scale[:, None]
    assert (left**2).sum() / (residual**2).sum() < 1.1 * 0.01154  # Max 1960, table II


def test_the_residual_identity_gives_the_distance_up_to_the_code_of_the_residual():
    x, head = clustered(50, 64), clustered(3, 64, seed=1)[1]
    q = clustered(1, 64, seed=2)[0]
    coded = codes.encode8(head[None])
    h = codes.decode8(coded.codes, coded.scale)[0]
    residual = x - h
    exact = ((q - x).astype(np.float64) ** 2).sum(1)
    identity = ((q - h).astype(np.float64) ** 2).sum() + (x**2).sum(1) - (h**2).sum() - 2 * residual @ q
    assert np.allclose(identity, exact, rtol=1e-5, atol=1e-4)
    code, scale = codes.encode4(residual)
    left = residual - (code.astype(np.float32) - 7.5) * scale[:, None]
    estimate = identity + 2 * (left @ q)
    # The estimate is off by the product of the query with what the code leaves, and by nothing else.
    q8, step = codes.quantize_query(q)
    dot = (
        step
        * scale
        * (codes.dots4(codes.unpack4(codes.nibbles(code)).astype(np.float32), q8) - 7.5 * q8.astype(np.int64).sum())
    )
    add = (x.astype(np.float64) ** 2).sum(1) - (h.astype(np.float64) ** 2).sum()
    from_code = ((q - h).astype(np.float64) ** 2).sum() + add - 2 * dot
    rounding = 2 * np.abs((code - 7.5) * scale[:, None]).sum(1) * step / 2
    assert (np.abs(from_code - estimate) <= rounding + 1e-3).all()


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30, 3.0, 1e15])
def test_rows_without_spread_and_of_any_size_have_finite_codes(value: float):
    x = np.full((3, 32), value, np.float32)
    coded = codes.encode8(x)
    assert np.isfinite(coded.scale[0, :3]).all() and np.isfinite(coded.norm[0, :3]).all()
    code, scale = codes.encode4(x)
    assert np.isfinite(scale).all() and code.max() <= 15
    q8, step = codes.quantize_query(x[0])
    assert np.isfinite(step) and step > 0
    assert np.allclose(q8 * step, x[0], rtol=0.01, atol=1e-40)


def test_products_are_those_of_the_codes():
    rng = np.random.default_rng(0)
    q = rng.integers(-127, 128, 96).astype(np.int8)
    eight = rng.integers(1, 128, (2, 24, 16, 4)).astype(np.uint8)
    flat = eight.transpose(0, 2, 1, 3).reshape(2, 16, 96).astype(np.int64)
    assert (codes.dots8(eight, q) == flat @ q.astype(np.int64)).all()
    four = rng.integers(0, 16, (7, 96)).astype(np.uint8)
    assert (
        codes.dots4(codes.unpack4(codes.nibbles(four)).astype(np.float32), q)
        == four.astype(np.int64) @ q.astype(np.int64)
    ).all()
