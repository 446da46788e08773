"""Degenerate input: the same rule everywhere, one clear sentence, status 2, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from tests.analyses.material import feature, noise_store
from tests.support import random_maps

EVERY = ["spatial-cv", "class-distance", "center-edge", "f-statistic", "mode-variance",
         "image-summary", "ridge-probe", "summary", "all"]  # fmt: skip
NEED_LABELS = ["class-distance", "center-edge", "f-statistic", "ridge-probe", "summary"]


def refused(folder: Path, command: str, maps: dict[str, Any], **options: Any) -> str:
    """Run a command on a store that it must refuse, and return its sentence."""
    fs.from_arrays(folder / "made.zarr", maps, **options)
    out = folder / "results" / "here"
    run = CliRunner().invoke(analyze, [command, str(folder / "made.zarr"), "--out", str(out)])
    assert run.exit_code == 2, run.output
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert not (folder / "results").exists()
    message = " ".join(run.stderr.removeprefix("Error: ").split())
    assert message.count("Error") == 0
    return message


@pytest.mark.parametrize("command", NEED_LABELS)
def test_no_labels(tmp_path, command):
    message = refused(tmp_path, command, random_maps(8))
    assert "none of the 8 images of made has a label" in message
    assert "use spatial-cv, mode-variance or image-summary, which need none" in message


@pytest.mark.parametrize("command", NEED_LABELS)
def test_one_class(tmp_path, command):
    message = refused(
        tmp_path, command, random_maps(8), label=np.zeros(8, int), class_names=["cat"]
    )
    assert "all 8 labelled images of made are of one class, 'cat'" in message
    assert "needs at least 2 classes" in message


@pytest.mark.parametrize("command", NEED_LABELS)
def test_a_class_with_one_image(tmp_path, command):
    message = refused(
        tmp_path, command, random_maps(8), label=[0, 0, 0, 1, 1, 1, 1, 2],
        class_names=["cat", "dog", "newt"],
    )  # fmt: skip
    assert "needs at least 2 images in every class and 1 class has fewer in made" in message
    assert "'newt' (1)" in message
    assert "name the classes to use with --classes" in message


def test_what_the_sentence_says_works(tmp_path):
    fs.from_arrays(
        tmp_path / "made.zarr", random_maps(8), label=[0, 0, 0, 1, 1, 1, 1, 2],
        class_names=["cat", "dog", "newt"],
    )  # fmt: skip
    run = CliRunner().invoke(
        analyze, ["f-statistic", str(tmp_path / "made.zarr"), "--classes", "dog,cat"]
    )
    assert run.exit_code == 0, run.output
    assert "F(1, 5)" in run.stdout
    assert "only images of dog, cat are used: 7 of 8" in run.stdout
    run = CliRunner().invoke(
        analyze, ["f-statistic", str(tmp_path / "made.zarr"), "--classes", "dog,gnu"]
    )
    assert run.exit_code == 2
    assert "there is no class 'gnu'" in run.stderr


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(command, value):
    maps = random_maps(40)
    maps["friction"][7, 1, 1, 2] = value
    maps["friction"][7, 1, 2, 2] = value
    maps["friction"][31, 0, 0, 1] = value
    message = refused_memory(command, maps)
    assert "NaN or infinite, in 2 of 40 images" in message
    assert "'7' (row 7: 2)" in message
    assert "'31' (row 31: 1)" in message


@pytest.mark.parametrize("bad", [(3,), (20,), (59,), (3, 59)])
@pytest.mark.parametrize("feature", ["friction", "log_friction", "rank_friction"])
def test_values_that_are_not_finite_in_some_part_of_a_large_store(feature, bad, monkeypatch):
    """Other parts are whole, and have seen what that one has not."""
    monkeypatch.setattr("frictionstore.analyses.core.collecting.PART_IMAGES", 16)
    maps = {"friction": np.random.default_rng(0).lognormal(size=(60, 4, 4, 3)).astype(np.float32)}
    for image in bad:
        maps["friction"][image, 1, 1, 2] = np.nan
    store = analyses.MemoryStore(maps, labels=np.arange(60) % 3, class_names=["a", "b", "c"])
    for analysis in ("spatial_cv", "class_distance", "f_statistic", "mode_variance"):
        with pytest.raises(AnalysisError, match=f"NaN or infinite, in {len(bad)} of 60 images"):
            getattr(analyses, analysis)(store, feature=feature)
    with pytest.raises(AnalysisError, match="NaN or infinite"):
        analyses.ridge_probe(store, features=[feature], permutations=3)


def refused_memory(command: str, maps: dict[str, Any]) -> str:
    """Return the sentence for maps that a store on disk would not take in the first place."""
    store = analyses.MemoryStore(
        maps, labels=np.arange(40) % 2, class_names=["a", "b"], batch=16, name="made"
    )
    function = (
        analyses.analyze_all if command == "all" else getattr(analyses, command.replace("-", "_"))
    )
    with pytest.raises(AnalysisError) as caught:
        function(store)
    return str(caught.value)


@pytest.mark.parametrize("command", EVERY)
def test_a_grid_of_one_patch(tmp_path, command):
    message = refused(
        tmp_path, command, random_maps(8, grid=1), label=np.arange(8) % 2, class_names=["a", "b"]
    )
    assert "made has one patch per image (a 1 x 1 grid)" in message
    assert "extract with larger images or a smaller patch size" in message


def test_a_grid_too_small_for_moran_or_a_centre(tmp_path):
    message = refused(tmp_path, "spatial-cv", {"friction": np.ones((4, 1, 3, 2), np.float32)})
    assert "at least 4 patches and this one is 1 x 3" in message
    fs.from_arrays(
        tmp_path / "other.zarr", random_maps(8, grid=2), label=np.arange(8) % 2,
        class_names=["a", "b"],
    )  # fmt: skip
    run = CliRunner().invoke(analyze, ["center-edge", str(tmp_path / "other.zarr")])
    assert run.exit_code == 2
    assert "needs at least 3 patches a side" in run.stderr


@pytest.mark.parametrize("command", EVERY)
def test_a_constant_mode_is_named(tmp_path, command):
    fs.from_arrays(
        tmp_path / "made.zarr", random_maps(24, grid=4), label=np.arange(24) % 3,
        class_names=["a", "b", "c"],
    )  # fmt: skip
    run = CliRunner().invoke(
        analyze,
        [command, str(tmp_path / "made.zarr"), "--out", str(tmp_path / "out"), "--no-figures"],
    )
    assert run.exit_code == 0, run.output
    saved = " ".join(p.read_text() for p in sorted((tmp_path / "out").rglob("result.json")))
    if command == "ridge-probe":
        assert "16 of 64 columns of friction are constant" in saved
    elif command != "summary":
        assert "mode 0 (largest) is constant" in saved
    assert "NaN" not in saved
    assert "Infinity" not in saved


def test_every_feature_constant(tmp_path):
    message = refused(
        tmp_path, "ridge-probe", {**random_maps(12), "friction": np.full((12, 4, 4, 4), 5.0)},
        label=np.arange(12) % 2, class_names=["a", "b"],
    )  # fmt: skip
    assert "no column of friction varies in the training images of fold 0" in message


@pytest.mark.parametrize("command", EVERY[:-1])
def test_a_map_that_is_not_there(tmp_path, command):
    fs.from_arrays(
        tmp_path / "made.zarr", {"S": random_maps(8)["S"]}, label=np.arange(8) % 2,
        class_names=["a", "b"],
    )  # fmt: skip
    run = CliRunner().invoke(analyze, [command, str(tmp_path / "made.zarr")])
    assert run.exit_code == 2
    assert "there is no map 'friction' over patches in made: its maps are S" in run.stderr


def test_thumbnails_are_no_map_over_patches():
    store = noise_store(maps={"image": np.zeros((60, 8, 8, 3), np.uint8)})
    with pytest.raises(AnalysisError, match="no map 'image' over patches"):
        analyses.mode_variance(store, feature="image")


def test_one_image_cannot_be_compared():
    store = analyses.MemoryStore({"friction": np.random.default_rng(0).random((1, 3, 3, 2))})
    with pytest.raises(AnalysisError, match="holds one: extract at least 2"):
        analyses.mode_variance(store)
    result = analyses.spatial_cv(store, permutations=20)
    assert np.isnan(result.values["mean_cv_low"])
    assert '"mean_cv_low": null' in result.to_json()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: analyses.f_statistic(s, permutations=-1), "permutations is -1"),
        (lambda s: analyses.f_statistic(s, seed=-3), "seed is -3"),
        (lambda s: analyses.f_statistic(s, alpha=1.5), "alpha is 1.5"),
        (lambda s: analyses.center_edge(s, border=0), "border is 0"),
        (lambda s: analyses.class_distance(s, splits=1), "splits is 1"),
        (lambda s: analyses.spatial_cv(s, weights="bishop"), "weights is 'bishop'"),
        (lambda s: analyses.ridge_probe(s, folds=1), "folds is 1"),
        (lambda s: analyses.ridge_probe(s, folds=61), "61 folds need at least as many"),
        (lambda s: analyses.ridge_probe(s, features=" , "), "no features were named"),
        (lambda s: analyses.ridge_probe(s, features="S+"), "'S\\+' has nothing on one side"),
        (lambda s: analyses.ridge_probe(s, features=["S+S"]), "names a map twice"),
        (lambda s: analyses.ridge_probe(s, features=[]), "no features were named"),
        (lambda s: analyses.ridge_probe(s, protocol="mine"), "protocol is 'mine'"),
        (lambda s: analyses.ridge_probe(s, order=[1]), "belongs to protocol 'notebook'"),
        (
            lambda s: analyses.ridge_probe(s, order=[1], protocol="notebook"),
            "must name each of the 60 labelled rows once",
        ),
        (lambda s: analyses.f_statistic(s, permutations=10**7), "it must be from 0 to 100000"),
        (lambda s: analyses.analyze_all(s, only=["tea-leaves"]), "no analysis 'tea-leaves'"),
        (lambda s: analyses.summary(s, results=[]), "nothing to summarise"),
    ],
)
def test_parameters_out_of_range(call, message):
    with pytest.raises(AnalysisError, match=message):
        call(noise_store())


@pytest.mark.parametrize("held", [0, 1 << 30])
def test_permutations_that_would_not_fit(held, monkeypatch):
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", held)
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.MEMORY", 1 << 20)
    with pytest.raises(AnalysisError, match="500 permutations would take 0.0 GB here") as caught:
        analyses.ridge_probe(noise_store(n=200), features=["friction"], permutations=500)
    fits = int(str(caught.value).split("--permutations ")[1].split()[0])
    result = analyses.ridge_probe(noise_store(n=200), features=["friction"], permutations=fits)
    assert result.permuted_accuracy.shape == (1, fits)


def test_a_label_without_a_name():
    store = noise_store(labels=np.arange(60) % 4)
    with pytest.raises(AnalysisError, match="label 3 of image row 3 has no name in memory"):
        analyses.f_statistic(store)


def test_names_from_a_store_cannot_drive_the_terminal():
    store = noise_store(class_names=["a\x1b[31m", "b\n", "c"])
    text = str(analyses.class_distance(store, permutations=20))
    assert "\x1b" not in text
    assert "a\\x1b[31m" in text
    html = noise_store(class_names=["<script>", "b", "c"])
    page = analyses.class_distance(html, permutations=20)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_feature_of_one_number_per_patch():
    rng = np.random.default_rng(0)
    store = noise_store(maps={"recon_error": rng.random((60, 4, 5)).astype(np.float32)})
    result = analyses.f_statistic(store, feature="recon_error", permutations=20)
    assert result.f.shape == (4, 5, 1)
    x = feature(store, "recon_error")[..., None]
    assert np.isfinite(result.f).all()
    assert x.shape[1:] == result.f.shape


@pytest.mark.parametrize(
    ("maps", "more", "said"),
    [
        ({"S": (8, 3, 4, 1)}, {}, r"S has shape \(8, 3, 4, 1\) beside maps of 8 images, 3 x 4"),
        ({"S": (7, 3, 4, 2)}, {}, r"S has shape \(7, 3, 4, 2\)"),
        ({"S": (8, 4, 3, 2)}, {}, r"S has shape \(8, 4, 3, 2\)"),
        ({"friction_repeats": (8, 3, 4, 1, 2)}, {}, "friction_repeats has shape"),
        ({"image": (7, 6, 8, 3)}, {}, "image has shape"),
        ({}, {"labels": [0, 1]}, r"labels has shape \(2,\)"),
        ({}, {"image_ids": ["a"]}, "image_ids has shape"),
        ({}, {"groups": [1] * 9}, "groups has shape"),
    ],
)
def test_arrays_in_memory_that_are_not_of_the_same_images(maps, more, said):
    arrays = {name: np.ones(shape) for name, shape in {"friction": (8, 3, 4, 2), **maps}.items()}
    with pytest.raises(AnalysisError, match=said):
        analyses.MemoryStore(arrays, **more)


def test_thumbnails_in_memory_have_channels_and_no_modes():
    maps = {"image": np.ones((8, 6, 8, 3), np.uint8), "friction": np.ones((8, 3, 4, 2))}
    store = analyses.MemoryStore(maps)
    assert store.n_modes == 2
    assert store.grid == (3, 4)
