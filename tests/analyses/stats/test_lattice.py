"""Moran's I against all orders of a small grid, and against its definition on larger ones."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.stats import lattice, moran, permutation


def definition(z: np.ndarray, w: np.ndarray) -> float:
    d = z - z.mean()
    return len(z) / w.sum() * (d @ w @ d) / (d @ d)


def adjacency(rows: int, cols: int, contiguity: str) -> np.ndarray:
    place = np.stack(np.unravel_index(np.arange(rows * cols), (rows, cols)), axis=1)
    apart = np.abs(place[:, None] - place[None])
    reach = apart.sum(axis=2) == 1 if contiguity == "rook" else apart.max(axis=2) == 1
    return reach.astype(float)


@pytest.mark.parametrize("contiguity", ["queen", "rook"])
@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (1, 6), (6, 1), (4, 4)])
def test_neighbours(shape, contiguity):
    expected = adjacency(*shape, contiguity)
    np.testing.assert_array_equal(lattice.weight_matrix(*shape, contiguity, "binary"), expected)
    np.testing.assert_allclose(
        lattice.weight_matrix(*shape, contiguity, "row"),
        expected / expected.sum(axis=1, keepdims=True),
    )
    pairs = lattice.neighbours(*shape, contiguity)
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == len(pairs)
    assert len(pairs) == expected.sum() / 2


@pytest.mark.parametrize("weights", ["row", "binary"])
@pytest.mark.parametrize("contiguity", ["queen", "rook"])
def test_moments_over_all_orders(contiguity, weights):
    values = np.array([1.0, 5.0, 2.0, 9.0, 4.0, 4.0])
    w = lattice.weight_matrix(2, 3, contiguity, weights)
    every = np.array([definition(np.array(order), w) for order in permutations(values)])
    found = moran.moran(values.reshape(1, 2, 3), weights=weights)[contiguity]
    np.testing.assert_allclose(found.i[0], definition(values, w), rtol=1e-12)
    np.testing.assert_allclose(found.expectation, every.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.variance_random[0], every.var(), rtol=1e-9)
    np.testing.assert_allclose(
        found.z[0], (definition(values, w) - every.mean()) / every.std(), rtol=1e-9
    )


@pytest.mark.parametrize("weights", ["row", "binary"])
@pytest.mark.parametrize("contiguity", ["queen", "rook"])
def test_published_formulas(contiguity, weights):
    """Expectation and variances as Cliff and Ord print them (and esda computes them)."""
    rng = np.random.default_rng(3)
    maps = rng.lognormal(size=(4, 5, 7))
    w = lattice.weight_matrix(5, 7, contiguity, weights)
    found = moran.moran(maps, weights=weights)[contiguity]
    n, s0 = 35, w.sum()
    s1 = ((w + w.T) ** 2).sum() / 2
    s2 = ((w.sum(axis=0) + w.sum(axis=1)) ** 2).sum()
    normal = (n**2 * s1 - n * s2 + 3 * s0**2) / ((n**2 - 1) * s0**2) - 1 / (n - 1) ** 2
    np.testing.assert_allclose(found.variance_normal, normal, rtol=1e-12)
    for j, values in enumerate(maps.reshape(4, -1)):
        z = values - values.mean()
        k = (z**4).mean() / (z**2).mean() ** 2
        a = n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * s0**2)
        b = k * ((n**2 - n) * s1 - 2 * n * s2 + 6 * s0**2)
        random = (a - b) / ((n - 1) * (n - 2) * (n - 3) * s0**2) - 1 / (n - 1) ** 2
        np.testing.assert_allclose(found.i[j], definition(values, w), rtol=1e-10)
        np.testing.assert_allclose(found.variance_random[j], random, rtol=1e-10)


@pytest.mark.parametrize("weights", ["row", "binary"])
@pytest.mark.parametrize("shape", [(4, 5), (1, 6), (6, 1), (2, 2), (2, 7), (7, 2), (3, 3)])
def test_p_values_against_shuffling_by_hand(shape, weights):
    """Narrow grids too: no patch is a neighbour of the one that follows it in the next row."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(90, *shape))
    maps[:5] += np.arange(float(shape[1]))  # a gradient
    found = moran.moran(
        maps, permutations=99, rng=np.random.default_rng(7), threads=2, weights=weights
    )
    order = permutation.patch_shuffles(shape[0] * shape[1], 99, np.random.default_rng(7))
    for contiguity, result in found.items():
        w, expectation = lattice.weight_matrix(*shape, contiguity, weights), result.expectation
        for j in range(0, 90, 9):
            values = maps[j].reshape(-1)
            null = np.array([definition(values[o], w) for o in order])
            away = np.abs(definition(values, w) - expectation) - 1e-12
            extreme = np.abs(null - expectation) >= away
            np.testing.assert_allclose(result.p[j], (1 + extreme.sum()) / 100, rtol=1e-12)
    assert shape != (4, 5) or (found["queen"].p[:5] <= 0.05).all()


