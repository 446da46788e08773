"""Crossnobis distances against rsatoolbox, a loop over folds, and what they are on average."""

from __future__ import annotations

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses.stats.crossnobis import Crossnobis, class_folds, crossnobis, ruled_out
from tests.analyses.material import feature, noise_store

UPPER = np.triu_indices(3, 1)

# rsatoolbox 0.3.2, on the data below:
#   data = Dataset(x, obs_descriptors={"conds": arange(24) % 3, "fold": arange(24) // 6})
#   calc_rdm(data, method="crossnobis", descriptor="conds", cv_descriptor="fold", noise=...)
PRECISION = np.array([0.5, 1.0, 2.0, 0.25, 4.0])
RSATOOLBOX = {
    "identity": (np.ones(5), [6.120474178598865, 5.502491091250629, 2.286126748622825]),
    "diagonal": (PRECISION, [14.09673867622475, 9.858071200944767, -1.9829769514979203]),
}


def rsatoolbox_means() -> np.ndarray:
    i = np.arange(24 * 5).reshape(24, 5)
    x = np.sin(i * 1.7) * 3 + np.cos(i * i * 0.31)
    x += (np.arange(24) % 3)[:, None] * [0, 0.5, 0, 1, 0]
    return x.reshape(4, 2, 3, 5).mean(axis=1)


def brute_force(fold_means: np.ndarray, precision: np.ndarray) -> np.ndarray:
    folds, classes, _ = fold_means.shape
    found = np.zeros((classes, classes))
    for a in range(classes):
        for b in range(classes):
            found[a, b] = np.mean(
                [
                    ((fold_means[f, a] - fold_means[f, b]) * precision)
                    @ (fold_means[g, a] - fold_means[g, b])
                    for f in range(folds)
                    for g in range(folds)
                    if f != g
                ]
            )
    return found / (precision > 0).sum()


@pytest.mark.parametrize("noise", RSATOOLBOX)
def test_the_figures_of_rsatoolbox(noise):
    precision, expected = RSATOOLBOX[noise]
    np.testing.assert_allclose(crossnobis(rsatoolbox_means(), precision)[UPPER], expected)


def test_a_loop_over_pairs_of_folds_and_features_without_noise():
    rng = np.random.default_rng(2)
    means = rng.normal(size=(3, 4, 7)) + 1e6
    precision = rng.random(7)
    precision[[1, 5]] = 0
    expected = brute_force(means, precision)
    np.testing.assert_allclose(crossnobis(means, precision), expected, rtol=1e-6, atol=1e-9)
    assert np.isnan(crossnobis(means, np.zeros(7))).all()


def test_class_distance_is_the_loop_on_its_own_folds():
    store = noise_store(n=57, effect=2.0)
    result = analyses.class_distance(store, permutations=0, splits=2, seed=4)
    x = feature(store).reshape(57, -1)
    labels = np.asarray(store.labels, np.int64)
    folds, n_folds = class_folds(labels, np.random.default_rng(4))
    cells = [x[(folds == f) & (labels == c)] for f in range(n_folds) for c in range(3)]
    assert min(map(len, cells)) >= 2
    means = np.stack([cell.mean(axis=0) for cell in cells]).reshape(n_folds, 3, -1)
    within = sum(np.square(cell - cell.mean(axis=0)).sum(axis=0) for cell in cells)
    expected = brute_force(means, (57 - 3 * n_folds) / within)
    np.testing.assert_allclose(result.crossnobis, expected, rtol=1e-9, atol=1e-12)
    pairs = result.columns["pairs"]["crossnobis"]
    np.testing.assert_allclose(pairs, expected[UPPER], rtol=1e-9)
    assert result.values["mean_crossnobis"] == pytest.approx(expected[UPPER].mean())


