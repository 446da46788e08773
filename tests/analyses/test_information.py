"""What a map tells beyond others: planted information, floors, and each number by another way."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import minimize
from scipy.stats import binomtest
from scipy.stats import t as student

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.probe import readout
from frictionstore.analyses.stats.corrected import corrected_interval


def store_of(seed: int = 0, n: int = 240, **more: np.ndarray) -> analyses.MemoryStore:
    """Classes shown by the diagonal; friction is made of it, S and settle know nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    shape = (n, 3, 3, 2)
    diagonal = rng.normal(size=shape)
    diagonal[:, 0, :, 0] += 1.2 * (labels[:, None] == np.arange(3))
    friction = np.exp(diagonal + 0.1 * rng.normal(size=shape))
    maps = {
        "S": rng.normal(size=shape), "friction": friction, "gram_diag": diagonal,
        "settle": rng.integers(0, 4, shape).astype(np.uint8),
        "friction_donor": np.exp(rng.normal(size=shape)),
    }  # fmt: skip
    return analyses.MemoryStore({**maps, **more}, labels=labels, class_names=["a", "b", "c"])


@pytest.fixture(scope="module")
def found() -> analyses.Result:
    return analyses.information(store_of(), margin=3)


def test_friction_tells_what_the_diagonal_does_and_no_more(found):
    rows = found.table.set_index(["map", "given"])
    alone = rows.loc[("log_friction", "S")]
    assert alone["bits_low"] > 0.1
    assert alone["accuracy_low"] > 0.05
    assert rows.loc[("gram_diag", "S")]["bits_low"] > 0.1
    beyond = rows.loc[("log_friction", "S+gram_diag")]
    assert beyond["bits"] < 0.15 * alone["bits"]
    assert beyond["bits_low"] < 0.05
    assert not alone["within_margin"]
    assert "Given S, log_friction is worth +" in found.sentence
    assert "that is 3 points or more" in found.sentence


def test_floors_tell_nothing(found):
    floors = found.tables["floors"]
    assert set(floors["floor"]) == {"shuffled images", "donors"}
    assert (floors["bits_low"] <= 0.01).all()
    assert (floors["accuracy_low"] <= 0).all()
    text = " ".join([*found.sentences, *found.caveats])
    assert "floor of shuffled images" in text
    assert " adds " not in text


def test_the_same_seed_gives_the_same_and_batches_do_not_matter():
    store = store_of(n=90)
    other = store_of(n=90)
    other._batch = 7
    assert (
        analyses.information(store, seed=3).to_json()
        == analyses.information(other, seed=3).to_json()
    )


def brute(columns, problem, fold, penalties, known=slice(None)):
    """Bits of the tested images, from rows: refits for each image left out, and any optimiser."""
    z = [(x - x[known].mean(axis=0)) / x[known].std(axis=0) for x in columns]
    x = np.hstack([one / np.sqrt(p * one.shape[1]) for one, p in zip(z, penalties, strict=True)])
    train, test = np.flatnonzero(problem.folds != fold), np.flatnonzero(problem.folds == fold)
    target = np.eye(problem.n_classes)[problem.labels]

    def predict(some, of):
        mean, level = x[some].mean(axis=0), target[some].mean(axis=0)
        c = x[some] - mean
        w = np.linalg.solve(c.T @ c + np.eye(x.shape[1]), c.T @ (target[some] - level))
        return (x[of] - mean) @ w + level

    left_out = np.concatenate([predict(train[train != i], [i]) for i in train])

    def log_p(p, scores):
        logits = p[0] * scores + p[1:]
        return logits - np.logaddexp.reduce(logits, axis=1)[:, None]

    def loss(p):
        given = log_p(p, left_out)[np.arange(len(train)), problem.labels[train]]
        return -given.mean() + readout.SHRINK / (2 * len(train)) * p @ p

    fitted = minimize(loss, np.r_[1.0, np.zeros(problem.n_classes)], method="BFGS").x
    return -log_p(fitted, predict(train, test))[
        np.arange(len(test)), problem.labels[test]
    ] / np.log(2)


def test_bits_are_those_of_rows_and_refits():
    rng = np.random.default_rng(2)
    n = 60
    labels = np.arange(n) % 3
    columns = {"a": rng.normal(size=(n, 4)), "b": 5 + 3 * rng.normal(size=(n, 20))}
    columns["a"][:, 0] += labels
    folds = rng.permutation(np.arange(n) % 4)
    problem = readout.Problem(labels, folds, 3, 4, np.ones(n, bool))
    kernels = {name: readout.products(x) for name, x in columns.items()}
    found = readout.read([("a", "b")], lambda name, fold: kernels[name], problem)[0]
    for fold in range(4):
        expected = brute(list(columns.values()), problem, fold, found.penalties[fold])
        np.testing.assert_allclose(found.bits[folds == fold], expected, rtol=2e-3, atol=1e-3)


