"""The how-to pages, run as they stand: their Python and their commands, in one process each.

What a page takes for granted (images, a checkpoint, a store) lies in the folder that it runs in.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.format import schema
from tests.packaging.checkout import ROOT
from tests.packaging.test_pages import Block, blocks
from tests.support import DATA, random_maps

FOLDER = ROOT / "docs" / "how-to"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))


def commands(block: Block) -> list[list[str]]:
    """The arguments of each command of a block; a page's commands are frictionstore's only."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    for words in found:
        assert words[0] == "frictionstore", f"{block.place}: {words} is not run by this test"
    return [words[1:] for words in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page runs, with what it takes for granted."""
    rng = np.random.default_rng(0)
    for place in ("photos", "images/train", "images/test"):
        for kind in ("cat", "dog"):
            (tmp_path / place / kind).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / place / kind / f"{number}.png")
    checkpoint = tmp_path / "path" / "to" / "best.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes((DATA / "svae" / "svae_d4.pt").read_bytes())
    names = [str(digit) for digit in range(10)]
    fs.from_arrays(
        tmp_path / "data" / "digits-speckle.zarr", random_maps(n=40), label=np.arange(40) % 10,
        class_names=names,
    )  # fmt: skip
    for table in ("MAPS", "ARRAYS"):  # a page adds a row
        monkeypatch.setattr(schema, table, dict(getattr(schema, table)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_its_beginning_to_its_end(page: str, folder: Path) -> None:
    if os.environ.get("FRICTIONSTORE_LOWEST") and page not in ("own-map.md", "groups.md", "hub.md"):
        pytest.skip("the page extracts, which needs torch")
    session: dict[str, object] = {"__name__": "page"}
    ran = 0
    for block in blocks(f"docs/how-to/{page}", (FOLDER / page).read_text(encoding="utf-8")):
        if block.how == "not run":
            continue
        ran += 1
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), session)
            continue
        for arguments in commands(block):
            done = CliRunner().invoke(cli, arguments)
            assert done.exit_code == 0, f"{block.place}\n{arguments}\n{done.output}"
    assert ran > 0
