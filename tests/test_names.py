"""The package does not depend on what the top-level name `analyses` means."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from tests.support import random_maps, slow

ROOT = Path(__file__).parents[1]
THEIRS = "answer = 42  # the user's own\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sources as a clean checkout has them, and without Node."""
    folder = tmp_path_factory.mktemp("sources") / "checkout"
    skip = shutil.ignore_patterns(
        "__pycache__", "explorer", "explorer_page", ".*", "data", "tests", "results", "dist"
    )
    shutil.copytree(ROOT, folder, ignore=skip, symlinks=True)
    return folder


def hatchling(folder: Path, target: str) -> Path:
    """Build a wheel or sdist without a network."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", f"made-{target}"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next((folder / f"made-{target}").iterdir())


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel, unpacked as an installer does."""
    with zipfile.ZipFile(hatchling(built, "wheel")) as archive:
        archive.extractall(built.parent / "wheel")
    return built.parent / "wheel"


@pytest.fixture(scope="module")
def source_archive(built: Path) -> Path:
    with tarfile.open(hatchling(built, "sdist")) as archive:
        archive.extractall(built.parent / "sdist", filter="data")
    return next((built.parent / "sdist").iterdir())


@pytest.fixture(
    params=["checkout", "wheel", *slow("source archive", "wheel of the source archive")]
)
def installed(request: pytest.FixtureRequest) -> Path:
    """What is on the path: the top of a checkout, as in an editable install, or a wheel."""
    if request.param == "checkout":
        return ROOT
    if request.param == "wheel":
        return request.getfixturevalue("wheel")
    archive = request.getfixturevalue("source_archive")
    if request.param == "source archive":
        return archive
    with zipfile.ZipFile(hatchling(archive, "wheel")) as made:
        made.extractall(archive / "unpacked")
    return archive / "unpacked"


def python(path: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a user's folder, which comes before the package on the path."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
    )  # fmt: skip


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A user's folder with an analysis of their own in it, and a store."""
    own(tmp_path, "package")
    label = np.arange(12) % 2
    fs.from_arrays(tmp_path / "made.zarr", random_maps(12), label=label, class_names=["a", "b"])
    return tmp_path


def own(folder: Path, kind: str) -> None:
    """Write a user's own module, package or plain folder of the name."""
    inside = folder / "analyses"
    if kind != "module":
        inside.mkdir(parents=True)
    name = {"module": folder / "analyses.py", "package": inside / "__init__.py"}
    name.get(kind, inside / "notes.txt").write_text(THEIRS)


def test_the_command_line_in_a_user_s_folder(installed: Path, users: Path) -> None:
    for arguments in (
        ["analyze", "mode-variance", "made.zarr", "--out", "results", "--no-figures"],
        ["report", "made.zarr", "--results", "results", "--quiet"],
    ):
        run = python(installed, users, "-m", "frictionstore", *arguments)
        assert run.returncode == 0, run.stderr
    assert (users / "results" / "mode-variance-friction" / "result.json").is_file()
    assert (users / "results" / "index.html").is_file()
    assert (users / "analyses" / "__init__.py").read_text() == THEIRS


@pytest.mark.parametrize("kind", ["module", "package", "plain folder"])
def test_every_module_is_there_once(installed: Path, tmp_path: Path, kind: str) -> None:
    own(tmp_path, kind)
    code = (
        "import os, sys, frictionstore as fs\n"
        "from frictionstore import analyses as ours\n"
        "import frictionstore.analyses.f_statistic, frictionstore.analyses.cli\n"
        "assert fs.analyses is ours is sys.modules['frictionstore.analyses']\n"
        "assert ours.f_statistic is sys.modules['frictionstore.analyses.f_statistic']\n"
        "for name in ours.REGISTRY: ours.REGISTRY[name].load()\n"
        "files = [getattr(m, '__file__', None) for m in list(sys.modules.values())]\n"
        "real = [os.path.realpath(f) for f in files if f and 'analyses' in f]\n"
        "assert len(real) == len(set(real)) > 10, sorted(real)\n"
        "assert not any(name.split('.')[0] == 'analyses' for name in sys.modules)\n"
        "print(fs.__file__)\n"
    )
    run = python(installed, tmp_path, "-c", code)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).parents[1] == installed
    if kind == "plain folder":
        return  # what the name means is then the next on the path
    code = "import frictionstore.analyses.cli, analyses as a; print(a.answer, a.__file__)"
    run = python(installed, tmp_path, "-c", code)
    assert run.returncode == 0, run.stderr
    answer, file = run.stdout.split()
    assert answer == "42"
    assert Path(file).is_relative_to(tmp_path)


def test_the_folder_by_its_own_name_is_refused_in_words() -> None:
    run = python(ROOT, ROOT, "-c", "import analyses.f_statistic")
    assert run.returncode == 1
    assert "write 'from frictionstore import analyses'" in run.stderr.splitlines()[-1]


def test_a_wheel_holds_one_top_level_name(wheel: Path) -> None:
    tops = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"frictionstore"}
    ours = {path.name for path in (ROOT / "analyses").glob("*.py")}
    assert {path.name for path in (wheel / "frictionstore" / "analyses").glob("*.py")} == ours
    assert (wheel / "frictionstore" / "analyses" / "py.typed").is_file()


def test_sources_that_lost_the_link_say_so(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(built, folder, symlinks=True)
    (folder / "frictionstore" / "analyses").unlink()
    (folder / "frictionstore" / "analyses").write_text("../analyses")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=folder,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode != 0
    assert "is not the link to analyses/" in done.stderr
