"""Every option of every analysis has an effect, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import SelectedClasses
from tests.analyses.material import noise_store, with_repeats
from tests.support import random_images, random_maps, slow

OTHER: dict[str, list[str]] = {
    "--feature": ["S"],
    "--features": ["S,settle"],
    "--classes": ["ant,bee"],
    "--permutations": ["35"],
    "--probe-permutations": ["7"],
    "--seed": ["11"],
    "--alpha": ["0.9"],
    "--border": ["2"],
    "--splits": ["5"],
    "--weights": ["binary"],
    "--folds": ["3"],
    "--protocol": ["notebook"],
    "--only": ["mode-variance"],
    "--samples": ["50"],
    "--donors": ["5"],
    "--images": ["20"],
    "--resamples": ["30"],
    "--margin": ["100"],
    "--groups": ["made below"],
    "--train": ["train", "--test", "test"],
    "--test": ["test", "--train", "train"],
    "--readout": ["cnn", "--seeds", "1"],
    "--seeds": ["2"],
}
"""A value other than the default; options that are missing here fail the test."""

SMALL = ["--features", "S", "--folds", "2"]
BESIDE = {"--readout": SMALL, "--seeds": [*SMALL, "--readout", "cnn", "--seeds", "1"]}
"""What an option is given beside, where it has no effect alone or would take long."""

UNPERMUTED = ("center-edge", "mode-variance", "image-summary", "reliability", "content",
              "information", "conv-probe")  # fmt: skip

LONG = ("information", "conv-probe")
"""They fit many sets of maps, whatever is asked."""

OUTPUT = {"--out", "--overwrite", "--json", "--figures", "--results", "--verify", "--cluster"}
"""Tested below and in test_cluster: they change where the result goes, where it is from and whether
it may be, and who reads."""


def commands() -> Iterator[tuple[str, click.Option]]:
    for name in [*analyses.REGISTRY, "all"]:
        command = analyze.get_command(click.Context(analyze), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.opts[0] not in OUTPUT:
                yield name, parameter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    label = np.arange(36) % 3
    maps = random_maps(36, grid=6)
    maps["friction"][label == 1, 2, 3, 2] *= 3
    maps["friction"][:, 0, :, 1] *= 1.5
    maps["image"] = random_images(36)
    folder = tmp_path_factory.mktemp("stores")
    parts = {"train": slice(0, 24), "test": slice(24, 36)}
    for name, part in parts.items():
        fs.from_arrays(
            folder / name, {key: x[part] for key, x in maps.items()}, label=label[part],
            class_names=["ant", "bee", "cow"], image_id=[str(k) for k in range(36)[part]],
        )  # fmt: skip
    both = [folder / name for name in parts]
    return fs.merge(both, folder / "made.zarr", names=list(parts)).location


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> str:
    maps, label = with_repeats(random_maps(36)), np.arange(36) % 3
    maps["image"] = random_images(36)
    path = tmp_path_factory.mktemp("stores") / "repeated.zarr"
    return fs.from_arrays(path, maps, label=label, class_names=["ant", "bee", "cow"]).location


def found(name: str, store: str, *arguments: str) -> list[dict[str, Any]]:
    """What a command answers, without the record of what it was asked."""
    quick = [] if name in UNPERMUTED else [
        "--permutations", "20"]  # fmt: skip
    if name == "content" and "--donors" not in arguments:
        quick = ["--donors", "9"]
    if name == "all":
        quick += ["--probe-permutations", "3"]
    if "--permutations" in arguments or "notebook" in arguments:
        quick = quick[2:]
    if "--only" in arguments:
        quick = []
    run = CliRunner().invoke(analyze, [name, store, "--json", *quick, *arguments])
    assert run.exit_code == 0, run.output
    content = json.loads(run.stdout)
    results = content if isinstance(content, list) else [content]
    for one in results:
        for key in ("provenance", "parameters", "seed", "feature", "question"):
            del one[key]
    return results


_PLAIN: dict[str, list[dict[str, Any]]] = {}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        pytest.param(n, o, id=f"{n} {o.opts[0]}", marks=[pytest.mark.slow] if n in LONG else [])
        for n, o in commands()
    ],
)
def test_every_option_changes_what_is_found(
    name: str, option: click.Option, made: str, repeated: str
) -> None:
    flag = option.opts[0]
    made = repeated if name == "reliability" else made
    if name not in _PLAIN:
        _PLAIN[name] = found(name, made)
        assert found(name, made) == _PLAIN[name]
    features = {"reliability": ["settle"], "compare": ["settle", "--feature", "S"]}
    other = features.get(name, OTHER[flag]) if flag == "--feature" else OTHER[flag]
    if flag == "--groups":  # two images of one class each, six groups a class
        ids = fs.open(made).image_ids
        lines = [f"{name},{k % 3} {k // 6}" for k, name in enumerate(ids)]
        Path(made).with_suffix(".csv").write_text("\n".join(["id,group", *lines]))
        other = [str(Path(made).with_suffix(".csv"))]
    beside = BESIDE.get(flag, [])
    changed = found(name, made, *beside, flag, *other)
    numbers = [[one[key] for key in ("values", "tables", "arrays")] for one in changed]
    plain = found(name, made, *beside) if beside else _PLAIN[name]
    before = [[one[key] for key in ("values", "tables", "arrays")] for one in plain]
    assert numbers != before, (name, flag)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["ridge-probe", "STORE", "--protocol", "notebook", "--folds", "3"], "--folds"),
        (["ridge-probe", "STORE", "--protocol", "notebook", "--permutations", "3"],
         "--permutations"),
        (["summary", "STORE", "--results", "RESULTS", "--seed", "3"], "--seed"),
        (["summary", "STORE", "--results", "RESULTS", "--permutations", "3"], "--permutations"),
        (["all", "STORE", "--only", "image-summary", "--folds", "3"], "--folds"),
        (["all", "STORE", "--only", "f-statistic", "--probe-permutations", "3"],
         "--probe-permutations"),
        (["all", "STORE", "--only", "center-edge,ridge-probe", "--permutations", "3"],
         "--permutations"),
    ],
)  # fmt: skip
def test_options_that_do_nothing_beside_others_are_refused(arguments, option, made, tmp_path):
    given = {"STORE": made, "RESULTS": str(tmp_path)}
    run = CliRunner().invoke(analyze, [given.get(part, part) for part in arguments])
    assert run.exit_code == 2
    assert f"{option} has no effect" in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("name", [*analyses.REGISTRY, "all"])
def test_verify_refuses_what_reading_does_not_notice(
    name: str, repeated: str, tmp_path: Path
) -> None:
    """What an analysis does not read, it cannot notice: here a map that is no part of it."""
    store = tmp_path / "changed.zarr"
    shutil.copytree(repeated, store)
    (store / "S" / "more").write_text("what somebody added")
    quick = [] if name in UNPERMUTED else ["--permutations", "5"]
    run = CliRunner().invoke(analyze, [name, str(store), "--json", *quick])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(analyze, [name, str(store), "--json", *quick, "--verify"])
    assert run.exit_code == 2
    assert "S/more does not belong to the store" in run.stderr.replace("\n", " ")
    assert run.stdout == ""


@pytest.mark.parametrize("name", [*analyses.REGISTRY, "all"])
def test_options_of_output(name: str, made: str, repeated: str, tmp_path: Path) -> None:
    made = repeated if name == "reliability" else made
    quick = [] if name in UNPERMUTED else [
        "--permutations", "5"]  # fmt: skip
    for figures in ("--figures", "--no-figures"):
        out = tmp_path / figures
        run = CliRunner().invoke(analyze, [name, made, "--out", str(out), figures, *quick])
        assert run.exit_code == 0, run.output
        assert list(out.rglob("result.json"))
        assert bool(list(out.rglob("*.svg"))) == (figures == "--figures")
        assert not run.stdout.startswith(("{", "["))


@pytest.mark.parametrize(
    "names", [*slow([*analyses.REGISTRY, "all"]), ["reliability", "class-distance"]]
)
def test_a_restriction_to_classes_is_that_of_a_store_without_the_others(
    names: list[str], made: str, repeated: str, tmp_path: Path
):
    if names[0] == "reliability":
        made = repeated
    else:
        names.remove("reliability")  # refused without repeats
    store = fs.open(made)
    keep = np.isin(store.labels, [2, 0])
    maps = {name: store.read(name, slice(0, 36))[keep] for name in store.maps}
    label = np.where(store.labels[keep] == 2, 0, 1)
    ids = np.asarray(store.image_ids)[keep]
    smaller = fs.from_arrays(
        tmp_path / "made.zarr", maps, label=label, class_names=["cow", "ant"],
        image_id=[str(one) for one in ids],
    )  # fmt: skip
    for name in names:
        restricted = found(name, made, "--classes", "cow,ant")
        expected = found(name, smaller.location)
        for one, other in zip(restricted, expected, strict=True):
            note = "only images of cow, ant are used: 24 of 36"
            assert note in one["caveats"], name
            one["caveats"].remove(note)
            assert one == other, (name, one["analysis"])


def test_the_view_gives_rows_as_they_are_counted():
    """Chunks without an image of the class, and images without a label."""
    labels = np.array([0] * 20 + [1, -1, 0, 1] + [-1] * 20 + [1] * 5)
    x = np.arange(49 * 3 * 3, dtype=np.float64).reshape(49, 3, 3, 1)
    store = analyses.MemoryStore(
        {"S": x}, labels=labels, class_names=["a", "b"], image_ids=[f"i{k}" for k in range(49)],
        batch=7,
    )  # fmt: skip
    view = SelectedClasses(store, ["b"])
    assert view.n_images == 7
    assert list(view.image_ids) == ["i20", "i23", *(f"i{k}" for k in range(44, 49))]
    at = 0
    for rows, arrays in view.iter_chunks(("S",)):
        assert rows.start == at
        assert len(arrays["S"]) == rows.stop - rows.start > 0
        np.testing.assert_array_equal(arrays["S"], x[labels == 1][rows])
        at = rows.stop
    assert at == 7
    result = analyses.spatial_cv(view, feature="S", permutations=9)
    assert result.parameters["classes"] == ["b"]
    assert result.provenance["classes"] == ["b"]
    assert result.provenance["n_images"] == 7
    assert result.provenance["digest"] == store.digest


@pytest.mark.parametrize(
    ("options", "classes", "message"),
    [
        ({}, ["gnu"], "there is no class 'gnu' in memory: its classes are class0"),
        ({}, [], "no class was named"),
        ({"labels": None, "class_names": ()}, ["gnu"], "no image of memory has a label"),
        ({"class_names": ["class0", "class1", "class2", "empty"]}, ["empty"],
         "memory has no image of empty"),
    ],
)  # fmt: skip
def test_a_restriction_that_means_nothing_is_refused(options, classes, message):
    with pytest.raises(AnalysisError, match=message):
        SelectedClasses(noise_store(**options), classes)


def test_no_class_on_the_command_line(made: str):
    run = CliRunner().invoke(analyze, ["spatial-cv", made, "--classes", ","])
    assert run.exit_code == 2
    assert "no class was named" in run.stderr
