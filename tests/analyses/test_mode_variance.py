"""mode-variance against two-way sums of squares by hand and the notebook."""

from __future__ import annotations

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses.stats.intervals import jackknife
from tests.analyses.material import digits, digits_store, feature, noise_store


def test_shares_are_two_way_sums_of_squares():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 3, (70, 1, 1, 1))
    position = rng.normal(0, 2, (1, 4, 5, 2))
    x = 100 + image + position + rng.normal(0, 1, (70, 4, 5, 2))
    result = analyses.mode_variance(analyses.MemoryStore({"friction": x}, batch=9))
    flat = x.reshape(70, 20, 2)
    total = np.square(flat - flat.mean(axis=(0, 1))).sum(axis=(0, 1))
    between_images = 20 * np.square(flat.mean(axis=1) - flat.mean(axis=(0, 1))).sum(axis=0)
    between_positions = 70 * np.square(flat.mean(axis=0) - flat.mean(axis=(0, 1))).sum(axis=0)
    table = result.table
    np.testing.assert_allclose(table["share_between_images"], between_images / total, rtol=1e-9)
    np.testing.assert_allclose(
        table["share_between_positions"], between_positions / total, rtol=1e-9
    )
    np.testing.assert_allclose(
        table["share_rest"], 1 - (between_images + between_positions) / total, rtol=1e-9
    )
    mean_map = flat.mean(axis=0)
    np.testing.assert_allclose(table["map_variance"], mean_map.var(axis=0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(
        table["map_cv"], mean_map.std(axis=0, ddof=1) / mean_map.mean(axis=0), rtol=1e-9
    )
    np.testing.assert_allclose(result.mean_map, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.variance_map, x.var(axis=0, ddof=1), rtol=1e-9)


def test_jackknife_of_a_mean_is_its_t_interval():
    values = np.random.default_rng(0).normal(size=(20, 1))
    left_out = (values.sum(axis=0) - values) / 19
    low, high = jackknife(values.mean(axis=0), left_out)
    half = 2.093024054408263 * values.std(ddof=1) / np.sqrt(20)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + np.array([-half, half]))


def test_does_not_depend_on_chunks():
    one = analyses.mode_variance(noise_store(batch=60))
    many = analyses.mode_variance(noise_store(batch=7))
    for name in ("map_variance", "variance_low", "cv_high", "share_rest"):
        np.testing.assert_allclose(one.table[name], many.table[name], rtol=1e-9)


def test_needs_no_labels():
    store = noise_store()
    bare = analyses.MemoryStore({"friction": feature(store)})
    np.testing.assert_allclose(
        analyses.mode_variance(bare).table["map_variance"],
        analyses.mode_variance(store).table["map_variance"],
    )


def test_notebook_figures_of_the_digits():
    _, printed = digits()
    result = analyses.mode_variance(digits_store())
    for mine, theirs in zip(
        result.notebook["per_mode"], printed["5_mode_variance"][1:], strict=True
    ):
        assert mine["map_mean"] == pytest.approx(theirs["mean"], rel=1e-3)
        assert mine["map_var"] == pytest.approx(theirs["var"], rel=1e-3)
        assert mine["map_cv"] == pytest.approx(theirs["cv"], rel=1e-3)
    assert result.caveats[0] == "mode 0 (largest) is constant over all images and left out"


def test_all_constant():
    store = analyses.MemoryStore({"friction": np.full((5, 3, 3, 2), 2.5)})
    result = analyses.mode_variance(store)
    assert "every mode of friction is constant" in result.sentence
    assert "2 modes are constant" in result.caveats[0]


def test_heavy_tails_are_named():
    x = np.ones((2000, 3, 3, 2)) + np.random.default_rng(0).random((2000, 3, 3, 2))
    assert not any("heavy" in c for c in analyses.mode_variance(of(x)).caveats)
    x[5, 1, 1, 1] = 1e5
    caveats = analyses.mode_variance(of(x)).caveats
    assert any("heavy-tailed in mode 1 (smallest) (up to 1e+05" in c for c in caveats)


def of(x: np.ndarray) -> analyses.MemoryStore:
    return analyses.MemoryStore({"friction": x})
