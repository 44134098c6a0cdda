"""Intervals for scores, and agreement with chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # of a two-sided 95 % interval
_RESAMPLES = 2000


def wilson(right: float, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share (Wilson 1927); (0, 1) without trials."""
    if count == 0:
        return 0.0, 1.0
    share, z2 = right / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of scores from 0 to 1: Wilson's where all are 0 or 1, else a percentile bootstrap."""
    if all(score in (0, 1) for score in scores):
        return wilson(sum(scores), len(scores))
    values = np.asarray(scores, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), (2.5, 97.5))
    return float(low), float(high)


def difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean difference first − second over the same items, and its 95 % paired percentile bootstrap interval."""
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(gaps), size=(_RESAMPLES, len(gaps)))
    low, high = np.percentile(gaps[drawn].mean(1), (2.5, 97.5))
    return float(gaps.mean()), float(low), float(high)


def uniformity(values: Sequence[float]) -> float:
    """p-value of the Kolmogorov-Smirnov test that values come from the uniform distribution on [0, 1].

    By the asymptotic distribution with Stephens' correction (1970); 1 without values.
    """
    count = len(values)
    if count == 0:
        return 1.0
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    steps = np.arange(count + 1) / count
    gap = max(float((steps[1:] - ordered).max()), float((ordered - steps[:-1]).max()))
    reach = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * gap
    if reach < 0.2:  # the series converges slowly there, and p is 1 to 12 digits
        return 1.0
    tail = 2 * sum((1 if k % 2 else -1) * math.exp(-2 * (k * reach) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, tail))


def coin(right: int, count: int) -> float:
    """p-value of the two-sided exact binomial test against one half; 1 without trials."""
    far = max(right, count - right)
    tail = sum(math.comb(count, k) for k in range(far, count + 1))
    return min(1.0, 2 * (tail / (1 << count)))
