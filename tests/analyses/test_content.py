"""content against loops over images, shifts and other images, with scipy's correlations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.stats.image_content import contents
from frictionstore.analyses.stats.torus import standard_ranks, torus_correlations
from tests.analyses.material import noise_store, with_repeats
from tests.analyses.test_degenerate import refused
from tests.support import random_maps


def images(seed: int, n: int, grid: tuple[int, int], patch: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = (n, grid[0] * patch, grid[1] * patch, 3)
    contrast = rng.random((n, *grid, 1)).repeat(patch, axis=1).repeat(patch, axis=2)
    return (rng.integers(0, 256, size) * contrast).astype(np.uint8)


def small_store(n: int = 9, seed: int = 1, **maps: np.ndarray) -> analyses.MemoryStore:
    """Mode 1 follows the gradient of its own image, mode 2 that of the first image."""
    grid = (4, 5)
    shown = images(seed, n, grid)
    store = noise_store(seed=seed, n=n, grid=grid, modes=3)
    _, arrays = next(store.iter_chunks(("friction",), batch=n))
    friction = arrays["friction"].copy()
    steep = by_loops(shown, grid)[..., 0]
    friction[..., 1] += steep
    friction[..., 2] += steep[0]
    return noise_store(seed=seed, n=n, grid=grid, modes=3, batch=4,
                       maps={"friction": friction, "image": shown, **maps})  # fmt: skip


def by_loops(shown: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    found = np.zeros((len(shown), *grid, 2))
    for i, image in enumerate(shown.astype(float)):
        light = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
        steep = np.hypot(*np.gradient(light))
        height, width = light.shape[0] // grid[0], light.shape[1] // grid[1]
        for r in range(grid[0]):
            for c in range(grid[1]):
                patch = np.s_[r * height : (r + 1) * height, c * width : (c + 1) * width]
                found[i, r, c] = steep[patch].mean(), light[patch].var()
    return found


def rho(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a.reshape(-1), b.reshape(-1)).statistic)


def arrays_of(store: analyses.MemoryStore) -> tuple[np.ndarray, np.ndarray]:
    _, arrays = next(store.iter_chunks(("friction", "image"), batch=store.n_images))
    return arrays["friction"], by_loops(arrays["image"], store.grid)


def test_contents_of_patches():
    shown = images(0, 3, (2, 3), 5)
    np.testing.assert_allclose(contents(shown, (2, 3)), by_loops(shown, (2, 3)), rtol=1e-9)
    grey = shown[..., :1]
    np.testing.assert_allclose(
        contents(grey, (2, 3)), by_loops(grey.repeat(3, axis=3), (2, 3)), rtol=1e-9
    )
    assert (contents(shown, (10, 15))[..., 1] == 0).all()  # patches of one pixel


def test_every_figure_by_brute_force():
    store = small_store()
    result = analyses.content(store, donors=100)
    maps, content = arrays_of(store)
    n, shifts = len(maps), [(r, c) for r in range(4) for c in range(5)]
    for i in range(n):
        for m in range(3):
            for c in range(2):
                own = rho(maps[i, ..., m], content[i, ..., c])
                assert result.rho[i, m, c] == pytest.approx(own, abs=1e-12)
                moved = [
                    rho(maps[i, ..., m], np.roll(content[i, ..., c], by, (0, 1))) for by in shifts
                ]
                extreme = np.mean(np.abs(moved) >= abs(own) - 1e-9)
                assert result.p_torus[i, m, c] == pytest.approx(extreme)
                other = [rho(maps[i, ..., m], content[j, ..., c]) for j in range(n) if j != i]
                assert result.others[i, m, c] == pytest.approx(np.mean(other), abs=1e-12)
                p = (1 + (np.abs(other) >= abs(own) - 1e-9).sum()) / n
                assert result.p_donors[i, m, c] == pytest.approx(p)
                naive = spearmanr(maps[i, ..., m].reshape(-1), content[i, ..., c].reshape(-1))
                assert result.p_naive[i, m, c] == pytest.approx(naive.pvalue, rel=1e-6)
    mean_shift = np.mean(
        [rho(maps[i, ..., 0], np.roll(content[i, ..., 0], (3, 2), (0, 1))) for i in range(n)]
    )
    assert result.mean_under_shift[3, 2, 0, 0] == pytest.approx(mean_shift, abs=1e-12)


def test_its_own_image_or_any():
    """A map that follows its own image, and one that follows what all images share a place with."""
    result = analyses.content(small_store(n=60), donors=30)
    table = result.table.set_index(["content", "mode"])
    own, shared = table.loc[("gradient", "mode 1")], table.loc[("gradient", "mode 2 (smallest)")]
    assert own["rho"] > 0.5
    assert own["share_torus"] > 0.9
    assert own["excess_p_holm"] < 1e-6
    assert own["excess_low"] < own["excess"] == own["rho"] - own["rho_others"] < own["excess_high"]
    assert shared["excess_p_holm"] > 0.01
    assert result.values["gradient_mode"] == "mode 1"
    assert "mode 1: mean rho" in result.sentence


def test_intervals_and_p_hold_where_nothing_follows():
    """The mean over pairs of images has each image twice: its interval must know."""
    covered, small = 0, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shape = (12, 4, 4, 1)
        common = rng.normal(size=(1, 4, 4, 1))
        store = analyses.MemoryStore(
            {"friction": rng.normal(size=shape) + common,
             "image": np.clip(128 + 20 * (rng.normal(size=shape) + common), 0, 255)
             .repeat(2, axis=1).repeat(2, axis=2) * np.tile([[1, 0], [0, 1]], (4, 4))[:, :, None]}
        )  # fmt: skip
        result = analyses.content(store, donors=3)
        row = {key: values[0] for key, values in result.columns["modes"].items()}
        covered += row["excess_low"] <= 0 <= row["excess_high"]
        small += row["excess_p"] <= 0.05
    assert 88 <= covered <= 99
    assert covered == 100 - small


def test_increasing_functions_and_the_order_of_images_change_nothing():
    store = small_store()
    maps, _ = arrays_of(store)
    result = analyses.content(store, donors=100)
    other = analyses.content(small_store(friction=np.exp(maps / 50)), donors=100)
    np.testing.assert_allclose(other.rho, result.rho, atol=1e-12)
    order = np.random.default_rng(0).permutation(9)
    _, arrays = next(store.iter_chunks(("friction", "image"), batch=9))
    moved = analyses.MemoryStore({key: values[order] for key, values in arrays.items()}, batch=2)
    again = analyses.content(moved, donors=100)
    for name in ("rho", "p_torus", "p_donors", "others"):
        np.testing.assert_allclose(getattr(again, name), getattr(result, name)[order], atol=1e-12)


def test_shifts_of_both_are_none():
    rng = np.random.default_rng(0)
    a, b = (standard_ranks(rng.random((2, 3, 4, 2))) for _ in range(2))
    moved = torus_correlations(np.roll(a, (1, 2), (1, 2)), np.roll(b, (1, 2), (1, 2)))
    np.testing.assert_allclose(moved, torus_correlations(a, b), atol=1e-12)


def test_maps_and_images_that_do_not_vary():
    store = small_store()
    maps, _ = arrays_of(store)
    _, arrays = next(store.iter_chunks(("image",), batch=9))
    maps, shown = maps.copy(), arrays["image"].copy()
    maps[..., 0] = 5
    maps[3, ..., 1] = 2
    shown[7] = 9
    result = analyses.content(small_store(friction=maps, image=shown), donors=100)
    assert np.isnan(result.rho[:, 0]).all()
    assert np.isnan(result.rho[[3, 7], 1]).all()
    kept = [0, 1, 2, 4, 5, 6, 8]
    assert np.isfinite(result.rho[kept, 1]).all()
    content = by_loops(shown, (4, 5))
    other = [rho(maps[0, ..., 1], content[j, ..., 0]) for j in range(1, 9) if j != 7]
    assert result.others[0, 1, 0] == pytest.approx(np.mean(other), abs=1e-12)
    assert list(result.columns["modes"]["images"])[:2] == [0, 7]
    assert any("mode 0 (largest) and gradient: constant" in caveat for caveat in result.caveats)
    assert "NaN" not in result.to_json()


def test_repeats_of_the_measurement_are_compared():
    made = with_repeats({name: values for name, values in random_maps(12).items() if name != "S"})
    store = analyses.MemoryStore(made | {"image": images(0, 12, (4, 4))}, batch=5)
    assert "repeats" in analyses.content(store).columns


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({}, "made holds none: extract with --maps ...,image"),
        ({"image": np.zeros((8, 6, 8, 3), np.uint8)},
         "the images of made have 6 x 8 pixels and its grid is 4 x 4"),
        ({"image": np.zeros((8, 8, 8, 3), np.uint8)}, "needs maps and images that vary"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(tmp_path, maps, message):
    assert message in refused(tmp_path, "content", {**random_maps(8), **maps})


def test_one_image(tmp_path):
    maps = {**random_maps(1), "image": images(0, 1, (4, 4))}
    assert "made holds one: extract at least 2" in refused(tmp_path, "content", maps)


def test_a_map_that_is_constant(tmp_path):
    maps = {"friction": np.full((8, 4, 4, 2), 5.0), "image": images(0, 8, (4, 4))}
    assert "in no image of made both friction and the content do" in refused(
        tmp_path, "content", maps
    )


def test_a_store_on_disk(tmp_path):
    maps = {**random_maps(8), "image": images(0, 8, (4, 4))}
    store = fs.from_arrays(tmp_path / "made.zarr", maps)
    result = analyses.content(store, donors=5)
    assert result.rho.shape == (8, 4, 2)
    with pytest.raises(AnalysisError, match="donors is 0"):
        analyses.content(store, donors=0)


def test_shares_that_cannot_be_are_not_there():
    """12 patches have no p <= 0.05 by torus shifts, nor have 6 images by others."""
    grid = (3, 4)
    store = noise_store(n=6, grid=grid, modes=2, maps={"image": images(0, 6, grid)})
    found = analyses.content(store)
    assert np.isnan(found.table[["share_torus", "share_donors"]]).all(axis=None)
    assert np.isfinite(found.table["share_naive"]).all()
    assert "too few torus shifts for p <= 0.05" in found.sentence
    assert np.isfinite(analyses.content(store, alpha=0.2).table["share_torus"]).all()


def test_two_patches_have_no_p_of_t():
    friction = np.random.default_rng(0).random((6, 1, 2, 2))
    store = analyses.MemoryStore({"friction": friction, "image": images(0, 6, (1, 2))})
    assert np.isnan(analyses.content(store).table["share_naive"]).all()
