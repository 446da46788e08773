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
