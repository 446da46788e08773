"""Means of the images of each class, how well they are known, and where few images decide them.

In two passes over numbers of images that may be in a file: memory is that of the classes. Sums go
image by image, so that they do not depend on how images are cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.intervals import skewed_by

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Blocks = Callable[[], Iterable[tuple[slice, Floats]]]
"""Yields images and their numbers, (b, columns), in order and as often as it is called."""


@dataclass(frozen=True)
class ClassMeans:
    """What is known of each class and column; arrays of shape (n_classes, n_columns).

    Attributes
    ----------
    n, count
        Images that have the number (are not NaN), and as many or groups of them.
    mean
        NaN where there is no image.
    low, high
        Smallest and largest.
    covariance
        Covariance of the means of pairs of columns, (n_classes, n_pairs): see
        `intervals.mean_covariance`. NaN for fewer than 2 images or groups.
    skewed
        Where few images decide the mean: see `intervals.too_skewed`.
    """

    n: Ints
    count: Ints
    mean: Floats
    low: Floats
    high: Floats
    covariance: Floats
    skewed: NDArray[np.bool_]

    def intervals(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Return the ends of t intervals, of pairs of a column with itself; NaN where skewed."""
        from scipy.special import stdtrit

        known = (self.count > 1) & ~self.skewed
        quantile = stdtrit(np.where(known, self.count - 1, 1), 0.5 + level / 2)
        half = np.where(known, quantile * np.sqrt(self.covariance), np.nan)
        return self.mean - half, self.mean + half


def class_means(
    blocks: Blocks,
    labels: Ints,
    n_classes: int,
    *,
    pairs: tuple[Ints, Ints] | None = None,
    groups: Ints | None = None,
) -> ClassMeans:
    """Return means of columns over the images of each class, and how sure they are.

    Parameters
    ----------
    blocks
        Numbers of images, NaN where one has none.
    labels
        int64 of shape (n_images,), -1 for images that take no part.
    n_classes
        Number of classes.
    pairs
        Columns whose covariances are wanted, of which a number is there or missing together; by
        default of each with itself.
    groups
        int64 of shape (n_images,): images that belong together; None where they are independent.
    """
    n_columns = next(iter(blocks()))[1].shape[1]
    shape = (n_classes, n_columns)
    total, n = np.zeros(shape), np.zeros(shape, np.int64)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for rows, values in blocks():
        place, there, values = _taken(labels[rows], values)
        _at(np.add, total, place, np.where(there, values, 0.0))
        _at(np.add, n, place, there)
        _at(np.minimum, low, place, np.where(there, values, np.inf))
        _at(np.maximum, high, place, np.where(there, values, -np.inf))
    with np.errstate(invalid="ignore"):
        mean = total / n
    first, second = (np.arange(n_columns),) * 2 if pairs is None else pairs
    square, third, cross = np.zeros(shape), np.zeros(shape), np.zeros((n_classes, len(first)))
    units, of_unit = (labels, np.arange(n_classes)) if groups is None else _units(labels, groups)
    away_of = np.zeros((len(of_unit), n_columns))
    in_unit = np.zeros(away_of.shape, np.bool_)
    for rows, values in blocks():
        place, there, values = _taken(labels[rows], values)
        away = np.where(there, values - mean[place], 0.0)
        _at(np.add, square, place, np.square(away))
        _at(np.add, third, place, away * np.square(away))
        if groups is None:
            _at(np.add, cross, place, away[:, first] * away[:, second])
        else:
            unit = units[rows][labels[rows] >= 0]
            _at(np.add, away_of, unit, away)
            _at(np.logical_or, in_unit, unit, there)
    skewed = skewed_by(square, third, n)
    count = n
    if groups is not None:
        count, square, third = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
        _at(np.add, count, of_unit, in_unit)
        _at(np.add, square, of_unit, np.square(away_of))
        _at(np.add, third, of_unit, away_of * np.square(away_of))
        _at(np.add, cross, of_unit, away_of[:, first] * away_of[:, second])
        skewed |= skewed_by(square, third, count)
    many, images = count[:, first], n[:, first]
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = (
            cross / (images * (images - 1))
            if groups is None
            else cross * many / ((many - 1) * images * images)
        )
    return ClassMeans(n, count, mean, low, high, np.where(many > 1, covariance, np.nan), skewed)


def _taken(labels: Ints, values: Floats) -> tuple[Ints, NDArray[np.bool_], Floats]:
    """Return class and numbers of the images that take part, and which numbers there are."""
    taken = labels >= 0
    if not taken.all():
        labels, values = labels[taken], values[taken]
    return labels, ~np.isnan(values), values


def _at(add: np.ufunc, to: NDArray[Any], place: Ints, values: NDArray[Any]) -> None:
    """Add rows, (b, columns), one after another to those of `to`, (n, columns), at their places."""
    columns = to.shape[1]
    index = place[:, None] * columns + np.arange(columns)
    add.at(to.reshape(-1), index.reshape(-1), values.astype(to.dtype, copy=False).reshape(-1))


def _units(labels: Ints, groups: Ints) -> tuple[Ints, Ints]:
    """Return for every image which group of which class it is of, and the class of each of these.

    In the order of the classes, then of the groups.
    """
    code = np.maximum(labels, 0) * (int(groups.max(initial=0)) + 1) + groups
    found, unit = np.unique(code, return_inverse=True)
    return unit, found // (int(groups.max(initial=0)) + 1)
