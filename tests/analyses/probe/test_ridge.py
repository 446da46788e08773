"""The ridge probe against scikit-learn, scipy, its own definition and the notebook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from frictionstore import analyses
from frictionstore.analyses.probe import ridge
from frictionstore.analyses.ridge_probe import RidgeProbe, RidgeProbeParameters
from frictionstore.analyses.stats import intervals
from frictionstore.analyses.stats.folds import stratified_folds
from tests.analyses.material import digits, digits_store, feature, noise_store


def problem(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = ridge.one_hot(rng.integers(0, 3, n), 3)
    return x - x.mean(axis=0), y - y.mean(axis=0)


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 40), (20, 20)])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 1e4])
def test_both_forms_are_scikit_learns(n, d, penalty):
    x, y = problem(n, d)
    expected = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(x, y).coef_.T
    primal = ridge.Primal(x.T @ x, x.T @ y, float((y**2).sum()), n)
    dual = ridge.Dual(x @ x.T, y)
    for solved in (primal.only_at(penalty), primal.at(penalty)):
        np.testing.assert_allclose(solved.coefficients, expected, rtol=1e-9, atol=1e-11)
    for solved in (dual.only_at(penalty), dual.at(penalty)):
        np.testing.assert_allclose(x.T @ solved.coefficients, expected, rtol=1e-9, atol=1e-11)
    hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(d), x.T)
    left = n - np.trace(hat) - 1
    gcv = n * np.square(y - hat @ y).sum() / left**2 if left > 0 else np.inf
    for one in (primal, dual):
        assert one.criteria(np.array([penalty])) == pytest.approx(gcv, rel=1e-7)


@pytest.mark.parametrize("m", [1, 5, 300])
def test_more_right_hand_sides_are_solved_as_numpy_does(m):
    rng = np.random.default_rng(m)
    x = rng.normal(size=(m + 3, m))
    right = rng.normal(size=(m, 3))
    problem = ridge.Primal(x.T @ x, right, 1.0, m + 3)
    whole = x.T @ x + 0.5 * np.eye(m)
    other = rng.normal(size=(m, 7))
    for solved in (problem.at(0.5), problem.only_at(0.5)):
        np.testing.assert_allclose(solved.coefficients, np.linalg.solve(whole, right), rtol=1e-9)
        np.testing.assert_allclose(solved.solve(other), np.linalg.solve(whole, other), rtol=1e-9)


def test_one_penalty_leaves_the_gram_matrix_for_others_and_takes_one_without_a_factor():
    """Images that rounding makes linearly dependent, and a penalty far below that rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 12)) * 1e6
    gram = x.T @ x
    before = gram.copy()
    right = x.T @ rng.normal(size=(40, 2))
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(gram + 1e-6 * np.eye(12))
    problem = ridge.Primal(gram, right, 1.0, 40)
    problem.only_at(1.0)
    solved = problem.only_at(1e-6)
    np.testing.assert_array_equal(gram, before)
    np.testing.assert_array_equal(solved.coefficients, problem.at(1e-6).coefficients)
    minimal = np.linalg.lstsq(x, np.linalg.lstsq(x.T, right)[0])[0]
    np.testing.assert_allclose(x @ solved.coefficients, x @ minimal, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(6, 60), st.integers(1, 5))
def test_folds_are_even_in_size_and_classes(seed, n_folds, n, n_classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, n_classes, n)
    folds = stratified_folds(labels, n_folds, rng)
    assert ((folds < 0) == (labels < 0)).all()
    for member in [labels >= 0, *(labels == c for c in range(n_classes))]:
        sizes = np.bincount(folds[member], minlength=n_folds)
        assert sizes.max() - sizes.min() <= 1


@pytest.fixture(params=["held", "streamed"])
def form(request, monkeypatch) -> str:
    """Rows in memory, or Gram matrices from batches of 23 images."""
    if request.param == "streamed":
        monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", 0)
        monkeypatch.setattr("frictionstore.analyses.probe.streamed._ROWS", 23)
    return request.param


