"""`LongConv`: a convolution as long as its input, whose filter a small network writes from the position.

The implicit filter of Hyena (Poli et al. 2023, arXiv 2302.10866) as Monarch Mixer uses it, in both directions:
k(t) = MLP(z(t)) · exp(−|δ| t). Letters: B batch, D channels, L length, N transform length. Importing this module
imports torch.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memspan.core.convolution import fft_size, filtered, kernel_spectrum, transform
from memspan.core.errors import InputError, MissingExtraError

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError("torch", "pip install 'memspan[local]'") from error

CACHE_BYTES = 64 << 20
"""Spectra that one `LongConv` keeps in evaluation; 768 channels at 8,192 positions take 50 MB."""


def position_features(length: int, bands: int) -> Tensor:
    """z(t), [length, 1 + 2 bands]: t from 0 to 1, then cosines and negated sines of `bands` frequencies."""
    place = torch.arange(length)[:, None]
    # The device is named, as transformers, while it loads a model, lets linspace default to the CPU in every thread.
    t = torch.linspace(0, 1, length, device=place.device)[:, None]
    rates = torch.linspace(1e-4, max(bands - 1, 1e-4), bands, device=place.device)
    angle = 2 * math.pi * place / length * rates
    return torch.cat([t, angle.cos(), -angle.sin()], -1)


class FilterNetwork(nn.Module):
    """The network of one direction: z -> sin -> sin -> sin -> D values.

    Args:
        features: length of z.
        order: width of the three hidden layers.
        channels: D.
        sine: start of the trained frequencies inside the sines.
    """

    def __init__(self, features: int, order: int, channels: int, sine: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(features, order), nn.Linear(order, order), nn.Linear(order, order)])
        self.frequency = nn.Parameter(torch.full((order,), float(sine)))
        self.out = nn.Linear(order, channels, bias=False)

    def hidden(self, z: Tensor) -> Tensor:
        """[L, features] -> [L, order]."""
        for layer in self.layers:
            z = torch.sin(self.frequency * layer(z))
        return z


@dataclass(slots=True)
class Filter:
    """A filter made ready for inputs of one length.

    Attributes:
        n: the transform's length.
        block: (start, stop) -> spectrum [stop − start, N/2 + 1] of these channels.
    """

    n: int
    block: Callable[[int, int], Tensor]


class LongConv(nn.Module):
    """y = k * x + b ⊙ x over whole inputs, forward and, if wanted, in reverse.

    An input shorter than `max_len` sees the first positions of the same filter: time is not rescaled, so that a text
    means the same whatever it is batched with. In evaluation without gradients the filter's spectrum is kept until its
    weights change, and channels are transformed a block at a time, which bounds memory.

    Args:
        channels: D.
        max_len: longest input.
        bidirectional: whether a second filter looks ahead.
        order: width of the filter networks.
        bands: frequencies of the position features.
        sine: start of the frequencies in the networks' sines.
        span: positions over which t runs from 0 to 1; `max_len` when None.
        method: "fft" or "monarch".

    Raises:
        InputError: a size is not positive, or the method is unknown.
    """

    rates: Tensor

    def __init__(
        self,
        channels: int,
        max_len: int,
        *,
        bidirectional: bool = True,
        order: int = 128,
        bands: int = 2,
        sine: float = 10.0,
        span: int | None = None,
        method: str = "fft",
    ) -> None:
        super().__init__()
        span = max_len if span is None else span
        if min(channels, max_len, order, bands, span) < 1:
            raise InputError("channels, max_len, order, bands and span must be at least 1")
        transform(method)
        self.channels, self.max_len, self.span, self.method = channels, max_len, span, method
        tiles = -(-max_len // span)
        self.features = nn.Parameter(position_features(span, bands).repeat(tiles, 1)[:max_len])
        self.ahead = FilterNetwork(1 + 2 * bands, order, channels, sine) if bidirectional else None
        self.back = FilterNetwork(1 + 2 * bands, order, channels, sine)
        self.bias = nn.Parameter(torch.randn(channels))
        slow, fast = -math.log(1e-2) / 1.5, -math.log(1e-2) / 0.3  # the filter is at 1 % at t = 1.5 … 0.3
        self.register_buffer("rates", torch.linspace(slow, fast, channels, device=self.bias.device), persistent=False)
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._kept_for: tuple[Any, ...] = ()

    # --- the filter --------------------------------------------------------------------------------------------------

    def kernel(self, length: int, start: int = 0, stop: int | None = None) -> tuple[Tensor, Tensor | None]:
        """The first `length` positions of the filters of channels start … stop, each [D, length], at least float32."""
        return self._kernel(self._hidden(length), length, start, self.channels if stop is None else stop)

    def _hidden(self, length: int) -> list[Tensor | None]:
        if not 1 <= length <= self.max_len:
            raise InputError(f"the input has {length} positions; this LongConv takes 1 to {self.max_len}")
        z = self.features[:length]
        return [self.back.hidden(z), None if self.ahead is None else self.ahead.hidden(z)]

    def _kernel(self, hidden: list[Tensor | None], length: int, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        t = torch.arange(length, device=self.rates.device, dtype=self.rates.dtype) / max(self.span - 1, 1)
        decay = torch.exp(-self.rates[start:stop, None] * t)
        made = [
            None if values is None or network is None else (network.out.weight[start:stop] @ values.T).to(decay) * decay
            for values, network in zip(hidden, (self.back, self.ahead), strict=True)
        ]
        assert made[0] is not None
        return made[0], made[1]

    def filter(self, length: int) -> Filter:
        """The filter for inputs of `length`, from what is kept where that may be."""
        n = fft_size(2 * length)
        reach = min(n // 2, self.max_len)  # all that fits the transform, so that near lengths share a spectrum
        # Weights made in inference mode do not count their changes, so nothing can be kept for them.
        if torch.is_grad_enabled() or self.training or self.bias.is_inference():
            hidden = self._hidden(length)
            return Filter(n, lambda start, stop: self._spectrum(hidden, length, n, start, stop))
        key = tuple((p.data_ptr(), p._version) for p in self.parameters())
        if key != self._kept_for:
            self._kept.clear()
            self._kept_for = key
        if n not in self._kept:
            hidden = self._hidden(reach)
            nbytes = self.channels * (n // 2 + 1) * 2 * max(4, self.rates.element_size())
            if nbytes > CACHE_BYTES:
                return Filter(n, lambda start, stop: self._spectrum(hidden, reach, n, start, stop))
            while self._kept and self.kept_bytes + nbytes > CACHE_BYTES:
                self._kept.popitem(last=False)
            self._kept[n] = self._spectrum(hidden, reach, n, 0, self.channels)
        self._kept.move_to_end(n)
        whole = self._kept[n]
        return Filter(n, lambda start, stop: whole[start:stop])

    def _spectrum(self, hidden: list[Tensor | None], length: int, n: int, start: int, stop: int) -> Tensor:
        back, ahead = self._kernel(hidden, length, start, stop)
        return kernel_spectrum(back, ahead, n, self.method)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the spectra that are kept."""
        return sum(spectrum.numel() * spectrum.element_size() for spectrum in self._kept.values())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LongConv:
        self._kept.clear()  # .to(), .half() and the like change weights without counting it as a change
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    # --- the convolution ---------------------------------------------------------------------------------------------

    def block(self, x: Tensor, made: Filter, start: int, stop: int) -> Tensor:
        """The channels start … stop of the convolution; x is [B, stop − start, L]. In float32 whatever x is."""
        # Sums of thousands of terms overflow float16 and lose their digits in bfloat16.
        wide = x if x.dtype == torch.float64 else x.float()
        with torch.autocast(x.device.type, enabled=False):
            y = filtered(wide, made.block(start, stop), made.n, self.method)
            return (y + self.bias[start:stop, None] * wide).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, L] -> [B, D, L].

        Raises:
            InputError: the input is longer than `max_len`.
        """
        made = self.filter(x.shape[-1])
        step = channel_step(x.shape[0], made.n, self.channels)
        parts = [
            self.block(x[:, start : start + step], made, start, min(start + step, self.channels))
            for start in range(0, self.channels, step)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def channel_step(batch: int, n: int, channels: int) -> int:
    """Channels to transform at once: all of them for training, else as many as have 16 MB of spectrum."""
    if torch.is_grad_enabled():
        return channels
    return max(8, min(channels, (1 << 22) // (batch * n)))
