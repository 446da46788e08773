"""One-way analysis of variance at many places at once: Fisher's F, and Welch's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.moments import Moments

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Anova:
    """One-way analysis of variance at each position and mode; arrays of shape (row, col, mode).

    Attributes
    ----------
    f, p
        F and its p-value; NaN where the values are constant or constant within every class.
    eta_squared
        Share of the total sum of squares that lies between classes, in [0, 1].
    ratio
        The notebook's: variance of class means (ddof 1) over mean variance within (ddof 0).
    df_between, df_within
        Degrees of freedom, C - 1 and n - C.
    constant
        All values are equal.
    pure
        Values differ between classes and never within one: F has no denominator.
    """

    f: Floats
    p: Floats
    eta_squared: Floats
    ratio: Floats
    df_between: int
    df_within: int
    constant: NDArray[np.bool_]
    pure: NDArray[np.bool_]

    def constant_modes(self) -> NDArray[np.bool_]:
        """Return which modes are constant at every position."""
        return np.asarray(self.constant.all(axis=(0, 1)))


def anova(moments: Moments) -> Anova:
    """Return the one-way analysis of variance from class moments.

        F = (sum_c n_c (mean_c - mean)^2 / (C - 1)) / (sum_c m2_c / (n - C))

    Parameters
    ----------
    moments
        Moments with one group per class, each of at least one image; n > C.

    References
    ----------
    Fisher (1925), Statistical methods for research workers. The p-value is
    `scipy.special.fdtrc(C - 1, n - C, F)`.
    """
    from scipy.special import fdtrc

    count = moments.count.reshape(-1, *(1 for _ in moments.shape)).astype(np.float64)
    n, classes = int(moments.count.sum()), moments.n_groups
    mean = (count * moments.mean).sum(axis=0) / n
    between = (count * np.square(moments.mean - mean)).sum(axis=0)
    within = moments.m2.sum(axis=0)
    constant = moments.minimum.min(axis=0) == moments.maximum.max(axis=0)
    pure = moments.constant().all(axis=0) & ~constant
    usable = ~(constant | pure)
    df_between, df_within = classes - 1, n - classes

    def where_usable(numerator: Floats, denominator: Floats) -> Floats:
        out = np.full(moments.shape, np.nan)
        return np.divide(numerator, denominator, out=out, where=usable)

    f = where_usable(between / df_between, within / df_within)
    return Anova(
        f=f,
        p=np.asarray(fdtrc(df_between, df_within, f)),
        eta_squared=where_usable(between, between + within),
        ratio=where_usable(
            np.var(moments.mean, axis=0, ddof=1), moments.variance(ddof=0).mean(axis=0)
        ),
        df_between=df_between,
        df_within=df_within,
        constant=constant,
        pure=pure,
    )


def f_at(p: float, df_between: int, df_within: int) -> float:
    """Return the F whose p is this one."""
    from scipy.special import fdtri

    return float(fdtri(df_between, df_within, 1.0 - p))


@dataclass(frozen=True)
class Welch:
    """Welch's F with its degrees of freedom, between and within; arrays of shape (...).

    F is NaN where a class does not vary.
    """

    f: Floats
    df_between: int
    df_within: Floats

    @property
    def p(self) -> Floats:
        """p of each F, as if values were normal."""
        from scipy.special import fdtrc

        return np.asarray(fdtrc(self.df_between, self.df_within, self.f))

    @property
    def z(self) -> Floats:
        """F as a standard normal value, nearly (Paulson 1942): of one scale whatever its freedom.

        Unequal spread changes the degrees of freedom with the arrangement of the labels: F itself
        would be compared with those of other tails.
        """
        a, b = 2.0 / (9.0 * self.df_between), 2.0 / (9.0 * self.df_within)
        root = np.cbrt(self.f)
        return np.asarray(((1.0 - b) * root - (1.0 - a)) / np.sqrt(b * root * root + a))


def welch(
    mean: Floats, variance: Floats, counts: NDArray[np.int64], *, pooled: bool = False
) -> Welch:
    """Return Welch's F, which does not take the classes' variances for equal.

        w_c = n_c / s2_c,  W = sum_c w_c,  m = sum_c w_c mean_c / W
        L = sum_c (1 - w_c / W)^2 / (n_c - 1)
        F = (sum_c w_c (mean_c - m)^2 / (C - 1)) / (1 + 2 (C - 2) L / (C^2 - 1))

    with C - 1 and (C^2 - 1) / (3 L) degrees of freedom. With the variance and the square summed
    over the features (`pooled`) it is the F of Euclidean distances, as PERMANOVA's is Fisher's.

    Parameters
    ----------
    mean, variance
        Mean and variance (ddof 1) of each class, shape (..., n_classes, n_features); pooled, the
        variance is summed, shape (..., n_classes, 1).
    counts
        Images per class, shape (n_classes,), each at least 2; or (..., n_classes) where they
        differ between means.

    References
    ----------
    Welch (1951), On the comparison of several mean values: an alternative approach, Biometrika
    38, 330-336. Hamidi et al. (2019), W*_d-test: robust distance-based multivariate analysis of
    variance, Microbiome 7, 51.
    """
    classes, counts = counts.shape[-1], counts[..., None]
    still = (variance <= 0).any(axis=-2)
    weight = counts / np.where(variance > 0, variance, 1.0)
    share = weight / weight.sum(axis=-2, keepdims=True)
    away = np.square(mean - (share * mean).sum(axis=-2, keepdims=True))
    if pooled:
        away = away.sum(axis=-1, keepdims=True)
    between = (weight * away).sum(axis=-2) / (classes - 1)
    loss = (np.square(1.0 - share) / (counts - 1.0)).sum(axis=-2)
    f = between / (1.0 + 2.0 * (classes - 2) * loss / (classes**2 - 1))
    return Welch(np.where(still, np.nan, f), classes - 1, (classes**2 - 1) / (3.0 * loss))


def welch_from_sums(
    sums: Floats, squares: Floats, counts: NDArray[np.int64], *, pooled: bool = False
) -> Welch:
    """Return `welch` from class sums and sums of squares of values near 0.

    Parameters
    ----------
    sums, squares
        Shape (..., n_classes, n_features); pooled, squares are summed, (..., n_classes, 1).
    """
    n = counts[..., None].astype(np.float64)
    mean = sums / n
    common = sums * mean
    left = squares - (common.sum(axis=-1, keepdims=True) if pooled else common)
    # What is left of the squares after rounding is no variance.
    left = np.where(left <= 1e-12 * squares, 0.0, left)
    return welch(mean, left / (n - 1.0), counts, pooled=pooled)
