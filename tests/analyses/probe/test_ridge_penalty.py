"""The probe's penalty: the least criterion on the whole path, not the nearest minimum."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frictionstore import analyses
from frictionstore.analyses import MemoryStore
from frictionstore.analyses.probe import ridge
from frictionstore.analyses.ridge_probe import RidgeProbe, RidgeProbeParameters
from tests.analyses.material import feature, noise_store


def criterion(x: np.ndarray, y: np.ndarray, penalty: float) -> float:
    """Generalised cross-validation from the singular values of the centred rows themselves."""
    u, s, _ = np.linalg.svd(x)
    eigenvalues = np.zeros(len(x))
    eigenvalues[: len(s)] = np.where(s > 1e-6 * s[0], s, 0.0) ** 2
    shrunk = penalty / (eigenvalues + penalty)
    left = shrunk.sum() - 1.0
    rest = shrunk[:, None] * (u.T @ y)
    return len(x) * np.square(rest).sum() / left**2 if left > 0 else np.inf


def two_minima(n: int, grid: tuple[int, int], noise: float) -> MemoryStore:
    """A common factor says a little of the class, a small direction all of it up to `noise`.

    Thirty noisy directions lie between: as lambda falls the factor comes first, then the noise,
    which makes things worse, and only then what tells the classes apart.
    """
    rng = np.random.default_rng(0)
    d = grid[0] * grid[1] * 3
    labels = rng.permutation(np.arange(n) % 2)
    x = np.outer(labels + rng.normal(size=n), np.ones(d))
    x += rng.normal(size=(n, 30)) @ rng.normal(size=(30, d)) * 0.1
    told = labels - 0.5 + noise * rng.normal(size=n)
    x += 0.01 * np.outer(told, rng.choice([-1.0, 1.0], d))
    return MemoryStore({"S": x.reshape(n, *grid, 3)}, labels=labels, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("form", "n", "grid"),
    [("HeldProbe", 200, (4, 5)), ("HeldProbe", 100, (8, 10)), ("StreamedProbe", 200, (4, 5))],
    ids=["held primal", "held dual", "streamed primal"],
)
def test_of_two_minima_the_lower_is_chosen(form, n, grid, monkeypatch):
    store = two_minima(n, grid, noise=0.1)
    if form == "StreamedProbe":
        monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", 0)
        monkeypatch.setattr("frictionstore.analyses.probe.streamed._ROWS", 23)
    other = {"HeldProbe": "StreamedProbe", "StreamedProbe": "HeldProbe"}[form]
    with patch(f"frictionstore.analyses.ridge_probe.{other}", side_effect=AssertionError):
        result = analyses.ridge_probe(store, features=["S"], permutations=0)
    flat = feature(store, "S").reshape(n, -1)
    path = [10.0**power for power in range(-9, 10)]
    for fold in range(5):
        train = result.fold != fold
        x = flat[train] - flat[train].mean(axis=0)
        x /= x.std(axis=0)
        y = ridge.one_hot(store.labels[train], 2)
        every = np.array([criterion(x, y - y.mean(axis=0), penalty) for penalty in path])
        falls = np.diff(every) < 0
        minima = (falls[:-1] & ~falls[1:]).sum()
        assert minima >= 2, "the store no longer shows what it was made for"
        assert result.penalty[0, fold] == pytest.approx(path[int(every.argmin())])
    assert result.table["accuracy"][0] > 0.97


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(8, 50),
    d=st.integers(2, 60),
    spread=st.floats(0.0, 2.0),
    signal=st.floats(0.0, 3.0),
)
def test_the_choice_is_the_least_of_the_whole_path(seed, n, d, spread, signal):
    """Spectra of any width: a walk down the criterion or a coarse search would be wrong."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-spread, spread, d)
    x -= x.mean(axis=0)
    y = rng.normal(size=(n, 2)) + signal * x[:, -2:] / x[:, -2:].std(axis=0)
    y -= y.mean(axis=0)
    if d < n:
        found = ridge.choose_penalty(ridge.Primal(x.T @ x, x.T @ y, float((y**2).sum()), n))
    else:
        found = ridge.choose_penalty(ridge.Dual(x @ x.T, y))
    path = ridge.penalty_path(float(np.linalg.norm(x, 2) ** 2))
    least = min(criterion(x, y, penalty) for penalty in path)
    assert criterion(x, y, found.solved.penalty) <= least * (1 + 1e-6)
    # Nothing above the path would have been much better, nor below it, but where eigenvalues reach
    # down to its end: the path stops well above the rounding of a Gram matrix, and they do not.
    beyond = [path[-1] * 10, path[-1] * 1000]
    s = np.linalg.svd(x, compute_uv=False)
    if s[s > 1e-6 * s[0]].min() ** 2 > 100 * path[0]:
        beyond.append(path[0] / 10)
    assert min(criterion(x, y, penalty) for penalty in beyond) >= least * 0.98


