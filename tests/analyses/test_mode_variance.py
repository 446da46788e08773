"""mode-variance against two-way sums of squares by hand and the notebook."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from frictionstore import analyses
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


def made(seed: int, n: int = 60, effect: float = 0.0, smooth: float = 0.0) -> np.ndarray:
    """Noise of two modes, the first a thousand times as large; `effect` in the second."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, 6, 6, 2))
    if smooth:
        noise = gaussian_filter(noise, (0, smooth, smooth, 0))
    x = 10 + noise + rng.normal(size=(n, 1, 1, 2))
    x[..., 1] += effect * np.linspace(-1, 1, 6)[:, None]
    return x * [1000.0, 1.0]


def test_corrected_variance_is_the_mean_product_of_two_images_maps():
    x = made(0, n=9, effect=1.0)
    table = analyses.mode_variance(of(x)).table
    flat = x.reshape(9, 36, 2)
    flat = flat - flat.mean(axis=1, keepdims=True)
    pairs = [flat[i] * flat[j] for i in range(9) for j in range(9) if i != j]
    expected = np.sum(pairs, axis=(0, 1)) / 72 / 35
    np.testing.assert_allclose(table["variance"], expected, rtol=1e-8)
    image, row = flat.mean(axis=0), flat - flat.mean(axis=0)
    f = 9 * np.square(image).sum(axis=0) / 35 / (np.square(row).sum(axis=(0, 1)) / 8 / 35)
    np.testing.assert_allclose(table["f"], f, rtol=1e-8)
    np.testing.assert_allclose(table["omega_squared"], (f - 1) / (f - 1 + 9), rtol=1e-8)


@pytest.mark.parametrize("smooth", [0.0, 1.2])
def test_interval_of_nothing_holds_0_whatever_patches_share(smooth):
    """Neighbouring patches of an image are alike: F has fewer degrees of freedom than patches."""
    stores, covered, significant = 100, 0, 0
    for seed in range(stores):
        table = analyses.mode_variance(of(made(seed, smooth=smooth))).table
        covered += (table["variance_low"][1] <= 0) & (table["variance_high"][1] >= 0)
        significant += table["p"][1] <= 0.05
    assert covered >= binom.ppf(0.0005, stores, 0.95)
    low, high = binom.ppf([0.0005, 0.9995], stores, 0.05)
    assert low <= significant <= high


def test_interval_holds_the_true_variance():
    stores, covered = 100, 0
    true = np.var(np.repeat(np.linspace(-1, 1, 6), 6), ddof=1)
    for seed in range(stores):
        table = analyses.mode_variance(of(made(seed, effect=1.0))).table
        covered += table["variance_low"][1] <= true <= table["variance_high"][1]
    assert covered >= binom.ppf(0.0005, stores, 0.94)


def test_the_noisiest_mode_is_not_named():
    result = analyses.mode_variance(of(made(3, effect=1.0)))
    assert result.values["largest_variance_mode"] == 1
    assert result.values["largest_map_variance_mode"] == 0
    assert "varies most in mode 1 (smallest)" in result.sentence
    assert "the notebook's, with noise, is largest in mode 0 (largest)" in result.sentence
    nothing = analyses.mode_variance(of(made(3)))
    assert nothing.sentence.startswith("no evidence that the mean friction map varies")


def test_three_images_have_no_interval():
    result = analyses.mode_variance(of(made(0, n=3)))
    assert np.isnan(result.table["variance_low"]).all()
    assert "variance has no interval: it takes 4 images" in result.caveats


def test_what_is_not_tested_is_not_claimed():
    result = analyses.mode_variance(of(made(3, n=3)))
    assert result.sentence.startswith("whether the mean friction map varies over patches is not")


def test_images_without_any_pattern():
    level = np.arange(1.0, 41)[:, None, None, None] * np.ones((40, 4, 4, 2))
    assert "varies most" not in analyses.mode_variance(of(level)).sentence


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
