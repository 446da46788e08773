"""Welch, PERMDISP, clusters and q against other packages, brute force and null stores."""

from __future__ import annotations

import json
from inspect import signature

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.stats import binom, f_oneway, false_discovery_control, ttest_ind

from frictionstore import analyses
from frictionstore.analyses.stats import clusters, permutation
from frictionstore.analyses.stats.anova import welch, welch_from_sums
from frictionstore.analyses.stats.dispersion import RESIDUALS, permdisp
from tests.analyses.material import feature, noise_store, permuted
from tests.data.analyses.make_statistics import wave
from tests.support import DATA


@pytest.fixture(scope="module")
def known() -> dict:
    return json.loads((DATA / "analyses" / "statistics.json").read_text())


def made() -> analyses.MemoryStore:
    x = wave(24, 3, 4, 2)
    x[::3] *= 2.5
    names = ["a", "b", "c"]
    return analyses.MemoryStore({"S": x}, labels=np.arange(24) % 3, class_names=names, batch=7)


def test_welch_and_dispersion_are_those_of_other_packages(known):
    result = analyses.f_statistic(made(), feature="S", permutations=20)
    np.testing.assert_allclose(result.welch_f.reshape(-1), known["welch_f"], rtol=1e-9)
    np.testing.assert_allclose(result.p_welch.reshape(-1), known["welch_p"], rtol=1e-7)
    assert result.values["dispersion_f"] == pytest.approx(known["permdisp_f"], rel=1e-9)
    distance = analyses.class_distance(made(), feature="S", permutations=0, splits=2)
    assert distance.values["dispersion_f"] == pytest.approx(known["permdisp_f"], rel=1e-9)


def test_welch_of_two_classes_is_welchs_t():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (5, 7)) + 1e3, rng.normal(1, 3, (40, 7)) + 1e3
    x = np.concatenate([a, b]) - 1e3
    counts = np.array([5, 40])
    sums, squares = (np.stack([(x**k)[:5].sum(0), (x**k)[5:].sum(0)]) for k in (1, 2))
    t = ttest_ind(a, b, equal_var=False)
    for found in (
        welch(np.stack([a.mean(0), b.mean(0)]), np.stack([a.var(0, ddof=1), b.var(0, ddof=1)]),
              counts),
        welch_from_sums(sums, squares, counts),
    ):  # fmt: skip
        np.testing.assert_allclose(found.f, t.statistic**2, rtol=1e-8)
        np.testing.assert_allclose(found.p, t.pvalue, rtol=1e-7)
        np.testing.assert_allclose(found.df_within, t.df, rtol=1e-8)
    # As a normal value it has nearly the same p, whatever its freedom.
    from scipy.stats import norm

    np.testing.assert_allclose(norm.sf(found.z), found.p, atol=0.012)


def test_welch_under_permuted_labels_by_hand():
    store = noise_store(seed=4, n=30, grid=(2, 3), modes=2, effect=1.5)
    result = analyses.f_statistic(store, permutations=130, seed=9, memory=1)
    drawn = permuted(store.labels, 130, 9)
    x = feature(store).reshape(30, -1)
    counts = np.full(3, 10)

    def z(labels: np.ndarray) -> np.ndarray:
        groups = [x[labels == c] for c in range(3)]
        mean, variance = (
            np.stack([of(g) for g in groups])
            for of in (lambda g: g.mean(0), lambda g: g.var(0, ddof=1))
        )
        found = welch(mean, variance, counts)
        if "equal_var" in signature(f_oneway).parameters:  # scipy 1.15 and older have no Welch
            expected = f_oneway(*groups, axis=0, equal_var=False)
            np.testing.assert_allclose(found.f, expected.statistic, rtol=1e-9)
        return found.z

    maxima = np.array([z(labels).max() for labels in drawn])
    expected = [(1 + (maxima >= one - 1e-9).sum()) / 131 for one in z(store.labels)]
    np.testing.assert_allclose(result.p_family_wise_welch.reshape(-1), expected, rtol=1e-12)


