"""Recipes, targets and paths that are no such thing: one sentence, status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from frictionstore.cli.main import cli
from frictionstore.errors import DatasetError, RequestError
from frictionstore.extract.data.base import DatasetOptions
from frictionstore.extract.recipe import read_recipe


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('maps = [["a"]]', r"maps is \[\['a'\]\], expected a list of names"),
        ("maps = [1]", r"maps is \[1\], expected a list of names"),
        ('maps = ["S\\u0000"]', "maps holds a NUL character"),
        ('out = "a\\u0000.zarr"', "out holds a NUL character"),
        ('encoder = "\\u0000"', "encoder holds a NUL character"),
        (f"count = {10**30}", "count is more than 9,007,199,254,740,992"),
    ],
)
def test_recipes(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(line)
    with pytest.raises(RequestError, match=message):
        read_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize(
    ("options", "contains"),
    [
        (["--out", "."], "--out . has no name of its own: name the store to make"),
        (["--out", ".."], "--out .. has no name of its own"),
        (["--out", "/"], "--out / has no name of its own"),
        (["--encoder", "~nosuchuser/x.pt"], "there is no user ~nosuchuser"),
        (["--dataset", "folder:~nosuchuser"], "there is no user ~nosuchuser"),
    ],
)
def test_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], contains: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--out": "a.zarr", "--encoder": "speckle", "--dataset": "digits"}
    given[options[0]] = options[1]
    done = CliRunner().invoke(cli, ["extract", *(part for pair in given.items() for part in pair)])
    assert done.exit_code == 2
    assert done.output.startswith("Error: ")
    assert len(done.output.splitlines()) == 1
    assert contains in done.output
    assert not list(tmp_path.iterdir())


def test_a_class_that_is_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = pytest.importorskip("torchvision.datasets")
    import numpy as np

    from frictionstore.extract.data.torchvision import TorchvisionSet

    class Odd:
        def __init__(self, root: str) -> None:
            self.data = np.zeros((2, 4, 4, 3), np.uint8)
            self.targets = [0, 1]
            self.classes = ["fine", "odd\ud800"]

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> object:
            from PIL import Image

            return Image.fromarray(self.data[index]), self.targets[index]

    monkeypatch.setattr(sets, "SVHN", Odd)
    with pytest.raises(DatasetError, match=r"a class named odd\\ud800, which is not text"):
        TorchvisionSet("svhn", DatasetOptions(root=tmp_path))