def test_bits_of_a_test_split_are_those_of_rows_scaled_by_the_training_split():
    rng = np.random.default_rng(3)
    n = 60
    labels = np.arange(n) % 3
    columns = {"a": rng.normal(size=(n, 4)), "b": 5 + 3 * rng.normal(size=(n, 20))}
    columns["a"][:, 0] += labels
    part = np.where(np.arange(n) < 40, 1, 0)
    columns["a"][part == 0] *= 1.5  # what scales by all images does not see
    problem = readout.Problem(labels, part, 3, 1, part == 1)
    kernels = {name: readout.products(x, problem.fitted) for name, x in columns.items()}
    found = readout.read([("a", "b")], lambda name, fold: kernels[name], problem)[0]
    given = list(columns.values()), problem, 0, found.penalties[0]
    expected = brute(*given, known=part == 1)
    np.testing.assert_allclose(found.bits[part == 0], expected, rtol=2e-3, atol=1e-3)
    assert np.abs(found.bits[part == 0] - brute(*given)).max() > 0.05
    assert (found.prediction[part == 1] == -1).all()
    row = readout.measured(found, problem)
    assert row["bits"] == pytest.approx(found.bits[part == 0].mean())
    low, high = student.interval(
        0.95, 19, found.bits[part == 0].mean(), found.bits[part == 0].std(ddof=1) / np.sqrt(20)
    )
    assert (row["bits_low"], row["bits_high"]) == (pytest.approx(low), pytest.approx(high))
    right = int((found.prediction == labels)[part == 0].sum())
    wilson = binomtest(right, 20).proportion_ci(method="wilson")
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((wilson.low, wilson.high))


def test_the_corrected_interval_is_its_formula():
    rng = np.random.default_rng(0)
    folds = np.arange(103) % 5
    values = rng.normal(size=103)
    mean, low, high = corrected_interval(values, folds)
    within = (
        sum(((values[folds == f] - values[folds == f].mean()) ** 2).sum() for f in range(5)) / 98
    )
    # One fold's mean has the variance s2; Nadeau and Bengio's is (1/K + test/train) s2.
    s2 = within / (103 / 5)
    half = student.ppf(0.975, 98) * np.sqrt((1 / 5 + 1 / 4) * s2)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(half)
    assert np.isnan(corrected_interval(values, np.zeros(103, int))[1])


@pytest.mark.parametrize("n", [24, 900])
def test_none_of_few_images_is_no_equivalence(n):
    folds = np.arange(n) % 5
    student_of = student.ppf(0.975, n - 5) ** 2
    half = student_of / (n / 2.25 + student_of)
    assert corrected_interval(np.zeros(n), folds, least=-1.0) == pytest.approx((0, -half, half))
    assert corrected_interval(np.ones(n), folds, least=0.0) == pytest.approx((1, 1 - half, 1))
    values = np.where(np.arange(n) % 12, 0.0, 1.0)  # Wald's would end below 0
    mean, low, high = corrected_interval(values, folds, least=0.0)
    assert 0 <= low < mean < high <= 1
    assert corrected_interval(values, folds)[2] <= high


def test_a_map_that_changes_no_prediction_of_few_images():
    constant = np.full((24, 3, 3, 2), 2.0)
    found = analyses.information(store_of(n=24, friction=constant, friction_donor=constant))
    row = found.table.set_index(["map", "given"]).loc[("log_friction", "S")]
    assert row["accuracy_high"] - row["accuracy_low"] > 0.2
    assert not row["within_margin"]
    assert "a difference of 1 point in accuracy is not excluded" in found.sentences[0]


@pytest.mark.parametrize("name", ["friction", "friction_donor"])
def test_a_map_without_a_logarithm_gets_advice_that_works(name, tmp_path):
    """Nobody can ask this analysis for the map itself; who is told to ask another can."""
    zero = np.zeros((60, 3, 3, 2), np.float32)
    store = store_of(n=60, **{name: zero})
    with pytest.raises(AnalysisError, match=f"map '{name}' of memory has no logarithm") as told:
        analyses.information(store)
    assert "use friction itself" not in str(told.value)
    _, _, advice = str(told.value).partition("use ridge-probe --features ")
    found = analyses.ridge_probe(store, features=advice.split(", which")[0], permutations=0)
    assert list(found.table["features"]) == ["S", f"S+{name}"]
    maps = {"S": zero + 1, "friction": zero}
    fs.from_arrays(tmp_path / "a.zarr", maps, label=np.arange(60) % 2, class_names=["a", "b"])
    run = CliRunner().invoke(analyze, ["information", str(tmp_path / "a.zarr")])
    assert run.exit_code == 2
    assert "use ridge-probe --features S,S+friction," in " ".join(run.output.split())


def test_what_is_missing_is_said(tmp_path):
    rng = np.random.default_rng(0)
    maps = {
        "S": rng.random((30, 2, 2, 2), np.float32) + 1,
        "friction": rng.random((30, 2, 2, 2), np.float32) + 1,
    }
    labels = np.arange(30) % 2
    result = analyses.information(analyses.MemoryStore(maps, labels=labels, class_names=["a", "b"]))
    missing = "no gram_diag and no friction_donor: extract with --maps S,friction,gram_diag,"
    assert any(f"{missing}friction_donor" in c for c in result.caveats)
    with pytest.raises(AnalysisError, match="extract with --maps S,friction,settle"):
        analyses.information(analyses.MemoryStore({"S": maps["S"]}, labels=labels))
    with pytest.raises(AnalysisError, match="20 folds need 40 labelled images"):
        analyses.information(analyses.MemoryStore(maps, labels=labels), folds=20)
    with pytest.raises(AnalysisError, match="margin is 101"):
        analyses.information(store_of(n=60), margin=101)
    fs.from_arrays(tmp_path / "a.zarr", maps, label=labels, class_names=["a", "b"])
    run = CliRunner().invoke(analyze, ["information", str(tmp_path / "a.zarr"), "--images", "24"])
    assert run.exit_code == 0, run.output
    assert "24 of 30 labelled images, drawn at random" in " ".join(run.output.split())