def collected(x: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """The distance of two classes, as class-distance gathers it."""
    folds, n_folds = class_folds(labels, np.random.default_rng(seed))
    made = Crossnobis("friction", labels, folds, 2, n_folds, x.shape[1:])
    for start in range(0, len(x), 7):
        made.update(slice(start, start + 7), {"friction": x[start : start + 7]})
    made.end_pass()
    return float(made.distances[0, 1])


def test_zero_on_average_where_nothing_differs_and_distances_are_not():
    """Heavy tails and few images: the mean over 1,000 stores, against its standard error."""
    found, biased = [], []
    for seed in range(1000):
        x = np.random.default_rng(seed).lognormal(0, 1.5, (12, 2, 2, 2))
        labels = np.arange(12) % 2
        found.append(collected(x, labels, seed))
        biased.append(np.square(x[labels == 0].mean(axis=0) - x[labels == 1].mean(axis=0)).sum())
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(1000)
    assert np.mean(biased) > 5 * np.std(biased) / np.sqrt(1000)


def test_what_it_is_where_means_differ():
    """Means 3 noise apart in each of 8 columns: 9, and 30 / 28 for the noise is estimated."""
    labels = np.arange(40) % 2
    found = [
        collected(5 * np.random.default_rng(k).normal(size=(40, 8)) + 15.0 * labels[:, None],
                  labels, k)
        for k in range(400)
    ]  # fmt: skip
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 9 * 30 / 28) < 3 * error < 1


def test_folds():
    labels = np.array([0] * 23 + [1] * 11 + [-1] * 4 + [2] * 2)
    folds, n_folds = class_folds(labels, np.random.default_rng(0))
    assert n_folds == 2
    assert ((folds < 0) == (labels < 0)).all()
    assert {len(set(folds[labels == c])) for c in range(3)} == {2}
    assert class_folds(labels[:34], np.random.default_rng(0))[1] == 5


def test_classes_of_two_images_have_no_noise_to_divide_by():
    x = np.random.default_rng(0).random((4, 2, 2, 1))
    store = analyses.MemoryStore({"friction": x}, labels=[0, 1, 0, 1])
    result = analyses.class_distance(store, permutations=0, splits=2)
    assert np.isnan(result.crossnobis).all()


@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_what_is_ruled_out_is_more_than_there_is(effect):
    """The upper end of the jackknife holds in 97.5% of stores, one-sided."""
    holds, ends = 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(60) % 3)
        means = effect * rng.normal(size=(3, 4, 4, 2))
        x = means[labels] + rng.normal(size=(60, 4, 4, 2))
        folds, n_folds = class_folds(labels, rng)
        one = Crossnobis("x", labels, folds, 3, n_folds, (4, 4, 2))
        one.update(slice(0, 60), {"x": x})
        one.end_pass()
        flat = means.reshape(3, -1)
        truth = np.mean([((flat[a] - flat[b]) ** 2).mean() for a in range(3) for b in range(a)])
        holds += truth <= one.most
        ends.append(one.most - truth)
    assert holds >= 186  # 195 expected; 185 or fewer has probability 1e-6
    assert np.median(ends) < 0.5


def test_few_folds_rule_nothing_out_and_what_is_there_is_said():
    labels = np.arange(8) % 2
    folds, n_folds = class_folds(labels, np.random.default_rng(0))
    one = Crossnobis("x", labels, folds, 2, n_folds, (2, 2, 1))
    one.update(slice(0, 8), {"x": np.random.default_rng(0).normal(size=(8, 2, 2, 1))})
    one.end_pass()
    assert n_folds == 2
    assert np.isnan(one.most)
    assert ruled_out(one.most) == ruled_out(None) == ruled_out(-0.1) == ""
    result = analyses.class_distance(noise_store(), permutations=50)
    most = result.values["mean_crossnobis_high"]
    assert ruled_out(most) in result.sentence
    assert "and a mean squared difference larger than" in result.sentence
    assert "times the variance within classes is excluded" in result.sentence
