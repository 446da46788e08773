"""Distance matrices, kernels and correlations by scipy, rsatoolbox and sums over all tuples."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import rankdata, spearmanr

from frictionstore.analyses.stats.permutation import p_value
from frictionstore.analyses.stats.ranks import centred_ranks
from frictionstore.analyses.stats.similarity import (
    distances,
    image_correlation,
    linear_cka,
    rank_correlation,
    rsa,
    unbiased_hsic,
)


def rows(seed: int, n: int = 12, d: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def quick(a: np.ndarray, b: np.ndarray, seed: int = 0, **options: int):
    return rsa(
        a, b, **{"permutations": 99, "resamples": 50} | options, rng=np.random.default_rng(seed)
    )


def test_the_figure_of_rsatoolbox():
    """rsatoolbox 0.3.2: compare(*(calc_rdm(Dataset(m), method="euclidean") for m in (x[:6],
    x[6:12])), method="spearman")."""
    i = np.arange(24 * 5).reshape(24, 5)
    x = np.sin(i * 1.7) * 3 + np.cos(i * i * 0.31)
    x += (np.arange(24) % 3)[:, None] * [0, 0.5, 0, 1, 0]
    found = quick(distances(x[:6]), distances(x[6:12]))
    assert found.value == pytest.approx(0.5892857142857142, rel=1e-12)


def test_p_and_interval_by_hand():
    """Distances with ties, permuted and drawn again one by one."""
    a, b = (np.round(distances(rows(seed)), 1) for seed in (1, 2))
    upper = np.triu_indices(12, 1)
    found = quick(a, b, seed=5)
    rng = np.random.default_rng(5)
    null = []
    for _ in range(99):
        order = rng.permutation(12)
        null.append(spearmanr(a[upper], b[np.ix_(order, order)][upper]).statistic)
    drawn = []
    for _ in range(50):
        which = rng.integers(12, size=12)
        pairs = [(i, j) for i, j in zip(which[upper[0]], which[upper[1]], strict=True) if i != j]
        first, second = np.array(pairs).T
        drawn.append(spearmanr(a[first, second], b[first, second]).statistic)
    assert found.value == pytest.approx(spearmanr(a[upper], b[upper]).statistic, rel=1e-12)
    assert found.p == p_value(found.value, null)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_rsa_does_not_see_what_increases_distances_or_reorders_items():
    a, b = distances(rows(1)), distances(rows(1) + 0.5 * rows(2))
    found = quick(a, b)
    for other in (a**3, np.log1p(a), 7 * a):
        assert quick(other, b) == found
    assert quick(a, a).value == 1
    assert quick(a, a**2).p == 1 / 100
    order = np.random.default_rng(0).permutation(12)
    moved = quick(a[np.ix_(order, order)], b[np.ix_(order, order)])
    assert moved.value == pytest.approx(found.value, rel=1e-12)


def test_p_is_uniform_where_nothing_agrees():
    p = [quick(distances(rows(k)), distances(rows(k + 500)), seed=k, resamples=0).p
         for k in range(300)]  # fmt: skip
    assert 5 <= sum(np.array(p) <= 0.05) <= 27
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def hsic_by_tuples(k: np.ndarray, m: np.ndarray) -> float:
    """The U-statistic itself: over all ordered quadruples of different images."""
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(len(k)), 4)
    ]
    return float(np.mean(terms))


def test_hsic_is_the_mean_over_quadruples():
    k, m = (one @ one.T for one in (rows(1, 7), rows(2, 7, 3)))
    assert unbiased_hsic(k, m) == pytest.approx(hsic_by_tuples(k, m), rel=1e-9)
    shifted = k + 3 + np.arange(7)[:, None] + np.arange(7)
    assert unbiased_hsic(shifted, m) == pytest.approx(unbiased_hsic(k, m), rel=1e-9)


def test_cka_and_its_interval():
    x, y = rows(1, 30), np.hstack([rows(1, 30)[:, :2], rows(2, 30)])
    groups = np.arange(30) % 5
    found = linear_cka(x, y, groups)

    def plain(a: np.ndarray, b: np.ndarray) -> float:
        k, m = a @ a.T, b @ b.T
        return unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))

    assert found.value == pytest.approx(plain(x, y), rel=1e-9)
    left = [plain(x[groups != g], y[groups != g]) for g in range(5)]
    error = np.sqrt(4 / 5 * np.square(left - np.mean(left)).sum())
    assert found.high - found.value == pytest.approx(2.7764451 * error, rel=1e-6)


def test_cka_does_not_see_rotations_shifts_and_a_scale():
    x, y = rows(1, 30), rows(1, 30) + rows(2, 30)
    groups = np.arange(30) % 5
    found = linear_cka(x, y, groups)
    rotation, _ = np.linalg.qr(rows(3, 5))
    for other in (x @ rotation, x + 100, -3 * x):
        again = linear_cka(other, y, groups)
        assert again.value == pytest.approx(found.value, rel=1e-9)
        assert again.low == pytest.approx(found.low, rel=1e-6)
    assert linear_cka(y, x, groups).value == pytest.approx(found.value, rel=1e-12)
    assert linear_cka(x, x @ rotation, groups).value == pytest.approx(1, rel=1e-12)
    assert linear_cka(x, x * [5, 1, 1, 1, 1], groups).value < 0.99


def test_cka_of_unrelated_maps_is_zero_however_many_columns():
    """With its bias it would be near 1: 20 images, 400 columns."""
    found = [linear_cka(rows(k, 20, 400), rows(k + 500, 20, 400), np.arange(20)).value
             for k in range(60)]  # fmt: skip
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(60)
    x, y = (one - one.mean(axis=0) for one in (rows(0, 20, 400), rows(500, 20, 400)))
    biased = np.square(x.T @ y).sum() / np.sqrt(np.square(x.T @ x).sum() * np.square(y.T @ y).sum())
    assert biased > 0.8


def test_correlation_of_images():
    x, y = rows(1, 24), rows(1, 24) + rows(2, 24) + 1000
    groups = np.arange(24) % 6
    found = image_correlation(x, y, groups)
    assert found.value == pytest.approx(np.corrcoef(x.reshape(-1), y.reshape(-1))[0, 1], rel=1e-9)
    left = [np.corrcoef(x[groups != g].reshape(-1), y[groups != g].reshape(-1))[0, 1]
            for g in range(6)]  # fmt: skip
    error = np.sqrt(5 / 6 * np.square(left - np.mean(left)).sum())
    assert found.low == pytest.approx(found.value - 2.5705818 * error, rel=1e-6)
    assert image_correlation(x, 3 * x + 1, groups).value == pytest.approx(1)


def test_an_interval_over_images_covers_where_values_of_an_image_agree():
    """Ten equal values of each image are one: the interval must not take them for ten."""
    covered = 0
    for seed in range(200):
        x, y = (np.repeat(one, 10, axis=1) for one in (rows(seed, 60, 1), rows(seed + 900, 60, 1)))
        found = image_correlation(x, y, np.arange(60) % 20)
        covered += found.low <= 0 <= found.high
    assert 180 <= covered <= 199


def test_what_is_constant_or_too_few_is_not_defined():
    x = rows(1, 12)
    groups = np.arange(12) % 3
    for value in (0.0, 5.0, 1e8 / 3):
        flat = np.full((12, 4), value)
        assert np.isnan(linear_cka(x, flat, groups).value)
        assert np.isnan(image_correlation(x[:, :4], flat, groups).value)
        assert np.isnan(quick(distances(x), distances(flat)).value)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))
    assert np.isnan(quick(distances(x[:3]), distances(x[:3])).value)
    assert np.isnan(linear_cka(x[:3], x[:3], groups[:3]).value)


def test_distances_are_scipys():
    x = rows(4) + 1e6
    np.testing.assert_allclose(distances(x), cdist(x, x), rtol=1e-12)


@pytest.mark.parametrize("shape", [(1,), (50,), (4, 7, 30), (3, 1)])
def test_ranks_are_scipys(shape):
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=shape), rng.integers(0, 5, shape), np.ones(shape)):
        expected = rankdata(values, axis=-1) - (shape[-1] + 1) / 2
        np.testing.assert_array_equal(centred_ranks(values), expected)


@pytest.mark.parametrize("scale", [1e-160, 1e-43, 1e36, 1e150])
def test_kernels_do_not_know_the_unit(scale):
    x, y = rows(1), rows(2)
    groups = np.arange(12) % 4
    found, expected = linear_cka(x * scale, y * scale, groups), linear_cka(x, y, groups)
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert found.low == pytest.approx(expected.low, rel=1e-9)
