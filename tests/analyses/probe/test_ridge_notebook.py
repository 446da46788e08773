"""The notebook's sections 7 to 9, done again from its definition: the first 2,000 images only."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses import MemoryStore
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import NOTEBOOK_IMAGES
from tests.analyses.material import noise_store

CLASSES = 4
SETS = ["S", "friction", "settle", "S+friction+settle"]


@cache
def turning_store(grid: tuple[int, int] = (3, 4)) -> MemoryStore:
    """2,600 images: classes differ in the first 2,000 and are turned about in the rest."""
    rng = np.random.default_rng(11)
    n = 2600
    labels = rng.integers(0, CLASSES, n)
    shown = np.where(np.arange(n) < 2000, labels, (labels + 1) % CLASSES)
    maps = {}
    for name, strength in (("S", 0.4), ("friction", 0.25), ("settle", 0.3)):
        pattern = rng.normal(size=(CLASSES, *grid, 2))
        x = rng.normal(size=(n, *grid, 2)) + strength * pattern[shown]
        maps[name] = np.clip(np.round(x + 3), 0, 8).astype(np.uint8) if name == "settle" else x
    maps["friction"] = np.exp(maps["friction"]).astype(np.float32)
    maps["friction"][:, 0, 0, 0] = 1.0 + 1e-8  # constant
    maps["friction"][:, 0, 1, 0] = 1.0 + 1e-7 * rng.integers(0, 4, n)  # clamped
    return MemoryStore(
        maps, labels=labels, class_names=["a", "b", "c", "d"], batch=300, name="turning"
    )


def whole(store: MemoryStore) -> dict[str, np.ndarray]:
    """All maps, an image a row, in float32 as the notebook had them."""
    _, arrays = next(store.iter_chunks(store.maps, batch=store.n_images))
    return {name: x.reshape(len(x), -1).astype(np.float32) for name, x in arrays.items()}


def notebook_probe(
    x: np.ndarray, y: np.ndarray, order: np.ndarray, n_classes: int
) -> tuple[float, float]:
    """Training and test accuracy: what the notebook's cell computes, in float32."""
    cut = int(0.8 * len(order))
    fit, held_out = order[:cut], order[cut:]
    centre = x[fit].mean(axis=0, dtype=np.float64).astype(np.float32)
    width = np.clip(x[fit].std(axis=0, ddof=1, dtype=np.float64), 1e-6, None).astype(np.float32)
    a, b = (x[fit] - centre) / width, (x[held_out] - centre) / width
    targets = np.eye(n_classes, dtype=np.float32)[y[fit]]
    weights = np.linalg.solve(a.T @ a + np.eye(a.shape[1], dtype=np.float32), a.T @ targets)
    return (
        float(((a @ weights).argmax(axis=1) == y[fit]).mean()),
        float(((b @ weights).argmax(axis=1) == y[held_out]).mean()),
    )


def expected(store: MemoryStore, order: np.ndarray) -> dict[str, tuple[float, float]]:
    """The notebook's accuracies by feature set, from the first 2,000 images in this order."""
    flat = whole(store)
    kept = {name: x[:2000] for name, x in flat.items()}
    y = np.asarray(store.labels)[:2000].astype(int)
    found = {}
    for name in SETS:
        x = np.concatenate([kept[part] for part in name.split("+")], axis=1)
        found[name] = notebook_probe(x, y, order, CLASSES)
    return found


def test_the_protocol_sees_the_first_2000_images_only():
    store = turning_store()
    order = np.random.default_rng(3).permutation(2000)
    result = analyses.ridge_probe(store, protocol="notebook", order=order)
    assert result.values["n_train"] == 1600
    assert result.values["n_test"] == 400
    for k, (name, (train, test)) in enumerate(expected(store, order).items()):
        # float32 may turn a decision; the whole store is far from these figures.
        assert result.table["accuracy"][k] == pytest.approx(test, abs=2.1 / 400)
        assert result.table["train_accuracy"][k] == pytest.approx(train, abs=4.1 / 1600)
        assert result.notebook[f"{name} test_accuracy"] == result.table["accuracy"][k]
    lift = result.notebook["combined_lift_over_eigenvalues_pp"]
    accuracy = result.table["accuracy"]
    assert lift == pytest.approx(100 * (accuracy[3] - accuracy[0]))
    np.testing.assert_array_equal(np.flatnonzero(result.fold == 0), np.sort(order[1600:]))
    np.testing.assert_array_equal(np.flatnonzero(result.fold == 1), np.sort(order[:1600]))
    assert (result.prediction[:, 2000:] == -1).all()
    assert any("80/20 split of the first 2,000 of 2,600 images" in c for c in result.caveats)


