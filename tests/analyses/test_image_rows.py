"""image-summary and spatial-cv, one row per image, against numpy and the notebook."""

from __future__ import annotations

import numpy as np
import pytest

from frictionstore import analyses
from tests.analyses.material import digits, digits_store, feature, noise_store


def test_image_figures_by_hand():
    store = noise_store()
    x = feature(store)
    x[3] = 1.0
    x[3, 0, 0] = 50.0
    store = analyses.MemoryStore({"friction": x}, image_ids=[f"img{i}" for i in range(60)])
    table = analyses.image_summary(store).table
    assert table["image_id"].tolist() == [f"img{i}" for i in range(60)]
    for i in (0, 3, 41):
        flat = x[i].reshape(20, 3)
        total = flat.sum(axis=1)
        share = total / total.sum()
        row = table.iloc[i]
        assert row["mean"] == pytest.approx(flat.mean(), rel=1e-12)
        assert row["std"] == pytest.approx(flat.std(axis=0, ddof=1).mean(), rel=1e-12)
        assert row["min"] == flat.min()
        assert row["max"] == flat.max()
        assert row["entropy"] == pytest.approx(-(share * np.log(share)).sum() / np.log(20))
        assert row["hot_spots"] == (total > 2 * total.mean()).sum()
    assert table["hot_spots"][3] == 1


def test_entropy_without_shares_is_said_to_be_undefined():
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 1))
    x[0] = 0.0
    x[1:] = np.abs(x[1:])
    x[2, 0, 0] = 0.0
    result = analyses.image_summary(analyses.MemoryStore({"friction": x}))
    assert np.isnan(result.table["entropy"]).tolist() == [True, False, False, False]
    assert any("entropy is not defined for 1 images" in caveat for caveat in result.caveats)


def test_notebook_samples_of_the_digits():
    _, printed = digits()
    result = analyses.image_summary(digits_store())
    samples = result.notebook["samples"]
    assert len(samples) == 20
    for mine, theirs in zip(samples, printed["6_samples"], strict=True):
        assert mine["index"] == theirs["index"]
        assert mine["class"] == str(theirs["class"])
        assert mine["hot_spots"] == theirs["hot"]
        for key in ("mean", "std", "max", "entropy"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3)


def test_spatial_cv_by_hand():
    store = noise_store()
    result = analyses.spatial_cv(store, permutations=30)
    flat = feature(store).reshape(60, 20, 3)
    np.testing.assert_allclose(result.variance, flat.var(axis=1, ddof=1), rtol=1e-9)
    cv = flat.std(axis=1, ddof=1) / flat.mean(axis=1)
    np.testing.assert_allclose(result.cv, cv, rtol=1e-9)
    np.testing.assert_allclose(result.table["cv"], cv.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(result.table["cv_q95"], np.quantile(cv, 0.95, axis=0), rtol=1e-9)
    assert len(result.tables["images"]) == 180
    assert "no evidence of spatial structure" in result.sentence
    assert "notebook verdict: HAS SPATIAL STRUCTURE" in result.sentence


def test_shuffled_patches_keep_the_cv_and_lose_the_structure():
    x = digits()[0]["friction"][:20]
    rng = np.random.default_rng(0)
    flat = x.reshape(20, 256, 4)
    shuffled = np.stack([image[rng.permutation(256)] for image in flat]).reshape(x.shape)
    plain = analyses.spatial_cv(analyses.MemoryStore({"friction": x}), permutations=99)
    mixed = analyses.spatial_cv(analyses.MemoryStore({"friction": shuffled}), permutations=99)
    np.testing.assert_allclose(plain.cv, mixed.cv, rtol=1e-9, atol=1e-12)
    assert plain.values["share_significant_queen"] == 1
    assert mixed.values["share_significant_queen"] <= 0.05
    assert plain.values["mean_moran_queen"] > 0.5
    assert abs(mixed.values["mean_moran_queen"]) < 0.05


def test_spatial_cv_does_not_depend_on_chunks():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3, 3, 1))
    results = [
        analyses.spatial_cv(analyses.MemoryStore({"friction": x}, batch=batch), permutations=40)
        for batch in (300, 7, 256)
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].moran_queen_p, other.moran_queen_p)
        np.testing.assert_array_equal(results[0].moran_rook_i, other.moran_rook_i)


def test_notebook_cv_of_the_digits():
    _, printed = digits()
    result = analyses.spatial_cv(digits_store(), permutations=20)
    notebook = result.notebook
    assert notebook["mean_cv"] == pytest.approx(printed["1_spatial_cv"]["overall"], rel=1e-3)
    assert notebook["verdict"] == "SPATIALLY UNIFORM"
    assert "mode 0 (largest) is constant over all images and left out" in result.caveats
    for k, mine in enumerate(notebook["per_mode"], start=1):
        assert mine["cv_mean"] == pytest.approx(printed["1_spatial_cv"]["mean"][k], rel=1e-3)
        assert mine["cv_median"] == pytest.approx(printed["1_spatial_cv"]["median"][k], rel=1e-3)
        assert mine["cv_max"] == pytest.approx(printed["1_spatial_cv"]["max"][k], rel=1e-3)
        assert mine["variance_mean"] == pytest.approx(printed["1_spatial_var"]["mean"][k], rel=1e-3)
        assert mine["variance_std"] == pytest.approx(printed["1_spatial_var"]["std"][k], rel=1e-3)


def test_an_image_whose_map_is_flat_is_named():
    x = np.random.default_rng(0).normal(size=(5, 3, 3, 2))
    x[2, ..., 1] = 0.3
    result = analyses.spatial_cv(analyses.MemoryStore({"friction": x}), permutations=20)
    assert np.isnan(result.moran_queen_i[2, 1])
    assert result.variance[2, 1] == 0
    assert any(
        "1 of 10 maps of one image and mode do not vary" in caveat for caveat in result.caveats
    )


def test_an_interval_of_entropy_ends_where_entropies_do() -> None:
    """Two images, one with all in one patch: a t interval would reach far below 0 and above 1."""
    maps = np.ones((2, 2, 2, 1), np.float32)
    maps[1] = np.array([1, 0, 0, 0], np.float32).reshape(2, 2, 1)
    store = analyses.MemoryStore({"S": maps}, labels=np.zeros(2, np.int64), class_names=["a"])
    found = analyses.image_summary(store, feature="S")
    assert (found.values["entropy_low"], found.values["entropy_high"]) == (0.0, 1.0)
    assert found.columns["classes"]["entropy_low"] == [0.0]
    assert found.columns["classes"]["entropy_high"] == [1.0]
