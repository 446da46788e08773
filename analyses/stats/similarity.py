"""How alike two descriptions of the same images are: distance matrices, kernels, values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.intervals import jackknife
from frictionstore.analyses.stats.permutation import p_value
from frictionstore.analyses.stats.ranks import centred_ranks

Floats = NDArray[np.float64]
FEWEST = 4
"""Images or classes: of fewer neither the unbiased kernel statistic nor a permutation says much."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval and, where there is a test, its p; NaN where undefined."""

    value: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan


def distances(rows: Floats) -> Floats:
    """Return the Euclidean distances of all pairs of rows, (n, d), as a matrix, (n, n)."""
    # Differences, not the Gram matrix: close images must not cancel.
    return np.stack([np.sqrt(np.square(rows - row).sum(axis=1)) for row in rows])


def rank_correlation(a: Floats, b: Floats) -> float:
    """Return Spearman's correlation of two vectors; NaN where one is constant."""
    return _cosine(centred_ranks(a), centred_ranks(b))


def _cosine(a: Floats, b: Floats) -> float:
    # Not BLAS, whose threads would wait for each other longer than this takes.
    norm = np.sqrt(float(np.einsum("i,i->", a, a)) * float(np.einsum("i,i->", b, b)))
    return float(np.clip(np.einsum("i,i->", a, b) / norm, -1.0, 1.0)) if norm > 0 else np.nan


def _ranks_of_codes(codes: NDArray[np.int64]) -> Floats:
    """Return centred ranks of integers that are in the order of values: counted, not sorted."""
    counts = np.bincount(codes)
    ranks: Floats = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(ranks[codes] - (len(codes) + 1) / 2)


def rsa(
    a: Floats, b: Floats, *, permutations: int, resamples: int, rng: np.random.Generator
) -> Estimate:
    """Compare two distance matrices of the same items: representational similarity analysis.

    The figure is Spearman's correlation of the distances of all pairs. p is one-sided, under
    permutations of the items of one matrix; the interval is a percentile bootstrap over items,
    in which an item has no distance to itself.

    Parameters
    ----------
    a, b
        float64 arrays of shape (n, n), symmetric; the diagonal does not count.
    permutations, resamples
        How many of each; 0 leaves p or the interval out.

    References
    ----------
    Kriegeskorte, Mur and Bandettini (2008), Representational similarity analysis, Frontiers in
    Systems Neuroscience 2, 4. Mantel (1967), Cancer Research 27, 209-220.
    """
    n = len(a)
    upper = np.triu_indices(n, 1)
    if n < FEWEST:
        return Estimate(np.nan)
    codes = [np.unique(matrix[upper], return_inverse=True)[1] for matrix in (a, b)]
    squares = []
    for code in codes:
        squares.append(np.zeros((n, n), np.int64))
        squares[-1][upper] = code
        squares[-1] += squares[-1].T
    ranks = [_ranks_of_codes(code) for code in codes]
    observed = _cosine(ranks[0], ranks[1])
    if np.isnan(observed):
        return Estimate(observed)
    p, low, high = np.nan, np.nan, np.nan
    if permutations:
        null = np.empty(permutations)
        # A permutation of items is one of pairs: their ranks go with them.
        rank_of = np.empty(codes[1].max() + 1)
        rank_of[codes[1]] = ranks[1]
        for k in range(permutations):
            order = rng.permutation(n)
            null[k] = _cosine(ranks[0], rank_of[squares[1][order[upper[0]], order[upper[1]]]])
        p = float(p_value(observed, null))
    if resamples:
        found = np.empty(resamples)
        for k in range(resamples):
            drawn = rng.integers(n, size=n)
            first, second = drawn[upper[0]], drawn[upper[1]]
            pair = first != second
            first, second = first[pair], second[pair]
            found[k] = _cosine(*(_ranks_of_codes(one[first, second]) for one in squares))
        if np.isfinite(found).any():
            low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(observed, float(low), float(high), p)


