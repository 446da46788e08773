"""Checkouts of this repository made for tests: what a clone would hold, and an environment.

The environment shares the packages of the one that the tests run in: nothing is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from tests.support import DATA

ROOT = DATA.parent.parent
STAMPS = ("made", "extract", "dev")  # what make takes for an environment that is complete


def tracked() -> list[str]:
    """Files that a commit of this working tree would hold, or skip where git does not know."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: which files belong to it is asked of git")
    run = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    there = (ROOT / name for name in run.stdout.split("\0") if name)
    return sorted(
        path.relative_to(ROOT).as_posix() for path in there if path.is_file() or path.is_symlink()
    )


def cloned(target: Path) -> Path:
    """A checkout at `target`, as a clone of the working tree would be."""
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def with_environment(checkout: Path) -> Path:
    """Give a checkout its `.venv`, as `make` leaves it; `checkout` again."""
    folder = shared_environment(checkout / ".venv", first=checkout)
    table = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    for name, target in table["project"]["scripts"].items():
        module, function = target.split(":")
        script = folder / "bin" / name
        script.write_text(
            f"#!{folder / 'bin' / 'python'}\nimport sys\nfrom {module} import {function}\n"
            f"sys.exit({function}())\n"
        )
        script.chmod(0o755)
    for stamp in STAMPS:
        (folder / stamp).touch()
    return checkout


def shared_environment(folder: Path, *, first: Path | None = None) -> Path:
    """A virtual environment that sees `first`, and then the packages of this one."""
    venv.create(folder, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = [str(first)] if first is not None else []
    # A path in a .pth file is searched, but its own .pth files (editable installs) are not read.
    paths += sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (folder / "lib" / version / "site-packages" / "shared.pth").write_text("\n".join(paths) + "\n")
    return folder
