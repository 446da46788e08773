"""The package's own names: what a user and the docs call."""

from __future__ import annotations

import re
import subprocess
import sys

import frictionstore as fs
from tests.support import DATA

ROOT = DATA.parent.parent


def test_every_public_name_is_there_and_says_what_it_does() -> None:
    for name in fs.__all__:
        value = getattr(fs, name)
        assert isinstance(value, str) if name == "__version__" else value.__doc__, name


def test_no_public_name_is_a_room() -> None:
    """Importing a room sets it as an attribute of the package, over a name that is like it."""
    rooms = {path.name for path in (ROOT / "frictionstore").iterdir() if path.is_dir()}
    rooms -= {"analyses"}  # the name of the room itself
    assert not rooms & set(fs.__all__)


def test_names_that_the_docs_use_are_public() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {
        name for page in pages for name in re.findall(r"\bfs\.([A-Za-z_]+)\(?", page.read_text())
    }
    assert {"open", "verify", "merge"} <= named
    assert not named - set(fs.__all__)


def test_importing_the_package_imports_no_room() -> None:
    code = "import sys, frictionstore; print(*sorted(m for m in sys.modules if 'frictions' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["frictionstore", "frictionstore.version"]
