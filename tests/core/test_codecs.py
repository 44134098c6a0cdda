"""Codecs: packed to the byte, near to what was encoded, and safe at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memspan.core.codecs import Affine, Codebook, ExpandedFloat8, Float8, dynamic_map
from memspan.core.errors import InputError

SIGNED = Codebook(levels=dynamic_map(signed=True))
POSITIVE = Codebook(levels=dynamic_map(signed=False), nonzero=True)
SIXTEEN = tuple(sorted([i / 7 for i in range(-7, 8)] + [0.5 / 7]))
CODECS = [
    Affine(),
    Affine(bits=4, group=32),
    Affine(bits=2, group=None),
    SIGNED,
    Codebook(levels=SIXTEEN, group=64),
    Float8(),
    Float8(format="e5m2", group=None),
    Float8(group=16, short_scales=True),
    ExpandedFloat8(),
    ExpandedFloat8(format="e5m2", group=32),
]
names = [f"{type(codec).__name__}{codec.bits}-{codec.group}" for codec in CODECS]
each = pytest.mark.parametrize("codec", CODECS, ids=names)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def through(codec, x, generator=None):
    return codec.decode(codec.encode(x, generator), x.shape)


def held(packed):
    return sum(tensor.untyped_storage().nbytes() for tensor in packed.values())


def error(x, y):
    return float((x - y).square().mean().sqrt() / x.square().mean().sqrt())


@each
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (256,), (3, 85), (5, 3, 67)])
def test_bytes_are_those_promised(codec, shape):
    packed = codec.encode(normal(*shape))
    assert held(packed) == codec.nbytes(math.prod(shape))
    assert codec.decode(packed, shape).shape == shape


def test_bytes_by_hand():
    assert Affine(bits=4, group=256).nbytes(1_000) == 500 + 4 * 8
    assert Affine(bits=8, group=256).nbytes(512) == 512 + 2 * 8
    assert SIGNED.nbytes(257) == 257 + 2 * 4
    assert Float8(group=None).nbytes(1_000) == 1_004
    assert Float8(group=16, short_scales=True).nbytes(160) == 160 + 10 * 2
    assert ExpandedFloat8().nbytes(128) == 128 + 12


@each
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_errors_are_bounded(codec, data):
    values = data.draw(
        st.lists(st.floats(-1e6, 1e6, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6), min_size=1, max_size=80)
    )
    x = torch.tensor(values)
    y = through(codec, x)
    most = x.abs().max()
    assert y.isfinite().all()
    if isinstance(codec, Affine):
        span = x.max() - x.min()
        assert ((x - y).abs() <= span / (2**codec.bits - 1) / 2 + 1e-6 * most).all()
    else:
        half = {"Float8": 0.125, "ExpandedFloat8": 0.2}.get(type(codec).__name__, 0.13)
        assert ((x - y).abs() <= half * most + 1e-30).all()
        assert (y[x == 0] == 0).all()
        assert (x * y >= 0).all()


@each
def test_what_was_decoded_is_coded_alike_again(codec):
    y = through(codec, normal(300))
    again = through(codec, y)
    assert error(y, again) < (0.02 if isinstance(codec, ExpandedFloat8) or getattr(codec, "short_scales", 0) else 1e-5)


@each
@pytest.mark.parametrize("value", [0.0, 3.7, -2.5e-5, 1e20])
def test_equal_values_come_back(codec, value):
    x = torch.full((300,), value)
    y = through(codec, x)
    exact = 1e-6 if not (isinstance(codec, Codebook) and value < 0 and -1 not in codec.levels) else 0.2
    assert torch.allclose(y, x, rtol=0.02 if getattr(codec, "short_scales", False) else exact, atol=0)


@each
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_infinities_and_nan_are_refused(codec, bad):
    x = normal(300)
    x[299] = bad
    with pytest.raises(InputError, match="infinite or no numbers"):
        codec.encode(x)


@each
def test_dtype_and_strides_do_not_matter(codec):
    x = normal(48, 40).bfloat16()
    packed = codec.encode(x)
    assert torch.equal(codec.decode(packed, x.shape), codec.decode(codec.encode(x.float()), x.shape))
    assert codec.decode(packed, x.shape, torch.bfloat16).dtype == torch.bfloat16
    turned = normal(40, 48).t()
    assert torch.equal(through(codec, turned), through(codec, turned.contiguous()))


@each
def test_a_group_hears_nothing_of_its_neighbours(codec):
    if codec.group is None:
        pytest.skip("one group")
    x = normal(2 * codec.group)
    loud = x.clone()
    loud[codec.group :] *= 1e4
    assert torch.equal(through(codec, x)[: codec.group], through(codec, loud)[: codec.group])


@each
def test_parts_are_views_of_the_whole(codec):
    x = normal(1_000)
    packed = codec.encode(x)
    if codec.group is None:
        with pytest.raises(InputError, match="part"):
            codec.part(packed, 0, 10)
        return
    start = 256
    part = codec.part(packed, start, 1_000)
    assert torch.equal(codec.decode(part, (1_000 - start,)), codec.decode(packed, (1_000,))[start:])
    for name, value in codec.encode(torch.zeros(1_000 - start)).items():
        part[name].copy_(value)
    assert (codec.decode(packed, (1_000,))[start:] == 0).all()
    with pytest.raises(InputError, match="part"):
        codec.part(packed, 3, 10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Affine(bits=3), "bits is 3"),
        (lambda: Affine(bits=4, group=33), "group is 33"),
        (lambda: Affine(group=0), "group is 0"),
        (lambda: Codebook(levels=(0.0, 1.0)), "4, 16 or 256"),
        (lambda: Codebook(levels=(-0.5, 0.0, 0.25, 0.5)), "reach to 1"),
        (lambda: Float8(format="e3m4"), "format is 'e3m4'"),
        (lambda: ExpandedFloat8(steps=0), "steps is 0"),
        (lambda: Float8().encode(torch.ones(3), torch.Generator()), "nearest only"),
        (lambda: Affine().encode(torch.ones(3, dtype=torch.int64)), "floating point"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


# --- affine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [5.0, -9.0])
def test_groups_of_one_sign_survive(low):
    """A zero point clamped to the codes' range, as in the code of Q-GaLore, would destroy them."""
    x = low + torch.rand(256, generator=torch.Generator().manual_seed(0))
    assert (through(Affine(), x) - x).abs().max() <= 1 / 255


