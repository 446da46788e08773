"""Where on the grid neighbours are alike, and up to which distance: local Moran and correlogram.

Both are of the mean over images of products of patches that `joint_moran` forms: they cost no pass.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.lattice import weight_matrix
from frictionstore.analyses.stats.moran import MoranTest
from frictionstore.analyses.stats.permutation import (
    benjamini_hochberg,
    distance_bound,
    holm,
    p_from_counts,
    patch_shuffles,
)

Floats = NDArray[np.float64]

LOCAL_SHUFFLES = 999
LAG_SHUFFLES = 499


@dataclass(frozen=True)
class _ByMode:
    """Arrays whose last axis is the mode."""

    def joined(self, more: Self) -> Self:
        """Return these with further modes."""
        both = ([getattr(one, field.name) for one in (self, more)] for field in fields(self))
        return type(self)(*(np.concatenate(arrays, axis=1) for arrays in both))


@dataclass(frozen=True)
class LocalMoran(_ByMode):
    """Mean local Moran's I over images, shape (n_patches, n_modes), with two-sided p and q.

    q is Benjamini-Hochberg over the patches of a mode. NaN where no map of the mode varies.
    """

    i: Floats
    p: Floats
    q: Floats


@dataclass(frozen=True)
class Correlogram(_ByMode):
    """Moran's I of pairs of patches at each distance, shape (n_lags, n_modes), lag 1 first.

    Distances are steps of a king: lag 1 are the neighbours by queen contiguity. p is two-sided
    under joint shuffles, `p_holm` over the lags of a mode.
    """

    i: Floats
    p: Floats
    p_holm: Floats


def local_moran(products: Floats, test: MoranTest, row: bool, seed: int) -> LocalMoran:
    """Return the mean over images of local Moran's I, tested by shuffling all other patches.

        I_a = (n - 1) sum_b w_ab M_ab,  M = mean_i z_i z_i'

    with z_i of unit length. The patch itself stays where it is; the others are shuffled alike in
    all images.

    Parameters
    ----------
    products
        M, shape (n_modes, n, n); NaN of a mode that has none.
    test
        The grid and its neighbours.
    row
        Whether weights are row-standardised.

    References
    ----------
    Anselin (1995), Local indicators of spatial association, Geographical Analysis 27, 93-115.
    """
    n = test.n
    weights = weight_matrix(*test.shape, test.contiguity, "row" if row else "binary")
    observed = np.einsum("ab,mab->am", weights, products)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 2)))
    order = patch_shuffles(n - 1, LOCAL_SHUFFLES, rng)
    p = np.empty(observed.shape)
    for a in range(n):
        weight = weights[a][weights[a] > 0]
        others = order[:, : len(weight)]
        others = others + (others >= a)
        null = np.einsum("k,msk->sm", weight, products[:, a, others])
        expected = -weight.sum() * products[:, a, a] / (n - 1)
        bound = distance_bound((n - 1) * observed[a], (n - 1) * expected)
        extreme = ((n - 1) * np.abs(null - expected) >= bound).sum(axis=0)
        p[a] = p_from_counts(extreme, LOCAL_SHUFFLES, observed[a])
    return LocalMoran((n - 1) * observed, p, benjamini_hochberg(p, axis=0))


def correlogram(products: Floats, grid: tuple[int, int], seed: int) -> Correlogram:
    """Return Moran's I at each distance up to half the grid's longer side.

        I_d = n times the mean of M_ab over pairs of patches at distance d

    Parameters
    ----------
    products
        M as in `local_moran`.

    References
    ----------
    Cliff and Ord (1981), Spatial processes: models and applications, Pion.
    """
    rows, cols = grid
    n = rows * cols
    place = np.stack(np.divmod(np.arange(n), cols))
    first, second = np.triu_indices(n, 1)
    distance = np.abs(place[:, first] - place[:, second]).max(axis=0)
    by_lag = np.argsort(distance, kind="stable")
    by_lag = by_lag[distance[by_lag] <= max(1, max(rows, cols) // 2)]
    first, second = first[by_lag], second[by_lag]
    _, start, pairs = np.unique(distance[by_lag], return_index=True, return_counts=True)
    flat = np.ascontiguousarray(products.reshape(len(products), -1).T)

    def at(order: NDArray[np.int64]) -> Floats:
        values = flat[order[first] * n + order[second]]
        return np.asarray(n * np.add.reduceat(values, start, axis=0) / pairs[:, None])

    observed = at(np.arange(n))
    bound = distance_bound(observed, -1.0 / (n - 1))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 3)))
    extreme = np.zeros(observed.shape, np.int64)
    for order in patch_shuffles(n, LAG_SHUFFLES, rng):
        extreme += np.abs(at(order) + 1.0 / (n - 1)) >= bound
    p = p_from_counts(extreme, LAG_SHUFFLES, observed)
    return Correlogram(observed, p, np.stack([holm(of_mode) for of_mode in p.T], axis=1))
