"""Is there spatial structure at all: one test of all maps, and enough shuffles of each."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binom

from frictionstore import analyses
from frictionstore.analyses import MemoryStore
from frictionstore.analyses.stats import joint_moran, lattice, moran, permutation, spatial_rows
from tests.analyses.material import noise_store

NEAR = 4 * 0.5 * np.sqrt(0.5 / joint_moran.MANY)
"""How far p may be from that of all orders, known from the shuffles until so many were extreme."""


def definition(z: np.ndarray, w: np.ndarray) -> float:
    d = z - z.mean()
    return len(z) / w.sum() * (d @ w @ d) / (d @ d)


def joint(
    maps: np.ndarray, seed: int = 0, weights: str = "row"
) -> dict[str, joint_moran.JointResult]:
    """The joint test of maps of shape (image, row, col, mode)."""
    n, rows, cols, modes = maps.shape
    tests = [moran.MoranTest(rows, cols, name, weights) for name in lattice.CONTIGUITIES]
    found = joint_moran.JointMoran(tests, modes)
    found.shuffle(slice(0, modes), *found.moments(maps.reshape(n, -1, modes)), seed, 1)
    return found.results()


@pytest.mark.parametrize("weights", ["row", "binary"])
def test_against_every_order_of_a_small_grid(weights):
    rng = np.random.default_rng(3)
    maps = rng.lognormal(size=(7, 2, 3, 2)) + np.arange(3)[:, None] * rng.uniform(
        0, 1.5, (7, 1, 1, 1)
    )
    maps[4, ..., 1] = 2.0  # does not vary: it has no I
    found = joint(maps, weights=weights)
    flat = maps.reshape(7, 6, 2)
    orders = [np.array(order) for order in permutations(range(6))]
    for contiguity in lattice.CONTIGUITIES:
        w = lattice.weight_matrix(2, 3, contiguity, weights)
        every = np.array(
            [
                [
                    np.mean(
                        [definition(flat[i, order, m], w) for i in range(7) if (i, m) != (4, 1)]
                    )
                    for m in range(2)
                ]
                for order in orders
            ]
        )
        overall = every @ [7 / 13, 6 / 13]
        one = found[contiguity]
        np.testing.assert_allclose(one.mean, every[0], rtol=1e-10)
        np.testing.assert_allclose(one.overall_mean, overall[0], rtol=1e-10)
        away = np.abs(every + 1 / 5)
        exact = (away >= away[0] - 1e-12).mean(axis=0)
        np.testing.assert_allclose(one.p, exact, atol=NEAR)
        exact = (np.abs(overall + 1 / 5) >= abs(overall[0] + 1 / 5) - 1e-12).mean()
        assert one.overall_p == pytest.approx(exact, abs=NEAR)
        scaled = away / np.sqrt(np.square(away).mean(axis=0))
        family = [(scaled.max(axis=1) >= s - 1e-9).mean() for s in scaled[0]]
        np.testing.assert_allclose(one.p_family_wise, family, atol=NEAR)


def test_it_is_right_where_images_share_a_pattern_and_shuffling_each_alone_is_not(monkeypatch):
    """A common pattern without spatial order gives every image the same I, by chance."""
    monkeypatch.setattr(joint_moran, "JOINT_SHUFFLES", 199)
    rng = np.random.default_rng(0)
    stores, by_joint, by_each = 300, 0, 0
    for seed in range(stores):
        maps = rng.normal(size=(1, 5, 5, 1)) + 0.5 * rng.normal(size=(40, 5, 5, 1))
        by_joint += joint(maps, seed)["queen"].overall_p <= 0.05
        alone = moran.moran(maps[..., 0])["queen"]
        error = np.sqrt(alone.variance_random.sum()) / 40  # as if images were independent
        by_each += abs(alone.i.mean() - alone.expectation) > 1.96 * error
    low, high = binom.ppf([0.0005, 0.9995], stores, 0.05)
    assert low <= by_joint <= high
    assert by_each > stores / 2


@pytest.mark.parametrize("kind", ["noise", "heavy tails"])
def test_stores_without_structure_are_told_to_have_some_in_one_of_twenty(kind, monkeypatch):
    monkeypatch.setattr(joint_moran, "JOINT_SHUFFLES", 199)
    rng = np.random.default_rng(1)
    stores, found = 300, 0
    for seed in range(stores):
        maps = rng.normal(size=(30, 4, 5, 2))
        maps = np.exp(4 * maps) if kind == "heavy tails" else maps
        found += joint(maps, seed)["queen"].overall_p <= 0.05
    low, high = binom.ppf([0.0005, 0.9995], stores, 0.05)
    assert low <= found <= high


@pytest.mark.slow
def test_the_sentence_of_null_stores_is_right_19_times_in_20():
    """The whole analysis, 400 stores: the sentence, and any map at q <= 0.05."""
    rng = np.random.default_rng(2)
    stores, said, share = 400, 0, 0
    for seed in range(stores):
        maps = np.exp(rng.normal(size=(60, 4, 4, 1)))
        result = analyses.spatial_cv(
            MemoryStore({"S": maps}), feature="S", permutations=100, seed=seed
        )
        said += "no evidence" not in result.sentence
        share += result.values["n_significant_queen"] > 0
    low, high = binom.ppf([0.0005, 0.9995], stores, 0.05)
    assert low <= said <= high
    assert share <= high


def planted(n: int, total: int = 1000) -> MemoryStore:
    """Noise, with a gradient in some maps, spread over the store."""
    rng = np.random.default_rng(5)
    maps = rng.normal(20.0, 1.0, (total, 8, 8, 1)).astype(np.float32)
    where = rng.permutation(total)[:n]
    maps[where] += np.linspace(0, 4, 8, dtype=np.float32)[:, None, None]
    return MemoryStore({"friction": maps}, labels=np.arange(total) % 2, class_names=["a", "b"])


@pytest.mark.parametrize("n", [150, 45])
@pytest.mark.parametrize("shuffles", [100, 1000])
def test_a_gradient_in_few_of_a_thousand_maps_is_found(n, shuffles):
    result = analyses.spatial_cv(planted(n), permutations=shuffles)
    values = result.values
    assert result.sentence.startswith("friction has spatial structure within images")
    assert "more alike than by chance" in result.sentence
    assert values["p_mean_moran_queen"] <= 0.001
    # Which maps: most of those with the gradient, and few others.
    assert 0.8 * n <= values["n_significant_queen"] <= 1.2 * n
    assert result.table["moran_queen_p"][0] == values["p_mean_moran_queen"]


def test_nothing_is_found_in_none_of_a_thousand_maps():
    result = analyses.spatial_cv(planted(0), permutations=100)
    assert result.sentence.startswith("no evidence of spatial structure of friction within images")
    assert result.values["n_significant_queen"] == 0


def test_the_share_of_maps_does_not_decide():
    """Gradients and lattices of peaks: every map has structure, and there is none on average."""
    rng = np.random.default_rng(0)
    maps = 0.1 * rng.normal(size=(160, 6, 6, 1))
    row, col = np.indices((6, 6))
    maps[:20] += (row / 5)[..., None]
    maps[20:] += ((row % 2 == 0) & (col % 2 == 0))[..., None] * 1.0
    # As many of each as cancel.
    tests = moran.moran(maps[..., 0])["queen"].i
    n = round(20 * (tests[:20].mean() + 1 / 35) / -(tests[20:].mean() + 1 / 35))
    assert 20 < n <= 140
    result = analyses.spatial_cv(MemoryStore({"S": maps[: 20 + n]}), feature="S", permutations=199)
    assert result.values["share_significant_queen"] == 1.0
    assert result.values["p_mean_moran_queen"] > 0.05
    assert result.sentence.startswith(
        "no evidence of spatial structure of S within images, on average"
    )
    assert "100.0% of" in result.sentence


def test_neighbours_less_alike_than_by_chance_are_said_to_be():
    row, col = np.indices((6, 6))
    maps = (
        np.random.default_rng(0).normal(size=(20, 6, 6, 1))
        + 2 * ((row % 2 == 0) & (col % 2 == 0))[..., None]
    )
    result = analyses.spatial_cv(MemoryStore({"S": maps}), feature="S", permutations=50)
    assert result.values["p_mean_moran_queen"] < 0.01
    assert "less alike than by chance" in result.sentence


def test_further_shuffles_give_the_p_that_many_shuffles_give():
    result = analyses.spatial_cv(planted(10, total=300), permutations=50)
    assert np.nanmax(result.moran_queen_shuffles) > 1000
    maps = next(planted(10, total=300).iter_chunks(("friction",), batch=300))[1]["friction"][..., 0]
    many = moran.moran(maps, permutations=4000, rng=np.random.default_rng(99))["queen"].p
    p, shuffles = result.moran_queen_p[:, 0], result.moran_queen_shuffles[:, 0]
    error = np.sqrt(many * (1 - many) * (1 / shuffles + 1 / 4000)) + 1 / shuffles + 1 / 4000
    assert (np.abs(p - many) < 5 * error).all()
    # Those with many as extreme stopped at once; p is a count over its shuffles.
    assert (shuffles[p > 0.2] == 50).all()
    np.testing.assert_allclose(p * (shuffles + 1), np.rint(p * (shuffles + 1)), atol=1e-6)
    table = result.tables["images"]
    np.testing.assert_array_equal(table["moran_queen_shuffles"], shuffles)


def test_p_that_stops_at_any_stage_is_exact():
    """P(p <= u) <= u for every u, though the number of shuffles depends on what came out."""
    rng = np.random.default_rng(7)
    n = 3000
    maps = rng.normal(size=(n, 3, 4, 1))
    result = analyses.spatial_cv(MemoryStore({"S": maps}, batch=500), feature="S", permutations=19)
    p = result.moran_queen_p[:, 0]
    assert len(np.unique(result.moran_queen_shuffles)) > 4
    for u in (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3):
        assert (p <= u).sum() <= binom.ppf(0.9999, n, u), u
    assert (p <= 0.05).mean() > 0.03  # and not merely large


def test_results_do_not_depend_on_chunks_or_on_the_passes_that_memory_takes(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3, 4, 5))
    x[:40] += np.arange(4)[:, None]
    results = []
    for batch, memory in ((300, 256 << 20), (7, 256 << 20), (256, 2 * 8 * 144)):
        passes = []
        store = MemoryStore({"friction": x}, batch=batch)
        read = store.iter_chunks

        def counted(names, read=read, passes=passes, **options):
            passes.append(names)
            return read(names, **options)

        store.iter_chunks = counted
        monkeypatch.setattr(spatial_rows, "PRODUCTS", memory)
        results.append(analyses.spatial_cv(store, permutations=40))
        # Once for the maps and once without their mean; two modes at a time.
        assert len(passes) == (2 if memory > 10**6 else 6)
    for other in results[1:]:
        for key, array in results[0].arrays.items():
            np.testing.assert_array_equal(array, other.arrays[key], key)
        for key in ("moran_queen_p", "moran_queen_p_family_wise", "moran_rook_p"):
            np.testing.assert_array_equal(results[0].table[key], other.table[key])
        assert other.values == pytest.approx(results[0].values, rel=1e-12, nan_ok=True)


def test_maps_that_do_not_fit_keep_the_p_they_have(monkeypatch):
    full = analyses.spatial_cv(planted(10, total=300), permutations=50)
    monkeypatch.setattr(spatial_rows, "HELD", 64 * 4 * 3)
    less = analyses.spatial_cv(planted(10, total=300), permutations=50)
    assert np.nanmax(less.moran_queen_shuffles) == 50
    same = full.moran_queen_shuffles == 50
    np.testing.assert_array_equal(full.moran_queen_p[same], less.moran_queen_p[same])
    assert full.moran_queen_p.min() < 1 / 51 == less.moran_queen_p.min()
    assert any("up to 50 where" in caveat for caveat in less.caveats)


def test_a_grid_with_only_one_value_of_i_has_no_evidence():
    maps = np.random.default_rng(0).normal(size=(30, 2, 2, 1))
    result = analyses.spatial_cv(MemoryStore({"S": maps}), feature="S", permutations=50)
    assert result.values["p_mean_moran_queen"] == 1.0
    assert result.table["moran_queen_p_family_wise"][0] == 1.0
    assert result.sentence.startswith("no evidence")


def test_without_permutations_or_varying_maps_nothing_is_claimed():
    result = analyses.spatial_cv(noise_store(), permutations=0)
    assert "no permutations were asked for" in result.sentence
    assert "p_mean_moran_queen" not in result.values
    flat = MemoryStore({"friction": np.full((5, 3, 3, 2), 4.0)})
    result = analyses.spatial_cv(flat, permutations=20)
    assert result.sentence.startswith("no map of friction varies over its patches")
    assert result.values["mean_cv"] == 0.0
    assert '"p_mean_moran_queen": null' in result.to_json()


def test_the_mean_cv_does_not_jump_when_one_patch_makes_a_mode_vary():
    x = np.random.default_rng(0).uniform(1, 2, (50, 4, 4, 2))
    x[..., 0] = 5.0
    before = analyses.spatial_cv(MemoryStore({"friction": x}), permutations=0)
    x[3, 1, 1, 0] = 5.001
    after = analyses.spatial_cv(MemoryStore({"friction": x}), permutations=0)
    assert len(before.table) == 1
    assert len(after.table) == 2
    for key in ("mean_cv", "mean_cv_low", "mean_cv_high"):
        assert after.values[key] == pytest.approx(before.values[key], rel=1e-5)
    assert after.notebook["mean_cv"] == pytest.approx(before.notebook["mean_cv"], rel=1e-5)


@pytest.mark.slow
def test_a_normal_p_from_z_would_find_structure_where_two_patches_meet_by_chance():
    """Why maps are shuffled on instead: in heavy tails z is exact and not normal."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    maps = rng.uniform(0, 1, (400, 16 * 16))
    for values in maps:
        values[rng.choice(256, 2, replace=False)] = 1000.0
    maps = maps.reshape(400, 16, 16, 1)
    z = moran.moran(maps[..., 0])["queen"].z
    by_normal = permutation.benjamini_hochberg(2 * norm.sf(np.abs(z))) <= 0.05
    assert by_normal.sum() >= 10
    result = analyses.spatial_cv(MemoryStore({"S": maps}), feature="S", permutations=200)
    # One pair meets in a corner of the grid, which is rare indeed.
    assert result.values["n_significant_queen"] <= 1
    assert np.median(result.moran_queen_p[by_normal]) > 0.01
