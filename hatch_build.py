"""Build hook: puts the explorer page into a wheel, where Node is there to build it.

A checkout without Node, or without a network the first time, gets a wheel of everything else and
one sentence that says so. Editable installs use the page that `make page` builds in place.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ANALYSES = Path("frictionstore", "analyses")
PAGE = Path("frictionstore", "explorer_page", "index.html")


class ExplorerHook(BuildHookInterface):
    """Builds `explorer/` with npm and adds the page to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if not (root / ANALYSES).is_dir():
            raise RuntimeError(
                f"{ANALYSES} is not the link to analyses/ that it is in git: get the sources with "
                "git or as a .tar.gz, which keep links"
            )
        if version == "editable":
            return
        problem = build_page(root)
        if problem is not None:
            self.app.display_warning(
                f"this wheel has no explorer page ({problem}): frictionstore view will say so, "
                "everything else is there"
            )
            return
        build_data["force_include"][str(root / PAGE)] = PAGE.as_posix()


def build_page(root: Path) -> str | None:
    """Build the page in a checkout; None, or why there is none.

    A page that is newer than its sources is taken as it is.
    """
    explorer, page = root / "explorer", root / PAGE
    if not (explorer / "package-lock.json").is_file():
        return None if page.is_file() else "its sources are not here"
    sources = [
        *(explorer / "src").iterdir(),
        explorer / "build.mjs",
        explorer / "package-lock.json",
    ]
    if page.is_file() and page.stat().st_mtime >= max(f.stat().st_mtime for f in sources):
        return None
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "Node 20 or newer with npm is not installed"
    for command in (
        [npm, "ci", "--no-progress", "--loglevel=error"],
        [npm, "run", "--silent", "build"],
    ):
        run = subprocess.run(command, cwd=explorer, capture_output=True, text=True)
        if run.returncode != 0:
            lines = (run.stderr or run.stdout).strip().splitlines()
            return f"{' '.join(command[1:3])} failed: {lines[-1] if lines else run.returncode}"
    return None
