"""Intervals of means over cross-validated images, corrected for training sets that overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.intervals import group_sums


def corrected_interval(
    values: NDArray[np.float64], folds: NDArray[np.int64], level: float = 0.95,
    *, groups: NDArray[np.int64] | None = None, least: float | None = None,
) -> tuple[float, float, float]:  # fmt: skip
    """Return the mean of what tested images give, and its corrected interval.

    With K folds, each tested by a readout trained on the others, fold means are correlated:
    Nadeau and Bengio take the variance of the mean over folds to be

        (1 / K + n_test / n_train) s^2 = s^2 / K (1 + K / (K - 1))

    with s^2 the variance of one fold's mean. Here it is estimated from the images within folds,
    which gives n - K degrees of freedom instead of K - 1; where images belong together, from the
    sums of G groups within folds, which gives G - K.

    Parameters
    ----------
    values
        Of each tested image, shape (n,).
    folds
        The fold that tested it, shape (n,).
    groups
        The group that it belongs to, whole groups in one fold; None where images are independent.
    least
        For counts: 0 for right or wrong, -1 for differences of these. The interval then ends there
        and at 1, and is never narrower than that of the score test (Wilson's, Tango's) for m
        images that all are alike, t^2 / (m + t^2) either way with m = n / (1 + K / (K - 1)): that
        none of few images differs is no evidence that none ever would.

    References
    ----------
    Nadeau and Bengio (2003), Inference for the generalization error, Machine Learning 52, 239-281.
    """
    from scipy.special import stdtrit

    n, mean = len(values), float(values.mean())
    names, member = np.unique(folds, return_inverse=True)
    k = len(names)
    count = n if groups is None else len(np.unique(groups))
    if k < 2 or count <= k:
        return mean, np.nan, np.nan
    means = np.bincount(member, values) / np.bincount(member)
    away = values - means[member]
    away = away if groups is None else group_sums(away, groups)
    within = float(np.square(away).sum()) * (count / n) / (count - k)
    error = np.sqrt(within / n * (1.0 + k / (k - 1)))
    student = float(stdtrit(count - k, 0.5 + level / 2))
    half = student * error
    if least is None:
        return mean, mean - half, mean + half
    half = max(half, student**2 / (count / (1.0 + k / (k - 1)) + student**2))
    return mean, max(least, mean - half), min(1.0, mean + half)
