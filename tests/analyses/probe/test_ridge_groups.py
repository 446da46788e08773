"""The ridge probe where images belong together: folds, permutations, intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from frictionstore import analyses
from frictionstore.analyses.core.passes import run
from frictionstore.analyses.probe import ridge
from frictionstore.analyses.ridge_probe import RidgeProbe, RidgeProbeParameters
from frictionstore.analyses.stats.folds import grouped_folds
from tests.analyses.material import feature


def photographs(seed: int = 0, crops: tuple[int, int] = (2, 9), **options):
    """Three classes of 6 photographs each, of different numbers of crops."""
    rng = np.random.default_rng(seed)
    photograph = rng.permutation(np.repeat(np.arange(18), rng.integers(*crops, 18)))
    shape = (3, 3, 2)
    x = rng.normal(size=(18, *shape))[photograph] + rng.normal(size=(len(photograph), *shape))
    options.setdefault("labels", photograph % 3)
    return analyses.MemoryStore(
        {"friction": x.astype(np.float32)}, class_names=["a", "b", "c"], groups=photograph,
        batch=32, **options,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_whole_groups_in_folds_as_stratified_as_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(40), 5))
    labels = np.where(groups < 28, 0, 1)
    labels[:7] = -1
    folds = grouped_folds(labels, groups, 4, rng)
    assert (folds[:7] == -1).all()
    assert set(folds[7:]) == {0, 1, 2, 3}
    there = labels >= 0

    def shares(tested):
        return np.array([np.mean(labels[there][test] == 1) for test in tested])

    mine = [np.flatnonzero(folds[there] == fold) for fold in range(4)]
    theirs = StratifiedGroupKFold(4, shuffle=True, random_state=seed).split(
        labels[there], labels[there], groups[there]
    )
    for group in range(40):
        assert len(np.unique(folds[there & (groups == group)])) == 1
    spread = np.ptp(shares([test for _, test in theirs]))
    assert np.ptp(shares(mine)) <= spread + 0.08
    per_class = [
        np.bincount([folds[there & (groups == g)][0] for g in of], minlength=4)
        for of in (range(28), range(28, 40))
    ]
    for counts in per_class:
        assert np.ptp(counts) <= 1


@pytest.mark.parametrize("form", ["held", "streamed"])
def test_permuted_accuracy_is_that_of_refits_by_scikit_learn(form, monkeypatch):
    """Classes have other sizes in every permutation, and so the mean of every target."""
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", 0 if form == "streamed" else 1e9)
    store = photographs()
    asked = RidgeProbeParameters(features=["friction"], permutations=8, seed=1)
    plan = RidgeProbe(asked)
    result = run(store, [plan])[0]
    n = store.n_images
    x = feature(store).reshape(n, -1)
    drawn = plan.split.arrangements(1).take(np.arange(n), slice(0, 8))
    assert len({tuple(np.bincount(row, minlength=3)) for row in drawn}) > 2
    for p, labels in enumerate(drawn):
        for group in range(18):
            assert len(np.unique(labels[store.groups == group])) == 1
        y = ridge.one_hot(labels, 3)
        correct = 0
        for fold in range(5):
            train, test = result.fold != fold, result.fold == fold
            model = make_pipeline(StandardScaler(), Ridge(alpha=result.penalty[0, fold]))
            predicted = model.fit(x[train], y[train]).predict(x[test]).argmax(axis=1)
            correct += (predicted == labels[test]).sum()
        assert result.permuted_accuracy[0, p] == pytest.approx(correct / n, abs=1e-12)


def test_no_photograph_is_trained_on_and_tested():
    """What is the photograph's own is learned where its crops are in both, and not here."""
    store = photographs(1, (8, 9))
    grouped = analyses.ridge_probe(store, features=["friction"], permutations=0)
    store.groups = None
    plain = analyses.ridge_probe(store, features=["friction"], permutations=0)
    assert plain.table["accuracy"][0] > grouped.table["accuracy"][0] + 0.1
    width = [t["accuracy_high"][0] - t["accuracy_low"][0] for t in (grouped.table, plain.table)]
    assert width[0] > 1.2 * width[1]


def test_paired_differences_are_over_groups():
    """Two classifiers that differ in one photograph of 50 crops: no evidence, McNemar sees 50."""
    groups = np.repeat(np.arange(8), 50)
    first, second = groups >= 0, groups > 0
    assert ridge.compare_paired(first, second).p < 1e-10
    found = ridge.compare_grouped(first, second, groups)
    assert found.difference == 1 / 8
    assert found.low < 0 < found.high
    # t of one 1 and seven 0: mean 1/8 over its error 1/8
    assert found.p == pytest.approx(0.3506, abs=1e-3)
    same = ridge.compare_grouped(first, first, groups)
    assert (same.low, same.high) == (-same.high, same.high)
    assert same.high > 0.1, "as if there were 8 images"
    assert np.isnan(ridge.compare_grouped(first, ~first, groups).p)
