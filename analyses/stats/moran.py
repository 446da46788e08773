"""Moran's I of many maps, each with the permutation tests of its own values.

CV and variance do not change when the patches of an image are shuffled; Moran's I is what does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.rows import Taken
from frictionstore.analyses.stats.lattice import (
    CONTIGUITIES,
    STEPS,
    Contiguity,
    Weights,
    neighbours,
    weight_matrix,
)
from frictionstore.analyses.stats.permutation import (
    distance_bound,
    p_from_counts,
    patch_shuffles,
    spans,
)

Floats = NDArray[np.float64]

_BLOCK = 1 << 17
"""Products of neighbours held at a time, in numbers: half a megabyte stays in the cache."""

_SINGLE = 1.2e-7
"""Relative rounding error of float32, twice: of the values, and of their products and sums."""

_AGAIN = 2048
"""Maps and shuffles decided in float64 at a time."""

_HELD = 4 << 20
"""Bytes of maps in float64 that are held beside those that are given."""

TILE = 256
"""Shuffles drawn from one random stream."""

ROUNDING = 1e-15
"""A variance of I below this is rounding: on a 2 x 2 grid all orders have the same I."""

FEW = 5
"""A map with fewer shuffles than this as extreme as the observed may be shuffled further."""

SURE = 4.0
"""How far below Benjamini-Hochberg's threshold the smallest p should be able to come."""


@dataclass(frozen=True)
class MoranResult:
    """Moran's I of many maps; arrays of shape (n_maps,), NaN for a map that does not vary.

    Attributes
    ----------
    i
        `I = (n / S0) (z' W z) / (z' z)`, z the map minus its mean.
    expectation
        `-1 / (n - 1)`, the mean of I over all orders of the patches.
    variance_normal, variance_random
        Variance of I for independent normal values, and over all orders of this map's patches.
    z
        `(i - expectation) / sqrt(variance_random)`: the permutation z-score, exactly; NaN, as is
        its variance, where all orders of the patches have the same I (a 2 x 2 grid).
    p
        Two-sided permutation p-value of `|I - expectation|`; NaN without permutations.
    """

    i: Floats
    expectation: float
    variance_normal: float
    variance_random: Floats
    z: Floats
    p: Floats


class MoranTest:
    """Moran's I on one grid, for any number of maps.

    With `S0` the sum of the weights, `S1` half the sum of `(w_ij + w_ji)^2`, `S2` the sum of
    `(row sum + column sum)^2` and `b2` the map's kurtosis `m4 / m2^2`, the variances are those of
    Cliff and Ord (1981), chapter 1.

    Parameters
    ----------
    rows, cols
        Size of the grid, at least 4 patches.
    contiguity, weights
        As in `weight_matrix`.

    Raises
    ------
    AnalysisError
        If the grid has fewer than 4 patches.

    References
    ----------
    Cliff and Ord (1981), Spatial processes: models and applications, Pion.
    """

    def __init__(
        self, rows: int, cols: int, contiguity: Contiguity = "queen", weights: Weights = "row"
    ) -> None:
        n = rows * cols
        if n < 4:
            raise AnalysisError(
                f"Moran's I needs a grid of at least 4 patches and this one is {rows} x {cols}: "
                "extract with larger images or smaller patches"
            )
        w = weight_matrix(rows, cols, contiguity, weights)
        self.n = n
        self.contiguity: Contiguity = contiguity
        self.shape = (rows, cols)
        self.pairs = neighbours(rows, cols, contiguity)
        # z'Wz counts each pair with the sum of its two weights.
        self.pair_weight = (w + w.T)[self.pairs[:, 0], self.pairs[:, 1]]
        self.s0 = float(w.sum())
        self.s1 = float(np.square(w + w.T).sum() / 2)
        self.s2 = float(np.square(w.sum(axis=0) + w.sum(axis=1)).sum())
        self.expectation = -1.0 / (n - 1)
        self.variance_normal = (n * n * self.s1 - n * self.s2 + 3 * self.s0**2) / (
            (n * n - 1) * self.s0**2
        ) - self.expectation**2

    def variance_random(self, z: Floats) -> Floats:
        """Return the variance of I over all orders of each map's patches.

        Parameters
        ----------
        z
            Maps minus their means, shape (n, n_maps).
        """
        n, s0, s1, s2 = self.n, self.s0, self.s1, self.s2
        square = np.square(z)
        kurtosis = np.square(square).mean(axis=0) / np.square(square.mean(axis=0))
        first = n * ((n * n - 3 * n + 3) * s1 - n * s2 + 3 * s0**2)
        second = kurtosis * ((n * n - n) * s1 - 2 * n * s2 + 6 * s0**2)
        return (first - second) / ((n - 1) * (n - 2) * (n - 3) * s0**2) - self.expectation**2

    def statistic(self, z: Floats) -> Floats:
        """Return I of maps `z`, minus their means, shape (n, n_maps); result (n_maps,)."""
        left, right = z[self.pairs[:, 0]], z[self.pairs[:, 1]]
        cross = np.einsum("p,pm,pm->m", self.pair_weight, left, right)
        return (self.n / self.s0) * cross / np.square(z).sum(axis=0)