@pytest.mark.parametrize("n", [60, 200])
def test_predictions_are_a_pipeline_of_scikit_learn(form, n):
    """With 60 images the sets have more columns than there are images, so rows are held."""
    store = noise_store(n=n, effect=4.0)
    result = analyses.ridge_probe(store, features=["friction", "S+settle"], permutations=0)
    flat = {name: feature(store, name).reshape(n, -1) for name in ("friction", "S", "settle")}
    sets = [flat["friction"], np.concatenate([flat["S"], flat["settle"]], axis=1)]
    y = ridge.one_hot(store.labels, 3)
    for k, x in enumerate(sets):
        for fold in range(5):
            train, test = result.fold != fold, result.fold == fold
            z = StandardScaler().fit(x[train]).transform(x)
            table = result.tables["penalties"]
            name = result.table["features"][k]
            own = table[(table["features"] == name) & (table["fold"] == fold)]["lambda"]
            penalty = np.repeat(own.to_numpy(), x.shape[1] // len(own))
            z /= np.sqrt(penalty)  # a penalty for each map
            expected = Ridge(alpha=1.0).fit(z[train], y[train]).predict(z[test]).argmax(axis=1)
            np.testing.assert_array_equal(result.prediction[k, test], expected)
    right = (result.prediction == store.labels).mean(axis=1)
    np.testing.assert_allclose(result.table["accuracy"], right, rtol=1e-12)


def probe(store, form, **options):
    """The result, after checking that it was made in the form that was asked for."""
    from unittest.mock import patch

    other = {"held": "StreamedProbe", "streamed": "HeldProbe"}[form]
    with patch(f"frictionstore.analyses.ridge_probe.{other}", side_effect=AssertionError):
        return analyses.ridge_probe(store, **options)


def test_both_forms_give_the_same(monkeypatch):
    store = noise_store(n=200, effect=2.0)
    options = {"features": ["S+friction", "friction"], "permutations": 40, "seed": 3}
    held = probe(store, "held", **options)
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", 0)
    streamed = probe(store, "streamed", **options)
    np.testing.assert_array_equal(held.penalty, streamed.penalty)
    np.testing.assert_array_equal(held.prediction, streamed.prediction)
    np.testing.assert_array_equal(held.permuted_accuracy, streamed.permuted_accuracy)
    assert held.to_json() == streamed.to_json()
    options = {"features": ["friction"], "protocol": "notebook"}
    streamed = probe(store, "streamed", **options)
    monkeypatch.undo()
    held = probe(store, "held", **options)
    assert held.to_json() == streamed.to_json()


def test_an_outlier_in_one_fold_costs_the_others_no_digits(form):
    """Friction spans 1e0 to 1e8: training sets without the outlier must not feel it."""
    store = noise_store(n=200, effect=4.0)
    x = feature(store)
    x[0] *= 1e8
    store = noise_store(n=200, effect=4.0, maps={"friction": x})
    result = analyses.ridge_probe(store, features=["friction"], permutations=0)
    flat = x.reshape(200, -1)
    y = ridge.one_hot(store.labels, 3)
    fold = result.fold[0]
    train, test = result.fold != fold, result.fold == fold
    model = make_pipeline(StandardScaler(), Ridge(alpha=result.penalty[0, fold]))
    expected = model.fit(flat[train], y[train]).predict(flat[test]).argmax(axis=1)
    np.testing.assert_array_equal(result.prediction[0, test], expected)


def test_a_column_that_hardly_varies_is_clamped_as_the_notebook_did(form):
    store = noise_store(n=200, effect=4.0)
    x = feature(store)
    x[:, 0, 0, 0] = 1.0 + 1e-8 * np.arange(200)
    store = noise_store(n=200, effect=4.0, maps={"friction": x})
    result = analyses.ridge_probe(store, features=["friction"], protocol="notebook")
    flat = x.reshape(200, -1)
    train, test = result.fold == 1, result.fold == 0
    mean, std = flat[train].mean(axis=0), flat[train].std(axis=0, ddof=1)
    assert std[0] < 1e-6
    z = (flat - mean) / np.maximum(std, 1e-6)
    y = ridge.one_hot(store.labels, 3)
    weights = np.linalg.solve(z[train].T @ z[train] + np.eye(60), z[train].T @ y[train])
    np.testing.assert_array_equal(result.prediction[0, test], (z[test] @ weights).argmax(axis=1))
    assert result.table["train_accuracy"][0] == np.mean(
        (z[train] @ weights).argmax(axis=1) == store.labels[train]
    )


def test_permuted_accuracy_is_that_of_refits_by_scikit_learn(form):
    n = {"held": 60, "streamed": 100}[form]
    store = noise_store(n=n)
    plan = RidgeProbe(RidgeProbeParameters(features=["friction"], permutations=6, seed=1))
    result = analyses.core.passes.run(store, [plan])[0]
    x = feature(store).reshape(n, -1)
    drawn = plan.split.arrangements(1).take(np.arange(n), slice(0, 6))
    for p, labels in enumerate(drawn):
        y = ridge.one_hot(labels, 3)
        correct = 0
        for fold in range(5):
            train, test = result.fold != fold, result.fold == fold
            model = make_pipeline(StandardScaler(), Ridge(alpha=result.penalty[0, fold]))
            predicted = model.fit(x[train], y[train]).predict(x[test]).argmax(axis=1)
            correct += (predicted == labels[test]).sum()
            # Shuffling within folds keeps every fold's classes.
            np.testing.assert_array_equal(
                np.bincount(labels[test], minlength=3),
                np.bincount(store.labels[test], minlength=3),
            )
        assert result.permuted_accuracy[0, p] == correct / n


def test_notebook_protocol_gives_the_notebooks_predictions():
    maps, printed = digits()
    result = analyses.ridge_probe(digits_store(), protocol="notebook", order=maps["order"])
    test = maps["order"][192:].astype(int)
    keys = ["9_probe_S", "7_probe_friction", "8_probe_settle", "9_probe_combined"]
    for k, key in enumerate(keys):
        expected = printed[key]
        assert result.table["accuracy"][k] == pytest.approx(expected["test_acc"], abs=1e-12)
        assert result.table["train_accuracy"][k] == pytest.approx(expected["train_acc"])
        np.testing.assert_array_equal(result.prediction[k, test], expected["pred"])
    assert result.notebook["combined_lift_over_eigenvalues_pp"] == pytest.approx(0.0)
    assert result.notebook["friction verdict"] == "DISCRIMINATIVE"
    assert result.values["n_train"] == 192


def test_constant_columns_are_left_out_and_counted():
    result = analyses.ridge_probe(digits_store(), features=["friction"], permutations=0)
    assert result.table["varying"][0] == 768
    assert any("256 of 1024 columns of friction are constant" in c for c in result.caveats)


def test_planted_classes_are_found_and_noise_is_not():
    found = analyses.ridge_probe(
        noise_store(n=150, classes=2, effect=25.0), features=["friction", "S"], permutations=99
    )
    table = found.table.set_index("features")
    assert table["accuracy"]["friction"] > 0.9
    assert table["p"]["friction"] == 0.01
    assert table["p"]["S"] > 0.05
    assert table["permuted_mean"]["S"] == pytest.approx(0.5, abs=0.05)
    pair = found.tables["comparisons"].iloc[0]
    assert pair["mcnemar_p"] < 1e-6


def test_paired_comparison_against_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.random(100) < 0.8, rng.random(100) < 0.7
    found = ridge.compare_paired(first, second)
    b, c = (first & ~second).sum(), (second & ~first).sum()
    assert found.mcnemar_p == pytest.approx(binomtest(int(b), int(b + c)).pvalue, rel=1e-9)
    assert found.difference == pytest.approx((b - c) / 100)
    assert found.low < found.difference < found.high
    turned = ridge.compare_paired(second, first)
    np.testing.assert_allclose([turned.low, turned.high], [-found.high, -found.low], atol=1e-12)
    same = ridge.compare_paired(first, first)
    assert same.p == same.mcnemar_p == 1
    assert same.low == pytest.approx(-same.high, abs=1e-12)
    assert 0 < same.high < 0.05


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (0, 0, 30), (15, 0, 150), (1, 9, 10)])
def test_paired_interval_is_where_the_score_test_stops_rejecting(b, c, n):
    """The constrained likelihood is maximised numerically, not by Tango's formula."""
    first = np.arange(n) < b
    second = (np.arange(n) >= b) & (np.arange(n) < b + c)
    found = ridge.compare_paired(first, second)
    for bound in (found.low, found.high):
        if abs(bound) > 0.999:
            continue
        rest = n - b - c

        def loss(q, bound=bound, rest=rest):
            chances = np.array([q + bound, q, 1 - 2 * q - bound])
            counts = np.array([b, c, rest])
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = np.where(counts > 0, counts * np.log(chances), 0.0)
            return -terms.sum()

        span = (max(0.0, -bound), (1 - bound) / 2)
        q = minimize_scalar(loss, bounds=span, method="bounded", options={"xatol": 1e-12}).x
        score = (b - c - n * bound) / np.sqrt(n * (2 * q + bound * (1 - bound)))
        assert abs(score) == pytest.approx(1.959963984540054, rel=1e-4)


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (7, 7), (45, 100), (1, 3)])
def test_wilson_interval_is_scipys(correct, n):
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        intervals.wilson_interval(correct, n), [expected.low, expected.high], atol=1e-12
    )


def test_the_seed_decides():
    store = noise_store(n=90, effect=3.0)
    first, again, other = (
        analyses.ridge_probe(store, features=["S"], seed=seed, permutations=20)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.fold, again.fold)
    np.testing.assert_array_equal(first.permuted_accuracy, again.permuted_accuracy)
    assert (first.fold != other.fold).any()
