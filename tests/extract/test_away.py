"""A recipe of the Hub and torchvision, a second time: without torch, without the Hub, without data.

Against a stand-in of the Hub on loopback; what must do without torch runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from frictionstore.cli.main import cli
from frictionstore.extract.encoder.hub_address import HUB_REPOSITORY
from tests.cifar import ARCHIVE, FOLDER, make_cifar
from tests.servers.model_hub import ModelHub, asked_here, model_hub
from tests.support import DATA

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
PATCHED = ("url", "tgz_md5", "train_list", "test_list", "meta")

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "89abcdef01234567" * 2 + "89abcdef"
NAME = "v40_freckles_noise/checkpoints/best.pt"
FORBID = (
    "import sys\nfor name in ('torch', 'torchvision', 'zarr', 'numba'): sys.modules[name] = None\n"
)
RECIPE = """
description = "a small one of freckles-cifar10"
dataset = "cifar10"
split = "test"
download = true
encoder = "v40_freckles_noise"
image_size = 16
device = "cpu"
"""


@dataclass
class Outcome:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Place:
    """A folder with a recipe and a store made by it, and the Hub it was made from."""

    root: Path
    hub: ModelHub

    def extract(self, *more: str) -> Outcome:
        """In this process, which has torch."""
        with chdir(self.root), asked_here(self.hub.address, self.root / "hf"):
            done = CliRunner().invoke(cli, ["extract", "--recipe", "./small.toml", *more])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Outcome(done.exit_code, done.stdout, done.stderr)

    def without_torch(self, *more: str) -> Outcome:
        """In a process that cannot import torch, torchvision, zarr or numba."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        code = FORBID + "from frictionstore.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "extract", "--recipe", "./small.toml", *more],
            cwd=self.root, capture_output=True, text=True, timeout=300,
            env={**kept, "HF_HUB_CACHE": str(self.root / "hf"), "HF_HOME": str(self.root / "hf"),
                 "HF_ENDPOINT": self.hub.address, "NO_PROXY": "*"},
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout, done.stderr)

    def lose_data(self) -> None:
        shutil.rmtree(self.root / "data/torchvision")

    def lose_hub(self) -> None:
        self.hub.status = 503
        shutil.rmtree(self.root / "hf")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("made")
    (root / "small.toml").write_text(RECIPE)
    with model_hub() as hub:
        hub.files[HUB_REPOSITORY, COMMIT, NAME] = (DATA / "svae/svae_d4.pt").read_bytes()
        hub.branches["main"] = COMMIT
        prelude = make_cifar(root / "data/torchvision", 30)
        kind = torchvision.datasets.CIFAR10
        before = {key: getattr(kind, key) for key in PATCHED}
        exec(prelude, {})
        place = Place(root, hub)
        done = place.extract("--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "complete"
        yield place
        for key, value in before.items():
            setattr(kind, key, value)


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Iterator[Place]:
    shutil.copytree(made.root, tmp_path / "copy", symlinks=True)
    with model_hub() as hub:
        hub.files.update(made.hub.files)
        hub.branches.update(made.hub.branches)
        yield Place(tmp_path / "copy", hub)


def used(done: Any) -> list[str]:
    """The remarks of a command that found the store good."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()


def refused(done: Any) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_up_to_date_without_torch_and_torchvision(place: Place) -> None:
    assert used(place.without_torch()) == ["data/small.zarr is up to date (30 images)"]
    outcome = json.loads(place.without_torch("--json").stdout)
    assert (outcome["status"], outcome["measured"], outcome["not_checked"]) == ("up to date", 0, [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--limit", "20"], "dataset.count is 30 there, 20 was asked for"),
        (["--image-size", "32"], "transform.image_size is 16 there, 32 was asked for"),
        (["--maps", "S"], "maps.friction"),
        (["--encoder", "speckle"], "encoder."),
    ],
)
def test_what_differs_is_seen_without_torchvision(
    place: Place, change: list[str], expected: str
) -> None:
    said = refused(place.without_torch(*change))
    assert "data/small.zarr holds another store (" in said
    assert expected in said


def test_another_split_is_not_taken_for_the_same(place: Place) -> None:
    said = refused(place.extract("--split", "train"))
    assert "dataset.split is" in said


def test_other_pixels_of_the_same_size_are_seen(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded files are compared by content: torchvision decides about others."""
    batch = place.root / "data/torchvision" / FOLDER / "test_batch"
    data = bytearray(batch.read_bytes())
    data[2000] ^= 1
    batch.write_bytes(data)
    md5 = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [["test_batch", md5]])
    assert "dataset.content_sha256" in refused(place.extract())


def test_another_torchvision_reads_again(place: Place) -> None:
    """A reader of another version may read the same files differently."""
    path = place.root / "data/small.zarr/provenance.json"
    provenance = json.loads(path.read_text())
    provenance["dataset_read"]["torchvision"] = "0.1"
    path.write_text(json.dumps(provenance))
    done = place.without_torch()
    assert "is used as it is" in done.stderr  # it could not be imported: said, not hidden
    assert used(place.extract()) == ["data/small.zarr is up to date (30 images)"]


def test_the_data_set_is_away(place: Place) -> None:
    place.lose_data()
    (said,) = used(place.extract())
    assert said.startswith(
        "data/small.zarr is used as it is (30 images): all else that was asked for agrees with "
        "it, and not compared could be the images of the data set (CIFAR10 cannot be opened in "
        "data/torchvision: none of its files is there"
    )
    outcome = json.loads(place.extract("--json").stdout)
    assert outcome["not_checked"] == ["the images of the data set"]