def moran(
    maps: NDArray[Any],
    *,
    contiguities: Sequence[Contiguity] = CONTIGUITIES,
    weights: Weights = "row",
    permutations: int = 0,
    rng: np.random.Generator | None = None,
    threads: int = 1,
) -> dict[Contiguity, MoranResult]:
    """Return Moran's I of many maps, with exact moments and permutation p-values.

    Every map has its own null distribution, I of its own values on shuffled patches; one set of
    shuffles serves all maps of the call and both contiguities.

    Parameters
    ----------
    maps
        Finite array of shape (n_maps, rows, cols).
    contiguities
        Which neighbourhoods to test.
    weights
        "row" for row-standardised weights, "binary" for plain ones.
    permutations
        Number of shuffles; 0 leaves p NaN.
    rng
        Where the shuffles come from; needed if `permutations` is not 0.
    threads
        Threads that share the maps.

    Returns
    -------
    dict from contiguity to `MoranResult`. A map whose values are all equal has NaN.

    References
    ----------
    Moran (1950), Notes on continuous stochastic phenomena, Biometrika 37, 17-23.
    """
    n_maps, rows, cols = maps.shape
    tests = {name: MoranTest(rows, cols, name, weights) for name in contiguities}
    flat = maps.reshape(n_maps, rows * cols).astype(np.float64)
    varies = flat.min(axis=1) != flat.max(axis=1)
    z = np.ascontiguousarray((flat[varies] - flat[varies].mean(axis=1, keepdims=True)).T)
    # Unit length: no I changes, and permuted sums compare with the observed directly.
    z /= np.sqrt(np.square(z).sum(axis=0))
    observed = {name: test.statistic(z) for name, test in tests.items()}
    p = {name: np.full(z.shape[1], np.nan) for name in tests}
    if permutations and z.shape[1]:
        if rng is None:
            raise ValueError("permutations need a random generator")
        order = patch_shuffles(rows * cols, permutations, rng)
        extreme = _count_extreme(z, list(tests.values()), list(observed.values()), order, threads)
        for name, count in zip(tests, extreme, strict=True):
            p[name] = p_from_counts(count, permutations, observed[name])
    results = {}
    for name, test in tests.items():
        variance = test.variance_random(z)
        variance = np.where(variance > ROUNDING, variance, np.nan)
        score = (observed[name] - test.expectation) / np.sqrt(variance)
        i, var, zed, p_all = (
            _spread(values, varies) for values in (observed[name], variance, score, p[name])
        )
        results[name] = MoranResult(i, test.expectation, test.variance_normal, var, zed, p_all)
    return results


