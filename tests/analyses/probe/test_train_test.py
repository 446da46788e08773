"""Training on one split, testing on another: by scikit-learn, and what must not reach the fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binomtest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import SelectedClasses
from frictionstore.analyses.probe import banded
from frictionstore.analyses.stats.intervals import share_interval
from tests.analyses.material import feature, noise_store

TRAIN, TEST = slice(0, 90), slice(90, 140)
SPLITS = {"train": TRAIN, "test": TEST, "rest": slice(140, 160)}
BOTH = {"train": "train", "test": "test"}
SETS = ["S", "friction", "S+friction"]


def store_of(effect: float = 15.0, **options) -> analyses.MemoryStore:
    options.setdefault("splits", SPLITS)
    return noise_store(n=160, effect=effect, **options)


def rows(store, name):
    return feature(store, name).reshape(store.n_images, -1)


@pytest.fixture(params=["held", "streamed"])
def form(request, monkeypatch):
    held = 0 if request.param == "streamed" else 1e9
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", held)


@pytest.mark.usefixtures("form")
def test_predictions_are_scikit_learns_on_the_same_split():
    store = store_of()
    result = analyses.ridge_probe(store, features=SETS, permutations=0, **BOTH)
    penalties = result.tables["penalties"].set_index(["features", "map"])["lambda"]
    target = np.eye(3)[store.labels]
    for k, name in enumerate(SETS):
        scaled = []
        for part in name.split("+"):
            x = rows(store, part)
            z = StandardScaler().fit(x[TRAIN]).transform(x)
            scaled.append(z / np.sqrt(penalties[name, part]))
        x = np.hstack(scaled)
        model = Ridge(alpha=1.0).fit(x[TRAIN], target[TRAIN])
        expected = model.predict(x[TEST]).argmax(axis=1)
        np.testing.assert_array_equal(result.prediction[k][TEST], expected)
        outside = np.delete(result.prediction[k], np.r_[TEST])
        assert (outside == -1).all()
        right = int((expected == store.labels[TEST]).sum())
        row = result.table.iloc[k]
        assert row["accuracy"] == pytest.approx(right / 50)
        wilson = binomtest(right, 50).proportion_ci(method="wilson")
        assert row["accuracy_low"] == pytest.approx(wilson.low)
        assert row["accuracy_high"] == pytest.approx(wilson.high)


@pytest.mark.usefixtures("form")
def test_pairs_are_compared_on_the_same_test_images():
    store = store_of()
    result = analyses.ridge_probe(store, features=SETS, permutations=0, **BOTH)
    right = result.prediction[:, TEST] == store.labels[TEST]
    table = result.tables["comparisons"].set_index(["first", "second"])
    b, c = (right[2] & ~right[0]).sum(), (right[0] & ~right[2]).sum()
    pair = table.loc[("S+friction", "S")]
    assert (pair["only_first"], pair["only_second"]) == (b, c)
    assert pair["mcnemar_p"] == pytest.approx(binomtest(int(min(b, c)), int(b + c)).pvalue)
    lift = result.tables["lifts"].iloc[0]
    assert lift["lift"] == pytest.approx((b - c) / 50)
    assert lift["lift_low"] == pair["difference_low"]
    assert lift["lift_high"] == pair["difference_high"]
    assert lift["floor_images"] == 50
    assert f"{lift['floor'] * 100:+.1f} percentage points" in result.sentences[-1]


def changed(**images):
    """The store with other values in some images that are not trained on."""
    maps = {name: feature(store_of(), name).astype(np.float32) for name in ("S", "friction")}
    for name, (where, values) in images.items():
        maps[name][where] = values
    return store_of(maps=maps)


@pytest.mark.usefixtures("form")
def test_nothing_of_other_images_reaches_the_fit():
    plain = analyses.ridge_probe(store_of(), features=SETS, permutations=0, **BOTH)
    far = 1e3 * np.random.default_rng(5).lognormal(size=(69, 4, 5, 3))
    others = np.r_[91:160]  # all but the first test image
    moved = changed(S=(others, far), friction=(others, far))
    result = analyses.ridge_probe(moved, features=SETS, permutations=0, **BOTH)
    np.testing.assert_array_equal(result.penalty, plain.penalty)
    np.testing.assert_array_equal(result.prediction[:, 90], plain.prediction[:, 90])
    assert result.tables["penalties"].equals(plain.tables["penalties"])


@pytest.mark.parametrize("analysis", ["information", "conv_probe"])
def test_nothing_of_other_images_reaches_the_readouts(analysis):
    ask = {} if analysis == "information" else {"features": "S,S+friction"}
    plain = getattr(analyses, analysis)(store_of(), **ask, **BOTH)
    far = 30 * np.random.default_rng(5).lognormal(size=(49, 4, 5, 3))
    others = np.r_[91:140]
    result = getattr(analyses, analysis)(changed(S=(others, far), friction=(others, far)), **ask,
                                         **BOTH)  # fmt: skip
    floors = 0 if analysis == "conv_probe" else [
        k for k, name in enumerate(plain.tables["sets"]["features"]) if "shuffled" not in name
    ]  # fmt: skip
    np.testing.assert_array_equal(result.prediction[floors, 90], plain.prediction[floors, 90])
    if analysis == "information":
        np.testing.assert_allclose(result.bits[floors, 90], plain.bits[floors, 90])
    assert (result.fold[:90] == 1).all()
    assert (result.fold[90:140] == 0).all()
    assert len(result.fold) == 140


def test_penalties_are_weighed_on_training_images_alone():
    folds = np.r_[np.zeros(300, int), np.ones(400, int), -np.ones(50, int)]
    chosen = banded.sample(folds, 1, 0)
    assert len(chosen) == banded.AT_MOST
    assert (folds[chosen] == 1).all()
    assert (folds[banded.sample(folds[:600], 2, 0)] >= 0).all()


def test_labels_are_permuted_within_each_split_and_p_holds_without_an_effect():
    p = []
    for seed in range(40):
        store = noise_store(seed=seed, n=60, splits={"a": slice(0, 40), "b": slice(40, 60)})
        result = analyses.ridge_probe(
            store, features="S", permutations=19, train="a", test="b", seed=seed
        )
        p.append(result.table["p"][0])
    assert np.mean(np.array(p) <= 0.1) < 0.25
    found = analyses.ridge_probe(store_of(), features="friction", permutations=19, **BOTH)
    assert found.table["p"][0] == 0.05
    assert any("shuffled within each split 19 times" in one for one in found.caveats)


def grouped(apart: bool = True) -> analyses.MemoryStore:
    """Photographs of 10 crops that share a pattern, which has nothing to do with the class."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(16), 10)
    own = rng.normal(size=(16, 4, 4, 2))
    S = own[groups] + 0.1 * rng.normal(size=(160, 4, 4, 2))
    S[:, 0, 0, 0] += 0.6 * (groups % 2)
    names = [f"photograph {g}" for g in groups]
    first = 80 if apart else 85
    splits = {"train": slice(0, first), "test": slice(first, 160)}
    return analyses.MemoryStore(
        {"S": np.exp(S)}, labels=groups % 2, class_names=["a", "b"], groups=names, splits=splits
    )


