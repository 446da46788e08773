"""Build the explorer's page from its sources in a checkout, with Node.

``frictionstore view`` does so when it first needs the page, ``make page`` and the build of a wheel
do too. This module imports nothing but the standard library: a wheel is built without the
dependencies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

PAGE = Path("frictionstore", "explorer_page", "index.html")


def build_page(root: Path) -> str | None:
    """Build the page in a checkout; None, or why it could not be built.

    A page that is newer than its sources is taken as it is. Processes that need it at the same
    time build it once.

    Parameters
    ----------
    root : Path
        The checkout.
    """
    explorer = root / "explorer"
    if not (explorer / "package-lock.json").is_file():
        return None if (root / PAGE).is_file() else "its sources are not here"
    if _is_fresh(root):
        return None
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "Node 20 or newer with npm is not installed"
    folder = os.open(explorer, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        return None if _is_fresh(root) else _run_npm(npm, explorer)
    finally:
        os.close(folder)


def _is_fresh(root: Path) -> bool:
    page, explorer = root / PAGE, root / "explorer"
    sources = [
        *(explorer / "src").iterdir(),
        explorer / "build.mjs",
        explorer / "package-lock.json",
    ]
    return page.is_file() and page.stat().st_mtime >= max(f.stat().st_mtime for f in sources)


def _run_npm(npm: str, explorer: Path) -> str | None:
    print("building the explorer page with npm (once) ...", file=sys.stderr)
    for command in (
        [npm, "ci", "--no-progress", "--loglevel=error"],
        [npm, "run", "--silent", "build"],
    ):
        run = subprocess.run(command, cwd=explorer, capture_output=True, text=True)
        if run.returncode != 0:
            lines = (run.stderr or run.stdout).strip().splitlines()
            return f"{' '.join(command[1:3])} failed: {lines[-1] if lines else run.returncode}"
    return None


if __name__ == "__main__":
    problem = build_page(Path(__file__).resolve().parents[2])
    if problem is not None:
        print(
            f"there is no explorer page ({problem}): only frictionstore view needs it",
            file=sys.stderr,
        )