def _count_extreme(
    z: Floats,
    tests: Sequence[MoranTest],
    observed: Sequence[Floats],
    order: NDArray[Any],
    threads: int,
) -> NDArray[np.int64]:
    """Return, per test and map, how many shuffles give |I - E| as large as the observed.

    A block of maps at a time is shuffled as whole rows of `z`, (n, block). The products of
    neighbours are formed once for all tests, since rook pairs come first among queen pairs; a
    matrix product weighs and sums them. That is done in float32; what comes closer to the observed
    than its rounding error can reach is decided again in float64.
    """
    rows, cols = tests[0].shape
    widest = max(tests, key=lambda test: len(test.pairs))
    pairs, weight = stacked_pairs(tests)
    n_pairs = len(pairs)
    expectation = np.array([[test.expectation] for test in tests])
    bound = distance_bound(np.stack(observed), expectation)
    counts = np.zeros(bound.shape, np.int64)
    close_by = n_pairs * _SINGLE * weight.max() * _largest_products(z)
    # The neighbours one step away are as many patches on wherever they are: all products of a step
    # are one run of numbers. Those from the end of one row to the next have no weight.
    n = rows * cols
    apart = [down * cols + right for down, right in STEPS[widest.contiguity]]
    stops = np.cumsum([max(n - by, 0) for by in apart])
    step = np.array([apart.index(by) for by in np.diff(pairs)[:, 0]])
    weight_single = np.zeros((len(tests), stops[-1]), np.float32)
    weight_single[:, stops[step] - n + pairs[:, 1]] = weight

    def count(block: slice) -> None:
        values = np.ascontiguousarray(z[:, block], np.float32)
        width = values.shape[1]
        products = np.empty((stops[-1], width), np.float32)
        shuffled = np.empty_like(values)
        factors = [
            (shuffled[: n - by], shuffled[by:], products[stop - n + by : stop])
            for by, stop in zip(apart, stops, strict=True)
            if by < n
        ]
        distance = np.empty((len(order), len(tests), width), np.float32)
        for patches, out in zip(order, distance, strict=True):
            np.take(values, patches, axis=0, out=shuffled, mode="clip")
            for left, right, product in factors:
                np.multiply(left, right, out=product)
            np.matmul(weight_single, products, out=out)
        distance -= expectation.astype(np.float32)
        np.abs(distance, out=distance)
        distance -= bound[:, block].astype(np.float32)
        near = close_by[block].astype(np.float32)
        counts[:, block] = (distance >= near).sum(axis=0)
        close = np.nonzero(np.abs(distance) < near)
        for part in spans(len(close[0]), _AGAIN):
            shuffle, test, place = (index[part] for index in close)
            which = place + block.start
            flat = z[order[shuffle], which[:, None]]
            left, right = flat[:, pairs[:, 0]], flat[:, pairs[:, 1]]
            cross = np.einsum("kp,kp,kp->k", weight[test], left, right)
            extreme = np.abs(cross - expectation[test, 0]) >= bound[test, which]
            np.add.at(counts, (test[extreme], which[extreme]), 1)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, spans(z.shape[1], max(8, _BLOCK // n_pairs))))
    return counts


def stacked_pairs(tests: Sequence[MoranTest]) -> tuple[NDArray[np.int64], Floats]:
    """Return the pairs of all tests, and each test's weight of a pair, shape (n_tests, n_pairs).

    Rook pairs come first among queen pairs.
    """
    pairs = max((test.pairs for test in tests), key=len)
    weight = np.zeros((len(tests), len(pairs)))
    for row, test in zip(weight, tests, strict=True):
        row[: len(test.pairs)] = test.pair_weight * (test.n / test.s0)
    return pairs, weight


def _largest_products(z: Floats) -> Floats:
    """Return a bound on the sum of |z_a z_b| over neighbours, whatever the order of the patches.

    Maps z are of unit length, shape (n, n_maps).

    A patch has at most 8 neighbours: the largest value meets the 8 next ones at most, and the
    products of the others are at most 4 times their squares. A map that a single patch dominates
    has a small bound, as its I hardly varies.
    """
    size = -np.sort(-np.abs(z), axis=0)
    return np.asarray(size[0] * size[1:9].sum(axis=0) + 4.0 * (1.0 - np.square(size[0])))


def _spread(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """Return `values` at the places marked in `where`, NaN elsewhere."""
    full = np.full(len(where), np.nan)
    full[where] = values
    return full


def shuffle_further(
    maps: NDArray[Any] | Taken,
    extreme: NDArray[np.int64],
    *,
    permutations: int,
    groups: NDArray[np.int64],
    family: NDArray[np.int64],
    alpha: float,
    most: int,
    rng: np.random.Generator,
    weights: Weights = "row",
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shuffle on the maps whose p is still bounded by the number of shuffles.

    Benjamini-Hochberg over N maps of which k have structure needs p of about alpha k / N, which
    few shuffles cannot give. The number of shuffles is doubled for the maps with fewer than `FEW`
    as extreme as the observed, until even their smallest p would be `SURE` times below that for
    the k maps that are left; others stop with the p they have. Such a p is exact whatever the
    stage at which a map stops: a p of u or less implies one at the last stage with
    (`FEW` + 1) / (shuffles + 1) <= u at the latest. When all stop depends on how many are left
    and not on how extreme they are.

    Parameters
    ----------
    maps
        Finite array of shape (n_maps, rows, cols); none has equal values.
    extreme
        For each of `CONTIGUITIES` and each map, how many shuffles were as extreme so far.
    permutations
        Shuffles so far.
    groups
        Family of each map, 0..n_families-1.
    family
        Number of maps in each family, N; these maps are some of them.
    alpha
        Level of the procedure.
    most
        Shuffles that a map gets in all at most.
    rng, weights, threads
        As in `moran`.

    Returns
    -------
    `extreme` and the number of shuffles it counts, int64 arrays of shape (n_contiguities, n_maps).

    References
    ----------
    Besag and Clifford (1991), Sequential Monte Carlo p-values, Biometrika 78, 301-304.
    """
    n_maps, rows, cols = maps.shape
    tests = [MoranTest(rows, cols, name, weights) for name in CONTIGUITIES]
    observed = np.empty((len(tests), n_maps))
    for part_of in _some(maps, np.arange(n_maps)):
        z = _unit(maps[part_of])
        observed[:, part_of] = [test.statistic(z) for test in tests]
    extreme, shuffles = extreme.copy(), np.full(extreme.shape, permutations)
    left, done = extreme < FEW, permutations
    while done < most:
        for of_test in left:
            count = np.bincount(groups[of_test], minlength=len(family))
            of_test &= (done * alpha * count < SURE * family)[groups]
        which = np.flatnonzero(left.any(axis=0))
        if not which.size:
            break
        stop = min(2 * done, most)
        for part in spans(stop - done, 4 * TILE):
            order = patch_shuffles(rows * cols, part.stop - part.start, rng)
            for part_of in _some(maps, which):
                more = _count_extreme(
                    _unit(maps[part_of]), tests, list(observed[:, part_of]), order, threads
                )
                extreme[:, part_of] += np.where(left[:, part_of], more, 0)
        done = stop
        shuffles[left] = done
        left &= extreme < FEW
    return extreme, shuffles


def _some(maps: NDArray[Any] | Taken, which: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield so many of some maps as may be held once more, in float64."""
    for part in spans(len(which), max(_HELD // (8 * maps.shape[1] * maps.shape[2]), 1)):
        yield which[part]


def _unit(maps: NDArray[Any]) -> Floats:
    """Return maps minus their means, of unit length, (n_patches, n_maps)."""
    z = maps.reshape(len(maps), -1).astype(np.float64).T
    z -= z.mean(axis=0)
    z /= np.sqrt(np.square(z).sum(axis=0))
    return np.ascontiguousarray(z)
