"""class-distance against scipy's distances, PERMANOVA from pairwise distances, the notebook."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist, squareform

from frictionstore import analyses
from frictionstore.analyses.stats import permutation
from tests.analyses.material import digits, digits_store, feature, noise_store, permuted


def permanova(x: np.ndarray, labels: np.ndarray) -> float:
    """Anderson's pseudo-F from all pairwise distances."""
    square = squareform(pdist(x)) ** 2
    n, classes = len(x), len(np.unique(labels))
    total = square.sum() / 2 / n
    within = sum(
        square[np.ix_(labels == c, labels == c)].sum() / 2 / (labels == c).sum()
        for c in np.unique(labels)
    )
    return ((total - within) / (classes - 1)) / (within / (n - classes))


def mean_maps(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([x[labels == c].mean(axis=0) for c in np.unique(labels)])


def test_distances_and_cosines_are_scipys():
    store = noise_store(effect=2.0)
    result = analyses.class_distance(store, permutations=0)
    means = mean_maps(feature(store).reshape(60, -1), store.labels)
    np.testing.assert_allclose(result.distance, cdist(means, means), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.cosine, 1 - cdist(means, means, "cosine"), rtol=1e-9)
    pairs = pdist(means)
    assert result.values["mean_distance"] == pytest.approx(pairs.mean(), rel=1e-9)
    assert result.values["min_cosine"] == pytest.approx(1 - pdist(means, "cosine").max(), rel=1e-9)
    assert result.values["pseudo_f"] == pytest.approx(
        permanova(feature(store).reshape(60, -1), store.labels), rel=1e-9
    )


def test_p_values_against_permuting_by_hand():
    store = noise_store(seed=5, n=24, grid=(2, 3), modes=2, effect=1.0)
    permutations = 120
    result = analyses.class_distance(store, permutations=permutations, seed=3)
    drawn = permuted(store.labels, permutations, 3)
    x = feature(store).reshape(24, -1)
    distance = [pdist(mean_maps(x, labels)).mean() for labels in drawn]
    cosine = [1 - pdist(mean_maps(x, labels), "cosine").max() for labels in drawn]
    f = [permanova(x, labels) for labels in drawn]
    np.testing.assert_allclose(result.null_mean_distance, distance, rtol=1e-9)
    np.testing.assert_allclose(result.null_pseudo_f, f, rtol=1e-8)
    v = result.values
    assert v["p_mean_distance"] == permutation.p_value(v["mean_distance"], distance)
    assert v["p_pseudo_f"] == permutation.p_value(v["pseudo_f"], f)
    assert v["p_min_cosine"] == permutation.p_value(v["min_cosine"], cosine, "less")


def test_half_splits_are_halves_of_a_class():
    """With two images in a class, every split is the same: one against the other."""
    x = np.arange(4.0 * 4).reshape(4, 2, 2, 1) ** 2
    store = analyses.MemoryStore({"friction": x}, labels=[0, 1, 0, 1], class_names=["a", "b"])
    result = analyses.class_distance(store, permutations=0, splits=30)
    flat = x.reshape(4, -1)
    expected = [np.linalg.norm(flat[0] - flat[2]), np.linalg.norm(flat[1] - flat[3])]
    np.testing.assert_allclose(result.half_split_distances, np.tile(expected, (30, 1)), rtol=1e-9)


def test_noise_floor_is_what_noise_does():
    """Squared distance of two halves of n/2 images is on average 4 variance / n per column."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4, 4, 2))
    store = analyses.MemoryStore({"friction": x}, labels=np.arange(400) % 2, batch=37)
    result = analyses.class_distance(store, permutations=0, splits=400)
    square = np.square(result.half_split_distances).mean()
    assert square == pytest.approx(32 * 4 / 200, rel=0.15)


def test_notebook_figures_of_the_digits():
    _, printed = digits()
    result = analyses.class_distance(digits_store(), permutations=20, splits=5)
    expected = printed["2_class_distance"]
    np.testing.assert_allclose(result.distance, expected["l2"], rtol=1e-3)
    notebook = result.notebook
    assert notebook["mean_inter_class_distance"] == pytest.approx(expected["mean_inter"], rel=1e-3)
    assert notebook["mean_cosine"] == pytest.approx(expected["cos_mean"], rel=1e-3)
    assert notebook["min_cosine"] == pytest.approx(expected["cos_min"], rel=1e-3)
    assert notebook["verdict"] == "NEARLY IDENTICAL PATTERNS"
    assert any("mode 0 (largest) is constant" in caveat for caveat in result.caveats)


def test_all_values_equal():
    store = noise_store(maps={"friction": np.full((60, 4, 5, 3), 5.0)})
    result = analyses.class_distance(store, permutations=20, splits=3)
    assert result.values["mean_distance"] == 0
    assert result.values["p_mean_distance"] == 1
    assert np.isnan(result.values["pseudo_f"])
    assert result.sentence.startswith("no evidence")
