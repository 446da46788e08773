"""Confidence intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


SKEWNESS_RULE = 25.0
"""Images that a t interval takes per unit of squared skewness, for 6% of misses instead of 5."""


def too_skewed(values: Floats) -> NDArray[np.bool_]:
    """Return where the mean of values, shape (n, ...), is decided by few: t would not cover.

    That is n < 25 g^2 by Cochran's rule, with g the skewness of the sample and beyond three times
    its standard error, sqrt(6 / n), in normal values. The largest that a sample can have is about
    sqrt(n): one of 9 or more that one value dominates is always out.

    References
    ----------
    Cochran (1977), Sampling techniques, Wiley, section 2.15.
    """
    away = values - values.mean(axis=0)
    variance = np.square(away).mean(axis=0)
    third = (away * np.square(away)).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.nan_to_num(third / variance**1.5)
    n = len(values)
    return np.asarray(np.abs(skewness) > max(np.sqrt(n / SKEWNESS_RULE), 3.0 * np.sqrt(6.0 / n)))


def mean_interval(values: Floats, level: float = 0.95) -> tuple[float, float, float]:
    """Return mean and t interval; none (NaN) for fewer than 2 values and for skewed ones."""
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    if n < 2 or too_skewed(values):
        return mean, np.nan, np.nan
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(values.std(ddof=1)) / np.sqrt(n)
    return mean, mean - half, mean + half


def independent_images(n: int, folds: int) -> float:
    """Return how many images tested by one model tell as much as n tested in cross-validation.

    The models of the folds share most of their training images, so that what they get right has
    more in common than tests of one model would: the variance is multiplied by 1 + the images that
    a fold tests over those it trains on, times the folds,

        n / (1 + folds / (folds - 1))

    References
    ----------
    Nadeau and Bengio (2003), Inference for the generalization error, Machine Learning 52, 239-281.
    """
    return n / (1.0 + folds / (folds - 1.0))


def wilson_interval(correct: float, n: float, level: float = 0.95) -> tuple[float, float]:
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


def jackknife(estimate: Floats, left_out: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return a delete-a-group jackknife interval.

        se^2 = (G - 1) / G sum_g (estimate_(g) - mean)^2,  interval = estimate +- t_{G-1} se

    Parameters
    ----------
    estimate
        Estimate from all groups, shape (...).
    left_out
        Estimates without each group, shape (groups, ...), at least 2 groups.
    level
        Coverage, in (0, 1).

    References
    ----------
    Efron and Stein (1981), The jackknife estimate of variance, Annals of Statistics 9, 586-596.
    """
    from scipy.special import stdtrit

    groups = len(left_out)
    error = np.sqrt(np.var(left_out, axis=0) * (groups - 1))
    half = float(stdtrit(groups - 1, 0.5 + level / 2)) * error
    return estimate - half, estimate + half


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
