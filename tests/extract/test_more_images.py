"""More images for a store that is there: the message leads to a merge, and the merge works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from tests.support import DATA

pytest.importorskip("torch")
ENCODER = str(DATA / "svae/svae_d4.pt")


def pictures(folder: Path, names: list[str]) -> None:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for name in names:
        seed = sum(map(ord, name))
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")


def extract(folder: Path, out: Path, *more: str) -> tuple[int, str]:
    from frictionstore.cli.main import cli

    done = CliRunner().invoke(cli, [
        "extract", "--dataset", f"folder:{folder}", "--encoder", ENCODER, "--image-size", "16",
        "--out", str(out), "--device", "cpu", "--workers", "0", *more,
    ])  # fmt: skip
    return done.exit_code, done.output


def test_new_images_lead_to_merge_which_gives_what_measuring_all_gives(tmp_path: Path) -> None:
    old, more, all_of_them = (tmp_path / name for name in ("old", "more", "all"))
    pictures(old, ["b", "d", "f"])
    out = tmp_path / "a.zarr"
    assert extract(old, out, "--repeats", "0")[0] == 0
    before = fs.open(out).digest
    shutil.copytree(old, all_of_them)
    pictures(all_of_them, ["a", "e"])
    code, said = extract(all_of_them, out, "--repeats", "0")
    assert code == 2
    last = said.strip().splitlines()[-1]
    assert "dataset.count is 3 there, 5 was asked for" in last
    found = re.search(r"frictionstore (merge \S+) NEW.zarr --out BOTH.zarr", last)
    assert found is not None
    assert last.endswith("replace it with --overwrite")
    assert fs.open(out).digest == before

    # as it says
    pictures(more, ["a", "e"])
    assert extract(more, tmp_path / "new.zarr", "--repeats", "0")[0] == 0
    both = fs.merge([found[1].split()[1], tmp_path / "new.zarr"], tmp_path / "both.zarr",
                    names=["old", "more"])  # fmt: skip
    assert before in [parent["digest"] for parent in both.request["parents"]]
    whole = tmp_path / "whole.zarr"
    assert extract(all_of_them, whole, "--repeats", "0")[0] == 0
    wanted = fs.open(whole)
    place = {str(name): row for row, name in enumerate(wanted.image_ids)}
    order = [place[str(name)] for name in both.image_ids]
    assert sorted(order) == list(range(5))
    for name in ("S", "settle"):
        np.testing.assert_allclose(both[name][:], wanted[name][:][order], rtol=1e-5)


def test_another_measurement_is_not_called_other_images(tmp_path: Path) -> None:
    pictures(tmp_path / "old", ["b", "d"])
    out = tmp_path / "a.zarr"
    assert extract(tmp_path / "old", out, "--repeats", "0")[0] == 0
    pictures(tmp_path / "old", ["e"])
    code, said = extract(tmp_path / "old", out, "--repeats", "0", "--maps", "S")
    assert code == 2
    assert "merge" not in said
    assert "holds another store" in said