@pytest.mark.parametrize("held", [1 << 40, 0], ids=["held", "streamed"])
def test_the_default_protocol_quotes_the_notebook_protocol(held, monkeypatch):
    """Its own column is of the whole store, which says something else altogether."""
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", held)
    store = turning_store()
    protocol = analyses.ridge_probe(store, protocol="notebook", seed=5)
    result = analyses.ridge_probe(store, permutations=0, seed=5)
    order = np.random.default_rng(5).permutation(2000)  # what the seed draws
    for k, (name, (_, test)) in enumerate(expected(store, order).items()):
        figure = result.notebook[f"{name} test_accuracy"]
        assert figure == pytest.approx(test, abs=2.1 / 400)
        assert figure == protocol.notebook[f"{name} test_accuracy"]
        assert result.table["notebook_accuracy"][k] == figure
        assert figure - result.table["accuracy"][k] > 0.06
    assert result.values["n_images"] == 2600
    assert any("80/20 split of the first 2,000 of 2,600 images" in c for c in result.caveats)


def test_more_columns_than_the_notebooks_training_images():
    store = turning_store((21, 40))
    assert whole(store)["S"].shape[1] > 1600
    order = np.random.default_rng(3).permutation(2000)
    result = analyses.ridge_probe(store, features="S", protocol="notebook", order=order)
    y = np.asarray(store.labels)[:2000].astype(int)
    train, test = notebook_probe(whole(store)["S"][:2000], y, order, CLASSES)
    assert result.table["accuracy"][0] == pytest.approx(test, abs=2.1 / 400)
    assert result.table["train_accuracy"][0] == pytest.approx(train, abs=2.1 / 1600)


def test_images_without_a_label_are_not_among_the_2000():
    store = noise_store(n=2500, grid=(2, 3), modes=2)
    labels = np.where(np.arange(2500) % 10 == 0, -1, store.labels)
    store = noise_store(n=2500, grid=(2, 3), modes=2, labels=labels)
    result = analyses.ridge_probe(store, features="S", protocol="notebook")
    taken = np.flatnonzero(result.fold >= 0)
    np.testing.assert_array_equal(taken, np.flatnonzero(labels >= 0)[:NOTEBOOK_IMAGES])


def test_a_store_in_the_order_of_its_classes_says_how_many_of_them_were_seen():
    labels = np.sort(np.arange(3300) % 3)
    store = noise_store(n=3300, grid=(2, 3), modes=2, labels=labels)
    for protocol in ("default", "notebook"):
        result = analyses.ridge_probe(store, features="S", permutations=0, protocol=protocol)
        assert "the images of the notebook's split are of 2 of the 3 classes" in result.caveats, (
            protocol
        )


def test_first_images_that_do_not_vary_leave_the_whole_store_its_figure(tmp_path):
    x = np.random.default_rng(0).normal(5.0, 1.0, (2300, 2, 2, 1))
    x[:2000] = 1.0
    labels = np.arange(2300) % 2
    store = MemoryStore({"S": x}, labels=labels, class_names=["a", "b"])
    result = analyses.ridge_probe(store, features="S", permutations=0)
    assert np.isfinite(result.table["accuracy"][0])
    assert np.isnan(result.table["notebook_accuracy"][0])
    assert result.notebook["S verdict"] == "not defined"
    assert any("not defined where no column varies" in c for c in result.caveats)
    with pytest.raises(AnalysisError, match="no column of S varies in the 1600 images that the"):
        analyses.ridge_probe(store, features="S", protocol="notebook")
    fs.from_arrays(tmp_path / "made.zarr", {"S": x}, label=labels, class_names=["a", "b"])
    arguments = ["ridge-probe", str(tmp_path / "made.zarr"), "--features", "S"]
    run = CliRunner().invoke(analyze, [*arguments, "--protocol", "notebook"])
    assert run.exit_code == 2
    assert run.stdout == ""
    run = CliRunner().invoke(analyze, [*arguments, "--permutations", "0"])
    assert run.exit_code == 0


def test_an_order_of_other_images_is_refused():
    with pytest.raises(AnalysisError, match="each of the first 2000 labelled rows once"):
        analyses.ridge_probe(turning_store(), protocol="notebook", order=np.arange(2600))
