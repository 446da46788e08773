"""The mean of Moran's I over the maps of many images and modes, tested by joint shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.lattice import Contiguity
from frictionstore.analyses.stats.moran import ROUNDING, TILE, MoranTest, stacked_pairs
from frictionstore.analyses.stats.permutation import (
    distance_bound,
    family_wise_p,
    p_from_counts,
    patch_shuffles,
    spans,
)

Floats = NDArray[np.float64]

JOINT_SHUFFLES = 9999
"""Joint shuffles of all maps: they cost no pass over the maps, so there are many."""


@dataclass(frozen=True)
class JointResult:
    """Mean Moran's I over images under joint shuffles; arrays of shape (n_modes,).

    Attributes
    ----------
    mean, p
        Mean I of a mode's maps, and its two-sided p; NaN where no map of the mode varies.
    p_family_wise
        By the largest standardised distance from the expectation over the modes.
    overall_mean, overall_p
        Of the maps of all modes together.
    """

    mean: Floats
    p: Floats
    p_family_wise: Floats
    overall_mean: float
    overall_p: float


class JointMoran:
    """Test the mean of Moran's I over the maps of many images and modes, all at once.

    The null hypothesis: the patches are exchangeable *jointly*. Whatever images and modes have in
    common, and whatever position effect they share, it has nothing to do with which patches are
    neighbours. So a shuffle moves the patches of all maps alike. Were each map shuffled by itself,
    images that share an effect of position would count as independent: a common pattern without any
    spatial order gives all of them the same I by chance, and their mean would seem certain.

        mean I = (n / S0) sum_ab w_ab M_ab,  M = mean_i z_i z_i'

    with z_i the maps, minus their means and of unit length, so that a shuffled mean needs M alone.

    Parameters
    ----------
    tests
        One per contiguity, all of one grid.
    n_modes
        Modes.

    References
    ----------
    Besag and Diggle (1977), Simple Monte Carlo tests for spatial pattern, Applied Statistics 26,
    327-333.
    """

    def __init__(self, tests: Sequence[MoranTest], n_modes: int) -> None:
        self._tests = list(tests)
        self._n = tests[0].n
        self._count = np.zeros(n_modes, np.int64)
        self._observed = np.full((len(tests), n_modes), np.nan)
        self._null = np.zeros((len(tests), JOINT_SHUFFLES, n_modes))

    def moments(self, maps: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
        """Return the sum of z_i z_i' by mode, and how many maps it holds.

        Parameters
        ----------
        maps
            Finite array of shape (n_images, n_patches, n_modes).

        Returns
        -------
        float64 array of shape (n_modes, n_patches, n_patches), and int64 of shape (n_modes,).
        """
        n_modes = maps.shape[2]
        total = np.empty((n_modes, self._n, self._n))
        count = np.empty(n_modes, np.int64)
        for mode in range(n_modes):
            x = maps[:, :, mode].astype(np.float64)
            x = x[x.min(axis=1) != x.max(axis=1)]
            x -= x.mean(axis=1, keepdims=True)
            x /= np.sqrt(np.square(x).sum(axis=1, keepdims=True))
            total[mode], count[mode] = x.T @ x, len(x)
        return total, count

    def shuffle(
        self, modes: slice, total: Floats, count: NDArray[np.int64], seed: int, threads: int
    ) -> None:
        """Take in the `moments` of all images for some modes; the shuffles are those of `seed`."""
        self._count[modes] = count
        # One gather takes the numbers of all modes of a pair of patches.
        flat = np.ascontiguousarray(total.reshape(len(total), -1).T / np.maximum(count, 1))
        pairs, weight = stacked_pairs(self._tests)

        def means(order: NDArray[Any]) -> Floats:
            found = np.empty((len(self._tests), len(order), len(total)))
            products = np.empty((len(pairs), len(total)))
            for k, where in enumerate(order[:, pairs[:, 0]] * self._n + order[:, pairs[:, 1]]):
                np.take(flat, where, axis=0, out=products, mode="clip")
                found[:, k] = weight @ products
            return found

        def tile(part: slice) -> None:
            stream = np.random.SeedSequence(seed, spawn_key=(0, 0, part.start // TILE))
            order = patch_shuffles(self._n, part.stop - part.start, np.random.default_rng(stream))
            self._null[:, part, modes] = means(order)

        self._observed[:, modes] = means(np.arange(self._n)[None])[:, 0]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(tile, spans(JOINT_SHUFFLES, TILE)))

    def results(self) -> dict[Contiguity, JointResult]:
        """Return the tests by contiguity, once all modes were taken in."""
        varies = self._count > 0
        share = self._count / max(int(self._count.sum()), 1)
        found = {}
        for test, observed, null in zip(self._tests, self._observed, self._null, strict=True):
            away, null_away = observed - test.expectation, null - test.expectation
            variance = np.square(null_away).mean(axis=0)
            scale = np.sqrt(np.where(varies & (variance > ROUNDING), variance, np.inf))
            found[test.contiguity] = JointResult(
                mean=np.where(varies, observed, np.nan),
                p=np.where(varies, _two_sided(away, null_away), np.nan),
                p_family_wise=np.where(
                    varies,
                    family_wise_p(np.abs(away) / scale, (np.abs(null_away) / scale).max(axis=1)),
                    np.nan,
                ),
                overall_mean=float(observed @ share) if varies.any() else np.nan,
                overall_p=(
                    float(_two_sided(away @ share, null_away @ share)) if varies.any() else np.nan
                ),
            )
        return found


def _two_sided(away: Floats, null_away: Floats) -> Floats:
    """Return p of distances from the expectation against those of the shuffles."""
    extreme = (np.abs(null_away) >= distance_bound(away, 0.0)).sum(axis=0)
    return np.asarray(p_from_counts(extreme, len(null_away), away))
