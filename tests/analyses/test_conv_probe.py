"""conv-probe: what keeps space sees what flat maps hide, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.probe import patches


def texture_store(n: int = 120, signal: float = 2.5, seed: int = 0) -> analyses.MemoryStore:
    """Two classes: a vertical or a horizontal bar of three patches, anywhere, of either sign."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 2)
    S = 0.5 * rng.normal(size=(n, 8, 8, 1))
    for image, label in enumerate(labels):
        for _ in range(3):
            r, c = rng.integers(1, 7, 2)
            bar = (slice(r - 1, r + 2), c) if label else (r, slice(c - 1, c + 2))
            S[image][(*bar, 0)] += signal * rng.choice([-1, 1])
    friction = np.exp(rng.normal(size=S.shape))
    return analyses.MemoryStore(
        {"S": S, "friction": friction}, labels=labels, class_names=["row", "column"]
    )


def test_patterns_that_a_flat_readout_does_not_see():
    store = texture_store()
    flat = analyses.ridge_probe(store, features="S", permutations=0).table["accuracy"][0]
    result = analyses.conv_probe(store, features="S,log_friction,S+log_friction")
    rows = result.table.set_index("features")
    assert flat < 0.65
    assert rows.loc["S", "accuracy"] > 0.75
    assert rows.loc["S", "accuracy_low"] > 0.5
    assert rows.loc["log_friction", "accuracy_low"] < 0.5
    assert rows.loc["S", "selectivity"] == pytest.approx(
        rows.loc["S", "accuracy"] - rows.loc["S", "control_accuracy"]
    )
    lifts = result.tables["lifts"]
    assert list(lifts["maps_of"]) == ["same images", "shuffled"]
    assert (lifts["accuracy_low"] <= 0).all()
    assert (lifts["accuracy_high"] >= 0).all()
    pairs = result.tables["comparisons"].set_index(["first", "second"])
    assert pairs.loc[("log_friction", "S"), "accuracy_high"] < 0
    text = " ".join([*result.sentences, *result.caveats])
    assert "of shuffled images" in text
    assert " adds " not in text


def test_patches_are_cut_as_by_hand():
    values = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    found = patches.patches(values)
    assert found.shape == (2, 2, 3, 27)
    for r in range(2):
        for c in range(3):
            own = values[1, r : r + 3, c : c + 3].transpose(2, 0, 1).ravel()
            np.testing.assert_array_equal(found[1, r, c], own)
    small = patches.patches(values[:, :2, :1])
    assert small.shape == (2, 1, 1, 27)


def test_activations_are_pooled_over_quadrants():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(12, 7, 6, 2)).astype(np.float32)
    words = patches.Dictionary(values, np.random.default_rng(0))
    pooled = words.pooled(values)
    k = len(words.words)
    assert pooled.shape == (12, 4 * k)
    flat = (patches.patches(values[3:4])[0] - words._mean) / words._scale @ words._turn
    distance = np.linalg.norm(flat[:, :, None] - words.words, axis=3)
    active = np.maximum(distance.mean(axis=2, keepdims=True) - distance, 0)
    expected = [active[:3, :2], active[:3, 2:], active[2:, :2], active[2:, 2:]]
    np.testing.assert_allclose(
        pooled[3],
        np.concatenate([one.mean(axis=(0, 1)) for one in expected]),
        rtol=1e-9,
        atol=1e-12,
    )


def test_k_means_finds_groups_and_survives_empty_ones():
    rng = np.random.default_rng(0)
    middle = np.array([[0.0, 0], [10, 0], [0, 10]])
    x = np.concatenate([m + 0.1 * rng.normal(size=(50, 2)) for m in middle])
    for seed in range(20):
        found = patches.k_means(x, 6, np.random.default_rng(seed))
        assert np.isfinite(found).all()
    assert len(patches.k_means(x[:2], 6, rng)) == 2
    same = patches.k_means(np.ones((9, 2)), 3, rng)
    np.testing.assert_array_equal(same, 1.0)


def test_words_are_learnt_from_training_images_only(monkeypatch):
    seen = []
    learn = patches.Dictionary.__init__

    def watched(self, values, rng):
        seen.append(values.copy())
        learn(self, values, rng)

    monkeypatch.setattr(patches.Dictionary, "__init__", watched)
    store = texture_store(n=40)
    result = analyses.conv_probe(store, features="S")
    ((_, arrays),) = store.iter_chunks(("S",), batch=40)
    S = arrays["S"].astype(np.float32)
    assert len(seen) == 5
    for fold, values in enumerate(seen):
        np.testing.assert_array_equal(values, S[result.fold != fold])


def test_shares_stay_shares_and_the_largest_class_is_named():
    rng = np.random.default_rng(0)
    labels = (np.arange(24) < 2).astype(int)
    maps = {"S": rng.normal(size=(24, 4, 4, 2)), "flat": np.full((24, 4, 4), 0.5)}
    store = analyses.MemoryStore(maps, labels=labels, class_names=["a", "b"])
    found = analyses.conv_probe(store, features="S,flat,S+flat")
    assert (found.table["accuracy_low"] >= 0).all()
    assert (found.table["accuracy_high"] <= 1).all()
    assert found.values["majority_level"] == pytest.approx(22 / 24)
    assert "chance 50.0%, the largest class 91.7%" in found.sentence


def test_a_store_without_s_is_told_what_would_work():
    store = analyses.MemoryStore(
        {"friction": np.random.default_rng(0).random((20, 3, 3, 1))},
        labels=np.arange(20) % 2, class_names=["a", "b"],
    )  # fmt: skip
    with pytest.raises(AnalysisError, match="^conv-probe .* or name maps with --features$"):
        analyses.conv_probe(store)
