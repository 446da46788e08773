"""Distances between class means that are zero on average where the means are equal.

A distance between two means is never negative, and noise makes it positive. The product of two
independent estimates of one difference has no such bias: images are split in folds, and only
products between folds count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.passes import Arrays
from frictionstore.analyses.core.rows import rows_of_classes
from frictionstore.analyses.core.terminal import excluded
from frictionstore.analyses.stats.folds import grouped_folds
from frictionstore.analyses.stats.intervals import jackknife

Floats = NDArray[np.float64]
MOST_FOLDS = 5

_DRAWS = 20
"""Draws of folds of whole groups before there are fewer of them."""


def crossnobis(fold_means: Floats, precision: Floats) -> Floats:
    """Return cross-validated squared Mahalanobis distances with a diagonal noise covariance.

        d_ab = mean over folds f != g of (m_af - m_bf)' W (m_ag - m_bg) / P

    Parameters
    ----------
    fold_means
        Class means by fold, float64 array of shape (n_folds, n_classes, n_features), at least 2
        folds.
    precision
        The diagonal of W, 1 / variance of the noise, shape (n_features,); P is how many are not 0.

    Returns
    -------
    float64 array of shape (n_classes, n_classes), in units of the noise's variance per feature:
    unbiased, so that it may be negative; NaN where P is 0.

    References
    ----------
    Walther et al. (2016), Reliability of dissimilarity measures for multi-voxel pattern analysis,
    NeuroImage 137, 188-200.
    """
    n_folds = len(fold_means)
    used = precision > 0
    if not used.any():
        return np.full((fold_means.shape[1], fold_means.shape[1]), np.nan)
    # What all class means share cancels in every difference: off, it costs no digits.
    scaled = (fold_means - fold_means.mean(axis=(0, 1)))[..., used] * np.sqrt(precision[used])
    total = scaled.sum(axis=0)
    # Products of all pairs of folds, less those of a fold with itself.
    gram = total @ total.T - (scaled @ scaled.swapaxes(1, 2)).sum(axis=0)
    square = gram.diagonal()
    distance = square[:, None] + square[None, :] - 2.0 * gram
    return np.asarray(distance / (n_folds * (n_folds - 1) * used.sum()))


def class_folds(
    labels: NDArray[np.int64],
    rng: np.random.Generator,
    groups: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Return a fold for every labelled image, -1 for others, and the number of folds.

    Every class is in every fold, with two images or more where it has enough: noise is what is
    left within a class and fold. Of images that belong together whole groups are in one fold, so
    that folds are independent; folds are 0 where several draws leave some class out of one.
    """
    known = labels >= 0
    counts = np.bincount(labels[known])
    if groups is not None:
        in_groups = np.unique(np.stack([labels[known], groups[known]]), axis=1)[0]
        most = int(np.clip(np.bincount(in_groups).min() // 2, 2, MOST_FOLDS))
        for n_folds in [k for k in range(most, 1, -1) for _ in range(_DRAWS)]:
            folds = grouped_folds(labels, groups, n_folds, rng)
            if len(np.unique(folds[known] * len(counts) + labels[known])) == n_folds * len(counts):
                return folds, n_folds
        return np.full(len(labels), -1, np.int64), 0
    n_folds = int(np.clip(counts.min() // 2, 2, MOST_FOLDS))
    folds = np.full(len(labels), -1, np.int64)
    for rows in rows_of_classes(labels, len(counts)):
        of_class = rng.permutation(rows)
        folds[of_class] = np.arange(len(of_class)) % n_folds
    return folds, n_folds


def ruled_out(most: float | None) -> str:
    """Return how large a mean distance its interval rules out (`Crossnobis.most`), in words."""
    of, unit = "a mean squared difference", " times the variance within classes"
    # The ends of an interval of squares: an estimate below 0 may leave the upper one there.
    return excluded(0.0, None if most is None else max(most, 0.0), unit, of)


class Crossnobis:
    """Gathers what `crossnobis` needs of one map.

    The noise is the variance within class and fold. Swapping all images of two classes of one size
    in one fold leaves it as it is and turns the sign of a difference: under the null hypothesis
    the expectation is exactly 0, whatever the distribution.

    Parameters
    ----------
    feature
        The map.
    labels, folds
        int64 arrays of shape (n_images,), -1 for images that take no part.
    n_classes, n_folds
        Numbers of them; without folds there are no distances.
    shape
        Shape of one image's map.

    Attributes
    ----------
    distances
        After the pass: see `crossnobis`.
    most
        Upper end of the 95% interval of their mean over pairs, by a jackknife over folds; NaN for
        fewer than 3 folds. (The lower end covers less where few images have heavy tails.)
    """

    state = ("_moments",)

    def __init__(
        self, feature: str, labels: NDArray[np.int64], folds: NDArray[np.int64], n_classes: int,
        n_folds: int, shape: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.features = (feature,)
        self._groups = np.where(folds < 0, -1, folds * n_classes + labels)
        self._n_folds, self._n_classes = n_folds, n_classes
        self._shape = shape
        self.begin()

    def begin(self) -> None:
        self._moments = Moments(self._n_folds * self._n_classes, self._shape)

    def update(self, rows: slice, arrays: Arrays) -> None:
        self._moments.update(arrays[self.features[0]], self._groups[rows])

    def end_pass(self) -> bool:
        moments = self._moments
        self.most = np.nan
        if not self._n_folds:
            self.distances = np.full((self._n_classes, self._n_classes), np.nan)
            return False
        freedom = int(moments.count.sum()) - moments.n_groups
        within: Any = moments.m2.reshape(moments.n_groups, -1).sum(axis=0)
        precision = np.divide(freedom, within, out=np.zeros_like(within), where=within > 0)
        means = moments.mean.reshape(self._n_folds, self._n_classes, -1)
        self.distances = crossnobis(means, precision)
        if self._n_folds > 2:
            pairs = np.triu_indices(self._n_classes, 1)
            left_out = np.array([
                crossnobis(np.delete(means, fold, axis=0), precision)[pairs].mean()
                for fold in range(self._n_folds)
            ])  # fmt: skip
            _, high = jackknife(self.distances[pairs].mean(), left_out)
            self.most = float(high)
        return False