def test_stochastic_rounding_is_unbiased():
    x = normal(256)
    chance = torch.Generator().manual_seed(1)
    codec = Affine()
    packed = [codec.encode(x, chance) for _ in range(2_000)]
    mean = torch.stack([codec.decode(one, x.shape) for one in packed]).mean(0)
    deviation = packed[0]["scale"] * 0.5 / 2_000**0.5
    assert ((mean - x).abs() <= 4 * deviation + 1e-6).all()
    assert torch.equal(packed[0]["low"], x.min().view(1))


def test_stochastic_rounding_depends_on_its_generator_alone():
    x = normal(300)
    a, b = (Affine().encode(x, torch.Generator().manual_seed(3))["codes"] for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, Affine().encode(x, torch.Generator().manual_seed(4))["codes"])


def test_four_bits_are_two_to_the_byte():
    packed = Affine(bits=4, group=16).encode(torch.arange(16.0))
    assert packed["codes"].tolist() == [16 * (i + 1) + i for i in range(0, 16, 2)]


# --- codebooks -------------------------------------------------------------------------------------------------------


def test_the_dynamic_maps():
    for signed in (True, False):
        levels = dynamic_map(signed=signed)
        assert len(levels) == 256 and levels[-1] == 1 and 0 in levels
        smallest = min(level for level in levels if level > 0)
        assert smallest == pytest.approx(0.55e-6 if signed else 0.325e-6)
    assert min(dynamic_map(signed=True)) == pytest.approx(-(0.1 + 0.9 * 63.5 / 64))


