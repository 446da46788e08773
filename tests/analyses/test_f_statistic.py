"""f-statistic against scipy, brute-force permutation, a planted effect and the notebook."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f_oneway, false_discovery_control

from frictionstore import analyses
from frictionstore.analyses.stats.label_sums import f_from_sums
from tests.analyses.material import digits, digits_store, feature, noise_store, permuted


def brute_f(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    groups = [x[labels == c] for c in np.unique(labels[labels >= 0])]
    return np.asarray(f_oneway(*groups, axis=0).statistic)


def test_is_scipys_one_way_anova():
    store = noise_store(effect=1.0)
    result = analyses.f_statistic(store, permutations=0)
    x = feature(store)
    expected = f_oneway(*(x[store.labels == c] for c in range(3)), axis=0)
    np.testing.assert_allclose(result.f, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(result.p, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(
        result.q.reshape(-1), false_discovery_control(expected.pvalue.reshape(-1)), rtol=1e-9
    )
    means = np.stack([x[store.labels == c].mean(axis=0) for c in range(3)])
    within = np.stack([x[store.labels == c].var(axis=0) for c in range(3)]).mean(axis=0)
    np.testing.assert_allclose(
        result.notebook_f_ratio, means.var(axis=0, ddof=1) / within, rtol=1e-9
    )
    total = np.square(x - x.mean(axis=0)).sum(axis=0)
    rest = sum(np.square(x[store.labels == c] - means[c]).sum(axis=0) for c in range(3))
    np.testing.assert_allclose(result.eta_squared, 1 - rest / total, rtol=1e-9)
    assert result.values["df_between"] == 2
    assert result.values["df_within"] == 57


def test_survives_values_of_very_different_size():
    store = noise_store()
    x = feature(store) + 1e7
    store = analyses.MemoryStore({"friction": x}, labels=store.labels, class_names=["a", "b", "c"])
    result = analyses.f_statistic(store, permutations=20)
    # The oracle subtracts the offset, which is exact here to the last few digits.
    np.testing.assert_allclose(result.f, brute_f(x - 1e7, store.labels), rtol=1e-6)


@pytest.mark.parametrize("memory", [1 << 28, 1])
def test_family_wise_p_against_permuting_by_hand(memory):
    """The permuted labels are drawn again and every F is computed by scipy."""
    store = noise_store(seed=4, n=30, grid=(2, 3), modes=2, effect=1.5)
    permutations = 130
    result = analyses.f_statistic(store, permutations=permutations, seed=9, memory=memory)
    drawn = permuted(store.labels, permutations, 9)
    x = feature(store).reshape(30, -1)
    null = np.stack([brute_f(x, labels) for labels in drawn])
    observed = brute_f(x, store.labels)
    np.testing.assert_allclose(result.null_maximum_f, null.max(axis=1), rtol=1e-9)
    expected = [(1 + (null.max(axis=1) >= f * (1 - 1e-9)).sum()) / 131 for f in observed]
    np.testing.assert_allclose(result.p_family_wise.reshape(-1), expected, rtol=1e-12)
    expected = (1 + (null >= observed * (1 - 1e-9)).sum(axis=0)) / 131
    np.testing.assert_allclose(result.p_permutation.reshape(-1), expected, rtol=1e-12)


def test_sums_under_permutation_do_not_depend_on_chunks_or_passes():
    one = analyses.f_statistic(noise_store(batch=60), permutations=250, seed=1)
    many = analyses.f_statistic(noise_store(batch=7), permutations=250, seed=1, memory=1)
    np.testing.assert_allclose(one.null_maximum_f, many.null_maximum_f, rtol=1e-10)
    again = analyses.f_statistic(noise_store(batch=60), permutations=250, seed=1)
    np.testing.assert_array_equal(one.null_maximum_f, again.null_maximum_f)
    other = analyses.f_statistic(noise_store(batch=60), permutations=250, seed=2)
    assert (one.null_maximum_f != other.null_maximum_f).any()


def test_planted_effect_is_found_and_nothing_else():
    store = noise_store(seed=2, n=300, effect=3.0)
    result = analyses.f_statistic(store, permutations=500)
    found = np.argwhere(result.p_family_wise <= 0.05)
    assert found.tolist() == [[1, 2, 1]]
    assert result.values["max_f_position"] == [1, 2]
    assert result.values["max_f_mode"] == 1
    assert "family-wise p = 0.002" in result.sentence


def test_notebook_figures_of_the_digits():
    _, printed = digits()
    result = analyses.f_statistic(digits_store(), permutations=20)
    expected = printed["4_f_ratio"]
    notebook = result.notebook
    assert notebook["overall_mean_f"] == pytest.approx(expected["overall_mean"], rel=1e-3)
    assert notebook["overall_max_f"] == pytest.approx(expected["overall_max"], rel=1e-3)
    assert notebook["verdict"] == "POSITIONALLY DISCRIMINATIVE"
    # Mode 0 (largest) is constant: the notebook's figures for it are left out.
    assert [one["mode"] for one in notebook["per_mode"]] == [
        "mode 1", "mode 2", "mode 3 (smallest)",
    ]  # fmt: skip
    for mine, theirs in zip(notebook["per_mode"], expected["per_mode"][1:], strict=True):
        for key in ("mean", "max", "q95"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3)
        assert mine["best_position"] == theirs["argmax"]


def test_constant_columns_are_named_and_never_divided_by():
    store = noise_store()
    x = feature(store)
    x[..., 0] = 5.0  # a constant mode
    x[:, 0, 0, 1] = 0.1  # a constant position of another
    x[:, 0, 1, 1] = store.labels  # constant within every class
    store = analyses.MemoryStore({"friction": x}, labels=store.labels, class_names=["a", "b", "c"])
    result = analyses.f_statistic(store, permutations=50)
    for array in (result.f, result.p, result.q, result.p_family_wise, result.notebook_f_ratio):
        assert np.isnan(array[..., 0]).all()
        assert np.isnan(array[0, :2, 1]).all()
        assert np.isfinite(array[1:, :, 1:]).all()
    assert result.table["mode"].tolist() == ["mode 1", "mode 2 (smallest)"]
    notes = " ".join(result.caveats)
    assert "mode 0 (largest) is constant over all images and left out" in notes
    assert "1 more column is constant over all images" in notes
    assert "1 column varies between classes and never within one" in notes
    usable = np.isfinite(result.f)
    assert result.values["n_tests"] == usable.sum()
    np.testing.assert_allclose(
        result.q[usable], false_discovery_control(result.p_permutation[usable]), rtol=1e-9
    )


def test_nothing_varies():
    store = noise_store(maps={"friction": np.full((60, 4, 5, 3), 5.0)})
    result = analyses.f_statistic(store, permutations=20)
    assert "no position varies" in result.sentence
    assert np.isnan(result.f).all()


def test_permuted_f_of_the_real_labels_is_f():
    store = noise_store()
    x = feature(store).reshape(60, -1)
    counts = np.bincount(store.labels)
    sums = np.stack([(x - 8.0)[store.labels == c].sum(axis=0) for c in range(3)])[None]
    total = np.square(x - x.mean(axis=0)).sum(axis=0)
    np.testing.assert_allclose(
        f_from_sums(sums, counts, total)[0], brute_f(x, store.labels), rtol=1e-9
    )


def test_images_without_a_label_are_left_out():
    store = noise_store()
    labels = store.labels.copy()
    labels[::7] = -1
    part = noise_store(labels=labels)
    result = analyses.f_statistic(part, permutations=30)
    np.testing.assert_allclose(result.f, brute_f(feature(part), labels), rtol=1e-9)
    assert "9 of 60 images have no label and are left out" in result.caveats