def unbiased_hsic(k: Floats, m: Floats) -> float:
    """Return the unbiased estimate of the Hilbert-Schmidt independence criterion.

        (tr KL + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)) / (n (n-3)),  diagonals set to 0

    Parameters
    ----------
    k, m
        Kernel matrices of the same n images, at least 4, shape (n, n); diagonals do not count.

    References
    ----------
    Song et al. (2012), Feature selection via dependence maximization, Journal of Machine Learning
    Research 13, 1393-1434.
    """
    n = len(k)
    k_row, m_row = k.sum(axis=1) - k.diagonal(), m.sum(axis=1) - m.diagonal()
    product = float(np.vdot(k, m)) - float(k.diagonal() @ m.diagonal())
    product += float(k_row.sum()) * float(m_row.sum()) / ((n - 1) * (n - 2))
    return (product - 2.0 * float(k_row @ m_row) / (n - 2)) / (n * (n - 3))


def kernel_similarity(k: Floats, m: Floats) -> float:
    """Return centred kernel alignment from unbiased estimates; NaN where a kernel is constant."""
    if len(k) < FEWEST:
        return np.nan
    square = unbiased_hsic(k, k), unbiased_hsic(m, m)
    # What rounding leaves of a constant map is no similarity.
    least = [1e-12 * float(np.vdot(one, one)) / len(one) ** 2 for one in (k, m)]
    if any(s <= limit for s, limit in zip(square, least, strict=True)):
        return np.nan
    return unbiased_hsic(k, m) / float(np.sqrt(square[0] * square[1]))


def linear_cka(x: Floats, y: Floats, groups: NDArray[np.int64]) -> Estimate:
    """Return debiased linear CKA of two descriptions of the same images.

    Without a bias: of two unrelated descriptions it is 0 on average, however many columns they
    have. Rotations, shifts and a common scale of either do not change it.

    Parameters
    ----------
    x, y
        float64 arrays of shape (n, d) and (n, e).
    groups
        int64 array of shape (n,): what the jackknife for the interval leaves out together.

    References
    ----------
    Kornblith et al. (2019), Similarity of neural network representations revisited, ICML,
    3519-3529. Nguyen, Raghu and Kornblith (2021), Do wide and deep networks learn the same
    things?, ICLR.
    """
    k, m = (_linear_kernel(rows) for rows in (x, y))
    value = kernel_similarity(k, m)
    if np.isnan(value):
        return Estimate(value)
    left_out = []
    for group in np.unique(groups):
        kept = np.flatnonzero(groups != group)
        left_out.append(kernel_similarity(k[np.ix_(kept, kept)], m[np.ix_(kept, kept)]))
    return _within(value, np.array(left_out), high=np.inf)


def _linear_kernel(rows: Floats) -> Floats:
    centred = rows - rows.mean(axis=0)
    # Whatever the unit: squares of products of tiny values would be 0. A power of 2 rounds nothing.
    centred = np.ldexp(centred, -np.frexp(np.abs(centred).max(initial=0.0))[1])
    return np.asarray(centred @ centred.T)


def _within(value: float, left_out: Floats, *, high: float = 1.0) -> Estimate:
    if len(left_out) < 2 or not np.isfinite(left_out).all():
        return Estimate(value)
    ends = jackknife(np.asarray(value), left_out)
    return Estimate(value, *(float(np.clip(end, -high, high)) for end in ends))


def image_correlation(x: Floats, y: Floats, groups: NDArray[np.int64]) -> Estimate:
    """Return Pearson's correlation of values of images, with an interval over images.

    Parameters
    ----------
    x, y
        float64 arrays of shape (n, k): k values of each of n images.
    groups
        int64 array of shape (n,): what the jackknife leaves out together.
    """
    x, y = x - x.mean(), y - y.mean()
    of_image = np.stack(
        [np.full(len(x), float(x.shape[1])), x.sum(axis=1), y.sum(axis=1),
         np.einsum("ik,ik->i", x, x), np.einsum("ik,ik->i", y, y), np.einsum("ik,ik->i", x, y)]
    )  # fmt: skip
    names = np.unique(groups)
    sums = np.stack([of_image[:, groups == group].sum(axis=1) for group in names])
    total = sums.sum(axis=0)
    return _within(_from_sums(total), np.array([_from_sums(total - one) for one in sums]))


def _from_sums(sums: Floats) -> float:
    n, x, y, xx, yy, xy = sums
    xx, yy, xy = xx - x * x / n, yy - y * y / n, xy - x * y / n
    # A variance that is the rounding of the sums it comes from is none.
    if min(xx / max(sums[3], 1e-300), yy / max(sums[4], 1e-300)) < 1e-12 or n < 2:
        return np.nan
    return float(np.clip(xy / np.sqrt(xx * yy), -1.0, 1.0))
