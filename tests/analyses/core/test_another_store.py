"""A folder with results of another store: refused, or replaced where that is asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.analyses.core.saved import read_saved
from frictionstore.cli.main import cli

ALL = ["analyze", "all", "--only", "mode-variance,center-edge", "--no-figures"]


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    """The same name extracted twice, and the results of the first."""
    made = []
    for seed in range(2):
        friction = np.random.default_rng(seed).lognormal(2, 0.5, (20, 4, 4, 2)).astype(np.float32)
        made.append(tmp_path / f"{seed}" / "maps.zarr")
        made[-1].parent.mkdir()
        maps = {"friction": friction, "S": friction[..., ::-1]}
        fs.from_arrays(made[-1], maps, label=np.arange(20) % 2, class_names=["a", "b"])
    done = run(*ALL, made[0], "--feature", "friction", "--feature", "S", "--out", tmp_path / "out")
    assert done.exit_code == 0
    return made


def run(*arguments: object):
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [["analyze", "mode-variance"], ALL])
def test_refused_with_what_would_replace_them(stores, tmp_path, command):
    out = tmp_path / "out"
    before = contents(out)
    done = run(*command, stores[1], "--out", out)
    assert done.exit_code == 2
    assert "holds results of a store with digest" in done.stderr
    assert "analyze all STORE --out FOLDER --overwrite" in done.stderr
    assert contents(out) == before
    report = run("report", stores[1], "--results", out, "--quiet")
    assert report.exit_code == 2
    assert "--overwrite" in report.stderr
    assert contents(out) == before


def test_replaced_and_nothing_of_the_other_store_is_left(stores, tmp_path):
    out = tmp_path / "out"
    (out / "notes.txt").write_text("mine")
    kept = out / "mode-variance-S" / "mine.txt"
    kept.write_text("mine too")
    done = run(*ALL, stores[1], "--out", out, "--feature", "friction", "--overwrite")
    assert done.exit_code == 0, done.output
    digest = fs.open(stores[1]).digest
    found = read_saved(out)
    assert {one["provenance"]["digest"] for one in found} == {digest}
    assert {one["feature"] for one in found} == {"friction"}
    assert (out / "notes.txt").read_text() == "mine"
    assert kept.read_text() == "mine too"  # the file alone keeps the folder of the old result
    assert [path.name for path in kept.parent.iterdir()] == ["mine.txt"]
    assert not (out / "center-edge-S").exists()
    assert run("analyze", "summary", stores[1], "--results", out).exit_code == 0
    # And what is of this store stays, with the option or without.
    again = run("analyze", "center-edge", stores[1], "--feature", "S", "--out", out, "--overwrite")
    assert again.exit_code == 0
    assert len(read_saved(out)) == len(found) + 1


def test_a_result_alone_in_its_folder_is_replaced(stores, tmp_path):
    out = tmp_path / "one"
    fs.analyses.mode_variance(fs.open(stores[0])).save(out, figures=False)
    done = run("analyze", "center-edge", stores[1], "--out", out, "--overwrite", "--no-figures")
    assert done.exit_code == 0, done.output
    assert [one["analysis"] for one in read_saved(out)] == ["center-edge"]


def test_make_analyze_takes_it():
    root = Path(__file__).parents[3]
    command = ["make", "-n", "analyze", "ANALYZE_FLAGS=--overwrite", "RESULTS=r", "PYTHON=true"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "--out r --overwrite" in done.stdout, done.stderr
