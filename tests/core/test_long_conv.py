"""Long convolutions: one result by definition, FFT and Monarch; filters kept only while they are true."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from memspan.core.block_diagonal import BlockDiagonalLinear
from memspan.core.convolution import (
    direct_convolution,
    factors,
    fft_convolution,
    fft_size,
    kernel_spectrum,
    monarch_dft,
)
from memspan.core.errors import InputError
from memspan.core.long_conv import CACHE_BYTES, LongConv


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 130), st.booleans(), st.sampled_from(["fft", "monarch"]))
def test_three_ways_agree(length, both_ways, method):
    torch.manual_seed(length)
    x, back, ahead = (torch.randn(2, 3, length, dtype=torch.float64) for _ in range(3))
    ahead = ahead[0] if both_ways else None
    found = fft_convolution(x, back[0], ahead, method=method)
    torch.testing.assert_close(found, direct_convolution(x, back[0], ahead), rtol=0, atol=1e-9)


def test_the_definition_by_hand():
    x = torch.tensor([[1.0, 10.0, 100.0]])
    back, ahead = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 7.0, 0.0]])
    wanted = [1 + 5 * 10 + 7 * 100, 10 + 2 * 1 + 5 * 100, 100 + 2 * 10 + 3 * 1]
    assert direct_convolution(x, back, ahead)[0].tolist() == wanted


@pytest.mark.parametrize("method", ["fft", "monarch"])
def test_gradients_agree(method):
    tensors = [torch.randn(2, 9, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    grads = []
    for convolve in (direct_convolution, lambda *a: fft_convolution(*a, method=method)):
        grads.append(torch.autograd.grad(convolve(*tensors).square().sum(), tensors))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@given(st.integers(1, 100_000))
def test_transform_lengths_are_near_even_and_fast(n):
    size = fft_size(n)
    assert n <= size <= max(4, 1.5 * n) and size % 2 == 0
    while size % 2 == 0:
        size //= 2
    assert size in (1, 3, 5)


def test_monarch_is_block_diagonal_matrices_and_permutations():
    n, (first, second) = 24, factors(24)
    assert (first, second) == (4, 6)
    eye = torch.eye(n, dtype=torch.complex128)
    gather = eye.reshape(n, first, second).transpose(1, 2).reshape(n, n).T  # reads row by row what stood in columns
    small = [torch.fft.fft(torch.eye(m, dtype=torch.complex128)) for m in (first, second)]
    k, t = torch.arange(first, dtype=torch.float64), torch.arange(second, dtype=torch.float64)
    twiddle = torch.diag(torch.polar(torch.ones(n, dtype=torch.float64), (-2 * np.pi / n * t[:, None] * k).flatten()))
    stage_1 = torch.block_diag(*[small[0]] * second)
    stage_2 = torch.block_diag(*[small[1]] * first)
    product = gather @ stage_2 @ gather.T @ twiddle @ stage_1 @ gather
    torch.testing.assert_close(product, torch.fft.fft(eye), rtol=0, atol=1e-12)
    torch.testing.assert_close(monarch_dft(eye).T, product, rtol=0, atol=1e-12)


def test_looks_ahead_only_in_both_directions():
    for both_ways in (True, False):
        x = torch.randn(1, 3, 20, requires_grad=True)
        LongConv(3, 32, order=8, bidirectional=both_ways)(x)[0, :, 5].sum().backward()
        seen = x.grad[0].abs().sum(0) > 1e-5  # above what rounding leaves in a transform
        assert bool(seen[:6].all()) and bool(seen[6:].all() if both_ways else not seen[6:].any())


def test_a_shorter_input_sees_the_first_positions_of_the_same_filter():
    conv = LongConv(3, 64, order=8)
    long, short = conv.kernel(64), conv.kernel(10)
    for whole, part in zip(long, short, strict=True):
        torch.testing.assert_close(whole[:, :10], part)


def test_kept_filters_follow_the_weights():
    conv = LongConv(3, 64, order=8).eval()
    x = torch.randn(1, 3, 50)

    def agrees():
        with torch.no_grad():
            kept = conv(x)
        torch.testing.assert_close(kept, conv(x).detach())

    agrees()
    assert 0 < conv.kept_bytes <= CACHE_BYTES
    with torch.no_grad():
        conv.back.out.weight.add_(1.0)
    agrees()
    conv.load_state_dict(LongConv(3, 64, order=8).state_dict())
    agrees()
    conv.double()
    assert conv.kept_bytes == 0
    with torch.inference_mode():
        conv(x.double())
    with torch.no_grad():
        torch.testing.assert_close(conv(x.double()), conv.train()(x.double()))


def test_kept_filters_have_a_bound(monkeypatch):
    conv = LongConv(4, 512, order=8).eval()
    with torch.no_grad():
        whole = [conv(torch.ones(1, 4, length)) for length in (30, 200, 500)]
        one = conv.kept_bytes
        monkeypatch.setattr("memspan.core.long_conv.CACHE_BYTES", 8000)
        conv.float()
        again = [conv(torch.ones(1, 4, length)) for length in (30, 200, 500)]
        assert one > 8000 and conv.kept_bytes <= 8000
    for a, b in zip(whole, again, strict=True):
        torch.testing.assert_close(a, b)


def test_channels_in_blocks_are_all_channels(monkeypatch):
    conv = LongConv(30, 64, order=8).eval()
    x = torch.randn(2, 30, 64)
    wanted = conv(x).detach()
    monkeypatch.setattr("memspan.core.long_conv.channel_step", lambda batch, n, channels: 7)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), wanted)


def test_narrow_types_are_summed_wide():
    conv = LongConv(2, 4096, order=8)
    x = torch.full((1, 2, 4096), 60.0)
    found = conv(x.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), conv(x), rtol=0.01, atol=1.0)


def test_bad_sizes_are_refused():
    conv = LongConv(3, 16, order=8)
    with pytest.raises(InputError, match="17 positions"):
        conv(torch.randn(1, 3, 17))
    with pytest.raises(InputError, match="at least 1"):
        LongConv(0, 16)
    with pytest.raises(InputError, match="fft, monarch"):
        LongConv(3, 16, method="slow")
    with pytest.raises(InputError, match="transform of 20"):
        kernel_spectrum(torch.randn(1, 10), None, 16)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_block_diagonal_is_dense_with_zeros(blocks):
    layer = BlockDiagonalLinear(12, 8, blocks)
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 5, 12)
    torch.testing.assert_close(layer(x), x @ layer.dense().T + layer.bias)
    assert int((layer.dense() != 0).sum()) == layer.weight.numel() == 12 * 8 // blocks
    ones = torch.block_diag(*[torch.ones(8 // blocks, 12 // blocks)] * blocks)
    assert torch.equal(layer.dense() != 0, ones != 0)


def test_block_diagonal_refuses_what_does_not_divide():
    for sizes in ((10, 8, 4), (8, 10, 4), (8, 8, 0)):
        with pytest.raises(InputError, match="multiples"):
            BlockDiagonalLinear(*sizes)


def test_another_thread_that_loads_a_model_does_not_move_it(monkeypatch):
    """transformers lets `torch.linspace` default to the CPU meanwhile."""
    plain = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *args, **named: plain(*args, **{"device": "cpu", **named}))
    with torch.device("meta"):
        made = LongConv(4, 16)
    assert {p.device.type for p in made.parameters()} == {"meta"}
