"""Where things are written: never into a store, never over a page of somebody else."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.analyses.core import saved
from frictionstore.cli.main import cli
from frictionstore.errors import FrictionstoreError
from tests import making
from tests.torture.test_damage import run

INTO = {
    "analyze": ["analyze", "mode-variance", "x.zarr", "--no-figures", "--out", "x.zarr/r"],
    "analyze, deep": ["analyze", "mode-variance", "x.zarr", "--no-figures", "--out", "x.zarr/S/r"],
    "report's results": ["report", "x.zarr", "--quiet", "--results", "x.zarr/r"],
    "report": ["report", "x.zarr", "--quiet", "--results", "r", "--out", "x.zarr/r.html"],
    "view": ["view", "x.zarr", "--export", "x.zarr"],
    "view, below": ["view", "x.zarr", "--export", "x.zarr/site"],
    "view, by address": ["view", "x.zarr", "--store-url", "y", "--export", "x.zarr/site"],
    "pack": ["pack", "x.zarr", "--out", "x.zarr/a.zip"],
    "pull": ["pull", "x.zarr", "x.zarr/y.zarr"],
    "pull, into an array": ["pull", "x.zarr", "x.zarr/S"],
    "push": ["push", "x.zarr", "x.zarr/sub/"],
    "subset": ["subset", "x.zarr", "--out", "x.zarr/z.zarr"],
    "merge": ["merge", "x.zarr", "w.zarr", "--out", "x.zarr/m.zarr"],
    "through a link": ["pull", "x.zarr", "link/y.zarr"],
    "another store": ["pull", "x.zarr", "w.zarr/y.zarr"],
}  # fmt: skip


@pytest.mark.parametrize("how", INTO)
def test_nothing_is_written_into_a_store(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: Counter[str]
) -> None:
    """It would not be sound any more: its files are those of its manifest and no others."""
    monkeypatch.chdir(tmp_path)
    making.write(Path("x.zarr"), making.plan(0))
    making.write(Path("w.zarr"), making.plan(1))
    Path("link").symlink_to("x.zarr")
    before = {name: sorted(Path(name).rglob("*")) for name in ("x.zarr", "w.zarr")}
    done = CliRunner().invoke(cli, INTO[how])
    assert done.exit_code == 2, done.output
    assert "lies inside the store" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {name: sorted(Path(name).rglob("*")) for name in before} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "w.zarr", "x.zarr"]
    assert fs.verify("x.zarr").ok
    counts["outputs inside a store: refused"] += 1


def test_beside_a_store_and_in_a_group_that_is_none(tmp_path: Path) -> None:
    """A user's own Zarr group may hold stores."""
    making.write(tmp_path / "x.zarr", making.plan(0))
    (tmp_path / "all").mkdir()
    (tmp_path / "all/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    assert run("pull", str(tmp_path / "x.zarr"), str(tmp_path / "all/x.zarr")) == 0
    assert run("pull", str(tmp_path / "x.zarr"), str(tmp_path / "x.zarr.copy.zarr")) == 0
    assert run("pull", str(tmp_path / "x.zarr"), str(tmp_path / "x.zarr")) == 0


def test_the_root_of_all_folders_is_no_folder_for_results(tmp_path: Path) -> None:
    making.write(tmp_path / "x.zarr", making.plan(0))
    result = fs.analyses.mode_variance(fs.open(tmp_path / "x.zarr"), feature="S")
    for use in result.save, lambda folder: saved.save_all([result], folder):
        with pytest.raises(FrictionstoreError, match="root of all folders"):
            use("/")


@pytest.mark.parametrize("kind", ["file", "link", "empty"])
@pytest.mark.parametrize("place", ["thesis.html", "r/index.html"])
def test_a_report_replaces_nothing_but_a_report(
    tmp_path: Path, place: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    making.write(Path("x.zarr"), making.plan(0))
    asked = ["report", "x.zarr", "--results", "r", "--quiet", "--out", place]
    fs.analyses.mode_variance(fs.open("x.zarr")).save("r", figures=False)
    out, mine = tmp_path / place, tmp_path / "mine"
    mine.write_text("" if kind == "empty" else "years of work")
    if kind == "link":
        out.symlink_to(mine)
    else:
        mine.rename(out)
        mine = out
    before = mine.read_bytes()
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 2, done.output
    assert "is not such a page" in done.stderr
    assert mine.read_bytes() == before
    out.unlink()
    for _ in range(2):  # and a report may be made again
        done = CliRunner().invoke(cli, asked)
        assert done.exit_code == 0, done.output
    assert "friction report" in out.read_text()


@pytest.mark.parametrize("there", [False, True])
def test_two_that_save_into_one_folder_lose_nothing(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch, counts: Counter[str]
) -> None:
    """Each reads which results there are, and writes the list again with its own."""
    making.write(tmp_path / "x.zarr", making.plan(0))
    store, folder = fs.open(tmp_path / "x.zarr"), tmp_path / "r"
    names = ["S", "log_S", "friction", "log_friction", "settle"]
    results = [fs.analyses.mode_variance(store, feature=name) for name in names]
    if there:
        saved.save_all(results[:1], folder, figures=False)
    put = saved.put_instead

    def slowly(*given: Any) -> None:
        time.sleep(0.2)
        put(*given)

    monkeypatch.setattr(saved, "put_instead", slowly)
    with ThreadPoolExecutor(3) as pool:
        done = [
            pool.submit(saved.save_all, part, folder, figures=False)
            for part in (results[:2], results[2:4], results[4:])
        ]
        for one in done:
            one.result(timeout=60)
    index = json.loads((folder / "results.json").read_text())["results"]
    assert sorted(one["feature"] for one in index) == sorted(names)
    assert sorted(one["folder"] for one in index) == sorted(
        path.name for path in folder.iterdir() if path.is_dir()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "x.zarr"]
    counts["three that save into one folder: nothing lost"] += 1
