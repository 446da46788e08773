"""Features that are made of maps, against scipy and against stores that hold them as maps."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import entropy, rankdata

from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core import quantile_sketch
from frictionstore.analyses.core.derived import Derived
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.memory_store import MemoryStore
from frictionstore.analyses.core.source import (
    SelectedClasses,
    measured_map,
    require_feature,
    stored_maps,
)
from tests.analyses.material import feature, noise_store, with_repeats


def given(store, name: str) -> np.ndarray:
    """A whole feature, read in the store's own chunks."""
    return np.concatenate([arrays[name] for _, arrays in Derived(store).iter_chunks((name,))])


def store_with_s_orig() -> MemoryStore:
    rng = np.random.default_rng(1)
    s = np.sort(rng.lognormal(0, 1, (60, 4, 5, 3)).astype(np.float32), axis=3)[..., ::-1]
    return noise_store(maps={"S": s, "S_orig": s * 1.25})


def test_rank_is_scipys_over_all_images_by_mode():
    store = noise_store()
    for name in ("friction", "settle"):
        x = feature(store, name)
        expected = np.stack([rankdata(x[..., m]).reshape(x.shape[:-1]) for m in range(3)], axis=-1)
        expected = (expected - 0.5) / (60 * 4 * 5)
        np.testing.assert_allclose(given(store, f"rank_{name}"), expected, rtol=1e-6)


def test_effective_rank_ratio_and_delta():
    store = store_with_s_orig()
    s = feature(store, "S")
    np.testing.assert_allclose(given(store, "erank"), np.exp(entropy(s, axis=3)), rtol=1e-6)
    np.testing.assert_allclose(given(store, "ratio"), s[..., 0] / s[..., 2], rtol=1e-6)
    np.testing.assert_allclose(given(store, "delta"), s - feature(store, "S_orig"), rtol=1e-6)
    np.testing.assert_allclose(
        given(store, "log_ratio"), np.log10(s[..., 0] / s[..., 2]), rtol=1e-5
    )


def test_effective_rank_of_what_is_known():
    s = np.array([[1, 1, 1, 1], [5, 0, 0, 0], [2, 2, 0, 0]], np.float32).reshape(3, 1, 1, 4)
    store = MemoryStore({"S": s})
    np.testing.assert_allclose(given(store, "erank")[:, 0, 0], [4, 1, 2], rtol=1e-6)


def test_ranks_do_not_see_what_increases_all_values():
    store = noise_store()
    other = noise_store(maps={"friction": np.exp(feature(store) / 10)})
    ours = given(store, "rank_friction")
    np.testing.assert_array_equal(given(other, "rank_friction"), ours)
    np.testing.assert_array_equal(given(store, "rank_log_friction"), ours)
    np.testing.assert_array_equal(given(store, "rank_rank_friction"), ours)


@pytest.mark.parametrize("name", ["rank_S", "erank", "ratio", "delta", "log_ratio"])
def test_an_analysis_sees_what_a_store_of_it_holds(name):
    store = store_with_s_orig()
    held = MemoryStore(
        {"made": given(store, name)}, labels=store.labels, class_names=store.class_names, batch=9
    )
    ours = analyses.f_statistic(store, feature=name, permutations=20)
    expected = analyses.f_statistic(held, feature="made", permutations=20)
    # A map that this program does not know has the store's modes.
    np.testing.assert_allclose(ours.f, expected.f, rtol=1e-9)
    assert ours.f.shape == (4, 5, 1 if name in ("erank", "ratio", "log_ratio") else 3)