def test_as_many_directions_as_images_leave_no_residual():
    """What rounding leaves of it, over the few degrees of freedom left, chose another penalty."""
    n = 22
    rng = np.random.default_rng(1241775603)
    x = rng.normal(size=(n, n - 1))
    x -= x.mean(axis=0)
    y = rng.normal(size=(n, 2))
    y -= y.mean(axis=0)
    problem = ridge.Primal(x.T @ x, x.T @ y, float((y**2).sum()), n)
    path = np.array(ridge.penalty_path(problem.largest))
    wanted = ridge.Dual(x @ x.T, y).criteria(path)
    np.testing.assert_allclose(problem.criteria(path), wanted, rtol=1e-6)
    assert criterion(x, y, ridge.choose_penalty(problem).solved.penalty) <= wanted.min() * 1.00001


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize(
    ("scale", "noise", "weight", "end"),
    [(1e5, 1.0, 0.2, ""), (1.0, 1e-6, 1.0, "lower"), (1.0, 1.0, 0.0, "upper")],
)
def test_the_path_reaches_past_its_usual_ends(form, scale, noise, weight, end):
    """Strong columns need more than 10,000,000, exact ones less than 0.01, noise all."""
    rng = np.random.default_rng(5)
    n, d = 60, 25 if form == "primal" else 90
    x = rng.normal(size=(n, d))
    if form == "dual":  # fewer directions than images
        x = rng.normal(size=(n, 25)) @ np.linalg.qr(rng.normal(size=(d, 25)))[0].T
    x -= x.mean(axis=0)
    y = noise * rng.normal(size=(n, 2)) + weight * x[:, :2]
    y -= y.mean(axis=0)
    if not weight:
        y -= x @ np.linalg.lstsq(x, y, rcond=None)[0]
    x *= scale
    if form == "primal":
        problem = ridge.Primal(x.T @ x, x.T @ y, float((y**2).sum()), n)
    else:
        problem = ridge.Dual(x @ x.T, y)
    found = ridge.choose_penalty(problem)
    assert found.end == end
    if end == "lower":
        assert found.solved.penalty < 1e-6
    elif end == "upper":
        assert found.solved.penalty >= 1e7
    else:
        assert found.solved.penalty > 1e10


def test_what_was_chosen_is_told():
    store = noise_store(n=150, classes=2, effect=25.0)
    result = analyses.ridge_probe(store, features=["friction", "settle"], permutations=0)
    table = result.tables["penalties"]
    for k, name in enumerate(["friction", "settle"]):
        of_set = table[table["features"] == name]
        np.testing.assert_array_equal(of_set["lambda"], result.penalty[k])
        np.testing.assert_array_equal(of_set["fold"], range(5))
        assert result.values[f"penalties {name}"] == result.penalty[k].tolist()
    told = next(c for c in result.caveats if c.startswith("lambda chosen in the training folds"))
    for value, count in zip(*np.unique(result.penalty[1], return_counts=True), strict=True):
        assert f"{value:g}" + (f" ({count} folds)" if count < 5 else "") in told
    # Noise: the largest penalty is best in some folds, and that is said with their number.
    at_end = table[(table["features"] == "settle") & (table["end_of_path"] == "upper")]
    assert len(at_end) > 0
    assert any(f"settle is at the upper end of its path in {len(at_end)} of 5" in c
               for c in result.caveats)  # fmt: skip
    assert not any("friction is at the" in c for c in result.caveats)


@pytest.mark.parametrize("form", ["HeldProbe", "StreamedProbe"])
def test_permuted_labels_are_refitted_with_the_chosen_penalty(form, monkeypatch):
    """At the other minimum of the criterion they would be fitted with another one."""
    n = 120
    store = two_minima(n, (4, 5), noise=0.1)
    if form == "StreamedProbe":
        monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", 0)
    plan = RidgeProbe(RidgeProbeParameters(features=["S"], permutations=4, seed=2))
    result = analyses.core.passes.run(store, [plan])[0]
    x = feature(store, "S").reshape(n, -1)
    drawn = plan.split.arrangements(2).take(np.arange(n), slice(0, 4))
    for p, labels in enumerate(drawn):
        y = ridge.one_hot(labels, 2)
        correct = 0
        for fold in range(5):
            train, test = result.fold != fold, result.fold == fold
            z = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
            target = y[train] - y[train].mean(axis=0)
            gram = z[train].T @ z[train] + result.penalty[0, fold] * np.eye(z.shape[1])
            scores = z[test] @ np.linalg.solve(gram, z[train].T @ target) + y[train].mean(axis=0)
            correct += (scores.argmax(axis=1) == labels[test]).sum()
        assert result.permuted_accuracy[0, p] == correct / n
