"""`make docs` in a clone: the site is built, and what is wrong in it is an error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.packaging.checkout import cloned, with_environment
from tests.packaging.test_pages import environment

pytest.importorskip("mkdocs", reason="make docs installs it")
pytest.importorskip("torch", reason="the site's notebooks look at images that are measured for it")
pytestmark = pytest.mark.slow


def make(clone: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "docs"], cwd=clone, env=environment(clone), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip


def test_the_site_is_built_and_faults_are_errors(tmp_path: Path) -> None:
    clone = with_environment(cloned(tmp_path / "clone"))
    os.utime(clone / ".venv" / "dev")
    (clone / ".venv" / "docs").touch()
    done = make(clone)
    assert done.returncode == 0, done.stdout
    for name in ("index.html", "api.html", "notebooks/nine-sections.html", "how-to/vit.html"):
        assert (clone / "site" / name).is_file()
    with (clone / "docs" / "tour.md").open("a") as page:
        page.write("[a](absent.md) [b](format.md#absent) <a href='gone.html'>c</a>\n")
        page.write("<script src='https://example.org/x.js'></script>\n")
    (clone / "docs" / "stray.md").write_text("# No page leads here\n")
    opening = clone / "frictionstore" / "check" / "opening.py"
    text = opening.read_text(encoding="utf-8")
    assert '"""Open a complete store' in text
    opening.write_text(text.replace('"""Open a complete', '"""Open [x][no.such.name] a complete'))
    done = make(clone)
    assert done.returncode != 0
    for said in ("absent.md", "#absent", "gone.html leads nowhere", "stray.md", "no.such.name",
                 "loads https://example.org/x.js from elsewhere"):  # fmt: skip
        assert said in done.stdout
