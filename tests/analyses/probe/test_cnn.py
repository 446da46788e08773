"""The network that reads maps: planted textures, and what must not reach its training."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from click.testing import CliRunner

from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.probe import cnn
from frictionstore.analyses.probe.readout import Problem
from tests.analyses.material import noise_store
from tests.analyses.test_conv_probe import texture_store

torch = pytest.importorskip("torch")


@pytest.fixture
def fast(monkeypatch):
    """Few epochs: for tests of what is seen, not of what is learnt."""
    monkeypatch.setattr(cnn, "EPOCHS", 3)


def problem_of(n: int = 40, folds: int = 2, groups=None) -> tuple[np.ndarray, Problem]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2, 6, 5)).astype(np.float32)
    labels = np.arange(n) % 2
    every = np.ones(n, bool)
    return x, Problem(labels, (np.arange(n) // 2) % folds, 2, folds, every, groups)


def test_patterns_whose_means_are_alike_are_read_by_networks_alone():
    store = texture_store(n=160)
    flat = analyses.ridge_probe(store, features="S", permutations=0).table["accuracy_low"][0]
    result = analyses.conv_probe(
        store, features="S,log_friction", readout="cnn", seeds=1, folds=2
    )  # fmt: skip
    rows = result.table.set_index("features")
    assert flat < 0.5
    assert rows.loc["S", "accuracy_low"] > 0.75
    assert rows.loc["S", "selectivity"] > 0.1
    assert rows.loc["log_friction", "accuracy_low"] < 0.5
    assert rows.loc["log_friction", "bits"] > 0.9
    assert result.sentence.startswith("By networks that read S, the best of 2")
    assert any("one network; a network of two 3 x 3 convolutions" in one for one in result.caveats)


@pytest.mark.usefixtures("fast")
def test_sets_floors_and_pairs_are_those_of_the_ridge_readout():
    store = noise_store(n=40, modes=2, classes=2)
    ask = {"features": "S,friction,S+friction", "folds": 2}
    ridge = analyses.conv_probe(store, **ask)
    result = analyses.conv_probe(store, readout="cnn", seeds=2, **ask)
    np.testing.assert_array_equal(result.fold, ridge.fold)
    assert list(result.tables) == list(ridge.tables) == ["sets", "comparisons", "lifts"]
    for name in ("comparisons", "lifts"):
        assert list(result.tables[name]) == list(ridge.tables[name])
    assert set(result.table) - set(ridge.table) == {"lowest_seed", "highest_seed"}
    assert (result.table["lowest_seed"] <= result.table["highest_seed"]).all()
    assert result.parameters["seeds"] == 2
    assert result.label != ridge.label  # one does not replace the other in a folder


@pytest.mark.usefixtures("fast")
def test_the_same_seed_gives_the_same_whatever_the_threads_and_torchs_own_seed(monkeypatch):
    store = noise_store(n=40, modes=2, classes=2)
    ask = {"features": "S,friction", "readout": "cnn", "seeds": 2, "folds": 2}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    before = torch.get_num_threads()
    plain = analyses.conv_probe(store, **ask).to_json()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    monkeypatch.setattr(cnn, "THREADS", 3)
    torch.set_num_threads(2)
    try:
        assert analyses.conv_probe(store, **ask).to_json() == plain
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert analyses.conv_probe(store, **ask, seed=1).to_json() != plain


@pytest.mark.usefixtures("fast")
def test_a_set_is_read_alike_whatever_stands_beside_it():
    store = noise_store(n=40, modes=2, classes=2)
    ask = {"readout": "cnn", "seeds": 1, "folds": 2}
    both = analyses.conv_probe(store, features="friction,S", **ask).table.set_index("features")
    alone = analyses.conv_probe(store, features="S", **ask).table.set_index("features")
    assert both.loc["S", "bits"] == alone.loc["S", "bits"]


@pytest.mark.usefixtures("fast")
def test_nothing_of_tested_images_reaches_the_training():
    x, problem = problem_of()
    plain = cnn.predict(x, problem, 0, np.random.default_rng(0))
    tested = np.flatnonzero(problem.folds == 0)
    x[tested[1:]] = 100 + 50 * x[tested[1:]]
    problem.labels[tested] = 1 - problem.labels[tested]
    again = cnn.predict(x, problem, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(again[0], plain[0])
    x[np.flatnonzero(problem.folds == 1)[0]] += 1
    assert not np.array_equal(cnn.predict(x, problem, 0, np.random.default_rng(0))[0], plain[0])


def test_training_ends_by_images_that_are_not_trained_on(monkeypatch):
    """Labels of noise: on what is trained on the loss falls on and on, elsewhere it rises."""
    x, problem = problem_of(n=80)
    epochs = []

    def counted(rng, n):
        epochs.append(n)
        return np.arange(n)

    class Watched:
        def __init__(self, rng):
            self.rng = rng

        def __getattr__(self, name):
            return getattr(self.rng, name)

        def permutation(self, n):
            return counted(self.rng, n) if isinstance(n, int) else self.rng.permutation(n)

    monkeypatch.setattr(cnn, "EPOCHS", 200)
    predicted = cnn.predict(x, problem, 0, Watched(np.random.default_rng(0)))
    assert len(epochs) < 60
    assert set(epochs) == {32}  # a fifth of the 40 training images is kept from it
    tested = problem.labels[problem.folds == 0]
    loss = -np.log2(predicted[np.arange(len(tested)), tested]).mean()
    assert loss < 1.3  # the weights with the least loss there, not the last


def test_the_validation_part_is_of_whole_groups():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(20), 4))
    labels = groups % 2
    for seed in range(5):
        held = cnn.validation(labels, groups, np.random.default_rng(seed))
        assert 0 < held.sum() < 40
        assert not set(groups[held]) & set(groups[~held])
        assert set(labels[~held]) == {0, 1}
    single = cnn.validation(np.r_[np.zeros(9, int), 1], None, np.random.default_rng(0))
    assert not single[-1]


@pytest.mark.usefixtures("fast")
def test_two_splits_and_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 4)
    store = noise_store(
        n=80, modes=2, classes=2, labels=groups % 2, groups=rng.permutation(20)[groups],
        splits={"train": slice(0, 48), "test": slice(48, 80)},
    )  # fmt: skip
    result = analyses.conv_probe(
        store, features="S", readout="cnn", seeds=1, train="train", test="test"
    )
    assert (result.prediction[0] >= 0).sum() == 32
    assert "images of split test (32), trained on split train (48)," in result.sentence
    assert result.parameters["protocol"] == "cnn train train, test test"


def test_without_torch_it_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    store = noise_store(n=40, modes=2, classes=2)
    with pytest.raises(
        AnalysisError, match="needs torch, which is not installed: .* extra extract"
    ):
        analyses.conv_probe(store, features="S", readout="cnn")
    analyses.conv_probe(store, features="S", folds=2)


def test_seeds_are_of_networks(tmp_path):
    run = CliRunner().invoke(analyze, ["conv-probe", str(tmp_path), "--seeds", "2"])
    assert run.exit_code == 2
    assert "--seeds has no effect with the ridge readout" in run.output


@pytest.mark.usefixtures("fast")
def test_progress_counts_every_network(monkeypatch):
    told = []
    from contextlib import contextmanager

    @contextmanager
    def bar(total, label, **options):
        told.append([total, 0, options["show"]])

        def advance(count):
            told[-1][1] += count

        yield advance

    monkeypatch.setattr("frictionstore.analyses.conv_probe.progress_bar", bar)
    store = noise_store(n=40, modes=2, classes=2)
    analyses.conv_probe(store, features="S,S+friction", readout="cnn", seeds=2, folds=2,
                        show_progress=True)  # fmt: skip
    assert told == [[20, 20, True]]  # 2 sets, 1 floor, 2 control tasks; 2 folds; 2 seeds
