"""The sdist holds the repository, the wheel what runs; both are built without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.packaging.checkout import ROOT, cloned, tracked

LINK = "frictionstore/analyses"

pytest.importorskip("hatchling", reason="needs hatchling, which builds them")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """Names in the sdist and in the wheel of a clone in which things of the user's lie about."""
    checkout = cloned(tmp_path_factory.mktemp("archives") / "clone")
    page = checkout / "frictionstore" / "explorer_page" / "index.html"
    page.parent.mkdir()
    page.write_text("built")  # newer than its sources: npm is not asked
    for name in ("mine/docs/thesis.txt", "data/mine.zarr/zarr.json", "results/a/summary.txt",
                 "explorer/node_modules/x/index.js"):  # fmt: skip
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    run = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", "out", "-t", "sdist", "-t", "wheel"],
        cwd=checkout, capture_output=True, text=True, timeout=120,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    (sdist,), (wheel,) = (checkout / "out").glob("*.tar.gz"), (checkout / "out").glob("*.whl")
    with tarfile.open(sdist) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        return inside, set(archive.namelist())


def test_the_sdist_holds_what_a_commit_holds_and_nothing_else(
    archives: tuple[set[str], set[str]],
) -> None:
    """An archive keeps no links: analyses/ lies in it once, where it is imported from."""
    tree = {f"{LINK}/{name.removeprefix('analyses/')}" if name.startswith("analyses/") else name
            for name in tracked()}  # fmt: skip
    assert LINK in tree
    assert archives[0] == {*tree - {LINK}, "PKG-INFO"}


def test_the_wheel_holds_the_packages_the_page_and_the_licence(
    archives: tuple[set[str], set[str]],
) -> None:
    wheel = archives[1]
    for name in tracked():
        if name.startswith("frictionstore/") and name != LINK:
            assert name in wheel
        if name.startswith("analyses/"):
            assert f"frictionstore/{name}" in wheel
    assert "frictionstore/explorer_page/index.html" in wheel
    assert any(name.endswith("/LICENSE") for name in wheel)
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"frictionstore"}
    assert (ROOT / "CHANGELOG.md").is_file()