def test_the_nearest_level_is_taken():
    x = normal(500)
    levels = torch.tensor(SIGNED.levels)
    scaled = torch.cat([part / part.abs().max() for part in x.split(256)])
    nearest = levels[(scaled.unsqueeze(1) - levels).abs().argmin(1)]
    found = torch.cat(
        [
            part / scale
            for part, scale in zip(through(SIGNED, x).split(256), [p.abs().max() for p in x.split(256)], strict=True)
        ]
    )
    assert (found - scaled).abs().max() <= (nearest - scaled).abs().max() + 1e-6


def test_small_denominators_do_not_become_zero():
    x = torch.tensor([1.0, 1e-9, 0.0, 1e-3])
    assert through(POSITIVE, x)[1] > 0
    assert through(POSITIVE, x)[2] == 0
    signed = Codebook(levels=dynamic_map(signed=True), nonzero=True)
    assert through(signed, torch.tensor([1.0, -1e-9, 1e-9]))[1:].sign().tolist() == [-1, 1]


# --- 8-bit floats ----------------------------------------------------------------------------------------------------


def test_the_largest_value_does_not_overflow():
    for codec in (Float8(), Float8(format="e5m2"), Float8(short_scales=True), ExpandedFloat8()):
        x = normal(128)
        x[5] = 3e30
        assert through(codec, x)[5] == pytest.approx(3e30, rel=0.02)


def expanded_by_hand(x, steps=16):
    """The formula of the paper's code, for one group without zeros."""
    most, least = max(abs(v) for v in x), min(abs(v) for v in x)
    k = math.floor(math.log2(448**2 / 2) / math.log2(most / least) * steps) / steps
    c = math.sqrt(most * least)
    s = (most / c) ** k / 448
    bent = torch.tensor([math.copysign((abs(v) / c) ** k, v) / s for v in x], dtype=torch.float64)
    codes = bent.float().clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, k


def test_expansion_is_the_formula_of_the_paper():
    x = normal(128, seed=5)
    packed = ExpandedFloat8().encode(x)
    codes, k = expanded_by_hand(x.tolist())
    assert float(packed["power"]) == k
    assert (packed["codes"].float() == codes.float()).float().mean() > 0.98  # float32 may round a few to a neighbour


def test_expansion_makes_narrow_groups_finer():
    x = 1 + 9 * torch.rand(4_096, generator=torch.Generator().manual_seed(0))  # one decade, as second moments
    assert error(x, through(ExpandedFloat8(), x)) < 0.4 * error(x, through(Float8(), x))


def test_expansion_narrows_groups_that_are_too_wide():
    x = torch.logspace(-7.5, 0, 128)
    assert (through(Float8(), x)[:20] == 0).all()
    packed = ExpandedFloat8().encode(x)
    assert float(packed["power"]) < 1
    assert ((through(ExpandedFloat8(), x) - x).abs() / x).max() < 0.2


def test_zeros_among_values_do_not_crush_the_others():
    """The code's 1e-30 for zeros makes every group with one seem 30 decades wide."""
    x = normal(1_280)
    x[::10] = 0
    assert (through(ExpandedFloat8(), x)[::10] == 0).all()
    assert error(x, through(ExpandedFloat8(), x)) < 0.06


def test_nearly_equal_values_and_tiny_groups():
    x = torch.full((128,), 0.3)
    x[0] = 0.3000001
    assert torch.allclose(through(ExpandedFloat8(), x), x, rtol=0.07)
    tiny = torch.full((128,), 1e-40)
    for codec in (ExpandedFloat8(), Float8(), SIGNED):
        assert (through(codec, tiny) == 0).all()


def test_a_short_group_is_not_filled_with_zeros():
    x = 5 + normal(130).abs()
    alone = through(ExpandedFloat8(), x[128:])
    assert torch.equal(through(ExpandedFloat8(), x)[128:], alone)
    assert ((alone - x[128:]).abs() / x[128:]).max() < 0.01


@each
def test_shapes_without_bytes_go_through(codec):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(5, 77)
        packed = codec.encode(x)
        assert codec.decode(packed, x.shape).shape == x.shape
        assert sum(t.numel() * t.element_size() for t in packed.values()) == codec.nbytes(385)
