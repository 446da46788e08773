"""Neighbours on the patch grid, and Moran's I with its permutation test.

CV and variance do not change when the patches of an image are shuffled; Moran's I is what does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analyses.errors import AnalysisError
from analyses.permutation import distance_bound, p_from_counts, patch_shuffles, spans

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
        `(i - expectation) / sqrt(variance_random)`: the permutation z-score, exactly.
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
    n_pairs = len(widest.pairs)
    weight = np.zeros((len(tests), n_pairs))
    for row, test in zip(weight, tests, strict=True):
        row[: len(test.pairs)] = test.pair_weight * (test.n / test.s0)
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
            left, right = flat[:, widest.pairs[:, 0]], flat[:, widest.pairs[:, 1]]
            cross = np.einsum("kp,kp,kp->k", weight[test], left, right)
            extreme = np.abs(cross - expectation[test, 0]) >= bound[test, which]
            np.add.at(counts, (test[extreme], which[extreme]), 1)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, spans(z.shape[1], max(8, _BLOCK // n_pairs))))
    return counts


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
