"""Permutation tests and multiple testing; which label an image has is in `arrangements`.

p-values count the observed arrangement among the permuted ones (add one), so none is ever 0 and
the smallest attainable is 1 / (permutations + 1). Sums under permutations are sparse matrix
products over whole chunks; nothing here loops over permutations in Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Alternative = Literal["greater", "less"]

TILE = 100
"""Permutations that a thread has at a time, at most."""

_COLUMNS = 128
"""Columns summed at a time: rows of 1,024 images take a megabyte."""

_TIE = 1e-9
"""Statistics closer than this (relative) are the same arrangement seen through rounding."""

_ROUNDING = 1e-12
"""Distances of a statistic of order 1 from its expectation below this are rounding."""


def smallest_p(permutations: int) -> float:
    """Return the smallest p-value that many permutations can give, 1 / (permutations + 1)."""
    return 1.0 / (permutations + 1)


def at_least(null: ArrayLike, observed: ArrayLike, alternative: Alternative) -> NDArray[np.bool_]:
    """Return where a permuted statistic is as extreme as the observed one, ties included."""
    null = np.asarray(null, np.float64)
    observed = np.asarray(observed, np.float64)
    slack = _TIE * np.abs(observed)
    return null >= observed - slack if alternative == "greater" else null <= observed + slack


def distance_bound(observed: ArrayLike, expectation: float | Floats) -> Floats:
    """Return the distance from the expectation at which a two-sided statistic is as extreme."""
    distance = np.abs(np.asarray(observed, np.float64) - expectation) * (1.0 - _TIE)
    return np.where(distance < _ROUNDING, 0.0, distance)


def p_value(observed: ArrayLike, null: ArrayLike, alternative: Alternative = "greater") -> Any:
    """Return the permutation p-value, (1 + number as extreme) / (permutations + 1).

    Parameters
    ----------
    observed
        Statistic of the data, shape (...); NaN gives NaN.
    null
        Statistics under permutation, shape (permutations, ...).
    alternative
        Which statistics count as extreme: "greater" or "less" ones; ties count.

    Returns
    -------
    float64 array of shape (...), in [1 / (permutations + 1), 1].

    References
    ----------
    Phipson and Smyth (2010), Permutation p-values should never be zero, Statistical Applications
    in Genetics and Molecular Biology 9, 39.
    """
    null = np.asarray(null, np.float64)
    extreme = at_least(null, observed, alternative).sum(axis=0)
    return p_from_counts(extreme, len(null), observed)


def p_from_counts(extreme: ArrayLike, permutations: int, observed: ArrayLike) -> Any:
    """Return `p_value` from the number of permuted statistics as extreme as the observed."""
    p = (np.asarray(extreme, np.float64) + 1.0) / (permutations + 1.0)
    return np.where(np.isnan(np.asarray(observed, np.float64)), np.nan, p)


def family_wise_p(observed: ArrayLike, maxima: ArrayLike) -> Floats:
    """Return family-wise p-values by the maximum statistic.

    Parameters
    ----------
    observed
        Statistics of the family's members, shape (...); larger is more extreme; NaN gives NaN.
    maxima
        The family's largest statistic in each permutation, shape (permutations,).

    Returns
    -------
    float64 array of shape (...): the chance, with no effect anywhere, that any member reaches
    this value.

    References
    ----------
    Westfall and Young (1993), Resampling-based multiple testing, Wiley.
    """
    observed = np.asarray(observed, np.float64)
    ordered = np.sort(np.asarray(maxima, np.float64))
    below = np.searchsorted(ordered, observed - _TIE * np.abs(observed), side="left")
    return np.asarray(p_from_counts(len(ordered) - below, len(ordered), observed))


def holm(p: ArrayLike) -> Floats:
    """Return Holm's adjusted p, which bounds the chance of any false claim in the family.

        adjusted p_(k) = max over j <= k of min(1, (n - j + 1) p_(j)), of p in ascending order

    Parameters
    ----------
    p
        Array of p-values in [0, 1], NaN for tests that were not done: they are not counted.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 65-70.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, axis=None)  # NaN last
    done = order[: int(np.isfinite(p).sum())]
    steps = p.flat[done] * np.arange(len(done), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted.flat[done] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(p: ArrayLike, axis: int | None = None) -> Floats:
    """Return Benjamini-Hochberg adjusted p-values (q-values).

    Parameters
    ----------
    p
        p-values in [0, 1]; NaN marks what was not tested: it stays NaN and does not count.
    axis
        Axis along which the tests of one family lie; None takes all as one family.

    Returns
    -------
    float64 array of the shape of `p`: `q_(i) = min_{j >= i} p_(j) n / j`, at most 1.

    References
    ----------
    Benjamini and Hochberg (1995), Controlling the false discovery rate, Journal of the Royal
    Statistical Society B 57, 289-300.
    """
    p = np.asarray(p, np.float64)
    if axis is None:
        return benjamini_hochberg(p.reshape(-1), 0).reshape(p.shape)
    p = np.moveaxis(p, axis, 0)
    order = np.argsort(p, axis=0, kind="stable")  # NaN sorts last
    lowest = np.take_along_axis(p, order, axis=0)
    # In place from here: there may be millions of tests.
    lowest *= np.isfinite(p).sum(axis=0)
    lowest /= np.arange(1, len(p) + 1).reshape(-1, *(1 for _ in p.shape[1:]))
    lowest[np.isnan(lowest)] = np.inf  # NaN would spread
    np.minimum.accumulate(lowest[::-1], axis=0, out=lowest[::-1])
    np.minimum(lowest, 1.0, out=lowest)
    q = np.empty_like(p)
    np.put_along_axis(q, order, lowest, axis=0)
    q[np.isnan(p)] = np.nan
    return np.moveaxis(q, 0, axis)


def group_sums(values: Floats, groups: NDArray[Any], n_groups: int) -> Floats:
    """Return the sums of the rows of each group, for many groupings at once.

    The product of the stacked indicator matrices, (permutations * n_groups, b), and `values`;
    the indicators are sparse, so the cost does not grow with the number of groups.

    Parameters
    ----------
    values
        float64 array of shape (b, n_features).
    groups
        Integer array of shape (permutations, b) in -1..n_groups-1; -1 is in no group.

    Returns
    -------
    float64 array of shape (permutations, n_groups, n_features).
    """
    from scipy.sparse import csr_array

    permutations, b = groups.shape
    # Numbers of two bytes are sorted by their digits, in an eighth of the time.
    small = groups.astype(np.int16 if n_groups < 1 << 15 else np.int64)
    order = np.argsort(small, axis=1, kind="stable").astype(np.int32)
    # Group -1 is summed like any other, as the first, and dropped below.
    key = groups.astype(np.int64)
    key += (np.arange(permutations) * (n_groups + 1))[:, None] + 1
    size = np.bincount(key.reshape(-1), minlength=permutations * (n_groups + 1))
    indptr = np.concatenate([[0], np.cumsum(size)])
    indicator = csr_array((np.ones(order.size), order.reshape(-1), indptr), shape=(len(size), b))
    sums = np.empty((len(size), values.shape[1]))
    # A few columns at a time, so that their rows stay in the cache.
    for columns in spans(values.shape[1], _COLUMNS):
        sums[:, columns] = indicator @ np.ascontiguousarray(values[:, columns])
    return sums.reshape(permutations, n_groups + 1, -1)[:, 1:]


def patch_shuffles(n_patches: int, permutations: int, rng: np.random.Generator) -> NDArray[Any]:
    """Return random orders of the patches, int64 array of shape (permutations, n_patches)."""
    order = np.tile(np.arange(n_patches), (permutations, 1))
    return rng.permuted(order, axis=1)


def spans(total: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `range(total)`."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
