"""Neighbours on the patch grid, and Moran's I with its permutation tests, of one map and of many.

CV and variance do not change when the patches of an image are shuffled; Moran's I is what does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.stats.permutation import (
    distance_bound,
    family_wise_p,
    p_from_counts,
    patch_shuffles,
    spans,
)

Floats = NDArray[np.float64]
Contiguity = Literal["queen", "rook"]
Weights = Literal["row", "binary"]
CONTIGUITIES: tuple[Contiguity, ...] = ("queen", "rook")

_BLOCK = 1 << 17
"""Products of neighbours held at a time, in numbers: half a megabyte stays in the cache."""

_SINGLE = 1.2e-7
"""Relative rounding error of float32, twice: of the values, and of their products and sums."""

_AGAIN = 2048
"""Maps and shuffles decided in float64 at a time."""

JOINT_SHUFFLES = 9999
"""Joint shuffles of all maps: they cost no pass over the maps, so there are many."""

_TILE = 256
"""Shuffles drawn from one random stream."""

_ROUNDING = 1e-15
"""A variance of I below this is rounding: on a 2 x 2 grid all orders have the same I."""

FEW = 5
"""A map with fewer shuffles than this as extreme as the observed may be shuffled further."""

SURE = 4.0
"""How far below Benjamini-Hochberg's threshold the smallest p should be able to come."""

_STEPS = {"rook": ((0, 1), (1, 0)), "queen": ((0, 1), (1, 0), (1, 1), (1, -1))}


def _shifted(
    rows: int, cols: int, step: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of a grid that has a neighbour one `step` away, and those neighbours."""
    down, right = step
    here = (slice(0, rows - down), slice(max(0, -right), cols - max(0, right)))
    there = (slice(down, rows), slice(max(0, right), cols + min(0, right)))
    return here, there


def neighbours(rows: int, cols: int, contiguity: Contiguity = "queen") -> NDArray[np.int64]:
    """Return the pairs of neighbouring patches, each once.

    Parameters
    ----------
    rows, cols
        Size of the grid; patches are numbered row by row.
    contiguity
        "rook" for patches that share a side, "queen" for those that share a side or a corner.

    Returns
    -------
    int64 array of shape (n_pairs, 2), the smaller number first.
    """
    number = np.arange(rows * cols).reshape(rows, cols)
    pairs = []
    for step in _STEPS[contiguity]:
        here, there = _shifted(rows, cols, step)
        pairs.append(np.stack([number[here].reshape(-1), number[there].reshape(-1)], axis=1))
    return np.concatenate(pairs)


def weight_matrix(
    rows: int, cols: int, contiguity: Contiguity = "queen", weights: Weights = "row"
) -> Floats:
    """Return the dense spatial weights, float64 of shape (n, n) with n = rows * cols.

    "binary" weights are 1 between neighbours; "row" divides each row by its sum, which makes the
    spatial lag a mean over neighbours.
    """
    n = rows * cols
    matrix = np.zeros((n, n))
    pairs = neighbours(rows, cols, contiguity)
    matrix[pairs[:, 0], pairs[:, 1]] = matrix[pairs[:, 1], pairs[:, 0]] = 1.0
    if weights == "row":
        matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
    return matrix


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
        variance = np.where(variance > _ROUNDING, variance, np.nan)
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
    pairs, weight = _stacked(tests)
    n_pairs = len(pairs)
    expectation = np.array([[test.expectation] for test in tests])
    bound = distance_bound(np.stack(observed), expectation)
    counts = np.zeros(bound.shape, np.int64)
    weight_single = weight.astype(np.float32)
    close_by = n_pairs * _SINGLE * weight.max() * _largest_products(z)

    def count(block: slice) -> None:
        values = np.ascontiguousarray(z[:, block], np.float32)
        width = values.shape[1]
        products = np.empty((n_pairs, width), np.float32)
        shuffled = np.empty_like(values)
        grid = shuffled.reshape(rows, cols, width)
        factors = []
        start = 0
        for step in _STEPS[widest.contiguity]:
            here, there = _shifted(rows, cols, step)
            shape = grid[here].shape
            stop = start + shape[0] * shape[1]
            factors.append((grid[here], grid[there], products[start:stop].reshape(shape)))
            start = stop
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


def _stacked(tests: Sequence[MoranTest]) -> tuple[NDArray[np.int64], Floats]:
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

    A patch has at most 8 neighbours: the largest value meets the 8 next ones at most, and the
    products of the others are at most 4 times their squares. A map that a single patch dominates
    has a small bound, as its I hardly varies.

    Parameters
    ----------
    z
        Maps of unit length, shape (n, n_maps).
    """
    size = -np.sort(-np.abs(z), axis=0)
    return np.asarray(size[0] * size[1:9].sum(axis=0) + 4.0 * (1.0 - np.square(size[0])))


def _spread(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """Return `values` at the places marked in `where`, NaN elsewhere."""
    full = np.full(len(where), np.nan)
    full[where] = values
    return full


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
        pairs, weight = _stacked(self._tests)

        def means(order: NDArray[Any]) -> Floats:
            found = np.empty((len(self._tests), len(order), len(total)))
            for k, where in enumerate(order[:, pairs[:, 0]] * self._n + order[:, pairs[:, 1]]):
                found[:, k] = weight @ flat[where]
            return found

        def tile(part: slice) -> None:
            stream = np.random.SeedSequence(seed, spawn_key=(0, 0, part.start // _TILE))
            order = patch_shuffles(self._n, part.stop - part.start, np.random.default_rng(stream))
            self._null[:, part, modes] = means(order)

        self._observed[:, modes] = means(np.arange(self._n)[None])[:, 0]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(tile, spans(JOINT_SHUFFLES, _TILE)))

    def results(self) -> dict[Contiguity, JointResult]:
        """Return the tests by contiguity, once all modes were taken in."""
        varies = self._count > 0
        share = self._count / max(int(self._count.sum()), 1)
        found = {}
        for test, observed, null in zip(self._tests, self._observed, self._null, strict=True):
            away, null_away = observed - test.expectation, null - test.expectation
            variance = np.square(null_away).mean(axis=0)
            scale = np.sqrt(np.where(varies & (variance > _ROUNDING), variance, np.inf))
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


def shuffle_further(
    maps: NDArray[Any],
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
    z = maps.reshape(n_maps, -1).astype(np.float64).T
    z = z - z.mean(axis=0)
    z /= np.sqrt(np.square(z).sum(axis=0))
    observed = np.stack([test.statistic(z) for test in tests])
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
        for part in spans(stop - done, 4 * _TILE):
            order = patch_shuffles(rows * cols, part.stop - part.start, rng)
            more = _count_extreme(
                np.ascontiguousarray(z[:, which]), tests, list(observed[:, which]), order, threads
            )
            extreme[:, which] += np.where(left[:, which], more, 0)
        done = stop
        shuffles[left] = done
        left &= extreme < FEW
    return extreme, shuffles
