"""Confidence intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_interval(values: Floats, level: float = 0.95) -> tuple[float, float, float]:
    """Return mean and t interval; NaN interval for fewer than 2 values."""
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    if n < 2:
        return mean, np.nan, np.nan
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(values.std(ddof=1)) / np.sqrt(n)
    return mean, mean - half, mean + half


def wilson_interval(correct: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for a proportion; NaN for n = 0.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference, Journal
    of the American Statistical Association 22, 209-212.
    """
    if n == 0:
        return float("nan"), float("nan")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    p = correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def fieller(
    c: Floats, e: Floats, vc: Floats, ve: Floats, cov: Floats, quantile: float
) -> tuple[Floats, Floats, Floats]:
    """Return e / c and its interval, from the variances and the covariance of the two means.

    References
    ----------
    Fieller (1954), Some problems in interval estimation, Journal of the Royal Statistical
    Society B 16, 175-185.
    """
    squared = quantile * quantile
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(c == 0, np.nan, e / c)
        g = squared * vc / np.square(c)
        middle = ratio - squared * cov / np.square(c)
        root = ve - 2 * ratio * cov + np.square(ratio) * vc
        root = root - squared * (vc * ve - np.square(cov)) / np.square(c)
        half = quantile * np.sqrt(np.maximum(root, 0.0)) / np.abs(c)
        bounded = (g < 1) & (c != 0)
        low = np.where(bounded, (middle - half) / (1 - g), np.nan)
        high = np.where(bounded, (middle + half) / (1 - g), np.nan)
    return ratio, low, high
