"""Confidence intervals, of independent images or of groups of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SKEWNESS_RULE = 25.0
"""Images that a t interval takes per unit of squared skewness, for 6% of misses instead of 5."""


def group_sums(values: Floats, groups: Ints) -> Floats:
    """Return the sum of each group's values, (n, ...), of shape (n_groups, ...)."""
    number, of = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(number), *values.shape[1:]))
    np.add.at(sums, of, values)
    return sums


def too_skewed(values: Floats, groups: Ints | None = None) -> NDArray[np.bool_]:
    """Return where the mean of values, shape (n, ...), is decided by few: t would not cover.

    That is n < 25 g^2 by Cochran's rule, with g the skewness of the sample and beyond three times
    its standard error, sqrt(6 / n), in normal values. The largest that a sample can have is about
    sqrt(n): one of 9 or more that one value dominates is always out. Of groups the sums of
    deviations must not be skewed either: they are what t adds up.

    References
    ----------
    Cochran (1977), Sampling techniques, Wiley, section 2.15.
    """
    away = values - values.mean(axis=0)
    if groups is None:
        return _too_skewed(away)
    return np.asarray(_too_skewed(away) | _too_skewed(group_sums(away, groups)))


def _too_skewed(away: Floats) -> NDArray[np.bool_]:
    square = np.square(away)
    return skewed_by(square.sum(axis=0), (away * square).sum(axis=0), np.int64(len(away)))


def skewed_by(square: Floats, third: Floats, n: Ints | np.int64) -> NDArray[np.bool_]:
    """Return `too_skewed` from sums over n values of squared and cubed deviations from the mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.nan_to_num((third / n) / (square / n) ** 1.5)
        most = np.maximum(np.sqrt(n / SKEWNESS_RULE), 3.0 * np.sqrt(6.0 / n))
    return np.asarray(np.abs(skewness) > most)


def mean_covariance(a: Floats, b: Floats, groups: Ints | None = None) -> tuple[Floats, int]:
    """Return the covariance of two means over images, and how many images or groups it rests on.

        sum_i a_i b_i / (n (n - 1)),  or of G groups  G / (G - 1) sum_g a_g b_g / n^2

    where a_g is the sum of a over the images of group g.

    Parameters
    ----------
    a, b
        Deviations from the two means, float64 of shape (n, ...).
    groups
        Group of each image, shape (n,): images of one may have anything in common. None takes
        images as independent, which groups of one image are.

    Returns
    -------
    float64 array of shape (...), NaN for one group, and n or G.

    References
    ----------
    Liang and Zeger (1986), Longitudinal data analysis using generalized linear models, Biometrika
    73, 13-22.
    """
    n = len(a)
    if groups is None:
        return (a * b).sum(axis=0) / (n * (n - 1)), n
    sums = [group_sums(x, groups) for x in (a, b)]
    count = len(sums[0])
    if count < 2:
        return np.full(a.shape[1:], np.nan), count
    return (sums[0] * sums[1]).sum(axis=0) * count / ((count - 1) * n * n), count


def mean_interval(
    values: Floats, level: float = 0.95, *, groups: Ints | None = None
) -> tuple[float, float, float]:
    """Return mean and t interval; none (NaN) of fewer than 2 values or groups, or skewed ones."""
    if len(values) >= 2 and too_skewed(values, groups):
        return float(values.mean()), np.nan, np.nan
    return t_interval(values, level, groups=groups)


def t_interval(
    values: Floats, level: float = 0.95, *, groups: Ints | None = None
) -> tuple[float, float, float]:
    """Return mean and t interval, however skewed; none (NaN) of fewer than 2 values or groups."""
    from scipy.special import stdtrit

    if len(values) == 0:
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    if len(values) < 2:
        return mean, np.nan, np.nan
    away = values.astype(np.float64) - mean
    variance, count = mean_covariance(away, away, groups)
    if count < 2:
        return mean, np.nan, np.nan
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * float(np.sqrt(variance))
    return mean, mean - half, mean + half


def independent_images(n: float, folds: int) -> float:
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


def wilson_interval(
    correct: float, n: float, level: float = 0.95, *, df: int | None = None
) -> tuple[float, float]:
    """Return Wilson's interval for a proportion; NaN for n = 0. With `df` its quantile is t's.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference, Journal
    of the American Statistical Association 22, 209-212.
    """
    if n == 0:
        return float("nan"), float("nan")
    from scipy.special import ndtri, stdtrit

    z = float(ndtri(0.5 + level / 2) if df is None else stdtrit(df, 0.5 + level / 2))
    p = correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def share_interval(
    right: NDArray[np.bool_],
    groups: Ints | None = None,
    level: float = 0.95,
    *,
    folds: int = 0,
) -> tuple[float, float]:
    """Return Wilson's interval for a share, of as many images as the groups are worth.

    Where images were tested in cross-validation of so many `folds`, `independent_images` of these.

    The effective number of images is that of which a share of independent ones would vary as this
    does between groups, at most n; where it does not vary, that of the groups. The quantile is t's.

    References
    ----------
    Korn and Graubard (1998), Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data, Survey Methodology 24, 193-201.
    """
    n = len(right)

    def counted(images: float) -> float:
        return independent_images(images, folds) if folds else images

    if groups is None or n == 0:
        worth = counted(n)
        return wilson_interval(int(right.sum()) * worth / max(n, 1), worth, level)
    p = float(right.mean())
    deviation = right.astype(np.float64) - p
    variance, count = mean_covariance(deviation, deviation, groups)
    if count < 2:
        return float("nan"), float("nan")
    worth = min(float(n), p * (1 - p) / float(variance)) if variance > 0 else float(count)
    worth = counted(worth)
    return wilson_interval(p * worth, worth, level, df=count - 1)


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
    c: Floats, e: Floats, vc: Floats, ve: Floats, cov: Floats, quantile: float | Floats
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