def test_the_hub_and_the_data_set_are_away(place: Place) -> None:
    place.lose_data()
    place.lose_hub()
    (said,) = used(place.extract())
    assert (
        "the encoder's weights (encoder v40_freckles_noise cannot be fetched: it is not in the"
        in said
    )
    assert "the images of the data set (" in said
    pinned = place.extract("--encoder", f"v40_freckles_noise@{COMMIT}")
    assert "is used as it is" in used(pinned)[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--encoder", f"v40_freckles_noise@{OTHER}"], "the Hub answered 503"),
        (["--encoder", "v50_fresnel_64"], "the Hub answered 503"),
        (["--encoder", f"hf://{HUB_REPOSITORY}/other.pt"], "the Hub answered 503"),
        (["--dataset", "cifar100"], "CIFAR100 cannot be opened"),
        (["--split", "train"], "CIFAR10 cannot be opened"),
        (["--limit", "20"], "dataset.count is 30 there, 20 was asked for"),
        (["--maps", "S"], "maps.friction"),
        (["--overwrite"], "cannot be fetched"),
        (["--repair"], "cannot be fetched"),
        (["--out", "data/other.zarr"], "cannot be fetched"),
    ],
)  # fmt: skip
def test_away_and_asked_for_otherwise(place: Place, change: list[str], expected: str) -> None:
    """What is known to differ is refused; what cannot be known and is needed is refused too."""
    place.lose_data()
    if "cifar100" not in change and "train" not in change:
        place.lose_hub()
    before = {p: p.read_bytes() for p in (place.root / "data").rglob("*") if p.is_file()}
    assert expected in refused(place.extract(*change))
    assert before == {p: p.read_bytes() for p in (place.root / "data").rglob("*") if p.is_file()}


def test_a_file_that_the_hub_no_longer_has_is_not_away(place: Place) -> None:
    """404 is an answer: the recipe names something that is not there."""
    place.hub.files.clear()
    assert "the Hub answered 404" in refused(place.extract())


def test_other_weights_upstream(place: Place) -> None:
    content = torch.load(DATA / "svae/svae_d4.pt", weights_only=True)
    content["model_state_dict"]["enc_in.bias"] += 1
    torch.save(content, place.root / "new.pt")
    place.hub.files[HUB_REPOSITORY, OTHER, NAME] = (place.root / "new.pt").read_bytes()
    place.hub.branches["main"] = OTHER
    said = refused(place.extract())
    assert said.startswith(
        f"Error: data/small.zarr was measured with the encoder's weights of commit {COMMIT}, and "
        f"the Hub has other ones at {OTHER} by now: keep the store with "
        f"--encoder v40_freckles_noise@{COMMIT}, or measure the new weights into another with --out"
    )
    kept = place.without_torch("--encoder", f"v40_freckles_noise@{COMMIT}")
    assert used(kept)[-1] == "data/small.zarr is up to date (30 images)"
    other = place.extract("--out", "data/new.zarr")
    assert other.returncode == 0, other.stderr


def test_a_new_commit_with_the_same_weights_is_up_to_date(place: Place) -> None:
    place.hub.files[HUB_REPOSITORY, OTHER, NAME] = place.hub.files[HUB_REPOSITORY, COMMIT, NAME]
    place.hub.branches["main"] = OTHER
    assert used(place.without_torch()) == ["data/small.zarr is up to date (30 images)"]


def test_a_folder_that_is_away(place: Place) -> None:
    from PIL import Image

    (place.root / "photos").mkdir()
    for index in range(3):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(place.root / f"photos/{index}.png")
    options = ["extract", "--dataset", "folder:photos", "--encoder", "speckle", "--image-size",
               "16", "--device", "cpu", "--out", "p.zarr"]  # fmt: skip
    for expected in ("p.zarr is complete", "p.zarr is up to date", "p.zarr is used as it is (3"):
        with chdir(place.root):
            done = CliRunner().invoke(cli, options)
        assert expected in used(Outcome(done.exit_code, done.stdout, done.stderr))[-1]
        if "up to date" in expected:
            shutil.rmtree(place.root / "photos")


def test_a_provenance_of_another_form_is_no_traceback(place: Place) -> None:
    path = place.root / "data/small.zarr/provenance.json"
    for text in ("{}", '{"encoder": [], "dataset_read": 3, "asked": "x", "dataset_images": "n"}'):
        path.write_text(text)
        assert used(place.extract())[-1] == "data/small.zarr is up to date (30 images)"


def test_make_analyze_needs_the_store_only(place: Place) -> None:
    """The rule runs `extract` where there is no store, and does not where there is one."""
    repository = Path(__file__).parents[2]
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    said = place.root / "said"
    tool = place.root / ".venv/bin/frictionstore"
    tool.parent.mkdir(parents=True)
    tool.write_text(f"#!/bin/sh\necho \"$1\" >> '{said}'\n")
    tool.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(repository / name, place.root / name)
    for name in ("made", "extract"):
        (place.root / ".venv" / name).touch()
    asked = ["make", "-s", "-o", ".venv/extract", "analyze"]
    subprocess.run([*asked, "STORE=data/small.zarr"], cwd=place.root, check=True)
    assert said.read_text().split() == ["analyze", "report"]
    said.unlink()
    subprocess.run([*asked, "STORE=hf://datasets/a/b/c.zarr"], cwd=place.root, check=True)
    assert said.read_text().split() == ["analyze", "report"]
    said.unlink()
    subprocess.run([*asked, "RECIPE=absent"], cwd=place.root, check=True)
    assert said.read_text().split() == ["extract", "analyze", "report"]
    assert ARCHIVE in {path.name for path in (place.root / "data/torchvision").iterdir()}