def test_a_repeat_is_ranked_among_the_measurement():
    rng = np.random.default_rng(5)
    maps = with_repeats(
        {name: rng.lognormal(2, 0.5, (30, 3, 3, 2)).astype(np.float32) for name in ("friction",)}
        | {"settle": np.ones((30, 3, 3, 2), np.uint8)}
    )
    store = MemoryStore(maps, labels=np.arange(30) % 2, class_names=["a", "b"], batch=7)
    known = maps["friction"][..., 1].reshape(-1).astype(np.float64)
    repeat = maps["friction_repeats"][..., 1, 0].reshape(-1).astype(np.float64)
    below = (known < repeat[:, None]).mean(axis=1) + (known == repeat[:, None]).mean(axis=1) / 2
    ours = given(store, "rank_friction@1")[..., 1].reshape(-1)
    np.testing.assert_allclose(ours, below, rtol=1e-6)
    result = analyses.mode_variance(store, feature="rank_friction")
    assert "repeats" in result.columns


def test_ranks_are_among_the_classes_that_are_used():
    store = noise_store()
    view = SelectedClasses(store, ["class2", "class0"])
    chosen = np.isin(store.labels, [0, 2])
    smaller = MemoryStore({"friction": feature(store)[chosen]})
    np.testing.assert_array_equal(given(view, "rank_friction"), given(smaller, "rank_friction"))


def test_a_sketch_that_is_not_exact_is_said(monkeypatch):
    exact = analyses.mode_variance(noise_store(), feature="rank_friction")
    assert not any("sketch" in caveat for caveat in exact.caveats)
    monkeypatch.setattr(quantile_sketch.QuantileSketch.__init__, "__defaults__", (64,))
    result = analyses.mode_variance(noise_store(), feature="rank_friction")
    assert any("ranks are from a sketch" in caveat for caveat in result.caveats)
    beside = analyses.mode_variance(noise_store(), feature="friction")
    assert not any("sketch" in caveat for caveat in beside.caveats)


def test_a_map_of_the_store_comes_before_what_is_made():
    x = np.random.default_rng(0).random((60, 4, 5, 3))
    store = noise_store(maps={"ratio": x, "rank_S": x})
    np.testing.assert_array_equal(given(store, "ratio"), x)
    np.testing.assert_array_equal(given(store, "rank_S"), x)


def test_names():
    store = store_with_s_orig()
    assert stored_maps(store, "rank_log_friction") == ("friction",)
    assert stored_maps(store, "rank_delta") == ("S", "S_orig")
    assert measured_map("rank_friction_exact") == "friction"
    assert require_feature(store, "rank_erank") == 1
    assert require_feature(store, "log_delta") == 3


@pytest.mark.parametrize(
    ("maps", "name", "message"),
    [
        ({}, "delta", r"no map 'delta' \(made of S, S_orig\) over patches in memory: its maps are"),
        ({}, "rank_nothing", "no map 'rank_nothing' over patches"),
        ({"S": np.zeros((60, 4, 5, 3))}, "erank", "map 'S' of memory has no effective rank: image"),
        ({"S": np.ones((60, 4, 5, 3)) * [3, 1, 0]}, "ratio", "'S' of memory has no ratio: image"),
        ({"S": np.ones((60, 4, 5, 3)) * [1, 1, -3]}, "log_ratio", "'ratio' .* has no logarithm"),
        ({"S": np.ones((60, 4, 5, 3)) * [1, 1, 1e-40]}, "ratio", "above 3.4e38; use S itself"),
        (
            {"friction": np.ones((60, 4, 5, 3)), "friction_exact": np.full((60, 4, 5, 3), 1e-40)},
            "rounding_error",
            "'rounding_error' of memory has no float32",
        ),
    ],
)
def test_what_is_not_defined_is_said(maps, name, message):
    with pytest.raises(AnalysisError, match=message):
        analyses.mode_variance(noise_store(maps=maps), feature=name)


def test_values_that_are_not_finite_have_no_rank():
    x = feature(noise_store())
    x[7, 1, 2, 0] = np.nan
    with pytest.raises(AnalysisError, match=r"'friction' .* holds 1 value .* '7' \(row 7: 1\)"):
        analyses.mode_variance(noise_store(maps={"friction": x}), feature="rank_friction")


def test_help_names_ranks():
    assert "rank_NAME" in CliRunner().invoke(analyze, ["f-statistic", "--help"]).output