def test_a_class_that_does_not_vary_has_no_welch_f_and_decides_nothing():
    """Under many arrangements some class of a sparse column is constant."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3, 3, 1))
    x[:, 0, 0] = 0.0
    x[:6, 0, 0, 0] = rng.normal(size=6)
    x[:, 2, 2] += 3.0 * (np.arange(60) % 3)[:, None]
    store = analyses.MemoryStore({"S": x}, labels=np.arange(60) % 3, class_names=["a", "b", "c"])
    result = analyses.f_statistic(store, feature="S", permutations=200)
    assert np.isfinite(result.welch_f).all()
    assert result.p_family_wise_welch[2, 2, 0] <= 0.01
    x[:, 0, 0, 0] = store.labels == 1  # constant in every class
    result = analyses.f_statistic(store, feature="S", permutations=20)
    assert np.isnan(result.welch_f[0, 0, 0])


def test_dispersion_of_unequal_classes_by_hand():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [5, 35])
    x = rng.normal(size=(40, 3, 3, 2)) * np.where(labels == 0, 2.0, 1.0)[:, None, None, None]
    store = analyses.MemoryStore({"S": x}, labels=labels, class_names=["a", "b"], batch=9)
    values = analyses.class_distance(store, feature="S", permutations=99, splits=2, seed=3).values
    flat = x.reshape(40, -1)
    away = np.empty(40)
    for c, n in ((0, 5), (1, 35)):
        of_class = flat[labels == c]
        away[labels == c] = np.linalg.norm(of_class - of_class.mean(0), axis=1) * np.sqrt(
            n / (n - 1)
        )
    f = f_oneway(away[:5], away[5:]).statistic
    assert values["dispersion_f"] == pytest.approx(f, rel=1e-9)
    rest = away - np.where(labels == 0, away[:5].mean(), away[5:].mean())
    drawn = permuted(labels, 99, 3, RESIDUALS)
    null = [f_oneway(rest[one == 0], rest[one == 1]).statistic for one in drawn]
    by_rest = permutation.p_value(f, null)
    drawn = permuted(labels, 99, 3)

    def unequal(of: np.ndarray) -> float:
        log = np.log([flat[of == c].var(axis=0, ddof=1).sum() for c in (0, 1)])
        return float(np.average((log - np.average(log, weights=[4, 34])) ** 2, weights=[4, 34]))

    by_labels = permutation.p_value(unequal(labels), [unequal(one) for one in drawn])
    assert values["p_dispersion"] == max(by_rest, by_labels)
    alike = permdisp(np.ones(40), labels, np.array([5, 35]), 99, 0)
    assert np.isnan([alike.f, alike.p]).all()


def test_clusters_are_those_of_other_packages(known):
    field = np.abs(wave(6, 7))
    field[2:5, 1:4] += 9
    found = clusters.tfce(field[None])
    # The other sums levels up to the largest value, at which only that position is.
    top = np.unravel_index(field.argmax(), field.shape)
    other = np.reshape(known["tfce"], field.shape)
    mine = found[0].copy()
    mine[top] -= mine[top] - other[top] if mine[top] != other[top] else 0
    np.testing.assert_allclose(mine, other, rtol=1e-6)
    assert found[0][top] - other[top] <= field.max() ** 3 / clusters.LEVELS * (1 + 1e-6)
    np.testing.assert_allclose(
        clusters.cluster_mass(field[None], 8.0)[0].reshape(-1), known["cluster_mass"], rtol=1e-9
    )


def test_clusters_by_brute_force_and_of_one_map_alone():
    """Maps beside each other have nothing in common: no cluster goes from one to the next."""
    rng = np.random.default_rng(3)
    maps = rng.gamma(1.0, 2.0, (5, 4, 6))
    maps[3, 1, 1] = np.nan
    maps[4] = 0.0
    enhanced, mass = clusters.tfce(maps), clusters.cluster_mass(maps, 2.0)
    for k, one in enumerate(np.nan_to_num(maps)):
        expected, step = np.zeros(one.shape), one.max() / clusters.LEVELS
        for h in range(1, clusters.LEVELS + 1) if step else ():
            numbers, _ = label(one >= h * step * (1 - 1e-12))
            size = np.bincount(numbers.reshape(-1))[numbers]
            expected += np.where(numbers > 0, np.sqrt(size) * (h * step) ** 2 * step, 0)
        np.testing.assert_allclose(enhanced[k], expected, rtol=1e-9)
        numbers, n = label(one >= 2.0)
        of = np.array([0.0, *(one[numbers == c].sum() for c in range(1, n + 1))])
        np.testing.assert_allclose(mass[k], of[numbers], rtol=1e-9)


def test_a_wide_weak_effect_is_found_by_clusters_more_than_by_the_largest_f():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8, 8, 2))
    labels = np.arange(60) % 2
    x[labels == 1, 2:7, 1:6, 1] += 0.9
    store = analyses.MemoryStore({"S": x}, labels=labels, class_names=["a", "b"])
    result = analyses.f_statistic(store, feature="S", permutations=300)
    assert result.values["tfce_family_wise_p"] <= 0.05
    there = result.p_family_wise_tfce[..., 1] <= 0.05
    assert there[2:7, 1:6].sum() >= 1.5 * (result.p_family_wise <= 0.05).sum()
    assert not (result.p_family_wise_tfce[..., 0] <= 0.05).any()


def test_q_is_of_permutation_p_and_says_how_small_it_can_be():
    store = noise_store(effect=1.0)
    result = analyses.f_statistic(store, permutations=199)
    np.testing.assert_allclose(
        result.q.reshape(-1), false_discovery_control(result.p_permutation.reshape(-1)), rtol=1e-12
    )
    notes = " ".join(result.caveats)
    # 60 tests, p of 1/200 at least: 0.05 200 / 60 of them.
    assert "q <= 0.05 takes 6 of the 60 tests at once" in notes
    assert "takes" not in " ".join(analyses.f_statistic(store, permutations=1999).caveats)
    notes = " ".join(analyses.f_statistic(store, permutations=0).caveats)
    assert "q rests on p of the F distribution" in notes


def null_rates(stores: int, sizes: tuple[int, int], spread: float, tails: float) -> dict:
    """Shares of null stores by which something is called different."""
    found = dict.fromkeys(("q", "parametric", "family", "welch", "permanova", "w", "spread"), 0)
    labels = np.repeat([0, 1], sizes)
    for seed in range(stores):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(len(labels), 4, 4, 1))
        x = np.exp(tails * x) if tails else x
        x *= np.where(labels == 0, spread, 1.0)[:, None, None, None]
        store = analyses.MemoryStore({"S": x}, labels=labels, class_names=["a", "b"])
        f = analyses.f_statistic(store, feature="S", permutations=199, seed=seed)
        d = analyses.class_distance(store, feature="S", permutations=199, splits=2, seed=seed)
        found["q"] += bool((f.q <= 0.05).any())
        found["parametric"] += bool((false_discovery_control(f.p.reshape(-1)) <= 0.05).any())
        found["family"] += f.values["family_wise_p"] <= 0.05
        found["welch"] += f.values["welch_family_wise_p"] <= 0.05
        found["permanova"] += d.values["p_pseudo_f"] <= 0.05
        found["w"] += d.values["p_welch_f"] <= 0.05
        found["spread"] += f.values["dispersion_p"] <= 0.05
    return found


@pytest.mark.slow
def test_classes_of_4_and_200_with_heavy_tails():
    """q by the F distribution calls many null stores different."""
    stores = 40
    found = null_rates(stores, (4, 200), 1.0, 2.0)
    most = binom.ppf(0.9995, stores, 0.05)
    assert found["parametric"] > stores / 5
    assert found["q"] <= most
    assert found["spread"] <= most


@pytest.mark.slow
def test_heavy_tails_are_no_difference_in_spread():
    """One value moves the distances of its whole class: permuted residuals find that."""
    stores, found, by_rest = 60, 0, 0
    labels = np.arange(60) % 3
    for seed in range(stores):
        x = np.exp(2 * np.random.default_rng(seed).normal(size=(60, 3, 3, 1)))
        store = analyses.MemoryStore({"S": x}, labels=labels, class_names=["a", "b", "c"])
        values = analyses.class_distance(store, feature="S", permutations=99, splits=2).values
        found += values["p_dispersion"] <= 0.05
        flat = x.reshape(60, -1)
        means = np.stack([flat[labels == c].mean(axis=0) for c in range(3)])
        away = np.linalg.norm(flat - means[labels], axis=1)
        by_rest += permdisp(away, labels, np.full(3, 20), 99, 0).p <= 0.05
    assert found <= binom.ppf(0.9995, stores, 0.05)
    assert by_rest > stores / 4


@pytest.mark.slow
def test_unequal_spread_is_no_difference_in_mean():
    stores = 40
    found = null_rates(stores, (10, 100), 2.0, 0.0)
    most = binom.ppf(0.9995, stores, 0.05)
    assert found["family"] > stores / 2
    assert found["permanova"] > stores * 0.8
    assert found["spread"] > stores * 0.9
    assert found["welch"] <= most
    assert found["w"] <= most


def test_the_sentences_of_unequal_spread():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [10, 100])
    x = rng.normal(size=(110, 4, 4, 1)) * np.where(labels == 0, 2.0, 1.0)[:, None, None, None]
    store = analyses.MemoryStore({"S": x}, labels=labels, class_names=["a", "b"])
    said = analyses.f_statistic(store, feature="S", permutations=199).sentence
    assert "S differs between classes in spread, perhaps not in mean, at single positions" in said
    said = analyses.class_distance(store, feature="S", permutations=199).sentence
    assert said.startswith("classes differ in spread of S, perhaps not in mean")
    x[labels == 1] += 3.0
    said = analyses.f_statistic(store, feature="S", permutations=199).sentence
    assert "perhaps not" not in said
    assert "spread differs (PERMDISP" in said
