"""compare: pairing by id, and every figure against scipy, other analyses and kernels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses import compare as module
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.memory_store import MemoryStore
from frictionstore.analyses.probe import predict as predicting
from frictionstore.analyses.probe.split import Split
from frictionstore.analyses.stats.crossnobis import class_folds, crossnobis
from tests.analyses.material import digits, noise_store
from tests.support import random_maps

QUICK = {"permutations": 19, "resamples": 20}


def subset(
    maps: dict[str, np.ndarray], rows: np.ndarray | list[int], name: str = "memory", batch: int = 17
) -> MemoryStore:
    """Some images of the digits, under the ids that they have among all."""
    return MemoryStore(
        {key: maps[key][rows] for key in ("S", "friction", "settle")},
        labels=maps["label"][rows], class_names=[str(d) for d in range(10)],
        image_ids=[f"digit-{row:04d}" for row in rows], name=name, batch=batch,
    )  # fmt: skip


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    found, _ = digits()
    return found


def test_a_store_and_itself_are_one(maps):
    store = subset(maps, np.arange(120))
    result = analyses.compare(store, store, **QUICK)
    table = result.tables
    assert list(table["maps"]["feature"]) == ["S", "friction", "settle"]
    for name in ("rsa", "cka", "class_rsa"):
        np.testing.assert_allclose(table["maps"][name], 1, rtol=1e-9)
    varying = table["modes"].dropna(subset=["correlation"])
    np.testing.assert_allclose(varying[["correlation", "without_mean_map"]], 1, rtol=1e-9)
    assert (table["probes"]["difference"] == 0).all()
    assert (table["probes"]["mcnemar_p"] == 1).all()
    assert "no evidence of a difference" in result.sentence
    assert "unpaired" not in result.columns


def test_the_order_of_images_and_chunks_is_irrelevant(maps):
    rng = np.random.default_rng(0)
    rows = np.arange(130)
    first = subset(maps, rows)
    second = noisy(subset(maps, rows[10:]), rng)
    result = analyses.compare(first, second, feature="S", **QUICK)
    for _ in range(2):
        order = [rng.permutation(130), rng.permutation(120)]
        moved = [reordered(s, o) for s, o in zip((first, second), order, strict=True)]
        again = analyses.compare(*moved, feature="S", **QUICK)
        for name in ("maps", "modes", "probes"):
            for key, values in result.columns[name].items():
                ours = again.columns[name][key]
                if isinstance(values[0], str):
                    assert list(ours) == list(values)
                else:
                    np.testing.assert_allclose(ours, values, rtol=1e-6, err_msg=key)
        assert sorted(again.columns["unpaired"]["image_id"]) == sorted(
            result.columns["unpaired"]["image_id"]
        )


def noisy(store: MemoryStore, rng: np.random.Generator) -> MemoryStore:
    _, arrays = next(store.iter_chunks(store.maps, batch=store.n_images))
    arrays["S"] = arrays["S"] * rng.lognormal(0, 0.2, arrays["S"].shape).astype(np.float32)
    return MemoryStore(
        arrays, labels=store.labels, class_names=store.class_names, image_ids=store.image_ids
    )


def reordered(store: MemoryStore, order: np.ndarray) -> MemoryStore:
    _, arrays = next(store.iter_chunks(store.maps, batch=store.n_images))
    return MemoryStore(
        {key: values[order] for key, values in arrays.items()}, labels=store.labels[order],
        class_names=store.class_names, image_ids=store.image_ids[order], batch=13,
    )  # fmt: skip


def test_images_in_one_only_are_counted_and_named(maps):
    first = subset(maps, np.arange(60), "left")
    second = subset(maps, np.arange(3, 70), "right")
    result = analyses.compare(first, second, feature="S", **QUICK)
    assert result.values["images"] == 57
    assert result.values["only_in_first"] == 3
    assert result.values["only_in_second"] == 10
    unpaired = result.tables["unpaired"]
    assert list(unpaired["image_id"][unpaired["store"] == "left"]) == [
        "digit-0000", "digit-0001", "digit-0002",
    ]  # fmt: skip
    assert any(
        "3 of 60 images are only in left and left out: digit-0000, digit-0001" in one
        for one in result.caveats
    )
    assert any("10 of 67 images are only in right" in one for one in result.caveats)
    both = [subset(maps, np.arange(3, 60)) for _ in range(2)]
    expected = analyses.compare(*both, feature="S", **QUICK)
    assert result.columns["maps"] == expected.columns["maps"]


def test_correlations_by_mode_are_scipys(maps):
    first, second = subset(maps, np.arange(50)), noisy(subset(maps, np.arange(50)),
                                                       np.random.default_rng(1))  # fmt: skip
    table = analyses.compare(first, second, feature="S", **QUICK).tables["modes"]
    x, y = (next(s.iter_chunks(("S",), batch=50))[1]["S"].astype(float) for s in (first, second))
    assert list(table["of"]) == ["patches"] * 4
    for mode in range(4):
        a, b = x[..., mode], y[..., mode]
        row = table.iloc[mode]
        assert row["correlation"] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        assert row["rank_correlation"] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        assert row["without_mean_map"] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        assert row["correlation_low"] < row["correlation"] < row["correlation_high"]


def test_other_grids_and_modes_are_compared_by_means_of_images():
    rng = np.random.default_rng(3)
    x = rng.random((30, 4, 4, 3))
    y = np.repeat(np.repeat(x, 2, axis=1), 3, axis=2) + rng.random((30, 8, 12, 3))
    labels = np.arange(30) % 3
    first = MemoryStore({"S": x}, labels=labels)
    for other, expected in ((y, 3), (np.concatenate([y, y[..., :1]], axis=3), 1)):
        second = MemoryStore({"S": other}, labels=labels)
        result = analyses.compare(first, second, feature="S", **QUICK)
        table = result.tables["modes"]
        assert list(table["of"]) == ["image means"] * expected
        modes = slice(0, 1) if expected == 3 else slice(None)
        a, b = x[..., modes].mean(axis=(1, 2, 3)), other[..., modes].mean(axis=(1, 2, 3))
        assert table["correlation"][0] == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert np.isfinite(result.tables["maps"]["cka"][0])
    same_grid = MemoryStore({"S": rng.random((30, 4, 4, 2))}, labels=labels)
    table = analyses.compare(first, same_grid, feature="S", **QUICK).tables["modes"]
    assert list(table["mode"]) == ["all"]


def test_distances_of_classes_are_crossnobis_on_the_same_folds():
    store = noise_store(n=61, classes=4, effect=2.0, image_ids=[f"{k:03d}" for k in range(61)])
    result = analyses.compare(store, feature=["friction", "S"], **QUICK)
    labels = np.asarray(store.labels, np.int64)
    folds, n_folds = class_folds(labels, np.random.default_rng([0, 0]))
    _, arrays = next(store.iter_chunks(("friction",), batch=61))
    x = arrays["friction"].reshape(61, -1).astype(float)
    cells = [x[(folds == f) & (labels == c)] for f in range(n_folds) for c in range(4)]
    within = sum(np.square(cell - cell.mean(axis=0)).sum(axis=0) for cell in cells)
    means = np.stack([cell.mean(axis=0) for cell in cells]).reshape(n_folds, 4, -1)
    expected = crossnobis(means, (61 - len(cells)) / within)
    np.testing.assert_allclose(result.class_distances[0, 0], expected, rtol=1e-9, atol=1e-12)
    upper = np.triu_indices(4, 1)
    rho = spearmanr(*(one[upper] for one in result.class_distances[0])).statistic
    assert result.table["class_rsa"][0] == pytest.approx(rho)
    assert list(result.table["feature"]) == ["friction and S"]


@pytest.mark.parametrize("held", [0, 1 << 30])
def test_one_map_alone_predicts_what_ridge_probe_predicts(held, monkeypatch):
    monkeypatch.setattr(predicting, "HELD", held)
    store = noise_store(n=150, effect=3.0, labels=np.r_[np.arange(140) % 3, [-1] * 10])
    expected = analyses.ridge_probe(store, features=["friction"], permutations=0)
    split = Split(np.asarray(store.labels, np.int64), expected.fold, 5, 3)
    found = predicting.predict(store, "friction", split)
    np.testing.assert_array_equal(found, expected.prediction[0])


def test_accuracies_are_on_the_same_folds_of_the_common_images(maps):
    first = subset(maps, np.arange(200))
    second = noisy(subset(maps, np.arange(20, 240)), np.random.default_rng(0))
    result = analyses.compare(first, second, feature="S", **QUICK)
    row = result.tables["probes"].iloc[0]
    assert row["images"] == 180
    labels = maps["label"][20:200]
    fold = module.folds_of(labels.astype(np.int64), None, 5, np.random.default_rng([0, 4]))
    right = []
    for store in (reordered(first, np.arange(20, 200)), reordered(second, np.arange(180))):
        split = Split(labels.astype(np.int64), fold, 5, 10)
        right.append(predicting.predict(store, "S", split) == labels)
        assert row[["first_accuracy", "second_accuracy"][len(right) - 1]] == pytest.approx(
            accuracy_score(labels, np.where(right[-1], labels, -1))
        )
    assert row["only_first"] == (right[0] & ~right[1]).sum()
    assert row["only_second"] == (right[1] & ~right[0]).sum()


def test_memory_bounds_what_is_held(maps, monkeypatch):
    monkeypatch.setattr(module, "MEMORY", 30 * 4 * 4 * maps["S"][0, ..., 0].size)
    store = subset(maps, np.arange(90))
    result = analyses.compare(store, store, feature="S", **QUICK)
    assert result.values["held"] == 30
    assert any("of 30, CKA and correlations over patches of 30 of 90" in c for c in result.caveats)
    assert result.tables["probes"]["images"][0] == 90


def test_without_labels_or_with_other_ones(maps):
    store = subset(maps, np.arange(40))
    bare = MemoryStore({"S": maps["S"][:40]}, image_ids=store.image_ids)
    result = analyses.compare(bare, bare, feature="S", **QUICK)
    assert "probes" not in result.columns
    assert np.isnan(result.values["class_rsa S"])
    assert any("no probe: there are 0 classes" in one for one in result.caveats)
    other = MemoryStore(
        {"S": maps["S"][:40]}, labels=np.r_[store.labels[:38], 9 - store.labels[38:]],
        class_names=store.class_names, image_ids=store.image_ids,
    )  # fmt: skip
    result = analyses.compare(store, other, feature="S", **QUICK)
    assert any("2 of 40 images have another label in the second store" in c for c in result.caveats)


def test_a_class_by_another_number_is_the_same_class(maps):
    store = subset(maps, np.arange(60))
    turned = MemoryStore(
        {"S": maps["S"][:60]}, labels=9 - store.labels, class_names=store.class_names[::-1],
        image_ids=store.image_ids,
    )  # fmt: skip
    result = analyses.compare(store, turned, feature="S", **QUICK)
    assert not any("another label" in one for one in result.caveats)
    assert (result.tables["probes"]["difference"] == 0).all()


def test_a_constant_map_beside_one_that_varies(maps):
    store = subset(maps, np.arange(40))
    flat = MemoryStore(
        {"S": np.full_like(maps["S"][:40], 3), "settle": maps["settle"][:40]},
        labels=store.labels, class_names=store.class_names, image_ids=store.image_ids, name="flat",
    )  # fmt: skip
    result = analyses.compare(store, flat, **QUICK)
    assert list(result.table["feature"]) == ["S", "settle"]
    assert np.isnan(result.values["rsa S"])
    assert result.values["rsa settle"] == pytest.approx(1)
    assert any("no probe of S: no column of S varies" in one for one in result.caveats)
    assert any("of S of flat is constant over all images" in one for one in result.caveats)
    assert "NaN" not in result.to_json()
    with pytest.raises(AnalysisError, match="every mode of S is constant in memory and flat"):
        analyses.compare(store, flat, feature="S", **QUICK)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            ["a", "b", "c", "d"],
            r"4 images or more with one id .* there are 0 in memory \(digit-0000",
        ),
        (["digit-0000", "b", "c", "d"], "there is 1 in memory"),
        (["digit-0000", "digit-0001", "x", "x"], "has 'x' more than once"),
    ],
)
def test_ids_that_do_not_pair(maps, ids, message):
    other = MemoryStore({"S": maps["S"][:4]}, image_ids=ids)
    with pytest.raises(AnalysisError, match=message):
        analyses.compare(subset(maps, np.arange(10)), other, **QUICK)


def test_one_image(maps):
    with pytest.raises(AnalysisError, match="there is 1 in memory .*: extract more images"):
        analyses.compare(subset(maps, [3]), feature=["S", "settle"])


def test_maps_that_are_not_in_both(maps):
    store = subset(maps, np.arange(10))
    other = MemoryStore({"friction_exact": maps["friction"][:10]}, image_ids=store.image_ids)
    with pytest.raises(AnalysisError, match="a map that both stores hold; memory: S, friction"):
        analyses.compare(store, other)
    with pytest.raises(AnalysisError, match="no map 'S' over patches in memory: its maps are fric"):
        analyses.compare(store, other, feature="S")
    with pytest.raises(AnalysisError, match="something to compare S with: name another store"):
        analyses.compare(store, feature="S")


def test_without_permutations_nothing_is_said_to_agree(maps):
    store = subset(maps, np.arange(40))
    said = analyses.compare(store, store, feature="S", permutations=0, resamples=0).sentence
    assert "distances between images are not tested (rank correlation 1.000" in said


@pytest.mark.parametrize("first", [False, True])
def test_labels_of_one_store_are_those_of_both(maps, first):
    labelled = subset(maps, np.arange(60))
    bare = subset(maps, np.arange(60))
    bare.labels = np.full(60, -1, np.int32)
    stores = (bare, labelled) if first else (labelled, bare)
    found = analyses.compare(*stores, feature="S", **QUICK)
    expected = analyses.compare(labelled, labelled, feature="S", **QUICK)
    assert found.columns["probes"] == expected.columns["probes"]
    which, other = ("first", "second") if first else ("second", "first")
    assert (
        f"60 of 60 images have no label in the {which} store: classes are those of the {other}"
        in found.caveats
    )
    assert not any("another label" in one for one in found.caveats)


def test_groups_of_either_store_count_and_are_said(maps):
    rows = np.arange(60)
    bare, grouped, other = (subset(maps, rows) for _ in range(3))
    grouped.groups, other.groups = rows // 2, rows // 3
    for stores in ((bare, grouped), (grouped, bare)):
        found = analyses.compare(*stores, feature="S", folds=2, **QUICK)
        assert found.parameters["image_groups"]["count"] == 30
        assert any("60 images in 30 groups" in one for one in found.caveats)
        assert not any("taken as independent of each other" in one for one in found.caveats)
        assert not any("other images together" in one for one in found.caveats)
    found = analyses.compare(grouped, other, feature="S", folds=2, **QUICK)
    assert any("the second store puts other images together" in one for one in found.caveats)
    renamed = subset(maps, rows)
    renamed.groups = 40 - rows // 2
    found = analyses.compare(grouped, renamed, feature="S", folds=2, **QUICK)
    assert not any("other images together" in one for one in found.caveats)


# ---- from the command line ------------------------------------------------------------------


def made(folder: Path, name: str, seed: int, **options: object) -> str:
    maps = random_maps(30, seed=seed)
    store = fs.from_arrays(
        folder / f"{name}.zarr", maps, label=np.arange(30) % 5,
        class_names=["ant", "bee", "cow", "dog", "elk"], **options,
    )  # fmt: skip
    return store.location


def test_two_stores_on_disk(tmp_path):
    a, b, c = (made(tmp_path, name, seed) for seed, name in enumerate("abc"))
    quick = ["--permutations", "19", "--resamples", "9", "--no-figures"]
    out = tmp_path / "out"
    for other in (b, c, b):
        run = CliRunner().invoke(analyze, ["compare", a, other, *quick, "--out", str(out)])
        assert run.exit_code == 0, run.output
        assert "distances between images agree" in run.stdout
    saved = [json.loads(path.read_text()) for path in out.rglob("result.json")]
    assert sorted(one["parameters"]["with"]["store"] for one in saved) == ["b", "c"]
    run = CliRunner().invoke(
        analyze, ["compare", a, b, *quick, "--json", "--classes", "bee,dog", "--feature", "S"]
    )
    found = json.loads(run.stdout)
    assert found["values"]["images"] == 12
    assert found["parameters"]["classes"] == ["bee", "dog"]


def test_refused_on_the_command_line(tmp_path):
    a = made(tmp_path, "a", 0)
    b = made(tmp_path, "b", 1, image_id=[f"other-{k}" for k in range(30)])
    out = tmp_path / "results"
    run = CliRunner().invoke(analyze, ["compare", a, b, "--out", str(out)])
    assert run.exit_code == 2
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert "there are 0 in a" in " ".join(run.stderr.split())
    assert not out.exists()
    run = CliRunner().invoke(analyze, ["compare", a, str(tmp_path / "nothing.zarr")])
    assert run.exit_code == 2
