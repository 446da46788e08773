"""The mean of Moran's I over the maps of many images and modes, tested by joint shuffles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.lattice import Contiguity
from frictionstore.analyses.stats.moran import ROUNDING, TILE, MoranTest, stacked_pairs
from frictionstore.analyses.stats.permutation import (
    distance_bound,
    patch_shuffles,
    spans,
)

Floats = NDArray[np.float64]

JOINT_SHUFFLES = 9999
"""Joint shuffles of all maps at most: they cost no pass over the maps, so there are many."""

MANY = 400
"""Shuffles as extreme as the observed after which p is known well enough."""

_FIRST = 4
"""Tiles of shuffles after which the counts are looked at first, then twice as many each time."""


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

    Shuffles end when `MANY` were as extreme for every figure. Each p counts up to the `MANY`-th of
    its own, `MANY` / (shuffles until then): it does not depend on when the others are known.

    References
    ----------
    Besag and Clifford (1991), Sequential Monte Carlo p-values, Biometrika 78, 301-304.

    Besag and Diggle (1977), Simple Monte Carlo tests for spatial pattern, Applied Statistics 26,
    327-333.
    """

    def __init__(self, tests: Sequence[MoranTest], n_modes: int) -> None:
        self._tests = list(tests)
        self._n = tests[0].n
        self._count = np.zeros(n_modes, np.int64)
        self._observed = np.full((len(tests), n_modes), np.nan)
        self._null = np.zeros((len(tests), JOINT_SHUFFLES, n_modes))
        self._variance = np.zeros((len(tests), n_modes))
        self._done = JOINT_SHUFFLES

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

        for test, variance in zip(self._tests, self._variance, strict=True):
            variance[modes] = joint_variance(test, total / np.maximum(count, 1)[:, None, None])
        self._observed[:, modes] = means(np.arange(self._n)[None])[:, 0]
        # The modes of another block would need the same shuffles: they are known one by one.
        whole = modes == slice(0, self._null.shape[2])
        tiles = list(spans(JOINT_SHUFFLES, TILE))
        done = 0
        with ThreadPoolExecutor(threads) as pool:
            while done < len(tiles):
                stop = max(2 * done, _FIRST) if whole else len(tiles)
                list(pool.map(tile, tiles[done:stop]))
                done = min(stop, len(tiles))
                if whole:
                    self._done = tiles[done - 1].stop
                    if all((one.sum(axis=0) >= MANY).all() for one in self._extreme()):
                        break

    def _extreme(self) -> Iterator[NDArray[np.bool_]]:
        """Yield by test which shuffles were as extreme: of each mode, of all and family-wise.

        Shape (shuffles, 2 n_modes + 1); where a mode does not vary all are.
        """
        varies = self._count > 0
        share = self._count / max(int(self._count.sum()), 1)
        for test, observed, null, variance in zip(
            self._tests, self._observed, self._null, self._variance, strict=True
        ):
            away = np.append(observed, observed @ share) - test.expectation
            null = null[: self._done]
            null_away = np.abs(np.column_stack([null, null @ share]) - test.expectation)
            alone = null_away >= distance_bound(away, 0.0)
            alone[:, :-1] |= ~varies
            scale = np.sqrt(np.where(varies & (variance > ROUNDING), variance, np.inf))
            largest = (null_away[:, :-1] / scale).max(axis=1, keepdims=True)
            yield np.column_stack([alone, largest >= distance_bound(away[:-1] / scale, 0.0)])

    def results(self) -> dict[Contiguity, JointResult]:
        """Return the tests by contiguity, once all modes were taken in."""
        varies = self._count > 0
        share = self._count / max(int(self._count.sum()), 1)
        found = {}
        for test, observed, extreme in zip(
            self._tests, self._observed, self._extreme(), strict=True
        ):
            p = sequential_p(extreme)
            n = len(observed)
            found[test.contiguity] = JointResult(
                mean=np.where(varies, observed, np.nan),
                p=np.where(varies, p[:n], np.nan),
                p_family_wise=np.where(varies, p[n + 1 :], np.nan),
                overall_mean=float(observed @ share) if varies.any() else np.nan,
                overall_p=float(p[n]) if varies.any() else np.nan,
            )
        return found


def joint_variance(test: MoranTest, products: Floats) -> Floats:
    """Return the variance of mean I over all orders of the patches, shape (n_modes,).

    Parameters
    ----------
    products
        Mean of z_i z_i', shape (n_modes, n, n).

    References
    ----------
    Mantel (1967), The detection of disease clustering and a generalized regression approach,
    Cancer Research 27, 209-220.
    """
    n = test.n
    weights = np.zeros((n, n))
    first, second = test.pairs.T
    # Half of each pair's weight on either side, so that the sum over all places is the statistic.
    weights[first, second] = weights[second, first] = test.pair_weight * (n / test.s0 / 2)
    away = products - np.einsum("maa,ab->mab", products, np.eye(n))

    def sums(matrix: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the square of the sum, the squares of the sums of rows, and the squares."""
        rows = matrix.sum(axis=-1)
        every = np.square(matrix).sum(axis=(-1, -2))
        return np.square(rows.sum(axis=-1)), np.square(rows).sum(axis=-1), every

    (a, a_rows, a_squares), (b, b_rows, b_squares) = sums(weights), sums(away)
    second_moment = 2 * a_squares * b_squares / (n * (n - 1))
    second_moment += 4 * (a_rows - a_squares) * (b_rows - b_squares) / (n * (n - 1) * (n - 2))
    rest_a, rest_b = a + 2 * a_squares - 4 * a_rows, b + 2 * b_squares - 4 * b_rows
    second_moment += rest_a * rest_b / (n * (n - 1) * (n - 2) * (n - 3))
    return np.asarray(second_moment - a * b / (n * (n - 1)) ** 2)


def sequential_p(extreme: NDArray[np.bool_]) -> Floats:
    """Return p of tests whose shuffles ended at the `MANY`-th that was as extreme, or at the last.

    Parameters
    ----------
    extreme
        Which shuffles were as extreme as the observed, shape (shuffles, n_tests), in their order.
    """
    count = extreme.cumsum(axis=0)
    enough = count[-1] >= MANY
    until = (count >= MANY).argmax(axis=0) + 1
    return np.where(enough, MANY / until, (count[-1] + 1.0) / (len(extreme) + 1.0))