def test_the_bound_on_products_holds():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20, 60)) ** 5
    z /= np.sqrt(np.square(z).sum(axis=0))
    bound = moran._largest_products(z)
    pairs = lattice.neighbours(4, 5)
    for order in permutation.patch_shuffles(20, 200, rng):
        products = np.abs(z[order][pairs[:, 0]] * z[order][pairs[:, 1]]).sum(axis=0)
        assert (products <= bound).all()


def test_maps_that_one_patch_dominates_are_decided_exactly():
    rng = np.random.default_rng(4)
    maps = rng.normal(size=(20, 4, 5))
    maps[:, 1, 1] = 1e4 * rng.uniform(1, 2, 20)
    found = moran.moran(maps, permutations=99, rng=np.random.default_rng(7))["queen"]
    order = permutation.patch_shuffles(20, 99, np.random.default_rng(7))
    w = lattice.weight_matrix(4, 5)
    for j in range(20):
        values = maps[j].reshape(-1)
        null = np.array([definition(values[o], w) for o in order])
        distance = np.abs(definition(values, w) + 1 / 19)
        away = np.abs(null + 1 / 19) >= distance * (1 - 1e-9)
        np.testing.assert_allclose(found.p[j], (1 + away.sum()) / 100, rtol=1e-12)


def test_ties_of_few_values_are_counted_exactly():
    """Maps of two or three values repeat I exactly in many shuffles: float32 alone would miss."""
    rng = np.random.default_rng(5)
    maps = rng.integers(0, 2, (40, 3, 4)).astype(float)
    maps[:, 0, 0] = 2.0
    found = moran.moran(maps, permutations=300, rng=np.random.default_rng(8))
    order = permutation.patch_shuffles(12, 300, np.random.default_rng(8))
    for contiguity, result in found.items():
        w = lattice.weight_matrix(3, 4, contiguity)
        ties = 0
        for j in range(40):
            values = maps[j].reshape(-1)
            null = np.array([definition(values[o], w) for o in order])
            distance = np.abs(definition(values, w) + 1 / 11)
            ties += np.isclose(np.abs(null + 1 / 11), distance, rtol=0, atol=1e-12).sum()
            away = np.abs(null + 1 / 11) >= distance - 1e-12
            np.testing.assert_allclose(result.p[j], (1 + away.sum()) / 301, rtol=1e-12)
        assert ties > 40


def test_one_contiguity_alone_is_the_same():
    maps = np.random.default_rng(1).normal(size=(3, 4, 4))
    both = moran.moran(maps, permutations=50, rng=np.random.default_rng(2))
    for contiguity in lattice.CONTIGUITIES:
        alone = moran.moran(
            maps, contiguities=[contiguity], permutations=50, rng=np.random.default_rng(2)
        )
        np.testing.assert_array_equal(alone[contiguity].p, both[contiguity].p)


def test_a_map_that_does_not_vary_has_none():
    maps = np.random.default_rng(1).normal(size=(3, 4, 4))
    maps[1] = 0.1
    found = moran.moran(maps, permutations=20, rng=np.random.default_rng(2))["rook"]
    for values in (found.i, found.z, found.p, found.variance_random):
        assert np.isnan(values).tolist() == [False, True, False]


def test_three_patches_are_too_few():
    with pytest.raises(AnalysisError, match="at least 4 patches and this one is 1 x 3"):
        moran.moran(np.zeros((1, 1, 3)))
