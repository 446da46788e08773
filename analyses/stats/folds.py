"""Which images are left out together: folds of each class, and of whole groups of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified_folds(
    labels: NDArray[np.int64], n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return a fold for every image, each class spread evenly over the folds.

    Parameters
    ----------
    labels
        int64 array of shape (n,); negative is no label.
    n_folds
        Number of folds, at least 2.
    rng
        Where the randomness comes from.

    Returns
    -------
    int64 array of shape (n,) in 0..n_folds-1, -1 where there is no label. Sizes of folds differ
    by at most one, as do the counts of each class.
    """
    folds = np.full(len(labels), -1, np.int64)
    labelled = np.flatnonzero(labels >= 0)
    shuffled = rng.permutation(labelled)
    # Dealt out class after class without starting again at fold 0.
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds[dealt] = np.arange(len(dealt)) % n_folds
    return folds


def grouped_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return a fold for every image, whole groups in one, the groups of each class spread evenly.

    Groups are dealt by class and not by size: under permuted labels of whole groups the same deal
    is as likely, so that the permutations within folds are exact. Groups of several classes are
    dealt as one more class.

    Parameters
    ----------
    labels, groups
        int64 arrays of shape (n,); a negative label is none, such images take no part.
    n_folds, rng
        As `stratified_folds`'.

    Returns
    -------
    int64 array of shape (n,) in 0..n_folds-1, -1 where there is no label.
    """
    labelled = np.flatnonzero(labels >= 0)
    number, of = np.unique(groups[labelled], return_inverse=True)
    lowest = np.full(len(number), np.iinfo(np.int64).max)
    highest = np.full(len(number), -1)
    np.minimum.at(lowest, of, labels[labelled])
    np.maximum.at(highest, of, labels[labelled])
    stratum = np.where(lowest == highest, lowest, highest.max() + 1)
    folds = np.full(len(labels), -1, np.int64)
    folds[labelled] = stratified_folds(stratum, n_folds, rng)[of]
    return folds


def folds_of(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    n_folds: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return `grouped_folds`, or `stratified_folds` where images are independent."""
    if groups is None:
        return stratified_folds(labels, n_folds, rng)
    return grouped_folds(labels, groups, n_folds, rng)
