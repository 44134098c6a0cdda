"""Long convolutions: by definition, by the fast Fourier transform, and by the two-stage Monarch product.

All three compute the same thing, over the last axis and for each channel by itself:

    y[t] = Σ_{s ≤ t} forward[t − s] · x[s]  +  Σ_{s > t} reverse[s − t − 1] · x[s]

`direct_convolution` is the definition, in O(L²). `fft_convolution` needs O(L log L). The Monarch product (Fu et al.
2023, arXiv 2310.12109) writes the transform of length N = N₁N₂ as two block-diagonal matrices with permutations and
a diagonal of twiddle factors between them, O(N^1.5) and nothing but matrix products: for devices on which those are
nearly free. On a CPU `torch.fft` is faster.

Letters: B batch, D channels, L length, N transform length. Importing this module imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from memspan.core.errors import InputError, MissingExtraError

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise MissingExtraError("torch", "pip install 'memspan[local]'") from error


def fft_size(n: int) -> int:
    """The least of 2ᵃ, 1.25 · 2ᵃ and 1.5 · 2ᵃ that is even and at least `n`: every FFT library is fast at these.

    A transform of 4,097 numbers takes seven times as long as one of 5,120. The coarse grid also lets inputs of nearly
    equal lengths share the spectrum of a filter.
    """
    power = 1 << max(0, (max(8, n) - 1).bit_length() - 3)  # n ≤ 8 · power, and n > 4 · power above the least size
    return next(m * power for m in (4, 5, 6, 8) if m * power >= n and m * power % 2 == 0)


# --- transforms ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transform:
    """A real Fourier transform over the last axis and its inverse.

    Attributes:
        forward: ([..., L] real, N) -> [..., N/2 + 1] complex; the input is filled up with zeros to N.
        inverse: ([..., N/2 + 1] complex, N) -> [..., N] real.
    """

    forward: Callable[[Tensor, int], Tensor]
    inverse: Callable[[Tensor, int], Tensor]


def factors(n: int) -> tuple[int, int]:
    """N₁ ≤ N₂ with N₁N₂ = n, as near to each other as can be."""
    first = next(m for m in range(math.isqrt(n), 0, -1) if n % m == 0)
    return first, n // first


def _dft_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """F[j, k] = exp(−2πi jk / n), [n, n]. The product jk is reduced first: large angles lose digits."""
    index = torch.arange(n, device=device)
    angle = (index[:, None] * index[None, :] % n).to(torch.float64) * (-2 * math.pi / n)
    return torch.polar(torch.ones_like(angle), angle).to(dtype)


def monarch_dft(x: Tensor) -> Tensor:
    """The Fourier transform of complex [..., N] as P (I ⊗ F_{N₁}) … T … (I ⊗ F_{N₂}) P: two batched matrix products.

    With t = N₂t₁ + t₂ and k = k₁ + N₁k₂ the exponent tk / N falls into t₁k₁ / N₁ (first stage), t₂k₁ / N (twiddle
    factors) and t₂k₂ / N₂ (second stage).
    """
    n = x.shape[-1]
    first, second = factors(n)
    rows = torch.arange(first, device=x.device)[:, None]
    columns = torch.arange(second, device=x.device)[None, :]
    angle = (rows * columns).to(torch.float64) * (-2 * math.pi / n)
    twiddle = torch.polar(torch.ones_like(angle), angle).to(x.dtype)
    stage = torch.matmul(_dft_matrix(first, x.dtype, x.device), x.reshape(*x.shape[:-1], first, second)) * twiddle
    stage = torch.matmul(stage, _dft_matrix(second, x.dtype, x.device))
    return stage.transpose(-1, -2).reshape(x.shape)


def _monarch_forward(x: Tensor, n: int) -> Tensor:
    padded = torch.nn.functional.pad(x, (0, n - x.shape[-1]))
    return monarch_dft(torch.complex(padded, torch.zeros_like(padded)))[..., : n // 2 + 1]


def _monarch_inverse(spectrum: Tensor, n: int) -> Tensor:
    mirrored = spectrum[..., 1 : (n + 1) // 2].flip(-1).conj()  # a real signal's spectrum is Hermitian
    full = torch.cat([spectrum, mirrored], -1).resolve_conj()
    return monarch_dft(full.conj().resolve_conj()).real / n


TRANSFORMS = {
    "fft": Transform(torch.fft.rfft, torch.fft.irfft),
    "monarch": Transform(_monarch_forward, _monarch_inverse),
}


def transform(name: str) -> Transform:
    """The transform called "fft" or "monarch".

    Raises:
        InputError: there is no such transform.
    """
    if name not in TRANSFORMS:
        raise InputError(f"method is {name!r}; it must be one of {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]


# --- convolutions ----------------------------------------------------------------------------------------------------


def direct_convolution(x: Tensor, forward: Tensor, reverse: Tensor | None = None) -> Tensor:
    """The definition, with an L × L matrix for each channel: for tests and for reading.

    Args:
        x: [..., D, L].
        forward: [D, K], K ≥ L; weight of what lies t − s ≥ 0 positions back.
        reverse: [D, K]; weight of what lies s − t − 1 positions beyond the next. None looks back only.
    """
    length = x.shape[-1]
    t = torch.arange(length, device=x.device)
    back = t[:, None] - t[None, :]
    matrix = forward[:, back.clamp(min=0)] * (back >= 0)
    if reverse is not None:
        matrix = matrix + reverse[:, (-back - 1).clamp(min=0)] * (back < 0)
    return torch.einsum("dts,...ds->...dt", matrix, x)


def kernel_spectrum(forward: Tensor, reverse: Tensor | None, n: int, method: str = "fft") -> Tensor:
    """The spectrum [D, N/2 + 1] of a filter laid around a circle of N: the reverse part runs back from its end.

    Args:
        forward, reverse: [D, K] with 2K ≤ N.
        n: the transform's length.

    Raises:
        InputError: the filter does not fit.
    """
    length = forward.shape[-1]
    if 2 * length > n:
        raise InputError(f"a filter of {length} positions each way needs a transform of {2 * length}, not of {n}")
    kernel = forward
    if reverse is not None:
        gap = forward.new_zeros(*forward.shape[:-1], n - 2 * length)
        kernel = torch.cat([forward, gap, reverse.flip(-1)], -1)
    return transform(method).forward(kernel, n)


def filtered(x: Tensor, spectrum: Tensor, n: int, method: str = "fft") -> Tensor:
    """[..., D, L] filtered by a spectrum [D, N/2 + 1] of a filter of at least L positions, N ≥ 2L."""
    chosen = transform(method)
    return chosen.inverse(chosen.forward(x, n) * spectrum, n)[..., : x.shape[-1]]


def fft_convolution(x: Tensor, forward: Tensor, reverse: Tensor | None = None, *, method: str = "fft") -> Tensor:
    """As `direct_convolution`, in O(L log L).

    Args:
        x: [..., D, L].
        forward, reverse: [D, K], K ≥ L; what is beyond L is not used.
        method: "fft" or "monarch".
    """
    length = x.shape[-1]
    n = fft_size(2 * length)
    cut = None if reverse is None else reverse[..., :length]
    return filtered(x, kernel_spectrum(forward[..., :length], cut, n, method), n, method)