def test_intervals_are_of_groups_and_not_of_their_images():
    store = grouped()
    result = analyses.ridge_probe(store, features="S", permutations=0, **BOTH)
    right = result.prediction[0, 80:] == store.labels[80:]
    row = result.table.iloc[0]
    low, high = share_interval(right, store.groups[80:])
    assert (row["accuracy_low"], row["accuracy_high"]) == (pytest.approx(low), pytest.approx(high))
    alone = binomtest(int(right.sum()), 80).proportion_ci(method="wilson")
    assert high - low > 1.5 * (alone.high - alone.low)


def test_groups_in_both_splits_are_named():
    with pytest.raises(AnalysisError, match=r"1 group \(photograph 8\) lie in both split 'train'"):
        analyses.ridge_probe(grouped(apart=False), features="S", **BOTH)


def test_one_tested_group_tells_nothing_of_others():
    store = grouped()
    store.splits["one"] = slice(150, 160)
    with pytest.raises(AnalysisError, match="all images of split 'one' of .* belong to one group"):
        analyses.ridge_probe(store, features="S", train="train", test="one")


@pytest.mark.parametrize(
    ("options", "asked", "said"),
    [
        ({"splits": None}, BOTH, "memory has no splits to train and test on: join two stores"),
        ({}, {"train": "trian", "test": "test"}, "no split 'trian': it has train, test, rest; did"),
        ({}, {"train": "test", "test": "test"}, "both name the split 'test'"),
        ({}, {"train": "train"}, "--train names a split and --test does not"),
        ({}, {"test": "test"}, "--test names a split and --train does not"),
        ({"labels": np.r_[np.arange(90) % 2, np.arange(70) % 3]}, BOTH,
         "split 'train' of memory has no image of class2, which split 'test' has"),
        ({"labels": np.r_[np.zeros(90, int), np.arange(70) % 3]}, BOTH,
         "split 'train' of memory are of one class, 'class0'"),
        ({"labels": np.r_[np.arange(90) % 3, -np.ones(70, int)]}, BOTH,
         "no image of split 'test' of memory has a label"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("analysis", ["ridge_probe", "information", "conv_probe"])
def test_what_cannot_be_done_is_one_sentence(analysis, options, asked, said):
    with pytest.raises(AnalysisError, match=said) as error:
        getattr(analyses, analysis)(store_of(**options), **asked)
    assert "\n" not in str(error.value)


def test_the_notebooks_protocol_makes_its_own_split():
    with pytest.raises(AnalysisError, match="makes a split of its own"):
        analyses.ridge_probe(store_of(), protocol="notebook", **BOTH)


def test_a_class_that_is_not_tested_is_no_class_of_the_test():
    labels = np.r_[np.arange(90) % 3, np.arange(50) % 2, np.arange(20) % 3]
    result = analyses.ridge_probe(store_of(labels=labels), features="S", permutations=0, **BOTH)
    assert list(result.tables["classes"]["class"]) == ["class0", "class1"]
    assert np.isfinite(result.table["balanced_accuracy"]).all()
    assert result.values["majority_level"] == pytest.approx(0.5)


def test_splits_of_chosen_classes_are_what_is_left_of_them():
    store = store_of()
    some = SelectedClasses(store, ["class2", "class0"])
    kept = np.flatnonzero(store.labels != 1)
    for name, rows_of in SPLITS.items():
        inside = kept[some.splits[name]]
        np.testing.assert_array_equal(inside, kept[(kept >= rows_of.start) & (kept < rows_of.stop)])
    result = analyses.ridge_probe(some, features="S", permutations=0, **BOTH)
    assert result.values["n_images"] == (store.labels[TEST] != 1).sum()


def test_images_are_drawn_from_both_splits_and_every_class_is_trained_on():
    labels = np.r_[np.zeros(89, int), 2, np.arange(50) % 3, np.zeros(20, int)]
    labels[:44] = 1
    store = store_of(labels=labels)
    result = analyses.information(store, images=40, **BOTH)
    assert (result.fold == 1).sum() == (result.fold == 0).sum() == 20
    assert any("40 of 140 labelled images of both splits" in one for one in result.caveats)
    whole = analyses.information(store, images=120, **BOTH)
    assert ((whole.fold == 1).sum(), (whole.fold == 0).sum()) == (70, 50)


def test_the_command_on_a_merged_store_and_what_is_saved_beside_it(tmp_path):
    store = store_of()
    maps = {name: feature(store, name).astype(np.float32) for name in ("S", "friction", "settle")}
    maps["settle"] = maps["settle"].astype(np.uint8)
    for name, part in SPLITS.items():
        fs.from_arrays(
            tmp_path / f"{name}.zarr", {key: x[part] for key, x in maps.items()},
            label=store.labels[part], class_names=store.class_names,
        )  # fmt: skip
    both = tmp_path / "both.zarr"
    fs.merge(
        [tmp_path / "train.zarr", tmp_path / "test.zarr"], both, names=["train", "test"]
    )  # fmt: skip
    asked = [str(both), "--train", "train", "--test", "test"]
    runner = CliRunner()
    for name in ("ridge-probe", "information", "conv-probe"):
        run = runner.invoke(analyze, [name, *asked, "--json"])
        assert run.exit_code == 0, run.output
        made = json.loads(run.output)
        assert made["parameters"]["train"] == "train"
        assert "folds" not in made["parameters"]
        assert any("images of split test (50), trained on split train (90)" in one
                   for one in made["caveats"])  # fmt: skip
        refused = runner.invoke(analyze, [name, *asked, "--folds", "3"])
        assert refused.exit_code == 2
        assert "--folds has no effect with --train and --test" in refused.output
    out = str(tmp_path / "results")
    folds = runner.invoke(analyze, ["ridge-probe", str(both), "--out", out, "--no-figures"])
    assert folds.exit_code == 0, folds.output
    run = runner.invoke(analyze, ["ridge-probe", *asked, "--out", out, "--no-figures"])
    assert run.exit_code == 0, run.output
    assert "instead of" not in run.output  # it lies beside the cross-validated one
    closing = analyses.summary(fs.open(both), feature="friction", results=out)
    known = json.loads(runner.invoke(analyze, ["ridge-probe", str(both), "--json"]).output)
    line = closing.table.set_index("line").loc["friction map linear probe"]
    assert line["value"] == pytest.approx(known["values"]["accuracy friction"]["accuracy"])


def test_two_runs_are_the_same_whatever_the_chunks():
    store, other = store_of(), store_of()
    other._batch = 7
    for analysis in (analyses.ridge_probe, analyses.information):
        assert analysis(store, **BOTH).to_json() == analysis(other, **BOTH).to_json()
